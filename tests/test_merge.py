"""A LoRA adapter is merged as contracted, and one of another base is refused."""
import json

import pytest
import torch
from vlrlbook.core import cast
from vlrlbook.data import encode
from vlrlbook.models import add_lora, load_vlm, merge_lora, save_model, tiny_twin


def shaken(model, folder, r=4):
    "An adapter that changes the model, saved"
    torch.manual_seed(1)
    adapted = add_lora(model, r=r, alpha=2 * r, dropout=0.0).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder)
    return adapted


def logits(model, processor):
    "Of the last token of a real prompt with a picture"
    with torch.no_grad(): return model(**encode(processor, [cast()])).logits[:, -1].float()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "A bfloat16 base in several weight files, and an adapter of it"
    folder = tmp_path_factory.mktemp("merge")
    model, processor = tiny_twin("qwen2_5_vl")
    model.generation_config.update(temperature=0.77, do_sample=True)
    save_model(model.to(torch.bfloat16), processor, folder / "base", max_shard_size=500_000)
    shaken(load_vlm(str(folder / "base"), dtype="bfloat16")[0], folder / "adapter")
    return folder


def test_merge_keeps_what_the_base_has(pair):
    merge_lora(str(pair / "base"), str(pair / "adapter"), str(pair / "merged"))
    merged, base = (json.loads((pair / n / "config.json").read_text()) for n in ("merged", "base"))
    assert merged["dtype"] == base["dtype"] == "bfloat16" and merged["tie_word_embeddings"]
    files = [sorted(p.name for p in (pair / n).glob("model-*.safetensors")) for n in ("merged", "base")]
    assert files[0] == files[1] and len(files[0]) > 1
    keys = [json.loads((pair / n / "model.safetensors.index.json").read_text())["weight_map"] for n in ("merged", "base")]
    assert set(keys[0]) == set(keys[1]) and "lm_head.weight" not in keys[0]
    assert json.loads((pair / "merged/generation_config.json").read_text())["temperature"] == 0.77
    assert {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json",
            "manifest.json"} <= {p.name for p in (pair / "merged").iterdir()}
    model = load_vlm(str(pair / "merged"), dtype="bfloat16")[0]
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_merged_logits_are_the_adapters(pair):
    merge_lora(str(pair / "base"), str(pair / "adapter"), str(pair / "merged32"), dtype="float32")
    plain, processor = load_vlm(str(pair / "base"), dtype="float32")
    adapted, merged = load_vlm(str(pair / "base"), adapter=str(pair / "adapter"),
                               dtype="float32")[0], load_vlm(str(pair / "merged32"), dtype="float32")[0]
    assert (logits(adapted, processor) - logits(merged, processor)).abs().max() < 1e-4
    assert (logits(adapted, processor) - logits(plain, processor)).abs().max() > 0.1


@pytest.mark.parametrize("family,config", [("qwen2_5_vl", dict(width=64)), ("qwen2_5_vl", dict(depth=2)),
    ("qwen2_5_vl", dict(depth=6)), ("aria", {}), ("qwen2_vl", {}), ("qwen3_vl", {})], ids=str)
def test_an_adapter_of_another_base_is_refused(pair, tmp_path, family, config):
    "PEFT itself takes four of these six without an error"
    save_model(*tiny_twin(family, **config), tmp_path / "other")
    with pytest.raises(ValueError, match="adapter is an adapter of another base than other"):
        merge_lora(str(tmp_path / "other"), str(pair / "adapter"), str(tmp_path / "merged"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other"]


def test_hub_names_that_differ_are_refused(pair, tmp_path):
    from vlrlbook.models import _put_on
    model, _ = tiny_twin("qwen2_5_vl")
    shaken(model, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    for name in ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
        with pytest.raises(ValueError, match="of another base than Qwen2.5-VL-3B-Instruct: it was trained on"):
            _put_on(tiny_twin("qwen2_5_vl")[0], "Qwen/Qwen2.5-VL-3B-Instruct", str(tmp_path / "adapter"), False)


def test_merge_refuses_what_is_there(pair):
    with pytest.raises(FileExistsError, match="is there already"): merge_lora(str(pair / "base"), str(pair / "adapter"), str(pair / "base"))
    with pytest.raises(FileNotFoundError, match="no adapter_config.json"):
        merge_lora(str(pair / "base"), str(pair / "base"), str(pair / "nowhere"))
    assert not (pair / "nowhere").exists()
