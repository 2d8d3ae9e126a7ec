"""Shards merged one tensor at a time and by loading everything: seconds, memory.

    python tools/logs.py shards [ROUNDS]

Three checkpoints of 260 to 520 MB on four ranks, merged by both ways in turns, each time in a process of
its own; medians of three ROUNDS unless said otherwise. Takes three minutes. Writes nbs/logs/09_shards.csv."""
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

from measure.common import made_by, run_program, write_log

ranks = 4
checkpoints = [(8, "float32"), (16, "float32"), (16, "bfloat16")]  # layers of the twin, dtype after merging
ways = ["one tensor at a time", "everything loaded"]
mebibyte = 2**20


def main(
    rounds: str = "3",  # of both ways, for each checkpoint
):
    "A row for each checkpoint and way"
    rows = []
    for depth, dtype in checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of_checkpoint(Path(folder), depth, dtype, int(rounds))
    write_log("09_shards.csv", rows)


def rows_of_checkpoint(
    folder: Path,  # empty, and removed afterwards
    depth: int,  # layers of the twin
    dtype: str,  # of the merged model
    rounds: int,  # of both ways
) -> list:  # a row a way
    "Shard a model, then merge it again and again"
    from vlrlbook.easyr1 import shard_model
    from vlrlbook.models import tiny_twin
    small = shard_model(*tiny_twin("qwen2_5_vl"), folder / "small", world_size=1)
    model, processor = tiny_twin("qwen2_5_vl", width=1024, depth=depth)
    actor = shard_model(model, processor, folder / "actor", world_size=ranks)
    runs = {way: [] for way in ways}
    # In turns, so that what else the machine does in these minutes hits both.
    for _ in range(rounds):
        for way in ways:
            # Writing over a model folder costs otherwise than writing a new one.
            shutil.rmtree(folder / way, ignore_errors=True)
            words = [way, actor, folder / way, dtype, small / "huggingface"]
            runs[way].append(run_program("merge_shards.py", *words))
    stop_unless_same_weights(*(folder / way for way in ways))
    size = sum(path.stat().st_size for path in actor.glob("*.pt"))
    # One tensor at a time cannot add less memory than this one takes.
    largest = max(parameter.nbytes for parameter in model.parameters())
    about = dict(
        checkpoint_mb=round(size / mebibyte, 1),
        largest_tensor_mb=round(largest / mebibyte, 1),
        ranks=ranks,
        dtype=dtype,
    )
    return [about | way_columns(way, found) for way, found in runs.items()]


def way_columns(way, runs):
    "Medians and extremes of one way"
    seconds = [run["seconds"] for run in runs]
    added_mb = [run["added_mb"] for run in runs]
    machine = made_by()
    return dict(
        way=way,
        seconds=round(median(seconds), 2),
        seconds_low=round(min(seconds), 2),
        seconds_high=round(max(seconds), 2),
        added_mb=round(median(added_mb), 1),
        added_mb_low=round(min(added_mb), 1),
        added_mb_high=round(max(added_mb), 1),
        rounds=len(runs),
        commit=machine["commit"],
        device=machine["device"],
        torch=version("torch"),  # it reads the shards, so its version stands beside the figures
    )


def stop_unless_same_weights(
    ours: Path,  # model folder that was written one tensor at a time
    theirs: Path,  # the same by loading everything; it may hold a tied tensor twice
):
    "A fast way to wrong weights is not worth a row"
    import torch
    our_weights, their_weights = read_weights(ours), read_weights(theirs)
    # So the first may lack a name of the second, and never the other way round.
    for name, weight in our_weights.items():
        if name not in their_weights or not torch.equal(weight, their_weights[name]):
            sys.exit(f"the two ways wrote different weights: {name}")


def read_weights(folder):
    "All tensors of a model folder by name"
    from safetensors.torch import load_file
    weights = {}
    for path in folder.glob("*.safetensors"):
        weights |= load_file(path)
    return weights
