"""Other settings for chapter 05's small preset, each on the seed that gains least.

    python tools/logs.py search WHAT NAME=VALUE ...

WHAT is what the log calls the run, then settings of chapter 05, such as seed=43 max_steps=400 lora_vision=true.
Trains once and asks the held-out pictures every hundred steps. Minutes to a quarter of an hour. Rows of other names
stay. Writes nbs/logs/05_search.csv."""
import json
import tempfile

from measure.common import made_by, read_log, write_log

log = "05_search.csv"
between = 100  # steps between two looks


def main(
    what: str,  # what the log calls the run
    *given: str,  # NAME=VALUE settings of chapter 05
):
    "Put one run in the log, in place of a run of the same name"
    settings = dict(word.split("=", 1) for word in given)
    kept = [row for row in read_log(log) if row["what"] != what]
    write_log(log, kept + searched(what, settings))


def searched(what, given):
    "A row for each look at the run"
    from transformers import TrainerCallback
    from vlrlbook.core import read_settings
    from vlrlbook.data import to_samples
    from vlrlbook.grpo import GRPOSettings, load_data, load_policy, make_trainer

    rows = []

    def look(step, model):
        found = asked(model, processor, samples, settings)
        rows.append(dict(what=what, settings=json.dumps(given), seed=settings.seed, step=step, **found, **made_by()))

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step % between == 0:
                look(state.global_step, model)

    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(GRPOSettings, given | dict(output_dir=folder, save_steps=0))
        train, held_out, _ = load_data(settings)[:3]
        samples = to_samples(held_out)
        model, processor = load_policy(settings)
        look(0, model)
        trainer = make_trainer(settings, model, processor, train)
        trainer.add_callback(Look())
        trainer.train()
    return rows


def asked(model, processor, samples, settings):
    "Shares right and to the letter, greedily and sampled"
    from vlrlbook.answers import predict
    from vlrlbook.marking import marks, summary
    found = {}
    for how, texts in predict(model, processor, samples, settings).items():
        scored = summary(marks(samples, texts))
        found[f"{how}_exact"] = round(scored["exact_accuracy"], 4)
        found[f"{how}_verbatim"] = round(scored["verbatim_accuracy"], 4)
    print(found, flush=True)
    return found
