"""What has become of running jobs: which ended, which died, how far the others are.

Everything is decided by what can be read again after a crash: the ledger, the locks, the outcome files. So a
server that begins needs no memory of the one before it. Written by hand, not exported from a notebook."""
import threading
import time

from .errors import LedgerUnavailable
from .folder import DataFolder, JobFolder
from .job import live
from .ledger import Ledger, logger
from .lock_file import cancel_order, give_order, interrupt_order
from .outcome import Outcome, outcome_content
from .progress import Progress, newest_checkpoint
from .result import problem_of
from .retention import ServiceClock

__all__ = ["RunningJobs"]

seconds_between_looks = 0.02  # while a server that ends waits for its jobs


class RunningJobs:
    "Looks after the jobs that have processes"

    def __init__(self,
        ledger: Ledger,  # of the data directory
        data: DataFolder,  # the data directory
        backend,  # where supervisors run, such as LocalBackend
        clock: ServiceClock,  # of the data directory
    ):
        self.ledger = ledger
        self.data = data
        self.backend = backend
        self.clock = clock
        self.progress = Progress()
        self.looking = threading.Lock()
        self.told = {}  # (job_id, attempt) → what was logged of it last

    def look_at_all(self):
        "Look at each running job once"
        for row in self.ledger.running():
            try:
                self.look_at(row)
            except LedgerUnavailable:
                raise  # it is the same for every job
            except Exception as e:
                # Told and tried again at the next look. Whatever is wrong with this job's files, the jobs
                # beside it and behind it must not wait for somebody who mends them.
                self._tell_once(row, e)

    def _tell_once(self, row, error):
        "Log what went wrong with a job, unless the same was logged for this attempt before"
        key = (row["job_id"], row["attempt"])
        said = f"{type(error).__name__}: {error}"
        if self.told.get(key) != said:
            self.told[key] = said
            logger.error("looking at job %s: %s", row["job_id"], said, exc_info=error)

    def look_at(self,
        row,  # of the ledger, of a job that is training or cancelling
    ):
        "Has the job ended, has it died, or how far is it? The ledger gets the answer"
        # One thread at a time, with the row as it is now. Else a request that still sweeps up after a dead
        # attempt could kill the trainer of the next one, which the dispatcher has started meanwhile.
        with self.looking:
            now = self.ledger.job(row["job_id"])
            if now is not None and now["status"] in live and now["attempt"] == row["attempt"]:
                self._look_at(now)

    def _look_at(self, row):
        "The same, alone, with a row that is fresh"
        folder = self.data.job(row["job_id"])
        # In this order. A supervisor writes its outcome before it lets go of the lock, and
        # nothing afterwards. Asked the other way round, one that ends between the questions would
        # look dead without an outcome.
        alive = self.backend.alive(folder.path, row["handle"])
        outcome = Outcome.read(folder, row["attempt"])
        if alive and outcome:
            return  # it is about to let go of its lock; the next look closes the job
        if alive:
            self._go_on(row, folder)
            return
        if outcome is None:
            # The supervisor was killed. Before the job can start again nobody of it may
            # live, or it runs twice.
            if not self.backend.sweep(folder.path, row["handle"]):
                return  # tried again at the next look
            outcome = outcome_of_killed_attempt(folder)
        self._close(row, folder, outcome)

    def _go_on(self, row, folder):
        "Write down how far a living job is, and repeat an order to stop"
        if row["status"] == "cancelling":
            # The server that was asked may have died before it gave the order.
            give_order(folder.lock, cancel_order, row["attempt"])
            self.backend.withdraw(folder.path, row["handle"])
        columns = self.progress.columns(row, folder)
        # Each write waits for the disk, ten times a second for each job: only changes are written.
        has_changed = any(value != row[column] for column, value in columns.items())
        if has_changed:
            self.ledger.save_progress(row["job_id"], row["attempt"], columns)

    def _close(self, row, folder, outcome):
        "Write down how a job's attempt ended"
        state = outcome["state"]
        if state == "interrupted" and row["status"] == "cancelling":
            state = "cancelled"  # its owner wanted it stopped, and it is
        columns = self.progress.columns(row, folder) | self.clock.end_columns()
        columns["error_code"] = outcome["error_code"]
        columns["error_message"] = outcome["error_message"]
        if state == "completed":
            columns["progress"] = 100.0
        if state == "interrupted":
            columns["restarts"] = restarts_after(row, folder, outcome)
        why = outcome["error_code"] or outcome.get("why", "its outcome says so")
        self.ledger.move(row["job_id"], live, state, why, of_attempt=row["attempt"], **columns)

    def interrupt_all(self,
        timeout: float,  # seconds to wait for them
    ):
        "Have every running job save a checkpoint and stop, and wait for it"
        for row in self.ledger.running():
            # One that is being cancelled must not be told to save and go on later.
            order = interrupt_order if row["status"] == "training" else cancel_order
            try:
                give_order(self.data.job(row["job_id"]).lock, order, row["attempt"])
            except OSError as e:
                # Its folder is gone: nobody lives there who could obey, and the others must hear of it.
                logger.warning("job %s cannot be told to stop: %s", row["job_id"], e.strerror)
        deadline = time.monotonic() + timeout
        while self.ledger.running() and time.monotonic() < deadline:
            self.look_at_all()
            time.sleep(seconds_between_looks)


def outcome_of_killed_attempt(
    folder: JobFolder,  # of a job none of whose processes lives
) -> dict:  # state, error_code, error_message, and why: for the log of moves
    "How an attempt ended whose supervisor was killed before it could say so"
    # The result is a trainer's last act: where it is whole, nothing is left to be done.
    if problem_of(folder.result) is None:
        return outcome_content("completed") | {"why": "its result lies there"}
    return outcome_content("interrupted") | {"why": "its supervisor died"}


def restarts_after(
    row,  # of the ledger, of a job that was interrupted now
    folder: JobFolder,  # of that job
    outcome: dict,  # with `why` if its supervisor was killed
) -> int:  # for the ledger's column `restarts`
    "How often a job has started by itself without a step forward, before it is started by itself again"
    if "why" not in outcome:
        # Stopped by order, which is no fault of the job: the start that follows is not counted.
        return row["restarts"] - 1
    newest = newest_checkpoint(folder.run)
    has_advanced = newest is not None and newest.name != row["resumed_from"]
    return 0 if has_advanced else row["restarts"]
