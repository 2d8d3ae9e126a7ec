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
    "All parts, one after the other; exit status 1 where none could be measured"
    args = _arguments(argv)
    if args.part:
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
        write_rows(folder, rows)  # after each part: what is measured is kept, whatever comes
    if not args.small:
        redraw(rows)
    return 0 if any(row["state"] == "measured" for row in rows) else 1


def _arguments(argv):
    "The command line"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="small shapes, also on a CPU; nothing is redrawn")
    parser.add_argument("--folder", help="where the logs go; nbs/logs if not given")
    parser.add_argument("--parts", nargs="+", choices=list(budgets), default=list(budgets))
    parser.add_argument("--seconds", type=float, help="that each part may take; its own budget if not given")
    parser.add_argument("--part", choices=list(budgets), help=argparse.SUPPRESS)  # what a part's process is told
    return parser.parse_args(argv)


def run_part(
    part: str,  # a key of `budgets`
    small: bool,  # small shapes
    seconds: float,  # that it may take
) -> dict:  # a row of gpu_check.csv: state is measured, failed, out of time or not there
    "One part in a process of its own, so that its memory is its own and its end is not that of the others"
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
    found = [line for line in done.stdout.splitlines() if line.startswith(_row_mark)]
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[-1][:300] if said else f"ended with {done.returncode} and said nothing"
        return row | dict(state="failed", why=why)
    return row | dict(state="measured") | json.loads(found[-1].removeprefix(_row_mark))


def _report(found):
    "Print a part's result for the process that waits for it"
    from vlrlbook.core import run_facts
    facts = run_facts()
    print(_row_mark + json.dumps(found | dict(device=facts["device"], commit=facts["commit"])))
    return 0


def _has_gpu():
    "Whether PyTorch sees a GPU"
    import torch
    return torch.cuda.is_available()


# Parts

def part_race(small):
    "Stock TRL and shared prompts in turns; the row of the race and its ratio"
    from vlrlbook.race import RaceSettings, run_race
    settings = RaceSettings(profile="counting", rounds=1 if small else 3)
    found = run_race(settings, 4 if small else 8, 2, build=_builder(small))
    return dict(race=found, seconds_per_step=round(found["shared_seconds"], 3), steps=settings.rounds, ratio=round(found["ratio"], 3),
                shape=_shape_name(small), settings="counting profile; ratio: stock seconds by shared seconds")


def _builder(small):
    "What `run_race` calls for a trainer of one side, on random weights"
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
        trainer.eos_token_ids, trainer.generation_config.eos_token_id = [-1], None  # every answer has its full length
        trainer.prompt_tokens = run.P
        return trainer
    return build


def part_size_gpu(small):
    "Three steps with the settings of size=gpu, weights in bfloat16"
    return _measured_steps(small)


def part_flash_attn(small):
    "The same with flash-attn, which cannot share prompts"
    return _measured_steps(small, attention="flash_attention_2")


def part_four_bit(small):
    "The same with 4-bit weights"
    return _measured_steps(small, from_files=True, use_4bit=True)


def part_vllm(small):
    "The same with answers from vLLM, which must find the weights in a directory"
    return _measured_steps(small, from_files=True, use_vllm=True)


def _run(small, **given):
    "A run at the 3B shape, or at that of a small twin"
    from vlrlbook.fit import model_config, run_of
    from vlrlbook.settings import GRPOSettings, read_settings
    preset = dict(size="gpu", use_4bit=False, max_steps=3, save_steps=0, num_epochs=1)
    if small:
        preset |= dict(max_completion_length=4, max_image_size=56, lora_r=4)
    settings = read_settings(GRPOSettings, preset | given)
    # On a CPU there is no bfloat16 run: what is counted must be what is done.
    return run_of(settings, model_config("tiny-qwen2_5_vl") if small else None, gpu=_has_gpu())


def _shape_name(small):
    return "tiny-qwen2_5_vl" if small else "Qwen2.5-VL-3B, random weights"


def _measured_steps(small, from_files=False, **given):
    "Real steps and their memory, beside what is counted"
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
        if not losses or any(loss != loss for loss in losses):
            raise RuntimeError(f"losses {losses}: no training")
        measured = peak_memory_mb() / 2**10
        found = dict(seconds_per_step=round(seconds, 3), steps=run.settings.max_steps, measured_gb=round(measured, 3),
                     counted_gb=round(counted_step(run)["most"] / 2**30, 3), shape=_shape_name(small),
                     settings="size=gpu, " + ", ".join(f"{k}={v}" for k, v in (dict(use_4bit=False) | given).items()))
    if torch.cuda.is_available():
        found["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 2**30, 3)
        found["ratio"] = round(found["counted_gb"] / found["measured_gb"], 3)
    else:  # a CPU's mark holds the libraries too, so no ratio can be made
        found["settings"] += "; measured on a CPU, libraries included"
    return found


def _from_files(model, processor, run, folder):
    "The model saved and loaded again as a checkpoint of the hub would be"
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
    "gpu_check.csv with a row for each part, gpu_race.csv with the race's own row"
    races = [row["race"] | dict(device=row["device"], commit=row["commit"]) for row in rows if "race" in row]
    _write(folder / "gpu_check.csv", _columns, [{name: row.get(name, "") for name in _columns} for row in rows])
    if races:
        _write(folder / "gpu_race.csv", list(races[0]), races)


def _write(path, columns, rows):
    "A CSV file, lines ended as git wants them"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def gpu_words(
    rows: list,  # from `run_part`
) -> dict:  # chapter → what its cell of the map says; chapters without a measurement have none
    "What was measured of a chapter on a GPU, in a few words"
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
    "The GPU column of the map: in its log, in the stored output of index.ipynb, and in README.md; others stay as they are"
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
    "A notebook's text with other last cells in the map's rows"
    for chapter, said in words.items():
        row = re.compile(rf"(\| \[{re.escape(chapter)}\]\(nbs/{re.escape(chapter)}\.ipynb\) \|.*\| )[^|]+( \|\\n)")
        text = row.sub(lambda found, said=said: found[1] + said + found[2], text)
    return text


if __name__ == "__main__":
    sys.exit(main())
