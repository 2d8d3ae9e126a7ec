"""The part of the book that needs no torch, on the Pythons that CI does not otherwise use.

What differs between Pythons is the language and its library: sums of floats, syntax, `datetime`, `zipfile`. The whole
of `make test` on each of them is started by hand, with VLRLBOOK_PYTHON (CONTRIBUTING says when)."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import bootstrap
from conftest import ROOT

pytestmark = pytest.mark.skipif(os.environ.get("VLRLBOOK_INSTALL") != "tested",
                                reason="VLRLBOOK_INSTALL is not `tested`: run `make test-install`")

# what these tests and pages import, in the lock's versions; torch and the libraries over it stay away
PACKAGES = ("numpy", "pandas", "pillow", "matplotlib", "datasets", "fastcore", "papermill", "ipykernel", "tqdm", "packaging",
            "pytest", "hypothesis", "nbdev", "execnb", "ghapi", "jinja2")
FILES = ("test_core.py", "test_rewards.py", "test_data.py", "test_vqa.py", "test_notebooks.py")
# of the pages, the two that need no torch; tests that need it skip themselves (`needs_torch`)
CHOSEN = "not test_notebook or 00_core or 02_rewards"


def locked_versions():
    "Lines of requirements.lock as constraints, without their hashes"
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^[\w.-]+==[^\\\n]+", text, re.M)) + "\n"


@pytest.mark.parametrize("wanted", ["3.11", "3.13"])
def test_what_needs_no_torch(wanted, tmp_path):
    python = bootstrap.find_python(wanted)
    if python is None: pytest.skip(f"there is no Python {wanted} on this machine")
    (tmp_path / "locked.txt").write_text(locked_versions(), encoding="utf-8")
    uv, own = bootstrap.find_uv(), str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([uv, "venv", "-q", "-p", python, str(tmp_path / "venv")], check=True)
    subprocess.run([uv, "pip", "install", "-q", "-p", own, "-c", str(tmp_path / "locked.txt"), *PACKAGES], check=True)
    tests = [str(ROOT / "tests" / name) for name in FILES]
    command = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, *tests]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    print(f"\nPython {wanted}: {done.stdout.strip().splitlines()[-1]}", flush=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150
