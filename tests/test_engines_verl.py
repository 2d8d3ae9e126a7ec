"""verl from the registry takes our export: its hydra config and checks, its data set, its reward manager.
`make test-engines` makes the environment (.venv-verl); elsewhere this skips."""
import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, SHARED
from support.engine_samples import mixed_samples
from support.verl_step import shim
from vlrlbook.data import synthetic_vqa
from vlrlbook.easyr1 import export_verl
from vlrlbook.easyr1.config import key_table, moved_in_verl, verl_name, verl_release
from vlrlbook.models import save_model, tiny_twin
from vlrlbook.rewards import load_reward

PYTHON = Path(os.environ.get("VLRLBOOK_VERL", ROOT / ".venv-verl/bin/python"))
WITH_VLLM = Path(os.environ.get("VLRLBOOK_VERL_STEP", ROOT / ".venv-verl-step/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no environment with verl: run `make test-engines`")
ASKED = [("<think>x</think><answer>yes</answer>", "yes"), ("<answer>no</answer>", "yes"), ("", "yes"), ("It is the left.", "left")]
REAL = SHARED / "medvlm_r1_outputs" / "completions.jsonl"


def completions():
    "(text, truth): a few cases, and where they are at hand 909 answers of a trained model"
    rows = [json.loads(line) for line in REAL.open()] if REAL.exists() else []
    return ASKED + [(row["completion"], row["gt_letter"] or row["gt_answer"]) for row in rows]


def overrides(folder):
    "The words that train.sh hands to verl, as bash makes them"
    text = (folder / "train.sh").read_text()
    text = re.sub(r"^exec .*\n(?:.*\\\n)*.*$", 'printf "%s\\\\n" "${overrides[@]}"', text.replace("set -x\n", ""), flags=re.M)
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def samples(): return mixed_samples(40)


@pytest.fixture(scope="module", params=[{}, {"lora_rank": 8}, {
    "reward_model.reward_manager": "dapo", "actor_rollout_ref.rollout.mode": "async", "+data.mine": 1,
    "custom_reward_function.reward_kwargs": {"unused": 1}, "actor_rollout_ref.actor.strategy": "fsdp2"}],
                ids=["plain", "lora", "own names"])
def world(request, tmp_path_factory):
    "An export, and what verl says of it"
    # signs that Hydra reads itself where no quotes are around them
    home = tmp_path_factory.mktemp("verl") / "lr=1e-6, é (1)"
    home.mkdir()
    save_model(*tiny_twin("qwen2_5_vl"), home / "twin")
    given = {"data.train_batch_size": 32, "trainer.n_gpus_per_node": 1, "actor_rollout_ref.model.path": str(home / "twin")}
    folder = export_verl(samples(), "vqa", given | request.param, home / "out", val=synthetic_vqa(4, seed=9))
    (home / "completions.json").write_text(json.dumps(completions()))
    python, environment = PYTHON, dict(os.environ)
    if "lora_rank" in request.param: # verl's check of it asks vLLM for the ranks that it has
        if not WITH_VLLM.exists(): pytest.skip("no environment with verl and vLLM: run `make test-verl-step`")
        shim(WITH_VLLM, home / "shim")
        python, environment = WITH_VLLM, environment | dict(PYTHONPATH=str(home / "shim"))
    words = [python, ROOT / "tests/support/verl_worker.py", folder, json.dumps(overrides(folder)), home / "completions.json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=home, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, json.loads(done.stdout.split("ANSWER")[1])


def test_hydra_and_verls_own_checks_take_every_override(world):
    folder, said = world
    assert said["version"] == verl_release and said["kl"] == 0.01
    # The trainer looks at `reward.` alone: under the older name, which hydra takes too, it would find no file.
    assert said["reward_path"] == str(folder / "reward.py")
    named = json.loads((folder / "export.json").read_text())["settings"]["reward.reward_manager.name"]
    assert said["manager"] == dict(naive="NaiveRewardManager", dapo="DAPORewardManager")[named]


def test_hydra_reads_every_text_as_it_was_meant():
    "Quotes and backslashes in all places: what its own parser makes of our words is the text again"
    from vlrlbook.easyr1.export import _hydra_value
    texts = ["it's", 'a "b"', "a'b\"c", "C:\\dir\\", "\\", "a\\'", "a\\\\'", "two\nlines", "it's\ntwo", "日本'語\\n", "${x}", "true", "1e-5"]
    values = [*texts, texts, {"a": texts[0], "b": texts[3]}]
    code = ("import json, sys; from hydra.core.override_parser.overrides_parser import OverridesParser as P; p = P.create(); "
            "print(json.dumps([p.parse_override('k=' + word).value() for word in json.load(sys.stdin)], default=str))")
    done = subprocess.run([PYTHON, "-c", code], input=json.dumps(list(map(_hydra_value, values))), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == values


def test_verl_samples_with_three_engines_alone(world):
    "It has a file hf_rollout.py, but its trainer asks a registry that does not list it"
    _, said = world
    assert said["samplers"] == key_table("verl")["actor_rollout_ref.rollout.name"].choices
    assert said["hf"] == "Unknown rollout mode: hf. Available: ['vllm', 'sglang', 'trtllm']"


def test_the_key_table_holds_every_key_of_the_release(world, tmp_path):
    "As tools/verl_keys.py makes it today, and every key of the config that hydra puts together, the older reward section too"
    _, said = world
    made = tmp_path / "keys.csv"
    subprocess.run([PYTHON, ROOT / "tools/verl_keys.py", made], check=True, capture_output=True)
    assert made.read_text() == (ROOT / "nbs/logs/09_verl_release_keys.csv").read_text()
    held = {row["key"] for row in csv.DictReader(made.open())}
    assert len(said["keys"]) > 800 and not set(said["keys"]) - held
    for older, newer in moved_in_verl.items():
        for name in (older, newer): assert any(key == name or key.startswith(f"{name}.") for key in held), name
    # what is left under an older name has no place in the newer section, and the settings know none of it
    older = ("custom_reward_function.", "reward_model.", "sandbox_fusion.")
    left = [key for key in held if key.startswith(older) and verl_name(key) == key]
    assert sorted(left) == ["reward_model.model.external_lib", "reward_model.model.trust_remote_code"]
    for key in held: assert verl_name(key) in held, key


def test_verls_data_set_reads_text_one_and_two_pictures(world):
    _, said = world
    assert said["rows"] == 40
    for sample, row in zip(samples(), said["messages"]):
        assert row["truth"] == sample.answer and row["source"] == "vlrlbook"
        assert [kind for kind, _ in row["parts"]].count("image") == len(sample.images) == len(row["sizes"])
        text = "".join(text for kind, text in row["parts"] if kind == "text")
        assert "<image>" not in text and "<answer>" in text
    assert said["messages"][1]["sizes"] in ([[60, 84], [112, 56]], ["bytes", "bytes"])


def test_verls_reward_manager_pays_what_we_pay(world):
    _, said = world
    rule = load_reward("vqa")
    asked = completions()
    assert len(said["paid"]) == len(asked) == said["lossless"]
    for (text, truth), paid in zip(asked, said["paid"]):
        ours = rule(text, truth)
        assert paid["reward_score"] == ours["overall"], text
        assert paid["reward_extra_info"] == {"score": ours["overall"]} | {k: v for k, v in ours.items() if k != "overall"}


@pytest.mark.skipif(not REAL.exists(), reason="the real completions are not here")
def test_the_real_completions_earn_different_amounts():
    "Else equal pay would say little"
    rule = load_reward("vqa")
    paid = [rule(text, truth)["overall"] for text, truth in completions()[len(ASKED):]]
    assert len(paid) == 909 and len(set(paid)) >= 3
