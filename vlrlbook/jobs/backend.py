"""Where supervisors run: on this machine, as Slurm jobs, as Ray jobs.

A back end starts a supervisor somewhere and says whether it lives. Everything else, from orders to progress,
goes through the job's folder and is the same everywhere. Written by hand, not exported from a notebook."""
import os
import shlex
import subprocess
from functools import partial
from pathlib import Path

from .folder import JobFolder
from .lock_file import is_held
from .processes import job_tag, kill_until_gone, own_python, tagged
from .supervisor import supervise

__all__ = ["supervisor_command", "LocalBackend", "SubmititBackend", "RayBackend", "backends"]

# Seconds for which one look of the dispatcher kills what a dead supervisor left; the next look goes on.
patience_with_orphans = 1.0
longest_slurm_job = 24 * 60  # minutes, unless the options say otherwise


def supervisor_command(
    folder: Path,  # of the job
    attempt: int,  # number of the attempt that the supervisor is to run, from 1
    devices: str,  # for CUDA_VISIBLE_DEVICES
    lock: int = None,  # descriptor of the job's lock, if it is inherited
) -> list:  # words of a command line
    "The command line that starts a supervisor, the process that watches over one attempt of a job"
    words = [*own_python(), "-m", "vlrlbook.jobs", "supervise", str(folder), str(attempt), devices]
    if lock is not None:
        words.append(str(lock))
    return words


class LocalBackend:
    "One detached supervisor process per job on this machine; it lives on when the server dies"
    hands_over = True  # the lock passes from the dispatcher to the supervisor, without a gap
    threads: int | None = None  # OMP_NUM_THREADS of a job where the server has none; None leaves it alone

    def __init__(self,
        options: dict = None,  # none are known here
    ):
        self.started = []  # processes of this server's supervisors
        self.options = options or {}

    def start(self,
        folder: Path,  # of the job
        attempt: int,  # number of the attempt that the supervisor is to run, from 1
        devices: str,  # for CUDA_VISIBLE_DEVICES
        lock: int = None,  # descriptor of the job's lock, which the supervisor inherits
    ) -> str:  # handle for the ledger: its process id
        "Start the supervisor of a job as a process of its own; OSError if no process can be started"
        command = supervisor_command(folder, attempt, devices, lock)
        with open(JobFolder(folder).supervisor_log, "wb") as log:
            # start_new_session: what ends the server's terminal must not end the jobs.
            # pass_fds: the job's lock stays held for as long as the supervisor lives.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(),
                start_new_session=True, pass_fds=[lock])  # type: ignore[list-item]  # it always gets one

        # A child that has ended stays a zombie until it is polled. `poll` returns None while it runs.
        self.started = [p for p in self.started if p.poll() is None]
        self.started.append(process)
        return str(process.pid)

    def _environment(self):
        "The environment variables of a supervisor, as a dict, with the number of threads of its job"
        environment = dict(os.environ)
        if self.threads:
            # `setdefault`: a number that the server's user has chosen stays.
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment

    def alive(self,
        folder: Path,  # of the job
        handle: str | None,  # what `start` returned; other back ends need it, this one does not
    ) -> bool:  # a supervisor lives
        "Tell whether a job has a living supervisor: a supervisor holds the job's lock until it ends"
        # Only to tidy up: a child that has ended stays in the process table until its parent polls it.
        for process in self.started:
            process.poll()
        return is_held(JobFolder(folder).lock)

    def withdraw(self,
        folder: Path,  # of a job that is to be cancelled
        handle: str | None,  # what `start` returned
    ):
        "Cancel a supervisor that has not begun; here each begins at once, so there is nothing to do"

    def sweep(self,
        folder: Path,  # of a job whose supervisor died
        handle: str | None,  # what `start` returned; other back ends need it, this one does not
    ) -> bool:  # no process of the job is left
        "Kill the processes that a dead supervisor left, found by an environment variable of the job"
        find_processes_of_job = partial(tagged, job_tag(folder))  # a call returns their process ids
        return kill_until_gone(find_processes_of_job, seconds=patience_with_orphans)


class SubmititBackend(LocalBackend):
    """Supervisors as Slurm jobs, or as submitit's local ones.

    The cluster's nodes must see the data directory. The ledger stays on a disk of the server."""
    hands_over = False  # a descriptor cannot travel to another machine
    # Slurm's states of a job that runs or will run.
    waiting = ("PENDING", "RUNNING", "CONFIGURING", "REQUEUED", "RESIZING", "COMPLETING", "SUSPENDED")

    def __init__(self,
        options: dict = None,  # cluster (slurm, local), folder; what submitit takes, such as slurm_partition
    ):
        import submitit  # of the extra `cluster`
        self.options = {"timeout_min": longest_slurm_job} | (options or {})
        cluster = self.options.pop("cluster", None)
        self.folder = self.options.pop("folder")  # of submitit's scripts and logs; `Dispatcher` gives it
        self.executor = submitit.AutoExecutor(folder=self.folder, cluster=cluster)
        self.executor.update_parameters(**self.options)
        self.submitted_jobs = {}  # handle → submitit's object of the job

    def start(self,
        folder,  # of the job
        attempt,  # number of the attempt that the supervisor is to run, from 1
        devices,  # for CUDA_VISIBLE_DEVICES; only for submitit's local jobs
        lock=None,  # not used: a supervisor on another machine inherits no descriptor
    ):
        "Submit the supervisor of a job and return its handle, the number of the Slurm job as a text"
        self.executor.update_parameters(name=f"vlrlbook-{folder.name}-{attempt}")
        # Slurm sets CUDA_VISIBLE_DEVICES itself to the GPUs that the job gets; "" leaves that alone. The
        # cluster "local" is no cluster: submitit starts a process on this machine.
        own_devices = devices if self.executor.cluster == "local" else ""
        # On the node this calls supervise(folder, attempt, own_devices), which takes the job's lock itself.
        job = self.executor.submit(supervise, str(folder), attempt, own_devices)
        self.submitted_jobs[job.job_id] = job
        return job.job_id

    def _state(self,
        handle,  # number of the Slurm job, as a text; a job that was never submitted has none
    ):
        "submitit's word for the state of a job, such as PENDING; UNKNOWN if it does not know the job"
        import submitit
        # A server that was restarted did not submit the job itself. Slurm can be asked by number, but
        # submitit's local executor knows only what it started.
        if handle not in self.submitted_jobs and self.executor.cluster == "slurm":
            self.submitted_jobs[handle] = submitit.SlurmJob(self.folder, handle)
        if handle not in self.submitted_jobs:
            return "UNKNOWN"
        return self.submitted_jobs[handle].state.upper()

    def alive(self, folder, handle):
        "Tell whether a supervisor holds the job's lock, or Slurm says that it runs or will run"
        return is_held(JobFolder(folder).lock) or self._state(handle) in self.waiting

    def withdraw(self, folder, handle):
        "Cancel a supervisor that still waits for a node, since it reads no order before it has one"
        if not is_held(JobFolder(folder).lock) and self._state(handle) == "PENDING":
            self.submitted_jobs[handle].cancel()


class RayBackend(LocalBackend):
    "Supervisors as Ray jobs, named after the job and its attempt, so that one cannot be submitted twice"
    hands_over = False  # a descriptor cannot travel to another machine
    waiting = ("PENDING", "RUNNING")  # Ray's states of a job that runs or will run

    def __init__(self,
        options: dict = None,  # address of the dashboard; what submit_job takes, such as entrypoint_num_gpus
    ):
        from ray.job_submission import JobSubmissionClient  # of the extra `cluster`
        self.options = dict(options or {})
        self.client = JobSubmissionClient(self.options.pop("address", None))

    def start(self,
        folder,  # of the job
        attempt,  # number of the attempt that the supervisor is to run, from 1
        devices,  # for CUDA_VISIBLE_DEVICES, unless Ray gives out the GPUs itself
        lock=None,  # not used: a supervisor on another machine inherits no descriptor
    ):
        "Submit the supervisor of a job and return its handle, Ray's name of the job: JOB_ID-ATTEMPT"
        # devices="": the supervisor leaves CUDA_VISIBLE_DEVICES as it finds it in the environment below.
        command = shlex.join(supervisor_command(folder, attempt, devices=""))
        environment = {}
        if "entrypoint_num_gpus" not in self.options:
            # With that option Ray itself sets CUDA_VISIBLE_DEVICES to the GPUs that the job gets.
            environment = {"env_vars": {"CUDA_VISIBLE_DEVICES": devices}}
        # Ray refuses a second job of the same name, so an attempt cannot run twice.
        name = f"{folder.name}-{attempt}"
        return self.client.submit_job(
            entrypoint=command, submission_id=name, runtime_env=environment, **self.options)

    def _state(self,
        handle,  # Ray's name of the job; None in the ledger until `start` has returned
    ):
        "Ray's word for the state of a job, such as PENDING; UNKNOWN if Ray does not know the job"
        try:
            return str(self.client.get_job_status(handle or ""))
        except RuntimeError:  # Ray's error for a name that it does not know, such as ""
            return "UNKNOWN"

    def alive(self, folder, handle):
        "Tell whether a supervisor holds the job's lock, or Ray says that it runs or will run"
        return is_held(JobFolder(folder).lock) or self._state(handle) in self.waiting

    def withdraw(self, folder, handle):
        "Stop a supervisor that still waits for a node, since it reads no order before it has one"
        if not is_held(JobFolder(folder).lock) and self._state(handle) == "PENDING":
            self.client.stop_job(handle)


backends = {"local": LocalBackend, "submitit": SubmititBackend, "ray": RayBackend}  # name in `Jobs` → class
