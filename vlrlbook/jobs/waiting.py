"""Jobs that wait, and the slots on which they start.

Written by hand, not exported from a notebook."""
import errno
import os
from pathlib import Path

from ..folders import checkpoint_number
from .folder import DataFolder
from .job import clean
from .job_log import last_line_of
from .ledger import Ledger
from .lock_file import give_order, run_order, take_lock
from .outcome import Outcome, told_by_outcome
from .progress import log_mark, newest_checkpoint, percent
from .retention import ServiceClock

__all__ = ["gpu_count", "devices_of", "WaitingJobs"]


def gpu_count(
    device_files: str | Path = "/dev",  # where the system keeps its device files
) -> int:  # 0 also where GPUs are none of NVIDIA's, or have no files, as under WSL
    """Count NVIDIA's GPUs by the files that its driver makes for them, such as /dev/nvidia0.

    Neither torch nor nvidia-smi is needed for it."""
    return len(list(Path(device_files).glob("nvidia[0-9]*")))


def devices_of(
    slots: int | list,  # how many jobs run at a time, or the devices of each slot
) -> list:  # CUDA_VISIBLE_DEVICES of each slot
    """The devices of each slot, a slot being a place where one job runs at a time.

    A list gives the devices themselves. A number gives one GPU to each slot, in turn: where
    CUDA_VISIBLE_DEVICES is "4,5", 3 → ["4", "5", "4"], so that two slots share a GPU. Where it is not set,
    2 → ["0", "1"] on a machine with two GPUs, and ["0", "0"] with one."""
    if not isinstance(slots, int):
        return [str(devices) for devices in slots]
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible_devices is None:
        # All GPUs may be used. A number that no GPU has would hide them all, and the job would train on the
        # CPU. CUDA numbers those that it finds from 0 on, even if their files are /dev/nvidia2 and 3.
        count = gpu_count() or slots  # 0: not known how many there are, if any
        return [str(number % count) for number in range(slots)]
    gpus = [device.strip() for device in visible_devices.split(",") if device.strip()]
    if not gpus:
        gpus = [""]  # an empty variable hides every GPU, from the jobs too
    return [gpus[number % len(gpus)] for number in range(slots)]


not_started = "could not be started"  # begins the reason, where no supervisor could be started
longest_message = 400  # characters of what an owner is told, as in the outcome of a supervisor

# Errors of the system that come from damaged files of one job: a file in place of a folder or the reverse,
# a file that is missing or may not be written
own_faults = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP)


class WaitingJobs:
    "Starts the jobs that wait, in order"

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

    def queue_interrupted(self,
        restarts: int,  # how often a job is restarted automatically without having gained a new checkpoint
    ):
        "Queue interrupted jobs again; those that were restarted too often end as failed"
        for row in self.ledger.restarted_too_often(restarts):
            self._give_up(row)
        for row in self.ledger.interrupted(restarts):
            # Every restart adds one. After a stop by order, such as that of a server that ends, it must not
            # count: `restarts_after` has subtracted one when the job stopped.
            count = row["restarts"] + 1
            # The reason of a stop by order begins with the text `told_by_outcome`: the supervisor has written
            # an outcome, which one that was killed could not.
            was_stopped_by_order = self._latest_reason(row["job_id"]).startswith(told_by_outcome)
            by_itself = f"start {count} of {restarts} by itself"
            why = "goes on after a stop" if was_stopped_by_order else by_itself
            # of_attempt: `move` changes nothing if the job is at another attempt by now.
            self.ledger.move(row["job_id"], "interrupted", "queued", why, of_attempt=row["attempt"],
                             restarts=count, ended_at=None, ended_clock=None)

    def _latest_reason(self,
        job_id,  # of any job
    ):
        "Why a job came into the state in which it is, as the ledger's log of moves has it"
        return self.ledger.history(job_id)[-1]["why"]

    def _give_up(self,
        row,  # of the ledger's table of jobs: an interrupted job that was restarted too often
    ):
        """End a job as failed, with the reason, since its attempts were interrupted again and again.

        As interrupted it would wait for ever: its owner could not see that nothing comes any more, and its
        upload could not be removed. As every failed job it can be resumed where there is a checkpoint."""
        job_id, attempt = row["job_id"], row["attempt"]
        starts = row["restarts"] + 1
        times = "once" if starts == 1 else f"{starts} times without a new checkpoint"
        reason = self._latest_reason(job_id)
        # not_started: "could not be started", with which the reason begins if there was no supervisor
        error_code = "trainer.start" if reason.startswith(not_started) else "trainer.killed"
        message = f"interrupted {times}, the last time: {reason}"
        # Only the supervisor itself could say why it ended, if it was not killed.
        last_line = last_line_of(self.data.job(job_id).supervisor_log)
        if last_line:
            message += f"; last words: {last_line}"
        # Only a job in `training` may become failed: it goes through `queued`, the rest is done by
        # `_end_as_failed`. False: its owner has resumed, cancelled or removed it in the meantime.
        if self.ledger.move(job_id, "interrupted", "queued", "to be ended", of_attempt=attempt):
            self._end_as_failed(row, attempt, row["slot"], error_code, message)

    def free_slots(self,
        devices: list,  # CUDA_VISIBLE_DEVICES of each slot, such as ["0", "0"]: two slots on one GPU
    ) -> list:  # those of `devices` on which no job runs
        "The slots on which no job runs; a slot is named by its devices"
        busy = [row["slot"] for row in self.ledger.running()]  # a list, no set: it may hold "0" twice
        free = []
        for slot in devices:
            if slot in busy:
                busy.remove(slot)  # this job takes no second slot with the same devices
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
            is_own_fault = e.errno in own_faults  # of this job's files: one is missing, for example
            if not is_own_fault:
                raise  # an error of the machine, such as a full disk: the job waits until it is over
            # If it stayed first in the queue, it would block all other jobs.
            self._fail(row, slot, f"the job's files are damaged: {e.strerror}")

    def _start(self,
        row,  # of the ledger's table of jobs: a queued job
        folder,  # of that job
        slot,  # CUDA_VISIBLE_DEVICES
    ):
        """Start a queued job's supervisor, or leave the job queued; OSError if no supervisor can be started.

        The steps are safe if this server is killed between them, which frees the lock: a job in `training`
        whose lock is free has no supervisor, and the next server sees that."""
        # Who holds this lock works on the job: this server until the supervisor runs, then the supervisor.
        lock = take_lock(folder.lock)  # a descriptor, or None
        if lock is None:
            return  # the supervisor of the attempt before still holds it, and is about to end

        attempt = row["attempt"] + 1  # the number of the attempt that begins
        try:
            Outcome(folder)  # reserves disk space for the file with the outcome; OSError on a full disk
            give_order(folder.lock, run_order, attempt)  # into the lock file: run, and the attempt's number
            if not self._claim(row, folder, attempt, slot):  # moves the job to `training` in the ledger
                return  # cancelled meanwhile
            if not self.backend.hands_over:  # False for a backend that starts supervisors on other machines
                # There no descriptor can be inherited: the supervisor takes the lock itself.
                os.close(lock)
                lock = None
            handle = self.backend.start(folder.path, attempt, slot, lock)  # names the supervisor
            self.ledger.save_handle(row["job_id"], handle)
        except OSError as e:
            why = f"{not_started}: {e.strerror}"
            # `move` changes nothing if the job is not yet in `training`.
            self.ledger.move(row["job_id"], "training", "interrupted", why, of_attempt=attempt)
            raise
        finally:
            # Only this process's descriptor: the supervisor has inherited one of its own, and holds the lock.
            if lock is not None:
                os.close(lock)

    def _claim(self,
        row,  # of the ledger's table of jobs: a queued job
        folder,  # of that job
        attempt,  # number of the attempt that begins
        slot,  # CUDA_VISIBLE_DEVICES
    ):
        "Move a job in the ledger from queued to training; False if it is no longer queued"
        checkpoint = newest_checkpoint(folder.run)  # from which the attempt goes on; None: from the start
        step = 0
        if checkpoint:
            step = checkpoint_number(checkpoint) or 0  # the optimizer step in its name; 0 if it holds none
        return self.ledger.move(
            row["job_id"], "queued", "training", f"slot {slot}",
            attempt=attempt, slot=slot, started_at=self.ledger.now(),
            # A fingerprint of run_log.csv (inode, size, time) as earlier attempts left it: while it is the
            # same, `Progress` reads no progress of this attempt from the file.
            log_mark=log_mark(folder.run_log),
            resumed_from=checkpoint.name if checkpoint else None,
            current_step=step, progress=percent(step, row["total_steps"]))

    def _fail(self,
        row,  # of the ledger's table of jobs: a job that cannot be started
        slot,  # CUDA_VISIBLE_DEVICES
        message,  # why, for the owner
    ):
        "End a job that cannot be started as failed, so that the jobs behind it can start"
        # `row` was read before `_start`, so it has the number of the attempt before the one that failed.
        attempt = row["attempt"] + 1
        self._end_as_failed(row, attempt, slot, "trainer.start", message)

    def _end_as_failed(self,
        row,  # of the ledger's table of jobs: a job that is queued or interrupted
        attempt,  # the number of the attempt that failed
        slot,  # CUDA_VISIBLE_DEVICES
        error_code,  # the reason in the log of moves, and the code that the owner sees
        message,  # why, for the owner
    ):
        "Move a job that no process runs to failed"
        job_id = row["job_id"]
        # Only a job in `training` may become failed. This one is queued or interrupted, so it is moved step
        # by step; a `move` of a job in another state does nothing.
        self.ledger.move(job_id, "interrupted", "queued", "to be ended")
        self.ledger.move(job_id, "queued", "training", f"slot {slot}", attempt=attempt)
        # of_attempt: only if the job is at this attempt; `end_columns`: when it ended.
        self.ledger.move(job_id, "training", "failed", error_code, of_attempt=attempt,
                         error_code=error_code, error_message=clean(message, longest_message),
                         **self.clock.end_columns())
