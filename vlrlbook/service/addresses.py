"""The addresses: one table says what each takes, what it gives, and with which codes it may refuse.

Routes (`app.py`) and the OpenAPI document (`openapi_document.py`) are made from it, and a test draws
requests from the document and looks for a status that is not in it. Written by hand, not exported from a
notebook."""
from dataclasses import dataclass

from ..archive import zip_kinds
from ..jobs import states
from ..settings import by_task
from .refusals import problems

__all__ = ["Endpoint", "endpoints", "codes_of", "archive_codes", "json_codes"]


@dataclass
class Endpoint:
    "One address: what it takes, what it gives, how it refuses"
    method: str  # GET, POST or DELETE
    path: str  # with {names}
    name: str  # of the attribute of `Service` that answers it
    summary: str  # one line
    reply: str | None = None  # key of `examples`, or a media type
    query: tuple = ()  # (name, JSON type, help)
    errors: tuple = ()  # codes, beside those of the doors
    status: int = 200  # of success


def codes_of(
    *groups: str,  # what stands before the dot, such as zip
) -> tuple:  # codes of `problems`, in the order of the table
    """List the codes of whole groups: a code is `group.fault`, such as zip.path of the group zip.

    It is for addresses that may answer with any error of a group: the address that takes an archive lists all
    of `zip`, `csv`, `image` and others as its possible errors."""
    group_codes = []
    for code in problems:  # code → (HTTP status, title)
        group, _, _ = code.partition(".")
        if group in groups:
            group_codes.append(code)  # in the table's order, which the OpenAPI document keeps
    return tuple(group_codes)


archive_codes = codes_of("upload", "zip", "csv", "image", "row", "intake", "storage")
json_codes = codes_of("body", "json", "train", "training_config", "lora_config", "idempotency")
_query_codes = ("query.unknown", "query.value")
_job_codes = ("job.unknown", "ledger.unavailable")  # of whatever looks a job up

_limit = ("limit", "integer", "At most so many, 1 to 500")
_after = ("after", "string", "`next` of the page before")
_kind = ("kind", "string", "What the answers are: " + ", ".join(zip_kinds))

endpoints = [
    # before there is anything
    Endpoint("GET", "/", "front", "The page for people (Accept: text/html), basic information for programs",
             "front"),
    Endpoint("GET", "/static/{name}", "static", "Files of the page", "application/octet-stream",
             errors=("door.path",)),
    Endpoint("GET", "/data-format", "data_format", "Columns, limits and error codes", "formats"),
    Endpoint("GET", "/settings", "settings_form", "What training_config and lora_config may hold",
             "settings",
             query=(("task", "string", "Whose defaults and choices: " + ", ".join(by_task)),),
             errors=_query_codes),
    Endpoint("GET", "/sample-data", "sample_data", "A ZIP of 60 drawn pictures", "application/zip",
             query=(_kind,),
             errors=_query_codes),

    # uploads
    Endpoint("POST", "/upload-data", "upload", "Upload a counting ZIP in the field `file`", "upload",
             query=(("strict", "boolean", "Refuse the archive for one bad row"), _kind),
             errors=(*archive_codes, *_query_codes)),
    Endpoint("GET", "/files", "files", "Uploads, newest first", "files",
             query=(_limit, _after),
             errors=_query_codes),
    Endpoint("GET", "/files/{file_id}", "file", "One upload", "upload",
             errors=("file.unknown",)),
    Endpoint("GET", "/files/{file_id}/rows", "rows", "Its rows in order", "rows",
             query=(_limit, ("after", "integer", "A row's number")),
             errors=("file.unknown", "file.damaged", *_query_codes)),
    Endpoint("GET", "/files/{file_id}/rows/{row}/image", "image", "A row's picture, made small", "image/png",
             query=(("size", "integer", "Longest side, 16 to 1024 pixels"),),
             errors=("file.unknown", "file.row", "file.damaged", *_query_codes)),
    Endpoint("DELETE", "/files/{file_id}", "remove_file", "Delete an upload",
             errors=("file.unknown", "file.in_use", "ledger.unavailable"),
             status=204),

    # jobs
    Endpoint("POST", "/train", "train", "Start a job", "started",
             errors=(*json_codes, "file.unknown", "file.damaged", "job.queue_full", "ledger.unavailable",
                     "storage.full")),
    Endpoint("GET", "/jobs", "list_jobs", "Jobs, newest first", "jobs",
             query=(("status", "string", "Only these: " + ", ".join(states)), _limit, _after),
             errors=(*_query_codes, "ledger.unavailable")),
    Endpoint("GET", "/jobs/{job_id}", "job", "One job", "started",
             errors=_job_codes),
    Endpoint("DELETE", "/jobs/{job_id}", "cancel",
             "Cancel a job; with purge, forget one that has ended (204)", "job",
             query=(("purge", "boolean", "Remove an ended job and its files"),),
             errors=(*_job_codes, "job.state", *_query_codes)),
    Endpoint("POST", "/jobs/{job_id}/resume", "resume", "Go on from the newest whole checkpoint", "job",
             errors=(*_job_codes, "job.state", "job.no_checkpoint", "job.no_data")),
    Endpoint("GET", "/jobs/{job_id}/moves", "moves", "Every move between states", "moves",
             errors=_job_codes),

    # what a job leaves: readable while it is still writing, but for the download, since half a result is
    # worse than none
    Endpoint("GET", "/jobs/{job_id}/log", "log", "The end of the trainer's log", "text/plain",
             query=(("tail", "integer", "Lines, 1 to 10000"),),
             errors=(*_job_codes, "job.damaged", *_query_codes)),
    Endpoint("GET", "/jobs/{job_id}/metrics", "metrics", "Rows of the run's log", "metrics",
             query=(("after_step", "integer", "Only later steps"),),
             errors=(*_job_codes, *_query_codes)),
    Endpoint("GET", "/jobs/{job_id}/rollouts", "rollouts", "Groups of answers of the latest logged step",
             "rollouts",
             errors=_job_codes),
    Endpoint("GET", "/jobs/{job_id}/notebook", "notebook", "The executed notebook as a page", "text/html",
             errors=(*_job_codes, "job.no_notebook")),
    Endpoint("GET", "/jobs/{job_id}/download", "download", "The result as a ZIP; ETag is its sha256",
             "application/zip",
             errors=(*_job_codes, "job.not_completed", "job.no_artefact", "job.damaged",
                     "range.unsatisfiable", "storage.full")),
    Endpoint("GET", "/jobs/{job_id}/verdict", "verdict",
             "Did the model get better: a word, a sentence, and the questions behind them", "verdict",
             errors=(*_job_codes, "job.not_completed", "ask.failed")),
    Endpoint("POST", "/jobs/{job_id}/ask", "ask",
             "Show the model a picture (field `file`), before and after its training", "asked",
             query=(("question", "string", "What is asked about the picture"),),
             errors=(*_job_codes, "job.not_completed", "ask.failed", *codes_of("upload", "storage"),
                     *_query_codes)),
    Endpoint("POST", "/rank", "rank", "Put answers to a question about a picture in order, best first",
             "ranked",
             errors=(*codes_of("body", "json", "rank"), *_query_codes)),
    Endpoint("GET", "/jobs/{job_id}/events", "events", "Server-sent events: status, metrics, rollouts, end",
             "text/event-stream",
             errors=(*_job_codes, "events.busy")),

    # by age
    Endpoint("POST", "/clean-up", "clean_up", "Remove ended jobs and unneeded uploads by age", "cleaned",
             query=(("older_than_days", "number",
                     "Age in days of service, the server's keep_days (or 30) if not given"),),
             errors=(*_query_codes, "ledger.unavailable"))]
