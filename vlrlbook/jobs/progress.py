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
most_before_the_end = 99.0  # percent: a run that has trained has not measured and saved yet


def newest_checkpoint(
    run: str | Path,  # output_dir of a run
) -> Path | None:  # the checkpoint of the highest step that equals its manifest; None: there is none
    "Where an attempt could go on"
    return newest_whole_checkpoint(run)[0]


def log_mark(
    path: str | Path,  # run_log.csv
) -> str:  # inode, bytes and time of change; "" if there is no such file
    "A text that changes when a file is written or replaced"
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def last_row(
    path: str | Path,  # run_log.csv
) -> dict:  # column → text; {} if there is no whole row
    "The newest row of a run's log, and the newest loss, without reading the whole file"
    try:
        file = open(path, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}  # not there yet, or damaged from outside
    with file:
        header = file.readline().decode("utf-8", "replace")
        # A long run has many thousand rows and is asked for every tenth of a second: only the end is read.
        size = os.fstat(file.fileno()).st_size
        file.seek(max(file.tell(), size - end_of_log))
        lines = file.read().decode("utf-8", "replace").split("\n")
    lines = lines[:-1]  # what stands behind the last line break is still being written
    names = next(csv.reader([header]), [])
    # The first of these lines may be cut, since reading began in its middle: its values are too few.
    rows = [dict(zip(names, values)) for values in csv.reader(lines) if len(values) == header.count(",") + 1]
    if not rows:
        return {}
    losses = [row["loss"] for row in rows if row.get("loss")]  # a row of an evaluation has none
    return rows[-1] | {"loss": losses[-1] if losses else ""}


def progress_of(
    folder: str | os.PathLike,  # of the job
    total: int | None,  # steps, if known
) -> dict:  # columns of the ledger: current_step, loss, total_steps, progress
    "How far the run is: step, loss, percent (99 at most until it has completed)"
    folder = JobFolder(folder)
    total = total_steps_of(folder, total)
    row = last_row(folder.run_log)
    try:
        step = int(float(row["step"]))
        loss = float(row["loss"]) if row["loss"] else None
    except (KeyError, ValueError, OverflowError):
        step, loss = 0, None  # no row yet, or a table in which a step is no number, or infinite
    if loss is not None and not math.isfinite(loss):
        loss = None  # JSON has no NaN
    return dict(current_step=step, loss=loss, total_steps=total, progress=percent(step, total))


def total_steps_of(
    folder: JobFolder,  # of the job
    total: int | None,  # what was known before
) -> int | None:  # optimizer steps
    "How many steps a run will have, if it says so; else what was known before"
    # Only the trainer knows how many steps an epoch has.
    try:
        told = json.loads(folder.rollouts.read_text())["total_steps"]
    except (OSError, KeyError, TypeError, ValueError):
        return total  # not there yet, or damaged from outside
    return told if isinstance(told, int) else total


def percent(
    step: int,  # optimizer steps taken
    total: int | None,  # of so many; None or 0: not known
) -> float:  # 0 to 99
    "Progress of a run that has not completed"
    return min(most_before_the_end, 100 * step / total) if total else 0.0


class Progress:
    "Progress of running jobs, as columns of the ledger; it never falls within an attempt"

    def __init__(self):
        self.marks = {}  # (job_id, attempt) → `log_mark` of the log that was read last

    def columns(self,
        row,  # of the ledger
        folder: JobFolder,  # of that job
    ) -> dict:  # columns of the ledger
        "How far the job's latest attempt is; unchanged as long as its log has not changed"
        # After a restart the file still holds the rows of the attempt before, until the new one writes it
        # anew. So its mark at the start is kept in the ledger, and rows count only once the mark is another.
        mark = log_mark(folder.run_log)
        attempt = (row["job_id"], row["attempt"])
        if mark in (row["log_mark"], self.marks.get(attempt)):
            return dict(progress=row["progress"], current_step=row["current_step"])
        found = progress_of(folder, row["total_steps"])
        self.marks[attempt] = mark
        for column in ("progress", "current_step"):
            found[column] = max(found[column], row[column])
        return found
