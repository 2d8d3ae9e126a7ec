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
    "Make result/ from the run's files and its notebook, with a manifest; a trainer does this at its end"
    folder = JobFolder(folder)
    remove_leftovers(folder.result)  # the hidden folder of a trainer that was killed while it did this
    # `aside` is a hidden folder. At the end of the block it gets a manifest (each file's size and hash) and
    # is renamed to result/. existing="any": a damaged result of an earlier attempt is replaced.
    with new_folder(folder.result, existing="any") as aside:
        for path in (*folder.run.iterdir(), folder.executed_notebook):
            if _is_part_of_result(path, folder):
                os.link(path, aside / path.name)  # a hard link needs no space for a copy


def _is_part_of_result(
    path,  # of a file or a folder: something in the job's run/, or its executed notebook
    folder,  # JobFolder of the job
):
    "Tell whether something that a job made is a file that its result keeps"
    if not path.is_file():
        return False  # checkpoints, which are folders, are not kept
    if path.name.startswith("."):
        return False  # a temporary file of a killed process
    return path.name != folder.rollouts.name  # only needed while the run lasts


def problem_of(
    folder: str | Path,  # that should have been committed, such as a job's result/
) -> str | None:  # the first thing that is wrong; None: the folder is there and undamaged
    "Say what is wrong with a folder that was written with a manifest, or that it was never made"
    return damage(folder) if Path(folder).exists() else "there is none"
