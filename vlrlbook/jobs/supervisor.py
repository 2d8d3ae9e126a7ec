"""The process that watches over one attempt of a job: `python -m vlrlbook.jobs supervise`.

It starts the trainer, copies what it prints into job.log, passes orders on, sees every process of the job
dead and writes how it ended. It never opens the ledger, so nothing that happens to the ledger can happen to a
run; and it lives on when the server dies. Written by hand, not exported from a notebook."""
import json
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .folder import JobFolder
from .job import clean
from .job_log import Log
from .lock_file import cancel_order, give_order, interrupt_order, read_order, run_order, take_lock
from .outcome import Outcome, outcome_content, verdict
from .processes import (adopt_orphans, die_with_parent, job_tag, kill_until_gone, memory_kills, prctl,
                        signal_all, tree)
from .result import problem_of

__all__ = ["supervise"]

# Where the lock is not handed over, it must be waited for: who asks whether it is held takes it for a moment.
lock_patience = 1.0  # seconds
# Characters of each text in an outcome. A character has four bytes at most, and all texts together must fit
# into Outcome.size bytes.
longest_text = 400

stop_variable = "VLRLBOOK_STOP"  # tells the trainer where its orders stand: the job's lock file
attempt_variable = "VLRLBOOK_ATTEMPT"  # tells the trainer which attempt it is

seconds_between_orders = 0.03  # how long a quiet trainer's pipe is waited for before orders are looked at
pipe_bytes = 65536  # read at once
reads_between_orders = 64  # of a trainer that prints without a pause: 4 MB
seconds_at_end_of_pipe = 0.01  # pause after each read of a pipe that the trainer has closed


def supervise(
    folder: str | Path,  # of the job
    attempt: int,  # number of the attempt to run, from 1
    devices: str = "",  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
    lock: int = None,  # descriptor of the job's lock, held already; None takes it
):
    "Run one attempt of a job to its end, under the job's lock, and write how it ended into outcome.json"
    folder = JobFolder(Path(folder).resolve())
    if lock is None:
        lock = take_lock(folder.lock, patience=lock_patience)
    if lock is None:
        return  # another supervisor has the job

    _, ordered_attempt = read_order(lock)  # (order, attempt that it is for)
    if ordered_attempt != attempt:
        return  # a cluster started this supervisor late: the dispatcher is at another attempt by now

    # A trainer that outlives this process must not hold the lock, or the job would count as alive.
    os.set_inheritable(lock, False)
    # Processes whose parent ends become children of this one, so that `tree` finds them.
    prctl(adopt_orphans, 1)

    outcome = Outcome(folder)  # reserves the bytes of outcome.json, which a full disk would refuse later
    with sigterm_interrupts(folder, attempt, lock):
        content = run_attempt(folder, attempt, devices, lock)  # state, error_code, error_message
    # Before this process ends, which releases the lock: a free lock without an outcome means that the
    # supervisor was killed.
    outcome.write(dict(attempt=attempt, **clean(content, longest_text)))


@contextmanager
def sigterm_interrupts(
    folder: JobFolder,  # of the job
    attempt: int,  # its number, from 1
    lock: int,  # descriptor of the job's lock file, in which orders stand
):
    """A context in which SIGTERM to this process means: save a checkpoint and leave, to go on later.

    A machine that shuts down sends it to every process, as systemd and Slurm do before they kill a job. A
    supervisor that died of it would take the trainer with it, and count as one that crashed."""
    def order_to_interrupt(_number, _frame):  # Python calls it with the signal's number and a stack frame
        "Write the order to save and stop into the lock file, where this process and the trainer read it"
        newest_order, _ordered_attempt = read_order(lock)
        if newest_order == run_order:  # an order to cancel stays
            give_order(folder.lock, interrupt_order, attempt)

    # Elsewhere than in its main thread Python sets no handler: a program that calls `supervise` itself.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier_handler = signal.signal(signal.SIGTERM, order_to_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)


def run_attempt(
    folder: JobFolder,  # of the job
    attempt: int,  # its number, from 1
    devices: str,  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
    lock: int,  # descriptor of the job's lock file, in which orders stand
) -> dict:  # state, error_code, error_message
    "Start the trainer of a job, watch it until it ends, and judge how it ended"
    log = Log(folder.log)
    memory_kills_before = memory_kills()  # processes that the kernel has killed for want of memory
    outcome = _outcome_without_start(folder, lock)  # of an earlier result or an order to stop; else None
    if outcome:
        return outcome
    try:
        command, grace = _requested_command(folder.request)
    except ValueError as e:
        return outcome_content("failed", "trainer.start", str(e))
    try:
        trainer = start_trainer(command, folder, attempt, devices)
    except OSError as e:
        return outcome_content("failed", "trainer.start", str(e))
    # The order that stopped it (None: it ended by itself), and whether it was killed since it did not obey.
    order, was_killed = watch(trainer, log, lock, grace)

    # All processes of the job are dead now, so none can change the result after this check.
    result_problem = problem_of(folder.result)  # None: it is there and undamaged
    if order and result_problem:
        # With an undamaged result the job is completed, in spite of the order.
        return stopped_by(order, grace if was_killed else None)
    last_words = log.tail.decode("utf-8", "replace")
    killed_for_memory = memory_kills() > memory_kills_before
    return verdict(trainer.returncode, last_words, result_problem, killed_for_memory)


def _outcome_without_start(
    folder,  # JobFolder of the job
    lock,  # descriptor of the job's lock file, in which orders stand
):  # dict of state, error_code, error_message; or None
    "The outcome of an attempt whose trainer need not be started; None if it must be started"
    # An earlier attempt may have written its result before it was killed.
    if problem_of(folder.result) is None:  # the result is there and undamaged
        return outcome_content("completed")
    # The job may have been cancelled or interrupted before this process began.
    order, _ = read_order(lock)  # (order, attempt that it is for): "run", "cancel" or "interrupt"
    return stopped_by(order) if order != run_order else None


def _requested_command(path):
    "Read job.json: the trainer's command (a list of words) and the grace in seconds; ValueError if damaged"
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
        return request["command"], request["grace"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path.name} is damaged: {type(e).__name__}") from e


def stopped_by(
    order: str,  # cancel_order or interrupt_order
    killed_after: float = None,  # seconds from the order to SIGKILL; None: it ended before that
) -> dict:  # state, error_code, error_message; `note` where it was to save and could not
    "The outcome of an attempt that an order has stopped"
    if order == cancel_order:
        return outcome_content("cancelled")
    content = outcome_content("interrupted")
    if killed_after is not None:
        content["note"] = f"killed {killed_after:g} s after the order to stop, before it had saved and ended"
    return content


def start_trainer(
    command: list,  # words of a command line
    folder: JobFolder,  # of the job: the trainer's working directory
    attempt: int,  # its number, from 1
    devices: str,  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
) -> subprocess.Popen:  # its output in a pipe
    "Start the trainer of a job, with marks in its environment; OSError if there is no such program"
    return subprocess.Popen(
        command, cwd=folder.path, env=_environment_of_trainer(folder, attempt, devices),
        # A process group of its own, so that a signal to the supervisor's group, such as Ctrl-C, does not
        # reach the trainer.
        process_group=0,
        # Called in the child before the program starts: the kernel kills the trainer if this process dies.
        preexec_fn=partial(die_with, os.getpid()),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _environment_of_trainer(
    folder,  # JobFolder of the job
    attempt,  # its number, from 1
    devices,  # for CUDA_VISIBLE_DEVICES; "" leaves it alone
):
    "The environment variables of a job's trainer, as a dict: those of this process and some more"
    # A variable by which all processes of the job are found later, since they inherit it.
    name, value = job_tag(folder).split("=", 1)
    environment = os.environ | {
        name: value,
        stop_variable: str(folder.lock),  # where the trainer reads its orders
        attempt_variable: str(attempt),
        # Where no locale is set, Python would refuse to print a question in Chinese.
        "PYTHONUTF8": "1"}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return environment


def die_with(
    supervisor: int,  # process id of the parent
):
    "Let the kernel kill this process, a child that becomes the trainer, when its supervisor dies"
    prctl(die_with_parent, signal.SIGKILL)
    # If the supervisor died between the fork and the line above, no signal will come: the parent is another.
    if os.getppid() != supervisor:
        os._exit(1)


def watch(
    trainer: subprocess.Popen,  # its output in a pipe
    log: Log,  # gets what it prints
    lock: int,  # descriptor of the job's lock, where orders stand
    grace: float,  # seconds between an order to stop and SIGKILL
) -> tuple:  # the order that ended it (None: it ended by itself); whether it had to be killed
    "Copy what a trainer prints and pass orders on, until it and all its descendants are dead"
    descendants = partial(tree, os.getpid())  # function: ids of all processes below this one
    pipe = trainer.stdout.fileno()  # type: ignore[union-attr]  # started with a pipe
    # Not blocking, since the pipe may never end: a grandchild can hold it open after the trainer has ended.
    os.set_blocking(pipe, False)

    order, deadline = None, None  # the first order to stop, and when all processes are killed that ignore it
    was_killed = False
    while trainer.poll() is None:
        _copy_what_comes(pipe, log)  # waits up to `seconds_between_orders`
        newest_order, _ = read_order(lock)  # (order, attempt that it is for)
        if order is None and newest_order != run_order:
            order = newest_order
            deadline = time.monotonic() + grace
            # No signal for `interrupt`: the trainer reads that order itself, saves a checkpoint and ends.
            if order == cancel_order:
                signal_all(descendants(), signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            was_killed = True
            signal_all(descendants(), signal.SIGKILL)

    # The trainer's descendants are children of this process now (`adopt_orphans`). None may keep the GPU.
    kill_until_gone(descendants)
    copy_output(pipe, log)
    if order is None:
        # Where the machine shuts down, SIGTERM may have ended the trainer before its order was read here.
        newest_order, _ = read_order(lock)
        order = newest_order if newest_order != run_order else None
    return order, was_killed


def _copy_what_comes(
    pipe,  # descriptor of the trainer's output, not blocking
    log,  # `Log` of the job
):
    "Wait a moment for a trainer's output, and copy what has come into the job's log"
    # A moment only, since the caller looks for orders in between.
    readable, _, _ = select.select([pipe], [], [], seconds_between_orders)
    if readable:
        copy_output(pipe, log)  # pauses at the end of the pipe, so that the caller's loop does not spin there


def copy_output(
    pipe: int,  # descriptor, not blocking
    log: Log,  # gets what lies in the pipe
):
    "Copy what lies in a trainer's pipe into its log, at most 4 MB at once"
    # At most so much, or a trainer that never pauses would keep its supervisor from reading orders.
    for _ in range(reads_between_orders):
        try:
            data = os.read(pipe, pipe_bytes)
        except BlockingIOError:
            return
        if not data:
            # The trainer has closed its output and lives on. The caller's `select` returns at once from now
            # on; without this pause its loop would take a whole core.
            time.sleep(seconds_at_end_of_pipe)
            return
        log.write(data)
