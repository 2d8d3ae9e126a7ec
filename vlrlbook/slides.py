"""Slides of notebooks that `vlrlbook workshop --short` wrote.

The notebooks are run first, so that their figures are in the slides; what a student would train is taken from
a stored run. Written by hand."""
from pathlib import Path

from .folders import new_folder

__all__ = ["write_slides", "executed", "slides_html"]

# Parameters with which the class's third notebook trains nothing, and loads stored runs in its place.
_quick = dict(train_the_books_reward=False, my_run_failed=True)
hide_input = "hide-input"  # tag of a cell of which the slides show only the figure, and not the code


def write_slides(
    folder: str | Path,  # with notebooks
    out: str | Path | None = None,  # folder for the slides, must not exist yet; None: slides/ in `folder`
) -> list:  # paths of the slides, HTML files
    "Run every notebook of a folder, and write each as slides. If one fails, no slides are written"
    # the names begin with numbers, so this is the order of the class
    paths = sorted(Path(folder).glob("*.ipynb"))
    if not paths:
        raise ValueError(f"{folder}: no notebook is there")
    target = Path(out) if out else Path(folder) / "slides"
    # `aside` is a hidden folder; it becomes `target` when the block ends without an error
    with new_folder(target, existing="none", manifest=False) as aside:
        for path in paths:
            page = slides_html(executed(path))
            (aside / f"{path.stem}.slides.html").write_text(page, encoding="utf-8")
    return sorted(target.iterdir())


def executed(
    path: str | Path,  # a notebook
    parameters: dict = None,  # put behind its parameters cell; None: those with which nothing is trained
):  # a NotebookNode with outputs
    """Run a notebook in a temporary folder, and return it with its outputs.

    Cells that are tagged `raises-exception`, as the checks of empty exercises are, may fail."""
    import tempfile
    from nbclient import NotebookClient
    book = _with_parameters(path, _quick if parameters is None else parameters)
    # files that the notebook writes are deleted with the folder
    with tempfile.TemporaryDirectory() as work_folder:
        resources = dict(metadata=dict(path=work_folder))
        NotebookClient(book, timeout=None, resources=resources).execute()
    return book


def _with_parameters(
    path,  # of a notebook
    parameters,  # name of a variable → value, such as my_run_failed → True
):
    """Read a notebook, and put a cell that sets the parameters behind its cell tagged `parameters`.

    A notebook without that cell takes no parameters, and comes back as it is."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    # read with papermill, whose reader adds metadata that `parameterize_notebook` needs
    book = load_notebook_node(str(path))
    if any("parameters" in cell.metadata.get("tags", []) for cell in book.cells):
        book = parameterize_notebook(book, parameters)
    # the cell that papermill has inserted, with the new values, is shown on no slide
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["slideshow"] = dict(slide_type="skip")
    return book


def slides_html(
    book,  # a NotebookNode with outputs
) -> str:  # HTML
    """Convert a notebook into slides.

    To show them, a browser downloads the JavaScript libraries reveal.js and MathJax."""
    from nbconvert import SlidesExporter
    from traitlets.config import Config
    config = Config()
    # the code of cells with the tag `hide_input`, which only draw a figure, is left out; their output stays
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {hide_input}
    config.SlidesExporter.exclude_input_prompt = True
    config.SlidesExporter.exclude_output_prompt = True
    # many cells are taller than a slide, so slides can be scrolled
    exporter = SlidesExporter(config=config, reveal_scroll=True)
    html, _resources = exporter.from_notebook_node(book)
    return html
