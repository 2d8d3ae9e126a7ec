"""The site is built from the stored outputs by one command, needs no outside host, and its links hold."""
import functools
import http.server
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading

import pytest
from conftest import NOTEBOOKS, ROOT
from fastcore.docments import docments

pytest.importorskip("furo", reason="the site is built with the extra `docs`")
pytest.importorskip("myst_nb", reason="the site is built with the extra `docs`")
spec = importlib.util.spec_from_file_location("book_site", ROOT / "tools" / "site.py")
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)
MODULES = sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "vlrlbook").rglob("*.py")
                 if not p.name.startswith("_") and p.name != "cli.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The whole book, built by the command"
    out = tmp_path_factory.mktemp("book") / "site"
    done = subprocess.run([sys.executable, "tools/site.py", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "links and anchors hold" in done.stdout
    return out


def words(path):
    "Text of a page, tags dropped"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text()).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;",
        '"').replace("&#39;", "'").replace("&amp;", "&"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_shows_what_is_exported_and_hides_what_is_hidden(site, path):
    page = words(site / "nbs" / f"{path.stem}.html")
    assert "#| " not in page
    page = page.replace(" ", "")
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code": continue
        code = "".join(line for line in source.splitlines() if not line.lstrip().startswith("#|"))
        if source.startswith("#| hide") and len(code) > 60: assert re.sub(r"\s", "", code) not in page
        if source.startswith("#| export"): assert re.sub(r"\s", "", code) in page, source[:200]


def test_what_becomes_of_a_cell(tmp_path):
    "Hidden cells go, an exercise's answer and the settings are folded, a picture gets its caption as words"
    from nbformat import v4, write
    picture = v4.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "Figure"})
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("#| default_exp rewards"), v4.new_code_cell("#| hide\nsecret = 1"),
             v4.new_code_cell("#| export\ndef staircase(): ..."),
             v4.new_code_cell("#| slow\nplot()", outputs=[picture]),
             v4.new_markdown_cell("*What to see: a `fall` from\n2 to 3.* And so on."),
             v4.new_code_cell("answer()", metadata={"tags": ["exercise"]}),
             v4.new_code_cell("lr: float = None", metadata={"tags": ["parameters"]})]
    nb = v4.new_notebook(cells=cells,
                         metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    write(nb, tmp_path / "02_small.ipynb")
    made, module, where = book.page(tmp_path / "02_small.ipynb", {"vlrlbook.rewards.staircase"})
    assert module == "vlrlbook.rewards" and where == {"vlrlbook.rewards.staircase": f"02_small-{nb.cells[3].id}"}
    code = [c for c in made.cells if c.cell_type == "code"]
    assert [c.source for c in code] == ["def staircase(): ...", "plot()", "answer()", "lr: float = None"]
    assert [list(o.data) for o in code[1].outputs] == [["image/png", "text/plain"]]
    assert code[1].metadata["mystnb"]["image"]["alt"] == "What to see: a fall from 2 to 3."
    assert [c.metadata["tags"] for c in code[2:]] == [["hide-input"]] * 2
    assert code[3].metadata["mystnb"]["code_prompt_show"] == "Show all settings"


@pytest.mark.parametrize("module", MODULES)
def test_every_exported_name_has_its_entry(site, module):
    text = (site / "api" / f"{module.removeprefix('vlrlbook.')}.html").read_text()
    names = [e["name"] for e in book.exports((ROOT / module.replace(".", "/")).with_suffix(".py"))[1]]
    assert names
    assert not [n for n in names if f'id="{module}.{n}"' not in text]
    linked = [n for n in names if f"{module}.{n}" in (site / "api" / "index.html").read_text()]
    assert linked == names


@pytest.mark.parametrize("name", ["core", "rewards"])
def test_signature_tables_say_what_python_and_docments_say(name):
    "Read from the text alone; here beside the imported module"
    module = importlib.import_module(f"vlrlbook.{name}")
    entries = book.exports(ROOT / "vlrlbook" / f"{name}.py")[1]
    handed_on = [n for n in module.__all__ if getattr(getattr(module, n), "__module__", "").startswith("vlrlbook.readers")]
    handed_on += [n for n in ("units", "tens", "chinese") if n in module.__all__] # tables of the same wing: they know no module
    assert [e["name"] for e in entries] == [n for n in module.__all__ if n not in handed_on]
    functions = [e for e in entries if e["kind"] == "function"]
    assert len(functions) > 5
    for e in functions:
        real = inspect.signature(getattr(module, e["name"])).parameters
        said = {k: v for k, v in docments(getattr(module, e["name"])).items() if k != "return"}
        assert [r["name"].lstrip("*") for r in e["rows"]] == list(real)
        assert {r["name"]: r["note"] or None for r in e["rows"] if "*" not in r["name"]} == {k: v for k, v in said.items()
            if real[k].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)}
        assert all(r["note"] for r in e["rows"])
        assert [bool(r["default"]) for r in e["rows"]] == [p.default is not p.empty for p in real.values()]


def test_an_entry_has_its_table_and_its_chapter(site):
    text = (site / "api" / "rewards.html").read_text()
    entry = text[text.index('id="vlrlbook.rewards.counting_reward"'):]
    entry = entry[:entry.index("</dl>")]
    assert "completion" in entry and "what the model wrote" in entry and "returns" in entry
    assert re.search(r'href="\.\./nbs/02_rewards\.html#[^"]+"><span[^>]*>in its chapter', entry)


def test_search_finds_advantage(site):
    text = (site / "searchindex.js").read_text()
    index = json.loads(text[text.index("(") + 1:text.rindex(")")])
    pages = set()
    for where in ("terms", "titleterms"): # a page with the word in a heading stands in the second alone
        found = index[where].get("advantag", [])
        pages |= {index["docnames"][i] for i in ([found] if isinstance(found, int) else found)}
    assert {"nbs/02_rewards", "nbs/05_grpo"} <= pages


def test_the_check_finds_what_is_broken(site, tmp_path):
    assert book.check(site) == []
    shutil.copytree(site, tmp_path / "site")
    page = tmp_path / "site" / "commands.html"
    planted = ['<a href="nowhere.html">x</a>', '<a href="index.html#no-such-place">x</a>', '<a href="#nor-this">x</a>',
               '<img src="_static/plus.png">', '<img alt="x" src="gone.png">', '<script src="https://cdn.example.org/x.js"></script>',
               '<a href="https://arxiv.org/pdf/1707.06347">x</a>', '<a href="https://arxiv.org/abs/1707.06347">x</a>']
    page.write_text(page.read_text().replace("</body>", "".join(planted) + "</body>"))
    (tmp_path / "site" / "_static" / "book.css").write_text("@import url(https://fonts.example.org/x.css);")
    wrong = book.check(tmp_path / "site")
    for said in ("no such file: nowhere.html", "no such anchor: index.html#no-such-place", "no such anchor: #nor-this",
                 "picture without words: _static/plus.png", "no such file: gone.png",
                 "needs an outside host: https://cdn.example.org/x.js", "needs an outside host: https://fonts.example.org/x.css",
                 "no lasting address of a paper: https://arxiv.org/pdf/1707.06347"):
        assert len([w for w in wrong if said in w]) == 1, (said, wrong)
    assert len(wrong) == 8
    done = subprocess.run([sys.executable, "tools/site.py", "--check", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "8 things to mend" in done.stderr


def test_mathematics_is_drawn_by_the_browser(site):
    "MathML in the page, from the TeX of the notebook; no dollar signs left, and no script that would draw it"
    page = (site / "nbs" / "000_why_it_learns.html").read_text()
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 8
    assert "<mi>π</mi>" in page and "$$" not in page and not re.search("<script[^>]*mathjax", page, re.I)
    assert "<math" in (site / "nbs" / "glossary.html").read_text()


def test_mathematics_that_cannot_be_drawn_is_refused():
    latex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml")
    with pytest.raises(Exception, match="nosuchcommand"): latex2mathml.tex2mathml(r"\nosuchcommand{a}")


def test_the_glossary_is_beside_every_page(site):
    for page in [*site.glob("*.html"), *(site / "nbs").glob("*.html"), *(site / "api").glob("*.html")]:
        assert re.search(r'href="[^"]*glossary\.html"|class="current reference internal" href="#"', page.read_text()), page.name


@pytest.mark.parametrize("stem, title, label", [("000_why_it_learns", "Why it learns", "000 Why it learns"),
    ("07a_jobs", "A job is a promise", "07a jobs: A job is a promise")])
def test_labels_of_chapters(stem, title, label):
    assert book.label_of(stem, title) == label


def test_a_folder_that_is_not_a_site_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    done = subprocess.run([sys.executable, "tools/site.py", str(tmp_path / "mine")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "is not a site" in done.stderr
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves without talking"
    def log_message(self, *args): pass


@pytest.fixture
def served(site):
    "Address of the book on this machine"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("width", [1280, 375])
def test_in_a_browser(served, width):
    "No page scrolls sideways and none asks for an outside host; the search box answers; the copy buttons are there; dark pages are dark"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium: pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=width, height=900), color_scheme="dark")
        asked, errors = [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        for name in ("index.html", "nbs/02_rewards.html", "api/grpo.html", "commands.html"):
            page.goto(served + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.goto(served + "nbs/02_rewards.html")
        assert page.locator("button.copybtn").count() > 10
        assert sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) < 150
        page.goto(served + "search.html?q=advantage")
        page.wait_for_selector("#search-results ul.search li a")
        assert "advantages" in page.locator("#search-results").inner_text().lower()
        assert asked and not [url for url in asked if not url.startswith((served, "data:"))]
        assert not errors
        browser.close()
