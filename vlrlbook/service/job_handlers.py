"""What the addresses of jobs do: start, list, cancel, resume; and tell a job's state to many at once.

Written by hand, not exported from a notebook."""
import asyncio
import hashlib
import json
import re
import sys
import time

from ..folders import write_json
from ..jobs import JobFolder, states, train_command
from ..settings import nearest
from .log_lines import logger
from .refusals import Problem, clean
from .replies import bytes_reply, empty_reply, encoded, reply
from .request_parts import json_body, query
from .results import add_outlook, job_reply
from .training_plan import plan_with_length
from .training_requests import read_request
from .upload_handlers import page_limit
from .uploads import Uploads

__all__ = ["after_you", "gentle", "JobSide", "StateSide"]

# A program that steps back behind the server and then becomes the program that is named behind it.
after_you = """
import os, sys
os.nice(5)
try:
    # Where Linux shares processors by session, a process's own niceness counts only within its session.
    open("/proc/self/autogroup", "w").write("5")
except OSError:
    pass  # a system that does not share by session
os.execv(sys.argv[1], sys.argv[1:])
"""

_fresh_seconds = 0.2  # a state so young is said again, so that a thousand readers cost as much as five
_usable_seconds = 1  # a state that is so young is said at once while a newer one is fetched
_most_remembered = 1000  # states of jobs


def gentle(
    size: str,  # tiny or gpu
) -> list | None:  # a command for chapter 07a; None: its own
    "The command for a trainer that lets the server go first"
    if size != "tiny":
        return None  # what trains on a GPU hardly needs the processors that answer requests
    return [sys.executable, "-S", "-c", after_you, *train_command()]  # -S: it needs no packages


class StateSide:
    "Answers GET /jobs/{job_id} for many at once: one question to the ledger, and its answer for all"
    def __init__(self,
        jobs,  # chapter 07a's `Jobs`
    ):
        self.jobs = jobs
        self.polled = {}  # job_id → (when it was asked, the reply's bytes)
        self.asking = {}  # job_id → the task that asks the ledger now
        self.notes = {}  # job_id → what was decided for it; it never changes

    async def job(self, request):
        "GET /jobs/{job_id}: its state, at most a second old, however many ask"
        job_id = request.path_params["job_id"]
        remembered = self.polled.get(job_id)  # (when it was told, the reply), or None
        age = time.monotonic() - remembered[0] if remembered else float("inf")
        # Young: say it again. Older: say it, and ask the ledger anew, once for all who read next.
        if age > _fresh_seconds and job_id not in self.asking:
            self._begin_to_ask(job_id)
        # Too old, or never told: wait for the ledger.
        if remembered is None or age > _usable_seconds:
            # Shielded, since others wait for the same task: a client that hangs up must not cancel it.
            remembered = await asyncio.shield(self.asking[job_id])
        return bytes_reply(remembered[1], "application/json")

    def forget(self,
        job_id: str,  # of a job that was just changed
    ):
        "Drop what was said of a job, so that the next reader waits for what the ledger says now"
        self.polled.pop(job_id, None)

    def _begin_to_ask(self, job_id):
        "Ask the ledger in a task of its own"
        task = asyncio.create_task(self._ask(job_id))
        self.asking[job_id] = task
        # A failure that nobody waits for would be reported as one that was never looked at.
        task.add_done_callback(_look_at_failure)

    async def _ask(self, job_id):
        "Ask the ledger and remember the reply"
        try:
            # In a thread: the ledger may be waiting for the disk, which every upload brings to rest.
            told = await asyncio.to_thread(self._reply_about, job_id)
        except Exception:
            self.forget(job_id)  # what was known is wrong now: the job may be gone
            raise
        finally:
            del self.asking[job_id]
        if len(self.polled) > _most_remembered:
            self.polled.clear()
        self.polled[job_id] = (time.monotonic(), told)
        return self.polled[job_id]

    def _reply_about(self, job_id):
        "The bytes of a job's state"
        job = self.jobs.get(job_id)
        told = add_outlook(job_reply(job), JobFolder(self.jobs.folder(job_id)))
        return encoded(told | dict(notes=self._notes_of(job_id)))

    def _notes_of(self, job_id):
        "What was decided for a job when it was started"
        if job_id not in self.notes:
            path = JobFolder(self.jobs.folder(job_id)).notes
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                return []  # not remembered: it may be written just now
            except (OSError, ValueError) as error:
                # Damaged from outside. The state of the job is worth more than these notes.
                logger.warning("notes", extra=dict(job_id=job_id, reason=type(error).__name__))
                found = []
            self.notes[job_id] = [str(note) for note in found] if isinstance(found, list) else []
        return self.notes[job_id]


def _look_at_failure(task):
    "Read a task's exception, so that asyncio knows that somebody has"
    if not task.cancelled():
        task.exception()


class JobSide:
    "Answers the addresses that start, list and change jobs; each method takes a request"
    def __init__(self,
        jobs,  # chapter 07a's `Jobs`
        uploads: Uploads,  # what may be trained on
        states_of_jobs: StateSide,  # forgets a job that is changed here
        size: str,  # tiny or gpu, what the server trains
        form: dict,  # from `request_form`
        stall_seconds: float = 30.0,  # in which a request's body must have come
    ):
        self.jobs = jobs
        self.uploads = uploads
        self.stall_seconds = stall_seconds
        self.states_of_jobs = states_of_jobs
        self.size = size
        self.form = form
        self.command = gentle(size)  # that trains; None: chapter 07a's own

    async def train(self, request):
        "POST /train: start a job; the same Idempotency-Key and request give the same job"
        key = request.headers.get("idempotency-key")
        if key is not None and not re.fullmatch(r"[!-~]{1,200}", key):
            raise Problem("idempotency.key", "expected 1 to 200 printable characters without spaces")
        body = await json_body(request, seconds=self.stall_seconds)
        asked = read_request(body, self.form)
        # The ledger writes key and hash in the transaction that writes the job: a server that dies between
        # the two would have started a job that it does not know.
        request_hash = _hash_of(body) if key else None
        job, notes = await asyncio.to_thread(self._submit, asked, key, request_hash)
        return reply(job_reply(job) | dict(notes=notes))

    def _submit(self, asked, key, request_hash):
        "Write a checked request down as a job; the job and what was decided for it"
        upload = self.uploads.get(asked["data_file_id"])
        pictures = self.uploads.check(upload["file_id"])
        parameters, notes, steps = plan_with_length(
            asked["settings"], self.size, self.form, upload["valid_images"], pictures)
        # Relative to the job's folder, where the trainer runs: a data directory can be moved.
        parameters |= dict(task="counting", data=f"../../uploads/{upload['file_id']}")
        # From the last look at the upload until the ledger says that a job needs it, nobody takes it away.
        with self.uploads.in_use:
            self.uploads.get(upload["file_id"])
            job = self.jobs.submit(asked["job_name"], parameters, self.command, key, request_hash, steps)
        logger.info("train", extra=dict(job_id=job.job_id, file_id=upload["file_id"]))
        self._keep_notes(job.job_id, notes)
        return job, notes

    def _keep_notes(self, job_id, notes):
        "Write what was decided beside the job"
        try:
            write_json(JobFolder(self.jobs.folder(job_id)).notes, notes)
        except OSError as error:
            # The job is there all the same, and whoever asked for it must not be told that it is not.
            logger.warning("notes", extra=dict(job_id=job_id, reason=error.strerror))

    async def list_jobs(self, request):
        "GET /jobs: newest first, a page at a time"
        asked = query(request, status=(str, None), limit=page_limit, after=(str, None))
        status, after = asked["status"], asked["after"]
        if status is not None and status not in states:
            raise Problem("query.value", f"status{nearest(clean(status, 40), list(states))}")
        if after is not None and not re.fullmatch(r"[0-9]{1,18}", after):
            raise Problem("query.value", "after: take `next` of the page before")
        page, following = await asyncio.to_thread(
            self.jobs.list, status=status, limit=asked["limit"], after=after)
        return reply(dict(jobs=[job_reply(job) for job in page], next=following))

    async def cancel(self, request):
        "DELETE /jobs/{job_id}: stop a job, or with ?purge=true forget one that has ended"
        job_id = request.path_params["job_id"]
        self.states_of_jobs.forget(job_id)  # the state that was remembered for readers is about to be old
        # Cancelling keeps what the run has made; only a second request, on a job that has ended, removes it.
        # So one mistaken DELETE costs the rest of a run at most.
        if query(request, purge=(bool, False))["purge"]:
            await asyncio.to_thread(self.jobs.remove, job_id)
            return empty_reply(204)
        job = await asyncio.to_thread(self.jobs.cancel, job_id)
        return reply(job_reply(job))

    async def resume(self, request):
        "POST /jobs/{job_id}/resume: go on from the newest whole checkpoint"
        job_id = request.path_params["job_id"]
        self.states_of_jobs.forget(job_id)
        job = await asyncio.to_thread(self._resume, job_id)
        return reply(job_reply(job))

    def _resume(self, job_id):
        "Queue a job again, while nobody takes its upload away"
        with self.uploads.in_use:
            return self.jobs.resume(job_id)

    async def moves(self, request):
        "GET /jobs/{job_id}/moves: every move between states"
        moves = await asyncio.to_thread(self.jobs.events, request.path_params["job_id"])
        return reply(dict(moves=moves))


def _hash_of(body):
    "A hash of a request that does not depend on the order of its keys"
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
