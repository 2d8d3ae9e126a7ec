"""What is known of a job: the states it can be in, and `Job`, the record that its owner is shown.

A record must be valid JSON whatever a trainer wrote, so texts and numbers pass through `clean` before they
are kept or shown. Parameters, which a trainer reads, are kept by `as_given` and cleaned when they are shown.
Written by hand, not exported from a notebook."""
import re
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from html import escape

from ..folders import unused_key

__all__ = ["moves", "states", "live", "ends", "controls", "clean", "as_given", "utc", "Job"]

# Each state, and the states that may follow it. The ledger refuses every other move.
moves = {
    "queued": ("training", "cancelled"),
    "training": ("completed", "failed", "interrupted", "cancelling"),
    # The owner said stop, but processes of the job still live and hold its GPU.
    "cancelling": ("cancelled", "completed", "failed"),
    # It stopped, and not by its owner's wish: it can go on from its newest checkpoint.
    "interrupted": ("queued", "cancelled"),
    "completed": (),
    # The owner may resume these two, if there is a whole checkpoint.
    "failed": ("queued",),
    "cancelled": ("queued",)}

states = tuple(moves)
live = ("training", "cancelling")  # processes of the job may be running
ends = ("completed", "failed", "cancelled")  # nothing happens any more unless somebody asks

# Control characters without \t and \n, and the Unicode marks that turn the direction of a line around:
# they break terminals and tables, and can make a name look like another one.
controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
replacement_character = "\N{REPLACEMENT CHARACTER}"  # what stands in the place of a control character


def clean(
    x,  # anything that JSON could hold
    most: int = 100_000,  # characters of each text, which is cut after them; a key only after 100,000
):  # the same, writable as UTF-8 JSON
    """Copy `x` so that it can be sent as JSON and shown in a terminal.

    Lone surrogates become "?", a Windows line break \\n, control characters U+FFFD, NaN and infinities None.
    Keys that become equal by that are numbered, so that no entry is lost: {"a\\x01": 1, "a\\x02": 2} gives
    "a�" and "a� (2)"."""
    # `most` does not cut a key: it is a name, and its beginning would be another one.
    return _copy(x, partial(_shown_text, most=most), _shown_text)


def as_given(
    x,  # anything that JSON could hold
):  # the same, writable as UTF-8 JSON
    """Copy `x` so that it can be kept as JSON, with each text as it is: a trainer must read what was given.

    Only what JSON cannot hold is replaced: lone surrogates become "?", NaN and infinities None."""
    return _copy(x, _unicode_text, _unicode_text)  # for texts and for keys: writes "?" for lone surrogates


def _copy(
    x,  # anything that JSON could hold
    of_text,  # function: a text → the text in the copy
    of_key,  # the same for the key of a dict
):
    "A copy of `x` without NaN and infinities, with texts and keys as the two functions make them"
    if isinstance(x, dict):
        copied: dict = {}
        for key, value in x.items():
            copied[unused_key(of_key(str(key)), copied)] = _copy(value, of_text, of_key)
        return copied
    if isinstance(x, (list, tuple)):
        return [_copy(value, of_text, of_key) for value in x]
    if isinstance(x, float):
        # NaN fails every comparison, so this is also false for NaN.
        is_finite = abs(x) < float("inf")
        return x if is_finite else None
    return of_text(x) if isinstance(x, str) else x  # x: None, True, False or an int


def _unicode_text(text):
    "A text that UTF-8 can hold: half of a surrogate pair becomes a question mark"
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown_text(text, most=100_000):
    "A text for a terminal, of at most `most` characters: control characters are replaced"
    text = _unicode_text(text).replace("\r\n", "\n")  # a line break of Windows is no control character
    return controls.sub(replacement_character, text)[:most]


def utc(
    seconds: float,  # since 1970
) -> str:  # such as 2026-01-31T12:00:00.000Z
    "Write a time in UTC as text, for people; the jobs wing decides nothing by it, since a clock can be set"
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Job:
    "What the ledger says of one job"
    job_id: str  # a UUID; of a job of older versions, sixteen hexadecimal digits
    job_name: str  # as its owner calls it
    status: str  # one of `states`
    progress: float  # percent; never falls within an attempt
    current_step: int  # last step in run_log.csv
    total_steps: int | None  # None until the run says
    loss: float | None  # of the last logged step
    created_at: str  # UTC, ISO 8601, as are the others
    updated_at: str
    started_at: str | None  # of the latest attempt
    ended_at: str | None
    error_code: str | None  # such as trainer.out_of_memory
    error_message: str | None
    output_dir: str  # relative to the data directory
    attempt: int  # 0 while it has not started
    resumed_from: str | None  # the checkpoint of the latest attempt
    parameters: dict  # as submitted
    slot: str | None = None  # devices it runs on

    def as_dict(self) -> dict:
        "Valid JSON: NaN and infinities are None, text is text"
        return clean(asdict(self))

    def _repr_html_(self):
        "One line for a notebook"
        name = f"<code>{self.job_id}</code> <b>{escape(clean(self.job_name))}</b>"
        return f"{name}: {self.status}, attempt {self.attempt}, {self.progress:.0f} %"
