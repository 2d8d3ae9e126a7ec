"""The chapters as a book to browse, with the reference made from the comments behind each parameter.

    python tools/site.py [FOLDER]         build into FOLDER (_site), from the stored outputs; nothing is run
    python tools/site.py --check FOLDER   only look for what is wrong with a site: see `check`

Nothing is fetched, and a site needs nothing from other hosts when it is read."""
import ast
import io
import json
import os
import re
import shutil
import sys
import tempfile
import tokenize
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
directive = re.compile(r"^\s*#\s*\|\s*(\S.*?)\s*$")
# An address of another host that a style sheet loads from, in url(...) or behind @import
loaded_by_style = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")
# The address of a paper that stays: arXiv's page of its abstract, or a DOI
paper = re.compile(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,9}/\S+)")
functions = (ast.FunctionDef, ast.AsyncFunctionDef)


# What the package exports, read from its text

def comments(text):
    "Number of each line that holds a comment -> the comment"
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def source_of(node):
    "Source of a part of the code; nothing where it is not there"
    return "" if node is None else ast.unparse(node)


def row(
    name: str,  # of a parameter, or of a field
    kind,  # its type, a node or None
    default,  # its default, a node or None
    notes: dict,  # from `comments`
    line: int,  # that its comment stands on
) -> dict:  # name, type, default and note as texts
    "One line of a signature table"
    return dict(name=name, type=source_of(kind), default=source_of(default), note=notes.get(line, ""))


def signature_of(node):
    "Parameters of a function as triples: node, default or None, and its stars"
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    # Python keeps the defaults of the last parameters only.
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    given = [(parameter, default, "") for parameter, default in zip(plain, defaults)]
    if arguments.vararg:
        given.append((arguments.vararg, None, "*"))
    by_name = zip(arguments.kwonlyargs, arguments.kw_defaults)
    given += [(parameter, default, "") for parameter, default in by_name]
    if arguments.kwarg:
        given.append((arguments.kwarg, None, "**"))
    return given


def parameters(
    node: ast.AST,  # a function
    notes: dict,  # from `comments`
    method: bool = False,  # leave out the first parameter, which nobody passes
) -> tuple:  # rows of the parameters, row of what is returned or None
    "A function's signature as rows of a table"
    rows, lines = [], set()
    for place, (parameter, default, stars) in enumerate(signature_of(node)):
        line = (default or parameter).end_lineno
        lines.add(line)
        if place or not method:
            rows.append(row(stars + parameter.arg, parameter.annotation, default, notes, line))
    if not node.returns:
        return rows, None
    # In a signature of one line the comment is the last parameter's.
    line = node.returns.end_lineno
    return rows, row("returns", node.returns, None, {} if line in lines else notes, line)


def function_entry(
    node: ast.AST,  # a function
    notes: dict,  # from `comments`
    inside: bool = False,  # of a class
) -> dict:  # for `describe`
    "What the reference says about a function, or about a method"
    decorators = [source_of(decorator) for decorator in node.decorator_list]
    method = inside and "staticmethod" not in decorators
    rows, back = parameters(node, notes, method)
    # Where a bare * stands: behind it, parameters are passed by name only.
    bare_star = node.args.kwonlyargs and not node.args.vararg
    return dict(
        kind="function",
        name=node.name,
        doc=ast.get_docstring(node) or "",
        rows=rows,
        back=back,
        star=len(node.args.args) - method if bare_star else None,
        property=any(name.endswith("property") for name in decorators),
    )


def class_entry(node, notes):
    "What the reference says about a class: fields or the first arguments, then the public methods"
    methods = {part.name: part for part in node.body if isinstance(part, functions)}
    if any("dataclass" in source_of(decorator) for decorator in node.decorator_list):
        rows = fields_of(node, notes)
    elif "__init__" in methods:
        rows, _ = parameters(methods["__init__"], notes, method=True)
    else:
        rows = []
    public = [name for name in methods if name == "__call__" or not name.startswith("_")]
    return dict(
        kind="class",
        name=node.name,
        doc=ast.get_docstring(node) or "",
        rows=rows,
        back=None,
        star=None,
        methods=[function_entry(methods[name], notes, inside=True) for name in public],
        bases=[source_of(base) for base in node.bases],
    )


def fields_of(node, notes):
    "Rows of a dataclass's fields"
    rows = []
    for part in node.body:
        # dataclasses pass over what is annotated as ClassVar, too.
        if isinstance(part, ast.AnnAssign) and "ClassVar" not in source_of(part.annotation):
            rows.append(row(part.target.id, part.annotation, part.value, notes, part.end_lineno))
    return rows


def targets_of(node):
    "What an assignment gives a value to; one with a type, such as `cards: dict = …`, has a single target"
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def assigned_names(node):
    "Names that an assignment gives values to, in a tuple too"
    names = []
    for target in targets_of(node):
        names += [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]
    return names


def value_entry(name, node, notes):
    "What the reference says about a value of a module"
    return dict(
        kind="value",
        name=name,
        doc=notes.get(node.end_lineno, ""),
        value=source_of(node.value),
        tuple=isinstance(targets_of(node)[0], ast.Tuple),
    )


def exports(
    path: Path,  # of a module
) -> tuple:  # its docstring; its entries in the order of `__all__`
    "What a module hands out; names that it only hands on have their entries where they are made"
    text = path.read_text(encoding="utf-8")
    tree, notes = ast.parse(text), comments(text)
    found, names, handed_on = {}, [], set()
    for node in tree.body:
        if isinstance(node, functions):
            found[node.name] = function_entry(node, notes)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = class_entry(node, notes)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for name in assigned_names(node):
                found[name] = value_entry(name, node, notes)
                if name == "__all__":
                    names = ast.literal_eval(node.value)
        elif isinstance(node, ast.ImportFrom):
            handed_on |= {alias.asname or alias.name for alias in node.names}
    return ast.get_docstring(tree) or "", [found[name] for name in names if name not in handed_on]


# Markdown

def text_of(
    words: str,  # of a docstring or a comment
    table: bool = False,  # in a table, where a bar would end the cell
) -> str:  # Markdown
    "Words as Markdown that shows them as they are; `code` stays code"
    parts = re.split(r"(`[^`]*`)", words)
    for i in range(0, len(parts), 2):  # between two pieces of code
        parts[i] = re.sub(r"([\\*_<>\[\]{}$#])", r"\\\1", parts[i])
    text = "".join(parts)
    return text.replace("|", r"\|") if table else text


def code_of(text):
    "Inline code in a table's cell"
    return f"`{text}`".replace("|", r"\|") if text else ""


def type_of(
    text: str,  # a type as it stands in the source
    classes: dict,  # name of each class of the book -> its full name
) -> str:  # Markdown
    "A type, linked when it names a class of the book"
    known = [name for name in re.findall(r"\w+", text) if name in classes]
    # What stands between < and > in a role is its target.
    if not known or "<" in text:
        return code_of(text)
    return f"{{py:obj}}`{text} <{classes[known[0]]}>`".replace("|", r"\|")


def signature(entry):
    "Names and defaults; the types are in the table"
    if len(entry["rows"]) > 10:
        return entry["name"]  # a class of settings: its table says it all
    names = []
    for parameter in entry["rows"]:
        default = f"={parameter['default']}" if parameter["default"] else ""
        names.append(parameter["name"] + default)
    if entry["star"] is not None:
        names.insert(entry["star"], "*")
    return f"{entry['name']}({', '.join(names)})"


def table(entry, classes):
    "The signature table, or nothing where it would say nothing"
    rows = list(entry["rows"])
    if entry["back"]:
        rows.append(entry["back"])
    if not any(parameter["type"] or parameter["note"] for parameter in rows):
        return []
    lines = ["| name | type | default | meaning |", "|---|---|---|---|"]
    for parameter in rows:
        name = "**returns**" if parameter is entry["back"] else code_of(parameter["name"])
        kind, default = type_of(parameter["type"], classes), code_of(parameter["default"])
        lines.append(f"| {name} | {kind} | {default} | {text_of(parameter['note'], table=True)} |")
    return [*lines, ""]


def describe(
    entry: dict,  # from `exports`
    module: str,  # that it stands in
    classes: dict,  # name of each class of the book -> its full name
    where: str,  # link to its place in a chapter, or nothing
) -> list:  # lines of MyST
    "One entry of the reference"
    if entry["kind"] == "value":
        return describe_value(entry, module, where)
    # One backtick more than the methods inside have.
    lines = [f"`````{{py:{entry['kind']}}} {signature(entry)}", f":module: {module}", ""]
    lines += [text_of(entry["doc"]), ""]
    if entry.get("bases"):
        bases = [type_of(base, classes) for base in entry["bases"]]
        lines += [f"A kind of {', '.join(bases)}.", ""]  # linked, so that inherited methods are found
    lines += table(entry, classes)
    for method in entry.get("methods", []):
        lines += describe_method(entry["name"], method, module, classes)
    return [*lines, where, "`````", ""]


def describe_value(entry, module, where):
    "A value of a module; a long one is named only"
    lines = [f"````{{py:data}} {entry['name']}", f":module: {module}"]
    value = entry["value"]
    # Of `a, b = 1, 2` each name would show the values of both.
    if not entry["tuple"] and len(value) < 120 and "\n" not in value:
        lines.append(f":value: {json.dumps(value)}")
    return [*lines, "", text_of(entry["doc"]), "", where, "````", ""]


def describe_method(class_name, method, module, classes):
    "A method or a property of a class"
    if method["property"]:
        head, more = f"py:property}} {class_name}.{method['name']}", []
    else:
        head, more = f"py:method}} {class_name}.{signature(method)}", ["", *table(method, classes)]
    lines = [f"````{{{head}", f":module: {module}", "", text_of(method["doc"])]
    return [*lines, *more, "````", ""]


# Pages

def marks_of(cell):
    "nbdev's directives in a code cell"
    if cell["cell_type"] != "code":
        return []
    # A comment that begins with a bar, wherever it stands in the cell.
    return [found[1] for found in map(directive.match, cell["source"].splitlines()) if found]


def headings(cells):
    "Headings of Markdown cells"
    found = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            lines = cell["source"].splitlines()
            found += [line.lstrip("# ") for line in lines if re.match(r"#+ ", line)]
    return found


def caption_after(
    cells: list,  # of a page
    i: int,  # place of a code cell
) -> str:  # words for who cannot see its pictures
    "The caption that follows a cell, as plain words; else the heading above it"
    after = cells[i + 1] if i + 1 < len(cells) else None
    words = None
    if after and after["cell_type"] == "markdown":
        # A caption is a paragraph in italics.
        words = re.match(r"\*(?!\*)(.+?)\*(?:\s|$)", after["source"].lstrip(), re.S)
    if words:
        caption = words[1]
    else:
        above = headings(cells[:i])
        caption = f"Figure: {above[-1] if above else 'the chapter'}"
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", caption)).strip()


def page(
    path: Path,  # of a notebook
    names: set,  # full names of what the reference describes
) -> tuple:  # notebook; module it exports to, or None; full name -> target, of what it exports
    "A chapter as myst-nb wants it: no hidden cells, no directives; captions as words for pictures"
    import nbformat
    from nbformat.v4 import new_markdown_cell
    book = nbformat.read(path, 4)
    kept, module, where = [], None, {}
    for i, cell in enumerate(book.cells):
        marks = marks_of(cell)
        module = default_module(marks) or module
        if "hide" in marks:
            continue
        if cell.cell_type != "code":
            kept.append(cell)
            continue
        cell.source = without_directives(cell.source)
        if not cell.source:
            continue
        cell.metadata["mystnb"] = {"image": {"alt": caption_after(book.cells, i)}}
        fold(cell, marks)
        here = exported_here(cell, marks, module, names)
        if not here:
            kept.append(cell)
            continue
        # A target in front of the cell, and links to the reference behind it.
        target = f"{path.stem}-{cell.id}"
        where |= {f"{module}.{name}": target for name in here}
        links = " ".join(f"{{py:obj}}`{name} <{module}.{name}>`" for name in here)
        kept += [
            new_markdown_cell(f"({target})="),
            cell,
            new_markdown_cell("```{container} api-links\n" + links + "\n```"),
        ]
    book.cells = kept
    # A clean notebook does not say its language, and myst-nb colours code by it.
    language = {"name": "python", "pygments_lexer": "ipython3"}
    book.metadata = nbformat.from_dict({"kernelspec": book.metadata["kernelspec"], "language_info": language})
    return book, module, where


def default_module(marks):
    "Full name of the module that `#| default_exp` names, or None"
    for mark in marks:
        if mark.startswith("default_exp"):
            return f"vlrlbook.{mark.split()[1]}"
    return None


def without_directives(source):
    "Source as a reader wants it"
    return "\n".join(line for line in source.splitlines() if not directive.match(line)).strip()


def fold(cell, marks):
    "Hide what is not for reading, and fold an exercise's answer and a list of settings away"
    if "echo: false" in marks:
        cell.metadata["tags"] = ["remove-input"]
    tags = cell.metadata.get("tags", [])
    if "exercise" in tags:
        prompts = {"code_prompt_show": "Show one answer", "code_prompt_hide": "Hide it again"}
    elif "parameters" in tags:
        prompts = {"code_prompt_show": "Show all settings", "code_prompt_hide": "Hide them again"}
    else:
        return
    cell.metadata["tags"] = ["hide-input"]
    cell.metadata["mystnb"] |= prompts


def exported_here(cell, marks, module, names):
    "Names that a cell exports and the reference describes"
    if not any(mark.split()[0] in ("export", "exports") for mark in marks):
        return []
    return [name for name in defined(cell.source) if f"{module}.{name}" in names]


def defined(source):
    "Names that a cell defines at its top level"
    for node in ast.parse(source).body:
        if isinstance(node, (*functions, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from assigned_names(node)


def title_of(book):
    "The first heading of a page"
    for cell in book.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line.lstrip("# ").strip()
    raise ValueError("a page without a title")


def toctree(caption, entries):
    "A hidden table of contents, shown beside the page"
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])


def commands():
    "The command line's own help, as a page"
    # argparse breaks lines by the width of the terminal, which would be that of whoever builds the site.
    os.environ["COLUMNS"] = "100"
    from vlrlbook.cli import parser
    top = parser()
    subcommands = next(action.choices for action in top._actions if action.dest == "command")
    lines = ["# The command line", "", *help_block(top)]
    for name, subparser in subcommands.items():
        lines += [f"## vlrlbook {name}", "", *help_block(subparser)]
    return "\n".join(lines)


def help_block(parser):
    "What `--help` prints"
    return ["```text", parser.format_help().rstrip(), "```", ""]


config = '''
project = "vlrlbook"
author = copyright = {author!r}
version = release = {version!r}
extensions = ["myst_nb", "sphinx_copybutton"]
html_math_renderer = "mathml"
html_theme = "furo"
pygments_style = "default"
pygments_dark_style = "github-dark"
html_title = "vlrlbook {version}"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_extra_path = ["_extra"]
exclude_patterns = ["_extra"]
html_copy_source = False
html_show_sourcelink = False
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_render_image_options = {{"class": "figure"}}
myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3
myst_all_links_external = False
myst_ref_domains = ["std", "py"]
suppress_warnings = ["mystnb.mime_priority", "myst.header", "config.cache"]
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100


# Sphinx's own ways to show mathematics load a script from another host, or need LaTeX. Browsers read MathML
# themselves, and docutils, on which Sphinx rests, makes it of TeX; a command that it does not know raises.
def write_mathml(self, node):
    from docutils.nodes import SkipNode
    from docutils.utils.math.latex2mathml import tex2mathml
    block = node.tagname == "math_block"
    text = tex2mathml(node.astext().strip(), as_block=block)
    self.body.append(f'<div class="math">{{text}}</div>' if block else text)
    raise SkipNode


def setup(app):
    both = (write_mathml, None)
    app.add_html_math_renderer("mathml", inline_renderers=both, block_renderers=both)
'''

style = """
.figure { max-width: 100%; height: auto; }
div.cell_output img, div.cell_output .figure { background: #fff; border-radius: 4px; }
div.cell_output, div.cell_output pre, div.cell_input pre { overflow-x: auto; }
div.cell div.cell_input { border-color: var(--color-background-border); border-left-color: #009e73; }
.api-links { margin: -0.6rem 0 1rem; text-align: right; font-size: var(--font-size--small); }
.api-links::before { content: "in the reference: "; color: var(--color-foreground-muted); }
.api-links p { display: inline; }
td code { display: inline-block; max-width: 14rem; overflow-x: auto; vertical-align: bottom; }
div.math { overflow-x: auto; overflow-y: hidden; margin: 1rem 0; }
math { font-size: 1.05em; }
dl.py table.docutils { font-size: var(--font-size--small); margin-left: 0; }
"""


# What Sphinx reads

def package_modules():
    "Full name of each module that the reference describes -> its file"
    found = {}
    for path in sorted((root / "vlrlbook").rglob("*.py")):
        # The command line has a page of its own, made of its help.
        if not path.name.startswith("_") and path.name != "cli.py":
            found[".".join(path.relative_to(root).with_suffix("").parts)] = path
    return found


def short_name(module):
    "A module's name without the package's, which is also the name of its page"
    return module.removeprefix("vlrlbook.")


def write_source(
    folder: Path,  # to write into
):
    "Everything that Sphinx reads"
    modules = {module: exports(path) for module, path in package_modules().items()}
    names, classes = set(), {}
    for module, (_, entries) in modules.items():
        for entry in entries:
            full_name = f"{module}.{entry['name']}"
            names.add(full_name)
            if entry["kind"] == "class":
                classes[entry["name"]] = full_name
    for name in ("nbs", "api", "_static", "_extra/nbs"):
        (folder / name).mkdir(parents=True)
    chapters, told, where = write_chapters(folder, names)
    # In the order of the chapters, then the modules that no page exports.
    order = list(told) + [module for module in modules if module not in told]
    for module in order:
        write_module(folder, module, modules[module], told.get(module), classes, where)
    write_overview(folder, {module: modules[module] for module in order})
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(root / name, folder)
    write_index(folder, names, chapters, order)
    (folder / "_static" / "book.css").write_text(style, encoding="utf-8")
    write_config(folder)


def write_chapters(
    folder: Path,  # to write into
    names: set,  # full names of what the reference describes
) -> tuple:  # lines of the contents; module -> (file name, title) of its page; full name -> target there
    "The pages, and copies of the notebooks to download"
    import nbformat
    chapters, told, where = [], {}, {}
    for path in sorted((root / "nbs").glob("[0-9]*.ipynb")):
        book, module, found = page(path, names)
        where |= found
        title = title_of(book)
        if module:  # a page without one tells of modules that are written by hand
            told[module] = (path.stem, title)
        chapters.append(f"{label_of(path.stem, title)} <nbs/{path.stem}>")
        nbformat.write(book, folder / "nbs" / path.name)
        shutil.copy(path, folder / "_extra" / "nbs")
    # The pages link to it.
    shutil.copy(root / "nbs" / "glossary.md", folder / "nbs")
    return chapters, told, where


def label_of(
    stem: str,  # of a page's file
    title: str,  # of the page
) -> str:  # for the contents
    "A chapter in the list beside every page: 07a_jobs is 07a jobs to a reader, and the title says the rest"
    number, _, words = stem.partition("_")
    words = words.replace("_", " ")
    # A title that says what the file's name says is not said twice.
    return f"{number} {title}" if title.lower() == words else f"{number} {words}: {title}"


def write_module(
    folder: Path,  # to write into
    module: str,  # full name
    exported: tuple,  # from `exports`
    told: tuple,  # file name and title of its page; None: a plain module
    classes: dict,  # name of each class of the book -> its full name
    where: dict,  # full name -> target in its page
):
    "The reference of one module"
    doc, entries = exported
    source = "A plain module, written by hand."
    if told:
        stem, title = told
        source = f"From chapter [{stem}: {title}](../nbs/{stem}.ipynb)."
    lines = [f"# {module}", "", text_of(doc), "", source, "", f"```{{py:module}} {module}", "```", ""]
    for entry in entries:
        target = where.get(f"{module}.{entry['name']}")
        link = f"[in its chapter](#{target})" if target else ""
        lines += describe(entry, module, classes, link)
    (folder / "api" / f"{short_name(module)}.md").write_text("\n".join(lines), encoding="utf-8")


def write_overview(
    folder: Path,  # to write into
    modules: dict,  # full name -> what `exports` found, in the order of the page
):
    "The first page of the reference: all modules with their names"
    lines = ["# The reference", "",
             "Made from the modules' signatures and the comments behind each parameter. "
             "Every module is exported from the chapter it names, or written by hand and says so.", ""]
    for module, (doc, entries) in modules.items():
        links = [f"{{py:obj}}`{entry['name']} <{module}.{entry['name']}>`" for entry in entries]
        lines += [f"## [{module}]({short_name(module)}.md)", "", text_of(doc), "", " · ".join(links), ""]
    (folder / "api" / "index.md").write_text("\n".join(lines), encoding="utf-8")


def write_index(
    folder: Path,  # to write into
    names: set,  # full names of what the reference describes
    chapters: list,  # lines of the contents
    order: list,  # full names of the modules
):
    "The front page, with the contents that are shown beside every page"
    import nbformat
    from nbformat.v4 import new_markdown_cell
    index, _, _ = page(root / "index.ipynb", names)
    reference = ["api/index", *(f"api/{short_name(module)}" for module in order), "commands"]
    contents = [
        toctree("Chapters", chapters),
        toctree("Words and symbols", ["nbs/glossary"]),
        toctree("Reference", reference),
        toctree("Project", ["CONTRIBUTING", "CHANGELOG"]),
    ]
    index.cells.append(new_markdown_cell("\n".join(contents)))
    nbformat.write(index, folder / "index.ipynb")


def write_config(folder):
    "Sphinx's conf.py"
    ini = ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    facts = ini["DEFAULT"]
    text = config.format(author=facts["author"], version=facts["version"])
    (folder / "conf.py").write_text(text, encoding="utf-8")


# Links

class Links(HTMLParser):
    "Ids, links, pictures and loaded files of one page"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.unnamed = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        "Called by HTMLParser for each tag that begins"
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        address, source = given.get("href"), given.get("src")
        if tag == "a" and address:
            self.links.append(address)
        elif tag == "link" and address:
            self.loads.append(address)
        if tag in ("img", "script", "iframe", "source") and source:
            self.loads.append(source)
        if tag == "img" and not (given.get("alt") or "").strip():
            self.unnamed.append((source or "")[:60])


def check(
    folder: Path,  # of a site
) -> list:  # of sentences, empty when all is well
    "Broken links, missing anchors, files from outside, pictures without words, odd addresses of papers"
    folder = Path(folder).resolve()
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    wrong = []
    for path, found in pages.items():
        complaints = [f"picture without words: {source}" for source in found.unnamed]
        for link in [*found.links, *found.loads]:
            complaints += complaints_about(link, link in found.loads, path, folder, pages)
        wrong += [f"{path.relative_to(folder)}: {complaint}" for complaint in complaints]
    for path in folder.rglob("*.css"):
        outside = loaded_by_style.findall(path.read_text(encoding="utf-8"))
        wrong += [f"{path.relative_to(folder)}: needs an outside host: {address}" for address in outside]
    return wrong


def complaints_about(
    link: str,  # as it stands in the page
    loaded: bool,  # by the browser, without being asked
    path: Path,  # of the page
    folder: Path,  # of the site
    pages: dict,  # file of each page -> its `Links`
) -> list:  # one sentence, or none
    "What is wrong with one link"
    url = urlsplit(link)
    if url.netloc.endswith(("arxiv.org", "doi.org")) and not paper.fullmatch(link):
        return [f"no lasting address of a paper: {link[:80]}"]
    # A reader may follow a link to another site; a page that loads from one does not work offline.
    if url.scheme == "data" or (url.scheme and not loaded):
        return []
    # Without a scheme, as in //host/file, the browser takes that of the page.
    if url.scheme or url.netloc:
        return [f"needs an outside host: {link[:80]}"]
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or folder not in target.parents:
        return [f"no such file: {link[:80]}"]
    if url.fragment and target.suffix == ".html" and unquote(url.fragment) not in pages[target].ids:
        return [f"no such anchor: {link[:80]}"]
    return []


def build(
    out: Path,  # folder for the site; one that holds a site is replaced
):
    "Build, check, and only then put the book where `out` says"
    from sphinx.cmd.build import build_main
    out = Path(out).resolve()
    is_site = (out / "searchindex.js").exists()  # every site of Sphinx has one
    if out.exists() and not is_site and (out.is_file() or any(out.iterdir())):
        sys.exit(f"site: {out.name} is there and is not a site; choose another folder")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "source", Path(folder) / "site"
        write_source(source)
        # -W and -n: a warning is an error, and so is a name that nothing bears.
        options = ["-q", "-W", "--keep-going", "-n", "-b", "html", "-d", f"{folder}/trees"]
        if build_main([*options, str(source), str(made)]):
            sys.exit("site: Sphinx refused something above; nothing was written")
        wrong = check(made)
        if wrong:
            sys.exit("\n".join([*wrong, f"site: {len(wrong)} things to mend; nothing was written"]))
        if out.exists():
            shutil.rmtree(out)
        shutil.move(made, out)
    report(out)


def report(out):
    "Say what was built"
    files = [path for path in out.rglob("*") if path.is_file()]
    pages = sum(path.suffix == ".html" for path in files)
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{out.name}: {pages} pages, {megabytes:.1f} MB; links and anchors hold. "
          f"Open {out.name}/index.html, or serve it (python -m http.server -d {out.name}) "
          "to see excerpts in the search")


if __name__ == "__main__":
    if "--check" in sys.argv:
        wrong = check(sys.argv[2])
        print(*wrong, sep="\n")
        sys.exit(f"{len(wrong)} things to mend" if wrong else 0)
    build(sys.argv[1] if len(sys.argv) > 1 else root / "_site")
