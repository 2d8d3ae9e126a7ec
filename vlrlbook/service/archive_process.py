"""Chapter 01's reader of archives in a process of its own, which may die of memory, of time or of a fault.

The reader refuses what two parsers could read differently. But reading pictures takes a large program, and
the next fault in it has not been found yet. So it runs with limits on memory, time and file size; if it
dies, one upload is refused and the server goes on. Written by hand, not exported from a notebook."""
import asyncio
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from ..archive import DataError, limits
from .log_lines import logger
from .options import ServiceSettings
from .refusals import Problem, clean

__all__ = ["read_upload", "read_apart", "code_of_limit"]

# What the reading process inherits. Not the rest: an archive that takes it over shall find no token or key
# there.
_inherited = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
# One thread for numerical libraries: each reserves address space for all its threads, which the limit counts.
_one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# A system call's error that means a limit was met → the code for it
_limit_errors: dict = {
    errno.ENOSPC: "storage.full",
    errno.EDQUOT: "storage.full",
    errno.EFBIG: "zip.size",  # a file larger than RLIMIT_FSIZE
    errno.ENOMEM: "intake.memory"}

_thread_refused = "start new thread"  # in the RuntimeError that Python raises when a thread gets no memory


# In the reading process

def read_upload(
    zip_path: str,  # the archive
    out_dir: str,  # new folder for rows and pictures
    strict: str,  # "1" to refuse for one bad row
    megabytes: str,  # of memory
    seconds: str,  # of processor time
    reserve_mb: str = "0",  # of the disk that stay free
):
    "What the reading process does: limits on itself, chapter 01's reader, then one line of JSON to stdout"
    from ..archive import unpack_counting_zip
    _limit_this_process(int(megabytes), int(seconds))
    os.mkdir(out_dir)
    try:
        report = unpack_counting_zip(Path(zip_path), Path(out_dir), strict == "1", int(reserve_mb) << 20)
    except DataError as error:
        refusal = dict(code=code_of_limit(error), message=error.message, row=error.row, entry=error.entry)
        print(json.dumps(refusal))
    else:
        print(json.dumps(asdict(report)))


def _limit_this_process(megabytes, seconds):
    "Let the system hold this process to its limits, hard ones, which it cannot raise again"
    processors = os.cpu_count() or 1
    most = {
        resource.RLIMIT_AS: megabytes << 20,
        # The time of all threads together; the clock on the wall is the server's to watch.
        resource.RLIMIT_CPU: seconds * processors,
        resource.RLIMIT_FSIZE: limits["unpacked"],
        resource.RLIMIT_CORE: 0}  # a core dump would hold what people uploaded
    for limit, value in most.items():
        resource.setrlimit(limit, (value, value))


def code_of_limit(
    error: DataError,  # of chapter 01's reader
) -> str:  # a code of `problems`
    "The code of the limit that an error comes from, which the reader took for a fault of the archive"
    cause = error.__cause__
    if isinstance(cause, MemoryError) or _thread_refused in str(cause):
        return "intake.memory"
    return _limit_errors.get(getattr(cause, "errno", None), error.code)


# In the server

async def read_apart(
    zip_path: Path,  # what was uploaded
    out_dir: Path,  # new folder
    strict: bool,  # refuse for one bad row
    settings: ServiceSettings,  # limits
) -> dict:  # chapter 01's report
    "Read an archive in a process of its own; a Problem with the reader's refusal, or with how it died"
    code = "import sys; from vlrlbook.service import read_upload; read_upload(*sys.argv[1:])"
    words = [zip_path, out_dir, int(strict), settings.intake_mb, settings.intake_seconds,
             settings.reserve_mb]
    environment = {name: os.environ[name] for name in _inherited if name in os.environ}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *map(str, words), env=environment | _one_thread,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    too_long = Problem("intake.time", f"more than {settings.intake_seconds} seconds")
    try:
        out, trouble = await asyncio.wait_for(child.communicate(), settings.intake_seconds)
    except TimeoutError as error:
        raise too_long from error
    finally:
        # A client that hangs up cancels this function too; nobody else would end the reader.
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == -signal.SIGXCPU:  # the limit on processor time
        raise too_long
    if child.returncode:
        raise _death_of(child.returncode, trouble)
    found = json.loads(out)
    if "code" not in found:
        return found
    entry = clean(found["entry"]) if found["entry"] else None
    raise Problem(found["code"], found["message"], row=found["row"], entry=entry)


def _death_of(status, trouble):
    "A Problem for a reader that died with `status`; its last words go into the log"
    last_words = clean(trouble[-400:].decode("utf-8", "replace"), 400)
    logger.warning("reader of an archive ended with %s: %s", status, last_words)
    # Told apart, because a client can do something about an archive that needs too much memory.
    starved = b"MemoryError" in trouble or _thread_refused.encode() in trouble
    code = "intake.memory" if starved else "intake.died"
    return Problem(code, f"the reader ended with {status}")
