"""What a server does about the things that it finds in a data directory, before it starts a job.

Nothing that may be finished is deleted here. What the ledger does not know is left where it lies, and named
in the log; without a ledger the server refuses to start, unless it is told to adopt the jobs that it finds.
Written by hand, not exported from a notebook."""
import json
import os
import re
import shutil
from operator import itemgetter
from pathlib import Path

from .errors import LedgerLost
from .folder import DataFolder
from .job import as_given, clean, utc
from .ledger import Ledger, ledger_problem, logger
from .lock_file import cancel_order, is_held, order_of_lock_file
from .outcome import Outcome, outcome_content
from .progress import progress_of
from .result import problem_of
from .retention import ServiceClock

__all__ = ["need_ledger", "tidy", "adopt_unknown_jobs", "read_object"]

ledger_endings = ("", "-wal", "-shm")  # SQLite's files beside the ledger belong to it
possible_id = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a folder's name that can be a job's id in a URL
# Slot of an adopted job that runs. Only the lost ledger knew its devices: this is the commonest.
adopted_slot = "0"


def need_ledger(
    data: DataFolder,  # whose lock this server holds; its ledger is not open yet
    adopt: bool,  # True: go on with a new ledger, into which the caller then writes the jobs that it finds
):
    """Raise LedgerLost if the ledger is damaged, or missing though there are jobs.

    With `adopt` what is left of the ledger is renamed instead, so that a new one can be made."""
    problem = ledger_problem(data.ledger)  # such as "is missing"; None: nothing is wrong
    if problem is None:
        return
    folders = data.job_folders()
    # A damaged ledger held jobs once, so it is refused even if no folder of a job is left.
    is_first_start = problem in ("is missing", "is empty") and not folders
    if is_first_start:
        return
    if not adopt:
        contents = f"{data.jobs.name}/ holds {len(folders)} jobs" if folders else "nothing was started"
        raise LedgerLost(f"{data.ledger.name} {problem}, and {contents}. Put the ledger back from a copy, or "
                         "start with --adopt true: it makes a new ledger and lists the jobs that it finds")
    # Renames those of its files that are there: of a missing ledger SQLite's -wal and -shm may be left.
    _put_ledger_aside(data)


def _put_ledger_aside(
    data,  # DataFolder: data.ledger is the path of the ledger
):
    "Rename a ledger that cannot be used, and SQLite's files beside it, to ledger.sqlite3.damaged-1 and so on"
    number = 1  # the first one that is free: damaged ledgers of earlier starts are kept too
    while os.path.lexists(f"{data.ledger}.damaged-{number}"):
        number += 1
    for ending in ledger_endings:  # "" for the ledger itself; -wal and -shm, which SQLite keeps beside it
        old = f"{data.ledger}{ending}"
        if os.path.lexists(old):
            os.rename(old, f"{data.ledger}.damaged-{number}{ending}")
            logger.warning("%s%s was put aside as %s.damaged-%s%s",
                           data.ledger.name, ending, data.ledger.name, number, ending)


def tidy(
    ledger: Ledger,  # of the data directory
    data: DataFolder,  # that no other server works on
):
    """Remove the folders that a crash left unfinished, and those that were to be removed.

    Every other folder without a row, and every row without a folder, is kept and named in the log."""
    for path in data.half_made():
        shutil.rmtree(path)
    _finish_removals(ledger, data)
    ledger_ids = ledger.job_ids()
    _report_folders_without_row(data, ledger_ids)
    # Rows without a folder.
    folder_names = {path.name for path in data.jobs.iterdir()}
    for job_id in sorted(ledger_ids - folder_names):
        logger.warning("the folder of job %s is gone", job_id)


def _finish_removals(
    ledger,  # notes each job that is being removed, until its folder is gone
    data,  # DataFolder: names the jobs' folders
):
    "Delete the folders of jobs whose rows were deleted by a server that died before it came to the folders"
    for job_id in ledger.removed():
        folder = data.job(job_id)
        # If the lock is held, processes of the job still live: the folder stays, and is named in the log
        # later on, as every folder that the ledger does not know.
        if folder.path.exists() and not is_held(folder.lock):
            data.discard(folder)
        ledger.removal_done(job_id)  # deletes the note


def _report_folders_without_row(
    data,  # DataFolder: data.jobs is the folder with the jobs' folders
    ledger_ids,  # a set: ids of all jobs that the ledger knows
):
    "Name in the log all that lies in jobs/ and is of no known job; remove what is an empty folder"
    for path in sorted(data.jobs.iterdir()):
        if path.name in ledger_ids:
            continue
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # nothing is lost with an empty folder
        else:
            logger.warning("%s/%s is left where it lies: the ledger knows no such job",
                           data.jobs.name, clean(path.name))


def adopt_unknown_jobs(
    ledger: Ledger,  # of the data directory
    data: DataFolder,  # that no other server works on
    clock: ServiceClock,  # seconds for which the data directory has been served
) -> list:  # ids of the jobs that were added to the ledger
    "Add a row to the ledger for every job folder that has none, in the order of their submission"
    adopted_ids = []
    # Sorted by the time alone: folders cannot be compared where two times are equal.
    for submitted_at, folder in sorted(_unknown_jobs(ledger, data), key=itemgetter(0)):
        # `_columns_of`: what the files of the folder tell of state, progress and parameters.
        columns = _columns_of(folder, clock) | dict(created_at=utc(submitted_at))
        ledger.adopt(columns)
        adopted_ids.append(folder.job_id)
    return adopted_ids


def _unknown_jobs(
    ledger,  # has a row for each job that it knows
    data,  # DataFolder: lists the folders of jobs
):
    "The job folders without a row in the ledger: a list of (time of submission in seconds, JobFolder)"
    ledger_ids = ledger.job_ids()
    unknown = []
    for folder in data.job_folders():
        # Its name must be possible as a job's id in a URL of the service.
        if folder.job_id not in ledger_ids and possible_id.fullmatch(folder.job_id):
            unknown.append((_submitted_at(folder), folder))
    return unknown


def _submitted_at(
    folder,  # JobFolder
):
    "When a job was submitted, in seconds since 1970, by the times of its files"
    # The request is written once, when a job is submitted; the folder's time changes with every file in it.
    path = folder.request if folder.request.exists() else folder.path
    return path.stat().st_mtime


def _columns_of(
    folder,  # JobFolder of a job whose row was lost
    clock,  # ServiceClock: a job that has ended is kept as long as if it had ended now
):
    "The ledger's columns of a job, made from the files in its folder"
    # The attempt's number (0: it never started), and how it ended: state, error_code, error_message.
    attempt, outcome = _latest_attempt(folder)
    state = _state_of(folder, attempt, outcome)
    has_failed = state == "failed"
    has_ended = state in ("completed", "failed", "cancelled")
    columns = dict(
        job_id=folder.job_id,
        job_name=str(read_object(folder.request).get("name") or folder.job_id),
        status=state,
        error_code=outcome["error_code"] if has_failed else None,
        error_message=outcome["error_message"] if has_failed else None,
        attempt=attempt,
        parameters=json.dumps(as_given(read_object(folder.parameters))),
        # Only the lost ledger knew on which devices it trains; `adopted_slot` is a guess, the first GPU.
        slot=adopted_slot if state == "training" else None,
        ended_clock=clock.now() if has_ended else None)
    # current_step, loss, total_steps, progress; total=None: the ledger has no number of steps, the files may
    columns |= progress_of(folder, total=None)
    if state == "completed":
        columns["progress"] = 100.0
    return columns


def _latest_attempt(
    folder,  # JobFolder of a job whose row was lost
):
    """The number of a job's latest attempt (0: it never started), and a dict that says how it ended.

    The dict has at least state, error_code and error_message. The lock file holds the number of the attempt
    that started last, outcome.json the end of an attempt."""
    # (order to run or to stop, number); the number is None if there is no such file, or if it is damaged.
    _, started_attempt = order_of_lock_file(folder.lock)
    outcome = Outcome.read(folder, attempt=None)  # the latest that any attempt has written; None: none has
    if outcome and (started_attempt is None or started_attempt <= outcome["attempt"]):
        return outcome["attempt"], outcome
    # The attempt that started last was cut off before it could write how it ended: it is interrupted.
    # Where none has started, the number is 0, and the caller makes no use of the outcome.
    return started_attempt or 0, outcome_content("interrupted")


def _state_of(
    folder,  # JobFolder of a job whose row was lost
    attempt,  # number of its latest attempt; 0: it never started
    outcome,  # dict: how that attempt ended; its `state` is completed, failed, cancelled or interrupted
):
    "Tell the state of a job from its files: training, an end, queued or interrupted"
    # The lock is asked first: while the supervisor lives, the files may still be those of an attempt before.
    if is_held(folder.lock):
        return "training"
    if problem_of(folder.result) is None:  # the result is there and undamaged
        return "completed"
    if outcome["state"] in ("failed", "cancelled") and attempt > 0:
        return outcome["state"]
    # It could go on: it has not started, or was interrupted. Or its outcome says "completed" and its result
    # is damaged, so that it can write it anew.
    order, _ = order_of_lock_file(folder.lock)  # the last that anybody has written
    if order == cancel_order:
        return "cancelled"  # an answer to its owner said so
    return "queued" if attempt == 0 else "interrupted"


def read_object(
    path: Path,  # of a JSON file with an object in it, in a job's folder
) -> dict:  # empty if there is no such file, or it holds anything else
    "Read a JSON object from a file that may be damaged; a file that cannot be read is named in the log"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        logger.warning("%s of job %s cannot be read: %s", path.name, path.parent.name, type(e).__name__)
        return {}
    return content if isinstance(content, dict) else {}
