"""Chapter 04 on films of the ALOHA simulator: three seeds, and success-only training.

    python tools/logs.py simulator [SEED ...]

Seeds are 43, 44 and 45 if none are named; the log is added to, and a seed's rows are written anew. Each seed
splits the shipped films anew and trains twice: on all training films, and on those among them that reach the
last reward. Both judge the same held-out films, with the settings of the tiny preset. Takes about seven
minutes a seed on one core. Needs LeRobot. Writes nbs/logs/04_simulator.csv."""
import json
import tempfile
import time

import numpy as np

from measure.common import read_log, write_log

log = "04_simulator.csv"
last_reward = 4


def main(
    *seeds: str,  # of films, weights and order
):
    "Two rows a seed: mixed films, and successes only"
    rows = read_log(log)
    wanted = [int(seed) for seed in seeds or ("43", "44", "45")]
    rows = [row for row in rows if int(row["seed"]) not in wanted]
    for what in ("all films", "successes only"):
        for seed in wanted:
            rows.append(run_row(what, seed))
            # written after each run: the next one may be stopped
            write_log(log, sorted(rows, key=_by_what_and_seed))


def _by_what_and_seed(row):
    return row["trained_on"], int(row["seed"])


def run_row(what, seed):
    "Train once and judge the held-out films, all of them and those that fail"
    from vlrlbook.aloha import (AlohaSettings, build_classifier, make_trainer, open_frames, predict_bins, split_parts)
    from vlrlbook.core import read_settings, run_facts, set_seed
    from vlrlbook.metrics import classifier_metrics
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(AlohaSettings, dict(size="tiny", output_dir=folder, seed=seed))
        set_seed(seed)
        frames = open_frames(settings, training=True)
        train, val, test = split_parts(frames, settings)
        if what == "successes only":
            train = train.part(train.rows[in_films(frames, train.rows, successes(frames))])
        classifier, processor = build_classifier(settings, frames.num_classes)
        trainer = make_trainer(settings, classifier, processor, train, val)
        started = time.time()
        trainer.train()
        seconds = time.time() - started
        failing = test.part(test.rows[~in_films(frames, test.rows, successes(frames))])
        found, of_failures = [], []
        for judged, into in ((test, found), (failing, of_failures)):
            labels, films = frames.labels[judged.rows], frames.episodes[judged.rows]
            into.append(classifier_metrics(labels, predict_bins(classifier, processor, judged), films))
    whole, failures = found[0], of_failures[0]
    return dict(
        trained_on=what, seed=seed, train_films=len(set(frames.episodes[train.rows].tolist())),
        test_films=whole["episodes"], n=whole["n"], majority_accuracy=round(whole["majority_accuracy"], 4),
        accuracy=round(whole["accuracy"], 4), accuracy_low=round(whole["ci95"][0], 4),
        accuracy_high=round(whole["ci95"][1], 4), macro_f1=round(whole["macro_f1"], 4),
        mae_bins=round(whole["mae_bins"], 4), failing_films=failures["episodes"], failing_n=failures["n"],
        failing_majority=round(failures["majority_accuracy"], 4), failing_accuracy=round(failures["accuracy"], 4),
        failing_macro_f1=round(failures["macro_f1"], 4), confusion=json.dumps(whole["confusion"]),
        steps=settings.max_steps, lr=settings.lr, shift=settings.shift, training_seconds=round(seconds), commit=run_facts()["commit"])


def successes(frames):
    "Numbers of the films that end with the last reward"
    ends = {}
    for episode, label in zip(frames.episodes.tolist(), frames.labels.tolist()):
        ends[episode] = label
    return {episode for episode, label in ends.items() if label == last_reward}


def in_films(frames, rows, films):
    "For each row whether it is of one of these films"
    return np.isin(frames.episodes[rows], sorted(films))
