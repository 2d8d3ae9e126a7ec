"""A data directory with one thing broken: the server starts, or refuses in a sentence; nothing finished is lost, the others go on.

`VLRLBOOK_FULL=1` breaks every file and folder in every way (some hundred starts), else some at random and those that were found bad."""
import os
import random

import pytest
from support import damage

FULL = bool(os.environ.get("VLRLBOOK_FULL"))


def chosen(cases):
    if FULL: return cases
    first = [(path, way) for path, way in cases if len(path.parts) == 1 and way in ("remove", "emptied")]
    return first + random.Random(23).sample(cases, 12)


def test_one_thing_broken(tmp_path):
    bad, n = [], 0
    for path, way, refused, wrong in damage.table(tmp_path, chosen):
        n += 1
        if wrong: bad.append((str(path), way, wrong))
    assert n > (300 if FULL else 20) and not bad, bad
