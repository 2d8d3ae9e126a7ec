"""What the service answers with: JSON that any reader takes, refusals, bytes, files and streams.

Starlette is imported inside these functions and nowhere at the top of a module: it comes with the extra
`serve`, without which the package must still import, and the process that reads an archive needs none of
it. Written by hand, not exported from a notebook."""
import json

from ..folders import finite
from .refusals import Problem

__all__ = ["encoded", "json_list", "reply", "problem_response", "empty_reply", "bytes_reply", "file_reply",
           "event_stream_reply"]


def encoded(
    content,  # what JSON can hold, and NaN
) -> bytes:  # JSON
    "Encode as JSON that every reader accepts: NaN becomes null, half of a surrogate pair a question mark"
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False)  # `finite` puts None for NaN
    # A job's log or an old request may hold half of a surrogate pair, which UTF-8 cannot encode: without
    # "replace" the request would fail.
    return text.encode("utf-8", "replace")


def json_list(
    items: list,  # JSON of each, as bytes
) -> bytes:  # JSON
    "A JSON array of things that are JSON already"
    return b"[" + b",".join(items) + b"]"


def reply(
    content,  # what JSON can hold: dicts, lists, texts, numbers
    status: int = 200,  # HTTP status
    headers: dict = None,  # further headers: name → value
):  # a Starlette response
    "Make a JSON reply"
    return bytes_reply(encoded(content), "application/json", headers, status)


def problem_response(
    problem: Problem,  # what to tell
):  # a Starlette response
    "Make the reply for a refusal: its body as application/problem+json, with its status and headers"
    body = json.dumps(problem.body(), ensure_ascii=False)
    # The body may repeat a name with half of a surrogate pair, which UTF-8 cannot encode: it becomes "?".
    data = body.encode("utf-8", "replace")
    return bytes_reply(data, "application/problem+json", problem.headers, problem.status)


def empty_reply(
    status: int,  # such as 204
    headers: dict = None,  # headers: name → value
):  # a Starlette response
    "Make a reply without a body"
    from starlette.responses import Response
    return Response(status_code=status, headers=headers)


def bytes_reply(
    data: bytes,  # the body
    media_type: str,  # such as text/plain; charset=utf-8
    headers: dict = None,  # further headers: name → value
    status: int = 200,  # HTTP status
):  # a Starlette response
    "Make a reply from a body that is complete"
    from starlette.responses import Response
    return Response(data, status, headers, media_type)


def file_reply(
    path,  # of the file
    media_type: str,  # such as application/zip
    headers: dict,  # further headers: name → value
    filename: str = None,  # under which a browser saves it; None: it is shown
):  # a Starlette response
    "Send a file, or the part of it that the request's Range asks for, without reading it into memory"
    from starlette.responses import FileResponse
    return FileResponse(path, headers=headers, media_type=media_type, filename=filename)


def event_stream_reply(
    chunks,  # an asynchronous iterator of bytes
):  # a Starlette response
    "Make a reply that streams server-sent events as they come"
    from starlette.responses import StreamingResponse
    # nginx in front of the service would otherwise keep events back until it has 4 KB of them.
    headers = {"x-accel-buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
