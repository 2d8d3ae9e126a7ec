"""How an attempt ended: the verdict on an ended trainer, and outcome.json, which tells it to the dispatcher.

Written by hand, not exported from a notebook."""
import json
import os
import re
import signal

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
# Why a job moves to the state that its outcome tells, for the log of moves. If that state is `interrupted`,
# the job was stopped by order: a supervisor that was killed has written no outcome.
told_by_outcome = "its outcome says so"
last_characters = 2000  # of the log, searched for a cause if the last line names none


class Outcome:
    "outcome.json; its room is taken before work begins, so that a full disk cannot hide the end"
    size = 4096  # bytes of the file, whatever is in it: the rest is spaces

    def __init__(self,
        folder: str | os.PathLike,  # of the job
    ):
        "Reserve disk space for outcome.json, so that `write` works on a full disk; OSError if it is full now"
        folder = JobFolder(folder)
        self.path = folder.outcome
        self.reserved_file = folder.outcome_room  # filled with blanks; `write` renames it to outcome.json
        # The file is too short if its writer was killed or the disk was full.
        if not self.reserved_file.exists() or self.reserved_file.stat().st_size < self.size:
            self.reserved_file.write_bytes(b" " * self.size)

    def write(self,
        content: dict,  # attempt, state, error_code, error_message: JSON that fits into 4096 bytes
    ):
        """Write the outcome over a file of blanks, and rename that file to outcome.json.

        The blanks, `size` bytes, were written before the trainer started: what they take on the disk is there
        for the outcome even if the disk is full by now."""
        # ensure_ascii=False: an emoji takes four bytes and not twelve ("\ud83c\udf4e"), so long messages fit.
        text = json.dumps(content, ensure_ascii=False).encode("utf-8").ljust(self.size)  # filled with blanks
        with open(self.reserved_file, "r+b") as file:
            file.write(text)
            file.flush()
            # To the disk before the rename: else a power cut could leave an empty outcome.json.
            os.fsync(file.fileno())
        # Readers find the outcome of the attempt before or this one, never half of it.
        os.replace(self.reserved_file, self.path)

    @staticmethod
    def read(
        folder: str | os.PathLike,  # of the job
        attempt: int | None,  # number of the attempt; None: whichever attempt wrote the file
    ) -> dict | None:  # attempt, state, error_code, error_message; None: that attempt has no outcome
        "Read how an attempt ended, as its supervisor wrote it"
        outcome = _outcome_in(JobFolder(folder).outcome)
        # The file may still be that of the attempt before.
        is_asked_for = outcome is not None and attempt in (None, outcome["attempt"])
        return outcome if is_asked_for else None


def _outcome_in(path):
    """The content of an outcome.json: a dict of attempt, state, error_code, error_message.

    None if there is no such file, or, with a warning in the log, if it is damaged."""
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    # A damaged file counts as none: the result and the checkpoints then decide how the attempt ended.
    except (OSError, ValueError) as e:
        _warn_of_damage(path, type(e).__name__)
        return None
    if not is_outcome(outcome):
        _warn_of_damage(path, "it has another form")
        return None
    return outcome


def _warn_of_damage(
    path,  # of an outcome.json
    how,  # it is damaged, in words for the log, such as JSONDecodeError
):
    "Log that an outcome.json cannot be read"
    logger.warning("%s of job %s cannot be read (%s)", path.name, path.parent.name, how)


def is_outcome(
    found,  # what was read from an outcome.json: any JSON
) -> bool:
    "Tell whether `found` has the fields of an outcome, with a number of an attempt and a state that exists"
    if not isinstance(found, dict) or not isinstance(found.get("attempt"), int):
        return False
    # outcome_states: completed, failed, cancelled, interrupted
    return found.get("state") in outcome_states and {"error_code", "error_message"} <= set(found)


def outcome_content(
    state: str,  # completed, failed, cancelled or interrupted
    error_code: str = None,  # such as trainer.exit
    error_message: str = None,  # for people
) -> dict:  # state, error_code, error_message
    "The fields of outcome.json that say how an attempt ended"
    return dict(state=state, error_code=error_code, error_message=error_message)


def verdict(
    code: int,  # exit status of the trainer; negative: minus the number of the signal that ended it
    tail: str,  # end of what the trainer printed
    result_problem: str | None,  # what is wrong with the result; None: it is there and undamaged
    killed_for_memory: bool = False,  # the kernel killed some process for want of memory in that time
) -> dict:  # state, error_code, error_message
    "Judge how an attempt ended, completed or failed and why, after its trainer has ended"
    if result_problem is None:
        # The result is a trainer's last act: what became of the process afterwards does not matter.
        return outcome_content("completed")
    if code == 0:
        return outcome_content("failed", "trainer.no_artefact", f"exit 0, but result: {result_problem}")
    if code == -signal.SIGKILL and killed_for_memory:
        # A process that the kernel kills cannot print why, so the log would not tell.
        message = "killed by the kernel, which was out of memory"
        return outcome_content("failed", "trainer.out_of_memory", message)
    return _failure_by_last_words(code, tail)


def _failure_by_last_words(
    code,  # exit status of the trainer; negative: minus the number of the signal that ended it
    tail,  # end of what the trainer printed
):  # dict of state ("failed"), error_code and error_message
    "The outcome of a trainer that failed, judged by the end of what it printed"
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    last_line = lines[-1] if lines else ""
    ended_by = f"killed by {_signal_name(-code)}" if code < 0 else f"exit {code}"
    # `cause_in`: the code of the first known cause that a text names, such as trainer.disk_full; else None.
    # The last line is searched first: a long traceback may mention memory and still end in another error.
    error_code = cause_in(last_line) or cause_in(tail[-last_characters:])
    if error_code is None:
        error_code = "trainer.killed" if code < 0 else "trainer.exit"
    return outcome_content("failed", error_code, f"{ended_by}; last words: {last_line}")


def _signal_name(number):
    "The name of a signal, such as SIGKILL for 9; `signal 35` for one of those without a name (real-time)"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cause_in(
    text: str,  # what a trainer printed
) -> str | None:  # an error code of `causes`; None if no cause is named
    "The error code of the first known cause that a text names"
    # causes: pairs such as ("trainer.disk_full", "No space left on device|Disk quota exceeded")
    for error_code, pattern in causes:
        if re.search(pattern, text):
            return error_code
    return None
