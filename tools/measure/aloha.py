"""Chapter 04's runs: accuracy, errors in bins, calibration, cost.

    python tools/logs.py aloha "WHAT=OUTPUT_DIR" ...

WHAT is what the log calls the run, OUTPUT_DIR the folder that it wrote. The log is written anew: name all
runs. Reads finished runs, in a second. Writes nbs/logs/04_runs.csv."""
from measure.common import cost_and_source, named_folders, read_results, write_log


def main(
    first: str,  # WHAT=OUTPUT_DIR of a run
    *others: str,  # the same of more runs
):
    "One row a run"
    write_log("04_runs.csv", [run_row(what, folder) for what, folder in named_folders((first, *others))])


def run_row(what, folder):
    "The row of one classifier"
    results = read_results(folder)
    settings, (low, high) = results["settings"], results["ci95"]
    row = dict(
        what=what,
        seed=settings["seed"],
        lr=settings["lr"],
        steps=results["steps"],
        n=results["n"],
        episodes=results["episodes"],
    )
    scores = dict(
        majority_accuracy=results["majority_accuracy"],
        accuracy=results["accuracy"],
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=results["macro_f1"],
        mae_bins=results["mae_bins"],
        within_one=results["within_one"],
        rank_correlation=results["rank_correlation"],
        ece=results["calibration"]["ece"],
    )
    for name, value in scores.items():
        # The rank correlation is None where frames have no order, and None cannot be rounded.
        row[name] = None if value is None else round(value, 4)
    # The versions that decide what is learned: LeRobot's readers feed the model.
    return row | cost_and_source(results, "torch", "transformers", "lerobot")
