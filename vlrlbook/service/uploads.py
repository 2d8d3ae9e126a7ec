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
_most_indexes = 4  # uploads whose rows are remembered, for a page of pictures asks for many rows of one
# Names in tmp/ that are given here: whatever else lies there belongs to somebody else.
_own_names_aside = re.compile(r"(upload-)?[0-9a-f]{16}|gone-.*")
# Of `upload.json`: what is told of an upload and what its age is counted by
_needed_facts = dict(file_id=str, filename=str, upload_time=str, csv_rows=int, valid_images=int,
                     skipped=list, skipped_rows=int, size_bytes=int, unpacked_bytes=int)


class Uploads:
    "What was uploaded to one data directory, read from its folders at the start and kept in memory"
    def __init__(self,
        data_dir: str | Path,  # of the server
        clock=time.monotonic,  # seconds by which age is counted: `Jobs.clock`
    ):
        self.root = Path(data_dir) / "uploads"
        self.aside = Path(data_dir) / "tmp"  # on the same disk, so that one rename moves a folder
        self.clock = clock
        for folder in (self.root, self.aside):
            folder.mkdir(parents=True, exist_ok=True)
        self._clear_aside()
        self.born = {}  # file_id → the clock when it was uploaded
        self.known = {}  # file_id → what is told of it, the oldest first
        self.indexes = {}  # file_id → (row → file), of the uploads whose pictures were asked for last
        # Held while a job is started on an upload, and while one is taken away: of the two only one can be.
        self.in_use = threading.RLock()
        self._find_stored()

    def _clear_aside(self):
        "Remove what uploads left that were under way when a server was killed"
        for left in self.aside.iterdir():
            if left.is_dir() and _own_names_aside.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)

    def _find_stored(self):
        "Fill `known` and `born` from the folders; what cannot be read is left where it lies, and named"
        stored = []
        for folder in sorted(self.root.iterdir()):
            try:
                stored.append(_facts_of(folder))
            except (OSError, ValueError) as error:
                logger.warning("%s/%s is left where it lies, and not listed: %s",
                               self.root.name, clean(folder.name), clean(error))
        stored.sort(key=_age_order)
        for upload in stored:
            # One of an older version has no clock, and counts from here: better kept too long than lost.
            self.born[upload["file_id"]] = upload.pop("clock", self.clock())
            self.known[upload["file_id"]] = upload

    # From a request to a folder

    async def add(self,
        request,  # of POST /upload-data
        strict: bool,  # refuse for one bad row
        settings,  # `ServiceSettings`: limits
        turns: asyncio.Semaphore,  # how many archives are read at once
    ) -> dict:  # what is told of the upload
        "Receive an upload, read it, and only then give it a name"
        self._check_quota(settings.quota_gb)
        work = self.aside / f"upload-{secrets.token_hex(8)}"
        work.mkdir()
        try:
            filename, size = await receive_file(request, work / "file", settings)
            async with turns:
                report = await read_apart(work / "file", work / "data", strict, settings)
            # Shielded: a client that hangs up now must not leave the list and the disk at odds.
            if free_bytes(work) < settings.reserve_mb << 20:
                raise Problem("storage.full", "no space is left; nothing was kept")
            keeping = asyncio.to_thread(self._keep, work, filename, size, report)
            return await asyncio.shield(keeping)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    def _check_quota(self, quota_gb):
        "Refuse, before the first byte is taken, when the uploads have used up their space"
        held = 0
        for upload in list(self.known.values()):
            held += upload["size_bytes"] + upload["unpacked_bytes"]
        held_gb = held / 2**30
        if held_gb >= quota_gb:
            held_and_most = f"{held_gb:.1f} GiB are held, {quota_gb:g} may be"
            raise Problem("storage.quota", f"{held_and_most}: delete uploads first")

    def _keep(self, work, filename, size, report):
        "Bring `work`/data to the disk, give it its name by one rename, and only then list it"
        data = work / "data"
        # What stands in main.csv is a stranger's text, and is shown on the page.
        skipped = []
        for row in report["skipped"][:_most_skipped_told]:
            skipped.append(row | dict(image=clean(row["image"]), message=clean(row["message"])))
        upload = dict(
            file_id=str(uuid.uuid4()),  # the form that the counting system's own replies show
            filename=filename,
            upload_time=now(),
            csv_rows=report["csv_rows"],
            valid_images=report["valid_images"],
            skipped=skipped,
            skipped_rows=len(report["skipped"]),
            notes=[f"{clean(what)} ({count} rows)" for what, count in report.get("notes", [])],
            size_bytes=size,
            unpacked_bytes=sum(path.stat().st_size for path in data.iterdir()))
        file_id = upload["file_id"]
        born = self.clock()
        write_json(data / _facts_file, upload | dict(clock=born))
        commit_folder(data, self.root / file_id, manifest=False, replace=False)
        self.known[file_id] = upload
        self.born[file_id] = born
        return upload

    # What there is

    def get(self,
        file_id: str,  # as a client writes it
    ) -> dict:  # what is told of the upload
        "One upload; a Problem where there is none of that identifier"
        if file_id not in self.known:
            raise Problem("file.unknown", f"no upload {clean(file_id, 60)!r}")
        return self.known[file_id]

    def folder(self,
        file_id: str,  # as a client writes it
    ) -> Path:  # that of the stored upload
        "The folder of an upload; a Problem where there is none of that identifier"
        # By the stored identifier, so that nothing a client wrote becomes part of a path.
        return self.root / self.get(file_id)["file_id"]

    def rows(self,
        file_id: str,  # of an upload
        after: int,  # a row's number
        limit: int,  # rows at most
    ) -> list:  # of {row, question, answer, image}
        "Rows in order, those whose number is beyond `after`"
        found = []
        for row in self._stored_rows(file_id):
            if row["row"] <= after:
                continue
            if len(found) == limit:
                break
            picture = f"/files/{file_id}/rows/{row['row']}/image"
            found.append(dict(
                row=row["row"], question=row["question"], answer=row["answer"], image=picture))
        return found

    def _stored_rows(self, file_id):
        "The rows of an upload as they were kept, one after the other; a Problem where they are damaged"
        path = self.folder(file_id) / "rows.jsonl"
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    yield dict(row=int(row["row"]), file=str(row["file"]),
                               question=row["question"], answer=row["answer"],
                               picture=row.get("picture") or row["file"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path.name, error) from error

    def check(self,
        file_id: str,  # of an upload that is to be trained on
    ) -> list:  # for each row a text that is equal where the pictures are
        "Raise a Problem where rows or pictures of an upload are gone: a job would fail on it minutes later"
        folder = self.folder(file_id)
        # One look into the folder, not one for each of 100,000 pictures.
        try:
            with os.scandir(folder) as entries:
                there = {entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0}
        except FileNotFoundError as error:
            # Another request deletes the upload at this moment: by now it may be unknown, which `get` says.
            self.get(file_id)
            raise Problem("file.damaged", "its files are being deleted") from error
        pictures = []
        for row in self._stored_rows(file_id):
            pictures.append(row["picture"])
            if row["file"] not in there:
                raise Problem("file.damaged", f"the picture of row {row['row']} is gone: upload it again")
        expected = self.get(file_id)["valid_images"]
        if len(pictures) != expected:
            raise Problem("file.damaged", f"{len(pictures)} rows are left of {expected}: upload it again")
        if not isinstance(read_object(folder / "report.json").get("csv_rows"), int):
            raise Problem("file.damaged", "its report is damaged: upload it again")
        return pictures

    def _file_of_row(self, file_id, row):
        "Name of the stored picture of a row; None where there is no such row"
        if file_id not in self.indexes:
            index = {}
            for stored in self._stored_rows(file_id):
                index[stored["row"]] = stored["file"]
            if len(index) != self.get(file_id)["valid_images"]:
                raise Problem("file.damaged", f"{len(index)} rows are left: upload it again")
            while len(self.indexes) >= _most_indexes:
                self.indexes.pop(next(iter(self.indexes)), None)
            self.indexes[file_id] = index
            return index.get(row)
        return self.indexes[file_id].get(row)

    def picture(self,
        file_id: str,  # of an upload
        row: int,  # its number
        side: int,  # most pixels in width and height
    ) -> tuple:  # bytes, media type
        "The picture of a row, made small; never made larger"
        folder = self.folder(file_id)
        name = self._file_of_row(file_id, row)
        # The name was written by us, but a name in a damaged table must not lead out of the folder.
        if name is None or Path(name).name != name:
            raise Problem("file.row", f"no picture in row {row}")
        buffer = io.BytesIO()
        try:
            with Image.open(folder / name) as image:
                form = image.format
                image.draft("RGB", (side, side))  # a JPEG is decoded small at once, in an eighth of the time
                image.thumbnail((side, side))
                image.save(buffer, form)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's own way to say "damaged"
            raise _damaged(f"the picture of row {row}", error) from error
        return buffer.getvalue(), f"image/{form.lower()}"  # type: ignore[union-attr]  # it was opened

    def older(self,
        days: float,  # of service, by the clock that nobody can set
    ) -> list:  # of file_ids
        "Uploads that have been here for so many days"
        least = _seconds_a_day * days
        return [file_id for file_id, born in list(self.born.items()) if self.clock() - born >= least]

    def remove(self,
        file_id: str,  # of an upload
        is_needed=None,  # function of a file_id: whether a job needs it, asked while no job can be started
    ) -> bool:  # False: it is needed, and stays
        "Delete an upload: out of the list first, so that nobody is sent to a folder that is half gone"
        gone = self.aside / f"gone-{file_id}"
        with self.in_use:
            folder = self.folder(file_id)
            if is_needed is not None and is_needed(file_id):
                return False
            del self.known[file_id], self.born[file_id]
            self.indexes.pop(file_id, None)
            # Renamed first, so that a kill in the middle leaves nothing that looks like an upload.
            try:
                os.rename(folder, gone)
            except FileNotFoundError:
                return True  # somebody has removed it by hand: what was wanted is done
        shutil.rmtree(gone)
        return True


def _facts_of(folder):
    "What stands in an upload's `upload.json`, if that is whole and lies where it belongs; else an error"
    # Strictly UTF-8 and strictly an object: a power cut leaves zero bytes, a careless copy another upload's.
    facts = json.loads((folder / _facts_file).read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError(f"{_facts_file} holds no object")
    for name, kind in _needed_facts.items():
        if not isinstance(facts.get(name), kind):
            raise ValueError(f"{_facts_file} has no good {name}")
    if facts["file_id"] != folder.name:
        raise ValueError(f"{_facts_file} is that of {facts['file_id']}: a copy")
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
