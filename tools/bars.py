"""Takes progress bars out of stored pages: `python tools/bars.py [PAGE...]`. A stored bar says 0 % for ever, and papermill writes the
state of them all with every cell of a run."""
import sys
from pathlib import Path

import nbformat

nbs = Path(__file__).resolve().parent.parent / "nbs"


def is_bar(output): return any("widget" in kind for kind in output.get("data", {}))


def without_bars(path):
    "Write the page again if it has bars"
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    if nb.metadata.pop("widgets", None) is None and not any(is_bar(o) for c in code for o in c.outputs): return
    for c in code: c.outputs = [o for o in c.outputs if not is_bar(o)]
    nbformat.write(nb, path)


if __name__ == "__main__":
    for path in sys.argv[1:] or sorted(nbs.glob("[0-9]*.ipynb")): without_bars(path)
