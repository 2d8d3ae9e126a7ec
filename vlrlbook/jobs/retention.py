"""What is removed, and by which clock: ended jobs that are too old or take too much room.

Written by hand, not exported from a notebook."""
import os
from pathlib import Path

from .folder import DataFolder
from .ledger import Ledger

__all__ = ["ServiceClock", "folder_bytes", "CleanUp"]

block_bytes = 512  # unit of st_blocks, whatever the file system's own blocks are: see stat(2)
seconds_a_day = 86400


class ServiceClock:
    "How long a data directory has been served: the age of things is counted by it, for nobody can set it"

    def __init__(self,
        ledger: Ledger,  # keeps the seconds from one server to the next
        steady,  # function without arguments: seconds of a monotonic clock, which only goes forward
    ):
        "Begin to count, from the seconds that the last server saved"
        self.ledger = ledger
        self.steady = steady
        self.base = ledger.saved_clock() - steady()  # offset: seconds of service are base + steady()

    def now(self) -> float:
        "Seconds for which servers have worked on this data directory, until now"
        return self.base + self.steady()

    def save(self):
        "Save the seconds of service, from which the next server goes on counting"
        self.ledger.save_clock(self.now())

    def end_columns(self) -> dict:
        "The ledger's columns for a job that ends now: the time for people, seconds of service for its age"
        return dict(ended_at=self.ledger.now(), ended_clock=self.now())


def folder_bytes(
    folder: str | os.PathLike,  # any folder
) -> int:  # bytes
    "How much room a folder takes on the disk; a file with several hard links counts once"
    bytes_of = {}  # inode → bytes: the files of a job's result/ are hard links to those of its run/
    for path in Path(folder).rglob("*"):
        status = path.lstat()  # of a symbolic link itself: its target may lie outside
        bytes_of[status.st_ino] = status.st_blocks * block_bytes
    return sum(bytes_of.values())


class CleanUp:
    "Removes ended jobs by age and by size"

    def __init__(self,
        ledger: Ledger,  # SQLite file with the state of each job
        data: DataFolder,  # names all files of the data directory
        clock: ServiceClock,  # seconds for which the data directory has been served
        remove,  # function of a job's id that removes the job and says whether it was still there
    ):
        "Prepare clean-ups of a data directory; nothing is removed before `clean_up` is called"
        self.ledger = ledger
        self.data = data
        self.clock = clock
        self.remove = remove
        self.last_clean_up = 0.0  # when it was, in seconds of service

    def clean_up(self,
        days: float | None,  # of service since a job ended, from which on it is too old; None: no job is
        keep_bytes: int | None,  # disk space that ended jobs may take together; None: any
    ) -> list:  # ids of the removed jobs
        """Remove ended jobs that are too old, then those that ended first until the rest fits `keep_bytes`.

        Age is counted in seconds of service, while a server runs: a week switched off makes no job older."""
        self.last_clean_up = self.clock.now()  # seconds of service
        self.clock.save()  # the next server goes on from here, even if this one is killed
        too_old, others = self._by_age(self.last_clean_up, days)
        over_limit = self._over_limit(others, keep_bytes) if keep_bytes is not None else []
        # `remove` returns False for a job that its owner has removed or resumed meanwhile.
        return [job_id for job_id in too_old + over_limit if self.remove(job_id)]

    def _by_age(self,
        now,  # seconds of service: those in which a server worked on the data directory
        days,  # of service since a job ended, from which on it is too old; None: no job is
    ):
        """Two lists of ids of ended jobs: those that are too old, and the others.

        In each list the job that ended first stands in front."""
        too_old, others = [], []
        for row in self.ledger.ended():  # the one that ended first comes first
            is_old = days is not None and now - row["ended_clock"] >= seconds_a_day * days
            if is_old:
                too_old.append(row["job_id"])
            else:
                others.append(row["job_id"])
        return too_old, others

    def _over_limit(self,
        job_ids,  # of ended jobs, the one that ended first in front
        keep_bytes,  # room that these jobs may take together
    ):
        "The first jobs of `job_ids`: those that must go so that the others fit into `keep_bytes`"
        sizes = [folder_bytes(self.data.job(job_id)) for job_id in job_ids]
        remaining_bytes = sum(sizes)
        removed_ids = []
        for job_id, size in zip(job_ids, sizes):
            if remaining_bytes <= keep_bytes:
                break
            removed_ids.append(job_id)
            remaining_bytes -= size
        return removed_ids
