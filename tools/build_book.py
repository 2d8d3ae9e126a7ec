"""Build the package from a clean copy of a checkout, as people get it: wheel and source archive.

    python tools/build_book.py FOLDER   both, in FOLDER/dist

A build in the checkout itself would take in what an earlier build left there (`build/lib` keeps modules
that are gone from the source), so everything is copied first."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# What a checkout may hold beside the book
NOT_THE_BOOK = re.compile(
    r"(^|/)(\.|build$|dist$|runs$|_site$|_docs$|_proc$|__pycache__$|.*\.egg-info$|out.*\.ipynb$)"
)


def build_book(
    checkout: Path,  # folder of the repository
    folder: Path,  # for the copy and what is built; it may not hold a copy yet
    change=None,  # function of settings.ini's text that gives the text to build with; None: as it is
) -> tuple:  # wheel, source archive
    "Build both; the wheel is made of the archive's files, so it shows what the archive lacks"
    folder = Path(folder).resolve()
    copy, out = folder / "book", folder / "dist"
    out.mkdir(parents=True)
    shutil.copytree(checkout, copy, ignore=beside_the_book)
    if change:
        settings = copy / "settings.ini"
        settings.write_text(change(settings.read_text(encoding="utf-8")), encoding="utf-8")
    # No isolation: the build has to work offline, with the setuptools that is installed.
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", out, copy]
    # In a folder of its own, since Python looks for modules where it runs first of all.
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"the build failed: {said[-4000:]}")
    # Only a warning yet: a folder with data that is not declared a package, to be left out one day.
    if "is absent from the `packages`" in said:
        raise RuntimeError(f"setuptools doubts what is a package: {said[-4000:]}")
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def beside_the_book(_, names):
    "Names in a folder that a copy leaves out"
    return {name for name in names if NOT_THE_BOOK.match(name)}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(*build_book(root, sys.argv[1]), sep="\n")
