"""A supervised step of one job and of several at once, by threads each.

    python tools/logs.py threads [ROUNDS]

Jobs that share the cores, with all threads each and with their share, in turns; medians of three ROUNDS
unless said otherwise. Takes four minutes on two cores. Writes nbs/logs/07a_threads.csv."""
import os
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from measure.common import made_by, run_program, write_log


def main(
    rounds: str = "3",  # of all cases
):
    "A row for each number of jobs and of threads"
    cores = len(os.sched_getaffinity(0))
    cases = [(1, cores), (1, 1), (cores, cores), (cores, 1)]  # jobs, threads each
    seconds = {case: [] for case in cases}
    # In turns, so that what else the machine does in these minutes hits all cases.
    for _ in range(int(rounds)):
        for (jobs, threads_each), found in seconds.items():
            found.append(slowest_step(jobs, threads_each))
    rows = []
    for (jobs, threads_each), found in seconds.items():
        row = dict(
            jobs=jobs,
            threads_each=threads_each,
            seconds=round(median(found), 3),
            low=round(min(found), 3),
            high=round(max(found), 3),
            rounds=int(rounds),
        )
        rows.append(row | made_by())
    write_log("07a_threads.csv", rows)


def slowest_step(
    jobs: int,  # that train at the same time
    threads_each: int,  # of torch, in every job
) -> float:  # seconds
    "Mean seconds of a step, of the slowest job"
    with ThreadPoolExecutor(jobs) as pool:
        # Set for the process: torch reads it when it is imported, and a later change is ignored.
        environment = dict(OMP_NUM_THREADS=str(threads_each))
        started = []
        for _ in range(jobs):
            started.append(pool.submit(run_program, "supervised_step.py", **environment))
        return max(job.result()["seconds"] for job in started)
