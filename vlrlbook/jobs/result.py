"""result/: what a job leaves, under one manifest, there whole or not at all.

Written by hand, not exported from a notebook."""
import os
from pathlib import Path

from ..folders import damage, new_folder, remove_leftovers
from .folder import JobFolder

__all__ = ["commit_result", "problem_of"]


def commit_result(
    folder: str | os.PathLike,  # of the job
):
    "Make result/ of the run's files and its notebook, with a manifest: the last act of a trainer"
    folder = JobFolder(folder)
    # A trainer that was killed here left a hidden folder. A job has one trainer at a time,
    # so it is nobody else's.
    remove_leftovers(folder.result)
    # existing="any": a damaged result of an earlier attempt is replaced.
    with new_folder(folder.result, existing="any") as aside:
        for path in (*folder.run.iterdir(), folder.executed_notebook):
            if not path.is_file():
                continue  # checkpoints are folders: they are for going on, not for keeping
            if path.name.startswith("."):
                continue  # a killed writer left it
            if path.name == folder.rollouts.name:
                continue  # it shows a run only while it lasts
            os.link(path, aside / path.name)  # a second name of the same file takes no room


def problem_of(
    folder: str | Path,  # that should have been committed
) -> str | None:  # the first thing that is wrong; None: the folder is there and undamaged
    "What is wrong with a folder that should have been committed, also if it was never made"
    return damage(folder) if Path(folder).exists() else "there is none"
