"""Settings of EasyR1 and verl, against the contracts: every key, type, range and rule"""
import re

import pytest
import yaml
from vlrlbook.core import SettingsError
from vlrlbook.easyr1 import engine_settings, key_table, parse_overrides, read_engine_yaml, short_names


CONTRACT = {"algorithm.adv_estimator": "grpo", "algorithm.kl_coef": 1.0e-2, "worker.actor.padding_free": True,
            "worker.actor.offload.offload_params": True, "worker.reward.reward_type": "batch",
            "worker.actor.model.model_path": "./merged_model"}


def test_a_key_by_its_dotted_name_and_within_a_section_is_refused():
    for given in ({"trainer": {"nnodes": 2}, "trainer.nnodes": 1}, {"trainer.nnodes": 1, "trainer": {"nnodes": 2}}):
        with pytest.raises(SettingsError, match="trainer.nnodes is given twice"): engine_settings(given, "current")


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
    # the place where a key was read: a file at a commit, or a file of a release
    place = r" verl/\S+ [0-9a-f]{40}| examples/\S+ [0-9a-f]{40}|^verl \d+\.\d+\.\d+ verl/\S+$"
    assert all(re.search(place, k.read_at)
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


def test_a_key_that_verls_release_does_not_list_keeps_its_row(monkeypatch):
    "Its row in the key table gives type and range, whether it is written with its + or without"
    from vlrlbook.easyr1 import config
    monkeypatch.setattr(config, "unlisted_in_verl", (*config.unlisted_in_verl, "actor_rollout_ref.rollout.temperature"))
    row = config.key_table("verl")["actor_rollout_ref.rollout.temperature"]
    assert config.known_keys("verl")["actor_rollout_ref.rollout.temperature"] == row and row.kind == "float"
    for name in ("actor_rollout_ref.rollout.temperature", "+actor_rollout_ref.rollout.temperature"):
        with pytest.raises(SettingsError, match=re.escape("actor_rollout_ref.rollout.temperature = -1")):
            engine_settings({name: -1}, "verl")


def test_all_faults_stand_in_one_message():
    with pytest.raises(SettingsError) as e: engine_settings({"lrr": 1, "n": "many", "worker.reward.reward_type": 3}, "current")
    assert str(e.value).count(";") == 2


@pytest.mark.parametrize("word, value", [
    ("+trainer.x=1e-3", 0.001), ("+trainer.x=[0.9, 1e-3]", [0.9, 0.001]), ("+trainer.x=.5", 0.5), ("+trainer.x=1.5E4", 15000.0),
    ("+trainer.x=2.", 2.0), ("+trainer.x=1_000", 1000), ("+trainer.x=-3", -3), ("+trainer.x=0", 0), ("+trainer.x=null", None),
    ("+trainer.x=TRUE", True), ("+trainer.x=yes", "yes"), ("+trainer.x=off", "off"), ("+trainer.x=010", "010"),
    ("+trainer.x=0x10", "0x10"), ("+trainer.x=12:30", "12:30"), ("+trainer.x=2025-01-15", "2025-01-15"), ("+trainer.x=e3", "e3"),
    ("+trainer.x='1e-3'", "1e-3"), ('+trainer.x="1"', "1"), ("+trainer.x=1.2.3", "1.2.3"), ("+trainer.x=", ""),
    ("reward.custom_reward_function.reward_kwargs={weight: 1e-3, name: no}", dict(weight=0.001, name="no")),
    ("trainer.experiment_name=12:30", "12:30"), ("trainer.experiment_name=007", "007"), ("trainer.experiment_name=no", "no"),
    ("trainer.experiment_name=2025-01-15", "2025-01-15"), ("trainer.project_name=1.10", "1.10"), ("trainer.project_name=true", "true"),
    ("trainer.project_name='a b'", "a b"), ("actor_rollout_ref.actor.optim.lr=1e-6", 1e-6),
    ("actor_rollout_ref.actor.use_kl_loss=no", False), ("actor_rollout_ref.rollout.n=0x10", 16)])
def test_words_are_read_as_hydra_reads_them(word, value):
    "A name stays as it is written, and a key of a known type takes what YAML knows"
    [(key, said)] = engine_settings(parse_overrides([word], "verl"), "verl").given.items()
    assert key == word.partition("=")[0] and said == value and type(said) is type(value)


@pytest.mark.parametrize("word, value", [
    ("worker.rollout.val_override_config={temperature: 1e-1, n: 1}", dict(temperature=0.1, n=1)),
    ("worker.reward.reward_function_kwargs={w: 1e-3, on: no, day: 2025-01-15}", {"w": 0.001, True: False, "day": "2025-01-15"}),
    ("trainer.experiment_name=2025-01-15", "2025-01-15"), ("trainer.experiment_name=12:30", "12:30"),
    ("trainer.experiment_name=1e3", "1e3"), ("trainer.experiment_name=007", "007"), ("worker.actor.optim.lr=1e-6", 1e-6),
    ("trainer.experiment_name=run-7", "run-7"), ("data.shuffle=no", False), ("worker.rollout.n=010", 8)])
def test_words_and_files_are_read_as_easyr1_reads_them(tmp_path, word, value):
    key, _, text = word.partition("=")
    assert engine_settings(parse_overrides([word]), "0.3.2").given[key] == value
    *sections, last = key.split(".")
    (tmp_path / "c.yaml").write_text("{" + ": {".join([*sections, f"{last}: {text}"]) + "}" * (len(sections) + 1))
    read = read_engine_yaml_part(tmp_path / "c.yaml", key)
    if not isinstance(value, str) or "-" in value: assert read == value # EasyR1 itself takes 12:30 and 007 for numbers


def read_engine_yaml_part(path, key):
    "What a file of a single key says, in which the batches and the model of EasyR1's defaults need not fit"
    from vlrlbook.easyr1.config import _checked_keys, _flattened, _read_sections, known_keys
    written, faults = _checked_keys(_flattened(_read_sections(path), known_keys("0.3.2")), "0.3.2")
    assert not faults
    return written[key]


def test_a_text_that_easyr1_would_read_as_a_number_is_quoted(tmp_path):
    given_ = {"trainer.experiment_name": "1e-3", "trainer.project_name": "2025-01-15", "worker.actor.optim.lr": 1e-5}
    (tmp_path / "c.yaml").write_text(engine_settings(given_).yaml())
    text = (tmp_path / "c.yaml").read_text()
    assert "experiment_name: '1e-3'\n" in text and "project_name: '2025-01-15'\n" in text
    assert read_engine_yaml(tmp_path / "c.yaml").values.items() >= given_.items()


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


def test_a_config_may_merge_another_mapping_into_its_own(tmp_path):
    "EasyR1 reads its config with OmegaConf, which takes <<; a key of its own wins and does not stand twice"
    (tmp_path / "config.yaml").write_text("data: {<<: {seed: 1, shuffle: false}, seed: 2, train_files: a, val_files: b}\n"
                                          "worker: {actor: {model: {model_path: m}}, rollout: {n: 5}}\n")
    s = read_engine_yaml(tmp_path / "config.yaml")
    assert s["data.seed"] == 2 and s["shuffle"] is False


def test_a_list_as_a_key_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("? [data, seed]\n: 1\n")
    with pytest.raises(SettingsError, match="config.yaml: cannot be read"): read_engine_yaml(tmp_path / "config.yaml")
    with pytest.raises(SettingsError, match="expected name=value"): parse_overrides(["--lr"])
