"""A LoRA adapter is merged as contracted, and one of another base is refused."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlrlbook.core import cast
from vlrlbook.data import encode
from vlrlbook.model_files import only_for_transformers_5
from vlrlbook.models import add_lora, load_vlm, merge_lora, save_model, tiny_twin


def shaken(model, folder, r=4, std=0.05):
    "An adapter that changes the model, saved"
    torch.manual_seed(1)
    adapted = add_lora(model, r=r, alpha=2 * r, dropout=0.0).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight, std=std)
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


def test_a_folder_without_an_adapter_is_refused_before_the_base_is_loaded(pair, tmp_path):
    with pytest.raises(FileNotFoundError, match="nope: no adapter_config.json there"):
        merge_lora("tiny-no_such_family", str(tmp_path / "nope"), str(tmp_path / "out"))


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


def test_an_adapter_of_a_folder_with_other_numbers_is_refused(pair, tmp_path):
    "Same family, same shapes: two warm starts, or a model and what was trained from it"
    other = tmp_path / "other"
    shutil.copytree(pair / "base", other)
    file = sorted(other.glob("*.safetensors"))[0]
    weights = load_file(file)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="adapter is an adapter of another base than other: .*base, where 1 of [0-9]+ weights have"):
        load_vlm(str(other), adapter=str(pair / "adapter"))


@pytest.mark.parametrize("how", ["copied", "another type", "one file", "a link", "base gone"])
def test_an_adapter_fits_any_copy_of_its_base(pair, tmp_path, how):
    base, adapter, copy = (tmp_path / name for name in ("base", "adapter", "copy"))
    shutil.copytree(pair / "base", base)
    shutil.copytree(pair / "adapter", adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    if how in ("copied", "base gone"): shutil.copytree(base, copy)
    if how == "a link": copy.symlink_to(base)
    if how in ("another type", "one file"):
        model, processor = load_vlm(str(base), dtype="float32" if how == "another type" else "bfloat16")
        save_model(model, processor, copy)
    if how == "base gone": shutil.rmtree(base)
    load_vlm(str(copy), adapter=str(adapter))


def test_hub_names_that_differ_are_refused(pair, tmp_path):
    from vlrlbook.models import with_adapter
    model, _ = tiny_twin("qwen2_5_vl")
    shaken(model, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    for name in ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
        with pytest.raises(ValueError, match="of another base than Qwen2.5-VL-3B-Instruct: it was trained on"):
            with_adapter(tiny_twin("qwen2_5_vl")[0], "Qwen/Qwen2.5-VL-3B-Instruct", str(tmp_path / "adapter"), False)


@pytest.mark.parametrize("trained_on, base, says", [
    ("unsloth/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "is taken for a copy of Qwen/Qwen2.5-VL-3B-Instruct"),
    ("unsloth/qwen2.5-vl-3b-instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-VL-3B-Instruct", "is taken for a copy of"),
    ("Qwen/Qwen2.5-VL-3B-Instruct", "unsloth/Qwen2.5-VL-3B-Instruct-bnb-4bit", "is taken for a copy of"),
    ("qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", ""), # one repository, in other letters
    ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", ""),
    ("/gone/Qwen2-VL-Finetune/models/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", ""),
    ("/gone/rhymes-ai/Aria/models/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "")], ids=str)
def test_a_copy_of_the_base_on_the_hub_or_in_a_gone_folder(pair, tmp_path, trained_on, base, says, capsys):
    from vlrlbook.models import with_adapter
    model = load_vlm(str(pair / "base"))[0]
    capsys.readouterr()
    with_adapter(model, base, edited(pair / "adapter", tmp_path, base_model_name_or_path=trained_on))
    said = capsys.readouterr().out
    assert said == "" or says and f"adapter: trained on {trained_on}, which {says}" in said


@pytest.mark.parametrize("trained_on, says", [
    ("unsloth/Qwen2.5-VL-7B-Instruct", "trained on unsloth/Qwen2.5-VL-7B-Instruct; if that is the same model, write Qwen/Qwen2.5-VL-3B"),
    ("me/counting-bnb-4bit", "it was trained on me/counting-bnb-4bit; if that is the same model, write .* into adapter_config.json"),
    ("/gone/Qwen2.5-VL-exp/models/Qwen2-VL-2B-Instruct", "trained on Qwen2-VL-2B-Instruct, a qwen2_vl, and this is a qwen2_5_vl; if"),
    ("/gone/Qwen2-VL-SFT/checkpoint-40", "it was trained on checkpoint-40, a qwen2_vl, and this is a qwen2_5_vl; if"),
    ("rhymes-ai/Aria-Chat", "it was trained on Aria-Chat, a aria, and this is a qwen2_5_vl; if")], ids=str)
def test_an_adapter_of_another_name_is_refused_with_a_way_out(pair, tmp_path, trained_on, says):
    from vlrlbook.models import with_adapter
    adapter = edited(pair / "adapter", tmp_path, base_model_name_or_path=trained_on)
    with pytest.raises(ValueError, match=f"adapter is an adapter of another base than Qwen2.5-VL-3B-Instruct: .*{says}"):
        with_adapter(load_vlm(str(pair / "base"))[0], "Qwen/Qwen2.5-VL-3B-Instruct", adapter)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "qwen3_5"])
def test_a_twin_is_merged_whether_transformers_4_knows_its_family_or_not(tmp_path, family):
    model, processor = tiny_twin(family)
    plain = logits(model, processor)
    adapted = shaken(model, tmp_path / "adapter")
    merge_lora(f"tiny-{family}", str(tmp_path / "adapter"), str(tmp_path / "merged"))
    merged = load_vlm(str(tmp_path / "merged"), dtype="float32")[0]
    assert (logits(adapted, processor) - logits(merged, processor)).abs().max() < 1e-4
    assert (logits(adapted, processor) - plain).abs().max() > 0.01
    assert bool(only_for_transformers_5(tmp_path / "merged")) == (family != "qwen3_vl")


def test_merge_refuses_what_is_there(pair):
    with pytest.raises(FileExistsError, match="is there already"): merge_lora(str(pair / "base"), str(pair / "adapter"), str(pair / "base"))
    with pytest.raises(FileNotFoundError, match="no adapter_config.json"):
        merge_lora(str(pair / "base"), str(pair / "base"), str(pair / "nowhere"))
    assert not (pair / "nowhere").exists()


# A merge changes weights and nothing else

from safetensors import safe_open
from support.hub_base import hub_base


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "aria"])
def from_hub(request, tmp_path_factory):
    "A base in the hub's form, an adapter of it, and both merged"
    folder = tmp_path_factory.mktemp(request.param)
    base = hub_base(folder, request.param)
    (base / "pytorch_model.bin").write_bytes(b"old weights")
    (base / ".cache").mkdir()
    (base / ".cache/x").write_text("hidden")
    model = load_vlm(str(base), dtype="bfloat16")[0]
    shaken(model, folder / "adapter")
    merge_lora(str(base), str(folder / "adapter"), str(folder / "merged"))
    return folder


def files_of(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_other_file_of_the_base_stays_byte_for_byte(from_hub):
    base, merged = files_of(from_hub / "base"), files_of(from_hub / "merged")
    assert merged.pop("manifest.json")
    # weights in another form and hidden files would be the old model, or nothing of the model
    assert base.pop("pytorch_model.bin") and base.pop(".cache/x")
    assert set(merged) == set(base)
    different = sorted(name for name in base if base[name] != merged[name])
    # one of both files may hold the vision tower alone
    assert different and all(name.startswith("model-0000") for name in different)


def test_the_adapters_tensors_differ_and_no_other(from_hub):
    layers = {k.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for f in [from_hub / "adapter/adapter_model.safetensors"]
              for k in safe_open(f, "pt").keys()}
    differ, kept = set(), 0
    for path in (from_hub / "base").glob("*.safetensors"):
        with open(path, "rb") as old, open(from_hub / "merged" / path.name, "rb") as new:
            assert old.read(8 + 500) == new.read(8 + 500) # header: names, types, shapes, order
        with safe_open(path, "pt") as old, safe_open(from_hub / "merged" / path.name, "pt") as new:
            for name in old.keys():
                if torch.equal(old.get_tensor(name), new.get_tensor(name)): kept += 1
                else: differ.add(name)
    assert len(differ) == len(layers) and kept > len(differ)
    # in either dialect a name ends with its layer's name
    assert {name.split("layers.")[1] for name in differ} == {f"{layer.split('layers.')[1]}.weight" for layer in layers}


def test_the_merged_hub_model_has_the_adapters_logits(from_hub):
    adapted, processor = load_vlm(str(from_hub / "base"), adapter=str(from_hub / "adapter"), dtype="float32")
    merged = load_vlm(str(from_hub / "merged"), dtype="float32")[0]
    plain = load_vlm(str(from_hub / "base"), dtype="float32")[0]
    # the merged weights are bfloat16, which has 8 bits
    gap = (logits(adapted, processor) - logits(merged, processor)).abs().max()
    assert gap < 0.1 * (logits(adapted, processor) - logits(plain, processor)).abs().max()


def test_another_number_type_changes_the_type_and_the_adapters_tensors(from_hub, tmp_path):
    merge_lora(str(from_hub / "base"), str(from_hub / "adapter"), str(tmp_path / "wide"), dtype="float32")
    config, before = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "wide", from_hub / "base"))
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config | {"torch_dtype": "bfloat16", "dtype": "bfloat16"} == before
    for path in (from_hub / "base").glob("*.safetensors"):
        with safe_open(path, "pt") as old, safe_open(tmp_path / "wide" / path.name, "pt") as new:
            assert set(old.keys()) == set(new.keys())
            same = [n for n in old.keys() if torch.equal(old.get_tensor(n).float(), new.get_tensor(n))]
            assert all(new.get_tensor(n).dtype == torch.float32 for n in new.keys()) and len(same) > 5
    index = json.loads((tmp_path / "wide/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * json.loads(
        (from_hub / "base/model.safetensors.index.json").read_text())["metadata"]["total_size"]
    adapted, processor = load_vlm(str(from_hub / "base"), adapter=str(from_hub / "adapter"), dtype="float32")
    merged = load_vlm(str(tmp_path / "wide"), dtype="float32")[0]
    assert (logits(adapted, processor) - logits(merged, processor)).abs().max() < 1e-4


def test_a_base_with_weights_in_pytorchs_own_form(pair, tmp_path):
    "They are written as safetensors under the hub's names, and the descriptions stay"
    import shutil
    base = shutil.copytree(pair / "base", tmp_path / "base")
    (base / "model.safetensors.index.json").unlink()
    weights = {}
    for path in base.glob("*.safetensors"):
        with safe_open(path, "pt") as f: weights |= {n: f.get_tensor(n) for n in f.keys()}
        path.unlink()
    torch.save(weights, base / "pytorch_model.bin")
    merge_lora(str(base), str(pair / "adapter"), str(tmp_path / "merged"))
    assert (tmp_path / "merged/config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not (tmp_path / "merged/pytorch_model.bin").exists()
    with safe_open(tmp_path / "merged/model.safetensors", "pt") as f: assert set(f.keys()) == set(weights)


def edited(adapter, folder, **changes):
    "A copy of an adapter with other words in its config; None takes a word out"
    import shutil
    copy = shutil.copytree(adapter, folder / "adapter")
    config = json.loads((copy / "adapter_config.json").read_text()) | changes
    (copy / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return copy


@pytest.mark.parametrize("changes, says", [
    (dict(lora_alpha=0), "lora_alpha = 0, and so changes nothing"),
    (dict(lora_alpha=0.0), "lora_alpha = 0, and so changes nothing"),
    (dict(lora_alpha=None), "does not say its lora_alpha"),
    (dict(alpha_pattern={"q_proj": 0}), "q_proj = 0, and so changes nothing")], ids=str)
def test_an_adapter_without_a_true_alpha_is_refused(pair, tmp_path, changes, says):
    adapter = edited(pair / "adapter", tmp_path, **changes)
    with pytest.raises(ValueError, match=f"adapter_config.json.* {says}"):
        merge_lora(str(pair / "base"), str(adapter), str(tmp_path / "merged"))
    with pytest.raises(ValueError, match=says): load_vlm(str(pair / "base"), adapter=str(adapter))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_an_adapter_that_is_not_a_number_is_refused(pair, tmp_path):
    from safetensors.torch import load_file, save_file
    adapter = edited(pair / "adapter", tmp_path)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name][0, 0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        merge_lora(str(pair / "base"), str(adapter), str(tmp_path / "merged"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parts, says", [
    (dict(target_modules=["lm_head", "q_proj"]), "adapts 'lm_head', and 'lm_head.weight' and .*embed_tokens.weight' are one tensor"),
    (dict(target_modules=["embed_tokens"]), "adapts 'model.language_model.embed_tokens', and 'lm_head.weight' and"),
    (dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), "holds one tensor for 'lm_head.weight' and .* as a whole"),
    (dict(target_modules=["q_proj"], trainable_token_indices=[1, 2]), None)], ids=str)
def test_an_adapter_of_one_of_two_tied_weights_is_refused(tmp_path, parts, says):
    "Merged, the model answered otherwise than the adapted one; single tokens are trained on both sides"
    from peft import LoraConfig, get_peft_model
    model, processor = tiny_twin("qwen2_5_vl")
    save_model(model, processor, tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, **parts))
    for weight in adapted.parameters():
        if weight.requires_grad: weight.data.add_(torch.randn_like(weight) / 10)
    adapted.save_pretrained(tmp_path / "adapter")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "merged")]
    if says is None:
        merge_lora(*paths)
        assert (logits(adapted.eval(), processor) - logits(load_vlm(paths[2], dtype="float32")[0], processor)).abs().max() < 1e-4
        return
    with pytest.raises(ValueError, match=says): merge_lora(*paths)
    assert not (tmp_path / "merged").exists()


def test_null_in_a_config_stays_null_for_transformers_4(tmp_path):
    from vlrlbook.model_files import for_transformers_4
    config = dict(model_type="qwen2_vl", vision_config=None, text_config=None, rope_parameters=None, dtype="float32")
    processor = dict(processor_class="Qwen2VLProcessor", image_processor=None, video_processor=dict(size=1))
    for name, content in (("config", config), ("processor_config", processor)): (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for_transformers_4(tmp_path)
    def read(name): return json.loads((tmp_path / f"{name}.json").read_text())
    assert read("config") == config | dict(torch_dtype="float32")
    assert read("processor_config") == dict(processor_class="Qwen2VLProcessor", image_processor=None)
    assert read("video_preprocessor_config") == dict(processor_class="Qwen2VLProcessor", size=1)
    assert not (tmp_path / "preprocessor_config.json").exists()
    (tmp_path / "processor_config.json").write_text('{"image_processor": {}}')
    with pytest.raises(ValueError, match="processor_config.json names no processor_class"): for_transformers_4(tmp_path)


def test_quantised_weights_are_refused_by_name(pair, tmp_path):
    from safetensors.torch import load_file, save_file
    from vlrlbook.model_files import replace_weights
    (tmp_path / "base").mkdir(), (tmp_path / "out").mkdir()
    save_file({"a": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "base/model.safetensors")
    with pytest.raises(ValueError, match="'a' is stored as U8 .4.* quantised"):
        replace_weights(tmp_path / "base", tmp_path / "out", {"a": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="no weight file holds 'b'(?!.*__metadata__)"):
        replace_weights(tmp_path / "base", tmp_path / "out", {"b": torch.zeros(2, 4)})


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_trained_biases_are_merged(tmp_path, bias):
    "Those of layers without LoRA, which bias=all trains, were lost"
    from peft import get_peft_model
    from vlrlbook.models import lora_config
    save_model(*tiny_twin("qwen2_5_vl"), tmp_path / "base")
    model, processor = load_vlm(str(tmp_path / "base"), dtype="float32")
    config = lora_config(model, 4, 8, 0.0)
    config.bias = bias
    adapted = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and "lora_A" not in name: weight.data.add_(torch.randn_like(weight) / 10)
    adapted.save_pretrained(tmp_path / "adapter")
    merge_lora(*(str(tmp_path / name) for name in ("base", "adapter", "merged")))
    merged = load_vlm(str(tmp_path / "merged"), dtype="float32")[0]
    assert (logits(adapted.eval(), processor) - logits(merged, processor)).abs().max() < 1e-4
    before, after = (load_weights(tmp_path / name) for name in ("base", "merged"))
    changed = {name for name in before if name.endswith(".bias") and not torch.equal(before[name], after[name])}
    assert any("visual" in name for name in changed) == (bias == "all") and bool(changed) == (bias != "none")


def load_weights(folder):
    from safetensors.torch import load_file
    return {name: tensor for path in folder.glob("[!.]*.safetensors") for name, tensor in load_file(path).items()}


def test_auto_is_a_number_type_for_a_merge(pair, tmp_path):
    "It was a KeyError after base and adapter had been loaded and merged"
    from vlrlbook.models import pick_dtype
    merge_lora(str(pair / "base"), str(pair / "adapter"), str(tmp_path / "merged"), dtype="auto")
    weights = load_weights(tmp_path / "merged")
    assert {tensor.dtype for tensor in weights.values()} == {pick_dtype("auto")}
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == str(pick_dtype("auto")).removeprefix("torch.")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3400000\n"


@pytest.mark.parametrize("content, told", [
    (POINTER, "model.safetensors: no safetensors file: git has left a pointer in its place; run git lfs pull"),
    (b"", "no safetensors file: it is cut short"), (b"abc", "it is cut short"), (b"\x20" + bytes(7) + b"{", "it is cut short"),
    (b"\x02" + bytes(7) + b"{x and more", "or of another format"), (b"PK\x03\x04" * 40, "or of another format")])
def test_a_file_that_is_no_safetensors_is_named(tmp_path, content, told):
    "Of a pointer of git-lfs the first bytes were taken for a length of petabytes: a bare MemoryError"
    from vlrlbook.model_files import stored_dtype
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=told): stored_dtype(tmp_path)


def test_a_pointer_in_the_base_is_named(pair, tmp_path):
    import shutil
    base = shutil.copytree(pair / "base", tmp_path / "base")
    sorted(base.glob("*.safetensors"))[-1].write_bytes(POINTER)
    with pytest.raises(ValueError, match="run git lfs pull there"): merge_lora(str(base), str(pair / "adapter"), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_hidden_files_of_another_system_are_no_weights(pair, tmp_path):
    "macOS writes ._model.safetensors on disks of other systems; transformers loads such a folder"
    import shutil
    from vlrlbook.model_files import export_for_transformers_4
    base = shutil.copytree(pair / "base", tmp_path / "base")
    for path in list(base.glob("*.safetensors*")): (base / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07" * 40)
    for name, dtype in (("kept", "keep"), ("wide", "float32")):
        merge_lora(str(base), str(pair / "adapter"), str(tmp_path / name), dtype=dtype)
        assert not list((tmp_path / name).glob("._*"))
    merge_lora(str(pair / "base"), str(pair / "adapter"), str(tmp_path / "plain"))
    plain, kept = load_weights(tmp_path / "plain"), load_weights(tmp_path / "kept")
    assert set(plain) == set(kept) and all(torch.equal(plain[name], kept[name]) for name in plain)
    assert not list(export_for_transformers_4(base, tmp_path / "exported").glob("._*"))


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
@pytest.mark.parametrize("is_twin", [False, True])
def test_a_family_that_is_not_written_for_transformers_4_is_refused_first(tmp_path, family, is_twin, monkeypatch):
    "It was loaded and merged, and then told that transformers 4.57 does not know Gemma 3"
    from vlrlbook import models
    from vlrlbook.model_files import export_for_transformers_4
    from vlrlbook.settings import SettingsError
    save_model(*tiny_twin(family), tmp_path / "base")
    name = f"tiny-{family}" if is_twin else str(tmp_path / "base")
    says = f"^{'tiny-' + family if is_twin else 'base'}: its model_type is '{family}', and this package writes only qwen2_vl, .* for"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    monkeypatch.setattr(models, "load_vlm", lambda *given, **more: pytest.fail("a model was loaded"))
    with pytest.raises(SettingsError, match=says):
        merge_lora(name, str(tmp_path / "adapter"), str(tmp_path / "merged"), transformers_4=True)
    with pytest.raises(SettingsError, match="^base: its model_type is .* for transformers 4$"):
        export_for_transformers_4(tmp_path / "base", tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_gemma_3_that_transformers_4_reads_as_it_is_is_merged_for_it(tmp_path):
    "As one of the hub, whose config and tokenizer need not be rewritten"
    from vlrlbook.model_files import export_for_transformers_4
    base = tmp_path / "base"
    save_model(*tiny_twin("gemma3"), base)
    for file, key, value in (("config", "rope_theta", 1e6), ("tokenizer_config", "tokenizer_class", "PreTrainedTokenizerFast")):
        content = json.loads((base / f"{file}.json").read_text())
        content.pop("extra_special_tokens", None)
        content.get("text_config", content).update({key: value, "tie_word_embeddings": True})
        (base / f"{file}.json").write_text(json.dumps(content))
    assert only_for_transformers_5(base) == []
    shaken(load_vlm(str(base))[0], tmp_path / "adapter")
    merge_lora(str(base), str(tmp_path / "adapter"), str(tmp_path / "merged"), transformers_4=True)
    export_for_transformers_4(base, tmp_path / "exported")
    assert all((tmp_path / name / "config.json").read_bytes() == (base / "config.json").read_bytes() for name in ("merged", "exported"))


# Adapters that an older transformers wrote (the names were compared with those of transformers 4.51.3, peft 0.15.2)

QWEN_OF_4_51 = {"model.language_model.": "model.", "model.visual.": "visual."}
OTHERS_OF_4_51 = {"model.language_model.": "language_model.model.", "model.multi_modal_projector.": "multi_modal_projector.",
                  "lm_head.": "language_model.lm_head."}
NAMES_OF_4_51 = dict(qwen2_vl=QWEN_OF_4_51, qwen2_5_vl=QWEN_OF_4_51, aria=OTHERS_OF_4_51 | {"model.vision_tower.": "vision_tower."},
                     gemma3=OTHERS_OF_4_51 | {"model.vision_tower.": "vision_tower.vision_model."})


def of_4_51(adapter, folder, family, **config):
    "A copy of an adapter with the names of weights that transformers 4.51 gave them, and other words in its config"
    (folder / "made").mkdir(parents=True)
    old = edited(adapter, folder / "made", **config).rename(folder / "old")
    def named(key):
        key = key.removeprefix("base_model.model.")
        new, former = next(pair for pair in NAMES_OF_4_51[family].items() if key.startswith(pair[0]))
        return "base_model.model." + former + key.removeprefix(new)
    weights = load_file(old / "adapter_model.safetensors")
    save_file({named(key): weight for key, weight in weights.items()}, old / "adapter_model.safetensors", metadata={"format": "pt"})
    return old


def drawn(base, folder, **config):
    "An adapter of PEFT, with weights that change the model; returns it on its base, and the processor"
    from peft import LoraConfig, get_peft_model
    model, processor = load_vlm(str(base), dtype="float32")
    adapted = get_peft_model(model, LoraConfig(**(dict(r=4, lora_alpha=8) | config))).eval()
    torch.manual_seed(2)
    for weight in adapted.parameters():
        if weight.requires_grad: weight.data.add_(torch.randn_like(weight) / 10)
    adapted.save_pretrained(folder)
    return adapted, processor


@pytest.mark.parametrize("family", NAMES_OF_4_51)
def test_an_adapter_with_the_names_of_an_older_transformers(tmp_path, family, capsys):
    "It was refused as one of another base"
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_model(*tiny_twin(family), base)
    adapted, processor = drawn(base, adapter, target_modules=["q_proj", "v_proj", "gate_proj"])
    old, wanted = of_4_51(adapter, tmp_path / "o", family), logits(adapted, processor)
    assert not {*load_file(old / "adapter_model.safetensors")} & {*load_file(adapter / "adapter_model.safetensors")}
    capsys.readouterr()
    loaded = load_vlm(str(base), adapter=str(old), dtype="float32", trainable=True)[0]
    assert "old: its weights have the names of an older transformers, which are translated" in capsys.readouterr().out
    assert (logits(loaded, processor) - wanted).abs().max() < 1e-5 and any(w.requires_grad for w in loaded.parameters())
    merge_lora(str(base), str(old), str(tmp_path / "merged"))
    assert (logits(load_vlm(str(tmp_path / "merged"), dtype="float32")[0], processor) - wanted).abs().max() < 1e-4
    loaded.save_pretrained(tmp_path / "again") # in today's names, which are not translated
    capsys.readouterr()
    again = load_vlm(str(base), adapter=str(tmp_path / "again"), dtype="float32")[0]
    assert (logits(again, processor) - wanted).abs().max() < 1e-5 and "older" not in capsys.readouterr().out


@pytest.mark.parametrize("now, then", [
    (dict(target_modules=r"model\.language_model\.layers\.\d+\.self_attn\.[qv]_proj"),
     dict(target_modules=r"model\.layers\.\d+\.self_attn\.[qv]_proj")),
    (dict(target_modules=r"model\.language_model.*\.[qv]_proj"), dict(target_modules=r"^(model)(?!.*(lm_head|emb)).*\.[qv]_proj$")),
    (dict(target_modules=r"model\.language_model.*_proj"), dict(target_modules=r"^(model).*_proj$")), # the tower has gate_proj, too
    (dict(target_modules=["model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv"]),
     dict(target_modules=["model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.qkv"])),
    (dict(target_modules=["gate_proj"], exclude_modules=r"model\.visual.*"), dict(exclude_modules="visual.*")),
    (dict(target_modules=["q_proj", "qkv"], rank_pattern={"model.language_model.layers.0.self_attn.q_proj": 2, "qkv": 3},
          alpha_pattern={r"model\.visual.*qkv": 5}),
     dict(rank_pattern={"^model.layers.0.self_attn.q_proj": 2, "qkv": 3}, alpha_pattern={r"^visual.*qkv": 5})),
    (dict(target_modules=["q_proj"], modules_to_save=["model.visual.merger"]), dict(modules_to_save=["visual.merger"])),
    (dict(target_modules=["q_proj"], trainable_token_indices={"model.language_model.embed_tokens": [1, 5]}),
     dict(trainable_token_indices={"model.embed_tokens": [1, 5]}))], ids=lambda config: "-".join(config))
def test_patterns_of_layers_mean_the_names_of_their_time(tmp_path, now, then):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_model(*tiny_twin("qwen2_5_vl"), base)
    adapted, processor = drawn(base, adapter, **now)
    loaded = load_vlm(str(base), adapter=str(of_4_51(adapter, tmp_path / "o", "qwen2_5_vl", **then)), dtype="float32")[0]
    assert (logits(loaded, processor) - logits(adapted, processor)).abs().max() < 1e-5
    loaded.save_pretrained(tmp_path / "again")
    again = load_vlm(str(base), adapter=str(tmp_path / "again"), dtype="float32")[0]
    assert (logits(again, processor) - logits(adapted, processor)).abs().max() < 1e-5


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("targets", [["q_proj"], r"^model\.layers.*\.q_proj$"], ids=str)
def test_an_older_adapter_of_another_base_is_refused(tmp_path, depth, targets):
    "Also where its pattern names layers that it has no weights for"
    for name, twin in (("base", tiny_twin("qwen2_5_vl")), ("other", tiny_twin("qwen2_5_vl", depth=depth))):
        save_model(*twin, tmp_path / name)
    drawn(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"])
    old = of_4_51(tmp_path / "adapter", tmp_path / "o", "qwen2_5_vl", target_modules=targets, base_model_name_or_path="")
    with pytest.raises(ValueError, match="old is an adapter of another base than other: . of its 8 weights have no place there"):
        load_vlm(str(tmp_path / "other"), adapter=str(old))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_an_adapter_with_todays_names_is_read_as_it_is(tmp_path, family, capsys):
    save_model(*tiny_twin(family), tmp_path / "base")
    targets = r".*language_model.*\.(q|v)_proj"
    adapted, processor = drawn(tmp_path / "base", tmp_path / "adapter", target_modules=targets)
    loaded = load_vlm(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), dtype="float32")[0]
    assert (logits(loaded, processor) - logits(adapted, processor)).abs().max() < 1e-6
    assert loaded.peft_config["default"].target_modules == targets and "older" not in capsys.readouterr().out
