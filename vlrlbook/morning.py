"""A class that fits into a morning: three notebooks out of the chapters' own cells, a teacher's page, stored
runs.

`morning_plan` says which cells are taken. A cell that the package exports is not shown again: an import of
its names stands in its place. A cell that is gone, a paragraph that begins otherwise, or a name that no
chosen cell makes stops the writing, so that the class cannot drift from the chapters. Written by hand."""
import ast
import builtins
import json
import re
import shutil
import symtable
from functools import cache
from pathlib import Path

from .chapters import notebooks_dir
from .core import book_file
from .folders import new_folder
from .morning_plan import Own, lessons
from .slides import hide_input
from .teacher_notes import teachers_page
from .workshop import twin

__all__ = ["write_morning", "lesson_notebook", "chosen_cell", "import_cell", "setup_source", "names_of_code"]


def write_morning(
    folder: str | Path,  # to make; it must not be there
) -> list:  # names of the files in it
    "Write the three notebooks of a morning, the glossary, TEACHER.md and the stored runs"
    with new_folder(folder, existing="none", manifest=False) as aside:
        for name in lessons:
            # as the chapters are written: readable in a diff
            text = json.dumps(lesson_notebook(name), indent=1, ensure_ascii=False) + "\n"
            (aside / f"{name}.ipynb").write_text(text, encoding="utf-8")
        shutil.copy(book_file("glossary.md"), aside)
        (aside / "TEACHER.md").write_text(teachers_page(), encoding="utf-8")
        (aside / "stored").mkdir()
        for path in sorted((notebooks_dir() / "logs").glob("contest_*.json")):
            shutil.copy(path, aside / "stored" / path.name.removeprefix("contest_"))
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def lesson_notebook(
    name: str,  # of `lessons`
) -> dict:  # a notebook, as its JSON says
    "One notebook of the class: chosen cells, imports for what they need, exercises emptied"
    cells = []
    for number, step in enumerate(lessons[name].steps):
        cells += _in_slides(chosen_cell(step, f"{name}-{number:02d}"))
    seen = set()
    for cell in cells:
        # two parts of one text are two cells
        cell["id"] += "-more" if cell["id"] in seen else ""
        seen.add(cell["id"])
    setup = _code(setup_source(name, cells), f"{name}-setup")
    setup["metadata"] = dict(slideshow=dict(slide_type="skip"))
    # behind the title: imports come before anything that needs them
    book = dict(cells=[cells[0], setup, *cells[1:]], nbformat=4, nbformat_minor=5,
                metadata=dict(kernelspec=dict(display_name="python3", language="python", name="python3")))
    made = twin(book, f"{name}.ipynb")
    _give_slides(made["cells"])
    for cell in made["cells"]:
        cell.pop("chapter", None)
    return made


# Choosing

@cache
def _cells(chapter):
    "id → cell of a chapter, in its order"
    book = json.loads((notebooks_dir() / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return {cell["id"]: cell for cell in book["cells"]}


def chosen_cell(
    step,  # "chapter:id", with "from WORDS" or "until WORDS" behind it for a part; or an `Own`
    own_id: str,  # for a cell that stands in no chapter
) -> dict:
    "A cell of a lesson; ValueError names a cell, or a paragraph, that is not there any more"
    if isinstance(step, Own):
        cell = _code(step.source, own_id) if step.kind == "code" else _markdown(step.source, own_id)
        return cell | dict(metadata=dict(tags=list(step.tags)), chapter=None)
    # "02_rewards:c063 from **Last exercise": place, then the part of a text
    place, _, part = step.partition(" ")
    chapter, _, cell_id = place.partition(":")
    if cell_id not in _cells(chapter):
        raise ValueError(f"{chapter}: no cell {cell_id!r}, which the morning's class wants")
    cell = _cells(chapter)[cell_id]
    source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
    if cell["cell_type"] == "markdown":
        return _markdown(_part_of(source, part, place), cell_id) | dict(chapter=chapter)
    if re.match(r"#\| *export", source):
        return import_cell(chapter, cell_id) | dict(chapter=chapter)
    # directives for nbdev say nothing to a student
    shown = re.sub(r"^#\|.*\n?", "", source, flags=re.M)
    hidden = [hide_input] if re.search(r"^#\| *echo: *false", source, re.M) else []
    metadata = dict(tags=[*tags, *hidden]) | (dict(jupyter=dict(source_hidden=True)) if hidden else {})
    return _code(shown, cell_id) | dict(metadata=metadata, chapter=chapter)


def _part_of(source, part, place):
    "The paragraphs of a text that `part` asks for: `from WORDS`, `until WORDS`, or all of them"
    # without a part the whole text is taken
    if not part:
        return source
    which, _, words = part.partition(" ")
    paragraphs = source.split("\n\n")
    begins = [number for number, paragraph in enumerate(paragraphs) if paragraph.startswith(words)]
    if which not in ("from", "until") or len(begins) != 1:
        raise ValueError(f"{place}: {len(begins)} paragraphs begin with {words!r}, expected one")
    return "\n\n".join(paragraphs[begins[0]:] if which == "from" else paragraphs[:begins[0]])


def import_cell(
    chapter: str,  # such as 02_rewards
    cell_id: str,  # of an exported cell
) -> dict:
    "An import in place of the listing of an exported cell"
    # private names are not for a student's notebook
    names = _defined("".join(_cells(chapter)[cell_id]["source"]))
    public = [name for name in names if not name.startswith("_")]
    return _code(_from(_module(chapter), public), cell_id)


def _module(chapter):
    "The module that a chapter exports into, or None"
    for cell in _cells(chapter).values():
        found = re.match(r"#\| *default_exp (\S+)", "".join(cell["source"]))
        if found:
            return f"vlrlbook.{found[1]}"
    return None


def _code(source, cell_id):
    "A code cell without outputs"
    return dict(cell_type="code", id=cell_id, metadata={}, source=_lines(source), outputs=[], execution_count=None)


def _markdown(source, cell_id):
    "A cell of text"
    return dict(cell_type="markdown", id=cell_id, metadata={}, source=_lines(source))


def _lines(source):
    "The lines of a cell as a notebook's file holds them"
    return source.strip("\n").splitlines(keepends=True)


def _from(module, names):
    "A `from … import …`, wrapped where it is long"
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 110:
        return line
    return f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"


# What a lesson has to import

def names_of_code(
    source: str,  # of a cell
) -> tuple:  # (names that it needs from before, names that it makes)
    "What a cell takes from other cells, and what it leaves for them"
    top = symtable.symtable(source, "cell", "exec")
    made = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    needed = set()
    tables = [top]  # of the cell, then of each function and comprehension in it
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            # inside a function a global name is looked up in the notebook
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                needed.add(symbol.get_name())
    return needed - made - set(dir(builtins)), made


def _defined(source):
    "Names that a cell's own lines define: functions, classes, assignments"
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return found


@cache
def _importable(chapter):
    "name → (module, name there) of what a chapter imports or exports; None where a name is a module itself"
    found = {}
    for cell in _cells(chapter).values():
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "solution" in cell["metadata"].get("tags", []):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import):
                found |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        if re.match(r"#\| *export", source):
            found |= {name: (_module(chapter), name) for name in _defined(source) if not name.startswith("_")}
    return found


def setup_source(
    lesson: str,  # its name, for messages
    cells: list,  # as from `chosen_cell`
) -> str:  # of the cell of imports
    "The imports that the chosen cells need, taken from their chapters; ValueError names what nobody makes"
    known, wanted = set(), {}
    chapters = list(dict.fromkeys(cell["chapter"] for cell in cells if cell["chapter"]))
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        needed, made = names_of_code("".join(cell["source"]))
        for name in sorted(needed - known - set(wanted)):
            # a cell of the class's own may use what any of its chapters imports
            places = [cell["chapter"]] if cell["chapter"] else chapters
            there = next(filter(None, (_importable(chapter).get(name) for chapter in places)), None)
            if there is None:
                where = f"{lesson}, cell {cell['id']}"
                raise ValueError(f"{where}: it needs {name!r}, which no chosen cell before it makes")
            wanted[name] = there
        known |= made
    return _import_lines(wanted)


def _import_lines(wanted):
    "Import statements for name → (module, name there), modules in order"
    whole, parts = [], {}
    for name, (module, there) in wanted.items():
        if there is None:
            whole.append(f"import {module}" + (f" as {name}" if name != module else ""))
        else:
            parts.setdefault(module, []).append(there if there == name else f"{there} as {name}")
    return "\n".join([*sorted(whole), *(_from(module, sorted(parts[module])) for module in sorted(parts))])


# Slides

def _in_slides(cell):
    "A text in pieces, since a chapter's cell often ends one slide and begins the next: caption, text, headings"
    if cell["cell_type"] != "markdown":
        return [cell]
    pieces = []
    for paragraph in "".join(cell["source"]).split("\n\n"):
        # a caption is one paragraph in italics, and belongs to the figure before it
        after_caption = len(pieces) == 1 and len(pieces[0]) == 1 and _is_caption(pieces[0][0])
        if not pieces or after_caption or re.match(r"##? ", paragraph):
            pieces.append([])
        pieces[-1].append(paragraph)
    cells = []
    for number, piece in enumerate(pieces, 1):
        own_id = cell["id"] if number == 1 else f"{cell['id']}-{number}"
        cells.append(cell | dict(id=own_id, metadata={}, source=_lines("\n\n".join(piece))))
    return cells


def _is_caption(paragraph):
    "Whether a paragraph begins in italics, as the captions of the chapters do"
    return re.match(r"\*[^*]", paragraph) is not None


def _give_slides(cells):
    "nbconvert's slide tags: a heading begins a slide, a text goes below it, a check is left out"
    for cell in cells:
        tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
        # the setup has its own already
        if "slideshow" in cell["metadata"]:
            continue
        if "check" in tags or "parameters" in tags:
            kind = "skip"
        elif cell["id"].endswith("-solution"):
            kind = "notes"
        elif cell["cell_type"] == "code" or _is_caption(source):
            kind = "-"  # on the slide of what stands before it
        elif re.search(r"^##? ", source, re.M):
            kind = "slide"
        else:
            kind = "subslide"
        cell["metadata"] = cell["metadata"] | dict(slideshow=dict(slide_type=kind))
