"""What came of a finished job, and the same picture shown to the model before and after its training.

Both lean on rooms that load NumPy, pictures or torch, so the verdict of an old run and the asking happen in
processes of their own. Written by hand, not exported from a notebook."""
import asyncio
import dataclasses
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from ..jobs import JobFolder
from .log_lines import logger
from .multipart_file import receive_file
from .options import ServiceSettings
from .refusals import Problem, clean
from .replies import reply
from .request_parts import query

__all__ = ["AskSide"]

_longest_asking = 600  # seconds: a large model is loaded first
_longest_verdict = 120  # seconds: of an older run, made from its answers
_most_picture_mb = 32
_most_letters = 2000  # of a question
_most_remembered = 200  # verdicts

# What the processes run: one JSON object to stdout.
_ask = """
import json, os, sys
os.nice(5)
from vlrlbook.answers import ask_model
said = ask_model(sys.argv[1], sys.argv[2], sys.argv[3], answers=4)
print(json.dumps(said))
"""
_verdict = """
import json, sys
from vlrlbook.verdict import read_verdict
print(json.dumps(read_verdict(sys.argv[1])))
"""


class AskSide:
    "Answers the addresses about what a completed job has become; each method takes a request"
    def __init__(self,
        settings: ServiceSettings,  # limits
        jobs,  # chapter 07a's `Jobs`
        aside: Path,  # the data directory's folder for what is being received
    ):
        self.settings = dataclasses.replace(settings, upload_mb=min(settings.upload_mb, _most_picture_mb))
        self.jobs = jobs
        self.aside = aside
        self.asking = asyncio.Semaphore(1)  # each asking loads a model
        self.waiting = 0  # requests that ask or wait for their turn
        self.verdicts = {}  # job_id → verdict; a result never changes

    async def _completed(self, request):
        "The job and the folder of the completed job that a request is about"
        job = await asyncio.to_thread(self.jobs.get, request.path_params["job_id"])
        if job.status != "completed":
            raise Problem("job.not_completed", f"the job is {job.status}")
        return job, JobFolder(await asyncio.to_thread(self.jobs.folder, job.job_id))

    async def verdict(self, request):
        "GET /jobs/{job_id}/verdict: did the model get better, in a word and a sentence, and the questions behind it"
        job, folder = await self._completed(request)
        if job.job_id not in self.verdicts:
            found = await asyncio.to_thread(_kept_verdict, folder.result)
            if found is None:
                found = await _run(_verdict, [folder.result], _longest_verdict)
            if len(self.verdicts) >= _most_remembered:
                self.verdicts.clear()
            self.verdicts[job.job_id] = found
        return reply(self.verdicts[job.job_id])

    async def ask(self, request):
        "POST /jobs/{job_id}/ask?question=…: show the model a picture, before and after its training"
        question = query(request, question=(str, None))["question"]
        if not question or not question.strip():
            raise Problem("query.value", "question: expected a text")
        _, folder = await self._completed(request)
        if self.waiting >= self.settings.uploads_at_once:
            raise Problem("upload.busy", "too many pictures at once", {"retry-after": "30"})
        self.waiting += 1
        work = self.aside / f"upload-{secrets.token_hex(8)}"
        try:
            work.mkdir()
            await receive_file(request, work / "picture", self.settings)
            async with self.asking:
                words = [folder.result, work / "picture", question.strip()[:_most_letters]]
                return reply(await _run(_ask, words, _longest_asking))
        finally:
            self.waiting -= 1
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


def _kept_verdict(result):
    "The verdict that a run wrote itself; None: it is of an older version, or damaged"
    try:
        kept = json.loads((result / "results.json").read_text(encoding="utf-8"))["verdict"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    has_form = isinstance(kept, dict) and {"outcome", "sentence", "questions"} <= set(kept)
    return kept if has_form else None


async def _run(code, words, seconds):
    "Run Python code in a process of its own; the JSON that it prints, or a Problem with its last words"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *map(str, words),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, trouble = await asyncio.wait_for(child.communicate(), seconds)
    except TimeoutError as error:
        raise Problem("ask.failed", f"no answer in {seconds} seconds") from error
    finally:
        # A client that hangs up cancels this function too.
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        lines = trouble[-2000:].decode("utf-8", "replace").splitlines()
        last = lines[-1] if lines else f"ended with {child.returncode}"
        logger.warning("asking failed: %s", clean(last))
        # The exception's own words, without the module in which it is defined.
        raise Problem("ask.failed", clean(last.rpartition("Error: ")[2] or last))
    # What libraries print stands before the answer.
    return json.loads(out.splitlines()[-1])
