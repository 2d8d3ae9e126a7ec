"""What the addresses of a job's results do: log, metrics, answers, notebook, download, events.

Written by hand, not exported from a notebook."""
import asyncio
import contextlib
import re
import time
from pathlib import Path

from ..jobs import JobFolder, UnknownJob, ends, log_mark
from .doors import Doors
from .notebook_page import notebook_html, sandbox_policy
from .options import ServiceSettings
from .refusals import Problem
from .replies import (bytes_reply, empty_reply, encoded, event_stream_reply, file_reply, json_list,
                      reply)
from .request_parts import query
from .results import add_outlook, job_reply, log_tail, one_range, pack, rollouts_now
from .run_log_reader import RunLogs

__all__ = ["ResultSide", "JobWatch", "EventSide"]

_largest_step = 10**9  # that can be asked for
_look_seconds = 0.5  # between two looks at a job that somebody listens to
_rows_an_event = 500  # at most: a listener that comes late is not sent one line of a megabyte
_silent_seconds = 15  # after that a comment keeps the line open: proxies close one on which nothing comes


class ResultSide:
    "Answers the addresses of what a job leaves; each method takes a request"
    def __init__(self,
        settings: ServiceSettings,  # where the data directory is
        jobs,  # chapter 07a's `Jobs`
        turns: asyncio.Semaphore,  # how many notebooks are made into pages at once
        logs: RunLogs,  # of all jobs
    ):
        self.settings = settings
        self.jobs = jobs
        self.turns = turns
        self.logs = logs
        self.packing = asyncio.Lock()  # a hundred who download at once wait for one ZIP

    async def _folder(self, request):
        "The folder of the job that a request is about"
        return JobFolder(await asyncio.to_thread(self.jobs.folder, request.path_params["job_id"]))

    async def log(self, request):
        "GET /jobs/{job_id}/log: the end of the trainer's log"
        lines = query(request, tail=(int, 200, 1, 10_000))["tail"]
        path = (await self._folder(request)).log
        text = await asyncio.to_thread(log_tail, path, lines)
        # A traceback holds full paths; where the server keeps its data is nobody's business.
        text = text.replace(str(Path(self.settings.data_dir).resolve()), "data")
        return bytes_reply(text.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    async def metrics(self, request):
        "GET /jobs/{job_id}/metrics: rows of the run's log; send `next_step` as `after_step` next time"
        after = query(request, after_step=(int, -1, -1, _largest_step))["after_step"]
        folder = await self._folder(request)
        rows, latest = await asyncio.to_thread(self.logs.of(folder.run_log).after, after)
        next_step = max(0, after) if latest is None else latest
        data = b'{"rows": ' + json_list(rows) + b', "next_step": ' + encoded(next_step) + b"}"
        return bytes_reply(data, "application/json")

    async def rollouts(self, request):
        "GET /jobs/{job_id}/rollouts: the groups of the latest logged step"
        return reply(await asyncio.to_thread(rollouts_now, await self._folder(request)))

    async def notebook(self, request):
        "GET /jobs/{job_id}/notebook: the executed notebook as a page"
        folder = await self._folder(request)
        page = await notebook_html(folder.executed_notebook, self.turns)
        return bytes_reply(page, "text/html; charset=utf-8", {"content-security-policy": sandbox_policy})

    async def download(self, request):
        "GET /jobs/{job_id}/download: the result as a ZIP, whole or a part of it"
        job = await asyncio.to_thread(self.jobs.get, request.path_params["job_id"])
        if job.status != "completed":
            raise Problem("job.not_completed", f"the job is {job.status}")
        folder = await self._folder(request)
        async with self.packing:
            path, digest = await asyncio.to_thread(pack, folder, self.settings.reserve_mb << 20)
        etag = f'"{digest}"'
        headers = {"etag": etag, "x-content-sha256": digest, "content-security-policy": Doors.reply_policy}
        if etag in request.headers.get("if-none-match", ""):
            return empty_reply(304, headers)
        one_range(request, path.stat().st_size)
        return file_reply(path, "application/zip", headers, f"{job.job_id}.zip")


class JobWatch:
    "What is new about one job, found out once for all who listen to it"
    def __init__(self, jobs, job_id, folder, log):
        self.jobs = jobs
        self.job_id = job_id
        self.folder = folder
        self.log = log  # `RunLog`
        self.listeners = 0
        self.looking = asyncio.Lock()
        self.looked_at = float("-inf")
        self.job = None  # as its owner is told it
        self.job_json = b""  # the same as it is sent
        self.group = -1  # step of the newest groups of answers
        self.rollouts_mark = None

    async def look(self):
        "Bring `job` and `group` up to date, unless another listener has done so a moment ago"
        async with self.looking:
            if time.monotonic() - self.looked_at < _look_seconds / 2:
                return
            await asyncio.to_thread(self._look)
            self.looked_at = time.monotonic()

    def _look(self):
        "The look itself, in a thread: the ledger may be waiting for the disk"
        job = add_outlook(job_reply(self.jobs.get(self.job_id)), self.folder)
        if job != self.job:
            self.job, self.job_json = job, encoded(job)
        # After the state: when it says that the job has ended, the last rows are read with this look.
        self.log.refresh()
        # The groups hold pictures, hundreds of kilobytes: they are read when the file is another one.
        mark = log_mark(self.folder.rollouts)
        if mark != self.rollouts_mark:
            self.rollouts_mark = mark
            latest = rollouts_now(self.folder)
            self.group = latest["step"] if latest["groups"] else -1


class EventSide:
    "Answers GET /jobs/{job_id}/events: what happens to a job, told as it happens"
    def __init__(self,
        settings: ServiceSettings,  # how many may listen
        jobs,  # chapter 07a's `Jobs`
        stopping: asyncio.Event,  # set when the server stops
        logs: RunLogs,  # of all jobs
    ):
        self.settings = settings
        self.jobs = jobs
        self.stopping = stopping
        self.logs = logs
        self.streaming = 0  # streams that are open
        self.watches = {}  # job_id → `JobWatch`, while somebody listens

    async def events(self, request):
        "GET /jobs/{job_id}/events: server-sent events; `Last-Event-ID` is the last step that was seen"
        job_id = request.path_params["job_id"]
        folder = JobFolder(await asyncio.to_thread(self.jobs.folder, job_id))
        if request.method == "HEAD":
            return bytes_reply(b"", "text/event-stream")
        if self.streaming >= self.settings.streams:
            raise Problem("events.busy", "too many streams; ask for the job itself", {"retry-after": "10"})
        last = request.headers.get("last-event-id", "")
        # Browsers send it when a line broke; whatever else it holds begins the stream anew.
        step = int(last) if re.fullmatch(r"[0-9]{1,9}", last) else -1
        return event_stream_reply(self._stream(job_id, folder, step))

    async def _stream(self, job_id, folder, step):
        "Events as bytes: status when it changes, rows and groups as they come, end at the end"
        heard = dict(job=None, step=step, group=-1)
        last_word = time.monotonic()
        self.streaming += 1
        watch = self.watches.setdefault(job_id, JobWatch(self.jobs, job_id, folder, self.logs.of(folder.run_log)))
        watch.listeners += 1
        try:
            while True:
                try:
                    await watch.look()
                except UnknownJob:
                    yield _event_bytes("end", None, encoded("removed"))
                    return
                is_end = False
                async for event, is_end in self._news(watch, heard):
                    last_word = time.monotonic()
                    yield event
                if is_end:
                    return
                if time.monotonic() - last_word > _silent_seconds:
                    last_word = time.monotonic()
                    yield b": still here\n\n"
                # Wakes at once when the server stops, so that listeners get a last word before it goes.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), _look_seconds)
        finally:
            self.streaming -= 1
            watch.listeners -= 1
            if watch.listeners == 0:
                self.watches.pop(job_id, None)

    async def _news(self, watch, heard):
        "Pairs (event as bytes, whether it is the last) that a listener has not heard; `heard` is kept up to date"
        # As it is now: it may be another when the listener has taken the first event.
        job, job_json = watch.job, watch.job_json
        group = watch.group
        if job != heard["job"]:
            heard["job"] = job
            yield _event_bytes("status", None, job_json), False
        rows, latest = watch.log.known_after(heard["step"])  # read by `look`, once for all who listen
        if rows:
            heard["step"] = latest
            for begin in range(0, len(rows), _rows_an_event):
                some = rows[begin:begin + _rows_an_event]
                # Only the last carries the step: a line that breaks in the middle begins with all of them again.
                step = latest if begin + _rows_an_event >= len(rows) else None
                yield _event_bytes("metrics", step, json_list(some)), False
        # Only the step is told: the groups hold pictures, and who wants them asks for /rollouts.
        if group != -1 and group != heard["group"]:
            heard["group"] = group
            yield _event_bytes("rollouts", None, encoded(group)), False
        has_ended = job["status"] in ends
        if has_ended or self.stopping.is_set():
            yield _event_bytes("end", None, encoded(job["status"] if has_ended else "server")), True


def _event_bytes(name, step, data):
    "One server-sent event of JSON bytes; a step becomes its id, which a listener sends back as Last-Event-ID"
    number = f"id: {step}\n".encode() if step is not None else b""
    return f"event: {name}\n".encode() + number + b"data: " + data + b"\n\n"
