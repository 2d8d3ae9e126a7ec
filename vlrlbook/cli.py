"""The `vlrlbook` command: each subcommand is a thin face of a function of another module.

A function's docstring is the help of its command, `args` what argparse read for it, `rest` the words that
argparse did not know. What a subcommand needs is imported when it is asked for, so that `vlrlbook --help`
answers at once and the doctor starts where other modules cannot. Written by hand."""
import argparse
import json
import os
import re
import shutil
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from .chapters import PapermillHandler, handler, kernels_path, notebook, notebooks_dir, run_chapter
from .versions import extra_of


def __getattr__(name):
    "Return functions that have moved to `vlrlbook.workshop`, so that old imports from this module still work"
    # Python calls this for every name that the module does not define. These six have moved.
    if name not in ("allowance", "days", "emptied", "plan", "plan_words", "twin"):
        raise AttributeError(f"module 'vlrlbook.cli' has no attribute {name!r}")
    import vlrlbook.workshop
    return getattr(vlrlbook.workshop, name)


def run(args, rest):  # args: read by argparse; rest: words unknown to it, here papermill's
    "Run a chapter as a papermill job; `-p name value` as papermill takes it"
    # chapter: such as "05_grpo"; out: the notebook to write, with outputs. Returns the exit status.
    return run_chapter(args.chapter, args.out, rest)


def notebooks(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Copy the chapters into a folder, to read and change"
    if Path(args.out_dir).exists():
        raise SystemExit(f"vlrlbook: {args.out_dir} is there already")
    from vlrlbook.folders import new_folder
    # What lies beside the chapters and is no part of them: hidden files, results of runs, tools.
    unwanted = shutil.ignore_patterns(".*", "_*", "runs", "*.py")
    # A hidden folder, renamed to out_dir when all files are there; without manifest.json, its checksums.
    with new_folder(args.out_dir, existing="none", manifest=False) as hidden_folder:
        shutil.copytree(notebooks_dir(), hidden_folder, ignore=unwanted, dirs_exist_ok=True)
    names = [path.name for path in Path(args.out_dir).glob("*.ipynb")]
    print(*sorted(names), sep="\n")


def workshop(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    """Write the chapters for teaching: outputs gone, exercises empty, solutions folded away, and a plan for
    half a day and a full one"""
    # Both functions make the folder `out_dir` and return the names of the files in it.
    if args.short:  # a class of one morning
        from vlrlbook.morning import write_morning
        print(*write_morning(args.out_dir), sep="\n")
        return
    from vlrlbook.workshop import write_workshop
    print(*write_workshop(args.out_dir), sep="\n")


def slides(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Run the notebooks of a folder and write each as slides, one HTML file with its figures"
    # out: the folder for the slides; None: slides/ in that of the notebooks
    from vlrlbook.slides import write_slides
    print(*write_slides(args.folder, args.out), sep="\n")


def enter(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Train with a student's reward and write the file for the contest"
    from vlrlbook.contest import enter, reward_of_file
    from vlrlbook.contest_files import Rules
    # steps: of training; pictures: how many of the test are asked; warm_steps: of the supervised start
    rules = Rules(args.steps, args.pictures, warm_steps=args.warm_steps)  # the same for the whole class
    reward = reward_of_file(args.reward)  # the function that mine.py:my_reward names
    entry = enter(args.name, reward, args.folder, rules, args.again)  # again: an earlier file may be replaced
    print(f"{entry.name}: {entry.facts['seconds']} seconds")


def contest(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    """Gather the students' files of a folder into one ranked page; exit status 1 if one of them could not be
    ranked"""
    from vlrlbook.standings import write_standings
    # out: the page to write; None: results.html in the folder. standings: a ranked table, which prints itself
    path, standings = write_standings(args.folder, args.out)
    print(standings)
    print(path)
    return 1 if standings.refused else 0  # refused: files that could not be ranked


def merge_lora(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Fold an adapter into its base and save a plain model directory"
    from vlrlbook.models import merge_lora
    # dtype: of the weights; "keep" takes the base's. transformers_4: write files that version 4 reads, too.
    merge_lora(args.base_model, args.lora_model, args.output_path, cache_dir=args.cache_dir, dtype=args.dtype,
               transformers_4=args.transformers_4)


def export_model(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Copy a model directory in words that transformers 4 can read too, for EasyR1 and for older engines"
    from vlrlbook.model_files import export_for_transformers_4
    print(export_for_transformers_4(args.model, args.output_path))


def convert_vqa(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Rows of any known form to EasyR1 rows"
    from vlrlbook.data import convert_vqa, published_split, read_rows
    # split: None, "picture" (no picture in both parts) or "published" (VQA-RAD's own). keys: texts such as
    # "question=problem", or None. tell is called with the report of what was left out.
    row_count = convert_vqa(args.input_jsonl, args.output_jsonl, args.image_dir, args.split, args.keys,
                            args.skip_bad_rows, tell=print)
    out = Path(args.output_jsonl)
    files = [out.with_stem(f"{out.stem}_{part}") for part in ("train", "test")] if args.split else [out]
    print(f"{row_count} rows in {' and '.join(map(str, files))}")
    if args.split == "published":
        rows = [row for _, row in read_rows(args.input_jsonl)]  # it yields (line number, row)
        # leaking: the share of the test pictures that are in the train part, too
        _train_rows, _test_rows, leaking = published_split(rows)
        advice = "--split picture keeps them apart"
        print(f"{leaking:.0%} of the test pictures are in the train part too; {advice}")


def convert_boxes(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Boxes of a COCO file, or of RefCOCO-style rows, to rows of task pointing"
    from vlrlbook.pointing import convert_boxes
    # form: how boxes in rows are written, "xywh" (corner, width, height) or "xyxy" (two corners)
    row_count = convert_boxes(args.input, args.output_jsonl, args.image_dir, args.form,
                              args.skip_bad_rows, tell=print)
    print(f"{row_count} rows in {args.output_jsonl}")


def check_data(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    """Look a counting ZIP or a file of rows through, as training will; exit status 1 if training would
    refuse it"""
    from vlrlbook.data_check import check_file
    # kind: vqa, preferences, counting or pointing; keys: texts such as "question=problem", or None; strict:
    # refuse a ZIP for one bad row; model: whose processor measures the prompts, or None.
    report = check_file(args.path, args.kind, args.image_dir, args.keys, args.reward, args.skip_bad_rows,
                        args.strict, args.val_data, args.model)
    print(report)
    if not report.good:
        raise report.problems[0]  # a DataError, which `main` prints to stderr before it exits with 1
    not_checked = "" if args.model else "; the length of prompts is looked at with --model"
    print(f"training will take it{not_checked}")


def given(
    args,  # what argparse has read; an option that the user did not write is None
    rest,  # words of the command line that argparse does not know, such as ["--lr", "1e-5"]
    cls=None,  # class of settings, which knows flags without a value and aliases; None: there are neither
) -> dict:  # name → value, or text as it was written
    """Collect the settings that the user wrote on the command line.

    Names stay as they were written. An alias, such as learning_rate for lr, is only announced here:
    `read_settings` translates it, and refuses unknown names."""
    from vlrlbook.settings import flag_names, named_options
    flags = flag_names(cls) if cls else set()  # names that may be written without a value
    other_options = named_options(rest, flags)  # name → text
    for name in other_options:
        setting = _setting_of_alias(name, cls)  # None if `name` is no alias
        if setting and setting != name:
            print(f"--{name} is taken as {setting}", file=sys.stderr)
    return _settings_read(args) | other_options  # _settings_read: those of the options that argparse knows


def _settings_read(
    args,  # what argparse has read; an attribute is None where the user did not write that option
):
    "The settings among what argparse has read: name → value, or text as it was written"
    written = {}
    for name, value in vars(args).items():
        # argparse keeps these three in `args` too, and they are no settings: the subcommand's name, the
        # function that runs it, and the path of a file with settings
        if name not in ("command", "function", "config") and value is not None:
            written[name] = value
    # `--keys answer=solution image=scan` came as a list of words; settings take one text.
    if isinstance(written.get("keys"), list):
        written["keys"] = " ".join(written["keys"])
    return written


def _setting_of_alias(
    name,  # of an option on the command line
    cls,  # a class of settings, perhaps with tables of aliases; None: no names are translated
):
    "The setting of which `name` is an alias, such as lr for learning_rate; None if it is no alias"
    aliases = getattr(cls, "aliases", {})  # alias → setting, such as learning_rate → lr
    if name in aliases:
        return aliases[name]
    # `stand_ins`: aliases whose values are translated as well, such as
    # {"mask_truncated_completions": ("when_cut", {"true": "masked"})}
    stand_ins = getattr(cls, "stand_ins", {})
    if name not in stand_ins:
        return None
    setting, _values = stand_ins[name]
    return setting


def settings_from_file(
    args,  # what argparse read, with `config`: the path of a file, or None
    rest,  # words that argparse does not know, such as aliases of settings: --learning_rate 1e-5
):
    "Make GRPO settings from the file of `--config`, if there is one, and the command line, which wins"
    from vlrlbook.settings import GRPOSettings, load_settings, read_settings
    written = given(args, rest, GRPOSettings)  # name → value, from the command line
    if args.config:
        return load_settings(args.config, **written)
    return read_settings(GRPOSettings, written)


def grpo(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    "Train with GRPO without the page; settings of chapter 05, from a file and from options"
    from vlrlbook.grpo import run
    # Aliases of settings stand in `rest`, since argparse knows only the settings' own names.
    run(settings_from_file(args, rest))


def fit(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    """GB of a GRPO run before it starts, stock and with shared prompts, and the largest batch for cards of
    16 to 141 GB"""
    from vlrlbook.fit import fit_tables, will_fit
    # `settings_from_file` takes all that is in `args` for settings, and these two are none.
    options = vars(args)  # the attributes of `args`: what is popped is no longer in it
    prompt_tokens, pictures = options.pop("prompt_tokens"), options.pop("pictures")
    settings = settings_from_file(args, rest)  # of --config, if it is given, and of the command line
    # For each way of training: GB of its parts, and whether it fits. pictures: of a prompt.
    estimate = will_fit(settings, prompt_tokens=prompt_tokens, pictures=pictures)
    print(*fit_tables(estimate), sep="\n\n")


def reward_model(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    "Train a reward model on preference rows; settings of chapter 03"
    from vlrlbook.core import read_settings
    from vlrlbook.reward_model import RewardModelSettings, train_reward_model
    settings = read_settings(RewardModelSettings, given(args, rest, RewardModelSettings))
    results = train_reward_model(settings)  # n: pairs judged; pair_accuracy and its ci95; model: a folder
    if not results:
        return  # of several processes only the first one has results
    if not results["n"]:
        print(f"no pair of the test rows has a preference, so there is no accuracy; {results['model']}")
        return
    low, high = results["ci95"]
    accuracy = f"accuracy {results['pair_accuracy']:.3f} ({low:.3f} to {high:.3f})"
    print(f"{results['n']} pairs judged: {accuracy}; {results['model']}")


def score(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Score a preference file with a reward model; the result's name is always a new one"
    from vlrlbook.core import Table
    from vlrlbook.reward_model import report_table, score_file
    # base_model: what an older script's .pt file was trained from; None for a model directory. keys: texts
    # such as "question=problem", or None.
    scored = score_file(args.model, args.data, args.output_dir, args.image_dir, args.batch_size,
                        args.skip_bad_rows, device=args.device, keys=args.keys, base_model=args.base_model)
    caption = f"{scored['pairs_per_second']:.1f} pairs a second; {scored['path']}"
    print(Table(report_table(scored["report"]), caption))


def rank(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Put answers to a question about a picture into a reward model's order, best first"
    from vlrlbook.core import Table
    from vlrlbook.reward_model import VLRewardModel, rank_answers
    judge = VLRewardModel.from_pretrained(args.model, args.device, base=args.base_model)
    picture = None if args.picture == "none" else args.picture
    ranked = rank_answers(judge, picture, args.question, args.answers)  # dicts with answer, score, chance
    for row in ranked:
        row["score"], row["chance"] = f"{row['score']:.3f}", f"{row['chance']:.3f}"
    note = _calibration_note(judge.facts["calibration"])
    print(Table(ranked, f"chance: that the judge would pick this answer among all of these ({note})"))


def _calibration_note(
    calibration,  # saved with the model: {temperature, pairs: how many it was fitted on}; None: not fitted
):
    """Say how a reward model's scores become chances: by softmax(score / temperature)

    Such as "calibrated on 300 pairs, temperature 1.40"."""
    if not calibration:
        return "not calibrated"
    return f"calibrated on {calibration['pairs']} pairs, temperature {calibration['temperature']:.2f}"


def aloha(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    "Robot films to reward bins: train, analyze, predict or chat; settings of chapter 04"
    from vlrlbook.aloha import AlohaSettings, run_aloha
    from vlrlbook.core import read_settings
    from vlrlbook.settings import is_first_process
    # `given`: what the user wrote, name → value; `read_settings` checks it and adds the defaults. A bin is
    # a frame's label, such as one fifth of the progress from 0 to 1.
    settings = read_settings(AlohaSettings, given(args, rest, AlohaSettings))
    result = run_aloha(settings)
    # Of several processes, as torchrun starts them, only the first one prints.
    if result is not None and is_first_process():
        print(result)


def aloha_films(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Films of the ALOHA simulator as a LeRobot data set; needs the extra films"
    from vlrlbook.aloha_films import make_films
    # films: how many, each an episode; size: pixels a side; videos: store films, not pictures; only: names of
    # plans that the arms follow, such as "hand_over,drop", or None for all
    data = make_films(args.root, args.films, args.seed, args.size, args.videos, args.only, say=print)
    print(f"{args.root}: {data.num_episodes} films, {len(data)} frames")


def evaluate(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    "Measure a model, with and without its adapter, or score a file of answers; settings of chapter 06"
    from vlrlbook.core import Table, read_settings
    from vlrlbook.evaluation import EvaluationSettings, evaluate
    results = evaluate(read_settings(EvaluationSettings, given(args, rest)))
    print(Table([_metric_row(metric) for metric in results["metrics"]]))
    # Questions that are asked of every run, each with its answer (yes, no or cannot tell) and the reason.
    questions = []
    for question in results["questions"]:
        questions.append({name: question[name] for name in ("question", "answer", "because")})
    print(Table(questions))


def _metric_row(
    metric,  # a dict: name, value, ci95 (low, high), n (rows), interval (how that was found)
):
    "A row of the table of `vlrlbook evaluate` for a metric; its value is such as 0.564 (0.520 to 0.607)"
    from vlrlbook.evaluation import with_interval
    value = with_interval(metric)
    return dict(metric=metric["name"], value=value, n=metric["n"], interval=metric["interval"])


def ask(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Ask a model about one picture: before and after training, side by side"
    from vlrlbook.answers import ask_model
    from vlrlbook.core import Table
    # answers: how many are sampled; None in an option of sampling means as when the model was trained
    answers = ask_model(args.model, args.picture, args.question, args.adapter, args.answers, args.temperature,
                        args.max_new_tokens, args.max_image_size, args.task, args.seed, args.use_4bit)
    # A column of the table for each model: before is the base, after has the adapter. Without an adapter
    # `answers["after"]` is None.
    texts_of = {name: answers[name] for name in ("before", "after") if answers[name]}
    print(Table(_answer_rows(texts_of, args.answers)))


def _answer_rows(
    texts_of,  # before and after → {greedy: the model's best guess, a text; sampled: list of texts}
    sample_count,  # how many texts were sampled from each; 0: none
):
    "Rows of the table of `vlrlbook ask`: one of best guesses, one of samples; a column for each model"
    from vlrlbook.marking import merged
    best = {name: texts["greedy"] for name, texts in texts_of.items()}
    rows = [dict(asked="best guess") | best]
    if sample_count:
        # `merged` joins the sampled texts into one, equal ones counted.
        samples = {name: merged(texts["sampled"]) for name, texts in texts_of.items()}
        rows.append(dict(asked=f"{sample_count} samples") | samples)
    return rows


def predictions(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    """Write predictions as another evaluation program keeps them; its own files are read by `evaluate
    --predictions`"""
    from vlrlbook.evaluation import read_predictions
    from vlrlbook.prediction_files import save_predictions_as
    if Path(args.out).exists() and Path(args.out).samefile(args.predictions):
        raise ValueError(f"{args.out}: the output is the input, whose other columns would be lost")
    rows = read_predictions(args.predictions, with_options=False)  # truths as they are written
    # form: of the other program, lmms-eval or vlmevalkit; column: which answers, such as after_greedy
    row_count = save_predictions_as(args.form, rows, args.column, args.out)
    print(f"{args.out}: {row_count} rows of {args.column} as {args.form} keeps them")


def report(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Write report.html of a finished run: what came of it, on two screens, in one file"
    # run: its folder; out: file to write, None: report.html in that folder
    from vlrlbook.report import write_report
    print(write_report(args.run, args.out))


def serve(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    "Run the training service and its page; settings of chapter 08"
    from vlrlbook.core import read_settings
    from vlrlbook.service import ServiceSettings, serve
    written = given(args, rest)  # name → value
    # --no-token is no setting but another way to write token = false; a flag not written is False, not None.
    if written.pop("no_token"):
        written["token"] = False
    serve(read_settings(ServiceSettings, written))


def exported(
    args,  # of `export-easyr1` or `export-verl`
    rest,  # words such as a.b=c, which set keys of the engine's configuration
    verl=False,  # for verl; False: for EasyR1
):
    "Write the directory that EasyR1 or verl runs, and print how many rows it holds and what to do next"
    from vlrlbook.easyr1 import export_easyr1, export_verl
    # Dotted key of the engine's configuration → value. EasyR1's two versions have different keys; `args` of
    # verl's command has no version.
    overrides = _overrides_of_user(args, rest, "verl" if verl else args.version)
    reward = args.reward or _default_reward(args.data)
    # val: rows to measure on, None: a tenth of the pictures; tell: called with the report of the rows
    data_options = dict(val=args.val_data, image_dir=args.image_dir, keys=args.keys,
                        skip_bad_rows=args.skip_bad_rows, tell=print)
    if verl:
        folder = export_verl(args.data, reward, overrides, args.output_dir, **data_options)
    else:
        folder = export_easyr1(args.data, reward, overrides, args.output_dir, args.version, **data_options)
    _print_export(folder)


def _print_export(
    folder,  # path of the directory; its export.json holds `rows`, [training rows, test rows]
):
    "Print how many rows an exported directory holds, and the command that looks it through"
    train, val = json.loads((folder / "export.json").read_text())["rows"]
    rows = f"{train} rows to learn from, {val} to measure on"
    print(f"{folder}: {rows}; next: vlrlbook dry-run --path {folder}")


def _default_reward(
    data,  # path of the training data
):
    "The reward's name: counting for a ZIP of pictures or an unpacked one's folder, vqa for a file of rows"
    is_counting = Path(data).suffix.lower() == ".zip" or Path(data).is_dir()
    return "counting" if is_counting else "vqa"


def _overrides_of_user(
    args,  # read by argparse; `config`, where there is one, is the path of a YAML file or None
    rest,  # words such as trainer.total_epochs=3
    engine,  # "verl", or a version of EasyR1: "0.3.2" or "current"
):
    """What the user sets in the engine's configuration: dotted key, such as trainer.total_epochs → value.

    They come from the YAML of --config and from the words of `rest`, which win."""
    from vlrlbook.easyr1 import export_keys, parse_overrides, read_engine_yaml
    yaml_and_rest = {}
    if getattr(args, "config", None):  # `export-verl` has no --config
        # Read with `rest`, which may correct a value of the YAML that alone would be refused. given: dotted
        # key → value of both
        yaml_and_rest = read_engine_yaml(args.config, engine, rest).given
    # The export sets these keys itself: names of files and columns. In a YAML they are ignored; those of the
    # command line are handed on, so that the export refuses them.
    set_by_export = export_keys(engine)
    kept = {name: value for name, value in yaml_and_rest.items() if name not in set_by_export}
    return kept | parse_overrides(rest, engine)


def export_easyr1(args, rest):  # args: read by argparse; rest: words unknown to it, such as a.b=c
    """Write a directory that EasyR1 runs: rows, pictures, prompt.jinja, reward.py, config.yaml, train.sh;
    any a.b=c sets a key"""
    exported(args, rest)


def export_verl(args, rest):  # args: read by argparse; rest: words unknown to it, such as a.b=c
    """Write a directory that verl runs: parquet files, reward.py, train.sh with every override; any a.b=c
    sets a key"""
    exported(args, rest, verl=True)


def dry_run(args, rest):  # args: read by argparse; rest: words unknown to it, such as a.b=c
    """Look through an exported directory, or an EasyR1 YAML, before it costs anything; exit status 1 if
    there are problems"""
    from vlrlbook.easyr1 import dry_run
    report = dry_run(args.path, overrides=rest, version=args.version, processes=args.processes,
                     gpu_gb=args.gpu_gb)
    print(report)
    return 0 if report.ok else 1


def merge_shards(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    """FSDP shards of EasyR1 or verl as one model directory; --test compares with a model directory, tensor
    by tensor"""
    from vlrlbook.core import Table
    from vlrlbook.easyr1 import merge_shards
    merged = merge_shards(args.local_dir, args.output_dir, args.dtype, args.test, args.lora, args.lora_alpha,
                          args.max_shard_gb)
    print(Table([merged]))


def quick_start(args, rest):  # args: read by argparse; rest: words unknown to it, other names of settings
    """Merge, export, dry run, train, merge shards, evaluate: each stage resumable and skippable; settings
    of chapter 09"""
    from vlrlbook.core import Table, read_settings
    from vlrlbook.easyr1 import QuickStartSettings, quick_start
    results = quick_start(read_settings(QuickStartSettings, given(args, rest)))
    print(Table(results["stages"]))


def doctor(args, rest):  # args: read by argparse; rest: words unknown to it, none here
    "Say what this machine can run and what to do about the rest; exit status 1 if it cannot run the main job"
    from vlrlbook.doctor import main
    return main(args.quick)


def version_line() -> str:
    "What `vlrlbook --version` prints: the version of the installed package, else the one in the code"
    from importlib.metadata import PackageNotFoundError, version
    try:
        return f"vlrlbook {version('vlrlbook')}"
    except PackageNotFoundError:
        from vlrlbook import __version__
        return f"vlrlbook {__version__}"


def chapter_options(chapter):
    """List (name, help text, is a flag) for each setting of a chapter, such as "05_grpo".

    A flag needs no value on the command line. Nothing heavy is imported, so that --help is quick."""
    # `notebooks_dir` imports NumPy and Pillow. `vlrlbook doctor` must start without them, too.
    try:
        notebooks_dir()
    except ImportError:
        return []  # then --help shows no settings

    if chapter == "05_grpo":
        from vlrlbook.settings import GRPOSettings, flag_names, settings_help
        flags = flag_names(GRPOSettings)
        return [(name, text, name in flags) for name, text in settings_help(GRPOSettings).items()]
    return _options_in_notebook(chapter)


def _options_in_notebook(
    chapter,  # name of a notebook, such as "06_evaluation"
):
    """List (name, help text, is a flag) for each setting in the parameters cell of a chapter's notebook

    The chapter's class of settings is not imported, since its module imports torch, which is slow."""
    cells = json.loads(notebook(chapter).read_text(encoding="utf-8"))["cells"]
    # papermill's tag for the cell whose values it replaces; a chapter has one such cell
    tagged = [cell for cell in cells if cell["metadata"].get("tags") == ["parameters"]]
    parameters = "".join(tagged[0]["source"])  # lines such as `name: type = default  # help`
    fields = re.findall(r"^(\w+): (\w+).*?  # (.*)$", parameters, re.M)
    settings = []
    for name, type_name, text in fields:
        # --log_samples takes a number, but in older commands it stands alone.
        is_flag = type_name == "bool" or name == "log_samples"
        settings.append((name, text, is_flag))
    return settings


def option(
    name,  # where argparse stores the value
    also=(),  # other names of the same option
    **kwargs,  # further arguments of `add_argument`, such as help
):
    """Make an option as `parser` takes it: (its flags, arguments of argparse's `add_argument`).

    Each name may be written with _ or -, such as --image_dir and --image-dir."""
    flags = []
    for spelling in (name, *also):
        flags += [f"--{spelling}", f"--{spelling.replace('_', '-')}"]
    # dict.fromkeys drops repeated flags, which argparse refuses: a name without a _ is there twice.
    return tuple(dict.fromkeys(flags)), dict(dest=name, **kwargs)


def settings_options(
    chapter,  # name of a notebook, such as "05_grpo"
):
    "Make an option, (flags, arguments of argparse's `add_argument`), for each setting of a chapter"
    options = []
    for name, text, is_flag in chapter_options(chapter):  # text: the setting's help
        # argparse fills in what stands behind a %, such as %(default)s; %% is a plain one.
        arguments = dict(help=text.replace("%", "%%"))  # of `add_argument`
        if is_flag:
            # The flag alone means true; "true" or "false" may still be written behind it.
            arguments |= dict(nargs="?", const="true")
        elif name == "keys":
            arguments["nargs"] = "+"  # several words, such as answer=solution image=scan
        options.append(option(name, **arguments))
    return options


def row_options():
    "Options of all commands that read a file of rows, each as (flags, arguments of `add_argument`)"
    return [option("keys", nargs="+", help="which column holds what, such as question=problem image=scan"),
            option("skip_bad_rows", action="store_true", help="leave bad rows out and list them")]


def convert_options():
    "Options of `vlrlbook convert-vqa`, each as (flags, arguments of `add_argument`)"
    # `option` makes the pair, with a flag for each spelling: --input_jsonl and --input-jsonl
    return [
        option("input_jsonl", required=True, help=".json, .jsonl, .csv, .tsv or .parquet"),
        option("output_jsonl", required=True, help="file to write"),
        option("image_dir", help="picture paths become absolute in it, and must exist"),
        option("split", choices=["picture", "published"],
               help="write two files: a fifth of the pictures held out, or VQA-RAD's own split"),
        *row_options()]


def check_options():
    "Options of `vlrlbook check-data`, each as (flags, arguments of `add_argument`)"
    # `option` makes such a pair, with a flag for each spelling: --image_dir and --image-dir. A name without
    # dashes is a positional argument.
    return [
        (["path"], dict(help="a .zip, or rows in .json, .jsonl, .csv, .tsv or .parquet")),
        (["--kind"], dict(choices=["vqa", "preferences", "counting", "pointing"], default="vqa",
                          help="what the rows hold; a ZIP has counts, or boxes where pointing is said")),
        option("image_dir", help="where picture paths begin; beside the file if not given"),
        option("reward", help="the reward that each true answer must earn; the task's own if not given"),
        option("val_data", help="a file that must not share a picture with this one"),
        option("model", help="whose processor measures the prompts"),
        (["--strict"], dict(action="store_true", help="refuse a ZIP for one bad row")),
        *row_options()]


def score_options():
    "Options of `vlrlbook score`, with an older script's names; each as (flags, arguments of `add_argument`)"
    # the second argument of `option`: other names of the same option, those of the older script
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
    "Arguments of `vlrlbook rank`, each as (flags, arguments of `add_argument`)"
    # A name without dashes is a positional argument; `option` makes the flags of all others.
    return [
        (["picture"], dict(help="a picture file; none for a question without one")),
        (["question"], dict(help="what was asked")),
        (["answers"], dict(nargs="+", help="two or more answers")),
        option("model", required=True, help="directory of a reward model"),
        option("base_model", ("base_model_name",), help="what an older script's file was trained from"),
        option("device", help="such as cuda:1")]


def film_options():
    "Options of `vlrlbook aloha-films`, each as (flags, arguments of `add_argument`)"
    return [
        option("root", required=True, help="new folder"),
        option("films", type=int, default=120, help="how many; the scripts take turns"),
        option("seed", type=int, default=0, help="same seed, same films"),
        option("size", type=int, default=96, help="pixels a side"),
        option("videos", action="store_true", help="store films instead of pictures: smaller, lossy"),
        option("only", help="names of scripts with commas between, such as hand_over,drop")]


def measuring_commands(command):
    "Add `evaluate`, `ask`, `predictions` and `report`; `command(function, name, *options)` adds a command"
    # An option is (flags, arguments of argparse's `add_argument`); a name without dashes is a positional
    # argument. `settings_options` has one for each setting of the chapter.
    command(evaluate, "evaluate", *settings_options("06_evaluation"))
    command(ask, "ask", *_ask_options())
    command(predictions, "predictions",
            (["predictions"], dict(help="a predictions file of chapter 05, 06 or another program")),
            (["out"], dict(help="file to write: .jsonl for lmms-eval, .tsv or .json for VLMEvalKit")),
            option("form", choices=["lmms-eval", "vlmevalkit"], required=True, help="whose form it is"),
            option("column", default="after_greedy", help="which answers are written"))
    command(report, "report",
            (["run"], dict(help="folder of a run, or of a job's result")),
            option("out", help="file to write; report.html in the run's folder if not given"))


def _ask_options():
    "Options of `vlrlbook ask`, each as (flags, arguments of `add_argument`)"
    # a name without dashes is a positional argument
    return [
        (["model"], dict(help="hub id, directory, or the folder of a run")),
        (["picture"], dict(help="a picture file")),
        (["question"], dict(help="such as \"How many?\"")),
        option("adapter", help="directory of a LoRA adapter or of a whole trained model"),
        option("answers", type=int, default=4,
               help="sampled answers of each model; 0 asks for the best guess alone"),
        # Each of these four, if it is not given, is as it was when the model was trained.
        option("temperature", type=float, help="of sampling"),
        option("max_new_tokens", type=int, help="longest answer"),
        option("max_image_size", type=int, help="pixels squared"),
        option("task", choices=["counting", "vqa", "pointing", "zoom"], help="how the question is put"),
        option("seed", type=int, default=0, help="of sampling"),
        option("use_4bit", action="store_true", help="4-bit weights under the adapter")]


def teaching_commands(command):
    "Add `workshop`, `slides`, `enter` and `contest`; `command(function, name, *options)` adds a command"
    # an option is (its flags, arguments of argparse's `add_argument`); `option` makes such a pair
    command(workshop, "workshop", (["out_dir"], dict(help="new folder")),
            (["--short"], dict(action="store_true",
                               help="a morning's class: three notebooks, a contest, a teacher's page")))
    command(slides, "slides", (["folder"], dict(help="with notebooks that `workshop --short` wrote")),
            option("out", help="folder to write; slides/ in the notebooks' folder if not given"))
    command(enter, "enter", *_enter_options())
    command(contest, "contest", (["folder"], dict(help="with the students' files")),
            option("out", help="page to write; results.html in the folder if not given"))


def _enter_options():
    "Options of `vlrlbook enter`, each as (flags, arguments of `add_argument`)"
    # a name without dashes is a positional argument
    return [
        (["name"], dict(help="of the student or the group, as the page will show it")),
        (["reward"], dict(help="a function in a file, such as mine.py:my_reward")),
        option("folder", default="contest", help="where the file goes"),
        # These defaults are those of `contest.Rules`, which takes too long to import for --help. A test
        # compares the two. "frozen": of the test, drawn with a fixed seed.
        option("steps", type=int, default=400, help="of training; the same for the whole class"),
        option("pictures", type=int, default=500,
               help="frozen ones that are asked; the same for the whole class"),
        option("warm_steps", type=int, default=280,
               help="of the supervised start; the same for the whole class"),
        option("again", action="store_true", help="write over an earlier file of the same name")]


def model_commands(command):
    "Add the commands that write model directories; `command(function, name, *options)` adds a command"
    # `option` makes a pair: (its flags, arguments of argparse's `add_argument`)
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
    "Add the commands about files of data; `command(function, name, *options)` adds a command"
    # an option is (its flags, arguments of argparse's `add_argument`); `option` makes such a pair
    command(convert_vqa, "convert-vqa", *convert_options())
    command(convert_boxes, "convert-boxes",
            option("input", required=True,
                   help="a COCO file (.json), or rows with a phrase, a picture and a box each"),
            option("output_jsonl", required=True, help="file to write"),
            option("image_dir", help="where picture paths begin; beside the input if not given"),
            option("form", choices=["xywh", "xyxy"],
                   help="of the boxes in rows: corner, width and height, or two corners; if not given, two "
                        "corners in a column bbox_2d, else corner, width and height"),
            option("skip_bad_rows", action="store_true",
                   help="leave rows out whose picture cannot be used, boxes without area, and rows of more "
                        "than a hundred boxes"))
    command(check_data, "check-data", *check_options())


def grpo_commands(command):
    "Add `grpo` and `fit`; `command(function, name, *options)` adds a command"
    # An option is (flags, arguments of argparse's `add_argument`); `option` makes such a pair, and
    # `settings_options` one for each setting of the chapter.
    config = (["--config"], dict(help="a .yaml or .json file with settings; options win over it"))
    command(grpo, "grpo", config, *settings_options("05_grpo"))
    command(fit, "fit", config,
            option("prompt_tokens", type=int,
                   help="of text in a prompt; as many as a drawn question has if not given"),
            option("pictures", type=int, default=1, help="of a prompt, each of the largest size"),
            *settings_options("05_grpo"))


def engine_commands(command):
    "Add the commands around EasyR1 and verl; `command(function, name, *options)` adds a command"
    # An option is (flags, arguments of argparse's `add_argument`); `option` makes such a pair, with a flag
    # for each spelling of a name; --config has one spelling only.
    export_options = _export_options()
    # `--version` of two commands, which have different defaults.
    version = dict(choices=["0.3.2", "current"], help="of EasyR1")
    config_help = ("a YAML of EasyR1 whose keys are taken over, all but the names of files and columns; "
                   "a.b=c wins")
    command(export_easyr1, "export-easyr1", *export_options, option("version", default="0.3.2", **version),
            (["--config"], dict(help=config_help)))
    command(export_verl, "export-verl", *export_options)
    command(dry_run, "dry-run",
            option("path", required=True, help="exported directory, or a YAML of EasyR1"),
            option("version", default=None, **version),  # None: as its export.json says
            option("processes", type=int, help="that look at rows; one a CPU if not given"),
            option("gpu_gb", type=float, default=80.0, help="memory of one GPU"))
    command(merge_shards, "merge-shards", *_merge_shards_options())
    command(quick_start, "quick-start", *settings_options("09_easyr1"))


def _export_options():
    "Options of both exports, for EasyR1 and for verl; each as (flags, arguments of `add_argument`)"
    # `option` makes the pair, with a flag for each spelling: --val_data and --val-data
    return [
        option("data", required=True,
               help="a counting ZIP, or VQA rows in .jsonl, .json, .csv, .tsv or .parquet"),
        *row_options(),
        option("val_data", help="rows to measure on; a tenth of the pictures if not given"),
        option("image_dir", help="where picture paths begin; beside the file if not given"),
        option("reward", help="a rule of chapter 02, module:function, or a weighted sum; "
                              "counting or vqa by the data"),
        option("output_dir", required=True, help="new or empty directory")]


def _merge_shards_options():
    "Options of `vlrlbook merge-shards`, each as (flags, arguments of `add_argument`)"
    # `option` makes the pair, with a flag for each spelling: --local_dir and --local-dir
    return [
        option("local_dir", required=True, help="checkpoints/PROJECT/EXPERIMENT/global_step_N/actor"),
        option("output_dir", help="model directory to write: new or empty"),
        option("dtype", help="float32, bfloat16 or float16; as the shards are if not given"),
        option("test", help="model directory to compare with; without --output_dir nothing is written"),
        option("lora", default="merge",
               help="of LoRA shards: merge (a plain model) or adapter (the adapter alone)"),
        option("lora_alpha", type=float, help="where no file beside the shards holds it"),
        option("max_shard_gb", type=float, default=5.0, help="largest weight file")]


def parser() -> argparse.ArgumentParser:
    "Make the parser of the whole command line, with a subcommand for each function above"
    description = "Reinforcement learning for vision-language models, as a book that runs"
    top = argparse.ArgumentParser(prog="vlrlbook", description=description)
    top.add_argument("--version", action="version", version=version_line())
    commands = top.add_subparsers(dest="command", required=True)
    command = partial(_add_command, commands)  # takes (function, name, *options)
    # `vlrlbook --help` lists them in this order. `teaching_commands` and the like add several each.
    command(run, "run",
            (["chapter"], dict(help="such as 05_grpo, or the path of a notebook")),
            (["out"], dict(help="executed notebook to write")))
    command(notebooks, "notebooks", (["out_dir"], dict(help="new folder")))
    teaching_commands(command)
    command(doctor, "doctor",
            (["--quick"], dict(action="store_true", help="leave out the two training steps, about a minute")))
    model_commands(command)
    data_commands(command)
    grpo_commands(command)
    _judge_and_film_commands(command)
    measuring_commands(command)
    command(serve, "serve", *_serve_options())
    engine_commands(command)
    return top


def _add_command(
    commands,  # argparse's object that holds the subcommands, from `add_subparsers`; changed
    function,  # called with (args, words that argparse does not know); its docstring is the help
    name,  # of the subcommand, such as "check-data"
    *options,  # each (flags, arguments of argparse's `add_argument`)
):
    "Add a subcommand to the command line"
    text = function.__doc__
    # allow_abbrev=False: a misspelt option must not be taken for the beginning of another one.
    sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    sub.set_defaults(function=function)  # `main` then finds it in `args.function`
    for flags, kwargs in options:
        sub.add_argument(*flags, **kwargs)


def _judge_and_film_commands(command):
    "Add the commands of chapters 03 and 04; `command(function, name, *options)` adds a command"
    # An option is (flags, arguments of argparse's `add_argument`); `settings_options` has one for each
    # setting of a chapter.
    command(reward_model, "reward-model", *settings_options("03_reward_model"))
    command(score, "score", *score_options())
    command(rank, "rank", *rank_options())
    command(aloha, "aloha", *settings_options("04_aloha"))
    command(aloha_films, "aloha-films", *film_options())


def _serve_options():
    "Options of `vlrlbook serve`, each as (flags, arguments of `add_argument`)"
    no_token_help = "anyone on this machine may come in; refused on other addresses"
    # no setting itself: `serve` writes it as token = false
    no_token = (["--no_token", "--no-token"], dict(action="store_true", help=no_token_help))
    return [no_token, *settings_options("08_service")]


# Commands that read the words that argparse does not know: other names of settings, papermill's own options.
reads_on = ("run", "grpo", "fit", "reward-model", "aloha", "evaluate", "serve", "quick-start")
# Commands that save checkpoints, from which they can go on.
trains = ("grpo", "reward-model", "aloha")
# Commands that take keys of an engine's settings as a.b=c.
takes_keys = ("export-easyr1", "export-verl", "dry-run")


stopped_by_ctrl_c = 130  # exit status of a program that SIGINT ended, as shells have it: 128 + 2


def main(argv=None):
    "Entry point of the console command; an error that the user can mend becomes one line, and exit status 1"
    words = sys.argv[1:] if argv is None else argv
    # Output may lack a character such as ×, as Windows' does when it goes to a file; it becomes a ? there.
    # Not where somebody chose what happens (PYTHONIOENCODING), or Python did, as for bytes in names of files.
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    _refuse_early_options(words)
    args, rest = parser().parse_known_args(words)  # rest: the words that argparse does not know
    _refuse_unknown_words(args.command, rest)  # exits, unless this command reads such words itself
    _expand_home(args)
    if args.function is not doctor:  # the doctor must start where NumPy, which core needs, is missing
        from vlrlbook.core import quiet_libraries
        quiet_libraries()
    try:
        return args.function(args, rest)
    except ImportError as error:
        message = _import_message(error)
        if message is None:
            raise  # no extra installs the module, so this is a bug and needs its traceback
        sys.exit(f"vlrlbook {args.command}: {message}")
    except (OSError, ValueError) as error:  # a user can mend these; SettingsError is a ValueError
        sys.exit(f"vlrlbook {args.command}: {error}")
    except KeyboardInterrupt:  # Ctrl-C: no fault, so no traceback
        print(f"vlrlbook {args.command}: {_stopped_message(args.command)}", file=sys.stderr)
        _die_of_ctrl_c()
        return stopped_by_ctrl_c


# Options that are files or folders, of commands without a table of settings; tables see to it themselves.
_places = (
    "out", "out_dir", "output_path", "output_jsonl", "output_dir", "input", "input_jsonl", "path", "data",
    "val_data", "image_dir", "cache_dir", "data_dir", "local_dir", "folder", "root", "run", "predictions",
    "picture", "lora_model", "adapter", "model", "base_model", "config")


def _expand_home(args):
    "Write the home folder for ~ in the places that `args` name: a shell does not do so in `--out=~/a`"
    for name in _places:
        value = getattr(args, name, None)
        if isinstance(value, str) and value.startswith("~"):
            setattr(args, name, os.path.expanduser(value))


def _die_of_ctrl_c():
    """End this process by the signal of Ctrl-C, as a program does that does not catch it; not on Windows.

    A shell goes on with a script's next command if the program has only ended with a status, such as 130."""
    if os.name == "posix" and threading.current_thread() is threading.main_thread():
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _stopped_message(
    command,  # name of the subcommand
):
    "What a user reads who stopped a command with Ctrl-C"
    if command not in trains:
        return "stopped by Ctrl-C"
    return ("stopped by Ctrl-C; what was saved stays. The same command with --resume true goes on from the newest "
            "checkpoint (one is saved every save_steps steps)")


def _import_message(
    error,  # an ImportError; `name` is the module that is missing, such as "uvicorn.config"
):
    "What to install after an ImportError, a text; None if no extra of this package brings the module"
    if error.name is None:  # no failed `import`, but raised by a library or by us, with advice in its text
        return str(error)
    package = error.name.partition(".")[0]
    extra = extra_of(package)  # the optional dependency group, such as gpu, that installs it
    if extra is None:
        return None
    return f'{error.name} is not installed: pip install "vlrlbook[{extra}]"'


def _refuse_early_options(
    words,  # of the command line, without the program's name
):
    "Exit if `vlrlbook run` has one of papermill's options before the output"
    # argparse does not know them, and would take their values for the chapter and the output. So the two
    # words behind "run" must be these two. A "-" alone is papermill's name for standard output.
    options = [word for word in words[1:3] if word.startswith("-") and word not in ("-", "-h", "--help")]
    if words[:1] == ["run"] and options:
        sys.exit(f"vlrlbook run: {options[0]} stands before the output; expected such as: "
                 "vlrlbook run 05_grpo out.ipynb -p lr 5e-5")


def _refuse_unknown_words(
    command,  # name of the subcommand
    rest,  # words of the command line that argparse does not know
):
    "Exit with argparse's message if there are words that neither argparse nor the command itself reads"
    if not rest or command in reads_on:  # commands that read aliases of settings, or papermill's options
        return
    are_keys = all("=" in word and not word.startswith("-") for word in rest)  # such as a.b=c
    if command in takes_keys and are_keys:  # commands that take keys of an engine's configuration
        return
    # Only names, no values: a value may be a secret key. Without any name, the number of words.
    names = [word.partition("=")[0] for word in rest if word.startswith("-")]
    parser().error(f"unrecognized arguments: {' '.join(names) or len(rest)}")


if __name__ == "__main__":
    sys.exit(main())
