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

from .log_lines import logger
from .refusals import Problem, clean

__all__ = ["serve_judge", "Judge"]

_longest_loading = 600  # seconds: of a large model from a slow disk
_longest_ranking = 300  # seconds
_most_line_bytes = 32 << 20  # of an answer: it repeats the texts that were ranked
_last_words = 2000  # bytes of what the process said before it died


# In the judge's process

def serve_judge(
    folder: str,  # of the reward model
):
    "What the process does: a line of JSON when the model is loaded, then a line for each line that comes"
    # Libraries print to stdout, which here belongs to the answers: what they say goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.nice(5)
    from ..reward_model import VLRewardModel
    judge = VLRewardModel.from_pretrained(folder)
    _say(answers, dict(ready=True))
    for line in sys.stdin:
        _say(answers, _ranked(judge, json.loads(line)))


def _say(answers, message):
    "One line of JSON"
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _ranked(judge, asked):
    "The reply to a request, or why there is none"
    from ..archive import DataError
    from ..reward_model import rank_answers
    fitted = judge.facts["calibration"]
    try:
        picture = _picture_of(asked.get("image"))
        ranked = rank_answers(judge, picture, asked["question"], asked["answers"])
    except DataError as error:
        return dict(refused=error.message)
    except ValueError as error:
        return dict(refused=str(error))
    return dict(ranked=ranked, calibrated=fitted is not None, temperature=judge.temperature)


def _picture_of(text):
    "The bytes of a picture in base64, with or without the head of a data URL; None where there is none"
    import base64
    if text is None:
        return None
    body = text.partition(",")[2] if text.startswith("data:") else text
    return base64.b64decode(body, validate=True)  # a binascii.Error is a ValueError


# In the server

class Judge:
    "The server's end of the process: starts it, asks one question at a time, starts it again where it died"
    def __init__(self,
        folder: str,  # of the reward model
    ):
        self.folder = folder
        self.child: Any = None
        self.turn = asyncio.Lock()  # lines of two requests must not cross

    async def load(self):
        "Start the process and wait until its model is loaded; a Problem where it cannot be"
        async with self.turn:
            await self._started()

    async def rank(self,
        asked: dict,  # question, answers, image
    ) -> dict:  # ranked, calibrated, temperature
        "The process's answer; a Problem where it refuses or fails"
        # Shielded: a client that hangs up must not leave half an exchange behind, or the next one would read
        # this one's answer.
        return await asyncio.shield(asyncio.ensure_future(self._exchange(asked)))

    async def _exchange(self, asked):
        "One line there, one line back"
        async with self.turn:
            await self._started()
            try:
                self.child.stdin.write(json.dumps(asked).encode() + b"\n")
                await self.child.stdin.drain()
            except ConnectionError:
                pass  # it has died; why, is told below
            said = await self._line(_longest_ranking)
        if "refused" in said:
            raise Problem("rank.request", clean(said["refused"]))
        return said

    async def _started(self):
        "The process, running, its model loaded"
        if self.child and self.child.returncode is None:
            return
        # -c and not -m: Python would find the module a second time, imported with its package.
        code = "import sys; from vlrlbook.service.judge_process import serve_judge; serve_judge(sys.argv[1])"
        self.child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, self.folder, limit=_most_line_bytes,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.complaints = asyncio.ensure_future(_end_of(self.child.stderr))
        await self._line(_longest_loading)

    async def _line(self, seconds):
        "The next line of the process as JSON; without one it is ended, and a Problem holds its last words"
        try:
            line = await asyncio.wait_for(self.child.stdout.readline(), seconds)
        except (TimeoutError, ValueError) as error:  # a ValueError: the line is longer than any answer
            await self.stop()
            raise Problem("rank.failed", f"no answer in {seconds} seconds") from error
        if line:
            return json.loads(line)
        await self.child.wait()
        words = (await self.complaints).decode("utf-8", "replace").splitlines()
        last = words[-1] if words else f"ended with {self.child.returncode}"
        logger.warning("the judge's process ended: %s", clean(last))
        raise Problem("rank.failed", "the reward model's process ended; the server's log knows why")

    async def stop(self):
        "End the process"
        if self.child and self.child.returncode is None:
            self.child.kill()
            await self.child.wait()


async def _end_of(stream):
    "Read a stream to its end, so that its writer never waits; what it said last"
    kept = b""
    while piece := await stream.read(1 << 16):
        kept = (kept + piece)[-_last_words:]
    return kept
