"""llama.cpp's converter over a merged model: every weight arrives in the GGUF files as it was.
`make test-engines` makes the environment (.venv-gguf); elsewhere this skips."""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from vlrlbook.models import add_lora, load_vlm, merge_lora, save_model, tiny_twin

PYTHON = Path(os.environ.get("VLRLBOOK_GGUF", ROOT / ".venv-gguf/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with llama.cpp's converter: run `make test-engines`")
# a layer's words in the text model: GGUF's → transformers'
WORDS = dict(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", attn_q="self_attn.q_proj", attn_k="self_attn.k_proj",
             attn_v="self_attn.v_proj", attn_output="self_attn.o_proj", ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj",
             ffn_down="mlp.down_proj")
OUTSIDE = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}


def converted(model, out, tokenizer):
    "What the converter says, as a finished process"
    out.mkdir()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [PYTHON, ROOT / "tests/support/gguf_worker.py", model, out, tokenizer]
    return subprocess.run(words, capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A merged model, and what the converter made of it"
    home = tmp_path_factory.mktemp("gguf")
    save_model(*tiny_twin("qwen2_5_vl"), home / "base")
    adapted = add_lora(load_vlm(str(home / "base"), dtype="float32")[0], r=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name: weight.normal_(std=0.1)
    adapted.save_pretrained(home / "adapter")
    merge_lora(str(home / "base"), str(home / "adapter"), str(home / "merged"))
    done = converted(home / "merged", home / "out", "twin")
    assert done.returncode == 0, done.stderr[-4000:]
    return home


def language_name(name):
    "transformers' name, from behind the language model's, of a tensor of text.gguf"
    layer, word, kind = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(\w+)", name).groups() if name not in OUTSIDE else (None,) * 3
    return OUTSIDE.get(name) or f"layers.{layer}.{WORDS[word]}.{kind}"


def test_every_weight_of_the_language_model_arrives(world):
    merged = load_file(world / "merged/model.safetensors")
    base = load_file(world / "base/model.safetensors")
    arrived = load_file(world / "out/text.safetensors")
    ours = {key: weight for key, weight in merged.items() if "visual" not in key and key != "lm_head.weight"} # tied: written once
    assert len(arrived) == len(ours) == 50
    changed = 0
    for name, weight in arrived.items():
        [key] = [key for key in ours if key.endswith("." + language_name(name))]
        assert torch.equal(weight, ours[key]), name
        changed += not torch.equal(weight, base[key])
    assert changed == 28 # the layers that the adapter trained: seven in each of four


def test_every_weight_of_the_vision_tower_arrives(world):
    "GGUF parts what transformers keeps together: q, k and v, and the two frames of a patch"
    merged = {key: weight for key, weight in load_file(world / "merged/model.safetensors").items() if "visual" in key}
    arrived = load_file(world / "out/mmproj.safetensors")
    wanted = []
    for key, weight in merged.items():
        if ".qkv." in key: wanted += weight.chunk(3)
        elif "patch_embed" in key: wanted += [weight[:, :, 0], weight[:, :, 1]]
        else: wanted.append(weight)
    assert len(wanted) == len(arrived) == 55
    for weight in wanted: assert any(weight.shape == other.shape and torch.equal(weight, other) for other in arrived.values())


def test_a_twins_own_tokenizer_is_none_that_llama_cpp_knows(world):
    "So the figures above need the one line of gguf_worker.py that names it; the hub's own Qwen tokenizers are known"
    done = converted(world / "merged", world / "refused", "known")
    assert done.returncode != 0 and "BPE pre-tokenizer was not recognized" in done.stderr
