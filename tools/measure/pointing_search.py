"""Settings for the small preset of task pointing: how far boxes overlap during a run.

    python tools/logs.py pointing_search WHAT NAME=VALUE ...

WHAT is what the log calls the run, then settings of chapter 05, such as seed=43 max_steps=200 warm_steps=400. Trains
once and asks the held-out pictures every fifty steps; what the looks take is not counted. Minutes to a quarter of an
hour. Rows of other names stay. Writes nbs/logs/05_pointing_search.csv."""
import json

from measure.common import made_by, put_rows
from measure.search import scores, train_with_looks

log = "05_pointing_search.csv"
between = 50  # steps between two looks


def main(
    what: str,  # what the log calls the run
    *given: str,  # NAME=VALUE settings of chapter 05
):
    "Put one run in the log, in place of a run of the same name"
    settings = dict(word.split("=", 1) for word in given)
    put_rows(log, searched(what, settings), same=("what",))


def searched(what, given):
    "A row for each look at the run"
    rows = []

    def look(step, settings, answered, trained):
        found = scores(answered, iou="mean_iou", found="exact_accuracy")
        times = {name: round(seconds) for name, seconds in trained.items()}
        rows.append(dict(what=what, settings=json.dumps(given), seed=settings.seed, step=step, **found, **times, **made_by()))

    train_with_looks(dict(task="pointing") | given, between, look)
    return rows
