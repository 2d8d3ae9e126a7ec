"""Where the chapters are, and how one of them is run as a job: `vlrlbook run 05_grpo out.ipynb -p lr 5e-5`.

The notebooks stand beside the package in a checkout and inside it in an installed wheel. Nothing heavy is
imported here: the doctor asks for them where NumPy may be broken. Written by hand."""
import os
import subprocess
import sys
from pathlib import Path

from .settings import nearest

__all__ = ["notebooks_dir", "notebook", "PapermillHandler", "handler", "own_python", "run_chapter",
           "kernels_path"]


def notebooks_dir() -> Path:
    "Return the folder of the chapters: inside an installed wheel, or beside the package in a checkout"
    from .core import book_file
    return book_file("00_core.ipynb").parent


def notebook(
    name: str,  # 05_grpo, 05_grpo.ipynb, grpo or 05
) -> Path:
    "Return the path of a chapter; for an unknown name the program ends and names the nearest chapter"
    chapters = sorted(notebooks_dir().glob("*.ipynb"))
    wanted = Path(name).name.removesuffix(".ipynb")
    matching = []
    for path in chapters:
        number_and_title = path.stem.split("_", 1)  # "05_grpo" -> ["05", "grpo"]
        if wanted in (path.stem, *number_and_title):
            matching.append(path)
    if len(matching) != 1:  # none, or more than one
        suggestion = nearest(wanted, [p.stem for p in chapters])  # ": did you mean …?", or a list of all
        raise SystemExit(f"vlrlbook: no chapter {name!r}{suggestion}")
    return matching[0]


class PapermillHandler:
    """Lets papermill read a chapter by an address such as `vlrlbook://05_grpo.ipynb`

    papermill finds it by the entry point `papermill.io`, and calls these four methods. Chapters can be read
    and listed; `write` must be there and always raises."""

    def read(self, path):
        return notebook(path.removeprefix("vlrlbook://")).read_text(encoding="utf-8")

    def listdir(self, path):
        return [f"vlrlbook://{p.name}" for p in sorted(notebooks_dir().glob("*.ipynb"))]

    def write(self, buf, path):
        raise OSError("vlrlbook:// can only be read")

    def pretty_path(self, path):
        return path


handler = PapermillHandler()


def own_python() -> list:  # words of a command line; behind them come `-m` or `-c`, and what these take
    "Return the words that start another Python, which imports the same modules as this one"
    package_root = Path(__file__).resolve().parents[1]
    if Path.cwd() == package_root:  # a clone that is not installed is found in the current folder alone
        return [sys.executable]
    # With -m and -c Python looks for modules in the current folder first, and a file random.py of somebody's
    # project would stand in for Python's own. -P (from Python 3.11 on) leaves that folder out.
    return [sys.executable, "-P"]


def run_chapter(
    name: str,  # of a chapter, such as 05_grpo or 05, or the path of a notebook
    out: str | Path,  # the notebook that the run writes; folders above it are made
    options: list,  # as papermill takes them, such as ["-p", "lr", "5e-5"]
) -> int:  # papermill's exit status
    """Run a chapter, or a user's copy of one, with papermill in a process of its own; return its exit status

    SystemExit if there is no such chapter or file."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    # PYTHONUTF8: where the locale is C, papermill would write letters outside ASCII as question marks.
    # JUPYTER_PATH: the kernel is looked for in the package first.
    environment = {**os.environ, "PYTHONUTF8": "1", "JUPYTER_PATH": kernels_path()}
    # own_python: the words that start this Python once more, such as ["/usr/bin/python3", "-P"]
    command = [*own_python(), "-m", "papermill", str(_notebook_to_run(name)), str(out), *options]
    return subprocess.call(command, env=environment)


def _notebook_to_run(name):
    "The user's own notebook, where `name` is the path of one; else the chapter of that name"
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():  # such as a copy that `vlrlbook notebooks` wrote
        return path
    if path.name != name:  # a path with folders in it is meant as a file
        raise SystemExit(f"vlrlbook: no such file: {name}")
    return notebook(name)


def kernels_path() -> str:
    "Return a JUPYTER_PATH by which Jupyter finds the package's own `python3` kernel first"
    # That kernel is ipykernel's without some warnings that nobody can act on. One is about TCP without
    # encryption, and is printed although the kernel listens on this machine only.
    own_folder = str(Path(__file__).resolve().parent / "jupyter")
    path_before = os.environ.get("JUPYTER_PATH")
    return os.pathsep.join([own_folder, path_before]) if path_before else own_folder
