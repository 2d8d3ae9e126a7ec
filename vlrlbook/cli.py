"""The `vlrlbook` command: each subcommand is a thin face of a function of another module.

Written by hand, like `doctor`, `folders`, `settings` and `versions`; the other modules are exported from notebooks."""
import argparse
import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def notebooks_dir() -> Path:
    "Folder of the chapters: inside an installed wheel, or beside the package in a checkout"
    from vlrlbook.core import book_file
    return book_file("00_core.ipynb").parent


def notebook(name: str) -> Path:
    "Path of the chapter called `name`: '05_grpo', '05_grpo.ipynb', 'grpo' or '05'"
    from vlrlbook.core import nearest
    chapters = sorted(notebooks_dir().glob("*.ipynb"))
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
    return subprocess.call([sys.executable, "-m", "papermill", str(notebook(args.chapter)), args.out, *rest],
                           env={**os.environ, "PYTHONUTF8": "1", "JUPYTER_PATH": kernels_path()})


def kernels_path() -> str:
    "JUPYTER_PATH with the package's own `python3` kernel in front: ipykernel's, less warnings that nobody can act on"
    # such as the one about TCP without encryption, printed for a kernel that listens on this machine only
    own = str(Path(__file__).resolve().parent / "jupyter")
    before = os.environ.get("JUPYTER_PATH")
    return os.pathsep.join([own, before]) if before else own


def notebooks(args, rest):
    "Copy the chapters into a folder, to read and change"
    if Path(args.out_dir).exists(): raise SystemExit(f"vlrlbook: {args.out_dir} is there already")
    from vlrlbook.folders import new_folder
    unwanted = shutil.ignore_patterns(".*", "_*", "runs", "*.py")
    with new_folder(args.out_dir, existing="none", manifest=False) as aside:
        shutil.copytree(notebooks_dir(), aside, ignore=unwanted, dirs_exist_ok=True)
    print(*sorted(p.name for p in Path(args.out_dir).glob("*.ipynb")), sep="\n")


allowance = dict(talk=15, exercise=15, questionnaire=5) # minutes a chapter that a teacher may want to change; nobody has measured them
days = {"Half a day": ("00_core", "01_data", "break 15", "02_rewards", "05_grpo", "06_evaluation"),
        "A full day": ("00_core", "00a_models", "break 15", "01_data", "02_rewards", "03_reward_model", "break 60", "04_aloha", "05_grpo",
                       "break 15", "06_evaluation", "07_shared_prompt")}


def workshop(args, rest):
    "Write the chapters for teaching: outputs gone, exercises empty, solutions folded away, and a plan for half a day and a full one"
    from vlrlbook.folders import new_folder
    with new_folder(args.out_dir, existing="none", manifest=False) as aside:
        for path in sorted(notebooks_dir().glob("[0-9]*.ipynb")):
            made = twin(json.loads(path.read_text(encoding="utf-8")), path.name)
            text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
            (aside / path.name).write_text(text, encoding="utf-8")
        (aside / "PLAN.md").write_text(plan(), encoding="utf-8")
    print(*sorted(p.name for p in Path(args.out_dir).iterdir()), sep="\n")


def twin(book: dict, name: str) -> dict:
    "A chapter without outputs; each cell tagged `exercise` is emptied and its solution folded away behind the `check` that follows it"
    cells, waiting = [], None
    for cell in book["cells"]:
        tags, source = cell["metadata"].get("tags", []), "".join(cell["source"])
        if "solution" in tags: continue
        if waiting and "check" not in tags: raise ValueError(f"{name}, cell {cell['id']}: expected the check of the exercise before it")
        if cell["cell_type"] == "code": cell = cell | dict(outputs=[], execution_count=None)
        if "exercise" in tags:
            cell, waiting = cell | dict(source=emptied(source, f"{name}, cell {cell['id']}").splitlines(keepends=True)), source
        if "check" in tags: cell = cell | dict(metadata=dict(tags=[*tags, "raises-exception"])) # "run all" goes on behind it
        cells.append(cell)
        if waiting and "check" in tags:
            folded = f"<details><summary>A solution</summary>\n\n```python\n{waiting}\n```\n\n</details>"
            cells.append(dict(cell_type="markdown", id=f"{cell['id']}-solution", metadata={}, source=folded.splitlines(keepends=True)))
            waiting = None
    if waiting: raise ValueError(f"{name}: its last exercise has no check")
    return book | dict(cells=cells, metadata={k: v for k, v in book["metadata"].items() if k != "widgets"})


def emptied(source: str, where: str) -> str:
    "`source` with signature and docstring of each function, and `...` for its body"
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not functions: raise ValueError(f"{where}: expected an exercise that is a function")
    for node in reversed(functions):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        first = body[0].lineno - 1
        lines[first:node.end_lineno] = [lines[first].encode()[:body[0].col_offset].decode() + "..."]
    return "\n".join(lines)


def plan() -> str:
    "PLAN.md: what is run when; the measured minutes of the machine and the allowance for people stand apart"
    from vlrlbook.core import Table, book_file
    with open(book_file("logs/chapters.csv"), newline="", encoding="utf-8") as f:
        measured = {row["chapter"]: row for row in csv.DictReader(f)}
    people = sum(allowance.values())
    pages = ["# Plan of a workshop", plan_words.format(people=people, **allowance)]
    for title, order in days.items():
        rows, now, machine = [], 9 * 60, 0
        for what in order:
            row, pause = measured.get(what), int(what.removeprefix("break ")) if what.startswith("break") else None
            seconds = 0 if pause else int(row["seconds"])
            rows.append({"from": f"{now // 60}:{now % 60:02d}", "chapter": "break" if pause else f"`{what}`",
                         "what you see": "" if pause else row["what"],
                         "machine, measured": "" if pause else f"{seconds // 60} min {seconds % 60:02d} s",
                         "memory, measured": "" if pause else f"{row['memory_mb']} MB", "people, allowed": f"{pause or people} min"})
            now, machine = now + (pause or people) + -(-seconds // 60), machine + seconds
        pages.append(
            f"## {title}\n\n{Table(rows)}\n\nEnds at {now // 60}:{now % 60:02d}, of which the machine works {machine / 60:.0f} minutes.")
    return "\n\n".join(pages) + "\n"


plan_words = """Each notebook of this folder is a chapter without its outputs. A cell below *Your turn* is to be filled in; the cell behind it says whether it is right and, if not, what is wrong; a solution is folded away below. The questionnaire and two experiments end each chapter. *Run all* goes on behind a check that fails.

    pip install "vlrlbook[lab]"
    jupyter lab

Chapter 04 reads LeRobot's files (`pip install "vlrlbook[aloha]"`, Python 3.12 or newer) and chapter 08 runs a server (`pip install "vlrlbook[serve]"`). Nothing else is needed: models are built and pictures drawn on the spot, and logs of longer runs are in the package.

Chapters that stand in neither plan are for afterwards. Lines that begin with `#|` tell nbdev what goes into the package; in class they are comments.

Two kinds of minutes stand below, and only one of them was measured.

- **Machine, measured**: one run of the whole chapter, from its first cell to its last and from an empty cache, on two CPU cores (`nbs/logs/chapters.csv`, written by `tools/logs.py pages`). A chapter that is run a second time finds its warm start in the cache. No GPU was measured.
- **People, allowed**: {people} minutes a chapter, {talk} to talk and read, {exercise} for the exercise, {questionnaire} for the questionnaire. This is a teacher's allowance. No class has been timed with it; write down what yours takes.

The hours begin at 9:00 and count machine and people one after the other, machine minutes rounded up. While a long chapter runs (03 to 06), go through its questionnaire: that wins back most of the machine's minutes."""


def merge_lora(args, rest):
    "Fold an adapter into its base and save a plain model directory"
    from vlrlbook.models import merge_lora
    merge_lora(args.base_model, args.lora_model, args.output_path, cache_dir=args.cache_dir)


def convert_vqa(args, rest):
    "Chat, flat or VQA-RAD rows to EasyR1 rows"
    from vlrlbook.data import convert_vqa, published_split, read_rows
    print(f"{convert_vqa(args.input_jsonl, args.output_jsonl, args.image_dir, args.split)} rows in "
          f"{args.output_jsonl}{', parted into _train and _test' if args.split else ''}")
    if args.split == "published":
        print(f"{published_split([row for _, row in read_rows(args.input_jsonl)])[2]:.0%} of the test pictures are in the train part too; "
              "--split picture keeps them apart")


def check_data(args, rest):
    "Check a counting ZIP, a VQA file or a preference file; says what would be kept, skipped or refused"
    from tempfile import TemporaryDirectory
    from vlrlbook.data import read_counting_zip, read_preferences, read_rows, vqa_row
    path = Path(args.path)
    if path.suffix == ".zip":
        with TemporaryDirectory() as folder: print(read_counting_zip(path, Path(folder) / "out", strict=args.strict)[1])
    elif args.kind == "preferences": print(f"{len(read_preferences(path, args.image_dir))} preference rows")
    else: print(f"{len([vqa_row(row, number, args.image_dir) for number, row in read_rows(path)])} VQA rows")


def given(args, rest) -> dict:
    "The settings that were written; other names for them, and names that nobody knows, are left to `read_settings`"
    from vlrlbook.core import named_options
    written = {k: v for k, v in vars(args).items() if k not in ("command", "function", "config") and v is not None}
    return written | named_options(rest)


def grpo(args, rest):
    "Train with GRPO without the page; settings of chapter 05, from a file and from options"
    from vlrlbook.core import read_settings
    from vlrlbook.grpo import GRPOSettings, load_settings, run
    run(load_settings(args.config, **given(args, rest)) if args.config else read_settings(GRPOSettings, given(args, rest)))


def reward_model(args, rest):
    "Train a reward model on preference rows; settings of chapter 03"
    from vlrlbook.core import read_settings
    from vlrlbook.reward_model import RewardModelSettings, train_reward_model
    found = train_reward_model(read_settings(RewardModelSettings, given(args, rest)))
    if found:
        print(f"{found['n']} pairs judged: accuracy {found['pair_accuracy']:.3f} ({found['ci95'][0]:.3f} to {found['ci95'][1]:.3f}); "
              f"{found['model']}")


def score(args, rest):
    "Score a preference file with a reward model; the result's name is always a new one"
    from vlrlbook.core import Table
    from vlrlbook.reward_model import report_table, score_file
    found = score_file(args.model, args.data, args.output_dir, args.image_dir, args.batch_size, args.skip_bad_rows, device=args.device)
    for row in found["skipped"]: print(f"skipped row {row['row']}: {row['code']}, {row['message']}")
    print(Table(report_table(found["report"]), f"{found['pairs_per_second']:.1f} pairs a second; {found['path']}"))


def aloha(args, rest):
    "Robot films to reward bins: train, analyze, predict or chat; settings of chapter 04"
    from vlrlbook.aloha import AlohaSettings, run_aloha
    from vlrlbook.core import read_settings
    made = run_aloha(read_settings(AlohaSettings, given(args, rest)))
    if made is not None and int(os.environ.get("RANK", 0)) == 0: print(made)


def evaluate(args, rest):
    "Measure a model, with and without its adapter, or score a file of answers; settings of chapter 06"
    from vlrlbook.core import Table, read_settings
    from vlrlbook.evaluation import EvaluationSettings, evaluate, with_interval
    results = evaluate(read_settings(EvaluationSettings, given(args, rest)))
    print(Table([dict(metric=m["name"], value=with_interval(m), n=m["n"], interval=m["interval"]) for m in results["metrics"]]))
    print(Table([dict(question=q["question"], answer=q["answer"], because=q["because"]) for q in results["questions"]]))


def serve(args, rest):
    "Run the training service and its page; settings of chapter 08"
    from vlrlbook.core import read_settings
    from vlrlbook.service import ServiceSettings, serve
    written = given(args, rest)
    if written.pop("no_token"): written["token"] = False
    serve(read_settings(ServiceSettings, written))


def exported(args, rest, verl=False):
    "Export as the arguments say, and tell what is there"
    from vlrlbook.easyr1 import export_easyr1, export_keys, export_verl, parse_overrides, read_engine_yaml
    engine = "verl" if verl else args.version
    config = read_engine_yaml(args.config, engine, rest).given if getattr(args, "config", None) else {}
    given = {k: v for k, v in config.items() if k not in export_keys(engine)} | parse_overrides(rest, engine)
    where = dict(val=args.val_data, image_dir=args.image_dir)
    folder = export_verl(args.data, args.reward, given, args.output_dir, **where) if verl else export_easyr1(args.data, args.reward, given,
        args.output_dir, args.version, **where)
    train, val = json.loads((folder / "export.json").read_text())["rows"]
    print(f"{folder}: {train} rows to learn from, {val} to measure on; next: vlrlbook dry-run --path {folder}")


def export_easyr1(args, rest):
    "Write a directory that EasyR1 runs: rows, pictures, prompt.jinja, reward.py, config.yaml, train.sh; any a.b=c sets a key"
    exported(args, rest)


def export_verl(args, rest):
    "Write a directory that verl runs: parquet files, reward.py, train.sh with every override; any a.b=c sets a key"
    exported(args, rest, verl=True)


def dry_run(args, rest):
    "Look through an exported directory, or an EasyR1 YAML, before it costs anything; exit status 1 if there are problems"
    from vlrlbook.easyr1 import dry_run
    found = dry_run(args.path, overrides=rest, version=args.version, processes=args.processes, gpu_gb=args.gpu_gb)
    print(found)
    return 0 if found.ok else 1


def merge_shards(args, rest):
    "FSDP shards of EasyR1 or verl as one model directory; --test compares with a model directory, tensor by tensor"
    from vlrlbook.core import Table
    from vlrlbook.easyr1 import merge_shards
    print(Table([merge_shards(args.local_dir, args.output_dir, args.dtype, args.test, args.lora, args.lora_alpha, args.max_shard_gb)]))


def quick_start(args, rest):
    "Merge, export, dry run, train, merge shards, evaluate: each stage resumable and skippable; settings of chapter 09"
    from vlrlbook.core import Table, read_settings
    from vlrlbook.easyr1 import QuickStartSettings, quick_start
    print(Table(quick_start(read_settings(QuickStartSettings, given(args, rest)))["stages"]))


def doctor(args, rest):
    "Say what this machine can run and what to do about the rest; exit status 1 if it cannot run the main job"
    from vlrlbook.doctor import main
    return main(args.quick)


def version_line() -> str:
    "Name and version; those of the metadata, or of the code where it is not installed"
    from importlib.metadata import PackageNotFoundError, version
    try:
        return f"vlrlbook {version('vlrlbook')}"
    except PackageNotFoundError:
        from vlrlbook import __version__
        return f"vlrlbook {__version__}"


def chapter_options(chapter):
    "(name, help) of a chapter's settings, from its parameters cell, so that --help imports nothing heavy"
    # To find the chapters, NumPy and Pillow are imported. Where they are missing, `vlrlbook doctor` must
    # still start and say so. An option that is not listed here is taken all the same.
    try: notebooks_dir()
    except ImportError: return []
    if chapter == "05_grpo":
        from vlrlbook.settings import GRPOSettings, settings_help
        return list(settings_help(GRPOSettings).items())
    # the other chapters' classes stand in modules that import torch, so their pages are read
    cells = json.loads(notebook(chapter).read_text(encoding="utf-8"))["cells"]
    cell = next("".join(c["source"]) for c in cells if c["metadata"].get("tags") == ["parameters"])
    return re.findall(r"^(\w+):.*?  # (.*)$", cell, re.M)


def parser() -> argparse.ArgumentParser:
    "The command line: option names as the systems write them, with - or _"
    top = argparse.ArgumentParser(prog="vlrlbook", description="Reinforcement learning for vision-language models, as a book that runs")
    top.add_argument("--version", action="version", version=version_line())
    commands = top.add_subparsers(dest="command", required=True)

    def command(function, name, *options):
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        sub.set_defaults(function=function)
        for flags, kwargs in options: sub.add_argument(*flags, **kwargs)

    def option(name, **kwargs): return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))), dict(dest=name, **kwargs)

    command(run, "run", (["chapter"], dict(help="such as 05_grpo")), (["out"], dict(help="executed notebook to write")))
    command(notebooks, "notebooks", (["out_dir"], dict(help="new folder")))
    command(workshop, "workshop", (["out_dir"], dict(help="new folder")))
    command(doctor, "doctor",
            (["--quick"], dict(action="store_true", help="leave out the two training steps, about a minute")))
    command(merge_lora, "merge-lora", option("base_model", required=True, help="path or hub id"),
            option("lora_model", required=True, help="adapter's directory"),
            option("output_path", required=True, help="new directory"), option("cache_dir", help="where hub downloads go"))
    command(convert_vqa, "convert-vqa", option("input_jsonl", required=True, help="JSON or JSONL in any of the dialects"),
            option("output_jsonl", required=True, help="file to write"),
            option("image_dir", help="picture paths become absolute in it, and must exist"),
            option("split", choices=["picture", "published"],
                   help="write two files: a fifth of the pictures held out, or VQA-RAD's own split"))
    command(check_data, "check-data", (["path"], dict(help="a .zip, .json, .jsonl or .parquet")),
            (["--kind"], dict(choices=["vqa", "preferences"], default="vqa", help="what a table holds")),
            option("image_dir", help="where picture paths begin"),
            (["--strict"], dict(action="store_true", help="refuse a ZIP for one bad row")))
    settings = lambda chapter: [option(name, help=text.replace("%", "%%")) for name, text in chapter_options(chapter)]
    command(grpo, "grpo", (["--config"], dict(help="a .yaml or .json file with settings; options win over it")), *settings("05_grpo"))
    command(reward_model, "reward-model", *settings("03_reward_model"))
    command(score, "score", option("model", required=True, help="directory of a reward model"),
            option("data", required=True, help="preference rows: .jsonl, .json or .parquet"),
            option("output_dir", default=".", help="where the result goes"),
            option("image_dir", help="where picture paths begin; beside the file if not given"),
            option("batch_size", type=int, default=16, help="answers at a time"),
            option("skip_bad_rows", action="store_true", help="list bad rows and go on"), option("device", help="such as cuda:1"))
    command(aloha, "aloha", *settings("04_aloha"))
    command(evaluate, "evaluate", *settings("06_evaluation"))
    command(serve, "serve",
            (["--no_token", "--no-token"],
             dict(action="store_true", help="anyone on this machine may come in; refused on other addresses")), *settings("08_service"))
    rows = [option("data", required=True, help="VQA rows in any dialect: .jsonl or .json"),
            option("val_data", help="rows to measure on; a tenth of the pictures if not given"),
            option("image_dir", help="where picture paths begin; beside the file if not given"),
            option("reward", default="vqa", help="a rule of chapter 02, module:function, or a weighted sum"),
            option("output_dir", required=True, help="new or empty directory")]
    of_easyr1 = lambda default: option("version", choices=["0.3.2", "current"], default=default, help="of EasyR1")
    command(export_easyr1, "export-easyr1", *rows, of_easyr1("0.3.2"),
            (["--config"], dict(help="a YAML of EasyR1 whose keys are taken over, all but the names of files and columns; a.b=c wins")))
    command(export_verl, "export-verl", *rows)
    command(dry_run, "dry-run", option("path", required=True, help="exported directory, or a YAML of EasyR1"), of_easyr1(None),
            option("processes", type=int, help="that look at rows; one a CPU if not given"),
            option("gpu_gb", type=float, default=80.0, help="memory of one GPU"))
    command(merge_shards, "merge-shards", option("local_dir", required=True, help="checkpoints/PROJECT/EXPERIMENT/global_step_N/actor"),
            option("output_dir", help="model directory to write: new or empty"),
            option("dtype", help="float32, bfloat16 or float16; as the shards are if not given"),
            option("test", help="model directory to compare with; without --output_dir nothing is written"),
            option("lora", default="merge", help="of LoRA shards: merge (a plain model) or adapter (the adapter alone)"),
            option("lora_alpha", type=float, help="where no file beside the shards holds it"),
            option("max_shard_gb", type=float, default=5.0, help="largest weight file"))
    command(quick_start, "quick-start", *settings("09_easyr1"))
    return top


def extra_of(module: str) -> str | None:
    "The extra that brings `module`: 'uvicorn' comes with 'serve'"
    from importlib.metadata import requires
    for line in requires("vlrlbook"):
        found = re.match(rf"""{re.escape(module)}\b[^;]*;.*extra == ["'](?!all\b)(\w+)""", line.replace("-", "_"))
        if found: return found[1]


def main(argv=None):
    "Entry point of the console command"
    args, rest = parser().parse_known_args(argv)
    keys = args.command in ("export-easyr1", "export-verl", "dry-run") and all("=" in w and not w.startswith("-") for w in rest)
    if rest and not keys and args.command not in ("run", "grpo", "reward-model", "aloha", "evaluate", "serve", "quick-start"):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if args.function is not doctor: # the doctor must start where NumPy, which core needs, is missing
        from vlrlbook.core import quiet_libraries
        quiet_libraries()
    try: return args.function(args, rest)
    except ImportError as e:
        if e.name is None: sys.exit(f"vlrlbook {args.command}: {e}") # a chapter's own words
        extra = extra_of(e.name.partition(".")[0])
        if extra is None: raise
        sys.exit(f'vlrlbook {args.command}: {e.name} is not installed: pip install "vlrlbook[{extra}]"')
    except (OSError, ValueError) as e: sys.exit(f"vlrlbook {args.command}: {e}")


if __name__ == "__main__": sys.exit(main())
