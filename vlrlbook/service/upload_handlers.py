"""What the addresses of uploads do: taken in, listed, looked at, deleted.

Written by hand, not exported from a notebook."""
import asyncio
import re

from ..archive import zip_kinds
from ..settings import nearest
from .log_lines import logger
from .options import ServiceSettings
from .refusals import Problem, clean
from .replies import bytes_reply, empty_reply, reply
from .request_parts import QueryParameter, query
from .results import uploads_in_use
from .uploads import Uploads

__all__ = ["UploadSide", "page_limit", "zip_kind"]

page_limit = QueryParameter(int, 50, 1, 500)  # the parameter `limit` of every list: default 50, 1 to 500
_largest_row = 10**9  # number of a row that can be asked for


def zip_kind(
    text: str,  # the parameter `kind` of a request
) -> str:  # a key of `archive.zip_kinds`
    "Return what the answers of a ZIP are; a Problem unless there is such a kind"
    if text not in zip_kinds:
        raise Problem("query.value", f"kind = {clean(text, 40)!r}{nearest(clean(text, 40), list(zip_kinds))}")
    return text


class UploadSide:
    "Answers the addresses of uploads; each method takes a request and returns a response, or raises"
    def __init__(self,
        settings: ServiceSettings,  # its limits are used
        uploads: Uploads,  # what there is
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger: which uploads are needed
        turns: asyncio.Semaphore,  # limits how many archives are read at once
    ):
        "Answer the addresses of uploads"
        self.settings = settings
        self.uploads = uploads
        self.jobs = jobs
        self.turns = turns
        self.uploading = 0  # uploads that are being received or read

    async def upload(self, request):
        "POST /upload-data: receive an archive, read it and keep it; the reply tells what was found in it"
        # (type, default)
        parameters = query(request, strict=(bool, False), kind=(str, "counting"))
        strict, kind = parameters["strict"], zip_kind(parameters["kind"])
        # Bounded, because each upload takes space on the disk before it is known to be good.
        if self.uploading >= self.settings.uploads_at_once:
            raise Problem("upload.busy", "too many uploads at once", {"retry-after": "5"})
        self.uploading += 1
        try:
            # A dict of facts; a Problem if the archive is refused. `turns` limits how many are read at once.
            upload = await self.uploads.add(request, strict, self.settings, self.turns, kind)
        finally:
            self.uploading -= 1
        logger.info("upload", extra=dict(
            file_id=upload["file_id"], rows=upload["csv_rows"], valid=upload["valid_images"],
            bytes=upload["size_bytes"]))
        return reply(upload)

    async def files(self, request):
        "GET /files: uploads, newest first, a page at a time"
        parameters = query(request, limit=page_limit, after=(str, None))  # (type, default)
        file_ids = list(reversed(self.uploads.known))  # `known` has the oldest first
        start = _index_behind(parameters["after"], file_ids)
        page = file_ids[start:start + parameters["limit"]]
        is_last = start + len(page) >= len(file_ids)
        next_after = None if is_last else page[-1]
        # Another request may have deleted an upload since the list was made.
        files = [self.uploads.known.get(file_id) for file_id in page]
        return reply(dict(files=[file for file in files if file], next=next_after))

    async def file(self, request):
        "GET /files/{file_id}: one upload"
        return reply(self.uploads.get(request.path_params["file_id"]))

    async def rows(self, request):
        "GET /files/{file_id}/rows: an upload's rows in order, a page at a time"
        # (type, default, least, most); `page_limit` is such a tuple, too
        parameters = query(request, limit=page_limit, after=(int, 0, 0, _largest_row))
        after, limit = parameters["after"], parameters["limit"]  # `after` is a row's number
        file_id = request.path_params["file_id"]
        # One more than is shown tells whether there is a next page.
        rows = await asyncio.to_thread(self.uploads.rows, file_id, after, limit + 1)
        page = rows[:limit]
        next_after = page[-1]["row"] if len(rows) > len(page) else None
        return reply(dict(rows=page, next=next_after))

    async def image(self, request):
        "GET /files/{file_id}/rows/{row}/image: a row's picture, no side longer than `size` pixels"
        side = query(request, size=(int, 160, 16, 1024))["size"]  # (type, default, least, most)
        row = request.path_params["row"]
        # Not `isdigit`, which also takes digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,9}", row):
            raise Problem("file.row", "rows are counted from 2, the header being 1")
        file_id = request.path_params["file_id"]
        data, media_type = await asyncio.to_thread(self.uploads.picture, file_id, int(row), side)
        # An upload never changes, so a browser may keep its pictures for a day. "private": proxies may not.
        return bytes_reply(data, media_type, {"cache-control": "private, max-age=86400"})

    async def remove_file(self, request):
        "DELETE /files/{file_id}: delete an upload that no job needs"
        file_id = request.path_params["file_id"]
        # `remove` itself asks `is_needed`, under a lock, so that no job on this upload can start in between.
        is_removed = await asyncio.to_thread(self.uploads.remove, file_id, self.is_needed)
        if not is_removed:
            raise Problem("file.in_use", "a job that has not ended needs it: cancel the job first")
        return empty_reply(204)

    def is_needed(self,
        file_id: str,  # identifier of an upload
    ) -> bool:
        "Whether a job that has not ended trains on an upload"
        return file_id in uploads_in_use(self.jobs)


def _index_behind(
    after,  # last id of the page before, as a client sends it; None: the first page is asked for
    file_ids,  # ids of all uploads, in the order of the pages
):
    "Where in `file_ids` the next page begins; a Problem if `after` is none of them"
    if after is None:
        return 0
    if after not in file_ids:
        raise Problem("query.value", "after: no such upload; take `next` of the page before")
    return file_ids.index(after) + 1
