"""Past one machine, against the contracts: rows, prompt, reward, config, launcher, dry run, one command."""
import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SHARED
from hypothesis import given, settings, strategies as st
from PIL import Image
from vlrlbook.core import Sample, SettingsError, cast, damage, read_settings
from vlrlbook.data import DataError, synthetic_counting, synthetic_vqa, to_messages, vqa_prompt, vqa_template
from vlrlbook.easyr1 import (QuickStartSettings, ask_reward_file, dry_run, easyr1_messages, easyr1_size, engine_settings,
                             export_easyr1, export_verl, key_table, memory_gb, newest_step, parse_overrides,
                             quick_start, read_engine_yaml, reward_file, short_names, stages, verl_overrides)
from vlrlbook.models import save_model, tiny_twin, twin_processor
from vlrlbook.rewards import count_table, format_table, load_reward, nasty, vqa_table

SMALL = dict(n_gpus_per_node=4, rollout_batch_size=32, max_prompt_length=256, max_response_length=64, model_path="tiny")


@pytest.fixture(scope="module")
def processor(): return twin_processor("qwen2_5_vl")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    "An exported directory with a twin in the model's place"
    folder = export_easyr1(synthetic_vqa(80, seed=3), "vqa", SMALL, tmp_path_factory.mktemp("out") / "easyr1")
    save_model(*tiny_twin("qwen2_5_vl"), folder / "tiny")
    return folder


def rows(path): return [json.loads(line) for line in Path(path).open(encoding="utf-8")]


def copied(export, tmp_path):
    shutil.copytree(export, tmp_path / "copy")
    return tmp_path / "copy"


# convert

def test_rows_have_the_contracts_form(export):
    for name in ("train.jsonl", "val.jsonl"):
        for row in rows(export / name):
            assert set(row) == {"prompt", "answer", "images"} and isinstance(row["answer"], str)
            assert row["prompt"].count("<image>") == len(row["images"]) and "Your task" not in row["prompt"]
            for image in row["images"]: Image.open(export / "images" / image).load()
    assert damage(export) is None
    assert {p.name for p in export.iterdir()} >= {"prompt.jinja", "reward.py", "config.yaml", "train.sh", "README.md"}


def test_no_picture_on_both_sides(export):
    pictures = [{i for r in rows(export / n) for i in r["images"]} for n in ("train.jsonl", "val.jsonl")]
    assert not pictures[0] & pictures[1] and all(pictures)


def test_a_file_of_rows_its_rendered_prompts_are_bared(tmp_path):
    "load_vqa renders; the export must not render twice"
    for i in range(12): Image.new("RGB", (56, 56), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(dict(question=f"Is it {i}?", answer="yes", image=f"{i}.png"))
        + "\n" for i in range(12)) + json.dumps(dict(question="No picture?", answer="no", image=None)) + "\n")
    folder = export_easyr1(tmp_path / "rows.jsonl", "vqa",
                           dict(rollout_batch_size=8, global_batch_size=8, micro_batch_size_per_device_for_update=1), tmp_path / "out")
    found = rows(folder / "train.jsonl") + rows(folder / "val.jsonl")
    assert {r["prompt"] for r in found} == {f"<image> Is it {i}?" for i in range(12)} | {"No picture?"}
    assert [r["images"] for r in found if r["prompt"] == "No picture?"] == [[]]
    assert (folder / "prompt.jinja").read_text() == vqa_template


def test_pictures_keep_their_bytes_unless_they_would_be_spoilt(tmp_path):
    plain, deep = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(plain, "JPEG")
    Image.linear_gradient("L").resize((56, 56)).convert("I").point(lambda v: v * 257).convert("I;16").save(deep, "PNG")
    for name, data in (("a.jpg", plain), ("b.png", deep)): (tmp_path / name).write_bytes(data.getvalue())
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(dict(prompt="<image> What?", answer="x", images=[n])) + "\n" for n in ("a.jpg", "b.png")))
    folder = export_easyr1(tmp_path / "rows.jsonl", "accuracy",
                           dict(rollout_batch_size=2, global_batch_size=2, n_gpus_per_node=1,
                                micro_batch_size_per_device_for_update=1), tmp_path / "out", val=tmp_path / "rows.jsonl")
    first, second = (folder / "images" / r["images"][0] for r in rows(folder / "train.jsonl"))
    assert first.read_bytes() == plain.getvalue()
    with Image.open(second) as image:
        assert image.mode == "RGB" and 100 < sum(image.convert("L").tobytes()) / 56**2 < 155 # a plain convert makes it white


def test_counting_needs_no_template(tmp_path, processor):
    folder = export_easyr1(synthetic_counting(40), "counting", SMALL, tmp_path / "out")
    assert (folder / "prompt.jinja").read_text() == "{{ content | trim }}"
    row, sample = rows(folder / "train.jsonl")[0], synthetic_counting(1)[0]
    assert row["prompt"] == "<image>How many discs are there?"
    texts = [processor.apply_chat_template(m, add_generation_prompt=True, tokenize=False)
             for m in (to_messages(sample), easyr1_messages(row["prompt"], "{{ content | trim }}"))]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("sample, message", [
    (Sample("<image> <image> Which?", "left", cast().images, "vqa", 7), "row 7: 2 <image> marks"),
    (Sample("Which?", " ", cast().images, "vqa", 7), "row 7: question or answer is empty"),
    (Sample("<image>", "left", cast().images, "vqa", 7), "row 7: question or answer is empty")])
def test_a_bad_row_leaves_nothing_behind(tmp_path, sample, message):
    with pytest.raises(DataError, match=re.escape(message)):
        export_easyr1(synthetic_vqa(60) + [sample], "vqa", SMALL, tmp_path / "out", val=synthetic_vqa(4))
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_not_empty_is_refused(export, tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (export, tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="is there already and is not empty"): export_easyr1(synthetic_vqa(60), "vqa", SMALL, path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    assert damage(export_easyr1(synthetic_vqa(60), "vqa", SMALL, tmp_path / "empty")) is None


def test_too_few_rows_and_mixed_rows_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="rollout_batch_size = 32: more than the"):
        export_easyr1(synthetic_vqa(20), "vqa", SMALL, tmp_path / "a")
    with pytest.raises(SettingsError, match="give `template`"):
        export_easyr1(synthetic_vqa(40) + synthetic_counting(40), "vqa", SMALL, tmp_path / "b")
    with pytest.raises(SettingsError, match="an export writes these files itself"):
        export_easyr1(synthetic_vqa(60), "vqa", SMALL | dict(train_files="x.jsonl"), tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


# prompt

@given(st.lists(st.sampled_from(["<image>", " ", "What?", "{{ x }}", "\n", "Ä", "{% raw %}", "a"]), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_prompt_equals_chapter_05s(processor, pieces):
    "Strip, render, cut: the same text as rendering first and putting pictures at the marks"
    question = "".join(pieces)
    marks = question.count("<image>")
    if not question.replace("<image>", "").strip() or not marks: return
    ours = to_messages(Sample(vqa_prompt(question), "", [None] * marks))
    assert ours == easyr1_messages(question, vqa_template)


def test_template_is_stripped_and_cut_after_rendering():
    assert easyr1_messages("<image> a", "\n\n {{ content }}\n\n")[0]["content"] == [{"type": "image"}, {"type": "text", "text": " a"}]
    assert [p["type"] for p in easyr1_messages("a", "<image>{{ content }}<image>")[0]["content"]] == ["image", "text", "image"]
    assert "".join(p.get("text", "")
                   for p in easyr1_messages("{{ 7 * 7 }}", vqa_template)[0]["content"]).startswith("{{ 7 * 7 }}\n\nYour task:\n1. ")


# reward

TEXTS = [t[0] for t in vqa_table + format_table + count_table] + nasty


@pytest.mark.parametrize("engine", ["easyr1", "verl"])
@pytest.mark.parametrize("name", ["vqa", "counting", "0.5*accuracy + 0.5*format"])
def test_exported_parts_are_ours(tmp_path, name, engine):
    (tmp_path / "reward.py").write_text(reward_file(name, engine))
    truths = ["yes", "D", "IV, oral", "A photo of 3 discs"]
    for truth, said in zip(truths, ask_reward_file(tmp_path / "reward.py", [(TEXTS, t) for t in truths], engine=engine)):
        for text, parts in zip(TEXTS, said):
            ours = load_reward(name)(text, truth)
            if engine == "verl": ours = {"score": ours["overall"]} | {k: v for k, v in ours.items() if k != "overall"}
            assert json.dumps(parts) == json.dumps(ours)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=20), st.sampled_from(["yes", "C", "12", "liver"]))
@settings(max_examples=40, deadline=None)
def test_exported_parts_are_ours_on_any_text(texts, truth):
    "In this process, so that many texts can be tried; the separate interpreter is tested above"
    space = {}
    exec(compile(reward_file("vqa"), "reward.py", "exec"), space)
    said = space["compute_score"]([dict(response=t, response_length=len(t), ground_truth=truth) for t in texts])
    assert said == [load_reward("vqa")(t, truth) for t in texts]


@pytest.mark.skipif(not (SHARED / "medvlm_r1_outputs").exists(), reason="the real completions are not here")
def test_exported_parts_are_ours_on_real_completions(tmp_path):
    real = rows(SHARED / "medvlm_r1_outputs" / "completions.jsonl")
    assert len(real) == 909
    (tmp_path / "reward.py").write_text(reward_file("vqa"))
    said = ask_reward_file(tmp_path / "reward.py", [([r["completion"]], r["gt_letter"] or r["gt_answer"]) for r in real])
    assert [json.dumps(s[0])
            for s in said] == [json.dumps(load_reward("vqa")(r["completion"], r["gt_letter"] or r["gt_answer"])) for r in real]


def test_reward_file_is_for_both_versions_and_for_bare_python(tmp_path):
    source = reward_file("vqa")
    tree = ast.parse(source, feature_version=(3, 9))
    assert "vlrlbook" not in {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import)
                              for a in n.names} | {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert 'REWARD_NAME = "vqa"' in source and 'REWARD_TYPE = "batch"' in source
    (tmp_path / "reward.py").write_text(source)
    pythons = [sys.executable] + [p for p in ("/usr/bin/python3",) if Path(p).exists()]
    for python in pythons:
        assert ask_reward_file(tmp_path / "reward.py", [(["<think>.</think><answer>yes</answer>"], "yes")],
                               python=python) == [[load_reward("vqa")("<think>.</think><answer>yes</answer>", "yes")]]
    bad = source.replace("compute_score = for_easyr1(reward)", "from vlrlbook.rewards import vqa_accuracy as compute_score")
    (tmp_path / "bad.py").write_text(bad)
    with pytest.raises(SettingsError, match="there is no vlrlbook on the cluster"): ask_reward_file(tmp_path / "bad.py", [(["a"], "b")])


def test_a_function_of_ones_own_travels_with_its_imports(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text('import math\nfrom vlrlbook.rewards import read_count\nscale = 2\ndef unused(): '
        'return other\ndef helper(x): return math.sqrt(scale * x)\ndef rooted(completion, '
        'answer):\n    "Root"\n    return dict(overall=helper(read_count(completion) or 0))\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    source = reward_file("my_reward:rooted")
    assert "import math" in source and "def read_count" in source and "def unused" not in source and "from vlrlbook" not in source
    (tmp_path / "reward.py").write_text(source)
    assert ask_reward_file(tmp_path / "reward.py", [(["8"], "x")]) == [[dict(overall=4.0)]]


def test_rewards_that_cannot_travel_are_refused():
    trained = lambda completions, samples: []
    trained.batched = True
    with pytest.raises(SettingsError, match="a trained model cannot travel"): reward_file(trained)
    with pytest.raises(SettingsError, match="put it into a file of its own"): reward_file(lambda completion, answer: {})
    with pytest.raises(SettingsError, match="did you mean 'verl'"): reward_file("vqa", "verll")
    with pytest.raises(ValueError, match="there is no reward 'vqaa'"): reward_file("vqaa")


# config

CONTRACT = {"algorithm.adv_estimator": "grpo", "algorithm.kl_coef": 1.0e-2, "worker.actor.padding_free": True,
            "worker.actor.offload.offload_params": True, "worker.reward.reward_type": "batch",
            "worker.actor.model.model_path": "./merged_model"}


def test_config_has_the_contracts_keys_and_values():
    made = yaml.safe_load(engine_settings({}, "0.3.2").yaml())
    assert set(made) == {"data", "algorithm", "worker", "trainer"} and {"actor", "rollout", "ref", "reward"} <= set(made["worker"])
    flat = engine_settings(made, "0.3.2", house=False).values
    assert {k: flat[k] for k in CONTRACT} == CONTRACT
    for name in ("train_files", "val_files", "image_dir", "model_path", "n_gpus_per_node", "tensor_parallel_size",
                 "total_epochs", "lr", "global_batch_size", "kl_coef", "adv_estimator", "padding_free", "offload_params", "reward_type"):
        assert short_names("0.3.2")[name] in flat


@pytest.mark.parametrize("version", ["0.3.2", "current"])
def test_written_config_is_complete_and_reads_back(version):
    "Every key but the critic's and the engine's own stands in the file, none of the other version"
    s = engine_settings(dict(lr=3e-7, n=4), version)
    flat = engine_settings(yaml.safe_load(s.yaml()), version, house=False)
    assert flat.values == s.values
    wanted = {k for k, t in key_table(version).items() if t.kind != "auto" and ".critic." not in k}
    assert set(flat.given) == wanted


def test_versions_differ_as_the_facts_say():
    old, new = key_table("0.3.2"), key_table("current")
    assert "worker.reward.reward_type" in old and "worker.reward.reward_type" not in new
    assert not [k for k in old if ".lora." in k] and "worker.actor.model.lora.rank" in new
    assert old["data.prompt_key"].default == new["data.prompt_key"].default == "prompt"
    assert all(re.search(r" verl/\S+ [0-9a-f]{40}| examples/\S+ [0-9a-f]{40}", k.read_at)
               for t in (old, new, key_table("verl")) for k in t.values())


@pytest.mark.parametrize("key", [k for k, t in key_table("current").items() if t.kind != "auto"])
def test_every_key_refuses_another_type(key):
    wrong = {"str": [], "int": 1.5, "float": "fast", "bool": "perhaps", "list": "a", "dict": 3}[key_table("current")[key].kind]
    with pytest.raises(SettingsError, match=re.escape(key)): engine_settings({key: wrong}, "current")


@pytest.mark.parametrize("given_, version, message", [
    ({"data.rollout_batch_sise": 8}, "0.3.2", "did you mean 'data.rollout_batch_size'"),
    ({"worker": {"actor": {"optim": {"learning_rate": 1}}}}, "0.3.2", "there is no 'worker.actor.optim.learning_rate'"),
    ({"worker.reward.reward_type": "batch"}, "current", "key of EasyR1 0.3.2"),
    ({"worker.actor.model.lora.rank": 8}, "0.3.2", "0.3.2 has no LoRA"),
    ({"worker.actor.optim.warmup_style": "cosine"}, "current", "lr_scheduler_type"),
    ({"data.train_batch_size": 8}, "0.3.2", "is a key of verl"),
    ({"rollout_batch_size": 64}, "verl", "is a key of EasyR1 0.3.2, and this is verl"),
    ({"worker.actor": 3}, "0.3.2", "is a section"), ({"worker.actor.kl_coef": 0.1}, "0.3.2", "copied from algorithm.kl_coef"),
    ({"lr": 1e-6, "worker.actor.optim.lr": 1e-5}, "0.3.2", "given twice"),
    ({"adv_estimator": "gpro"}, "0.3.2", "did you mean 'grpo'"), ({"trainer.logger": ["consol"]}, "0.3.2", "did you mean 'console'"),
    ({"top_p": 1.5}, "0.3.2", "expected 1 or less"), ({"lr": -1}, "0.3.2", "expected 0 or more"),
    ({"lr": None}, "0.3.2", "expected float"), ({"gpu_memory_utilization": 0}, "0.3.2", "expected 0.01 or more"),
    ({}, "0.3.3", "did you mean '0.3.2'"),
    ({"n": 1}, "0.3.2", "needs 2 or more"), ({"rollout_batch_size": 100}, "0.3.2", "nearest: 96"),
    ({"rollout_batch_size": 32, "n": 2, "worker.actor.micro_batch_size_per_device_for_experience": 3},
     "0.3.2", "per_device_for_experience = 3"),
    ({"n_gpus_per_node": 8, "tensor_parallel_size": 3}, "0.3.2", "groups of 3"),
    ({"max_num_batched_tokens": 2000}, "0.3.2", "less than data.max_prompt_length"),
    ({"max_model_len": 100}, "0.3.2", "max_model_len = 100"),
    ({"min_pixels": 2000000}, "0.3.2", "more than data.max_pixels"),
    ({"global_batch_size": 32, "micro_batch_size_per_device_for_update": 5}, "0.3.2", "per_device_for_update = 5"),
    ({"n_gpus_per_node": 6}, "0.3.2", "evenly by 6 GPUs"),
    ({"worker.actor.fsdp.enable_cpu_offload": True}, "0.3.2", "not with several micro-batches"),
    ({"worker.actor.fsdp.fsdp_size": 3}, "0.3.2", "groups of 3"), ({"worker.actor.ulysses_size": 3}, "0.3.2", "groups of 3"),
    ({"adv_estimator": "gae", "worker.critic.global_batch_size": 48}, "0.3.2", "worker.critic.global_batch_size = 48"),
    ({"filter_low": 0.9, "filter_high": 0.1}, "0.3.2", "not below"),
    ({"train_batch_size": 8}, "verl", "less than actor_rollout_ref.actor.ppo_mini_batch_size"),
    ({"lora_rank": 8, "load_format": "dummy"}, "verl", "with LoRA the sampler needs"),
    ({"actor_rollout_ref.rollout.n": 1}, "verl", "2 answers or more"),
    ({"n_gpus_per_node": 7}, "verl", "evenly by 7 GPUs")])
def test_config_refuses(given_, version, message):
    with pytest.raises(SettingsError, match=re.escape(message)): engine_settings(given_, version)


def test_all_faults_stand_in_one_message():
    with pytest.raises(SettingsError) as e: engine_settings({"lrr": 1, "n": "many", "worker.reward.reward_type": 3}, "current")
    assert str(e.value).count(";") == 2


def test_yaml_by_hand(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {train_files: a, val_files: b, seed: 7}\nworker: {actor: {model: {model_path: m}, optim: {lr: "
                    "1e-6}}, rollout: {n: 5, val_override_config: {temperature: 0.5}}}\ntrainer: {experiment_name: 2024}\n")
    s = read_engine_yaml(path, "0.3.2", ["worker.rollout.n=6", "data.shuffle=false", "trainer.logger=[console]", "max_steps=null"])
    assert (s["lr"], s["n"], s["shuffle"], s["logger"], s["experiment_name"], s["max_steps"]) == (1e-6, 6, False, ["console"], "2024", None)
    assert s["data.min_pixels"] == 262144 and s["val_override_config"] == {"temperature": 0.5} # EasyR1's own default, not ours
    assert [r["by"] for r in s.explain(everything=True).rows].count("you") == 11
    for text, message in (("data: {seed: 1, seed: 2}", "'seed' stands twice"), ("- a", "expected sections"),
                          ("data: [", "cannot be read"), ("worker: {reward: {reward_type: batch}}", None)):
        path.write_text(text)
        if message:
            with pytest.raises(SettingsError, match=f"config.yaml: .*{message}"): read_engine_yaml(path)
        else:
            with pytest.raises(SettingsError, match="EasyR1 0.3.2, and this is EasyR1 current"): read_engine_yaml(path, "current")
    with pytest.raises(SettingsError, match="cannot be read"): read_engine_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(SettingsError, match="expected name=value"): parse_overrides(["--lr"])


# train

def fake_engine(where):
    "A package `verl` that records how it was called, and can leave a checkpoint of one process"
    record = "import json, os, sys\njson.dump(dict(cwd=os.getcwd(), argv=sys.argv[1:]), open(os.environ['SEEN'], 'w'))\n"
    (where / "verl/trainer").mkdir(parents=True)
    for name in ("verl/__init__.py", "verl/trainer/__init__.py"): (where / name).write_text("")
    leave = ("path = next((a.split('=')[1] for a in sys.argv if a.startswith('trainer.save_checkpoint_path=')), "
             "None)\nif path and os.environ.get('ACTOR'):\n    import shutil\n    for step in (5, 10): "
             "shutil.copytree(os.environ['ACTOR'], f'{path}/global_step_{step}/actor')\n")
    for name in ("main", "main_ppo"): (where / f"verl/trainer/{name}.py").write_text(record + leave)
    return where


def launched(folder, tmp_path, *words, **environment):
    import os
    engine = tmp_path / "engine"
    if not engine.exists(): fake_engine(engine)
    env = os.environ | dict(PYTHONPATH=str(engine), SEEN=str(tmp_path / "seen.json"),
                            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}") | environment
    done = subprocess.run(["bash", str(folder / "train.sh"), *words], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "seen.json").read_text()), done.stderr


def test_train_sh(export, tmp_path):
    seen, said = launched(export, tmp_path, "worker.rollout.n=4", "trainer.logger=[console,wandb]", N_GPUS="2", NNODES="3")
    files = [f"data.train_files={export}/train.jsonl", f"data.val_files={export}/val.jsonl"] # absolute: a Ray worker opens them
    assert seen == dict(cwd=str(export), argv=["config=config.yaml", *files, "trainer.n_gpus_per_node=2",
        "trainer.nnodes=3", "worker.rollout.n=4", "trainer.logger=[console,wandb]"])
    assert "python3 -m verl.trainer.main config=config.yaml" in said # the command is printed
    assert launched(export, tmp_path)[0]["argv"] == ["config=config.yaml", *files, "trainer.n_gpus_per_node=4", "trainer.nnodes=1"]
    text = (export / "README.md").read_text()
    assert all(w in text for w in ("ray start --head", "ray start --address", "N_GPUS=8 bash train.sh", "NNODES=2", "global_step_N/actor"))


def test_train_sh_of_verl(tmp_path):
    folder = export_verl(synthetic_vqa(80), "vqa",
                         dict(train_batch_size=32, lora_rank=32, lora_alpha=96, prompt_key="it's mine"), tmp_path / "out")
    words = launched(folder, tmp_path, "trainer.total_epochs=1")[0]["argv"]
    assert {f"data.train_files={folder}/train.parquet", f"custom_reward_function.path={folder}/reward.py",
            f"actor_rollout_ref.model.path={folder}/merged_model",
            f"trainer.default_local_dir={folder}/checkpoints/vlrlbook/vqa_grpo",
            "actor_rollout_ref.model.lora_rank=32", "actor_rollout_ref.model.lora_alpha=96",
            "actor_rollout_ref.model.exclude_modules=.*visual.*", "algorithm.adv_estimator=grpo",
            'data.prompt_key="it\'s mine"', "trainer.total_epochs=1"} <= set(words)
    assert verl_overrides(engine_settings(dict(lora_rank=8), "verl")).count(
        "actor_rollout_ref.model.lora_alpha=16") == 1 # the true alpha, default or not
    shellcheck(folder / "train.sh")


def shellcheck(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    if not shutil.which("shellcheck"): pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_train_sh_is_clean(export): shellcheck(export / "train.sh")


def test_verl_rows(tmp_path):
    import pyarrow.parquet as pq
    from qwen_vl_utils import fetch_image
    samples = synthetic_vqa(79) + [Sample("No picture. Is 3 odd?", "yes", [], "vqa", 80)]
    folder = export_verl(samples, "vqa", dict(train_batch_size=32), tmp_path / "out", val=synthetic_vqa(4, seed=9))
    found = pq.read_table(folder / "train.parquet").to_pylist()
    assert len(found) == 80 and set(found[0]) == {"data_source", "prompt", "images", "ability", "reward_model", "extra_info"}
    for row, sample in zip(found, samples):
        assert row["prompt"] == [dict(role="user", content=vqa_prompt(sample.question))]
        assert row["reward_model"] == dict(style="rule", ground_truth=sample.answer)
        assert row["prompt"][0]["content"].count("<image>") == len(row["images"] or [])
        for image, own in zip(row["images"] or [], sample.images):
            assert fetch_image({"image": Image.open(io.BytesIO(image["bytes"]))}).size == own.size
    assert found[-1]["images"] is None # an empty list would go to the processor
    checked = dry_run(folder, processor=twin_processor("qwen2_5_vl"), progress=False, processes=1)
    assert [p["code"] for p in checked.problems] == ["model.missing"] and checked.rows == {"train.parquet": 80, "val.parquet": 4}


# dry run

def test_a_clean_export_has_no_problem(export):
    found = dry_run(export, progress=False, processes=1)
    assert found.ok and sum(found.rows.values()) == 80 == len(found.tokens)
    assert found.reward["reward of the truths, mean"] == 1.0 and found.reward["reward of wrong answers, mean"] < 0.2


def test_counts_equal_the_processors(export):
    "Tokens of every prompt as EasyR1 would make it, pictures resized by its rule, through the whole processor"
    import math
    from transformers import AutoProcessor
    processor, v = AutoProcessor.from_pretrained(export / "tiny"), read_engine_yaml(export / "config.yaml",
        overrides=["data.min_pixels=20000"]).values
    whole = []
    for name in ("train.jsonl", "val.jsonl"):
        for row in rows(export / name):
            image = Image.open(export / "images" / row["images"][0])
            factor = math.sqrt(v["data.min_pixels"] / (image.width * image.height))
            image = image.resize((int(image.width * factor), int(image.height * factor)))
            text = processor.apply_chat_template(easyr1_messages(row["prompt"], vqa_template), add_generation_prompt=True, tokenize=False)
            whole.append(processor(images=[image], text=[text], add_special_tokens=False, return_tensors="pt")["input_ids"].shape[1])
    found = dry_run(export, overrides=["data.min_pixels=20000"], progress=False, processes=1)
    assert found.tokens == whole and found.resized == (80, 0, 80)


@pytest.mark.parametrize("size, low, high, made",
                         [((112, 112), 3136, 1048576, (112, 112)), ((112, 112), 262144, None, (512, 512)),
                          ((4000, 3000), None, 1048576, (1182, 886)),
                          ((4000, 1), 262144, 4194304, (32381, 8)), ((10, 10), None, None, (10, 10))])
def test_easyr1s_resizing(size, low, high, made): assert easyr1_size(size, low, high) == made


ACCIDENTS = [
    ("images null", lambda r, f: r.update(images=None), "row.images", "null, on which EasyR1 stops"),
    ("marks", lambda r, f: r.update(prompt="<image>" + r["prompt"]), "row.images", "2 <image> marks after the template but 1"),
    ("missing", lambda r, f: r.update(images=["none.png"]), "image.missing", "none.png"),
    ("decode", lambda r, f: (f / "images" / r["images"][0]).write_bytes(b"x"), "image.decode", "cannot be decoded"),
    ("cut", lambda r, f: (f / "images" / r["images"][0]).write_bytes((f / "images" / r["images"][0]).read_bytes()[:-40]),
     "image.decode", "cannot be decoded"),
    ("no prompt", lambda r, f: r.pop("prompt"), "row.prompt", "the row has answer, images"),
    ("no answer", lambda r, f: r.update(answer=" "), "row.answer", "expected text"),
    ("number", lambda r, f: r.update(answer=3), "row.answer", "expected text"),
    ("long", lambda r, f: r.update(prompt=r["prompt"] + " why" * 300), "prompt.length",
     "at most 256; EasyR1 leaves the row out"), ("truth", lambda r, f: r.update(answer="<answer>"), "reward.truth", "earns"),
     ("images text", lambda r, f: r.update(images="a.png"), "row.images", "a str, expected a list")]


@pytest.mark.parametrize("name, spoil, code, message", ACCIDENTS, ids=[a[0] for a in ACCIDENTS])
def test_an_accident_is_named_with_its_row(export, tmp_path, processor, name, spoil, code, message):
    folder = copied(export, tmp_path)
    found = rows(folder / "train.jsonl")
    spoil(found[40], folder)
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    problems = dry_run(folder, processor=processor, progress=False, processes=1).problems
    assert any(p["file"] == "train.jsonl" and p["row"] == 41 and p["code"] == code and message in p["message"] for p in problems), problems
    assert {p["row"] for p in problems} == {41}


def test_files_and_lines_that_are_broken(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    text = (folder / "val.jsonl").read_text().splitlines()
    (folder / "val.jsonl").write_text("\n".join([text[0][:-5], *text[1:]]) + "\n")
    assert [(p["file"], p["row"], p["code"]) for p in dry_run(folder, processor=processor, progress=False,
        processes=2).problems] == [("val.jsonl", 1, "row.json")]
    for name in ("val.jsonl", "prompt.jinja", "reward.py", "images"):
        os_path = folder / name
        os_path.rename(folder / "away")
        assert any(p["code"] == "file.missing" and name in p["message"]
                   for p in dry_run(folder, processor=processor, progress=False).problems)
        (folder / "away").rename(os_path)
    with pytest.raises(SettingsError, match="no export.json"): dry_run(tmp_path)


def test_folders_of_rows_and_paths_with_an_at(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    (folder / "parts").mkdir()
    found = rows(folder / "train.jsonl")
    for i in range(2): (folder / f"parts/{i}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found[36 * i:36 * i + 36]))
    assert dry_run(folder, processor=processor, overrides=["data.train_files=parts"], progress=False,
                   processes=1).rows == {"parts/0.jsonl": 36, "parts/1.jsonl": 36, "val.jsonl": 8}
    folder.rename(tmp_path / "a@b")
    assert [p["code"] for p in dry_run(tmp_path / "a@b", processor=processor, progress=False, processes=1).problems] == ["file.at"]


def test_reward_files_that_are_wrong(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    for source, code in (("def compute_score(r): return [dict(overall=1.0) for _ in r]", "reward.wrong"),
                         ("def compute_score(r): return [dict(accuracy=1.0) for _ in r]", "reward.form"),
                         ("def compute_score(r): return [dict(overall=float('nan')) for _ in r]", "reward.form"),
                         ("def compute_score(r): raise KeyError('x')", "reward.file"),
                         ("import nothing_like_this", "reward.file"), ("x = 1", "reward.file"),
                         ("def compute_score(r): return [dict(overall=0.0) for _ in r]", "reward.truth")):
        (folder / "reward.py").write_text(source)
        assert code in {p["code"] for p in dry_run(folder, processor=processor, progress=False, processes=1).problems}, source


def test_processes_find_the_same(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    found = rows(folder / "train.jsonl")
    for i in range(0, 60, 7): found[i]["images"] = None
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found * 4))
    one, two = (dry_run(folder, processor=processor, processes=n, progress=False) for n in (1, 2))
    assert one.problems == two.problems and one.tokens == two.tokens and len(one.problems) > 30


def test_memory_and_steps(export, processor):
    found = {r["what"]: r["value"] for r in dry_run(export, processor=processor, progress=False, processes=1).cost}
    train = len(rows(export / "train.jsonl"))
    assert found["steps, optimizer updates in each"] == f"{train // 32 * 15}, 1" and found["rows left over each epoch"] == train % 32
    tight = dry_run(export, processor=processor, gpu_gb=0.001, progress=False, processes=1)
    assert {"memory.update", "memory.sampling"} <= {p["code"] for p in tight.problems}
    few = dry_run(export, processor=processor, overrides=["data.rollout_batch_size=96"], progress=False, processes=1)
    assert "rows.few" in {p["code"] for p in few.problems}
    one, four = (memory_gb(3.75e9, 151936, 36, 2048, n, 4096, reference=False) for n in (1, 4))
    assert one["Adam"] == pytest.approx(30.0) and four["Adam"] == pytest.approx(7.5) and one["logits"] == four["logits"]


def test_memory_stays_flat(tmp_path, processor):
    "Rows are looked at and forgotten: eight times the rows, no more memory than noise"
    def held(n):
        folder = tmp_path / str(n)
        (folder / "images").mkdir(parents=True)
        noise = Image.effect_noise((448, 448), 90).convert("RGB")
        for i in range(n): noise.rotate(i).save(folder / f"images/{i}.png", compress_level=0)
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps(dict(prompt="<image> Is it?", answer="yes", images=[f"{i}.png"])) + "\n" for i in range(n)))
        (folder / "reward.py").write_text(reward_file("vqa"))
        (folder / "c.yaml").write_text("data: {train_files: rows.jsonl, val_files: rows.jsonl, image_dir: "
                                       "images, rollout_batch_size: 8}\nworker: {actor: {model: {model_path: "
                                       "x}, global_batch_size: 8}, rollout: {n: 16, tensor_parallel_size: "
                                       "1}, reward: {reward_function: 'reward.py:compute_score'}}\n")
        dry_run(folder / "c.yaml", processor=processor, processes=1, progress=False)
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    small = held(40)
    assert held(320) - small < 60 # 280 more pictures would be 160 MB


# one command

def test_parameters_cell_equals_settings():
    cells = [c for c in json.loads((ROOT / "nbs" / "09_easyr1.ipynb").read_text())["cells"]
             if "parameters" in c["metadata"].get("tags", [])]
    line = re.compile(r"^\s*(\w+): (\w+) = (.+?)\s+# (.+)$")
    parsed = lambda text: [line.match(l).groups() for l in text.splitlines() if line.match(l)]
    body = (ROOT / "vlrlbook" / "easyr1.py").read_text().split("class QuickStartSettings(Settings):")[1].split("    presets: ClassVar")[0]
    assert len(cells) == 1 and parsed("".join(cells[0]["source"])) == parsed(body)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "An untrained base with an adapter of it"
    from test_merge import shaken
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_twin("qwen2_5_vl")
    save_model(model, processor, folder / "base")
    shaken(model, folder / "adapter")
    return folder


def started(base, out, **more):
    given = dict(base_model=str(base / "base"), lora_model=str(base / "adapter"), drawn=60, max_steps=1, eval_samples=4,
                 output_dir=str(out), overrides="data.rollout_batch_size=32", training="batch_size=8 num_generations=4")
    return quick_start(read_settings(QuickStartSettings, given | more))


def what(results): return [line["what"] for line in results["stages"]]


def test_quick_start_goes_all_the_way_and_nothing_twice(base, tmp_path):
    out = tmp_path / "run"
    first = started(base, out)
    assert what(first) == ["done"] * 6 and [line["stage"].replace(" ", "_") for line in first["stages"]] == list(stages)
    assert all((out / n).exists() for n in ("model/model.safetensors", "export/train.sh", "dry_run/results.json",
        "train/adapter_model.safetensors", "trained/model.safetensors", "evaluation/results.json", "results.json"))
    assert any("after" in k for k in first["evaluation"])
    kept = (out / "trained/model.safetensors").stat().st_mtime_ns
    assert what(started(base, out)) == ["done before"] * 6 and (out / "trained/model.safetensors").stat().st_mtime_ns == kept
    shutil.rmtree(out / "export") # a stage that is no longer whole is done again, and the others are not
    assert what(started(base, out)) == ["done before", "done"] + ["done before"] * 4
    other = started(base, out, seed=44, skip="train,merge-shards,evaluate")
    assert what(other) == ["done before", "done", "done", "skipped", "skipped", "skipped"] and (out / "earlier-1/export/train.sh").exists()


def test_quick_start_stops_at_a_problem_and_goes_on_behind_it(base, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SettingsError, match="the dry run found .* problems"):
        started(base, out, overrides="data.rollout_batch_size=32 data.max_prompt_length=20", skip="train,merge_shards,evaluate")
    assert not (out / "dry_run").exists() and (out / "export/train.sh").exists()
    assert what(started(base, out, overrides="data.rollout_batch_size=32 data.max_prompt_length=20",
                        skip="dry_run,train,merge_shards,evaluate"))[:3] == ["done before", "done before", "skipped"]
    with pytest.raises(SettingsError, match="did you mean 'evaluate'"): read_settings(QuickStartSettings, dict(skip="evalute"))


def test_a_killed_stage_leaves_nothing_and_a_stopped_training_goes_on(base, tmp_path, monkeypatch):
    import vlrlbook.grpo
    out, seen = tmp_path / "run", []
    (out / ".export-abc").mkdir(parents=True) # what a kill leaves
    def stopped(settings):
        seen.append(settings.resume)
        (Path(settings.output_dir) / "checkpoint-10").mkdir(parents=True, exist_ok=True)
        raise SettingsError("stopped")
    monkeypatch.setattr(vlrlbook.grpo, "run", stopped)
    for _ in range(2):
        with pytest.raises(SettingsError, match="stopped"): started(base, out)
    assert seen == ["", "true"] and not list(out.glob(".*-*")) and not list(out.glob("earlier-*"))
    with pytest.raises(SettingsError, match="stopped"): started(base, out, training="batch_size=16 num_generations=4")
    assert seen[-1] == "" and (out / "earlier-1/train/checkpoint-10").exists() # told something else: it begins anew


def test_quick_start_with_easyr1(base, tmp_path, monkeypatch):
    "A stand-in for EasyR1 leaves two checkpoints of one process; the newest comes back as a model"
    import torch
    from vlrlbook.models import load_vlm
    with pytest.raises(SettingsError, match="EasyR1 is not installed here"): read_settings(QuickStartSettings, dict(engine="easyr1"))
    model, processor = load_vlm(str(base / "base"))
    actor = tmp_path / "actor"
    (actor / "huggingface").mkdir(parents=True)
    torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")
    model.config.save_pretrained(actor / "huggingface")
    model.generation_config.save_pretrained(actor / "huggingface")
    processor.save_pretrained(actor / "huggingface")
    engine = fake_engine(tmp_path / "engine")
    for name, value in dict(PYTHONPATH=str(engine), SEEN=str(tmp_path / "seen.json"), ACTOR=str(actor),
                            PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin").items():
        monkeypatch.setenv(name, value)
    results = started(base, tmp_path / "run", engine="easyr1", skip="evaluate")
    assert what(results) == ["done"] * 5 + ["skipped"] and newest_step(tmp_path / "run/train") == 10
    words = json.loads((tmp_path / "seen.json").read_text())["argv"]
    assert {"trainer.max_steps=1", "data.rollout_batch_size=32", f"worker.actor.model.model_path={tmp_path / 'run/model'}"} <= set(words)
    back = load_vlm(str(tmp_path / "run/trained"))[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))


# command line

@pytest.mark.parametrize("name, words", [("export-easyr1", ["--data", "--reward", "--output_dir", "--version"]),
    ("export-verl", ["--data", "--output_dir"]), ("dry-run", ["--path"]), ("merge-shards", ["--local_dir", "--output_dir"]),
    ("quick-start", ["--base_model", "--skip"])])
def test_commands_help(name, words):
    done = subprocess.run([sys.executable, "-m", "vlrlbook.cli", name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(w in done.stdout for w in words)


def test_commands_work(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(40): Image.new("RGB", (56, 56), (6 * i, 0, 0)).save(tmp_path / f"images/{i}.png")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(dict(question="Is it red?", answer=("yes", "no")[i % 2], image=f"{i}.png")) + "\n" for i in range(40)))
    call = lambda *words: subprocess.run([sys.executable, "-m", "vlrlbook.cli", *words], capture_output=True, text=True, cwd=tmp_path)
    done = call("export-easyr1", "--data", "rows.jsonl", "--image-dir", "images", "--output_dir",
                "out", "rollout_batch_size=32", "model_path=tiny")
    assert done.returncode == 0 and "36 rows to learn from, 4 to measure on" in done.stdout, done.stderr
    save_model(*tiny_twin("qwen2_5_vl"), tmp_path / "out/tiny")
    found = call("dry-run", "--path", "out", "data.max_prompt_length=20")
    assert found.returncode == 1 and "prompt.length" in found.stdout
    assert call("dry-run", "--path", "out").returncode == 0
    (tmp_path / "mine.yaml").write_text("data: {train_files: x, val_files: y, prompt_key: problem, rollout_batch_size: "
                                        "32}\nworker: {actor: {model: {model_path: tiny}}, rollout: {n: "
                                        "4, tensor_parallel_size: 1}, reward: {reward_function: 'a.py:b'}}\n")
    taken = call("export-easyr1", "--data", "rows.jsonl", "--image-dir", "images", "--output_dir", "out2",
                 "--config", "mine.yaml", "worker.actor.global_batch_size=32")
    assert taken.returncode == 0 and "n: 4" in (tmp_path / "out2/config.yaml").read_text() and "prompt_key: prompt" in (
        tmp_path / "out2/config.yaml").read_text(), taken.stderr
    wrong = call("export-verl", "--data", "rows.jsonl", "--image_dir", "images", "--output_dir", "v", "lrr=1")
    assert wrong.returncode == 1 and "there is no 'lrr'" in wrong.stderr and not (tmp_path / "v").exists()
