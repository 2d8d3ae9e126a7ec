"""A job's lock file: alive means that its lock is held, and its content is the order to the holder.

The system holds a `flock` for as long as its holder lives and not a moment longer, whatever kills the holder.
A heartbeat can be late, and a process id can belong to somebody else by now. Written by hand, not exported
from a notebook."""
import fcntl
import os
import re
import time
from pathlib import Path

__all__ = ["run_order", "cancel_order", "interrupt_order", "take_lock", "is_held", "give_order", "read_order",
           "order_of_lock_file"]

run_order = "run"  # go on training
cancel_order = "cancel"  # the owner wants the job dead
interrupt_order = "interrupt"  # save a checkpoint and leave: the server stops, and the next one goes on

order_bytes = 32  # room of an order: a word, a space, the number of an attempt
seconds_between_tries = 0.02  # `flock` cannot be told how long to wait: it waits for ever, or not at all


def take_lock(
    path: str | Path,  # a file; made if it is not there
    patience: float = 0.0,  # seconds to wait for it
) -> int | None:  # its descriptor, to be closed by the caller; None: somebody else holds the lock
    "Take an exclusive `flock` on a file; the system releases it when the process that holds it dies"
    # O_CLOEXEC: a program that is started meanwhile must not inherit the lock by accident.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        except OSError:  # the file system has no locks, for example
            os.close(descriptor)
            raise
        time.sleep(seconds_between_tries)


def is_held(
    path: str | Path,  # a lock file
) -> bool:  # a living process holds it
    "Tell whether a process holds the lock of a file; False if the path is no file"
    # `take_lock` below would make a missing file, and a question must not change anything.
    if not os.path.isfile(path):
        return False
    # The only way to ask is to take the lock. For that moment this process holds it, so whoever takes a lock
    # for good must be ready to wait a little.
    try:
        descriptor = take_lock(path)
    except FileNotFoundError:
        return False  # its folder was removed just now
    if descriptor is None:
        return True  # `take_lock` did not get the lock
    os.close(descriptor)
    return False


def give_order(
    path: str | Path,  # a job's lock file; made if it is not there
    word: str,  # run_order, cancel_order or interrupt_order
    attempt: int,  # to which attempt it speaks: an order to attempt 1 must not stop attempt 2
):
    "Write an order, such as `cancel 2`, into a job's lock file, over the one before; the supervisor reads it"
    # Written in place, over the old order: this works on a full disk, too. A new file would need room, and
    # the lock would stay on the old file.
    text = f"{word} {attempt}".ljust(order_bytes)  # always of one size, so that the file does not grow
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, text.encode(), 0)  # at offset 0
    finally:
        os.close(descriptor)


def read_order(
    descriptor: int,  # of a job's lock file
) -> tuple:  # word, and the number of the job's attempt to which it speaks
    "Read the order in an open lock file of a job, such as (`cancel`, 2); (run_order, None) if it is damaged"
    # A damaged order must not stop a run.
    match = re.match(rb"(\w+) (\d+)\s*$", os.pread(descriptor, order_bytes, 0))
    if match is None:
        return run_order, None
    return match[1].decode(), int(match[2])


def order_of_lock_file(
    path: str | Path,  # a job's lock file
) -> tuple:  # word, attempt; (run_order, None) if there is no order in it, or no such file
    """Read the order in a job's lock file by its path; the lock itself is neither needed nor taken

    The word is run_order, cancel_order or interrupt_order. `attempt` is the number of one start of the job:
    the order is for that start alone."""
    if not os.path.isfile(path):
        return run_order, None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_order(descriptor)
    finally:
        os.close(descriptor)
