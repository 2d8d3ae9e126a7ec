"""run_log.csv read once for all who ask: the rows as JSON, kept in memory and added to as the file grows.

Fifty listeners that each read a log of a thousand rows twice a second kept a processor busy and everybody
else waiting. Written by hand, not exported from a notebook."""
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
_most_read_at_once = 8 << 20  # bytes; a line that is longer is no row of a run, and is passed over
_compared_bytes = 4096  # at both ends of what was read: the columns' names, and some dozens of rows


def numbers_of_row(
    names: list,  # columns
    values: list,  # texts
) -> dict | None:  # column → number or None; None: a row without a step
    """Return a row of a run's log as numbers by column, with the step as an int; None if it has no step.

    A value that is no finite number becomes None."""
    # `zip` drops values beyond the last column; an empty field was not measured at this step.
    numbers = {name: finite_number(value) for name, value in zip(names, values) if name and value}
    step = numbers.get("step")
    return None if step is None else numbers | dict(step=int(step))


class _Rows:
    "What has been read of one file so far"
    def __init__(self, inode):
        "Begin with an empty set of rows"
        self.inode = inode  # the file's number in its file system; None: no file
        self.state = None  # inode, size and time of change of the file when it was read last; None: never
        self.beginning = b""  # of what was read of the file, and its end; at most `_compared_bytes` each
        self.end = b""
        self.read_to = 0  # how many bytes of the file have become rows
        self.names = []  # of the columns
        self.rows = []  # each row as JSON bytes
        # Step of each row. A row is appended before its step, so another thread that counts the steps finds
        # that many rows.
        self.steps = []
        self.is_sorted = True  # each step is greater than the one before it
        self.in_long_line = False  # `read_to` lies within a line that is passed over since it is too long


class RunLog:
    "One run_log.csv: its steps, and each row as the JSON that clients are sent"
    def __init__(self,
        path: Path,  # of the file; it may be missing, grow, or be replaced by a new one
    ):
        "Read a run's log as it grows; rows that were read once are kept"
        self.path = path
        self.reading = threading.Lock()  # held by the one thread that reads the file
        self.read = _Rows(None)  # nothing yet, of no file

    def after(self,
        step: int,  # only rows with later steps
    ) -> tuple:  # JSON of the rows, each as bytes; the step of the last of them, or None
        "Read what was added to the file, and return the rows with a later step than `step`"
        self.refresh()
        return self.known_after(step)

    def known_after(self,
        step: int,  # only rows with later steps
    ) -> tuple:  # JSON of the rows, each as bytes; the step of the last of them, or None
        "Return the rows with a later step among those read so far; it reads no file and waits for no lock"
        read = self.read  # `_Rows`: the lists `rows` and `steps` belong together, item by item
        row_count = len(read.steps)  # counted once: another thread may append rows meanwhile
        if read.is_sorted:  # each step is greater than the one before it
            begin = bisect_right(read.steps, step, 0, row_count)  # the first row with a later step
            last_step = read.steps[row_count - 1] if begin < row_count else None
            return read.rows[begin:row_count], last_step
        # A resumed run has written some steps a second time, so every row is compared.
        later = [i for i in range(row_count) if read.steps[i] > step]
        last_step = read.steps[later[-1]] if later else None  # which need not be the highest step
        return [read.rows[i] for i in later], last_step

    def refresh(self):
        "Read what was added to the file since the last time; one thread reads, the others wait for it"
        with self.reading:
            self._read_on()

    def _read_on(self):
        """Add to `self.read`, a `_Rows`, what was added to the file; begin anew if it is another file.

        Must be called with the lock `self.reading` held."""
        try:
            stat = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            self.read = _Rows(None)
            return
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if state == self.read.state:
            return  # nothing was written since the last time
        if stat.st_ino != self.read.inode:  # another file has this name now
            self.read = _Rows(stat.st_ino)
        try:
            with open(self.path, "rb") as file:
                # It begins anew, too, where the bytes that were read are no longer in the file.
                self._read_new_lines(file)
        except OSError as error:
            # The path is a folder, or the disk fails. Only logged: the job's state must still be told to
            # those who listen to it. `args[-1]` is the message without the path.
            _warn(error.args[-1])
        else:
            self.read.state = state

    def _read_new_lines(self, file):
        "Add to `self.read` the file's complete lines behind those that were read; of another file, all"
        # A new attempt of a job writes a new file, and so does a new column. It may have the inode of the
        # one before, which the system gives again, and be longer: what was read must still stand there.
        if self._ends_of_read_part(file) != (self.read.beginning, self.read.end):
            self.read = _Rows(self.read.inode)
        # Complete lines from `read_to` on, at most 8 MiB at a time; `read_to` is moved behind them.
        while data := self._whole_lines(file):
            self._take(data.decode("utf-8", "replace"))
        self.read.beginning, self.read.end = self._ends_of_read_part(file)

    def _ends_of_read_part(self, file):
        "The first and the last bytes, at most `_compared_bytes` each, of the file's bytes before `read_to`"
        length = min(_compared_bytes, self.read.read_to)
        file.seek(0)
        beginning = file.read(length)
        file.seek(self.read.read_to - length)
        return beginning, file.read(length)

    def _whole_lines(self, file):
        """Return the next bytes of the file up to their last line break, and move `read_to` behind them.

        A line that the run has not finished is left for the next time: half of 0.61 would be read as 0.6."""
        data = self._next_bytes(file)
        may_begin_long_line = len(data) == _most_read_at_once and b"\n" not in data
        if may_begin_long_line or self.read.in_long_line:  # rare: as a rule the bytes are read only once
            self._pass_long_lines(file)
            data = self._next_bytes(file)
        end = data.rfind(b"\n") + 1  # 0 without a line break
        self.read.read_to += end
        return data[:end]

    def _next_bytes(self, file):
        "The file's bytes from `read_to` on, at most 8 MiB; `read_to` stays"
        file.seek(self.read.read_to)
        return file.read(_most_read_at_once)

    def _pass_long_lines(self, file):
        """Move `read_to` behind lines that are longer than what is read at once, as a damaged log may hold.

        Their end would never be seen, and no later row be shown. If the last line is such a one and has no
        end yet, `read_to` is moved to the end of the file, and `in_long_line` is left True."""
        read = self.read
        while True:
            data = self._next_bytes(file)
            end = data.find(b"\n") + 1  # of the first line; 0 without a line break
            is_full = len(data) == _most_read_at_once
            if not read.in_long_line:
                if end or not is_full:
                    return
                read.in_long_line = True
                size = f"more than {_most_read_at_once} bytes"
                _warn(f"a line of {size}, from byte {read.read_to} on, is left out")
            read.read_to += end or len(data)
            if end:
                read.in_long_line = False
            elif not is_full:
                return  # the rest of the line is not written yet

    def _take(self, text):
        "Add complete lines of the CSV file to `self.read` as rows; the file's first line names the columns"
        read = self.read  # `_Rows`: names of the columns, rows as JSON, and the step of each row
        for values in _readable_rows(text):
            if not values:
                continue  # an empty line
            if not read.names:
                read.names = values
                continue
            numbers = numbers_of_row(read.names, values)  # column → number
            if numbers is None:
                continue  # the row has no step
            if read.steps and numbers["step"] <= read.steps[-1]:
                read.is_sorted = False  # `known_after` can no longer search by bisection
            read.rows.append(encoded(numbers))  # as JSON bytes, made once and sent to every client
            read.steps.append(numbers["step"])


def _readable_rows(text):
    "Yield the rows of a CSV text as lists of fields; one that the reader refuses is left out, and logged"
    rows = csv.reader(io.StringIO(text))
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # Such as a field of over 131,072 characters. The next call goes on behind it.
            _warn(f"line {rows.line_num} of those read now is left out: {error}")


def _warn(reason):
    "Say in the server's log what is wrong with a run's log"
    logger.warning("run log", extra=dict(reason=str(reason)))


class RunLogs:
    "The logs of the runs that were asked for last"
    def __init__(self):
        self.logs = {}  # path → `RunLog`, the one asked for longest ago first
        self.lock = threading.Lock()

    def of(self,
        path: Path,  # run_log.csv of a job
    ) -> RunLog:
        "Return the reader of a log, the same one for all clients; the least recently used ones are dropped"
        with self.lock:
            log = self.logs.pop(path, None) or RunLog(path)
            self.logs[path] = log  # now the last one, since a dict keeps the order of insertion
            while len(self.logs) > _most_logs:
                longest_unused = next(iter(self.logs))
                del self.logs[longest_unused]
            return log
