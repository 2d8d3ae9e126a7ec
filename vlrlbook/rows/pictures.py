"""The pictures of a row, however they are written: paths, bytes, base64, data URLs, the hub's dicts.

A picture is from here on a path (text) or its encoded bytes. Written by hand."""
import base64
import binascii
import difflib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from ..archive import DataError, decode_picture, folded_name
from .values import listed

__all__ = ["picture_list", "located", "decoded", "as_meant"]

_shortest_base64 = 64  # characters; a shorter text is a name
_shown = 60  # characters of a value in a message: base64 is long


def picture_list(
    value,  # of a row's picture column: None, one picture, or a list
    number: int = None,  # the row's line
    code: str = "vqa.images",  # of the error
) -> list:  # of paths (text) and encoded pictures (bytes)
    "The pictures that a column holds; what is no picture is a `DataError` that says what it is"
    if value is None:
        return []
    if isinstance(value, str) and value.startswith(("[", "{")):
        value = listed(value) or value  # a table that was written as CSV holds lists as texts
    many = value if isinstance(value, (list, tuple)) else [value]
    if hasattr(value, "tolist") and not isinstance(value, (bytes, str)) and not hasattr(value, "getextrema"):
        many = list(value)  # a column of an array type
    return [_picture(one, number, code) for one in many]


def _picture(value, number, code):
    "One picture as a path or as bytes"
    def refuse(message):
        raise DataError(code, message, row=number)

    if isinstance(value, dict):
        return _picture_of_dict(value, number, code)
    if isinstance(value, (bytes, bytearray)):
        if not value:
            refuse("a picture of no bytes")
        return bytes(value)
    if hasattr(value, "getextrema"):  # a PIL image
        buffer = BytesIO()
        value.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    if not isinstance(value, str):
        refuse(f"found {_what(value)}, expected a path or a list of paths")
    text = value.strip()
    if not text:
        refuse("an empty text, expected a path (null where there is no picture)")
    if text.startswith("data:"):
        return _from_data_url(text, number, code)
    address = text.partition("://")[0].casefold() if "://" in text[:12] else ""
    if address == "file":
        return unquote(text[len("file://"):])
    if address:
        refuse(f"an address ({text[:_shown]!r}): download the picture and name the file")
    return _from_base64(text) or text


def _what(value):
    "A value's type, and the value where it is short"
    shown = repr(value)
    return f"a {type(value).__name__}" + (f" ({shown})" if len(shown) <= 20 else "")


def _picture_of_dict(value, number, code):
    "The picture of a dict: the hub's `bytes` and `path`, or what chats write as `url`"
    data = value.get("bytes")
    if isinstance(data, list):  # bytes that went through JSON as numbers
        data = bytes(data) if all(isinstance(b, int) and 0 <= b < 256 for b in data) else None
    if isinstance(data, str):
        data = _from_base64(data.strip())
        if data is None:
            raise DataError(code, "its `bytes` are a text that is no base64 of a picture", row=number)
    if data:
        return bytes(data)
    for key in ("path", "url", "image", "image_url", "file_name"):
        if value.get(key):
            return _picture(value[key], number, code)
    keys = ", ".join(str(key) for key in value)[:_shown]
    raise DataError(code, f"a dict of {keys or 'nothing'}, expected bytes or path", row=number)


def _from_data_url(text, number, code):
    "Bytes of a data URL such as data:image/png;base64,…"
    head, comma, body = text.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise DataError(code, f"a data URL that holds no picture in base64 ({head[:_shown]!r})", row=number)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"a data URL whose base64 is damaged ({head[:_shown]!r})"
        raise DataError(code, message, row=number) from error


# How encoded pictures begin: PNG, JPEG, GIF, WEBP and other RIFF, BMP, TIFF
_magic = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def _from_base64(text):
    "Bytes of a picture in bare base64; None for a text that is something else, such as a path"
    if len(text) < _shortest_base64:
        return None
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if data.startswith(_magic) else None


# Where a picture is

@lru_cache(maxsize=256)
def _names_in(folder):
    "Names of a folder's files by their folded form; those that two files share are None"
    names = {}
    try:
        entries = os.listdir(folder)
    except OSError:
        return names
    for name in entries:
        form = folded_name(name)
        names[form] = None if form in names else name
    return names


_names_compared = 5_000  # of a folder; more would take longer than a hint is worth


def _near_name(name, there):
    "A hint at the file that was meant: the same name with another suffix, or one that is much alike"
    names = [other for other in there.values() if other][:_names_compared]
    stem = folded_name(Path(name).stem)
    same_stem = [other for other in names if folded_name(Path(other).stem) == stem]
    close = same_stem or difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f": did you mean {close[0]!r}?" if close else ""


def _other_spellings(picture, base):
    "A path as it may be meant: with Windows' slashes, or beginning with the name of `base` itself"
    plain = picture.replace("\\", "/")
    yield plain
    first, _, rest = plain.removeprefix("./").partition("/")
    if rest and first == base.resolve().name:
        yield rest


def _found_folded(base, picture):
    "The file whose path differs only by case or accents' forms, each part the only one so; else None"
    place = Path("/") if picture.startswith("/") else base
    for part in picture.strip("/").split("/"):
        if part in ("", "."):
            continue
        name = part if part == ".." or (place / part).exists() else _names_in(str(place)).get(folded_name(part))
        if not name:
            return None
        place = place / name
    return str(place.resolve()) if place.is_file() else None


def located(
    picture: str | bytes,  # of `picture_list`
    image_dir: str | Path,  # where paths begin
    number: int = None,  # the row's line
) -> str | bytes:  # absolute path of a file, or the bytes
    "Where a picture is; a name that differs only by case or an accent's form is taken, else a hint is given"
    if isinstance(picture, bytes):
        return picture
    base = Path(image_dir)
    try:
        full = (base / picture).resolve()
        if full.is_file():
            return str(full)
        is_folder = full.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, one with NUL, a circle of links
        message = f"no path ({type(error).__name__})"
        raise DataError("image.missing", message, row=number, entry=picture[:_shown]) from error
    if is_folder:
        raise DataError("image.missing", "a folder, expected a picture", row=number, entry=picture[:200])
    for written in _other_spellings(picture, base):
        twin = _found_folded(base, written)
        if twin:
            return twin
    there = _names_in(str(full.parent))
    what = f"no such picture in {Path(image_dir).name or 'the image directory'}{_near_name(full.name, there)}"
    raise DataError("image.missing", what, row=number, entry=picture[:200])


def decoded(
    pictures: set,  # absolute paths (text) and bytes
) -> dict:  # picture → whether training would misread it as it is (then see `as_meant`), or its `DataError`
    "Each picture opened once, whole, as training will, so that what is broken is known before a step"
    pictures = list(pictures)
    _names_in.cache_clear()  # a later call must see files that were added meanwhile
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(pictures, pool.map(_decoded_one, pictures)))


def _decoded_one(picture):
    "Whether one picture must be converted, or its error"
    try:
        data = _encoded(picture)
        decode_picture(data)
    except OSError as error:
        return DataError("image.missing", f"cannot be read ({type(error).__name__})")
    except DataError as error:
        return error
    # Processors make RGB of everything. They are right about grey, palettes and CMYK, but drop transparency
    # (what is clear turns black) and cut off what is brighter than 255.
    with Image.open(BytesIO(data)) as image:
        transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        return transparent or image.mode.startswith(("I", "F"))


def as_meant(
    picture: str | bytes,  # path or encoded picture
) -> bytes:  # PNG, RGB
    "A picture as it is meant: transparency on white, deep greys scaled, upright"
    image, _ = decode_picture(_encoded(picture))
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _encoded(picture):
    "The bytes of a picture"
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()
