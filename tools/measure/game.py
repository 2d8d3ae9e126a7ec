"""GRPO paid by a reward model alone: its reward, the true count, its answers.

    python tools/logs.py game MODEL_DIR [NAME] [LR] [STEPS]

MODEL_DIR is a reward model that chapter 03 has trained. Chapter 05 learns to please it; whether the count
is right is logged at weight 0. LR 2e-4 and 100 STEPS are usual; three minutes. Writes nbs/logs/03_NAME.csv
and nbs/logs/03_NAME_rollouts.jsonl (NAME is "game" unless said otherwise)."""
import tempfile

from measure.common import write_jsonl, write_log


def main(
    model: str,  # folder of a reward model
    name: str = "game",  # in the logs' names
    lr: str = "2e-4",  # learning rate
    steps: str = "100",  # of GRPO
):
    "Train, and keep the run's log and its latest groups"
    from vlrlbook.core import RunLog, read_settings, set_seed
    from vlrlbook.grpo import GRPOSettings, Recorder, load_data, load_policy, make_trainer
    with tempfile.TemporaryDirectory() as out:
        # Nothing of the run but its log is kept, so it saves no checkpoints.
        given = dict(
            reward=f"1*reward_model:{model} + 0*counting",
            lr=lr,
            max_steps=steps,
            save_steps=0,
            output_dir=out,
        )
        settings = read_settings(GRPOSettings, given)
        set_seed(settings.seed)  # before the policy is loaded: its adapter is drawn too
        policy, processor = load_policy(settings)
        log, recorder = RunLog(), Recorder(settings.num_generations)
        data = load_data(settings)[0]
        make_trainer(settings, policy, processor, data, recorder, log).train()
    write_log(f"03_{name}.csv", [rounded(row) for row in log.rows])
    write_jsonl(f"03_{name}_rollouts.jsonl", recorder.rows())


def rounded(row):
    "Five digits keep the file small; the page's curves show fewer"
    return {name: round(value, 5) for name, value in row.items()}
