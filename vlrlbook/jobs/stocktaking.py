"""What a server does about the things that it finds in a data directory, before it starts a job.

Nothing that may be finished is deleted here. What the ledger does not know is left where it lies, and named
in the log; without a ledger the server refuses to start, unless it is told to adopt the jobs that it finds.
Written by hand, not exported from a notebook."""
import json
import os
import re
import shutil
from pathlib import Path

from .errors import LedgerLost
from .folder import DataFolder, JobFolder
from .job import clean, utc
from .ledger import Ledger, ledger_problem, logger
from .lock_file import is_held, order_of_lock_file
from .outcome import Outcome, outcome_content
from .progress import progress_of
from .result import problem_of
from .retention import ServiceClock

__all__ = ["need_ledger", "tidy", "adopt_unknown_jobs", "read_object"]

ledger_endings = ("", "-wal", "-shm")  # SQLite's files beside the ledger belong to it
possible_id = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a folder's name that can be a job's id in an address
adopted_slot = "0"  # of a job that was found running: the devices that it was given stood in the ledger


def need_ledger(
    data: DataFolder,  # that this server holds, before the ledger is opened
    adopt: bool,  # make a new ledger and adopt what is found
):
    "Refuse to go on where jobs lie and their ledger is lost or damaged; with `adopt` put a damaged one aside"
    problem = ledger_problem(data.ledger)
    if problem is None:
        return
    folders = data.job_folders()
    # A ledger that is damaged was once a ledger, so a job may have been known even where no folder is left.
    is_new = problem in ("is missing", "is empty") and not folders
    if is_new:
        return  # the first start in a new data directory
    if not adopt:
        found = f"{data.jobs.name}/ holds {len(folders)} jobs" if folders else "nothing was started"
        raise LedgerLost(f"{data.ledger.name} {problem}, and {found}. Put the ledger back from a copy, or "
                         "start with --adopt true: it makes a new ledger and lists the jobs that it finds")
    _put_ledger_aside(data)


def _put_ledger_aside(data):
    "Rename what is there of a ledger that cannot be used, with SQLite's files beside it"
    place = 1  # an earlier damaged one is kept too
    while os.path.lexists(f"{data.ledger}.damaged-{place}"):
        place += 1
    for ending in ledger_endings:
        old = f"{data.ledger}{ending}"
        if os.path.lexists(old):
            os.rename(old, f"{data.ledger}.damaged-{place}{ending}")
            logger.warning("%s%s was put aside as %s.damaged-%s%s",
                           data.ledger.name, ending, data.ledger.name, place, ending)


def tidy(
    ledger: Ledger,  # of the data directory
    data: DataFolder,  # that no other server works on
):
    "Remove what a crash left half-made and what was to be removed; name everything else that nobody knows"
    for path in data.half_made():
        shutil.rmtree(path)
    for job_id in ledger.removed():
        # A held lock: processes of the job still live, and its next owner may want to know.
        if data.job(job_id).path.exists() and not is_held(data.job(job_id).lock):
            data.discard(data.job(job_id))
        ledger.removal_done(job_id)
    known = ledger.job_ids()
    for path in sorted(data.jobs.iterdir()):
        if path.name in known:
            continue
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # nothing is lost with an empty folder
        else:
            logger.warning("%s/%s is left where it lies: the ledger knows no such job",
                           data.jobs.name, clean(path.name))
    for job_id in sorted(known - {path.name for path in data.jobs.iterdir()}):
        logger.warning("the folder of job %s is gone", job_id)


def adopt_unknown_jobs(
    ledger: Ledger,  # of the data directory
    data: DataFolder,  # that no other server works on
    clock: ServiceClock,  # of the data directory
) -> list:  # ids of the jobs that were added to the ledger
    "Write down every job folder that the ledger does not know, in the order in which they were submitted"
    known = ledger.job_ids()
    unknown = []
    for folder in data.job_folders():
        if folder.job_id not in known and possible_id.fullmatch(folder.job_id):
            unknown.append((_submitted_at(folder), folder))
    adopted = []
    for submitted_at, folder in sorted(unknown, key=_first_of):
        columns = _columns_of(folder, clock) | dict(created_at=utc(submitted_at))
        ledger.adopt(columns)
        adopted.append(folder.job_id)
    return adopted


def _first_of(pair):
    "What the found jobs are sorted by"
    return pair[0]


def _submitted_at(folder):
    "When a job was submitted, as far as its files tell; for people, and for the order"
    # The request is written once, when a job is submitted; the folder changes with every file in it.
    path = folder.request if folder.request.exists() else folder.path
    return path.stat().st_mtime


def _columns_of(folder, clock):
    "The ledger's columns of a job, from what lies in its folder"
    attempt, outcome = _latest_attempt(folder)
    state = _state_of(folder, attempt, outcome)
    has_ended = state in ("completed", "failed", "cancelled")
    columns = dict(
        job_id=folder.job_id,
        job_name=str(read_object(folder.request).get("name") or folder.job_id),
        status=state,
        error_code=outcome["error_code"] if state == "failed" else None,
        error_message=outcome["error_message"] if state == "failed" else None,
        attempt=attempt,
        parameters=json.dumps(clean(read_object(folder.parameters))),
        slot=adopted_slot if state == "training" else None,
        ended_clock=clock.now() if has_ended else None)
    columns |= progress_of(folder, None)
    if state == "completed":
        columns["progress"] = 100.0
    return columns


def _latest_attempt(folder):
    "Number of a job's latest attempt and its outcome: by the order in its lock file, else by the outcome"
    attempt = order_of_lock_file(folder.lock)[1]  # None where no order to a supervisor stands in it
    outcome = Outcome.read(folder, None)
    if outcome and (attempt is None or attempt <= outcome["attempt"]):
        return outcome["attempt"], outcome
    return attempt or 0, outcome_content("interrupted")


def _state_of(folder, attempt, outcome):
    "The state that a job was in when its row was lost"
    # The lock first: as long as its process lives, whatever lies in the files may be of an attempt before.
    if is_held(folder.lock):
        return "training"
    if problem_of(folder.result) is None:
        return "completed"
    if attempt == 0:
        return "queued"
    if outcome["state"] == "completed":
        return "interrupted"  # its outcome says so, but the result is not whole
    return outcome["state"]


def read_object(
    path: Path,  # of a JSON file with an object in it
) -> dict:  # empty where there is no such file, or something else in it
    "A JSON object of a job folder that may be damaged; what cannot be read is told in the log"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        logger.warning("%s of job %s cannot be read: %s", path.name, path.parent.name, type(e).__name__)
        return {}
    return found if isinstance(found, dict) else {}
