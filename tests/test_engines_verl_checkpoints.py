"""verl's own engines (FSDP 1 and 2) and checkpoint managers write, `merge-shards` reads; verl's own merger beside it.
`make test-engines` makes the environment (.venv-verl); elsewhere this skips."""
import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from vlrlbook.easyr1 import merge_shards
from vlrlbook.models import save_model, tiny_twin

PYTHON = Path(os.environ.get("VLRLBOOK_VERL", ROOT / ".venv-verl/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with verl: run `make test-engines`")
def cases():
    "What each checkpoint is written with, by name"
    found = {}
    for strategy, world, rank in itertools.product(("fsdp", "fsdp2"), (1, 2, 4), (0, 4)):
        found[f"{strategy}, {world}{', lora' if rank else ''}"] = dict(strategy=strategy, world=world, lora_rank=rank)
    return found


CASES = cases()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "What verl wrote, case by case"
    home = tmp_path_factory.mktemp("verl")
    save_model(*tiny_twin("qwen2_5_vl"), home / "twin")
    done = subprocess.run([PYTHON, ROOT / "tests/support/verl_checkpoint.py", home / "twin", home / "out", json.dumps(CASES)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for told in sorted(home.glob("out/*/actor.txt")): print(told, told.read_text())
    return home / "out"


def plain(name):
    "A name without what FSDP, peft and either writer put into it"
    for word in ("_fsdp_wrapped_module.", "base_model.model.", ".base_layer", ".default"): name = name.replace(word, "")
    return name


def spoken(whole):
    "torch's own full state dict, adapter and base: plain name → weight"
    adapter = {plain(name): weight for name, weight in whole.items() if "lora_" in name}
    return {plain(name): weight for name, weight in whole.items() if "lora_" not in name}, adapter


def loaded(folder):
    "Every weight of a model directory under the names of its class, as it is stored"
    from transformers import AutoModelForImageTextToText
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()


def same(ours, theirs):
    "The names whose numbers differ, or that one side lacks"
    return [name for name in ours.keys() | theirs.keys() if name not in ours or name not in theirs or
            not torch.equal(ours[name], theirs[name])]


gathered = [name for name, case in CASES.items() if case["world"] == 1 or case["strategy"] == "fsdp2"]


@pytest.mark.parametrize("name", gathered)
def test_what_verl_saved_is_merged_bit_for_bit(home, tmp_path, name):
    "Beside the whole weights, as torch itself gathers them"
    base, adapter = spoken(load_file(home / name / "whole.safetensors"))
    merge_shards(home / name / "actor", tmp_path / "ours")
    for key in adapter:
        if ".lora_B." not in key: continue
        weight = key.replace(".lora_B.", ".")
        base[weight] = base[weight] + (adapter[key] @ adapter[key.replace(".lora_B.", ".lora_A.")]) * 2 # alpha 8, rank 4
    assert bool(adapter) == bool(CASES[name]["lora_rank"])
    assert not same(loaded(tmp_path / "ours"), base)


@pytest.mark.parametrize("name", CASES)
def test_verls_own_merger_makes_the_same(home, tmp_path, name):
    "It writes weights as bfloat16, ours keeps the float32 of the shards: the same numbers, and theirs rounded"
    theirs = home / name / "theirs"
    assert not (home / name / "theirs.txt").exists() and not (home / name / "actor.txt").exists()
    if CASES[name]["lora_rank"]:
        # theirs leaves an adapter beside its base, as ours does when it is asked to
        merge_shards(home / name / "actor", tmp_path / "ours", lora="adapter")
        ours = load_file(tmp_path / "ours/adapter_model.safetensors")
        beside = load_file(theirs / "lora_adapter/adapter_model.safetensors")
    else:
        merge_shards(home / name / "actor", tmp_path / "ours")
        ours, beside = loaded(tmp_path / "ours"), loaded(theirs)
    assert ours and {weight.dtype for weight in ours.values()} == {torch.float32}
    assert not same({name: weight.to(beside[name].dtype) for name, weight in ours.items() if name in beside}, beside)
    assert ours.keys() == beside.keys()
