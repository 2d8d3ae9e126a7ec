"""What the owner of a job can have done to it: cancel, resume, remove.

Each is a move of the ledger first and an act afterwards, so a server that dies between the two has not
forgotten it. Written by hand, not exported from a notebook."""
import json
import os

from .errors import LedgerUnavailable, NoCheckpoint, NoData, UnknownJob, WrongState
from .folder import DataFolder
from .job import ends, live
from .ledger import Ledger, logger
from .lock_file import cancel_order, give_order, run_order, take_lock
from .progress import newest_checkpoint
from .records import JobRecords
from .retention import ServiceClock
from .running import RunningJobs

__all__ = ["JobControl"]

resumable = ("interrupted", "failed", "cancelled")


class JobControl:
    "Carries out what owners ask for"

    def __init__(self,
        ledger: Ledger,  # SQLite file with the state of each job
        data: DataFolder,  # names all files of the data directory
        records: JobRecords,  # reads jobs from both
        running: RunningJobs,  # looks whether a job has ended that the ledger still calls running
        clock: ServiceClock,  # seconds for which the data directory has been served
    ):
        self.ledger = ledger
        self.data = data
        self.records = records
        self.running = running
        self.clock = clock

    def cancel(self,
        job_id: str,  # which job
    ):
        """Stop a job, at once or as soon as its processes are dead.

        Raises UnknownJob, or WrongState if the job has ended already."""
        row = self._row_of_now(job_id)  # of the ledger; UnknownJob if there is no such job
        if row["status"] in ends:  # completed, failed, cancelled
            raise WrongState(f"the job is {row['status']} already")

        # `move` changes a job only if it is still in an expected state.
        without_process = ("queued", "interrupted")  # such a job ends at once
        end_columns = self.clock.end_columns()  # when it ended: for people, and for its age
        if self.ledger.move(row["job_id"], without_process, to="cancelled", why="asked", **end_columns):
            # For a server that loses the ledger later: from the job's folder alone it would train it.
            self._leave_order(row["job_id"], cancel_order, "cancelled")
            return

        # A running job is ended by its supervisor, after an order. If this server dies before it gives the
        # order, the dispatcher gives it, as long as the ledger says `cancelling`.
        if self.ledger.move(row["job_id"], "training", to="cancelling", why="asked"):
            # The row is read again: the order names an attempt, and a later one may be training by now.
            self._give_order(self.ledger.job(row["job_id"]))

    def _row_of_now(self, job_id):
        "The ledger's row of a job, after a look whether the job has just ended; raises UnknownJob"
        # The ledger may be older than the end of the job: the dispatcher, which writes that down, looks at
        # each job from time to time only.
        row = self.records.row(job_id)
        if row["status"] in live:  # training or cancelling
            self.running.look_at(row)  # writes it into the ledger if the job has ended
            row = self.records.row(job_id)
        return row

    def _give_order(self,
        row,  # of the ledger's table of jobs, read just now; None if the job is gone
    ):
        "Write an order to stop into the lock file of a `cancelling` job, where its supervisor reads it"
        if row is None or row["status"] != "cancelling":
            return  # it has ended meanwhile
        lock_file = self.data.job(row["job_id"]).lock
        # The order names the attempt, so that it stops no later one.
        try:
            give_order(lock_file, cancel_order, row["attempt"])
        except OSError as e:
            # The folder is gone, or the lock file is no file: the dispatcher will find no supervisor alive.
            logger.warning("job %s cannot be told to stop: %s", row["job_id"], e.strerror)

    def _leave_order(self,
        job_id,  # of a job without a supervisor
        order,  # cancel_order, or run_order (of `resume`), which takes an earlier cancel_order back
        state,  # to which the job was moved just now
    ):
        """Write into a job's lock file what its owner wants, in case the ledger is lost.

        A server without the ledger finds the jobs by their folders, and only then this order is read. If it
        were missing, a job that was cancelled while it waited would be queued again, and trained. Nothing is
        written if the job is in another state by now."""
        lock_file = self.data.job(job_id).lock
        try:
            # Whoever starts the job holds this lock, so no order of a later attempt is written over.
            lock = take_lock(lock_file)
            if lock is None:
                return
            try:
                row = self.ledger.job(job_id)
                if row is not None and row["status"] == state:
                    give_order(lock_file, order, row["attempt"])
            finally:
                os.close(lock)
        except (OSError, LedgerUnavailable) as e:
            # The ledger has the job's new state: its owner's wish is done all the same.
            logger.warning("no order can be left for job %s: %s", job_id, e)

    def resume(self,
        job_id: str,  # which job
    ):
        "Queue a job again that has not completed; raises UnknownJob, WrongState, NoData or NoCheckpoint"
        row = self.records.row(job_id)
        self._check_resumable(row)
        # The job goes to the end of the queue: `last_place` is the place behind all jobs. Its automatic
        # restarts are counted anew, and the columns about its earlier end are emptied.
        columns = dict(place=self.ledger.last_place(), restarts=0, ended_at=None, ended_clock=None,
                       error_code=None, error_message=None)
        # `move` returns False if another request has changed the job's state meanwhile.
        if not self.ledger.move(row["job_id"], resumable, to="queued", why="resume asked", **columns):
            raise WrongState("the job has moved meanwhile")
        # In place of an order to cancel that may be in the job's lock file: a server that has lost the ledger
        # would obey it, and not train the job.
        self._leave_order(row["job_id"], run_order, "queued")

    def _check_resumable(self,
        row,  # of the ledger's table of jobs
    ):
        "Raise WrongState, NoData or NoCheckpoint if a job cannot be resumed"
        if row["status"] not in resumable:
            raise WrongState(f"the job is {row['status']}; "
                             "only one that was interrupted, failed or cancelled can be resumed")
        self._need_data(row)  # raises NoData if what the job trains on is gone
        # Without a checkpoint the job would begin anew; for that its owner can submit it again.
        if newest_checkpoint(self.data.job(row["job_id"]).run) is None:
            raise NoCheckpoint("there is no whole checkpoint to resume from")

    def _need_data(self,
        row,  # of the ledger's table of jobs
    ):
        "Raise NoData if the data that a job trains on has been deleted: the job would fail at once"
        # A job without `data` trains on pictures that it draws itself: there is nothing to miss.
        # The path is relative to the job's folder, so that a data directory can be moved.
        data_path = json.loads(row["parameters"]).get("data")
        if data_path and not (self.data.job(row["job_id"]).path / data_path).exists():
            raise NoData("what it trained on was deleted: upload it again and start a new job")

    def remove(self,
        job_id: str,  # an ended or interrupted job
    ):
        "Forget a job and delete its files; raises UnknownJob, or WrongState if it waits or runs"
        row = self.records.row(job_id)
        if row["status"] not in (*ends, "interrupted"):  # ends: completed, failed, cancelled
            raise WrongState(f"the job is {row['status']}; cancel it first")
        # `forget` deletes the row and notes that the folder must go, in one transaction: if the server is
        # killed now, the next one removes the folder. It returns False if the state has changed meanwhile.
        if not self.ledger.forget(row["job_id"], row["status"]):
            raise WrongState("the job has moved meanwhile")
        self.data.discard(self.data.job(row["job_id"]))  # deletes the folder
        self.ledger.removal_done(row["job_id"])  # deletes the note

    def remove_if_there(self,
        job_id: str,  # of a job that had ended when the caller looked
    ) -> bool:  # whether this call removed it
        "Remove a job, unless its owner has removed or resumed it in the meantime"
        try:
            self.remove(job_id)
        except (UnknownJob, WrongState):
            return False
        return True
