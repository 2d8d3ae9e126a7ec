"""What the addresses of jobs do: start, list, cancel, resume; and tell a job's state to many at once.

Written by hand, not exported from a notebook."""
import asyncio
import hashlib
import json
import re
import time

from ..archive import zip_kinds
from ..folders import write_json
from ..jobs import JobFolder, own_python, states, train_command
from ..settings import nearest
from .log_lines import logger
from .refusals import Problem, clean
from .replies import bytes_reply, empty_reply, encoded, reply
from .request_parts import json_body, query
from .results import add_outlook, job_reply
from .training_form import kind_of_task
from .training_plan import plan_with_length
from .training_requests import read_request, refuse_clashes, requested_task
from .upload_handlers import page_limit
from .uploads import Uploads

__all__ = ["after_you", "gentle", "JobSide", "StateSide", "refuse_other_kind"]

# A program that lowers its own priority and then becomes the program that its arguments name.
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

# A reply younger than this is sent again as it is, so that a thousand readers cost the ledger no more than
# five questions a second.
_fresh_seconds = 0.2
_usable_seconds = 1  # a reply younger than this is still sent, while the ledger is asked for a newer one
_most_remembered = 1000  # replies about jobs that are kept in memory


def gentle(
    size: str,  # tiny or gpu: the models that the server trains
) -> list | None:  # a command line; None: the usual one of `vlrlbook.jobs`
    "Return the command of a trainer with a lower priority than the server, which must answer requests soon"
    if size != "tiny":
        return None  # training on a GPU leaves the CPU free for requests
    # `after_you` is Python code that lowers its own priority and then becomes the trainer (execv of the words
    # behind it). -S: it needs no installed package.
    return [*own_python(), "-S", "-c", after_you, *train_command()]


class StateSide:
    "Answers GET /jobs/{job_id} for many clients at once: the ledger is asked once, and all get its answer"
    def __init__(self,
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
    ):
        "Answer GET /jobs/{job_id} for many clients at once"
        self.jobs = jobs
        self.replies = {}  # job_id → (when the ledger answered, by time.monotonic; the reply as bytes)
        self.tasks = {}  # job_id → the task that is asking the ledger
        self.notes = {}  # job_id → notes on what the server decided for the job; they never change

    async def job(self, request):
        """GET /jobs/{job_id}: the job's state, at most a second old, however many clients ask.

        A reply older than `_fresh_seconds` (0.2) is still sent, but makes the ledger be asked for a newer
        one. Only beyond `_usable_seconds` (1) does a request wait for that."""
        job_id = request.path_params["job_id"]
        answered_at, last_reply = self.replies.get(job_id, (float("-inf"), None))
        age = time.monotonic() - answered_at
        if age > _fresh_seconds and job_id not in self.tasks:
            self._begin_to_ask(job_id)  # puts a task into `self.tasks`
        if last_reply is None or age > _usable_seconds:
            # Several clients wait for one task. `shield`: a client that hangs up does not cancel it.
            _, last_reply = await asyncio.shield(self.tasks[job_id])
        return bytes_reply(last_reply, "application/json")

    def forget(self,
        job_id: str,  # of a job that was just changed
    ):
        """Drop the remembered reply about a job, so that the next reader waits for what the ledger says now.

        A task that is asking the ledger may have read the old state. Those who wait for it get its answer,
        but `_ask` does not remember it, and later readers begin a task of their own."""
        self.replies.pop(job_id, None)
        self.tasks.pop(job_id, None)

    def forget_all(self):
        "Do as `forget` does for every job: some of them were just removed"
        self.replies.clear()
        self.tasks.clear()

    def _begin_to_ask(self, job_id):
        "Ask the ledger in a task; `self.tasks` holds it until it is done, for all who wait for the answer"
        task = asyncio.create_task(self._ask(job_id))
        self.tasks[job_id] = task
        # If nobody waits for the task when it fails, asyncio would log "exception was never retrieved".
        task.add_done_callback(_look_at_failure)

    async def _ask(self, job_id):
        """Ask the ledger for a job's state and return (time of the answer, reply as bytes).

        The answer is remembered, unless the job was changed while the ledger was asked (see `forget`)."""
        try:
            # In a thread: the ledger may have to wait for the disk while an upload is written to it.
            reply_bytes = await asyncio.to_thread(self._reply_about, job_id)
        except Exception:
            self.replies.pop(job_id, None)  # it is wrong now: the job may have been removed
            raise
        finally:
            # `forget` has taken this task away if the job was changed; another one may be there by now.
            is_current = self.tasks.get(job_id) is asyncio.current_task()
            if is_current:
                del self.tasks[job_id]  # so that the next reader begins another one
        answer = (time.monotonic(), reply_bytes)
        if is_current:
            self._remember(job_id, answer)
        return answer

    def _remember(self,
        job_id,  # of the job that the answer is about
        answer,  # (when the ledger gave it, by time.monotonic; the reply as bytes)
    ):
        "Keep an answer of the ledger for the next readers"
        # All are dropped at once, since each is of use for a second only.
        if len(self.replies) > _most_remembered:
            self.replies.clear()
        self.replies[job_id] = answer

    def _reply_about(self, job_id):
        "Return a job's state as the bytes of a JSON reply"
        job = self.jobs.get(job_id)
        folder = JobFolder(self.jobs.folder(job_id))
        content = add_outlook(job_reply(job), folder)  # adds `can_resume` and `stage`
        return encoded(content | dict(notes=self._notes_of(job_id)))

    def _notes_of(self, job_id):
        """Return the notes on what the server decided for a job when it was started, such as its steps.

        They are a list of texts in a file of the job's folder, and are read only once."""
        if job_id not in self.notes:  # a dict: job_id → its notes
            path = JobFolder(self.jobs.folder(job_id)).notes
            try:
                self.notes[job_id] = _read_notes(path, job_id)
            except FileNotFoundError:
                return []  # not remembered: the file may be written at this moment
        return self.notes[job_id]


def _read_notes(
    path,  # JSON file with a list of texts: what the server decided for a job
    job_id,  # of the job, for the log
):
    "The texts in the file of a job's notes; [] if it is damaged, FileNotFoundError if it is not there"
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise  # not damaged, perhaps only not written yet: the caller looks again next time
    except (OSError, ValueError) as error:
        # Damaged from outside. The state of the job is worth more than these notes.
        logger.warning("notes", extra=dict(job_id=job_id, reason=type(error).__name__))
        return []
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _look_at_failure(task):
    "Read a task's exception, so that asyncio does not report it as one that nobody has read"
    if not task.cancelled():
        task.exception()


class JobSide:
    "Answers the addresses that start, list and change jobs; each method takes a request"
    def __init__(self,
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        uploads: Uploads,  # what may be trained on
        states_of_jobs: StateSide,  # forgets a job that is changed here
        size: str,  # tiny or gpu: the models that the server trains
        forms: dict,  # task → its form, from `request_form`
        stall_seconds: float = 30.0,  # in which a request's body must have come
    ):
        "Answer the addresses that start, list and change jobs"
        self.jobs = jobs
        self.uploads = uploads
        self.stall_seconds = stall_seconds
        self.states_of_jobs = states_of_jobs
        self.size = size
        self.forms = forms
        self.command = gentle(size)  # of a trainer with low priority; None: the usual one

    async def train(self, request):
        "POST /train: start a job; the same Idempotency-Key and request give the same job"
        key = request.headers.get("idempotency-key")
        if key is not None and not re.fullmatch(r"[!-~]{1,200}", key):
            raise Problem("idempotency.key", "expected 1 to 200 printable characters without spaces")
        body = await json_body(request, seconds=self.stall_seconds)
        form = self.forms[requested_task(body)]  # what may be set depends on the task
        train_request = read_request(body, form)  # job_name, data_file_id (or None), settings
        # The ledger stores key and hash with the job in one transaction. Were they stored later, a server
        # that died in between would start a second job when the client repeats its request.
        request_hash = _hash_of(body) if key else None  # equal for equal requests, in any order of keys
        job, notes = await asyncio.to_thread(self._submit, train_request, key, request_hash)
        return reply(job_reply(job) | dict(notes=notes))

    def _submit(self,
        train_request,  # checked: a dict of job_name, data_file_id (None: drawn pictures) and settings
        key,  # Idempotency-Key, by which a repeated request gets the same job; or None
        request_hash,  # of the request: two with one key must be equal in it; None without a key
    ):
        "Write a request down in the ledger; return the `Job` and the notes on what the server decided for it"
        earlier = self._earlier(key, request_hash)
        if earlier:
            return earlier
        file_id = train_request["data_file_id"]
        parameters, notes, total_steps = self._planned(train_request["settings"], file_id)
        # The lock keeps anybody from deleting the upload until the ledger says that a job needs it.
        with self.uploads.in_use:
            if file_id is not None:
                self.uploads.get(file_id)  # a Problem if it was deleted just before
                # Relative to the job's folder, where the trainer runs: a data directory can be moved.
                parameters["data"] = f"../../uploads/{file_id}"
            job_name = train_request["job_name"]
            job = self.jobs.submit(job_name, parameters, self.command, key, request_hash, total_steps)
        logger.info("train", extra=dict(job_id=job.job_id, file_id=file_id))
        self._keep_notes(job.job_id, notes)  # in a file of the job's folder
        return job, notes

    def _earlier(self,
        key,  # Idempotency-Key; None: the request has none
        request_hash,  # of the request that came with it now
    ):
        "The job that came with a key before, and its notes; None if there is none, or it has no notes yet"
        # Asked before anything is planned: the job's upload may be gone, and the job is the answer all the
        # same. A key of another request raises KeyReused.
        job = self.jobs.submission.known(key, request_hash)
        if job is None:
            return None
        try:
            notes = _read_notes(JobFolder(self.jobs.folder(job.job_id)).notes, job.job_id)
        except FileNotFoundError:  # the server died before it wrote them: they are made again
            return None
        return job, notes

    def _planned(self,
        settings,  # what the client chose: name in `GRPOSettings` → value, such as lr → 5e-5
        file_id,  # of the upload to train on; None: pictures are drawn
    ):
        """Decide what the client left open, such as the batch, and check that all of it fits together.

        Returns the run's parameters, the notes on the decisions, and the run's length in optimizer steps.
        Raises a Problem if the upload is missing, is of another task, or if settings clash."""
        task = settings.get("task", "counting")
        row_count = picture_hashes = None  # without an upload the run draws its pictures
        if file_id is not None:
            upload = self.uploads.get(file_id)
            refuse_other_kind(task, upload)
            row_count = upload["valid_images"]  # each row has one picture
            # Raises a Problem if files are missing. One hash a row: rows with the same picture are trained on
            # together, or held out together.
            picture_hashes = self.uploads.check(file_id)
        form = self.forms[task]  # has the default of every setting
        # self.size: tiny or gpu, the models that this server trains
        parameters, notes, steps = plan_with_length(settings, self.size, form, row_count, picture_hashes)
        parameters["task"] = task
        refuse_clashes(parameters)
        return parameters, notes, steps

    def _keep_notes(self, job_id, notes):
        "Write the notes on what the server decided for a job, a list of sentences, into the job's folder"
        try:
            write_json(JobFolder(self.jobs.folder(job_id)).notes, notes)
        except OSError as error:
            # Only logged: the job has been started, so the request must not fail.
            logger.warning("notes", extra=dict(job_id=job_id, reason=error.strerror))

    async def list_jobs(self, request):
        "GET /jobs: newest first, a page at a time"
        # Each parameter's type and default; `page_limit`: an int, 50, from 1 to 500.
        parameters = query(request, status=(str, None), limit=page_limit, after=(str, None))
        status, after = parameters["status"], parameters["after"]
        _check_page(status, after)
        # `next_after`: what a client sends as `after` for the next page; None on the last one
        page, next_after = await asyncio.to_thread(
            self.jobs.list, status=status, limit=parameters["limit"], after=after)
        return reply(dict(jobs=[job_reply(job) for job in page], next=next_after))

    async def cancel(self, request):
        "DELETE /jobs/{job_id}: stop a job, or with ?purge=true forget one that has ended"
        job_id = request.path_params["job_id"]
        # Cancelling keeps what the run has made; only a second request, on a job that has ended, removes it.
        # So one mistaken DELETE costs the rest of a run at most.
        if query(request, purge=(bool, False))["purge"]:
            await self._changed(self.jobs.remove, job_id)
            return empty_reply(204)
        job = await self._changed(self.jobs.cancel, job_id)
        return reply(job_reply(job))

    async def resume(self, request):
        "POST /jobs/{job_id}/resume: go on from the newest whole checkpoint"
        job_id = request.path_params["job_id"]
        job = await self._changed(self._resume, job_id)
        return reply(job_reply(job))

    async def _changed(self,
        change,  # function of a job_id that changes the job in the ledger, such as `Jobs.cancel`
        job_id,  # of the job
    ):
        "Change a job in a thread, return what `change` returns, and forget what is remembered of the job"
        try:
            return await asyncio.to_thread(change, job_id)
        finally:
            # `states_of_jobs` remembers replies for readers. Those made before or during the change hold the
            # old state. Also after an error, since the change may have been made before it.
            self.states_of_jobs.forget(job_id)

    def _resume(self, job_id):
        "Queue a job again; the lock keeps its upload from being deleted meanwhile"
        with self.uploads.in_use:
            return self.jobs.resume(job_id)

    async def moves(self, request):
        "GET /jobs/{job_id}/moves: every move between states"
        moves = await asyncio.to_thread(self.jobs.events, request.path_params["job_id"])
        return reply(dict(moves=moves))


def _check_page(
    status,  # only jobs in this state, such as queued; None: all
    after,  # `next` of the page before, a number as a text; None: the first page
):
    "Raise a Problem if these two parameters of GET /jobs, texts of a stranger, cannot be meant"
    if status is not None and status not in states:
        suggestion = nearest(clean(status, 40), list(states))  # ": did you mean …?", or a list of all
        raise Problem("query.value", f"status{suggestion}")
    if after is not None and not re.fullmatch(r"[0-9]{1,18}", after):
        raise Problem("query.value", "after: take `next` of the page before")


def refuse_other_kind(
    task: str,  # counting, vqa, pointing or zoom
    upload: dict,  # its facts as `Uploads.get` has them; needed are `kind` and `filename`
):
    "Raise a Problem unless a task can be trained on an upload, with what was expected instead"
    kind, wanted = upload["kind"], kind_of_task[task]  # such as counting; None: the task takes no upload
    if kind == wanted:
        return
    filename = clean(upload["filename"], 60)
    mismatch = f"task {task} cannot be trained on {filename!r}, whose answers are of kind {kind}"
    message = f"{mismatch}: {_advice_on_data(task, wanted)}"
    error = dict(field="data_file_id", code="train.kind", message=message)
    raise Problem("train.kind", message, errors=[error])


def _advice_on_data(
    task,  # counting, vqa, pointing or zoom
    kind,  # of the uploads that the task can be trained on; None if on none
):
    "What a client can do to train a task whose upload was of another kind: the end of a message"
    without = "leave data_file_id out to train on drawn pictures"
    if kind is None:
        command = f"`vlrlbook grpo --task {task} --data FILE`"
        return f"{without}, or train on your own rows with {command}, which reads them in all usual forms"
    return f"upload a ZIP with ?kind={kind} (an answer is {zip_kinds[kind]}), or {without}"


def _hash_of(body):
    "A hash of a request, the body of POST /train as a dict; it does not depend on the order of the keys"
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
