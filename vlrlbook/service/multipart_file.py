"""The uploaded file of a form, parsed and written to disk piece by piece as the body comes.

The form parser of the framework keeps a body for itself until it is whole, and answers 500 when the disk is
full. This one writes at once, leaves the disk a reserve, and drops what is too long, too slow or cut.
`python-multipart` follows the bytes; added here is the decision that there is one part, that it is a file,
and that its name is no path. Written by hand, not exported from a notebook."""
import asyncio
import re
from email.utils import decode_rfc2231
from pathlib import Path
from urllib.parse import unquote

from ..folders import free_bytes
from .body_clock import chunks_in_time
from .options import ServiceSettings
from .refusals import Problem, clean

__all__ = ["FilePart", "receive_file"]

_most_around_the_file = 64 << 10  # bytes of boundaries and headers that a form may have beside its file
_write_size = 1 << 20  # bytes gathered before they are written: each write is a turn of a thread


class FilePart:
    "Takes the one part called `file` out of a multipart body that is fed to it in pieces of any size"
    def __init__(self,
        boundary: bytes,  # from the request's content-type
    ):
        "Prepare to take one file out of a form's body, which is fed in pieces"
        # Imported here, as all of the extra `serve`: without it the package must still import.
        from python_multipart.multipart import MultipartParser
        self.data = bytearray()  # of the file: what has come and was not yet written to disk
        self.filename: str | None = None  # the client's, without folders; None until its part begins
        self.parts = 0  # how many parts of the form have begun
        self.ended = False  # whether the last boundary has come
        self.headers = {}  # of the part that comes now: name in lower case → value, both bytes
        # A piece of the body may end in the middle of a header, so a header's pieces are gathered.
        self._header_name = b""
        self._header_value = b""
        self.parser = MultipartParser(boundary, self._callbacks())

    def _callbacks(self):
        "The methods that the parser calls as it meets the parts of the form: its name for an event → method"
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_name_comes,
            "on_header_value": self._header_value_comes,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_are_complete,
            "on_part_data": self._data_comes,
            "on_end": self._form_ends}

    def feed(self,
        chunk: bytes,  # the next piece of the body
    ):
        "Parse a piece of the body; raises a Problem if it is no form, or if a part is not the one file"
        from python_multipart.exceptions import FormParserError
        try:
            self.parser.write(chunk)
        except FormParserError as error:
            raise Problem("upload.form", str(error)) from error

    def _part_begins(self):
        self.headers = {}
        self._header_name = self._header_value = b""

    def _header_name_comes(self, data, start, end):
        self._header_name += data[start:end]

    def _header_value_comes(self, data, start, end):
        self._header_value += data[start:end]

    def _header_ends(self):
        self.headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_are_complete(self):
        "Check a part's headers before its data come; a Problem unless it is the only one, the file `file`"
        from python_multipart.multipart import parse_options_header
        # Such as: form-data; name="file"; filename="apples.zip"
        disposition = self.headers.get(b"content-disposition")
        kind, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        # Bytes: the name in `filename`, else in `filename*`. None: it has neither, so the field is no file.
        filename = options.get(b"filename", _extended_name(disposition))
        self.parts += 1
        if kind != b"form-data" or name != "file":
            # clean: one printable line of at most 60 characters
            raise Problem("upload.field", f"a field {clean(name, 60)!r}; expected `file`")
        if self.parts > 1:
            raise Problem("upload.field", "more than one part")
        if filename is None:
            raise Problem("upload.field", "`file` is a text; a file was expected")
        self.filename = _last_name(filename)  # a text without folders

    def _data_comes(self, data, start, end):
        self.data += data[start:end]

    def _form_ends(self):
        self.ended = True


# filename*=UTF-8''%e8%8b%b9.zip (RFC 5987), which some clients write for a name that is not ASCII
_extended_filename = re.compile(rb";\s*filename\*\s*=\s*\"?([^;\"\s]+)", re.IGNORECASE)


def _extended_name(
    disposition,  # a part's header content-disposition, as bytes; None: it has none
):
    "The name in a header's `filename*` as UTF-8 bytes; None if the header has no `filename*`"
    match = _extended_filename.search(disposition or b"")
    if not match:
        return None
    # UTF-8''%e8%8b%b9.zip → "UTF-8", "", "%e8%8b%b9.zip"; latin-1 makes a text of any bytes
    charset, _language, percent_encoded = decode_rfc2231(match[1].decode("latin-1"))
    try:
        return unquote(percent_encoded, charset or "utf-8").encode()
    # LookupError: no character set that Python knows. ValueError: its name holds a NUL, or the bytes are not of
    # this set (UnicodeError).
    except (LookupError, ValueError):
        return percent_encoded.encode()  # the name as it came, since the file itself is good


def _last_name(path):
    r"""A file's name as a text, without folders, where a browser has sent a whole path, as bytes.

    b"C:\photos\apples.zip" → "apples.zip"; "unnamed" if nothing is left"""
    last_name = re.split(r"[/\\]", path.decode("utf-8", "replace"))[-1]
    return clean(last_name) or "unnamed"


async def receive_file(
    request,  # of POST /upload-data
    path: Path,  # new file for what comes
    settings: ServiceSettings,  # upload_mb at most; stall_seconds of patience; reserve_mb of disk stay free
) -> tuple:  # the name that the client gave, bytes of the file
    """Write the uploaded file of a form to disk, piece by piece as the body comes.

    Raises a Problem if the body is too large, too slow, ends too early, or is not a form with one file."""
    part = _parser_for(request)  # gathers the file's bytes in `part.data`, until `_write_out` empties it
    most_body_bytes = (settings.upload_mb << 20) + _most_around_the_file
    too_large = Problem("upload.size", f"at most {settings.upload_mb} MB")
    # Refused before anything is read, where the client itself says how long its body is.
    if int(request.headers.get("content-length", 0)) > most_body_bytes:
        raise too_large
    # "upload.stalled": the code of the refusal where the body comes too slowly
    chunks = chunks_in_time(request, settings.stall_seconds, "upload.stalled")
    file_size = 0
    with open(path, "xb", buffering=0) as file:
        # A body that is sent in HTTP's chunks has no content-length, so its bytes are counted.
        async for chunk in _limited(chunks, most_body_bytes, too_large):
            part.feed(chunk)
            if len(part.data) >= _write_size:
                file_size += await _write_out(part, file, settings.reserve_mb)
        file_size += await _write_out(part, file, settings.reserve_mb)  # the rest

    _check_complete(part)
    return part.filename, file_size


def _check_complete(
    part,  # `FilePart`, which was fed the whole body of a form
):
    "Raise a Problem if the form was cut off before its end, or had no file in it"
    if not part.ended:
        raise Problem("upload.cut", "the form's last boundary did not come")
    if part.filename is None:
        raise Problem("upload.field", "no field `file`")


async def _limited(
    chunks,  # asynchronous iterator of bytes: pieces of a body
    most_bytes,  # of all pieces together
    too_large,  # the Problem that is raised once there are more
):
    "Yield pieces of a body as they come; raise a Problem once they are too large together"
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > most_bytes:
            raise too_large
        yield chunk


def _parser_for(request):
    "Make a `FilePart` for the request's body; raises a Problem if the content-type is not that of a form"
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header
    # Such as: multipart/form-data; boundary=----abc
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem("upload.type", "expected multipart/form-data with a boundary")
    try:
        return FilePart(boundary)
    except FormParserError as error:  # such as a boundary that is too long
        raise Problem("upload.form", str(error)) from error


async def _write_out(
    part,  # `FilePart`: has gathered bytes of the uploaded file in `part.data`
    file,  # opened for them, without a buffer
    reserve_mb,  # megabytes of the disk that must stay free
):
    "Move the gathered bytes to the disk, and return their number; a Problem if there is too little space"
    data = bytes(part.data)
    part.data = bytearray()
    if not data:
        return 0
    # The reserve is for the ledger and running jobs, which write to the same disk.
    available_bytes = free_bytes(file.name) - (reserve_mb << 20)
    if available_bytes < len(data):
        raise Problem("storage.full", "no space is left; nothing was kept")
    # In a thread, so that a slow disk does not block other requests.
    await asyncio.to_thread(write_all, file, data)
    return len(data)


def write_all(
    file,  # opened without a buffer
    data: bytes,  # what to write
):
    "Write all of `data`, since without a buffer one call of `write` may write only a part of it"
    rest = memoryview(data)  # slices of it are no copies
    while rest:
        written = file.write(rest)
        rest = rest[written:]
