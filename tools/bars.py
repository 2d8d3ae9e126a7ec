"""Take progress bars out of stored pages: `python tools/bars.py [PAGE...]`.

A stored bar says 0 % for ever, and papermill writes the state of all bars with every cell of a run."""
import sys
from pathlib import Path

import nbformat

nbs = Path(__file__).resolve().parent.parent / "nbs"


def is_bar(output):
    "Is this output of a cell a widget? The book shows no others than progress bars"
    return any("widget" in kind for kind in output.get("data", {}))


def without_bars(
    path: Path,  # of a notebook
):
    "Write the page again if it has bars"
    page = nbformat.read(path, 4)
    states = page.metadata.pop("widgets", None)
    found = states is not None
    for cell in page.cells:
        if cell.cell_type != "code":
            continue
        kept = [output for output in cell.outputs if not is_bar(output)]
        found = found or len(kept) < len(cell.outputs)
        cell.outputs = kept
    # A page without bars keeps its bytes: written again, it would look changed to git and to make.
    if found:
        nbformat.write(page, path)


if __name__ == "__main__":
    for path in sys.argv[1:] or sorted(nbs.glob("[0-9]*.ipynb")):
        without_bars(path)
