"""What measurements share: logs in and out, the machine's line, a program in a process of its own."""
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[2]
logs = root / "nbs" / "logs"
programs = Path(__file__).resolve().parent / "programs"
row_mark = "ROW "  # begins the line of a program's output that holds its row; libraries print lines too


# Logs

def read_log(
    name: str,  # of a CSV file in nbs/logs
) -> list:  # a dict of texts for each row; empty where the log was never written
    "Rows of a log"
    path = logs / name
    return read_csv(path) if path.exists() else []


def read_csv(path):
    "Rows of any CSV file, every value a text"
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_log(
    name: str,  # of a CSV file in nbs/logs
    rows: list,  # of dicts; the first one's keys are the columns
):
    "Write a log anew and say so"
    logs.mkdir(exist_ok=True)
    # The text first: a row with other columns raises an error, and must not cost the rows that are there.
    text = io.StringIO()
    # Python's csv ends lines with \r\n unless told otherwise, and git would show every line as changed.
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (logs / name).write_text(text.getvalue(), encoding="utf-8", newline="")
    print(logs.relative_to(root) / name, len(rows), "rows")


def put_rows(
    name: str,  # of a CSV file in nbs/logs
    rows: list,  # of dicts
    same: tuple,  # columns that tell one measurement from another, such as ("what", "seed")
    order=None,  # a key to sort all rows by; None: the new rows come last
):
    """Put rows in a log, in place of those of the same measurements; the others stay.

    The log is read now, after the measurement: another one may have ended meanwhile."""
    def key(row):
        # a value that was read is text
        return tuple(str(row[column]) for column in same)
    new = {key(row) for row in rows}
    together = [row for row in read_log(name) if key(row) not in new] + rows
    write_log(name, sorted(together, key=order) if order else together)


def read_jsonl(path):
    "The JSON value of each line"
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_jsonl(
    name: str,  # of a file in nbs/logs
    rows: list,  # of dicts
):
    "Write a log of one JSON object a line, for rows that hold lists and long texts"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (logs / name).write_text("".join(lines), encoding="utf-8")
    print(logs.relative_to(root) / name, len(rows), "rows")


# Finished runs

def named_folders(
    words: tuple,  # of the command line, each WHAT=FOLDER
) -> list:  # of pairs: what the run is called, its folder
    "Runs that the command line names"
    pairs = []
    for word in words:
        what, equals, folder = word.partition("=")
        if not equals:
            sys.exit(f"{word}: expected WHAT=FOLDER")
        pairs.append((what, Path(folder)))
    return pairs


def read_results(
    folder: Path,  # of a finished run
) -> dict:  # its results.json
    "Results that a run has left"
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def cost_and_source(
    results: dict,  # results.json of a run
    *libraries: str,  # whose versions are logged
) -> dict:  # the last columns of the row of a run
    "Seconds and memory of a run, and what made it"
    columns = dict(seconds=round(results["seconds"]), memory_mb=round(results["peak_memory_mb"]))
    columns |= dict(commit=results["commit"], device=results["device"])
    return columns | {name: results["versions"][name] for name in libraries}


# This machine

def commit():
    "Short name of the checked-out commit, with 'and changes' where the checkout differs from it"
    from vlrlbook.core import run_facts
    return run_facts()["commit"]


def made_by() -> dict:  # device and commit
    "What made a row that is measured here and now"
    import torch  # noqa: F401, run_facts names a GPU only where torch is loaded
    from vlrlbook.core import run_facts
    facts = run_facts()
    return dict(device=facts["device"], commit=facts["commit"])


def use_tests_folder():
    "Make the files of tests/ importable: some measurements are tests of the suite at their full number"
    sys.path.insert(0, str(root / "tests"))


def run_program(
    name: str,  # of a file in programs/
    *words,  # of its command line
    folder: str = None,  # to run it in; None: where this process runs
    **environment,  # variables to set beside those of this process
) -> dict:  # the row that the program printed behind `row_mark`
    "Run a program in a process with memory and threads of its own; end with its error if it fails"
    command = [sys.executable, programs / name, *words]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith(row_mark)]
    if done.returncode or not rows:
        # The end of the traceback is enough; progress lines of libraries stand before it.
        sys.exit(f"{' '.join([name, *map(str, words)])} failed\n{done.stderr[-2000:]}")
    return json.loads(rows[-1].removeprefix(row_mark))
