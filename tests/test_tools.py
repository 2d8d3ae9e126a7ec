"""The commands of tools/: measurements are found by name and say what they write; lines of code are counted as they are meant."""
import re
import subprocess
import sys

import pytest
from conftest import NOTEBOOKS, ROOT, tool


logs, style = tool("logs"), tool("style")
MEASUREMENTS = logs.measurements()


def command(*words):
    "`python tools/logs.py WORD ...`"
    return subprocess.run([sys.executable, "tools/logs.py", *words], cwd=ROOT, capture_output=True, text=True)


def test_every_measurement_that_is_named_somewhere_is_there():
    "Captions, tests, docs and docstrings say `tools/logs.py NAME`"
    places = [*NOTEBOOKS, *ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob("tests/*.py"), *ROOT.glob("vlrlbook/**/*.py"),
              *MEASUREMENTS.values()]
    named = {name for path in places for name in re.findall(r"tools/logs\.py ([a-z_]+)", path.read_text(encoding="utf-8"))}
    assert named <= set(MEASUREMENTS) and len(named) > 20


@pytest.mark.parametrize("path", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_a_measurement_says_how_it_is_taken_and_what_it_writes(path):
    "One line of what, the command, and logs that are there"
    said = logs.description(path)
    first, blank, *_ = said.splitlines()
    assert len(first) <= 90 and not blank
    assert re.search(rf"^    python tools/logs\.py {path.stem}\b", said, re.M)
    written = re.findall(r"nbs/logs/(\w+\.\w+)", said)
    # a run's NAME or learning rate is part of these names
    assert [name for name in written if "NAME" not in name and "_LR" not in name] or path.stem in ("game", "parting")
    assert all((ROOT / "nbs" / "logs" / name).exists() for name in written if "NAME" not in name and "_LR" not in name)


def test_the_command_lists_helps_and_refuses():
    everything = command()
    assert everything.returncode == 0 and all(f"    {name} " in everything.stdout for name in MEASUREMENTS)
    assert "20 minutes" in command("faults", "--help").stdout
    unknown, too_few = command("fault"), command("peers")
    assert unknown.returncode == too_few.returncode == 1
    assert "no measurement is called fault" in unknown.stderr and "service_faults" in unknown.stderr
    assert "peers: missing a required argument: 'folder'" in too_few.stderr and "02_peers.csv" in too_few.stderr
    assert "x: expected WHAT=FOLDER" in command("runs", "x").stderr


def test_a_page_without_words_is_refused_before_it_is_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from measure import pages
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "99_new.ipynb").touch()
    monkeypatch.setattr(pages, "root", tmp_path)
    with pytest.raises(SystemExit, match="99_new: say what a reader sees"): pages.main()
    with pytest.raises(SystemExit, match="no page is called 98_old; there are 99_new"): pages.main("98_old")
    assert {path.stem for path in NOTEBOOKS} <= set(pages.what_you_see)


def test_a_program_gives_its_row_or_its_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from measure import common
    monkeypatch.setattr(common, "programs", tmp_path)
    (tmp_path / "well.py").write_text("import os, sys\nprint('loading')\nprint('ROW', '{\"n\": %s}' % sys.argv[1])\nprint('bye')")
    assert common.run_program("well.py", 3) == {"n": 3}
    (tmp_path / "ill.py").write_text("print('ROW', '{}')\nraise ValueError('no such thing')")
    with pytest.raises(SystemExit, match="(?s)ill.py x failed.*no such thing"): common.run_program("ill.py", "x")
    (tmp_path / "silent.py").write_text("print('nothing')")
    with pytest.raises(SystemExit, match="silent.py failed"): common.run_program("silent.py")


SOURCE = '''
class Counter:
    def count(self,
        rows, # signatures are not counted
    ):
        "Nor are docstrings # with a mark"
        # before the first statement: not counted
        double = lambda x: 2 * x # how

        pairs = [(a, b) for a in rows for b in rows]
        def inner():
            return """two
            lines"""
        return pairs

def documented():
    "Nothing else"

limits = {"long": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}
'''


def test_lines_are_counted(tmp_path):
    "Bodies of outermost functions; every figure of a file that was counted by hand"
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "_modidx.py").write_text("d = {}")
    found = style.density([tmp_path])
    assert list(found) == [str(tmp_path / "a.py"), "all"] and found["all"] == found[str(tmp_path / "a.py")]
    # Of `double = ...` 4 nodes (a name, *, 2, x), of `pairs = ...` 7 names, of the string and `return pairs` one each.
    assert found["all"] == dict(lines=6, nodes=13 / 6, comments=1000 / 6, lambdas=1000 / 6, two_for=1000 / 6,
                                long=100 / 19, longest=12)
    assert style.density([]) == {}
    (tmp_path / "b.py").write_text("x = 1\n")
    two = style.density([tmp_path / "a.py", str(tmp_path / "b.py")])
    assert two[str(tmp_path / "b.py")]["nodes"] == 0 and two["all"]["lines"] == 6 and two["all"]["long"] == 100 / 20


def test_the_counts_are_printed(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    done = subprocess.run([sys.executable, ROOT / "tools" / "style.py", "a.py"], cwd=tmp_path, capture_output=True, text=True)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["file", "lines", "nodes", "comments", "lambdas", "two-for", ">110", "%", "longest"],
        *([name, "6", "2.2", "167", "166.7", "166.7", "5.3", "12"] for name in ("a.py", "all"))]
