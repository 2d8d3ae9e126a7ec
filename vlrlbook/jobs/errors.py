"""What the jobs wing refuses to do: one exception class for each reason.

`code` is stable and is meant for programs: the training service sends it to its clients. The text of the
exception is meant for people. Written by hand, not exported from a notebook."""

__all__ = ["JobsError", "UnknownJob", "WrongState", "NoCheckpoint", "QueueFull", "KeyReused", "AlreadyServed",
           "NetworkFolder", "LedgerUnavailable", "LedgerLost", "NoData"]


class JobsError(Exception):
    "A request about jobs that is refused; `code` is stable, the text is for people"
    code = "job"


class UnknownJob(JobsError):
    "There is no job of that id"
    code = "job.unknown"


class WrongState(JobsError):
    "The job's state does not allow it"
    code = "job.state"


class NoCheckpoint(JobsError):
    "Nothing whole to resume from"
    code = "job.no_checkpoint"


class QueueFull(JobsError):
    "Too many jobs wait already"
    code = "job.queue_full"


class KeyReused(JobsError):
    "An idempotency key came back with another request"
    code = "idempotency.reused"


class AlreadyServed(JobsError):
    "Another server holds the data directory"
    code = "data_dir.served"


class NetworkFolder(JobsError):
    "SQLite's write-ahead log needs a local disk"
    code = "data_dir.network"


class LedgerLost(JobsError):
    "There are jobs in the data directory, and no ledger that could say what they are"
    code = "ledger.lost"


class NoData(JobsError):
    "What the job trains on was deleted"
    code = "job.no_data"


class LedgerUnavailable(JobsError):
    "The ledger cannot be written now: disk full, or locked"
    code = "ledger.unavailable"
