"""What one GPU does with this book, in less than ten minutes: time and memory of real steps at the 3B shape.

    python tools/gpu_check.py                    # on a machine with a GPU: writes logs, redraws the map
    python tools/gpu_check.py --small --folder F # small shapes, also on a CPU: logs into F, nothing redrawn

No weights are downloaded: they are random, in the shapes of Qwen2.5-VL-3B, so that time and memory are those of
a real run and what is learned is not. Parts, each in a process of its own and within its own time:

- race: whole steps of stock TRL and of shared prompts in turns, bfloat16
- size_gpu: three steps with the settings of `size="gpu"`, in bfloat16
- four_bit: the same with 4-bit weights, where bitsandbytes is installed
- flash_attn: the same with flash-attn 2, where it is installed
- vllm: the same with answers from vLLM, where it is installed

Each part's memory stands beside what `vlrlbook fit` counts for it. A part that fails or takes too long is a row
with its reason, and the next one begins. Writes gpu_check.csv and gpu_race.csv; with a GPU and the 3B shape the
GPU column of nbs/logs/chapters.csv, the map of index.ipynb and README.md too."""
import argparse
import csv
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# part -> seconds that it may take; together under ten minutes
budgets = {"race": 150, "size_gpu": 120, "four_bit": 120, "flash_attn": 80, "vllm": 120}
needs = {"four_bit": "bitsandbytes", "flash_attn": "flash_attn", "vllm": "vllm"}  # part -> package
_columns = ["part", "state", "why", "seconds", "seconds_per_step", "steps", "measured_gb", "counted_gb", "ratio",
            "peak_reserved_gb", "shape", "settings", "device", "commit"]
_row_mark = "ROW "  # begins the line with a part's result; libraries print lines too


def main(argv=None):
    "Measure all parts, one after the other; returns the exit status, which is 1 if no part could be measured"
    args = _arguments(argv)
    if args.part:
        # this process was started by `run_part` for one part
        return _report(globals()[f"part_{args.part}"](args.small))
    folder = Path(args.folder or root / "nbs" / "logs")
    folder.mkdir(parents=True, exist_ok=True)
    if not args.small and not _has_gpu():
        print("gpu_check: there is no GPU here, and the 3B shape is too large for a CPU; --small tries the script")
        return 1
    rows = []
    for part in args.parts:
        rows.append(run_part(part, args.small, args.seconds or budgets[part]))
        print(f"{part}: {rows[-1]['state']} {rows[-1].get('why', '')}", flush=True)
        write_rows(folder, rows)  # after each part, so that nothing is lost if a later one crashes
    if not args.small:
        redraw(rows)
    return 0 if any(row["state"] == "measured" for row in rows) else 1


def _arguments(argv):
    "Parse the command line"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="small shapes, also on a CPU; nothing is redrawn")
    parser.add_argument("--folder", help="where the logs go; nbs/logs if not given")
    parser.add_argument("--parts", nargs="+", choices=list(budgets), default=list(budgets))
    parser.add_argument("--seconds", type=float, help="that each part may take; its own budget if not given")
    parser.add_argument("--part", choices=list(budgets), help=argparse.SUPPRESS)  # what a part's process is told
    return parser.parse_args(argv)


def run_part(
    part: str,  # a key of `budgets`
    small: bool,  # True: a small model, which also runs on a CPU; False: the 3B shape
    seconds: float,  # time limit
) -> dict:  # a row of gpu_check.csv; its `state` is measured, failed, out of time or not there
    """Measure one part in a new process.

    So only this part's memory is measured, and a crash does not stop the other parts. The process prints its
    result as a line of JSON behind `_row_mark`."""
    begun = time.time()
    row = dict(part=part)
    package = needs.get(part)
    if package and not importlib.util.find_spec(package):
        return row | dict(state="not there", why=f"{package} is not installed")
    command = [sys.executable, __file__, "--part", part, *(["--small"] if small else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=root)
    except subprocess.TimeoutExpired:
        return row | dict(state="out of time", why=f"more than {seconds:.0f} seconds", seconds=round(time.time() - begun, 1))
    row["seconds"] = round(time.time() - begun, 1)
    result_lines = [line for line in done.stdout.splitlines() if line.startswith(_row_mark)]
    if done.returncode or not result_lines:
        error_lines = [line for line in done.stderr.splitlines() if line.strip()]
        # the last line of a traceback names the exception
        why = error_lines[-1][:300] if error_lines else f"ended with {done.returncode} and said nothing"
        return row | dict(state="failed", why=why)
    return row | dict(state="measured") | json.loads(result_lines[-1].removeprefix(_row_mark))


def _report(result):
    "Print the result of a part as one line of JSON, which `run_part` reads in the process that waits; returns 0"
    from vlrlbook.core import run_facts
    facts = run_facts()
    print(_row_mark + json.dumps(result | dict(device=facts["device"], commit=facts["commit"])))
    return 0


def _has_gpu():
    "Return True if PyTorch sees a GPU"
    import torch
    return torch.cuda.is_available()


# Parts

def part_race(small):
    """Time training steps of stock TRL and of our trainer with shared prompts, in turns.

    Returns a part of a row of gpu_check.csv; `race` in it is the whole row for gpu_race.csv."""
    from vlrlbook.race import RaceSettings, run_race
    settings = RaceSettings(profile="counting", rounds=1 if small else 3)
    group_size = 4 if small else 8  # answers to each prompt
    race = run_race(settings, group_size, prompts=2, build=_trainer_builder(small))
    return dict(race=race, seconds_per_step=round(race["shared_seconds"], 3), steps=settings.rounds, ratio=round(race["ratio"], 3),
                shape=_shape_name(small), settings="counting profile; ratio: stock seconds by shared seconds")


def _trainer_builder(small):
    """Return a function that makes a trainer with random weights; `run_race` calls it for each of the two sides.

    Its arguments: the race's settings, True for shared prompts (False: stock TRL), answers to each prompt, and
    prompts in each step."""
    def build(settings, shared, G, prompts):
        from vlrlbook.data import synthetic_counting, to_dataset
        from vlrlbook.fit import real_model
        from vlrlbook.grpo import make_trainer
        from vlrlbook.models import add_lora
        from vlrlbook.race import profiles
        run = _run(small, batch_size=G * prompts, gradient_accumulation_steps=1, num_generations=G, max_steps=1,
                   shared_prompt=shared, lora_dropout=0.0, output_dir=tempfile.mkdtemp(),
                   max_completion_length=4 if small else profiles[settings.profile]["C"])
        own = run.settings
        model, processor = real_model(run)
        model = add_lora(model, own.lora_r, own.lora_alpha, 0.0)
        side, samples = own.max_image_size, synthetic_counting(4 * prompts)
        for sample in samples:
            sample.images = [picture.resize((side, side)) for picture in sample.images]
        trainer = make_trainer(own, model, processor, to_dataset(samples))
        # no token ends an answer, so that all answers have the full length and both sides do the same work
        trainer.eos_token_ids, trainer.generation_config.eos_token_id = [-1], None
        trainer.prompt_tokens = run.P
        return trainer
    return build


def part_size_gpu(small):
    "Measure three training steps with the settings of size=gpu, weights in bfloat16"
    return _measured_steps(small)


def part_flash_attn(small):
    "Measure three training steps with flash-attn; it cannot share prompts, so each answer's prompt is read again"
    return _measured_steps(small, attention="flash_attention_2")


def part_four_bit(small):
    "Measure three training steps with 4-bit weights, which are quantised when they are loaded from files"
    return _measured_steps(small, from_files=True, use_4bit=True)


def part_vllm(small):
    "Measure three training steps with answers from vLLM, which reads the weights from a directory"
    return _measured_steps(small, from_files=True, use_vllm=True)


def _run(small, **given):
    """Describe a run at the shape of a 3B model or, if `small`, of a tiny one.

    `given` are settings that differ from those of size=gpu. Returns vlrlbook.fit's description of a run, which
    holds the settings and counts tokens and memory."""
    from vlrlbook.fit import model_config, run_of
    from vlrlbook.settings import GRPOSettings, read_settings
    preset = dict(size="gpu", use_4bit=False, max_steps=3, save_steps=0, num_epochs=1)
    if small:
        preset |= dict(max_completion_length=4, max_image_size=56, lora_r=4)
    settings = read_settings(GRPOSettings, preset | given)
    # On a CPU training runs in float32, and the memory must be counted for that.
    return run_of(settings, model_config("tiny-qwen2_5_vl") if small else None, gpu=_has_gpu())


def _shape_name(small):
    "Return the name of the model's shape, as the logs have it"
    return "tiny-qwen2_5_vl" if small else "Qwen2.5-VL-3B, random weights"


def _measured_steps(small, from_files=False, **given):
    """Train three steps, and return time and memory beside the memory that `vlrlbook fit` computes for them.

    `from_files`: save the model and load it again, as 4-bit weights and vLLM need it. `given`: settings that
    differ from those of size=gpu."""
    import torch
    from vlrlbook.core import peak_memory_mb
    from vlrlbook.fit import counted_step, real_model, real_steps
    with tempfile.TemporaryDirectory() as folder:
        run = _run(small, output_dir=folder, **given)
        model, processor = real_model(run)
        if from_files:
            model, processor = _from_files(model, processor, run, folder)
        if given.get("attention"):
            model.set_attn_implementation(given["attention"])
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        begun = time.time()
        trainer = real_steps(run, model, processor, run.settings.max_steps)
        seconds = (time.time() - begun) / run.settings.max_steps
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        # a loss that is not equal to itself is NaN
        if not losses or any(loss != loss for loss in losses):
            raise RuntimeError(f"losses {losses}: no training")
        measured = peak_memory_mb() / 2**10
        found = dict(seconds_per_step=round(seconds, 3), steps=run.settings.max_steps, measured_gb=round(measured, 3),
                     counted_gb=round(counted_step(run)["most"] / 2**30, 3), shape=_shape_name(small),
                     settings="size=gpu, " + ", ".join(f"{k}={v}" for k, v in (dict(use_4bit=False) | given).items()))
    if torch.cuda.is_available():
        found["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 2**30, 3)
        found["ratio"] = round(found["counted_gb"] / found["measured_gb"], 3)
    else:  # on a CPU the measured memory includes the libraries, so the two cannot be compared
        found["settings"] += "; measured on a CPU, libraries included"
    return found


def _from_files(model, processor, run, folder):
    "Save a model, and load it again as a checkpoint from the hub would be loaded; returns model and processor"
    import torch
    from vlrlbook.models import load_vlm, save_model
    place = str(Path(folder) / "model")
    save_model(model, processor, place)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    model, processor = load_vlm(place, use_4bit=run.settings.use_4bit, max_image_size=run.settings.max_image_size)
    model.generation_config.update(eos_token_id=None)
    return model, processor


# Logs and the map

def write_rows(
    folder: Path,  # where the logs lie
    rows: list,  # from `run_part`
):
    "Write gpu_check.csv with a row for each part, and gpu_race.csv with the row of the race"
    races = [row["race"] | dict(device=row["device"], commit=row["commit"]) for row in rows if "race" in row]
    _write(folder / "gpu_check.csv", _columns, [{name: row.get(name, "") for name in _columns} for row in rows])
    if races:
        _write(folder / "gpu_race.csv", list(races[0]), races)


def _write(path, columns, rows):
    "Write a CSV file with \\n at the ends of lines: with Python's own \\r\\n, git would show every line as changed"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def gpu_words(
    rows: list,  # from `run_part`
) -> dict:  # chapter → what its cell of the map says; chapters without a measurement have none
    "Describe in a few words what was measured on a GPU, for the table of chapters on the front page"
    measured = {row["part"]: row for row in rows if row["state"] == "measured"}
    words = {}
    if "size_gpu" in measured:
        row = measured["size_gpu"]
        words["05_grpo"] = f"{row['seconds_per_step']:.1f} s a step, {row['measured_gb']:.0f} GB (3B, {row['device']})"
    if "race" in measured:
        row = measured["race"]
        words["07_shared_prompt"] = f"{row['ratio']:.1f} × stock TRL (3B, {row['device']})"
    return words


def redraw(
    rows: list,  # from `run_part`
    book: Path = root,  # where nbs/logs/chapters.csv and index.ipynb lie
):
    """Write what was measured into the GPU column of the table of chapters.

    The table is in chapters.csv, in the stored output of index.ipynb, and in README.md. Rows of chapters
    that were not measured stay as they are."""
    words = gpu_words(rows)
    if not words:
        return
    log = book / "nbs" / "logs" / "chapters.csv"
    with open(log, newline="", encoding="utf-8") as file:
        chapters = list(csv.DictReader(file))
    for row in chapters:
        row["gpu"] = words.get(row["chapter"], row["gpu"])
    _write(log, list(chapters[0]), chapters)
    index = book / "index.ipynb"
    index.write_text(_with_words(index.read_text(encoding="utf-8"), words), encoding="utf-8")
    subprocess.run([sys.executable, str(book / "tools" / "readme.py")], check=True, cwd=book)


def _with_words(text, words):
    """Replace the last cell of a chapter's row in the table of chapters; `text` is index.ipynb as text.

    `words` is a dict: chapter → text of its new last cell."""
    for chapter, new_cell in words.items():
        # a row reads: | [05_grpo](nbs/05_grpo.ipynb) | ... | last cell |, and JSON writes its line break as \n
        row = re.compile(rf"(\| \[{re.escape(chapter)}\]\(nbs/{re.escape(chapter)}\.ipynb\) \|.*\| )[^|]+( \|\\n)")
        text = row.sub(lambda match, new_cell=new_cell: match[1] + new_cell + match[2], text)
    return text


if __name__ == "__main__":
    sys.exit(main())
