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

# Minutes that people get for each chapter. Nobody has measured them, and a teacher may change them.
allowance = dict(talk=15, exercise=15, questionnaire=5)

# Title of a plan -> its chapters in order; "break N" is a break of N minutes.
days = {
    "Half a day": ("000_why_it_learns", "01_data", "break 15", "02_rewards", "05_grpo", "06_evaluation"),
    "A full day": ("000_why_it_learns", "00_core", "00a_models", "break 15", "01_data", "02_rewards",
                   "03_reward_model", "break 60", "04_aloha", "05_grpo", "break 15", "06_evaluation",
                   "07_shared_prompt"),
}
_start_of_day = 9 * 60  # in minutes after midnight


def write_workshop(
    folder: str | Path,  # is made, and must not exist yet
) -> list:  # names of the files in it
    "Write a folder for a workshop: each chapter without outputs and solutions, the glossary, and PLAN.md"
    # the hidden folder is renamed to `folder` when all files are in it
    with new_folder(folder, existing="none", manifest=False) as hidden_folder:
        for path in sorted(notebooks_dir().glob("[0-9]*.ipynb")):
            # `twin` returns the notebook as students get it
            notebook = twin(json.loads(path.read_text(encoding="utf-8")), path.name)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            (hidden_folder / path.name).write_text(text, encoding="utf-8")
        # The chapters have links to the glossary.
        shutil.copy(book_file("glossary.md"), hidden_folder)
        (hidden_folder / "PLAN.md").write_text(plan(), encoding="utf-8")
    return sorted(p.name for p in Path(folder).iterdir())


def twin(
    book: dict,  # a notebook, as its JSON says
    name: str,  # of its file, for messages
) -> dict:  # a new notebook; `book` is not changed
    """Return a notebook as students get it: without outputs, and with empty exercises.

    A cell tagged `exercise` holds a function with its solution. It is emptied, and the solution is put into a
    folded cell behind the next cell, which is tagged `check` and tests the student's function."""
    # `widgets` holds the state of progress bars, which belong to the outputs that are removed.
    metadata = {key: value for key, value in book["metadata"].items() if key != "widgets"}
    return book | dict(cells=_cells_for_students(book["cells"], name), metadata=metadata)


def _cells_for_students(
    book_cells,  # of a notebook, as its JSON has them; not changed
    name,  # of the notebook's file, for messages
):
    """The cells of a notebook as students get it, a list: without outputs, exercises without their solutions

    The solution of an exercise is shown in a folded cell behind its check, the cell that tests it. ValueError
    if a check does not follow its exercise at once."""
    cells = []
    solution = None  # source of an exercise whose check has not come yet
    for cell in book_cells:
        tags = cell["metadata"].get("tags", [])
        where = f"{name}, cell {cell['id']}"  # for error messages
        # Code that tries the book's own solution, which students must not see.
        if "solution" in tags:
            continue
        if solution and "check" not in tags:
            raise ValueError(f"{where}: expected the check of the exercise before it")
        cells.append(_cell_for_students(cell, tags, where))  # without outputs, an exercise emptied
        if "exercise" in tags:
            solution = "".join(cell["source"])
        if solution and "check" in tags:
            cells.append(_folded(solution, cell["id"]))
            solution = None
    if solution:
        raise ValueError(f"{name}: its last exercise has no check")
    return cells


def _cell_for_students(
    cell,  # of a notebook, as its JSON has it; not changed
    tags,  # of the cell; "exercise" and "check" mean something here
    where,  # file and cell, for messages
):
    "A copy of a cell without outputs; an exercise has empty functions, and a check may fail"
    if cell["cell_type"] == "code":
        cell = cell | dict(outputs=[], execution_count=None)
    if "exercise" in tags:
        # emptied: the same functions with `...` in place of their bodies
        empty_functions = emptied("".join(cell["source"]), where)
        cell = cell | dict(source=empty_functions.splitlines(keepends=True))
    if "check" in tags:
        # The check fails until the exercise is done. With this tag, "Run all" goes on after it.
        cell = cell | dict(metadata=dict(tags=[*tags, "raises-exception"]))
    return cell


def _folded(
    solution,  # Python code
    check_id,  # id of the cell that tests it; a notebook's ids must differ, so the new one is made from it
):
    "Return a Markdown cell that shows a solution when it is clicked"
    text = f"<details><summary>A solution</summary>\n\n```python\n{solution}\n```\n\n</details>"
    source = text.splitlines(keepends=True)
    return dict(cell_type="markdown", id=f"{check_id}-solution", metadata={}, source=source)


def emptied(
    source: str,  # Python code of an exercise: functions with their solutions
    where: str,  # file and cell, for messages
) -> str:
    "Return the code with `...` in place of each function's body; signatures and docstrings stay"
    # Not `splitlines`: `ast` counts no line at a form feed, or at U+2028 in a text.
    lines = source.removesuffix("\n").split("\n")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not functions:
        raise ValueError(f"{where}: expected an exercise that is a function")
    # from the last function on, so that the line numbers of those before it stay right
    for node in reversed(functions):
        if not _body_of(node):
            raise ValueError(f"{where}: {node.name} is a docstring alone, expected a solution behind it")
        _empty_function(lines, node)
    return "\n".join(lines)


def _empty_function(
    lines,  # of Python code; changed
    node,  # of `ast`: a function in this code
):
    "Replace the body of a function by `...` in the lines of its code; a docstring stays"
    body = _body_of(node)  # the solution
    first_line = body[0].lineno - 1  # as an index of `lines`; `ast` counts from 1
    # What stands on this line before the body: blanks, or a signature as in `def f(x): return x`.
    # `col_offset` counts bytes of UTF-8, not characters.
    before = lines[first_line].encode()[:body[0].col_offset].decode()
    lines[first_line:node.end_lineno] = [before + "..."]


def _body_of(node):
    "The statements of a function, a node of `ast`, without its docstring: empty if there are no others"
    has_docstring = ast.get_docstring(node, clean=False) is not None  # it may be an empty text
    return node.body[1:] if has_docstring else node.body


def plan() -> str:
    """Return the text of PLAN.md: a timetable for each of the workshop's days.

    The minutes that the computer takes were measured, and those for people are an estimate. So they stand in
    different columns."""
    with open(book_file("logs/chapters.csv"), newline="", encoding="utf-8") as file:
        # seconds, memory and a few words on each chapter
        measured = {row["chapter"]: row for row in csv.DictReader(file)}
    people_minutes = sum(allowance.values())  # for each chapter: talk, exercise, questionnaire
    parts = ["# Plan of a workshop", plan_words.format(people=people_minutes, **allowance)]
    for title, steps in days.items():
        # the timetable as a table in Markdown
        parts.append(f"## {title}\n\n" + _day(steps, measured, people_minutes))
    return "\n\n".join(parts) + "\n"


def _day(
    steps,  # names of chapters, such as "05_grpo", and breaks such as "break 15" (minutes)
    measured,  # chapter → its row of chapters.csv, texts: seconds, memory_mb, what (it shows)
    people_minutes,  # added to each chapter, beside the minutes that the machine takes
):
    "Return the timetable of one day as a Markdown table, and a sentence on when it ends."
    rows = []
    now = _start_of_day  # minutes after midnight: 9:00
    machine_seconds = 0
    for step in steps:
        if step.startswith("break"):
            minutes = int(step.removeprefix("break "))
            rows.append(_plan_row(now, "break", what="", took="", memory="", minutes=minutes))
            now += minutes
            continue
        rows.append(_chapter_row(now, step, measured[step], people_minutes))
        seconds = int(measured[step]["seconds"])
        machine_minutes = -(-seconds // 60)  # rounded up
        now += people_minutes + machine_minutes
        machine_seconds += seconds
    end = _clock(now)
    return f"{Table(rows)}\n\nEnds at {end}, of which the machine works {machine_seconds / 60:.0f} minutes."


def _chapter_row(
    now,  # when the chapter begins, in minutes after midnight
    chapter,  # its name, such as "05_grpo"
    measured,  # its row of chapters.csv, texts: seconds, memory_mb, what (it shows)
    people_minutes,  # that people get for it
):
    "A chapter's row of a timetable, column → text"
    seconds = int(measured["seconds"])
    took = f"{seconds // 60} min {seconds % 60:02d} s"
    memory = f"{measured['memory_mb']} MB"
    return _plan_row(now, f"`{chapter}`", measured["what"], took, memory, people_minutes)


def _clock(minutes):
    "Minutes after midnight as the time on a clock, such as 9:05"
    return f"{minutes // 60}:{minutes % 60:02d}"


def _plan_row(
    now,  # when it begins, in minutes after midnight
    chapter,  # its name, or "break"
    what, took, memory,  # texts: what it shows; what was measured of the machine; empty for a break
    minutes,  # that people get for it
):
    "A row of a timetable, column → text; a break's row is empty in three columns"
    return {"from": _clock(now), "chapter": chapter, "what you see": what, "machine, measured": took,
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
