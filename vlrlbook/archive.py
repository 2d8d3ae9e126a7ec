"""The wall in front of strangers' files: a counting ZIP is checked, its pictures decoded, its good rows kept.

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
from .readers.counts import read_count
from .settings import nearest

__all__ = ["DataError", "Report", "counting_columns", "limits", "foreign", "zip_faults",
           "unpack_counting_zip", "archive_entries", "name_faults", "check_layout", "counting_table",
           "decode_picture", "open_picture", "to_rgb", "control_token", "folded_name", "most_unpacked", "picture_key"]

counting_columns = ("images_path", "question", "answer")  # header of main.csv

# What an archive may hold. Bytes where nothing else is said.
limits = dict(
    entries=20_000,  # files in the archive
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

_picture_formats = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # each format of Pillow is code that strangers reach
_always_unpacked = 512 << 20  # bytes that any archive may unpack to, however well it is packed
_written_at_once = 1 << 20  # bytes between two looks at the free space
_rows_at_a_time = 64  # pictures that are in memory together
_exif_orientation = 0x0112  # tag of how a camera was held; 1 is upright


# What is said about a file

class DataError(ValueError):
    "A fault in someone's data: a stable `code`, a message, and where it is"

    def __init__(self,
        code: str,  # for programs, such as csv.columns
        message: str,  # for people: what was found and what was expected
        row: int = None,  # line of the table, the header being line 1
        entry: str = None,  # name inside the archive
    ):
        self.code, self.message, self.row, self.entry = code, message, row, entry
        places = []
        if row:
            places.append(f"row {row}")
        if entry:
            places.append(repr(entry[:200]))
        where = ", ".join(places) + ": " if places else ""
        super().__init__(f"{code}: {where}{message}")


@dataclass
class Report:
    "What a reader kept and what it left out"
    csv_rows: int = 0  # rows of main.csv
    valid_images: int = 0  # rows kept
    skipped: list = field(default_factory=list)  # a dict of row, image, code, message for each row left out
    notes: list = field(default_factory=list)  # [what had to be overlooked, in how many rows]

    def _repr_markdown_(self):
        lines = [f"{self.csv_rows} rows, {self.valid_images} kept, {len(self.skipped)} skipped"]
        for s in self.skipped[:20]:
            lines.append(f"- row {s['row']}, `{s['image'][:80]}`: {s['code']}, {s['message']}")
        if len(self.skipped) > 20:
            lines.append(f"- and {len(self.skipped) - 20} more")
        lines += [f"- {count} row{'s' * (count != 1)}: {note}" for note, count in self.notes]
        return "\n".join(lines)

    __repr__ = _repr_markdown_


# The archive

def unpack_counting_zip(
    path: str | Path,  # the archive
    folder: str | Path,  # an empty folder: pictures, rows.jsonl and report.json are written into it
    strict: bool = False,  # refuse the whole archive for one bad row
    reserve: int = 0,  # bytes of the disk that must stay free
) -> Report:
    "Check a counting ZIP and keep its good rows; `DataError` says why an archive is refused"
    path, folder = Path(path), Path(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive_entries(archive, path.stat().st_size)
            check_layout(path, archive)
            entries, top = _without_top_folder(entries)
            rows = counting_table(_table_text(archive, entries))
            store = _PictureStore(folder, most_unpacked(path.stat().st_size), reserve)
            return _keep_rows(archive, _Names(entries, top), rows, store, strict)
    except DataError:
        raise
    except zip_faults as fault:
        # A full disk is not the owner's fault: the archive may be good.
        if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError("storage.full", "no space is left on the disk that it is unpacked to") from fault
        raise DataError("zip.broken", f"not a readable ZIP ({type(fault).__name__})") from fault


def archive_entries(
    archive: zipfile.ZipFile,  # opened
    packed: int,  # its size in bytes
) -> dict:  # name, as `readable_name` gives it -> ZipInfo of every file
    "The files of an archive by name, from its directory alone; the first hostile one is an error"
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > limits["entries"]:
        raise DataError("zip.entries", f"{len(infos)} entries, at most {limits['entries']}")
    if sum(info.file_size for info in infos) > most_unpacked(packed):
        raise DataError("zip.size", "unpacks to too much")
    entries, seen = {}, set()
    for info in infos:
        for code, message in name_faults(info):
            raise DataError(code, message, entry=info.filename)
        name = readable_name(info)
        if folded_name(name) in seen:
            message = "the same name twice, for a file system that ignores case or accents' forms"
            raise DataError("zip.duplicate", message, entry=name)
        seen.add(folded_name(name))
        entries[name] = info
    return entries


def most_unpacked(
    packed: int,  # bytes of an archive
) -> int:
    "Bytes that an archive may unpack to, and that may be written of it"
    # A bomb packs a thousand to one, photographs hardly at all. Small sets may pack well: drawn discs do.
    return min(limits["unpacked"], max(_always_unpacked, limits["ratio"] * packed))


def folded_name(
    name: str,  # of a file
) -> str:
    "A name as it is compared where case and the form of accents (macOS writes NFD) do not matter"
    return unicodedata.normalize("NFC", name).casefold()


# Encodings in which tools write names without saying so. The format says cp437, which hardly anybody means.
_name_encodings = ("utf-8", "gbk", "shift_jis", "euc_jp", "cp949", "big5", "cp437", "cp850", "cp1252",
                   "cp1251", "cp866")


def readable_name(
    info: zipfile.ZipInfo,  # one entry of the directory
) -> str:
    "The name of an entry as its maker most likely meant it: UTF-8, or GBK from a Chinese Windows"
    name = info.orig_filename  # `filename` is cut at a NUL
    if info.flag_bits & _name_is_utf8 or name.isascii():
        return name
    raw = name.encode("cp437", "surrogateescape")
    for encoding in ("utf-8", "gbk"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return name


def _other_names(info, name):
    "What the name of an entry is in other encodings, where the archive does not say in which it stands"
    if info.flag_bits & _name_is_utf8 or info.orig_filename.isascii():
        return set()
    raw, found = info.orig_filename.encode("cp437", "surrogateescape"), set()
    for encoding in _name_encodings:
        try:
            found.add(raw.decode(encoding))
        except UnicodeDecodeError:
            continue
    return found - {name}


def name_faults(
    info: zipfile.ZipInfo,  # one entry of the directory
) -> list:  # of (code, message); empty for a harmless entry
    "What is hostile or unreadable about one entry, by what the directory says of it"
    name, found = readable_name(info), []
    parts = PurePosixPath(name).parts or ("",)
    # A colon names a drive on Windows, a backslash is a folder there. What opens here should open everywhere,
    # and what is refused should be refused everywhere.
    leads_out = name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]
    if leads_out or any(ord(character) < 32 for character in name):
        found.append(("zip.path", "a name that leads out of the archive"))
    if stat.S_ISLNK(info.external_attr >> 16):  # Unix keeps the file's mode in the upper half
        found.append(("zip.link", "a symbolic link"))
    if PurePosixPath(name).suffix.lower() in foreign:
        found.append(("zip.content", "an archive, a program or a pickle has no place among pictures"))
    if info.flag_bits & 1:
        found.append(("zip.encrypted", "an encrypted entry"))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found.append(("zip.method", f"compression method {info.compress_type}"))
    return found


# How the bytes of a ZIP lie (APPNOTE.TXT 6.3.10): headers, each with its data, then directory and end record
_local_header = struct.Struct("<4s5H3I2H")
_local_mark, _end_mark = b"PK\3\4", b"PK\5\6"
_sizes_follow = 0x8  # flag: checksum and sizes stand behind the data, in a record of at most 24 bytes
_name_is_utf8 = 0x800  # flag
_in_zip64_extra = 0xFFFFFFFF  # a size that stands elsewhere
_longest_descriptor, _end_record = 24, 22  # bytes


def check_layout(
    path: Path,  # the file
    archive: zipfile.ZipFile,  # the same, opened
):
    "Refuse what two programs could read differently: foreign bytes, overlaps, headers unlike the directory"
    end, gap_allowed = 0, 0
    with open(path, "rb") as file:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            begin = info.header_offset
            length = _checked_header(file, info)
            if begin < end:
                raise DataError("zip.overlap", "overlaps the entry before it", entry=info.filename)
            if begin > end + gap_allowed:
                message = "bytes that belong to no entry stand before it"
                raise DataError("zip.foreign", message, entry=info.filename)
            end = begin + length
            gap_allowed = _longest_descriptor if info.flag_bits & _sizes_follow else 0
        file.seek(archive.start_dir)
        directory = file.read(limits["table_bytes"])
    directory_follows = end <= archive.start_dir <= end + gap_allowed
    # A second end record, or bytes behind the first, let another program find another directory.
    one_end = directory.count(_end_mark) == 1
    nothing_behind = directory.rfind(_end_mark) + _end_record + len(archive.comment) == len(directory)
    if not (directory_follows and one_end and nothing_behind):
        raise DataError("zip.foreign", "bytes before, between or after the archive's own parts")


def _checked_header(file, info):
    "Bytes that an entry takes, header included, once its local header says what the directory says"
    file.seek(info.header_offset)
    fields = _local_header.unpack(file.read(_local_header.size))
    mark, _, flags, method, _, _, checksum, packed, unpacked, name_length, extra_length = fields
    name = file.read(name_length).decode("utf-8" if flags & _name_is_utf8 else "cp437")
    sizes_elsewhere = flags & _sizes_follow or _in_zip64_extra in (packed, unpacked)
    same_sizes = (checksum, packed, unpacked) == (info.CRC, info.compress_size, info.file_size)
    same_rest = name == info.orig_filename and method == info.compress_type and flags == info.flag_bits
    if mark != _local_mark or not same_rest or not (sizes_elsewhere or same_sizes):
        raise DataError("zip.headers", "its local header differs from the directory", entry=info.filename)
    return _local_header.size + name_length + extra_length + info.compress_size


# Where things lie

_left_by_systems = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # what macOS and Windows add


def _without_top_folder(entries):
    "Entries by their names below the one folder that holds everything, and that folder (or an empty text)"
    # Finder, Explorer and `zip -r a.zip folder` all pack the folder itself.
    tables = [name for name in entries if folded_name(PurePosixPath(name).name) == "main.csv"]
    if len(tables) != 1 or tables[0] == "main.csv":
        return entries, ""
    top = tables[0][:-len("main.csv")]
    inside, outside = {}, []
    for name, info in entries.items():
        if name.startswith(top):
            inside[name[len(top):]] = info
        elif not any(name.startswith(left) or name.endswith(left) for left in _left_by_systems):
            outside.append(name)
    if outside:
        return entries, ""  # then nobody knows what belongs to the table
    inside["main.csv"] = entries[tables[0]]
    return inside, top


class _Names:
    "The files of an archive, found by the names that a table gives them"
    def __init__(self,
        entries: dict,  # name -> ZipInfo
        top: str,  # folder that everything lay in, with its slash
    ):
        self.entries, self.top = entries, top
        self.folded = {}  # other forms of a name -> the name; None where two files share one
        self.stems = {}  # file name without folder and suffix -> names, for hints
        for name, info in entries.items():
            for form in {folded_name(name), *map(folded_name, _other_names(info, name))}:
                self.folded[form] = None if self.folded.get(form, name) != name else name
            self.stems.setdefault(folded_name(PurePosixPath(name).stem), []).append(name)

    def find(self,
        written: str,  # in a row of the table
    ) -> tuple:  # name of the entry, or None; what had to be overlooked, or None
        "The entry that a row means, where that is certain: also without its folder or in another case"
        forms = [written, f"images/{written}"]  # the folder may be left out
        for form in forms:
            if form in self.entries:
                return form, None
        plain = written.replace("\\", "/").removeprefix("./")
        plain = plain[len(self.top):] if self.top and folded_name(plain).startswith(folded_name(self.top)) else plain
        for form in (plain, f"images/{plain}"):
            name = self.folded.get(folded_name(form))
            if name is not None:
                differs = "the picture's name differs in case, accents' form or encoding"
                return name, None if name == form else differs
        return None, None

    def hint(self,
        written: str,  # in a row of the table
    ) -> str:  # such as "; there is 'images/a.jpeg'", or nothing
        "The file that has the same name with another suffix or in another folder"
        same = self.stems.get(folded_name(PurePosixPath(written.replace("\\", "/")).stem), [])
        return f"; there is {same[0]!r}" if same else ""


# main.csv

def _table_text(archive, entries):
    "Text of main.csv, in UTF-8 or, with its mark, UTF-16: the two encodings that spreadsheets write"
    if "main.csv" not in entries:
        known = list(entries)[:10]
        raise DataError("csv.missing", "no main.csv at the top of the archive" + nearest("main.csv", known))
    if entries["main.csv"].file_size > limits["table_bytes"]:
        raise DataError("csv.size", "main.csv is too large")
    data = archive.read(entries["main.csv"])
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as fault:
        cure = "save it as UTF-8 (a GBK file can be converted with iconv)"
        raise DataError("csv.encoding", f"main.csv is not UTF-8; {cure}") from fault
    if "\0" in text:
        raise DataError("csv.nul", "main.csv holds NUL characters")
    return text


def counting_table(
    text: str,  # of main.csv
) -> list:  # of (line number, image path, question, answer), all trimmed; the header is line 1
    "The rows of a counting table; a table that is not one is a `DataError` with its line"
    # Strict: an unclosed quote would swallow the rest of the file without an error.
    text = _without_excels_line(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator_of(text), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(f.strip() for f in fields)]
    except csv.Error as fault:
        raise DataError("csv.syntax", f"{fault}, perhaps an unclosed quote", row=reader.line_num) from fault
    if not lines:
        raise DataError("csv.empty", "main.csv is empty")
    header, width = _header(lines)
    rows = lines[1:]
    if not rows:
        raise DataError("csv.empty", "main.csv has a header and no rows")
    if len(rows) > limits["rows"]:
        raise DataError("csv.rows", f"{len(rows)} rows, at most {limits['rows']}")
    for number, fields in rows:
        # A spreadsheet in which a cell beyond the table was touched writes commas behind every row.
        if len(fields) < width or any(field.strip() for field in fields[width:]):
            raise DataError("csv.fields", f"{len(fields)} fields, the header has {width}", row=number)
    places = [header.index(column) for column in counting_columns]
    return [(number, *(fields[place].strip() for place in places)) for number, fields in rows]


def _without_excels_line(text):
    "The table without `sep=;`, a first line by which Excel says how fields are parted"
    return text.partition("\n")[2] if text.startswith("sep=") else text


def _separator_of(text):
    "A comma; a semicolon or a tab where the header, parted by it, has just the three columns"
    header = text.lstrip("\r\n").partition("\n")[0]
    for separator in ";\t":
        names = {_letters_of(name) for name in header.split(separator)}
        if {_letters_of(column) for column in counting_columns} <= names:
            return separator
    return ","


def _header(lines):
    "Names of the columns in the contract's spelling, and how many there are up to the last with a name"
    written = [name.strip() for name in lines[0][1]]
    width = max((place for place, name in enumerate(written, 1) if name), default=0)
    by_letters = {_letters_of(column): column for column in counting_columns}
    header = [by_letters.get(_letters_of(name), name) for name in written[:width]]
    _check_header(header)
    return header, width


def _letters_of(name):
    "A column's name without case, spaces and underscores"
    return re.sub(r"[\W_]+", "", name.casefold())


def _check_header(header):
    "The three columns are there, and none stands twice"
    missing = [column for column in counting_columns if column not in header]
    if missing:
        separator = next((s for s in ";\t|" if len(header) == 1 and s in header[0]), None)
        hint = f"; fields are parted by {separator!r}, expected a comma" if separator else ""
        others = [name for name in header if name and name not in counting_columns]
        near = [name for name in others if _near(name, missing[0])]
        if near and not separator:
            hint = f"; did you mean {missing[0]!r} by {near[0]!r}?"
        shown, wanted = ",".join(header)[:200], ",".join(counting_columns)
        message = f"no column {missing[0]!r}; the header is {shown!r}, expected {wanted!r}{hint}"
        raise DataError("csv.columns", message, row=1)
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise DataError("csv.columns", "a column stands twice in the header", row=1)


def _near(name, wanted):
    "Whether a column's name may be a slip for `wanted`: alike by letters, or by the word that both hold"
    words = {"images_path": ("image", "picture", "photo", "file", "path", "img"),
             "question": ("question", "prompt", "query"),
             "answer": ("answer", "label", "count", "truth", "solution")}
    alike = difflib.get_close_matches(name.casefold(), [wanted], cutoff=0.6)
    return bool(alike) or any(word in name.casefold() for word in words[wanted])


# Pictures

def open_picture(
    data: bytes,  # an encoded picture
) -> Image.Image:  # RGB
    "A stranger's picture, decoded whole; `DataError` says what is wrong with it"
    return decode_picture(data)[0]


def decode_picture(
    data: bytes,  # an encoded picture
) -> tuple:  # RGB picture; "PNG" or "JPEG" if `data` can be kept as it is, else None
    "A stranger's picture, decoded whole and upright, and whether its bytes already say just that"
    if len(data) > limits["picture_bytes"]:
        raise DataError("image.bytes", f"{len(data)} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_picture_formats)
        _check_size(image)
        # `verify()` would miss a JPEG that is cut off: only decoding finds it.
        image.load()
        if _is_plain(image):
            return image, image.format
        return to_rgb(ImageOps.exif_transpose(image)), None
    except DataError:
        raise
    except Exception as fault:  # decoders raise what they like on broken bytes; to the owner it is one fault
        kind = _kind_of(data)
        what = f"{kind}: save it as JPEG or PNG" if kind else f"cannot be decoded ({type(fault).__name__})"
        raise DataError("image.decode", what) from fault


# Kinds of files that come in a picture's place and are not read, by how they begin, and what to call them
_other_kinds = (
    (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"), (b"%PDF", "a PDF"), (b"<svg", "an SVG"), (b"<?xml", "an SVG"),
    (b"<!DOCTYPE", "a web page"), (b"<html", "a web page"), (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cJXL", "a JPEG XL"), (b"\xff\x0a", "a JPEG XL"), (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself"))
_iso_brands = {
    b"heic": "a HEIC", b"heix": "a HEIC", b"heim": "a HEIC", b"hevc": "a HEIC", b"mif1": "a HEIC",
    b"msf1": "a HEIC", b"avif": "an AVIF", b"avis": "an AVIF", b"isom": "a video", b"mp42": "a video",
    b"qt  ": "a video"}
_dicom_mark, _dicom_place = b"DICM", 128  # the mark and where it stands


def _kind_of(data):
    "What a file is that is no picture that can be read, such as \"a HEIC\"; None where that cannot be told"
    if data[4:8] == b"ftyp":  # the ISO container: phones' pictures, and films; the brand says which
        return _iso_brands.get(data[8:12])
    if data[_dicom_place:_dicom_place + 4] == _dicom_mark:
        return "a DICOM"
    begin = data[:64].lstrip()
    return next((kind for mark, kind in _other_kinds if begin.startswith(mark)), None)


def _check_size(image):
    "Refuse, before decoding, what would take too much memory or what no processor can cut into patches"
    size = f"{image.width} × {image.height} pixels"
    short, long = min(image.size), max(image.size)
    if short * long > limits["picture_pixels"]:
        raise DataError("image.pixels", size)
    # Qwen's processor refuses a side 200 times the other, and fails on sides of a few pixels.
    if short < 4 or long > 150 * short:
        raise DataError("image.shape", size)
    # An MPO is a JPEG with a second picture behind it, such as phones write: its first one is the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("image.animated", f"{image.n_frames} frames")


def _is_plain(image):
    "Is this RGB in PNG or JPEG, opaque and upright, so that its bytes may be kept as they are?"
    opaque_rgb = image.mode == "RGB" and "transparency" not in image.info
    return opaque_rgb and image.format in ("PNG", "JPEG") and image.getexif().get(_exif_orientation, 1) == 1


def to_rgb(
    image: Image.Image,  # any mode
) -> Image.Image:  # RGB
    "RGB without loss of range: deep greys scaled by the bits they use, transparency on white"
    if image.mode.startswith("I") or image.mode == "F":
        brightest: Any = image.getextrema()[1]  # a number: there is one channel
        if brightest > 255:
            # Pillow's own convert("L") cuts off at 255, which turns a radiologist's picture white. How many
            # bits a scanner used, 10, 12, 14 or 16, is nowhere said: as few as the brightest pixel needs.
            bits = min(16, int(brightest).bit_length())
            divisor = (2**bits - 1) / 255
            image = image.point(lambda value: value / divisor)
        image = image.convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# Rows

# Texts that a Qwen tokenizer turns into control tokens. In a question they end a turn, or stand for a picture
# that is not there: the model fails, or learns from a broken prompt. Such a text was damaged before it came.
_control_tokens = re.compile(
    r"<\|(?:im_start|im_end|endoftext|image_pad|video_pad|vision_start|vision_end|vision_pad)\|>")


def control_token(
    text: str,  # of a question
) -> str | None:  # the first one; None where there is none
    "A control token of the models' tokenizers that stands in a text"
    found = _control_tokens.search(text)
    return found[0] if found else None


def _keep_rows(archive, names, rows, store, strict):
    "Verify and write each row's picture; skip and list what cannot be used, or with `strict` refuse it"
    report, kept, overlooked = Report(csv_rows=len(rows)), [], Counter()
    if names.top:
        overlooked[f"everything lay in the folder {names.top[:80]!r} of the archive"] = len(rows)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Some rows at a time, so that memory does not grow with the archive. One thread reads, since
        # `zipfile` holds one file open; decoding is shared among all.
        for start in range(0, len(rows), _rows_at_a_time):
            some = rows[start:start + _rows_at_a_time]
            wanted = [_or_error(_entry_of_row, names, row, overlooked) for row in some]
            _keep_new_pictures(archive, store, pool, some, wanted)
            for (number, image, question, answer), entry in zip(some, wanted):
                found = entry if isinstance(entry, DataError) else store.known[entry.filename]
                if not isinstance(found, DataError):
                    file, key = found
                    kept.append(dict(row=number, file=file, question=question, answer=answer, picture=key))
                elif strict:
                    raise DataError(found.code, found.message, row=number, entry=image) from found
                else:
                    report.skipped.append(dict(row=number, image=image, code=found.code, message=found.message))
    if not kept:
        first = report.skipped[0]["message"]
        raise DataError("csv.no_valid_row", f"none of {len(rows)} rows can be used; first: {first}")
    report.valid_images = len(kept)
    _tell_what_else(names, rows, kept, overlooked)
    report.notes = [list(pair) for pair in overlooked.most_common()]
    store.write("rows.jsonl", _json_lines(kept))
    store.write("report.json", json.dumps(asdict(report), indent=2, ensure_ascii=False).encode())
    return report


_picture_suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def _tell_what_else(names, rows, kept, overlooked):
    "Count pictures that no row names, rows that stand twice, and questions with two different truths"
    picture_of = {number: names.find(written)[0] for number, written, _, _ in rows}
    named = set(picture_of.values())
    unused = [name for name in names.entries if name not in named and _is_picture_name(name)]
    if unused:
        overlooked[f"pictures that no row names, such as {unused[0][:80]!r}"] = len(unused)
    answers: dict = {}  # picture as it is named, and question → truths
    for row in kept:
        answers.setdefault((picture_of[row["row"]], row["question"]), []).append(row["answer"])
    repeated = sum(len(given) - len(set(given)) for given in answers.values())
    contradicted = sum(len(given) for given in answers.values() if len(set(given)) > 1)
    if repeated:
        overlooked["picture, question and answer are those of an earlier row"] = repeated
    if contradicted:
        overlooked["the same question about the same picture has another answer elsewhere"] = contradicted


def _is_picture_name(name):
    "Whether an entry is meant as a picture; what systems add to archives is not"
    is_left = any(name.startswith(left) or name.endswith(left) for left in _left_by_systems)
    return not is_left and PurePosixPath(name).suffix.lower() in _picture_suffixes


def _json_lines(rows):
    "Rows as UTF-8, one JSON object a line"
    # A half of a surrogate pair cannot stand in it: the table was read as UTF-8.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _keep_new_pictures(archive, store, pool, rows, wanted):
    "Write the pictures of some rows that no row before them has named; read in order, decoded by all"
    jobs, asked = [], set()
    for (number, *_), entry in zip(rows, wanted):
        if isinstance(entry, DataError) or entry.filename in store.known or entry.filename in asked:
            continue
        asked.add(entry.filename)
        jobs.append(pool.submit(store.keep, entry.filename, number, archive.read(entry)))
    for job in jobs:
        job.result()  # raises what was no fault of the picture: a full disk, too many bytes


def _or_error(function, *arguments):
    "What `function` returns, or the `DataError` that it raises, so that one bad row does not end the others"
    try:
        return function(*arguments)
    except DataError as error:
        return error


def _entry_of_row(names, row, overlooked):
    "Entry of the picture of one row (line number, image path, question, answer), once its texts are good"
    _, written, question, answer = row
    _check_texts(question, answer)
    name, note = names.find(written)
    if name is None and (":" in written or written.startswith(("/", "\\")) or ".." in written):
        raise DataError("image.name", "a path or an address; expected the name of a file in the archive")
    if name is None:
        raise DataError("image.missing", f"not in the archive{names.hint(written)}")
    if note:
        overlooked[note] += 1
    entry = names.entries[name]
    if entry.file_size > limits["picture_bytes"]:
        raise DataError("image.bytes", f"{entry.file_size} bytes")
    return entry


_decimal_comma = re.compile(r"(?<![\d,])\d+,\d{1,2}(?![\d,])")


def _check_texts(question, answer):
    "A question and a count, and nothing in the question that training would stumble over"
    if not question or not answer:
        raise DataError("row.empty", "question or answer is empty")
    if question.count("<image>") > 1:
        marks = question.count("<image>")
        raise DataError("row.marks", f"{marks} <image> marks in the question, and one picture")
    token = control_token(question)
    if token:
        raise DataError("row.tokens", f"the question holds {token}, a control token of the models")
    decimal = _decimal_comma.search(answer)
    if decimal:  # in an answer "1,2" may be counting up; in a truth it is the German two and a half
        raise DataError("row.count", f"{decimal[0]!r} in the answer {answer[:60]!r} is no count, or two")
    if read_count(answer) is None:
        raise DataError("row.count", f"no count in the answer {answer[:60]!r}: no answer could be right")


class _PictureStore:
    "Where an archive's pictures go: each once, however many rows name it, and within the limits on what is written"
    def __init__(self,
        folder: Path,  # they are written into it
        most: int,  # bytes of all of them together
        reserve: int,  # bytes of the disk that stay free: others write to it too
    ):
        self.folder, self.most, self.reserve = folder, most, reserve
        self.known = {}  # name of the entry -> (file, `picture_key`), or the DataError that it is
        self.written = 0
        self.writing = threading.Lock()

    def keep(self,
        entry_name: str,  # in the archive
        number: int,  # of the first row that names it
        data: bytes,  # as they stand in the archive
    ):
        "Decode a picture and write it under a name of our own; a limit that is met ends the whole archive"
        try:
            image, plain_format = decode_picture(data)
        except DataError as error:
            self.known[entry_name] = error
            return
        name = f"{number:06d}.{'jpg' if plain_format == 'JPEG' else 'png'}"
        if not plain_format:
            # Written is what the picture means, not its bytes; compressed quickly, since it is read often.
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            data = buffer.getvalue()
        self.write(name, data)
        self.known[entry_name] = (name, picture_key(image))

    def write(self,
        name: str,  # of a new file
        data: bytes,  # all of it
    ):
        "Write a file, as long as the archive stays within its bytes and the disk keeps its reserve"
        # One at a time: two that look at the free space together would both find it large enough.
        with self.writing, open(f"{self.folder}{os.sep}{name}", "xb", buffering=0) as file:
            # What is written can be more than what was packed: a picture is decoded and packed anew.
            self.written += len(data)
            if self.written > self.most:
                raise DataError("zip.size", "its pictures take too much room")
            rest = memoryview(data)
            while rest:
                piece = rest[:_written_at_once]
                # Asked before each piece: another archive, or a job, may be writing too.
                if free_bytes(self.folder) < self.reserve + len(piece):
                    raise DataError("storage.full", "no space is left on the disk that it is unpacked to")
                rest = rest[file.write(piece):]


def picture_key(
    image: Image.Image,  # RGB
) -> str:  # 16 hex digits
    "Fingerprint of the pixels, by which a run keeps equal pictures on one side of its split"
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]
