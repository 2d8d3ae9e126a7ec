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

__all__ = ["die_with_parent", "adopt_orphans", "prctl", "parents", "tree", "job_tag", "tagged", "signal_all",
           "kill_until_gone", "memory_kills"]

# Options of Linux's prctl(2), from linux/prctl.h.
die_with_parent = 1  # PR_SET_PDEATHSIG: this process gets a signal when its parent dies
adopt_orphans = 36  # PR_SET_CHILD_SUBREAPER: orphans below this process become its children

dead_states = "ZX"  # letters in /proc/PID/stat of processes that have ended: zombie, dead
job_variable = "VLRLBOOK_JOB"  # environment variable that marks the processes of a job
seconds_between_looks = 0.005  # a process needs a moment to die of kill -9
looks_at_an_empty_environment = 4  # exec shows it empty for well under a millisecond on a quiet machine


def prctl(
    option: int,  # die_with_parent or adopt_orphans
    value: int,  # a signal's number, or 1
):
    "Ask Linux for one of the promises of prctl(2); OSError if it refuses"
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def parents() -> dict:  # process id → (parent's id, state letter)
    "Every process there is now, with its parent; the state letter is that of /proc/PID/stat"
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        # "PID (NAME) STATE PARENT …": a name may hold spaces and brackets, so the line is
        # read from its last ")".
        state, parent = line.rsplit(")", 1)[1].split()[:2]
        found[int(entry.name)] = (int(parent), state)
    return found


def tree(
    root: int,  # a process id
) -> list:  # ids of its living descendants
    "Children of a process, their children, and so on"
    known = parents()
    children = {}
    for pid, (parent, _) in known.items():
        children.setdefault(parent, []).append(pid)
    found = []
    waiting = list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])  # also of a dead one: it may still be listed as their parent
        if known[pid][1] not in dead_states:
            found.append(pid)
    return found


def job_tag(
    folder: str | os.PathLike,  # of the job
) -> str:  # NAME=value, for the environment of all that the job starts
    "The mark that a job's processes carry"
    return f"{job_variable}={Path(folder).resolve()}"


def environment_of(
    pid: int,  # a process
) -> bytes:  # NAME=value, each closed by a zero byte; empty for a thread of the kernel
    "The environment that a process was started with; raises OSError where it ended or is somebody else's"
    # In the moment when a process becomes another program (exec), the kernel shows its environment as empty. A
    # search that took this for the truth would overlook an orphan, so an empty one is read again. Threads of the
    # kernel never have one; they have no program file either.
    for _ in range(looks_at_an_empty_environment):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if environment or not has_program(pid):
            break
        time.sleep(seconds_between_looks)
    return environment


def has_program(
    pid: int,  # a process
) -> bool:
    "Is there a program file behind it? Threads of the kernel and dead processes have none"
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


def tagged(
    tag: str,  # NAME=value
) -> list:  # ids of living processes
    "Processes that were started with `tag` in their environment, whoever their parent is now"
    # When a supervisor is killed, its orphans become children of process 1, among
    # strangers: no tree holds them.
    found = []
    for pid, (_, state) in parents().items():
        try:
            environment = environment_of(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or is somebody else's
        is_marked = tag.encode() in environment.split(b"\0")
        if is_marked and state not in dead_states:
            found.append(pid)
    return found


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
    seconds: float = float("inf"),  # patience: a process inside a driver dies only when the driver returns
) -> bool:  # nobody is left
    "kill -9 everybody whom `find` finds, and look again, until it finds nobody"
    # Once is not enough: between a look and its signals a process may fork, and the child is not on the list.
    deadline = time.monotonic() + seconds
    while pids := find():
        if time.monotonic() > deadline:
            return False
        signal_all(pids, signal.SIGKILL)
        time.sleep(seconds_between_looks)
    return True


def memory_kills() -> int:  # since the machine started
    "How many processes of this machine the kernel has killed for want of memory"
    # A process that is killed so leaves no last words. The count before and after an attempt tells of it.
    counters = Path("/proc/vmstat").read_text()
    return int(re.findall(r"^oom_kill (\d+)", counters, re.M)[0])
