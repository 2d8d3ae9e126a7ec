"""The process that watches over one attempt of a job: `python -m vlrlbook.jobs supervise`.

It starts the trainer, copies what it prints into job.log, passes orders on, sees every process of the job
dead and writes how it ended. It never opens the ledger, so nothing that happens to the ledger can happen to a
run; and it lives on when the server dies. Written by hand, not exported from a notebook."""
import json
import os
import select
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from .folder import JobFolder
from .job import clean
from .job_log import Log
from .lock_file import cancel_order, read_order, run_order, take_lock
from .outcome import Outcome, outcome_content, verdict
from .processes import (adopt_orphans, die_with_parent, job_tag, kill_until_gone, memory_kills, prctl,
                        signal_all, tree)
from .result import problem_of

__all__ = ["supervise"]

# Where the lock is not handed over, somebody may be asking just now whether it is held, by taking it.
lock_patience = 1.0  # seconds
# Characters of each text in an outcome: four bytes each at most, and all of it
# must fit into Outcome.size bytes.
longest_text = 400

stop_variable = "VLRLBOOK_STOP"  # tells the trainer where its orders stand: the job's lock file
attempt_variable = "VLRLBOOK_ATTEMPT"  # tells the trainer which attempt it is

seconds_between_orders = 0.03  # how long a quiet trainer's pipe is waited for before orders are looked at
pipe_bytes = 65536  # read at once
reads_between_orders = 64  # of a trainer that prints without a pause: 4 MB
seconds_at_end_of_pipe = 0.01


def supervise(
    folder: str | Path,  # of the job
    attempt: int,  # which this is
    devices: str = "",  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
    lock: int = None,  # descriptor of the job's lock, held already; None takes it
):
    "Run one attempt of a job to its end and write its outcome; exactly one can do so at a time"
    folder = JobFolder(Path(folder).resolve())
    if lock is None:
        lock = take_lock(folder.lock, patience=lock_patience)
    if lock is None:
        return  # another supervisor has the job
    if read_order(lock)[1] != attempt:
        return  # a cluster started this one so late that another attempt is meant by now
    # The trainer must not inherit the lock: it could outlive this process, and the job would count as alive.
    os.set_inheritable(lock, False)
    # Processes whose parent ends become children of this one, so that `tree` finds them.
    prctl(adopt_orphans, 1)
    outcome = Outcome(folder)
    ended = run_attempt(folder, attempt, devices, lock)
    # The lock is let go when this process ends, after the outcome is on the disk: "the lock is free and there
    # is no outcome" means that the supervisor was killed.
    outcome.write(dict(attempt=attempt, **clean(ended, longest_text)))


def run_attempt(
    folder: JobFolder,  # of the job
    attempt: int,  # which this is
    devices: str,  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
    lock: int,  # descriptor of the job's lock
) -> dict:  # state, error_code, error_message
    "Start the trainer, watch it, judge how it ended"
    log = Log(folder.log)
    memory_kills_before = memory_kills()
    if problem_of(folder.result) is None:
        return outcome_content("completed")  # an earlier attempt was killed after it had committed its result
    order = read_order(lock)[0]
    if order != run_order:
        return stopped_by(order)  # the order was quicker than this process
    try:
        request = json.loads(folder.request.read_text(encoding="utf-8"))
        command, grace = request["command"], request["grace"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        return outcome_content("failed", "trainer.start", f"{folder.request.name} is damaged: {type(e).__name__}")
    try:
        trainer = start_trainer(command, folder, attempt, devices)
    except OSError as e:
        return outcome_content("failed", "trainer.start", str(e))
    order = watch(trainer, log, lock, grace)
    # Judged after everybody is dead: a child that still writes could damage what was just found whole.
    problem = problem_of(folder.result)
    if order and problem:
        return stopped_by(order)
    last_words = log.tail.decode("utf-8", "replace")
    return verdict(trainer.returncode, last_words, problem, memory_kills() > memory_kills_before)


def stopped_by(
    order: str,  # cancel_order or interrupt_order
) -> dict:  # state, error_code, error_message
    "The outcome of an attempt that ended because it was told to"
    return outcome_content("cancelled" if order == cancel_order else "interrupted")


def start_trainer(
    command: list,  # words
    folder: JobFolder,  # where it runs
    attempt: int,  # which this is
    devices: str,  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
) -> subprocess.Popen:  # its output in a pipe
    "Start the trainer with the job's mark; OSError if there is no such program"
    name, value = job_tag(folder).split("=", 1)
    environment = os.environ | {
        name: value,
        stop_variable: str(folder.lock),
        attempt_variable: str(attempt),
        # Where no locale is set, Python would refuse to print a question in Chinese.
        "PYTHONUTF8": "1"}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return subprocess.Popen(
        command, cwd=folder, env=environment,
        # A group of its own: a signal to the supervisor's group, such as Ctrl-C, is
        # not meant for the trainer.
        process_group=0,
        preexec_fn=partial(die_with, os.getpid()),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def die_with(
    supervisor: int,  # process id
):
    "Runs in the forked child before the trainer's program: the trainer is to die when its supervisor dies"
    prctl(die_with_parent, signal.SIGKILL)
    # The supervisor may have died between the fork and the line above; then no signal comes any more.
    if os.getppid() != supervisor:
        os._exit(1)


def watch(
    trainer: subprocess.Popen,  # its output in a pipe
    log: Log,  # gets what it prints
    lock: int,  # descriptor of the job's lock, where orders stand
    grace: float,  # seconds between an order and kill -9
) -> str | None:  # the order that ended it; None: it ended by itself
    "Copy what a trainer prints and pass orders on, until it and all its descendants are dead"
    me = os.getpid()
    pipe = trainer.stdout.fileno()  # type: ignore[union-attr]  # started with a pipe
    # A grandchild may hold the pipe open long after the trainer has ended; whoever waits for the pipe's end
    # would wait for the grandchild.
    os.set_blocking(pipe, False)
    order, deadline = None, None
    while trainer.poll() is None:
        readable = select.select([pipe], [], [], seconds_between_orders)[0]
        if readable:
            copy_output(pipe, log)
        if order is None and read_order(lock)[0] != run_order:
            order = read_order(lock)[0]
            deadline = time.monotonic() + grace
            # An interrupted trainer gets no signal: it reads the order itself after
            # its step, and saves first.
            if order == cancel_order:
                signal_all(tree(me), signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            signal_all(tree(me), signal.SIGKILL)
    # The trainer is dead. Its children are ours now (`adopt_orphans`), and none may keep the GPU.
    kill_until_gone(partial(tree, me))
    copy_output(pipe, log)
    return order


def copy_output(
    pipe: int,  # descriptor, not blocking
    log: Log,  # gets what lies in the pipe
):
    "Copy what lies in a trainer's pipe into its log, at most 4 MB at once"
    # A bound, because a trainer that prints without a pause would otherwise keep its supervisor from orders.
    for _ in range(reads_between_orders):
        try:
            data = os.read(pipe, pipe_bytes)
        except BlockingIOError:
            return
        if not data:
            # The trainer has closed its output and lives on. `select` now returns at once, every time.
            time.sleep(seconds_at_end_of_pipe)
            return
        log.write(data)
