"""verl's own trainer takes two steps on this CPU, from our train.sh on: it samples with vLLM's build for CPUs, pays with our
reward file, learns, sends the weights to vLLM, measures and saves; `merge-shards` reads what it saved.
`make test-verl-step` makes the environment (.venv-verl-step, 6 GB); elsewhere this skips. tests/support/verl_step.py says which
parts are verl's and which stand in."""
import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from support import verl_step
from support.engine_samples import mixed_samples
from vlrlbook.answers import generate_answers
from vlrlbook.easyr1 import export_verl, merge_shards
from vlrlbook.models import load_vlm
from vlrlbook.rewards import load_reward

PYTHON = Path(os.environ.get("VLRLBOOK_VERL_STEP", ROOT / ".venv-verl-step/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with verl and vLLM: run `make test-verl-step`")
PROMPTS, ANSWERS, LENGTH = 4, 4, 24


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    "A twin that knows the form of an answer: an untrained one earns 0 every time, and groups of equals teach nothing"
    from vlrlbook.warm_twins import warm_start
    return Path(warm_start("qwen2_5_vl", 100, task="vqa")).resolve()


@pytest.fixture(scope="module")
def run(twin, tmp_path_factory):
    "A folder in which verl took two steps over eight rows: pictures of unequal size, one row with two of them, one with none"
    home = tmp_path_factory.mktemp("verl")
    given = {"data.train_batch_size": PROMPTS, "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS, "trainer.n_gpus_per_node": 1,
             "actor_rollout_ref.rollout.n": ANSWERS, "data.max_prompt_length": 384, "data.max_response_length": LENGTH,
             "actor_rollout_ref.actor.optim.lr": 1e-4, "actor_rollout_ref.model.path": str(twin)}
    folder = export_verl(mixed_samples(8), "vqa", given, home / "out", val=mixed_samples(4))
    words = {"data.shuffle": "false", "trainer.total_training_steps": 2, "trainer.save_freq": 2, "trainer.test_freq": 2,
             "trainer.logger": "[console,file]", "actor_rollout_ref.rollout.max_model_len": 512,
             "trainer.rollout_data_dir": home / "rollouts", "trainer.validation_data_dir": home / "validation"}
    code = verl_step.start(PYTHON, folder, home, words, seconds=1800)
    assert code == 0, (home / "said.txt").read_text()[-6000:]
    return home


def lines(path): return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def metrics(run):
    "step → what verl logged"
    return {row["step"]: row["data"] for row in lines(run / "metrics.jsonl")}


def test_the_answers_are_paid_by_our_reward_file(run, metrics):
    "Every answer earns what our rule pays, and verl's mean is theirs"
    rule = load_reward("vqa")
    for step in (1, 2):
        rows = lines(run / "rollouts" / f"{step}.jsonl")
        assert len(rows) == PROMPTS * ANSWERS
        paid = [rule(row["output"], row["gts"])["overall"] for row in rows]
        assert [row["score"] for row in rows] == pytest.approx(paid)
        assert metrics[step]["critic/score/mean"] == pytest.approx(sum(paid) / len(paid))
        assert len(set(paid)) > 1 # else there would be nothing to learn from


def test_two_steps_are_taken(metrics):
    for step in (1, 2):
        assert metrics[step]["actor/grad_norm"] > 0 and metrics[step]["actor/lr"] == pytest.approx(1e-4)
    assert metrics[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-4) # the reference is the model itself
    assert metrics[2]["actor/kl_loss"] > metrics[1]["actor/kl_loss"]


def test_vllm_samples_with_the_weights_of_the_actor(metrics):
    """The probability of each sampled token, as vLLM and as the actor have it; before the second step the weights were sent
    anew. On the average they are equal to 1e-5 or so; single tokens were up to 4e-3 apart"""
    for step in (1, 2):
        assert metrics[step]["training/rollout_probs_diff_mean"] < 1e-3, metrics[step]
        assert metrics[step]["training/rollout_actor_probs_pearson_corr"] > 0.9999


def plain_words(sample):
    "A question as verl writes it down, without the marks of pictures"
    return sample.question.replace("<image>", "").strip()


def as_exported(path, samples):
    "The same samples with the words that verl read: the export writes instructions behind each question"
    rows = pd.read_parquet(path)
    return [replace(sample, question=prompt[0]["content"]) for sample, prompt in zip(samples, rows.prompt, strict=True)]


def test_the_checkpoint_is_merged_and_answers_as_vllm_did(run, twin, tmp_path):
    "verl measured with greedy answers after the last step: the merged model gives the same"
    actor = next(run.glob("out/checkpoints/**/global_step_2/actor"))
    merge_shards(actor, tmp_path / "merged")
    model, processor = load_vlm(str(tmp_path / "merged"))
    before = load_vlm(str(twin))[0].state_dict()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], before[name]) for name in after if after[name].is_floating_point())
    rows = lines(run / "validation/2.jsonl") # in the order in which they were done
    asked = mixed_samples(4)
    said = [next(row["output"] for row in rows if plain_words(sample) in row["input"]) for sample in asked]
    exported = as_exported(next(run.glob("out/val*.parquet")), asked)
    assert said == [answers[0] for answers in generate_answers(model, processor, exported, max_new_tokens=LENGTH)]
