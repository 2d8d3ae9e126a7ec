"""A morning's class: its cells are the chapters' own, what is exported is imported, its notebooks run, its slides have figures."""
import json
import re
from dataclasses import replace

import nbformat
import pytest
from conftest import ROOT
from vlrlbook import cli, morning, morning_plan, slides
from vlrlbook.morning_plan import Own, lessons, own, run
from vlrlbook.teacher_notes import notes


def source(cell): return "".join(cell["source"])
def tags(cell): return cell["metadata"].get("tags", [])
def visible(cells): return re.sub(r"<details>.*?</details>", "", "\n".join(map(source, cells)), flags=re.S)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    "A folder as the command writes it"
    folder = tmp_path_factory.mktemp("morning") / "class"
    assert not cli.main(["workshop", "--short", str(folder)])
    return folder


def cells_of(kit, name): return json.loads((kit / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def in_the_book(step):
    "The chapter's cell behind a step"
    place = step.partition(" ")[0]
    name, _, cell_id = place.partition(":")
    book = json.loads((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return next(c for c in book if c["id"] == cell_id)


def test_files(kit):
    names = {p.relative_to(kit).as_posix() for p in kit.rglob("*") if p.is_file()}
    assert names == {*(f"{name}.ipynb" for name in lessons), "TEACHER.md", "glossary.md", "stored/the_books_reward.json",
                     "stored/likes_three.json"}
    assert [one.minutes for one in lessons.values()] == [20, 40, 60]
    with pytest.raises(SystemExit, match="there already"): cli.main(["workshop", "--short", str(kit)])


@pytest.mark.parametrize("name", lessons)
def test_the_cells_are_the_chapters_own(kit, name):
    "Each step as it stands in its chapter; a listing of what is exported nowhere; no solution that can be seen"
    cells = cells_of(kit, name)
    nbformat.validate(nbformat.read(kit / f"{name}.ipynb", 4))
    assert len({c["id"] for c in cells}) == len(cells)
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
    by_id = {c["id"].removesuffix("-more"): c for c in cells}
    for step in lessons[name].steps:
        if isinstance(step, Own): continue
        book = in_the_book(step)
        mine = by_id[book["id"]]
        if source(book).startswith("#| export"):
            assert re.match(r"from vlrlbook\.\w+ import", source(mine)) and "def " not in source(mine)
        elif "exercise" in tags(book): assert source(mine).rstrip().endswith("...")
        elif book["cell_type"] == "code": assert source(mine).strip() == re.sub(r"^#\|.*\n", "", source(book), flags=re.M).strip()
        else:
            pieces = [source(c) for c in cells if re.fullmatch(re.escape(book["id"]) + r"(-\d|-more)*", c["id"])]
            assert pieces and all(piece in source(book) for piece in pieces)
            assert " " in step or "\n\n".join(pieces) == source(book).strip("\n")
    assert not re.search(r"^#\|", "\n".join(source(c) for c in cells if c["cell_type"] == "code"), re.M)
    solutions = [c for c in cells if c["id"].endswith("-solution")]
    for solution in solutions:
        for line in re.findall(r"^ +(return .+)$", source(solution), re.M): assert line not in visible(cells)
    assert solutions and all(c["metadata"]["slideshow"]["slide_type"] in ("slide", "subslide", "-", "skip", "notes") for c in cells)


@pytest.mark.parametrize("step, told", [
    ("02_rewards:gone", "02_rewards: no cell 'gone'"), ("02_rewards:c063 from Nobody wrote this", "0 paragraphs begin with"),
    ("02_rewards:c004 from ", "paragraphs begin with"), ("02_rewards:c013", "it needs 'answers', which no chosen cell before it makes"),
    (run("print(nobody_makes_this)"), "it needs 'nobody_makes_this'")])
def test_a_cell_that_is_gone_stops_the_writing(tmp_path, monkeypatch, step, told):
    title = own("# A title")
    monkeypatch.setitem(morning_plan.lessons, "2_rewards", replace(lessons["2_rewards"], steps=(title, step)))
    with pytest.raises(SystemExit, match=re.escape(told)): cli.main(["workshop", "--short", str(tmp_path / "class")])
    assert not list(tmp_path.iterdir())


def test_what_code_needs_and_makes():
    code = "import math\ny = x + math.pi\ndef f(a, b=c): return a + d + len([e for e in g])\nfor i in range(3): pass"
    needed, made = morning.names_of_code(code)
    assert needed == {"x", "c", "d", "g"} and made == {"math", "y", "f", "i"}


@pytest.mark.parametrize("code, needed, made", [
    ("rows = rows[:5]", "rows", "rows"), ("n += 1", "n", "n"), ("del rows", "rows", ""),
    ("rows = [rows[i] for i in range(3)]", "rows", "rows"),
    ("for rows in rows: pass", "rows", "rows"), ("rows = 1\nrows = rows + 1", "", "rows"), ("def f(a=c): return d\nd = 1", "c", "f d"),
    ("a, (b, *c) = 1, 2\nwith x as (d, e): d", "x", "a b c d e"), ("if (m := f0()) and m: m", "f0", "m"), ("import os.path\nos", "", "os"),
    ("try: import y\nexcept ImportError as e: y = str(e)\ny", "", "y e"),
    ("z: int\nw: int = z", "z", "w"), ("f = lambda: q\nq = 1", "", "f q"),
    ("xs = [1]\nvalues = [(y := x) for x in xs]\nprint(y)", "", "xs values y"),
    ("d = {}\nmatch d:\n    case {'a': x, **rest}:\n        print(x, rest)", "", "d x rest")])
def test_what_code_reads_before_it_makes_it(code, needed, made):
    assert morning.names_of_code(code) == (set(needed.split()), set(made.split()))


def test_a_missing_earlier_cell_is_noticed():
    cell = dict(morning.import_cell("02_rewards", "c013"), chapter=None, source=["mine = mine[:5]"])
    with pytest.raises(ValueError, match="needs 'mine', which no chosen cell before it makes"): morning.setup_source("2_rewards", [cell])


def test_names_that_a_cell_defines_and_imports():
    code = "import os.path\nimport numpy as np\na, b = 1, 2\nfor i, x in y: pass\nwith o as (c, d): pass\ne: int = 1\nq.z = 1"
    assert morning._defined_names(code) == ["a", "b", "i", "x", "c", "d", "e"]
    assert morning._imported_names(code) == {"os": ("os.path", None), "np": ("numpy", None)}
    assert morning._import_lines(morning._imported_names(code)) == "import numpy as np\nimport os.path"


def test_three_parts_of_one_cell_have_three_ids(monkeypatch):
    steps = ("02_rewards:c004", "02_rewards:c004", "02_rewards:c004")
    monkeypatch.setitem(morning_plan.lessons, "2_rewards", replace(lessons["2_rewards"], steps=steps))
    ids = [cell["id"] for cell in morning._cells_of_lesson("2_rewards")]
    assert len(set(ids)) == len(ids) >= 3


def test_teachers_page(kit):
    text = (kit / "TEACHER.md").read_text(encoding="utf-8")
    assert "vlrlbook doctor" in text and "no class has been timed" in text and "Ends at 11:50" in text and "{" not in text
    for name, lesson in lessons.items():
        part = text.split(f"## {name} (")[1].split("\n## ")[0]
        told = notes[name]
        assert f"{lesson.minutes} minutes" in part and told.goal in part
        assert all(one in part for one in told.mistakes) and all(q in part and a in part for q, a in told.ask)
    for command in re.findall(r"^    vlrlbook (\w+)|`vlrlbook (\w+)", text, re.M):
        assert "".join(command) in cli.parser().format_help()


# The class, run

TINY = dict(steps=2, pictures=12, warm_steps=2)


def tiny(kit, lesson, **parameters):
    "A lesson run in a few seconds, as JupyterLab runs all cells"
    path = kit.parent / f"{lesson}.ipynb"
    # the twin of the first lesson is trained by its chapter's own cells, here for two steps
    text = (kit / f"{lesson}.ipynb").read_text(encoding="utf-8").replace("range(60)", "range(2)").replace("range(20):", "range(2):")
    path.write_text(text.replace("range(1, 21), curve", "range(1, 3), curve"), encoding="utf-8")
    return slides.executed(path, parameters)


def test_why_it_learns(kit): only_checks_fail(tiny(kit, "1_why_it_learns"), 1)


def test_rewards_and_its_slides(kit):
    done = tiny(kit, "2_rewards")
    only_checks_fail(done, 2)
    page = slides.slides_html(done)
    assert page.count("<section>") > 20 and page.count("data:image/png") >= 4
    assert ">my_format<" in page and "AssertionError" not in page  # an empty exercise is shown, its check is not


def test_grpo_the_verdict_and_the_contest(kit, tmp_path):
    "A student's own reward is trained, measured and handed in; the notebook's last table ranks it"
    folder = tmp_path / "handed in"
    done = tiny(kit, "3_grpo_and_verdict", name="Ada", folder=str(folder), **TINY)
    only_checks_fail(done, 1)
    assert [p.name for p in folder.iterdir()] == ["ada.json"]
    assert not cli.main(["contest", str(folder)])
    page = (folder / "results.html").read_text(encoding="utf-8")
    assert "Ada" in page and "return float(completion.strip() == truth.strip())" in page
    ranked = [o for c in done.cells for o in c.get("outputs", []) if "class='standings'" in o.get("data", {}).get("text/html", "")
              or 'class="standings"' in o.get("data", {}).get("text/html", "")]
    assert len(ranked) == 1


def test_a_laptop_that_fails_goes_on_with_a_stored_run(kit, tmp_path):
    cells = [c for c in cells_of(kit, "3_grpo_and_verdict") if re.search("^from vlrlbook.contest|my_run_failed|^result = judge|"
             "^from vlrlbook.standings import judge", source(c), re.M) and c["cell_type"] == "code"]
    code = "from vlrlbook.core import Table\n" + "\n".join(map(source, cells)).replace("my_run_failed = False", "my_run_failed = True")
    names = {}
    exec(code, names)
    assert names["mine"].name == "the books reward" and names["result"].outcome == "better"


def only_checks_fail(done, exercises):
    "Every cell ran, and only the checks of the empty exercises stopped"
    wrong = [(c.id, o.evalue) for c in done.cells for o in c.get("outputs", []) if o.output_type == "error"]
    checks = [c.id for c in done.cells if "check" in c.metadata.get("tags", [])]
    assert [place for place, _ in wrong] == checks and len(checks) == exercises, wrong
    assert not [c.id for c in done.cells if c.cell_type == "code" and c.source and not c.execution_count]
