"""The room of settings: light to import, one base for all classes, one rule for batches."""
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import pytest
from conftest import ROOT
from hypothesis import given, strategies as st
from vlrlbook import core, grpo, settings
from vlrlbook.settings import (GRPOSettings, Settings, SettingsError, largest_batch, load_settings, read_settings, settings_help,
                               whole_groups_problem)


@pytest.mark.parametrize("module", ["settings", "folders", "versions", "service", "jobs", "cli"])
def test_light_modules_import_no_torch(module):
    "A server, a supervisor and --help start without it"
    code = f"import sys, vlrlbook.{module}; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_names_stay_where_they_were():
    for name in ("SettingsError", "nearest", "as_type", "finite_number", "read_settings", "named_options", "names_since", "settings_help"):
        assert getattr(core, name) is getattr(settings, name)
    for name in ("GRPOSettings", "presets", "by_task", "service_settings", "save_settings", "load_settings", "whole_groups"):
        assert getattr(grpo, name) is getattr(settings, name)


def test_every_setting_has_its_help():
    texts = settings_help(GRPOSettings)
    assert set(texts) == {f.name for f in fields(GRPOSettings)} and all(texts.values())


def test_a_help_that_goes_on_below_its_line_is_whole():
    "As `papermill --help-notebook` shows it, which reads the page's parameters cell"
    from test_parameters import parsed
    from vlrlbook.evaluation import EvaluationSettings
    from vlrlbook.reward_model import RewardModelSettings
    for page, cls in (("03_reward_model", RewardModelSettings), ("06_evaluation", EvaluationSettings)):
        cells = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text())["cells"]
        cell = next(c for c in cells if "parameters" in c["metadata"].get("tags", []))
        assert settings_help(cls) == {name: text for name, _, _, text in parsed("".join(cell["source"]))}


def test_every_class_with_a_size_has_the_one_base():
    from vlrlbook.easyr1 import QuickStartSettings
    from vlrlbook.evaluation import EvaluationSettings
    from vlrlbook.reward_model import RewardModelSettings
    for cls in (GRPOSettings, RewardModelSettings, EvaluationSettings, QuickStartSettings):
        assert issubclass(cls, Settings) and "check" not in vars(cls) and set(cls.presets) == {"tiny", "gpu"}
        with pytest.raises(SettingsError, match="size = 'tinny': did you mean 'tiny'"): read_settings(cls, dict(size="tinny"))


@dataclass
class Small(Settings):
    "Two settings and a rule"
    size: str = "one" # which preset
    steps: int = None # of training
    presets: ClassVar[dict] = {"one": dict(steps=1), "two": dict(steps=2)}

    def rules(self):
        "Two rules, so that both can be broken at once"
        yield self.steps > 5, "too long"
        yield self.steps % 2 == 0, "even"


def test_the_base_fills_in_and_says_all_that_is_wrong():
    assert read_settings(Small, {}).steps == 1 and read_settings(Small, dict(steps=3)).steps == 3
    with pytest.raises(SettingsError, match="^even$"): read_settings(Small, dict(size="two"))
    with pytest.raises(SettingsError, match="^too long; even$"): read_settings(Small, dict(steps=8))


@given(rows=st.integers(1, 40), G=st.integers(2, 9), accumulation=st.integers(1, 8), processes=st.integers(1, 4), alone=st.booleans())
def test_the_largest_batch_is_the_largest_that_fits(rows, G, accumulation, processes, alone):
    def fits(size):
        answers = size * accumulation * processes
        return answers % G == 0 and answers // G <= rows and (not alone or size * accumulation % G == 0)
    sizes = [size for size in range(1, rows * G + 1) if fits(size)]
    assert largest_batch(rows, G, accumulation, processes, alone) == (sizes[-1] if sizes else None)


def test_a_step_that_cuts_a_group():
    assert whole_groups_problem(16, 8, "x") == "" and whole_groups_problem(16, 0, "x") == ""
    assert whole_groups_problem(12, 8, "a × b") == "a × b = 12 answers a step, no multiple of num_generations = 8; nearest: 16"
    assert whole_groups_problem(3, 8, "a").endswith("nearest: 8")


def test_the_service_names_a_batch_that_training_takes():
    "It used to divide, and named one that cut a group in two where there was accumulation"
    from vlrlbook.service import Problem, plan, request_form
    form, asked = request_form("tiny"), dict(batch_size=64, gradient_accumulation_steps=3, num_generations=8)
    with pytest.raises(Problem, match="at most 16 would do") as told: plan(asked, "tiny", form, 8) # 6 of 8 pictures train
    assert told.value.code == "training_config.batch_size"
    for_training = dict(asked, batch_size=16)
    assert read_settings(GRPOSettings, for_training).prompts_per_step == 6
    with pytest.raises(Problem, match="fewer gradient_accumulation_steps would do"):
        plan(dict(batch_size=8, gradient_accumulation_steps=64), "tiny", form, 3)


def test_help_of_a_class_typed_into_a_notebook():
    "Its source is found by any of its own methods: `check` may be the base class's"
    import linecache
    source = """from dataclasses import dataclass
@dataclass
class Typed(Settings):
    rate: float = 0.1 # Step size
    def rules(self): return []
"""
    linecache.cache["<cell 7>"] = (len(source), None, source.splitlines(keepends=True), "<cell 7>")
    names = dict(Settings=settings.Settings, __name__="__main__") # as a kernel runs a page
    exec(compile(source, "<cell 7>", "exec"), names)
    assert settings.settings_help(names["Typed"]) == {"rate": "Step size"}


@pytest.mark.parametrize("kind, name", [("reward_model", "reward_model.json"), ("aloha", "classifier.json")])
def test_a_folder_that_no_trained_model_lies_in_is_refused_before_anything_is_loaded(tmp_path, kind, name):
    def refusal(reward):
        with pytest.raises(SettingsError) as error: read_settings(GRPOSettings, dict(reward=reward))
        return str(error.value)
    assert "there is no such folder" in refusal(f"{kind}:{tmp_path}/none")
    assert f"no {name} there" in refusal(f"0.5*{kind}:{tmp_path} + 0.5*counting")
    inside = tmp_path / {"reward_model": "model", "aloha": "classifier"}[kind]
    inside.mkdir()
    (inside / name).write_text("{}")
    assert f"did you mean '{kind}:{inside}'?" in refusal(f"{kind}:{tmp_path}"), "people name the run"
    assert read_settings(GRPOSettings, dict(reward=f"{kind}:{inside}")).reward == f"{kind}:{inside}"
    # the folder above, whose results.json is that of the latest run
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "results.json").write_text(json.dumps(dict(model=str(inside))))
    assert f"did you mean '{kind}:{inside}'?" in refusal(f"{kind}:{tmp_path}/all")


@pytest.mark.parametrize("reward, terms", [
    ("reward_model:runs/c++/model", [("", "reward_model:runs/c++/model")]),
    ("0.5*reward_model:runs/c++/model + 0.5*counting", [("0.5", "reward_model:runs/c++/model"), ("0.5", "counting")]),
    ("counting+0.1*judge:a+b/j.yaml+format", [("", "counting"), ("0.1", "judge:a+b/j.yaml"), ("", "format")]),
    ("aloha:runs/3*3/x + 2 * my.module:f", [("", "aloha:runs/3*3/x"), ("2", "my.module:f")]),
    ("2*aloha:a*b+c*d/x+x*counting", [("2", "aloha:a*b+c*d/x"), ("x", "counting")]), ("judge:c++", [("", "judge:c++")]),
    ("judge:my+judge.yaml + 0.5*judge:b.yml", [("", "judge:my+judge.yaml"), ("0.5", "judge:b.yml")]),
    ("judge:a.yaml+judge:b.yaml", [("", "judge:a.yaml"), ("", "judge:b.yaml")]),
    ("reward_model:/a/x +reward_model:/b", [("", "reward_model:/a/x"), ("", "reward_model:/b")]),
    ("0.9*counting+0.1*format", [("0.9", "counting"), ("0.1", "format")]), ("counting + ", [("", "counting"), ("", "")])])
def test_a_path_in_a_reward_may_hold_plus_and_star(reward, terms):
    from vlrlbook.settings import reward_terms, reward_without_paths, trained_rewards
    assert reward_terms(reward) == terms
    trained = [tuple(name.split(":")) for _, name in terms if name.startswith(("reward_model:", "aloha:", "judge:"))]
    assert trained_rewards(reward) == trained
    if "c++/model" in reward: assert "reward_model:c++" in reward_without_paths(reward) and "runs" not in reward_without_paths(reward)


def test_a_reward_is_shown_without_the_paths_of_a_machine():
    from vlrlbook.settings import reward_without_paths
    assert reward_without_paths("0.5*reward_model:/home/me/judge_20250102/model + 0.5*counting") == (
        "0.5*reward_model:judge_20250102 + 0.5*counting")
    assert reward_without_paths("aloha:runs/x/classifier") == "aloha:x" and reward_without_paths("counting") == "counting"
    inside = "0.5*reward_model:/data/judge + 0.5*reward_model:/data/judge/old/model"  # one path begins the other
    assert reward_without_paths(inside) == "0.5*reward_model:judge + 0.5*reward_model:old"


def test_a_number_that_no_float_can_hold_is_no_number():
    from vlrlbook.settings import finite_number
    assert finite_number(10 ** 400) is None and finite_number("1" * 400) is None
    with pytest.raises(SettingsError, match="lr"): read_settings(GRPOSettings, dict(lr=10 ** 400))


def test_epochs_that_somebody_set_win_over_a_presets_steps():
    def length(**given):
        s = read_settings(GRPOSettings, given)
        return s.num_epochs, s.max_steps
    assert length(num_epochs=3) == (3, -1) and length(num_train_epochs="3", task="vqa") == (3, -1)
    assert length() == (1, 400) and length(max_steps=7) == (1, 7) and length(num_epochs=3, max_steps=7) == (3, 7)
    assert length(size="gpu", num_epochs=3) == (3, -1)


def test_none_means_what_messages_say(tmp_path):
    "The text none, where None is the default; a number where a word or a number is asked for; an empty path"
    for name in ("system_prompt", "adapter", "data", "min_p", "epsilon_high", "vllm_max_model_length", "lr"):
        for text in ("none", "None", " NONE "):
            assert read_settings(GRPOSettings, {name: text}) == read_settings(GRPOSettings, {}), name
    assert read_settings(GRPOSettings, dict(report_to="none")).report_to == "none"
    for value in (0, 0.5, "0", "0.5"): assert read_settings(GRPOSettings, dict(when_cut=value)).when_cut == str(value)
    with pytest.raises(SettingsError, match="when_cut = 'free': expected paid, masked or a number"):
        read_settings(GRPOSettings, dict(when_cut="free"))
    for name in ("data", "adapter"):
        with pytest.raises(SettingsError, match=f"{name} is empty: expected a path, or none"):
            read_settings(GRPOSettings, {name: ""})


def test_an_option_wins_over_another_name_in_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-5\nmask_truncated_completions: true\nbatch_size: 16\n")
    s = load_settings(tmp_path / "run.yaml", lr=1e-4, when_cut="paid")
    assert (s.lr, s.when_cut, s.batch_size) == (1e-4, "paid", 16)
    s = load_settings(tmp_path / "run.yaml", learning_rate=1e-4)
    assert (s.lr, s.when_cut) == (1e-4, "masked")


def test_an_empty_folder_or_model_is_refused():
    "As `--output_dir \"$NOT_SET\"` gives it, before anything is loaded"
    from vlrlbook.aloha_settings import AlohaSettings
    from vlrlbook.reward_model_settings import RewardModelSettings
    for cls in (GRPOSettings, AlohaSettings, RewardModelSettings):
        with pytest.raises(SettingsError, match="output_dir is empty"): read_settings(cls, dict(output_dir=""))
        with pytest.raises(SettingsError, match="model is empty"): read_settings(cls, dict(model="", size="tiny"))
    with pytest.raises(SettingsError, match="ckpt_dir is empty"): read_settings(AlohaSettings, dict(ckpt_dir=""))


def test_a_path_in_a_file_may_begin_at_home(tmp_path, monkeypatch):
    "No shell has replaced the ~ there: the run went into a folder of that name"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("output_dir: ~/runs/mine\nsystem_prompt: ~ about 3\n")
    s = load_settings(tmp_path / "run.yaml")
    assert (s.output_dir, s.system_prompt) == (str(tmp_path / "runs" / "mine"), "~ about 3")
    assert load_settings(tmp_path / "run.yaml", output_dir="a~b").output_dir == "a~b"


def test_a_seed_that_numpy_cannot_take_is_refused():
    from vlrlbook.aloha_settings import AlohaSettings
    for cls in (GRPOSettings, AlohaSettings):
        with pytest.raises(SettingsError, match="seed = 4294967296: expected less than 2..32"): read_settings(cls, dict(seed=2**32))
        assert read_settings(cls, dict(seed=2**32 - 1)).seed == 2**32 - 1


def test_each_word_of_a_setting_is_kept():
    "The word none too, where it is a value and no way to write that nothing is given"
    from vlrlbook import aloha_settings, reward_model_settings, settings as of_grpo
    words = {GRPOSettings: of_grpo._allowed_words, aloha_settings.AlohaSettings: aloha_settings._possible_words,
             reward_model_settings.RewardModelSettings: dict(activation=reward_model_settings.activation_names)}
    for cls, lists in words.items():
        for name, word in ((name, word) for name in lists for word in lists[name]):
            assert of_grpo._typed_values(cls, {name: word}) == ({name: word}, [])
    for task in ("counting", "vqa", "zoom"):
        for word in ("group", "batch", "none"):
            assert read_settings(GRPOSettings, dict(task=task, scale_rewards=word)).scale_rewards == word


@pytest.mark.parametrize("name, text, message", [
    ("run.yaml", "lr: 1e-5\nseed: 1\nlr: 1e-4\n", "the key 'lr' stands twice.*line 3"),
    ("run.json", '{"lr": 1e-5, "lr": 1e-4}', "the name 'lr' stands twice"), ("run.json", "{", "run.json: cannot be read")])
def test_a_file_that_names_a_setting_twice_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=f"(?s){message}"): load_settings(tmp_path / name)


@pytest.mark.parametrize("name, text", [("run.json", '{\n\t"lr": 1e-4\n}'), ("run.JSON", '\ufeff{"lr": 1e-4}'),
                                        ("run.yaml", "\ufefflr: 1e-4"), ("run.yaml", '{"lr": 1e-4}')])
def test_settings_files_as_other_programs_write_them(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_settings(tmp_path / name).lr == 1e-4


# An adapter that goes on training

@pytest.fixture
def adapter(tmp_path):
    "The files of an adapter with other numbers than the presets: rank 12, alpha 24, dropout 0.1, no vision tower"
    from safetensors.torch import save_file
    import torch
    config = dict(peft_type="LORA", r=12, lora_alpha=24, lora_dropout=0.1, target_modules=["down_proj"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.model.language_model.layers.0.mlp.down_proj.lora_A.weight": torch.zeros(1)},
              tmp_path / "adapter_model.safetensors")
    return tmp_path


def test_an_adapter_brings_its_own_settings(adapter):
    of_adapter = dict(lora_r=12, lora_alpha=24, lora_dropout=0.1, lora_vision=False)
    for given in ({}, of_adapter, dict(r="12"), dict(size="gpu", use_4bit=False)): # the preset says 16, 1024, 0.05, true
        settings = read_settings(GRPOSettings, dict(adapter=str(adapter)) | given)
        assert {name: getattr(settings, name) for name in of_adapter} == of_adapter
    again = read_settings(GRPOSettings, {name: value for name, value in asdict(settings).items() if value is not None})
    assert again == settings
    without = read_settings(GRPOSettings, {})
    assert (without.lora_r, without.lora_alpha, without.lora_dropout, without.lora_vision) == (16, 1024, 0.05, True)


@pytest.mark.parametrize("given, told", [
    (dict(lora_r=4), "lora_r = 4: the adapter that goes on training has 12, and keeps it; leave lora_r out"),
    (dict(lora_alpha=8), "lora_alpha = 8: .* has 24"), (dict(lora_dropout=0.5), "lora_dropout = 0.5: .* has 0.1"),
    (dict(lora_vision=True), "lora_vision = True: .* has False")])
def test_an_adapter_takes_no_other_settings(adapter, given, told):
    with pytest.raises(SettingsError, match=told): read_settings(GRPOSettings, dict(adapter=str(adapter)) | given)


def test_what_an_adapter_does_not_tell_is_the_presets(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 12}')
    settings = read_settings(GRPOSettings, dict(adapter=str(adapter), lora_vision=False))
    assert (settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_vision) == (12, 1024, 0.05, False)
    with pytest.raises(SettingsError, match="no adapter_config.json there"): read_settings(GRPOSettings, dict(adapter=str(adapter / "x")))
