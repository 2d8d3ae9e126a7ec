"""The reward model: scores that depend on nothing but question and answer, losses by hand, runs that can be resumed, and its pay in
chapter 05."""
import io
import json
import os
import random
import re
import subprocess
import sys
import types
from datetime import datetime
from itertools import combinations
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SHARED, papermill, run_page
from papermill import inspect_notebook
from tokenizers.processors import TemplateProcessing
from vlrlbook.core import RunLog, Sample, SettingsError, cast, read_settings
from vlrlbook.data import DataError, draw_discs, permuted, split_preferences, split_rows_by_picture, synthetic_preferences
from vlrlbook.metrics import wilson
from vlrlbook.models import add_lora, families, save_model, tiny_twin
from vlrlbook.reward_model import (RewardModelSettings, VLRewardModel, as_reward, encode_answers, encode_pairs, load_model, load_rows,
                                   make_trainer, pair_report, pairs_of, pairwise_loss,
                                   plain_baselines, read_pair_rows, score_file, score_rows, squash, start_run, train_reward_model,
                                   write_scores)
from test_parameters import parsed

CHAPTER = ROOT / "nbs" / "03_reward_model.ipynb"
TINY = dict(drawn_rows=12, eval_rows=6, num_epochs=2, batch_size=4, logging_steps=1, log_samples=2)
real = pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")


def settings(folder, **given): return read_settings(RewardModelSettings, TINY | dict(output_dir=str(folder / "out")) | given)


@pytest.fixture(scope="module")
def model():
    twin, processor = tiny_twin("qwen2_vl")
    torch.manual_seed(1)
    made = VLRewardModel(twin.model, processor)
    torch.nn.init.normal_(made.head[2].weight, std=0.5)
    return made.eval()


def question(n): return Sample("How many discs are there?", "", [draw_discs(n, __import__("random").Random(n))], "preference")


# --- scores -------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", families)
def test_scores_depend_on_nothing_else(family):
    twin, processor = tiny_twin(family)
    made = VLRewardModel(twin.model, processor).eval()
    torch.nn.init.normal_(made.head[2].weight, std=0.5)
    samples = [question(n) for n in (1, 4, 2)] + [Sample("Is it blue?", "", [], "preference")]
    answers = ["A photo of 1 disc", "There are four discs in this picture, and then some more words", "two", "yes"]
    alone = [made.score_many([s], [a])[0] for s, a in zip(samples[:3], answers)]
    for size in (2, 3): assert made.score_many(samples[:3], answers[:3], size) == pytest.approx(alone, abs=1e-4)
    for side in ("left", "right"):
        with torch.no_grad():
            assert made(**encode_answers(processor, samples[:3], answers[:3], side=side)).tolist() == pytest.approx(alone, abs=1e-4)
    assert len({round(a, 4) for a in alone}) == 3


@pytest.mark.parametrize("family", families)
def test_pairs_share_what_they_begin_with(family):
    "scores, spoken loss and gradients, one question read once for two answers; answers that begin alike, equal ones, an empty one"
    backbone, processor = tiny_twin(family)
    torch.manual_seed(1)
    model = VLRewardModel(backbone.model, processor)
    torch.nn.init.normal_(model.head[2].weight)
    rows = [dict(query=q, image=[draw_discs(3, __import__("random").Random(0)).resize(side)] if side else None, response=["", ""],
                 human_ranking=[0, 1]) for q, side in (("How many discs are there?", (112, 56)), ("And?", (56, 84)), ("Text?", None))]
    batch = encode_pairs(processor,
                         [dict(row=r, first=a, second=b, preference=1, margin=None) for r, (a, b) in zip(rows,
                             (("there are three discs", "there are four"), ("one", "one"), ("", "yes")))], say=True)["encodings"]
    found = []
    for shares in (True, False):
        model.shares = shares
        model.zero_grad()
        scores, said = model(**batch)
        (scores.sum() * 3 + said).backward()
        found.append((scores.detach(), said.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (a, x, ga), (b, y, gb) = found
    assert (a - b).abs().max() < 1e-5 and x == pytest.approx(y, abs=1e-5)
    assert (ga - gb).norm() <= 1e-5 * gb.norm() and len(set(a.tolist())) > 2


def test_pairs_are_read_row_by_row_where_sharing_raises(monkeypatch, capsys):
    "A newer library must not end a run: the same scores, one loud line, and no second try"
    backbone, processor = tiny_twin("qwen2_vl")
    model = VLRewardModel(backbone.model, processor)
    torch.nn.init.normal_(model.head[2].weight)
    pair = dict(row=dict(query="How many?", image=[draw_discs(3, __import__("random").Random(0))], response=["", ""],
                         human_ranking=[0, 1]), first="three", second="four", preference=1, margin=None)
    batch = encode_pairs(processor, [pair])["encodings"]
    with torch.no_grad(): right = model(**batch)
    tried = []
    def broken(*args):
        tried.append(args)
        raise AttributeError("no attribute 'to_tuple'")
    monkeypatch.setattr("vlrlbook.reward_model.shared_hidden", broken)
    with torch.no_grad(): first, second = model(**batch), model(**batch)
    said = capsys.readouterr().err
    assert (first - right).abs().max() < 1e-5 and (second - right).abs().max() < 1e-5
    assert len(tried) == 1 and not model.shares
    assert said.count("shared prompt: AttributeError: no attribute 'to_tuple'; pairs are read row by row") == 1


def test_pictures_of_other_sizes_and_text_only(model):
    samples = [question(3), Sample("How many?", "", [draw_discs(2, __import__("random").Random(0), side=84)], "preference"),
               Sample("Is it blue?", "", [], "preference")]
    alone = [model.score_many([s], ["yes"])[0] for s in samples]
    assert model.score_many(samples[:2], ["yes"] * 2) == pytest.approx(alone[:2], abs=1e-4)
    assert model.score_many(samples, ["yes"] * 3) == pytest.approx(alone, abs=1e-4)


def test_the_picture_counts(model):
    first, second = (model.score(question(n).images[0], "How many discs are there?", ["A photo of 3 discs"])[0] for n in (2, 5))
    assert first != pytest.approx(second, abs=1e-5)


def test_untouched_after_scoring(model):
    state = torch.get_rng_state()
    model.train()
    model.score(None, "yes?", ["no"])
    assert model.training and torch.equal(state, torch.get_rng_state())
    model.eval()


@pytest.mark.parametrize("activation", ["silu", "tanh", "none"])
@pytest.mark.parametrize("lora", [False, True])
def test_round_trip(tmp_path, activation, lora):
    made = load_model(settings(tmp_path, activation=activation, use_lora=lora, score_min=-2, score_max=3))
    for p in made.parameters():
        if p.requires_grad: torch.nn.init.normal_(p, std=0.05)
    before = made.eval().score_many([cast()] * 3, ["A photo of 3 discs", "no", "A photo of 6 discs"])
    made.save_pretrained(tmp_path / "m")
    again = VLRewardModel.from_pretrained(tmp_path / "m")
    assert again.score_many([cast()] * 3, ["A photo of 3 discs", "no", "A photo of 6 discs"]) == pytest.approx(before, abs=1e-5)
    assert again.facts == made.facts and (tmp_path / "m" / "adapter_model.safetensors").exists() == lora
    assert not [p for p in (tmp_path / "m").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    assert {"preprocessor_config.json", "tokenizer.json", "head.safetensors", "reward_model.json",
            "manifest.json"} <= {p.name for p in (tmp_path / "m").iterdir()}


def test_lora_trains_adapter_and_head_only(tmp_path):
    made = load_model(settings(tmp_path, use_lora=True))
    names = [n for n, p in made.named_parameters() if p.requires_grad]
    assert names and all("lora_" in n or n.startswith("head.") for n in names) and not any("visual" in n for n in names)


def test_squash_keeps_a_gradient():
    raw = torch.tensor([-30.0, -8.0, 0.0, 8.0, 30.0], requires_grad=True)
    out = squash(raw)
    assert (out.abs() <= 5).all() and (torch.autograd.grad(out.sum(), raw)[0] > 0).all()
    clamped = raw.clamp(-5, 5)
    assert torch.autograd.grad(clamped.sum(), raw)[0].tolist() == [0, 0, 1, 0, 0]


# --- losses and rows ----------------------------------------------------------------------------------------------------------------------

def test_losses_have_the_right_gradient_signs():
    for form, margin in (("bt", 0.0), ("bt", 0.5), ("hinge", 0.5)):
        a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        pairwise_loss(a, b, torch.zeros(1), margin, form).sum().backward()
        assert a.grad > 0 > b.grad
    with pytest.raises(ValueError, match="did you mean 'hinge'"):
        pairwise_loss(torch.zeros(1), torch.zeros(1), torch.ones(1), form="hinged")


def test_accumulated_steps_equal_one_large_one(tmp_path):
    "Two half batches give the gradient of the whole one, so that accumulation changes memory and nothing else"
    found = []
    for size, parts in ((8, 1), (4, 2)):
        s = settings(tmp_path, batch_size=size, gradient_accumulation_steps=parts, drawn_rows=8, num_epochs=1, lm_weight=0)
        rows, made = synthetic_preferences(8), load_model(s)
        trainer = make_trainer(s, made, rows, rows, tmp_path / f"{size}", log := RunLog())
        trainer.train()
        found.append(log.series("grad_norm")[1][0])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_labels_are_the_better_answers():
    processor = tiny_twin("qwen2_vl")[1]
    rows = [dict(r, human_ranking=ranks) for r, ranks in zip(synthetic_preferences(3), ([0, 1], [1, 0], [1, 1]))]
    batch = encode_pairs(processor, pairs_of(rows), say=True)
    said = [processor.tokenizer.decode(row[row != -100]) for row in batch["encodings"]["labels"]]
    assert said == [rows[0]["response"][0] + "<|im_end|>", "", "", rows[1]["response"][1] + "<|im_end|>", "", ""]
    assert batch["preference"].tolist() == [1, 0, 0.5]


def test_labels_begin_with_the_answer_where_the_tokenizer_puts_a_token_in_front():
    "Gemma's puts <bos> before every text: it was counted as one of the answer's, and the prompt's last token was learnt, too"
    processor = tiny_twin("gemma3")[1]
    tokenizer = processor.tokenizer
    first = (tokenizer.pad_token, tokenizer.pad_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    assert tokenizer("three")["input_ids"][0] == tokenizer.pad_token_id
    rows = synthetic_preferences(1)
    labels = encode_pairs(processor, pairs_of(rows), say=True)["encodings"]["labels"][rows[0]["human_ranking"].index(0)]
    assert tokenizer.decode(labels[labels != -100]) == rows[0]["response"][rows[0]["human_ranking"].index(0)] + tokenizer.eos_token


GOOD = dict(id=1, query="q", image=None, response=["a", "b"], human_ranking=[0, 1])


@pytest.mark.parametrize("wrong, message", [
    (dict(response=["a"]), "two or more texts"), (dict(human_ranking=[0]), "2 responses but ranks"),
    (dict(human_ranking=[0, float("nan")]), "ranks must be numbers"), (dict(image="none.png"), "none.png"),
    (dict(margin=float("nan")), "margin"), (dict(margin=-1), "margin"), (dict(query=" "), "query is empty"),
    (dict(image=3), "expected a path or a list of paths")])
def test_bad_rows_stop_before_any_step(tmp_path, wrong, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (GOOD, GOOD | wrong)))
    with pytest.raises(DataError, match="row 2") as e: read_pair_rows(path)
    assert message in str(e.value) and "pairs.jsonl" in str(e.value)
    kept, skipped = read_pair_rows(path, skip_bad=True)
    assert len(kept) == 1 and [s["row"] for s in skipped] == [2]


def test_bad_files(tmp_path):
    (tmp_path / "a.csv").write_text("a")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "p.jsonl").write_text(json.dumps(GOOD | dict(image="text.png")) + "\n")
    for name, message in (("a.csv", "a.csv holds no row"), ("empty.jsonl", "no row"), ("list.jsonl", "expected an object"),
                          ("p.jsonl", "cannot be decoded")):
        with pytest.raises(DataError, match=message): read_pair_rows(tmp_path / name)
    with pytest.raises(SettingsError, match="no such file"): settings(tmp_path, train_data="nowhere.jsonl")


def test_parquet_and_jsonl_agree(tmp_path):
    import pandas as pd
    rows = synthetic_preferences(4)
    pd.DataFrame([r | dict(image={"bytes": r["image"]}) for r in rows]).to_parquet(tmp_path / "p.parquet")
    for r in rows: (tmp_path / f"{r['id']}.png").write_bytes(r["image"])
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r | dict(image=f"{r['id']}.png")) + "\n" for r in rows))
    a, b = (read_pair_rows(tmp_path / f"p.{kind}")[0] for kind in ("parquet", "jsonl"))
    assert [r["response"] for r in a] == [r["response"] for r in b]
    twin, processor = tiny_twin("qwen2_vl")
    made = VLRewardModel(twin.model, processor)
    for x, y in zip(score_rows(made, a), score_rows(made, b)): assert x == pytest.approx(y, abs=1e-6)


def test_sets_share_no_picture(tmp_path):
    rows = [r | dict(image=f"{i // 2}.png") for i, r in enumerate(synthetic_preferences(40))]
    for i in range(20): draw_discs(3, __import__("random").Random(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train, held, test, skipped = load_rows(settings(tmp_path, train_data=str(tmp_path / "p.jsonl"), eval_rows=100))
    names = [{r["image"] for r in side} for side in (train, held, test)]
    assert len(train) + len(held) + len(test) == 40 and not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert 0 < plain_baselines(train)["always_first"] < 1


def test_report_of_a_perfect_and_a_deaf_judge():
    rows = permuted([GOOD | dict(id=i, group="gh"[i % 2]) for i in range(20)], 1)
    right = [[-float(r) for r in row["human_ranking"]] for row in rows]
    report = pair_report(rows, right, [s[::-1] for s in right])
    assert report["pair_accuracy"] == report["macro"] == report["swap_consistency"]["consistent"] == 1 and set(report["by_group"]) == {"g",
        "h"}
    assert pair_report(rows, [[0.0, 0.0]] * 20)["pair_accuracy"] == 0.5
    first = [[1.0, 0.0]] * 20
    assert pair_report(rows, first, first)["swap_consistency"]["consistent"] == 0


def as_pairs(rows, scores):
    "The rows with three or more answers as rows of two, with their scores"
    pairs, their_scores = [], []
    for row, own in zip(rows, scores):
        for i, j in combinations(range(len(own)), 2):
            pairs.append(row | dict(response=[row["response"][k] for k in (i, j)], human_ranking=[0, 1]))
            their_scores.append([own[i], own[j]])
    return pairs, their_scores


@pytest.mark.parametrize("shown", [dict(image="{}.png"), dict(image=[b"{}", b"also"]), dict(image=None), dict(picture_hashes="{} b{}"), {}])
def test_pairs_of_one_picture_are_as_uncertain_as_a_ranking_of_it(shown):
    "Six pairs of a picture counted as independent: an interval of half the width"
    rows, scores = [], []
    for i in range(15):
        own = {"picture_hashes": shown["picture_hashes"].format(i, i)} if "picture_hashes" in shown else dict(shown)
        if shown.get("image"): own["image"] = f"{i}.png" if isinstance(shown["image"], str) else [b"%d" % i, b"%d too" % i]
        rows.append(dict(query=f"Question {i}?", response=list("abcd"), human_ranking=[0, 1, 2, 3]) | own)
        scores.append([float(k if i % 3 else -k) for k in range(4)])
    ranked = pair_report(rows, scores, [s[::-1] for s in scores])
    pairs, their_scores = as_pairs(rows, scores)
    apart = pair_report(pairs, their_scores, [s[::-1] for s in their_scores])
    assert apart["pair_accuracy"] == pytest.approx(ranked["pair_accuracy"])
    if shown: assert apart["ci95"] == pytest.approx(ranked["ci95"]) and apart["by_group"]["all"]["ci95"] == pytest.approx(ranked["ci95"])
    # a file that says nothing of pictures: each row counts as one
    else: assert apart["ci95"] == pytest.approx(wilson(30, 90))
    # rows of two answers, each with a picture of its own, stay independent
    alone, their_scores = pairs[::6], their_scores[::6]
    assert pair_report(alone, their_scores)["ci95"] == pytest.approx(wilson(5, 15))


def test_swaps_of_one_picture_are_drawn_together():
    rows = [dict(query="?", image=f"{i // 6}.png", response=["a", "b"], human_ranking=[0, 1]) for i in range(120)]
    scores = [[1.0, 0.0]] * 120
    swapped = [[0.0, 1.0] if i // 6 % 2 else [1.0, 0.0] for i in range(120)]
    found = pair_report(rows, scores, swapped)["swap_consistency"]
    lone = wilson(60, 120)
    assert found["consistent"] == 0.5 and found["ci95"][1] - found["ci95"][0] > 2 * (lone[1] - lone[0])


def test_written_scores_tell_which_rows_share_a_picture(tmp_path):
    draw_discs(3, __import__("random").Random(1)).save(tmp_path / "a.png")
    picture = str(tmp_path / "a.png")
    content = Path(picture).read_bytes()
    rows = [GOOD | dict(image=image) for image in (picture, content, [picture, b"x"], None, str(tmp_path / "gone.png"))]
    write_scores(tmp_path / "s.jsonl", rows, [[1.0, 0.0]] * 5)
    found = [json.loads(line)["picture_hashes"] for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert found[0] == found[1] == found[2].split()[0] and len(found[2].split()) == 2 and found[3] == "" and len(found[4]) == 16


def test_text_rows_of_one_question_stay_on_one_side(tmp_path):
    "All pairs of a question were on both sides: what was tested had been learnt"
    rows = [dict(id=f"{p}-{k}", query=f"Question {p}?", response=[f"answer {p} {k}", f"worse {p} {k}"], human_ranking=[0, 1])
            for p in range(30) for k in range(4)]
    def turn(role, content): return dict(role=role, content=content)
    talk = [dict(messages=[turn("user", f"Topic {p}"), turn("assistant", "ok"), turn("user", "More?")],
                 response=[f"t{p} {k}", f"u{p} {k}"], human_ranking=[0, 1]) for p in range(30) for k in range(2)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows + talk))
    sets = load_rows(settings(tmp_path, train_data=str(tmp_path / "p.jsonl"), eval_rows=100))[:3]
    asked = [{json.dumps([r.get("turns"), r["query"]]) for r in side} for side in sets]
    assert sum(map(len, sets)) == 180 and not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]
    # questions that occur once: the split is the one of before
    train, held = split_preferences(rows[::4], 0.1, 42)
    by_number = split_rows_by_picture([dict(row=i) for i in range(30)], 0.1, 42)
    assert [r["id"] for r in held] == [rows[4 * r["row"]]["id"] for r in by_number[1]] and len(train) == 27
    # one question in all rows tells nothing: split as before
    assert len(split_preferences(rows[:4], 0.1, 42)[0]) == 3
    shown = [row | dict(image="a.png") for row in rows[:4]]
    with pytest.raises(DataError, match="by their pictures: .*eval_data and test_data"): split_preferences(shown, 0.1, 42)


# --- settings -----------------------------------------------------------------------------------------------------------------------------

def test_parameters_cell_equals_settings():
    cells = [c for c in json.loads(CHAPTER.read_text())["cells"] if "parameters" in c["metadata"].get("tags", [])]
    module = (ROOT / "vlrlbook" / "reward_model_settings.py").read_text()
    body = module.split("class RewardModelSettings(Settings):")[1].split("aliases:")[0].split('"\n', 1)[1]
    assert len(cells) == 1 and parsed("".join(cells[0]["source"])) == parsed(body)


def test_papermill_help_is_complete():
    found = inspect_notebook(str(CHAPTER))
    assert {p["inferred_type_name"] for p in found.values()} <= {"str", "int", "float", "bool"} and all(p["help"] for p in found.values())


def test_gpu_preset_has_the_systems_defaults():
    s = read_settings(RewardModelSettings, {"size": "gpu"})
    assert (s.model, s.batch_size, s.lr, s.weight_decay, s.max_grad_norm, s.warmup_ratio) == ("Qwen/Qwen2-VL-2B-Instruct", 8, 1e-5, 0.01,
        1.0, 0.1)
    assert (s.num_workers, s.seed, s.num_epochs, s.score_min, s.score_max, s.margin, s.use_margin_loss, s.activation, s.lm_weight) == (4,
        42, 10, -5.0, 5.0, 0.5, False, "silu", 0.0)


@pytest.mark.parametrize("given, message", [
    (dict(loss_type="hinge"), "needs use_margin_loss"), (dict(score_min=5), "not below"),
    (dict(use_margin_loss=True, margin=11), "far apart"), (dict(load_weights_only=True), "without resume"),
    (dict(activation="relu"), "activation"), (dict(report_to="wandbb"), "did you mean 'wandb'"),
    (dict(experiment_name="a/b"), "plain name"), (dict(warmup_ratio=1.0), "warmup_ratio"),
    (dict(learning_rat=1), "did you mean 'learning_rate'"), (dict(image_dir="nowhere"), "no such directory")])
def test_refused(given, message):
    with pytest.raises(SettingsError, match=message): read_settings(RewardModelSettings, given)


# --- runs ---------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train_reward_model(settings(folder))


def test_a_run_leaves_what_it_promises(run):
    folder, results = run
    out = Path(results["run_dir"])
    assert {"pair_accuracy", "ci95", "baselines", "settings", "seconds", "peak_memory_mb", "versions", "commit",
            "pairs_per_second"} <= set(json.loads((folder / "out/results.json").read_text()))
    assert (out / "model/head.safetensors").exists() and len(list(out.glob("checkpoint-*"))) == 2
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 6 and len((out / "samples.jsonl").read_text().splitlines()) == 4
    log = RunLog.read(out / "run_log.csv")
    assert {"loss", "pair_accuracy", "margin", "lm_loss", "grad_norm", "lr", "eval/pair_accuracy"} <= set(log.columns)
    scores = score_rows(VLRewardModel.from_pretrained(out / "model"), load_rows(settings(folder))[2])
    lines = [json.loads(line)["scores"] for line in (out / "predictions.jsonl").open()]
    for a, b in zip(scores, lines): assert a == pytest.approx(b, abs=1e-5)


def test_resumed_equals_never_stopped(tmp_path, run):
    "Stopped after the first epoch and resumed: the same weights as the run that was never stopped"
    import shutil
    folder, results = run
    done, copy = Path(results["run_dir"]), tmp_path / "out" / Path(results["run_dir"]).name
    shutil.copytree(done, copy)
    newest = max(copy.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    shutil.rmtree(newest)
    with open(copy / "samples.jsonl", "a") as file: file.write('{"step": 6, "id": "cut by a ki')
    again = train_reward_model(settings(tmp_path, resume="true"))
    assert again["run_dir"] == str(copy) and again["steps"] == results["steps"]
    assert (copy / "samples.jsonl").read_text() == (done / "samples.jsonl").read_text() # no row of the second epoch twice
    a, b = (VLRewardModel.from_pretrained(p / newest.name) for p in (done, copy))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert RunLog.read(copy / "run_log.csv").series("loss") == RunLog.read(done / "run_log.csv").series("loss")


@pytest.mark.parametrize("other, told", [(dict(lr=1e-6), "lr = 0.001 then, 1e-06 now"), (dict(loss_type="hinge", use_margin_loss=True),
                                         "loss_type = 'bt' then, 'hinge' now"), (dict(drawn_rows=10), "drawn_rows = 12 then, 10 now"),
                                         (dict(prompt_template="Q: {{ content }}"), "template = None then, 'Q: {{ content }}' now")])
def test_a_run_goes_on_as_it_began_or_not_at_all(tmp_path, run, other, told):
    import shutil
    copy = tmp_path / "out" / Path(run[1]["run_dir"]).name
    shutil.copytree(run[1]["run_dir"], copy)
    before = {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}
    with pytest.raises(SettingsError, match=re.escape(told)): train_reward_model(settings(tmp_path, resume="true", **other))
    assert before == {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}


def test_rows_that_changed_under_a_run_are_noticed_and_a_moved_file_is_not(tmp_path):
    from vlrlbook.training import begun_with
    rows = [dict(query=f"How many discs in {i}?", response=["three", "four"], human_ranking=[i % 2, 1 - i % 2]) for i in range(6)]
    def s(name, **more): return settings(tmp_path, train_data=str(tmp_path / name), eval_data=str(tmp_path / name), **more)
    def read(name): return load_rows(s(name))[:2]
    for name, kept in (("a.jsonl", rows), ("moved.jsonl", rows), ("other.jsonl", rows[:5])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in kept))
    directory = start_run(s("a.jsonl"), *read("a.jsonl"))[0]
    write_committed(directory / "checkpoint-1")
    assert "train_rows" in json.loads((directory / begun_with).read_text())
    from vlrlbook.reward_model import rows_fingerprint
    assert rows_fingerprint(rows) != rows_fingerprint([rows[0] | dict(votes=[3, 1]), *rows[1:]]), "votes decide who is preferred"
    assert rows_fingerprint(rows) == rows_fingerprint([row | dict(votes=None, turns=[]) for row in rows]), "as in older runs"
    assert start_run(s("moved.jsonl", resume="true"), *read("moved.jsonl"))[1] == str(directory / "checkpoint-1")
    with pytest.raises(SettingsError, match="evaluation_rows = .* now; train_rows = .* now.*load_weights_only"):
        start_run(s("other.jsonl", resume="true"), *read("other.jsonl"))
    assert start_run(s("other.jsonl", resume="true", load_weights_only=True), *read("other.jsonl"))[2] == str(directory / "checkpoint-1")


def test_the_tenth_run_of_a_second_is_later_than_the_ninth(tmp_path):
    "The numbers at the end of their names are no text: -10 is behind -9"
    from vlrlbook.reward_model import _latest_run
    asked = settings(tmp_path)
    second = Path(asked.output_dir) / f"{asked.experiment_name}_20260131-235959"
    for ending in ("", "-2", "-9", "-10"): (Path(f"{second}{ending}") / "checkpoint-1").mkdir(parents=True)
    (Path(f"{second}-11")).mkdir()
    assert _latest_run(asked) == Path(f"{second}-10"), "-11 has no checkpoint"


@pytest.mark.parametrize("name", ["run[1]", "a*", "?", "[!x]"])
def test_an_experiments_name_is_no_pattern(tmp_path, name):
    from vlrlbook.reward_model import _latest_run, _new_run_dir
    s = types.SimpleNamespace(output_dir=str(tmp_path / "runs"), experiment_name=name)
    with pytest.raises(SettingsError, match="no run of"): _latest_run(s)
    for other in ("run1", "ab", "x"): (tmp_path / "runs" / f"{other}_99990101-000000" / "checkpoint-1").mkdir(parents=True)
    run = _new_run_dir(s)
    (run / "checkpoint-1").mkdir()
    assert _latest_run(s) == run and run.name.startswith(f"{name}_")


def test_runs_of_the_same_second_get_a_directory_each(tmp_path, monkeypatch):
    "Also where another process makes the directory between the look and the making"
    from vlrlbook import reward_model
    class Clock:
        @staticmethod
        def now(): return datetime(2026, 1, 31, 23, 59, 59)
    monkeypatch.setattr(reward_model, "datetime", Clock)
    monkeypatch.setattr(Path, "exists", lambda path, **more: False)
    s = types.SimpleNamespace(output_dir=str(tmp_path / "deep" / "runs"), experiment_name="a")
    assert [reward_model._new_run_dir(s).name for _ in range(3)] == ["a_20260131-235959", "a_20260131-235959-2", "a_20260131-235959-3"]


def write_committed(folder):
    "A checkpoint that equals its manifest"
    from vlrlbook.folders import new_folder
    with new_folder(folder, existing="none") as aside: (aside / "head.safetensors").write_bytes(b"weights")


def test_weights_only_begins_a_new_run(tmp_path, run):
    folder, results = run
    checkpoint = max(Path(results["run_dir"]).glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    s = settings(tmp_path, resume=str(checkpoint), load_weights_only=True)
    directory, resumed, weights = start_run(s)
    assert resumed is None and weights == str(checkpoint) and directory.parent == tmp_path / "out"
    made = load_model(s)
    made.load_weights(weights)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(),
        VLRewardModel.from_pretrained(checkpoint).state_dict().values()))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    "Saved reward models: one with all weights, one with an adapter, one with another head"
    folder = tmp_path_factory.mktemp("kept")
    heads = dict(full={}, lora=dict(use_lora=True, lora_r=4, lora_alpha=8, max_image_size=84),
                 tanh=dict(activation="tanh", score_min=0.0, score_max=1.0))
    for name, given in heads.items():
        made = load_model(settings(folder, model="tiny-qwen2_vl", lm_weight=0, **given))
        torch.nn.init.normal_(made.head[2].weight, std=0.3)
        made.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("family, sizes", [("qwen2_vl", dict(depth=2)), ("qwen2_vl", dict(depth=6)), ("qwen2_vl", dict(width=64)),
                                           ("qwen2_5_vl", {})])
def test_an_adapter_of_another_base_scores_nothing(kept, tmp_path, family, sizes):
    "PEFT put on what fits and only warned, so that the scores were of no trained model"
    save_model(*tiny_twin(family, **sizes), tmp_path / "other")
    with pytest.raises(ValueError, match="lora is an adapter of another base than other"):
        VLRewardModel.from_pretrained(kept / "lora", "cpu", base=str(tmp_path / "other"))
    save_model(*tiny_twin("qwen2_vl"), tmp_path / "moved")
    scores = [VLRewardModel.from_pretrained(kept / "lora", "cpu", base=base).score(None, "How many?", ["two", "one disc"])
              for base in (None, "tiny-qwen2_vl", str(tmp_path / "moved"))]
    assert scores[0] == scores[1] == pytest.approx(scores[2], abs=1e-4)


@pytest.mark.parametrize("name, given, told", [
    ("full", dict(use_lora=True), "use_lora = True: the saved reward model .*full goes on with its own, False"),
    ("full", dict(score_min=0.0), "score_min = 0.0: .* its own, -5.0; leave score_min out"), ("full", dict(score_max=1), "score_max = 1"),
    ("full", dict(activation="tanh"), "activation = 'tanh': .* its own, 'silu'"), ("tanh", dict(activation="none"), "its own, 'tanh'"),
    ("lora", dict(lora_r=8), "lora_r = 8: .* its own, 4"), ("lora", dict(lora_alpha=64), "lora_alpha = 64: .* its own, 8")])
def test_a_saved_model_keeps_its_head_and_adapter_or_the_run_stops(kept, tmp_path, name, given, told):
    "They were passed over without a word, and use_lora then trained all weights"
    with pytest.raises(SettingsError, match=told): load_model(settings(tmp_path, model=str(kept / name), lm_weight=0, **given))


def test_a_saved_model_goes_on_as_it_is(kept, tmp_path, capsys):
    goes_on = settings(tmp_path, model=str(kept / "lora"), lm_weight=0, use_lora=True, lora_r=4)
    made = load_model(goes_on)
    assert hasattr(made.backbone, "peft_config") and made.processor.image_processor.size["longest_edge"] == 84**2
    assert "lora: goes on with score_min -5.0, score_max 5.0, activation silu, use_lora True, lora_r 4" in capsys.readouterr().out
    smaller = load_model(settings(tmp_path, model=str(kept / "lora"), lm_weight=0, max_image_size=56))
    assert smaller.processor.image_processor.size["longest_edge"] == 56**2
    asked = dict(activation="tanh", score_min=0.0, score_max=1.0)
    assert load_model(settings(tmp_path, model=str(kept / "tanh"), lm_weight=0, **asked)).facts["activation"] == "tanh"


@pytest.mark.parametrize("begin, weights, told", [
    (dict(), "tanh", "score_min = -5.0: the weights in .*tanh were trained with 0.0"),
    (dict(), "lora", "use_lora = False: .* an adapter alone"),
    (dict(use_lora=True, lora_r=4), "full", "use_lora = True: .* holds all weights"),
    (dict(use_lora=True, lora_r=8), "lora", "size mismatch"), (dict(activation="none"), "full", "activation = 'none': .* with 'silu'")])
def test_weights_alone_are_taken_where_they_fit(kept, tmp_path, begin, weights, told):
    "The head's weights were taken without what they mean, so that the new run began with other scores"
    made = load_model(settings(tmp_path, **dict(model="tiny-qwen2_vl", lm_weight=0) | begin))
    before = [weight.clone() for weight in made.parameters()]
    with pytest.raises(SettingsError, match=told): made.load_weights(kept / weights)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters()))


def test_weights_alone_of_an_adapter(kept, tmp_path):
    made = load_model(settings(tmp_path, model="tiny-qwen2_vl", lm_weight=0, use_lora=True, lora_r=4, lora_alpha=8, max_image_size=84))
    made.load_weights(kept / "lora")
    saved = VLRewardModel.from_pretrained(kept / "lora", "cpu")
    assert made.eval().score(None, "How many?", ["two", "one"]) == pytest.approx(saved.score(None, "How many?", ["two", "one"]), abs=1e-5)


def test_two_runs_in_one_second_do_not_meet(tmp_path):
    assert len({start_run(settings(tmp_path))[0] for _ in range(3)}) == 3
    with pytest.raises(SettingsError, match="no run of 'reward_model'"): start_run(settings(tmp_path, resume="true"))


def test_a_damaged_checkpoint_is_passed_over(tmp_path, run, capsys):
    import shutil
    copy = tmp_path / "out" / Path(run[1]["run_dir"]).name
    shutil.copytree(run[1]["run_dir"], copy)
    newest, before = sorted(copy.glob("checkpoint-*"), key=lambda p: -int(p.name[11:]))[:2]
    (newest / "head.safetensors").write_bytes(b"")
    assert start_run(settings(tmp_path, resume="true"))[1] == str(before) and newest.name in capsys.readouterr().out


def test_early_stopping_keeps_the_best(tmp_path):
    "With a learning rate of nearly nothing no epoch is better than the first, and the run stops after its patience"
    s = settings(tmp_path, lr=1e-12, num_epochs=6, early_stopping_patience=1, drawn_rows=8)
    results = train_reward_model(s)
    assert results["epochs"] == 2 and results["best_step"] == 2


def test_an_adapter_finds_its_base_from_any_directory(tmp_path, monkeypatch):
    "Noted as `base`, it was another folder of that name in another directory, whose weights were taken without a word"
    def twin(place, seed):
        made, processor = tiny_twin("qwen2_vl", seed=seed)
        save_model(made, processor, tmp_path / place / "base")
    twin("here", 0)
    twin("there", 1)
    monkeypatch.chdir(tmp_path / "here")
    made = load_model(settings(tmp_path, model="base", lm_weight=0, use_lora=True, lora_r=4))
    made.save_pretrained(tmp_path / "kept")
    scores = made.score_many([question(2)], ["two"])
    monkeypatch.chdir(tmp_path / "there")
    assert VLRewardModel.from_pretrained(tmp_path / "kept").score_many([question(2)], ["two"]) == pytest.approx(scores, abs=1e-5)
    with pytest.raises(ValueError, match="another base"): VLRewardModel.from_pretrained(tmp_path / "kept", base="base")
    (tmp_path / "here").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="'kept': it was trained on .*here/base, which is not there; name it with base_model"):
        VLRewardModel.from_pretrained(tmp_path / "kept")
    moved = VLRewardModel.from_pretrained(tmp_path / "kept", base=str(tmp_path / "moved/base"))
    assert moved.score_many([question(2)], ["two"]) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_finished_run_that_goes_on_keeps_its_best_weights(tmp_path, monkeypatch, use_lora):
    "Started again at its last step it saved the last weights as the model, under the best step"
    import shutil
    from vlrlbook import reward_model
    scores = iter((0.9, 0.1))
    monkeypatch.setattr(reward_model, "_evaluation_figures", lambda evaluated: dict(pair_accuracy=next(scores), margin=0.0))
    given = dict(use_lora=use_lora, **(dict(lm_weight=0) if use_lora else {}))
    results = train_reward_model(settings(tmp_path, **given))
    def head(folder): return VLRewardModel.from_pretrained(folder).head[0].weight
    run_dir = Path(results["run_dir"])
    best, last = (head(run_dir / f"checkpoint-{n}") for n in (results["best_step"], results["steps"]))
    assert torch.equal(head(run_dir / "model"), best) and not torch.equal(best, last)
    again = train_reward_model(settings(tmp_path, resume="true", **given))
    assert again["run_dir"] == str(run_dir) and torch.equal(head(run_dir / "model"), best)
    assert again["pair_accuracy"] == results["pair_accuracy"] and again["best_step"] == results["best_step"]
    shutil.rmtree(run_dir / f"checkpoint-{results['best_step']}")
    again = train_reward_model(settings(tmp_path, resume="true", **given))
    assert torch.equal(head(run_dir / "model"), last) and again["best_step"] is None


def test_lora_with_a_margin_a_row(tmp_path):
    rows = [r | dict(margin=0.2 * (i % 3), image=f"{r['id']}.png") for i, r in enumerate(synthetic_preferences(24))]
    for r, drawn in zip(rows, synthetic_preferences(24)): (tmp_path / r["image"]).write_bytes(drawn["image"])
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    results = train_reward_model(settings(tmp_path, train_data=str(tmp_path / "p.jsonl"), use_lora=True, use_margin_loss=True,
                                          loss_type="hinge", centring=0.01, lm_weight=0, num_epochs=1, use_scheduler=False))
    assert (Path(results["model"]) / "adapter_model.safetensors").exists() and results["settings"]["loss_type"] == "hinge"


@pytest.mark.parametrize("tool", ["tensorboard", "wandb"])
def test_loggers_without_a_key(tmp_path, tool):
    pytest.importorskip(tool)
    secret = "k" * 40
    code = "import sys; from vlrlbook.cli import main; main(sys.argv[1:])"
    options = [x for k, v in (TINY | dict(output_dir="out", report_to=tool)).items() for x in (f"--{k}", str(v))]
    done = subprocess.run([sys.executable, "-c", code, "reward-model", *options], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "WANDB_MODE": "offline", "WANDB_API_KEY": secret, "WANDB_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert secret not in done.stdout + done.stderr
    assert [p for p in tmp_path.rglob("*") if "tfevents" in p.name or p.suffix == ".wandb"]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


# --- command line, files, pay -------------------------------------------------------------------------------------------------------------

def command(folder, *options):
    return subprocess.run([sys.executable, "-m", "vlrlbook.cli", *map(str, options)], cwd=folder, capture_output=True, text=True)


def test_console_commands(tmp_path):
    rows = synthetic_preferences(20)
    for r in rows: (tmp_path / f"{r['id']}.png").write_bytes(r["image"])
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r | dict(image=f"{r['id']}.png")) + "\n" for r in rows))
    done = command(tmp_path, "reward-model", "--train_data", "p.jsonl", "--learning-rate", "1e-4", "--num_epochs", 1, "--output_dir",
                   "out", "--use_margin_loss", "true")
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["settings"]["lr"] == 1e-4 and results["settings"]["use_margin_loss"] is True
    done = command(tmp_path, "score", "--model", results["model"], "--data", "p.jsonl", "--output_dir", "scores")
    assert done.returncode == 0 and "pairs a second" in done.stdout, done.stderr[-2000:]
    assert len(list((tmp_path / "scores").glob("reward_model_*_p_*.jsonl"))) == 1


def test_scores_stand_in_the_order_of_the_file(model, tmp_path):
    "They stood in a random order of the answers, so that `best` named another answer of the user's row"
    rows = [row | dict(image=None, query="Which?", votes=[5 - 4 * rank for rank in row["human_ranking"]])
            for row in synthetic_preferences(6)]
    rows += [dict(id=f"three {i}", image=None, query="How many?", response=[f"{i}", f"{i} {i}", "none"], human_ranking=[1, 0, 2])
             for i in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model.save_pretrained(tmp_path / "saved")
    found = score_file(str(tmp_path / "saved"), str(tmp_path / "p.jsonl"), str(tmp_path / "out.jsonl"), seed=3)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    for row, line in zip(rows, lines, strict=True):
        assert [line[name] for name in ("id", "response", "human_ranking")] == [row[name] for name in ("id", "response", "human_ranking")]
        assert line["scores"] == pytest.approx(model.score(None, row["query"], row["response"]), abs=1e-5)
        assert line["best"] == max(range(len(row["response"])), key=line["scores"].__getitem__)
        assert "order" not in line and line.get("votes", []) == row.get("votes", [])
    # the report looks at shuffled answers, as ever
    checked = permuted(read_pair_rows(tmp_path / "p.jsonl")[0], 3)
    expected = pair_report(checked, score_rows(model, checked))
    assert found["report"]["baselines"] == expected["baselines"] and found["report"]["pair_accuracy"] == expected["pair_accuracy"]
    assert found["report"]["swap_consistency"]["consistent"] == 1


def test_predictions_of_a_run_stand_in_the_order_of_the_file(tmp_path):
    from vlrlbook.reward_model import write_scores
    rows = [row | dict(image=None, query="Which?") for row in synthetic_preferences(60)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    _train, _evaluation, test, _ = load_rows(settings(tmp_path, train_data=files["train"], test_data=files["test"]))
    assert any(row["response"] != raw["response"] for row, raw in zip(test, rows)) # judged in another order
    write_scores(tmp_path / "out.jsonl", test, [[float(len(text)) for text in row["response"]] for row in test])
    for line, raw in zip(map(json.loads, (tmp_path / "out.jsonl").open()), rows, strict=True):
        assert line["response"] == raw["response"] and line["human_ranking"] == raw["human_ranking"]
        assert line["scores"] == [float(len(text)) for text in raw["response"]]


@pytest.mark.parametrize("options, message",
                         [(["reward-model", "--learning_rat", "1e-4"], "did you mean 'learning_rate'"),
                          (["reward-model", "--learning_rate"], "--name value pairs"),
                          (["score", "--model", "nowhere", "--data", "p.jsonl"], "no such file")])
def test_console_mistakes(options, message, capsys):
    from vlrlbook.cli import main
    with pytest.raises(SystemExit, match=message): main(options)


def test_console_help(capsys):
    from vlrlbook.cli import main
    with pytest.raises(SystemExit) as done: main(["reward-model", "--help"])
    assert done.value.code == 0
    assert "--early_stopping_patience" in capsys.readouterr().out


def test_two_processes_share_one_run(tmp_path):
    "Twelve rows in batches of three on two processes are two steps, in one directory"
    options = [x for k, v in (TINY | dict(output_dir="out", num_epochs=1, batch_size=3)).items() for x in (f"--{k}", str(v))]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vlrlbook.cli",
                           "reward-model", *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("reward_model_*"))) == 1 and json.loads(
        (tmp_path / "out/results.json").read_text())["steps"] == 2


def test_as_a_batched_frozen_reward(run):
    from vlrlbook.rewards import load_reward
    reward = load_reward(f"reward_model:{run[1]['model']}")
    parts = reward(["A photo of 3 discs", "", "<|image_pad|>", "x" * 10000], [cast()] * 4)
    assert reward.batched and all(0 <= p["overall"] <= 1 for p in parts) and not any(p.requires_grad for p in reward.model.parameters())
    assert as_reward(run[1]["model"], device="cpu")(["A photo of 3 discs"], [cast()])[0] == pytest.approx(parts[0], abs=1e-4)


def test_grpo_is_paid_by_it(tmp_path, run):
    "Three steps of chapter 05 with the model as reward, mixed with a rule; the reward model itself stays as it was"
    from vlrlbook.data import synthetic_counting, to_dataset
    from vlrlbook.grpo import GRPOSettings, make_trainer as grpo_trainer
    before = (Path(run[1]["model"]) / "model.safetensors").read_bytes()
    twin, processor = tiny_twin("qwen2_vl")
    save_model(twin, processor, tmp_path / "start")
    s = read_settings(GRPOSettings,
                      dict(model=str(tmp_path / "start"), reward=f"0.5*reward_model:{run[1]['model']} + 0.5*counting", max_steps=3,
                           batch_size=8, num_generations=4, logging_steps=1, save_steps=0, output_dir=str(tmp_path / "g")))
    log = RunLog()
    trainer = grpo_trainer(s, add_lora(twin, 4, 8), processor, to_dataset(synthetic_counting(12)), log=log)
    trainer.train()
    assert len(log) == 3 and any(c.startswith("part/reward_model_score") for c in log.columns) and all(
        g > 0 for g in log.series("grad_norm")[1])
    assert before == (Path(run[1]["model"]) / "model.safetensors").read_bytes()


def test_no_drawn_training_row_is_held_out(tmp_path):
    "Whatever the seed: 2**20 and the next one are those of the held-out rows; other rows stay as they were drawn"
    from vlrlbook.reward_model import _drawn_rows
    for seed in (0, 42, 2**20, 2**20 + 1):
        train, held, test, _ = load_rows(settings(tmp_path, seed=seed, drawn_rows=40, eval_rows=20))
        assert (len(train), len(held), len(test)) == (40, 20, 20) and [row["id"] for row in train] == [str(n) for n in range(1, 41)]
        assert not {row["image"] for row in train} & {row["image"] for row in held + test}
        unchanged = sum(new == old for new, old in zip(train, _drawn_rows(40, seed)))
        assert unchanged == (40 if seed < 2**20 else 20)


def test_the_whole_of_chapter_05_paid_by_it(tmp_path, run):
    "The command: pay kept with the answers, the verdict asks about it, and the record says which judge, without its path"
    from vlrlbook.grpo import main as grpo
    from vlrlbook.verdict import read_answers, verdict_of
    out, judge = tmp_path / "g", run[1]["model"]
    grpo(["--reward", f"reward_model:{judge}", "--warm_steps", "5", "--max_steps", "2", "--batch_size", "16", "--num_generations", "4",
          "--eval_samples", "12", "--save_steps", "0", "--refill", "0", "--output_dir", str(out)])
    results = json.loads((out / "results.json").read_text())
    name = Path(judge).parent.name
    about = results["judges"][0]
    assert (about["kind"], about["name"], about["pair_accuracy"]) == ("reward_model", name, run[1]["pair_accuracy"])
    assert about["fingerprint"] and len(results["judges"]) == 1
    rows = read_answers(out / "predictions.jsonl")
    assert all(set(row["paid"]) == {"before_greedy", "before_sampled", "after_greedy", "after_sampled"} for row in rows)
    pay = as_reward(judge)
    again = [pay([row["after_greedy"][0]], [sample])[0]["overall"] for row, sample in zip(rows, held_out(12))]
    assert [row["paid"]["after_greedy"] for row in rows] == pytest.approx(again, abs=1e-3), "the same picture and answer as GRPO sees"
    assert results["after"]["greedy"]["mean_reward"] == pytest.approx(sum(again) / 12, abs=1e-3)
    assert verdict_of(rows, "counting", pay) == results["verdict"]
    assert any(q["name"] == "paid_for_right" for q in results["verdict"]["questions"])
    for text in ((out / "README.md").read_text(), (out / "report.html").read_text()): assert name in text and str(tmp_path) not in text


def held_out(n):
    from vlrlbook.data import synthetic_counting
    from vlrlbook.grpo import held_out_seed
    return synthetic_counting(n, seed=held_out_seed)


def test_one_folder_is_loaded_once_while_it_is_in_use(run, monkeypatch):
    first = as_reward(run[1]["model"])
    monkeypatch.setattr(VLRewardModel, "from_pretrained", None)
    assert as_reward(run[1]["model"]).model is first.model


def test_a_judge_is_asked_about_many_answers_at_once():
    from vlrlbook.marking import marks
    calls = []
    def judge(completions, samples):
        calls.append(len(completions))
        return [dict(overall=len(c) + 100.0 * int(s.answer[-1])) for c, s in zip(completions, samples)]
    judge.batched = True
    samples = [Sample("How many?", str(i % 6), [], "counting") for i in range(50)]
    found = marks(samples, [["3", "333"]] * 50, judge)
    assert calls == [64, 36] and found["reward"] == [2 + 100 * (i % 6) for i in range(50)]


def test_a_template_as_windows_saves_it(tmp_path):
    from vlrlbook.reward_model import judge_template
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "t.txt").write_bytes("Look: {{ content }}".encode(encoding))
        assert judge_template(str(tmp_path / "t.txt")) == "Look: {{ content }}"


# --- the job, and real pairs --------------------------------------------------------------------------------------------------------------

def test_papermill(tmp_path):
    done = papermill(CHAPTER, tmp_path, **TINY, lr="1e-5")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "runs/03_reward_model/results.json").read_text())
    assert results["settings"]["lr"] == 1e-5 and {"pair_accuracy", "ci95", "baselines"} <= set(results) and {"blanked",
        "untrained"} <= set(results["baselines"])
    with pytest.raises(SettingsError, match="did you mean 'learning_rate'"): run_page(CHAPTER, tmp_path, lerning_rate=1)


@real
def test_public_pairs(model):
    from vlrlbook.reward_model import ixc_row
    rows = [r | dict(image=None, query=r["query"].replace("<image>", "").strip()) for r in (
        json.loads(line) for line in (SHARED / "vl_rewardbench_text/data.jsonl").open())]
    assert len(rows) == 498 and plain_baselines(rows)["always_first"] > 0.98
    assert 0.42 < plain_baselines(permuted(rows, 0))["always_first"] < 0.58
    row = ixc_row(json.loads((SHARED / "ixc_pref_example/example.json").read_text())[0], SHARED / "ixc_pref_example/example.jpg")
    scores = score_rows(model, [row])
    assert len(scores[0]) == 2 and scores[0][0] != scores[0][1]


def test_a_public_pair_keeps_its_picture_as_bytes():
    from vlrlbook.reward_model import ixc_row
    question = dict(value="<image>How many?")
    raw = dict(id="a", conversations_a=[question, dict(value="3")], conversations_b=[question, dict(value="4")])
    encoded = io.BytesIO()
    draw_discs(3, random.Random(0)).save(encoded, "PNG")
    assert ixc_row(raw, encoded.getvalue())["image"] == encoded.getvalue()


def test_a_public_pair_of_a_longer_talk_keeps_its_turns():
    "Its answers stood under the first question of the talk"
    from vlrlbook.reward_model import ixc_row
    def turn(who, text): return {"from": who, "value": text}
    talk = [turn("human", "<image>\nWhat is this?"), turn("gpt", "A dog."), turn("human", "What colour?")]
    row = ixc_row(dict(id="a", conversations_a=[*talk, turn("gpt", "Brown.")], conversations_b=[*talk, turn("gpt", "Blue.")]), b"picture")
    assert row["query"] == "What colour?" and row["response"] == ["Brown.", "Blue."] and row["human_ranking"] == [0, 1]
    turns = [(role, text.replace("<image>", "").strip()) for role, text in row["turns"]]
    assert turns == [("user", "What is this?"), ("assistant", "A dog.")]
    other = [talk[0], turn("gpt", "A cat."), *talk[2:], turn("gpt", "Blue.")]
    with pytest.raises(DataError, match="differ before their answers"):
        ixc_row(dict(id="a", conversations_a=[*talk, turn("gpt", "Brown.")], conversations_b=other), b"picture")


@pytest.mark.parametrize("name", ["scores.csv", "scores.TSV", "out/scores.parquet"])
def test_scores_are_written_as_lines_of_json_alone(tmp_path, monkeypatch, name):
    "A folder of that name was made, with a .jsonl in it"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="expected a name that ends in .jsonl, or a folder"): score_file("model", "p.jsonl", name)
    assert not list(tmp_path.iterdir())


def test_tokens_are_counted_as_the_reward_reads_them(model, tmp_path):
    "With the template around its questions, and only the end of a long answer"
    from vlrlbook.judge import _tokens
    model.save_pretrained(tmp_path / "saved")
    reward = as_reward(tmp_path / "saved", longest=40)
    plain = _tokens(reward, ["3"], [question(3)])
    assert _tokens(reward, ["3" * 900], [question(3)]) == _tokens(reward, ["3" * 40], [question(3)]) > plain
    reward.model.facts["prompt_template"] = "Look closely. {{ content }}"
    assert _tokens(reward, ["3"], [question(3)]) > plain


def test_a_saved_model_with_a_vocabulary_head_of_its_own_gets_no_language_loss(tmp_path, run):
    "As a fresh one: the language loss would take the input embedding, which is another weight"
    from vlrlbook.reward_model import load_model
    saved = load_model(settings(tmp_path, use_lora=False, lm_weight=0))
    config = saved.backbone.config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    saved.save_pretrained(tmp_path / "untied")
    load_model(settings(tmp_path, model=str(tmp_path / "untied"), lm_weight=0))
    with pytest.raises(SettingsError, match="vocabulary head of its own"):
        load_model(settings(tmp_path, model=str(tmp_path / "untied"), lm_weight=0.1))
