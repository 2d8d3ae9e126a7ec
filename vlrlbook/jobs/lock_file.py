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
    "Take an exclusive `flock`, which the system itself lets go of when its holder dies"
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
        time.sleep(seconds_between_tries)


def is_held(
    path: str | Path,  # a lock file
) -> bool:  # somebody lives who holds it
    "Whether the lock of a file is taken; False also if there is no such file, or something else in its place"
    # Never made here: a lock file that is missing in a folder is nobody's, and to ask must not change a thing.
    if not os.path.isfile(path):
        return False
    # The only way to ask is to take it. For that moment the lock is held by who asks, so whoever takes a lock
    # for good has some patience.
    try:
        descriptor = take_lock(path)
    except FileNotFoundError:
        return False
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def give_order(
    path: str | Path,  # a job's lock file; made if it is not there
    word: str,  # run_order, cancel_order or interrupt_order
    attempt: int,  # to which attempt it speaks: an order to attempt 1 must not stop attempt 2
):
    "Overwrite the order to the holder of a job's lock"
    # In place and always of one size: bytes that are there already can be written on a full disk too. A new
    # file and a rename would need room, and would leave the lock on the old file.
    text = f"{word} {attempt}".ljust(order_bytes)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, text.encode(), 0)
    finally:
        os.close(descriptor)


def read_order(
    descriptor: int,  # of a job's lock file
) -> tuple:  # word, attempt
    "The order that stands in a job's lock file now; (run_order, None) where somebody has damaged it"
    # A run is worth more than its lock file: what cannot be read is no order to stop.
    found = re.match(rb"(\w+) (\d+)\s*$", os.pread(descriptor, order_bytes, 0))
    return (found[1].decode(), int(found[2])) if found else (run_order, None)


def order_of_lock_file(
    path: str | Path,  # a job's lock file
) -> tuple:  # word, attempt; (run_order, None) if there is no order in it, or no such file
    "The order that stands in a lock file which this process does not hold"
    if not os.path.isfile(path):
        return run_order, None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_order(descriptor)
    finally:
        os.close(descriptor)
