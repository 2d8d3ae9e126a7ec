"""The ledger: one SQLite file that says what each job is. All SQL of the jobs wing stands here.

A change is one transaction, and it is on the disk before anybody hears of it. A state changes in one way
only, by `Ledger.move`: "update it where it still is what I think it is". Written by hand, not exported from a
notebook."""
import json
import logging
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from .errors import LedgerUnavailable
from .job import ends, live, moves, utc

__all__ = ["logger", "schema", "new_job", "ledger_problem", "Ledger"]

logger = logging.getLogger("vlrlbook.jobs")

# Times are texts, for people. What decides is a number that no clock can change: `place` for the
# order in which jobs start, `number` for the pages of a list, `ended_clock` (seconds of service) for
# the age of an ended job.
schema = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE NOT NULL, job_name TEXT,
  status TEXT NOT NULL, place INTEGER NOT NULL,
  progress REAL NOT NULL DEFAULT 0, current_step INTEGER NOT NULL DEFAULT 0, total_steps INTEGER, loss REAL,
  created_at TEXT, updated_at TEXT, started_at TEXT, ended_at TEXT, error_code TEXT, error_message TEXT,
  attempt INTEGER NOT NULL DEFAULT 0, restarts INTEGER NOT NULL DEFAULT 0, resumed_from TEXT,
  parameters TEXT NOT NULL,
  slot TEXT, handle TEXT, log_mark TEXT, ended_clock REAL, key TEXT UNIQUE, request_hash TEXT);
CREATE TABLE IF NOT EXISTS moves (
  number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, attempt INTEGER, time TEXT NOT NULL,
  before TEXT, after TEXT NOT NULL, why TEXT);
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, place);
CREATE INDEX IF NOT EXISTS by_job ON moves (job_id);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value REAL);
CREATE TABLE IF NOT EXISTS removed (job_id TEXT PRIMARY KEY);
"""

new_job = """
INSERT INTO jobs (job_id, job_name, status, place,
  created_at, updated_at, parameters, total_steps, key, request_hash)
VALUES (?, ?, 'queued', (SELECT coalesce(max(place), 0) + 1 FROM jobs),
  ?, ?, ?, ?, ?, ?)"""

# A job whose row was lost and that was found again by its folder. Its number and place are the next ones.
adopted_job = """
INSERT INTO jobs (job_id, job_name, status, place, progress, current_step, total_steps, loss,
  created_at, updated_at, error_code, error_message, attempt, parameters, slot, ended_clock)
VALUES (:job_id, :job_name, :status, (SELECT coalesce(max(place), 0) + 1 FROM jobs),
  :progress, :current_step, :total_steps, :loss,
  :created_at, :now, :error_code, :error_message, :attempt, :parameters, :slot, :ended_clock)"""

# Seconds that SQLite waits while another process writes, before it says "database is locked".
lock_patience = 2
beyond_all_numbers = 2**62  # no row's number is as high


def ledger_problem(
    path: str | Path,  # of a ledger
) -> str | None:  # "is missing", "is empty" or what SQLite says; None: it is there and sound
    """Say what is wrong with a ledger file.

    `Ledger` makes a new file where there is none, so this is asked before one is opened."""
    path = Path(path)
    if not path.exists():
        return "is missing"
    # SQLite would take an empty file for a new one, and delete the write-ahead log that may hold all jobs.
    if path.is_file() and path.stat().st_size == 0:
        return "is empty"

    try:
        db = sqlite3.connect(path, timeout=lock_patience)
    except sqlite3.Error as e:
        return f"cannot be opened: {e}"
    try:
        return _content_problem(db)
    except sqlite3.OperationalError as e:
        if "locked" in str(e):
            return None  # another process writes; it is there
        return f"cannot be read: {e}"
    except sqlite3.Error as e:
        return f"cannot be read: {e}"
    finally:
        db.close()


def _content_problem(
    db,  # an open sqlite3 connection
):
    "Say what is wrong with a database that should be a ledger, such as `is no ledger`; None if it is sound"
    check_result = db.execute("PRAGMA quick_check").fetchone()[0]  # "ok", or lines that name faults
    columns = {row[1] for row in db.execute("PRAGMA table_info(jobs)")}  # row[1]: a column's name
    if check_result != "ok":
        # The last line names a fault; the first may only say in which database it is.
        return f"is damaged: {check_result.splitlines()[-1]}"
    # These are enough to tell the ledger from any other SQLite file.
    missing_columns = {"job_id", "status", "place", "attempt", "parameters"} - columns
    return "is no ledger of jobs" if missing_columns else None


def _compare_and_set(
    columns,  # names of the columns to set, such as status and updated_at
    states,  # in which the job must be; of none, nothing is changed
):
    """The SQL, with question marks, that sets columns of a job if it is in one of `states` and at an attempt.

    The values for its question marks, in this order: those of the columns, the job's id, the states, the
    attempt (None: any)."""
    assignments = ", ".join(f"{column} = ?" for column in columns)
    placeholders = ", ".join("?" * len(states))
    # Where the attempt is None (NULL), coalesce compares the column with itself.
    return (f"UPDATE jobs SET {assignments} WHERE job_id = ? AND status IN ({placeholders}) "
            "AND attempt = coalesce(?, attempt)")


class Ledger:
    "One SQLite file; every change is one transaction that is on the disk before anybody hears of it"

    def __init__(self,
        path: str | Path,  # made if it is not there
        wall=time.time,  # function without arguments: the time that is shown, in seconds since 1970
    ):
        "Open the ledger's SQLite file; a file or a table that is missing is made"
        self.lock = threading.RLock()  # held by the one thread that uses the connection
        self.wall = wall
        with self._errors_renamed():
            self.db = sqlite3.connect(
                path,
                timeout=lock_patience,
                isolation_level=None,  # sqlite3 begins no transactions by itself: `write` begins them
                check_same_thread=False)  # all threads of a server share this connection
            self.db.row_factory = sqlite3.Row
            self.db.execute("PRAGMA journal_mode=WAL")  # readers go on reading while somebody writes
            self.db.execute("PRAGMA synchronous=FULL")  # a transaction counts once it is on the disk
            self.db.executescript(schema)  # makes the tables that are not there yet

    def close(self):
        "Let go of the file"
        with self.lock:
            self.db.close()

    def now(self) -> str:
        "The time that is shown, as the ledger writes it"
        return utc(self.wall())

    # Reading and writing

    @contextmanager
    def _errors_renamed(self):
        "Raise every error of SQLite inside this block, such as a full disk, as LedgerUnavailable"
        try:
            yield
        except sqlite3.Error as e:
            raise LedgerUnavailable(f"the ledger cannot be used now: {e}") from e

    @contextmanager
    def write(self):
        """Yield the connection inside a transaction, which is committed at the end of the block.

        An error in the block undoes all its changes; one of SQLite is raised as LedgerUnavailable."""
        with self.lock, self._errors_renamed():
            # IMMEDIATE: the right to write is taken now. A plain BEGIN takes it at the first UPDATE, where
            # it could be refused halfway.
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                # SQLite ends the transaction itself after some errors, such as a full disk.
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def read(self,
        query: str,  # SQL
        *values,  # for its question marks
    ) -> list:  # of sqlite3.Row
        "Run a query and return all its rows; LedgerUnavailable if the file cannot be read"
        with self.lock, self._errors_renamed():
            return self.db.execute(query, values).fetchall()

    def _read_one(self, query, *values):
        "The first row of an SQL query, or None; `values` are for its question marks"
        rows = self.read(query, *values)
        return rows[0] if rows else None

    # States

    def move(self,
        job_id: str,  # which job
        expected: str | tuple,  # states it must be in
        to: str,  # its new state
        why: str,  # for the log of moves
        of_attempt: int = None,  # the attempt that it must still be at; None: any
        **columns,  # other columns to set
    ) -> bool:  # False: it was in another state or at another attempt, and nothing changed
        """Change a job's state, if it is still in an expected one (compare and set).

        This is the only way in which a state changes."""
        expected = (expected,) if isinstance(expected, str) else expected
        # moves: state → states that may follow it. If none is left, nothing is changed.
        allowed = [state for state in expected if to in moves[state]]
        columns = {"status": to, "updated_at": self.now(), **columns}
        with self.write() as db:  # a transaction
            before = db.execute("SELECT status, attempt FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            # What the caller has read of the job may be old, so the UPDATE itself compares state and attempt.
            update = _compare_and_set(columns, allowed)  # SQL with question marks for the values below
            done = db.execute(update, (*columns.values(), job_id, *allowed, of_attempt))
            if not done.rowcount:
                return False
            # Logged in the same transaction, so that the log of moves misses no change. `before` is not None,
            # since a row was changed. An attempt among the columns is the new one.
            attempt = columns.get("attempt", before["attempt"])
            self.log(db, job_id, attempt, before=before["status"], after=to, why=why)
            return True

    def log(self,
        db: sqlite3.Connection,  # inside a transaction of `write`
        job_id: str,  # which job
        attempt: int,  # of that job
        before: str | None,  # state; None for a new job
        after: str,  # state
        why: str,  # for people
    ):
        "Add a change of state to the ledger's table `moves`, and to the program's log"
        logger.info("%s: %s → %s, %s", job_id, before, after, why)
        values = (job_id, attempt, self.now(), before, after, why)
        columns = "job_id, attempt, time, before, after, why"
        db.execute(f"INSERT INTO moves ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)

    # One job

    def add_job(self,
        db: sqlite3.Connection,  # inside a transaction of `write`
        job_id: str,  # new
        job_name: str,  # as its owner calls it
        parameters: dict,  # JSON
        total_steps: int | None,  # if it is known
        key: str | None,  # Idempotency-Key: a request that comes again with it gets the same job
        request_hash: str | None,  # of the request: a later one with the same key must have the same hash
    ):
        "Add the row of a new job, which waits behind all others"
        now = self.now()
        text = json.dumps(parameters)
        # In the order of `new_job`'s question marks; the two times are created_at and updated_at.
        db.execute(new_job, (job_id, job_name, now, now, text, total_steps, key, request_hash))
        self.log(db, job_id, attempt=0, before=None, after="queued", why="submitted")

    def job(self,
        job_id: str,  # any text
    ) -> sqlite3.Row | None:
        "The row of a job; None if there is no such job"
        return self._read_one("SELECT * FROM jobs WHERE job_id = ?", job_id)

    def job_by_key(self,
        key: str,  # Idempotency-Key
    ) -> sqlite3.Row | None:
        "The row of the job that was submitted with a key; None if there is none"
        return self._read_one("SELECT * FROM jobs WHERE key = ?", key)

    def history(self,
        job_id: str,  # which job
    ) -> list:  # rows of the log of moves
        "Every move of a job, the first one first"
        return self.read("SELECT * FROM moves WHERE job_id = ? ORDER BY number", job_id)

    def save_handle(self,
        job_id: str,  # of a job that was started
        handle: str,  # what its back end returned
    ):
        "Write down the handle by which the back end knows a job's supervisor"
        with self.write() as db:
            db.execute("UPDATE jobs SET handle = ? WHERE job_id = ?", (handle, job_id))

    def save_progress(self,
        job_id: str,  # which job
        attempt: int,  # to which the progress belongs
        columns: dict,  # current_step, loss, total_steps, progress
    ):
        "Write down how far an attempt is; nothing changes if that attempt no longer runs"
        assignments = ", ".join(f"{column} = ?" for column in columns)
        values = (*columns.values(), self.now(), job_id, attempt)
        # `live` is a tuple of texts, which SQL writes as Python does.
        update = (f"UPDATE jobs SET {assignments}, updated_at = ? "
                  f"WHERE job_id = ? AND attempt = ? AND status IN {live}")
        with self.write() as db:
            db.execute(update, values)

    def forget(self,
        job_id: str,  # which job
        status: str,  # the state it must still be in
    ) -> bool:  # False: it was in another state, and nothing changed
        "Delete a job's rows, and note that its folder is to be deleted too, which the caller does next"
        with self.write() as db:
            done = db.execute("DELETE FROM jobs WHERE job_id = ? AND status = ?", (job_id, status))
            if not done.rowcount:
                return False
            db.execute("DELETE FROM moves WHERE job_id = ?", (job_id,))  # its changes of state
            # By this note the next server deletes the folder if this one dies first. A folder without row and
            # note would be kept, since it may be all that is left of a finished job.
            db.execute("INSERT OR IGNORE INTO removed VALUES (?)", (job_id,))
            return True

    def removed(self) -> list:  # of job ids
        "Jobs that were to be removed and whose folders may still be there"
        return [row["job_id"] for row in self.read("SELECT job_id FROM removed")]

    def removal_done(self,
        job_id: str,  # whose folder is gone
    ):
        "Delete the note that a job's folder is to be removed, once that is done"
        with self.write() as db:
            db.execute("DELETE FROM removed WHERE job_id = ?", (job_id,))

    def adopt(self,
        columns: dict,  # job_id, status and the other columns that `adopted_job` names, except `now`
    ):
        "Add a row for a job whose folder was found and whose row was lost"
        with self.write() as db:
            # adopted_job: the SQL that inserts the row, with placeholders such as :job_id
            db.execute(adopted_job, columns | dict(now=self.now()))
            self.log(db, columns["job_id"], columns["attempt"],
                     before=None, after=columns["status"], why="found by its folder")

    # Many jobs

    def page(self,
        status: str | None,  # only jobs in this state; None: all
        before: int | None,  # only rows with lower numbers; None: from the newest on
        limit: int,  # at most so many
    ) -> list:  # rows of jobs
        "A page of at most `limit` jobs, the newest first: the newest has the highest row number"
        # With the status None (NULL) the condition in brackets holds for every job.
        query = ("SELECT * FROM jobs WHERE number < ? AND (? IS NULL OR status = ?) "
                 "ORDER BY number DESC LIMIT ?")
        before = beyond_all_numbers if before is None else before
        return self.read(query, before, status, status, limit)

    def running(self) -> list:  # rows of jobs
        "Jobs that are training or cancelling, in the order in which they were queued"
        # `live` is a tuple of texts, which SQL writes as Python does.
        return self.read(f"SELECT * FROM jobs WHERE status IN {live} ORDER BY place")

    def next_waiting(self) -> sqlite3.Row | None:
        "The job that has waited longest; None if none waits"
        return self._read_one("SELECT * FROM jobs WHERE status = 'queued' ORDER BY place LIMIT 1")

    def waiting(self) -> int:
        "How many jobs wait"
        return self._read_one("SELECT count(*) AS n FROM jobs WHERE status = 'queued'")["n"]

    def interrupted(self,
        restarts: int,  # a job that was restarted automatically so often is left out
    ) -> list:  # rows of jobs
        "Interrupted jobs that may be restarted automatically"
        return self.read("SELECT * FROM jobs WHERE status = 'interrupted' AND restarts < ?", restarts)

    def restarted_too_often(self,
        restarts: int,  # the most automatic restarts of a job
    ) -> list:  # rows of jobs
        "Interrupted jobs that were restarted automatically so often that nothing restarts them any more"
        return self.read("SELECT * FROM jobs WHERE status = 'interrupted' AND restarts >= ?", restarts)

    def ended(self) -> list:  # rows with job_id and ended_clock
        "Jobs that are completed, failed or cancelled; the one that ended first comes first"
        # `ends` is a tuple of texts, which SQL writes as Python does.
        return self.read(f"SELECT job_id, ended_clock FROM jobs WHERE status IN {ends} ORDER BY ended_clock")

    def job_ids(self) -> set:
        "Ids of all jobs"
        return {row["job_id"] for row in self.read("SELECT job_id FROM jobs")}

    def last_place(self) -> int:
        "The place behind all jobs"
        return self._read_one("SELECT max(place) + 1 AS place FROM jobs")["place"]

    # Seconds of service

    def saved_clock(self) -> float:
        "Seconds for which servers have worked on this data directory, as last saved; 0 in a new one"
        row = self._read_one("SELECT value FROM facts WHERE name = 'clock'")
        return row["value"] if row else 0.0

    def save_clock(self,
        seconds: float,  # for which servers have worked on this data directory
    ):
        "Save the seconds of service, from which the next server goes on counting"
        upsert = ("INSERT INTO facts VALUES ('clock', ?) "
                  "ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        with self.write() as db:
            db.execute(upsert, (seconds,))
