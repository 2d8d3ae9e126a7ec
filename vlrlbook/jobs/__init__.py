"""Jobs that outlive their server: one SQLite file says what each job is, one small process watches over it.

Whatever is killed, no job is lost and none runs twice. The way through the files: folder.py names what lies
where, job.py the states; ledger.py keeps them; dispatcher.py holds `Jobs`, which starts supervisors
(backend.py); a supervisor (supervisor.py) starts a trainer (trainer.py) and says how it ended (outcome.py).
Page 07a tells it.

Nothing heavy is imported: no torch, no NumPy. Written by hand, not exported from a notebook."""
from ..folders import damage, new_folder, newest_whole_checkpoint, remove_leftovers, write_json
from .backend import LocalBackend, RayBackend, SubmititBackend, backends, supervisor_command
from .command_line import main
from .control import JobControl as Orders
from .dispatcher import DispatcherThread as Dispatch
from .dispatcher import Jobs
from .errors import (AlreadyServed, JobsError, KeyReused, LedgerLost, LedgerUnavailable, NetworkFolder,
                     NoCheckpoint, NoData, QueueFull, UnknownJob, WrongState)
from .folder import DataFolder, JobFolder
from .job import Job, as_given, clean, controls, ends, live, moves, states, utc
from .job_log import Log
from .ledger import Ledger, logger, new_job, schema
from .lock_file import give_order, is_held, read_order, take_lock
from .mounts import file_system, network_systems
from .outcome import Outcome, causes, verdict
from .processes import (job_tag, kill_until_gone, memory_kills, own_python, parents, prctl, signal_all,
                        tagged, tree)
from .progress import Progress, last_row, log_mark, newest_checkpoint, progress_of
from .records import JobRecords as Questions
from .result import commit_result, problem_of
from .retention import CleanUp, folder_bytes
from .running import RunningJobs as Looks
from .stocktaking import read_object
from .submission import Submission
from .supervisor import supervise
from .trainer import train, train_command
from .waiting import WaitingJobs as Starts
from .waiting import devices_of, gpu_count

# Orders, Dispatch, Questions, Looks and Starts are the names under which these parts of `Jobs` could be
# imported when they were mixins of one file.
__all__ = [
    "logger", "moves", "states", "live", "ends", "controls", "schema", "network_systems", "causes",
    "backends", "new_job", "JobsError", "UnknownJob", "WrongState", "NoCheckpoint", "QueueFull",
    "KeyReused", "AlreadyServed", "NetworkFolder", "LedgerUnavailable", "Job", "as_given", "clean", "utc",
    "Ledger", "take_lock", "is_held", "give_order", "read_order", "file_system", "parents", "tree", "job_tag",
    "tagged", "signal_all", "kill_until_gone", "prctl", "Outcome", "Log", "verdict", "memory_kills",
    "problem_of", "supervise", "newest_checkpoint", "log_mark", "last_row", "progress_of",
    "supervisor_command", "LocalBackend", "SubmititBackend", "RayBackend", "train_command", "Submission",
    "Questions", "Orders", "Looks", "Progress", "Starts", "devices_of", "gpu_count", "folder_bytes",
    "CleanUp", "Dispatch", "Jobs", "LedgerLost", "NoData", "read_object", "train", "commit_result", "main",
    "JobFolder", "DataFolder", "own_python"]
