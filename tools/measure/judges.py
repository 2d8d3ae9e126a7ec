"""Chapter 03's runs: accuracy on pairs, baselines, speed; two training curves.

    python tools/logs.py judges "WHAT=OUTPUT_DIR" ...

WHAT is what the log calls the run, OUTPUT_DIR the folder that it wrote; a row of the same name and seed is
replaced, others stay. Reads finished runs, in a second. Writes nbs/logs/03_runs.csv, and for the two runs
that the page compares 03_both_run_log.csv and 03_alone_run_log.csv."""
import shutil
from pathlib import Path

from measure.common import cost_and_source, logs, named_folders, read_log, read_results, write_log

# (name of a run, its seed) -> the log that its training curve is kept as
curves = {
    ("2,000 rows, four times", 42): "03_both_run_log.csv",
    ("2,000 rows, preferences alone", 42): "03_alone_run_log.csv",
}


def main(
    first: str,  # WHAT=OUTPUT_DIR of a run
    *others: str,  # the same of more runs
):
    "One row for each name and seed"
    rows = {(row["what"], row["seed"]): row for row in read_log("03_runs.csv")}
    for what, folder in named_folders((first, *others)):
        results = read_results(folder)
        row = run_row(what, results)
        rows[what, str(row["seed"])] = row  # rows of the log hold their seeds as text
        curve = curves.get((what, row["seed"]))
        if curve:
            # The results say where the model was trained; its curve lies there.
            run_log = Path(results["run_dir"]) / "run_log.csv"
            shutil.copy(run_log, logs / curve)
    write_log("03_runs.csv", [rows[key] for key in sorted(rows)])


def run_row(what, results):
    "The row of one run"
    low, high = results["ci95"]
    baselines = results["baselines"]
    row = dict(
        what=what,
        seed=results["settings"]["seed"],
        pair_accuracy=round(results["pair_accuracy"], 4),
        low=round(low, 4),
        high=round(high, 4),
        n=results["n"],
        macro=round(results["macro"], 4),
        untrained=round(baselines["untrained"], 4),
        always_first=round(baselines["always_first"], 4),
        longer=round(baselines["longer"], 4),
        blanked=round(baselines["blanked"], 4),
        swap=results["swap_consistency"]["consistent"],
        steps=results["steps"],
        best_step=results["best_step"],
        pairs_per_second=round(results["pairs_per_second"], 1),
    )
    return row | cost_and_source(results, "torch", "transformers")
