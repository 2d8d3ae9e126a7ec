"""Merge a sharded checkpoint in one of two ways: `merge_shards.py WAY ACTOR OUT DTYPE SMALL`.

WAY is "one tensor at a time" or "everything loaded", ACTOR the folder with the shards, OUT the model folder
to write, SMALL a folder with the config of a small model of the same family."""
import json
import sys
import time
from pathlib import Path

import safetensors.torch  # noqa: F401, like the next two: all loaded before memory is measured
import torch
import torch.distributed.tensor
import transformers
import transformers.core_model_loading  # noqa: F401
from vlrlbook.core import peak_memory_mb


def our_way():
    "Chapter 09's merging, loaded"
    from vlrlbook.easyr1 import merge_shards

    def merge(actor, out, dtype):
        # Without a dtype it keeps that of the shards, which is float32 here: no tensor is copied for it.
        merge_shards(actor, out, None if dtype == "float32" else dtype)
    return merge


def everything_loaded(actor, out, dtype):
    "The usual way: all ranks in memory, one state dict, one model"
    # By rank, since pieces of a tensor are joined in that order.
    files = sorted(Path(actor).glob("model_world_size_*.pt"), key=rank_of)
    ranks = []
    for path in files:
        # They hold distributed tensors, which torch does not load by their names alone; we have written them.
        ranks.append(torch.load(path, map_location="cpu", weights_only=False))
    dtype, whole = getattr(torch, dtype), {}
    for name in list(ranks[0]):
        pieces = [rank.pop(name).to_local().to(dtype) for rank in ranks]
        whole[name] = torch.cat(pieces)
    config = transformers.AutoConfig.from_pretrained(Path(actor) / "huggingface")
    # Made without memory for its weights: they are in `whole` already.
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.to_empty(device="cpu")
    model.save_pretrained(out, state_dict=whole)


def rank_of(path):
    "Number at the end of a shard's name; as text, 10 would come before 2"
    return int(path.stem.rsplit("_", 1)[1])


def main(way, actor, out, dtype, small):
    "Print seconds and the memory that merging added"
    # Only the way that is measured is loaded, so that the other one's imports cannot serve it.
    merge = everything_loaded if way == "everything loaded" else our_way()
    # A model of the family is built once, so that what transformers imports on the way is not counted.
    config = transformers.AutoConfig.from_pretrained(small)
    transformers.AutoModelForImageTextToText.from_config(config)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel begins a new mark of the most memory
    held_mb = peak_memory_mb()
    start = time.perf_counter()
    merge(actor, out, dtype)
    seconds = time.perf_counter() - start
    print("ROW", json.dumps(dict(seconds=seconds, added_mb=peak_memory_mb() - held_mb)))


if __name__ == "__main__":
    main(*sys.argv[1:])
