"""Exercises of the chapter on models: each check lets the solution pass, and says what is wrong with solutions that are nearly right."""
import importlib
import json

import pytest
from conftest import ROOT

PAGE = json.loads((ROOT / "nbs/00a_models.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell): return "".join(cell["source"])


def cells_of(name):
    "The exercise that defines `name`, and the check behind it"
    place = next(i for i, c in enumerate(PAGE) if f"def {name}(" in source(c) and "exercise" in c["metadata"].get("tags", []))
    return source(PAGE[place]), source(PAGE[place + 1])


def names_of_chapter(): return dict(vars(importlib.import_module("vlrlbook.models")), __name__="chapter")


JOINED = "lambda one, two: dict(A=torch.cat([one['A'], two['A']]), B={B}, r={r}, alpha={alpha})"
SCALED = "torch.cat([a['B'] * a['alpha'] / a['r'] for a in (one, two)], 1)"
NEARLY = { # solutions that a student may well write, each wrong in one point, and a word of what is said about it
    "my_adapter_size": [("lambda layers, r: sum(i * o for i, o in layers)", "stay as they are"),
                        ("lambda layers, r: sum(r * i for i, o in layers)", "one of two matrices"),
                        ("lambda layers, r: sum(r * o for i, o in layers)", "one of two matrices"),
                        ("lambda layers, r: sum(r * i * o for i, o in layers)", "not stored"),
                        ("lambda layers, r: sum(i + o for i, o in layers)", "rank 1"),
                        ("lambda layers, r: sum(2 * r * i for i, o in layers)", "yours")],
    "my_joined": [(JOINED.format(B="torch.cat([one['B'], two['B']], 1)", r="one['r'] + two['r']", alpha="one['alpha'] + two['alpha']"),
                   "scale of its own"), # passes where both scales are equal
                  (JOINED.format(B=SCALED, r="one['r'] + two['r']", alpha="one['alpha'] + two['alpha']"), "still multiplied"),
                  (JOINED.format(B="torch.cat([one['B'], two['B']])", r="one['r'] + two['r']", alpha="1"), "the shapes are"),
                  (JOINED.format(B=SCALED, r="one['r']", alpha="one['r']"), "the shapes are"),
                  ("lambda one, two: {k: one[k] + two[k] if k in 'AB' else one[k] for k in one}", "other adapter"),
                  ("lambda one, two: (one, two)", "returns a dict")],
    "my_checkpoint": [("lambda f: max((n for n, whole in f.items() if whole and n.startswith('checkpoint-')), default=None)", "as a text"),
                      ("lambda f: max(f, key=lambda n: int(n.split('-')[-1]), default=None)", "not whole"),
                      ("lambda f: max((n for n, whole in f.items() if whole), key=lambda n: int(n.split('-')[-1]), default=None)",
                       "no checkpoints"),
                      ("lambda f: next((n for n, whole in f.items() if whole and n.startswith('checkpoint-')), None)", "newest of two")]}


@pytest.mark.parametrize("name, wrong, told", [(n, w, t) for n, pairs in NEARLY.items() for w, t in pairs])
def test_nearly_right_is_wrong(name, wrong, told):
    _, check = cells_of(name)
    names = names_of_chapter()
    names[name] = eval(wrong, names)
    with pytest.raises(AssertionError, match=told): exec(check, names)


@pytest.mark.parametrize("name", NEARLY)
def test_right_is_right(name):
    exercise, check = cells_of(name)
    names = names_of_chapter()
    exec(exercise, names)
    exec(check, names)


@pytest.mark.parametrize("name", NEARLY)
def test_a_solution_does_not_stand_on_the_page(name):
    "What the solution returns is in no other cell of the chapter"
    exercise, _ = cells_of(name)
    returned = [line.strip() for line in exercise.splitlines() if line.strip().startswith("return ")]
    others = [source(cell) for cell in PAGE if source(cell) != exercise]
    assert returned and not [line for line in returned for other in others if line.removeprefix("return ") in other]
