"""Settings for the small preset of task pointing: how far boxes overlap during a run.

    python tools/logs.py pointing_search WHAT NAME=VALUE ...

WHAT is what the log calls the run, then settings of chapter 05, such as seed=43 max_steps=200 warm_steps=400. Trains
once and asks the held-out pictures every fifty steps; what the looks take is not counted. Minutes to a quarter of an
hour. Rows of other names stay. Writes nbs/logs/05_pointing_search.csv."""
import json
import tempfile
import time

from measure.common import made_by, read_log, write_log

log = "05_pointing_search.csv"
between = 50  # steps between two looks


def main(
    what: str,  # what the log calls the run
    *given: str,  # NAME=VALUE settings of chapter 05
):
    "Put one run in the log, in place of a run of the same name"
    settings = dict(word.split("=", 1) for word in given)
    rows = searched(what, settings)
    # read after the run: others may have ended meanwhile
    kept = [row for row in read_log(log) if row["what"] != what]
    write_log(log, kept + rows)


def searched(what, given):
    "A row for each look at the run"
    from transformers import TrainerCallback
    from vlrlbook.core import read_settings
    from vlrlbook.data import to_samples
    from vlrlbook.grpo import GRPOSettings, load_data, load_policy, make_trainer

    rows, clock = [], dict(looking=0.0, looking_cpu=0.0, began=0.0, began_cpu=0.0)

    def look(step, model):
        # of the core's own time too: on a machine that others use the clock says little
        started, started_cpu = time.perf_counter(), time.process_time()
        found = asked(model, processor, samples, settings)
        seconds = started - clock["began"] - clock["looking"]
        cpu = started_cpu - clock["began_cpu"] - clock["looking_cpu"]
        clock["looking"] += time.perf_counter() - started
        clock["looking_cpu"] += time.process_time() - started_cpu
        times = dict(seconds=round(seconds), cpu_seconds=round(cpu))
        rows.append(dict(what=what, settings=json.dumps(given), seed=settings.seed, step=step, **found, **times, **made_by()))

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step % between == 0:
                look(state.global_step, model)

    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(GRPOSettings, dict(task="pointing") | given | dict(output_dir=folder, save_steps=0))
        train, held_out, _ = load_data(settings)[:3]
        samples = to_samples(held_out)
        model, processor = load_policy(settings)
        clock["began"], clock["began_cpu"] = time.perf_counter(), time.process_time()
        look(0, model)
        trainer = make_trainer(settings, model, processor, train)
        trainer.add_callback(Look())
        trainer.train()
    return rows


def asked(model, processor, samples, settings):
    "Mean IoU, share found and share readable, greedily and sampled"
    from vlrlbook.answers import predict
    from vlrlbook.marking import marks, summary
    found = {}
    for how, texts in predict(model, processor, samples, settings).items():
        scored = summary(marks(samples, texts))
        found[f"{how}_iou"] = round(scored["mean_iou"], 4)
        found[f"{how}_found"] = round(scored["exact_accuracy"], 4)
    print(found, flush=True)
    return found
