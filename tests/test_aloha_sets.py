"""Chapter 04 on data sets as people have them: labels that are numbers, no labels, old formats, late timestamps,
chosen films, old checkpoints, and settings as the older script's users write them."""
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NO_LEROBOT

pytest.importorskip("lerobot", reason=NO_LEROBOT)
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vlrlbook.aloha import (SIMULATED, AlohaCollator, AlohaConfig, AlohaFrames, AlohaRewardModel, AlohaSettings, as_reward,
                            build_classifier, expected_bin, is_classifier, judge_success,
                            load_classifier, mirrored, open_data, open_frames, open_lerobot, predict_bins, run_aloha,
                            split_parts, talkers, to_picture, train_classifier, two_marks)
from vlrlbook.core import Sample, SettingsError, read_settings
from vlrlbook.data import DataError, aloha_cameras

SHORT = dict(max_steps=2, eval_steps=2, batch_size=4, warmup_steps=0, logging_steps=1)


def make(root, label=("reward_bins", "float32", (5,)), value=None, episodes=6, videos=False):
    "A set of films of 6 frames whose brightness is the bin; `value(bin)` is the label"
    features = {c: dict(dtype="video" if videos else "image", shape=(64, 64, 3), names=["height", "width", "channels"])
                for c in aloha_cameras}
    if label:
        features[label[0]] = dict(dtype=label[1], shape=label[2], names=None)
    for name in ("observation.state", "action"):
        features[name] = dict(dtype="float32", shape=(2,), names=["a", "b"])
    data = LeRobotDataset.create(f"local/{root.name}", fps=10, features=features, root=root, use_videos=videos, video_backend="pyav")
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        for t in range(6):
            b = int(5 * t / 6) if episode % 2 == 0 else 0
            row = {c: np.clip(rng.integers(0, 60, (64, 64, 3)) + 40 * b, 0, 255).astype(np.uint8) for c in aloha_cameras}
            for name in ("observation.state", "action"):
                row[name] = np.zeros(2, np.float32)
            if label:
                row[label[0]] = value(b) if value else np.eye(5, dtype=np.float32)[b]
            data.add_frame(row | dict(task="lift the red cup"))
        data.save_episode()
    data.finalize()
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    "A set with labels, and the same films without"
    folder = tmp_path_factory.mktemp("sets")
    return dict(good=make(folder / "good"), bare=make(folder / "bare", None), folder=folder)


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    "A classifier of two steps"
    out = tmp_path_factory.mktemp("trained")
    return train_classifier(read_settings(AlohaSettings, SHORT | dict(data=str(sets["good"]), output_dir=str(out))))


def settings(out, **given): return read_settings(AlohaSettings, SHORT | dict(output_dir=str(out)) | given)



# labels

def one(number, kind): return lambda b: np.array([number(b)], kind)


@pytest.mark.parametrize("name, kind, value, classes, words", [
    ("next.reward", "float32", one(lambda b: b / 4, np.float32), 5, "taken as progress and cut into 5 bins"),
    ("next.success", "bool", one(lambda b: b == 4, bool), 2, "failure (bin 0) and success (bin 1)"),
    ("stage", "int64", one(lambda b: b, np.int64), 5, "taken as bins")])
def test_numbers_are_labels(tmp_path, capsys, name, kind, value, classes, words):
    "What LeRobot itself writes trained to accuracy 1.000, every label being bin 0"
    root = make(tmp_path / "set", (name, kind, (1,)), value)
    run = train_classifier(settings(tmp_path / "run", data=str(root), label=name))
    assert run.classifier.head.out_features == classes and words in capsys.readouterr().out
    assert words in run.results["labels"] and run.results["majority_accuracy"] < 1
    run_aloha(settings(tmp_path / "look", data=str(root), label=name, mode="analyze"))
    assert words in capsys.readouterr().out
    assert words in json.loads((tmp_path / "look" / "analysis.json").read_text())["label"]


def test_one_bin_left_is_an_error(tmp_path):
    root = make(tmp_path / "set", ("next.success", "bool", (1,)), one(lambda b: False, bool))
    with pytest.raises(DataError, match="every training frame has bin 0, so there is nothing to tell apart"):
        train_classifier(settings(tmp_path / "run", data=str(root), label="next.success"))
    assert not (tmp_path / "run" / "results.json").exists()


def test_no_macro_f1_where_the_judged_films_hold_one_bin(tmp_path, sets, capsys):
    "Films 1, 3 and 5 never leave bin 0, and of four films the third by its highest bin is tested on"
    run = train_classifier(settings(tmp_path, data=str(sets["good"]), episodes="0,1,3,5", val_share=0, test_share=0.25, max_steps=1))
    assert set(run.frames.labels[run.test.rows]) == {0} and set(run.frames.labels) == set(range(5))
    assert run.results["macro_f1"] is None and "one bin only" in repr(run) and "say nothing" in capsys.readouterr().out


def test_nan_is_named_by_film_and_frame(tmp_path):
    root = make(tmp_path / "set")
    path = next(root.glob("data/**/*.parquet"))
    table = pd.read_parquet(path)
    table.at[8, "reward_bins"] = np.array([np.nan] * 5, np.float32)
    table.to_parquet(path)
    with pytest.raises(DataError, match="film 1, frame 2"): AlohaFrames(open_lerobot("local/set", root))


def test_lerobots_own_training_does_not_guess(trained):
    "LeRobot shows one batch at a time; plain numbers there used to be bin 0, all of them"
    model = AlohaRewardModel(AlohaConfig(device="cpu", num_classes=2), loaded=(trained.classifier, trained.processor))
    with pytest.raises(DataError, match="label_as = integer, success or progress"): model.bins_of(torch.tensor([0.0, 1.0]))
    model.config.label_as = "success"
    assert model.bins_of(torch.tensor([True, False])) == [1, 0]
    model.config.label_as = "auto"
    assert model.bins_of(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == [1, 0] # vectors need no word


# films without labels

def test_films_without_labels_get_bins(trained, sets, tmp_path, capsys):
    common = dict(ckpt_dir=trained.settings.ckpt_dir, mode="predict")
    path = run_aloha(settings(tmp_path, data=str(sets["bare"]), **common))
    rows = pd.read_parquet(path)
    assert path.parent == tmp_path and len(rows) == 36 and rows.label.isna().all() and set(rows.label_kind) == {"missing"}
    assert "no labels" in capsys.readouterr().out
    assert sorted(p.name for p in sets["folder"].iterdir()) == ["bare", "good"] # nothing beside the data
    labelled = pd.read_parquet(run_aloha(settings(tmp_path, data=str(sets["good"]), **common)))
    assert np.allclose(labelled.p0, rows.p0, atol=1e-5) and labelled.label.notna().all() # the same pictures
    with pytest.raises(DataError, match="no such column; columns there|did you mean"):
        run_aloha(settings(tmp_path, data=str(sets["bare"]), label="reward_bin", **common))


@pytest.mark.parametrize("label_as", ["progress", "regress"])
def test_labels_beside_predictions_are_read_as_in_training(tmp_path, capsys, label_as):
    "They were cut into five bins, whatever the classifier tells apart, so that right predictions counted as wrong ones"
    column = ("next.reward", "float32", (1,))
    root = make(tmp_path / "tenths", column, lambda b: np.array([0.23 * b], np.float32))
    given = dict(data=str(root), label="next.reward")
    run = train_classifier(settings(tmp_path / "run", num_classes=10, label_as=label_as, **given))
    folder = run.settings.ckpt_dir
    rows = pd.read_parquet(run_aloha(settings(tmp_path, mode="predict", ckpt_dir=folder, **given)))
    assert rows.label.tolist() == run.frames.labels.tolist() and rows.label.max() > 5 and "p9" in rows
    assert ("progress" in rows) == (label_as == "regress") and set(rows.label_kind) == {label_as}
    ends = make(tmp_path / "ends", column, lambda b: np.array([b == 4], np.float32)) # 0, and 1 at the end
    given["data"] = str(ends)
    rows = pd.read_parquet(run_aloha(settings(tmp_path, mode="predict", ckpt_dir=folder, **given)))
    assert set(rows.label) == {0, 9}
    noted = json.loads((tmp_path / "run/classifier/classifier.json").read_text())
    assert noted.pop("label_as") == label_as # earlier versions did not write it: then 0 and 1 may be anything
    (tmp_path / "run/classifier/classifier.json").write_text(json.dumps(noted))
    capsys.readouterr()
    rows = pd.read_parquet(run_aloha(settings(tmp_path, mode="predict", ckpt_dir=folder, **given)))
    assert rows.label.isna().all() and "they are not the bins of the classifier (10 bins)" in capsys.readouterr().out


def test_rewards_go_back_into_lerobots_own_forms(trained, sets, tmp_path):
    "Columns of a copy of the data set, and the file that its reward-aligned behaviour cloning weighs samples by"
    from lerobot.rewards.sarm.rabc import RABCWeights
    common = dict(ckpt_dir=trained.settings.ckpt_dir, mode="predict", data=str(sets["bare"]))
    before = {p: p.read_bytes() for p in sets["bare"].rglob("*.parquet")}
    path = run_aloha(settings(tmp_path, labelled_set=str(tmp_path / "with"), **common))
    rows, data = pd.read_parquet(path), LeRobotDataset("local/with", root=tmp_path / "with")
    assert np.allclose([float(data[i]["predicted_reward"]) for i in (0, 7, 35)], rows.progress_sparse[[0, 7, 35]])
    assert [int(data[i]["predicted_bin"]) for i in (0, 7, 35)] == rows.predicted[[0, 7, 35]].tolist()
    assert {p: p.read_bytes() for p in sets["bare"].rglob("*.parquet")} == before
    frames = AlohaFrames(data, label="predicted_bin", label_as="integer") # and such a set can be trained on
    assert frames.labels.tolist() == rows.predicted.tolist()
    weights, _ = RABCWeights(path, chunk_size=2, device="cpu").compute_batch_weights(dict(index=torch.arange(36)))
    assert weights.shape == (36,) and np.isfinite(weights.numpy()).all()
    with pytest.raises(SettingsError, match="is there already"): settings(tmp_path, labelled_set=str(tmp_path / "with"), **common)
    with pytest.raises(SettingsError, match="labelled_set with episodes"): # of a set of the hub, too
        settings(tmp_path, **common | dict(data=None, repo_id="lerobot/aloha_sim", episodes="[0]", labelled_set=str(tmp_path / "new")))
    some = pd.read_parquet(run_aloha(settings(tmp_path, episodes="[3]", **common)))
    assert some["index"].tolist() == list(range(18, 24)) # of the whole set, as LeRobot counts


def test_success_has_a_threshold(trained):
    found = trained.results["success"]
    last = trained.probabilities[:, -1]
    truth, said = trained.frames.labels[trained.test.rows] == 4, last >= found["threshold"]
    assert (found["successes"], found["said"]) == (truth.sum(), said.sum())
    if said.any(): assert found["precision"] == pytest.approx((truth & said).sum() / said.sum())
    if truth.any(): assert found["recall"] == pytest.approx((truth & said).sum() / truth.sum())


@pytest.mark.parametrize("scores, truth, best", [([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], 0.6), ([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1], 0.4)])
def test_the_threshold_is_chosen_on_validation_films(trained, scores, truth, best):
    from types import SimpleNamespace
    table = np.stack([1 - np.array(scores), scores], 1)
    frames = SimpleNamespace(labels=np.array(truth))
    every = SimpleNamespace(rows=np.arange(4))
    found = judge_success(frames, every, table, table, every)
    assert found["threshold"] == best and found["recall"] == 1
    assert judge_success(frames, every, table)["threshold"] == 0.5


def test_films_without_labels_can_be_looked_at_but_not_learnt(sets, tmp_path):
    table = run_aloha(settings(tmp_path, data=str(sets["bare"]), mode="analyze"))
    told = {r["what"]: r["value"] for r in table.rows}
    assert "no labels" in told["warning"] and told["format"] == "v3.0" and told["episodes"] == 6
    with pytest.raises(DataError, match="no such column"): train_classifier(settings(tmp_path, data=str(sets["bare"])))


# formats, timestamps, chosen films

@pytest.mark.parametrize("said, words", [
    ("v2.1", "format v2.1, and LeRobot .* reads v3.x; convert it: python -m lerobot.scripts.convert_dataset_v21_to_v30 "
             "--repo-id=local/old --root=.*old --push-to-hub=false"),
    ("v2.0", "converts from v2.1 only"), ("v4.0", "a newer LeRobot")])
def test_another_format_is_one_line(sets, tmp_path, said, words):
    root = tmp_path / "old"
    shutil.copytree(sets["good"], root)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps(info | dict(codebase_version=said)))
    with pytest.raises(DataError, match=words) as refused: open_data(settings(tmp_path, data=str(root)))
    assert "\n" not in str(refused.value)


def test_late_timestamps(tmp_path):
    root = make(tmp_path / "late", episodes=2, videos=True)
    path = next(root.glob("data/**/*.parquet"))
    table = pd.read_parquet(path)
    table.loc[::2, "timestamp"] = table.timestamp[::2] + np.float32(0.004)
    table.to_parquet(path)
    strict, loose = settings(tmp_path, data=str(root)), settings(tmp_path, data=str(root), tolerance_s=0.01)
    with pytest.raises(DataError, match="film 0: .*tolerance_s = 0.0001"): AlohaFrames(open_data(strict)).__getitems__([0, 1])
    frames = AlohaFrames(open_data(loose))
    assert len(frames.__getitems__(list(range(12)))) == 12


def test_the_video_backend_can_be_chosen(tmp_path):
    root = make(tmp_path / "films", episodes=1, videos=True)
    data = open_data(settings(tmp_path, data=str(root), video_backend="pyav"))
    assert data._video_backend == "pyav" and AlohaFrames(data)[3]["images"][0].size == (64, 64)
    with pytest.raises(SettingsError, match="did you mean 'pyav'"): settings(tmp_path, data=str(root), video_backend="pyavv")


@pytest.mark.parametrize("said, films", [
    ("[0,2]", {0, 2}), ("0,2", {0, 2}), ("1-3", {1, 2, 3}), ("0, 3-4", {0, 3, 4}), (None, set(range(6)))])
def test_films_can_be_chosen(sets, tmp_path, said, films):
    frames = AlohaFrames(open_data(settings(tmp_path, data=str(sets["good"]), episodes=said)))
    assert set(frames.episodes.tolist()) == films and len(frames) == 6 * len(films)
    whole = AlohaFrames(open_lerobot("local/good", sets["good"]))
    of_film = int(min(films))
    at = int(np.flatnonzero(whole.episodes == of_film)[4])
    here = int(np.flatnonzero(frames.episodes == of_film)[4])
    assert np.array_equal(np.array(frames[here]["images"][0]), np.array(whole[at]["images"][0]))


def test_chosen_films_of_videos_are_the_right_ones(tmp_path):
    root = make(tmp_path / "films", episodes=3, videos=True)
    whole = AlohaFrames(open_data(settings(tmp_path, data=str(root))))
    two = AlohaFrames(open_data(settings(tmp_path, data=str(root), episodes="[2]")))
    assert np.array_equal(np.array(two[5]["images"][1]), np.array(whole[17]["images"][1]))


@pytest.mark.parametrize("said, words", [
    (2, r"\[2\] for that film, 0-1 for the first 2"), ("two", "expected numbers of films"), ("[0,6]", "films 0 to 5")])
def test_films_that_cannot_be_chosen(sets, tmp_path, said, words):
    with pytest.raises(SettingsError, match=words): open_data(settings(tmp_path, data=str(sets["good"]), episodes=said))


def test_two_films_say_what_to_do(sets, tmp_path):
    with pytest.raises(DataError, match="set val_share or test_share to 0"):
        train_classifier(settings(tmp_path, data=str(sets["good"]), episodes="0-1"))


# pictures

@pytest.mark.parametrize("value", [1.0000002, 1.0009, -0.0005])
def test_resized_pictures_overshoot(value):
    assert np.array(to_picture(np.full((3, 8, 8), value, np.float32)))[0, 0, 0] in (0, 255)


@pytest.mark.parametrize("number, kind", [(300, np.uint16), (256, np.int64), (-1, np.int64), (-1, np.int8), (70000, np.int32)])
def test_whole_numbers_that_no_byte_holds_are_refused(number, kind):
    "They wrapped: 300 was 44, and -1 white"
    array = np.zeros((4, 4, 3), kind)
    array[1, 1, 1] = number
    low, high = min(0, number), max(0, number)
    with pytest.raises(DataError, match=f"whole numbers from {low} to {high}, expected 0 to 255"): to_picture(array)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_whole_numbers_of_a_byte_are_taken(kind):
    array = np.arange(48).reshape(4, 4, 3).astype(kind)
    array[0, 0] = 255
    assert np.array_equal(np.asarray(to_picture(array)), array)


@pytest.mark.parametrize("cameras, order", [
    (["cam_r_wrist", "cam_l_wrist", "cam_high"], [1, 0, 2]), (["wrist_R", "wrist_L", "head"], [1, 0, 2]), (["cam-R", "cam-L"], [1, 0]),
    (["observation.images.r", "observation.images.l", "top"], [1, 0, 2]), (["arm_l", "arm_l2", "arm_r2", "arm_r"], [3, 2, 1, 0]),
    (["wristR", "wristL"], [1, 0]), (["r", "observation.images.l"], None), (["r_wrist", "l_wrist_2"], None), (["cam_l", "cam_high"], None),
    (["cam_high", "realsense_L515"], [0, 1]), (["rgb_R200"], [0]), (["cam_l1", "cam_l2"], [0, 1]), (["L515_l", "top", "L515_r"], [2, 1, 0]),
    (["cam_L1_left", "cam_L1_right"], [1, 0]), (["cam_l1_L515", "cam_r1_L515"], [1, 0]),
    (["left_wrist_r", "right_wrist_r"], [1, 0]), (["left_L515", "top"], None), (["l_L515", "top"], None), (["front", "r"], None),
    (["l1_l", "r1_r", "l1_r"], None), (["l1_l", "r1_r", "l1_r", "r1_l"], [1, 0, 3, 2]),
    (["reel", "lever"], [0, 1]), (["cam1", "front_rgb", "RGBL"], [0, 1, 2]), (["cam_left_wrist", "cam_right_wrist"], [1, 0])])
def test_cameras_whose_side_is_a_letter_are_exchanged(cameras, order):
    "Their views were mirrored where they stood; None: a camera without its counterpart"
    from PIL import Image
    views = [Image.new("RGB", (4, 2), (40 * i, 0, 0)) for i in range(len(cameras))]
    found = mirrored(dict(images=views, text="Task: put it left of the letter l"), cameras)
    if order is None:
        assert found is None
        return
    reds = [view.getpixel((0, 0))[0] // 40 for view in found["images"]]
    assert reds == order and found["text"] == "Task: put it right of the letter l"


def test_a_run_says_that_nothing_will_be_mirrored(sets, tmp_path, capsys):
    frames = open_frames(settings(tmp_path, data=str(sets["good"])), training=True)
    said = {("cam_l", "cam_high"): "of cam_l\n", ("top", "r", "left"): "of r, left\n", ("l1_l", "r1_r", "l1_r"): "of l1_l, r1_r, l1_r\n",
            ("cam_l", "cam_r"): None, ("cam_high", "realsense_L515"): None}
    for names, end in said.items():
        for flip in (0.5, 0.0):
            capsys.readouterr()
            split_parts(frames, SimpleNamespace(**vars(settings(tmp_path, flip=flip)), camera_names=list(names)))
            told = capsys.readouterr().out
            assert told == (f"flip: nothing is mirrored, for there is no camera on the other side {end}" if end and flip else "")


def test_a_refused_picture_is_named(sets):
    frames = AlohaFrames(open_lerobot("local/good", sets["good"]))
    frames.pictures = {aloha_cameras[0]: 0}
    with pytest.raises(DataError, match="cam_high': film 1, frame 2: floats from 1.5"):
        frames._picture(np.full((3, 8, 8), 1.5, np.float32), aloha_cameras[2], 8)


# the older script's users

@pytest.mark.parametrize("word", ["None", "none", "-1", ""])
def test_all_frames_in_the_older_scripts_words(monkeypatch, tmp_path, word):
    monkeypatch.setenv("MAX_TRAIN_SAMPLES", word)
    assert settings(tmp_path).max_train_samples is None


def test_the_older_scripts_shell(monkeypatch, tmp_path, capsys):
    for name, value in dict(MAX_STEPS="100", MODE="TRAIN", QWEN3VL_MODEL="Qwen/Qwen3-VL-2B-Instruct", FINETUNE_MODE="LoRA",
                            NUM_CLASSES="None").items():
        monkeypatch.setenv(name, value)
    s = read_settings(AlohaSettings, {})
    assert (s.size, s.model, s.lr, s.batch_size, s.repo_id, s.max_steps, s.mode, s.finetune_mode, s.num_classes) == (
        "gpu", "Qwen/Qwen3-VL-2B-Instruct", 1e-4, 2, "lerobot/realworld_aloha_success_bhc", 100, "train", "lora", None)
    assert "size = gpu, since model = 'Qwen/Qwen3-VL-2B-Instruct' is no tiny twin" in capsys.readouterr().err
    assert read_settings(AlohaSettings, dict(size="tiny")).size == "tiny"


@pytest.fixture(scope="module", params=["lora", "full"])
def old_folder(request, tmp_path_factory):
    "What the older script leaves: model or adapter and processor in one folder, the head beside them"
    folder = tmp_path_factory.mktemp(request.param) / "old"
    classifier, processor = build_classifier(read_settings(AlohaSettings, dict(finetune_mode=request.param)), 5)
    with torch.no_grad():
        for p in classifier.parameters(): p.add_(0.02 * p.requires_grad)
    classifier.vlm.save_pretrained(folder)
    processor.save_pretrained(folder)
    torch.save(classifier.head.state_dict(), folder / "classifier.pt")
    return folder, classifier.eval(), processor


def test_an_old_checkpoint_predicts(old_folder, sets, tmp_path):
    folder, classifier, processor = old_folder
    frames = AlohaFrames(open_lerobot("local/good", sets["good"]))
    path = run_aloha(settings(tmp_path, mode="predict", ckpt_dir=str(folder), data=str(sets["good"]), model="tiny-qwen3_vl"))
    rows = pd.read_parquet(path)
    assert np.allclose(rows[[f"p{b}" for b in range(5)]], predict_bins(classifier, processor, frames), atol=1e-4)


def test_an_old_checkpoint_answers_in_chat(old_folder, tmp_path, capsys):
    "It used to be the untuned base that answered, in silence"
    folder, classifier, _ = old_folder
    found, vlm, _, _ = talkers(settings(tmp_path, mode="chat", ckpt_dir=str(folder), model="tiny-qwen3_vl"))
    theirs, ours = dict(vlm.named_parameters()), dict(classifier.vlm.named_parameters())
    assert found is not None and set(theirs) == set(ours) and all(torch.equal(theirs[n], ours[n]) for n in ours)
    assert f"the model of {folder} answers" in capsys.readouterr().err


def test_chat_refuses_a_folder_that_holds_no_classifier(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="no classifier in ckpt_dir"): settings(tmp_path, mode="chat", ckpt_dir=str(tmp_path / "empty"))


@pytest.mark.parametrize("given, told", [
    (dict(ckpt_dir="there"), "holds grpo_run, notes.json, and the new classifier would replace the whole folder"),
    (dict(ckpt_dir="there/notes.json"), "holds notes.json, and"),
    (dict(ckpt_dir="mine"), "holds predictions.jsonl, and"), # a classifier, and what somebody put beside it
    (dict(ckpt_dir="older"), "holds runs, and"),
    (dict(ckpt_dir="new", output_dir="new"), "is, or holds, output_dir = 'new'"),
    (dict(ckpt_dir="new", output_dir="new/deep/run"), "is, or holds, output_dir = 'new/deep/run'"),
    (dict(ckpt_dir="new/../new", data="new/films", size="gpu", model="Qwen/Qwen3-VL-2B-Instruct"), "is, or holds, data = 'new/films'")])
def test_a_new_classifier_takes_no_folder_of_other_files(tmp_path, monkeypatch, given, told):
    "CKPT_DIR=checkpoints wiped all that was in it, and ckpt_dir = output_dir the run itself"
    monkeypatch.chdir(tmp_path)
    for name in ("there/notes.json", "there/grpo_run/adapter.bin", "mine/classifier.json", "mine/predictions.jsonl", "older/classifier.pt",
                 "older/runs/log.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(SettingsError, match=told): read_settings(AlohaSettings, SHORT | dict(output_dir="out") | given)
    if "output_dir" not in given and "data" not in given: # what another mode reads is not replaced
        read_settings(AlohaSettings, SHORT | dict(output_dir="out", mode="analyze") | given)


def test_a_new_classifier_takes_an_empty_folder_or_the_place_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ours/classifier.json", "ours/model/config.json", "ours/manifest.json", "ours/.DS_Store", "older/classifier.pt",
                 "older/config.json", "older/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty").mkdir()
    for name in ("ours", "older", "empty", "new", "out/inside"):
        assert read_settings(AlohaSettings, SHORT | dict(output_dir="out", ckpt_dir=name)).ckpt_dir == name


def test_a_classifier_is_not_saved_over_other_files(old_folder, tmp_path):
    from vlrlbook.aloha import save_classifier
    (tmp_path / "notes.txt").write_text("three weeks")
    with pytest.raises(FileExistsError, match="holds notes.txt"): save_classifier(*old_folder[1:], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_old_head_that_would_run_code_is_refused(old_folder, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(old_folder[0], folder)
    torch.save(torch.nn.Linear(2, 2), folder / "classifier.pt")
    assert is_classifier(folder)
    with pytest.raises(DataError, match="could run code"): load_classifier(folder, base="tiny-qwen3_vl")


# the simulator's films are what is trained on where nothing is named

def test_without_a_name_the_simulators_films_are_opened(tmp_path):
    s = settings(tmp_path)
    assert (s.repo_id, s.shift) == (SIMULATED, 6)
    frames = open_frames(s)
    assert len(set(frames.episodes.tolist())) == 96 and frames.num_classes == 5 and set(frames.labels.tolist()) == set(range(5))
    some = open_frames(settings(tmp_path, episodes="0-3"))
    assert set(some.episodes.tolist()) == {0, 1, 2, 3} and some[0]["images"][2].size == (96, 96)
    with pytest.raises(SettingsError, match="episodes = 12: of a data set it names films"): settings(tmp_path, episodes="12")
    with pytest.raises(SettingsError, match="frames = 8: of drawn films only"): settings(tmp_path, frames=8)
    assert settings(tmp_path, frames=8, episodes=12, repo_id="local/synthetic_aloha").frames == 8


# several moments

def test_earlier_moments_are_shown_first(sets):
    plain, over_time = (AlohaFrames(open_lerobot("local/good", sets["good"]), moments=m) for m in ((), ["first", -0.2, -0.1]))
    same = lambda a, b: [x.tobytes() for x in a] == [x.tobytes() for x in b]
    for row in (0, 1, 4, 6, 11, 35): # six frames a film, ten a second
        film = row - row % 6
        shown, places = over_time[row]["images"], [film, max(film, row - 2), max(film, row - 1), row]
        assert len(shown) == 12 and over_time[row]["label"] == plain[row]["label"]
        for n, place in enumerate(places): assert same(shown[3 * n:3 * n + 3], plain[place]["images"])
    items = over_time.__getitems__([11, 0, 11])
    assert same(items[0]["images"], items[2]["images"]) and same(items[1]["images"][:3], items[1]["images"][9:])


def test_moments_of_a_film_on_disk(tmp_path):
    "As videos, and with some of the films only"
    root = make(tmp_path / "films", videos=True)
    whole = AlohaFrames(open_lerobot("local/films", root), moments=["first", -0.1])
    some = AlohaFrames(open_lerobot("local/films", root, episodes=[2, 4]), moments=["first", -0.1])
    assert [x.tobytes() for x in some[3]["images"]] == [x.tobytes() for x in whole[15]["images"]]


@pytest.mark.parametrize("written, found", [
    ("first,-2,-1", ["first", -2.0, -1.0]), ("[-0.5, 0]", [-0.5]), ("first, now", ["first"]), (None, []),
    ("['first', -1.5, 0.0]", ["first", -1.5])])
def test_moments_as_they_are_written(tmp_path, written, found): assert settings(tmp_path, moments=written).earlier_moments() == found


def test_moments_that_cannot_be(tmp_path):
    for wrong in ("last", "1", "first;-1", "-1e9", "nan"):
        with pytest.raises(SettingsError, match="expected first, and seconds below 0"): settings(tmp_path, moments=wrong)
    assert read_settings(AlohaSettings, dict(delta_timestamps="-1", output_dir=str(tmp_path))).moments == "-1"


def test_a_classifier_keeps_its_moments(sets, tmp_path):
    run = train_classifier(settings(tmp_path, data=str(sets["good"]), moments="first,-0.1", flip=0.5))
    assert run.results["n"] and run.classifier.moments == ["first", -0.1]
    classifier, processor, cameras = load_classifier(run.settings.ckpt_dir, "cpu")
    assert classifier.moments == ["first", -0.1]
    assert np.allclose(predict_bins(classifier, processor, run.test), run.probabilities, atol=1e-5)
    # prediction reads the same moments, though nobody names them again
    table = pd.read_parquet(run_aloha(settings(tmp_path, mode="predict", data=str(sets["good"]), ckpt_dir=run.settings.ckpt_dir)))
    held = table[table.episode_index.isin(run.frames.episodes[run.test.rows])]
    assert np.allclose(held[[f"p{b}" for b in range(5)]], run.probabilities, atol=1e-4)
    paid, views = as_reward(run.settings.ckpt_dir, "cpu"), run.test[0]["images"]
    assert paid(["lift"], [Sample("", "", views)])[0]["overall"] >= 0
    with pytest.raises(DataError, match="3 pictures, expected 9"): paid(["lift"], [Sample("", "", views[:3])])
    with pytest.raises(DataError, match="shown one moment"): AlohaRewardModel.from_pretrained(run.settings.ckpt_dir)
    item = run.test[0] | dict(text="Task: lift")
    twice = mirrored(mirrored(item, cameras), cameras)
    assert len(twice["images"]) == 9 and [i.tobytes() for i in twice["images"]] == [i.tobytes() for i in item["images"]]


# progress as a number

def test_a_place_between_two_marks():
    places = torch.tensor([0.0, 0.25, 1.3, 2.0, 4.0])
    shares = two_marks(places, 5)
    assert torch.allclose(shares.sum(1), torch.ones(5)) and torch.allclose(expected_bin(shares), places)
    assert shares[2].tolist() == pytest.approx([0, 0.7, 0.3, 0, 0]) and (shares > 0).sum(1).tolist() == [1, 2, 2, 1, 1]


def test_progress_is_regressed(tmp_path):
    root = make(tmp_path / "progress", ("next.reward", "float32", (1,)), lambda b: np.array([b / 4 * 0.9], np.float32))
    how = dict(label="next.reward", label_as="regress", max_steps=30, eval_steps=30, lr=3e-3)
    run = train_classifier(settings(tmp_path / "out", data=str(root), **how))
    found = json.loads((tmp_path / "out" / "results.json").read_text())["progress"]
    assert found["n"] == run.results["n"] and 0 <= found["mae"] < 1 and "progress off by" in repr(run)
    truth = run.frames.targets[run.test.rows] / 4
    said = run.probabilities @ np.arange(5) / 4
    assert found["mae"] == pytest.approx(np.abs(said - truth).mean())
    row = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[-1])
    assert row["progress"] == pytest.approx(truth[-1], abs=1e-3)
    # the loss sees the number: two rows of one bin and different progress have different targets
    batch = AlohaCollator(run.processor)([run.frames[0] | dict(target=0.1), run.frames[0] | dict(target=0.4)])
    assert batch["labels"].tolist() == pytest.approx([0.1, 0.4])
    with pytest.raises(SettingsError, match="class_weights with label_as"): settings(tmp_path, label_as="regress", class_weights=True)


def test_lerobot_trains_on_the_number_too():
    model = AlohaRewardModel(AlohaConfig(device="cpu", num_classes=5, label="next.reward", label_as="regress"))
    values = torch.tensor([[0.1], [0.6]])
    assert model.labels_of(values) == pytest.approx([0.4, 2.4]) and model.bins_of(values) == [0, 2]
    views = {c: torch.rand(2, 3, 64, 64) for c in aloha_cameras}
    loss, said = model(views | {"next.reward": values, "task": ["lift", "lift"]})
    assert torch.isfinite(loss) and 0 <= said["accuracy"] <= 1


@pytest.mark.parametrize("episodes, told", [
    ("5-3", "5-3 holds no film.*3-5"), ("0-2,9-7", "9-7 holds no film"), ("²", "expected numbers of films"),
    ("1-", "expected numbers of films"), ("4", "\\[4\\] for that film"),
    ("0-9999999999", "0-9999999999': no data set has so many films; expected numbers below 2000000"), ("[1,2000000]", "so many films"),
    ("1-" + "9" * 5000, r"'1-9{57}… \(5004 characters\): no data set"), ("8" * 5000, "so many films"), ("0" * 5000 + "4", "for that film")])
def test_films_that_cannot_be_meant_are_refused(tmp_path, episodes, told):
    from vlrlbook.aloha_settings import AlohaSettings
    from vlrlbook.core import SettingsError, read_settings
    make(tmp_path / "set")
    with pytest.raises(SettingsError, match=told): read_settings(AlohaSettings, dict(data=str(tmp_path / "set"), episodes=episodes))


def test_a_number_of_films_to_draw_is_a_number():
    from vlrlbook.aloha_settings import AlohaSettings
    from vlrlbook.core import SettingsError, read_settings
    for episodes in ("²", "0", "many", "9" * 5000, 10**9, "2000000"):
        with pytest.raises(SettingsError, match="episodes"): read_settings(AlohaSettings, dict(size="tiny", episodes=episodes))
