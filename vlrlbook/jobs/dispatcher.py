"""`Jobs`: all jobs of one data directory, and the thread that starts them in order and sees how they end.

`Jobs` is put together from parts that each do one thing and can be used alone: submission.py writes jobs
down, records.py answers questions, control.py cancels and resumes, running.py and waiting.py are one look of
the dispatcher, retention.py removes what is old. Written by hand, not exported from a notebook."""
import os
import sys
import threading
import time
from pathlib import Path

from .backend import backends
from .control import JobControl
from .errors import AlreadyServed, JobsError, LedgerUnavailable, NetworkFolder
from .folder import DataFolder
from .job import Job, clean
from .ledger import Ledger, logger
from .lock_file import take_lock
from .mounts import file_system, network_systems
from .records import JobRecords
from .retention import CleanUp, ServiceClock
from .running import RunningJobs
from .stocktaking import adopt_unknown_jobs, need_ledger, tidy
from .submission import Submission
from .waiting import WaitingJobs, devices_of

__all__ = ["DispatcherThread", "Jobs"]

seconds_between_clean_ups = 60  # of service, that is, of time in which a server worked on the directory
pauses_after_an_error = 10  # times the usual pause: a disk that is full stays full for a while
server_lock_patience = 1.0  # seconds


class DispatcherThread:
    "A thread that calls one function again and again, and goes on after any error in it"

    def __init__(self,
        look,  # function without arguments that the thread calls again and again
        pause,  # function without arguments that returns the seconds between two calls of `look`
    ):
        self.look = look
        self.pause = pause
        self.thread = None  # made by `start`
        self.wake = threading.Event()  # setting it ends the pause between two calls
        self.stopping = False  # True: the thread ends before its next call

    def start(self):
        "Start the thread"
        self.stopping = False
        # daemon: the process may end without `stop`
        self.thread = threading.Thread(target=self._look_until_stopped, name="dispatcher", daemon=True)
        self.thread.start()

    def stop(self):
        "Wait until the thread has ended; a call of `look` that has begun is brought to its end"
        self.stopping = True
        self.wake.set()  # ends the pause
        if self.thread:
            self.thread.join()

    def _look_until_stopped(self):
        "The thread's loop: call `look` and wait, again and again, until `stopping` is true"
        while not self.stopping:
            pause = self.pause()  # seconds
            try:
                self.look()
            except Exception as e:
                # One bad job must not stop the others. Errors of the disk need no traceback.
                needs_traceback = not isinstance(e, (LedgerUnavailable, OSError))
                logger.error("%s: %s", type(e).__name__, e, exc_info=needs_traceback)
                pause *= pauses_after_an_error  # a disk that is full stays full for a while
            self.wake.wait(pause)  # ends early if `wake` is set, as for a new job
            self.wake.clear()


def _check_options(backend, on_exit):
    "Raise JobsError on another system than Linux, ValueError if `Jobs` knows no such `backend` or `on_exit`"
    if sys.platform != "linux":
        raise JobsError("jobs lean on promises of Linux's kernel and run there only")
    if backend not in backends:  # name → class
        from ..settings import nearest  # only for the error message
        raise ValueError(f"backend = {backend!r}{nearest(backend, [*backends])}")
    if on_exit not in ("keep", "interrupt"):
        raise ValueError(f"on_exit = {on_exit!r}: expected keep or interrupt")


class Jobs:
    "All jobs of one data directory: the ledger, their folders, and the dispatcher that starts them in order"
    tick = 0.1  # seconds between two looks of the dispatcher
    wall = staticmethod(time.time)  # the clock whose time is shown to people; nothing is decided by it

    @staticmethod
    def steady() -> float:
        "Seconds since the machine started, sleep included: nobody can set this clock, so ages are told by it"
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def __init__(self,
        data_dir: str | Path,  # made if it is not there; only one server may work on it
        slots: int | list = 1,  # jobs at a time: their number, or a list with CUDA_VISIBLE_DEVICES of each
        backend: str = "local",  # local, submitit or ray
        options: dict = None,  # passed to the back end; None: none
        ledger_dir: str | Path | None = None,  # local folder for the ledger; None: in the data directory
        max_queued: int = 200,  # jobs that may wait; more are refused
        grace: float = 10.0,  # seconds between SIGTERM and SIGKILL
        on_exit: str = "keep",  # keep: jobs outlive the server; interrupt: the next one resumes them
        restarts: int = 3,  # how often a job whose supervisor died is restarted without a new checkpoint
        keep_days: float = None,  # days, while a server runs, that ended jobs are kept; None: for ever
        keep_bytes: int = None,  # disk space of ended jobs; beyond it the oldest are removed; None: no limit
        adopt: bool = False,  # add job folders to the ledger that it does not know, also if it was lost
    ):
        _check_options(backend, on_exit)
        self.devices = devices_of(slots)  # CUDA_VISIBLE_DEVICES of each slot
        self.max_queued = max_queued
        self.grace = grace
        self.on_exit = on_exit
        self.restarts = restarts
        self.keep_days = keep_days
        self.keep_bytes = keep_bytes
        self.adopt = adopt

        self.data = DataFolder(data_dir, ledger_dir)  # names the files; nothing is made yet
        # Its thread begins with `start`.
        self.dispatcher = DispatcherThread(look=self._look_and_clean_up, pause=self._seconds_between_looks)
        # A descriptor, held until `stop`: no other server may work on this directory.
        self.server_lock = self._lock_data_folder()  # makes the folders, too
        try:
            self.backend = self._make_backend(backend, options)
            self._make_parts()  # the ledger and what works with it
        except BaseException:
            os.close(self.server_lock)  # which frees the lock
            raise

    def _lock_data_folder(self):
        """Lock the data directory against other servers, and return the lock's descriptor.

        Raises NetworkFolder if the ledger is on a network disk, AlreadyServed if another server is here."""
        system_type = file_system(self.data.ledger_dir)  # such as ext4 or nfs
        if system_type in network_systems:
            raise NetworkFolder(f"{self.data.ledger_dir.name} is on {system_type}; "
                                "the ledger needs a local disk (ledger_dir)")
        self.data.make()  # the folders that are not there yet
        # patience: a child of a killed server may hold the lock for some milliseconds more
        lock = take_lock(self.data.server_lock, patience=server_lock_patience)
        if lock is None:
            raise AlreadyServed("another server works on this data directory")
        return lock

    def _make_backend(self,
        name,  # a key of `backends`: local, submitit or ray
        options,  # dict of what that back end takes, such as slurm_partition; or None
    ):
        "Make what starts supervisors, the processes that watch over jobs: a LocalBackend, for example"
        if name == "submitit":
            # Where submitit keeps its scripts and logs, unless the options say otherwise.
            options = {"folder": str(self.data.submitit)} | (options or {})
        backend = backends[name](options)
        if name == "local":
            # Without a number of threads each job would use all cores, and jobs that run at a time would slow
            # each other down. So each slot gets its share of the cores that this process may use.
            cores = len(os.sched_getaffinity(0))
            backend.threads = max(1, cores // len(self.devices))  # `devices` has an entry for each slot
        return backend

    def _make_parts(self):
        "Make the ledger and what works with it, and remove what a crash left; the caller holds the lock"
        need_ledger(self.data, self.adopt)  # raises LedgerLost if jobs lie here without a sound ledger
        # SQLite file with the state of each job; `_wall_now`: the time of day that it writes for people
        self.ledger = Ledger(self.data.ledger, self._wall_now)
        # Seconds in which a server ran; `steady`: a clock that nobody can set
        self.service_clock = ServiceClock(self.ledger, self.steady)
        self.records = JobRecords(self.ledger, self.data)
        self.submission = Submission(self.ledger, self.data, self.records)
        self.running = RunningJobs(self.ledger, self.data, self.backend, self.service_clock)
        self.waiting = WaitingJobs(self.ledger, self.data, self.backend, self.service_clock)
        self.control = JobControl(self.ledger, self.data, self.records, self.running, self.service_clock)
        self.retention = CleanUp(self.ledger, self.data, self.service_clock, self.control.remove_if_there)

        if self.adopt:  # add the jobs whose folders lie here and which the ledger does not know
            adopted_ids = adopt_unknown_jobs(self.ledger, self.data, self.service_clock)
            logger.warning("%s jobs were adopted: %s", len(adopted_ids), ", ".join(adopted_ids))
        tidy(self.ledger, self.data)  # removes what a crash left half-made

    def _wall_now(self):
        "The time that is shown; a method, so that a test can replace `wall` after the ledger was made"
        return self.wall()

    # Parts' attributes under the names that they have always had here

    @property
    def data_dir(self) -> Path:
        "The data directory"
        return self.data.path

    @property
    def thread(self) -> threading.Thread | None:
        "The dispatcher's thread; None before `start`"
        return self.dispatcher.thread

    @property
    def wake(self) -> threading.Event:
        "Set it, and the dispatcher looks at all jobs now instead of after its pause"
        return self.dispatcher.wake

    @property
    def stopping(self) -> bool:
        "Whether the dispatcher is to end; no job is started any more"
        return self.dispatcher.stopping

    @stopping.setter
    def stopping(self, value):
        self.dispatcher.stopping = value

    @property
    def clock_base(self) -> float:
        "Seconds of service are this number and `steady`; to add to it makes everything older"
        return self.service_clock.base

    @clock_base.setter
    def clock_base(self, seconds):
        self.service_clock.base = seconds

    @property
    def cleaned(self) -> float:
        "Seconds of service at the latest clean-up"
        return self.retention.last_clean_up

    @property
    def marks(self) -> dict:
        "(job_id, attempt) → the state of its run_log.csv that was read last"
        return self.running.progress.marks

    # What the service and other owners call

    def submit(self,
        job_name: str,  # any text
        parameters: dict,  # for the notebook of chapter 05, which trains with GRPO, or for `command`
        command: list = None,  # words to run in the job's folder; None: that GRPO run
        key: str = None,  # Idempotency-Key: the same request again gives the same job
        request_hash: str = None,  # of the request; KeyReused if it is another than `key` came with before
        total_steps: int = None,  # that the run will take, if it is known
    ) -> Job:  # queued
        "Store a job on the disk and queue it; raises KeyReused, QueueFull or LedgerUnavailable"
        job = self.submission.submit(
            job_name, parameters, command, key, request_hash,
            grace=self.grace,  # seconds between SIGTERM and SIGKILL, when it is stopped
            max_queued=self.max_queued,
            total_steps=total_steps)
        self.wake.set()  # ends the dispatcher's pause
        return job

    def get(self,
        job_id: str,  # which job
    ) -> Job:  # as the ledger has it now
        "One job; raises UnknownJob"
        return self.records.get(job_id)

    def events(self,
        job_id: str,  # which job
    ) -> list:  # of dicts: time, attempt, from, to, why
        "Every move of a job; raises UnknownJob"
        return self.records.events(job_id)

    def folder(self,
        job_id: str,  # which job
    ) -> Path:
        "Where a job lives; raises UnknownJob"
        return self.records.folder(job_id).path

    def ledger_knows(self,
        job_id: str,  # any text
    ) -> bool:
        "Tell whether the ledger holds a job of this id"
        return self.ledger.job(job_id) is not None

    def cancel(self,
        job_id: str,  # which job
    ) -> Job:  # cancelled, or cancelling until its processes are dead
        "Stop a job; to ask again changes nothing; raises UnknownJob, or WrongState if it has ended already"
        self.control.cancel(job_id)
        self.wake.set()  # the dispatcher looks at once
        return self.get(job_id)

    def resume(self,
        job_id: str,  # which job
    ) -> Job:  # queued
        "Queue once more a job that has not completed; raises UnknownJob, WrongState, NoData or NoCheckpoint"
        self.control.resume(job_id)
        self.wake.set()  # the dispatcher looks at once
        return self.get(job_id)

    def remove(self,
        job_id: str,  # an ended or interrupted job
    ):
        "Forget a job and delete its files; raises UnknownJob, or WrongState if it waits or runs"
        self.control.remove(job_id)

    def clock(self) -> float:
        "Seconds for which this data directory has been served; the service counts the age of uploads by it"
        return self.service_clock.now()

    def clean_up(self,
        days: float = None,  # of service since a job ended; None: `keep_days`
    ) -> list:  # ids of the removed
        "Remove ended jobs that are too old, then those that ended first until the rest fits `keep_bytes`"
        most_days = self.keep_days if days is None else days
        return self.retention.clean_up(most_days, self.keep_bytes)

    # Last: below it `list` in an annotation of this class would mean this method.
    def list(self,
        status: str = None,  # only jobs in this state; None: all
        limit: int = 50,  # at most so many
        after: str = None,  # the `next` of the page before; None: the first page
    ) -> tuple:  # jobs, next; next is None on the last page
        "One page of jobs, newest first; ValueError if there is no such state"
        return self.records.list(status, limit, after)

    # The dispatcher

    def start(self):
        "Begin to dispatch, in a thread"
        self.dispatcher.start()

    def look(self):
        "One turn of the dispatcher: write down which jobs ended or died, and start jobs on the free slots"
        # First, since a job that has ended leaves a free slot.
        self.running.look_at_all()  # writes down which jobs ended or died
        self.waiting.queue_interrupted(self.restarts)  # those that may be restarted automatically
        for slot in self.waiting.free_slots(self.devices):
            if not self.stopping:
                self.waiting.start_next(slot)

    def _look_and_clean_up(self):
        "What the dispatcher's thread does at each turn: look at all jobs and, once a minute, remove old ones"
        self.look()
        # Seconds of service since `clean_up` was last called; `cleaned` is set by that call.
        if self.clock() - self.cleaned > seconds_between_clean_ups:
            self.clean_up()

    def _seconds_between_looks(self):
        "The dispatcher's pause; a method, so that `tick` can be changed while the thread runs"
        return self.tick

    def stop(self,
        timeout: float = 10.0,  # seconds to wait for jobs that are interrupted
    ) -> dict | None:  # number of jobs that saved, were killed, or are still running; None: none was to stop
        """End the dispatcher and let go of the data directory.

        If on_exit is "interrupt", running jobs save a checkpoint and stop; else they outlive this server."""
        if self.server_lock is None:
            return None  # `stop` was called before
        counts = None
        self.dispatcher.stop()  # first, so that it starts no job on a slot that becomes free now
        try:
            if self.on_exit == "interrupt":
                counts = self.running.interrupt_all(timeout)
            self.service_clock.save()  # seconds of service, from which the next server counts on
        finally:
            # Even after an error the next server must be able to begin.
            self.ledger.close()
            os.close(self.server_lock)
            self.server_lock = None
        return counts

    def _repr_markdown_(self):
        "A table of the newest jobs, for a notebook"
        from ..core import Table  # imported here: it loads NumPy, which a server does not need
        jobs, _ = self.list(limit=20)  # the newest ones, and where the next page would begin
        rows = []
        for job in jobs:
            rows.append(dict(
                job=clean(job.job_name), status=job.status, attempt=job.attempt,
                progress=f"{job.progress:.0f} %", resumed_from=job.resumed_from, why=job.error_code))
        return Table(rows)._repr_markdown_()
