"""What came of a finished job, and the same picture shown to the model before and after its training.

Both lean on rooms that load NumPy, pictures or torch, so the verdict of an old run and the asking happen in
processes of their own. Written by hand, not exported from a notebook."""
import asyncio
import dataclasses
import json
import secrets
import shutil
import subprocess
from pathlib import Path

from ..compared import compared_figures
from ..jobs import JobFolder, own_python
from .log_lines import logger
from .multipart_file import receive_file
from .options import ServiceSettings
from .refusals import Problem, clean
from .replies import reply
from .request_parts import query

__all__ = ["AskSide"]

_longest_asking = 600  # seconds, since a large model must be loaded first
_longest_verdict = 120  # seconds to compute the verdict of an older run from its answers
_most_picture_mb = 32  # more than a usual camera makes
_most_question_letters = 2000  # of a question
_most_verdicts = 200  # kept in memory

# Programs for processes of their own; each prints one JSON object to stdout. `os.nice` lets the server go
# first.
_ask_code = """
import json, os, sys
os.nice(5)
from vlrlbook.answers import ask_model
run_folder, picture, question = sys.argv[1:]
print(json.dumps(ask_model(run_folder, picture, question, answers=4)))
"""
_verdict_code = """
import json, sys
from vlrlbook.verdict import read_verdict
print(json.dumps(read_verdict(sys.argv[1])))
"""


class AskSide:
    "Handles requests about a completed job: GET …/verdict and POST …/ask"
    def __init__(self,
        settings: ServiceSettings,  # its limits are used
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        aside: Path,  # folder of the data directory for files that are being received
    ):
        # `receive_file` reads its limit from the settings; a picture gets a smaller one than an archive.
        picture_mb = min(settings.upload_mb, _most_picture_mb)
        self.settings = dataclasses.replace(settings, upload_mb=picture_mb)
        self.jobs = jobs
        self.aside = aside
        self.model_lock = asyncio.Semaphore(1)  # one request at a time loads a model
        self.waiting = 0  # requests to `ask` that run or wait
        self.verdicts = {}  # job_id → whether its model got better, as `verdict` replies; never changes

    async def _completed(self, request):
        "Return the job that a request's address names, and its folder; a Problem unless it has completed"
        job = await asyncio.to_thread(self.jobs.get, request.path_params["job_id"])
        if job.status != "completed":
            raise Problem("job.not_completed", f"the job is {job.status}")
        return job, JobFolder(await asyncio.to_thread(self.jobs.folder, job.job_id))

    async def verdict(self, request):
        """GET /jobs/{job_id}/verdict: whether the model got better.

        The reply holds an outcome in a word, a sentence, the questions that led to it, and the figures before
        and after."""
        job, folder = await self._completed(request)  # a Problem unless the job has completed
        if job.job_id not in self.verdicts:
            verdict = await self._read_or_computed(job, folder)
            # Emptied when it is full: a verdict can always be read or computed again.
            if len(self.verdicts) >= _most_verdicts:
                self.verdicts.clear()
            self.verdicts[job.job_id] = verdict
        return reply(self.verdicts[job.job_id])

    async def _read_or_computed(self,
        job,  # a completed `Job`
        folder,  # JobFolder of the job
    ):  # dict of outcome, sentence, questions, task, figures
        "The verdict of a completed job: read from its results.json, or computed if that file holds none"
        results = await asyncio.to_thread(_results_in, folder.result)  # {} if there are none
        verdict = _verdict_in(results)
        if verdict is None:  # the run is of an older version, or its file is damaged
            verdict = await _run_python(_verdict_code, [folder.result], _longest_verdict)
        # Jobs of older versions name no task: counting discs was the only one.
        task = job.parameters.get("task", "counting")
        return verdict | dict(task=task, figures=compared_figures(results))

    async def ask(self, request):
        "POST /jobs/{job_id}/ask?question=…: show the model a picture, before and after its training"
        question = query(request, question=(str, None))["question"]
        if not question or not question.strip():
            raise Problem("query.value", "question: expected a text")
        if "\0" in question:  # no process can be given such an argument
            raise Problem("query.value", "question: it holds a NUL character")
        if len(question) > _most_question_letters:
            message = f"question: {len(question)} letters, at most {_most_question_letters}"
            raise Problem("query.value", message)
        _, folder = await self._completed(request)  # (job, its folder); a Problem unless it has completed
        # The same limit as for uploads: each waiting request keeps a picture on the disk.
        if self.waiting >= self.settings.uploads_at_once:
            raise Problem("upload.busy", "too many pictures at once", {"retry-after": "30"})
        self.waiting += 1
        # If this server is killed, its next start deletes folders with such names.
        work = self.aside / f"upload-{secrets.token_hex(8)}"
        try:
            work.mkdir()
            await receive_file(request, work / "picture", self.settings)
            async with self.model_lock:
                # `_ask_code` takes these arguments, asks the model, and prints its answers as JSON.
                arguments = [folder.result, work / "picture", question.strip()]
                return reply(await _run_python(_ask_code, arguments, _longest_asking))
        finally:
            self.waiting -= 1
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


def _results_in(result):
    "Read the object that a run wrote into results.json of its folder `result`; {} if damage left none"
    try:
        results = json.loads((result / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _verdict_in(results):
    "Return the verdict that the content of results.json holds; None if an older version or damage left none"
    verdict = results.get("verdict")
    # A file of another version may hold something else under this name.
    is_complete = isinstance(verdict, dict) and {"outcome", "sentence", "questions"} <= set(verdict)
    return verdict if is_complete else None


async def _run_python(
    code,  # Python, as a text
    arguments,  # become its sys.argv[1:], as texts
    seconds,  # that it may take
):
    """Run Python code in a process of its own, and return what the JSON on its last printed line holds.

    Raises a Problem if it fails, or takes too long."""
    child = await asyncio.create_subprocess_exec(
        *own_python(), "-c", code, *map(str, arguments),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        stdout, stderr = await asyncio.wait_for(child.communicate(), seconds)
    except TimeoutError as error:
        raise Problem("ask.failed", f"no answer in {seconds} seconds") from error
    finally:
        # A client that hangs up cancels this function too.
        if child.returncode is None:  # it still runs
            child.kill()
            await child.wait()

    if child.returncode:
        raise _failure(stderr, child.returncode)
    # Libraries may have printed something before.
    return json.loads(stdout.splitlines()[-1])


def _failure(
    stderr,  # bytes that a process wrote there: a traceback, usually
    exit_status,  # of that process
):
    "The Problem for a Python process that failed: its exception's message; the whole last line is logged"
    # The last line of a traceback is `module.SomeError: message`; 2000 bytes hold it, unless it is very long.
    lines = stderr[-2000:].decode("utf-8", "replace").splitlines()
    last_line = lines[-1] if lines else f"ended with {exit_status}"
    logger.warning("asking failed: %s", clean(last_line))
    _, _, message = last_line.rpartition("Error: ")  # without "Error: " in the line, all of it
    return Problem("ask.failed", clean(message or last_line))
