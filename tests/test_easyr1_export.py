"""A directory for EasyR1 or verl, against the contracts: rows, prompt, reward, launcher"""
import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED
from easyr1_cases import SMALL, export, fake_engine, processor, rows
from hypothesis import given, settings, strategies as st
from PIL import Image
from vlrlbook.core import Sample, SettingsError, cast, damage
from vlrlbook.data import DataError, synthetic_counting, synthetic_vqa, to_messages, vqa_prompt, vqa_template
from vlrlbook.easyr1 import (ask_reward_file, dry_run, easyr1_messages, engine_settings, export_easyr1, export_verl,
                             reward_file, verl_overrides)
from vlrlbook.models import twin_processor
from vlrlbook.rewards import count_table, format_table, load_reward, nasty, vqa_table


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


def drawn(number): return [Image.new("RGB", (28, 28), (number * 5 % 256, 0, number // 50))]


def as_easyr1_reads(path, tmp_path):
    "The rows of a file through `datasets`, with which EasyR1 reads it"
    from datasets import load_dataset
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("dates", [[f"2019-05-{i:02}" for i in range(1, 29)], [f"2019-05-{i:02} 12:30" for i in range(1, 29)],
                                   [f"2019-05-{i:02}T00:00:00Z" for i in range(1, 29)]])
def test_dates_stay_texts_for_easyr1(tmp_path, dates):
    "`datasets` takes a column of dates alone for points in time"
    samples = [Sample("When?", date, drawn(i), "vqa", i) for i, date in enumerate(dates)]
    folder = export_easyr1(samples, "verbatim", dict(SMALL, rollout_batch_size=8, global_batch_size=8), tmp_path / "out", val=samples[:4])
    for name, wanted in (("train.jsonl", dates), ("val.jsonl", dates[:4])):
        read = as_easyr1_reads(folder / name, tmp_path)["answer"]
        assert all(isinstance(truth, str) for truth in read)
        paid = ask_reward_file(folder / "reward.py", [([date], truth) for date, truth in zip(wanted, read)])
        assert [parts["overall"] for [parts] in paid] == [1.0] * len(wanted)


def test_other_truths_than_dates_are_written_as_they_are(tmp_path):
    answers = ["2019", "May 2019", "05/01/2019", "12:30", "2019-05-01 was a day", "2019-05", "yes", "3"] * 5
    samples = [Sample("When?", answer, drawn(i), "vqa", i) for i, answer in enumerate(answers)]
    folder = export_easyr1(samples, "verbatim", SMALL, tmp_path / "out", val=samples[:4])
    assert [row["answer"] for row in rows(folder / "train.jsonl")] == answers


@pytest.mark.parametrize("before", [3, 60])
def test_easyr1_can_read_rows_whose_first_picture_comes_late(tmp_path, before):
    "`datasets` takes the types of columns from the first 10 MB; a row with a picture is moved there"
    text = "word " * 40_000 # 200 kB: 60 rows are 12 MB
    samples = [Sample(f"{text}{i}", "yes", [], "text", i) for i in range(before)]
    samples += [Sample(f"<image>What? {i}", "no", drawn(i), "text", i) for i in range(before, before + 40)]
    folder = export_easyr1(samples, "accuracy", SMALL, tmp_path / "out", val=samples[-4:], template="{{ content }}")
    read = as_easyr1_reads(folder / "train.jsonl", tmp_path)
    moved = before == 60
    numbers = [int(prompt.split()[-1].removeprefix("word")) for prompt in read["prompt"]]
    assert numbers == ([60, *range(60), *range(61, 100)] if moved else list(range(43)))
    assert sorted(p.name for p in folder.iterdir() if "train" in p.name) == ["train.jsonl", "train.sh"]


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


def test_a_form_feed_in_a_module_shifts_no_line(tmp_path, monkeypatch):
    "Python counts no line at it, nor at U+2028 in a text; `str.splitlines` does"
    (tmp_path / "with_pages.py").write_text('SIGN = "\u2028"\n\x0c\ndef by_length(completion, answer):\n'
                                            '    return {"overall": float(SIGN not in completion)}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reward.py").write_text(reward_file("with_pages:by_length"))
    assert [r["overall"] for r in ask_reward_file(tmp_path / "reward.py", [(["a", "b\u2028"], "a")])[0]] == [1.0, 0.0]


def test_a_module_stands_behind_those_that_it_uses_when_the_file_is_read(tmp_path, monkeypatch):
    "`size` is asked for first by `asked`; `limits`, collected after it, uses it while it is read"
    package = tmp_path / "ordered_rewards"
    package.mkdir()
    for name, source in (("__init__", ""), ("size", "def of(n): return n"),
                         ("asked", "from .size import of\ndef asked(n): return of(n)"),
                         ("limits", "from .size import of\nLIMIT = of(3)\ndef limit(): return LIMIT"),
                         ("reward", "from .asked import asked\nfrom .limits import limit\n"
                                    "def reward(completion, answer): return dict(overall=float(asked(3) == limit()))")):
        (package / f"{name}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "file.py").write_text(reward_file("ordered_rewards.reward:reward"))
    assert ask_reward_file(tmp_path / "file.py", [(["a"], "b")]) == [[dict(overall=1.0)]]


def own_reward(tmp_path, monkeypatch, name, source):
    "What `reward` in a module of one's own pays in this process, and what its reward file pays"
    import importlib
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "out.py").write_text(reward_file(f"{name}:reward"))
    return importlib.import_module(name).reward("a", "b"), ask_reward_file(tmp_path / "out.py", [(["a"], "b")])[0][0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this Python cannot read the module itself")
@pytest.mark.parametrize("name, line, line_number", [
    ("same_quotes", 'text = f"{d["k"]}"', 4), ("same_quotes_deep", "text = f'{len(f'{completion}')}'", 4),
    ("same_quotes_nested", """text = f"{d['k'] + f'{d["k"]}'}\"""", 4), ("a_backslash", "text = f'{chr(10).join([\"\\n\"])}'", 4),
    ("a_comment", 'text = f"""{completion # why\n    }"""', 4), ("a_break", 'text = f"{len(\n    completion)}"', 4),
    ("triple_in_triple", 'text = f"""{"""a"""}"""', 4), ("in_the_format", 'text = f"{1.0:{d["w"]}}"', 4)])
def test_f_strings_of_python_3_12_are_refused(tmp_path, monkeypatch, name, line, line_number):
    "`ast.parse` takes them for any version"
    source = f"import re\n\ndef reward(completion, answer, d={{'k': 'x', 'w': 5}}):\n    {line}\n    return dict(overall=1.0)\n"
    with pytest.raises(SettingsError, match=f"{name}, line {line_number}: Python before 3.12 cannot read the f-string"):
        own_reward(tmp_path, monkeypatch, name, source)


@pytest.mark.parametrize("number, line", list(enumerate([
    'text = f"{d[\'k\']}"', "text = f'{d[\"k\"]!r:>{5}}\\n'", 'text = f"""{d["k"]} "quoted" \\t"""', 'text = f"""{\n    d["k"]}"""',
    'text = f"{{" + "\\n" + f"a{d}b" # {"', 'text = f"it\'s {len(answer)} \\\\"', "text = 'plain \\n' \"{d['k']}\"",
    'text = rf"\\d{completion}" f\'{answer}"\'', 'text = f"{completion}" "{" + "}"'])))
def test_other_f_strings_travel(tmp_path, monkeypatch, number, line):
    source = f"def reward(completion, answer, d={{'k': 'x', 'w': 5}}):\n    {line}\n    return dict(overall=float(len(text)))\n"
    ours, exported = own_reward(tmp_path, monkeypatch, f"f_string_{number}", source)
    assert ours == exported and ours["overall"] > 0


@pytest.mark.parametrize("name, source, paid", [
    ("with_fields", "from dataclasses import dataclass, fields\nfrom typing import ClassVar\n@dataclass\nclass Parts:\n    a: float\n"
     "    most: ClassVar[float] = 3.0\ndef reward(completion, answer): return dict(overall=Parts(2.0).a + len(fields(Parts)))\n", 3.0),
    ("with_cache", "from functools import lru_cache\ndef twice(f): return lambda x: 2 * f(x)\n@lru_cache(\n    maxsize=None)\n@twice\n"
     "def one(x): return x\ndef reward(completion, answer): return dict(overall=one(1.5))\n", 3.0)])
def test_decorators_travel_too(tmp_path, monkeypatch, name, source, paid):
    assert own_reward(tmp_path, monkeypatch, name, source) == (dict(overall=paid), dict(overall=paid))


@pytest.mark.parametrize("name, source, paid", [
    ("tries", "try: import nothing_like_it as js\nexcept ImportError: import json as js\nif js:\n    def two(): return 2\n"
     "    class Three: pass\ndef reward(completion, answer): return dict(overall=js.loads('1') + two() * bool(Three))\n", 3),
    ("tries_again", "import json as js\ntry: import nothing_like_it as js\nexcept ImportError: pass\n"
     "def reward(completion, answer): return dict(overall=js.loads('3'))\n", 3),
    ("changes", "import sys\nWORDS = {}\nWORDS['a'] = 1\nfor w in ('b', 'c'): WORDS[w] = 1\nWORDS.update(d=1)\nLIMIT = 1\nLIMIT += 1\n"
     "sys.path.append('no')\nif __name__ == '__main__': LIMIT = 9\n"
     "def reward(completion, answer): return dict(overall=len(WORDS) * LIMIT + sys.path.count('no') * 0)\n", 8),
    ("starred", "from math import *\ndef reward(completion, answer): return dict(overall=sqrt(4))\n", 2.0)])
def test_all_statements_that_make_a_name_travel(tmp_path, monkeypatch, name, source, paid):
    "Also those in `try` and `if`, a second one, and one that only changes the value"
    assert own_reward(tmp_path, monkeypatch, name, source) == (dict(overall=paid), dict(overall=paid))
    assert "sys.path.append" not in (tmp_path / "out.py").read_text() and "LIMIT = 9" not in (tmp_path / "out.py").read_text()


@pytest.mark.parametrize("name, source, why", [
    ("inner", "def reward(completion, answer):\n    from vlrlbook.rewards import read_count\n    return {}\n",
     "inner, line 2: `from vlrlbook"),
    ("tried", "try: from .x import y\nexcept ImportError: y = 1\ndef reward(completion, answer): return y\n",
     "tried, line 1: `from .x import y`")])
def test_imports_that_would_fail_on_the_cluster_are_refused(tmp_path, monkeypatch, name, source, why):
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match=re.escape(why)): reward_file(f"{name}:reward")


def test_one_name_for_two_imports_is_refused(tmp_path, monkeypatch):
    "Both lines would stand in one file, where the later one wins"
    package = tmp_path / "two_imports"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("import os.path\nimport cmath as m\ndef root(x): return m.sqrt(x).real * bool(os.path)\n")
    (package / "reward.py").write_text("import os\nimport math as m\nfrom .other import root\n"
                                       "def reward(completion, answer): return dict(overall=root(m.sqrt(2)) * bool(os))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match="two different 'm' would stand in the file: of import math as m and of import cmath as m"):
        reward_file("two_imports.reward:reward")


def test_rewards_that_cannot_travel_are_refused():
    trained = lambda completions, samples: []
    trained.batched = True
    with pytest.raises(SettingsError, match="a trained model cannot travel"): reward_file(trained)
    with pytest.raises(SettingsError, match="put it into a file of its own"): reward_file(lambda completion, answer: {})
    with pytest.raises(SettingsError, match="did you mean 'verl'"): reward_file("vqa", "verll")
    with pytest.raises(ValueError, match="there is no reward 'vqaa'"): reward_file("vqaa")


def test_a_plain_import_of_vlrlbook_is_refused(tmp_path, monkeypatch):
    "The line would be copied, and the cluster, which has no vlrlbook, would end the run with it"
    (tmp_path / "plainly.py").write_text("import vlrlbook.rewards as ours\n"
        "def reward(completion, answer): return dict(overall=float(ours.final_answer(completion) == answer))\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = "plainly: `import vlrlbook.rewards as ours` would need vlrlbook .* write `from vlrlbook.rewards"
    with pytest.raises(SettingsError, match=message):
        reward_file("plainly:reward")


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


@pytest.mark.parametrize("export_it, key", [(export_verl, "trainer.default_local_dir"), (export_easyr1, "trainer.save_checkpoint_path")])
def test_the_readme_names_the_folder_of_checkpoints_that_was_set(tmp_path, export_it, key):
    batch = {"train_batch_size": 32} if export_it is export_verl else {"rollout_batch_size": 32}
    folder = export_it(synthetic_vqa(80), "vqa", batch | {key: "/data/ck"}, tmp_path / "out")
    assert "--local_dir /data/ck/global_step_N/actor" in (folder / "README.md").read_text()


def test_train_sh_of_verl(tmp_path):
    folder = export_verl(synthetic_vqa(80), "vqa",
                         dict(train_batch_size=32, lora_rank=32, lora_alpha=96, prompt_key="it's mine"), tmp_path / "out")
    words = launched(folder, tmp_path, "trainer.total_epochs=1")[0]["argv"]
    # paths in quotes, without which Hydra takes no ( = , and é in them
    assert {f"data.train_files='{folder}/train.parquet'", f"reward.custom_reward_function.path='{folder}/reward.py'",
            f"actor_rollout_ref.model.path='{folder}/merged_model'",
            f"trainer.default_local_dir='{folder}/checkpoints/vlrlbook/vqa_grpo'",
            "actor_rollout_ref.model.lora_rank=32", "actor_rollout_ref.model.lora_alpha=96",
            "actor_rollout_ref.model.exclude_modules=.*visual.*", "algorithm.adv_estimator=grpo",
            'data.prompt_key="it\'s mine"', "trainer.total_epochs=1"} <= set(words)
    assert verl_overrides(engine_settings(dict(lora_rank=8), "verl")).count(
        "actor_rollout_ref.model.lora_alpha=16") == 1 # the true alpha, default or not
    shellcheck(folder / "train.sh")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/models/m").mkdir(parents=True)
    return tmp_path / "home"


def test_a_model_in_the_home_folder_for_easyr1(tmp_path, home):
    "EasyR1 takes the ~ for a name, and asks the hub for it"
    folder = export_easyr1(synthetic_vqa(80), "vqa", SMALL | dict(model_path="~/models/m"), tmp_path / "out")
    assert f"model_path: {home}/models/m\n" in (folder / "config.yaml").read_text()
    for key in ("model_path", "save_checkpoint_path"):
        for path in ("~/none", "~nosuchuser/model"):
            with pytest.raises(SettingsError, match=f"{key} = '{path}': EasyR1 does not know ~"):
                export_easyr1(synthetic_vqa(80), "vqa", SMALL | {key: path}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_in_the_home_folder_for_verl(tmp_path, home):
    settings_ = {"train_batch_size": 32, "actor_rollout_ref.model.path": "~/models/m", "trainer.default_local_dir": "~/ck"}
    folder = export_verl(synthetic_vqa(80), "vqa", settings_, tmp_path / "out")
    words = launched(folder, tmp_path, HOME="/somewhere else")[0]["argv"] # that of the machine where it runs
    assert {"actor_rollout_ref.model.path='/somewhere else/models/m'", "trainer.default_local_dir='/somewhere else/ck'"} <= set(words)
    assert [p["code"] for p in dry_run(folder, progress=False).problems if p["code"] != "model.processor"] == []
    (home / "models/m$el").mkdir()
    strange = export_verl(synthetic_vqa(80), "vqa", settings_ | {"actor_rollout_ref.model.path": "~/models/m$el"}, tmp_path / "strange")
    assert "model.missing" not in [p["code"] for p in dry_run(strange, progress=False).problems]
    apart = strange.rename(tmp_path / "it's")
    assert "file.quote" in [p["code"] for p in dry_run(apart, progress=False).problems]
    old = (folder / "train.sh").read_text().replace("$HOME/", "~/") # as earlier exports have it
    (folder / "train.sh").write_text(old)
    [problem] = [p for p in dry_run(folder, progress=False).problems if p["code"] == "model.missing"]
    assert problem["file"] == "actor_rollout_ref.model.path" and "the engine does not know ~" in problem["message"]


def test_a_path_with_a_tilde_in_a_config_of_easyr1(tmp_path, home):
    (home / "rows.jsonl").touch()
    (tmp_path / "reward.py").touch()
    (tmp_path / "c.yaml").write_text(
        "data: {train_files: ~/rows.jsonl, val_files: ~/rows.jsonl, rollout_batch_size: 8}\n"
        "worker: {actor: {model: {model_path: ~/models/m}, global_batch_size: 8}, "
        "rollout: {n: 16, tensor_parallel_size: 1}, reward: {reward_function: reward.py}}\n")
    problems = dry_run(tmp_path / "c.yaml", progress=False).problems
    assert [p["file"] for p in problems] == ["data.train_files", "data.val_files", "worker.actor.model.model_path"]
    assert all("the engine does not know ~" in p["message"] for p in problems)


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


@pytest.mark.parametrize("value, written", [
    ("true", "'true'"), ("null", "'null'"), ("12", "'12'"), ("1e-5", "'1e-5'"), ("1_000", "'1_000'"), (True, "true"), (None, "null"),
    (12, "12"), (1e-5, "1e-05"), ("Qwen/Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-3B"), ("", ""), (["1", 1], "['1',1]"),
    ("it's", '"it\'s"'), ('it\'s "so"', "'it\\'s \"so\"'"), ("C:\\data\\", "'C:\\data\\\\'"), ("two\nlines", "'two\nlines'"),
    ("a\\\n", "'a\\\n'"), ("it's\\\n", '"it\'s\\\n"')]) # only a backslash at the very end is doubled
def test_a_text_that_looks_like_another_type_is_quoted_for_hydra(value, written):
    from vlrlbook.easyr1.export import _hydra_value
    assert _hydra_value(value) == written
