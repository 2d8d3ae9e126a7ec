"""Answers of a run of chapter 06, before and after, two samples of each.

    python tools/logs.py evaluation DIR

DIR is the run's folder, with untrained.jsonl and predictions.jsonl. Takes a second. Writes
nbs/logs/06_predictions.jsonl, which the page reads when no model is asked."""
from pathlib import Path

from measure.common import write_jsonl


def main(
    folder: str,  # of the run
):
    "Two samples of an answer are enough to tell chance from knowledge, and keep the wheel small"
    from vlrlbook.evaluation import join, read_predictions
    folder = Path(folder)
    before = read_predictions(folder / "untrained.jsonl")
    after = read_predictions(folder / "predictions.jsonl")
    rows = join(before, after)
    write_jsonl("06_predictions.jsonl", [first_two(row) for row in rows])


def first_two(row):
    "The same row with lists cut to two"
    kept = {}
    for name, value in row.items():
        # Every list of such a row is a list of samples.
        kept[name] = value[:2] if isinstance(value, list) else value
    return kept
