"""The pictures of a row, however they are written: paths, bytes, base64, data URLs, the hub's dicts.

A picture is from here on a path (text) or its encoded bytes. Written by hand."""
import base64
import binascii
import difflib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from ..archive import DataError, decode_picture, folded_name
from .values import listed, unboxed

__all__ = ["picture_list", "located", "decoded", "as_meant", "plain_file"]

_shortest_base64 = 64  # characters; a shorter text is a file's name, since no picture is so small
_most_shown = 60  # characters of a value that a message quotes: base64 is long


def picture_list(
    value,  # of a row's picture column: None, one picture, or a list
    number: int = None,  # the row's line in its file, for the message of an error
    code: str = "vqa.images",  # of an error
) -> list:  # of paths (text) and encoded pictures (bytes)
    "List the pictures in a value of a column; `DataError` if something in it is no picture"
    value = unboxed(value)  # Python's value of a NumPy scalar; any other value as it is
    if value is None:
        return []
    if isinstance(value, str):
        parsed = listed(value)  # a list or dict that a CSV writes as a text; None if it is another text
        value = value if parsed is None else parsed
    if isinstance(value, (list, tuple)):
        elements = value
    elif _is_array(value):
        elements = list(value)
    else:
        elements = [value]
    return [_picture(unboxed(element), number, code) for element in elements]


def _is_array(value):
    "True for an array of NumPy or pandas, such as a parquet column may hold"
    is_pil_image = hasattr(value, "getextrema")  # a method of PIL's images
    return hasattr(value, "tolist") and not is_pil_image and not isinstance(value, (bytes, str))


def _picture(value, number, code):
    """One picture as a path (text) or as its encoded bytes, from any form in which a row may hold it.

    A web address, an empty value and all else are errors: the row would be trained without its picture.
    `number` (of the row) and `code` belong to the `DataError` that is raised if the value is no picture."""
    if isinstance(value, dict):
        return _picture_of_dict(value, number, code)
    if isinstance(value, (bytes, bytearray)):
        if not value:
            raise DataError(code, "a picture of no bytes", row=number)
        return bytes(value)
    if hasattr(value, "getextrema"):  # a method of PIL's images
        return _fast_png(value)
    if isinstance(value, str):
        return _picture_of_text(value.strip(), number, code)
    message = f"found {_type_and_value(value)}, expected a path or a list of paths"
    raise DataError(code, message, row=number)


def _fast_png(image):
    "A PIL image as the bytes of a PNG with the lowest compression: the fastest, for sets of thousands"
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _picture_of_text(text, number, code):
    """The picture of a text, as a path or bytes: from a path, file://PATH, a data URL or base64.

    `number` (of the row) and `code` belong to the `DataError` for an empty text or a web address."""
    if not text:
        message = "an empty text, expected a path (null where there is no picture)"
        raise DataError(code, message, row=number)
    if text.startswith("data:"):
        return _from_data_url(text, number, code)
    # "://" near the beginning makes a text an address; further on it may be part of a path.
    scheme = text.partition("://")[0].casefold() if "://" in text[:12] else ""  # such as https
    if scheme == "file":  # an address writes a space as %20; a path has the space itself
        return unquote(text[len("file://"):])
    if scheme:  # such as https; nothing is downloaded here
        message = f"an address ({text[:_most_shown]!r}): download the picture and name the file"
        raise DataError(code, message, row=number)
    return _from_base64(text) or text  # None for a text that is not the base64 of a picture


def _type_and_value(value):
    "Describe a value for a message: its type and, if it is short, the value itself, such as \"a int (3)\""
    shown = repr(value)
    value_text = f" ({shown})" if len(shown) <= 20 else ""
    return f"a {type(value).__name__}{value_text}"


def _picture_of_dict(value, number, code):
    """The picture of a dict, as a path or bytes.

    Such a dict has `bytes` and `path`, as in data sets of Hugging Face, or a `url`, as in chats. `number` (of
    the row) and `code` belong to the `DataError` that is raised if it has none of these."""
    data = _bytes_of_field(value.get("bytes"), number, code)
    # Bytes come first: beside them the path is often only the picture's old name.
    if data:
        return bytes(data)
    for key in ("path", "url", "image", "image_url", "file_name"):
        if value.get(key):
            return _picture(value[key], number, code)
    keys = ", ".join(str(key) for key in value)[:_most_shown]
    raise DataError(code, f"a dict of {keys or 'nothing'}, expected bytes or path", row=number)


def _bytes_of_field(data, number, code):
    """The bytes of a dict's field `bytes`, which JSON writes as base64 or as a list of numbers.

    None for a list of anything but 0 to 255. Other values, such as bytes or None, are returned unchanged.
    `number` (of the row) and `code` belong to the `DataError` for a text that is no base64 of a picture."""
    if isinstance(data, list):
        # a bool is an int to Python, and no byte
        are_bytes = all(isinstance(b, int) and not isinstance(b, bool) and 0 <= b < 256 for b in data)
        return bytes(data) if are_bytes else None
    if isinstance(data, str):
        decoded_bytes = _from_base64(data.strip())
        if decoded_bytes is None:
            raise DataError(code, "its `bytes` are a text that is no base64 of a picture", row=number)
        return decoded_bytes
    return data


def _from_data_url(text, number, code):
    """The bytes of a picture from a data URL such as data:image/png;base64,…

    `number` (of the row) and `code` belong to the `DataError` that is raised if it holds no picture."""
    head, comma, body = text.partition(",")  # head: data:image/png;base64
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        message = f"a data URL that holds no picture in base64 ({head[:_most_shown]!r})"
        raise DataError(code, message, row=number)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"a data URL whose base64 is damaged ({head[:_most_shown]!r})"
        raise DataError(code, message, row=number) from error


# First bytes of encoded pictures: PNG, JPEG, GIF, WEBP (a kind of RIFF), BMP, TIFF
_picture_signatures = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def _from_base64(text):
    "The bytes of a picture that a text holds in base64; None if the text is something else, such as a path"
    if len(text) < _shortest_base64:  # no picture is so small
        return None
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    # A long path of letters and slashes is base64, too, but does not begin as a PNG or JPEG does.
    return data if data.startswith(_picture_signatures) else None


# Where a picture is

_settled_after = 2  # seconds after its last change; some file systems keep times in steps as long as this


def _names_by_folded(folder):
    """The names of the files in a folder, as a dict: the name without case (`folded_name`) → the name.

    The value is None if several names differ only by case, so that none is taken for another. A folder is
    listed once for all rows, and again when a file has come or gone since."""
    try:
        status = os.stat(folder)
    except OSError:  # no such folder, or one that may not be read: then nothing is found in it
        return {}
    # A folder gets a new time with each file that comes or goes, but not if two do in one step of the clock.
    if abs(time.time() - status.st_mtime) < _settled_after:
        return _listing(folder)
    return _kept_listing(folder, (status.st_dev, status.st_ino, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _kept_listing(
    folder,  # its path
    state,  # what tells whether it is still the same: device, number on it, time of its last change
):
    "The names of the files in a folder by their name without case, listed once for each state of the folder"
    return _listing(folder)


def _listing(folder):
    "The names of the files in a folder, as `_names_by_folded` gives them; empty if it cannot be listed"
    names = {}
    try:
        entries = os.listdir(folder)
    except OSError:
        return names
    for name in entries:
        folded = folded_name(name)
        names[folded] = None if folded in names else name
    return names


_names_compared = 5_000  # of a folder, for a hint; comparing more would take seconds


def _did_you_mean(name, folder):
    """The end of a message about a missing file: ": did you mean …?" with a similar name, or an empty text.

    A file in `folder` of the same name with another suffix is preferred: cat.png for cat.jpg."""
    # {name without case: name}; `if other`: the value is None where several names differ only by case
    names = [other for other in _names_by_folded(folder).values() if other][:_names_compared]
    stem = folded_name(Path(name).stem)
    same_stem = [other for other in names if folded_name(Path(other).stem) == stem]
    similar = same_stem or difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f": did you mean {similar[0]!r}?" if similar else ""


def _other_spellings(picture, base):
    """Yield paths that a row may mean by the path `picture`, which was not found from the folder `base`.

    For images\\a.png in the folder images: images/a.png, then a.png, since its first folder is `base`."""
    path = picture.replace("\\", "/")
    yield path
    first, _, rest = path.removeprefix("./").partition("/")
    if rest and first == base.resolve().name:
        yield rest


def _found_without_case(base, picture):
    """Find the file whose path, from the folder `base`, differs from `picture` only by case or accents' form.

    Returns its absolute path; None if there is none, or if several names differ only so."""
    place = Path("/") if picture.startswith("/") else base
    for part in picture.strip("/").split("/"):  # a folder, then one in it, …, then the file
        if part in ("", "."):  # of a//b and a/./b
            continue
        name = part
        if part != ".." and not (place / part).exists():
            # The name in this folder that differs from `part` only so; None if there are none or several.
            name = _names_by_folded(str(place)).get(folded_name(part))
        if not name:
            return None
        place = place / name
    return str(place.resolve()) if place.is_file() else None


def located(
    picture: str | bytes,  # path or encoded picture, from `picture_list`
    image_dir: str | Path,  # where relative paths begin
    number: int = None,  # the row's line in its file, for the message of an error
) -> str | bytes:  # absolute path of a file; bytes are returned unchanged
    """Find the file of a picture, also if its path differs by case, by backslashes or by an accent's form.

    Raises `DataError`, with the most similar name as a hint, if there is no such file."""
    if isinstance(picture, bytes):
        return picture

    base = Path(image_dir)
    full_path, is_there = _path_as_written(base, picture, number)
    if is_there:
        return str(full_path)
    # Perhaps the path has backslashes, or begins with the name of `base` itself, or differs by case.
    for spelling in _other_spellings(picture, base):
        file = _found_without_case(base, spelling)  # its absolute path, or None
        if file:
            return file
    hint = _did_you_mean(full_path.name, str(full_path.parent))  # with a similar name, or an empty text
    message = f"no such picture in {base.name or 'the image directory'}{hint}"
    raise DataError("image.missing", message, row=number, entry=picture[:200])


def _path_as_written(base, picture, number):
    """The absolute path of `picture` (a text) from the folder `base`, and whether there is such a file.

    `DataError` about row `number` for a folder, and for a text that can be no path."""
    try:
        full_path = (base / picture).resolve()
        if full_path.is_file():
            return full_path, True
        is_folder = full_path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, one with NUL, a circle of links
        message = f"no path ({type(error).__name__})"
        # Cut shorter than the path of a folder below, since such a text may be base64.
        raise DataError("image.missing", message, row=number, entry=picture[:_most_shown]) from error
    if is_folder:
        raise DataError("image.missing", "a folder, expected a picture", row=number, entry=picture[:200])
    return full_path, False


def decoded(
    pictures: set,  # absolute paths (text) and encoded pictures (bytes)
) -> dict:  # picture → its `DataError` if it is broken, else whether it must be converted to plain RGB
    "Decode each picture once, in parallel, so that broken ones are known before training starts"
    pictures = list(pictures)
    # The names of files in folders, kept by `located`, are no longer needed: all paths are found by now.
    _kept_listing.cache_clear()
    # Threads are enough: PIL decodes without Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(pictures, pool.map(_error_or_needs_conversion, pictures)))


def _error_or_needs_conversion(picture):
    """Decode one picture, a path or bytes, to see whether it is good.

    Returns its `DataError` if it is broken (not raised, so that the others are still looked at); else True if
    it must be converted to plain RGB before training, or False."""
    try:
        data = _bytes_of(picture)
        decode_picture(data)  # `DataError` if it is broken, too large or of another format
    except OSError as error:
        return DataError("image.missing", f"cannot be read ({type(error).__name__})")
    except DataError as error:
        return error

    # A processor converts the others to RGB well enough. It would make transparent parts black, and each grey
    # above 255 white.
    with Image.open(BytesIO(data)) as image:
        transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        is_wide = image.mode.startswith(("I", "F"))  # greys of 16 or 32 bits, or floats
        return transparent or is_wide


def as_meant(
    picture: str | bytes,  # path or encoded picture
) -> bytes:  # PNG, RGB
    "Convert a picture to an upright RGB PNG: transparency on white, greys of more than 8 bits scaled to 8"
    image, _ = decode_picture(_bytes_of(picture))  # an upright PIL image, converted
    return _fast_png(image)


def plain_file(
    data: bytes,  # encoded picture
) -> tuple:  # bytes of a picture file, its suffix: jpg or png
    """A picture as a file that every program reads alike: upright, opaque, 8 bits a colour.

    A JPEG or PNG that is so already is kept byte for byte; any other picture becomes a PNG."""
    # image: converted to upright RGB; plain_format: JPEG or PNG if nothing had to be converted, else None
    image, plain_format = decode_picture(data)
    if plain_format:
        return data, "jpg" if plain_format == "JPEG" else "png"
    return _fast_png(image), "png"


def _bytes_of(picture):
    "The encoded bytes of a picture, which is given as a path or as these bytes"
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()
