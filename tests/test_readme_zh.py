"""The Chinese README says what the logs, the commands and the English one say."""
import csv
import importlib.util
import re
import shutil

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("book_readme", ROOT / "tools" / "readme.py")
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)
english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    "The sources of the Chinese README, to be spoilt"
    for name in ("tools/README.zh.md", "settings.ini", "nbs/logs/chapters.csv", "nbs/logs/05_runs.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(readme, "root", tmp_path)
    return tmp_path


def change(path, old, new):
    "One text for another, once"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_it_is_current():
    assert chinese == readme.chinese(english)
    assert "{{" not in chinese


def test_the_map_is_the_log():
    found = re.findall(r"^\| \[(\w+)\]\(nbs/\w+\.ipynb\) \| (.+?) \| ([\d.]+) \| ([\d.]+) GB \|", chinese, re.M)
    logged = list(csv.DictReader((ROOT / "nbs/logs/chapters.csv").open()))
    assert [f[0] for f in found] == [r["chapter"] for r in logged]
    assert all(re.search("[\u4e00-\u9fff]", f[1]) for f in found)
    assert [(f[2], f[3]) for f in found] == [(f"{float(r['seconds']) / 60:.1f}", f"{float(r['memory_mb']) / 1000:.1f}") for r in logged]


def test_commands_and_links_exist():
    from vlrlbook.cli import parser
    known = next(a for a in parser()._actions if a.dest == "command").choices
    named = set(re.findall(r"vlrlbook ([a-z]+(?:-[a-z0-9]+)*)", chinese))
    assert len(named) >= 8 and named <= set(known)
    links = re.findall(r"\]\(([^)#:]+)\)", chinese)
    assert len(links) > 10 and not [a for a in links if not (ROOT / a).exists()]
    for command in ("make grpo", "make test", "papermill nbs/05_grpo.ipynb out.ipynb -p lr 5e-5", "pip install vlrlbook"):
        assert command in chinese and command in english


def test_another_measurement_is_another_text(copy):
    first = readme.rows("chapters.csv")[0]
    change(copy / "nbs/logs/chapters.csv", f",{first['seconds']},{first['memory_mb']},", ",5994,98765,")
    assert "| 99.9 | 98.8 GB |" in readme.chinese(english)


def test_a_new_chapter_without_chinese_words_is_refused(copy):
    change(copy / "nbs/logs/chapters.csv", "00_core", "10_new")
    with pytest.raises(SystemExit, match="10_new"): readme.chinese(english)


def test_a_command_that_the_english_one_lacks_is_refused(copy):
    change(copy / "tools/README.zh.md", "-p lr 5e-5", "-p lr 5e-3")
    with pytest.raises(SystemExit, match="5e-3"): readme.chinese(english)


def test_an_unknown_figure_is_refused(copy):
    change(copy / "tools/README.zh.md", "{{seeds}}", "{{sedes}}")
    with pytest.raises(KeyError, match="sedes"): readme.chinese(english)
