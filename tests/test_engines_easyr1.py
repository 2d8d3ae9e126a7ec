"""EasyR1's own code over what we write: its config, data set, loader, reward manager, checkpoint manager and merger.
`make test-easyr1 EASYR1=path` gives it a checkout and an environment (.venv-easyr1); elsewhere this skips. The checkout is
of either version that the book writes for: 0.3.2 (the tag v0.3.2) or a later one, as its own `__version__` says."""
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from support.engine_samples import mixed_samples
from vlrlbook.data import synthetic_vqa
from vlrlbook.easyr1 import dry_run, export_easyr1, merge_shards, read_engine_yaml
from vlrlbook.model_files import export_for_transformers_4
from vlrlbook.models import save_model, tiny_twin
from vlrlbook.rewards import load_reward

CHECKOUT = os.environ.get("EASYR1", "")
PYTHON = Path(os.environ.get("VLRLBOOK_EASYR1", ROOT / ".venv-easyr1/bin/python"))
WORKER = ROOT / "tests/support/easyr1_worker.py"


def version_of(checkout):
    "0.3.2 or current, as the book calls them"
    path = Path(checkout, "verl/__init__.py")
    return "0.3.2" if path.exists() and '__version__ = "0.3.2"' in path.read_text() else "current"


VERSION = version_of(CHECKOUT)
pytestmark = pytest.mark.skipif(not (PYTHON.exists() and Path(CHECKOUT, "verl/trainer/main.py").exists()),
                                reason="no checkout of EasyR1: run `make test-easyr1 EASYR1=path`")
ASKED = [("<think>x</think><answer>yes</answer>", "yes"), ("<answer>no</answer>", "yes"), ("", "yes"), ("It is the left.", "left")]


def asked(*arguments, cwd=None):
    "What the worker answers"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_DISABLE_IMPORT_WARNING": "1"}
    done = subprocess.run([PYTHON, WORKER, CHECKOUT, *map(str, arguments)], capture_output=True, text=True, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.split("ANSWER")[1])


def samples(): return mixed_samples(24)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    home = tmp_path_factory.mktemp("twin")
    save_model(*tiny_twin("qwen2_5_vl"), home / "five")
    export_for_transformers_4(home / "five", home / "four")
    return home / "four"


@pytest.fixture(scope="module")
def world(twin, tmp_path_factory):
    "An export, and what EasyR1 says of it"
    given = {"data.rollout_batch_size": 8, "worker.actor.global_batch_size": 8, "worker.actor.model.model_path": str(twin),
             "trainer.n_gpus_per_node": 1}
    folder = export_easyr1(samples(), "vqa", given, tmp_path_factory.mktemp("out") / "run", version=VERSION, val=synthetic_vqa(4, seed=9))
    return folder, asked("read", folder / "config.yaml", json.dumps(ASKED), cwd=folder) # as train.sh, which goes there


def test_its_data_set_reads_text_one_and_two_pictures(world):
    _, said = world
    assert len(said["rows"]) == 24 and said["val"] == 4
    for sample, row in zip(samples(), said["rows"]):
        assert row["truth"] == sample.answer and len(row["sizes"]) == len(sample.images)
        assert (row["image_tokens"] > 0) == bool(sample.images) and "<image>" not in row["prompt"] and "<answer>" in row["prompt"]


def test_its_reward_manager_pays_what_we_pay(world):
    _, said = world
    rule = load_reward("vqa")
    ours = [rule(text, truth) for text, truth in ASKED]
    assert said["paid"] == pytest.approx([parts["overall"] for parts in ours], abs=1e-6) and said["elsewhere"] == pytest.approx(0, abs=1e-6)
    for name in ("accuracy", "format"): assert said["parts"][name] == [parts[name] for parts in ours]


def test_the_dry_run_says_what_its_config_says(world):
    folder, _ = world
    assert dry_run(folder).ok


@pytest.mark.parametrize("path", sorted(Path(CHECKOUT, "examples").glob("*.yaml")) if CHECKOUT else [], ids=lambda path: path.name)
def test_its_example_configs_pass_our_tables(path):
    "runtime_env.yaml is Ray's; each other file is a config that EasyR1 takes, so our tables must"
    if path.name == "runtime_env.yaml": pytest.skip("a file of Ray, no config")
    asked("config", path)
    assert read_engine_yaml(path, VERSION, []).given


def script_words(path):
    "The words that a script of its examples hands to Python, as bash makes them"
    catch = """python3() { for word in "$@"; do printf '%s\\0' "$word"; done; }; source "$1" """
    done = subprocess.run(["bash", "-c", catch, "bash", path], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return [word for word in done.stdout.split("\0") if word]


@pytest.mark.parametrize("path", sorted(Path(CHECKOUT, "examples").rglob("*.sh")) if CHECKOUT else [], ids=lambda path: path.stem)
def test_its_example_scripts_pass_our_tables(path):
    "Each is its example config with other words"
    words = script_words(path)
    assert words[:3] == ["-m", "verl.trainer.main", "config=examples/config.yaml"] and len(words) > 3
    read = read_engine_yaml(Path(CHECKOUT, "examples/config.yaml"), VERSION, words[3:])
    for word in words[3:]: assert word.partition("=")[0] in read.given


@pytest.mark.skipif(VERSION == "0.3.2", reason="0.3.2 knows neither word")
def test_words_that_its_current_version_alone_knows(twin, tmp_path):
    "The logger `file` and the advantage of pass@k, written by an export and read by its dataclasses"
    given = {"data.rollout_batch_size": 8, "worker.actor.global_batch_size": 8, "worker.actor.model.model_path": str(twin),
             "trainer.n_gpus_per_node": 1, "trainer.logger": ["file", "console"], "algorithm.adv_estimator": "grpo_passk"}
    folder = export_easyr1(samples(), "vqa", given, tmp_path / "run", version="current", val=synthetic_vqa(4, seed=9))
    said = asked("config", folder / "config.yaml", cwd=folder)
    assert said["logger"] == ["file", "console"] and said["estimator"] == "grpo_passk" in said["estimators"]


def test_the_dry_run_of_its_own_example_names_the_hub_alone(twin, monkeypatch):
    "Its config as it lies there: template and reward are found from where the command is started, the data are on the hub"
    from transformers import AutoProcessor
    monkeypatch.chdir(CHECKOUT)
    found = dry_run(Path("examples/config.yaml"), AutoProcessor.from_pretrained(twin), version=VERSION, processes=1, progress=False)
    assert [problem["code"] for problem in found.problems] == ["data.hub", "data.hub"], found.problems


no_lora = pytest.mark.skipif(VERSION == "0.3.2", reason="0.3.2 has no LoRA: its manager refuses a model of peft")


@pytest.mark.parametrize("rank", [None, pytest.param(4, marks=no_lora)])
def test_its_checkpoint_is_merged_bit_for_bit(twin, tmp_path, rank):
    actor = tmp_path / "global_step_1" / "actor"
    actor.parent.mkdir()
    asked("save", twin, actor, *([rank] if rank else []))
    whole = torch.load(f"{actor}.whole.pt", weights_only=True)
    merge_shards(actor, tmp_path / "ours", lora="adapter" if rank else "merge")
    if rank:
        ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
        theirs = {name.replace(".default", ""): weight for name, weight in whole.items() if "lora_" in name}
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        return
    asked("merge", actor)
    ours, theirs = load_file(tmp_path / "ours" / "model.safetensors"), load_file(actor / "huggingface" / "model.safetensors")
    # the head is tied to the embedding: theirs writes it once more, as the shards hold it
    head, embedding = "lm_head.weight", next(name for name in ours if name.endswith("embed_tokens.weight"))
    assert set(theirs) - set(ours) == {head} and not set(ours) - set(theirs) and torch.equal(theirs[head], theirs[embedding])
    # its merger writes bfloat16, ours the shards' own float32: the same weights, and theirs rounded
    for name, weight in ours.items(): assert torch.equal(weight.to(theirs[name].dtype), theirs[name]), name
    for name, weight in whole.items():
        if name != head: assert any(torch.equal(weight, other) for other in ours.values()), name
