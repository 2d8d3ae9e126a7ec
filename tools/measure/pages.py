"""Pages run from an empty cache, their outputs stored in nbs; minutes and memory.

    python tools/logs.py pages [NAME ...]

Each NAME is that of a page's file without its ending; all unless said otherwise, in 25 minutes. A page that
fails stays as it was. Rows of other pages stay. Writes nbs/logs/chapters.csv, slow_cells.csv as `cells`
does, and with page 03 03_runs.csv as `judges` does. `python tools/logs.py pages 05_grpo` runs one page."""
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import without_bars

from measure import cells, judges
from measure.common import read_log, root, run_program, write_log

log = "chapters.csv"
# What a reader sees on a page; the front page's table shows it beside seconds and memory
what_you_see = {
    "000_why_it_learns": "for who knows no RL: one picture, three answers, ten lines; from a reward to GRPO",
    "00_core": "the five pictures; parameters that check themselves",
    "00a_models": "six families, their tiny twins, LoRA on and merged",
    "01_data": "ZIP to data set, broken rows named, tokens counted",
    "02_rewards": "six answers guessed and paid; a reward cheated",
    "03_reward_model": "two answers, a preference, a score; the score as a reward, and how it is gamed",
    "03a_judge": "a model is asked whether an answer is right; how far it agrees, what it costs, what fools it",
    "04_aloha": "three cameras, a task, a reward bin under every frame",
    "05_grpo": "GRPO by hand, by TRL, and the run",
    "06_evaluation": "untrained, warm start, GRPO on the same pictures; controls; is the gain real?",
    "07_shared_prompt": "one prompt, eight answers, read once; beside stock TRL",
    "07a_jobs": "a job killed twice and finished once; what jobs survive, counted",
    "08_service": "upload, train, watch, download; what it refuses and what it survives",
    "09_easyr1": "the same rows and reward for EasyR1 and verl: the whole road in one command",
    "09a_config": "every key of EasyR1 and verl, and ten ways to get one wrong",
    "09b_export": "a template rendered, one reward asked in three dialects, a directory that an engine runs",
    "09c_inspection": "a dry run, before and after eight accidents",
    "09d_shards": "where a tensor's rows went, and how they come back",
    "09e_merge": "shards merged into one model with the same logits; what is refused",
    "09f_pipeline": "the code of the quick start, stage by stage",
    "10_pointing": "a truth and four answers on one picture, what each earned; boxes in the wrong scale",
    "10a_zoom": "discs too small to be seen, a tool that shows them, when a look is worth its price; runs that learned to look",
}


def main(
    *names: str,  # of pages; none: all
):
    "Run pages one after the other"
    pages = pages_named(names)
    stop_if_undescribed(pages)
    rows = {row["chapter"]: row for row in read_log(log)}
    for path in pages:
        rows[path.stem] = run_and_store(path)
        print(rows[path.stem])
    write_log(log, [rows[chapter] for chapter in sorted(rows)])


def pages_named(names):
    "Files of these pages, or of all"
    pages = {path.stem: path for path in sorted((root / "nbs").glob("[0-9]*.ipynb"))}
    unknown = set(names) - set(pages)
    if unknown:
        sys.exit(f"no page is called {', '.join(sorted(unknown))}; there are {', '.join(pages)}")
    return [path for name, path in pages.items() if not names or name in names]


def stop_if_undescribed(pages):
    "Before minutes are spent on a page that has no place in the table"
    for path in pages:
        if path.stem not in what_you_see:
            sys.exit(f"{path.stem}: say what a reader sees on it, in what_you_see of tools/measure/pages.py")


def run_and_store(
    path: Path,  # of a page in nbs/, replaced by the page with the run's outputs
) -> dict:  # row of the log
    "Run one page as a papermill job, in an empty folder with an empty cache"
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        ran = run_program("run_page.py", path, folder=folder, VLRLBOOK_CACHE=f"{folder}/cache")
        cells.main(f"{path.stem}={folder}/out.ipynb")
        shutil.copy(f"{folder}/out.ipynb", path)
        without_bars(path)
        if path.stem == "03_reward_model":
            # The page's own run is one of the seeds that the page compares.
            judges.main(f"the preset={folder}/runs/{path.stem}")
    # Takes papermill's own metadata away, which would change with every run.
    nbdev_clean = Path(sys.executable).parent / "nbdev_clean"
    subprocess.run([nbdev_clean, "--fname", path], cwd=root, check=True)
    return dict(
        chapter=path.stem,
        what=what_you_see[path.stem],
        seconds=round(time.time() - start),
        memory_mb=ran["memory_mb"],
        gpu=measured_on_a_gpu(path.stem),
    )


def measured_on_a_gpu(chapter):
    "What tools/gpu_check.py has written into the log; a page that is run again on a CPU does not change it"
    return next((row["gpu"] for row in read_log(log) if row["chapter"] == chapter), "not measured")
