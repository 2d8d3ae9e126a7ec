"""GB that a 3B run of chapter 05 is counted to take, one setting after the other.

    python tools/logs.py levers

Counts as `vlrlbook fit` does, without weights and without a GPU; some minutes. Writes nbs/logs/05_levers.csv."""
from measure.common import made_by, write_log

log = "05_levers.csv"

# What is set, in the order in which one would set it; each row keeps the settings of the rows before it.
levers = (
    ("all weights", dict(use_lora=False, use_4bit=False, gradient_checkpointing=False)),
    ("an adapter", dict(use_lora=True)),
    ("gradient checkpointing", dict(gradient_checkpointing=True)),
    ("4-bit weights", dict(use_4bit=True)),
    ("pictures of 256 pixels squared", dict(max_image_size=256)),
)


def main():
    "Count every row and write the log anew"
    from vlrlbook.fit import will_fit
    from vlrlbook.settings import GRPOSettings, read_settings
    rows, given = [], dict(size="gpu")
    for what, changed in levers:
        given |= changed
        ways = will_fit(read_settings(GRPOSettings, given))["ways"]
        row = next(way for way in ways if way["way"] == "shared")
        parts = {name: round(row[name], 2) for name in ("weights", "optimizer", "activations", "training", "sampling")}
        rows.append(dict(what=what, **parts, **made_by()))
    write_log(log, rows)
