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
        steady,  # function without arguments: seconds of a clock that only goes forward
    ):
        self.ledger = ledger
        self.steady = steady
        # A steady clock begins anywhere: what counts is how far it has gone since this moment.
        self.base = ledger.saved_clock() - steady()

    def now(self) -> float:
        "Seconds of service"
        return self.base + self.steady()

    def save(self):
        "Have the next server go on counting from here"
        self.ledger.save_clock(self.now())

    def end_columns(self) -> dict:
        "The ledger's columns for the moment at which a job ends: the shown time, and the one that decides"
        return dict(ended_at=self.ledger.now(), ended_clock=self.now())


def folder_bytes(
    folder: str | os.PathLike,  # any folder
) -> int:  # on the disk
    "What a folder takes; a file with several names counts once"
    bytes_of = {}  # inode → bytes: files of a result are second names of the run's
    for path in Path(folder).rglob("*"):
        found = path.lstat()  # of a link itself: what it points to may lie outside
        bytes_of[found.st_ino] = found.st_blocks * block_bytes
    return sum(bytes_of.values())


class CleanUp:
    "Removes ended jobs by age and by size"

    def __init__(self,
        ledger: Ledger,  # of the data directory
        data: DataFolder,  # the data directory
        clock: ServiceClock,  # of the data directory
        remove,  # function of a job's id that removes the job and says whether it was still there
    ):
        self.ledger = ledger
        self.data = data
        self.clock = clock
        self.remove = remove
        self.last = 0.0  # seconds of service at the latest clean-up

    def clean_up(self,
        days: float | None,  # of service since a job ended; None: no job is too old
        keep_bytes: int | None,  # room that ended jobs may take; None: any
    ) -> list:  # ids of the removed
        "Remove ended jobs that are too old, then the longest ended ones until the rest fits"
        now = self.clock.now()  # once, so that one clean-up judges all jobs by one time
        self.last = now
        self.clock.save()
        too_old, others = [], []
        for row in self.ledger.ended():  # the longest ended first, as `_too_large` needs them
            is_old = days is not None and now - row["ended_clock"] >= seconds_a_day * days
            if is_old:
                too_old.append(row["job_id"])
            else:
                others.append(row["job_id"])
        too_large = self._too_large(others, keep_bytes) if keep_bytes is not None else []
        return [job_id for job_id in too_old + too_large if self.remove(job_id)]

    def _too_large(self, job_ids, keep_bytes):
        "The first of `job_ids`, as many as must go for the others to fit into `keep_bytes`"
        sizes = [folder_bytes(self.data.job(job_id)) for job_id in job_ids]
        taken = sum(sizes)
        gone = []
        for job_id, size in zip(job_ids, sizes):
            if taken <= keep_bytes:
                break
            gone.append(job_id)
            taken -= size
        return gone
