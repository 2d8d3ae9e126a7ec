"""The stored uploads: a folder each, there as a whole or not at all.

An upload gets its identifier once it is received, read and on the disk; before that it is a folder in
`tmp`, which goes when its request ends or when a server starts. Written by hand, not exported from a
notebook."""
import asyncio
import io
import json
import os
import re
import secrets
import shutil
import threading
import time
import uuid
from pathlib import Path

from PIL import Image

from ..archive import zip_kinds
from ..folders import commit_folder, free_bytes, write_json
from ..jobs import read_object
from .archive_process import read_apart
from .log_lines import logger, now
from .multipart_file import receive_file
from .refusals import Problem, clean

__all__ = ["Uploads", "Intake"]

_facts_file = "upload.json"  # in an upload's folder: what is told of it, and its `clock`
_most_skipped_told = 1000  # rows that were left out; a reply that lists 100,000 helps nobody
_seconds_a_day = 86400
_most_indexes = 4  # uploads whose file names are remembered, for a page of pictures asks for many of one
# Names in tmp/ that are given here: whatever else lies there belongs to somebody else.
_own_names_aside = re.compile(r"(upload-)?[0-9a-f]{16}|gone-.*")
# Of `upload.json`: what is told of an upload and what its age is counted by
_needed_facts = dict(file_id=str, filename=str, upload_time=str, csv_rows=int, valid_images=int,
                     skipped=list, skipped_rows=int, size_bytes=int, unpacked_bytes=int)


class Uploads:
    "What was uploaded to one data directory, read from its folders at the start and kept in memory"
    def __init__(self,
        data_dir: str | Path,  # of the server
        clock=time.monotonic,  # seconds that ages are counted by; a server's (`Jobs.clock`) outlast a restart
    ):
        "Open the uploads of a data directory: read those that are there, remove unfinished ones"
        self.root = Path(data_dir) / "uploads"
        # For uploads that are being received or deleted. On the same disk, so that one rename moves a folder.
        self.aside = Path(data_dir) / "tmp"
        self.clock = clock
        for folder in (self.root, self.aside):
            folder.mkdir(parents=True, exist_ok=True)
        self._clear_aside()  # removes what an earlier server left half done

        self.born = {}  # file_id → time of the upload in seconds by `clock`
        self.known = {}  # file_id → facts about the upload, as clients are told them; the oldest first
        self.indexes = {}  # file_id → (row → file name), of a few uploads: a memory of `_files_by_row`
        # A lock, held while a job is started on an upload and while one is deleted, so that a job never
        # starts on an upload that is being deleted.
        self.in_use = threading.RLock()
        self._find_stored()  # fills `born` and `known`

    def _clear_aside(self):
        "Remove the folders of uploads that were not finished when a server was killed"
        for folder in self.aside.iterdir():
            # Only names that this class gives: anything else in the folder belongs to somebody else.
            if folder.is_dir() and _own_names_aside.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _find_stored(self):
        """Fill `known` and `born` from the folders of the stored uploads.

        A folder that cannot be read is left where it lies, and named in the log."""
        stored = []
        for folder in sorted(self.root.iterdir()):
            try:
                stored.append(_facts_of(folder))  # a dict; an error if it is damaged
            except (OSError, ValueError) as error:
                logger.warning("%s/%s is left where it lies, and not listed: %s",
                               self.root.name, clean(folder.name), clean(error))
        for upload in sorted(stored, key=_age_order):  # the oldest first
            # Clients are not told `clock`. Older versions stored none: such an upload counts as new.
            self.born[upload["file_id"]] = upload.pop("clock", self.clock())
            # Older versions took counting ZIPs alone, and stored no kind.
            self.known[upload["file_id"]] = dict(kind="counting") | upload

    # From a request to a folder

    async def add(self,
        request,  # of POST /upload-data
        strict: bool,  # refuse for one bad row
        settings,  # `ServiceSettings`: limits
        turns: asyncio.Semaphore,  # limits how many archives are read at once
        kind: str = "counting",  # what the answers are, a key of `archive.zip_kinds`
    ) -> dict:  # what is told of the upload
        """Receive an upload, check and unpack it, and keep it under a new identifier.

        Raises a Problem if it is refused; then nothing of it is kept."""
        self._check_quota(settings.quota_gb)  # a Problem if all uploads together take up the quota already
        work = self.aside / f"upload-{secrets.token_hex(8)}"  # a folder for this request only
        work.mkdir()
        keeping = None  # the last step, which runs in a thread; None until it begins
        try:
            filename, size = await receive_file(request, work / "file", settings)
            # In a process of its own, which writes rows and pictures into a new folder `data`.
            async with turns:
                report = await read_apart(work / "file", work / "data", strict, settings, kind)
            if free_bytes(work) < settings.reserve_mb << 20:
                raise Problem("storage.full", "no space is left; nothing was kept")

            # `_keep` moves `data` to its final place, lists the upload and returns the facts about it.
            # Shielded: if the client hangs up now, its thread goes on, and the upload is stored and listed.
            keeping = asyncio.ensure_future(asyncio.to_thread(self._keep, work, filename, size, report, kind))
            return await asyncio.shield(keeping)
        finally:
            if keeping is not None:
                await asyncio.wait([keeping])  # its thread still needs `work`
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    def _check_quota(self, quota_gb):
        "Raise a Problem, before any byte is received, if all uploads together have used up the quota"
        held_bytes = 0
        # Facts about each upload. The list is a copy: other requests may change the dict.
        for upload in list(self.known.values()):
            held_bytes += upload["unpacked_bytes"]  # the archive itself, of `size_bytes`, is not kept
        held_gb = held_bytes / 2**30
        if held_gb >= quota_gb:
            held_and_most = f"{held_gb:.1f} GiB are held, {quota_gb:g} may be"
            raise Problem("storage.quota", f"{held_and_most}: delete uploads first")

    def _keep(self,
        work,  # folder of this request; its folder `data` holds the unpacked rows and pictures
        filename,  # of the archive, as the client calls it
        size,  # bytes of the archive
        report,  # of the archive's reader: a dict of csv_rows, valid_images, skipped, notes
        kind,  # what its answers are, such as counting
    ):
        """Store an unpacked archive under a new identifier, list it, and return the facts about it, a dict.

        The folder gets its final name by one rename when it is complete, so that it is there as a whole or
        not at all."""
        data = work / "data"
        # What clients are told of the upload.
        upload = dict(
            file_id=str(uuid.uuid4()),  # the form of identifier that existing clients know
            filename=filename,
            kind=kind,
            upload_time=now(),
            **_report_for_clients(report),
            size_bytes=size,
            unpacked_bytes=sum(path.stat().st_size for path in data.iterdir()))
        file_id = upload["file_id"]
        born = self.clock()  # by which the age of the upload will be counted
        write_json(data / _facts_file, upload | dict(clock=born))
        # Flushes the files to the disk and renames the folder; an upload has no manifest.
        commit_folder(data, self.root / file_id, manifest=False, replace=False)
        self.known[file_id] = upload
        self.born[file_id] = born
        return upload

    # What there is

    def get(self,
        file_id: str,  # as a client writes it
    ) -> dict:  # what is told of the upload
        "Return the facts about an upload; a Problem if there is none with this identifier"
        if file_id not in self.known:
            raise Problem("file.unknown", f"no upload {clean(file_id, 60)!r}")
        return self.known[file_id]

    def folder(self,
        file_id: str,  # as a client writes it
    ) -> Path:  # that of the stored upload
        "Return the folder of an upload; a Problem if there is none with this identifier"
        # By the stored identifier, so that nothing a client wrote becomes part of a path.
        return self.root / self.get(file_id)["file_id"]

    def rows(self,
        file_id: str,  # identifier of an upload
        after: int,  # only rows with a greater number
        limit: int,  # at most so many rows
    ) -> list:  # of {row, question, answer, image}
        "Return the first `limit` rows of an upload whose number is greater than `after`, as clients see them"
        rows = []
        for row in self._stored_rows(file_id):
            if row["row"] <= after:
                continue
            if len(rows) == limit:
                break
            address = f"/files/{file_id}/rows/{row['row']}/image"  # of the picture, made small
            rows.append(dict(
                row=row["row"], question=row["question"], answer=row["answer"], image=address))
        return rows

    def _stored_rows(self, file_id):
        """Yield the rows of an upload as they are stored; a Problem if their file is damaged.

        Each is a dict of row (its number in main.csv), file (of the picture), question, answer and picture (a
        hash of its pixels: equal pictures have the same one)."""
        path = self.folder(file_id) / "rows.jsonl"
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    yield dict(row=int(row["row"]), file=str(row["file"]),
                               question=row["question"], answer=row["answer"],
                               # Older versions stored no hash; then the file's name stands for it.
                               picture=row.get("picture") or row["file"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path.name, error) from error

    def check(self,
        file_id: str,  # of an upload that is to be trained on
    ) -> list:  # for each row the hash of its picture
        """Raise a Problem if rows or pictures of an upload are missing: a job would fail minutes later.

        Returns for each row the hash of its picture, by which a job tells which rows share one."""
        folder = self.folder(file_id)
        file_names = self._names_of_full_files(file_id)  # full: not empty
        # Every row must have its picture, and there must be as many rows as were stored.
        pictures = []  # their hashes
        for row in self._stored_rows(file_id):
            pictures.append(row["picture"])
            if row["file"] not in file_names:
                raise Problem("file.damaged", f"the picture of row {row['row']} is gone: upload it again")
        expected = self.get(file_id)["valid_images"]
        if len(pictures) != expected:
            raise Problem("file.damaged", f"{len(pictures)} rows are left of {expected}: upload it again")
        _check_report(folder / "report.json")  # a Problem if it is damaged, since a run reads it later
        return pictures

    def _names_of_full_files(self, file_id):
        "A set with the names of an upload's files that are not empty; a Problem if it is being deleted"
        # The folder is listed once: asking for each of 100,000 pictures would take long.
        try:
            with os.scandir(self.folder(file_id)) as entries:
                return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0}
        except FileNotFoundError as error:
            # Another request is deleting the upload: it takes it out of the list first, its folder next.
            self.get(file_id)  # a Problem if it is already out of the list
            raise Problem("file.damaged", "its files are being deleted") from error

    def _files_by_row(self, file_id):
        """Return the file names of an upload's pictures: number of a row → name.

        Those of a few uploads are kept in memory, since a page of pictures asks for many rows of one."""
        # One call of `get`: between a test and a look-up, another thread could remove the entry.
        remembered = self.indexes.get(file_id)
        if remembered is not None:
            return remembered

        names = {row["row"]: row["file"] for row in self._stored_rows(file_id)}
        # valid_images: how many rows were stored. With fewer the file of rows was cut off.
        if len(names) != self.get(file_id)["valid_images"]:
            raise Problem("file.damaged", f"{len(names)} rows are left: upload it again")
        self._forget_oldest_index()
        self.indexes[file_id] = names
        return names

    def _forget_oldest_index(self):
        "Make room in `indexes` for one more upload: at most `_most_indexes` stay, and the oldest go first"
        oldest_first = list(self.indexes)  # a copy, since other threads may change the dict
        surplus = len(oldest_first) + 1 - _most_indexes
        for other_id in oldest_first[:max(0, surplus)]:
            self.indexes.pop(other_id, None)

    def picture(self,
        file_id: str,  # identifier of an upload
        row: int,  # number of a row
        side: int,  # largest width and height, in pixels
    ) -> tuple:  # bytes, media type
        "Return the picture of a row, made smaller if a side has more than `side` pixels, in its own format"
        path = self._path_of_picture(file_id, row)
        try:
            data, image_format = _smaller_picture(path, side)
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a damaged picture
            raise _damaged(f"the picture of row {row}", error) from error
        return data, f"image/{image_format.lower()}"

    def _path_of_picture(self, file_id, row):
        "Where the picture of a row lies; a Problem if the upload has no such row"
        folder = self.folder(file_id)
        name = self._files_by_row(file_id).get(row)  # None if there is no such row
        # `Path(name).name` is without folders: a name in a damaged table must not lead out of the folder.
        if name is None or Path(name).name != name:
            raise Problem("file.row", f"no picture in row {row}")
        return folder / name

    def older(self,
        days: float,  # least age by `clock`, which setting the computer's clock does not change
    ) -> list:  # of file_ids
        "List the uploads that are at least so many days old"
        least_age = _seconds_a_day * days
        uploads = list(self.born.items())  # a copy: other requests may change the dict
        return [file_id for file_id, born in uploads if self.clock() - born >= least_age]

    def remove(self,
        file_id: str,  # identifier of an upload
        is_needed=None,  # function: file_id → does a job need it? Asked while no job can start; None: no
    ) -> bool:  # False: it is needed, and stays
        """Delete an upload, unless a job needs it.

        It is first taken out of the list and its folder renamed, so that nobody sees half of it."""
        renamed = self.aside / f"gone-{file_id}"
        with self.in_use:  # the lock under which jobs are started, so none can begin on this upload now
            folder = self.folder(file_id)
            if is_needed is not None and is_needed(file_id):
                return False
            del self.known[file_id], self.born[file_id]
            self.indexes.pop(file_id, None)  # what `_files_by_row` remembers of it
            # If the server is killed while it deletes, the next one finds the rest in `aside` and removes it.
            try:
                os.rename(folder, renamed)
            except FileNotFoundError:
                return True  # somebody has removed the folder by hand
        shutil.rmtree(renamed)
        return True


def _check_report(path):
    "Raise a Problem if report.json, the report of an archive's reader, is damaged: a run reads it later"
    report = read_object(path)  # empty if it is damaged
    if not isinstance(report.get("csv_rows"), int):
        raise Problem("file.damaged", "its report is damaged: upload it again")


def _report_for_clients(
    report,  # of an archive's reader: csv_rows and valid_images (numbers), skipped (dicts), notes (pairs)
):
    "What clients are told of that report: a dict of counts, skipped rows and notes, a sentence each"
    # Names in main.csv are a stranger's text, which the page shows: `clean` makes it printable. Only the
    # first rows that could not be used are listed, and all are counted.
    skipped = []
    for row in report["skipped"][:_most_skipped_told]:
        skipped.append(row | dict(image=clean(row["image"]), message=clean(row["message"])))
    return dict(
        csv_rows=report["csv_rows"],
        valid_images=report["valid_images"],
        skipped=skipped,
        skipped_rows=len(report["skipped"]),
        # The reader's notes on what it accepted all the same: (what, number of rows).
        notes=[f"{clean(what)} ({count} rows)" for what, count in report.get("notes", [])])


def _smaller_picture(
    path,  # of a picture
    side,  # pixels of its longer side at most; a smaller picture keeps its size
):  # bytes, format such as PNG
    "Make a picture small, in its own format; OSError, ValueError or SyntaxError if it is damaged"
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image_format = image.format  # such as PNG or JPEG
        # A JPEG is then decoded at a smaller size, in an eighth of the time; other formats ignore it.
        image.draft("RGB", (side, side))
        image.thumbnail((side, side))  # makes it smaller, never larger
        image.save(buffer, image_format)
    return buffer.getvalue(), image_format


def _facts_of(folder):
    """Read the facts about an upload from upload.json in its folder; ValueError or OSError if it is damaged.

    It may hold zero bytes after a power cut, or belong to another upload after a careless copy."""
    facts = json.loads((folder / _facts_file).read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError(f"{_facts_file} holds no object")
    for name, required_type in _needed_facts.items():  # such as file_id → str, csv_rows → int
        if not isinstance(facts.get(name), required_type):
            raise ValueError(f"{_facts_file} has no good {name}")
    if facts["file_id"] != folder.name:
        raise ValueError(f"{_facts_file} is that of {facts['file_id']}: a copy")
    if facts.get("kind", "counting") not in zip_kinds:
        raise ValueError(f"{_facts_file} has no good kind")
    # When it was uploaded, in seconds of the clock by which ages are counted. Older versions stored none.
    if not isinstance(facts.get("clock", 0.0), (int, float)):
        raise ValueError(f"{_facts_file} has no good clock")
    return facts


def _age_order(facts):
    "What uploads are sorted by: the time, and the identifier where times are equal"
    return facts["upload_time"], facts["file_id"]


def _damaged(what, error):
    "The Problem for a part of a stored upload that cannot be read any more"
    logger.error("%s of an upload cannot be read", what, exc_info=error)
    return Problem("file.damaged", f"{what} cannot be read any more: upload it again")


Intake = Uploads  # what receiving was called while it was a class of its own
