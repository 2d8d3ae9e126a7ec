"""What a job runs: a chapter of the book by papermill, `python -m vlrlbook.jobs train`.

Written by hand, not exported from a notebook."""
import json
import sys
from pathlib import Path

from .folder import JobFolder
from .processes import own_python
from .progress import newest_checkpoint
from .result import commit_result, problem_of

__all__ = ["train_command", "train"]


def train_command() -> list:  # of words
    "The command line of a trainer that runs chapter 05, which a job runs if no other command is given"
    return [*own_python(), "-m", "vlrlbook.jobs", "train"]


def train(
    folder: str | Path = ".",  # of the job
    chapter: str = "05_grpo.ipynb",  # which notebook
):
    "Run a chapter with the job's parameters, from its newest undamaged checkpoint, and make its result/"
    folder = JobFolder(Path(folder).resolve())
    if problem_of(folder.result) is None:
        return  # an earlier attempt was killed after it had committed its result: a second run does nothing
    # Imported here, since the supervisor imports this file too and must start quickly.
    import papermill

    from ..core import book_file

    try:
        papermill.execute_notebook(
            book_file(chapter), folder.executed_notebook, _chapter_parameters(folder), cwd=folder.path,
            progress_bar=False,
            # What the cells print goes to this process's output, which the supervisor copies into job.log.
            log_output=True, stdout_file=sys.stdout, stderr_file=sys.stderr)
    except papermill.PapermillExecutionError as e:
        # One line instead of papermill's traceback: the last line of the log becomes the job's error message.
        sys.exit(f"{e.ename}: {e.evalue}")
    commit_result(folder)  # makes result/ from the run's files, as a whole or not at all


def _chapter_parameters(
    folder,  # JobFolder of the job
):
    "The parameters of a job's chapter: those that its owner submitted, but for output_dir and resume"
    parameters = json.loads(folder.parameters.read_text())
    # The chapter runs in the job's folder, so output_dir is relative to it.
    parameters["output_dir"] = folder.run.name
    parameters["resume"] = "true" if newest_checkpoint(folder.run) else ""  # "": from the start
    return parameters
