"""Where everything lies: `JobFolder` names each file of a job, `DataFolder` each file of a data directory.

No other module of this wing spells these names. They are read by running trainers, by the training service
and by people, and by servers that were started before an update: a name that changes here breaks jobs that
are at work. Written by hand, not exported from a notebook."""
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["JobFolder", "DataFolder"]


class JobFolder:
    "The files of one job; can be given wherever a path is expected"

    def __init__(self,
        path: str | os.PathLike,  # the job's folder: jobs/JOB_ID of the data directory
    ):
        self.path = Path(path)
        self.job_id = self.path.name

        # Written once, when the job is submitted.
        self.request = self.path / "job.json"  # command, grace in seconds, name: read by the supervisor
        self.parameters = self.path / "parameters.json"  # of the chapter: read by the trainer
        self.notes = self.path / "notes.json"  # what the training service told the job's owner

        # Held by the supervisor that runs the job. The file's content is an order to it, see lock_file.py.
        self.lock = self.path / "lock"

        # Written by the supervisor.
        self.log = self.path / "job.log"  # what the trainer printed
        self.supervisor_log = self.path / "supervisor.log"  # what the supervisor printed: nothing, usually
        self.outcome = self.path / "outcome.json"  # how the latest attempt ended
        # A file of blanks, written before the trainer starts. It is overwritten at the end and renamed to
        # outcome.json, so that the outcome has room even on a full disk.
        self.outcome_room = self.path / ".outcome"

        # Written by the trainer.
        self.run = self.path / "run"  # its output_dir: checkpoints, adapter, tables
        self.run_log = self.run / "run_log.csv"  # a row for each logged step
        self.rollouts = self.run / "rollouts_now.json"  # newest answers and number of steps, while it runs
        self.executed_notebook = self.path / "out.ipynb"  # the chapter as papermill ran it
        self.result = self.path / "result"  # run's files and the notebook: there whole or not at all
        self.download = self.path / "download.zip"  # the result as the training service sends it

    def __fspath__(self):
        return os.fspath(self.path)

    def __repr__(self):
        return f"JobFolder({os.fspath(self.path)!r})"


class DataFolder:
    "The files of one data directory, which one server at a time works on"

    def __init__(self,
        data_dir: str | Path,  # jobs and uploads; may be on a disk that several machines share
        ledger_dir: str | Path | None = None,  # on a disk of the server itself; None: the data directory
    ):
        self.path = Path(data_dir).resolve()
        self.ledger_dir = Path(ledger_dir or data_dir).resolve()
        self.jobs = self.path / "jobs"  # a folder for each job, named by its id
        self.tmp = self.path / "tmp"  # what is being made or removed; swept when a server starts
        self.server_lock = self.path / "server.lock"  # held by the server that works here
        self.submitit = self.tmp / "submitit"  # scripts and answers of submitit
        self.ledger = self.ledger_dir / "ledger.sqlite3"

    def make(self):
        "Make the folders that are not there yet"
        for folder in (self.jobs, self.tmp, self.ledger_dir):
            folder.mkdir(parents=True, exist_ok=True)

    def job(self,
        job_id: str,  # of a job that the ledger knows: it becomes part of a path
    ) -> JobFolder:
        "The folder of a job, whether it is there or not"
        return JobFolder(self.jobs / job_id)

    def unfinished_job(self,
        job_id: str,  # of a job that is being submitted
    ) -> Path:
        "Where the folder of a new job is made before it is renamed to its place in jobs/"
        # In tmp/: in jobs/ an unfinished folder would be taken for a job. If the server is killed meanwhile,
        # the next start removes it.
        return self.tmp / f"job-{job_id}"

    def half_made(self) -> list:
        "Paths of job folders that were being made or removed when a server died"
        return [path for path in self.tmp.glob("job-*") if path.is_dir()]

    def job_folders(self) -> list:  # of JobFolder, in the order of their names
        "Every folder in jobs/ that holds files of a job, whether the ledger knows the job or not"
        folders = []
        for path in sorted(self.jobs.iterdir()):
            folder = JobFolder(path)
            # One of these is enough: a damaged folder may have lost the others.
            if folder.request.exists() or folder.run.exists() or folder.result.exists():
                folders.append(folder)
        return folders

    def discard(self,
        folder: Path | JobFolder,  # inside the data directory; `os` takes a JobFolder as its path
    ):
        "Remove a folder with all its files; even if the process is killed, no half of it stays in its place"
        # First renamed, which is a single act: in its place the folder is whole or gone. If the process is
        # killed while it removes the files, the next start removes the rest, by the name job-* in tmp/.
        trash = Path(tempfile.mkdtemp(prefix="job-", dir=self.tmp))
        try:
            os.rename(folder, trash / "gone")
        except FileNotFoundError:
            pass  # somebody has removed it by hand already
        shutil.rmtree(trash)
