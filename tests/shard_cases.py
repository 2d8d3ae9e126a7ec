"""Shards that the tests of reading and of merging share"""
import shutil

import pytest
import torch
from vlrlbook import easyr1 as e
from vlrlbook.models import tiny_twin


@pytest.fixture(scope="module")
def twin(): return tiny_twin("qwen2_5_vl")


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def actor(twin, home): return e.shard_model(*twin, home / "global_step_10" / "actor", world_size=4)


@pytest.fixture(scope="module")
def reference(twin, home):
    twin[0].save_pretrained(home / "reference")
    return home / "reference"


def logits(model, inputs):
    with torch.no_grad(): return model.eval()(**inputs).logits


def inputs_of(processor):
    from vlrlbook.core import cast
    from vlrlbook.data import encode
    return encode(processor, [cast()])


def weights(folder):
    from safetensors.torch import load_file
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def copy(actor, tmp_path): return shutil.copytree(actor, tmp_path / "actor")


def change(path, key, how):
    held = torch.load(path, weights_only=False)
    torch.save(held | {key: how(held[key])}, path)


def refused(folder, tmp_path, error, match, **more):
    with pytest.raises(error, match=match): e.merge_shards(str(folder), str(tmp_path / "out"), **more)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "actor") == []
