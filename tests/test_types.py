"""mypy reads the package: names, calls, attributes and None that cannot be right are found without running a line.

What it is asked is in mypy.ini. A first run reads torch and transformers too, half a minute of work; what it found is
kept in .mypy_cache."""
import re
import subprocess
import sys

from conftest import ROOT

# A call without what it needs, a sum with what may be None, and a misspelt method of TRL's trainer in a mixin
WRONG = '''from vlrlbook.data import drawn_questions
from vlrlbook.folders import checkpoint_number
from vlrlbook.training import BeforeGRPOTrainer


def first(path: str):
    return drawn_questions(1)[0], checkpoint_number(path) + 1


class Mixin(BeforeGRPOTrainer):
    def training_step(self, *args, **kwargs):
        return super().trainings_step(*args, **kwargs)
'''


def mypy(*files):
    "What `mypy` says of these files, or of the package"
    words = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-color-output", *map(str, files)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_mypy_finds_nothing():
    done = mypy()
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_can_find_something(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    done = mypy(wrong)
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"wrong\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    assert sorted(found) == [("12", "misc"), ("7", "call-arg"), ("7", "operator")]


def test_an_exception_says_which_and_why():
    "`# type: ignore` with mypy's own code and some words: the line is right, and mypy cannot know it"
    for path in sorted((ROOT / "vlrlbook").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "type: ignore" in line:
                assert re.search(r"# type: ignore\[[\w,-]+\] +# \S", line), f"{path.name}:{number}: {line.strip()}"
