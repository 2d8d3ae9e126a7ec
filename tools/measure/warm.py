"""The warm start's loss, with two initial spreads of the weights.

    python tools/logs.py warm [STEPS]

Supervised steps of a tiny twin whose weights were drawn with the spread of large models (0.02) and with
ours (0.1). Takes two minutes for each at 280 steps, the default. Writes nbs/logs/05_warm_start.csv."""
from measure.common import write_log


def main(
    steps: str = "280",  # supervised steps with each spread; 280 are those of chapter 05's preset
):
    "A row a step"
    from vlrlbook.grpo import supervised
    rows = []
    for spread in (0.02, 0.1):
        _, losses = supervised("qwen2_5_vl", int(steps), 0, spread=spread)
        for step, loss in enumerate(losses, 1):
            rows.append(dict(spread=spread, step=step, loss=round(loss, 4)))
    # Both curves in one column: the page draws a line for each spread that it finds.
    write_log("05_warm_start.csv", rows)
