"""Memory that `vlrlbook fit` counts beside that of real steps, twins of several widths.

    python tools/logs.py fit [WHAT-WIDTH-PROMPTS ...]

Each case is two real steps in a process of its own on a CPU: resident memory at its highest, less what the same
process held before the model was built, once a smaller run has brought all libraries in. A case takes half a
minute on a free machine; with names, these cases alone are measured and the rows of others stay. Writes
nbs/logs/05_fit.csv."""
import json

from measure.common import made_by, put_rows

log = "05_fit.csv"
base = dict(size="tiny", batch_size=16, num_generations=8, max_steps=2, max_completion_length=16, lora_dropout=0.05,
            lora_vision=False, refill=0, max_image_size=168)
kinds = {  # what a case is called → settings that differ
    "as it is": {},
    "checkpointing": dict(gradient_checkpointing=True),
    "all weights": dict(use_lora=False, batch_size=8),
    "accumulation": dict(batch_size=8, gradient_accumulation_steps=2),
}
cases = [("as it is", width, prompts) for width in (256, 384, 512, 768) for prompts in ("stock", "shared")]
cases += [(what, 384, "stock") for what in kinds if what != "as it is"]


def main(
    *names: str,  # of cases, such as "as it is-256-shared"; none: all
):
    "The log"
    named = {"-".join(map(str, case)): case for case in cases}
    for name in names or named:
        row = measured(*named[name])
        put_rows(log, [row], same=("what", "width", "prompts"), order=place_in_log)
        print(row, flush=True)


def place_in_log(row):
    "The cases as they are first, then by name, width and way of the prompts"
    return row["what"] != "as it is", row["what"], int(row["width"]), row["prompts"]


def measured(what, width, prompts):
    "The row of a case"
    from vlrlbook.fit import counted_mb, measured_mb
    settings = base | kinds[what] | dict(shared_prompt=prompts == "shared")
    shape = dict(width=width, depth=4, vocabulary=4096)
    made = made_by()  # before the steps: a checkout that changes meanwhile does not
    real, counted = measured_mb(settings, shape), counted_mb(settings, shape)
    row = dict(what=what, width=width, prompts=prompts, counted_mb=round(counted, 1), measured_mb=round(real, 1))
    row |= dict(ratio=round(counted / real, 3), settings=json.dumps(settings), shape=json.dumps(shape))
    return row | made
