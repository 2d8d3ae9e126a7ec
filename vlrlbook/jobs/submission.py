"""How a job comes in: its folder first, then its row in the ledger. Once `Submission.submit` returns, the job
is on the disk and cannot be lost.

Written by hand, not exported from a notebook."""
import uuid
from pathlib import Path

from ..folders import new_folder, write_json
from .errors import KeyReused, LedgerUnavailable, QueueFull
from .folder import DataFolder, JobFolder
from .job import Job, clean
from .ledger import Ledger
from .lock_file import give_order, run_order
from .records import JobRecords
from .trainer import train_command

__all__ = ["make_job_folder", "Submission"]

longest_name = 200  # characters of a job's name


def make_job_folder(
    folder: JobFolder,  # its place, where nothing is yet
    aside: Path,  # where it is made, on the same disk
    request: dict,  # command, grace, name: for the supervisor
    parameters: dict,  # for the trainer
):
    "Make the folder of a new job, whole or not at all; OSError on a full disk, with nothing left behind"
    # 0700: what a job is told and what it prints are its owner's alone.
    with new_folder(folder.path, existing="none", manifest=False, mode=0o700, aside=aside) as path:
        unfinished = JobFolder(path)
        write_json(unfinished.request, request)
        write_json(unfinished.parameters, parameters)
        # The bytes of an order are on the disk from now on, and later orders are written over them.
        give_order(unfinished.lock, run_order, 0)


class Submission:
    "Writes new jobs down"

    def __init__(self,
        ledger: Ledger,  # of the data directory
        data: DataFolder,  # the data directory
        records: JobRecords,  # of both
    ):
        self.ledger = ledger
        self.data = data
        self.records = records

    def submit(self,
        job_name: str,  # any text
        parameters: dict,  # of chapter 05, or of `command`
        command: list = None,  # words to run in the job's folder; None: chapter 05
        key: str = None,  # Idempotency-Key: the same request again gives the same job
        request_hash: str = None,  # what "the same" means
        grace: float = 10.0,  # seconds between SIGTERM and SIGKILL when it is cancelled
        max_queued: int = 200,  # so many may wait
        total_steps: int = None,  # that the run will take, if it is known; None: max_steps, if that is set
    ) -> Job:  # queued, or as far as the job with the same key is
        "Write a job down; raises KeyReused, QueueFull or LedgerUnavailable, and then leaves nothing"
        known = self.known(key, request_hash)
        if known:
            return known
        job_id = str(uuid.uuid4())  # the form that the counting system's own replies show
        name = clean(job_name, longest_name)
        parameters = clean(parameters)
        folder = self.data.job(job_id)
        request = dict(command=command or train_command(), grace=grace, name=name)
        # A kill between the folder and the row leaves a folder that no row knows; the next start names it.
        # In the other order a row would promise a job that has no files.
        try:
            make_job_folder(folder, self.data.unfinished_job(job_id), request, parameters)
            known = self._write_row(job_id, name, parameters, key, request_hash, max_queued, total_steps)
        except OSError as e:
            raise LedgerUnavailable(f"the job's folder cannot be written: {e.strerror}") from e
        finally:
            if folder.path.exists() and self.ledger.job(job_id) is None:
                self.data.discard(folder)
        return known or self.records.get(job_id)

    def known(self,
        key: str | None,  # Idempotency-Key
        request_hash: str | None,  # of the request that came with it now
    ) -> Job | None:  # None: no job came with that key
        "The job that came with the same key; raises KeyReused if that was another request"
        row = self.ledger.job_by_key(key) if key is not None else None
        if row is None:
            return None
        if row["request_hash"] != request_hash:
            raise KeyReused("this Idempotency-Key came with another request before")
        return self.records.shown(row)

    def _write_row(self, job_id, name, parameters, key, request_hash, max_queued, total_steps):
        "Add the job's row; returns the job that came with the same key meanwhile, or None"
        steps = parameters.get("max_steps")
        if total_steps is None and isinstance(steps, int) and steps > 0:
            total_steps = steps
        with self.ledger.write() as db:
            # Asked for a second time, now alone: two equal requests may have looked at the same moment.
            known = self.known(key, request_hash)
            if known:
                return known
            if self.ledger.waiting() >= max_queued:
                raise QueueFull(f"{max_queued} jobs wait already")
            self.ledger.add_job(db, job_id, name, parameters, total_steps, key, request_hash)
