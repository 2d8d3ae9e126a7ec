"""Other settings for chapter 05's small preset, each on the seed that gains least.

    python tools/logs.py search WHAT NAME=VALUE ...

WHAT is what the log calls the run, then settings of chapter 05, such as seed=43 max_steps=400 lora_vision=true.
Trains once and asks the held-out pictures every hundred steps. Minutes to a quarter of an hour. Rows of other names
stay. Writes nbs/logs/05_search.csv."""
import json
import tempfile
import time

from measure.common import made_by, put_rows

log = "05_search.csv"
between = 100  # steps between two looks


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

    def look(step, settings, answered, _):
        found = scores(answered, exact="exact_accuracy", verbatim="verbatim_accuracy")
        rows.append(dict(what=what, settings=json.dumps(given), seed=settings.seed, step=step, **found, **made_by()))

    train_with_looks(given, between, look)
    return rows


def train_with_looks(
    given: dict,  # settings of chapter 05
    steps: int,  # between two looks
    look,  # called with the step, the settings, `answered` (greedy and sampled, each with its scores) and `trained`
):
    """Train once, with a look at the held-out pictures before the first step and after every few.

    `trained` holds seconds and cpu_seconds since the model was ready, without those of the looks; the second is of the
    process alone, since on a machine that others use the clock says little."""
    from transformers import TrainerCallback
    from vlrlbook.answers import predict
    from vlrlbook.core import read_settings
    from vlrlbook.data import to_samples
    from vlrlbook.grpo import GRPOSettings, load_data, load_policy, make_trainer
    from vlrlbook.marking import marks, summary

    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(GRPOSettings, given | dict(output_dir=folder, save_steps=0))
        train, held_out, _ = load_data(settings)[:3]
        samples = to_samples(held_out)
        model, processor = load_policy(settings)

        clocks = dict(seconds=time.perf_counter, cpu_seconds=time.process_time)
        began = {name: clock() for name, clock in clocks.items()}

        def ask_and_look(step):
            trained = {name: clock() - began[name] for name, clock in clocks.items()}
            texts = predict(model, processor, samples, settings)
            look(step, settings, {how: summary(marks(samples, said)) for how, said in texts.items()}, trained)
            for name, clock in clocks.items():
                began[name] = clock() - trained[name]

        class Look(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step % steps == 0:
                    ask_and_look(state.global_step)

        ask_and_look(0)
        trainer = make_trainer(settings, model, processor, train)
        trainer.add_callback(Look())
        trainer.train()


def scores(
    answered: dict,  # greedy and sampled, each with its scores
    **kept: str,  # short name → name of the score
) -> dict:  # columns such as greedy_exact
    "What a log keeps of the scores, which are also printed"
    found = {f"{how}_{short}": round(scored[name], 4) for how, scored in answered.items() for short, name in kept.items()}
    print(found, flush=True)
    return found
