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

__all__ = ["upload_of", "uploads_in_use", "job_reply", "add_outlook", "stage_of", "log_tail", "metric_rows",
           "rollouts_now", "pack", "one_range"]

_log_bytes_read = 1 << 20  # from the end of a log: ten thousand lines, the most that can be asked for
_copied_at_once = 1 << 20  # bytes
_jobs_asked_for = 10_000  # at once; more than may wait or train together

# Parameters of a job that hold paths of the server. A path that is told is a promise: whoever reads it uses
# it.
_paths_of_a_job = ("data", "output_dir", "resume", "adapter")

_stage_bytes_read = 8192  # from the end of a log: some dozen states of a bar
# tqdm's bar (4.67): a name, percent, a bar, how many of how many
_progress_bar = re.compile(
    r"(?P<name>[^\r\n|%]{0,80}?):?[ ]*\d{1,3}%\|[^|\r\n]*\|[ ]*(?P<done>\d{1,9})/(?P<of>\d{1,9})[ ]")
_sha256 = re.compile(r"[0-9a-f]{64}")
_terminal_sequence = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # a terminal's colours and moves of the cursor
# One range of bytes: from-to, from-, or the last so many. Eighteen digits always fit into 64 bits.
_byte_range = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


# A job and its upload

def upload_of(
    job,  # a job as the ledger has it
) -> str | None:  # a file_id
    "Return the identifier of the upload that a job trains on; None if it has none"
    data = job.parameters.get("data")  # a path: its last part is the identifier
    return Path(data).name if data else None


def uploads_in_use(
    jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
) -> set:  # of file_ids
    "Return the file_ids of the uploads on which jobs train, or will train, that have not ended"
    file_ids = set()
    for status in states:
        if status not in ends:  # queued, training and the like, not completed, failed, cancelled …
            # (jobs, where the next page begins); a page is so large that no second one is needed.
            page, _ = jobs.list(status=status, limit=_jobs_asked_for)
            file_ids |= {upload_of(job) for job in page}
    return file_ids


def job_reply(
    job,  # a job as the ledger has it
) -> dict:  # what its owner is told
    "Return a job as its owner may see it: the ledger's facts, but no parameter with a path of the server"
    shown_job = job.as_dict()
    parameters = shown_job["parameters"].items()
    shown_job["parameters"] = {name: value for name, value in parameters if name not in _paths_of_a_job}
    shown_job["data_file_id"] = upload_of(job)
    # `add_outlook` fills these two from the job's folder, where a single job is asked for.
    shown_job["can_resume"] = False
    shown_job["stage"] = None
    return shown_job


def add_outlook(
    told: dict,  # the job's reply, from `job_reply`; it is changed
    folder: JobFolder,  # of the job
) -> dict:  # the same reply
    """Fill in `can_resume` and `stage` of a job's reply from the files in its folder, and return the reply.

    Not for lists of jobs, since reading files of each would take long."""
    if told["status"] in ("interrupted", "failed", "cancelled"):
        # With a manifest a checkpoint was written to its end; resuming will check its bytes.
        has_checkpoint = any(folder.run.glob(f"checkpoint-*/{manifest_name}"))
        file_id = told["data_file_id"]  # None: the job draws its pictures
        has_data = not file_id or (folder.path / f"../../uploads/{file_id}").exists()
        told["can_resume"] = has_checkpoint and has_data
    if told["status"] == "training":
        told["stage"] = stage_of(folder.log)
    return told


def _end_of_file(path, most_bytes):
    "The text in the last `most_bytes` bytes of a file; OSError if it cannot be read"
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - most_bytes))
        return file.read().decode("utf-8", "replace")


def stage_of(
    path: Path,  # job.log
) -> dict | None:  # name, done, of; None: no bar was printed lately
    """Return what a run is doing now, by the progress bar that stands last in its log.

    `name` is the bar's, such as that of the warm start, of training or of measuring; `done` and `of` count
    its steps."""
    try:
        text = _end_of_file(path, _stage_bytes_read)
    except OSError:
        return None
    text = _terminal_sequence.sub("", text)  # without colours and moves of the cursor
    bars = list(_progress_bar.finditer(text))
    if not bars:
        return None
    last_bar = bars[-1]
    return dict(name=clean(last_bar["name"], 60), done=int(last_bar["done"]), of=int(last_bar["of"]))


# While it runs

def log_tail(
    path: Path,  # job.log
    lines: int,  # at most so many
) -> str:  # the last lines
    """Return the last lines of a job's log without control characters, and of a progress bar the last state.

    A terminal overwrites a bar with its next state; in a log, every state has become a line."""
    try:
        text = _end_of_file(path, _log_bytes_read)
    except (FileNotFoundError, NotADirectoryError):
        return ""  # nothing was printed yet
    except OSError as error:
        raise Problem("job.damaged", f"{path.name} cannot be read: {error.strerror}") from error

    text = _terminal_sequence.sub("", text)  # without colours and moves of the cursor
    # `_last_state` handles states within a line, `_last_states` those in successive lines.
    shown_lines = _last_states([_last_state(line) for line in text.split("\n")])
    if shown_lines[-1] == "":
        lines += 1  # the text ends with a line break, so the last item is no line and does not count
    return "\n".join(controls.sub("", line) for line in shown_lines[-lines:])


def _last_states(
    lines,  # of a log, without line breaks
):
    """Keep only the last of several successive lines that show the same progress bar.

    Two lines show the same bar if its name and its total are equal: `warm:  40%|####  | 4/10 [` and
    `warm:  50%|##### | 5/10 [`, of which the second stays. Empty lines behind a bar are dropped."""
    kept_lines = []
    for line in lines:
        bar = _progress_bar.match(line)
        bar_before = _progress_bar.match(kept_lines[-1]) if kept_lines else None
        if bar and bar_before and (bar["name"], bar["of"]) == (bar_before["name"], bar_before["of"]):
            kept_lines[-1] = line
        elif not (line == "" and bar_before):  # in a log an empty line may stand between two states of a bar
            kept_lines.append(line)
    return kept_lines


def _last_state(line):
    r"""Return what a terminal shows of a line in the end: "4/10\r5/10\r" → "5/10".

    A progress bar ends each of its states with a carriage return, and the next state overwrites it."""
    for state in reversed(line.split("\r")):
        if state.strip():
            return state
    return ""


def metric_rows(
    path: Path,  # run_log.csv
    after: int,  # only rows with a greater step
) -> list:  # of {column: number or None}
    "Return the rows of a run's log with a step greater than `after`; the run may still be writing it"
    # The service's own `RunLog`, which only reads. A row is the bytes of a JSON object.
    rows, _last_step = RunLog(path).after(after)
    return [json.loads(row) for row in rows]


def rollouts_now(
    folder: Path,  # of a job
) -> dict:  # step and groups
    """Return the groups of answers of the latest logged step; step 0 and no groups before the first one.

    The trainer writes them into a file of the job's folder. A damaged file counts as none."""
    nothing_yet = dict(step=0, groups=[])
    path = JobFolder(folder).rollouts
    try:
        rollouts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return nothing_yet
    except (OSError, ValueError) as error:
        job_id = path.parent.parent.name  # the path is jobs/JOB_ID/run/rollouts_now.json
        logger.warning("rollouts", extra=dict(job_id=job_id, reason=type(error).__name__))
        return nothing_yet
    is_dict = isinstance(rollouts, dict)
    is_whole = is_dict and isinstance(rollouts.get("groups"), list) and "step" in rollouts
    return rollouts if is_whole else nothing_yet


# When it has completed

def pack(
    folder: Path,  # of a completed job
    reserve: int = 0,  # bytes of the disk that are left free: other jobs write to it too
) -> tuple:  # the ZIP, its sha256
    """Make a job's result into a ZIP, unless that was done before, and return its path and its sha256.

    The same files give the same bytes. Raises a Problem if the result is damaged or the disk is full."""
    job_folder = JobFolder(folder)
    path, result = job_folder.download, job_folder.result
    digest = _known_hash(path)  # None unless the ZIP is there, with its hash stored beside it
    if digest is not None:
        return path, digest
    names = _names_to_pack(result)
    try:
        # `temporary` is renamed to `path` when it is complete; not durable, since it can be made again.
        with new_file(path, durable=False) as temporary:
            _zip_files(result, names, temporary, reserve)  # a Problem if the disk is full
        digest = sha256_of(path)
        write_whole(_hash_file(path), digest)
    except IsADirectoryError as error:  # the ZIP cannot take its name
        raise Problem("job.damaged", f"{path.name} is a folder") from error
    return path, digest


def _names_to_pack(
    result,  # folder of a completed job's result, with a manifest: a file that lists the others' hashes
):
    "The names of the files in a result, the manifest's among them; a Problem if the result is damaged"
    # `damage` returns a sentence, or an empty value if the files are as the manifest lists them.
    problem = damage(result) if result.is_dir() else "it is not there"
    names = [] if problem else _committed_names(result)  # files of the manifest, and the manifest itself
    if problem or not names:
        raise Problem("job.no_artefact", f"the job's result is damaged: {problem or 'it holds no file'}")
    return names


def _hash_file(path):
    """Return the path of the file for the hash of a ZIP, such as download.5120-1767225600000000000.sha256.

    Size and time in its name make sure that the hash is of this very ZIP. OSError if there is no ZIP."""
    stat = path.stat()
    return path.with_suffix(f".{stat.st_size}-{stat.st_mtime_ns}.sha256")


def _known_hash(path):
    "Read the sha256 that was stored for the ZIP at `path`; None if there is none: the ZIP must be made"
    try:
        # The name of a hash's file holds size and time of its ZIP, so that of another ZIP is not found.
        digest = _hash_file(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    is_good = _sha256.fullmatch(digest) and path.is_file()  # no folder that stands in the ZIP's place
    return digest if is_good else None


def _committed_names(result):
    "Return the sorted names of a result's files as its manifest lists them, and its own; [] if it lists none"
    listed = json.loads((result / manifest_name).read_text(encoding="utf-8"))
    return sorted([*listed, manifest_name]) if listed else []


def _zip_files(
    folder,  # with the files
    names,  # of the files, in the order in which they are written
    path,  # of the new ZIP
    reserve,  # bytes of the disk that stay free; otherwise a Problem is raised
):
    "Write files into a ZIP; equal files give equal bytes, since `ZipInfo` stores a fixed time for each"
    with zipfile.ZipFile(path, "w") as archive:  # not compressed: weights would hardly become smaller
        for name in names:
            entry = zipfile.ZipInfo(name)
            # force_zip64: an entry may be larger than 2 GB, and its size is not known when its header is
            # written.
            with (folder / name).open("rb") as file, archive.open(entry, "w", force_zip64=True) as out:
                while data := file.read(_copied_at_once):
                    if free_bytes(path) < reserve + len(data):
                        raise Problem("storage.full", "no space is left for the download; the result is safe")
                    out.write(data)


def one_range(
    request,  # with or without a Range
    size: int,  # bytes of the file
    etag: str = None,  # of the file, which a header If-Range may ask for
):
    """Check a request's header Range before a file is sent.

    A single range inside the file stays; one that begins beyond the file raises a Problem. Any other header,
    also one whose end is before its beginning, is removed from the request, so that the whole file is sent,
    as the standard permits."""
    range_header = request.headers.get("range")
    if range_header is None:
        return
    match = _byte_range.fullmatch(range_header.strip())
    if not match:
        # It is malformed, or holds several ranges: an attacker could ask for the same megabyte a thousand
        # times with them.
        _drop_range(request)
        return
    # Digits: bytes=5-9 gives ("5", "9", None), bytes=5- ("5", "", None), bytes=-9 (None, None, "9"), so that
    # there is a first where there is a last.
    first, last, _from_end = match.groups()
    if last and int(last) < int(first):
        _drop_range(request)  # it makes no sense, such as bytes=9-5, whether or not byte 9 is in the file
    elif _overlaps(match, size):
        return
    elif request.headers.get("if-range") not in (None, etag):
        _drop_range(request)  # meant for another version of the file, so that it does not count for this one
    else:
        headers = {"content-range": f"bytes */{size}"}
        raise Problem("range.unsatisfiable", f"the file has {size} bytes", headers)


def _overlaps(
    match,  # of `_byte_range` with a header Range; its groups are (first, last, from_end)
    size,  # bytes of the file
):
    "Tell whether a range of bytes holds any byte of a file"
    # bytes=first-last, or bytes=first- (`last` is ""): `from_end` is None. bytes=-from_end, the last bytes:
    # `first` and `last` are None.
    first, _last, from_end = match.groups()
    if first is not None:
        return int(first) < size
    return int(from_end) > 0


def _drop_range(request):
    "Take the Range out of a request, before Starlette's `FileResponse` reads it from the scope"
    request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
