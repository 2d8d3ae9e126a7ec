"""The `vlrlbook` command: each subcommand is a thin face of a function of another module.

A function's docstring is the help of its command, `args` what argparse read for it, `rest` the words that
argparse did not know. What a subcommand needs is imported when it is asked for, so that `vlrlbook --help`
answers at once and the doctor starts where other modules cannot. Written by hand."""
import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path

from .chapters import PapermillHandler, handler, kernels_path, notebook, notebooks_dir, run_chapter
from .versions import extra_of


def __getattr__(name):
    "The functions of `vlrlbook workshop` stood here first, and can still be asked for here"
    if name not in ("allowance", "days", "emptied", "plan", "plan_words", "twin"):
        raise AttributeError(f"module 'vlrlbook.cli' has no attribute {name!r}")
    import vlrlbook.workshop
    return getattr(vlrlbook.workshop, name)


def run(args, rest):
    "Run a chapter as a papermill job; `-p name value` as papermill takes it"
    return run_chapter(args.chapter, args.out, rest)


def notebooks(args, rest):
    "Copy the chapters into a folder, to read and change"
    if Path(args.out_dir).exists():
        raise SystemExit(f"vlrlbook: {args.out_dir} is there already")
    from vlrlbook.folders import new_folder
    unwanted = shutil.ignore_patterns(".*", "_*", "runs", "*.py")
    with new_folder(args.out_dir, existing="none", manifest=False) as aside:
        shutil.copytree(notebooks_dir(), aside, ignore=unwanted, dirs_exist_ok=True)
    print(*sorted(p.name for p in Path(args.out_dir).glob("*.ipynb")), sep="\n")


def workshop(args, rest):
    """Write the chapters for teaching: outputs gone, exercises empty, solutions folded away, and a plan for
    half a day and a full one"""
    if args.short:
        from vlrlbook.morning import write_morning
        print(*write_morning(args.out_dir), sep="\n")
        return
    from vlrlbook.workshop import write_workshop
    print(*write_workshop(args.out_dir), sep="\n")


def slides(args, rest):
    "Run the notebooks of a folder and write each as slides, one HTML file with its figures"
    from vlrlbook.slides import write_slides
    print(*write_slides(args.folder, args.out), sep="\n")


def enter(args, rest):
    "Train with a student's reward and write the file for the contest"
    from vlrlbook.contest import enter, reward_of_file
    from vlrlbook.contest_files import Rules
    rules = Rules(args.steps, args.pictures, warm_steps=args.warm_steps)
    entry = enter(args.name, reward_of_file(args.reward), args.folder, rules, args.again)
    print(f"{entry.name}: {entry.facts['seconds']} seconds")


def contest(args, rest):
    """Gather the students' files of a folder into one ranked page; exit status 1 if one of them could not be
    ranked"""
    from vlrlbook.standings import write_standings
    path, standings = write_standings(args.folder, args.out)
    print(standings)
    print(path)
    return 1 if standings.refused else 0


def merge_lora(args, rest):
    "Fold an adapter into its base and save a plain model directory"
    from vlrlbook.models import merge_lora
    merge_lora(args.base_model, args.lora_model, args.output_path, cache_dir=args.cache_dir, dtype=args.dtype,
               transformers_4=args.transformers_4)


def export_model(args, rest):
    "Copy a model directory in words that transformers 4 can read too, for EasyR1 and for older engines"
    from vlrlbook.model_files import export_for_transformers_4
    print(export_for_transformers_4(args.model, args.output_path))


def convert_vqa(args, rest):
    "Rows of any known form to EasyR1 rows"
    from vlrlbook.data import convert_vqa, published_split, read_rows
    written = convert_vqa(args.input_jsonl, args.output_jsonl, args.image_dir, args.split, args.keys,
                          args.skip_bad_rows, print)
    parted = ", parted into _train and _test" if args.split else ""
    print(f"{written} rows in {args.output_jsonl}{parted}")
    if args.split == "published":
        rows = [row for _, row in read_rows(args.input_jsonl)]
        _, _, leaking = published_split(rows)
        advice = "--split picture keeps them apart"
        print(f"{leaking:.0%} of the test pictures are in the train part too; {advice}")


def convert_boxes(args, rest):
    "Boxes of a COCO file, or of RefCOCO-style rows, to rows of task pointing"
    from vlrlbook.pointing import convert_boxes
    written = convert_boxes(args.input, args.output_jsonl, args.image_dir, args.form,
                            args.skip_bad_rows, print)
    print(f"{written} rows in {args.output_jsonl}")


def check_data(args, rest):
    """Look a counting ZIP or a file of rows through, as training will; exit status 1 if training would
    refuse it"""
    from vlrlbook.data_check import check_file
    report = check_file(args.path, args.kind, args.image_dir, args.keys, args.reward, args.skip_bad_rows,
                        args.strict, args.val_data, args.model)
    print(report)
    if not report.good:
        raise report.problems[0]  # to stderr, as every command says what stops it
    unseen = "" if args.model else "; the length of prompts is looked at with --model"
    print(f"training will take it{unseen}")


def given(
    args,  # what argparse knew, a setting that was not written as None
    rest,  # the words that it did not know
    cls=None,  # the class of settings, for its flags and for other names of a setting
) -> dict:  # name → value or text
    "The settings that were written; names that nobody knows are left to `read_settings`, which refuses them"
    from vlrlbook.settings import flag_names, named_options
    ours = ("command", "function", "config")  # of `parser`: no settings
    written = {name: value for name, value in vars(args).items() if name not in ours and value is not None}
    # `--keys answer=solution image=scan` came as a list of words; settings take one text.
    if isinstance(written.get("keys"), list):
        written["keys"] = " ".join(written["keys"])
    others = named_options(rest, flag_names(cls) if cls else set())
    for name in others:
        setting = _setting_of(name, cls)
        if setting and setting != name:
            print(f"--{name} is taken as {setting}", file=sys.stderr)
    return written | others


def _setting_of(name, cls):
    "The setting for which `name` is another word, or None; `read_settings` puts its value there"
    aliases = getattr(cls, "aliases", {})  # another name → setting
    stand_ins = getattr(cls, "stand_ins", {})  # another name → (setting, {text: value})
    if aliases.get(name):
        return aliases[name]
    return stand_ins[name][0] if name in stand_ins else None


def settings_from_file(args, rest, cls=None):
    "GRPO settings of `--config`, if it was written, under those of the command line"
    from vlrlbook.settings import GRPOSettings, load_settings, read_settings
    written = given(args, rest, cls)
    return load_settings(args.config, **written) if args.config else read_settings(GRPOSettings, written)


def grpo(args, rest):
    "Train with GRPO without the page; settings of chapter 05, from a file and from options"
    from vlrlbook.grpo import run
    run(settings_from_file(args, rest))


def fit(args, rest):
    """GB of a GRPO run before it starts, stock and with shared prompts, and the largest batch for cards of
    16 to 141 GB"""
    from vlrlbook.fit import fit_tables, will_fit
    from vlrlbook.settings import GRPOSettings
    # Taken out of `args`, of which `given` makes settings.
    own = {name: vars(args).pop(name) for name in ("prompt_tokens", "pictures")}
    settings = settings_from_file(args, rest, GRPOSettings)
    print(*fit_tables(will_fit(settings, **own)), sep="\n\n")


def reward_model(args, rest):
    "Train a reward model on preference rows; settings of chapter 03"
    from vlrlbook.core import read_settings
    from vlrlbook.reward_model import RewardModelSettings, train_reward_model
    settings = read_settings(RewardModelSettings, given(args, rest, RewardModelSettings))
    results = train_reward_model(settings)
    if not results:
        return  # a process other than the first
    if not results["n"]:
        print(f"no pair of the test rows has a preference, so there is no accuracy; {results['model']}")
        return
    low, high = results["ci95"]
    accuracy = f"accuracy {results['pair_accuracy']:.3f} ({low:.3f} to {high:.3f})"
    print(f"{results['n']} pairs judged: {accuracy}; {results['model']}")


def score(args, rest):
    "Score a preference file with a reward model; the result's name is always a new one"
    from vlrlbook.core import Table
    from vlrlbook.reward_model import report_table, score_file
    scored = score_file(args.model, args.data, args.output_dir, args.image_dir, args.batch_size,
                        args.skip_bad_rows, device=args.device, keys=args.keys, base_model=args.base_model)
    caption = f"{scored['pairs_per_second']:.1f} pairs a second; {scored['path']}"
    print(Table(report_table(scored["report"]), caption))


def rank(args, rest):
    "Put answers to a question about a picture into a reward model's order, best first"
    from vlrlbook.core import Table
    from vlrlbook.reward_model import VLRewardModel, rank_answers
    judge = VLRewardModel.from_pretrained(args.model, args.device, base=args.base_model)
    picture = None if args.picture == "none" else args.picture
    ranked = rank_answers(judge, picture, args.question, args.answers)
    for row in ranked:
        row["score"], row["chance"] = f"{row['score']:.3f}", f"{row['chance']:.3f}"
    fitted = judge.facts["calibration"]  # {temperature, pairs}, or None
    tried = "not calibrated"
    if fitted:
        tried = f"calibrated on {fitted['pairs']} pairs, temperature {fitted['temperature']:.2f}"
    print(Table(ranked, f"chance: that the judge would pick this answer among all of these ({tried})"))


def aloha(args, rest):
    "Robot films to reward bins: train, analyze, predict or chat; settings of chapter 04"
    from vlrlbook.aloha import AlohaSettings, run_aloha
    from vlrlbook.core import read_settings
    made = run_aloha(read_settings(AlohaSettings, given(args, rest, AlohaSettings)))
    # Of several processes, as torchrun starts them, the first one speaks.
    if made is not None and int(os.environ.get("RANK", 0)) == 0:
        print(made)


def aloha_films(args, rest):
    "Films of the ALOHA simulator as a LeRobot data set; needs the extra films"
    from vlrlbook.aloha_films import make_films
    data = make_films(args.root, args.films, args.seed, args.size, args.videos, args.only, say=print)
    print(f"{args.root}: {data.num_episodes} films, {len(data)} frames")


def evaluate(args, rest):
    "Measure a model, with and without its adapter, or score a file of answers; settings of chapter 06"
    from vlrlbook.core import Table, read_settings
    from vlrlbook.evaluation import EvaluationSettings, evaluate, with_interval
    results = evaluate(read_settings(EvaluationSettings, given(args, rest)))
    rows = []
    for metric in results["metrics"]:
        value = with_interval(metric)
        rows.append(dict(metric=metric["name"], value=value, n=metric["n"], interval=metric["interval"]))
    print(Table(rows))
    shown = ("question", "answer", "because")
    print(Table([{name: question[name] for name in shown} for question in results["questions"]]))


def ask(args, rest):
    "Ask a model about one picture: before and after training, side by side"
    from vlrlbook.answers import ask_model
    from vlrlbook.core import Table
    from vlrlbook.marking import merged
    answers = ask_model(args.model, args.picture, args.question, args.adapter, args.answers, args.temperature,
                        args.max_new_tokens, args.max_image_size, args.task, args.seed, args.use_4bit)
    # A column for each model that was asked; without an adapter there is no `after`.
    models = {name: answers[name] for name in ("before", "after") if answers[name]}
    best = {name: texts["greedy"] for name, texts in models.items()}
    rows = [dict(asked="best guess") | best]
    if args.answers:
        samples = {name: merged(texts["sampled"]) for name, texts in models.items()}
        rows.append(dict(asked=f"{args.answers} samples") | samples)
    print(Table(rows))


def predictions(args, rest):
    """Write predictions as another evaluation program keeps them; its own files are read by `evaluate
    --predictions`"""
    from vlrlbook.evaluation import read_predictions
    from vlrlbook.prediction_files import save_predictions_as
    n = save_predictions_as(args.form, read_predictions(args.predictions), args.column, args.out)
    print(f"{args.out}: {n} rows of {args.column} as {args.form} keeps them")


def report(args, rest):
    "Write report.html of a finished run: what came of it, on two screens, in one file"
    from vlrlbook.report import write_report
    print(write_report(args.run, args.out))


def serve(args, rest):
    "Run the training service and its page; settings of chapter 08"
    from vlrlbook.core import read_settings
    from vlrlbook.service import ServiceSettings, serve
    written = given(args, rest)
    # A flag of its own: where it is written, the setting `token` is false.
    if written.pop("no_token"):
        written["token"] = False
    serve(read_settings(ServiceSettings, written))


def exported(args, rest, verl=False):
    "Export as the arguments say, and tell what is there"
    from vlrlbook.easyr1 import export_easyr1, export_keys, export_verl, parse_overrides, read_engine_yaml
    engine = "verl" if verl else args.version
    # `export-verl` has no --config.
    config = {}
    if getattr(args, "config", None):
        config = read_engine_yaml(args.config, engine, rest).given
    # The export names files and columns itself; what is written as a.b=c wins over the YAML.
    kept = {name: value for name, value in config.items() if name not in export_keys(engine)}
    overrides = kept | parse_overrides(rest, engine)
    where = dict(val=args.val_data, image_dir=args.image_dir, keys=args.keys,
                 skip_bad_rows=args.skip_bad_rows, tell=print)
    is_counting = Path(args.data).suffix.lower() == ".zip" or Path(args.data).is_dir()
    reward = args.reward or ("counting" if is_counting else "vqa")
    if verl:
        folder = export_verl(args.data, reward, overrides, args.output_dir, **where)
    else:
        folder = export_easyr1(args.data, reward, overrides, args.output_dir, args.version, **where)
    train, val = json.loads((folder / "export.json").read_text())["rows"]
    rows = f"{train} rows to learn from, {val} to measure on"
    print(f"{folder}: {rows}; next: vlrlbook dry-run --path {folder}")


def export_easyr1(args, rest):
    """Write a directory that EasyR1 runs: rows, pictures, prompt.jinja, reward.py, config.yaml, train.sh;
    any a.b=c sets a key"""
    exported(args, rest)


def export_verl(args, rest):
    """Write a directory that verl runs: parquet files, reward.py, train.sh with every override; any a.b=c
    sets a key"""
    exported(args, rest, verl=True)


def dry_run(args, rest):
    """Look through an exported directory, or an EasyR1 YAML, before it costs anything; exit status 1 if
    there are problems"""
    from vlrlbook.easyr1 import dry_run
    inspected = dry_run(args.path, overrides=rest, version=args.version, processes=args.processes,
                        gpu_gb=args.gpu_gb)
    print(inspected)
    return 0 if inspected.ok else 1


def merge_shards(args, rest):
    """FSDP shards of EasyR1 or verl as one model directory; --test compares with a model directory, tensor
    by tensor"""
    from vlrlbook.core import Table
    from vlrlbook.easyr1 import merge_shards
    merged = merge_shards(args.local_dir, args.output_dir, args.dtype, args.test, args.lora, args.lora_alpha,
                          args.max_shard_gb)
    print(Table([merged]))


def quick_start(args, rest):
    """Merge, export, dry run, train, merge shards, evaluate: each stage resumable and skippable; settings
    of chapter 09"""
    from vlrlbook.core import Table, read_settings
    from vlrlbook.easyr1 import QuickStartSettings, quick_start
    results = quick_start(read_settings(QuickStartSettings, given(args, rest)))
    print(Table(results["stages"]))


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
    "(name, help, whether true or false) of a chapter's settings; --help must import nothing heavy"
    # `notebooks_dir` imports NumPy and Pillow. Where they are missing, `vlrlbook doctor` must still start and
    # say so; then --help lists no options of the chapters, which are taken all the same.
    try:
        notebooks_dir()
    except ImportError:
        return []
    if chapter == "05_grpo":
        from vlrlbook.settings import GRPOSettings, flag_names, settings_help
        flags = flag_names(GRPOSettings)
        return [(name, text, name in flags) for name, text in settings_help(GRPOSettings).items()]
    # the other chapters' classes stand in modules that import torch, so their pages are read
    cells = json.loads(notebook(chapter).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if cell["metadata"].get("tags") == ["parameters"]]
    parameters = "".join(tagged[0]["source"])
    # `name: type = default  # help`, a line for each
    fields = re.findall(r"^(\w+): (\w+).*?  # (.*)$", parameters, re.M)
    # a bare --log_samples was a flag of the reward system; here it is a number, whose default the flag means
    return [(name, text, kind == "bool" or name == "log_samples") for name, kind, text in fields]


def option(name, also=(), **kwargs):
    "What argparse takes for an option: its spellings with - and _ under this and other names, and the rest"
    flags = []
    for spelling in (name, *also):
        flags += [f"--{spelling}", f"--{spelling.replace('_', '-')}"]
    # A name without a _ gave the same flag twice, which argparse refuses.
    return tuple(dict.fromkeys(flags)), dict(dest=name, **kwargs)


def settings_options(chapter):
    "An option for each setting of a chapter"
    # a bare flag means true; "true" and "false" may still be written behind it
    bare = dict(nargs="?", const="true")
    several = dict(nargs="+")  # keys takes words such as answer=solution
    options = []
    for name, text, flag in chapter_options(chapter):
        more = bare if flag else several if name == "keys" else {}
        # argparse fills in what stands behind a %, such as %(default)s; two of them are one.
        options.append(option(name, help=text.replace("%", "%%"), **more))
    return options


def row_options():
    "Options of all commands that read a file of rows"
    return [option("keys", nargs="+", help="which column holds what, such as question=problem image=scan"),
            option("skip_bad_rows", action="store_true", help="leave bad rows out and list them")]


def convert_options():
    "Options of `vlrlbook convert-vqa`"
    return [
        option("input_jsonl", required=True, help=".json, .jsonl, .csv, .tsv or .parquet"),
        option("output_jsonl", required=True, help="file to write"),
        option("image_dir", help="picture paths become absolute in it, and must exist"),
        option("split", choices=["picture", "published"],
               help="write two files: a fifth of the pictures held out, or VQA-RAD's own split"),
        *row_options()]


def check_options():
    "Options of `vlrlbook check-data`"
    return [
        (["path"], dict(help="a .zip, or rows in .json, .jsonl, .csv, .tsv or .parquet")),
        (["--kind"], dict(choices=["vqa", "preferences", "counting", "pointing"], default="vqa",
                          help="what the rows hold")),
        option("image_dir", help="where picture paths begin; beside the file if not given"),
        option("reward", help="under which truths are tried; the task's own if not given"),
        option("val_data", help="a file that must not share a picture with this one"),
        option("model", help="whose processor measures the prompts"),
        (["--strict"], dict(action="store_true", help="refuse a ZIP for one bad row")),
        *row_options()]


def score_options():
    "Options of `vlrlbook score`, under the older script's names too"
    return [
        option("model", ("model_path", "checkpoint_path"), required=True,
               help="directory of a reward model, or an older script's .pt file"),
        option("base_model", ("base_model_name",), help="what an older script's file was trained from"),
        option("data", ("data_path", "test_data", "test_data_path"), required=True,
               help="preference rows: .jsonl, .json, .csv, .tsv or .parquet"),
        option("output_dir", ("output_path",), default=".",
               help="where the result goes; a .jsonl is the result itself"),
        option("image_dir", help="where picture paths begin; beside the file if not given"),
        option("batch_size", type=int, default=16, help="answers at a time"),
        *row_options(),
        option("device", help="such as cuda:1")]


def rank_options():
    "Arguments of `vlrlbook rank`"
    return [
        (["picture"], dict(help="a picture file; none for a question without one")),
        (["question"], dict(help="what was asked")),
        (["answers"], dict(nargs="+", help="two or more answers")),
        option("model", required=True, help="directory of a reward model"),
        option("base_model", ("base_model_name",), help="what an older script's file was trained from"),
        option("device", help="such as cuda:1")]


def film_options():
    "Options of `vlrlbook aloha-films`"
    return [
        option("root", required=True, help="new folder"),
        option("films", type=int, default=120, help="how many; the scripts take turns"),
        option("seed", type=int, default=0, help="same seed, same films"),
        option("size", type=int, default=96, help="pixels a side"),
        option("videos", action="store_true", help="store films instead of pictures: smaller, lossy"),
        option("only", help="names of scripts with commas between, such as hand_over,drop")]


def measuring_commands(command):
    "`evaluate`, `ask`, `predictions` and `report`; `command` is that of `parser`"
    command(evaluate, "evaluate", *settings_options("06_evaluation"))
    command(ask, "ask",
            (["model"], dict(help="hub id, directory, or the folder of a run")),
            (["picture"], dict(help="a picture file")),
            (["question"], dict(help="such as \"How many?\"")),
            option("adapter", help="directory of a LoRA adapter or of a whole trained model"),
            option("answers", type=int, default=4,
                   help="sampled answers of each; 0 asks for the best guess alone"),
            # What is not given is as the run was trained.
            option("temperature", type=float, help="of sampling"),
            option("max_new_tokens", type=int, help="longest answer"),
            option("max_image_size", type=int, help="pixels squared"),
            option("task", choices=["counting", "vqa", "pointing", "zoom"], help="how the question is put"),
            option("seed", type=int, default=0, help="of sampling"),
            option("use_4bit", action="store_true", help="4-bit weights under the adapter"))
    command(predictions, "predictions",
            (["predictions"], dict(help="a predictions file of chapter 05, 06 or another program")),
            (["out"], dict(help="file to write: .jsonl for lmms-eval, .tsv or .json for VLMEvalKit")),
            option("form", choices=["lmms-eval", "vlmevalkit"], required=True, help="whose form it is"),
            option("column", default="after_greedy", help="which answers are written"))
    command(report, "report",
            (["run"], dict(help="folder of a run, or of a job's result")),
            option("out", help="file to write; report.html in the run's folder if not given"))


def teaching_commands(command):
    "`workshop`, `slides`, `enter` and `contest`; `command` is that of `parser`"
    command(workshop, "workshop", (["out_dir"], dict(help="new folder")),
            (["--short"], dict(action="store_true",
                               help="a morning's class: three notebooks, a contest, a teacher's page")))
    command(slides, "slides", (["folder"], dict(help="with notebooks that `workshop --short` wrote")),
            option("out", help="folder to write; slides/ in the notebooks' folder if not given"))
    command(enter, "enter", (["name"], dict(help="of the student or the group, as the page will show it")),
            (["reward"], dict(help="a function in a file, such as mine.py:my_reward")),
            option("folder", default="contest", help="where the file goes"),
            # The defaults of `contest.Rules`, which a test compares: --help imports nothing heavy.
            option("steps", type=int, default=400, help="of training; the same for the whole class"),
            option("pictures", type=int, default=500,
                   help="frozen ones that are asked; the same for the whole class"),
            option("warm_steps", type=int, default=280,
                   help="of the supervised start; the same for the whole class"),
            option("again", action="store_true", help="write over an earlier file of the same name"))
    command(contest, "contest", (["folder"], dict(help="with the students' files")),
            option("out", help="page to write; results.html in the folder if not given"))


def model_commands(command):
    "The commands that write model directories; `command` is that of `parser`"
    command(merge_lora, "merge-lora",
            option("base_model", required=True, help="path or hub id"),
            option("lora_model", required=True, help="adapter's directory"),
            option("output_path", required=True, help="new directory"),
            option("cache_dir", help="where hub downloads go"),
            option("dtype", default="keep",
                   help="float32, bfloat16 or float16; as the base's weights are if not given"),
            option("transformers_4", action="store_true",
                   help="write config and tokenizer in words that transformers 4 can read, "
                        "where the base's are not"))
    command(export_model, "export-model",
            option("model", required=True, help="model directory"),
            option("output_path", required=True, help="new directory"))


def data_commands(command):
    "`convert-vqa`, `convert-boxes` and `check-data`; `command` is that of `parser`"
    command(convert_vqa, "convert-vqa", *convert_options())
    command(convert_boxes, "convert-boxes",
            option("input", required=True,
                   help="a COCO file (.json), or rows with a phrase, a picture and a box each"),
            option("output_jsonl", required=True, help="file to write"),
            option("image_dir", help="where picture paths begin; beside the input if not given"),
            option("form", choices=["xywh", "xyxy"], default="xywh",
                   help="of the boxes in rows: corner, width and height, or two corners"),
            option("skip_bad_rows", action="store_true", help="leave rows out whose picture cannot be used"))
    command(check_data, "check-data", *check_options())


def grpo_commands(command):
    "`grpo` and `fit`; `command` is that of `parser`"
    config = (["--config"], dict(help="a .yaml or .json file with settings; options win over it"))
    command(grpo, "grpo", config, *settings_options("05_grpo"))
    command(fit, "fit", config,
            option("prompt_tokens", type=int,
                   help="of text in a prompt; as many as a drawn question has if not given"),
            option("pictures", type=int, default=1, help="of a prompt, each of the largest size"),
            *settings_options("05_grpo"))


def engine_commands(command):
    "The commands around EasyR1 and verl; `command` is that of `parser`"
    rows = [option("data", required=True,
                   help="a counting ZIP, or VQA rows in .jsonl, .json, .csv, .tsv or .parquet"),
            *row_options(),
            option("val_data", help="rows to measure on; a tenth of the pictures if not given"),
            option("image_dir", help="where picture paths begin; beside the file if not given"),
            option("reward", help="a rule of chapter 02, module:function, or a weighted sum; "
                                  "counting or vqa by the data"),
            option("output_dir", required=True, help="new or empty directory")]
    version = dict(choices=["0.3.2", "current"], help="of EasyR1")
    config_help = ("a YAML of EasyR1 whose keys are taken over, all but the names of files and columns; "
                   "a.b=c wins")
    command(export_easyr1, "export-easyr1", *rows, option("version", default="0.3.2", **version),
            (["--config"], dict(help=config_help)))
    command(export_verl, "export-verl", *rows)
    command(dry_run, "dry-run",
            option("path", required=True, help="exported directory, or a YAML of EasyR1"),
            option("version", default=None, **version),  # None: as the directory says
            option("processes", type=int, help="that look at rows; one a CPU if not given"),
            option("gpu_gb", type=float, default=80.0, help="memory of one GPU"))
    command(merge_shards, "merge-shards",
            option("local_dir", required=True, help="checkpoints/PROJECT/EXPERIMENT/global_step_N/actor"),
            option("output_dir", help="model directory to write: new or empty"),
            option("dtype", help="float32, bfloat16 or float16; as the shards are if not given"),
            option("test", help="model directory to compare with; without --output_dir nothing is written"),
            option("lora", default="merge",
                   help="of LoRA shards: merge (a plain model) or adapter (the adapter alone)"),
            option("lora_alpha", type=float, help="where no file beside the shards holds it"),
            option("max_shard_gb", type=float, default=5.0, help="largest weight file"))
    command(quick_start, "quick-start", *settings_options("09_easyr1"))


def parser() -> argparse.ArgumentParser:
    "The command line: option names as the systems write them, with - or _"
    description = "Reinforcement learning for vision-language models, as a book that runs"
    top = argparse.ArgumentParser(prog="vlrlbook", description=description)
    top.add_argument("--version", action="version", version=version_line())
    commands = top.add_subparsers(dest="command", required=True)

    def command(function, name, *options):
        "Add a subcommand; an option is a pair of its flags and what argparse takes for them"
        # Without abbreviations: a misspelt option must not be taken for the beginning of another one.
        text = function.__doc__
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(function=function)
        for flags, kwargs in options:
            sub.add_argument(*flags, **kwargs)

    # `vlrlbook --help` lists them in this order.
    command(run, "run",
            (["chapter"], dict(help="such as 05_grpo")), (["out"], dict(help="executed notebook to write")))
    command(notebooks, "notebooks", (["out_dir"], dict(help="new folder")))
    teaching_commands(command)
    command(doctor, "doctor",
            (["--quick"], dict(action="store_true", help="leave out the two training steps, about a minute")))
    model_commands(command)
    data_commands(command)
    grpo_commands(command)
    command(reward_model, "reward-model", *settings_options("03_reward_model"))
    command(score, "score", *score_options())
    command(rank, "rank", *rank_options())
    command(aloha, "aloha", *settings_options("04_aloha"))
    command(aloha_films, "aloha-films", *film_options())
    measuring_commands(command)
    command(serve, "serve",
            (["--no_token", "--no-token"],
             dict(action="store_true",
                  help="anyone on this machine may come in; refused on other addresses")),
            *settings_options("08_service"))
    engine_commands(command)
    return top


# Commands that read the words that argparse does not know: other names of settings, papermill's own options.
reads_on = ("run", "grpo", "fit", "reward-model", "aloha", "evaluate", "serve", "quick-start")
# Commands that take keys of an engine's settings as a.b=c.
takes_keys = ("export-easyr1", "export-verl", "dry-run")


def main(argv=None):
    "Entry point of the console command"
    args, rest = parser().parse_known_args(argv)
    _refuse_unread(args.command, rest)
    if args.function is not doctor:  # the doctor must start where NumPy, which core needs, is missing
        from vlrlbook.core import quiet_libraries
        quiet_libraries()
    try:
        return args.function(args, rest)
    except ImportError as error:
        if error.name is None:
            sys.exit(f"vlrlbook {args.command}: {error}")  # a chapter's own words
        extra = extra_of(error.name.partition(".")[0])
        if extra is None:
            raise  # no package that an extra brings: a fault of ours
        advice = f'pip install "vlrlbook[{extra}]"'
        sys.exit(f"vlrlbook {args.command}: {error.name} is not installed: {advice}")
    except (OSError, ValueError) as error:  # what a user can mend; SettingsError and DataError are the latter
        sys.exit(f"vlrlbook {args.command}: {error}")


def _refuse_unread(command, rest):
    "Stop with argparse's message where words are left that the command would not read"
    if not rest or command in reads_on:
        return
    if command in takes_keys and all("=" in word and not word.startswith("-") for word in rest):
        return
    # not the values: one may be a key
    names = [word.partition("=")[0] for word in rest if word.startswith("-")]
    parser().error(f"unrecognized arguments: {' '.join(names) or len(rest)}")


if __name__ == "__main__":
    sys.exit(main())
