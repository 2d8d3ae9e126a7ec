"""What chapter 08's service is put through, at its pass figures.

    python tools/logs.py service_faults [NAME[=NUMBER,...] ...]

Each NAME is a function of tests/support/service_faults.py, such as cut_uploads or readers; all unless said
otherwise, in half an hour. Rows of other faults stay. Writes nbs/logs/08_faults.csv, and for `readers`
nbs/logs/08_pollers.csv, answers second by second; each measurement by `listeners` is a row of
nbs/logs/08_listeners.csv. With numbers a function is tried in small and its row is only printed:
`listeners=50,10,20` takes 50 clients, 10 listeners and 20 seconds, and is written, as its row says how many."""
from datetime import date
from importlib.metadata import version

from measure.common import read_log, use_tests_folder, write_log

# What stands between a client and our own code
libraries = ("fastapi", "starlette", "uvicorn", "python-multipart", "pillow")


def main(
    *names: str,  # of functions, each with or without numbers; none: all
):
    "A row a fault"
    use_tests_folder()
    from support.service_faults import by_second, listened, measure  # of tests/
    is_trial = any("=" in name for name in names)  # fewer times than the pass figures ask
    tried_with = versions()
    rows = {row["fault"]: row for row in read_log("08_faults.csv")}
    for found in measure(names):
        rows |= {row["fault"]: row | tried_with for row in found}
        # After each function, since half an hour of them may end in one that fails.
        if not is_trial:
            write_log("08_faults.csv", list(rows.values()))
        if listened:
            add_listened(listened, tried_with)
    if by_second and not is_trial:
        write_log("08_pollers.csv", by_second)


def add_listened(
    measured: list,  # of rows; emptied
    tried_with: dict,  # from `versions`
):
    "Add measurements with listeners to their log, in the order in which they were made"
    rows = read_log("08_listeners.csv")
    rows += [row | tried_with for row in measured]
    measured.clear()
    write_log("08_listeners.csv", rows)


def versions():
    "Columns that say with what a row was measured"
    from vlrlbook.core import run_facts
    facts = run_facts()
    columns = dict(commit=facts["commit"], date=date.today().isoformat())
    # The service loads no torch, so this names the CPU on any machine, and it is the CPU that serves.
    columns |= dict(device=facts["device"], python=facts["versions"]["python"])
    return columns | {name: version(name) for name in libraries}
