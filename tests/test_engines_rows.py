"""What EasyR1 and verl are handed, looked through: settings of their own examples, limits, keyword arguments, templates,
splits, leaks."""
import json
import os

import pytest
from easyr1_cases import copied, export, processor, rows
from vlrlbook.core import SettingsError
from vlrlbook.data import synthetic_vqa
from vlrlbook.easyr1 import dry_run, engine_settings, export_easyr1, export_verl, read_engine_yaml, verl_overrides


def codes(found): return sorted({problem["code"] for problem in found.problems})


def rewrite(path, change):
    "A file of rows with each row changed"
    path.write_text("".join(json.dumps(change(row, i)) + "\n" for i, row in enumerate(rows(path))))


@pytest.mark.parametrize("key, word", [("trainer.logger", ["file", "wandb"]), ("algorithm.adv_estimator", "grpo_passk")])
def test_words_of_the_current_version_alone(key, word):
    assert engine_settings({key: word}, "current").values[key] == word
    with pytest.raises(SettingsError, match="file|grpo_passk"): engine_settings({key: word}, "0.3.2")


def test_a_reward_type_that_the_function_does_not_take(export, tmp_path, processor):
    found = dry_run(export, processor, ["worker.reward.reward_type=sequential"], processes=1, progress=False)
    assert codes(found) == ["reward.file"] and "'sequential' hands it one answer at a time" in found.problems[0]["message"]


def test_more_pictures_than_the_sampler_takes(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    def two(row, i): return row if i != 4 else row | dict(prompt="<image>" + row["prompt"], images=row["images"] * 2)
    rewrite(folder / "train.jsonl", two)
    assert dry_run(folder, processor, processes=1, progress=False).ok
    found = dry_run(folder, processor, ["worker.rollout.limit_images=1"], processes=1, progress=False)
    assert [(p["code"], p["row"]) for p in found.problems] == [("row.limit", 5)]


REWARD = """
REWARD_NAME, REWARD_TYPE = "w", "batch"
def compute_score(inputs, weight):
    return [dict(overall=weight * float(i["ground_truth"] in i["response"])) for i in inputs]
"""


def test_keyword_arguments_of_the_settings_are_given(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    (folder / "reward.py").write_text(REWARD)
    without = dry_run(folder, processor, processes=1, progress=False)
    assert codes(without) == ["reward.file"] and "'weight'" in without.problems[0]["message"]
    given = ["worker.reward.reward_function_kwargs={weight: 1.0}"]
    found = dry_run(folder, processor, given, processes=1, progress=False)
    assert "reward.file" not in codes(found) and found.reward["reward of the truths, mean"] == 1.0


@pytest.mark.parametrize("text, says", [("{{ content }\n", "line 1: unexpected '}'"), ("a\n{% if %}{{ content }}", "line 2"),
    ("{{ content", "line 1"), ("{{ question }}", "its variables are: question"), ("Think.", "its variables are: none"),
    ("{% for x in content %}", "line 1")])
def test_a_template_that_is_no_jinja_is_one_line(export, tmp_path, processor, text, says):
    folder = copied(export, tmp_path)
    (folder / "prompt.jinja").write_text(text)
    found = dry_run(folder, processor, processes=1, progress=False)
    assert codes(found) == ["prompt.template"] and says in found.problems[0]["message"] and "\n" not in found.problems[0]["message"]
    with pytest.raises(SettingsError, match="prompt.jinja"):
        export_easyr1(synthetic_vqa(8), "vqa", {}, tmp_path / "out", template=text)
    assert not (tmp_path / "out").exists()


def test_nothing_to_measure_on_and_pictures_on_both_sides(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    held = (folder / "val.jsonl").read_text()
    (folder / "val.jsonl").write_text("")
    assert codes(dry_run(folder, processor, processes=1, progress=False)) == ["rows.none"]
    (folder / "val.jsonl").write_text(held + (folder / "train.jsonl").read_text().splitlines()[3] + "\n")
    found = dry_run(folder, processor, processes=1, progress=False)
    assert codes(found) == ["split.leak"] and found.problems[0]["message"].startswith("1 of its")


def test_a_yaml_whose_files_begin_where_the_command_is_started(export, tmp_path, processor, monkeypatch):
    "As EasyR1 reads it: `train.jsonl@train` is a file and a split, `./reward.py:f` begins in the working directory"
    monkeypatch.chdir(export)
    text = (export / "config.yaml").read_text()
    text = text.replace("train_files: train.jsonl", "train_files: train.jsonl@train")
    text = text.replace("val_files: val.jsonl", "val_files: ./val.jsonl@test")
    text = text.replace("format_prompt: prompt.jinja", "format_prompt: ./prompt.jinja")
    (tmp_path / "far.yaml").write_text(text)
    found = dry_run(tmp_path / "far.yaml", processor, processes=1, progress=False)
    assert found.ok, found.problems
    assert sorted(found.rows.values()) == sorted(dry_run(export, processor, processes=1, progress=False).rows.values())


def test_a_split_in_an_override_of_an_export(export, processor):
    found = dry_run(export, processor, processes=1, progress=False, overrides=["data.train_files=train.jsonl@train"])
    assert found.ok and "train.jsonl" in found.rows, found.problems
    found = dry_run(export, processor, processes=1, progress=False, overrides=["data.train_files=trian.jsonl@train"])
    assert codes(found) == ["file.missing"] and "trian.jsonl@train" in found.problems[0]["message"]


def test_a_data_set_of_the_hub_cannot_be_looked_at(export, tmp_path, processor):
    (tmp_path / "x.yaml").write_text((export / "config.yaml").read_text()
                                     .replace("train_files: train.jsonl", "train_files: hiyouga/math12k@train"))
    for name in ("val.jsonl", "prompt.jinja", "reward.py"): (tmp_path / name).write_text((export / name).read_text())
    os.symlink(export / "images", tmp_path / "images"), os.symlink(export / "tiny", tmp_path / "tiny")
    found = dry_run(tmp_path / "x.yaml", processor, processes=1, progress=False)
    assert codes(found) == ["data.hub"] and "hiyouga/math12k@train" in found.problems[0]["message"]


def test_verls_reward_file_takes_what_verl_adds(tmp_path):
    from vlrlbook.easyr1 import ask_reward_file, reward_file
    (tmp_path / "reward.py").write_text(reward_file("vqa", "verl"))
    said = ask_reward_file(tmp_path / "reward.py", [(["<answer>yes</answer>"], "yes")], engine="verl",
                           kwargs=dict(reward_router_address="http://x", reward_model_tokenizer=None))
    assert said[0][0]["score"] > 0


@pytest.mark.parametrize("key, value, word", [
    ("reward.reward_manager.name", "dapo", "reward.reward_manager.name=dapo"),
    ("reward_model.reward_manager", "dapo", "reward.reward_manager.name=dapo"),
    ("reward_model.model.path", "judge", "reward.reward_model.model_path=judge"),
    ("reward_model.rollout.name", "vllm", "reward.reward_model.rollout.name=vllm"),
    ("sandbox_fusion.url", "http://x", "reward.sandbox_fusion.url='http://x'"),
    ("custom_reward_function.name", "mine", "reward.custom_reward_function.name=mine"),
    ("actor_rollout_ref.rollout.mode", "async", "actor_rollout_ref.rollout.mode=async"),
    ("custom_reward_function.reward_kwargs", {"a": 1, "b": "x y"}, "+reward.custom_reward_function.reward_kwargs={a:1,b:'x y'}"),
    ("reward.custom_reward_function.reward_kwargs", {"a": [1, 2]}, "+reward.custom_reward_function.reward_kwargs={a:[1,2]}"),
    ("+actor_rollout_ref.rollout.engine_kwargs.vllm.foo", True, "+actor_rollout_ref.rollout.engine_kwargs.vllm.foo=true"),
    ("++data.seed", 3, "++data.seed=3"), ("actor_rollout_ref.actor.strategy", "fsdp2", "actor_rollout_ref.actor.strategy=fsdp2")])
def test_names_of_verls_own_scripts(key, value, word):
    "Older names come out as today's: the release takes both, and looks at today's alone"
    assert word in verl_overrides(engine_settings({key: value}, "verl"))


def test_verls_own_words_are_those_of_the_release():
    with pytest.raises(SettingsError, match="actor_rollout_ref.rollout.name = 'hf' .there are: vllm, sglang, trtllm"):
        engine_settings({"actor_rollout_ref.rollout.name": "hf"}, "verl")
    settings = engine_settings({"algorithm.adv_estimator": "grpo_passk", "actor_rollout_ref.actor.loss_agg_mode": "token-sum"}, "verl")
    assert "algorithm.adv_estimator=grpo_passk" in verl_overrides(settings)


def test_an_older_name_and_todays_are_one_setting(tmp_path):
    with pytest.raises(SettingsError, match="given twice"):
        engine_settings({"reward_model.reward_manager": "dapo", "reward.reward_manager.name": "naive"}, "verl")
    with pytest.raises(SettingsError, match="an export writes these files itself"):
        export_verl(synthetic_vqa(60), "vqa", {"custom_reward_function.path": "x.py"}, tmp_path / "w")
    with pytest.raises(SettingsError, match="reward_model.model.external_lib"): # which the release takes and nothing reads
        engine_settings({"reward_model.model.external_lib": "x"}, "verl")


def test_an_older_export_is_looked_through(tmp_path, processor):
    "Its export.json holds the older names of the reward section; overrides may bear either"
    folder = export_verl(synthetic_vqa(60, seed=3), "vqa", {"data.train_batch_size": 32, "data.max_prompt_length": 4096}, tmp_path / "v")
    about = json.loads((folder / "export.json").read_text())
    section = "reward.custom_reward_function"
    older = {key.replace(section, "custom_reward_function"): value for key, value in about["settings"].items()}
    assert "custom_reward_function.path" in older
    (folder / "export.json").write_text(json.dumps(about | dict(settings=older)))
    assert "reward.file" not in codes(dry_run(folder, processor, processes=1, progress=False))
    found = dry_run(folder, processor, ["custom_reward_function.name=absent"], processes=1, progress=False)
    assert "reward.file" in codes(found) and "absent" in str(found.problems)


@pytest.mark.parametrize("key, says", [
    ("+trainer.nnodes", "without the \\+"), ("reward.custom_reward_functoin.path", "did you mean"),
    ("actor_rollout_ref.rollout.mod", "did you mean 'actor_rollout_ref.rollout.mode'")])
def test_names_that_verl_does_not_know(key, says):
    with pytest.raises(SettingsError, match=says): engine_settings({key: 1}, "verl")


def test_an_export_says_which_verl_it_was_written_for(tmp_path):
    from conftest import ROOT
    from vlrlbook.easyr1 import config
    folder = export_verl(synthetic_vqa(60, seed=3), "vqa", {"data.train_batch_size": 32}, tmp_path / "v")
    about = json.loads((folder / "export.json").read_text())
    assert about["written_for"] == f"verl {config.verl_release}" and about["written_for"] in (folder / "README.md").read_text()
    release = (ROOT / "nbs/logs/09_verl_release_keys.csv").read_text().splitlines()[1]
    assert f"verl {config.verl_release} " in release and f"verl=={config.verl_release}" in (ROOT / "tools/verl.txt").read_text()
    with pytest.raises(SettingsError, match="an export writes these files itself"):
        export_verl(synthetic_vqa(60), "vqa", {"reward.custom_reward_function.path": "x.py"}, tmp_path / "w")
