"""Who belongs to a job, and how all of them are made to end. Linux only.

papermill starts a kernel, the kernel may start processes that load data, and each can outlive the one that
started it. Three promises of Linux hold them together: a child can ask to die with its parent; a process can
ask to become the parent of every orphan below it; and the environment with which a process was started can be
read, so that a mark in it is found on all descendants.

/proc is read by hand here, although psutil is installed with ipykernel. In psutil 7.2.2
`children(recursive=True)` opens each process of the tree after it has listed them all, and leaves out
everything below one that ended in between. "Look until nobody is left" would then stop too early, with a
grandchild alive on the GPU. The list here is made in one pass, and who ended in between hides nobody.

Written by hand, not exported from a notebook."""
import ctypes
import os
import re
import signal
import time
from pathlib import Path

from ..chapters import own_python

__all__ = ["die_with_parent", "adopt_orphans", "prctl", "parents", "tree", "job_tag", "tagged", "signal_all",
           "kill_until_gone", "memory_kills", "own_python"]

# Options of Linux's prctl(2), from linux/prctl.h.
die_with_parent = 1  # PR_SET_PDEATHSIG: this process gets a signal when its parent dies
adopt_orphans = 36  # PR_SET_CHILD_SUBREAPER: orphans below this process become its children

dead_states = "ZX"  # letters in /proc/PID/stat of processes that have ended: zombie, dead
job_variable = "VLRLBOOK_JOB"  # environment variable that marks the processes of a job
seconds_between_looks = 0.005  # a process needs a moment to die of kill -9
looks_at_an_empty_environment = 4  # exec shows it empty for well under a millisecond on a quiet machine


def prctl(
    option: int,  # die_with_parent or adopt_orphans
    value: int,  # for die_with_parent the signal's number, for adopt_orphans 1
):
    "Call Linux's prctl(2), which sets an option of this process; OSError if it fails"
    # By ctypes, since Python's `os` has no such function.
    library = ctypes.CDLL(None, use_errno=True)  # None: the C library that Python itself uses
    failed = library.prctl(option, value, 0, 0, 0)
    if failed:
        raise OSError(ctypes.get_errno(), "prctl")


def parents() -> dict:  # process id → (parent's id, state letter)
    "Every process of the machine, with its parent and the state letter of /proc/PID/stat (Z: a zombie)"
    processes = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Linux cuts a long name after 15 bytes, which may be in the middle of a character.
            line = (entry / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        processes[int(entry.name)] = _parent_and_state(line)
    return processes


def _parent_and_state(line):
    "The parent's id and the state letter in a line of /proc/PID/stat: `17 (my app) S 4 …` → (4, `S`)"
    # A name may hold spaces and brackets, so the line is read from its last ")".
    state, parent = line.rsplit(")", 1)[1].split()[:2]
    return int(parent), state


def tree(
    root: int,  # a process id
) -> list:  # ids of its living descendants
    "List the living descendants of a process: its children, their children, and so on"
    processes = parents()  # id of every process → (parent's id, state letter)
    children = {}  # id of a process → ids of its children
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    living = []
    unvisited = list(children.get(root, []))
    while unvisited:
        pid = unvisited.pop()
        unvisited += children.get(pid, [])  # also of a dead one: it may still be listed as their parent
        _, state = processes[pid]
        if state not in dead_states:
            living.append(pid)
    return living


def job_tag(
    folder: str | os.PathLike,  # of the job
) -> str:  # NAME=value, for the environment of all that the job starts
    "The environment variable by which all processes of a job are found, whoever started them"
    return f"{job_variable}={Path(folder).resolve()}"


def environment_of(
    pid: int,  # a process
) -> bytes:  # NAME=value, each closed by a zero byte; empty for a thread of the kernel
    "The environment that a process was started with; OSError if it has ended or is another user's"
    # An empty one is read again, since during exec the kernel shows it as empty for a moment.
    for _ in range(looks_at_an_empty_environment):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if environment or not has_program(pid):  # a thread of the kernel has neither
            break
        time.sleep(seconds_between_looks)
    return environment


def has_program(
    pid: int,  # a process
) -> bool:
    "Tell whether a process runs a program file; threads of the kernel and dead processes do not"
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


def tagged(
    tag: str,  # NAME=value, such as `job_tag` makes it
) -> list:  # ids of living processes
    "List the living processes that were started with `tag` in their environment, whoever their parent is now"
    # Their parents do not help: the children of a killed supervisor become children of process 1.
    pids = []
    for pid, (_, state) in parents().items():
        try:
            environment = environment_of(pid)  # NAME=value, each closed by a zero byte
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is another user's
        is_marked = tag.encode() in environment.split(b"\0")
        if is_marked and state not in dead_states:
            pids.append(pid)
    return pids


def signal_all(
    pids: list,  # process ids
    number: int,  # signal
):
    "Send a signal to each process that still lives"
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended in the meantime, as was wanted


def kill_until_gone(
    find,  # function without arguments that returns a list of process ids
    seconds: float = float("inf"),  # how long to try: a process inside a driver does not die at once
) -> bool:  # True: no such process is left; False: the time is over
    "Send SIGKILL to all processes that `find` lists, again and again until it lists none"
    # The list is made again and again, since a process may fork before its signal comes.
    deadline = time.monotonic() + seconds
    while pids := find():
        if time.monotonic() > deadline:
            return False
        signal_all(pids, signal.SIGKILL)
        time.sleep(seconds_between_looks)
    return True


def memory_kills() -> int:  # since the machine started
    "How many processes of this machine the kernel has killed for want of memory; 0 if it does not tell"
    # Such a process cannot print why it ended. A count that has grown during an attempt tells it.
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0  # gVisor, in which some clouds run containers, has no such file
    lines = re.findall(r"^oom_kill (\d+)", counters, re.M)
    return int(lines[0]) if lines else 0  # Linux counts them since 4.13
