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
from .outcome import Outcome, outcome_content, told_by_outcome
from .progress import Progress, newest_checkpoint
from .result import problem_of
from .retention import ServiceClock

__all__ = ["RunningJobs"]

seconds_between_looks = 0.02  # while a server that ends waits for its jobs


class RunningJobs:
    "Looks after the jobs that have processes"

    def __init__(self,
        ledger: Ledger,  # SQLite file with the state of each job
        data: DataFolder,  # names all files of the data directory
        backend,  # where supervisors run, such as LocalBackend
        clock: ServiceClock,  # seconds for which the data directory has been served
    ):
        self.ledger = ledger
        self.data = data
        self.backend = backend
        self.clock = clock
        self.progress = Progress()  # reads from the files of a job how far it is, for the ledger
        self.looking = threading.Lock()  # held by the thread that looks at a job: one at a time
        self.logged_errors = {}  # (job_id, attempt) → text of the error that was logged last

    def look_at_all(self):
        "Check each running job once; an error with one of them is logged and does not stop the others"
        for row in self.ledger.running():
            try:
                self.look_at(row)
            except LedgerUnavailable:
                raise  # every other job would have the same error
            except Exception as e:
                # The next round tries again. The other jobs must not wait until this one's files are mended.
                self._log_once(row, e)

    def _log_once(self,
        row,  # of the ledger's table of jobs
        error,  # the exception that was raised while the job was looked at
    ):
        "Log an error with a job, unless the same one was the last that was logged for this attempt"
        attempt = (row["job_id"], row["attempt"])
        message = f"{type(error).__name__}: {error}"
        if self.logged_errors.get(attempt) != message:
            self.logged_errors[attempt] = message
            logger.error("looking at job %s: %s", row["job_id"], message, exc_info=error)

    def look_at(self,
        row,  # of the ledger's table of jobs: a job that is training or cancelling
    ):
        "Find out whether a job goes on, has ended or has died, and write that into the ledger"
        # The dispatcher may have started the job's next attempt since `row` was read. Judged by the old row,
        # it would be taken for dead and killed: so the row is read again, by one thread at a time.
        with self.looking:
            current_row = self.ledger.job(row["job_id"])
            if current_row is None or current_row["status"] not in live:
                return
            if current_row["attempt"] == row["attempt"]:
                self._look_at_current(current_row)

    def _look_at_current(self,
        row,  # of the ledger's table of jobs, read just now: a job that is training or cancelling
    ):
        "Find out what became of a job's attempt, and write it down; the caller holds the lock `self.looking`"
        folder = self.data.job(row["job_id"])
        # `alive` must come first: a supervisor that wrote its outcome and ended between the two reads would
        # else seem to have died without an outcome.
        alive = self.backend.alive(folder.path, row["handle"])  # whether its supervisor lives
        outcome = Outcome.read(folder, row["attempt"])  # None where the attempt has not ended, or was killed
        if alive and outcome:
            return  # it is about to let go of its lock; the next look closes the job
        if alive:
            self._go_on(row, folder)  # writes how far it is
            return
        if outcome is None:
            # The supervisor was killed: what it left running is killed, too. None: something still lives.
            outcome = self._outcome_after_sweep(row, folder)
        if outcome is not None:
            self._close(row, folder, outcome)  # writes into the ledger how it ended

    def _outcome_after_sweep(self,
        row,  # of the ledger's table of jobs: a job whose supervisor was killed
        folder,  # JobFolder of that job
    ):  # dict of state, error_code, error_message and why; None if something still lives
        "Kill the processes that a killed supervisor has left running, and judge how the job's attempt ended"
        # All processes must be dead before the job can be started again: else it would run twice.
        nothing_left = self.backend.sweep(folder.path, row["handle"])  # kills them
        if not nothing_left:
            return None  # tried again at the next look
        return outcome_of_killed_attempt(folder)  # completed if its result is there, else interrupted

    def _go_on(self,
        row,  # of the ledger's table of jobs: a job whose supervisor lives
        folder,  # of that job
    ):
        "Write into the ledger how far a running job is; if it is being cancelled, repeat the order to stop"
        if row["status"] == "cancelling":
            # The server that was asked to cancel it may have died before it gave the order.
            give_order(folder.lock, cancel_order, row["attempt"])  # the supervisor reads it in the lock file
            # A supervisor that still waits for a node of a cluster reads no order: it is taken off the queue.
            self.backend.withdraw(folder.path, row["handle"])
        columns = self.progress.columns(row, folder)  # current_step, progress, …
        # Only changes are written: a write waits for the disk, and each job is looked at ten times a second.
        has_changed = any(value != row[column] for column, value in columns.items())
        if has_changed:
            self.ledger.save_progress(row["job_id"], row["attempt"], columns)

    def _close(self,
        row,  # of the ledger's table of jobs: a job none of whose processes lives
        folder,  # of that job
        outcome,  # dict: state, error_code, error_message; `why` where its supervisor was killed
    ):
        "Write into the ledger how a job's attempt ended"
        state = outcome["state"]
        if state == "interrupted" and row["status"] == "cancelling":
            state = "cancelled"  # its owner wanted it stopped, and it is
        columns = self.progress.columns(row, folder)  # how far it came
        columns |= self.clock.end_columns()  # when it ended
        columns["error_code"] = outcome["error_code"]
        columns["error_message"] = outcome["error_message"]
        if state == "completed":
            columns["progress"] = 100.0
        if state == "interrupted":
            columns["restarts"] = restarts_after(row, folder, outcome)  # after too many it is not restarted
        why = outcome["error_code"] or outcome.get("why", told_by_outcome)  # for the log
        if outcome.get("note"):  # such as: it was killed before it had saved
            why += f": {outcome['note']}"
        # Changes nothing if the job is no longer `live` (training, cancelling) or is at a later attempt.
        self.ledger.move(row["job_id"], live, state, why, of_attempt=row["attempt"], **columns)

    def interrupt_all(self,
        timeout: float,  # seconds to wait for the jobs
    ) -> dict:  # number of jobs: saved, killed (before they had saved), running (still, after the time)
        "Order every running job to save a checkpoint and stop, and wait for them, at most `timeout`"
        ordered = self.ledger.running()
        for row in ordered:
            self._order_to_stop(row)
        deadline = time.monotonic() + timeout
        while self.ledger.running() and time.monotonic() < deadline:
            self.look_at_all()  # writes down which have ended, so that `running` no longer lists them
            time.sleep(seconds_between_looks)
        return self._how_they_stopped(ordered)

    def _how_they_stopped(self,
        ordered,  # rows of the ledger: jobs that were ordered to stop
    ):
        "Count the jobs that saved and wait, those that were killed before that, and those that still run"
        counts = dict(saved=0, killed=0, running=0)
        for row in ordered:
            job = self.ledger.job(row["job_id"])
            if job is None:
                continue
            if job["status"] in live:
                counts["running"] += 1
            elif job["status"] == "interrupted":
                outcome = Outcome.read(self.data.job(row["job_id"]), row["attempt"])
                # None: its supervisor died.
                has_saved = outcome is not None and not outcome.get("note")
                counts["saved" if has_saved else "killed"] += 1
        return counts

    def _order_to_stop(self, row):
        "Write into the lock file of a running job, a row of the ledger, that its supervisor is to stop it"
        # A job that is being cancelled must not go on later, so its order stays `cancel`.
        order = interrupt_order if row["status"] == "training" else cancel_order
        try:
            give_order(self.data.job(row["job_id"]).lock, order, row["attempt"])
        except OSError as e:
            # Its folder is gone, so no supervisor is there to obey. The other jobs get their orders.
            logger.warning("job %s cannot be told to stop: %s", row["job_id"], e.strerror)


def outcome_of_killed_attempt(
    folder: JobFolder,  # of a job none of whose processes lives
) -> dict:  # state, error_code, error_message, and `why`, a text for the log of moves
    "Judge how an attempt ended whose supervisor was killed before it wrote an outcome"
    # The result is a trainer's last act: if it is there and undamaged, nothing is left to be done.
    if problem_of(folder.result) is None:
        return outcome_content("completed") | {"why": "its result lies there"}
    return outcome_content("interrupted") | {"why": "its supervisor died"}


def restarts_after(
    row,  # of the ledger's table of jobs: a job that was interrupted now
    folder: JobFolder,  # of that job
    outcome: dict,  # how the attempt ended; `outcome_of_killed_attempt` puts in `why`, a supervisor does not
) -> int:  # for the ledger's column `restarts`; -1 is possible
    """Count the automatic restarts of a job since its last new checkpoint, when it has been interrupted.

    `WaitingJobs.queue_interrupted` adds one each time it restarts the job, and gives up after too many."""
    # A supervisor that was not killed has stopped by order, such as that of a server that ends, and has
    # written the outcome itself. That is no failure: the one taken away here balances the one that the
    # restart adds.
    was_stopped_by_order = "why" not in outcome
    if was_stopped_by_order:
        return row["restarts"] - 1
    newest = newest_checkpoint(folder.run)
    # The ledger's `resumed_from` is the checkpoint with which this attempt began.
    has_new_checkpoint = newest is not None and newest.name != row["resumed_from"]
    return 0 if has_new_checkpoint else row["restarts"]
