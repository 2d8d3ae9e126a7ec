"""What the addresses of uploads do: taken in, listed, looked at, deleted.

Written by hand, not exported from a notebook."""
import asyncio
import re

from .log_lines import logger
from .options import ServiceSettings
from .refusals import Problem
from .replies import bytes_reply, empty_reply, reply
from .request_parts import QueryParameter, query
from .results import uploads_in_use
from .uploads import Uploads

__all__ = ["UploadSide", "page_limit"]

page_limit = QueryParameter(int, 50, 1, 500)  # the parameter `limit` of every list
_largest_row = 10**9  # number of a row that can be asked for


class UploadSide:
    "Answers the addresses of uploads; each method takes a request and returns a response, or raises"
    def __init__(self,
        settings: ServiceSettings,  # limits
        uploads: Uploads,  # what there is
        jobs,  # chapter 07a's `Jobs`: which uploads are needed
        turns: asyncio.Semaphore,  # how many archives are read at once
    ):
        self.settings = settings
        self.uploads = uploads
        self.jobs = jobs
        self.turns = turns
        self.uploading = 0  # uploads that are being received or read

    async def upload(self, request):
        "POST /upload-data: take an archive in"
        strict = query(request, strict=(bool, False))["strict"]
        # Each holds room on the disk before anybody knows whether it is good.
        if self.uploading >= self.settings.uploads_at_once:
            raise Problem("upload.busy", "too many uploads at once", {"retry-after": "5"})
        self.uploading += 1
        try:
            upload = await self.uploads.add(request, strict, self.settings, self.turns)
        finally:
            self.uploading -= 1
        logger.info("upload", extra=dict(
            file_id=upload["file_id"], rows=upload["csv_rows"], valid=upload["valid_images"],
            bytes=upload["size_bytes"]))
        return reply(upload)

    async def files(self, request):
        "GET /files: uploads, newest first, a page at a time"
        asked = query(request, limit=page_limit, after=(str, None))
        file_ids = list(reversed(self.uploads.known))
        start = 0
        if asked["after"] is not None:
            if asked["after"] not in file_ids:
                raise Problem("query.value", "after: no such upload; take `next` of the page before")
            start = file_ids.index(asked["after"]) + 1
        page = file_ids[start:start + asked["limit"]]
        is_last = start + len(page) >= len(file_ids)
        following = None if is_last else page[-1]
        return reply(dict(files=[self.uploads.known[file_id] for file_id in page], next=following))

    async def file(self, request):
        "GET /files/{file_id}: one upload"
        return reply(self.uploads.get(request.path_params["file_id"]))

    async def rows(self, request):
        "GET /files/{file_id}/rows: its rows in order, a page at a time"
        asked = query(request, limit=page_limit, after=(int, 0, 0, _largest_row))
        file_id = request.path_params["file_id"]
        # One more than is shown tells whether there is a next page.
        found = await asyncio.to_thread(self.uploads.rows, file_id, asked["after"], asked["limit"] + 1)
        page = found[:asked["limit"]]
        following = page[-1]["row"] if len(found) > len(page) else None
        return reply(dict(rows=page, next=following))

    async def image(self, request):
        "GET /files/{file_id}/rows/{row}/image: a row's picture, made small"
        side = query(request, size=(int, 160, 16, 1024))["size"]
        row = request.path_params["row"]
        # Not `isdigit`, which also takes digits of other scripts; the number becomes part of a file's name.
        if not re.fullmatch(r"[0-9]{1,9}", row):
            raise Problem("file.row", "rows are counted from 2, the header being 1")
        file_id = request.path_params["file_id"]
        data, media_type = await asyncio.to_thread(self.uploads.picture, file_id, int(row), side)
        # An upload never changes, so a browser may keep its pictures; a proxy that serves others may not.
        return bytes_reply(data, media_type, {"cache-control": "private, max-age=86400"})

    async def remove_file(self, request):
        "DELETE /files/{file_id}: delete an upload that no job needs"
        file_id = request.path_params["file_id"]
        # Asked and removed in one turn: a job that is started meanwhile finds the data, or no upload.
        is_gone = await asyncio.to_thread(self.uploads.remove, file_id, self.is_needed)
        if not is_gone:
            raise Problem("file.in_use", "a job that has not ended needs it: cancel the job first")
        return empty_reply(204)

    def is_needed(self,
        file_id: str,  # of an upload
    ) -> bool:
        "Whether a job that has not ended trains on an upload"
        return file_id in uploads_in_use(self.jobs)
