"""Answers of a run of chapter 06, before and after, two samples of each.

    python tools/logs.py evaluation DIR
    python tools/logs.py evaluation DIR 06_predictions_vqa.jsonl

DIR is the run's folder, with predictions.jsonl and perhaps untrained.jsonl. Takes a second. Writes
nbs/logs/06_predictions.jsonl, which the page reads when no model is asked, or the log that is named. That of VQA is
made from `vlrlbook grpo --task vqa --output_dir RUN`, then `vlrlbook evaluate --task vqa --adapter RUN --output_dir DIR`."""
from pathlib import Path

from measure.common import write_jsonl


def main(
    folder: str,  # of the run
    log: str = "06_predictions.jsonl",  # a name in nbs/logs
):
    "Two samples of an answer are enough to tell chance from knowledge, and keep the wheel small"
    from vlrlbook.evaluation import join, read_predictions
    folder = Path(folder)
    rows = read_predictions(folder / "predictions.jsonl")
    untrained = folder / "untrained.jsonl"
    if untrained.exists():
        rows = join(read_predictions(untrained), rows)
    write_jsonl(log, [first_two(row) for row in rows])


def first_two(row):
    "The same row with lists cut to two"
    kept = {}
    for name, value in row.items():
        # Every list of such a row is a list of samples.
        kept[name] = value[:2] if isinstance(value, list) else value
    return kept
