"""Jobs that wait, and the slots on which they start.

Written by hand, not exported from a notebook."""
import errno
import os

from ..folders import checkpoint_number
from .folder import DataFolder
from .ledger import Ledger
from .lock_file import give_order, run_order, take_lock
from .outcome import Outcome
from .progress import log_mark, newest_checkpoint, percent
from .retention import ServiceClock

__all__ = ["devices_of", "WaitingJobs"]


def devices_of(
    slots: int | list,  # how many, or the devices of each
) -> list:  # CUDA_VISIBLE_DEVICES of each slot
    "One job per GPU, of those that the server itself may see; more slots than GPUs share them"
    if not isinstance(slots, int):
        return [str(devices) for devices in slots]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(slots)]
    seen = [device.strip() for device in given.split(",") if device.strip()]
    if not seen:
        seen = [""]  # an empty variable hides every GPU, from the jobs too
    return [seen[number % len(seen)] for number in range(slots)]


# What the system says when a file of the job is a folder, or a folder a file, or not ours to write
own_faults = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP)


class WaitingJobs:
    "Starts the jobs that wait, in order"

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

    def queue_interrupted(self,
        restarts: int,  # how often a job is started by itself without a new checkpoint
    ):
        "Let interrupted jobs go on by themselves, unless they were tried too often"
        for row in self.ledger.interrupted(restarts):
            count = row["restarts"] + 1
            # 0 after a stop by order, see `restarts_after`.
            why = f"start {count} of {restarts} by itself" if count else "goes on after a stop"
            self.ledger.move(row["job_id"], "interrupted", "queued", why, of_attempt=row["attempt"],
                             restarts=count, ended_at=None, ended_clock=None)

    def free_slots(self,
        devices: list,  # CUDA_VISIBLE_DEVICES of each slot; slots may share devices
    ) -> list:  # those of `devices` on which no job runs
        "Slots without a job"
        busy = [row["slot"] for row in self.ledger.running()]
        free = []
        for slot in devices:
            if slot in busy:
                busy.remove(slot)  # one job takes one slot, also where two slots have the same devices
            else:
                free.append(slot)
        return free

    def start_next(self,
        slot: str,  # CUDA_VISIBLE_DEVICES
    ):
        "Start the job that has waited longest, if one waits; OSError if its supervisor cannot be started"
        row = self.ledger.next_waiting()
        if row is None:
            return
        folder = self.data.job(row["job_id"])
        if not folder.path.is_dir():
            self._fail(row, slot, "the job's folder is gone")
            return
        try:
            self._start(row, folder, slot)
        except OSError as e:
            if e.errno not in own_faults:
                raise  # of the machine, such as a full disk: the job waits until it is over
            # Of this job's files, and it would be the same at every look: the jobs behind it must not wait.
            self._fail(row, slot, f"the job's files are damaged: {e.strerror}")

    def _start(self, row, folder, slot):
        "Start a job, or leave it queued; OSError if its supervisor cannot be started"
        # First the lock, then the ledger, then the process: a kill leaves a trace at every point. After the
        # lock: it is free again, and the job still queued. After the ledger: `training` with a free lock,
        # which the next server can read. At no point does a process run of which nobody knows.
        lock = take_lock(folder.lock)
        if lock is None:
            return  # the last attempt is still letting go
        attempt = row["attempt"] + 1
        try:
            Outcome(folder)  # on a full disk this fails, and the job goes on waiting
            give_order(folder.lock, run_order, attempt)
            if not self._claim(row, folder, attempt, slot):
                return  # cancelled meanwhile
            if not self.backend.hands_over:
                # The supervisor, elsewhere, takes the lock itself.
                os.close(lock)
                lock = None
            handle = self.backend.start(folder.path, attempt, slot, lock)
            self.ledger.save_handle(row["job_id"], handle)
        except OSError as e:
            # No effect where the job is still queued: a move out of `training` only.
            self.ledger.move(row["job_id"], "training", "interrupted", f"could not be started: {e.strerror}",
                             of_attempt=attempt)
            raise
        finally:
            # The supervisor has inherited the lock by now, and holds it alone.
            if lock is not None:
                os.close(lock)

    def _claim(self, row, folder, attempt, slot):
        "Move a job from queued to training, at its newest whole checkpoint; False if it is no longer queued"
        checkpoint = newest_checkpoint(folder.run)
        step = checkpoint and checkpoint_number(checkpoint) or 0
        return self.ledger.move(
            row["job_id"], "queued", "training", f"slot {slot}",
            attempt=attempt, slot=slot, started_at=self.ledger.now(),
            # The log as the last attempt left it: its rows do not count for this one.
            log_mark=log_mark(folder.run_log),
            resumed_from=checkpoint.name if checkpoint else None,
            current_step=step, progress=percent(step, row["total_steps"]))

    def _fail(self, row, slot, message):
        "End a job that cannot be started, so that it does not stand in the others' way"
        # By way of `training`, since no move leads from queued to failed.
        attempt = row["attempt"] + 1
        self.ledger.move(row["job_id"], "interrupted", "queued", "to be ended")
        self.ledger.move(row["job_id"], "queued", "training", f"slot {slot}", attempt=attempt)
        self.ledger.move(row["job_id"], "training", "failed", "trainer.start", of_attempt=attempt,
                         error_code="trainer.start", error_message=message, **self.clock.end_columns())
