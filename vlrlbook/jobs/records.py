"""What can be asked about jobs. Questions change nothing, so anybody may ask at any time.

Written by hand, not exported from a notebook."""
import json
from dataclasses import fields

from .errors import UnknownJob
from .folder import DataFolder, JobFolder
from .job import Job, clean, states
from .ledger import Ledger

__all__ = ["JobRecords"]

longest_id = 64  # characters of an unknown job's id that are repeated in an error message
# Columns of the ledger that `Job` shows as they are. The other two are made from the row.
shown_columns = [f.name for f in fields(Job) if f.name not in ("output_dir", "parameters")]


class JobRecords:
    "The jobs of a data directory as their owners see them"

    def __init__(self,
        ledger: Ledger,  # SQLite file with the state of each job
        data: DataFolder,  # names all files of the data directory
    ):
        self.ledger = ledger
        self.data = data

    def row(self,
        job_id: str,  # any text: it may come from a client
    ):  # sqlite3.Row
        "The ledger's row of a job; raises UnknownJob"
        # The id is repeated in the error message: without control characters, and cut.
        cleaned = clean(str(job_id), longest_id)
        row = self.ledger.job(cleaned)
        if row is None:
            raise UnknownJob(f"there is no job {cleaned!r}")
        return row

    def get(self,
        job_id: str,  # which job
    ) -> Job:  # as the ledger has it now
        "One job; raises UnknownJob"
        return self.shown(self.row(job_id))

    def events(self,
        job_id: str,  # which job
    ) -> list:  # of dicts: time, attempt, from, to, why
        "Every move of a job; raises UnknownJob"
        self.row(job_id)
        return [self._shown_move(row) for row in self.ledger.history(job_id)]

    def _shown_move(self,
        row,  # of the ledger's table `moves`, which has one for each change of a job's state
    ):
        "Make the dict that people are shown of one change of a job's state"
        return {
            "time": row["time"],
            "attempt": row["attempt"],
            "from": row["before"],  # `from` and `to` are words of SQL, so the columns have other names
            "to": row["after"],
            "why": row["why"]}

    def folder(self,
        job_id: str,  # any text: it may come from a client
    ) -> JobFolder:
        "The folder of a job; raises UnknownJob"
        # The id of the row, never the text that was asked for: a path is made of it.
        return self.data.job(self.row(job_id)["job_id"])

    def shown(self,
        row,  # sqlite3.Row of the ledger
    ) -> Job:
        "Make the `Job` that is shown to people from a row of the ledger"
        # Relative: where the server keeps its data is nobody's business.
        run = self.data.job(row["job_id"]).run.relative_to(self.data.path)
        columns = {name: row[name] for name in shown_columns}  # all fields of `Job` but the two below
        return Job(**columns, output_dir=run.as_posix(), parameters=json.loads(row["parameters"]))

    # Last: below it `list` in an annotation of this class would mean this method.
    def list(self,
        status: str = None,  # only jobs in this state; None: all
        limit: int = 50,  # at most so many
        after: str = None,  # the `next` of the page before; None: the first page
    ) -> tuple:  # jobs, next; next is None on the last page
        "One page of jobs, newest first; ValueError if there is no such state"
        if status is not None and status not in states:
            from ..settings import nearest  # only for the error message
            raise ValueError(f"status = {status!r}{nearest(status, [*states])}")
        # A page begins after a row's number, not after a count of rows, which every new job would shift.
        before = int(after) if after is not None else None
        rows = self.ledger.page(status, before, limit + 1)  # one more tells whether there is a next page
        jobs = [self.shown(row) for row in rows[:limit]]  # `shown` makes a `Job` of a row
        has_next_page = len(rows) > limit
        next_page = str(rows[limit - 1]["number"]) if has_next_page else None
        return jobs, next_page
