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
    folder: str | Path,  # is made, and must not exist yet
) -> list:  # paths of the files, relative to the folder
    "Write the folder for a class of one morning: three notebooks, the glossary, TEACHER.md and stored runs"
    # files are written into a hidden folder, which gets its name when everything is there. existing="none":
    # FileExistsError where that name is taken; manifest=False: without a file of checksums
    with new_folder(folder, existing="none", manifest=False) as aside:
        for name in lessons:  # name of a notebook → what it is made of
            # the format of Jupyter itself, so that a notebook that is saved again shows no other changes
            text = json.dumps(lesson_notebook(name), indent=1, ensure_ascii=False) + "\n"
            (aside / f"{name}.ipynb").write_text(text, encoding="utf-8")
        shutil.copy(book_file("glossary.md"), aside)
        (aside / "TEACHER.md").write_text(teachers_page(), encoding="utf-8")
        _copy_stored_runs(aside / "stored")
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _copy_stored_runs(folder):
    """Make a folder with finished runs of the contest, to be ranked beside the students' (see TEACHER.md)

    The book's contest_the_books_reward.json becomes the_books_reward.json there, and so on."""
    folder.mkdir()
    for path in sorted((notebooks_dir() / "logs").glob("contest_*.json")):
        shutil.copy(path, folder / path.name.removeprefix("contest_"))


def lesson_notebook(
    name: str,  # a key of `morning_plan.lessons`, such as "2_rewards"
) -> dict:  # a notebook, as its JSON says
    """Make one notebook of the class from cells of the chapters.

    A cell with the imports that the chosen cells need is added behind the title. Exercises are emptied."""
    cells = _cells_of_lesson(name)
    setup = _code_cell(setup_source(name, cells), f"{name}-setup")  # imports
    setup["metadata"] = dict(slideshow=dict(slide_type="skip"))  # on no slide
    title, *others = cells
    book = dict(cells=[title, setup, *others], nbformat=4, nbformat_minor=5,
                metadata=dict(kernelspec=dict(display_name="python3", language="python", name="python3")))
    # `twin` makes the students' copy: exercises are emptied, solutions are put into folded cells
    notebook = twin(book, f"{name}.ipynb")
    _add_slide_types(notebook["cells"])  # which cell begins a slide, for nbconvert
    for cell in notebook["cells"]:
        cell.pop("chapter", None)  # added by `chosen_cell` for `setup_source`; not part of Jupyter's format
    return notebook


def _cells_of_lesson(
    name,  # of a notebook of the class, such as "2_rewards"
):
    "The cells of a lesson, as dicts, each with an id of its own; long texts are split for slides"
    cells = []
    # a step is such as "02_rewards:c063", chapter and id of a cell; or an `Own`, a cell that is in no chapter
    for number, step in enumerate(lessons[name].steps):
        cells += _split_for_slides(chosen_cell(step, f"{name}-{number:02d}"))
    ids = set()
    for cell in cells:
        # Several steps may take parts of the same cell, but the ids in a notebook must differ.
        while cell["id"] in ids:
            cell["id"] += "-more"
        ids.add(cell["id"])
    return cells


# Choosing

@cache
def _cells(chapter):
    "Return the cells of a chapter, such as 02_rewards, in their order: a dict, id → cell (as in the file)"
    book = json.loads((notebooks_dir() / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    return {cell["id"]: cell for cell in book["cells"]}


def chosen_cell(
    step,  # "02_rewards:c063", "02_rewards:c063 from **Last exercise", …; or `Own`: a cell of no chapter
    own_id: str,  # id for the cell if the step is an `Own`
) -> dict:  # a cell of a notebook, with the chapter's name (or None) as `chapter`
    """Return the cell that a step of a lesson names, as the class will see it.

    A code cell that the package exports is replaced by an import of its names. Of a text, a step may take
    only a part. ValueError names a cell or a paragraph that the chapter no longer has."""
    if isinstance(step, Own):  # it holds the whole cell: kind, source and tags
        make_cell = _code_cell if step.kind == "code" else _markdown_cell
        return make_cell(step.source, own_id) | dict(metadata=dict(tags=list(step.tags)), chapter=None)

    # "02_rewards:c063 from **Last exercise" → the place, and which part of the text is taken
    place, _, part = step.partition(" ")
    chapter, cell = _cell_at(place)
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return _markdown_cell(_part_of_text(source, part, place), cell["id"]) | dict(chapter=chapter)
    if _is_exported(source):
        return import_cell(chapter, cell["id"]) | dict(chapter=chapter)
    return _shown_code_cell(cell) | dict(chapter=chapter)


def _cell_at(place):
    "The chapter and the cell at a place such as 02_rewards:c063; ValueError if the cell is gone"
    chapter, _, cell_id = place.partition(":")
    if cell_id not in _cells(chapter):
        raise ValueError(f"{chapter}: no cell {cell_id!r}, which the morning's class wants")
    return chapter, _cells(chapter)[cell_id]


def _is_exported(source):
    "Whether a code cell begins with nbdev's directive `#| export`: its code is in the package, too"
    return re.match(r"#\| *export", source) is not None


def _shown_code_cell(cell):
    "A code cell of a chapter as a student sees it: without nbdev's directives, lines that begin with `#|`"
    source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
    metadata = dict(tags=list(tags))
    # "echo: false" marks a cell that only draws a figure: its code is hidden in the notebook and on slides
    if re.search(r"^#\| *echo: *false", source, re.M):
        metadata = dict(tags=[*tags, hide_input], jupyter=dict(source_hidden=True))
    shown_source = re.sub(r"^#\|.*\n?", "", source, flags=re.M)
    return _code_cell(shown_source, cell["id"]) | dict(metadata=metadata)


def _part_of_text(
    source,  # Markdown, empty lines between its paragraphs
    part,  # "", "from WORDS" or "until WORDS"
    place,  # such as "02_rewards:c063", for the error message
):
    """Return the paragraphs of a text that `part` chooses; all of them if it is empty.

    "from WORDS": the paragraph that begins with WORDS and all after it. "until WORDS": all before that one.
    ValueError unless exactly one paragraph begins so: after a change in a chapter, it may be another."""
    if not part:  # the step wants the whole text
        return source
    which, _, words = part.partition(" ")
    paragraphs = source.split("\n\n")
    matches = [number for number, paragraph in enumerate(paragraphs) if paragraph.startswith(words)]
    if which not in ("from", "until") or len(matches) != 1:
        raise ValueError(f"{place}: {len(matches)} paragraphs begin with {words!r}, expected one")
    [border] = matches
    return "\n\n".join(paragraphs[border:] if which == "from" else paragraphs[:border])


def import_cell(
    chapter: str,  # such as "02_rewards"
    cell_id: str,  # of a code cell that is exported into the package
) -> dict:  # a code cell
    "Return a cell that imports from the package the public names which a chapter's exported cell defines"
    names = _defined_names("".join(_cells(chapter)[cell_id]["source"]))
    # Students get public names only. `setup_source` raises ValueError for a cell that needs a private one.
    public_names = [name for name in names if not name.startswith("_")]
    return _code_cell(_from_import(_exported_module(chapter), public_names), cell_id)


def _exported_module(chapter):
    "Return the module that nbdev exports a chapter into, such as vlrlbook.rewards; None if there is none"
    for cell in _cells(chapter).values():
        # nbdev's directive for it: "#| default_exp rewards"
        match = re.match(r"#\| *default_exp (\S+)", "".join(cell["source"]))
        if match:
            return f"vlrlbook.{match[1]}"
    return None


def _code_cell(source, cell_id):
    "Return a code cell without outputs, as a dict in Jupyter's format; `source` is a text"
    lines = _cell_lines(source)
    return dict(cell_type="code", id=cell_id, metadata={}, source=lines, outputs=[], execution_count=None)


def _markdown_cell(source, cell_id):
    "Return a cell of Markdown, as a dict in Jupyter's format; `source` is a text"
    return dict(cell_type="markdown", id=cell_id, metadata={}, source=_cell_lines(source))


def _cell_lines(source):
    "Split the text of a cell into lines as a notebook's file holds them, each with its line break"
    return source.strip("\n").splitlines(keepends=True)


def _from_import(module, names):
    "Return a statement `from module import names`, on several lines if one would be too long"
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 110:  # as long as a line of the book's code may be
        return line
    return f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"


# What a lesson has to import

def names_of_code(
    source: str,  # Python code of a cell
) -> tuple:  # (set of names that earlier cells must make, set of names that this cell makes)
    "Find the global names that a cell needs from the cells before it, and those that it makes"
    # Python's own table of names: what is local, what is global, in each function
    top = symtable.symtable(source, "cell", "exec")
    symbols = top.get_symbols()
    assigned = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    # Read anywhere, also in functions, and assigned nowhere in the cell. The order is no matter: a function
    # may read what is made below it, since it is called later.
    made_elsewhere = _global_names_read(top) - assigned
    # Outside of functions the order counts: `rows = rows[:5]` both needs and makes `rows`.
    made = {}  # filled with the names that the cell makes, as keys
    read_early = _read_before_made(ast.parse(source), made)
    # The table does not count the y of `[(y := x) for x in xs]` as assigned at the top; `made` has it.
    needed = (made_elsewhere - set(made)) | read_early
    return needed - set(dir(builtins)), set(made)


def _global_names_read(
    top,  # table of the cell's global names, from Python's `symtable`; it holds those of inner scopes
):
    "The set of global names that a cell reads anywhere, also inside of its functions and classes"
    names = set()
    tables = [top]  # one for the cell, and one for each function, class and comprehension in it
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            # at the top of a cell every name is global, though `symtable` does not call it so
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                names.add(symbol.get_name())
    return names


# The parts of a piece of code in the order in which Python executes them, where the syntax tree has another.
# Bodies of functions and classes are left out: their names are their own.
_function_parts = ("decorator_list", "args", "returns")  # args: with annotations and default values
_parts_in_order = {
    ast.Assign: ("value", "targets"),
    ast.AugAssign: ("value", "target"),
    ast.AnnAssign: ("annotation", "value", "target"),
    ast.NamedExpr: ("value", "target"),  # (x := 1)
    ast.For: ("iter", "target", "body", "orelse"),
    ast.AsyncFor: ("iter", "target", "body", "orelse"),
    ast.comprehension: ("iter", "target", "ifs"),
    ast.ListComp: ("generators", "elt"),
    ast.SetComp: ("generators", "elt"),
    ast.GeneratorExp: ("generators", "elt"),
    ast.DictComp: ("generators", "key", "value"),
    ast.FunctionDef: _function_parts,
    ast.AsyncFunctionDef: _function_parts,
    ast.Lambda: ("args",),
    ast.ClassDef: ("decorator_list", "bases", "keywords"),
}
_comprehensions = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def _read_before_made(
    node,  # of the syntax tree (`ast`): the cell, or a part of it
    made,  # names that the code before it has made, as keys of a dict; those that the node makes are added
):
    "The set of names that code reads at its top level before it makes them; goes through the tree in order"
    early = set()
    if isinstance(node, ast.AnnAssign) and node.value is None:  # `x: int` makes no name
        return _read_before_made(node.annotation, made)
    if isinstance(node, ast.Name):
        return _read_name(node, made)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):  # `n += 1` reads n, too
        early |= {node.target.id} - set(made)
    # The names in a comprehension's `for` end with it: they are made in a copy. Those of a walrus in it do not.
    inside = dict(made) if isinstance(node, _comprehensions) else made
    if isinstance(node, ast.ExceptHandler) and node.name:  # the e of `except E as e`, for its body
        made[node.name] = None
    for part in _parts_of(node):  # in the order of execution: of `x = y` first y; no bodies of functions
        early |= _read_before_made(part, inside)
    if isinstance(node, _comprehensions):
        walruses = (part for part in ast.walk(node) if isinstance(part, ast.NamedExpr))
        made |= dict.fromkeys(walrus.target.id for walrus in walruses)
    made |= dict.fromkeys(_names_bound_by(node))  # the name of a function, a class or an import
    return early


def _read_name(
    node,  # a name in the syntax tree, which is read, made or deleted there
    made,  # names that were made before, as keys of a dict; changed if this one is made or deleted
):
    "A set of the name if it is read, or deleted, before it was made; else the empty set"
    if isinstance(node.ctx, ast.Store):
        made[node.id] = None
        return set()
    early = {node.id} - set(made)
    if isinstance(node.ctx, ast.Del):  # `del x` needs an x, as reading does, and then there is none
        made.pop(node.id, None)
    return early


def _parts_of(node):
    "The nodes directly below a node of the syntax tree, in the order in which Python executes them"
    parts = []
    for field in _parts_in_order.get(type(node), node._fields):
        value = getattr(node, field)
        parts += value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, ast.AST)]  # others are texts, numbers and None


def _names_bound_by(node):
    "The names that a node of the syntax tree makes as texts: of functions, classes, imports and patterns"
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [_name_of_import(alias) for alias in node.names]
    named_kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.MatchAs, ast.MatchStar)
    if isinstance(node, ast.MatchMapping):  # `case {"a": 1, **rest}` makes rest
        return [node.rest] if node.rest else []
    return [node.name] if isinstance(node, named_kinds) and node.name else []


def _name_of_import(alias):
    "The name that a part of an import makes: `import os.path` makes os, `import numpy as np` np"
    return alias.asname or alias.name.partition(".")[0]


def _defined_names(source):
    """List the functions, classes and variables that Python code defines at its top level.

    `x, y = 1, 2` and then `def f(): ...` → ["x", "y", "f"]. Imported names are left out."""
    made = {}
    _read_before_made(ast.parse(source), made)  # called for the names that it adds to `made`
    imported = _imported_names(source)
    return [name for name in made if name not in imported]


@cache
def _importable(chapter):
    """Return the names that a chapter imports, and the public ones that it exports into the package.

    The result is a dict, name → (module, name in the module). For `import numpy as np` it holds
    np → ("numpy", None), since the name is that of a whole module."""
    origins = {}
    for cell in _cells(chapter).values():
        source = "".join(cell["source"])
        # a cell tagged `solution` tries the book's own solution, and is left out of the morning's notebooks
        if cell["cell_type"] != "code" or "solution" in cell["metadata"].get("tags", []):
            continue
        origins |= _imported_names(source)
        if _is_exported(source):
            module = _exported_module(chapter)
            public_names = [name for name in _defined_names(source) if not name.startswith("_")]
            origins |= {name: (module, name) for name in public_names}
    return origins


def _imported_names(source):
    """The names that the imports at the top of a cell make: name → (module, name in the module).

    `import numpy as np` → np: ("numpy", None), a whole module; `import os.path` → os: ("os.path", None);
    `from a import b as c` → c: ("a", "b")."""
    origins = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):  # _name_of_import: np, or os for os.path
            origins |= {_name_of_import(alias): (alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origins |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return origins


def setup_source(
    lesson: str,  # its name, for messages
    cells: list,  # from `chosen_cell`; cell["chapter"] such as "02_rewards", None if in no chapter
) -> str:  # Python code
    """Write the imports that the cells of a lesson need, as they are in the chapters of these cells.

    ValueError names a cell that needs a name which no earlier cell makes and no chapter offers."""
    made_before = set()  # names that cells so far have made
    imports = {}  # name → (module, name in the module, or None for a whole module)
    chapters = list(dict.fromkeys(cell["chapter"] for cell in cells if cell["chapter"]))
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        needed, made = names_of_code("".join(cell["source"]))
        # a cell takes its names from its own chapter; one that is in no chapter, from any of the lesson
        searched = [cell["chapter"]] if cell["chapter"] else chapters
        for name in sorted(needed - made_before - set(imports)):
            origin = _origin_of(name, searched)
            if origin is None:
                raise ValueError(f"{lesson}, cell {cell['id']}: it needs {name!r}, "
                                 "which no chosen cell before it makes")
            imports[name] = origin
        made_before |= made
    return _import_lines(imports)


def _origin_of(
    name,  # such as "np"
    chapters,  # names of chapters, in the order in which they are searched
):
    "(module, name in the module) of a name in the first chapter that imports or exports it; None without one"
    origins = [_importable(chapter).get(name) for chapter in chapters]
    return next(filter(None, origins), None)


def _import_lines(
    imports,  # name → (module, name in the module); np → ("numpy", None) for a whole module
):
    "Write import statements, sorted by module: first `import ...`, then `from ... import ...`"
    module_imports, names_of_module = [], {}
    for name, (module, original_name) in imports.items():
        if original_name is None:  # the name of a whole module
            # `import os.path` has the name os already
            alias = f" as {name}" if name != module.partition(".")[0] else ""
            module_imports.append(f"import {module}{alias}")
        else:
            alias = f" as {name}" if name != original_name else ""
            names_of_module.setdefault(module, []).append(f"{original_name}{alias}")
    lines = sorted(module_imports)
    for module in sorted(names_of_module):
        lines.append(_from_import(module, sorted(names_of_module[module])))
    return "\n".join(lines)


# Slides

def _split_for_slides(cell):
    """Split a cell of text into cells that can stand on different slides; a code cell comes back as it is.

    `cell` is a dict in Jupyter's format, and so are those in the list that is returned. A new cell begins at
    each heading, and after a caption at the start of the text, which belongs to the figure before it."""
    if cell["cell_type"] != "markdown":
        return [cell]
    cells = []
    for number, piece in enumerate(_slide_texts("".join(cell["source"])), 1):
        # the first cell keeps the id
        piece_id = cell["id"] if number == 1 else f"{cell['id']}-{number}"
        # empty metadata: a cell of text from `chosen_cell` has no tags that could be lost
        cells.append(cell | dict(id=piece_id, metadata={}, source=_cell_lines(piece)))
    return cells


def _slide_texts(text):
    """Split a text, paragraphs with empty lines between, into the pieces that go on different slides.

    A piece begins at each heading (# or ##). A caption (in italics, *so*) at the very start is a piece of its
    own, since it belongs to the figure of the slide before."""
    pieces = []  # each a list of paragraphs
    for paragraph in text.split("\n\n"):
        # the text so far is one paragraph, and that is a caption
        after_caption = len(pieces) == 1 and len(pieces[0]) == 1 and _is_caption(pieces[0][0])
        if not pieces or after_caption or re.match(r"##? ", paragraph):
            pieces.append([])
        pieces[-1].append(paragraph)
    return ["\n\n".join(piece) for piece in pieces]


def _is_caption(paragraph):
    "Return True if a paragraph begins in italics, `*so*` and not `**so**`, as the chapters' captions do"
    return re.match(r"\*[^*]", paragraph) is not None


def _add_slide_types(
    cells,  # dicts in Jupyter's format; their metadata is changed
):
    """Add nbconvert's `slide_type` to each cell: it says on which slide the cell is shown.

    A heading begins a slide, other text goes on a slide below it, and code stays on the slide of the text
    before it. Checks and parameters are left out, and solutions become notes for the speaker."""
    for cell in cells:
        if "slideshow" not in cell["metadata"]:  # the cell of imports has one already
            cell["metadata"] = cell["metadata"] | dict(slideshow=dict(slide_type=_slide_type(cell)))


def _slide_type(cell):
    """nbconvert's `slide_type` for a cell (a dict in Jupyter's format): on which slide it is shown.

    skip: on none. notes: for the speaker. slide: on a new one. subslide: on one below it. -: on the same."""
    tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
    if "check" in tags or "parameters" in tags:
        return "skip"
    if cell["id"].endswith("-solution"):  # so `workshop.twin` names the folded solution of an exercise
        return "notes"
    if cell["cell_type"] == "code" or _is_caption(source):
        return "-"  # nbconvert's word for: on the same slide as the cell before
    # What is left is text that begins a topic. Headings of the first two levels begin a slide; anything else
    # stands on a subslide, which is reached with the key for "down".
    begins_slide = re.search(r"^##? ", source, re.M)
    return "slide" if begins_slide else "subslide"
