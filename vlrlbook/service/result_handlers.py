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
_refresh_seconds = 0.5  # a job that somebody listens to is read again after this time
_rows_an_event = 500  # at most: a listener that comes late is not sent one line of a megabyte
_silent_seconds = 15  # after that a comment keeps the line open: proxies close one on which nothing comes


class ResultSide:
    "Answers the addresses of what a job leaves; each method takes a request"
    def __init__(self,
        settings: ServiceSettings,  # where the data directory is
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        turns: asyncio.Semaphore,  # limits how many notebooks are made into pages at once
        logs: RunLogs,  # readers of the logs of all jobs
    ):
        "Answer the addresses of what a job leaves: log, metrics, answers, notebook, download"
        self.settings = settings
        self.jobs = jobs
        self.turns = turns
        self.logs = logs
        self.packing = asyncio.Lock()  # held while a ZIP is made: many who download at once wait for one

    async def _folder(self, request):
        "Return the folder of the job that a request's address names"
        return JobFolder(await asyncio.to_thread(self.jobs.folder, request.path_params["job_id"]))

    async def log(self, request):
        "GET /jobs/{job_id}/log: the last lines of the trainer's log as text, `tail` of them"
        lines = query(request, tail=(int, 200, 1, 10_000))["tail"]  # (type, default, least, most)
        path = (await self._folder(request)).log
        text = await asyncio.to_thread(log_tail, path, lines)
        # A traceback holds full paths; where the server keeps its data is nobody's business.
        text = text.replace(str(Path(self.settings.data_dir).resolve()), "data")
        return bytes_reply(text.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    async def metrics(self, request):
        """GET /jobs/{job_id}/metrics: rows of the run's log after the step `after_step`.

        The reply holds `next_step`, which a client sends as `after_step` the next time."""
        # (type, default, least, most); -1 asks for all rows.
        after = query(request, after_step=(int, -1, -1, _largest_step))["after_step"]
        folder = await self._folder(request)  # of the job that the address names
        run_log = self.logs.of(folder.run_log)  # the reader that remembers what it has read of this log
        rows, latest_step = await asyncio.to_thread(run_log.after, after)
        # None: there are no new rows, and the client goes on where it is. From -1, too: a trainer may log a
        # row of step 0, which after_step=0 would leave out.
        next_step = after if latest_step is None else latest_step
        # Put together from bytes, since `RunLog` keeps each row as JSON.
        data = b'{"rows": ' + json_list(rows) + b', "next_step": ' + encoded(next_step) + b"}"
        return bytes_reply(data, "application/json")

    async def rollouts(self, request):
        "GET /jobs/{job_id}/rollouts: the groups of the latest logged step"
        return reply(await asyncio.to_thread(rollouts_now, await self._folder(request)))

    async def notebook(self, request):
        "GET /jobs/{job_id}/notebook: the executed notebook as an HTML page without scripts"
        folder = await self._folder(request)
        page = await notebook_html(folder.executed_notebook, self.turns)
        return bytes_reply(page, "text/html; charset=utf-8", {"content-security-policy": sandbox_policy})

    async def download(self, request):
        """GET /jobs/{job_id}/download: the result as a ZIP, or the part of it that a Range header asks for.

        Its ETag is its sha256, so a client that has the file already is answered 304 (not modified)."""
        job = await asyncio.to_thread(self.jobs.get, request.path_params["job_id"])
        if job.status != "completed":
            raise Problem("job.not_completed", f"the job is {job.status}")
        folder = await self._folder(request)
        reserve_bytes = self.settings.reserve_mb << 20  # of the disk, which the ZIP must leave free
        # `pack` makes the ZIP only once; the lock keeps several requests from making it at the same time.
        async with self.packing:
            path, digest = await asyncio.to_thread(pack, folder, reserve_bytes)
        etag = f'"{digest}"'  # of the ZIP's sha256
        # reply_policy: forbids a browser to load anything
        headers = {"etag": etag, "x-content-sha256": digest, "content-security-policy": Doors.reply_policy}
        known_etags = request.headers.get("if-none-match", "")
        if etag in known_etags or known_etags.strip() == "*":  # *: whichever the client has
            return empty_reply(304, headers)
        one_range(request, path.stat().st_size, etag)  # checks the Range header before `file_reply` obeys it
        return file_reply(path, "application/zip", headers, f"{job.job_id}.zip")


class JobWatch:
    "The state of one job, its log and its newest answers, read once for all clients that listen to it"
    def __init__(self,
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        job_id: str,  # of the job
        folder: JobFolder,  # of the job
        log,  # `RunLog` of the job
    ):
        "Keep what is known about one job, for all clients that listen to its events"
        self.jobs = jobs
        self.job_id = job_id
        self.folder = folder
        self.log = log
        self.listeners = 0  # how many clients listen
        self.refresh_lock = asyncio.Lock()  # one listener at a time reads the state, for all of them
        self.refreshed_at = float("-inf")  # when it was read last, by time.monotonic
        self.job: dict | None = None  # state of the job as a dict, as it stands in replies
        self.job_json = b""  # the same as JSON, as it is sent
        self.step_of_groups = -1  # step at which the newest groups of answers were made; -1: there are none
        self.rollouts_fingerprint: str | None = None  # of the file of the groups when it was read last

    async def refresh(self):
        "Bring `job`, `log` and `step_of_groups` up to date, unless another listener has just done so"
        async with self.refresh_lock:
            # Every listener calls this each `_refresh_seconds`; within half of that the state is new enough.
            if time.monotonic() - self.refreshed_at < _refresh_seconds / 2:
                return
            await asyncio.to_thread(self._read_state)
            self.refreshed_at = time.monotonic()

    def _read_state(self):
        "Read the job's state, its log and its newest groups; run in a thread, since it may wait for the disk"
        # `add_outlook` adds `can_resume` and `stage`.
        job = add_outlook(job_reply(self.jobs.get(self.job_id)), self.folder)
        if job != self.job:
            self.job, self.job_json = job, encoded(job)
        # The log is read after the state: if that says that the job has ended, the last rows are there.
        self.log.refresh()
        # The groups hold pictures, hundreds of kilobytes: they are read only when their file has changed.
        fingerprint = log_mark(self.folder.rollouts)  # inode, size and time of change
        if fingerprint != self.rollouts_fingerprint:
            self.rollouts_fingerprint = fingerprint
            latest = rollouts_now(self.folder.path)
            self.step_of_groups = latest["step"] if latest["groups"] else -1


class EventSide:
    "Answers GET /jobs/{job_id}/events: what happens to a job, told as it happens"
    def __init__(self,
        settings: ServiceSettings,  # how many may listen
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        stopping: asyncio.Event,  # set when the server stops
        logs: RunLogs,  # readers of the logs of all jobs
    ):
        "Answer GET /jobs/{job_id}/events: streams that tell what happens to a job"
        self.settings = settings
        self.jobs = jobs
        self.stopping = stopping
        self.logs = logs
        self.streaming = 0  # number of open streams
        self.watches = {}  # job_id → `JobWatch`, while somebody listens

    async def events(self, request):
        """GET /jobs/{job_id}/events: server-sent events about a job until it ends.

        After a broken connection a browser sends the header Last-Event-ID, the last step that it was told;
        the stream then continues after that step."""
        job_id = request.path_params["job_id"]
        folder = JobFolder(await asyncio.to_thread(self.jobs.folder, job_id))
        if request.method == "HEAD":
            return bytes_reply(b"", "text/event-stream")
        # `_stream` counts each client that it serves in `streaming`.
        if self.streaming >= self.settings.streams:
            raise Problem("events.busy", "too many streams; ask for the job itself", {"retry-after": "10"})
        last_id = request.headers.get("last-event-id", "")
        # -1: all rows are sent, from the beginning.
        step = int(last_id) if re.fullmatch(r"[0-9]{1,9}", last_id) else -1
        return event_stream_reply(self._stream(job_id, folder, step))  # `_stream` yields events until the end

    async def _stream(self,
        job_id,  # which job
        folder,  # its JobFolder
        step,  # rows of the log after this one are sent; -1: all
    ):
        "Yield the events of one client as bytes, until the job has ended or the server stops"
        # What this client was sent last: state of the job, step of the log, step of the groups of answers.
        # `_new_events` compares this with `watch`, what is known of the job, and updates it.
        sent = dict(job=None, step=step, step_of_groups=-1)
        last_sent_at = time.monotonic()
        with self._listening(job_id, folder) as watch:  # `JobWatch`, the same one for all who listen
            while True:
                try:
                    await watch.refresh()
                except UnknownJob:  # the job was removed meanwhile
                    yield _event_bytes("end", None, encoded("removed"))
                    return

                is_end = False  # stays so if there are no new events; True after the last one, `end`
                async for event, is_end in self._new_events(watch, sent):
                    last_sent_at = time.monotonic()
                    yield event
                if is_end:
                    return

                # To a client a line that begins with a colon is a comment; it keeps the connection open.
                if time.monotonic() - last_sent_at > _silent_seconds:
                    last_sent_at = time.monotonic()
                    yield b": still here\n\n"
                # Waits, but no longer than until the server stops: then `_new_events` yields the event `end`.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), _refresh_seconds)

    @contextlib.contextmanager
    def _listening(self, job_id, folder):
        "A context: one more client listens to a job until its block ends; yields the job's `JobWatch`"
        new_watch = JobWatch(self.jobs, job_id, folder, self.logs.of(folder.run_log))
        watch = self.watches.setdefault(job_id, new_watch)  # the one of other listeners, if there are any
        # After the lines above: if one of them raised, `finally` would not subtract this client again.
        self.streaming += 1
        watch.listeners += 1
        try:
            yield watch
        finally:
            self.streaming -= 1
            watch.listeners -= 1
            if watch.listeners == 0:
                self.watches.pop(job_id, None)

    async def _new_events(self,
        watch,  # `JobWatch`: what is known of the job now
        sent,  # dict, changed here: job, step (of the log) and step_of_groups that the client was sent last
    ):
        "Yield pairs (event as bytes, whether it is the last): all that is new to one client"
        # Copied, since another client may update `watch` while this one waits to send an event.
        job, job_json = watch.job, watch.job_json
        step_of_groups = watch.step_of_groups  # -1: there are no groups of answers

        if job != sent["job"]:
            sent["job"] = job
            yield _event_bytes("status", None, job_json), False

        rows, last_step = watch.log.known_after(sent["step"])  # last_step: that of the last row
        if rows:
            sent["step"] = last_step
            for event in _row_events(rows, last_step):
                yield event, False

        # Only the step is sent: the groups hold pictures, and a client that wants them asks for /rollouts.
        if step_of_groups != -1 and step_of_groups != sent["step_of_groups"]:
            sent["step_of_groups"] = step_of_groups
            yield _event_bytes("rollouts", None, encoded(step_of_groups)), False

        has_ended = job["status"] in ends
        if has_ended or self.stopping.is_set():
            reason = job["status"] if has_ended else "server"  # "server": it stops, and the job may go on
            yield _event_bytes("end", None, encoded(reason)), True


def _row_events(
    rows,  # of a run's log, each as JSON in bytes
    last_step,  # step of the last row
):
    "Yield events (bytes) with rows of a run's log, at most `_rows_an_event` rows each"
    for begin in range(0, len(rows), _rows_an_event):
        event_rows = rows[begin:begin + _rows_an_event]
        # Only the last event carries the step as its id: if the connection breaks before it, the client asks
        # for all of these rows again.
        is_last = begin + _rows_an_event >= len(rows)
        event_id = last_step if is_last else None
        yield _event_bytes("metrics", event_id, json_list(event_rows))


def _event_bytes(
    name,  # status, metrics, rollouts or end
    step,  # becomes the event's id, which a browser sends back as Last-Event-ID; None: it has none
    data,  # JSON in bytes, without line breaks
):
    r"""Return a server-sent event as bytes.

    ("metrics", 5, b"[1]") → b"event: metrics\nid: 5\ndata: [1]\n\n" (an empty line ends it)"""
    id_line = f"id: {step}\n".encode() if step is not None else b""
    return f"event: {name}\n".encode() + id_line + b"data: " + data + b"\n\n"
