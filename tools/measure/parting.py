"""Reward and accuracy parting over the steps of runs that log `verbatim` too.

    python tools/logs.py parting DIR ...

DIR is a run of chapter 05 with `0*vlrlbook.evaluation:verbatim` in its reward. Reads finished runs. Writes
nbs/logs/06_run_log_lr_LR.csv for each, by its learning rate, and 06_predictions_lr_LR.jsonl, the answers
of the last one."""
import shutil
from pathlib import Path

from measure.common import logs, read_csv, read_results, write_log


def main(
    first: str,  # folder of a run
    *others: str,  # of more runs
):
    "A log a run"
    for folder in map(Path, (first, *others)):
        settings = read_results(folder)["settings"]
        lr = short_name(settings["lr"])
        run_log = read_csv(folder / "run_log.csv")
        write_log(f"06_run_log_lr_{lr}.csv", [kept_columns(row) for row in run_log])
    # The answers of one run are a megabyte; the page compares before and after in the last.
    shutil.copy(folder / "predictions.jsonl", logs / f"06_predictions_lr_{lr}.jsonl")


def short_name(lr):
    "1e-4 for 0.0001: Python writes 1e-04"
    return f"{lr:.0e}".replace("e-0", "e-")


def kept_columns(row):
    "What the page draws, with four decimals; the log's other columns would be stored for nothing"
    kept = dict(step=row["step"])
    for name, value in row.items():
        wanted = name in ("reward", "entropy", "length")
        if wanted or name.startswith("part/"):
            kept[name] = round(float(value), 4)
    return kept
