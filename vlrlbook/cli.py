"""The `vlrlbook` command: each subcommand is a thin face of an exported function. Written by hand; every other module is exported from a notebook."""
import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path


def notebooks_dir() -> Path:
    "Folder of the chapters: inside an installed wheel, or beside the package in a checkout"
    here = Path(__file__).resolve().parent
    for folder in (here / "nbs", here.parent / "nbs"):
        if any(folder.glob("*.ipynb")): return folder
    raise FileNotFoundError("the notebooks are not installed beside vlrlbook")


def notebook(name: str) -> Path:
    "Path of the chapter called `name`: '05_grpo', '05_grpo.ipynb', 'grpo' or '05'"
    from vlrlbook.core import nearest
    chapters = sorted(p for p in notebooks_dir().glob("*.ipynb"))
    stem = Path(name).name.removesuffix(".ipynb")
    found = [p for p in chapters if stem in (p.stem, *p.stem.split("_", 1))]
    if len(found) != 1: raise SystemExit(f"vlrlbook: no chapter {name!r}{nearest(stem, [p.stem for p in chapters])}")
    return found[0]


class PapermillHandler:
    "Lets papermill read `vlrlbook://05_grpo.ipynb` (entry point `papermill.io`)"
    def read(self, path): return notebook(path.removeprefix("vlrlbook://")).read_text(encoding="utf-8")
    def listdir(self, path): return [f"vlrlbook://{p.name}" for p in sorted(notebooks_dir().glob("*.ipynb"))]
    def write(self, buf, path): raise OSError("vlrlbook:// can only be read")
    def pretty_path(self, path): return path


handler = PapermillHandler()


def run(args, rest):
    "Run a chapter as a papermill job; `-p name value` as papermill takes it"
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    return subprocess.call([sys.executable, "-m", "papermill", str(notebook(args.chapter)), args.out, *rest], env={**os.environ, "PYTHONUTF8": "1"})


def notebooks(args, rest):
    "Copy the chapters into a folder, to read and change"
    if Path(args.out_dir).exists(): raise SystemExit(f"vlrlbook: {args.out_dir} is there already")
    shutil.copytree(notebooks_dir(), args.out_dir, ignore=shutil.ignore_patterns(".*", "_*", "runs", "*.py"))
    print(*sorted(p.name for p in Path(args.out_dir).glob("*.ipynb")), sep="\n")


def merge_lora(args, rest):
    "Fold an adapter into its base and save a plain model directory"
    from vlrlbook.models import merge_lora
    merge_lora(args.base_model, args.lora_model, args.output_path, cache_dir=args.cache_dir)


def parser() -> argparse.ArgumentParser:
    "The command line: option names as the systems write them, with - or _"
    top = argparse.ArgumentParser(prog="vlrlbook", description="Reinforcement learning for vision-language models, as a book that runs")
    commands = top.add_subparsers(dest="command", required=True)

    def command(function, name, *options):
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        for flags, kwargs in options: sub.add_argument(*flags, **kwargs)

    def option(name, **kwargs): return (f"--{name}", f"--{name.replace('_', '-')}"), dict(dest=name, **kwargs)

    command(run, "run", (["chapter"], dict(help="such as 05_grpo")), (["out"], dict(help="executed notebook to write")))
    command(notebooks, "notebooks", (["out_dir"], dict(help="new folder")))
    command(merge_lora, "merge-lora", option("base_model", required=True, help="path or hub id"), option("lora_model", required=True, help="adapter's directory"),
            option("output_path", required=True, help="new directory"), option("cache_dir", help="where hub downloads go"))
    return top


def main(argv=None):
    "Entry point of the console command"
    args, rest = parser().parse_known_args(argv)
    if rest and args.command != "run": parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try: return args.function(args, rest)
    except (OSError, ValueError) as e: sys.exit(f"vlrlbook {args.command}: {e}")


if __name__ == "__main__": sys.exit(main())
