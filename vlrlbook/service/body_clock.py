"""A clock for the bodies of requests: who sends nothing, or next to nothing, does not hold a place for ever.

Written by hand, not exported from a notebook."""
import asyncio
import math
import time

from .refusals import Problem

__all__ = ["chunks_in_time", "least_bytes_a_second"]

# On average over each stretch of `seconds`. A modem of 1995 sends four times as much; whoever sends less
# holds one of a few places, and would need weeks for an upload.
least_bytes_a_second = 1024


async def chunks_in_time(
    request,  # whose body comes
    seconds: float,  # longest wait for one piece; also the time over which the speed is measured
    code: str,  # of the `Problem`, whose HTTP status is 408
    in_all: float = None,  # seconds for the whole body; None: as long as bytes go on coming
):
    """Yield a request's body in the pieces in which it comes.

    Raises a Problem if nothing comes for `seconds`, if less than `least_bytes_a_second` come on average over
    a stretch of `seconds`, or if the whole body takes longer than `in_all`."""
    stream = request.stream().__aiter__()
    deadline = time.monotonic() + in_all if in_all is not None else math.inf
    # Speed is measured in stretches of `seconds`, one after another: a fast start does not make up for a
    # trickle later. They hold only the waits for the client: the caller may write a piece to a slow disk.
    stretch_seconds, stretch_bytes = 0.0, 0
    while True:
        wait_started = time.monotonic()
        longest_wait = min(seconds, deadline - wait_started)
        chunk = await _next_chunk(stream, longest_wait, code)
        if chunk is None:  # the body is complete
            return
        stretch_seconds += time.monotonic() - wait_started
        stretch_bytes += len(chunk)
        yield chunk
        if stretch_seconds >= seconds:  # the stretch is over
            if stretch_bytes < stretch_seconds * least_bytes_a_second:
                raise Problem(code, f"{stretch_bytes} bytes came in {stretch_seconds:.0f} seconds")
            stretch_seconds, stretch_bytes = 0.0, 0


async def _next_chunk(
    stream,  # asynchronous iterator over the pieces of a request's body
    longest_wait,  # seconds; below 0 where the time for the whole body is over
    code,  # of the Problem, such as upload.stalled
):
    "The next piece of a request's body as bytes, or None at its end; a Problem if it does not come in time"
    try:
        return await asyncio.wait_for(anext(stream), max(0.0, longest_wait))
    except StopAsyncIteration:
        return None
    except TimeoutError as error:
        message = f"nothing came for {longest_wait:.0f} seconds, or all of it took too long"
        if longest_wait <= 0:
            message = "all of it took too long"
        raise Problem(code, message) from error
