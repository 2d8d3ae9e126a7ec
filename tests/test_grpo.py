"""Chapter 05 beyond the page: both tasks, refilled groups, settings from elsewhere, more than one process."""
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from vlrlbook import answers as answers_module
from vlrlbook import data, grpo, run_files
from vlrlbook.core import RunLog, Sample, SettingsError, cast, read_settings
from vlrlbook.archive import DataError, Report
from vlrlbook.data import picture_key, synthetic_counting, synthetic_vqa, to_dataset, with_good_truths
from vlrlbook.evaluation import EvaluationSettings, load_set
from vlrlbook.grpo import (GRPOSettings, Interrupted, Recorder, drawn_questions, load_data, load_policy, load_settings,
                           main, make_trainer, marks, model_card, service_settings, silent_groups, swap_groups)
from vlrlbook.models import add_lora, find_checkpoint, tiny_twin
from vlrlbook.answers import predict
from vlrlbook.rewards import is_right, load_reward
from vlrlbook.run_records import HeldOutReward
from vlrlbook.run_data import batch_that_fits
from vlrlbook.verdict import good_outcomes, not_measured, verdict_of

SHORT = dict(warm_steps=2, max_steps=2, batch_size=8, num_generations=4, eval_samples=4, logging_steps=1, save_steps=0,
             max_completion_length=8)


def trained(given, dataset=None):
    "Log of a short run on the tiny twin"
    settings = read_settings(GRPOSettings, {**SHORT, **given})
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, dataset if dataset is not None else load_data(settings)[0], log=log)
    trainer.train()
    return log, trainer


def test_vqa_trains_on_drawn_questions(tmp_path):
    log, _ = trained(dict(task="vqa", output_dir=str(tmp_path)))
    assert {"part/accuracy", "part/format"} <= set(log.columns) and len(log) == 2


@pytest.mark.parametrize("task", ["counting", "vqa"])
@pytest.mark.parametrize("seed", [grpo.held_out_seed, grpo.frozen_seed])
def test_any_seed_draws_a_set_without_leaks(task, seed):
    "The very seeds of the sets that are measured on, with as many pictures: every one of them would leak"
    settings = read_settings(GRPOSettings, {**SHORT, "task": task, "seed": seed})
    train, held, _ = load_data(settings)
    draw = synthetic_counting if task == "counting" else drawn_questions
    measured = {picture_key(s.images[0]) for seed in (grpo.held_out_seed, grpo.frozen_seed) for s in draw(4, seed=seed)}
    assert len(train) == 4 and train["row"][:] == [1, 2, 3, 4] and len(held) == 4
    assert not measured & {picture_key(row["images"][0]) for row in train}


def test_a_long_run_draws_a_set_without_leaks():
    "Of twenty possible pictures ten are held out: half of a run's own leak, and half of what takes their place, and so on"
    def draw(n, seed):
        rng = random.Random(seed)
        return [Sample("How grey?", "1", [Image.new("RGB", (4, 4), (rng.randrange(20),) * 3)], "counting", i + 1) for i in range(n)]
    held = [Sample("How grey?", "1", [Image.new("RGB", (4, 4), (grey,) * 3)]) for grey in range(10)]
    drawn, apart = draw(200, 44), grpo.drawn_apart(draw, 200, 44, held)
    grey = lambda sample: sample.images[0].getpixel((0, 0))[0]
    assert any(grey(s) < 10 for s in drawn) and not any(grey(s) < 10 for s in apart)
    assert [s.row for s in apart] == list(range(1, 201))
    assert all(grey(a) == grey(d) for a, d in zip(apart, drawn) if grey(d) >= 10)


def write_rows(folder, n=12):
    "EasyR1 rows with their pictures"
    for s in synthetic_vqa(n): s.images[0].save(folder / f"{s.row}.png")
    rows = [dict(prompt=s.question, answer=s.answer, images=[f"{s.row}.png"]) for s in synthetic_vqa(n)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder / "rows.jsonl")


def test_vqa_rows_from_a_file(tmp_path):
    settings = read_settings(GRPOSettings, {**SHORT, "task": "vqa", "data": write_rows(tmp_path)})
    train, held, _ = load_data(settings)
    assert "Your task:" in train[0]["question"] and [p["type"] for p in train[0]["prompt"][0]["content"]] == ["image", "text"]
    assert not set(train["row"]) & set(held["row"]) and train[0]["images"][0].size == (112, 112)


def test_a_sorted_file_is_measured_on_rows_of_every_kind(tmp_path):
    "And chapter 06 asks about the same rows as chapter 05, by the same seed and number"
    lines = []
    for i in range(90):
        Image.new("RGB", (8, 8), (i, 2 * i, 3)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps(dict(question="How many?", answer=str(1 + i // 30), image=f"{i}.png")))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    given = dict(task="vqa", data=str(tmp_path / "rows.jsonl"), eval_samples=9)
    train, held, _ = load_data(read_settings(GRPOSettings, {**SHORT, **given, "seed": 5}))
    assert len(held) == 9 and set(held["answer"]) == {"1", "2", "3"} and not set(held["row"]) & set(train["row"])
    asked, _ = load_set(read_settings(EvaluationSettings, given | dict(split="held-out", split_seed=5)))
    assert asked["row"][:] == held["row"][:]
    everything, _ = load_set(read_settings(EvaluationSettings, given | dict(split="all", eval_samples=30)))
    assert set(everything["answer"]) == {"1", "2", "3"}


def pays_yes(completion, answer):
    "A reward under which a truth other than yes earns nothing"
    return dict(overall=float(completion == answer == "yes"))


@pytest.mark.parametrize("trained, asked", [
    (dict(seed=7), {}), (dict(seed=7, skip_bad_rows=True, reward="test_grpo:pays_yes"), dict(skip_bad_rows=True)),
    (dict(seed=7), dict(reward="f1"))])
def test_held_out_rows_of_an_evaluation_were_not_trained_on(tmp_path, capsys, trained, asked):
    "The split was made with seed 43 and the task's reward, whatever the run had"
    lines = []
    for i in range(60):
        Image.new("RGB", (8, 8), (i, 2 * i, 3)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps(dict(question="Is it?", answer="yes" if i % 3 else "no", image=f"{i}.png")))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    given, run = dict(task="vqa", data=str(tmp_path / "rows.jsonl")), tmp_path / "run"
    settings = read_settings(GRPOSettings, {**SHORT, **given, **trained, "output_dir": str(run)})
    train, held, _ = load_data(settings)
    run.mkdir()
    (run / "adapter_config.json").write_text(json.dumps(dict(base_model_name_or_path="tiny-qwen2_5_vl")))

    def held_out(**more):
        evaluation = read_settings(EvaluationSettings, given | asked | dict(adapter=str(run)) | more)
        return set(load_set(evaluation)[0]["row"])
    assert held_out() & set(train["row"]), "without the run's settings nobody can tell"
    (run / "training_args.json").write_text(json.dumps(dict(settings=dataclasses.asdict(settings))))
    assert held_out() and held_out() <= {i + 1 for i in range(60)} - set(train["row"])
    assert held_out() >= set(held["row"]) # of which the run measures a few
    assert held_out(split_seed=7) == held_out() and len(held_out(split="all", split_seed=43)) == 60
    with pytest.raises(SettingsError, match="split_seed = 43: the model was trained on this file with seed = 7"): held_out(split_seed=43)
    # a training's reward that is not here, and a file of another program with that name
    (run / "training_args.json").write_text(json.dumps(dict(settings=dataclasses.asdict(settings) | dict(reward="not_here:score"))))
    capsys.readouterr()
    assert held_out() and "reward cannot be loaded" in capsys.readouterr().out
    for other in ("[]", "{}", '{"settings": 3}'):
        (run / "training_args.json").write_text(other)
        assert read_settings(EvaluationSettings, given | dict(adapter=str(run))).split_seed == 43


def test_a_missing_picture_of_a_vqa_row_is_named(tmp_path):
    path = write_rows(tmp_path)
    (tmp_path / "7.png").unlink()
    with pytest.raises(ValueError, match="image.missing: row 7, '7.png'"):
        load_data(read_settings(GRPOSettings, {**SHORT, "task": "vqa", "data": path}))


@pytest.mark.parametrize("rows, accumulated, processes, told", [
    (5, 1, 1, "at most 40"), (5, 3, 1, "at most 8"), (3, 1, 4, "at most 6"), (1, 16, 1, "fewer gradient_accumulation_steps")])
def test_the_batch_that_is_advised_fits(monkeypatch, rows, accumulated, processes, told):
    "Whole groups, no more prompts than rows, all processes together"
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    settings = GRPOSettings(num_generations=8, gradient_accumulation_steps=accumulated, refill=0)
    assert told in batch_that_fits(settings, rows)


def test_pictures_in_the_middle_of_a_question_train(tmp_path):
    "TRL gets the marks where the question has them; two pictures of unequal size in one row"
    samples = [Sample(f"Compare <image> with <image>, {i}.", "3",
                      [Image.new("RGB", (112, 56), "red"), Image.new("RGB", (56, 112), "blue")], "counting", i) for i in range(4)]
    log, _ = trained(dict(output_dir=str(tmp_path), max_steps=1), to_dataset(samples))
    assert len(log) == 1


def test_the_latest_logged_groups_lie_in_a_file(tmp_path):
    path, G = tmp_path / "rollouts_now.json", 2
    recorder = Recorder(G, path, every=5)
    samples = [s for s in synthetic_vqa(6, seed=1) for _ in range(G)]
    parts = [dict(overall=float(i % 2), odd=float("nan")) for i in range(len(samples))]
    ask = lambda step: recorder([f"<{i}>" for i in range(len(samples))], parts, samples,
                                SimpleNamespace(global_step=step - 1, max_steps=20))
    ask(4)
    assert not path.exists()
    for step in (5, 6): ask(step)
    found = json.loads(path.read_text())
    assert (found["step"], found["total_steps"], len(found["groups"])) == (5, 20, 4)
    group = found["groups"][1]
    assert (group["question"], group["truth"]) == (samples[2].question,
        samples[2].answer) and group["image"].startswith("data:image/png;base64,")
    assert [a["text"] for a in group["answers"]] == ["<2>", "<3>"] and group["answers"][1]["parts"] == dict(overall=1.0, odd=None)
    assert group["answers"][0]["advantage"] < 0 < group["answers"][1]["advantage"]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_on_a_card_are_those_of_the_run(scale):
    "As TRL 1.16 computes them: by the spread of the group, of the batch, or of nothing"
    from vlrlbook.run_records import scaled_advantages
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5, 0.9, 0.1, 0.2, 0.2])
    groups = rewards.view(-1, 4)
    centred = groups - groups.mean(1, keepdim=True)
    spread = {"group": groups.std(1, keepdim=True) + 1e-4, "batch": rewards.std() + 1e-4, "none": 1.0}[scale]
    assert scaled_advantages(rewards.tolist(), 4, scale) == pytest.approx((centred / spread).flatten().tolist(), abs=1e-6)
    assert scaled_advantages([1.0, None, 0.0, None, None], 5, scale)[1::2] == [0.0, 0.0]
    assert scaled_advantages([None] * 2, 2, scale) == [0, 0]
    recorder, samples = Recorder(2, scale=scale), [s for s in synthetic_vqa(2, seed=1) for _ in range(2)]
    recorder(list("abcd"), [dict(overall=r) for r in (1.0, 0.8, 0.0, 0.0)], samples, SimpleNamespace(global_step=0, max_steps=4))
    shown = [a["advantage"] for a in recorder.rows()[0]["rollouts"]]
    assert shown == scaled_advantages([1.0, 0.8, 0.0, 0.0], 2, scale)[:2] and sum(shown) == pytest.approx(0)


def test_the_kept_group_has_something_to_show():
    "The first group that is not silent; the first of all where every one is"
    recorder, samples = Recorder(2), [s for s in synthetic_vqa(3, seed=1) for _ in range(2)]
    ask = lambda step, rewards: recorder(list("abcdef"), [dict(overall=r) for r in rewards], samples,
                                         SimpleNamespace(global_step=step, max_steps=4))
    ask(0, [1, 1, 0, 1, 1, 0])
    ask(2, [1, 1, 0, 0, 1, 1])
    assert ["".join(a["text"] for a in row["rollouts"]) for row in recorder.rows()] == ["cd", "ab"]


def test_a_run_that_is_asked_to_stop_saves_first(tmp_path, monkeypatch):
    order = tmp_path / "order"
    order.write_text("run 1")
    monkeypatch.setenv("VLRLBOOK_STOP", str(order))
    settings = read_settings(GRPOSettings, dict(warm_steps=2, max_steps=6, batch_size=8, num_generations=4, logging_steps=1, save_steps=0,
        num_iterations=2, output_dir=str(tmp_path / "out")))
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, load_data(settings)[0], recorder=lambda *args: order.write_text("interrupt 1"),
                           log=log)
    with pytest.raises(Interrupted, match="checkpoint-2 is saved"): trainer.train()
    assert find_checkpoint(tmp_path / "out", "true").endswith("checkpoint-2") and log.series("loss")[0] == [1, 2]


def test_marks_of_both_tasks():
    drawn, asked = Sample("?", "A photo of 3 discs", task="counting"), drawn_questions(1, 0)[0]
    assert is_right("three", drawn.answer) and not is_right("no idea",
        drawn.answer) and is_right(f"<think>.</think><answer>{asked.answer}</answer>", asked.answer, "vqa")
    scored = marks([asked], [[f"<think>.</think><answer>{asked.answer}</answer>", "none"]], load_reward("vqa"))
    assert scored["exact"] == [0.5] and scored["verbatim"] == [0.5] and scored["error"][0] != scored["error"][0]


def half_silent(completion, answer): return dict(overall=float(len(completion) % 2))


def test_refill_replaces_silent_groups_and_says_what_it_cost(tmp_path):
    log, _ = trained(dict(output_dir=str(tmp_path), refill=3, reward="test_grpo:half_silent", num_generations=2, batch_size=16,
                          max_steps=3))
    rows = log.rows
    assert all(r["silent_left"] <= r["silent"] for r in rows) and any(r["extra_answers"] > 0 for r in rows)


@pytest.mark.parametrize("logging_steps", [1, 3])
def test_a_row_of_the_log_tells_of_the_steps_own_answers_and_not_of_refills(tmp_path, logging_steps):
    "A refill's few groups weighed as much as the whole step: the reward of the log was a mean of means"
    log, _ = trained(dict(output_dir=str(tmp_path), refill=3, reward="test_grpo:half_silent", num_generations=2, batch_size=16,
                          max_steps=3, logging_steps=logging_steps, keep_completions=True))
    answers = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    own_rewards = []
    for step in (1, 2, 3):
        rewards = [row["overall"] for row in answers if row["step"] == step]
        assert len(rewards) > 16  # answers of refills are kept too, behind the step's own
        own_rewards.append(rewards[:16])
    expected = [sum(rewards) / 16 for rewards in own_rewards]
    silent = [sum(a == b for a, b in zip(r[::2], r[1::2])) / 8 for r in own_rewards]
    if logging_steps == 3: expected, silent = [sum(expected) / 3], [sum(silent) / 3]
    assert [row["reward"] for row in log.rows if row.get("reward") is not None] == pytest.approx(expected)
    assert [row["silent"] for row in log.rows if row.get("silent") is not None] == pytest.approx(silent)


def test_what_only_a_refill_noted_is_taken_back_and_all_else_stays():
    trainer = grpo.RefillGroups.__new__(grpo.RefillGroups)
    trainer._metrics = dict(train=dict(reward=[0.5], num_tokens=[10]))
    counts = trainer._values_logged()
    trainer._metrics["train"] |= dict(num_tokens=[14], odd=[1.0])
    trainer._metrics["train"]["reward"].append(0.9)
    trainer._log_no_more_than(counts)
    assert trainer._metrics["train"] == dict(reward=[0.5], num_tokens=[14])


def brief(completion, answer): return dict(overall=1.0 - 0.01 * (len(completion) % 3))
def large(completion, answer): return dict(overall=123.456)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward, is_silent", [("brief", False), ("large", True)])
def test_a_group_of_small_differences_teaches_whatever_divides_its_advantages(tmp_path, scale, reward, is_silent):
    "Undivided advantages of a hundredth were taken for rounding, and the groups were thrown away; rounding of large rewards was not"
    log, _ = trained(dict(output_dir=str(tmp_path), refill=1, reward=f"test_grpo:{reward}", scale_rewards=scale, num_generations=8,
                          temperature=2.0))
    for row in log.rows:
        assert row["silent"] == row["silent_left"] == is_silent and bool(row["extra_answers"]) == is_silent


def test_groups_are_silent_by_their_rewards_and_without_them_by_their_advantages():
    def scored(rewards, advantages):
        n = len(advantages)
        batch = dict(prompt_ids=torch.ones(n, 4, dtype=torch.long), prompt_mask=torch.ones(n, 4), completion_ids=torch.ones(n, 3),
                     completion_mask=torch.ones(n, 3), advantages=torch.tensor(advantages))
        return batch | (dict(rewards=torch.tensor(rewards)) if rewards else {})
    nan = float("nan")
    old = scored([1.0, 0.99, 0.5, 0.5, nan, 0.5, nan, nan], [0.005, -0.005, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    fresh = scored([0.5, 0.5, 0.7, 0.701, 1.0, 0.0], [0.0, 0.0, -0.0005, 0.0005, 0.5, -0.5])
    rewards = swap_groups(old, fresh, 2)["rewards"].tolist()
    assert rewards[:6] == pytest.approx([1.0, 0.99, 0.7, 0.701, 1.0, 0.0])
    assert rewards[6] != rewards[6] # the last group stays, for want of a third that teaches
    assert swap_groups(scored(None, [1.0, -1.0, 1e-4, -1e-4]), scored(None, [-1.0, 1.0]), 2)["advantages"].tolist() == [1, -1, -1, 1]


def test_refilled_rows_keep_pictures_tokens_and_advantages_together():
    "Two batches of unequal prompts, answers and pictures: every row of the merged batch gives the log-probs it had alone"
    from vlrlbook.data import encode
    model, processor = tiny_twin("qwen2_5_vl")
    def scored(texts, sides, G, advantages):
        samples = [Sample(t, "", [Image.new("RGB", side, colour)]) for t, side, colour in zip(texts, sides,
            ("red", "blue", "green")) for _ in range(G)]
        prompts = encode(processor, samples)
        C = 3 + len(texts)
        completion = torch.arange(len(samples) * C).view(-1, C) % 40 + 10
        kinds = torch.cat([prompts["mm_token_type_ids"], torch.zeros_like(completion)], 1)
        return dict(prompt_ids=prompts["input_ids"], prompt_mask=prompts["attention_mask"], completion_ids=completion,
                    completion_mask=torch.ones_like(completion), advantages=torch.tensor(advantages),
                    pixel_values=prompts["pixel_values"], image_grid_thw=prompts["image_grid_thw"], num_images=[1] * len(samples),
                    mm_token_type_ids=kinds, num_items_in_batch=torch.tensor(completion.numel()))
    @torch.no_grad()
    def logps(b):
        out = model(input_ids=torch.cat([b["prompt_ids"], b["completion_ids"]], 1),
                    attention_mask=torch.cat([b["prompt_mask"], b["completion_mask"]], 1), pixel_values=b["pixel_values"],
                    image_grid_thw=b["image_grid_thw"], mm_token_type_ids=b["mm_token_type_ids"])
        P = b["prompt_ids"].shape[1]
        chosen = out.logits[:, P - 1:-1].log_softmax(-1).gather(-1, b["completion_ids"][..., None])[..., 0]
        return [row[mask.bool()] for row, mask in zip(chosen, b["completion_mask"])]
    old = scored(["How many?", "What is this, all in all?"], [(112, 56), (56, 56)], 2, [1.0, -1.0, 0.0, 0.0])
    new = scored(["Is it large? " * 4, "Yes?", "No?"], [(84, 112), (56, 56), (56, 56)], 2, [0.0, 0.0, -1.0, 1.0, 0.0, 0.0])
    both = swap_groups(old, new, 2)
    assert silent_groups(both["advantages"], 2) == [] and both["num_images"] == [1] * 4
    expected, got = [*logps(old)[:2], *logps(new)[2:4]], logps(both)
    for a, b in zip(expected, got): assert torch.allclose(a, b, atol=1e-4)


def test_swapped_groups_keep_one_ratio_an_answer():
    "Where vLLM samples TRL may give one ratio an answer [rows, 1] beside what has a number a token; longer answers pad the one alone"
    def scored(C, advantages, ratio):
        n = len(advantages)
        return dict(prompt_ids=torch.ones(n, 4, dtype=torch.long), prompt_mask=torch.ones(n, 4), completion_ids=torch.ones(n, C),
                    completion_mask=torch.ones(n, C), sampling_per_token_logps=torch.full((n, C), -1.0),
                    importance_sampling_ratio=torch.full((n, 1), ratio), advantages=torch.tensor(advantages))
    for own, other in ((3, 5), (5, 3), (1, 4), (4, 1), (1, 1)):
        both = swap_groups(scored(own, [1.0, -1.0, 0.0, 0.0], 0.9), scored(other, [1.0, -1.0], 1.1), 2)
        assert both["importance_sampling_ratio"].shape == (4, 1)
        assert both["importance_sampling_ratio"][:, 0].tolist() == pytest.approx([0.9, 0.9, 1.1, 1.1])
        assert both["sampling_per_token_logps"].shape == both["completion_ids"].shape == (4, max(own, other))
        assert both["sampling_per_token_logps"][2, :other].eq(-1).all() and both["sampling_per_token_logps"][2, other:].eq(0).all()


@pytest.mark.parametrize("fresh_has_pictures", [True, False])
def test_groups_with_and_without_pictures_change_places(fresh_has_pictures):
    "Of rows that are mixed a batch may have no picture at all, and then no fields of pictures"
    def scored(pictures, advantages):
        n = len(advantages)
        batch = dict(prompt_ids=torch.ones(n, 4, dtype=torch.long), prompt_mask=torch.ones(n, 4), completion_ids=torch.ones(n, 3),
                     completion_mask=torch.ones(n, 3), advantages=torch.tensor(advantages))
        if not pictures: return batch
        grid = torch.tensor([[1, 2, 2]] * n) # four patches of a picture
        return batch | dict(pixel_values=torch.ones(4 * n, 6), image_grid_thw=grid, num_images=[1] * n,
                            mm_token_type_ids=torch.ones(n, 7, dtype=torch.long))
    both = swap_groups(scored(not fresh_has_pictures, [1.0, -1.0, 0.0, 0.0]), scored(fresh_has_pictures, [1.0, -1.0]), 2)
    assert silent_groups(both["advantages"], 2) == []
    assert list(both["num_images"]) == ([0, 0, 1, 1] if fresh_has_pictures else [1, 1, 0, 0])
    assert both["pixel_values"].shape == (8, 6) and both["image_grid_thw"].tolist() == [[1, 2, 2]] * 2
    assert both["mm_token_type_ids"].sum(1).tolist() == [7 * k for k in both["num_images"]]


def test_the_services_objects_are_settings():
    config = dict(num_epochs=50, learning_rate=5e-5, batch_size=1, gradient_accumulation_steps=8, num_generations=8, temperature=0.2,
                  use_4bit=True, max_image_size=512, seed=43)
    assert service_settings(config, dict(r=64, lora_alpha=128, lora_dropout=0.05), size="gpu") == read_settings(GRPOSettings,
        dict(size="gpu"))
    assert service_settings({}, dict(r=8, alpha=16, dropout=0.1)).lora_alpha == 16
    with pytest.raises(SettingsError, match="training_config: there is no 'learning_rat'.*did you mean 'learning_rate'"):
        service_settings(dict(learning_rat=1))


@pytest.mark.parametrize("text, message",
                         [("lr: fast", "run.yaml: lr = 'fast'"), ("[1, 2]", "expected names and values"),
                          ("lr: [", "run.yaml: cannot be read"), ("learning_rates: 1", "did you mean")])
def test_bad_settings_files(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message): load_settings(tmp_path / "run.yaml")


def test_the_command_refuses_what_it_does_not_know():
    with pytest.raises(SystemExit, match="did you mean 'num_generations'"): main(["--num_generation", "4"])
    with pytest.raises(SystemExit, match="expected --name value"): main(["--lr"])


@pytest.mark.parametrize("given, message", [(dict(save_steps=3, num_iterations=2), "multiple of num_iterations"),
                                            (dict(refill=1, batch_size=4, gradient_accumulation_steps=4, num_generations=16), None),
                                            (dict(task="cuont"), "task = 'cuont'"), (dict(image_dir="nowhere"), "image_dir"),
                                            (dict(refill=-1), "refill = -1")])
def test_rules_of_the_new_settings(given, message):
    if message is None: read_settings(GRPOSettings, given)
    else:
        with pytest.raises(SettingsError, match=message): read_settings(GRPOSettings, given)


def test_model_card_names_data_reward_settings_commit_and_results():
    settings = read_settings(GRPOSettings, {})
    half = dict(exact_accuracy=0.5, mean_reward=0.8, n=9)
    card = model_card(settings,
                      dict(commit="abc1234",
                           gain={"greedy": dict(exact_accuracy=0.1, exact_accuracy_ci95=(0.0, 0.2), mean_reward=0.1,
                                                mean_reward_ci95=(0.0, 0.2))}, before={"greedy": half}, after={"greedy": half}))
    assert card.startswith("---\nbase_model: tiny-qwen2_5_vl\nlibrary_name: peft") and all(t in card for t in ("drawn pictures",
        "`counting`", "abc1234", "| lr | `5e-05` |", "n = 9", "+0.100 (+0.000 to +0.200)"))


def test_a_cut_answer_that_is_masked_has_no_advantage():
    "As in TRL, which leaves it out of its group"
    recorder, samples = Recorder(2, when_cut="masked"), [s for s in synthetic_vqa(1, seed=1) for _ in range(2)]
    state = SimpleNamespace(global_step=0, max_steps=9)
    recorder(["a", "b"], [dict(overall=1.0, cut=1.0), dict(overall=0.0, cut=0.0)], samples, state)
    assert [rollout.advantage for rollout in recorder.kept["1 first"].rollouts] == [0, 0]


def test_a_model_card_shows_no_folder_of_this_machine(tmp_path):
    folder = tmp_path / "private" / "qwen"
    folder.mkdir(parents=True)
    card = model_card(dataclasses.replace(read_settings(GRPOSettings, {}), model=str(folder)), {})
    assert "base_model: qwen\n" in card and "| model | `qwen` |" in card and str(tmp_path) not in card


def test_figures_of_before_and_after_are_those_of_the_task():
    "One list for the report, the model card and the service"
    from vlrlbook.compared import compared_figures
    def side(value): return dict(mean_iou=value, exact_accuracy=value, verbatim_accuracy=0.0, mean_reward=value, n=9)
    gained = {}
    for name in ("mean_iou", "exact_accuracy", "verbatim_accuracy", "mean_reward"):
        gained |= {name: 0.25, f"{name}_ci95": [0.125, 0.375], f"{name}_interval": "Tango"}
    results = dict(before=dict(greedy=side(0.25)), after=dict(greedy=side(0.5)), gain=dict(greedy=gained))
    rows = compared_figures(results)
    assert [r["measure"] for r in rows] == ["mean_iou", "exact_accuracy", "mean_reward"] # of boxes nothing is asked to the letter
    assert rows[0] == dict(asked="best guess", measure="mean_iou", words="overlap of boxes (IoU)", before=0.25, after=0.5, gain=0.25,
                           ci95=[0.125, 0.375], interval="Tango")
    assert "| greedy mean_iou, n = 9 | 0.250 | 0.500 | +0.250 (+0.125 to +0.375) |" in model_card(read_settings(GRPOSettings,
        dict(task="pointing")), results)
    gained["mean_reward_ci95"] = [None, None] # JSON has no NaN
    assert compared_figures(results)[2]["ci95"] is None
    for damaged in ({}, [], None, dict(gain=None), dict(gain=[1]), dict(gain=dict(greedy=gained)), results | dict(before=7)):
        assert compared_figures(damaged) == []
    for damage in (dict(exact_accuracy_ci95=[0.1]), dict(exact_accuracy_ci95=["a", "b"]), dict(exact_accuracy="x"), dict(mean_iou=[0.1])):
        assert compared_figures(results | dict(gain=dict(greedy=gained | damage))) == [], damage


FIXED = '''
import sys, torch
from vlrlbook import grpo
make = grpo.make_trainer
def patched(*args, **kwargs):
    "Answers that depend on the prompt and its place alone, so that one process and two see the same global batch"
    trainer = make(*args, **kwargs)
    def generate(prompt_ids, *others, **more):
        G, first = trainer.num_generations, trainer.accelerator.process_index * len(prompt_ids)
        answers = [[(sum(p) * 7 + (first + i) % G * 11 + k * 3) % 500 + 20 for k in range(4 + (first + i) % G)] for i, p in enumerate(prompt_ids)]
        return answers, None
    trainer._generate_single_turn = generate
    return trainer
grpo.make_trainer = patched
grpo.main(sys.argv[1:])
'''


# accelerate (1.15) takes FSDP on accelerators only, though PyTorch has it on CPUs too: its state is set by hand.
ON_FSDP = '''
from accelerate import state
own_init, plugin = state.AcceleratorState.__init__, None
def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    global plugin
    own_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    plugin = plugin or fsdp_plugin
    if plugin: self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, plugin
state.AcceleratorState.__init__ = with_fsdp
'''


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] # accelerate launch would want MPI on a CPU
FSDP = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
            FSDP_TRANSFORMER_CLS_TO_WRAP="Qwen2_5_VLDecoderLayer", FSDP_STATE_DICT_TYPE="FULL_STATE_DICT",
            FSDP_RESHARD_AFTER_FORWARD="true")


def trained_on_fixed_answers(folder, steps, launch, batch_size, prelude="", more=None):
    "The folder of a run of so many steps with a global batch of 16 answers; what it printed stands in said.txt"
    folder.mkdir()
    (folder / "fixed.py").write_text(prelude + FIXED)
    (folder / "paid.py").write_text("def by_length(completion, answer): return dict(overall=float(len(completion) % 5))\n")
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **(more or {})}
    common = ["--warm_steps", "2", "--max_steps", str(steps), "--num_generations", "4", "--lora_dropout", "0", "--save_steps", "0",
              "--logging_steps", "1", "--reward", "paid:by_length", "--lr", "1e-3", "--batch_size", str(batch_size)]
    done = subprocess.run([sys.executable, *launch, "fixed.py", *common, "--output_dir", "run"], env=env, cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return folder / "run"


@pytest.mark.parametrize("spread, steps", [("data", 3), ("weights", 2)])
def test_two_processes_take_the_same_step_as_one(tmp_path, spread, steps):
    """The same global batch of 16 answers: same rewards, loss, gradient norm, and the same weights after some steps.

    With FSDP 2, as the file of page 05 names it, weights are spread, too: prompts are not shared, and the run says so."""
    of_one_process = trained_on_fixed_answers(tmp_path / "one", steps, launch=[], batch_size=16)
    extra = dict(prelude=ON_FSDP, more=FSDP) if spread == "weights" else {}
    run = trained_on_fixed_answers(tmp_path / "two", steps, launch=TORCHRUN, batch_size=8, **extra)
    results = json.loads((run / "results.json").read_text())
    assert results["processes"] == 2
    if spread == "weights":
        assert results["shared_prompt"] == "off: the weights are spread over processes (FSDP or ZeRO 3)"
        said = (tmp_path / "two" / "said.txt").read_text()
        assert results["verdict"]["outcome"] == "not measured" and "lie on several processes" in said
    one, two = (RunLog.read(folder / "run_log.csv") for folder in (of_one_process, run))
    for name in ("reward", "loss", "grad_norm", "length"):
        assert two.series(name)[1] == pytest.approx(one.series(name)[1], rel=1e-4, abs=1e-6), name
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (of_one_process, run))
    assert a.keys() == b.keys() and any(w.abs().max() > 1e-4 for k, w in a.items() if "lora_B" in k)
    # Adam divides a gradient by its own size: where it is nothing but rounding, two orders of adding give two steps. So a number
    # here and there may be off by a twentieth of a step (of 1e-3), and of a thousand at most one by more than 2e-5.
    away = torch.cat([(a[k] - b[k]).abs().flatten() for k in a])
    assert away.max() <= 5e-5 and (away > 2e-5).float().mean() <= 1e-3


@pytest.mark.parametrize("given, rows, steps, answers", [
    (dict(num_epochs=50, batch_size=32, num_generations=4), 12, 50, 50 * 32),  # 4 rows of 12 fill no step
    (dict(num_epochs=3, batch_size=16, num_generations=4, num_iterations=2), 12, 18, 9 * 16),
    (dict(max_steps=6, batch_size=16, num_generations=4, num_iterations=2), 24, 6, 3 * 16)])
def test_the_cost_counts_the_steps_that_the_trainer_takes(tmp_path, given, rows, steps, answers):
    from vlrlbook.data import preflight
    model, processor = tiny_twin("qwen2_5_vl")
    s = read_settings(GRPOSettings, given | dict(refill=0, save_steps=0, output_dir=str(tmp_path)))
    data = to_dataset(synthetic_counting(rows, seed=1))
    counted = grpo.cost(s, model, preflight(data, processor), rows)
    assert (counted["optimizer steps"], counted["answers to sample"]) == (steps, answers)
    trainer = make_trainer(s, add_lora(model, 4, 8, 0.0, False), processor, data)
    assert s.max_steps > 0 or len(trainer.get_train_dataloader()) * s.num_epochs == steps


ONE_RAISES = """
import os, sys
from vlrlbook import grpo, shared_prompt
def raises(*args, **kwargs): raise TypeError("unexpected keyword argument 'cache'")
if os.environ["RANK"] == "1": shared_prompt.sample_groups = raises
grpo.main(sys.argv[1:])
"""


def test_one_of_two_processes_cannot_share(tmp_path):
    "Both go on the plain way, and the line names the exception"
    (tmp_path / "one.py").write_text(ONE_RAISES)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    given = ["--warm_steps", "2", "--max_steps", "2", "--num_generations", "4", "--batch_size", "8", "--logging_steps", "1",
             "--save_steps", "0", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run([*torchrun, str(tmp_path / "one.py"), *given], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "shared prompt: sampling raised TypeError: unexpected keyword argument 'cache'" in done.stderr
    assert "shared prompt: sampling raised an error on another process" in done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["shared_prompt"] == "off: sampling raised an error on another process" and results["steps"] == 2


@pytest.mark.parametrize("source, told", [
    ("def mine(completion, answer): return 1.0", "returns 1.0, expected a dict with `overall`"),
    ("def mine(completion, answer): return dict(overall=float('nan'))", "no finite number: 'overall'"),
    ("def mine(completion, answer): return dict(overall=float(completion))", "raises ValueError")])
def test_a_reward_that_cannot_train_is_found_before_the_model(tmp_path, monkeypatch, source, told):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"rewards_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(grpo, "load_policy", lambda settings: pytest.fail("the model was loaded"))
    settings = read_settings(GRPOSettings, SHORT | dict(reward=f"{name}:mine", output_dir=str(tmp_path / "out")))
    with pytest.raises(SettingsError, match=re.escape(told)): grpo.run(settings)


def test_a_reward_that_does_not_exist_is_found_before_the_data(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    settings = read_settings(GRPOSettings, SHORT | dict(data=str(tmp_path / "bad.zip"), reward="countin"))
    with pytest.raises(ValueError, match="did you mean 'counting'"): load_data(settings)


def test_a_truth_in_the_held_out_part_is_looked_at(tmp_path, monkeypatch):
    "An evaluation row that nothing can earn would end the run after its last step"
    rows = [dataclasses.replace(s, row=k) for k, s in enumerate(synthetic_counting(11, seed=1), 1)]
    monkeypatch.setattr(data, "unpacked_counting_zip", lambda path, task: (to_dataset(rows), Report()))
    (tmp_path / "mine.zip").write_bytes(b"read by nobody")
    settings = read_settings(GRPOSettings, SHORT | dict(data=str(tmp_path / "mine.zip"), batch_size=4, reward="counting"))
    held = load_data(settings)[1]["row"][0]
    rows[held - 1] = dataclasses.replace(rows[held - 1], answer="A photo of several discs")
    with pytest.raises(DataError, match=f"row.truth: row {held}: the answer 'A photo of several discs' earns nothing"): load_data(settings)


def test_a_truth_that_only_its_form_pays_is_refused():
    "shared/cases, Q1: tags of its own earned the reward for the form, and no answer could earn more"
    settings = read_settings(GRPOSettings, SHORT | dict(task="vqa"))
    row = [dataclasses.replace(cast(), answer="<think>dark</think><answer>no</answer>", task="vqa", row=5)]
    reward = load_reward(settings.reward)
    with pytest.raises(DataError, match="row 5"): with_good_truths(to_dataset(row), reward, False, Report())


def test_a_truth_that_cannot_be_paid_may_be_left_out():
    "A reward of one's own that reads numbers only, and a set with other answers among them"
    rows = [dataclasses.replace(cast(), answer=answer, row=k) for k, answer in enumerate(("3", "many", "2"), 1)]
    report = Report()
    kept = with_good_truths(to_dataset(rows), load_reward("counting"), True, report)
    assert kept["row"][:] == [1, 3] and [(row["row"], row["code"]) for row in report.skipped] == [(2, "row.truth")]
    with pytest.raises(DataError, match="no row has a truth"): with_good_truths(
        to_dataset(rows[1:2]), load_reward("counting"), True, report)


@pytest.mark.parametrize("when_cut", ["paid", "masked", "-0.5"])
def test_a_cut_answer_is_paid_by_its_rule(tmp_path, monkeypatch, when_cut):
    "Answers of two tokens are all cut: masked ones are None for TRL, a number is what they earn"
    paid = []
    made = grpo.for_trl
    def watched(*args, **kwargs):
        reward = made(*args, **kwargs)
        def asked(*more, **columns):
            paid.extend(reward(*more, **columns))
            return paid[-len(columns["completions"]):]
        return asked
    monkeypatch.setattr(grpo, "for_trl", watched)
    log, _ = trained(dict(max_completion_length=2, when_cut=when_cut, refill=0, output_dir=str(tmp_path)))
    assert len(paid) == 16
    if when_cut == "paid": assert all(isinstance(p, float) for p in paid) and "part/cut" not in log.columns
    else: assert set(paid) == {None if when_cut == "masked" else -0.5} and log.rows[-1]["part/cut"] == 1


def scored_once(when_cut, beta, answers, ours=True, **given):
    "A trainer and what it made of one batch of two groups of four, in which a twin says `answers`; not ours: TRL's own masking"
    settings = read_settings(GRPOSettings, SHORT | dict(
        refill=0, lora_dropout=0.0, beta=beta, max_completion_length=40, reward="test_grpo:half_silent") | given
        | (dict(when_cut=when_cut) if ours else {}))
    torch.manual_seed(0)
    model, processor = tiny_twin("qwen2_5_vl")
    trainer = make_trainer(settings, add_lora(model, 4, 8, 0.0, False), processor, to_dataset(synthetic_counting(2, seed=1)))
    if not ours: trainer.mask_truncated_completions = True
    torch.manual_seed(1)
    for name, weight in trainer.model.named_parameters():  # the policy has moved away from the reference
        if "lora_B.default" in name: weight.data.normal_(0, 0.05)
    tokenizer = processor.tokenizer
    end = [tokenizer.eos_token_id] # which an answer that is cut, here one with …, lacks
    said = [tokenizer(text.removesuffix("…"))["input_ids"] + (end if text[-1] != "…" else []) for text in answers]
    trainer._generate_single_turn = lambda ids, *more, **others: (said * (len(ids) // 4), None)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions([trainer.train_dataset[i] for i in (0,) * 4 + (1,) * 4])
    return trainer, batch


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_masked_answer_is_out_of_the_loss_its_divisor_and_the_kl_term(tmp_path, loss_type, shared):
    "As TRL's setting of the name does it; with `paid` cut answers stay where they were"
    answers = ["A photo of 1 disc", "A photo of 2 discs", "one two three four five six one two…", "one two three four five…"]
    given = dict(output_dir=str(tmp_path), loss_type=loss_type, shared_prompt=shared)
    masks, losses = {}, {}
    for name, when_cut, ours in (("ours", "masked", True), ("TRL's", "paid", False), ("paid", "paid", True)):
        trainer, batch = scored_once(when_cut, 0.04, answers, ours=ours, **given)
        masks[name] = batch["completion_mask"].sum(1).tolist()
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum() and "rewards" not in batch
        # the reward of a cut answer stays in TRL's mean of its group (chapter 02), so advantages differ: here they are no matter
        batch["advantages"] = torch.tensor([1.0, -1.0, 0.0, 0.0] * 2)
        losses[name] = trainer.compute_loss(trainer.model, batch).item()
    assert masks["ours"] == masks["TRL's"] and masks["ours"][2:4] == [0, 0] and min(masks["paid"]) > 0
    assert losses["ours"] == pytest.approx(losses["TRL's"], rel=1e-5) != pytest.approx(losses["paid"], rel=1e-3)


def test_an_answer_that_left_a_tag_open_is_out_of_the_loss_too(tmp_path):
    "It is cut by the book's rule though it has an end; and where all are cut nothing is divided by zero"
    trainer, batch = scored_once("masked", 0.04, ["<answer>3", "<answer>3</answer>", "no…", "yes"], output_dir=str(tmp_path))
    assert [bool(n) for n in batch["completion_mask"].sum(1)[:4]] == [False, True, False, True]
    trainer, batch = scored_once("masked", 0.04, ["no…"] * 4, output_dir=str(tmp_path))
    loss = trainer.compute_loss(trainer.model, batch)
    assert batch["completion_mask"].sum() == 0 and loss.item() == 0 and not batch["advantages"].any()


def test_the_word_for_cut_answers():
    with pytest.raises(SettingsError, match="when_cut = 'maskd': expected paid, masked or a number"):
        read_settings(GRPOSettings, dict(when_cut="maskd"))


@pytest.mark.parametrize("given", [dict(top_k=1), dict(top_p=1e-6), dict(min_p=1.0)])
def test_a_run_is_measured_by_the_sampler_with_which_it_trains(tmp_path, given):
    "Where only the likeliest token is left every sampled answer is the greedy one; with all tokens left they differ"
    model, processor = tiny_twin("qwen2_5_vl")
    samples = synthetic_counting(3, seed=2)
    settings = read_settings(GRPOSettings, SHORT | dict(eval_steps=1, output_dir=str(tmp_path), temperature=2.0) | given)
    answers = predict(model, processor, samples, settings)
    assert all(set(sampled) == set(greedy) for greedy, sampled in zip(answers["greedy"], answers["sampled"]))
    seen, log = [], RunLog()
    held_out = HeldOutReward(processor, samples, settings, log)
    held_out.reward = lambda texts, asked: seen.extend(texts) or [dict(overall=0.0)] * len(texts)
    held_out.on_step_end(None, SimpleNamespace(global_step=1, is_world_process_zero=True), None, model=model)
    assert [[text] for text in seen] == answers["greedy"]
    free = predict(model, processor, samples, read_settings(GRPOSettings, SHORT | dict(temperature=2.0)))
    assert free["greedy"] == answers["greedy"] and any(set(texts) != set(best) for best, texts in zip(free["greedy"], free["sampled"]))
    # whoever asks the model of the run later gets its sampler, too
    (tmp_path / "training_args.json").write_text(json.dumps(dict(settings=dataclasses.asdict(settings))))
    assert {name: answers_module._trained_with(tmp_path)[name] for name in given} == given
    of_no_run = answers_module._trained_with("tiny-qwen2_5_vl")
    assert (of_no_run["top_p"], of_no_run["top_k"], of_no_run["min_p"]) == (1.0, 0, None)


@pytest.mark.parametrize("when_cut, in_training", [("-1", "pays them -1 "), ("masked", "leaves them out"), ("paid", None)])
def test_results_say_where_training_pays_cut_answers_otherwise(tmp_path, capsys, monkeypatch, when_cut, in_training):
    "A run that learns to finish gains in `reward`, and nothing in the mean reward before and after: texts do not show what was cut"
    settings = read_settings(GRPOSettings, {**SHORT, "when_cut": when_cut, "output_dir": str(tmp_path)})
    samples = [Sample("How many?", "3", [], "counting", row=1)]
    answers = dict(greedy=[["3 discs and"]], sampled=[["3 discs and"]])
    results, _ = run_files.results_of(settings, samples, answers, answers, load_reward("counting"))
    assert results["after"]["sampled"]["mean_reward"] == 1.0 and ("reward_note" in results) == bool(in_training)
    monkeypatch.setattr(run_files, "write_report", lambda folder: None)
    grpo.finish(SimpleNamespace(is_world_process_zero=lambda: True), None, settings, results, is_saved=True)
    kept = json.loads((tmp_path / "results.json").read_text()).get("reward_note", "")
    printed, card = capsys.readouterr().out, (tmp_path / "README.md").read_text()
    for text in (kept, printed, card): assert ("as they read; training " + (in_training or "?") in text) == bool(in_training)
    assert (kept in printed and kept in card) and ("note:" in printed) == bool(in_training)


def nan_at_times(completion, answer):
    "Good on the texts of `check_reward`: the truth, nothing, and very long ones"
    return dict(overall=1.0 if completion in (answer, "") or len(completion) > 1000 else float("nan"))


def test_a_reward_that_gives_nan_in_training_stops_the_run_with_its_name(tmp_path):
    with pytest.raises(SettingsError, match="reward 'test_grpo:nan_at_times': a part is no finite number.*for the answer .* to row"):
        trained(dict(reward="test_grpo:nan_at_times", refill=0, output_dir=str(tmp_path)))


def test_the_model_is_saved_before_the_answers_are_marked(tmp_path, monkeypatch):
    "A reward that failed on an answer after the training cost all steps since the last checkpoint"
    def failing(*arguments): raise SettingsError("reward 'r': a part is no finite number")
    monkeypatch.setattr(grpo, "_compared", failing)
    saved = []
    own = run_files.save_run
    for module in (grpo, run_files):
        monkeypatch.setattr(module, "save_run", lambda *arguments: saved.append(1) or own(*arguments))
    settings = read_settings(GRPOSettings, {**SHORT, "output_dir": str(tmp_path), "eval_answers": 1, "refill": 0})
    with pytest.raises(SettingsError, match="reward 'r'"): grpo.run(settings)
    assert (tmp_path / "adapter_model.safetensors").exists() and (tmp_path / "training_args.json").exists()
    assert not (tmp_path / "results.json").exists() and saved == [1]
    grpo.run(settings, measure=False)
    assert (tmp_path / "results.json").exists() and saved == [1, 1]  # once a run


def test_the_command_asks_before_and_after(tmp_path, capsys):
    "`vlrlbook grpo`: verdict first, the same pictures at three steps, the card and the report with the sentence"
    settings = read_settings(GRPOSettings, {**SHORT, "output_dir": str(tmp_path / "run"), "eval_answers": 2})
    results = grpo.run(settings)
    sentence = results["verdict"]["sentence"]
    assert next(iter(results)) == "verdict" and results["verdict"]["outcome"] not in good_outcomes # a twin of two lessons
    assert f"verdict: {sentence}" in capsys.readouterr().out
    assert sentence in (tmp_path / "run" / "README.md").read_text() and "<html" in (tmp_path / "run" / "report.html").read_text()
    kept = json.loads((tmp_path / "run" / "pictures.json").read_text())
    assert [(s["when"], s["step"]) for s in kept["stages"]] == [("first", 0), ("middle", 1), ("last", 2)]
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    places = [[r["answer"] for r in rows].index(p["answer"]) for p in kept["pictures"]] # the first with each truth
    for stage, when in ((kept["stages"][0], "before"), (kept["stages"][2], "after")):
        assert stage["greedy"] == [rows[i][f"{when}_greedy"] for i in places]
        assert stage["sampled"] == [rows[i][f"{when}_sampled"] for i in places]
    assert verdict_of(rows, "counting", load_reward(settings.reward)) == results["verdict"]
    assert set(results["baselines"]) == {"majority", "blind_reward"} and len(kept["pictures"][0]["image"]) > 100


def test_what_was_not_measured_says_so(tmp_path):
    results = grpo.run(read_settings(GRPOSettings, {**SHORT, "output_dir": str(tmp_path)}), measure=False)
    assert results["verdict"]["outcome"] == "not measured" and "gain" not in results


def test_files_with_pictures_are_not_pushed(tmp_path, monkeypatch):
    import fnmatch
    import huggingface_hub
    pushed = {}
    class Api:
        def create_repo(self, *args, **options): pass
        def repo_info(self, name): return SimpleNamespace(private=True)
        def upload_folder(self, **options): pushed.update(options)
        def upload_file(self, **options): pushed[options["path_in_repo"]] = options["path_or_fileobj"]
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(run_files, "save_run", lambda *args: None)
    settings = read_settings(GRPOSettings, {**SHORT, "output_dir": str(tmp_path), "hub_model_id": "me/x"})
    grpo.finish(SimpleNamespace(is_world_process_zero=lambda: True), None, settings, dict(verdict=not_measured()))
    left_out = lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in pushed["ignore_patterns"])
    assert all(map(left_out, ("pictures.json", "report.html", "rollouts_now.json", "checkpoint-2", "completions.jsonl",
                              "completions.3.jsonl", "runs/Dec01_vm/events.out.tfevents.1", ".saving/x", ".env")))
    assert not any(map(left_out, ("README.md", "adapter_model.safetensors", "predictions.jsonl", "run_log.csv", "tokenizer.json")))
    assert set(pushed) & {"results.json", "README.md"} == {"results.json"}, "that without paths goes by itself"


def test_what_is_pushed_holds_no_path_of_this_machine(tmp_path, monkeypatch, capsys):
    import fnmatch
    import huggingface_hub
    home, pushed = tmp_path / "patients of Dr Li", {}
    class Api:
        def create_repo(self, *args, **options): pass
        def repo_info(self, name): return SimpleNamespace(private=False)
        def upload_folder(self, folder_path, ignore_patterns, **options):
            for path in home.joinpath("run").rglob("*"):
                name = path.relative_to(folder_path).as_posix()
                if path.is_file() and not any(fnmatch.fnmatch(name, p) for p in ignore_patterns): pushed[name] = path.read_bytes()
        def upload_file(self, path_or_fileobj, path_in_repo, **options): pushed[path_in_repo] = path_or_fileobj
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (home / "run/ref").mkdir(parents=True)
    (home / "photos").mkdir()
    (home / "photos/rows.jsonl").write_text("")
    given = dict(data=str(home / "photos"), output_dir=str(home / "run"), hub_model_id="me/x", system_prompt="/no_think Be brief.",
                 vllm_server_base_url="http://10.0.0.7:8000")
    settings = read_settings(GRPOSettings, SHORT | given)
    settings.reward = f"0.5*reward_model:{home}/judge/model + 0.5*counting"
    kept = dataclasses.asdict(settings)
    trl = dict(output_dir=given["output_dir"], logging_dir=f"{home}/run/runs/1", deepspeed=f"{home}/zero.json", lr_scheduler_type="linear")
    for name, content in {"results.json": dict(settings=kept, steps=2, shares=[0.5, None]),
                          "training_args.json": dict(settings=kept, trl=trl),
                          "adapter_config.json": dict(base_model_name_or_path=f"{home}/base", r=16),
                          "ref/adapter_config.json": dict(base_model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct")}.items():
        (home / "run" / name).write_text(json.dumps(content))
    for name in ("completions.jsonl", "predictions.jsonl", "rollouts.jsonl", "run_log.csv"): (home / "run" / name).write_text("x")
    run_files.push(settings)
    assert set(pushed) == {"results.json", "training_args.json", "adapter_config.json", "ref/adapter_config.json", "run_log.csv"}
    for name, content in pushed.items(): assert b"patients" not in content and b"10.0.0.7" not in content, name
    results, arguments = json.loads(pushed["results.json"]), json.loads(pushed["training_args.json"])
    assert results["settings"]["reward"] == "0.5*reward_model:judge + 0.5*counting" and results["shares"] == [0.5, None]
    assert results["settings"]["system_prompt"] == "/no_think Be brief." and results["settings"]["lr"] == settings.lr
    assert arguments["trl"] == dict(output_dir=None, logging_dir=None, deepspeed="zero.json", lr_scheduler_type="linear")
    assert json.loads(pushed["adapter_config.json"]) == dict(base_model_name_or_path="base", r=16)
    assert json.loads(pushed["ref/adapter_config.json"]) == dict(base_model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct")
    assert "this repository is public" in capsys.readouterr().out
    assert json.loads((home / "run/results.json").read_text())["settings"] == kept, "the files here stay as they are"
