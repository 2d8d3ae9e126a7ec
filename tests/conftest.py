"""Everything runs offline, with one cache for the warm starts that the tests share."""
import contextlib
import importlib.util
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["IN_TEST"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1") # two workers of two threads on two cores wait for each other
if importlib.util.find_spec("hypothesis"): # not in the engines' environments
    import hypothesis
    hypothesis.settings.register_profile("book", deadline=None) # no test asserts seconds: a machine may be busy
    hypothesis.settings.load_profile("book")
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
NO_LEROBOT = "LeRobot is not installed" + (", it needs Python 3.12 or newer" if sys.version_info < (3, 12) else "")
needs_lerobot = pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason=NO_LEROBOT)
# a test of a file that also runs where no torch is (tests/install/test_other_pythons.py), and that builds a twin
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
SHARED = ROOT.parent / "shared" / "data"
SHORT = dict(warm_steps=2, max_steps=2, batch_size=8, num_generations=4, eval_samples=4, eval_answers=2, logging_steps=1, save_steps=1)
SEVEN = {"adapter_config.json", "adapter_model.safetensors", "training_args.json", "tokenizer.json", "tokenizer_config.json",
         "preprocessor_config.json", "trainer_state.json"} # what a run of chapter 05 leaves


def tool(name):
    "A file of tools/ as a module"
    spec = importlib.util.spec_from_file_location(f"book_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def papermill(chapter, folder, **parameters):
    "A chapter as people run it, in `folder`; half a minute goes into a kernel, its imports, and a notebook written after every cell"
    options = [x for k, v in parameters.items() for x in ("-p", k, str(v))]
    return subprocess.run([sys.executable, "-m", "papermill", str(chapter), "out.ipynb", *options, "--no-progress-bar"], cwd=folder,
                          capture_output=True, text=True)


def run_page(chapter, folder, **parameters):
    "Every cell of a chapter in this process, in `folder`, with papermill's own way of putting parameters in; what a cell raises is raised"
    import nbformat
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    path = folder / "page.ipynb"
    nbformat.write(parameterize_notebook(load_notebook_node(str(chapter)), parameters), path)
    with contextlib.chdir(folder): CaptureShell(path).run_all(read_nb(path), exc_stop=True)


def start_process(target, *args):
    "`target` in a process of its own, with the libraries loaded already; it imports the file that `target` stands in"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vlrlbook.grpo", "trl", "hypothesis", "papermill"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


spec = importlib.util.spec_from_file_location("book_build", ROOT / "tools" / "build_book.py")
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)
NOT_THE_BOOK = builder.NOT_THE_BOOK


def build_book(folder, change=None):
    "(wheel, source archive), built in `folder` from a copy of the checkout; `change` may edit the copy's settings.ini first"
    return builder.build_book(ROOT, folder, change)


def chapter(path):
    "A chapter as a test's parameter; chapter 04 is skipped where LeRobot is missing"
    return pytest.param(path, id=path.stem, marks=[needs_lerobot] if path.stem == "04_aloha" else [])


def pytest_terminal_summary(terminalreporter):
    "The closing lines say what this Python could not test"
    left_out = [r for r in terminalreporter.stats.get("skipped", []) if NO_LEROBOT in str(r.longrepr)]
    if left_out: terminalreporter.write_line(f"left out: chapter 04 and what needs it ({len(left_out)} skipped): {NO_LEROBOT}")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    "A fresh cache, so that no test passes thanks to an earlier run"
    os.environ["VLRLBOOK_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["VLRLBOOK_CACHE"])


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 8 MB"
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
