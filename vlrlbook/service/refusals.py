"""How the service refuses: every code that there is, with its status, and the error that carries one.

The form of a refusal is RFC 9457 (problem details), with a `code` that programs can rely on. A refusal is
raised wherever the fault is seen, however deep, and becomes a reply in one place (`app.py`); so no reader
has to know about HTTP. Written by hand, not exported from a notebook."""
import errno

from ..archive import DataError
from .training_form import form_fields

__all__ = ["problems", "clean", "Problem", "as_problem"]

# code → (HTTP status, title). Codes are part of what clients program against: add, but never rename. 400:
# the bytes cannot be read at all. 413: more than this server takes. 422: readable, but it cannot be meant.
# 408, 429, 503 and 507 tell a program what to do: be quicker, come later, try again, make room.
problems = {
    # an archive, as chapter 01's reader judges it
    "zip.broken": (400, "Not a readable ZIP"),
    "zip.path": (422, "A name leads out of the archive"),
    "zip.link": (422, "A symbolic link"),
    "zip.content": (422, "An archive, a program or a pickle among the pictures"),
    "zip.encrypted": (422, "An encrypted entry"),
    "zip.method": (422, "An unusual compression method"),
    "zip.duplicate": (422, "A name stands twice"),
    "zip.headers": (422, "Two tables of contents that differ"),
    "zip.overlap": (422, "Entries overlap"),
    "zip.foreign": (422, "Bytes that belong to no entry"),
    "zip.entries": (413, "Too many entries"),
    "zip.size": (413, "Unpacks to too much"),
    # its table
    "csv.missing": (422, "No main.csv"),
    "csv.size": (413, "main.csv is too large"),
    "csv.encoding": (422, "main.csv is not UTF-8"),
    "csv.nul": (422, "NUL characters in main.csv"),
    "csv.syntax": (422, "main.csv cannot be parted into fields"),
    "csv.quotes": (422, "A stray quotation mark has swallowed rows"),
    "csv.empty": (422, "main.csv has no rows"),
    "csv.columns": (422, "Wrong columns"),
    "csv.fields": (422, "A row with too few or too many fields"),
    "csv.rows": (413, "Too many rows"),
    "csv.no_valid_row": (422, "No row can be used"),
    # its pictures and rows: skipped and listed, or with ?strict=true the reason for a refusal
    "image.name": (422, "A path or an address in place of a picture's name"),
    "image.missing": (422, "A picture that is not in the archive"),
    "image.bytes": (422, "A picture with too many bytes"),
    "image.pixels": (422, "A picture with too many pixels"),
    "image.shape": (422, "A picture of an absurd shape"),
    "image.animated": (422, "A film in place of a picture"),
    "image.decode": (422, "A picture that cannot be decoded"),
    "row.empty": (422, "An empty question or answer"),
    "row.marks": (422, "More <image> marks than pictures"),
    "row.tokens": (422, "A control token of the models in the question"),
    "row.count": (422, "An answer without a count"),
    "row.boxes": (422, "An answer without boxes in its picture"),
    # a body on its way in
    "upload.type": (415, "Not multipart/form-data"),
    "upload.form": (400, "The form cannot be read"),
    "upload.field": (422, "Expected one file in the field `file`"),
    "upload.cut": (400, "The body ends too early"),
    "upload.size": (413, "The body is too large"),
    "upload.stalled": (408, "Nothing came for too long"),
    "upload.busy": (429, "Too many uploads at once"),
    # the process that reads an archive
    "intake.time": (413, "Reading the archive took too long"),
    "intake.memory": (413, "Reading the archive took too much memory"),
    "intake.died": (422, "The reader of the archive was stopped by it"),
    "storage.full": (507, "The disk is full"),
    "storage.quota": (507, "The space for uploads is used up"),
    # a JSON body
    "body.type": (415, "Not application/json"),
    "body.size": (413, "The JSON body is too large"),
    "body.stalled": (408, "The body did not come in time"),
    "json.encoding": (400, "Not UTF-8"),
    "json.syntax": (400, "Not JSON"),
    "json.number": (400, "A number that JSON does not have, or that is too long"),
    "json.duplicate": (400, "A key stands twice"),
    "json.depth": (400, "Nested too deeply"),
    "json.text": (400, "A text that is no Unicode"),
    "json.object": (422, "Expected an object"),
    # a request for training; each field of the form has a code of its own, added below
    "train.unknown": (422, "An unknown key"),
    "train.job_name": (422, "job_name"),
    "train.data_file_id": (422, "data_file_id"),
    "train.rows": (422, "Too few rows to train on"),
    "train.kind": (422, "The task cannot be trained on this data"),
    "train.settings": (422, "Settings that cannot go together"),
    "training_config.unknown": (422, "An unknown setting"),
    "training_config.type": (422, "training_config is no object"),
    "lora_config.unknown": (422, "An unknown setting"),
    "lora_config.type": (422, "lora_config is no object"),
    "idempotency.key": (400, "Idempotency-Key"),
    "idempotency.reused": (422, "The same Idempotency-Key with another request"),
    # jobs, uploads and questions about them
    "job.unknown": (404, "No such job"),
    "job.state": (409, "The job is in another state"),
    "job.queue_full": (429, "The queue is full"),
    "job.no_checkpoint": (409, "Nothing to resume from"),
    "job.no_data": (409, "The job's data were deleted"),
    "job.damaged": (409, "A file of the job is damaged"),
    "job.no_notebook": (404, "No notebook yet"),
    "job.not_completed": (409, "Not completed"),
    "job.no_artefact": (409, "The job's files are not there"),
    "events.busy": (429, "Too many streams of events"),
    "ask.failed": (422, "The model could not be asked"),
    # a ranking of answers by the reward model that the server was started with
    "rank.none": (404, "No reward model here"),
    "rank.request": (422, "Nothing that can be ranked"),
    "rank.busy": (429, "Too many rankings at once"),
    "rank.failed": (503, "The reward model does not answer"),
    "file.unknown": (404, "No such upload"),
    "file.in_use": (409, "A job needs this upload"),
    "file.damaged": (409, "The stored upload is damaged"),
    "file.row": (404, "No such row"),
    "query.unknown": (422, "An unknown query parameter"),
    "query.value": (422, "A query parameter out of range"),
    "range.unsatisfiable": (416, "No such part"),
    # what is refused before an address is looked at (`doors.py`), or because there is none
    "door.token": (401, "No token, or a wrong one"),
    "door.host": (403, "A foreign host name"),
    "door.origin": (403, "A foreign page"),
    "door.path": (404, "No such address"),
    "door.method": (405, "Not with this method"),
    "ledger.unavailable": (503, "The ledger cannot be written"),
    "server.error": (500, "A fault of ours")}

# A code for each field, so that a page can show the message beside the field that it is about.
for _group, _named in form_fields.items():
    for _name in _named:
        problems[f"{_group}.{_name}"] = (422, f"{_group}: {_name}")

_joiners = "\u200c\u200d"  # zero width, and harmless: Persian words and family emoji need them
_disk_is_full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, or a file beyond its limit
_retry_seconds = "5"  # told with 429 and 503: longer than a busy moment, shorter than anybody's patience


def clean(
    text,  # anything a stranger sent
    most: int = 200,  # characters of the result
) -> str:  # one printable line
    """Make a stranger's text fit to be repeated in a reply or a log: one line, printable, not too long.

    White space becomes single spaces, and each character that is not printable becomes a dot."""
    # Cut first, since splitting megabytes would take long. The factor leaves room for dropped white space.
    beginning = str(text)[:4 * most]
    line = " ".join(beginning.split())
    # Characters that are not printable could rewrite a terminal, or change the direction of writing. Two of
    # them, `_joiners`, are harmless and stay: Persian words and emoji need them.
    line = "".join(letter if letter.isprintable() or letter in _joiners else "·" for letter in line)
    if len(line) <= most:
        return line
    return line[:most - 1] + "…"


class Problem(Exception):
    "A refusal: a `code` of `problems`, what exactly is wrong, and where"
    def __init__(self,
        code: str,  # a key of `problems`
        detail="",  # what exactly is wrong, for people; may hold a stranger's text
        headers: dict = None,  # headers of the reply, such as retry-after; None: no further ones
        **more,  # further members of the body, such as row, entry or errors; `body` leaves None out
    ):
        "Make a refusal, an exception that becomes a reply of form RFC 9457 (problem details)"
        status, _ = problems[code]  # (HTTP status, title)
        self.code = code
        self.status = status
        self.headers = headers or {}
        self.more = more
        self.detail = clean(detail, 600)  # at most 600 characters: a few sentences
        super().__init__(f"{code}: {self.detail}")

    def body(self) -> dict:
        "Return the JSON object of RFC 9457 (problem details), with `code` and further members such as `row`"
        _, title = problems[self.code]  # (HTTP status, title)
        body = dict(
            type=f"/data-format#{self.code}",  # the address that explains every code
            status=self.status,
            code=self.code,
            title=title,
            detail=self.detail or title)
        for name, value in self.more.items():
            if value is not None:
                body[name] = value
        return body


def as_problem(
    error: Exception,  # anything that was raised
) -> Problem:  # what the client may know of it
    """Turn any exception into the `Problem` that the client is told.

    An exception that nobody foresaw becomes server.error (status 500), without its own text."""
    if isinstance(error, Problem):
        return error

    # What is wrong with an archive: `row` of main.csv and `entry` of the ZIP say where.
    if isinstance(error, DataError):
        entry = clean(error.entry) if error.entry else None
        return Problem(error.code, clean(error.message), row=error.row, entry=entry)
    if isinstance(error, OSError) and error.errno in _disk_is_full:
        # The error's own text holds the path of a file, which is nobody's business.
        return Problem("storage.full", "no space is left; nothing was kept")
    return _by_its_code(error)


def _by_its_code(error):
    "The Problem of an exception with a `code` of ours, such as those of `vlrlbook.jobs`; else server.error"
    # `problems` has all our codes, such as job.state. A library's exception may have a code that is none.
    code = getattr(error, "code", None)
    if code not in problems:
        # The text of any other exception could tell the client where files of the server lie.
        return Problem("server.error", "the server's log knows more")
    status, _ = problems[code]  # (HTTP status, title)
    # 429 and 503 mean "come again later", and the header says when.
    headers = {"retry-after": _retry_seconds} if status in (429, 503) else None
    return Problem(code, clean(error), headers)
