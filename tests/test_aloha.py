"""The robot classifier on mock data: reading, collating, forward, training whole, stop and go, two processes, every mode, GRPO's and
LeRobot's side."""
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, fields

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NO_LEROBOT, ROOT, SHARED, run_page
from PIL import Image

pytest.importorskip("lerobot", reason=NO_LEROBOT)
from vlrlbook.aloha import (AlohaClassifier, AlohaCollator, AlohaFrames, AlohaSettings, Augment, analyze, aloha_messages, as_reward,
                            AlohaConfig, AlohaRewardModel, build_classifier, chat, load_classifier, load_head, mirrored,
                            open_lerobot, predict_bins, predict_dataset, read_label, run_aloha, save_classifier, split_films, split_parts,
                            to_picture, train_classifier)
from vlrlbook.core import RunLog, Sample, SettingsError, read_settings
from vlrlbook.data import DataError, aloha_cameras, aloha_views, synthetic_aloha
from vlrlbook.models import families, last_real_token, tiny_twin
from vlrlbook.rewards import load_reward
from vlrlbook.settings import settings_help

SHORT = dict(max_steps=4, eval_steps=2, batch_size=8, logging_steps=1, warmup_steps=1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "A small drawn set with pictures, some of its labels lost"
    root = tmp_path_factory.mktemp("drawn") / "set"
    synthetic_aloha(root, episodes=9, frames=6, seed=1, zeros=0.15)
    return root


@pytest.fixture(scope="module")
def short_run(tmp_path_factory, drawn):
    "A whole training of four steps"
    out = tmp_path_factory.mktemp("short")
    return train_classifier(read_settings(AlohaSettings, dict(SHORT, data=str(drawn), output_dir=str(out / "run"))))


def frames_of(root, **kwargs): return AlohaFrames(open_lerobot("local/synthetic_aloha", root), **kwargs)


# reading

def test_reading_equals_plain_indexing(drawn):
    frames, plain = frames_of(drawn), open_lerobot("local/synthetic_aloha", drawn)
    for i in (0, 7, 53):
        item, row = frames[i], plain[i]
        assert item["text"] == f"Task: {row['task']}" and item["label"] == int(row["reward_bins"].argmax()) and item["episode"] == int(
            row["episode_index"])
        assert all(np.array_equal(np.array(p), np.array(to_picture(row[c]))) for p, c in zip(item["images"], aloha_cameras))
    swapped = frames_of(drawn, cameras=list(aloha_cameras)[::-1])[7]["images"]
    assert [p.tobytes() for p in swapped[::-1]] == [p.tobytes() for p in frames[7]["images"]]


def test_only_the_wanted_columns_are_read(drawn):
    "A camera that nobody asked for may be broken"
    frames = frames_of(drawn, cameras=[aloha_cameras[2]])
    assert frames.pictures.column_names == [aloha_cameras[2]]
    assert len(frames[0]["images"]) == 1


def test_video_storage(tmp_path):
    "Films are lossy: close to the drawing, the same labels"
    films = AlohaFrames(synthetic_aloha(tmp_path / "films", episodes=2, frames=6, seed=1, videos=True))
    stills = AlohaFrames(synthetic_aloha(tmp_path / "stills", episodes=2, frames=6, seed=1))
    assert films.data.features[aloha_cameras[0]]["dtype"] == "video" and films.pictures is None
    order = [9, 1, 8, 2]
    for a, b in zip(films.__getitems__(order), stills.__getitems__(order)):
        assert (a["label"], a["text"], a["row"]) == (b["label"], b["text"], b["row"])
        for p, q in zip(a["images"], b["images"]): assert np.abs(np.asarray(p, float) - np.asarray(q, float)).mean() < 6


@pytest.mark.parametrize("value, bin, kind", [([0, 0, 1], 2, "vector"), ([0, 0, 0], 0, "zero"), (4.0, 0, "scalar"), ([1.0], 0, "scalar"),
    (np.float32(0), 0, "scalar"), ([0.2, 0.7, 0.1], 1, "vector"), ([-1, -2], 0, "vector")])
def test_labels(value, bin, kind): assert read_label(value) == (bin, kind)


def test_labels_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="expected numbers"): read_label([float("nan"), 1])


def test_zero_labels_are_counted_reported_and_dropped_on_request(drawn):
    frames = frames_of(drawn)
    zero = int((frames.kinds == "zero").sum())
    told = {r["what"]: r["value"] for r in analyze(frames).rows}
    assert zero > 0 and told["labels that are all zeros"] == zero and f"{zero} frames count as bin 0 only because" in told["warning"]
    assert (frames.labels[frames.kinds == "zero"] == 0).all()
    assert len(frames_of(drawn, zero_labels="drop")) == len(frames) - zero


def test_scalar_labels_are_counted(tmp_path):
    "LeRobot gives a column of shape (1,) back as a number; all of them are 1 here, which is a success"
    frames = AlohaFrames(synthetic_aloha(tmp_path / "one", episodes=2, frames=3, bins=1))
    told = {r["what"]: r["value"] for r in analyze(frames).rows}
    assert set(frames.kinds) == {"success"} and frames.num_classes == 2 and set(frames.labels) == {1}
    assert told["labels that are one number"] == 6 and "nothing to learn" in told["warning"]


def test_success_only_data_is_named(tmp_path):
    frames = AlohaFrames(synthetic_aloha(tmp_path / "set", episodes=3, frames=6))
    only = frames.part(frames.rows)
    keep = frames.episodes == 0
    only.rows, only.labels, only.kinds, only.episodes, only.moments, only.tasks = frames.rows[keep], frames.labels[keep], frames.kinds[
        keep], frames.episodes[keep], frames.moments[keep], [t for t, k in zip(frames.tasks, keep) if k]
    assert "no failures" in {r["what"]: r["value"] for r in analyze(only).rows}["warning"]


@pytest.mark.parametrize("kwargs, message", [
    (dict(cameras=["observation.images.cam_hihg"]),
     "did you mean 'observation.images.cam_high'\\?; cameras there: observation.images.cam_right_wrist, observation.images.cam_left_wrist, "
     "observation.images.cam_high"),
    (dict(cameras=["top"]), "cameras there: observation.images.cam_right_wrist"), (dict(label="bins"), "columns there: .*reward_bins")])
def test_missing_columns_are_named(drawn, kwargs, message):
    with pytest.raises(DataError, match=message): frames_of(drawn, **kwargs)


def test_an_empty_folder_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no meta/info.json"): open_lerobot("local/none", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("array",
                         [torch.zeros(3, 4, 5), torch.zeros(2, 3, 4, 5), torch.zeros(4, 5, 3), torch.zeros(3, 4, 5, dtype=torch.uint8),
                          np.zeros((4, 5, 3), np.uint8)])
def test_pictures_of_every_shape(array): assert to_picture(array).size == (5, 4)


@pytest.mark.parametrize("array",
                         [torch.zeros(4, 5), torch.zeros(5, 4, 5), torch.full((3, 4, 5), 1.5), torch.full((3, 4, 5), float("nan"))])
def test_what_is_no_picture_is_refused(array):
    with pytest.raises(DataError, match="expected"): to_picture(array)


def test_bytes_survive_the_way_to_floats_and_back():
    x = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(3, 16, 16)
    assert torch.equal(torch.from_numpy(np.array(to_picture(x / 255))).permute(2, 0, 1), x)


# collating and the model

@pytest.mark.parametrize("family", list(families))
@pytest.mark.parametrize("side", ["left", "right"])
def test_forward_of_every_family(family, side):
    "One row's logits depend neither on its neighbours nor on the padding"
    model, processor = tiny_twin(family)
    classifier = AlohaClassifier(model, 4).eval()
    items = [dict(images=aloha_views(p, (70, 60), "red"), text=t, label=l) for p, t, l in ((0.1, "Task: lift the red cup", 0),
        (0.9, "Task: please take the red cup from the table and lift it up", 3))]
    batch = AlohaCollator(processor, side)(items)
    assert batch["labels"].tolist() == [0, 3] and batch["attention_mask"].sum(1)[0] < batch["attention_mask"].sum(1)[1]
    with torch.no_grad():
        out = classifier(**batch)
        alone = torch.cat([classifier(**AlohaCollator(processor)([dict(i)]))["logits"] for i in items])
    assert out["logits"].shape == (2, 4) and torch.allclose(out["logits"], alone, atol=2e-4) and out["loss"].ndim == 0


@pytest.mark.skipif(not (SHARED / "robot_three_cameras").exists(), reason="the folder with real robot pictures is not beside this checkout")
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_the_official_path_token_by_token(family):
    from qwen_vl_utils import process_vision_info
    folder = SHARED / "robot_three_cameras" / "robotwin"
    images = [Image.open(folder / f"{c}.png").convert("RGB") for c in aloha_cameras]
    task = json.loads((folder / "task.json").read_text())["task"]
    _, processor = tiny_twin(family)
    messages = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "image", "image": images[1]},
        {"type": "image", "image": images[2]}, {"type": "text", "text": f"Task: {task}"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    image_inputs, video_inputs = process_vision_info(messages, image_patch_size=16 if family == "qwen3_vl" else 14)
    official = processor(text=[text], images=image_inputs, videos=video_inputs, padding=True, return_tensors="pt")
    ours = AlohaCollator(processor)([dict(images=images, text=f"Task: {task}", label=2)])
    assert set(ours) == {*official, "labels"}
    assert all(torch.equal(ours[k], official[k]) for k in official)
    assert int((ours["input_ids"] == processor.image_token_id).sum()) == int(ours["image_grid_thw"].prod(1).sum()) // 4


def test_the_popular_line_is_wrong_on_the_left_only():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert last_real_token(mask).tolist() == [4, 4] and (mask.sum(1) - 1).tolist() == [2, 4]
    assert torch.equal(last_real_token(mask.flip(1)), mask.flip(1).sum(1) - 1)


@pytest.mark.parametrize("choice", [dict(finetune_mode="full"), dict(finetune_mode="lora", lora_r=4, lora_alpha=8)])
def test_saved_and_loaded_gives_the_same_logits(tmp_path, drawn, choice):
    items = [frames_of(drawn)[i] for i in (0, 5)]
    classifier, processor = build_classifier(read_settings(AlohaSettings, choice), 5)
    with torch.no_grad():
        for p in classifier.parameters(): p.add_(0.02 * p.requires_grad)
    save_classifier(classifier, processor, tmp_path / "kept", base="tiny-qwen3_vl")
    save_classifier(classifier, processor, tmp_path / "kept", base="tiny-qwen3_vl")
    again, processor_again, cameras = load_classifier(tmp_path / "kept", device="cpu")
    assert np.array_equal(predict_bins(again, processor_again, items),
                          predict_bins(classifier.cpu(), processor, items)) and cameras == list(aloha_cameras)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_lora_trains_the_language_model_and_the_head_only():
    classifier, _ = build_classifier(read_settings(AlohaSettings, dict(finetune_mode="lora")), 5)
    names = [n for n, p in classifier.named_parameters() if p.requires_grad]
    assert names and all(("language_model" in n and "lora_" in n) or n.startswith("head.") for n in names)
    assert {n.split(".lora_")[0].rsplit(".", 1)[1] for n in names
            if "lora_" in n} == {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}


def test_a_head_is_loaded_safely(tmp_path):
    head, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    torch.save({"reward_head.weight": other.weight.data, "reward_head.bias": other.bias.data}, tmp_path / "head.pt")
    load_head(tmp_path / "head.pt", head)
    assert torch.equal(head.weight, other.weight)
    torch.save(other, tmp_path / "module.pt")
    with pytest.raises(DataError, match="could run code"): load_head(tmp_path / "module.pt", head)
    torch.save({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "small.pt")
    with pytest.raises(DataError, match=r"weight is \(2, 4\), expected \(3, 4\)"): load_head(tmp_path / "small.pt", head)


def saved_state(module, prefix=""): return {prefix + name: tensor for name, tensor in module.state_dict().items()}


NORM = torch.nn.LayerNorm(4)


@pytest.mark.parametrize("layers, told", [
    ([NORM, torch.nn.Linear(4, 3)], "2 layers .*head.0, head.1"),
    ([torch.nn.Linear(4, 4), torch.nn.GELU(), torch.nn.Linear(4, 3)], "2 layers .*head.0, head.2"),
    ([torch.nn.Linear(4, 3), torch.nn.PReLU()], "2 layers"), ([torch.nn.Linear(4, 3), torch.nn.Linear(3, 3)], "2 layers"),
    ([torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)], "3 layers"),
    ([torch.nn.TransformerEncoderLayer(4, 1, 4), torch.nn.Linear(4, 3)], "7 layers .*, …")])
@pytest.mark.parametrize("beside", [{}, {"vlm.embed_tokens.weight": torch.zeros(9, 4), "vlm.norm.weight": torch.zeros(4)}])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_head_of_several_layers_is_refused(tmp_path, layers, told, beside, suffix):
    "The last layer was loaded without a word, and gave other logits; the same for a folder of the older script"
    from safetensors.torch import save_file
    path, state = tmp_path / f"classifier{suffix}", beside | saved_state(torch.nn.Sequential(*layers), "head.")
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    head = torch.nn.Linear(4, 3)
    before = head.weight.clone()
    with pytest.raises(DataError, match=f"'{path.name}': holds {told}.*expected one linear layer"): load_head(path, head)
    assert torch.equal(head.weight, before)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="expected one linear layer"): load_classifier(tmp_path)


@pytest.mark.parametrize("extra", ["norm.weight", "norm.gamma", "scale.weight"])
def test_a_layer_beside_an_unnamed_head_is_refused(tmp_path, extra):
    torch.save(saved_state(torch.nn.Linear(4, 3)) | {extra: torch.ones(4)}, tmp_path / "head.pt")
    head = torch.nn.Linear(4, 3)
    with pytest.raises(DataError, match="2 layers with weights .one without a name, "): load_head(tmp_path / "head.pt", head)


@pytest.mark.parametrize("prefix", ["", "classifier.", "module.model.head."])
@pytest.mark.parametrize("before, after", [
    ({}, {}), ({}, dict(epoch=3)), (dict(class_weights=torch.ones(3)), dict(temperature=torch.ones(1)))])
def test_one_linear_layer_is_loaded_whatever_it_is_called(tmp_path, prefix, before, after):
    other, head = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    torch.save(before | saved_state(other, prefix) | after, tmp_path / "head.pt")
    load_head(tmp_path / "head.pt", head)
    assert torch.equal(head.weight, other.weight) and torch.equal(head.bias, other.bias)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("head_first", [False, True])
@pytest.mark.parametrize("names", [
    ["vlm.model.visual.norm", "vlm.model.language_model.embed_tokens", "vlm.lm_head"], ["visual.merger", "model.embed_tokens", "lm_head"],
    ["vlm.base_model.model.q_proj.lora_A.default", "vlm.base_model.model.q_proj.lora_B.default"], ["head.original_module"]])
def test_a_head_is_found_beside_its_model(tmp_path, prefix, head_first, names):
    "A checkpoint of a whole classifier, of its adapter and head, or of a head that peft trained whole"
    other, head = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    of_head = saved_state(other, prefix + ("head.modules_to_save.default." if names[0].startswith("head.") else "head."))
    of_model = {}
    for name in names:
        of_model |= {f"{prefix}{name}.weight": torch.zeros(3, 4), f"{prefix}{name}.bias": torch.zeros(3)}
    torch.save(of_head | of_model if head_first else of_model | of_head, tmp_path / "whole.pt")
    load_head(tmp_path / "whole.pt", head)
    assert torch.equal(head.weight, other.weight) and torch.equal(head.bias, other.bias)


def test_a_head_without_a_bias_is_told(tmp_path):
    torch.save({"weight": torch.zeros(3, 4)}, tmp_path / "classifier.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="bias is missing, expected .3,."): load_head(tmp_path / "classifier.pt", torch.nn.Linear(4, 3))
    with pytest.raises(DataError, match="'classifier.pt': holds no bias of a linear head"): load_classifier(tmp_path)
    torch.save([torch.zeros(3, 4)], tmp_path / "classifier.pt")
    with pytest.raises(DataError, match="holds a list, expected tensors by name"): load_classifier(tmp_path)


def test_the_head_of_a_runs_checkpoint_is_loaded(short_run, tmp_path):
    checkpoint = sorted(os.listdir(short_run.settings.output_dir))
    newest = [name for name in checkpoint if name.startswith("checkpoint-")][-1]
    path = os.path.join(short_run.settings.output_dir, newest, "model.safetensors")
    from safetensors.torch import load_file
    state = load_file(path)
    bins, hidden = state["head.weight"].shape
    head = torch.nn.Linear(hidden, bins)
    load_head(path, head)
    assert torch.equal(head.weight, state["head.weight"]) and torch.equal(head.bias, state["head.bias"])


# splitting and augmenting

def test_no_film_is_in_two_parts(drawn):
    frames = frames_of(drawn)
    parts = split_parts(frames, read_settings(AlohaSettings, dict(data=str(drawn))))
    films = [set(p.episodes[p.rows].tolist()) for p in parts]
    assert all(films) and sum(map(len, films)) == 9 == len(set.union(*films))
    again = split_parts(frames, read_settings(AlohaSettings, dict(data=str(drawn))))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(parts, again))
    few = split_parts(frames, read_settings(AlohaSettings, dict(data=str(drawn), max_train_samples=5)))
    assert len(few[0]) == 5 and np.array_equal(few[2].rows, parts[2].rows)


def test_one_film_cannot_be_split(drawn):
    frames = frames_of(drawn)
    with pytest.raises(DataError, match="would leak"): split_films(frames.part(np.flatnonzero(frames.episodes == 0)), 0.5)


def test_mirror_and_jitter(drawn):
    item, cameras = frames_of(drawn)[3] | dict(text="Task: Left hand over right hand, leftover"), list(aloha_cameras)
    mirror = mirrored(item, cameras)
    assert mirror["text"] == "Task: Right hand over left hand, leftover"
    said = {"Task: lift the LEFT cup": "Task: lift the RIGHT cup", "the leftmost of 2, RIGHT-HANDED": "the rightmost of 2, LEFT-HANDED",
            "left_arm, rightArm": "right_arm, leftArm", "BRIGHT leftovers, upright": "BRIGHT leftovers, upright", "左边，10厘米左右": "右边，10厘米左右"}
    assert {text: mirrored(item | dict(text=text), cameras)["text"] for text in said} == said
    for left, right in (("cam_LEFT", "cam_RIGHT"), ("wristLeft", "wristRight")): # the flipped left picture is that of the right camera
        views = mirrored(dict(images=item["images"][:2], text=""), [left, right])["images"]
        assert np.array_equal(np.array(views[1]), np.array(item["images"][0])[:, ::-1])
    assert mirrored(item | dict(text="顺时针"), cameras) is None and mirrored(item, ["cam_LEFT", "top", "side"]) is None
    assert np.array_equal(np.array(mirror["images"][1]), np.array(item["images"][0])[:, ::-1])
    assert mirrored(item | dict(text="Turn it anticlockwise"), cameras) is None and mirrored(item, ["cam_left", "top", "side"]) is None
    augment = Augment(read_settings(AlohaSettings, dict(flip=0.5, colour_jitter=0.3)))
    see = lambda epoch: [setattr(augment, "epoch", epoch)] and [
        (x["text"], x["images"][0].tobytes()) for x in (augment(item | dict(row=r)) for r in range(20))]
    assert see(0) == see(0) != see(1) and len({text for text, _ in see(0)}) == 2


def test_shifts(drawn):
    "Each picture by its own way, no further than was said, and by chance that hangs on seed, epoch and row alone"
    item = frames_of(drawn)[3]
    augment = Augment(read_settings(AlohaSettings, dict(shift=4)))
    see = lambda epoch, row: [setattr(augment, "epoch", epoch)] and [np.array(i) for i in augment(item | dict(row=row))["images"]]
    assert all(np.array_equal(a, b) for a, b in zip(see(0, 1), see(0, 1))) and not np.array_equal(see(0, 1)[2], see(0, 2)[2])
    found = set()
    for row in range(40):
        for was, now in zip(item["images"], see(0, row)):
            wider = np.pad(np.array(was), ((4, 4), (4, 4), (0, 0)), mode="edge")
            ways = {(x, y) for x in range(9) for y in range(9) if np.array_equal(now, wider[y:y + 96, x:x + 96])}
            assert now.shape == (96, 96, 3) and ways
            if len(ways) == 1: found |= ways
    assert len(found) > 20
    still = Augment(read_settings(AlohaSettings, dict(shift=0)))(item)["images"]
    assert all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(still, item["images"]))


# training

def test_a_whole_training_and_what_it_leaves(short_run):
    run, out = short_run, short_run.settings.output_dir
    found = json.load(open(f"{out}/results.json"))
    assert {"accuracy", "macro_f1", "majority_accuracy", "mae_bins", "settings", "seconds", "peak_memory_mb", "commit",
            "versions"} <= set(found) and found["measured_on"] == "test films"
    assert found["kinds"]["zero"] > 0
    rows = [json.loads(line) for line in open(f"{out}/predictions.jsonl")]
    assert len(rows) == found["n"] and sum(r["predicted"] == r["label"] for r in rows) / len(rows) == pytest.approx(found["accuracy"])
    log = RunLog.read(f"{out}/run_log.csv")
    assert {"loss", "lr", "grad_norm", "eval/loss", "accuracy", "macro_f1"} <= set(log.columns) and log.series("loss")[0] == [1, 2, 3, 4]
    classifier, processor, _ = load_classifier(run.settings.ckpt_dir, "cpu")
    assert np.allclose(predict_bins(classifier, processor, run.test), run.probabilities, atol=1e-6)


@pytest.mark.parametrize("choice", [dict(), dict(finetune_mode="lora", lora_r=4, class_weights=True)])
def test_stopped_and_resumed_equals_never_stopped(tmp_path, drawn, choice):
    "Same losses and same weights, bit for bit, with augmentation on; a LoRA checkpoint holds no frozen weight"
    from safetensors.torch import load_file
    common = dict(SHORT, data=str(drawn), flip=0.5, colour_jitter=0.3, **choice)
    whole = train_classifier(read_settings(AlohaSettings, dict(common, output_dir=str(tmp_path / "whole"))))
    os.makedirs(tmp_path / "half")
    os.rename(tmp_path / "whole" / "checkpoint-2", tmp_path / "half" / "checkpoint-2")
    for name in ("run_log.csv", "begun_with.json"):
        (tmp_path / "half" / name).write_text((tmp_path / "whole" / name).read_text())
    half = train_classifier(read_settings(AlohaSettings, dict(common, output_dir=str(tmp_path / "half"), resume="true")))
    assert half.log.series("loss") == whole.log.series("loss")
    a, b = (load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "half"))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    if choice: assert all("lora_" in k or k.startswith("head.") for k in a)


@pytest.mark.parametrize("other, told", [(dict(lr=1e-6), "lr = 0.001 then, 1e-06 now"), (dict(class_weights=True), "class_weights = False"),
                                         (dict(test_share=0.3), "frames_to_learn = .*test_share"),
                                         (dict(num_classes=7), "bins = 5 then, 7")])
def test_a_run_goes_on_as_it_began_or_not_at_all(short_run, tmp_path, other, told):
    folder = tmp_path / "run"
    shutil.copytree(short_run.settings.output_dir, folder)
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    given = dict(asdict(short_run.settings), output_dir=str(folder), ckpt_dir=None, resume="true")
    with pytest.raises(SettingsError, match=told): train_classifier(read_settings(AlohaSettings, given | other))
    assert before == {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_schedule_that_cannot_be_made_is_refused_before_the_films_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrlbook.aloha._data_of_run", lambda *given: pytest.fail("films were read"))
    for given, told in ((dict(lr_scheduler_type="cosine_with_min_lr"), "min_lr"), (dict(lr_scheduler_type="linaer"), "mean 'linear'"),
                        (dict(lr_scheduler_type="reduce_lr_on_plateau", val_share=0.0), "this run has none")):
        settings = read_settings(AlohaSettings, SHORT | given | dict(output_dir=str(tmp_path)))
        with pytest.raises(SettingsError, match=told): train_classifier(settings)


@pytest.mark.parametrize("name", ["results.json", "predictions.jsonl"])
def test_files_that_no_run_has_left_are_not_written_over(tmp_path, monkeypatch, name):
    monkeypatch.setattr("vlrlbook.aloha._data_of_run", lambda *given: pytest.fail("it began"))
    (tmp_path / name).write_text("mine")
    with pytest.raises(SettingsError, match=f"holds {name}, which this run would write over"):
        train_classifier(read_settings(AlohaSettings, dict(output_dir=str(tmp_path), ckpt_dir=str(tmp_path / "classifier"))))
    assert (tmp_path / name).read_text() == "mine"


def test_a_run_that_goes_on_may_be_longer_and_lie_elsewhere(short_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(short_run.settings.output_dir, folder)
    shutil.copytree(short_run.settings.data, tmp_path / "moved")
    given = dict(asdict(short_run.settings), output_dir=str(folder), ckpt_dir=None, resume="true", data=str(tmp_path / "moved"))
    given["max_steps"] = 5
    assert train_classifier(read_settings(AlohaSettings, given)).results["steps"] == 5


def test_a_finished_run_that_goes_on_keeps_its_best_weights(tmp_path, drawn, monkeypatch, capsys):
    "Started again at its last step it saved the last weights, under the score of the best; also where it was moved"
    from safetensors.torch import load_file
    scores = iter((0.9, 0.1)) # the first checkpoint is the best
    monkeypatch.setattr("vlrlbook.aloha._validation_metrics", lambda *_: dict(macro_f1=next(scores), accuracy=0.5, mae_bins=1.0))
    given = dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "run"))
    train_classifier(read_settings(AlohaSettings, given))
    best, last = (load_file(tmp_path / f"run/checkpoint-{n}/model.safetensors")["head.weight"] for n in (2, 4))
    saved = load_file(tmp_path / "run/classifier/head.safetensors")["weight"]
    assert torch.equal(saved, best) and not torch.equal(saved, last)
    os.rename(tmp_path / "run", tmp_path / "moved")
    for _again in range(2):
        run = train_classifier(read_settings(AlohaSettings, given | dict(output_dir=str(tmp_path / "moved"), resume="true")))
        assert torch.equal(load_file(tmp_path / "moved/classifier/head.safetensors")["weight"], best)
        assert run.results["best_validation_macro_f1"] == 0.9 and "nothing left to train" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "moved/checkpoint-2") # then there is nothing better than the last
    run = train_classifier(read_settings(AlohaSettings, given | dict(output_dir=str(tmp_path / "moved"), resume="true")))
    assert torch.equal(load_file(tmp_path / "moved/classifier/head.safetensors")["weight"], last)
    assert run.results["best_validation_macro_f1"] is None
    assert "the best weights were those of checkpoint-2, which is not there" in capsys.readouterr().out


def test_a_run_that_goes_on_from_another_directory_keeps_its_best_weights(tmp_path, drawn, monkeypatch):
    "`output_dir` is relative, as by default: the last weights were saved under the score of the best"
    from safetensors.torch import load_file
    scores = iter((0.9, 0.1, 0.2))
    monkeypatch.setattr("vlrlbook.aloha._validation_metrics", lambda *_: dict(macro_f1=next(scores), accuracy=0.5, mae_bins=1.0))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    train_classifier(read_settings(AlohaSettings, dict(SHORT, data=str(drawn), output_dir="run")))
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = dict(SHORT, data=str(drawn), output_dir="../run", resume="true", max_steps=6)
    results = train_classifier(read_settings(AlohaSettings, given)).results
    best, last = (load_file(tmp_path / f"run/checkpoint-{n}/model.safetensors")["head.weight"] for n in (2, 6))
    saved = load_file(tmp_path / "run/classifier/head.safetensors")["weight"]
    assert torch.equal(saved, best) and not torch.equal(saved, last)
    assert results["best_validation_macro_f1"] == 0.9 and results["steps"] == 6


def test_early_stopping(tmp_path, drawn):
    run = train_classifier(read_settings(AlohaSettings,
                                         dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "run"), lr=1e-9, eval_steps=1, max_steps=9,
                                              patience=2)))
    assert run.results["steps"] == 3


def test_without_validation_and_with_dropped_zeros(tmp_path, drawn):
    run = train_classifier(read_settings(AlohaSettings,
                                         dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "run"), val_share=0, test_share=0,
                                              max_steps=1, eval_steps=1, zero_labels="drop")))
    assert run.results["measured_on"] == "training films" and run.results["n"] == run.results["kinds"]["vector"]


def test_mixed_precision_with_reading_workers(tmp_path, drawn):
    run = train_classifier(read_settings(AlohaSettings,
                                         dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "run"), precision="bf16", num_workers=2,
                                              max_steps=2, gradient_accumulation_steps=2)))
    assert run.results["steps"] == 2 and all(np.isfinite(run.log.series("loss")[1]))


def test_weights_in_bf16_with_a_head_in_float32(drawn):
    model, processor = tiny_twin("qwen3_vl")
    classifier = AlohaClassifier(model.to(torch.bfloat16), 5)
    out = classifier(**AlohaCollator(processor)([frames_of(drawn)[i] for i in (0, 5)]))
    out["loss"].backward()
    assert classifier.head.weight.dtype == out["logits"].dtype == torch.float32 and classifier.head.weight.grad.abs().sum() > 0


def test_an_adapter_and_a_head_go_on_training(tmp_path, drawn):
    first = train_classifier(read_settings(AlohaSettings,
                                           dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "a"), finetune_mode="lora", lr=1e-2)))
    kept = first.settings.ckpt_dir
    classifier, processor = build_classifier(read_settings(AlohaSettings,
        dict(finetune_mode="lora", adapter=f"{kept}/adapter", head=f"{kept}/head.safetensors")), 5)
    assert np.allclose(predict_bins(classifier, processor, first.test), first.probabilities, atol=1e-6)
    assert any("lora_" in n and p.requires_grad for n, p in classifier.named_parameters())


def test_tensorboard_gets_the_numbers(tmp_path, drawn):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    train_classifier(read_settings(AlohaSettings,
                                   dict(SHORT, data=str(drawn), output_dir=str(tmp_path / "run"), report_to="tensorboard", max_steps=2)))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_two_processes(tmp_path, drawn):
    "The console command under torchrun, as accelerate starts it, on two CPU processes"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    options = [x for k, v in dict(SHORT, data=drawn, output_dir=tmp_path / "run").items() for x in (f"--{k}", str(v))]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vlrlbook.cli",
                           "aloha", "--mode", "train", *options], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.load(open(tmp_path / "run" / "results.json"))
    assert found["steps"] == 4 and found["processes"] == 2
    assert len(RunLog.read(tmp_path / "run" / "run_log.csv").series("loss")[0]) == 4


# modes

def test_settings_come_from_the_environment(monkeypatch):
    for name, value in dict(MODE="analyze", QWEN3VL_MODEL="tiny-qwen2_vl", FINETUNE_MODE="lora", NUM_CLASSES="7", MAX_TRAIN_SAMPLES="9",
                            BATCH_SIZE="3", LR="2e-5", EPOCHS="4", MAX_STEPS="6", CKPT_DIR="kept").items():
        monkeypatch.setenv(name, value)
    s = read_settings(AlohaSettings, {})
    assert (s.mode, s.model, s.finetune_mode, s.num_classes, s.max_train_samples, s.batch_size, s.lr, s.epochs, s.max_steps,
            s.ckpt_dir) == ("analyze", "tiny-qwen2_vl", "lora", 7, 9, 3, 2e-5, 4, 6, "kept")
    assert read_settings(AlohaSettings, dict(mode="train", lr=1e-3)).mode == "train"
    monkeypatch.setenv("LR", "fast")
    with pytest.raises(SettingsError, match="LR = 'fast': expected float"): read_settings(AlohaSettings, {})


def test_epochs_that_have_no_effect_are_named(monkeypatch, capsys):
    "In the older script MAX_STEPS wins over EPOCHS, and each size of this one brings a number of steps"
    for given, steps in ((dict(epochs=3), 400), (dict(num_train_epochs=3, size="gpu"), 50)):
        read_settings(AlohaSettings, given)
        assert f"epochs has no effect: the run has max_steps = {steps}, the preset's" in capsys.readouterr().err
    for given in ({}, dict(epochs=3, max_steps=-1), dict(epochs=3, max_steps=9), dict(max_steps=9)):
        read_settings(AlohaSettings, given)
        assert capsys.readouterr().err == ""
    monkeypatch.setenv("EPOCHS", "4")
    read_settings(AlohaSettings, {})
    assert "max_steps -1" in capsys.readouterr().err


def test_parameters_cell_equals_the_settings():
    "Names, types, defaults and comments; the cell says in one line what the module may say in two"
    cells = json.loads((ROOT / "nbs" / "04_aloha.ipynb").read_text())["cells"]
    cell = next("".join(c["source"]) for c in cells if c["metadata"].get("tags") == ["parameters"])
    lines = [re.fullmatch(r"(\w+): (.+?) = (.+?)  # (.+)", line).groups() for line in cell.splitlines()]
    texts = settings_help(AlohaSettings)
    of_the_cell = [(name, eval(kind), ast.literal_eval(default), text) for name, kind, default, text in lines]
    assert of_the_cell == [(f.name, f.type, f.default, texts[f.name]) for f in fields(AlohaSettings)]


def test_too_few_classes_are_an_error(tmp_path, drawn):
    with pytest.raises(SettingsError, match="labels up to bin 4"):
        train_classifier(read_settings(AlohaSettings, dict(SHORT, data=str(drawn), output_dir=str(tmp_path), num_classes=3)))


def test_predict_writes_into_output_dir(short_run):
    path = predict_dataset(short_run.settings)
    rows = pd.read_parquet(path)
    assert str(path.parent) == short_run.settings.output_dir and len(rows) == 54
    assert np.allclose(rows[[f"p{b}" for b in range(5)]].sum(1), 1, atol=1e-3) and (rows.groupby("label_kind").size()["zero"] > 0)
    first = path.read_bytes()
    again = predict_dataset(short_run.settings)
    assert again != path and path.read_bytes() == first # never over an old file


def test_analyze_leaves_table_and_plot(tmp_path, drawn):
    table = run_aloha(read_settings(AlohaSettings, dict(mode="analyze", data=str(drawn), output_dir=str(tmp_path / "look"))))
    assert json.load(open(tmp_path / "look" / "analysis.json"))["frames"] == 54 and (
        tmp_path / "look" / "analysis.png").stat().st_size > 5000 and len(table.rows) > 8


def test_chat_takes_lines(tmp_path, short_run):
    for name, view in zip("rlh", aloha_views(0.5, (70, 60), "red")): view.save(tmp_path / f"{name}.png")
    said, run = [], short_run
    pictures = f"{tmp_path}/r.png {tmp_path}/l.png {tmp_path}/h.png"
    chat(run.classifier.vlm, run.processor, run.classifier,
         ["", "# a note", "hello", f"/reward {pictures} | lift the red cup", f"/reward {pictures}", "/reward a.png b.png c.png | lift",
          "/quit", "unread"], said.append, max_new_tokens=4)
    assert len(said) == 4 and said[1].startswith("bin ") and said[2].startswith(
        "cannot: expected /reward and 3 picture files") and said[3].startswith("cannot:")
    chat(run.classifier.vlm, run.processor, None, [f"/reward {pictures} | lift"], said.append)
    assert "no trained classifier" in said[-1]


def test_questions_as_windows_saves_them(tmp_path, short_run, monkeypatch, capsys):
    "The mark before the first line made a text of /reward, which the language model then answered"
    for name in ("a.png", "b.png", "c.png"): Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    said = []
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "q.txt").write_bytes("/reward a.png b.png c.png | lift the cup é\r\nexit\r\n".encode(encoding))
        run_aloha(read_settings(AlohaSettings, dict(mode="chat", ckpt_dir=short_run.settings.ckpt_dir, questions="q.txt")))
        said.append(capsys.readouterr().out.strip().splitlines()[-1])
    assert said[0] == said[1] and said[0].startswith("bin ")


def test_a_line_that_raises_leaves_no_question_behind(short_run, monkeypatch):
    "Two questions in a row would be two turns of the user, which chat templates refuse or were never trained on"
    from vlrlbook.aloha import _text_answer
    vlm, history = short_run.classifier.vlm, []
    with monkeypatch.context() as broken:
        broken.setattr(vlm, "generate", lambda **options: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError): _text_answer("hello", vlm, short_run.processor, history, 2)
    assert history == []
    _text_answer("hello", vlm, short_run.processor, history, 2)
    assert [message["role"] for message in history] == ["user", "assistant"]


def test_chat_ends_clean_on_ctrl_c_and_end_of_input(tmp_path):
    command = [sys.executable, "-m", "vlrlbook.cli", "aloha", "--mode", "chat"]
    done = subprocess.run(command, input="hello\nexit\n", capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "tiny-qwen3_vl answers, as it is; there is no classifier" in done.stderr
    asked = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert asked.stdout.read(1) == b">"
    asked.send_signal(signal.SIGINT)
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 0 and b"Traceback" not in err


def test_the_page_refuses_a_misspelt_parameter(tmp_path):
    with pytest.raises(SettingsError, match="mode = 'trian': did you mean 'train'"):
        run_page(ROOT / "nbs" / "04_aloha.ipynb", tmp_path, mode="trian")
    assert not (tmp_path / "runs").exists()


# the classifier as a reward, and in LeRobot

def test_as_a_reward(short_run):
    reward = as_reward(short_run.settings.ckpt_dir, "cpu")
    sample = Sample("What does the robot do?", "lift the red cup", aloha_views(1.0, (70, 60), "red"), "aloha", 3)
    texts = ["lift the red cup", "Task: lift the red cup", "<answer>lift the red cup</answer>", "", "<|image_pad|>" * 3 + "<image>",
             "word " * 5000]
    parts = reward(texts, [sample] * len(texts))
    assert reward.batched and len({p["overall"] for p in parts[:3]}) == 1 and all(0 <= p["overall"] <= 1 for p in parts)
    assert reward(texts[:1], [sample])[0]["overall"] == pytest.approx(parts[0]["overall"], abs=1e-5)
    assert load_reward(f"aloha:{short_run.settings.ckpt_dir}")(texts[:1], [sample]) == reward(texts[:1], [sample])
    with pytest.raises(DataError, match="row 3: 1 pictures, expected 3"): reward(["x"], [Sample("q", "a", sample.images[:1], "aloha", 3)])


def test_grpo_takes_a_step_with_it(tmp_path, short_run):
    "Stock TRL, prompts with three pictures, each answer paid by the frozen classifier"
    from vlrlbook.data import to_dataset
    from vlrlbook.grpo import GRPOSettings, make_trainer
    from vlrlbook.models import add_lora, load_vlm
    s = read_settings(GRPOSettings, dict(model="tiny-qwen3_vl", reward=f"aloha:{short_run.settings.ckpt_dir}", batch_size=8,
                                         num_generations=4, max_steps=1, logging_steps=1, save_steps=0, output_dir=str(tmp_path)))
    model, processor = load_vlm(s.model)
    rows = [Sample("What is the robot doing?", "lift the red cup", aloha_views(p, (70, 60), "red"), "aloha",
                   i) for i, p in enumerate((0.2, 0.9))]
    log = RunLog()
    make_trainer(s, add_lora(model, r=4, alpha=8), processor, to_dataset(rows), log=log).train()
    assert {"reward", "part/expected_bin", "part/confidence"} <= set(log.columns) and 0 <= log.rows[0]["reward"] <= 1


def test_as_a_reward_model_of_lerobot(tmp_path, short_run, monkeypatch):
    from lerobot.configs.rewards import RewardModelConfig
    from lerobot.rewards import get_reward_model_class, make_reward_model, make_reward_pre_post_processors
    monkeypatch.setitem(RewardModelConfig.get_known_choices(), "vlrlbook_aloha", AlohaConfig) # a page that ran here left its own
    assert get_reward_model_class("vlrlbook_aloha").__name__ == "AlohaRewardModel"
    config = RewardModelConfig.from_pretrained(short_run.settings.ckpt_dir, cli_overrides=["--device=cpu"])
    config.pretrained_path = short_run.settings.ckpt_dir
    model = make_reward_model(config)
    data = short_run.frames.data
    batch = torch.utils.data.default_collate([data[i] for i in (0, 5)])
    before, after = make_reward_pre_post_processors(config)
    rewards = model.compute_reward(before(batch))
    bins = predict_bins(short_run.classifier, short_run.processor, [short_run.frames[i] for i in (0, 5)])
    assert torch.allclose(rewards, torch.tensor(bins @ np.arange(5) / 4).float(), atol=1e-5) and torch.equal(after(rewards), rewards)
    loss, parts = model.train()(batch)
    loss.backward()
    assert model.is_trainable and 0 <= parts["accuracy"] <= 1 and model.classifier.head.weight.grad.abs().sum() > 0
    model.eval().save_pretrained(tmp_path / "kept")
    again = get_reward_model_class("vlrlbook_aloha").from_pretrained(tmp_path / "kept")
    assert torch.allclose(again.compute_reward(batch), rewards, atol=1e-6)


def test_one_task_is_that_of_all_frames_of_a_batch():
    "The other frames were dropped, and a reward of one number stood for all"
    model = AlohaRewardModel(AlohaConfig(cameras=["a", "b"], device="cpu"))
    batch = {camera: torch.rand(3, 3, 56, 56) for camera in ("a", "b")}
    each = model.compute_reward(batch | dict(task=["lift"] * 3))
    for task in ("lift", ["lift"], ("lift",)):
        assert torch.equal(model.compute_reward(batch | dict(task=task)), each) and each.shape == (3,)
    assert [item["text"] for item in model.items(batch | dict(task=["x", "y", "z"]))] == ["Task: x", "Task: y", "Task: z"]
    for tasks in (["lift"] * 2, ["lift"] * 4, []):
        with pytest.raises(DataError, match=f"{len(tasks)} tasks for 3 frames; expected one"): model.items(batch | dict(task=tasks))


def test_lerobot_itself_trains_it(tmp_path, drawn):
    "lerobot-train finds our reward model by name, and leaves a checkpoint that is one of our classifiers"
    options = dict(dataset__repo_id="local/synthetic_aloha", dataset__root=drawn, steps=1, batch_size=4, num_workers=0,
                   persistent_workers="false", wandb__enable="false", output_dir=tmp_path / "out", save_freq=1,
                   reward_model__discover_packages_path="vlrlbook.aloha", reward_model__type="vlrlbook_aloha", reward_model__device="cpu",
                   reward_model__push_to_hub="false")
    done = subprocess.run([sys.executable, "-m", "lerobot.scripts.lerobot_train",
                           *(f"--{k.replace('__', '.')}={v}" for k, v in options.items())], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    classifier, processor, cameras = load_classifier(next((tmp_path / "out").glob("checkpoints/0*/pretrained_model")), "cpu")
    assert predict_bins(classifier, processor, [frames_of(drawn)[0]]).shape == (1, 5) and cameras == list(aloha_cameras)


def test_messages_keep_the_order_of_the_cameras():
    a, b, c = (Image.new("RGB", (8, 8), x) for x in ("red", "green", "blue"))
    content = aloha_messages([a, b, c], "Task: x")[0]["content"]
    assert [p.get("image") for p in content] == [a, b, c, None] and content[3]["text"] == "Task: x"


@pytest.mark.parametrize("others, head", [
    ({"loss.class_weights": [5]}, "head"), ({"criterion.weight": [5]}, "head"), ({"vlm.layers.0.q_proj.weight": [8, 8]}, "classifier"),
    ({"model.norm.weight": [8]}, "classifier"), ({}, "lm_head"), ({}, "visual.head")])
def test_a_head_is_found_beside_what_is_none(tmp_path, others, head):
    from safetensors.torch import save_file
    from vlrlbook.aloha import load_head
    own = {f"{head}.weight": torch.randn(5, 8), f"{head}.bias": torch.randn(5)}
    save_file(own | {name: torch.ones(shape) for name, shape in others.items()}, tmp_path / "h.safetensors")
    layer = torch.nn.Linear(8, 5)
    load_head(tmp_path / "h.safetensors", layer)
    assert torch.equal(layer.weight, own[f"{head}.weight"]) and torch.equal(layer.bias, own[f"{head}.bias"])


def test_a_norm_without_a_bias_in_a_head_is_a_layer_of_it(tmp_path):
    from safetensors.torch import save_file
    from vlrlbook.aloha import load_head
    tensors = {"head.0.weight": torch.ones(8), "head.1.weight": torch.randn(5, 8), "head.1.bias": torch.randn(5)}
    save_file(tensors, tmp_path / "h.safetensors")
    with pytest.raises(DataError, match="holds 2 layers with weights .head.0, head.1."):
        load_head(tmp_path / "h.safetensors", torch.nn.Linear(8, 5))
