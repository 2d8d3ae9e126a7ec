"""A clock for the bodies of requests: who sends nothing, or next to nothing, does not hold a place for ever.

Written by hand, not exported from a notebook."""
import asyncio
import time

from .refusals import Problem

__all__ = ["chunks_in_time", "least_bytes_a_second"]

# On average over each stretch of `seconds`. A modem of 1995 sends four times as much; whoever sends less holds
# one of a few places, and would need weeks for an upload.
least_bytes_a_second = 1024


async def chunks_in_time(
    request,  # whose body comes
    seconds: float,  # so long nothing may come
    code: str,  # of the refusal, a status 408
    in_all: float = None,  # seconds for the whole body; None: as long as bytes go on coming
):
    "The body in the pieces in which it comes; a Problem where it stands still, drips, or takes too long"
    # A slow line is no reason to refuse a large upload, so its clock runs for each stretch and not for the
    # whole. A clock for each piece alone would not do: a byte every few seconds would keep it quiet for ever.
    stream = request.stream().__aiter__()
    begun = time.monotonic()
    waited, in_stretch = 0.0, 0  # seconds and bytes of the stretch that runs
    while True:
        left = seconds if in_all is None else min(seconds, begun + in_all - time.monotonic())
        # Only the time in which we wait for the client: our own disk may be slow, which is not its fault.
        asked = time.monotonic()
        try:
            chunk = await asyncio.wait_for(anext(stream), max(0.0, left))
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Problem(code, f"nothing came for {left:.0f} seconds, or all of it took too long") from error
        waited += time.monotonic() - asked
        in_stretch += len(chunk)
        yield chunk
        if waited < seconds:
            continue
        if in_stretch < waited * least_bytes_a_second:
            raise Problem(code, f"{in_stretch} bytes came in {waited:.0f} seconds")
        waited, in_stretch = 0.0, 0
