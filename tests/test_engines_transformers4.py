"""What we write is loaded by transformers 4.57, which EasyR1 runs on: same logits, tokens and pixels as in this release.
`make test-engines` makes the environment (.venv-transformers4); elsewhere this skips."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from support.hub_base import hub_base
from test_merge import shaken
from vlrlbook.core import cast
from vlrlbook.data import encode
from vlrlbook.easyr1 import merge_shards, shard_model
from vlrlbook.models import load_vlm, merge_lora, save_model, tiny_twin
from vlrlbook.model_files import export_for_transformers_4

PYTHON = Path(os.environ.get("VLRLBOOK_TRANSFORMERS4", ROOT / ".venv-transformers4/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with transformers 4.57: run `make test-engines`")
TEXT = "How many discs are there? abnormal 12 <think>"


def saved_by_5(model, processor, folder):
    "As transformers 5 saves it by itself"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def made(family, home):
    "Every kind of directory that we write of a family"
    model, processor = tiny_twin(family)
    save_model(model, processor, home / "saved")
    export_for_transformers_4(saved_by_5(model, processor, home / "five"), home / "exported")
    base = hub_base(home / "hub", family, torch.float32)
    shaken(load_vlm(str(base), dtype="float32")[0], home / "adapter")
    merge_lora(str(base), str(home / "adapter"), str(home / "merged"))
    merge_lora(f"tiny-{family}", str(home / "adapter"), str(home / "merged_twin"))
    merge_lora(str(home / "five"), str(home / "adapter"), str(home / "merged_five"), transformers_4=True)
    actor = shard_model(*load_vlm(str(base), dtype="float32"), home / "actor", world_size=2)
    merge_shards(str(actor), str(home / "sharded_of_5"))
    export_for_transformers_4(home / "sharded_of_5", home / "sharded")
    return ["saved", "exported", "hub/base", "merged", "merged_twin", "merged_five", "sharded"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    "(family, kind) → what this release gives, what transformers 4.57 gives, and what it said; one process for all"
    asked, ours = {}, {}
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "aria"):
        home = tmp_path_factory.mktemp(family)
        for kind in [*made(family, home), "five"]:
            folder = home / kind
            model, processor = load_vlm(str(folder), dtype="float32")
            given = encode(processor, [cast()])
            inputs = home / f"{kind.replace('/', '_')}.npz"
            np.savez(inputs, **{k: v.numpy() for k, v in given.items()})
            with torch.no_grad(): logits = model(**given).logits.numpy()
            asked[str(folder)], ours[family, kind] = str(inputs), (model, processor, logits, str(folder), inputs)
    done = subprocess.run([PYTHON, ROOT / "tests/support/transformers4_worker.py"], input=json.dumps(asked), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.split("ANSWER")[1])
    return {key: (*found, said[found[3]]) for key, found in ours.items()}


KINDS = ["saved", "exported", "hub/base", "merged", "merged_twin", "merged_five", "sharded"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "aria"])
def test_loads_with_the_same_logits_tokens_and_pixels(worlds, family, kind):
    model, processor, logits, _, inputs, said = worlds[family, kind]
    assert said.get("error") is None and said["version"].startswith("4.57") and said["wrong"] == {}, said
    theirs = np.load(f"{inputs}.out.npz")
    with torch.no_grad():
        words = torch.tensor(theirs["words"])
        text = model(input_ids=words, attention_mask=torch.ones_like(words)).logits.numpy()
    assert np.abs(theirs["text"] - text).max() <= 1e-6
    if family != "aria": # whose 4.57 gives the patches of its tower other positions, next test
        assert np.abs(theirs["logits"] - logits).max() <= 1e-6
    assert processor.tokenizer(TEXT)["input_ids"] == theirs["own"].tolist() and said["eos"] == processor.tokenizer.eos_token
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]}]
    asked = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert said["said"] == asked
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8))
    own = processor(text=[asked], images=[picture], return_tensors="pt")
    assert own["input_ids"].tolist() == theirs["ids"].tolist()
    assert own["pixel_values"].shape == theirs["pixels"].shape and np.abs(own["pixel_values"].numpy() - theirs["pixels"]).max() < 0.05


def test_arias_tower_differs_between_the_releases_themselves(worlds):
    "transformers 4.57 and 5.17 put the patches of Idefics3's tower into other buckets; the weights are not at fault"
    logits, inputs = (worlds["aria", "hub/base"][i] for i in (2, 4))
    assert np.abs(np.load(f"{inputs}.out.npz")["logits"] - logits).max() > 1e-3


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_what_transformers_5_saves_by_itself_does_not_load_there(worlds, family):
    "If this fails, the export for transformers 4 is no longer needed"
    said = worlds[family, "five"][5]
    assert "error" in said or said["wrong"]
