"""What a stranger gets: wheel and source archive are built from a copy, looked into, and the wheel is used far from the checkout."""
import email
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import NOTEBOOKS, NOT_THE_BOOK, ROOT, build_book
from packaging.requirements import Requirement

pytest.importorskip("build", reason="`build` comes with the lock")
ini = ConfigParser(delimiters=["="])
ini.read(ROOT / "settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "(wheel, source archive): the archive from a copy of the checkout, the wheel from the archive"
    return build_book(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def metadata(built):
    "The wheel's METADATA"
    with zipfile.ZipFile(built[0]) as z:
        return email.message_from_string(z.read(next(n for n in z.namelist() if n.endswith("/METADATA"))).decode())


def test_the_wheel_holds_the_book_and_nothing_else(built):
    modules = {f"vlrlbook/{p.relative_to(ROOT / 'vlrlbook').as_posix()}": p for p in (ROOT / "vlrlbook").rglob("*") if p.is_file()
               and "__pycache__" not in p.parts}
    chapters = {f"vlrlbook/nbs/{p.name}": p for p in NOTEBOOKS} | {
        f"vlrlbook/nbs/logs/{p.name}": p for p in (ROOT / "nbs" / "logs").iterdir()} | {
        "vlrlbook/nbs/glossary.md": ROOT / "nbs" / "glossary.md"}
    films = [p for p in (ROOT / "nbs" / "films").rglob("*") if p.is_file()]
    chapters |= {f"vlrlbook/nbs/{p.relative_to(ROOT / 'nbs').as_posix()}": p for p in films}
    assert len(modules) > 9 and len(NOTEBOOKS) > 8
    with zipfile.ZipFile(built[0]) as z:
        inside = {n for n in z.namelist() if not n.startswith("vlrlbook-")}
        assert inside == set(modules) | set(chapters)
        assert all(z.read(n) == p.read_bytes() for n, p in (modules | chapters).items())
        info = {n.split("/", 1)[1] for n in z.namelist() if n.startswith("vlrlbook-")}
        assert info == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert built[0].stat().st_size < 10e6


def test_the_archive_is_enough_to_work_from(built):
    with tarfile.open(built[1]) as t: inside = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
    wanted = [p.relative_to(ROOT).as_posix() for folder in ("nbs", "tests", "tools", "vlrlbook") for p in (ROOT / folder).rglob("*")
              if p.is_file() and not any(NOT_THE_BOOK.match(part) for part in p.relative_to(ROOT).parts)]
    wanted += ["index.ipynb", "README.md", "README.zh.md", "LICENSE", "THIRD_PARTY.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile",
               "settings.ini", "mypy.ini", "setup.py", "pyproject.toml", "requirements.lock"]
    assert not set(wanted) - inside
    assert not [n for n in inside if "__pycache__" in n or n.endswith(".pyc") or ".ipynb_checkpoints" in n]


def test_metadata_is_what_settings_ini_says(metadata):
    for name, key in (("Name", "lib_name"), ("Version", "version"), ("Summary", "description"), ("Author", "author")):
        assert metadata[name] == settings[key]
    assert metadata["License"] == "Apache-2.0" and metadata["Requires-Python"] == ">=" + settings["min_python"]
    keys = [k for k in settings if k.endswith("_requirements")]
    assert set(metadata.get_all("Provides-Extra")) == {k.removesuffix("_requirements") for k in keys} | {"all"}
    said = [Requirement(r) for r in metadata.get_all("Requires-Dist")]
    core = {(r.name, str(r.specifier)) for r in said if "extra ==" not in str(r.marker)}
    assert core == {(r.name, str(r.specifier)) for r in map(Requirement, settings["requirements"].split())}
    for key in keys:
        extra = key.removesuffix("_requirements")
        assert {(r.name, str(r.specifier)) for r in said
                if f'extra == "{extra}"' in str(r.marker)} == {(r.name, str(r.specifier)) for r in map(Requirement, settings[key].split())}


def test_entry_points(built):
    with zipfile.ZipFile(built[0]) as z: text = z.read(next(n for n in z.namelist() if n.endswith("entry_points.txt"))).decode()
    found = ConfigParser(delimiters=["="])
    found.read_string(text)
    assert found["console_scripts"]["vlrlbook"] == "vlrlbook.cli:main"
    assert found["papermill.io"]["vlrlbook://"] == "vlrlbook.cli:handler"


def test_the_long_description_is_the_readme_and_renders(metadata, built):
    """A registry's page has no repository beside it: each relative link of the README is a full address there, of a file that the archive
    has"""
    from markdown_it import MarkdownIt
    def page_of(text): return MarkdownIt("gfm-like", {"linkify": False}).render(text)
    def links_of(page): return re.findall(r'(?:href|src)="([^"#]+)', page)
    text, readme = metadata.get_payload(), (ROOT / "README.md").read_text(encoding="utf-8")
    page, home = page_of(text), settings["git_url"]
    assert metadata["Description-Content-Type"] == "text/markdown" and home == f"https://github.com/{settings['user']}/{settings['repo']}"
    assert page.startswith("<h1>vlrlbook</h1>") and page.count("<table>") == 4 and page.count("<pre>") >= 4
    assert metadata["Home-page"] == home or f"Homepage, {home}" in metadata.get_all("Project-URL", [])
    assert all(link.startswith("https://") for link in links_of(page)), "a link that works in a checkout only"
    places = {kind: f"{home}/{kind}/{settings['branch']}/" for kind in ("raw", "blob")}
    back = text
    for place in places.values(): back = back.replace(f"]({place}", "](")
    assert back.strip() == readme.strip(), "nothing but links may differ from README.md"
    pictures = re.findall(r'src="([^"]+)', page)
    assert len(pictures) >= 2 and all(p.startswith(places["raw"]) and p.endswith(".png") for p in pictures)
    assert not re.search(r'src="[^"]*/blob/|href="[^"]*/raw/', page)
    own = [link for link in links_of(page_of(readme)) if "://" not in link]
    assert len(own) >= len(NOTEBOOKS) and len(own) == len([a for a in links_of(page) if a.startswith(home)])
    with tarfile.open(built[1]) as t: inside = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
    assert not set(own) - inside


@pytest.fixture(scope="module")
def elsewhere(built, tmp_path_factory):
    """(folder, its programs): an environment with the wheel in it; the other packages are seen through a path file, which does not bring
    the checkout"""
    folder = tmp_path_factory.mktemp("far") / "away"
    made = subprocess.run([sys.executable, "-m", "venv", str(folder / "v")], capture_output=True, text=True)
    if made.returncode: pytest.skip(f"this Python makes no environments: {made.stderr[-200:]}")
    programs = folder / "v" / ("Scripts" if os.name == "nt" else "bin")
    site = Path(subprocess.run([programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True,
                               text=True, check=True).stdout.strip())
    done = subprocess.run([programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps",
                           str(built[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site / "others.pth").write_text("\n".join(dict.fromkeys(sysconfig.get_path(k) for k in ("purelib", "platlib"))))
    return folder, programs


def call(elsewhere, *words):
    "Output of a program of that environment, from a folder that is not the checkout"
    folder, programs = elsewhere
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100"}
    done = subprocess.run([str(programs / words[0]), *words[1:]], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_installed_package_is_the_one_that_answers(elsewhere):
    where = Path(call(elsewhere, "python", "-c", "import vlrlbook.rewards as m; print(m.__file__)").strip())
    assert elsewhere[0] in where.parents and ROOT not in where.parents


def test_the_command_says_what_it_can(elsewhere):
    said = call(elsewhere, "vlrlbook", "--help")
    from vlrlbook.cli import parser
    commands = next(a for a in parser()._actions if a.dest == "command").choices
    assert len(commands) > 8 and all(name in said for name in commands)


@pytest.mark.parametrize("module, extra", [("uvicorn", "serve"), ("lerobot", "aloha"), ("ray", "cluster"), ("bitsandbytes", "quant"),
                                           ("torch", None), ("fast", None), ("?", None)])
def test_the_extra_of_a_module(module, extra):
    from vlrlbook.cli import extra_of
    assert extra_of(module) == extra


def test_a_command_without_its_extra_says_what_to_install(monkeypatch, tmp_path):
    from vlrlbook import cli
    def needs(name): raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    monkeypatch.setattr("vlrlbook.cli.workshop", lambda args, rest: needs("uvicorn.config"))
    with pytest.raises(SystemExit, match=r'^vlrlbook workshop: uvicorn.config is not installed: pip install "vlrlbook\[serve\]"$'):
        cli.main(["workshop", str(tmp_path / "x")])
    monkeypatch.setattr("vlrlbook.cli.workshop", lambda args, rest: needs("nowhere"))
    with pytest.raises(ModuleNotFoundError, match="nowhere"): cli.main(["workshop", str(tmp_path / "x")])
    def of_a_chapter(args, rest): raise ImportError("chapter 04 needs LeRobot: pip install 'vlrlbook[aloha]'")
    monkeypatch.setattr("vlrlbook.cli.workshop", of_a_chapter)
    with pytest.raises(SystemExit, match="^vlrlbook workshop: chapter 04 needs LeRobot"): cli.main(["workshop", str(tmp_path / "x")])


def test_notebooks_come_out(elsewhere):
    call(elsewhere, "vlrlbook", "notebooks", "mine")
    assert {p.name for p in (elsewhere[0] / "mine").glob("*.ipynb")} == {p.name for p in NOTEBOOKS}
    assert (elsewhere[0] / "mine" / "logs" / "chapters.csv").read_bytes() == (ROOT / "nbs" / "logs" / "chapters.csv").read_bytes()


def test_papermill_finds_a_chapter(elsewhere):
    "The entry point: `vlrlbook://` is a place that papermill can read"
    said = call(elsewhere, "python", "-m", "papermill", "--help-notebook", "vlrlbook://05_grpo.ipynb")
    assert "lr: float" in said and "seed: int" in said


def test_a_chapter_runs(elsewhere):
    call(elsewhere, "vlrlbook", "run", "00_core", "out.ipynb")
    cells = [c for c in json.loads((elsewhere[0] / "out.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
    assert len([c for c in cells if c["outputs"]]) >= len(cells) / 3
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]


def test_third_parties_are_current():
    done = subprocess.run([sys.executable, "tools/third_party.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = set(re.findall(r"^\| ([\w.-]+) \| \w", (ROOT / "THIRD_PARTY.md").read_text(), re.M)) - {"package"}
    assert named == {Requirement(r).name for k in settings if k == "requirements"
                     or k.endswith("_requirements") for r in settings[k].split()}
