"""A model directory in the form of the hub's Qwen2.5-VL-3B: flat config, old names of weights, several files, a
tokenizer of Qwen's class with vocab.json and merges.txt, JSON that no library would format like this."""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from vlrlbook.model_files import export_for_transformers_4
from vlrlbook.models import save_model, tiny_twin

ODD_BYTES = b'{\n    "a": 1.0e-06,\t"\xc3\xa9": "\xe6\x95\xb0"}  \n'


def hub_base(folder, family="qwen2_5_vl", dtype=torch.bfloat16, flat=True):
    "Write the directory; returns it"
    folder = Path(folder)
    model, processor = tiny_twin(family)
    save_model(model.to(dtype), processor, folder / "made")
    base = export_for_transformers_4(folder / "made", folder / "base")
    (base / "manifest.json").unlink() # the hub has none
    config = json.loads((base / "config.json").read_text())
    if flat and family != "qwen3_vl" and family != "aria":
        text = config.pop("text_config")
        text.pop("model_type")
        if "mrope_section" in (text.get("rope_scaling") or {}):
            text["rope_scaling"] = dict(type="mrope", mrope_section=text["rope_scaling"]["mrope_section"])
        config = config | text
    # Four spaces and no line at the end: nothing of this book writes JSON like that.
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "4.41.2"}, indent=4))
    (base / "generation_config.json").write_text('{"do_sample":true,"temperature":0.000001,"eos_token_id":[2,0]}')
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]
    (base / "vocab.json").write_text(json.dumps(vocabulary["vocab"], ensure_ascii=False))
    (base / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in vocabulary["merges"]))
    (base / "chat_template.json").write_text(json.dumps(dict(chat_template=(base / "chat_template.jinja").read_text())))
    (base / "README.md").write_bytes(b"---\nlicense: other\r\n---\n\xf0\x9f\xa4\x97")
    (base / "configuration.json").write_bytes(ODD_BYTES)
    (base / "figures").mkdir()
    (base / "figures/a.txt").write_text("kept")
    _in_two_files(base)
    return base


def _in_two_files(base):
    "model.safetensors in two files and an index, the first with a tensor that the model does not have"
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(weights, reverse=True)
    halves = [names[:len(names) // 2], names[len(names) // 2:]]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({n: weights[n] for n in half}, base / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    text = json.dumps(dict(weight_map=weight_map, metadata=dict(total_size=total)), indent=3)
    (base / "model.safetensors.index.json").write_text(text)
