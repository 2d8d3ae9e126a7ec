"""Measure what the book's figures and tables are drawn from, and keep it in nbs/logs.

    python tools/logs.py                   the measurements, a line each
    python tools/logs.py NAME [WORD ...]   take one; its file is tools/measure/NAME.py
    python tools/logs.py NAME --help       what it asks for, how long it takes and which log it writes"""
import ast
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

folder = Path(__file__).resolve().parent / "measure"
helpers = {"__init__", "common"}  # files of that folder that measure nothing


def measurements():
    "Name of each measurement -> its file"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem not in helpers}


def description(path):
    "Docstring of a measurement's file; read, not imported, since some imports take seconds"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def listing():
    "All measurements with the first line of each docstring"
    lines = [__doc__, ""]  # a new measurement appears here by its file alone
    for name, path in measurements().items():
        first_line = description(path).splitlines()[0]
        lines.append(f"    {name:15} {first_line}")
    return "\n".join(lines)


def run(
    name: str,  # of a measurement
    words: list,  # of the command line behind the name
):
    "Take one measurement, or say how it is asked for"
    known = measurements()
    if name not in known:
        sys.exit(f"no measurement is called {name}\n\n{listing()}")
    if words in (["-h"], ["--help"]):
        print(description(known[name]))
        return
    measure = import_module(f"measure.{name}").main
    try:
        signature(measure).bind(*words)
    except TypeError as error:
        # Asked before it is called: a TypeError out of the measurement itself has to show its traceback.
        sys.exit(f"{name}: {error}\n\n{description(known[name])}")
    measure(*words)


if __name__ == "__main__":
    if sys.argv[1:]:
        run(sys.argv[1], sys.argv[2:])
    else:
        print(listing())
