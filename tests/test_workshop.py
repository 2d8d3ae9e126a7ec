"""The workshop kit: empty exercises that fail their checks, solutions that pass them and are folded away, a plan from measured minutes,
all or nothing."""
import ast
import csv
import importlib
import json
import os
import re

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT, chapter
from nbclient import NotebookClient
from vlrlbook import cli, workshop

CHAPTERS = [p for p in NOTEBOOKS if re.match(r"000_|0[0-7]_|00a_", p.name)] # of a full day
BEFORE = {"01_data": "processor = tiny_twin('qwen2_5_vl')[1]"} # what a check takes from its chapter, besides imports and exports


def cells_of(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])
def tagged(cells, tag): return [c for c in cells if tag in c["metadata"].get("tags", [])]
def solutions(cells): return [re.search(r"```python\n(.*)\n```", source(c), re.S)[1] for c in cells if c["id"].endswith("-solution")]
def visible(cells): return re.sub(r"<details>.*?</details>", "", "\n".join(map(source, cells)), flags=re.S)


EXERCISED = [p for p in NOTEBOOKS if tagged(cells_of(p), "exercise")]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    "A workshop folder"
    folder = tmp_path_factory.mktemp("class") / "new" / "kit"
    assert not cli.main(["workshop", str(folder)])
    return folder


def chapter_names(path):
    "What a chapter has imported and exported by the time of its exercise"
    code = [source(c) for c in cells_of(path) if c["cell_type"] == "code"]
    own = [f"vlrlbook.{s.split()[2]}" for s in code if s.startswith("#| default_exp")] # none: it imports plain modules, as others do
    names = dict(vars(importlib.import_module(own[0])) if own else {}, __name__="chapter")
    imports = [n for s in code for n in ast.parse(s).body if isinstance(n, (ast.Import, ast.ImportFrom))
               and not getattr(n, "module", "").startswith(tuple(own))]
    exec(compile(ast.Module(imports, []), path.name, "exec"), names)
    exec(BEFORE.get(path.stem, ""), names)
    return names


@pytest.mark.parametrize("path", [chapter(p) for p in EXERCISED])
def test_exercises(kit, path):
    "Empty, each fails its check and is told why; solved, it passes; and the solution cannot be seen"
    cells = cells_of(kit / path.name)
    exercises, checks, solved, names = tagged(cells, "exercise"), tagged(cells, "check"), solutions(cells), chapter_names(path)
    assert 1 <= len(exercises) == len(checks) == len(solved)
    for exercise, check, solution in zip(exercises, checks, solved):
        places = [cells.index(c) for c in (exercise, check)]
        assert places[1] == places[0] + 1 and cells[places[1] + 1]["id"] == check["id"] + "-solution"
        exec(source(exercise), names)
        with pytest.raises(AssertionError) as told: exec(source(check), names)
        assert len(str(told.value)) > 20
        exec(solution, names)
        exec(source(check), names)
        for line in solution.splitlines():
            if line.strip().startswith("return "): assert line.strip() not in visible(cells)
        for node in ast.parse(source(exercise)).body:
            assert ast.get_docstring(node) and len(node.body) == 2 and ast.unparse(node.body[1]) == "..."


@pytest.mark.parametrize("path", EXERCISED, ids=lambda p: p.stem)
def test_each_chapter_teaches(path):
    text = "\n".join(source(c) for c in cells_of(path) if c["cell_type"] == "markdown")
    asked = text.split("## Questionnaire")[1]
    assert "**Your turn: " in text and len(re.findall(r"^\d\. .*\?", asked, re.M)) >= 3
    assert re.search(r"<summary>Answers?</summary>", asked) and re.search(r"\*\*Try\.\*\* \(a\) .* \(b\) ", asked)


def test_every_chapter_of_a_day_has_an_exercise():
    assert set(CHAPTERS) <= set(EXERCISED)


def test_the_first_page_comes_first():
    "In the folder's own order and in the days: who knows no RL begins with it, and it asks for three solutions"
    assert NOTEBOOKS[0].stem == "000_why_it_learns" and {order[0] for order in cli.days.values()} == {NOTEBOOKS[0].stem}
    assert len(tagged(cells_of(NOTEBOOKS[0]), "exercise")) == 3


def test_kit_is_clean(kit):
    "Valid notebooks without outputs; ids, parameters cells and everything untagged as in the book"
    assert sorted(p.name for p in kit.iterdir()) == sorted(["PLAN.md", "glossary.md", *(p.name for p in NOTEBOOKS)])
    assert (kit / "glossary.md").read_bytes() == (ROOT / "nbs/glossary.md").read_bytes(), "the chapters link to it"
    assert kit.stat().st_mode & 0o777 == 0o755
    for path in NOTEBOOKS:
        nbformat.validate(nbformat.read(kit / path.name, 4))
        book, cells = cells_of(path), cells_of(kit / path.name)
        kept = {c["id"]: c for c in cells if not c["id"].endswith("-solution")}
        assert list(kept) == [c["id"] for c in book if c not in tagged(book, "solution")]
        assert all(source(kept[c["id"]]) == source(c) for c in book if c["id"] in kept and c not in tagged(book, "exercise"))
        assert [source(c) for c in tagged(cells, "parameters")] == [source(c) for c in tagged(book, "parameters")]
        assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
        assert {call for c in cells for call in re.findall(r"""(\w+)\(f?["']logs/""", source(c))} <= {
            "book_file"}, "logs are found through the package"


def test_last_exercise_of_rewards_is_folded(kit):
    cells = cells_of(kit / "02_rewards.ipynb")
    assert "def mended" in visible(cells_of(ROOT / "nbs/02_rewards.ipynb")) and "def mended" not in visible(cells)


def test_runs_from_anywhere_and_past_an_empty_exercise(kit, tmp_path):
    "JupyterLab's way: run all cells in a kernel that starts in some folder"
    done = NotebookClient(nbformat.read(kit / "00_core.ipynb", 4), timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    wrong = [c["id"] for c in done.cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert wrong == [c["id"] for c in tagged(done.cells, "check")]
    assert not [c["id"] for c in done.cells if c["cell_type"] == "code" and c["source"] and not c["execution_count"]]


FULL = bool(os.environ.get("VLRLBOOK_FULL"))
WHOLE = [pytest.param(p.stem, marks=pytest.mark.skipif(p.stem not in ("00_core", "02_rewards") and not FULL,
                                                       reason="minutes: VLRLBOOK_FULL=1")) for p in EXERCISED]


@pytest.mark.parametrize("name", WHOLE)
def test_a_class_goes_through_it(kit, tmp_path, name):
    "The whole notebook: an empty exercise, its check, the solution typed in, the check again; only the first check fails"
    book = nbformat.read(kit / f"{name}.ipynb", 4)
    solved, cells = iter(solutions(json.loads((kit / f"{name}.ipynb").read_text())["cells"])), []
    for cell in book.cells:
        cells.append(cell)
        if "check" in cell.metadata.get("tags", []):
            cells += [nbformat.v4.new_code_cell(next(solved)), nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}-again")]
    book.cells = cells
    done = NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    wrong = [c.id for c in done.cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert wrong and wrong == [c.id for c in done.cells if "check" in c.metadata.get("tags", [])]
    assert not [c.id for c in done.cells if c.cell_type == "code" and c.source and not c.execution_count]


def test_existing_folder_is_refused(tmp_path, capsys):
    for name, content in (("empty", None), ("full", "mine")):
        (tmp_path / name).mkdir()
        if content: (tmp_path / name / "00_core.ipynb").write_text(content)
        with pytest.raises(SystemExit, match="there already"): cli.main(["workshop", str(tmp_path / name)])
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["empty", "full", "full/00_core.ipynb"]
    assert (tmp_path / "full/00_core.ipynb").read_text() == "mine"


def test_all_or_nothing(tmp_path, monkeypatch):
    def full(): raise OSError("no space left")
    monkeypatch.setattr(workshop, "plan", full)
    with pytest.raises(SystemExit, match="no space left"): cli.main(["workshop", str(tmp_path / "kit")])
    assert not list(tmp_path.iterdir())


def notebook(*cells):
    return dict(metadata={},
                cells=[dict(cell_type="code", id=f"c{i}", metadata=dict(tags=tags), source=s.splitlines(keepends=True), outputs=[1],
                            execution_count=3) for i, (s, *tags) in enumerate(cells)])


def test_twin():
    plain = workshop.twin(notebook(("1 + 1",)), "x.ipynb")
    assert plain["cells"] == [dict(cell_type="code", id="c0", metadata=dict(tags=[]), source=["1 + 1"], outputs=[], execution_count=None)]
    cells = ("def f(x): return x", "exercise"), ("assert f(1) == 1", "check"), ("2",), ("secret", "solution")
    made = workshop.twin(notebook(*cells), "x.ipynb")
    assert [c["id"] for c in made["cells"]] == ["c0", "c1", "c1-solution",
        "c2"] and "raises-exception" in made["cells"][1]["metadata"]["tags"]
    for cells, told in (([("def f(): 1", "exercise"), ("2",)], "cell c1: expected the check"),
                        ([("def f(): 1", "exercise")], "last exercise has no check"),
                        ([("x = 1", "exercise"), ("2", "check")], "expected an exercise that is a function")):
        with pytest.raises(ValueError, match=told): workshop.twin(notebook(*cells), "x.ipynb")


@pytest.mark.parametrize("full, empty", [
    ('def f(a, b=1):\n    "Doc"\n    c = a\n    return c', 'def f(a, b=1):\n    "Doc"\n    ...'),
    ("def f(a): return a", "def f(a): ..."), ('def é(a="ü"): return a', 'def é(a="ü"): ...'),
    ('def f(\n    a, # one\n):\n    "Doc"\n    # begin with the mean\n    return a\n\ndef g():\n    for i in (1,\n              2): pass',
     'def f(\n    a, # one\n):\n    "Doc"\n    # begin with the mean\n    ...\n\ndef g():\n    ...'),
    ('import math\ndef f():\n    """Two\n    lines"""\n    return 1\nlast = f',
     'import math\ndef f():\n    """Two\n    lines"""\n    ...\nlast = f'),
    ('marks = "\u2028"\n\x0c\ndef f():\n    ""\n    return 1\n', 'marks = "\u2028"\n\x0c\ndef f():\n    ""\n    ...')])
def test_emptied(full, empty):
    assert workshop.emptied(full, "here") == empty
    ast.parse(empty)


@pytest.mark.parametrize("source", ['def f(x):\n    "doc"', 'def f(x): "doc"', 'def g(): return 1\ndef f(x):\n    ""\n'])
def test_a_docstring_alone_is_no_exercise(source):
    with pytest.raises(ValueError, match="x.ipynb, cell c1: f is a docstring alone, expected a solution"):
        workshop.emptied(source, "x.ipynb, cell c1")


def test_plan(kit):
    "Machine minutes are those of chapters.csv, the rest says that it is an allowance, and days are no longer than days"
    text = (kit / "PLAN.md").read_text(encoding="utf-8")
    measured = {r["chapter"]: r for r in csv.DictReader((ROOT / "nbs/logs/chapters.csv").open())}
    assert "This is a teacher's allowance. No class has been timed with it" in text and "{" not in text
    parts = text.split("\n## ")[1:]
    assert [p.split("\n")[0] for p in parts] == list(cli.days)
    for part, (title, order), most in zip(parts, cli.days.items(), (4, 8)):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.split("\n") if re.match(r"\| \d", line)]
        assert [r[1].strip("`") for r in rows] == ["break" if w.startswith("break") else w for w in order]
        for row in rows:
            if row[1] == "break": continue
            minutes, seconds = map(int, re.match(r"(\d+) min (\d\d) s", row[3]).groups())
            assert (60 * minutes + seconds, row[4]) == (int(measured[row[1].strip("`")]["seconds"]),
                measured[row[1].strip("`")]["memory_mb"] + " MB")
        clock = [int(h) * 60
                 + int(m) for h, m in (t.split(":") for t in [*(r[0] for r in rows), re.search(r"Ends at (\d+:\d\d)", part)[1]])]
        for row, begins, ends in zip(rows, clock, clock[1:]): assert ends - begins >= int(row[5].split()[0])
        assert 2 * 60 < clock[-1] - clock[0] <= most * 60
    assert set(cli.days["A full day"]) - {"break 15", "break 60"} == {p.stem for p in CHAPTERS}
