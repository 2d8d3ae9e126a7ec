"""`python -m vlrlbook.jobs`: the two programs that the dispatcher and the supervisor start.

`main` has a file of its own because Python warns when `__main__.py` was imported before it is run. Written by
hand, not exported from a notebook."""
import sys

from .supervisor import supervise
from .trainer import train

__all__ = ["main"]


def main(
    words: list,  # supervise FOLDER ATTEMPT DEVICES [LOCK], or train
):
    "Run a supervisor or a trainer, as the words of the command line say; SystemExit with the usage else"
    if words == ["train"]:
        train()  # in the current folder: the supervisor starts it in the job's
    elif words[:1] == ["supervise"] and len(words) in (4, 5):
        folder, attempt, devices = words[1:4]
        # The descriptor of the job's lock; without it the supervisor takes the lock itself.
        lock = int(words[4]) if len(words) == 5 else None
        supervise(folder, int(attempt), devices, lock)
    else:
        sys.exit("vlrlbook.jobs: supervise FOLDER ATTEMPT DEVICES [LOCK], or train")
