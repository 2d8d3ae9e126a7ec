"""Two steps of verl's own trainer on this CPU, as it logged them.

    python tools/logs.py verl_step FILE

FILE is metrics.jsonl, which verl's own logger `file` writes; the run of `make test-verl-step` leaves one in its
folder. Takes a second. Writes nbs/logs/09_verl_step.csv, a row a step."""
from measure.common import made_by, read_jsonl, write_log

# verl's name → its name in the log
columns = {
    "critic/score/mean": "reward",
    "actor/pg_loss": "loss",
    "actor/grad_norm": "gradient_norm",
    "actor/kl_loss": "kl",
    "training/rollout_probs_diff_mean": "probability_gap_mean",
    "training/rollout_probs_diff_max": "probability_gap_max",
}


def main(
    file: str,  # metrics.jsonl
):
    "A row for each step in which something was learned"
    rows = []
    for logged in read_jsonl(file):
        if "actor/grad_norm" not in logged["data"]:
            continue  # verl measures once before the first step
        row = dict(step=logged["step"])
        for theirs, ours in columns.items():
            row[ours] = float(f"{logged['data'][theirs]:.3g}")
        rows.append(row | made_by())
    write_log("09_verl_step.csv", rows)
