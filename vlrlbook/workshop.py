"""The chapters as a teacher wants them: outputs gone, exercises empty, solutions folded away, and a plan of
the day.

An exercise is a cell tagged `exercise` that holds a function and its solution; the cell behind it, tagged
`check`, tells right from wrong. Written by hand."""
import ast
import csv
import json
import shutil
from pathlib import Path

from .chapters import notebooks_dir
from .core import Table, book_file
from .folders import new_folder

__all__ = ["allowance", "days", "plan_words", "write_workshop", "twin", "emptied", "plan"]

# Minutes a chapter that a teacher may want to change; nobody has measured them.
allowance = dict(talk=15, exercise=15, questionnaire=5)

# Title of a plan -> its chapters in order; "break N" is a break of N minutes.
days = {
    "Half a day": ("000_why_it_learns", "01_data", "break 15", "02_rewards", "05_grpo", "06_evaluation"),
    "A full day": ("000_why_it_learns", "00_core", "00a_models", "break 15", "01_data", "02_rewards",
                   "03_reward_model", "break 60", "04_aloha", "05_grpo", "break 15", "06_evaluation",
                   "07_shared_prompt"),
}
_begins = 9 * 60  # minutes after midnight


def write_workshop(
    folder: str | Path,  # to make; it must not be there
) -> list:  # names of the files in it
    "Write every chapter for teaching, the glossary, and PLAN.md"
    with new_folder(folder, existing="none", manifest=False) as aside:
        for path in sorted(notebooks_dir().glob("[0-9]*.ipynb")):
            made = twin(json.loads(path.read_text(encoding="utf-8")), path.name)
            text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
            (aside / path.name).write_text(text, encoding="utf-8")
        # The chapters link to it.
        shutil.copy(book_file("glossary.md"), aside)
        (aside / "PLAN.md").write_text(plan(), encoding="utf-8")
    return sorted(p.name for p in Path(folder).iterdir())


def twin(
    book: dict,  # a notebook, as its JSON says
    name: str,  # of its file, for messages
) -> dict:  # the notebook for teaching
    "A chapter without outputs; each exercise is emptied, its solution folded away behind its check"
    cells, solution = [], None  # `solution`: of an exercise whose check has not come yet
    for cell in book["cells"]:
        tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
        where = f"{name}, cell {cell['id']}"
        if "solution" in tags:
            continue
        if solution and "check" not in tags:
            raise ValueError(f"{where}: expected the check of the exercise before it")
        if cell["cell_type"] == "code":
            cell = cell | dict(outputs=[], execution_count=None)
        if "exercise" in tags:
            solution = source
            cell = cell | dict(source=emptied(source, where).splitlines(keepends=True))
        if "check" in tags:
            # "Run all" goes on behind a check that fails, which it does until the exercise is done.
            cell = cell | dict(metadata=dict(tags=[*tags, "raises-exception"]))
        cells.append(cell)
        if solution and "check" in tags:
            cells.append(_folded(solution, cell["id"]))
            solution = None
    if solution:
        raise ValueError(f"{name}: its last exercise has no check")
    # The state of progress bars belongs to the outputs that are gone.
    metadata = {key: value for key, value in book["metadata"].items() if key != "widgets"}
    return book | dict(cells=cells, metadata=metadata)


def _folded(solution, check_id):
    "A cell that shows a solution when it is clicked"
    text = f"<details><summary>A solution</summary>\n\n```python\n{solution}\n```\n\n</details>"
    source = text.splitlines(keepends=True)
    return dict(cell_type="markdown", id=f"{check_id}-solution", metadata={}, source=source)


def emptied(
    source: str,  # of an exercise
    where: str,  # file and cell, for messages
) -> str:
    "`source` with signature and docstring of each function, and `...` for its body"
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not functions:
        raise ValueError(f"{where}: expected an exercise that is a function")
    for node in reversed(functions):  # from the end, so that line numbers before stay right
        body = node.body[1:] if ast.get_docstring(node) else node.body
        first = body[0].lineno - 1
        # `col_offset` counts bytes of UTF-8; what stands before the body may be more than blanks.
        before = lines[first].encode()[:body[0].col_offset].decode()
        lines[first:node.end_lineno] = [before + "..."]
    return "\n".join(lines)


def plan() -> str:
    "PLAN.md: what is run when; the measured minutes of the machine and the allowance for people stand apart"
    with open(book_file("logs/chapters.csv"), newline="", encoding="utf-8") as file:
        measured = {row["chapter"]: row for row in csv.DictReader(file)}
    people = sum(allowance.values())
    pages = ["# Plan of a workshop", plan_words.format(people=people, **allowance)]
    for title, order in days.items():
        pages.append(f"## {title}\n\n" + _day(order, measured, people))
    return "\n\n".join(pages) + "\n"


def _day(order, measured, people):
    "The table of one day, and when it ends; `measured`: seconds and MB of each chapter, `people`: minutes"
    rows, now, machine = [], _begins, 0
    for what in order:
        clock = f"{now // 60}:{now % 60:02d}"
        if what.startswith("break"):
            minutes = int(what.removeprefix("break "))
            rows.append(_plan_row(clock, "break", "", "", "", minutes))
            now += minutes
            continue
        row = measured[what]
        seconds = int(row["seconds"])
        took = f"{seconds // 60} min {seconds % 60:02d} s"
        rows.append(_plan_row(clock, f"`{what}`", row["what"], took, f"{row['memory_mb']} MB", people))
        now += people + -(-seconds // 60)  # minutes of the machine are rounded up
        machine += seconds
    end = f"{now // 60}:{now % 60:02d}"
    return f"{Table(rows)}\n\nEnds at {end}, of which the machine works {machine / 60:.0f} minutes."


def _plan_row(clock, chapter, what, took, memory, minutes):
    "A row of the table of a day"
    return {"from": clock, "chapter": chapter, "what you see": what, "machine, measured": took,
            "memory, measured": memory, "people, allowed": f"{minutes} min"}


plan_words = """Each notebook of this folder is a chapter without its outputs. A cell below *Your turn* is to
be filled in; the cell behind it says whether it is right and, if not, what is wrong; a solution is folded
away below. The questionnaire and two experiments end each chapter. *Run all* goes on behind a check that
fails.

    pip install "vlrlbook[lab]"
    jupyter lab

Chapter 04 reads LeRobot's files (`pip install "vlrlbook[aloha]"`, Python 3.12 or newer) and chapter 08 runs a
server (`pip install "vlrlbook[serve]"`). Nothing else is needed: models are built and pictures drawn on the
spot, and logs of longer runs are in the package.

Chapters that stand in neither plan are for afterwards. Lines that begin with `#|` tell nbdev what goes into
the package; in class they are comments.

Two kinds of minutes stand below, and only one of them was measured.

- **Machine, measured**: one run of the whole chapter, from its first cell to its last and from an empty
  cache, on two CPU cores (`nbs/logs/chapters.csv`, written by `tools/logs.py pages`). A chapter that is run
  a second time finds its warm start in the cache. No GPU was measured.
- **People, allowed**: {people} minutes a chapter, {talk} to talk and read, {exercise} for the exercise,
  {questionnaire} for the questionnaire. This is a teacher's allowance. No class has been timed with it;
  write down what yours takes.

The hours begin at 9:00 and count machine and people one after the other, machine minutes rounded up. While a
long chapter runs (03 to 06), go through its questionnaire: that wins back most of the machine's minutes."""
