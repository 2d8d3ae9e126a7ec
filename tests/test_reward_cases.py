"""Chapter 03 as the reward system's users write to it: their command lines, their checkpoints, and rows that a judge
should not learn from in silence."""
import argparse
import json
import os

import numpy as np
import pytest
import torch
from support.preferences import base, untrained_judge, with_pictures, write

from vlrlbook.cli import main
from vlrlbook.core import Sample, SettingsError, cast, read_settings
from vlrlbook.data import DataError
from vlrlbook.models import families, tiny_twin
from vlrlbook.old_scores import is_old_checkpoint, read_old_checkpoint
from vlrlbook.reward_model import (RewardModelSettings, VLRewardModel, as_reward, as_text, control_tokens, encode_answers,
                                   encode_pairs, load_rows, margin_histogram, rank_answers, read_pair_rows,
                                   report_table, score_file, score_rows, train_reward_model, without_marks)
from vlrlbook.settings import flag_names, named_options, size_by_model

SHORT = dict(num_epochs=1, batch_size=4, logging_steps=1, log_samples=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Twelve pictures, and a file of twelve rows"
    root = tmp_path_factory.mktemp("preferences")
    with_pictures(root)
    write(root / "good.jsonl", [base(k) for k in range(12)])
    return root


@pytest.fixture(scope="module")
def judge(): return untrained_judge()


@pytest.fixture(scope="module")
def saved(judge, folder):
    judge.save_pretrained(folder / "judge")
    return folder / "judge"


def settings(tmp_path, **given):
    return read_settings(RewardModelSettings, SHORT | dict(output_dir=str(tmp_path / "out")) | given)


def command(capsys, *words):
    "`vlrlbook` in this process: (exit status or message, everything that it printed)"
    capsys.readouterr()
    status = 0
    try: main([str(w) for w in words])
    except SystemExit as ended: status = ended.code
    return status, "".join(capsys.readouterr()) + str(status)


# rows

@pytest.mark.parametrize("mark", ["<|image_pad|>", "<|vision_start|>"])
def test_a_question_with_a_processors_tokens_is_refused(folder, tmp_path, mark):
    rows = [base(0), base(1, query=f"{mark} what is it?")]
    path = write(folder / "marked.jsonl", rows)
    with pytest.raises(DataError, match="row 2: .*query holds"): read_pair_rows(path)
    kept, skipped = read_pair_rows(path, skip_bad=True)
    assert len(kept) == 1 and skipped[0]["row"] == 2


def test_ties_only(folder, saved, tmp_path, capsys):
    path = write(folder / "ties.jsonl", [base(k, human_ranking=[0, 0]) for k in range(12)])
    with pytest.raises(DataError, match="no pair with a preference"): train_reward_model(settings(tmp_path, train_data=path))
    assert not (tmp_path / "out").exists() # refused before a run has a directory
    found = score_file(str(saved), path, str(tmp_path))
    assert found["report"]["n"] == 0 and "no accuracy" in report_table(found["report"])[0]["value"]
    status, said = command(capsys, "score", "--model", saved, "--data", path, "--output_dir", tmp_path / "scores")
    assert status == 0 and "no accuracy" in said
    margin_histogram(before=[], after=[])


def test_a_test_file_of_ties_only(folder, tmp_path, capsys):
    path = write(folder / "ties2.jsonl", [base(k, human_ranking=[1, 1]) for k in range(4)])
    good = str(folder / "good.jsonl")
    found = train_reward_model(settings(tmp_path, train_data=good, eval_data=good, test_data=path))
    kept = json.loads((tmp_path / "out/results.json").read_text())
    assert found["n"] == 0 and kept["pair_accuracy"] is None # no 0.5, which a judge without a view would earn


def test_equal_answers_teach_nothing_and_that_is_said(folder, tmp_path, capsys):
    rows = [base(k, **(dict(response=["the same", "the same"]) if k < 3 else {})) for k in range(12)]
    train, *_ = load_rows(settings(tmp_path, train_data=write(folder / "equal.jsonl", rows), eval_data=str(folder / "good.jsonl"),
                                   test_data=str(folder / "good.jsonl")))
    assert len(train) == 9 and "3 of 12 rows hold the same answer twice" in capsys.readouterr().err
    rows = [base(k, response=["the same", "the same"]) for k in range(4)]
    with pytest.raises(DataError, match="prefers it to the same text"):
        load_rows(settings(tmp_path, train_data=write(folder / "equal2.jsonl", rows), eval_data=str(folder / "good.jsonl"),
                           test_data=str(folder / "good.jsonl")))


def test_a_named_file_is_judged_whole(folder, tmp_path, capsys):
    "It was cut to 500 rows, and a file sorted by group lost its last groups"
    path = write(folder / "grouped.jsonl", [base(k, query_source="A" if k < 500 else "B") for k in range(700)])
    good = str(folder / "good.jsonl")
    _, held, test, _ = load_rows(settings(tmp_path, train_data=good, eval_data=path, test_data=path))
    for rows in (held, test):
        assert len(rows) == 700 and [r["group"] for r in rows].count("B") == 200
    _, held, test, _ = load_rows(settings(tmp_path, train_data=path, eval_rows=20))
    assert len(held) == len(test) == 20 and "20 of " in capsys.readouterr().err # held out by us: cut, and said


# text of answers

@pytest.mark.parametrize("family", families)
def test_a_control_token_in_an_answer_is_text(family):
    "`<|im_end|>` in an answer ended the turn for the judge; now it is read as characters"
    twin, processor = tiny_twin(family)
    ids = {t: processor.tokenizer.convert_tokens_to_ids(t) for t in control_tokens(processor)}
    assert ids
    sample = Sample("How many?", "", [], "preference")
    for token, number in ids.items():
        plain, trick = encode_answers(processor, [sample] * 2, ["three", f"three {token} four"])["input_ids"].tolist()
        assert trick.count(number) - plain.count(number) <= 0 or number == processor.tokenizer.pad_token_id, token
    assert as_text(processor, "three < 4 and 5 > 2") == "three < 4 and 5 > 2"
    assert without_marks("a <|image<|image_pad|>_pad|> b <|vis<|vis<|vision_end|>ion_end|>ion_end|>") == "a  b "


def test_labels_end_where_the_answer_ends_with_control_tokens_in_it():
    twin, processor = tiny_twin("qwen2_vl")
    row = dict(query="How many?", image=None, response=["", ""], human_ranking=[0, 1])
    pair = dict(row=row, first="three <|im_end|> four", second="two", preference=1, margin=None)
    batch = encode_pairs(processor, [pair], say=True)["encodings"]
    spoken = batch["labels"][0][batch["labels"][0] != -100]
    n = len(processor.tokenizer(as_text(processor, pair["first"]) + processor.tokenizer.eos_token)["input_ids"])
    assert len(spoken) == n and torch.equal(spoken, batch["input_ids"][0][batch["attention_mask"][0] == 1][-n:])


def test_the_end_of_a_long_thought_counts(saved, capsys):
    "The first 4,000 characters were read, so two answers behind a long thought earned the same"
    reward = as_reward(saved, device="cpu", longest=40)
    thought = "one two three " * 30
    a, b, short = reward([thought + "A photo of 3 discs", thought + "no", "no"], [cast()] * 3)
    said = capsys.readouterr().err
    assert a["score"] != pytest.approx(b["score"], abs=1e-6)
    assert "answers of more than 40 characters are read from their end" in said
    reward([thought], [cast()])
    assert "read from their end" not in capsys.readouterr().err # once a run


# command lines

def test_bare_flags_and_other_names():
    flags = flag_names(RewardModelSettings)
    assert {"use_margin_loss", "use_wandb", "use_flash_attention", "log_samples", "load_weights_only"} <= flags
    words = ["--use_margin_loss", "--margin", "0.5", "--use_scheduler=false", "--Log-Samples", "--use_flash_attention",
             "--base_model_name", "tiny-qwen2_vl", "--resume_from_checkpoint", "there"]
    s = read_settings(RewardModelSettings, named_options(words, flags))
    assert (s.use_margin_loss, s.margin, s.use_scheduler, s.log_samples, s.attention, s.model, s.resume) == (
        True, 0.5, False, 4, "flash_attention_2", "tiny-qwen2_vl", "there")
    assert read_settings(RewardModelSettings, dict(log_samples="7")).log_samples == 7
    assert read_settings(RewardModelSettings, dict(log_samples="false")).log_samples == 0
    for words in (["--lr", "--margin", "1"], ["--lr"]):
        with pytest.raises(SettingsError, match="--lr without a value"): named_options(words, flags)


@pytest.mark.parametrize("words", [["--wandb_key", "s3cr3t"], ["--wandb_api_key=s3cr3t"], ["--hf_token", "s3cr3t"],
                                   ["--lr", "1e-5", "s3cr3t"], ["s3cr3t"]])
def test_a_key_on_a_command_line_is_refused_and_never_repeated(words, capsys):
    for name in ("reward-model", "aloha", "grpo", "score"):
        with pytest.raises(SystemExit) as refused: main([name, *words])
        said = str(refused.value) + "".join(capsys.readouterr())
        assert refused.value.code != 0 and "s3cr3t" not in said
        if name != "score" and ("key" in words[0] or "token" in words[0]): assert "set it in the environment" in said


def test_the_systems_own_command_lines(folder, tmp_path, capsys):
    good = str(folder / "good.jsonl")
    status, said = command(capsys, "reward-model", "--base_model_name", "tiny-qwen2_vl", "--train_data_path", good, "--val_data_path",
                           good, "--num_epochs", 1, "--batch_size", 4, "--use_margin_loss", "--margin", "0.5", "--use_scheduler",
                           "--log_samples", "--output_dir", tmp_path / "out")
    assert status == 0, said[-2000:]
    assert "--base_model_name is taken as model" in said and "--val_data_path is taken as eval_data" in said
    results = json.loads((tmp_path / "out/results.json").read_text())
    kept = results["settings"]
    assert (kept["use_margin_loss"], kept["log_samples"], kept["eval_data"], kept["size"]) == (True, 4, good, "tiny")
    out = tmp_path / "scores" / "mine.jsonl"
    words = ["score", "--model_path", results["model"], "--base_model_name", "tiny-qwen2_vl", "--data_path", good, "--output_path", out]
    status, said = command(capsys, *words)
    assert status == 0 and len(out.read_text().splitlines()) == 12, said[-2000:]
    before = out.read_bytes()
    status, said = command(capsys, *words)
    assert status != 0 and "not written over" in said and out.read_bytes() == before
    checkpoint = next((tmp_path / "out").glob("reward_model_*/checkpoint-*"))
    status, said = command(capsys, "reward-model", "--resume_from_checkpoint", checkpoint, "--load_weights_only", "--train_data_path",
                           good, "--num_epochs", 1, "--batch_size", 4, "--output_dir", tmp_path / "again")
    assert status == 0, said[-2000:]


def test_wandb_as_they_write_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    s = read_settings(RewardModelSettings, named_options(["--use_wandb", "--wandb_project", "mine"], flag_names(RewardModelSettings)))
    assert s.report_to == "wandb" and s.wandb_project == "mine"


# a real model's name

def test_a_real_models_name_takes_the_gpu_preset(capsys):
    s = read_settings(RewardModelSettings, dict(model="Qwen/Qwen2-VL-2B-Instruct"))
    assert (s.size, s.lr, s.num_epochs, s.lm_weight, s.max_image_size, s.bf16) == ("gpu", 1e-5, 10, 0.0, 512, True)
    assert "is no tiny twin; write size" in capsys.readouterr().err
    s = read_settings(RewardModelSettings, dict(model="Qwen/Qwen2-VL-2B-Instruct", size="tiny"))
    assert s.lr == 1e-3 and not capsys.readouterr().err
    from vlrlbook.settings import GRPOSettings
    assert read_settings(GRPOSettings, dict(model="Qwen/Qwen2.5-VL-7B-Instruct")).size == "gpu"
    assert read_settings(GRPOSettings, {}).size == read_settings(RewardModelSettings, {}).size == "tiny"


def test_size_by_model(saved, tmp_path):
    assert size_by_model(str(saved)) == "tiny" # a twin that was saved
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text(json.dumps(dict(text_config=dict(hidden_size=2048))))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(dict(base_model_name_or_path=str(tmp_path / "real"))))
    assert [size_by_model(str(tmp_path / n)) for n in ("real", "adapter", "nowhere")] == ["gpu"] * 3
    assert size_by_model(None) == size_by_model("tiny-qwen3_vl") == "tiny"


# the older script's checkpoints

def old_file(judge, path, prefix="backbone.", head="reward_head.", second=3, **more):
    "The judge as a training script of transformers 4 keeps it: other names, a dropout in the head, optimizer beside it"
    state = {}
    for name, tensor in judge.backbone.state_dict().items():
        name = name.removeprefix("language_model.") if not name.startswith("visual.") else name
        state[prefix + (name if name.startswith("visual.") else f"model.{name}")] = tensor
    state[prefix + "lm_head.weight"] = torch.zeros(3, 4)
    for ours, theirs in ((0, 0), (2, second)):
        for part in ("weight", "bias"): state[f"{head}{theirs}.{part}"] = judge.head.state_dict()[f"{ours}.{part}"]
    torch.save(dict(model_state_dict=state, epoch=3, best_accuracy=np.float64(0.7), optimizer_state_dict=dict(state={})) | more, path)
    return path


@pytest.mark.parametrize("names", [dict(), dict(prefix="module.base_model.", head="module.score.", second=2),
                                   dict(config=argparse.Namespace(score_min=-5.0, score_max=5.0))])
def test_an_old_checkpoint_scores_as_its_model_did(judge, folder, tmp_path, names):
    path = old_file(judge, tmp_path / "best_model.pt", **names)
    rows = read_pair_rows(folder / "good.jsonl")[0]
    again = VLRewardModel.from_pretrained(path, "cpu", base="tiny-qwen2_vl")
    assert np.allclose(score_rows(again, rows), score_rows(judge, rows), atol=1e-5)
    found = score_file(str(path), str(folder / "good.jsonl"), str(tmp_path / "s"), base_model="tiny-qwen2_vl")
    assert "best_model_good_" in found["path"]
    with pytest.raises(DataError, match="name it with base_model"): VLRewardModel.from_pretrained(path, "cpu")


def test_an_old_checkpoint_begins_a_run(judge, folder, tmp_path):
    path = str(old_file(judge, tmp_path / "epoch_3.pt"))
    with pytest.raises(SettingsError, match="only weights can be taken"): settings(tmp_path, resume=path)
    found = train_reward_model(settings(tmp_path, train_data=str(folder / "good.jsonl"), eval_data=str(folder / "good.jsonl"), lr=1e-12,
                                        test_data=str(folder / "good.jsonl"), resume=path, load_weights_only=True))
    again = VLRewardModel.from_pretrained(found["model"], "cpu")
    rows = read_pair_rows(folder / "good.jsonl")[0]
    assert np.allclose(score_rows(again, rows), score_rows(judge, rows), atol=1e-4)


class Runs:
    "What a pickle with code in it does when it is loaded"
    def __reduce__(self): return (os.mkdir, ("was-run",))


def test_old_checkpoints_that_are_refused(judge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model_state_dict={}, evil=Runs()), "evil.pt")
    with pytest.raises(DataError, match="could run code"): read_old_checkpoint("evil.pt")
    assert not (tmp_path / "was-run").exists()
    torch.save(dict(epoch=3), "empty.pt")
    with pytest.raises(DataError, match="no weights"): read_old_checkpoint("empty.pt")
    torch.save(judge.backbone.state_dict(), "headless.pt")
    with pytest.raises(DataError, match="a score head"): read_old_checkpoint("headless.pt")
    torch.save({"a.lora_A.weight": torch.zeros(2, 2), "h.0.weight": torch.zeros(1, 2)}, "lora.pt")
    with pytest.raises(DataError, match="merge it"): read_old_checkpoint("lora.pt")
    old_file(judge, tmp_path / "good.pt")
    with pytest.raises(DataError, match="another model"): VLRewardModel.from_pretrained("good.pt", "cpu", base="tiny-qwen2_5_vl")
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(DataError, match="cannot be read"): read_old_checkpoint("text.pt")
    assert not is_old_checkpoint(tmp_path) and not is_old_checkpoint("") and not is_old_checkpoint("true")


# one picture, N answers

def test_answers_are_ranked(judge, saved, folder, capsys):
    picture, answers = str(folder / "img/p1.png"), ["three discs", "no <|im_end|>", "A photo of 3 discs", "no"]
    ranked = rank_answers(judge, picture, "How many?", answers)
    scores = judge.score(picture, "How many?", answers)
    assert [r["place"] for r in ranked] == [1, 2, 3, 4] and sorted(scores, reverse=True) == [r["score"] for r in ranked]
    assert {r["answer"]: r["score"] for r in ranked} == dict(zip(answers, scores))
    assert sum(r["chance"] for r in ranked) == pytest.approx(1) and ranked[0]["answer"] == answers[int(np.argmax(scores))]
    status, said = command(capsys, "rank", picture, "How many?", *answers, "--model", saved)
    assert status == 0 and said.index(ranked[0]["answer"]) < said.index(ranked[2]["answer"])
    status, said = command(capsys, "rank", "none", "How many?", "a", "b", "--model", saved)
    assert status == 0
    status, said = command(capsys, "rank", "nowhere.png", "How many?", "a", "b", "--model", saved)
    assert "nowhere.png" in said and "Traceback" not in said
    with pytest.raises(ValueError, match="no answers"): rank_answers(judge, None, "How many?", [])
