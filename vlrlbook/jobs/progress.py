"""How far a run is: read from the files that it writes, never asked of the trainer.

Written by hand, not exported from a notebook."""
import csv
import json
import math
import os
from pathlib import Path

from ..folders import newest_whole_checkpoint
from .folder import JobFolder

__all__ = ["newest_checkpoint", "log_mark", "last_row", "progress_of", "Progress"]

end_of_log = 16384  # bytes: some hundred rows
most_before_the_end = 99.0  # percent: after its last step a run still has to be measured and saved


def newest_checkpoint(
    run: str | Path,  # output_dir of a run
) -> Path | None:  # the checkpoint of the highest step that equals its manifest; None: there is none
    "The newest undamaged checkpoint of a run, from which a new attempt can go on"
    checkpoint, _ = newest_whole_checkpoint(run)  # and what is wrong with newer ones
    return checkpoint


def log_mark(
    path: str | Path,  # run_log.csv, or another file that a run writes
) -> str:  # inode, bytes and time of change; "" if there is no such file
    "A fingerprint of a file, to see whether it was written or replaced since; the content is not read"
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def last_row(
    path: str | Path,  # run_log.csv
) -> dict:  # column → text; {} if there is no whole row
    "The newest row of a run's log, with the newest loss that is logged, without reading the whole file"
    try:
        file = open(path, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}  # not there yet, or damaged from outside

    with file:
        rows = _rows_at_the_end(file)
    if not rows:
        return {}
    losses = [row["loss"] for row in rows if row.get("loss")]  # a row of an evaluation has none
    newest_loss = losses[-1] if losses else ""
    return rows[-1] | {"loss": newest_loss}


def _rows_at_the_end(file):
    "The rows in the last `end_of_log` bytes of a CSV file that is open in binary, as dicts: column → text"
    # The columns' names stand at the beginning of the file; the rows that are wanted, at its end.
    header = file.readline().decode("utf-8", "replace")
    # A long run has many thousand rows and is looked at ten times a second: only the end is read.
    size = os.fstat(file.fileno()).st_size
    file.seek(max(file.tell(), size - end_of_log))
    lines = file.read().decode("utf-8", "replace").split("\n")
    whole_lines = lines[:-1]  # what stands behind the last line break is still being written

    names = next(csv.reader([header]), [])  # of the columns
    rows = []
    for values in csv.reader(whole_lines):
        # Reading may have begun within the first of these lines, which then has too few values. If it began
        # within the first value, the step, that does no harm: a step is taken from the last line alone.
        if len(values) == len(names):
            rows.append(dict(zip(names, values)))
    return rows


def progress_of(
    folder: str | os.PathLike,  # of the job
    total: int | None,  # optimizer steps of the whole run, if the ledger has that number
) -> dict:  # columns of the ledger: current_step, loss, total_steps, progress (percent, at most 99)
    "Read from the files of a job's run how far it is"
    folder = JobFolder(folder)
    total = total_steps_of(folder, total)
    step, loss = _step_and_loss(last_row(folder.run_log))
    return dict(current_step=step, loss=loss, total_steps=total, progress=percent(step, total))


def _step_and_loss(
    row,  # of a run's log: column → text; {} if there is no row yet
):
    """The step and the loss of a row as numbers; the loss is None where there is none.

    {"step": "5", "loss": "0.1"} → (5, 0.1); {} → (0, None)"""
    try:
        step = int(float(row["step"]))
        loss = float(row["loss"]) if row["loss"] else None
    except (KeyError, ValueError, OverflowError):
        return 0, None  # there is no row yet, or it is damaged
    if loss is not None and not math.isfinite(loss):
        loss = None  # JSON has no NaN
    return step, loss


def total_steps_of(
    folder: JobFolder,  # of the job
    total: int | None,  # the number that the ledger has, returned where the run has written none
) -> int | None:  # optimizer steps
    "How many optimizer steps a run will take, as its trainer wrote it into rollouts_now.json"
    # Only the trainer knows how many steps an epoch has.
    try:
        written_total = json.loads(folder.rollouts.read_text())["total_steps"]
    except (OSError, KeyError, TypeError, ValueError):
        return total  # not there yet, or damaged from outside
    return written_total if isinstance(written_total, int) else total


def percent(
    step: int,  # optimizer steps taken
    total: int | None,  # of so many; None or 0: not known
) -> float:  # 0 to 99
    "Progress of a run that has not completed, in percent; 0 if the number of its steps is not known"
    if not total:
        return 0.0
    return min(most_before_the_end, 100 * step / total)


class Progress:
    "Progress of running jobs, as columns of the ledger; it never falls within an attempt"

    def __init__(self):
        self.marks = {}  # (job_id, attempt) → `log_mark` of the log that was read last

    def columns(self,
        row,  # of the ledger's table of jobs
        folder: JobFolder,  # of that job
    ) -> dict:  # columns of the ledger: progress and current_step, and more where the log has changed
        "How far the job's latest attempt is; the ledger's own values while nothing new was logged"
        fingerprint = log_mark(folder.run_log)  # changes when run_log.csv does
        attempt = (row["job_id"], row["attempt"])
        # row["log_mark"]: the fingerprint when the attempt began. If it is the same now, the file holds only
        # rows of the attempt before.
        is_of_attempt_before = fingerprint == row["log_mark"]
        # `marks`: of the log as it was read last; None before the first reading
        is_read_already = fingerprint == self.marks.get(attempt)
        if is_of_attempt_before or is_read_already:
            return dict(progress=row["progress"], current_step=row["current_step"])
        columns = progress_of(folder, row["total_steps"])
        self.marks[attempt] = fingerprint
        # Within an attempt these two never fall, not even if the log is damaged for a moment.
        for name in ("progress", "current_step"):
            columns[name] = max(columns[name], row[name])
        return columns
