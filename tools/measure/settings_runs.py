"""The main job of chapter 05 with other settings: what a setting adds or takes, run by run.

    python tools/logs.py settings_runs WHAT SEED NAME=VALUE ...

WHAT is what the log calls the settings ("the preset" is given none). Trains as `vlrlbook grpo` does, four minutes
on two quiet cores. Rows of other names and seeds stay. Writes nbs/logs/05_settings.csv."""
import json
import tempfile
from pathlib import Path

from measure import runs
from measure.common import put_rows

log = "05_settings.csv"


def main(
    what: str,  # what the log calls the settings
    seed: str,  # of pictures and sampling
    *given: str,  # NAME=VALUE settings of chapter 05
):
    "Put the row of one run in the log, in place of an older one of the same name and seed"
    settings = dict(word.split("=", 1) for word in given)
    put_rows(log, [run_row(what, int(seed), settings)], same=("what", "seed"))


def run_row(what, seed, given):
    "The row of one run: its answers before and after, its gains, and how its steps went"
    from vlrlbook.grpo import run
    from vlrlbook.settings import GRPOSettings, read_settings
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(GRPOSettings, given | dict(seed=seed, save_steps=0, output_dir=folder))
        results = run(settings)
        row = runs.run_row(what, Path(folder))
    del row["in_table"]
    # A run that got worse keeps its row: a setting that does harm belongs into the table.
    return row | dict(settings=json.dumps(given), verdict=results["verdict"]["outcome"])
