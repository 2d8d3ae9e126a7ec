"""What a job leaves, read from the ledger and from its folder, also while it is still writing there.

Written by hand, not exported from a notebook."""
import json
import re
import zipfile
from pathlib import Path

from ..folders import damage, free_bytes, manifest_name, new_file, sha256_of, write_whole
from ..jobs import JobFolder, controls, ends, states
from .log_lines import logger
from .refusals import Problem, clean
from .run_log_reader import RunLog

__all__ = ["upload_of", "uploads_in_use", "job_reply", "add_outlook", "stage_of", "log_tail", "metric_rows", "rollouts_now", "pack",
           "one_range"]

_log_bytes_read = 1 << 20  # from the end of a log: ten thousand lines, the most that can be asked for
_copied_at_once = 1 << 20  # bytes
_jobs_asked_for = 10_000  # at once; more than may wait or train together

# Parameters of a job that hold paths of the server. A path that is told is a promise: whoever reads it uses
# it.
_paths_of_a_job = ("data", "output_dir", "resume", "adapter")

_stage_bytes_read = 8192  # from the end of a log: some dozen states of a bar
# tqdm's bar (4.67): a name, percent, a bar, how many of how many
_progress_bar = re.compile(r"(?P<name>[^\r\n|%]{0,80}?):?[ ]*\d{1,3}%\|[^|\r\n]*\|[ ]*(?P<done>\d{1,9})/(?P<of>\d{1,9})[ ]")
_sha256 = re.compile(r"[0-9a-f]{64}")
_terminal_sequence = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # a terminal's colours and moves of the cursor
# One range of bytes: from-to, from-, or the last so many. Eighteen digits always fit into 64 bits.
_byte_range = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


# A job and its upload

def upload_of(
    job,  # from the ledger
) -> str | None:  # a file_id
    "The upload that a job trains on"
    data = job.parameters.get("data")
    return Path(data).name if data else None


def uploads_in_use(
    jobs,  # chapter 07a's `Jobs`
) -> set:  # of file_ids
    "Uploads that jobs which have not ended need"
    needed = set()
    for status in states:
        if status not in ends:
            page, _ = jobs.list(status=status, limit=_jobs_asked_for)
            needed |= {upload_of(job) for job in page}
    return needed


def job_reply(
    job,  # from the ledger
) -> dict:  # what its owner is told
    "A job as its owner is told, without the server's paths"
    told = job.as_dict()
    parameters = told["parameters"]
    told["parameters"] = {name: value for name, value in parameters.items() if name not in _paths_of_a_job}
    told["data_file_id"] = upload_of(job)
    told["can_resume"] = False
    told["stage"] = None
    return told


def add_outlook(
    told: dict,  # from `job_reply`
    folder: JobFolder,  # of the job
) -> dict:  # with `can_resume` and `stage`, as far as the job's files tell
    "What one who looks at a single job wants to know beside its state; it costs a look into its folder"
    if told["status"] in ("interrupted", "failed", "cancelled"):
        # Not verified here, byte by byte: whoever resumes hears of a damaged one then.
        has_checkpoint = any(folder.run.glob(f"checkpoint-*/{manifest_name}"))
        told["can_resume"] = has_checkpoint and (folder.path / _data_of(told, folder)).exists()
    if told["status"] == "training":
        told["stage"] = stage_of(folder.log)
    return told


def _data_of(told, folder):
    "Where a job's upload lies, relative to the job's folder; the folder itself where it has none"
    file_id = told["data_file_id"]
    return f"../../uploads/{file_id}" if file_id else "."


def stage_of(
    path: Path,  # job.log
) -> dict | None:  # name, done, of; None: no bar was printed lately
    "What a run is doing now, by the progress bar that it printed last: the warm start, training, measuring"
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _stage_bytes_read))
            text = _terminal_sequence.sub("", file.read().decode("utf-8", "replace"))
    except OSError:
        return None
    bars = list(_progress_bar.finditer(text))
    if not bars:
        return None
    last = bars[-1]
    return dict(name=clean(last["name"], 60), done=int(last["done"]), of=int(last["of"]))


# While it runs

def log_tail(
    path: Path,  # job.log
    lines: int,  # most
) -> str:  # the last lines
    "The end of a log: control characters gone, of a progress bar its last state only"
    # A terminal writes a bar over itself. What goes into a file through papermill is a line for each state.
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _log_bytes_read))
            text = file.read().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""  # nothing was printed yet
    except OSError as error:
        raise Problem("job.damaged", f"{path.name} cannot be read: {error.strerror}") from error
    text = _terminal_sequence.sub("", text)
    shown = _last_states([_last_state(line) for line in text.split("\n")])
    if shown[-1] == "":
        lines += 1  # the text ends with a line break, which begins no line of its own
    return "\n".join(controls.sub("", line) for line in shown[-lines:])


def _last_states(lines):
    "Lines without the states of a progress bar that the next line brings up to date"
    kept = []
    for line in lines:
        bar = _progress_bar.match(line)
        before = _progress_bar.match(kept[-1]) if kept else None
        if bar and before and (bar["name"], bar["of"]) == (before["name"], before["of"]):
            kept[-1] = line
        elif not (line == "" and before):  # an empty line between two states of a bar
            kept.append(line)
    return kept


def _last_state(line):
    "What a terminal shows of a line in the end: a progress bar goes back to its begin and writes over itself"
    for state in reversed(line.split("\r")):
        if state.strip():
            return state
    return ""


def metric_rows(
    path: Path,  # run_log.csv
    after: int,  # step
) -> list:  # of {column: number or None}
    "Rows of a run's log with a step beyond `after`; the log may be growing"
    rows, _ = RunLog(path).after(after)
    return [json.loads(row) for row in rows]


def rollouts_now(
    folder: Path,  # of a job
) -> dict:  # step and groups
    "The groups of the latest logged step; step 0 and no group before the first"
    nothing_yet = dict(step=0, groups=[])
    path = JobFolder(folder).rollouts
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return nothing_yet
    except (OSError, ValueError) as error:
        logger.warning("rollouts", extra=dict(job_id=path.parent.parent.name, reason=type(error).__name__))
        return nothing_yet
    has_form = isinstance(found, dict) and isinstance(found.get("groups"), list) and "step" in found
    return found if has_form else nothing_yet


# When it has completed

def pack(
    folder: Path,  # of a completed job
    reserve: int = 0,  # bytes of the disk that are left free: other jobs write to it too
) -> tuple:  # the ZIP, its sha256
    "The result as a ZIP, made once: the same files give the same bytes; a Problem where they are damaged"
    job_folder = JobFolder(folder)
    path, result = job_folder.download, job_folder.result
    digest = _known_hash(path)
    if digest is not None:
        return path, digest
    # Looked at before it is packed: a download whose bytes are damaged would be found out much later, at a robot.
    problem = damage(result) if result.is_dir() else "it is not there"
    names = [] if problem else _committed_names(result)
    if problem or not names:
        raise Problem("job.no_artefact", f"the job's result is damaged: {problem or 'it holds no file'}")
    try:
        with new_file(path, durable=False) as aside:  # it can be made again
            _zip_files(result, names, aside, reserve)
        digest = sha256_of(path)
        write_whole(_hash_file(path), digest)
    except IsADirectoryError as error:
        raise Problem("job.damaged", f"{path.name} is a folder") from error
    return path, digest


def _hash_file(path):
    "Where the hash of a ZIP is kept; size and time in the name tell which file it is of"
    found = path.stat()
    return path.with_suffix(f".{found.st_size}-{found.st_mtime_ns}.sha256")


def _known_hash(path):
    "The hash that was written for just this ZIP; None: there is none, so the ZIP is made again"
    try:
        written = _hash_file(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return written if _sha256.fullmatch(written) and path.is_file() else None


def _committed_names(result):
    "Names of the files that a whole result was committed with, and of its manifest; empty where it has none"
    listed = json.loads((result / manifest_name).read_text(encoding="utf-8"))
    return sorted([*listed, manifest_name]) if listed else []


def _zip_files(folder, names, path, reserve):
    "Write a ZIP of some files, in the order of their names and without times: equal files, equal bytes"
    with zipfile.ZipFile(path, "w") as archive:  # stored and not deflated: weights hardly shrink
        # By the manifest: what somebody has laid beside the result since is no part of it.
        for name in names:
            entry = zipfile.ZipInfo(name)
            # Its size is not known when its header is written, and may be beyond 2 GB.
            with (folder / name).open("rb") as file, archive.open(entry, "w", force_zip64=True) as out:
                while data := file.read(_copied_at_once):
                    if free_bytes(path) < reserve + len(data):
                        raise Problem("storage.full", "no space is left for the download; the result is safe")
                    out.write(data)


def one_range(
    request,  # with or without a Range
    size: int,  # bytes of the file
):
    "Keep a request's Range if it is a single one inside the file; refuse one beyond it; drop any other"
    asked = request.headers.get("range")
    if asked is None:
        return
    found = _byte_range.fullmatch(asked.strip())
    if not found:
        # Several ranges at once are needed by hardly anybody, and an attacker asks for the same megabyte a
        # thousand times with them. The standard permits to answer them, and nonsense, with the whole file.
        _drop_range(request)
        return
    first, last, from_end = found.groups()
    beyond = first is not None and int(first) >= size
    nothing = from_end is not None and int(from_end) == 0
    if beyond or nothing:
        headers = {"content-range": f"bytes */{size}"}
        raise Problem("range.unsatisfiable", f"the file has {size} bytes", headers)
    if last and int(last) < int(first):
        _drop_range(request)


def _drop_range(request):
    "Take the Range out of a request, before Starlette's `FileResponse` reads it from the scope"
    request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
