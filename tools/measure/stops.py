"""Runs killed twice and resumed, beside runs never killed.

    python tools/logs.py stops [N]

Short runs of chapter 05 are killed -9 at random and resumed; log and weights are compared, bit for bit,
with those of a run of the same settings that was left alone. N runs (20) under three settings in turns,
about a minute for each. Writes nbs/logs/05_stops.csv."""
import random
import tempfile
from pathlib import Path

from measure.common import commit, use_tests_folder, write_log

cases = {
    "as they are": {},
    "two passes over a batch": dict(num_iterations=2),
    "accumulated, with KL": dict(gradient_accumulation_steps=2, beta=0.04),
}


def main(
    n: str = "20",  # runs to kill
):
    "A row a run"
    rows, rng = [], random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(int(n)):
            what = list(cases)[i % len(cases)]
            broken = Path(folder) / str(i)
            rows.append(killed_and_compared(what, Path(folder), broken, rng))
    write_log("05_stops.csv", rows)


def killed_and_compared(
    what: str,  # a key of `cases`
    folder: Path,  # holds the runs that are never killed, by their settings' names
    broken: Path,  # folder of the run to kill
    rng: random.Random,  # draws the moments of the kills
) -> dict:  # row of the log
    "Kill one run twice, let it finish, and compare it"
    use_tests_folder()
    import test_stop_and_go as go  # the suite does the same with fewer runs
    import torch
    whole, settings = folder / what, cases[what]
    if not whole.exists():
        go.start(whole, **settings).join()
    # After two rows of eight, and after five: the second kill hits a run that was resumed already.
    # A run may be over before it is killed, so the log counts the kills.
    first = go.start(broken, **settings)
    kills = go.kill_after(first, broken, 2, 0.4 * rng.random())
    second = go.start(broken, "true", **settings)
    kills += go.kill_after(second, broken, 5, 0.2 * rng.random())
    go.start(broken, "true", **settings).join()
    weights, log = go.final(whole)
    weights_again, log_again = go.final(broken)
    same_weights = [torch.equal(weight, weights_again[name]) for name, weight in weights.items()]
    return dict(
        settings=what,
        kills=kills,
        same_log=int(log == log_again),
        same_weights=int(all(same_weights)),
        commit=commit(),
    )
