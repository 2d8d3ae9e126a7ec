"""The chapters as a book to browse, with the reference made from the comments behind each parameter.

    python tools/site.py [FOLDER]         build into FOLDER (_site), from the stored outputs; nothing is run and nothing is fetched
    python tools/site.py --check FOLDER   only look for broken links, missing anchors, pictures without words and outside hosts"""
import ast
import io
import json
import os
import re
import shutil
import sys
import tempfile
import tokenize
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parent.parent
directive = re.compile(r"^\s*#\s*\|\s*(\S.*?)\s*$")
functions = (ast.FunctionDef, ast.AsyncFunctionDef)


# What the package exports, read from its text

def comments(text):
    "line number -> the comment on it"
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokenize.generate_tokens(io.StringIO(text).readline)
            if t.type == tokenize.COMMENT}


def row(name, kind, default, notes, line):
    "One line of a signature table"
    shown = lambda node: "" if node is None else ast.unparse(node)
    return dict(name=name, type=shown(kind), default=shown(default), note=notes.get(line, ""))


def parameters(node, notes, method=False):
    "Rows of a function's signature, a method's first left out, and the row of what it returns"
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    given = [*zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults, [""] * len(plain)),
             *([(a.vararg, None, "*")] if a.vararg else []),
             *zip(a.kwonlyargs, a.kw_defaults, [""] * len(a.kwonlyargs)), *([(a.kwarg, None, "**")] if a.kwarg else [])]
    rows = [row(star + p.arg, p.annotation, default, notes, (default or p).end_lineno) for p, default, star in given[method:]]
    lines = {(default or p).end_lineno for p, default, _ in given}
    back = node.returns and row("returns", node.returns, None, {} if node.returns.end_lineno in lines else notes, node.returns.end_lineno)
    return rows, back


def function_entry(node, notes, inside=False):
    "What the reference says about a function, or about a method"
    method = inside and "staticmethod" not in map(ast.unparse, node.decorator_list)
    rows, back = parameters(node, notes, method)
    return dict(kind="function", name=node.name, doc=ast.get_docstring(node) or "", rows=rows, back=back,
                star=len(node.args.args) - method if node.args.kwonlyargs and not node.args.vararg else None)


def class_entry(node, notes):
    "What it says about a class: fields or the first arguments, then the public methods"
    methods = {n.name: n for n in node.body if isinstance(n, functions)}
    fields = [row(n.target.id, n.annotation, n.value, notes, n.end_lineno) for n in node.body if isinstance(n, ast.AnnAssign)
              and "ClassVar" not in ast.unparse(n.annotation)]
    data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    rows = fields if data else parameters(methods["__init__"], notes, True)[0] if "__init__" in methods else []
    public = [function_entry(f, notes, True)
              | dict(property=any(ast.unparse(d).endswith("property") for d in f.decorator_list)) for name, f in methods.items()
              if name == "__call__" or not name.startswith("_")]
    return dict(kind="class", name=node.name, doc=ast.get_docstring(node) or "", rows=rows, back=None, star=None, methods=public,
                bases=[ast.unparse(b) for b in node.bases])


def exports(path):
    "(first line of the module, its entries in the order of the source)"
    text = path.read_text(encoding="utf-8")
    tree, notes, found = ast.parse(text), comments(text), {}
    for node in tree.body:
        if isinstance(node, functions): found[node.name] = function_entry(node, notes)
        elif isinstance(node, ast.ClassDef): found[node.name] = class_entry(node, notes)
        elif isinstance(node, ast.Assign):
            for name in (n for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)):
                found[name.id] = dict(kind="value", name=name.id, doc=notes.get(node.end_lineno, ""), value=ast.unparse(node.value),
                                      tuple=isinstance(node.targets[0], ast.Tuple))
    return ast.get_docstring(tree) or "", [
        found[name] for name in ast.literal_eval(
            ast.unparse(next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")))]


# Markdown

def text_of(words, table=False):
    "Words as Markdown that shows them as they are; `code` stays code"
    parts = re.split(r"(`[^`]*`)", words)
    parts = [p if i % 2 else re.sub(r"([\\*_<>\[\]{}$#])", r"\\\1", p) for i, p in enumerate(parts)]
    return "".join(parts).replace("|", r"\|") if table else "".join(parts)


def code_of(text):
    "Inline code in a table's cell"
    return f"`{text}`".replace("|", r"\|") if text else ""


def type_of(text, classes):
    "A type, linked when it names a class of the book"
    known = [n for n in re.findall(r"\w+", text) if n in classes]
    return f"{{py:obj}}`{text} <{classes[known[0]]}>`".replace("|", r"\|") if known and "<" not in text else code_of(text)


def signature(entry):
    "Names and defaults; the types are in the table"
    if len(entry["rows"]) > 10: return entry["name"] # a settings class: its table says it all
    names = [r["name"] + (f"={r['default']}" if r["default"] else "") for r in entry["rows"]]
    if entry["star"] is not None: names.insert(entry["star"], "*")
    return f"{entry['name']}({', '.join(names)})"


def table(entry, classes):
    "The signature table"
    rows = entry["rows"] + ([entry["back"]] if entry["back"] else [])
    if not any(r["type"] or r["note"] for r in rows): return []
    name = lambda r: "**returns**" if r is entry["back"] else code_of(r["name"])
    return ["| name | type | default | meaning |",
            "|---|---|---|---|"] + [
                f"| {name(r)} | {type_of(r['type'], classes)} | {code_of(r['default'])} | {text_of(r['note'], True)} |" for r in rows] + [
                    ""]


def describe(entry, module, classes, where):
    "One entry of the reference as MyST lines"
    name, lines = entry["name"], []
    if entry["kind"] == "value":
        short = not entry["tuple"] and len(entry["value"]) < 120 and "\n" not in entry["value"]
        return [f"````{{py:data}} {name}", f":module: {module}", *([f":value: {json.dumps(entry['value'])}"] if short else []), "",
                text_of(entry["doc"]), "", where, "````", ""]
    lines = [f"`````{{py:{entry['kind']}}} {signature(entry)}", f":module: {module}", "", text_of(entry['doc']), ""]
    if entry.get("bases"): lines += ["A kind of " + ", ".join(type_of(b, classes) for b in entry["bases"]) + ".", ""]
    lines += table(entry, classes)
    for m in entry.get("methods", []):
        if m["property"]: lines += [f"````{{py:property}} {name}.{m['name']}", f":module: {module}", "", text_of(m["doc"]), "````", ""]
        else:
            lines += [f"````{{py:method}} {name}.{signature(m)}", f":module: {module}", "", text_of(m["doc"]), "", *table(m, classes),
                      "````", ""]
    return lines + [where, "`````", ""]


# Pages

def marks_of(cell):
    "The directives of a code cell"
    return [m[1] for m in map(directive.match, cell["source"].splitlines()) if m] if cell["cell_type"] == "code" else []


def caption_after(cells, i):
    "The caption that follows cell `i`, as words; else the heading above it"
    after = cells[i + 1]["source"].lstrip() if i + 1 < len(cells) and cells[i + 1]["cell_type"] == "markdown" else ""
    found = re.match(r"\*(?!\*)(.+?)\*(?:\s|$)", after, re.S)
    above = [line.lstrip("# ") for c in cells[:i] if c["cell_type"] == "markdown" for line in c["source"].splitlines()
             if re.match(r"#+ ", line)]
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", found[1] if found else f"Figure: {above[-1] if above else 'the chapter'}")).strip()


def page(path, names):
    """A chapter as myst-nb wants it: no hidden cells, no directives, no progress bars; captions as words for pictures; targets where
    exports stand"""
    import nbformat
    from nbformat.v4 import new_markdown_cell
    nb = nbformat.read(path, 4)
    kept, module, where = [], None, {}
    for i, cell in enumerate(nb.cells):
        marks = marks_of(cell)
        module = next((f"vlrlbook.{m.split()[1]}" for m in marks if m.startswith("default_exp")), module)
        if "hide" in marks: continue
        if cell.cell_type != "code":
            kept.append(cell)
            continue
        cell.source = "\n".join(line for line in cell.source.splitlines() if not directive.match(line)).strip()
        if not cell.source: continue
        cell.metadata["mystnb"] = {"image": {"alt": caption_after(nb.cells, i)}}
        if "echo: false" in marks: cell.metadata["tags"] = ["remove-input"]
        if "exercise" in cell.metadata.get("tags", []): # the stored answer, folded
            cell.metadata["tags"] = ["hide-input"]
            cell.metadata["mystnb"] |= {"code_prompt_show": "Show one answer", "code_prompt_hide": "Hide it again"}
        here = [n for n in defined(cell.source)
                if f"{module}.{n}" in names] if any(m.split()[0] in ("export", "exports") for m in marks) else []
        if here:
            where |= {f"{module}.{n}": f"{path.stem}-{cell.id}" for n in here}
            kept.append(new_markdown_cell(f"({path.stem}-{cell.id})="))
        kept.append(cell)
        if here:
            kept.append(new_markdown_cell("```{container} api-links\n" + " ".join(f"{{py:obj}}`{n} <{module}.{n}>`" for n in here)
                                          + "\n```"))
    nb.cells = kept
    nb.metadata = nbformat.from_dict({"kernelspec": nb.metadata["kernelspec"],
                                      "language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    return nb, module, where


def defined(source):
    "Names that a cell defines at its top level"
    for node in ast.parse(source).body:
        if isinstance(node, (*functions, ast.ClassDef)): yield node.name
        elif isinstance(node, ast.Assign): yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))


def title_of(nb):
    "The first heading"
    return next(line.lstrip("# ").strip() for c in nb.cells if c.cell_type == "markdown" for line in c.source.splitlines()
                if line.startswith("# "))


def toctree(caption, entries):
    "A hidden table of contents, shown beside the page"
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])


def commands():
    "The command line's own help, as a page"
    os.environ["COLUMNS"] = "100"
    from vlrlbook.cli import parser
    top = parser()
    subs = next(a for a in top._actions if a.dest == "command").choices
    block = lambda p: ["```text", p.format_help().rstrip(), "```", ""]
    return "\n".join(["# The command line", "", *block(top),
                      *(line for name, p in subs.items() for line in [f"## vlrlbook {name}", "", *block(p)])])


config = '''
project = "vlrlbook"
author = copyright = {author!r}
version = release = {version!r}
extensions = ["myst_nb", "sphinx_copybutton"]
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
myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 3
myst_all_links_external = False
myst_ref_domains = ["std", "py"]
suppress_warnings = ["mystnb.mime_priority", "myst.header", "config.cache"]
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100
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
dl.py table.docutils { font-size: var(--font-size--small); margin-left: 0; }
"""


def write_source(folder):
    "Everything that Sphinx reads, into `folder`"
    from configparser import ConfigParser
    from nbformat.v4 import new_markdown_cell
    import nbformat
    ini = ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    modules = {f"vlrlbook.{p.stem}": exports(p) for p in sorted((root / "vlrlbook").glob("*.py")) if not p.name.startswith("_")
               and p.name != "cli.py"}
    names = {f"{m}.{e['name']}" for m, (_, entries) in modules.items() for e in entries}
    classes = {e["name"]: f"{m}.{e['name']}" for m, (_, entries) in modules.items() for e in entries if e["kind"] == "class"}
    for sub in ("nbs", "api", "_static", "_extra/nbs"): (folder / sub).mkdir(parents=True)
    where, order, chapters = {}, [], []
    for path in sorted((root / "nbs").glob("[0-9]*.ipynb")):
        nb, module, found = page(path, names)
        where |= found
        order.append((module, path.stem, title_of(nb)))
        chapters.append(f"{path.stem.replace('_', ' ', 1).replace('_', ' ')}: {title_of(nb)} <nbs/{path.stem}>")
        nbformat.write(nb, folder / "nbs" / path.name)
        shutil.copy(path, folder / "_extra" / "nbs")
    lines = ["# The reference", "",
             "Made from the modules' signatures and the comments behind each parameter. "
             "Every module is exported from the chapter it names, or written by hand and says so.", ""]
    exported = {module for module, _, _ in order}
    order += [(module, None, None) for module in modules if module not in exported]
    for module, stem, title in order:
        doc, entries = modules[module]
        short = module.split(".")[1]
        source = f"From chapter [{stem}: {title}](../nbs/{stem}.ipynb)." if stem else "A plain module, written by hand."
        body = [f"# {module}", "", text_of(doc), "", source, "", f"```{{py:module}} {module}", "```", ""]
        for e in entries:
            full = f"{module}.{e['name']}"
            body += describe(e, module, classes, f"[in its chapter](#{where[full]})" if full in where else "")
        (folder / "api" / f"{short}.md").write_text("\n".join(body), encoding="utf-8")
        lines += [f"## [{module}]({short}.md)", "", text_of(doc), "",
                  " · ".join(f"{{py:obj}}`{e['name']} <{module}.{e['name']}>`" for e in entries), ""]
    (folder / "api" / "index.md").write_text("\n".join(lines), encoding="utf-8")
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"): shutil.copy(root / name, folder)
    index, _, _ = page(root / "index.ipynb", names)
    reference = ["api/index", *(f"api/{m.split('.')[1]}" for m, _, _ in order), "commands"]
    index.cells.append(
        new_markdown_cell(
            "\n".join([toctree("Chapters", chapters), toctree("Reference", reference), toctree("Project", ["CONTRIBUTING", "CHANGELOG"])])))
    nbformat.write(index, folder / "index.ipynb")
    (folder / "_static" / "book.css").write_text(style, encoding="utf-8")
    cfg = ini["DEFAULT"]
    (folder / "conf.py").write_text(config.format(author=cfg["author"], version=cfg["version"]), encoding="utf-8")


# Links

class Links(HTMLParser):
    "Ids, links, pictures and loaded files of one page"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.unnamed = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("img", "script", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("href"): self.loads.append(a["href"])
        if tag == "img" and not (a.get("alt") or "").strip(): self.unnamed.append(a.get("src", "")[:60])


def check(folder):
    "Broken links, missing anchors, files from outside, pictures without words: a list of sentences, empty when all is well"
    folder = Path(folder).resolve()
    pages = {p: Links(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.html"))}
    wrong = []
    for path, found in pages.items():
        name = path.relative_to(folder)
        wrong += [f"{name}: picture without words: {src}" for src in found.unnamed]
        for link in [*found.links, *found.loads]:
            url = urlsplit(link)
            if url.scheme == "data" or (url.scheme and link in found.links and link not in found.loads): continue
            if url.scheme or url.netloc:
                wrong.append(f"{name}: needs an outside host: {link[:80]}")
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target.is_dir(): target /= "index.html"
            if not target.is_file() or folder not in target.parents: wrong.append(f"{name}: no such file: {link[:80]}")
            elif url.fragment and target.suffix == ".html" and unquote(url.fragment) not in pages[target].ids:
                wrong.append(f"{name}: no such anchor: {link[:80]}")
    for path in folder.rglob("*.css"):
        wrong += [f"{path.relative_to(folder)}: needs an outside host: {u}" for u in re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text(encoding="utf-8"))]
    return wrong


def build(out):
    "Build, check, and only then put the book where `out` says"
    from sphinx.cmd.build import build_main
    out = Path(out).resolve()
    if out.exists() and not (out / "searchindex.js").exists() and (out.is_file() or any(out.iterdir())):
        sys.exit(f"site: {out.name} is there and is not a site; choose another folder")
    with tempfile.TemporaryDirectory() as d:
        source, made = Path(d) / "source", Path(d) / "site"
        write_source(source)
        if build_main(["-q", "-W", "--keep-going", "-n", "-b", "html", "-d", f"{d}/trees", str(source), str(made)]):
            sys.exit("site: Sphinx refused something above; nothing was written")
        wrong = check(made)
        if wrong: sys.exit("\n".join([*wrong, f"site: {len(wrong)} things to mend; nothing was written"]))
        if out.exists(): shutil.rmtree(out)
        shutil.move(made, out)
    pages = list(out.rglob("*.html"))
    print(f"{out.name}: {len(pages)} pages, {sum(p.stat().st_size for p in out.rglob('*') if p.is_file()) / 1e6:.1f} MB; links and anchors "
          f"hold. Open {out.name}/index.html, or serve it (python -m http.server -d {out.name}) to see excerpts in the search")


if __name__ == "__main__":
    if "--check" in sys.argv:
        wrong = check(sys.argv[2])
        print(*wrong, sep="\n")
        sys.exit(f"{len(wrong)} things to mend" if wrong else 0)
    build(sys.argv[1] if len(sys.argv) > 1 else root / "_site")
