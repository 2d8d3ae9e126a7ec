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
from dataclasses import asdict
from pathlib import Path

from ..archive import DataError, limits
from ..jobs import own_python
from .log_lines import logger
from .options import ServiceSettings
from .refusals import Problem, clean

__all__ = ["read_upload", "read_apart", "code_of_limit"]

# What the reading process inherits. Not the rest: an archive that takes it over shall find no token or key
# there.
_inherited = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
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
    kind: str = "counting",  # what the answers are, a key of `archive.zip_kinds`
):
    """Read an archive inside the reading process, and print what came of it as one line of JSON to stdout.

    The line is the report of the archive's reader (how many rows, which were skipped, notes), or a refusal
    with code, message, row and entry. The parameters are texts, since they come from a command line."""
    from ..archive import unpack_counting_zip
    _limit_this_process(int(megabytes), int(seconds))
    os.mkdir(out_dir)
    reserve_bytes = int(reserve_mb) << 20
    try:
        report = unpack_counting_zip(Path(zip_path), Path(out_dir), strict == "1", reserve_bytes, kind)
    except DataError as error:
        # The error's own code, or that of the limit of this process which caused it.
        code = code_of_limit(error)
        refusal = dict(code=code, message=error.message, row=error.row, entry=error.entry)
        print(json.dumps(refusal))
    else:
        print(json.dumps(asdict(report)))


def _limit_this_process(
    megabytes,  # of memory
    seconds,  # of processor time on each processor
):
    """Set limits on this process that the operating system enforces: memory, processor time, file size.

    They are hard limits: the process cannot raise them again, even if an archive takes it over."""
    processors = os.cpu_count() or 1
    hard_limits = {
        resource.RLIMIT_AS: megabytes << 20,  # address space
        # Processor time is that of all threads together. `read_apart` limits the elapsed time.
        resource.RLIMIT_CPU: seconds * processors,
        resource.RLIMIT_FSIZE: limits["unpacked"],  # bytes that a whole archive may unpack to
        resource.RLIMIT_CORE: 0}  # a core dump would hold what people uploaded
    for limit, value in hard_limits.items():
        resource.setrlimit(limit, (value, value))  # (soft limit, hard limit)


def code_of_limit(
    error: DataError,  # of the archive's reader (`vlrlbook.archive`)
) -> str:  # a code of `problems`
    """The code of an archive's refusal: the error's own, or that of a limit of this process that caused it.

    The reader takes a full disk or a lack of memory for a fault of the archive. The exception that it met,
    `__cause__`, tells them apart."""
    cause = error.__cause__
    # `_thread_refused`: words of the RuntimeError that Python raises when a new thread gets no memory.
    if isinstance(cause, MemoryError) or _thread_refused in str(cause):
        return "intake.memory"
    error_number = getattr(cause, "errno", None)
    return _limit_errors.get(error_number, error.code)  # error number of a limit → code


# In the server

async def read_apart(
    zip_path: Path,  # what was uploaded
    out_dir: Path,  # new folder
    strict: bool,  # refuse for one bad row
    settings: ServiceSettings,  # its limits are used
    kind: str = "counting",  # what the answers are, a key of `archive.zip_kinds`
) -> dict:  # the report of the archive's reader
    """Read an archive in a process of its own, by `read_upload`, and return the reader's report.

    Raises a Problem if the reader refuses the archive, takes too long, or dies of it."""
    arguments = [zip_path, out_dir, int(strict), settings.intake_mb, settings.intake_seconds,
                 settings.reserve_mb, kind]  # of `read_upload`
    child = await _start_reader(arguments)
    too_long = Problem("intake.time", f"more than {settings.intake_seconds} seconds")
    try:
        stdout, stderr = await _output_of(child, settings.intake_seconds)
    except TimeoutError as error:
        raise too_long from error
    # The system ends a process with this signal when its processor time is used up.
    if child.returncode == -signal.SIGXCPU:
        raise too_long
    if child.returncode:
        raise _death_of(child.returncode, stderr)  # a Problem: out of memory, or dead for another reason
    return _report_in(stdout)


async def _start_reader(
    arguments,  # of `read_upload`: the archive, the folder to write to, strict (0 or 1), limits, kind
):
    "Start a process that reads an archive by `read_upload`, and return it; its output comes in pipes"
    code = "import sys; from vlrlbook.service import read_upload; read_upload(*sys.argv[1:])"
    # Only the harmless variables of `_inherited`, no tokens and keys, in case an archive takes the process
    # over. `_one_thread` keeps numerical libraries to one thread, since each reserves memory.
    environment = {name: os.environ[name] for name in _inherited if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *own_python(), "-c", code, *map(str, arguments), env=environment | _one_thread,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def _output_of(
    child,  # a process of asyncio, with stdout and stderr in pipes
    seconds,  # of elapsed time that it may take
):
    "What a process wrote to stdout and stderr, two bytes objects, when it has ended; TimeoutError if late"
    try:
        return await asyncio.wait_for(child.communicate(), seconds)
    finally:
        # A client that hangs up cancels this function too; nobody else would end the process.
        if child.returncode is None:  # it still runs
            child.kill()
            await child.wait()


def _report_in(
    stdout,  # bytes: one line of JSON, the report on an archive or the refusal of it
):
    "The report in what a reader of an archive printed, as a dict; raises a Problem if it is a refusal"
    report = json.loads(stdout)
    if "code" not in report:  # only a refusal has one
        return report
    # It is a refusal: code, message, row of main.csv, entry of the archive.
    entry = clean(report["entry"]) if report["entry"] else None
    raise Problem(report["code"], report["message"], row=report["row"], entry=entry)


def _death_of(
    return_code,  # of the process; negative: minus the number of the signal that killed it
    stderr,  # bytes that it wrote there: they may end in a traceback
):
    "Make the Problem for a process that died while it read an archive; its last words go into the log"
    last_words = clean(stderr[-400:].decode("utf-8", "replace"), 400)
    logger.warning("reader of an archive ended with %s: %s", return_code, last_words)
    # A lack of memory has its own code, because a client can send a smaller archive. It also shows as a
    # RuntimeError when a new thread gets no memory.
    lacked_memory = b"MemoryError" in stderr or _thread_refused.encode() in stderr
    if not lacked_memory and _cannot_import(stderr):
        return Problem("server.error", "the reader of archives cannot start; the server's log knows more")
    code = "intake.memory" if lacked_memory else "intake.died"
    return Problem(code, f"the reader ended with {return_code}")


def _cannot_import(stderr):
    """Whether the process that reads an archive died because Python could not import a module.

    Then the server is badly installed, and the archive may be good. `stderr`: bytes the process wrote."""
    # The last line of a traceback is the exception.
    last_line = stderr.rstrip().rpartition(b"\n")[2]
    return last_line.startswith((b"ImportError:", b"ModuleNotFoundError:"))
