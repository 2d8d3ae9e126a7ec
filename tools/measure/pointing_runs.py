"""Task pointing, small preset: how far boxes overlap before and after, a run for each seed.

    python tools/logs.py pointing_runs SEED ...

Trains as `vlrlbook grpo --task pointing` does; four minutes a seed on a quiet machine, most of them for the warm
start where it is not in the cache. Rows of other seeds and other numbers of steps stay. Writes nbs/logs/05_pointing_runs.csv."""
import sys
import tempfile

from measure.common import cost_and_source, put_rows

log = "05_pointing_runs.csv"


def main(
    *seeds: str,  # of pictures and sampling
):
    "Put a row for each seed in the log, in place of an older one of as many steps"
    if not seeds:
        sys.exit("which seeds? such as: python tools/logs.py pointing_runs 43 44")
    for seed in seeds:
        put_rows(log, [run_row(int(seed))], same=("steps", "seed"), order=place_in_log)


def place_in_log(row):
    "By number of steps, then by seed"
    return int(row["steps"]), int(row["seed"])


def run_row(seed):
    "The row of one run"
    from vlrlbook.grpo import run
    from vlrlbook.settings import GRPOSettings, read_settings
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(GRPOSettings, dict(task="pointing", seed=seed, save_steps=0, output_dir=folder))
        results = run(settings)
    row = dict(seed=seed, steps=settings.max_steps, warm_steps=settings.warm_steps, lr=settings.lr,
               pictures=results["after"]["greedy"]["n"], verdict=results["verdict"]["outcome"])
    for how in ("greedy", "sampled"):
        gain = results["gain"][how]
        low, high = gain["mean_iou_ci95"]
        row |= {
            f"{how}_iou_before": round(results["before"][how]["mean_iou"], 4),
            f"{how}_iou_after": round(results["after"][how]["mean_iou"], 4),
            f"{how}_gain": round(gain["mean_iou"], 4),
            f"{how}_gain_low": round(low, 4),
            f"{how}_gain_high": round(high, 4),
            f"{how}_found_before": round(results["before"][how]["exact_accuracy"], 4),
            f"{how}_found_after": round(results["after"][how]["exact_accuracy"], 4),
        }
    return row | cost_and_source(results, "torch", "transformers", "trl")
