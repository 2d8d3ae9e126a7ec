"""POST /rank: one picture, a question and several answers; a reward model puts the answers in order.

The model is the one that was named when the server was started. Written by hand, not exported from a
notebook."""
import asyncio

from ..settings import nearest
from .judge_process import Judge
from .log_lines import logger
from .options import ServiceSettings
from .refusals import Problem, clean
from .replies import reply
from .request_parts import json_body

__all__ = ["RankSide", "read_rank_request"]

_most_body_mb = 12  # a picture of 8 MB in base64, and the texts
_most_answers = 64  # as many as a group of training may have (num_generations)
_most_letters = 8000  # of the question, and of each answer
_fields = ("question", "answers", "image")


class RankSide:
    "Answers POST /rank; without a reward model it refuses"
    def __init__(self,
        settings: ServiceSettings,  # `reward_model`, and limits
    ):
        "Answer POST /rank by a reward model that runs in a process of its own (`Judge`)"
        self.settings = settings
        # None: the server was started without a reward model, and POST /rank is refused.
        self.judge = Judge(settings.reward_model) if settings.reward_model else None
        self.waiting = 0  # requests that rank or wait for their turn

    async def load(self):
        """Load the reward model when the server starts, so that the first request need not wait for it.

        A failure is only logged here: each request tries again, and is told what goes wrong."""
        if self.judge is None:
            return  # the server was started without a reward model
        try:
            await self.judge.load()
        except Problem as problem:
            logger.error("the reward model is not loaded: %s", problem)

    async def stop(self):
        "End the model's process"
        if self.judge is not None:
            await self.judge.stop()

    async def rank(self, request):
        "POST /rank: answers to a question about a picture, best first"
        if self.judge is None:
            raise Problem("rank.none", "start the server with --reward_model DIRECTORY")
        # A request, of up to 12 MB, stays in memory while it waits: so there is a limit, that of uploads.
        if self.waiting >= self.settings.uploads_at_once:
            raise Problem("rank.busy", "too many requests at once", {"retry-after": "30"})
        self.waiting += 1
        try:
            # Here `stall_seconds`, the longest pause in an upload, limits the time for the whole body.
            body = await json_body(request, _most_body_mb << 20, seconds=self.settings.stall_seconds)
            rank_request = await asyncio.to_thread(read_rank_request, body)
            return reply(await self.judge.rank(rank_request))
        finally:
            self.waiting -= 1


def read_rank_request(
    body: dict,  # of the request
) -> dict:  # question, answers, image
    "Check the body of POST /rank and return its three fields; a Problem names the first fault"
    fault = _first_fault(body)
    if fault:
        raise Problem("rank.request", fault)
    return dict(question=body["question"], answers=body["answers"], image=body.get("image"))


def _first_fault(
    body,  # of POST /rank: a dict that should have question, answers and perhaps image, of any types
):
    "A sentence on the first thing that is wrong with the body of POST /rank; None if it is good"
    for name in body:
        # A misspelled `image` would otherwise be a question without a picture.
        if name not in _fields:
            shown = clean(name, 60)
            return f"there is no {shown!r}{nearest(shown, list(_fields))}"
    # `_is_text`: a text that is not empty, of at most `_most_letters` letters.
    if not _is_text(body.get("question")):
        return f"question: expected a text of at most {_most_letters} letters"
    answers, image = body.get("answers"), body.get("image")
    if not isinstance(answers, list) or not 1 <= len(answers) <= _most_answers:
        return f"answers: expected a list of 1 to {_most_answers} texts"
    for place, answer in enumerate(answers, 1):
        if not _is_text(answer):
            return f"answers: number {place} is no text of 1 to {_most_letters} letters"
    # It is decoded in the judge's process: a stranger's picture must not crash the server.
    if image is not None and not isinstance(image, str):
        return "image: expected a picture in base64, or null"
    return None


def _is_text(value):
    "Whether a value is a text with something in it, and not too long"
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _most_letters
