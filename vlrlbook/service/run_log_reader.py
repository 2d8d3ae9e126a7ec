"""run_log.csv read once for all who ask: the rows as JSON, kept in memory and added to as the file grows.

Fifty listeners that each read a log of a thousand rows twice a second kept a processor busy and everybody else
waiting. Written by hand, not exported from a notebook."""
import csv
import io
import os
import threading
from bisect import bisect_right
from pathlib import Path

from ..settings import finite_number
from .log_lines import logger
from .replies import encoded

__all__ = ["RunLog", "RunLogs", "numbers_of_row"]

_most_logs = 16  # files remembered; a job that nobody asks about makes room for one that somebody does
_most_read_at_once = 8 << 20  # bytes


def numbers_of_row(
    names: list,  # columns
    values: list,  # texts
) -> dict | None:  # column → number or None; None: a row without a step
    "A row of a run's log as a client is told it"
    # A row with too many fields has values without a name; an empty field was not measured at this step.
    numbers = {name: finite_number(value) for name, value in zip(names, values) if name and value}
    step = numbers.get("step")
    return None if step is None else numbers | dict(step=int(step))


class _Rows:
    "What has been read of one file"
    def __init__(self, inode):
        self.inode = inode  # of the file; None: there is none
        self.read_to = 0  # bytes that have become rows
        self.names = []  # columns
        self.rows = []  # JSON of each, as bytes
        self.steps = []  # of the rows; added to last, so that whoever counts them finds their rows
        self.is_sorted = True  # every step is beyond the one before it


class RunLog:
    "One run_log.csv: its steps, and each row as the JSON that clients are sent"
    def __init__(self,
        path: Path,  # of the file; it may be missing, grow, or be replaced by a new one
    ):
        self.path = path
        self.reading = threading.Lock()
        self.read = _Rows(None)

    def after(self,
        step: int,  # only rows with later steps
    ) -> tuple:  # JSON of the rows, each as bytes; the latest step among them, or None
        "The rows beyond a step, with what has been written since somebody asked last"
        self.refresh()
        return self.known_after(step)

    def known_after(self,
        step: int,  # only rows with later steps
    ) -> tuple:  # JSON of the rows, each as bytes; the latest step among them, or None
        "The same of what has been read by now; it touches no file and waits for nobody"
        read = self.read
        number = len(read.steps)
        if not read.is_sorted:
            # A resumed run has written some steps a second time: the rows are looked through one by one.
            places = [place for place in range(number) if read.steps[place] > step]
            latest = read.steps[places[-1]] if places else None
            return [read.rows[place] for place in places], latest
        begin = bisect_right(read.steps, step, 0, number)
        return read.rows[begin:number], read.steps[number - 1] if begin < number else None

    def refresh(self):
        "Read what the file has got since the last time; one thread reads, the others wait for it"
        with self.reading:
            self._read_on()

    def _read_on(self):
        "The reading itself"
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            self.read = _Rows(None)
            return
        # A new attempt writes a new file; one that became shorter was written anew in its place.
        if found.st_ino != self.read.inode or found.st_size < self.read.read_to:
            self.read = _Rows(found.st_ino)
        if found.st_size == self.read.read_to:
            return
        try:
            with open(self.path, "rb") as file:
                while data := self._whole_lines(file):
                    self._take(data.decode("utf-8", "replace"))
        except (OSError, csv.Error) as error:
            # A folder in its place, or a disk that fails: whoever listens to the job's state must not suffer.
            logger.warning("run log", extra=dict(reason=str(error.args[-1])))

    def _whole_lines(self, file):
        "The next bytes of the file that end with a line break: half of 0.61 is 0.6, so a half line waits"
        file.seek(self.read.read_to)
        data = file.read(_most_read_at_once)
        end = data.rfind(b"\n") + 1
        self.read.read_to += end
        return data[:end]

    def _take(self, text):
        "Make rows of whole lines; the first line of the file names the columns"
        read = self.read
        for values in csv.reader(io.StringIO(text)):
            if not values:
                continue
            if not read.names:
                read.names = values
                continue
            numbers = numbers_of_row(read.names, values)
            if numbers is None:
                continue
            if read.steps and numbers["step"] <= read.steps[-1]:
                read.is_sorted = False
            read.rows.append(encoded(numbers))
            read.steps.append(numbers["step"])


class RunLogs:
    "The logs of the runs that were asked for last"
    def __init__(self):
        self.logs = {}  # path → `RunLog`, the one asked for longest ago first
        self.lock = threading.Lock()

    def of(self,
        path: Path,  # run_log.csv of a job
    ) -> RunLog:
        "The reader of a log, the same one for all who ask"
        with self.lock:
            log = self.logs.pop(path, None) or RunLog(path)
            self.logs[path] = log
            while len(self.logs) > _most_logs:
                del self.logs[next(iter(self.logs))]
            return log
