"""Chapter 05 paid by a reward model: its pay before and after, what is right, the verdict.

    python tools/logs.py judged NAME MODEL_DIR [LR] [STEPS] [PICTURES]

MODEL_DIR is a reward model that chapter 03 has trained, NAME how its run is called in the logs. It alone pays;
whether the count is right is logged at weight 0. LR 2e-4, 100 STEPS and 500 held-out PICTURES unless said
otherwise; about five minutes. Writes the row NAME of nbs/logs/03_judged.csv anew, and the run's log as
nbs/logs/03_judged_NAME.csv."""
import json
import tempfile
from pathlib import Path

from measure.common import put_rows, write_log
from measure.game import rounded

log = "03_judged.csv"


def main(
    name: str,  # of the run
    model: str,  # folder of a reward model
    lr: str = "2e-4",  # learning rate
    steps: str = "100",  # of GRPO
    pictures: str = "500",  # held out
):
    "Train, measure, and keep the verdict beside what it rests on"
    from vlrlbook.core import RunLog, read_settings
    from vlrlbook.grpo import GRPOSettings, run
    with tempfile.TemporaryDirectory() as out:
        given = dict(
            reward=f"1*reward_model:{model} + 0*counting",
            lr=lr,
            max_steps=steps,
            eval_samples=pictures,
            save_steps=0,
            output_dir=out,
        )
        settings = read_settings(GRPOSettings, given)
        results = run(settings)
        rows = RunLog.read(Path(out) / "run_log.csv").rows
    write_log(f"03_judged_{name}.csv", [rounded(row) for row in rows])
    put_rows(log, [dict(name=name) | row_of(results)], same=("name",))


def row_of(results):
    "What the page tells of a run"
    judge, verdict, greedy = results["judges"][0], results["verdict"], results["gain"]["greedy"]
    before, after = results["before"]["greedy"], results["after"]["greedy"]
    asked = {question["name"]: question for question in verdict["questions"]}
    return dict(
        judge=judge["name"],
        fingerprint=judge["fingerprint"],
        pair_accuracy=round(judge["pair_accuracy"], 4),
        pairs=judge["n"],
        lr=results["settings"]["lr"],
        steps=results["steps"],
        n=after["n"],
        paid_before=round(before["mean_reward"], 4),
        paid_after=round(after["mean_reward"], 4),
        paid_gain=json.dumps([round(end, 4) for end in greedy["mean_reward_ci95"]]),
        exact_before=round(before["exact_accuracy"], 4),
        exact_after=round(after["exact_accuracy"], 4),
        exact_gain=json.dumps([round(end, 4) for end in greedy["exact_accuracy_ci95"]]),
        paid_for_right=asked["paid_for_right"]["answer"],
        outcome=verdict["outcome"],
        sentence=verdict["sentence"],
        seconds=round(results["seconds"]),
        commit=results["commit"],
    )
