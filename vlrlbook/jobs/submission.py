"""How a job comes in: its folder first, then its row in the ledger. Once `Submission.submit` returns, the job
is on the disk and cannot be lost.

Written by hand, not exported from a notebook."""
import uuid
from contextlib import contextmanager
from pathlib import Path

from ..folders import new_folder, write_json
from .errors import KeyReused, LedgerUnavailable, QueueFull
from .folder import DataFolder, JobFolder
from .job import Job, as_given, clean
from .ledger import Ledger
from .lock_file import give_order, run_order
from .records import JobRecords
from .trainer import train_command

__all__ = ["make_job_folder", "Submission"]

longest_name = 200  # characters of a job's name


def make_job_folder(
    folder: JobFolder,  # where the job is to lie; there must be nothing yet
    aside: Path,  # where the folder is made before it is renamed, on the same disk
    request: dict,  # command, grace, name: read by the supervisor
    parameters: dict,  # read by the trainer
):
    "Make the folder of a new job, whole or not at all; OSError on a full disk, with nothing left behind"
    # existing="none": FileExistsError if the folder is there. manifest=False: the job will add and change
    # files. mode=0o700: only the owner may read what a job is given and what it prints.
    with new_folder(folder.path, existing="none", manifest=False, mode=0o700, aside=aside) as path:
        unfinished = JobFolder(path)  # `path` is `aside`, until the block ends
        write_json(unfinished.request, request)
        write_json(unfinished.parameters, parameters)
        # This order reserves space: later ones, such as `cancel`, overwrite it even when the disk is full. No
        # attempt has the number 0, so nobody obeys it.
        give_order(unfinished.lock, run_order, attempt=0)


class Submission:
    "Writes new jobs down"

    def __init__(self,
        ledger: Ledger,  # SQLite file with the state of each job
        data: DataFolder,  # names all files of the data directory
        records: JobRecords,  # reads jobs from both
    ):
        self.ledger = ledger
        self.data = data
        self.records = records

    def submit(self,
        job_name: str,  # any text
        parameters: dict,  # for the notebook of chapter 05, which trains with GRPO, or for `command`
        command: list = None,  # words to run in the job's folder; None: that GRPO run
        key: str = None,  # Idempotency-Key: the same request again gives the same job
        request_hash: str = None,  # of the request: two with one key must be equal in it
        grace: float = 10.0,  # seconds between SIGTERM and SIGKILL when it is cancelled
        max_queued: int = 200,  # jobs that may wait; one more is refused
        total_steps: int = None,  # that the run will take, if it is known; None: max_steps, if that is set
    ) -> Job:  # the new one, queued; or the earlier job that came with the same key
        """Make a job's folder and add its row to the ledger; from then on it cannot be lost.

        Raises KeyReused, QueueFull or LedgerUnavailable, and then leaves nothing behind."""
        earlier_job = self.known(key, request_hash)
        if earlier_job:
            return earlier_job

        job_id = str(uuid.uuid4())  # the form that clients of the counting system know
        # clean: a copy that JSON and a terminal can take; a name is cut at 200 characters
        name = clean(job_name, longest_name)
        # Not `clean`: the trainer reads these, and a system prompt may hold any character.
        parameters = as_given(parameters)
        request = dict(command=command or train_command(), grace=grace, name=name)
        # The folder comes first, so that even after a crash no row is without its files.
        with self._folder_kept_with_row(job_id):
            make_job_folder(self.data.job(job_id), self.data.unfinished_job(job_id), request, parameters)
            # Not None if another job with the same key was added meanwhile.
            earlier_job = self._write_row(
                job_id, name, parameters, key, request_hash, max_queued, total_steps)
        return earlier_job or self.records.get(job_id)

    @contextmanager
    def _folder_kept_with_row(self, job_id):
        """A context: when its block ends, remove the job's folder unless the ledger has a row of the job.

        There is no row if the queue was full, or if another job with the same Idempotency-Key was added
        meanwhile. An OSError in the block, such as a full disk, is raised as LedgerUnavailable."""
        folder = self.data.job(job_id)
        try:
            yield
        except OSError as e:
            raise LedgerUnavailable(f"the job's folder cannot be written: {e.strerror}") from e
        finally:
            if folder.path.exists() and self.ledger.job(job_id) is None:
                self.data.discard(folder)

    def known(self,
        key: str | None,  # Idempotency-Key; None: the request has none
        request_hash: str | None,  # of the request that came with it now
    ) -> Job | None:  # None: no job was submitted with that key
        "The job that was submitted with this key before; raises KeyReused if its request was different"
        row = self.ledger.job_by_key(key) if key is not None else None
        if row is None:
            return None
        if row["request_hash"] != request_hash:
            raise KeyReused("this Idempotency-Key came with another request before")
        return self.records.shown(row)

    def _write_row(self,
        job_id,  # of the new job, whose folder is made already
        name,  # as its owner calls it
        parameters,  # dict for the run
        key,  # Idempotency-Key: the same request again gives the same job; None: there is none
        request_hash,  # of the request: two with one key must be equal in it
        max_queued,  # jobs that may wait; one more raises QueueFull
        total_steps,  # that the run will take; None: max_steps of `parameters`, if that is set
    ):
        """Add a new job's row to the ledger, and return None.

        If a job with the same key was added meanwhile, return that job instead, and add no row."""
        max_steps = parameters.get("max_steps")  # -1: the run takes a number of epochs
        if total_steps is None and isinstance(max_steps, int) and max_steps > 0:
            total_steps = max_steps
        with self.ledger.write() as db:
            # Checked again inside the transaction, since two equal requests may come at the same moment.
            earlier_job = self.known(key, request_hash)
            if earlier_job:
                return earlier_job
            if self.ledger.waiting() >= max_queued:
                raise QueueFull(f"{max_queued} jobs wait already")
            self.ledger.add_job(db, job_id, name, parameters, total_steps, key, request_hash)
        return None
