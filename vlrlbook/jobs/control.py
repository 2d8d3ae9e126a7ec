"""What the owner of a job can have done to it: cancel, resume, remove.

Each is a move of the ledger first and an act afterwards, so a server that dies between the two has not
forgotten it. Written by hand, not exported from a notebook."""
import json

from .errors import NoCheckpoint, NoData, UnknownJob, WrongState
from .folder import DataFolder
from .job import ends, live
from .ledger import Ledger, logger
from .lock_file import cancel_order, give_order
from .progress import newest_checkpoint
from .records import JobRecords
from .retention import ServiceClock
from .running import RunningJobs

__all__ = ["JobControl"]

resumable = ("interrupted", "failed", "cancelled")


class JobControl:
    "Carries out what owners ask for"

    def __init__(self,
        ledger: Ledger,  # of the data directory
        data: DataFolder,  # the data directory
        records: JobRecords,  # of both
        running: RunningJobs,  # asked whether a job has ended just now
        clock: ServiceClock,  # of the data directory
    ):
        self.ledger = ledger
        self.data = data
        self.records = records
        self.running = running
        self.clock = clock

    def cancel(self,
        job_id: str,  # which job
    ):
        "Stop a job, now or as soon as its processes are dead; raises UnknownJob, or WrongState at an end"
        row = self.records.row(job_id)
        if row["status"] in live:
            self.running.look_at(row)  # it may have ended just now, and nobody has looked since
            row = self.records.row(job_id)
        if row["status"] in ends:
            raise WrongState(f"the job is {row['status']} already")
        job_id = row["job_id"]
        waited = ("queued", "interrupted")
        if self.ledger.move(job_id, waited, "cancelled", "asked", **self.clock.end_columns()):
            return
        # Only asked to die here. A server that dies before it gives the order has not forgotten it: the
        # dispatcher repeats the order while the ledger says `cancelling`. Cancelled twice, nothing moves.
        if self.ledger.move(job_id, "training", "cancelling", "asked"):
            # Asked again: the attempt that trains may be a later one than a moment ago, and the order to an
            # attempt that is over would be obeyed by nobody.
            self._give_order(self.ledger.job(job_id))

    def _give_order(self, row):
        "Tell the attempt that trains to stop"
        if row is None or row["status"] != "cancelling":
            return  # it has ended meanwhile
        try:
            give_order(self.data.job(row["job_id"]).lock, cancel_order, row["attempt"])
        except OSError as e:
            # Its folder is gone or its lock file is no file: the dispatcher will see that nobody lives there.
            logger.warning("job %s cannot be told to stop: %s", row["job_id"], e.strerror)

    def resume(self,
        job_id: str,  # which job
    ):
        "Queue a job that ended without completing; raises UnknownJob, WrongState or NoCheckpoint"
        row = self.records.row(job_id)
        if row["status"] not in resumable:
            raise WrongState(f"the job is {row['status']}; "
                             "only one that was interrupted, failed or cancelled can be resumed")
        job_id = row["job_id"]
        self._need_data(row)
        # Without a checkpoint it would begin anew, which its owner can have by submitting it again.
        if newest_checkpoint(self.data.job(job_id).run) is None:
            raise NoCheckpoint("there is no whole checkpoint to resume from")
        as_new = dict(place=self.ledger.last_place(), restarts=0, ended_at=None, ended_clock=None,
                      error_code=None, error_message=None)
        if not self.ledger.move(job_id, resumable, "queued", "resume asked", **as_new):
            raise WrongState("the job has moved meanwhile")

    def _need_data(self, row):
        "Refuse where what the job trains on has been deleted: it would fail in its first second"
        # The path stands relative to the job's folder, so that a data directory can be moved.
        data = json.loads(row["parameters"]).get("data")
        if data and not (self.data.job(row["job_id"]).path / data).exists():
            raise NoData("what it trained on was deleted: upload it again and start a new job")

    def remove(self,
        job_id: str,  # an ended or interrupted job
    ):
        "Forget a job and delete its files; raises UnknownJob, or WrongState if it waits or runs"
        row = self.records.row(job_id)
        if row["status"] not in (*ends, "interrupted"):
            raise WrongState(f"the job is {row['status']}; cancel it first")
        # The row first, and in the same transaction a note that the folder is to go. A kill now leaves a folder
        # that no row knows, and the next start removes it by the note.
        if not self.ledger.forget(row["job_id"], row["status"]):
            raise WrongState("the job has moved meanwhile")
        self.data.discard(self.data.job(row["job_id"]))
        self.ledger.removal_done(row["job_id"])

    def remove_if_there(self,
        job_id: str,  # a job that was at an end a moment ago
    ) -> bool:  # it was removed now
        "Remove a job, unless its owner was quicker: it may be gone by now, or be resumed"
        try:
            self.remove(job_id)
        except (UnknownJob, WrongState):
            return False
        return True
