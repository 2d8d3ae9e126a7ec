"""Task zoom: with the tool and without, paid for looking, and with divided advantages.

    python tools/logs.py zoom WHAT [NAME=VALUE ...]

WHAT is one of `runs` below, such as `with the tool`, then settings of chapter 05, such as seed=44.
Trains once, as `vlrlbook grpo --task zoom` does, in minutes; without the tool from the twin that was taught to
call, so that nothing but the tool is missing. Rows of other runs and other seeds stay. Writes
nbs/logs/05b_zoom.csv and 05b_zoom_run_log.csv."""
import sys
import tempfile
from itertools import product
from pathlib import Path

from measure.common import made_by, put_rows, read_csv, read_jsonl

log, run_log = "05b_zoom.csv", "05b_zoom_run_log.csv"
runs = {
    "with the tool": {},
    "without the tool": dict(max_looks=0),
    "paid for looking": dict(reward="0.7*zoom + 0.3*looks"),
    "divided by the spread": dict(scale_rewards="group"),
}
# Of the run's own log: what the page draws
columns = ("step", "reward", "part/right", "part/looks", "part/refused", "part/malformed", "part/outside", "part/swapped",
           "part/thin", "part/too_many", "silent", "length", "seconds_per_step")


def main(
    what: str,  # one of `runs`
    *given: str,  # NAME=VALUE settings of chapter 05
):
    "Put one run in the logs, in place of a run of the same name and seed"
    from vlrlbook.grpo import run
    from vlrlbook.settings import GRPOSettings, read_settings
    from vlrlbook.warm_twins import warm_start
    if what not in runs:
        sys.exit(f"{what}: expected one of {', '.join(runs)}")
    with tempfile.TemporaryDirectory() as folder:
        chosen = dict(word.split("=", 1) for word in given)
        asked = dict(task="zoom", save_steps=0, output_dir=folder) | runs[what] | chosen
        settings = read_settings(GRPOSettings, {name: str(value) for name, value in asked.items()})
        if not settings.max_looks:
            # the same beginning as the others, so that nothing but the tool is missing
            settings.model = warm_start("qwen2_5_vl", settings.warm_steps, task="zoom", looks=1)
        run(settings)
        # not `folder`: an output_dir that was asked for wins
        answered = read_jsonl(Path(settings.output_dir) / "predictions.jsonl")
        steps = read_csv(Path(settings.output_dir) / "run_log.csv")
    made = dict(run=what, steps=settings.max_steps, seed=settings.seed, **made_by())
    put_rows(log, [made | row for row in scored(settings, answered)], same=("run", "seed"))
    drawn = []
    for row in steps:
        # in a sum of rewards the parts are called after the reward they belong to
        found = {name: row.get(name, row.get(name.replace("part/", "part/zoom_"), "")) for name in columns}
        drawn.append(dict(run=what, seed=settings.seed) | found)
    put_rows(run_log, drawn, same=("run", "seed"))


def scored(settings, answered):
    "A row for each time, way of asking and kind of picture: share right, looks, and looks that went to the corner"
    from vlrlbook.readers.turns import looks_of
    from vlrlbook.rewards import is_right
    from vlrlbook.run_data import held_out_seed
    from vlrlbook.zoom import Eye, corner_of, synthetic_zoom
    samples = synthetic_zoom(settings.eval_samples, held_out_seed)
    eye = Eye.of(settings.model, settings.max_image_size)
    pairs = {"small": [], "large": []}  # kind of picture -> (sample, corner or None, its row of answers)
    for sample, row in zip(samples, answered, strict=True):
        corner = corner_of(sample)
        pairs["small" if corner else "large"].append((sample, corner, row))

    def marks(sample, corner, text):
        "Of one answer: whether it is right, whether it looked, whether it looked at the corner"
        looked = any(not look.refused for look in looks_of(text))
        aimed = looked and corner is not None and text.startswith(eye.said(corner, sample.images[0]))
        return is_right(text, sample.answer, "zoom"), looked, aimed

    for when, how, kind in product(("before", "after"), ("greedy", "sampled"), pairs):
        marked = []
        for sample, corner, row in pairs[kind]:
            marked += [marks(sample, corner, text) for text in row[f"{when}_{how}"]]
        right, looked, aimed = (round(sum(column) / len(marked), 3) for column in zip(*marked))
        yield dict(when=when, how=how, discs=kind, answers=len(marked), right=right, looked=looked, at_the_corner=aimed)
