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
    "Make result/ from the run's files and its notebook, with a manifest: the last act of a trainer"
    folder = JobFolder(folder)
    # Removes the hidden folder of a trainer that was killed while it did this. A job has one trainer at a
    # time, so nobody else is writing there now.
    remove_leftovers(folder.result)
    # `aside` is a hidden folder. When the block ends without an error, `new_folder` writes the manifest into
    # it (each file's size and hash) and renames it to result/. existing="any": a damaged result of an earlier
    # attempt is replaced.
    with new_folder(folder.result, existing="any") as aside:
        for path in (*folder.run.iterdir(), folder.executed_notebook):
            if not path.is_file():
                continue  # checkpoints are folders: they are for going on, not for keeping
            if path.name.startswith("."):
                continue  # a killed writer left it
            if path.name == folder.rollouts.name:
                continue  # it is only of use while the run lasts
            os.link(path, aside / path.name)  # a hard link: the same file under a second name takes no room


def problem_of(
    folder: str | Path,  # that should have been committed, such as a job's result/
) -> str | None:  # the first thing that is wrong; None: the folder is there and undamaged
    "Say what is wrong with a folder that was written with a manifest, or that it was never made"
    return damage(folder) if Path(folder).exists() else "there is none"
