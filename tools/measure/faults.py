"""What jobs are put through, as often as the pass figures of chapter 07a ask.

    python tools/logs.py faults [NAME[=NUMBER] ...]

Each NAME is a fault of tests/test_ledger.py, whose suite breaks the same things less often; all ten unless
said otherwise. Takes 20 minutes; seconds of each are in the log. `disk_full` needs leave to mount a file
system. Rows of other faults stay. Writes nbs/logs/07a_faults.csv; with a NUMBER of times a fault is only
tried, and its row printed."""
import platform
import sqlite3
import sys
import time
from datetime import datetime, timezone

from measure.common import commit, read_log, use_tests_folder, write_log

log = "07a_faults.csv"


def main(
    *names: str,  # of faults, each with or without a number of times; none: all
):
    "A row for each fault and part"
    times = {name: number for name, _, number in (word.partition("=") for word in names)}
    use_tests_folder()
    from test_ledger import FAULTS
    rows = {(row["fault"], row["part"]): row for row in read_log(log)}
    known = dict.fromkeys(fault for fault, *_ in FAULTS)  # in their order, each once
    unknown = sorted(set(times) - set(known))
    if unknown:
        sys.exit(f"no fault is called {unknown[0]}; there are {', '.join(known)}")
    for fault, arguments, _, full_number in FAULTS:
        if times.get(fault):
            print(fault_row(fault, arguments, int(times[fault])))
        elif not names or fault in times:
            rows[fault, " ".join(arguments)] = fault_row(fault, arguments, full_number)
            # After each fault, since an hour of them may end in one that fails.
            write_log(log, in_order(rows, FAULTS))


def in_order(rows, faults):
    "Rows in the order of the suite's list"
    places = [(fault, " ".join(arguments)) for fault, arguments, _, _ in faults]
    return [rows[place] for place in places if place in rows]


def fault_row(
    fault: str,  # a function of tests/support/faults.py
    arguments: tuple,  # of that function, behind the number
    n: int,  # times to break things
) -> dict:  # row of the log
    "Break something n times and count what went wrong"
    from support import faults  # of tests/
    start = time.time()
    break_things = getattr(faults, fault)
    found = break_things(n, *arguments)
    now = datetime.now(timezone.utc)
    return dict(
        fault=fault,
        part=" ".join(arguments),
        n=found["n"],
        failures=found["failures"],
        detail=found["detail"],
        seconds=round(time.time() - start),
        commit=commit(),
        # Locks and renames are the system's and SQLite's: what is true of one version need not be of another.
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        linux=platform.release().split("-")[0],
        date=now.date().isoformat(),
    )
