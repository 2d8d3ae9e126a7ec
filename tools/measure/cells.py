"""The slowest cells of pages that papermill ran.

    python tools/logs.py cells CHAPTER=OUT.ipynb ...

Up to ten cells of each page, those of a second or more, with what was done about them. Takes a second.
Rows of other chapters stay. Writes nbs/logs/slow_cells.csv, whose first rows CONTRIBUTING.md shows."""
import json
from pathlib import Path

from measure.common import named_folders, read_log, write_log

log = "slow_cells.csv"
# CHAPTER/CELL -> what was done about a slow cell; a cell without a word here was left as it is
what_was_done = {
    "02_rewards/n232372e": "its slow reward took four times as long, and was asked twice",
    "03_reward_model/c066": "picture and question are read once for both answers of a pair",
    "05_grpo/c035": "the warm start is kept in the cache: only a first run pays for it",
    "05_grpo/na62fb33": "prompt and picture are read once for the eight answers of a group",
    "06_evaluation/c030":
        "its run is chapter 05's, groups read once; a run that is there is not trained again",
    "07a_jobs/91728b6c": "two steps: what it shows is the job, not the learning",
    "08_service/c017": "its job is chapter 05's run, groups read once",
    "08_service/c033": "80 steps of a small batch, enough to be killed twice",
    "09_easyr1/nbc28686":
        "its six stages take half a minute; the rest is the warm start of 400 steps, made once and kept",
}


def main(
    first: str,  # CHAPTER=OUT.ipynb
    *others: str,  # the same of more pages
):
    "Put pages' slow cells in the log, in place of those of an earlier run"
    ran = dict(named_folders((first, *others)))
    rows = []
    for row in read_log(log):
        if row["chapter"] not in ran:
            # Said anew for rows that stay, so that a word that is added above reaches them too.
            row["done"] = done_about(row["chapter"], row["cell"])
            rows.append(row)
    for chapter, path in ran.items():
        rows += slow_rows(chapter, path)
    write_log(log, sorted(rows, key=lambda row: -float(row["seconds"])))


def done_about(chapter, cell_id):
    "What was done about a cell, or nothing"
    return what_was_done.get(f"{chapter}/{cell_id}", "")


def slow_rows(
    chapter: str,  # name of the page's file, without its ending
    path: Path,  # page that papermill has run
) -> list:  # of rows, at most ten
    "The slow cells of one page"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    slowest = sorted(code, key=seconds_of, reverse=True)[:10]
    rows = []
    for cell in slowest:
        seconds = seconds_of(cell)
        if seconds >= 1:  # below a second nobody waits
            rows.append(dict(
                chapter=chapter,
                cell=cell["id"],
                first_line=first_line(cell),
                seconds=round(seconds, 1),
                done=done_about(chapter, cell["id"]),
            ))
    return rows


def seconds_of(cell):
    "What papermill noted; nothing beside a cell that was not run"
    return cell["metadata"].get("papermill", {}).get("duration") or 0


def first_line(cell):
    "First line of code; nbdev's directives such as `#| export` say nothing about it"
    for line in "".join(cell["source"]).splitlines():
        if line.strip() and not line.startswith("#|"):
            return line
    return ""
