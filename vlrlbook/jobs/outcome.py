"""How an attempt ended: the verdict on an ended trainer, and outcome.json, which tells it to the dispatcher.

Written by hand, not exported from a notebook."""
import json
import os
import re
import signal
from pathlib import Path

from .folder import JobFolder
from .ledger import logger

__all__ = ["Outcome", "causes", "outcome_content", "is_outcome", "verdict"]

# Error code → what a trainer's last words then hold. The first that fits is taken.
causes = (
    ("trainer.out_of_memory",
     r"OutOfMemoryError|CUDA out of memory|MemoryError|Cannot allocate memory|std::bad_alloc"),
    ("trainer.parameters", r"SettingsError"),
    ("trainer.disk_full", r"No space left on device|Disk quota exceeded"))

outcome_states = ("completed", "failed", "cancelled", "interrupted")
last_characters = 2000  # of the log, searched for a cause if the last line names none


class Outcome:
    "outcome.json; its room is taken before work begins, so that a full disk cannot hide the end"
    size = 4096  # bytes of the file, whatever is in it: the rest is spaces

    def __init__(self,
        folder: str | os.PathLike,  # of the job
    ):
        "Take the room for an outcome, unless it is there already; OSError on a full disk"
        folder = JobFolder(folder)
        self.path = folder.outcome
        self.room = folder.outcome_room
        # A file that is too short was being written when its writer was killed, or the disk ran full.
        if not self.room.exists() or self.room.stat().st_size < self.size:
            self.room.write_bytes(b" " * self.size)

    def write(self,
        content: dict,  # attempt, state, error_code, error_message: JSON that fits into 4096 bytes
    ):
        "Fill the room, bring it to the disk, give it its name"
        # ensure_ascii=False: an apple takes four bytes so, and twelve as "\ud83c\udf4e",
        # too many for the room.
        text = json.dumps(content, ensure_ascii=False).encode("utf-8").ljust(self.size)
        with open(self.room, "r+b") as file:
            file.write(text)
            file.flush()
            # Before the rename. After it a power cut could leave the name with nothing in the file.
            os.fsync(file.fileno())
        # A reader sees the outcome of the attempt before or this one, never half of it.
        os.replace(self.room, self.path)

    @staticmethod
    def read(
        folder: str | os.PathLike,  # of the job
        attempt: int | None,  # whose outcome; None: the latest, whose it is stands in it
    ) -> dict | None:  # what was written; None: that attempt has no outcome
        "What the supervisor of an attempt left; the file may still be that of the attempt before"
        path = JobFolder(folder).outcome
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            return _damaged(path, type(e).__name__)
        if not is_outcome(found):
            return _damaged(path, "it has another form")
        return found if attempt in (None, found["attempt"]) else None


def _damaged(path, how):
    "None, as if there were no outcome: then the result and the checkpoints decide how the attempt ended"
    logger.warning("%s of job %s cannot be read (%s)", path.name, path.parent.name, how)
    return None


def is_outcome(
    found,  # what stands in an outcome.json
) -> bool:
    "Whether it is what a supervisor writes, in every part that is relied on"
    if not isinstance(found, dict) or not isinstance(found.get("attempt"), int):
        return False
    return found.get("state") in outcome_states and {"error_code", "error_message"} <= set(found)


def outcome_content(
    state: str,  # completed, failed, cancelled or interrupted
    error_code: str = None,  # such as trainer.exit
    error_message: str = None,  # for people
) -> dict:  # state, error_code, error_message
    "How an attempt ended, as outcome.json holds it"
    return dict(state=state, error_code=error_code, error_message=error_message)


def verdict(
    code: int,  # exit status; negative: minus the signal that ended it
    tail: str,  # end of the log
    result_problem: str | None,  # what is wrong with the result; None: it is there and undamaged
    killed_for_memory: bool = False,  # the kernel counted an out-of-memory kill meanwhile
) -> dict:  # state, error_code, error_message
    "What an ended trainer means"
    if result_problem is None:
        # The result is a trainer's last act: what became of the process afterwards does not matter.
        return outcome_content("completed")
    if code == 0:
        return outcome_content("failed", "trainer.no_artefact", f"exit 0, but result: {result_problem}")
    if code == -signal.SIGKILL and killed_for_memory:
        # The kernel's kill leaves no last words, so the log would say nothing of it.
        message = "killed by the kernel, which was out of memory"
        return outcome_content("failed", "trainer.out_of_memory", message)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    last_line = lines[-1] if lines else ""
    ended_by = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    # The last line before the rest: a long traceback may mention memory on its way to another fault.
    cause = cause_in(last_line) or cause_in(tail[-last_characters:])
    if cause is None:
        cause = "trainer.killed" if code < 0 else "trainer.exit"
    return outcome_content("failed", cause, f"{ended_by}; last words: {last_line}")


def cause_in(
    text: str,  # what a trainer printed
) -> str | None:  # an error code of `causes`; None if no cause is named
    "The error code of the first known cause that a text names"
    for error_code, pattern in causes:
        if re.search(pattern, text):
            return error_code
    return None
