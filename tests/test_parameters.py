"""What papermill relies on: one typed and commented parameters cell, equal to the settings object; settings that refuse what cannot be."""
import ast
import json
import re
from dataclasses import fields

import papermill
import pytest
from conftest import ROOT
from hypothesis import example, given, strategies as st
from vlrlbook.core import SettingsError, as_type, names_since, read_settings
from vlrlbook.grpo import GRPOSettings

CHAPTER = ROOT / "nbs" / "05_grpo.ipynb"
LINE = re.compile(r"^\s*(\w+): (\w+) = (.+?)\s+# (.+)$")


def parsed(text):
    "(name, type, default, comment) of each line; a comment may go on below its line, three blanks behind the mark"
    whole = re.sub(r"\n\s+# {3}(?=\S)", " ", text)
    return [LINE.match(line).groups() for line in whole.splitlines() if line.strip() and not line.strip().startswith("# ")]


def test_parameters_cell_equals_settings():
    cells = [c for c in json.loads(CHAPTER.read_text())["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(cells) == 1
    module = (ROOT / "vlrlbook" / "settings.py").read_text()
    body = module.split("class GRPOSettings(Settings):")[1].split("aliases:")[0].split('"\n', 1)[1]
    assert parsed("".join(cells[0]["source"])) == parsed(body)


def test_lessons_before_the_parameters_use_no_setting_s_name():
    "A lesson may stand before the parameters cell, as long as the cell's own assignments are told from the lesson's"
    page = json.loads(CHAPTER.read_text())["cells"]
    place = next(i for i, c in enumerate(page) if "parameters" in c["metadata"].get("tags", []))
    lessons = ["".join(c["source"]) for c in page[:place] if c["cell_type"] == "code"]
    outside = [part for text in lessons for part in ast.parse(text).body if not isinstance(part, (ast.FunctionDef, ast.ClassDef))]
    assigned = {node.id for part in outside for node in ast.walk(part) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not assigned & {f.name for f in fields(GRPOSettings)} and {"texts", "kind", "kl"} <= assigned


def test_a_misspelled_parameter_with_a_lesson_s_name_is_refused():
    "`-p mask 1` sets a name anew that a lesson has: a frozenset of names would not tell"
    there = dict(mask=[0, 1], twin=None, lr=None)
    before = dict(there)
    there |= dict(mask=1, lr=5e-5, seed=43)
    assert names_since(before, there) == dict(mask=1, lr=5e-5, seed=43)
    assert names_since(frozenset(before), there) == dict(seed=43)
    with pytest.raises(SettingsError, match="there is no 'mask'"): read_settings(GRPOSettings, names_since(before, there))


@pytest.mark.parametrize("before", ["dict(globals())", "frozenset(globals())"])
def test_a_parameter_with_an_earlier_cell_s_name_and_value_is_noticed(before):
    "As papermill runs a page with `-p mask 1 -p time 2`; and when a reader runs the cells again with another seed"
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell()
    def run(*cells):
        for cell in cells: shell.run_cell(cell, store_history=True).raise_error()
        return shell.user_ns["given"]
    call = "given = names_since(before, globals())"
    shell.run_cell("import time\nfrom vlrlbook.core import names_since\nmask, kind = 1, 'a'\nmask = 1", store_history=True)
    assert run(f"before = {before}", "lr: float = None\nseed: int = 43", "# Parameters\nmask = 1\ntime = 2", call) == dict(
        lr=None, seed=43, mask=1, time=2)
    with pytest.raises(SettingsError, match="there is no 'mask'"): read_settings(GRPOSettings, shell.user_ns["given"])
    again = run(f"before = {before}", "lr: float = 5e-5\nseed: int = 43\nrefill: int", call)
    assert again == dict(lr=5e-5, seed=43), "all that it sets, though it is there already; and nothing else"


def test_what_a_reader_meets_before_the_run():
    "A group of answers comes first, everything about settings but the one cell behind the run; and the way there is short"
    page = json.loads(CHAPTER.read_text())["cells"]
    trains = next(i for i, c in enumerate(page) if "".join(c["source"]).startswith("#| slow\ntrainer.train("))
    way = page[:trains + 1]
    code = ["".join(c["source"]) for c in way if c["cell_type"] == "code"]
    assert len(way) <= 110 and sum(len(text.splitlines()) for text in code) <= 500
    first_figure = next(i for i, c in enumerate(way) if c.get("outputs"))
    assert "RolloutGroup" in "".join(way[first_figure]["source"])
    titles = [line for c in way if c["cell_type"] == "markdown" for line in "".join(c["source"]).splitlines() if line.startswith("#")]
    assert [t for t in titles if "what can be set" in t] and not [t for t in titles if t == "## Settings"]


def test_papermill_help_is_complete():
    found = papermill.inspect_notebook(str(CHAPTER))
    assert {p["inferred_type_name"] for p in found.values()} <= {"str", "int", "float", "bool"}
    assert all(p["help"] for p in found.values())
    assert {"lr", "num_epochs", "batch_size", "gradient_accumulation_steps", "num_generations", "temperature", "use_4bit",
            "max_image_size", "seed",
            "lora_r", "lora_alpha", "lora_dropout", "reward", "use_vllm", "adapter", "resume"} <= set(found)


def test_gpu_preset_has_the_counting_systems_defaults():
    s = read_settings(GRPOSettings, {"size": "gpu"})
    assert (s.num_epochs, s.lr, s.batch_size, s.gradient_accumulation_steps, s.num_generations, s.temperature) == (50, 5e-5, 1, 8, 8, 0.2)
    assert (s.max_image_size, s.seed, s.lora_r, s.lora_alpha, s.lora_dropout, s.use_4bit) == (512, 43, 64, 128, 0.05, True)
    assert s.model == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize("given_, message", [
    ({"learing_rate": 1e-5}, "did you mean 'learning_rate'"), ({"num_generation": 8}, "did you mean 'num_generations'"),
    ({"lr": "fast"}, "lr = 'fast': expected float"), ({"lr": -1}, "lr = -1"), ({"lr": float("inf")}, "expected float"),
    ({"seed": 1.5}, "expected int"),
    ({"use_vllm": "yes"}, "expected bool"), ({"size": "gpus"}, "did you mean 'gpu'"), ({"batch_size": 20}, "nearest: 16"),
    ({"num_generations": 1}, "at least 2"),
    ({"use_4bit": True}, "use_4bit with a tiny twin"), ({"size": "gpu", "use_lora": False}, "use_4bit with use_lora false"),
    ({"loss_type": "dappo"}, "did you mean 'dapo'"), ({"data": "none.zip"}, "no such file"),
    ({"adapter": "nowhere"}, "no adapter_config.json"),
    ({"lr": 1e-5, "learning_rate": 1e-4}, "given twice"), ({"temperature": 0}, "temperature"), ({"lora_dropout": 1.0}, "lora_dropout")])
def test_refused(given_, message):
    with pytest.raises(SettingsError, match=message): read_settings(GRPOSettings, given_)


def test_vllm_missing_names_its_extra():
    with pytest.raises(SettingsError, match=r"vlrlbook\[gpu\]"): read_settings(GRPOSettings, {"use_vllm": True})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_their_text(x): assert as_type("x", repr(x), float) == x


@given(st.integers(-10**300, 10**300))
@example(2**53 + 1)
def test_whole_numbers_are_read_to_the_last_digit(n): assert as_type("seed", str(n), int) == as_type("seed", n, int) == n


def test_what_counts_as_a_whole_number():
    for text, n in (("1e2", 100), (" 2.0 ", 2), ("-9007199254740993.0", -2**53 - 1), ("1_000", 1000), (2.0, 2), ("1e22", 10**22)):
        assert as_type("seed", text, int) == n and type(as_type("seed", text, int)) is int
    for text in ("9007199254740992.5", "2.5", "1e-400", "1e-99999999999999999999", "1e400", "nan", "", True):
        with pytest.raises(SettingsError, match="seed = .*: expected int"): as_type("seed", text, int)
    assert as_type("x", "9007199254740993", int | float) == 2**53 + 1


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())),
       st.sampled_from([int, float, bool, str, int | None, dict]))
def test_any_value_is_typed_or_refused(value, kind):
    try: got = as_type("x", value, kind)
    except SettingsError: return
    assert got is None or isinstance(got, kind)
