"""Slides of notebooks that `vlrlbook workshop --short` wrote.

The notebooks are run first, so that their figures are in the slides; what a student would train is taken from
a stored run. Written by hand."""
from pathlib import Path

from .folders import new_folder

__all__ = ["write_slides", "executed", "slides_html"]

# Parameters of a notebook with which nothing is trained; one that has no such cell is run as it is.
_quick = dict(train_the_books_reward=False, my_run_failed=True)
hide_input = "hide-input"  # tag of a cell whose figure matters and whose lines are left out


def write_slides(
    folder: str | Path,  # with notebooks
    out: str | Path | None = None,  # folder to write, new; None: slides/ in `folder`
) -> list:  # paths of the slides
    "Run every notebook of a folder and write it as slides, all of them or none"
    # in the order of the class: the names begin with numbers
    paths = sorted(Path(folder).glob("*.ipynb"))
    if not paths:
        raise ValueError(f"{folder}: no notebook is there")
    target = Path(out) if out else Path(folder) / "slides"
    with new_folder(target, existing="none", manifest=False) as aside:
        for path in paths:
            page = slides_html(executed(path))
            (aside / f"{path.stem}.slides.html").write_text(page, encoding="utf-8")
    return sorted(target.iterdir())


def executed(
    path: str | Path,  # a notebook
    parameters: dict = None,  # for its parameters cell; None: those with which nothing is trained
):  # a NotebookNode with outputs
    "A notebook run from its first cell in a folder of its own; a check of an empty exercise may fail"
    import tempfile
    from nbclient import NotebookClient
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    # papermill's reader, since its way of putting parameters in wants what it adds
    book = load_notebook_node(str(path))
    if any("parameters" in cell.metadata.get("tags", []) for cell in book.cells):
        book = parameterize_notebook(book, _quick if parameters is None else parameters)
    # the cell that papermill puts in stands on no slide
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["slideshow"] = dict(slide_type="skip")
    # a folder of its own: what the notebook writes is not for the teacher to keep
    with tempfile.TemporaryDirectory() as empty:
        NotebookClient(book, timeout=None, resources=dict(metadata=dict(path=empty))).execute()
    return book


def slides_html(
    book,  # a NotebookNode with outputs
) -> str:
    "A notebook as slides; a browser fetches reveal.js and MathJax from the network to show them"
    from nbconvert import SlidesExporter
    from traitlets.config import Config
    config = Config()
    # figures stay, the lines that draw them go
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {hide_input}
    config.SlidesExporter.exclude_input_prompt = True
    config.SlidesExporter.exclude_output_prompt = True
    # much of what is taught is taller than a slide
    exporter = SlidesExporter(config=config, reveal_scroll=True)
    return exporter.from_notebook_node(book)[0]
