"""The wall in front of strangers' files: a counting ZIP is checked, its pictures decoded, its good rows kept.

The answers of its table are counts, or, of the kind pointing, boxes; all else is the same for both.

The training service reads uploads in a process of its own that needs this module and nothing above it, so
nothing here imports torch, pandas or `datasets`. The order of the checks matters: names and sizes in the
directory first, then how the bytes lie, then the table, and only then is a picture unpacked, under a name of
our own. Chapter 01 shows each check on an archive that fails it. Written by hand."""
import csv
import difflib
import errno
import hashlib
import io
import json
import os
import re
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps

from .folders import free_bytes
from .geometry import box_fault, have_same_shape, unit_of
from .readers.boxes import read_box_truth
from .readers.counts import read_count
from .settings import nearest

__all__ = ["DataError", "Report", "counting_columns", "zip_kinds", "limits", "foreign", "zip_faults",
           "unpack_counting_zip", "archive_entries", "name_faults", "check_layout", "counting_table",
           "decode_picture", "open_picture", "to_rgb", "control_token", "folded_name", "most_unpacked",
           "picture_key", "report_in"]

counting_columns = ("images_path", "question", "answer")  # header of main.csv
# Kind of a ZIP → what the answers of its table are, in words for messages
zip_kinds = {
    "counting": "a text with a number in it, such as 'A photo of 3 apples'",
    "pointing": "a box or a list of boxes, such as '[12, 40, 31, 59] in pixels of 112 x 112'",
}

# What an archive may hold. Bytes where nothing else is said.
limits = dict(
    entries=20_000,  # number of files in the archive
    rows=100_000,  # rows of main.csv
    picture_bytes=32 << 20,  # of one encoded picture
    picture_pixels=50_000_000,  # of one decoded picture: 150 MB as RGB
    unpacked=8 << 30,  # of all files together
    ratio=20,  # unpacked bytes for each packed one, once they are more than half a GiB
    table_bytes=64 << 20,  # of main.csv
)

# Endings that have no place among pictures: archives in archives, programs, files that run code when read.
foreign = {f".{suffix}" for suffix in (
    "zip jar whl tar gz tgz bz2 xz zst 7z rar exe dll so dylib msi bat cmd ps1 sh com scr "
    "js vbs py pyc pkl pickle pt pth npy npz joblib").split()}

# `zipfile` raises much more than BadZipFile on broken input (found by fuzzing); all mean the same to us.
zip_faults = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError, UnicodeError, MemoryError, KeyError, IndexError,
    OverflowError)

# Formats that are decoded. Few, since each of Pillow's decoders is code that a hostile file could attack.
_picture_formats = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_always_unpacked = 512 << 20  # bytes that any archive may unpack to, however well it is packed
_written_at_once = 1 << 20  # bytes between two looks at the free space
_rows_at_a_time = 64  # rows of which all pictures are written before those of further rows are read
# Limits of memory. They do not grow with the machine's cores, so that an archive that is read on a small
# machine is read on a large one too. A thread also takes address space of its own, about 70 MiB.
_decoders = 4  # threads that decode pictures
_pixels_at_once = 100_000_000  # in pictures that are being decoded; up to 15 bytes each
_encoded_at_once = 256 << 20  # bytes of encoded pictures that wait for a decoder
_jpeg_quality = 95  # of a JPEG that is encoded anew: the loss is smaller than that of any camera
_exif_orientation = 0x0112  # tag of how a camera was held; 1 is upright
_most_listed = 20  # skipped rows that a report prints; all of them stand in its `skipped`


# What is said about a file

class DataError(ValueError):
    "An error in a user's data: a stable `code` for programs, a message for people, and where it is"

    def __init__(self,
        code: str,  # for programs, such as csv.columns; codes do not change between versions
        message: str,  # for people: what was found and what was expected
        row: int = None,  # line of the table, the header being line 1; None: the error is of no row
        entry: str = None,  # name inside the archive; None: of no single file
    ):
        self.code, self.message, self.row, self.entry = code, message, row, entry
        places = [f"row {row}"] if row else []
        if entry:
            places.append(repr(entry[:200]))  # a hostile name may be very long
        where = ", ".join(places) + ": " if places else ""
        super().__init__(f"{code}: {where}{message}")


@dataclass
class Report:
    "Which rows of a counting ZIP were kept and which were left out"
    csv_rows: int = 0  # rows of main.csv
    valid_images: int = 0  # rows kept
    skipped: list = field(default_factory=list)  # a dict of row, image, code, message for each row left out
    notes: list = field(default_factory=list)  # of [sentence, number of rows that it is true of]

    def _repr_markdown_(self):
        "The counts on one line, then the first 20 skipped rows and all notes, one on a line"
        lines = [f"{self.csv_rows} rows, {self.valid_images} kept, {len(self.skipped)} skipped"]
        for skipped in self.skipped[:_most_listed]:
            # cut at 80 characters: a hostile table may hold very long names
            image, fault = skipped["image"][:80], f"{skipped['code']}, {skipped['message']}"
            lines.append(f"- row {skipped['row']}, `{image}`: {fault}")
        if len(self.skipped) > _most_listed:
            lines.append(f"- and {len(self.skipped) - _most_listed} more")

        for note, count in self.notes:
            plural = "" if count == 1 else "s"
            lines.append(f"- {count} row{plural}: {note}")
        return "\n".join(lines)

    __repr__ = _repr_markdown_


def report_in(
    folder: str | Path,  # that a counting ZIP was unpacked into
) -> Report:
    "Read the report beside the rows of an unpacked counting ZIP; `DataError` for any other folder"
    folder = Path(folder)
    message = f"{folder.name} is a folder that no counting ZIP was unpacked into; expected a file"
    if not (folder / "rows.jsonl").is_file():
        raise DataError("file.kind", message)
    try:
        return Report(**json.loads((folder / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError("file.kind", message) from error


# The archive

def unpack_counting_zip(
    path: str | Path,  # the archive
    folder: str | Path,  # an empty folder: pictures, rows.jsonl and report.json are written into it
    strict: bool = False,  # refuse the whole archive for one bad row
    reserve: int = 0,  # bytes of the disk that must stay free
    kind: str = "counting",  # what its answers are, a key of `zip_kinds`
) -> Report:
    "Check a counting ZIP and write its good rows into a folder; `DataError` says why an archive is refused"
    path, folder = Path(path), Path(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            packed_bytes = path.stat().st_size
            names, rows = _checked_contents(path, archive, packed_bytes)
            store = _PictureStore(folder, most_unpacked(packed_bytes), reserve)
            return _keep_rows(archive, names, rows, store, strict, kind)
    except DataError:
        raise  # it says already what is wrong; as a ValueError it would be caught below
    except zip_faults as fault:  # whatever `zipfile` raises on broken input, such as a ValueError
        raise _error_of_fault(fault) from fault


def _checked_contents(
    path,  # the archive's file
    archive,  # the same, opened: `zipfile.ZipFile`
    packed_bytes,  # its size
):
    """Check an archive's directory, its layout and main.csv; nothing but main.csv is unpacked.

    Returns its files as `_Names`, which finds the file that a row means, and the rows of main.csv."""
    entries = archive_entries(archive, packed_bytes)  # name → ZipInfo; `DataError` if one is hostile
    check_layout(path, archive)  # refuses what two programs could read differently
    entries, top = _without_top_folder(entries)  # top: the folder that all lay in, or ""
    rows = counting_table(_table_text(archive, entries))
    return _Names(entries, top), rows


def _error_of_fault(
    fault,  # the exception
):
    "The `DataError` for one of `zip_faults`: no disk, no memory, or else the archive is broken"
    # With a full disk or memory the archive may still be good, so it is not called broken.
    # ENOSPC: no space left; EDQUOT: this user's share of the disk is full
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError("storage.full", "no space is left on the disk that it is unpacked to")
    if isinstance(fault, MemoryError):
        return DataError("intake.memory", "there is too little memory to read it")
    return DataError("zip.broken", f"not a readable ZIP ({type(fault).__name__})")


def archive_entries(
    archive: zipfile.ZipFile,  # opened
    packed: int,  # size of the archive file in bytes
) -> dict:  # name, as `readable_name` gives it -> ZipInfo of every file
    """The files of an archive by name, from its directory: nothing is unpacked.

    Raises `DataError` for too many files, too much data, a name that stands twice, or a hostile entry."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    _check_totals(infos, packed)
    entries, folded_names = {}, set()
    for info in infos:
        _check_entry(info)
        name = readable_name(info)  # decoded as its maker most likely meant it
        # Names are compared as Windows and macOS do: without case, accents in one form.
        folded = folded_name(name)
        if folded in folded_names:
            message = "the same name twice, for a file system that ignores case or accents' forms"
            raise DataError("zip.duplicate", message, entry=name)
        folded_names.add(folded)
        entries[name] = info
    return entries


def _check_entry(info):
    "Raise `DataError` for the first fault of an entry's record in the directory, a ZipInfo"
    # such as ("zip.link", "a symbolic link"); an empty list for a harmless entry
    for code, message in name_faults(info):
        raise DataError(code, message, entry=info.filename)


def _check_totals(
    infos,  # a ZipInfo of each file
    packed,  # size of the archive file in bytes
):
    "Raise `DataError` if an archive has too many files, or unpacks to too many bytes"
    if len(infos) > limits["entries"]:
        raise DataError("zip.entries", f"{len(infos)} entries, at most {limits['entries']}")
    # file_size: unpacked bytes, as the directory says; `most_unpacked`: how many such an archive may have.
    if sum(info.file_size for info in infos) > most_unpacked(packed):
        raise DataError("zip.size", "unpacks to too much")


def most_unpacked(
    packed: int,  # size of the archive file in bytes
) -> int:
    """How many bytes an archive may unpack to: a limit against ZIP bombs.

    It is also the limit on what may be written of the archive."""
    # A bomb packs a thousand to one and photographs hardly at all, so `ratio` to one is the limit. Up to
    # `_always_unpacked` no ratio is asked for, since small sets of drawn pictures pack very well, too.
    return min(limits["unpacked"], max(_always_unpacked, limits["ratio"] * packed))


def folded_name(
    name: str,  # of a file
) -> str:
    """A file's name in the form in which names are compared, without case.

    An accent may be a character of its own (NFD, on macOS) or part of its letter (NFC): both become NFC."""
    return unicodedata.normalize("NFC", name).casefold()


# Encodings of names without the flag for UTF-8: the format says cp437, but tools write that of their system.
_name_encodings = ("utf-8", "gbk", "shift_jis", "euc_jp", "cp949", "big5", "cp437", "cp850", "cp1252",
                   "cp1251", "cp866")


def readable_name(
    info: zipfile.ZipInfo,  # one entry of the directory
) -> str:
    """The name of an entry, decoded as its maker most likely meant it.

    If the archive does not say that a name is UTF-8, `zipfile` decodes it as cp437. Most often it is UTF-8
    nevertheless, or GBK from a Chinese Windows; these two are tried."""
    name = info.orig_filename  # `filename` is cut at a NUL
    if info.flag_bits & _name_is_utf8 or name.isascii():
        return name
    for encoding in ("utf-8", "gbk"):
        try:
            return _name_bytes(info).decode(encoding)
        except UnicodeDecodeError:
            continue
    return name


def _name_bytes(
    info,  # ZipInfo of an entry whose flags do not say that its name is UTF-8
):
    "An entry's name as bytes, as the file holds it, where `zipfile` has decoded it as cp437"
    return info.orig_filename.encode("cp437")  # cp437 has a character for each of the 256 bytes


def _other_names(
    info,  # ZipInfo of the entry
    name,  # the name under which it is known here
):
    """Decode an entry's name in each encoding that ZIP tools use; return the set of results except `name`.

    main.csv may use any of them for this entry. The set is empty if the encoding is known."""
    # known: a flag says that it is UTF-8, or the name is ASCII, which is the same in all encodings
    if info.flag_bits & _name_is_utf8 or info.orig_filename.isascii():
        return set()

    other_names = set()
    for encoding in _name_encodings:  # utf-8, gbk, shift_jis, cp437 and others
        try:
            other_names.add(_name_bytes(info).decode(encoding))
        except UnicodeDecodeError:  # these bytes are no text in this encoding
            continue
    return other_names - {name}


def name_faults(
    info: zipfile.ZipInfo,  # one entry of the directory
) -> list:  # of (code, message); empty for a harmless entry
    "What is hostile or unreadable about one entry, as far as the archive's directory tells"
    name, faults = readable_name(info), []
    if _leads_out(name):
        faults.append(("zip.path", "a name that leads out of the archive"))
    if stat.S_ISLNK(info.external_attr >> 16):  # its upper 16 bits hold the file's mode on Unix
        faults.append(("zip.link", "a symbolic link"))
    if PurePosixPath(name).suffix.lower() in foreign:
        faults.append(("zip.content", "an archive, a program or a pickle has no place among pictures"))
    if info.flag_bits & _is_encrypted:
        faults.append(("zip.encrypted", "an encrypted entry"))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        faults.append(("zip.method", f"compression method {info.compress_type}"))
    return faults


def _leads_out(name):
    "True if a name leads out of the archive, such as /etc/x, ../x, C:x or a\\b, or has control characters"
    parts = PurePosixPath(name).parts or ("",)  # the parts between slashes; an empty name has none
    # On Windows a colon names a drive and a backslash begins a folder. Both are refused on every system, so
    # that an archive is good everywhere or nowhere.
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        return True
    return any(ord(character) < 32 for character in name)  # control characters, such as NUL


# The layout of a ZIP (APPNOTE.TXT 6.3.10): for each entry a local header, which ends with its name, and its
# data; then the directory, which repeats all headers; then the end record.
_local_header = struct.Struct("<4s5H3I2H")  # its fields are named in `_checked_header`
_local_mark, _end_mark = b"PK\3\4", b"PK\5\6"  # first bytes of a local header and of the end record
_is_encrypted = 0x1  # flag
_sizes_follow = 0x8  # flag: checksum and sizes stand behind the data, in a record named data descriptor
_name_is_utf8 = 0x800  # flag
_in_zip64_extra = 0xFFFFFFFF  # in place of a size: it stands in the header's extra field
_most_descriptor_bytes = 24  # of a data descriptor
_most_directory_bytes = 64 << 20  # that are read; 20,000 entries take a few MB, unless names are very long
_end_record_bytes = 22  # of the end record, without the archive's comment behind it


def check_layout(
    path: Path,  # the archive's file
    archive: zipfile.ZipFile,  # the same, opened
):
    """Refuse an archive that two programs could read differently.

    These are archives with bytes that belong to no entry, with entries that overlap, with local headers that
    differ from the directory, or with a second end record."""
    with open(path, "rb") as file:
        # The last entry ends at byte `end`, or, if a record of its sizes (data descriptor) follows, between
        # there and `latest_end`: how long that record is, is not said.
        end, latest_end = _check_entries(file, archive)
        file.seek(archive.start_dir)  # where the directory begins
        # The directory, the end record and the archive's comment. At most 64 MiB are read into memory; one
        # byte more shows that there are more.
        rest = file.read(_most_directory_bytes + 1)
    if len(rest) > _most_directory_bytes:
        raise DataError("zip.foreign", f"more than {_most_directory_bytes} bytes behind the entries")
    directory_follows = end <= archive.start_dir <= latest_end
    if not (directory_follows and _ends_with_only_end_record(rest, archive.comment)):
        raise DataError("zip.foreign", "bytes before, between or after the archive's own parts")


def _ends_with_only_end_record(
    rest,  # bytes of the archive, from its directory on
    comment,  # the archive's comment as bytes, which follows the end record
):
    "True if an archive has one end record and nothing but the comment behind it"
    # With a second end record, or other bytes behind it, another program could find another directory.
    has_one_end_record = rest.count(_end_mark) == 1
    archive_end = rest.rfind(_end_mark) + _end_record_bytes + len(comment)
    return has_one_end_record and archive_end == len(rest)


def _check_entries(
    file,  # the archive's file, open for reading bytes
    archive,  # the same as `zipfile.ZipFile`, which has read the directory
):
    """Raise `DataError` if entries overlap, if other bytes lie between them, or if a local header is wrong.

    Returns at which byte the last entry ends: without a data descriptor, and at the latest with one. This is
    a record of up to 24 bytes that may follow an entry; it holds the sizes that were not known before."""
    end, latest_end = 0, 0  # of the entry before
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        begin = info.header_offset
        length = _checked_header(file, info)
        if begin < end:
            raise DataError("zip.overlap", "overlaps the entry before it", entry=info.filename)
        if begin > latest_end:
            message = "bytes that belong to no entry stand before it"
            raise DataError("zip.foreign", message, entry=info.filename)
        end = begin + length
        has_descriptor = info.flag_bits & _sizes_follow  # a flag; how long the record is, is not said
        latest_end = end + _most_descriptor_bytes if has_descriptor else end
    return end, latest_end


def _checked_header(
    file,  # the archive's file, open for reading bytes
    info,  # ZipInfo, the directory's record of the entry
):
    """Check an entry's local header; return how many bytes the header and the data take together.

    The local header stands before the data and repeats what the directory says: `DataError` if it differs."""
    file.seek(info.header_offset)
    fields = _local_header.unpack(file.read(_local_header.size))
    # left out: the version that is needed to unpack, time and date
    mark, _, flags, method, _, _, checksum, packed, unpacked, name_length, extra_length = fields
    # decoded as `zipfile` has decoded the directory's name, so that both can be compared
    name = file.read(name_length).decode("utf-8" if flags & _name_is_utf8 else "cp437")

    expected = (_local_mark, info.orig_filename, info.compress_type, info.flag_bits)
    has_same_sizes = _sizes_agree(info, flags, (checksum, packed, unpacked))
    if (mark, name, method, flags) != expected or not has_same_sizes:
        raise DataError("zip.headers", "its local header differs from the directory", entry=info.filename)
    return _local_header.size + name_length + extra_length + info.compress_size


def _sizes_agree(
    info,  # ZipInfo, the directory's record of an entry
    flags,  # of the entry's local header
    sizes,  # in this header: (checksum, packed bytes, unpacked bytes)
):
    "True if the sizes in a local header are those of the directory, or if the header does not hold them"
    # Then they cannot be compared. A flag says that they follow the data; or 0xFFFFFFFF in place of a size
    # says that it is in the header's extra field (ZIP64).
    are_not_in_header = flags & _sizes_follow or _in_zip64_extra in sizes[1:]
    return are_not_in_header or sizes == (info.CRC, info.compress_size, info.file_size)


# Where things lie

_system_files = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # which macOS and Windows add


def _is_system_file(name):
    "True for an entry that macOS or Windows has added to an archive, such as __MACOSX/a.png or Thumbs.db"
    return any(name.startswith(added) or name.endswith(added) for added in _system_files)


def _without_top_folder(
    entries,  # name → ZipInfo, such as "birds/main.csv" and "birds/images/1.png"
):
    """Take away the folder that holds everything, if the archive has one.

    Returns the entries by their names inside that folder ("main.csv", "images/1.png"), and the folder's name
    with its slash ("birds/"). Without such a folder these are the unchanged entries and an empty text."""
    # Finder, Explorer and `zip -r a.zip folder` all pack the folder itself.
    tables = [name for name in entries if folded_name(PurePosixPath(name).name) == "main.csv"]
    if len(tables) != 1 or tables[0] == "main.csv":
        return entries, ""  # no table, several, or one that lies at the top already

    table = tables[0]  # such as birds/Main.csv
    top = table[:-len("main.csv")]  # birds/
    inside = {}
    for name, info in entries.items():
        if name.startswith(top):
            inside[name[len(top):]] = info
        elif not _is_system_file(name):  # a file that macOS or Windows has added is dropped
            return entries, ""  # a file outside the folder may belong to the table, too
    inside["main.csv"] = entries[table]  # under this name, however its case was written
    return inside, top


class _Names:
    "The files of an archive, found by the names that its table gives them"
    def __init__(self,
        entries: dict,  # name -> ZipInfo
        top: str,  # folder that everything lay in, with its slash; empty if there is none
    ):
        self.entries, self.top = entries, top
        self.by_folded_name = {}  # `folded_name` of any spelling → entry's name; None: several entries fit
        self.stems = {}  # file name without folder and suffix → names, for `hint`
        for name, info in entries.items():
            spellings = {name} | _other_names(info, name)  # in all encodings that the table may use
            for folded in map(folded_name, spellings):
                is_taken = folded in self.by_folded_name and self.by_folded_name[folded] != name
                self.by_folded_name[folded] = None if is_taken else name  # None stays None
            stem = folded_name(PurePosixPath(name).stem)
            self.stems.setdefault(stem, []).append(name)

    def find(self,
        written: str,  # path of a picture, as a row of the table writes it
    ) -> tuple:  # (name of the entry or None, note about a difference or None)
        """The entry that a path in the table means.

        The path may leave out the folder `images`, and may differ in case, accents' form or encoding, as long
        as only one entry fits."""
        for form in (written, f"images/{written}"):
            if form in self.entries:
                return form, None
        return self._find_otherwise_written(written)

    def _find_otherwise_written(self,
        written,  # path of a picture, as a row of the table writes it; no entry has just this name
    ):
        """(name of the entry, note about a difference or None) for a path from another system; else two None.

        It may have backslashes, another case, or accents in another form."""
        path = written.replace("\\", "/").removeprefix("./")
        # `top`: the folder that everything lay in, such as "birds/". The entries are named without it.
        if self.top and folded_name(path).startswith(folded_name(self.top)):
            # Cut off as many folders as `top` has, not len(top) characters: an accented letter may be two
            # characters here and one in `top`.
            path = path.split("/", self.top.count("/"))[-1]
        for form in (path, f"images/{path}"):
            # folded_name: without case, with accents in one form
            name = self.by_folded_name.get(folded_name(form))
            if name is not None:  # None: no entry has this name, or several have it
                if name == form:  # it differed only by backslashes, ./ or the folder `top`
                    return name, None
                return name, "the picture's name differs in case, accents' form or encoding"
        return None, None

    def hint(self,
        written: str,  # path of a picture that was not found, as a row of the table writes it
    ) -> str:  # such as "; there is 'images/a.jpeg'", or an empty text
        "The end of an error message: a file of the same name with another suffix or in another folder"
        stem = folded_name(PurePosixPath(written.replace("\\", "/")).stem)
        same_stem = self.stems.get(stem, [])
        return f"; there is {same_stem[0]!r}" if same_stem else ""


# main.csv

def _table_text(
    archive,  # `zipfile.ZipFile`
    entries,  # name → ZipInfo
):
    "Read main.csv as text; `DataError` if it is missing, too large or no text"
    if "main.csv" not in entries:
        # ": did you mean …?", or a list of the names that it is given; of ten, so that the message stays short
        hint = nearest("main.csv", list(entries))
        if "did you mean" not in hint:
            hint = nearest("main.csv", list(entries)[:10])
        raise DataError("csv.missing", f"no main.csv at the top of the archive{hint}")
    if entries["main.csv"].file_size > limits["table_bytes"]:
        raise DataError("csv.size", "main.csv is too large")
    text = _decoded_table(archive.read(entries["main.csv"]))
    if "\0" in text:
        raise DataError("csv.nul", "main.csv holds NUL characters")
    return text


def _decoded_table(
    data,  # the bytes of main.csv
):
    """The bytes of main.csv as text; `DataError` if they are none.

    It may be UTF-8 or, if it begins with a byte order mark, UTF-16: spreadsheets write these two."""
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"  # -sig: a byte order mark is dropped
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as fault:
        cure = "save it as UTF-8 (a GBK file can be converted with iconv)"
        raise DataError("csv.encoding", f"main.csv is not UTF-8; {cure}") from fault


def counting_table(
    text: str,  # of main.csv
) -> list:  # of (line number in the file, from 1; image path, question, answer: all trimmed)
    "Read the rows of main.csv; whatever is wrong with the table is a `DataError`"
    lines = _filled_lines(text)  # (line number, fields) each
    if not lines:
        raise DataError("csv.empty", "main.csv is empty")
    (_, header_fields), *rows = lines
    header = _header(header_fields)  # with our columns by our names; `DataError` if one is missing
    if not rows:
        raise DataError("csv.empty", "main.csv has a header and no rows")
    if len(rows) > limits["rows"]:
        raise DataError("csv.rows", f"{len(rows)} rows, at most {limits['rows']}")
    for number, fields in rows:
        _check_width(fields, len(header), number)
    indices = [header.index(column) for column in counting_columns]
    return [(number, *(fields[i].strip() for i in indices)) for number, fields in rows]


def _filled_lines(
    text,  # of main.csv
):
    "The lines of main.csv that are not blank, as a list of (line number, list of fields)"
    # Excel may write a first line `sep=;`, and does not show it: lines are counted without it, as users see
    # them.
    text = _without_separator_line(text)
    separator = _separator_of(text)  # a comma, a semicolon or a tab
    # Strict: an unclosed quote would swallow the rest of the file without an error.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                # `DataError` if a stray quotation mark has put several rows into one field
                refuse_swallowed_rows(fields, separator, "main.csv", reader.line_num)
                lines.append((reader.line_num, fields))
    except csv.Error as fault:
        raise DataError("csv.syntax", f"{fault}, perhaps an unclosed quote", row=reader.line_num) from fault
    return lines


def refuse_swallowed_rows(
    fields: list,  # texts, of a row of a CSV
    separator: str,  # one character
    name: str,  # of the file, for the message
    number: int,  # of the row's last line, for the message
):
    """Raise `DataError` if a field of a CSV has swallowed whole rows, between two stray quotation marks.

    A quote opens such a field in one row (`"big one`), and another one closes it rows later (`5"`). A text
    of several lines is not refused: its lines, cut at the separator, are not all as long as a row, or no
    column of them looks like one of the table (`_are_rows`)."""
    width = len(fields)
    for place, field in enumerate(fields):
        if "\n" not in field or separator not in field:
            continue
        # The rows as they were before the quotes joined them: the first one begins with the fields in front
        # of this one, and the last one ends with the fields behind it.
        lines = field.splitlines()
        rows = [line.split(separator) for line in lines]
        rows[0] = fields[:place] + rows[0]
        rows[-1] = rows[-1] + fields[place + 1:]
        if all(len(row) == width for row in rows) and _are_rows(rows, place):
            message = (f"{name}: a quotation mark before {field[:40]!r} takes all rows up to the next one "
                       "into one field: write it twice inside quotes, or leave it out")
            raise DataError("csv.quotes", message, row=number - len(lines) + 1)


def _are_rows(
    rows,  # from `refuse_swallowed_rows`: lists of cells, as many in each as the table has columns
    place,  # number of the column, from 0, in which the field of several lines stands
):
    """Whether the lines of one field of a CSV, cut at the separator, are rows of the table.

    They are if one column holds pictures or web addresses only, or if the first column counts: 1, 2, 3."""
    columns = [[cell.strip().lower() for cell in column] for column in zip(*rows)]
    for column in columns:
        filled = [cell for cell in column if cell]  # a row may have no picture
        if filled and all(map(_is_picture_or_address, filled)):
            return True
    first = columns[0]
    # At place 0 the first column is the field's own, and a text may count its lines, too.
    if place == 0 or not all(cell.isdecimal() and len(cell) < 20 for cell in first):
        return False
    start = int(first[0])
    return [int(cell) for cell in first] == list(range(start, start + len(first)))


def _is_picture_or_address(cell):
    "Whether a cell of a table, in lower case, is the name of a picture or an address of the web"
    return cell.endswith(_picture_suffixes) or cell.startswith(("http://", "https://"))


def _check_width(
    fields,  # of a row of main.csv
    width,  # number of columns
    number,  # the row's line, for the message
):
    "Raise `DataError` if a row has fewer fields than columns, or text behind the last column"
    # Empty fields behind it are no error: spreadsheets write a comma for every cell that was edited once. But
    # text there, or too few fields, come from a comma or a quotation mark in the wrong place.
    if len(fields) < width or any(field.strip() for field in fields[width:]):
        raise DataError("csv.fields", f"{len(fields)} fields, the header has {width}", row=number)


def _without_separator_line(text):
    "A table without a first line such as `sep=;`, which Excel writes to say what separates the fields"
    return text.partition("\n")[2] if text.startswith("sep=") else text


def _separator_of(text):
    "Find the character that separates fields: the one that splits the header into our columns, else a comma"
    header = text.lstrip("\r\n").partition("\n")[0]  # the first line that is not empty
    # _plain_name: in lower case, without spaces, underscores and quotes: "Images Path" is images_path, too
    wanted = {_plain_name(column) for column in counting_columns}  # images_path, question, answer
    for separator in ";\t":
        names = {_plain_name(name) for name in header.split(separator)}
        if wanted <= names:
            return separator
    return ","


def _header(
    fields,  # of the first line, such as ["Images Path", "question", "answer", ""]
):
    """The names of the columns from the fields of the first line, up to the last one that has a name.

    A name such as `Images Path`, which differs from one of `counting_columns` only by case, spaces or
    underscores, is replaced by it. Raises `DataError` if a column is missing or stands twice."""
    names = [name.strip() for name in fields]
    while names and not names[-1]:  # spreadsheets write empty fields behind the last column
        names.pop()
    # plain name, such as imagespath → our column, such as images_path
    column_of_plain_name = {_plain_name(column): column for column in counting_columns}
    header = [column_of_plain_name.get(_plain_name(name), name) for name in names]
    _check_header(header)
    return header


def _plain_name(name):
    "A column's name as it is compared: in lower case, without spaces, underscores and punctuation"
    return re.sub(r"[\W_]+", "", name.casefold())


def _check_header(
    header,  # names of the columns; one of another spelling than ours has been replaced by ours
):
    "Raise `DataError` if one of the three columns is missing or a column stands twice"
    missing = [column for column in counting_columns if column not in header]
    if missing:
        hint = _missing_column_hint(missing[0], header)  # such as "; did you mean 'answer' by 'label'?"
        shown, wanted = ",".join(header)[:200], ",".join(counting_columns)
        message = f"no column {missing[0]!r}; the header is {shown!r}, expected {wanted!r}{hint}"
        raise DataError("csv.columns", message, row=1)

    named = [name for name in header if name]  # columns without a name are left alone
    if len(set(named)) < len(named):
        raise DataError("csv.columns", "a column stands twice in the header", row=1)


def _missing_column_hint(
    column,  # the one that is missing: images_path, question or answer
    header,  # names of the columns that there are
):
    "The end of an error message: names a wrong separator or a similar column; empty if there is neither"
    if len(header) == 1:  # one field: the line was perhaps separated by another character
        for separator in ";\t|":
            if separator in header[0]:
                return f"; fields are parted by {separator!r}, expected a comma"
    for name in header:
        # a column that is one of our three already cannot be meant
        if name and name not in counting_columns and _may_mean(name, column):
            return f"; did you mean {column!r} by {name!r}?"
    return ""


def _may_mean(
    name,  # of a column in the header that is none of ours, such as "Photo file"
    column,  # images_path, question or answer
):
    "True if a name in a header may stand for `column`: the spelling is similar, or it holds a word for it"
    words = {"images_path": ("image", "picture", "photo", "file", "path", "img"),
             "question": ("question", "prompt", "query"),
             "answer": ("answer", "label", "count", "truth", "solution")}
    # 0.6 of the letters agree: difflib's own default
    is_similar = difflib.get_close_matches(name.casefold(), [column], cutoff=0.6)
    return bool(is_similar) or any(word in name.casefold() for word in words[column])


# Pictures

def open_picture(
    data: bytes,  # an encoded picture
) -> Image.Image:  # RGB
    "Decode a picture from an untrusted source; `DataError` says what is wrong with it"
    image, _ = decode_picture(data)
    return image


def decode_picture(
    data: bytes,  # an encoded picture
) -> tuple:  # RGB picture; "PNG" or "JPEG" if `data` can be kept as it is, else None
    """Decode a picture from an untrusted source, turned upright, as RGB.

    The second result says whether a program that reads `data` itself would see this same picture: if so, the
    bytes can be kept; if it is None, the picture must be encoded anew. `DataError` says what is wrong."""
    if len(data) > limits["picture_bytes"]:
        raise DataError("image.bytes", f"{len(data)} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_picture_formats)
        _check_size(image)  # `DataError` if it is too large, too narrow or animated
        image.load()  # not `verify()`, which would miss a JPEG that is cut off
        if _is_plain(image):  # an opaque, upright RGB in PNG or JPEG
            return image, image.format
        return to_rgb(ImageOps.exif_transpose(image)), None  # turned upright
    except (DataError, MemoryError):
        raise  # a lack of memory is this machine's, and no fault of the picture
    except Exception as fault:  # Pillow's decoders raise many kinds of errors on broken bytes
        raise DataError("image.decode", _why_undecodable(data, fault)) from fault


def _why_undecodable(
    data,  # bytes that should be a picture
    fault,  # the exception that its decoder has raised
):
    "Words for a picture that cannot be decoded: what it is instead if its first bytes tell, else the fault"
    kind = _kind_of(data)  # such as "a HEIC", or None
    return f"{kind}: save it as JPEG or PNG" if kind else f"cannot be decoded ({type(fault).__name__})"


# Files that people give in place of a picture and that are not read: their first bytes, and what to call them
_other_kinds = (
    (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"), (b"%PDF", "a PDF"), (b"<svg", "an SVG"), (b"<?xml", "an SVG"),
    (b"<!DOCTYPE", "a web page"), (b"<html", "a web page"), (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cJXL", "a JPEG XL"), (b"\xff\x0a", "a JPEG XL"), (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself"))
# Bytes 8 to 12 of an ISO media file (HEIC, AVIF, MP4), which say what it holds, and what to call it
_iso_brands = {
    b"heic": "a HEIC", b"heix": "a HEIC", b"heim": "a HEIC", b"hevc": "a HEIC", b"mif1": "a HEIC",
    b"msf1": "a HEIC", b"avif": "an AVIF", b"avis": "an AVIF", b"isom": "a video", b"mp42": "a video",
    b"qt  ": "a video"}
_dicom_mark, _dicom_offset = b"DICM", 128  # the mark, and at which byte it stands


def _kind_of(
    data,  # bytes of a file that should be a picture
):
    "Name the format of a file that cannot be read, such as \"a HEIC\", by its first bytes; None if unknown"
    if data[4:8] == b"ftyp":  # an ISO media file: a picture of a phone, or a film
        return _iso_brands.get(data[8:12])  # these bytes say what it holds, such as heic
    if data[_dicom_offset:_dicom_offset + 4] == _dicom_mark:
        return "a DICOM"
    beginning = data[:64].lstrip()  # a web page or an SVG may begin with blank lines
    return next((kind for mark, kind in _other_kinds if beginning.startswith(mark)), None)


def _check_size(
    image,  # PIL image that is opened and not decoded yet
):
    """Raise `DataError` for a picture that is too large, too long and narrow, or animated.

    Called before the pixels are decoded, so that a picture that is too large takes no memory."""
    size = f"{image.width} × {image.height} pixels"
    short, long = min(image.size), max(image.size)
    if short * long > limits["picture_pixels"]:
        raise DataError("image.pixels", size)

    # Qwen's processor fails on sides of a few pixels, and refuses shapes of more than 200 to 1. The limit is
    # 150, since EasyR1 enlarges small pictures first and rounds down: 600 × 4 becomes 685 × 4, or 171 to 1.
    if short < 4 or long > 150 * short:
        raise DataError("image.shape", size)

    # An MPO file of a phone is no animation: its first picture is the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("image.animated", f"{image.n_frames} frames")


def _is_plain(image):
    "True if a picture is an opaque, upright RGB in PNG or JPEG, so that its bytes may be kept as they are"
    is_opaque_rgb = image.mode == "RGB" and "transparency" not in image.info
    if not is_opaque_rgb or image.format not in ("PNG", "JPEG"):
        return False
    # Another value: the camera was held on its side. Some programs turn such a picture, others do not.
    return image.getexif().get(_exif_orientation, 1) == 1  # 1, or no such tag: upright


def to_rgb(
    image: Image.Image,  # any mode
) -> Image.Image:  # RGB
    "Convert a picture to RGB: greys of more than 8 bits are scaled to 8, transparency is put on white"
    if image.mode.startswith("I") or image.mode == "F":  # greys as integers of 16 or 32 bits, or as floats
        image = _grey_of_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _grey_of_8_bits(image):
    """A grey picture of more than 8 bits a pixel as one of 8, mode L.

    One that has no pixel above 255 keeps its values; else all are scaled down, for 12 bits by 4095 / 255."""
    brightest: Any = image.getextrema()[1]  # a number: there is one channel
    if brightest > 255:
        # convert("L") alone would make all values above 255 white. The file does not say how many bits its
        # scanner used (10, 12, 14 or 16), so we take as many as the brightest pixel needs.
        bits = min(16, int(brightest).bit_length())
        divisor = (2**bits - 1) / 255
        image = image.point(lambda value: value / divisor)
    return image.convert("L")


# Rows

# Texts that a Qwen tokenizer turns into control tokens. In a question they end a turn, or stand for a picture
# that is not there: the model fails, or learns from a broken prompt. Such a text was damaged before it came.
_control_tokens = re.compile(
    r"<\|(?:im_start|im_end|endoftext|image_pad|video_pad|vision_start|vision_end|vision_pad)\|>")


def control_token(
    text: str,  # of a question
) -> str | None:  # the first one; None if there is none
    "Find a control token in a text, such as <|im_end|>: there it would end a turn, or stand for a picture"
    match = _control_tokens.search(text)
    return match[0] if match else None


def _keep_rows(
    archive,  # `zipfile.ZipFile`
    names,  # `_Names` of its files
    rows,  # of main.csv: (line number, image path, question, answer)
    store,  # `_PictureStore` that writes into the new folder
    strict,  # refuse the archive for the first bad row (`_skipped_row` raises), else leave such rows out
    kind,  # what the answers are, a key of `zip_kinds`
):
    """Write the pictures of the good rows, rows.jsonl and report.json into the store's folder.

    Returns the `Report`, which lists the rows that cannot be used."""
    report, kept = Report(csv_rows=len(rows)), []
    notes = Counter()  # sentence about something harmless -> number of rows that it is true of
    if names.top:
        notes[f"everything lay in the folder {names.top[:80]!r} of the archive"] = len(rows)

    with ThreadPoolExecutor(min(_decoders, os.cpu_count() or 1)) as pool:
        # In batches, so that memory does not grow with the archive. This thread reads, the pool decodes.
        for start in range(0, len(rows), _rows_at_a_time):
            batch = rows[start:start + _rows_at_a_time]
            # of each row: the ZipInfo of its picture, or the `DataError` that it is; oddities go to `notes`
            entries = [_result_or_error(_entry_of_row, names, row, notes, kind) for row in batch]
            _keep_new_pictures(archive, store, pool, batch, entries)  # what came of each: `store.results`
            for row, entry in zip(batch, entries):
                # its stored picture, or a `DataError` about the row or its picture
                result = _result_of_row(row, entry, store, kind)
                if isinstance(result, DataError):
                    report.skipped.append(_skipped_row(row, result, strict))
                else:
                    kept.append(_kept_row(row, result))

    if not kept:
        first_message = report.skipped[0]["message"]
        raise DataError("csv.no_valid_row", f"none of {len(rows)} rows can be used; first: {first_message}")
    _add_table_notes(names, rows, kept, notes)
    report.valid_images = len(kept)
    report.notes = [list(pair) for pair in notes.most_common()]
    store.write("rows.jsonl", _json_lines(kept))
    store.write("report.json", json.dumps(asdict(report), indent=2, ensure_ascii=False).encode())
    return report


def _result_of_row(
    row,  # of main.csv: (line number, image path, question, answer)
    entry,  # ZipInfo of its picture, or the `DataError` that the row is
    store,  # `_PictureStore`; `results`: name of a picture → (file, `picture_key`, size), or a `DataError`
    kind,  # what the answers are, a key of `zip_kinds`
):  # (file, `picture_key`, size), or a `DataError`
    "What came of a row: its stored picture, or what is wrong with the row or its picture"
    result = entry if isinstance(entry, DataError) else store.results[entry.filename]
    if kind == "pointing" and not isinstance(result, DataError):
        answer = row[3]
        # `result` again, or a `DataError` if the boxes are of a picture of another shape: its size is known
        # only now, after decoding.
        return _result_or_error(_with_checked_shape, result, answer)
    return result


def _skipped_row(
    row,  # of main.csv: (line number, image path, question, answer)
    error,  # `DataError` that says why it cannot be used, but not which row it is
    strict,  # raise the error, with row and picture, instead of leaving the row out
):
    "A row that is left out, as a dict for `Report.skipped`"
    number, image, _question, _answer = row
    if strict:
        raise DataError(error.code, error.message, row=number, entry=image) from error
    return dict(row=number, image=image, code=error.code, message=error.message)


def _kept_row(
    row,  # of main.csv: (line number, image path, question, answer)
    stored,  # (file, `picture_key`, size) of its picture
):
    "A good row, as a dict for a line of rows.jsonl"
    number, _image, question, answer = row
    file, key, _size = stored
    return dict(row=number, file=file, question=question, answer=answer, picture=key)


_picture_suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def _add_table_notes(
    names,  # `_Names` of the archive's files
    rows,  # of main.csv: (line number, image path, question, answer)
    kept,  # the good rows, as dicts of row (the line number), question, answer and more
    notes,  # Counter, sentence -> number of rows; gets the new notes
):
    "Count pictures that no row names, rows that stand twice, and questions with two different answers"
    # line number → name of the row's picture in the archive, None if there is none
    # (`find` also returns a note about the spelling, which has been counted before)
    name_of_row = {number: names.find(image_path)[0] for number, image_path, _, _ in rows}
    named = set(name_of_row.values())
    unused = [name for name in names.entries if name not in named and _is_picture_name(name)]
    if unused:
        notes[f"pictures that no row names, such as {unused[0][:80]!r}"] = len(unused)
    repeated_rows, contradicted_rows = _repeats_and_contradictions(kept, name_of_row)
    if repeated_rows:
        notes["picture, question and answer are those of an earlier row"] = repeated_rows
    if contradicted_rows:
        notes["the same question about the same picture has another answer elsewhere"] = contradicted_rows


def _repeats_and_contradictions(
    kept,  # the good rows, as dicts of row (the line number), question, answer and more
    name_of_row,  # line number → name of the row's picture in the archive
):
    """How many rows repeat an earlier one, and how many ask what has two different answers.

    Of three rows with one picture and question and the answers 3, 3 and 4 it is 1 and 3."""
    answers: dict = {}  # (picture's name, question) → the answers of all rows that ask this
    for row in kept:
        key = (name_of_row[row["row"]], row["question"])
        answers.setdefault(key, []).append(row["answer"])
    repeated_rows = contradicted_rows = 0
    for group in answers.values():
        distinct = len(set(group))
        repeated_rows += len(group) - distinct  # the first row with each answer repeats none
        if distinct > 1:
            contradicted_rows += len(group)
    return repeated_rows, contradicted_rows


def _is_picture_name(name):
    "True if an entry has the name of a picture and is no file that macOS or Windows has added"
    return not _is_system_file(name) and PurePosixPath(name).suffix.lower() in _picture_suffixes


def _json_lines(rows):
    "Rows as UTF-8, one JSON object a line"
    # `encode` cannot fail on half of a surrogate pair: the texts were decoded from UTF-8 or UTF-16.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _keep_new_pictures(
    archive,  # `zipfile.ZipFile`
    store,  # `_PictureStore`; its `keep` puts what came of a picture into `results`
    pool,  # of threads that decode and write
    rows,  # of main.csv: (line number, image path, question, answer)
    entries,  # for each row the ZipInfo of its picture, or a `DataError` if the row cannot be used
):
    "Decode and write the pictures of `rows` that are not in the store yet; wait until all are written"
    futures, submitted = [], set()
    for row, entry in zip(rows, entries):
        if isinstance(entry, DataError):
            continue
        name, line_number = entry.filename, row[0]  # row[0]: its line in main.csv
        # `results`: pictures of earlier batches; `submitted`: those of this one
        if name in store.results or name in submitted:
            continue  # an earlier row has the same picture
        submitted.add(name)
        # Waits while the pictures before it fill the memory that they may take; `keep` gives it back.
        store.encoded_bytes.take(entry.file_size)
        # The bytes are read here, not in the pool: `zipfile` holds one file open, which threads would share.
        futures.append(pool.submit(store.keep, name, line_number, archive.read(entry)))
    for future in futures:
        future.result()  # raises an error that ends the whole archive: a full disk, too many bytes


def _result_or_error(function, *arguments):
    "What `function` returns, or the `DataError` that it raises, so that one bad row does not end the others"
    try:
        return function(*arguments)
    except DataError as error:
        return error


def _entry_of_row(
    names,  # `_Names` of the archive's files
    row,  # (line number, image path, question, answer)
    notes,  # Counter, sentence -> number of rows; gets what is odd about this one
    kind,  # what the answers are, a key of `zip_kinds`
):
    "Check one row of main.csv, and return the ZipInfo of its picture; `DataError` if it cannot be used"
    _number, image_path, question, answer = row
    _check_question(question, answer)  # a DataError if one is empty, or the question holds control tokens
    _check_answer(answer, notes, kind)  # a DataError if it holds no count, or no boxes in kind pointing
    name, note = _existing_name(names, image_path)
    if note:  # a sentence: the archive spells the name in another way
        notes[note] += 1
    entry = names.entries[name]
    if entry.file_size > limits["picture_bytes"]:  # 32 MiB, checked before it is unpacked into memory
        raise DataError("image.bytes", f"{entry.file_size} bytes")
    return entry


def _check_answer(
    answer,  # of a row of main.csv
    notes,  # Counter, sentence -> number of rows; counts boxes in place of a count
    kind,  # what the answer should be, a key of `zip_kinds`
):
    "Raise `DataError` unless an answer is what the kind of ZIP asks for: boxes, or a count"
    if kind == "pointing":
        _check_boxes(answer)
        return
    _check_count(answer)
    if read_box_truth(answer).size:  # a text such as "[12, 40, 31, 59] in pixels of 112 x 112"
        notes["the answer is boxes, and was read as a count; a ZIP of kind pointing has boxes"] += 1


def _existing_name(
    names,  # `_Names` of the archive's files
    image_path,  # as a row of the table writes it
):
    """The entry that a path in the table means, as (its name, a note or None); `DataError` if there is none.

    The note says that the table spells the name in another way, such as in another case."""
    name, note = names.find(image_path)
    if name is not None:
        return name, note
    # such as http://…, C:\x, /etc/x or ../x: the user expects that it is read from elsewhere
    leads_out = ":" in image_path or image_path.startswith(("/", "\\")) or ".." in image_path
    if leads_out:
        raise DataError("image.name", "a path or an address; expected the name of a file in the archive")
    # hint: such as "; there is 'images/a.jpeg'", or an empty text
    raise DataError("image.missing", f"not in the archive{names.hint(image_path)}")


_decimal_comma = re.compile(r"(?<![\d,])\d+,\d{1,2}(?![\d,])")  # "2,5", but not "2,500" or "1,2,3"


def _check_question(question, answer):
    "Raise `DataError` unless a row has an answer, and a question that a model can be asked"
    if not question or not answer:
        raise DataError("row.empty", "question or answer is empty")
    if question.count("<image>") > 1:  # the mark stands for a picture, and a row has one
        marks = question.count("<image>")
        raise DataError("row.marks", f"{marks} <image> marks in the question, and one picture")
    # such as <|im_end|>: a tokenizer would end the turn there; None if there is no such text
    token = control_token(question)
    if token:
        raise DataError("row.tokens", f"the question holds {token}, a control token of the models")


def _check_count(answer):
    "Raise `DataError` unless an answer holds a count: 3, or `a photo of three apples`, but not 2,5"
    decimal = _decimal_comma.search(answer)
    if decimal:  # "2,5", unlike "2,500", may mean two and a half, as in German, or the two numbers 2 and 5
        # decimal[0]: the match, "2,5"
        raise DataError("row.count", f"{decimal[0]!r} in the answer {answer[:60]!r} is no count, or two")
    if read_count(answer) is None:
        raise DataError("row.count", f"no count in the answer {answer[:60]!r}: no answer could be right")


def _check_boxes(answer):
    """Raise `DataError` unless an answer is boxes that lie in a picture, with their scale and its size.

    Such as `[12, 40, 31, 59] in pixels of 112 x 112`: left, top, right and lower edge."""
    truth = read_box_truth(answer)  # its boxes, their scale (pixels, thousandths, fractions), picture's size
    if not truth.boxes or not truth.size:
        expected = f"expected {zip_kinds['pointing']}"
        raise DataError("row.boxes", f"no boxes in the answer {answer[:60]!r}: {expected}")
    edges = unit_of(truth.scale, truth.size)  # the right and the lower edge, as the boxes write them
    for box in truth.boxes:
        fault = box_fault(box) or _fault_of_place(box, edges)  # such as swapped corners, or None
        if fault:
            raise DataError("row.boxes", f"{fault} in the answer {answer[:60]!r}: no answer could be right")


def _fault_of_place(
    box,  # left, top, right, bottom
    edges,  # the picture's right and lower edge, in the same unit: pixels, thousandths or fractions
):
    "Words for a box that does not lie in its picture; None for one that does"
    left, top, right, bottom = box
    width, height = edges
    lies_inside = left >= 0 and top >= 0 and right <= width and bottom <= height
    return None if lies_inside else "outside the picture"


def _with_checked_shape(
    stored,  # of a row's picture: (file, hash of its pixels, (width, height))
    answer,  # the row's boxes, such as "[12, 40, 31, 59] in pixels of 112 x 112"
):
    """Return `stored` unchanged; `DataError` if the boxes of `answer` are of a picture of another shape.

    That is, of another ratio of width and height: they belong to another picture, or were drawn before this
    one was rotated. Another size alone is no fault, since boxes can be scaled."""
    _file, _key, size = stored
    size_in_answer = read_box_truth(answer).size
    if not have_same_shape(size_in_answer, size):
        sizes = f"{size_in_answer[0]} x {size_in_answer[1]}, and it has {size[0]} x {size[1]}"
        raise DataError("row.boxes", f"the answer's boxes are of a picture of {sizes}: another shape")
    return stored


class _Share:
    "An amount that threads take parts of, such as pixels in memory: who wants more than is left waits"
    def __init__(self,
        total: int,  # how much all threads may hold together, such as 100,000,000 pixels
    ):
        self.total = self.left = total  # left: what no thread holds now
        self.changed = threading.Condition()  # notified when something was given back

    def take(self,
        amount: int,  # how much the calling thread needs, such as the pixels of one picture
    ):
        """Wait until other threads leave `amount` of the total free, and take it; `give` returns it later.

        An amount above the total is cut to it: a thread would wait for it for ever."""
        amount = min(amount, self.total)
        with self.changed:  # a Condition, which `give` notifies
            self.changed.wait_for(lambda: self.left >= amount)
            self.left -= amount

    def give(self,
        amount: int,  # the same as `take` was called with
    ):
        "Give back what `take` took"
        with self.changed:
            self.left += min(amount, self.total)  # `take` cut it in the same way
            self.changed.notify_all()


class _PictureStore:
    "Writes an archive's pictures into a folder: each once, however many rows name it, and within two limits"
    def __init__(self,
        folder: Path,  # the pictures are written into it
        most_bytes: int,  # that may be written, all files together
        reserve: int,  # bytes of the disk that must stay free, for other programs
    ):
        self.folder, self.most_bytes, self.reserve = folder, most_bytes, reserve
        # entry's name → (file, `picture_key`, (width, height)), or a `DataError` for a bad picture
        self.results = {}
        self.written_bytes = 0  # so far, all files together
        self.write_lock = threading.Lock()  # held while a file is written and counted
        self.pixels = _Share(_pixels_at_once)  # of pictures that are being decoded
        self.encoded_bytes = _Share(_encoded_at_once)  # of pictures that were read and are not kept yet

    def keep(self,
        entry_name: str,  # in the archive
        number: int,  # line of the first row that names it, which becomes the file's name
        data: bytes,  # the encoded picture; the caller has taken its length from `encoded_bytes`
    ):
        """Decode a picture, write it, and put the result into `results` under `entry_name`.

        For a bad picture the result is a `DataError`. An exception ends the whole archive: a limit that
        `write` meets, a full disk, or a lack of memory."""
        # Two budgets of memory: `encoded_bytes` for pictures as files, which the caller took from; `pixels`
        # for decoded ones. `take` waits while other threads hold too much of it.
        pixels = _pixels_in(data)
        self.pixels.take(pixels)
        try:
            self._decode_and_write(entry_name, number, data)
        finally:
            self.pixels.give(pixels)
            self.encoded_bytes.give(len(data))

    def _decode_and_write(self,
        entry_name,  # in the archive
        number,  # line of the first row that names the picture, which becomes the file's name
        data,  # the encoded picture
    ):
        "Write a picture's own bytes, or a JPEG or PNG that all programs read alike; put down the result"
        try:
            image, plain_format = decode_picture(data)  # PNG, JPEG, or None: encode it anew
        except DataError as error:
            self.results[entry_name] = error
            return
        if plain_format is None:
            data, plain_format = _encoded_anew(image, was_jpeg=data.startswith(_jpeg_mark))
            if plain_format == "JPEG":
                image = open_picture(data)  # the pixels that a run will read
        suffix = "jpg" if plain_format == "JPEG" else "png"
        name = f"{number:06d}.{suffix}"
        self.write(name, data)
        # `picture_key`: a hash of the pixels, by which a run keeps equal pictures on one side of its split
        self.results[entry_name] = (name, picture_key(image), image.size)

    def write(self,
        name: str,  # of a new file
        data: bytes,  # its whole content
    ):
        "Write a file; `DataError` if the archive then takes too many bytes, or too few stay free on the disk"
        # One thread at a time: two that look at the free space together would both find it large enough.
        # Unbuffered, so that a full disk is noticed here and not when the file is closed.
        with self.write_lock, open(self.folder / name, "xb", buffering=0) as file:
            # Can be more than the archive unpacks to, since some pictures are encoded anew.
            self.written_bytes += len(data)
            if self.written_bytes > self.most_bytes:
                raise DataError("zip.size", "its pictures take too much room")
            self._write_in_pieces(file, data)

    def _write_in_pieces(self,
        file,  # open and unbuffered
        data,  # bytes
    ):
        "Write bytes into an unbuffered file, while `reserve` bytes of the disk stay free; else `DataError`"
        rest = memoryview(data)  # slices of it copy nothing
        while rest:
            piece = rest[:_written_at_once]  # 1 MiB
            # Checked before each piece, since other processes may be writing to the disk, too.
            if free_bytes(self.folder) < self.reserve + len(piece):
                raise DataError("storage.full", "no space is left on the disk that it is unpacked to")
            written = file.write(piece)  # bytes; an unbuffered file may take fewer than it was given
            rest = rest[written:]


_jpeg_mark = b"\xff\xd8\xff"  # first bytes of a JPEG, and of a phone's MPO


def _pixels_in(data):
    "How many pixels an encoded picture will have, by its head; 0 where decoding it will be refused"
    try:
        with Image.open(io.BytesIO(data), formats=_picture_formats) as image:
            pixels = image.width * image.height
    except Exception:  # whatever Pillow raises: `decode_picture` says what is wrong
        return 0
    return pixels if pixels <= limits["picture_pixels"] else 0


def _encoded_anew(
    image,  # RGB, upright
    was_jpeg,  # what came was a JPEG
):
    "The bytes of a picture file, and its format: PNG, which loses nothing, or JPEG if it was one before"
    # As a PNG a photograph takes seven times the room, and twenty times as long: 500 of a phone that was
    # held upright, which the service's page offers to take, would be refused as too much.
    buffer = io.BytesIO()
    if was_jpeg:
        image.save(buffer, "JPEG", quality=_jpeg_quality, subsampling=0)  # 0: colours in full, too
        return buffer.getvalue(), "JPEG"
    image.save(buffer, "PNG", compress_level=1)  # the lowest compression is the fastest
    return buffer.getvalue(), "PNG"


def picture_key(
    image: Image.Image,  # RGB
) -> str:  # 16 hex digits
    "Hash of a picture's size and pixels, by which a run keeps equal pictures on one side of its split"
    content = hashlib.sha256(f"{image.size}".encode())
    content.update(image.tobytes())  # not one text with the size before: that would be a copy of all pixels
    return content.hexdigest()[:16]
