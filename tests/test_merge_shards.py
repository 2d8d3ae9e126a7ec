"""Shards of real processes merged, and every way in which a checkpoint can be broken"""
import csv
import json
import os
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from shard_cases import actor, change, copy, home, inputs_of, logits, reference, refused, twin, weights
from vlrlbook import easyr1 as e
from vlrlbook.core import SettingsError, book_file, damage
from vlrlbook.easyr1 import merge, shards
from vlrlbook.models import add_lora, families, tiny_twin


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine, world_size, replicas", [("fsdp2", 1, 1), ("fsdp1", 1, 1), ("fsdp2", 2, 1), ("fsdp1", 2, 2),
    ("fsdp2", 2, 2), ("fsdp1", 3, 1), ("fsdp1", 4, 2), ("fsdp2", 4, 2), ("fsdp2", 8, 1), ("fsdp1", 8, 4), ("fsdp2", 8, 2)])
def test_every_mesh_gives_the_model_back(twin, home, reference, engine, world_size, replicas):
    folder = e.shard_model(*twin, home / f"{engine}-{world_size}-{replicas}", world_size, replicas, engine)
    out = home / f"merged-{engine}-{world_size}-{replicas}"
    report = e.merge_shards(str(folder), str(out), test=str(reference))
    assert report["equal_to_reference"] == report["tensors"] == len(twin[0].state_dict()) - 1 # tied: the head is the embedding
    assert report["ranks"] == world_size and damage(out) is None
    if (world_size, engine) != (1, "fsdp1") and not (engine == "fsdp1" and replicas == world_size):
        assert report["mesh"] == ("fsdp" if replicas == 1 else "ddp, fsdp")


def test_merged_model_gives_the_same_logits(twin, actor, home):
    from vlrlbook.models import load_vlm
    e.merge_shards(str(actor), str(home / "merged"))
    merged, processor = load_vlm(str(home / "merged"))
    inputs = inputs_of(twin[1])
    assert torch.equal(logits(merged, inputs), logits(twin[0], inputs))
    assert torch.equal(inputs_of(processor)["pixel_values"], inputs["pixel_values"])
    assert merged.generation_config.eos_token_id == twin[0].generation_config.eos_token_id


@pytest.mark.parametrize("family", sorted(set(families) - {"qwen2_5_vl"}))
def test_other_families(family, home):
    model, processor = tiny_twin(family)
    folder = e.shard_model(model, processor, home / family, world_size=3)
    model.save_pretrained(home / f"{family}-reference")
    assert e.merge_shards(str(folder), str(home / f"{family}-merged"),
                          test=str(home / f"{family}-reference"))["equal_to_reference"] == len(model.state_dict()) - 1
    assert set(weights(home / f"{family}-merged")) == set(weights(home / f"{family}-reference"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine, world_size, replicas", [("fsdp1", 1, 1), ("fsdp1", 4, 2), ("fsdp2", 3, 1)])
def test_a_state_dict_as_verl_saves_it(twin, actor, reference, tmp_path, engine, world_size, replicas):
    "`model.state_dict()` itself: an OrderedDict that carries the versions of its modules"
    import torch.multiprocessing as mp
    folder = tmp_path / "actor"
    shutil.copytree(actor / "huggingface", folder / "huggingface")
    processes = [mp.get_context("fork").Process(target=save_as_verl,
        args=(twin[0], folder, rank, world_size, replicas, engine)) for rank in range(world_size)]
    for p in processes: p.start()
    for p in processes: p.join(120)
    assert [p.exitcode for p in processes] == [0] * world_size
    assert e.merge_shards(str(folder), test=str(reference))["equal_to_reference"] == 92


def save_as_verl(model, folder, rank, world_size, replicas, engine):
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardedStateDictConfig, StateDictType
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/.meeting", rank=rank, world_size=world_size)
    sharded = shards._fsdp(model, world_size, replicas, engine)
    if engine == "fsdp1":
        FullyShardedDataParallel.set_state_dict_type(sharded, StateDictType.SHARDED_STATE_DICT,
            ShardedStateDictConfig(offload_to_cpu=False))
    state = sharded.state_dict()
    assert state._metadata
    torch.save(state, folder / f"model_world_size_{world_size}_rank_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_untied_and_bfloat16(home, twin):
    from transformers import AutoModelForImageTextToText
    config = deepcopy(twin[0].config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = AutoModelForImageTextToText.from_config(config).to(torch.bfloat16)
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    folder = e.shard_model(model, twin[1], home / "untied", world_size=2)
    report = e.merge_shards(str(folder), str(home / "untied-merged"))
    assert report["tensors"] == len(model.state_dict()) and report["dtype"] == "bfloat16"
    assert torch.equal(weights(home / "untied-merged")["lm_head.weight"], model.lm_head.weight)
    assert json.loads((home / "untied-merged/config.json").read_text())["dtype"] == "bfloat16"


def with_placement(kind):
    def how(x):
        x._spec.placements = (kind,)
        return x
    return how


def in_bfloat16(x):
    "Without DTensor's own dispatch: what it remembers of an equal tensor may hold another rank's mesh"
    spec = replace(x._spec, tensor_meta=x._spec.tensor_meta._replace(dtype=torch.bfloat16))
    return torch.distributed.tensor.DTensor(x._local_tensor.bfloat16(), spec, requires_grad=False)


def test_missing_ranks(actor, tmp_path):
    folder = copy(actor, tmp_path)
    for rank in (0, 2): (folder / f"model_world_size_4_rank_{rank}.pt").unlink()
    refused(folder, tmp_path, e.ShardError, "2 of 4 ranks missing: model_world_size_4_rank_0.pt, model_world_size_4_rank_2.pt")


def test_truncated_rank(actor, tmp_path):
    folder = copy(actor, tmp_path)
    path = folder / "model_world_size_4_rank_1.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    refused(folder, tmp_path, e.ShardError, "model_world_size_4_rank_1.pt: cut off")


def test_unreadable_rank(actor, tmp_path):
    folder = copy(actor, tmp_path)
    (folder / "model_world_size_4_rank_1.pt").unlink()
    (folder / "model_world_size_4_rank_1.pt").mkdir()
    refused(folder, tmp_path, IsADirectoryError, "rank_1.pt")


def test_two_world_sizes(actor, tmp_path):
    folder = copy(actor, tmp_path)
    shutil.copy(folder / "model_world_size_4_rank_0.pt", folder / "model_world_size_8_rank_0.pt")
    refused(folder, tmp_path, e.ShardError, "of world sizes 4 and 8")


def test_a_rank_that_cannot_be(actor, tmp_path):
    folder = copy(actor, tmp_path)
    shutil.copy(folder / "model_world_size_4_rank_0.pt", folder / "model_world_size_4_rank_4.pt")
    refused(folder, tmp_path, e.ShardError, "rank 4 cannot be")


@pytest.mark.parametrize("a, b", [(0, 3), (1, 2)])
def test_a_rank_under_the_wrong_name(actor, tmp_path, a, b):
    folder = copy(actor, tmp_path)
    a_path, b_path, aside = (folder / f"model_world_size_4_rank_{x}.pt" for x in (a, b, "x"))
    for source, target in ((a_path, aside), (b_path, a_path), (aside, b_path)): source.rename(target)
    refused(folder, tmp_path, e.ShardError, f"rank_{a}.pt: was written by rank {b}")


def test_a_part_of_the_wrong_size(actor, tmp_path):
    folder = copy(actor, tmp_path)
    def shorter(x):
        x._local_tensor = x._local_tensor[:-1].clone()
        return x
    change(folder / "model_world_size_4_rank_2.pt", "model.visual.merger.ln_q.weight", shorter)
    refused(folder, tmp_path, e.ShardError, r"rank_2.pt: model.visual.merger.ln_q.weight has a part of \[15\], its place is \[16\]")


@pytest.mark.parametrize("how, why", [
    (in_bfloat16, "is bfloat16 here, float32 on rank 0"),
    (lambda x: x.to_local(), "lm_head.weight is plain here"),
    (with_placement(torch.distributed.tensor.Shard(1)), r"\[525, 128\], cut along 1, mesh \[4\] here, \[525, 128\], cut along 0"),
    (with_placement(torch.distributed.tensor.Partial()), "has placement Partial: each rank holds a summand"),
    (with_placement(torch.distributed.tensor.placement_types._StridedShard(0, split_factor=2)),
     "has placement _StridedShard: only Shard and Replicate"),
])
def test_ranks_that_disagree(actor, tmp_path, how, why):
    folder = copy(actor, tmp_path)
    change(folder / "model_world_size_4_rank_2.pt", "lm_head.weight", how)
    refused(folder, tmp_path, e.ShardError, f"rank_2.pt: .*{why}") # tied tensors share one description


def test_keys_that_one_rank_has_not(actor, tmp_path):
    folder = copy(actor, tmp_path)
    path = folder / "model_world_size_4_rank_2.pt"
    held = torch.load(path, weights_only=False)
    del held["model.visual.patch_embed.proj.weight"]
    torch.save(held, path)
    refused(folder, tmp_path, e.ShardError, "rank_2.pt: 'model.visual.patch_embed.proj.weight' is missing; it is in rank 0")


def test_copies_that_differ(twin, home, tmp_path):
    folder = e.shard_model(*twin, tmp_path / "actor", 4, 2)
    def nudge(x):
        x.to_local()[3, 1] += 1
        return x
    for key in ("lm_head.weight", "model.language_model.embed_tokens.weight"): change(folder / "model_world_size_4_rank_3.pt", key, nudge)
    refused(folder, tmp_path, e.ShardError, "rank 3 and rank 1 should hold the same numbers")


def test_tied_tensors_that_differ(actor, tmp_path):
    folder = copy(actor, tmp_path)
    change(folder / "model_world_size_4_rank_3.pt", "lm_head.weight", lambda x: x + 1)
    refused(folder, tmp_path, e.ShardError, "ties 'lm_head.weight' to 'model.language_model.embed_tokens.weight', but rank 3")


@pytest.mark.parametrize("lacking", ["lm_head.weight", "model.language_model.embed_tokens.weight"])
def test_one_of_two_tied_tensors_is_enough(actor, reference, tmp_path, lacking):
    folder = copy(actor, tmp_path)
    for rank in range(4):
        path = folder / f"model_world_size_4_rank_{rank}.pt"
        held = torch.load(path, weights_only=False)
        del held[lacking]
        torch.save(held, path)
    assert e.merge_shards(str(folder), test=str(reference))["equal_to_reference"] == 92


def test_names_of_older_transformers(actor, reference, tmp_path):
    "Before 4.52 the class called its parts as the hub's files do; wrappers leave their own marks"
    folder, wanted = copy(actor, tmp_path), e.wanted_tensors(actor / "huggingface")
    for rank in range(4):
        path = folder / f"model_world_size_4_rank_{rank}.pt"
        torch.save({"_fsdp_wrapped_module." + wanted.hub[k]: v for k, v in torch.load(path, weights_only=False).items()}, path)
    assert e.merge_shards(str(folder), test=str(reference))["equal_to_reference"] == 92


def test_keys_that_do_not_fit_the_config(actor, tmp_path):
    folder = copy(actor, tmp_path)
    for rank in range(4):
        path = folder / f"model_world_size_4_rank_{rank}.pt"
        held = torch.load(path, weights_only=False)
        held["model.language_model.layers.0.mlp.upp_proj.weight"] = held.pop("model.language_model.layers.0.mlp.up_proj.weight")
        torch.save(held, path)
    refused(folder, tmp_path, e.ShardError, "2 misfits between shards and config.json: unexpected '.*upp_proj.weight': "
            "did you mean '.*up_proj.weight'.; missing '.*up_proj.weight'")


@pytest.mark.parametrize("old, new, why", [('"hidden_size": 128', '"hidden_size": 64', "the config wants"),
    ('"Qwen2_5_VLForConditionalGeneration"', '"Qwen2_5_VLForConditionalGenerating"', "did you mean 'Qwen2_5_VLForConditionalGeneration'")])
def test_another_config(actor, tmp_path, old, new, why):
    folder = copy(actor, tmp_path)
    path = folder / "huggingface/config.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    refused(folder, tmp_path, e.ShardError, why)


def test_no_config_no_folder_no_shards(actor, tmp_path):
    folder = copy(actor, tmp_path)
    shutil.rmtree(folder / "huggingface")
    refused(folder, tmp_path, FileNotFoundError, "no config.json")
    with pytest.raises(FileNotFoundError, match="no such directory"): e.merge_shards(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="did you mean 'actor' in it"): e.merge_shards(str(tmp_path), str(tmp_path / "out"))


@pytest.mark.parametrize("given, why", [(dict(dtype="bf16"), "dtype = 'bf16': did you mean 'bfloat16'"),
    (dict(dtype="int8"), "dtype = 'int8'"), (dict(lora="merged"), "did you mean 'merge'"), (dict(lora="adapter"), "hold no adapter")])
def test_arguments(actor, tmp_path, given, why): refused(actor, tmp_path, (SettingsError, e.ShardError), why, **given)


def test_output_must_be_new_or_empty(actor, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    e.merge_shards(str(actor), str(out))
    assert damage(out) is None
    before = sorted(os.listdir(out))
    with pytest.raises(FileExistsError, match="there already and not empty"): e.merge_shards(str(actor), str(out))
    assert sorted(os.listdir(out)) == before
    with pytest.raises(SettingsError, match="give output_dir, test, or both"): e.merge_shards(str(actor))


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_a_merge_that_dies_leaves_nothing(actor, tmp_path, monkeypatch, fault):
    whole, seen = e.assemble, []
    def dies(pieces, shape, key="tensor"):
        seen.append(key)
        if len(seen) == 30: raise fault
        return whole(pieces, shape, key)
    monkeypatch.setattr(merge, "assemble", dies)
    with pytest.raises(type(fault)): e.merge_shards(str(actor), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_writing(actor, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), dict(free=1000)))
    with pytest.raises(OSError, match="needs 0.0 GB, 0.0 GB are free"): e.merge_shards(str(actor), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def plain(folder, parts, key="model.language_model.norm.weight"):
    "The checkpoint with one tensor replaced by plain ones, one a rank"
    for rank, part in enumerate(parts): change(folder / f"model_world_size_4_rank_{rank}.pt", key, lambda x: part)


@pytest.mark.parametrize("cut", [lambda w: [w] * 4, lambda w: w.chunk(4), lambda w: w.split([100, 0, 20, 8])])
def test_plain_tensors_whole_or_in_parts(twin, actor, reference, tmp_path, cut):
    folder = copy(actor, tmp_path)
    plain(folder, [p.clone() for p in cut(twin[0].state_dict()["model.language_model.norm.weight"])])
    assert e.merge_shards(str(folder), test=str(reference))["equal_to_reference"] == 92


def test_plain_tensors_that_are_neither(actor, tmp_path):
    folder = copy(actor, tmp_path)
    plain(folder, [torch.zeros(50)] * 4)
    refused(folder, tmp_path, e.ShardError, r"plain tensors of \[50\], .* are neither whole nor parts of \[128\]")


def test_plain_copies_that_differ(actor, tmp_path):
    folder = copy(actor, tmp_path)
    plain(folder, [torch.zeros(128)] * 3 + [torch.ones(128)])
    refused(folder, tmp_path, e.ShardError, "rank 3 and rank 0 should hold the same numbers")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype(actor, reference, tmp_path, dtype):
    report = e.merge_shards(str(actor), str(tmp_path / "out"), dtype=dtype, test=str(reference))
    right, found = weights(reference), weights(tmp_path / "out")
    for name, tensor in found.items(): assert torch.equal(tensor, right[name].to(getattr(torch, dtype)))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert report["dtype"] == config["dtype"] == dtype
    assert {v.get("dtype", dtype) for v in config.values() if isinstance(v, dict)} == {dtype}
    from transformers import AutoModelForImageTextToText
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


def test_numbers_too_large_for_float16(actor, tmp_path):
    folder = copy(actor, tmp_path)
    change(folder / "model_world_size_4_rank_2.pt", "model.language_model.norm.weight", lambda x: x * 1e6)
    refused(folder, tmp_path, e.ShardError,
            "model.language_model.norm.weight: numbers up to 1e\\+06 are too large for float16", dtype="float16")


INFINITE = float("inf")


@pytest.mark.parametrize("numbers, right", [([INFINITE, 1e6], None), ([float("nan"), -1e6, 1.0], None),
                                            ([INFINITE, 1.0], [INFINITE, 1.0]), ([65504.0, -INFINITE], [65504.0, -INFINITE])])
def test_only_a_finite_number_that_becomes_infinite_is_a_fault(numbers, right):
    tensor = torch.tensor(numbers)
    if right is not None: assert merge._converted(tensor, "float16", "w").tolist() == right
    else:
        with pytest.raises(e.ShardError, match=r"w: numbers up to 1e\+06 are too large for float16"):
            merge._converted(tensor, "float16", "w")


def test_several_files_and_their_index(twin, actor, reference, tmp_path):
    from vlrlbook.models import load_vlm
    report = e.merge_shards(str(actor), str(tmp_path / "out"), max_shard_gb=0.001)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert report["files"] == len(set(index["weight_map"].values())) > 2
    assert all(p.stat().st_size < 1.05e6 for p in (tmp_path / "out").glob("*.safetensors"))
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in weights(tmp_path / "out").values())
    inputs = inputs_of(twin[1])
    assert torch.equal(logits(load_vlm(str(tmp_path / "out"))[0], inputs), logits(twin[0], inputs))
    assert e.merge_shards(str(actor), test=str(tmp_path / "out"))["equal_to_reference"] == 92


def test_reference_that_differs(twin, actor, home, tmp_path):
    from safetensors.torch import save_file
    right = weights(home / "reference") if (home / "reference").exists() else {}
    assert right
    for change_one, why in ((lambda w: w | {"visual.merger.ln_q.weight": w["visual.merger.ln_q.weight"] + 1},
                             "differs in 64 of 64 numbers, by up to 1"),
                            (lambda w: {k: v for k, v in w.items() if k != "visual.merger.ln_q.weight"}, "is not in the reference"),
                            (lambda w: w | {"visual.merger.ln_q.weight": torch.zeros(2)}, r"has shape \[64\], the reference's \[2\]"),
                            (lambda w: w | {"another.weight": torch.zeros(2)}, "'another.weight' is only in the reference")):
        (tmp_path / "reference").mkdir(exist_ok=True)
        save_file(change_one(right), tmp_path / "reference/model.safetensors")
        with pytest.raises(e.ShardError, match=why): e.merge_shards(str(actor), str(tmp_path / "out"), test=str(tmp_path / "reference"))
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="no safetensors there"): e.merge_shards(str(actor), test=str(actor))


def test_weights_beside_the_config_are_not_copied(twin, actor, tmp_path):
    "verl can be told to save the model in huggingface/ too: then it is the reference"
    folder = copy(actor, tmp_path)
    twin[0].save_pretrained(folder / "huggingface", max_shard_size="1MB")
    e.merge_shards(str(folder), str(tmp_path / "out"), test=str(folder / "huggingface"))
    assert [p.name for p in (tmp_path / "out").iterdir() if "safetensors" in p.name] == ["model.safetensors"]


def test_a_tokenizer_that_was_not_saved_is_said(actor, tmp_path):
    "EasyR1 goes on when saving it fails"
    folder = copy(actor, tmp_path)
    for path in (folder / "huggingface").glob("tokenizer*"): path.unlink()
    assert e.merge_shards(str(folder), str(tmp_path / "out"))["lacks"].startswith("tokenizer")
    assert "lacks" not in e.merge_shards(str(actor), str(tmp_path / "other"))


@pytest.fixture(scope="module")
def tuned(home):
    model, processor = tiny_twin("qwen2_5_vl")
    model = add_lora(model, r=4, alpha=6, dropout=0.0)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name: p.data.normal_(std=0.2)
    return model, e.shard_model(model, processor, home / "tuned", world_size=3), processor


@pytest.mark.parametrize("engine", ["fsdp1", "fsdp2"])
def test_adapter_merged_equals_peft(tuned, home, tmp_path, engine):
    model, _, processor = tuned
    folder = e.shard_model(model, processor, tmp_path / "actor", 2, engine=engine)
    e.merge_shards(str(folder), str(tmp_path / "out"))
    right, wanted = deepcopy(model).merge_and_unload().state_dict(), e.wanted_tensors(folder / "huggingface")
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, right[wanted.find(name)], atol=1e-6, rtol=1e-6)


def test_a_wider_type_keeps_what_the_adapter_adds(tuned, tmp_path):
    "bfloat16 shards merged as float32: the sum is not rounded to bfloat16 on its way"
    model, _, processor = tuned
    half = deepcopy(model).to(torch.bfloat16)
    folder = e.shard_model(half, processor, tmp_path / "actor", 2)
    e.merge_shards(str(folder), str(tmp_path / "out"), dtype="float32")
    right, wanted = half.float().merge_and_unload().state_dict(), e.wanted_tensors(folder / "huggingface")
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, right[wanted.find(name)], atol=1e-6, rtol=1e-6)


def test_adapter_alone_gives_the_same_logits(tuned, reference, tmp_path):
    from vlrlbook.models import load_vlm, save_processor
    model, folder, processor = tuned
    report = e.merge_shards(str(folder), str(tmp_path / "out"), lora="adapter")
    assert report["kind"] == "adapter" and not (tmp_path / "out/config.json").exists() and (tmp_path / "out/tokenizer.json").exists()
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["lora_alpha"], config["r"]) == (6, 4)
    base = shutil.copytree(reference, tmp_path / "base")
    save_processor(processor, base)
    inputs = inputs_of(processor)
    torch.testing.assert_close(logits(load_vlm(str(base), adapter=str(tmp_path / "out"))[0], inputs),
                               logits(model, inputs), atol=1e-4, rtol=1e-4)


def older_name(key):
    "A tensor's key as transformers 4.49 has it"
    renamed = key.replace("model.model.language_model.", "model.model.")
    return renamed.replace("base_model.model.model.visual.", "base_model.model.visual.")


def adapter_notes(written, model):
    "The settings of an adapter beside its shards: rank and alpha alone, whole names of modules, or patterns"
    whole = [older_name(key).removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
             for key in model.state_dict() if "lora_A" in key]
    pattern = next(name for name in whole if name.endswith("q_proj"))
    return dict(none=dict(r=4, lora_alpha=6), whole=dict(r=4, lora_alpha=6, target_modules=whole),
                patterns=dict(r=4, lora_alpha=6, alpha_pattern={pattern: 3, "v_proj": 12}),
                escaped=dict(r=4, lora_alpha=6, alpha_pattern={pattern.replace(".", "\\."): 3}))[written]


@pytest.mark.parametrize("written", ["none", "whole", "patterns", "escaped"])
def test_an_adapter_of_older_transformers_can_be_loaded(tuned, reference, tmp_path, written):
    "Its tensors had the model's names, and its config those of the shards: peft found no such module"
    from vlrlbook.models import load_vlm, save_processor
    model, _, processor = tuned
    folder = e.shard_model(model, processor, tmp_path / "actor", world_size=1)
    rename(folder, 1, older_name)
    shutil.rmtree(folder / "lora_adapter")
    meta = adapter_notes(written, model)
    (folder / "lora_train_meta.json").write_text(json.dumps(meta | dict(task_type="CAUSAL_LM")))
    e.merge_shards(str(folder), str(tmp_path / "out"), lora="adapter")
    base = shutil.copytree(reference, tmp_path / "base")
    save_processor(processor, base)
    adapted = load_vlm(str(base), adapter=str(tmp_path / "out"))[0]
    if "alpha_pattern" not in meta:
        torch.testing.assert_close(logits(adapted, inputs_of(processor)), logits(model, inputs_of(processor)), atol=1e-4, rtol=1e-4)
    e.merge_shards(str(folder), str(tmp_path / "merged"))
    right, merged = adapted.merge_and_unload().state_dict(), weights(tmp_path / "merged")
    wanted = e.wanted_tensors(folder / "huggingface")
    for name, tensor in merged.items(): # also with an alpha of its own for one layer
        torch.testing.assert_close(tensor, right[wanted.find(name)], atol=1e-6, rtol=1e-6)


def test_endings_and_patterns_in_an_adapters_config_stay():
    config = dict(r=4, target_modules=["q_proj", "model.layers.0.up_proj"], rank_pattern={"k_proj": 8, r"^model\.layers\.1": 2})
    found = merge._config_in_model_names(config, {"model.layers.0.up_proj": "model.language_model.layers.0.up_proj"})
    assert found == config | dict(target_modules=["model.language_model.layers.0.up_proj", "q_proj"])
    for text in ("all-linear", None):
        assert merge._config_in_model_names(dict(target_modules=text), {})["target_modules"] == text


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_a_tied_tensor_is_not_dropped(twin, tmp_path):
    "Added to the head, it would change the embedding, too: peft's own merge does that, with a warning"
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(deepcopy(twin[0]), LoraConfig(r=2, lora_alpha=4, target_modules=["lm_head", "q_proj"]))
    folder = e.shard_model(model, twin[1], tmp_path / "actor", world_size=1)
    refused(folder, tmp_path, e.ShardError, "lm_head: the adapter changes 'lm_head.weight', .* 'model.language_model.embed_tokens.weight' "
            "by the config, and a merge would change both; take lora='adapter'")
    e.merge_shards(str(folder), str(tmp_path / "out"), lora="adapter")
    assert "base_model.model.lm_head.lora_B.weight" in weights(tmp_path / "out")


@pytest.mark.parametrize("name, other", [("head", "embedding"), ("embedding", "head")])
def test_either_of_two_tied_tensors_is_refused_an_update(name, other):
    wanted = merge.Wanted(dict.fromkeys(("head", "embedding", "free"), (2, 2)), {}, {"head": "embedding"})
    merge._check_untied(wanted, {"free": "m"})
    with pytest.raises(e.ShardError, match=f"m: the adapter changes '{name}', whose numbers are those of '{other}'"):
        merge._check_untied(wanted, {"free": "n", name: "m"})


def lora_copy(tuned, tmp_path): return shutil.copytree(tuned[1], tmp_path / "actor")


@pytest.mark.parametrize("found, given, alpha",
                         [(dict(r=4, lora_alpha=6, task_type="CAUSAL_LM"), None, 6), (dict(r=4, lora_alpha=0), 12, 12), (None, 3, 3)])
def test_where_alpha_comes_from(tuned, tmp_path, found, given, alpha):
    folder = lora_copy(tuned, tmp_path)
    shutil.rmtree(folder / "lora_adapter")
    if found: (folder / "lora_train_meta.json").write_text(json.dumps(found))
    e.merge_shards(str(folder), str(tmp_path / "out"), lora="adapter", lora_alpha=given)
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["lora_alpha"] == alpha


@pytest.mark.parametrize("write, why",
                         [(None, "their alpha is not known"), (dict(r=4, lora_alpha=0), "their alpha is not known"),
                          (dict(r=8, lora_alpha=6), "factors of rank 4 and 4, adapter_config.json says 8"),
                          (dict(r=4, lora_alpha=6, use_dora=True), "use_dora: its magnitudes"),
                          (dict(r=4, lora_alpha=6, fan_in_fan_out=True), "fan_in_fan_out cannot be merged; take lora='adapter'")])
def test_adapters_that_cannot_be_merged(tuned, tmp_path, write, why):
    folder = lora_copy(tuned, tmp_path)
    shutil.rmtree(folder / "lora_adapter")
    if write: (folder / "lora_train_meta.json").write_text(json.dumps(write))
    refused(folder, tmp_path, e.ShardError, why)


def rename(folder, ranks, how):
    for rank in range(ranks):
        path = folder / f"model_world_size_{ranks}_rank_{rank}.pt"
        torch.save({new: v for k, v in torch.load(path, weights_only=False).items() if (new := how(k))}, path)


@pytest.mark.parametrize("how, why", [
    (lambda k: None if k.endswith("layers.0.self_attn.q_proj.lora_A.default.weight") else k,
     "layers.0.self_attn.q_proj: only one of LoRA's two factors"),
    (lambda k: k.replace("layers.0.self_attn.q_proj.lora", "layers.9.self_attn.q_proj.lora"),
     "layers.9.self_attn.q_proj: an adapter for a layer that the config does not have"),
    (lambda k: k.replace("layers.0.self_attn.q_proj.lora_A.default", "layers.0.self_attn.q_proj.lora_A.second"),
     "several adapters in one checkpoint: default, second"),
    (lambda k: k.replace("lora_A.default.weight", "lora_magnitude_vector.default.weight"), "only LoRA's A and B"),
])
def test_adapter_keys(tuned, tmp_path, how, why):
    folder = lora_copy(tuned, tmp_path)
    rename(folder, 3, how)
    refused(folder, tmp_path, e.ShardError, why)


def test_an_adapter_without_a_name_beside_another():
    from types import SimpleNamespace
    keys = [f"base_model.model.layer.lora_{factor}.{name}weight" for factor in "AB" for name in ("", "other.")]
    with pytest.raises(e.ShardError, match=r"several adapters in one checkpoint: \(unnamed\), other"):
        e.part_lora(SimpleNamespace(pieces=dict.fromkeys(keys)))


def test_rank_stabilised_and_patterns():
    lora = e.Lora(dict(r=4, lora_alpha=8, use_rslora=True, alpha_pattern={"q_proj": 2}, rank_pattern={r"layers\.1\.k_proj": 16}), {})
    assert lora.scale("model.layers.0.v_proj") == 4 and lora.scale("model.layers.0.q_proj") == 1
    assert lora.scale("model.layers.1.k_proj") == 2


def test_memory_holds_one_tensor(actor, tmp_path, monkeypatch):
    "The bytes alive in tensors while merging never exceed the largest tensor and one part"
    import weakref
    alive, most, empty = [0], [0], torch.empty
    def counted(*args, **kwargs):
        t = empty(*args, **kwargs)
        if t.nbytes:
            alive[0] += t.nbytes
            most[0] = max(most[0], alive[0])
            weakref.finalize(t, lambda n=t.nbytes: alive.__setitem__(0, alive[0] - n))
        return t
    monkeypatch.setattr(torch, "empty", counted)
    e.merge_shards(str(actor), str(tmp_path / "out"))
    largest = max(v.nbytes for v in weights(tmp_path / "out").values())
    assert largest <= most[0] <= 1.5 * largest


def test_log_of_the_cost():
    rows = list(csv.DictReader(book_file("logs/09_shards.csv").open()))
    ours, all_loaded = ([r for r in rows if (r["way"] == "one tensor at a time") == mine] for mine in (True, False))
    assert len(ours) == len(all_loaded) == 3 and max(float(r["checkpoint_mb"]) for r in rows) > 500
    for a, b in zip(ours, all_loaded):
        assert float(a["added_mb"]) < float(b["added_mb"]) / 3 and (a["checkpoint_mb"], a["dtype"]) == (b["checkpoint_mb"], b["dtype"])


def test_the_class_that_stands_in_the_text_part_alone(twin, actor, reference, tmp_path):
    "So transformers 4.57 saves a nested config that EasyR1 hands it; vLLM looks for it at the top"
    folder = copy(actor, tmp_path)
    path = folder / "huggingface/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["architectures"] = config.pop("architectures")
    path.write_text(json.dumps(config))
    assert e.merge_shards(str(folder), str(tmp_path / "out"), test=str(reference))["equal_to_reference"] > 0
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [type(twin[0]).__name__]


@pytest.mark.parametrize("key", ["model.language_model.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
                                 "model.layers.0.self_attn.rotary_emb.inv_freq", "model.visual.rotary_pos_emb.inv_freq"])
def test_a_buffer_that_the_model_computes_is_left_out(actor, reference, tmp_path, key):
    folder = copy(actor, tmp_path)
    for path in folder.glob("model_world_size_*.pt"): change_by_adding(path, key, torch.ones(4))
    assert e.merge_shards(str(folder), str(tmp_path / "out"), test=str(reference))["equal_to_reference"] > 0
    assert key not in weights(tmp_path / "out")


def change_by_adding(path, key, tensor):
    held = torch.load(path, weights_only=False)
    torch.save(held | {key: tensor}, path)


def test_what_the_engine_described_stays_byte_for_byte(actor, tmp_path):
    folder = copy(actor, tmp_path)
    described = folder / "huggingface"
    config = json.loads((described / "config.json").read_text())
    config["torch_dtype"] = "float32" # as an engine's transformers 4 says it
    (described / "config.json").write_text(json.dumps(config, indent=7)) # as nothing here writes it
    (described / "vocab.json").write_bytes(b'{"a":1}\r\n')
    e.merge_shards(str(folder), str(tmp_path / "out"))
    for path in described.rglob("*"):
        written = tmp_path / "out" / path.relative_to(described)
        if path.name != "manifest.json": assert path.read_bytes() == written.read_bytes(), path
    # another number type is all that a config must say anew
    e.merge_shards(str(folder), str(tmp_path / "half"), dtype="bfloat16")
    changed = json.loads((tmp_path / "half/config.json").read_text())
    assert {k for k in config if config[k] != changed[k]} <= {"dtype", "torch_dtype", "text_config", "vision_config"}
    assert changed["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("tied, words", [({"a": "b", "b": "a"}, "'a' to 'b' to 'a'"), ({"a": "a"}, "'a' to 'a'"),
                                         ({"d": "e", "a": "b", "b": "c", "c": "b"}, "'a' to 'b' to 'c' to 'b'")])
def test_ties_in_a_circle_are_an_error(tied, words):
    with pytest.raises(e.ShardError, match=f"tied tensors go round in a circle: {words}; no tensor"): merge.Wanted({}, {}, tied)


def test_ties_of_ties_and_nan_beside_nan(tmp_path):
    from types import SimpleNamespace
    from safetensors.torch import save_file
    wanted = merge.Wanted({}, {}, {"a": "b", "c": "b", "d": "c"}, computed=frozenset())
    assert all(wanted.twins(name) == set("abcd") for name in "abcd") and wanted.twins("e") == {"e"}
    numbers = torch.tensor([1.0, float("nan")])
    save_file({"w": numbers}, tmp_path / "w.safetensors")
    def told(ours): return merge._difference(SimpleNamespace(shape=(2,), load=lambda: ours), tmp_path / "w.safetensors", "w")
    assert told(numbers) is None
    assert told(torch.tensor([3.0, float("nan")])) == "differs in 1 of 2 numbers, by up to 2"
    assert "differs in 1 of 2" in told(torch.tensor([1.0, 2.0]))
