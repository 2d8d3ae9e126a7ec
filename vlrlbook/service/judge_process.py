"""A reward model in a process of its own: loaded once, asked by lines of JSON.

The server itself must start light and stay alive. A reward model takes gigabytes, and reading a stranger's
picture takes a large program, so both happen here; if this process dies, a request is refused and the next
one starts it anew. Written by hand, not exported from a notebook."""
import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from ..jobs import own_python
from .log_lines import logger
from .refusals import Problem, clean

__all__ = ["serve_judge", "Judge"]

_longest_loading = 600  # seconds: of a large model from a slow disk
_longest_ranking = 300  # seconds
_most_line_bytes = 32 << 20  # of an answer: it repeats the texts that were ranked
_kept_of_stderr = 2000  # bytes: the last ones that the process wrote before it died


# In the judge's process

def serve_judge(
    folder: str,  # of the reward model
):
    """Run in the judge's process: load the reward model, then answer requests from stdin, one a line.

    Prints one line of JSON when the model is loaded, and one for each request, for `Judge` in the server."""
    # Only answers may go to stdout: what libraries print there is sent to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # 1: stdout
    os.dup2(2, 1)  # 2: stderr
    os.nice(5)  # a lower priority than the server's
    from ..reward_model import VLRewardModel
    judge = VLRewardModel.from_pretrained(folder)
    _write_line(answers, dict(ready=True))
    for line in sys.stdin:
        _write_line(answers, _ranked(judge, json.loads(line)))


def _write_line(answers, message):
    "Write a message as one line of JSON, at once: the server waits for it"
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _ranked(
    judge,  # the reward model
    rank_request,  # a dict: question, answers (a list of texts), image (base64, or None)
):
    "A dict of ranked (best first), calibrated and temperature; or of `refused`, a sentence that says why"
    from ..archive import DataError
    from ..reward_model import rank_answers
    calibration = judge.facts["calibration"]  # None: its scores were never calibrated
    try:
        picture = _picture_of(rank_request.get("image"))  # bytes, decoded from base64; None without one
        ranked = rank_answers(judge, picture, rank_request["question"], rank_request["answers"])
    except DataError as error:  # about picture or question; `message` has no code and place before it
        return dict(refused=error.message)
    except ValueError as error:  # such as an image that is no base64
        return dict(refused=str(error))
    return dict(ranked=ranked, calibrated=calibration is not None, temperature=judge.temperature)


def _picture_of(text):
    """Return the bytes of a picture that a request holds as base64, or None for None.

    The text may be a data URL, such as data:image/png;base64,iVBOR… A text that is no base64 raises
    binascii.Error, which is a ValueError."""
    import base64
    if text is None:
        return None
    if text.startswith("data:"):
        _, _, text = text.partition(",")  # behind the comma stands the base64
    return base64.b64decode(text, validate=True)


# In the server

class Judge:
    "The server's end of the judge's process: starts it, sends one request at a time, restarts a dead one"
    def __init__(self,
        folder: str,  # of the reward model
    ):
        "Prepare the server's end of the process that holds the reward model; nothing is started yet"
        self.folder = folder
        self.child: Any = None  # the process, once it was started
        self.turn = asyncio.Lock()  # lines of two requests must not cross

    async def load(self):
        "Start the process and wait until its model is loaded; a Problem where it cannot be"
        async with self.turn:
            await self._ensure_started()

    async def rank(self,
        asked: dict,  # question, answers, image
    ) -> dict:  # ranked, calibrated, temperature
        "Return the process's answer to a request; a Problem where it refuses or fails"
        # If the client hangs up, the answer must still be read: else the next request would get it.
        exchange = asyncio.ensure_future(self._exchange(asked))
        return await asyncio.shield(exchange)

    async def _exchange(self,
        rank_request,  # a dict: question, answers (a list of texts), image (base64, or None)
    ):
        "Send a request to the process; return the dict that it answers, or raise a Problem where it refuses"
        async with self.turn:  # a lock: one request at a time
            await self._ensure_started()
            try:
                self.child.stdin.write(json.dumps(rank_request).encode() + b"\n")  # one line
                await self.child.stdin.drain()
            except ConnectionError:
                pass  # the process has died; `_read_line` raises a Problem that says so
            answer = await self._read_line(_longest_ranking)  # read as JSON
        if "refused" in answer:
            raise Problem("rank.request", clean(answer["refused"]))
        return answer

    async def _ensure_started(self):
        "Start the process if it does not run, and wait until its model is loaded; a Problem if that fails"
        if self.child and self.child.returncode is None:  # it runs; `child` is None before the first start
            return
        # Not `python -m`: its package imports this module, which `-m` would then run a second time.
        code = "import sys; from vlrlbook.service.judge_process import serve_judge; serve_judge(sys.argv[1])"
        self.child = await asyncio.create_subprocess_exec(
            *own_python(), "-c", code, self.folder,
            limit=_most_line_bytes,  # of a line that `readline` returns; by default 64 KB
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # A task that reads stderr until it is closed; its result is the last bytes.
        self.stderr_end = asyncio.ensure_future(_end_of(self.child.stderr))
        await self._read_line(_longest_loading)  # the line that says that the model is loaded

    async def _read_line(self, seconds):
        """Return the next line that the process prints, read as JSON.

        Raises a Problem if no line comes in time, which ends the process, or if the process has died."""
        try:
            line = await asyncio.wait_for(self.child.stdout.readline(), seconds)
        except TimeoutError as error:
            await self.stop()
            raise Problem("rank.failed", f"no answer in {seconds} seconds") from error
        except ValueError as error:  # asyncio's word for a line that is longer than `_most_line_bytes`
            await self.stop()
            raise Problem("rank.failed", "the answer is longer than any ranking is") from error
        if line.endswith(b"\n"):
            return json.loads(line)
        # No line, or one that breaks off: the process has ended.
        raise await self._death()

    async def _death(self):
        "The Problem of a process that has ended; the last line of its stderr goes to the log"
        await self.child.wait()
        # `stderr_end`: a task whose result is the last bytes that the process wrote to stderr.
        stderr_lines = (await self.stderr_end).decode("utf-8", "replace").splitlines()
        # The last line of a traceback is the exception.
        last_line = stderr_lines[-1] if stderr_lines else f"ended with {self.child.returncode}"
        logger.warning("the judge's process ended: %s", clean(last_line))
        return Problem("rank.failed", "the reward model's process ended; the server's log knows why")

    async def stop(self):
        "End the process"
        if self.child and self.child.returncode is None:
            self.child.kill()
            await self.child.wait()


async def _end_of(stream):
    """Read a stream until it is closed, and return its last bytes.

    If nobody read it, the pipe would fill up and block the process that writes to it."""
    last_bytes = b""
    while piece := await stream.read(1 << 16):
        last_bytes = (last_bytes + piece)[-_kept_of_stderr:]
    return last_bytes
