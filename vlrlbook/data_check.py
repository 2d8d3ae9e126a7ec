"""`vlrlbook check-data`: a file looked through as training will, before anything is loaded.

A counting ZIP goes through the wall of `archive`, a file of rows through the gate of `rows`; then come the
truths under the reward, the split and, where a model is named, the length of the prompts. What is called good
here trains. Written by hand."""
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from .archive import DataError, Report, unpack_counting_zip
from .data import load_counting, preflight, split_by_picture, vqa_dataset, with_good_truths
from .pointing import in_scale_of, with_good_boxes
from .rewards import load_reward
from .rows.gate import inspect_preferences, inspect_vqa, leaks
from .settings import SettingsError, nearest

__all__ = ["DataCheck", "check_file"]

_kinds = {"vqa": "VQA rows", "preferences": "preference rows", "counting": "counting rows",
          "pointing": "pointing rows"}


@dataclass
class DataCheck:
    "What a file holds, and whether training will take it"
    report: object  # of the wall or of the gate: what was kept, left out and changed
    kind: str = "vqa"  # vqa, preferences, counting or pointing
    problems: list = field(default_factory=list)  # `DataError`s at which training would stop

    @property
    def good(self) -> bool:
        "Whether training takes the file as it is"
        return not self.problems

    def _repr_markdown_(self):
        lines = [str(self.report).replace(" rows,", f" {_kinds[self.kind]},", 1)]
        # the first is what a run stops at, and is said as its error
        lines += [f"- {problem}" for problem in self.problems[1:]]
        return "\n".join(lines)

    __repr__ = _repr_markdown_


def check_file(
    path: str | Path,  # .zip, or rows in .json, .jsonl, .csv, .tsv or .parquet
    kind: str = "vqa",  # of the rows: vqa, preferences, counting or pointing; a ZIP is always counting
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "question=problem image=scan"
    reward: str = None,  # under which truths are tried; None: the task's own
    skip_bad_rows: bool = False,  # bad rows will be left out in training, too
    strict: bool = False,  # refuse a ZIP for one bad row
    val_data: str | Path | None = None,  # a file that must not share a picture with this one
    model: str = None,  # whose processor measures the prompts; None: lengths are not looked at
) -> DataCheck:
    "Look a file through; only a file that cannot be read at all is an error"
    path = Path(path)
    if kind not in _kinds:
        raise SettingsError(f"kind = {kind!r}{nearest(kind, list(_kinds))}")
    with tempfile.TemporaryDirectory() as work:  # for what is in an archive
        if _is_archive(path):
            if keys:
                # taken in silence, it would look as if it had worked
                raise SettingsError("keys: a counting ZIP has the columns of its contract")
            found, dataset, rows = _counting(path, reward, strict, Path(work) / "data")
        elif kind == "preferences":
            found, dataset, rows = _preferences(path, image_dir, keys, skip_bad_rows)
        else:
            found, dataset, rows = _questions(path, kind, image_dir, keys, reward, skip_bad_rows)
        if val_data is not None:
            others = _rows_of(Path(val_data), kind, image_dir, keys, Path(work) / "val")
            _look_for_leaks(rows, others, Path(val_data).name, found)
        if dataset is not None:
            if kind == "pointing":
                _try_boxes(dataset, model, found)
            _try_split(dataset, found)
            if model:
                _measure(dataset, model, found)
    return found


def _is_archive(path):
    "A counting ZIP, or a folder: what was unpacked from one before, such as a service's upload"
    return path.suffix.lower() == ".zip" or path.is_dir()


def _look_for_leaks(rows, others, name, found):
    "A problem if pictures stand in both files"
    # by the bytes of the pictures: the same photograph often lies in both folders under two names
    shared = leaks(rows, others)
    if shared:
        numbers = ", ".join(map(str, shared[:10])) + (" …" if len(shared) > 10 else "")
        message = f"pictures of {len(shared)} rows stand in {name} too (rows {numbers})"
        found.problems.append(DataError("split.leak", message))


def _rows_of(path, kind, image_dir, keys, work):
    "Usable rows of a file that this one is compared with, as (number, row with pictures)"
    if _is_archive(path):
        return _unpacked(path, work, strict=False)[2]
    if kind == "preferences":
        return inspect_preferences(path, image_dir, keys)[0]
    return inspect_vqa(path, image_dir, keys)[0]


def _unpacked(path, work, strict):
    "Folder, report and rows (number, row with its picture) of a counting ZIP, packed or not"
    if path.is_dir():
        folder = path
        try:
            report = Report(**json.loads((path / "report.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            message = f"{path.name} is a folder that no counting ZIP was unpacked into; expected a file"
            raise DataError("file.kind", message) from error
    elif not path.is_file():
        raise DataError("zip.missing", f"no such file: {path.name}")
    else:
        work.mkdir()
        folder, report = work, unpack_counting_zip(path, work, strict)
    rows = []  # as the gate gives them, so that two files can be compared
    with open(folder / "rows.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            rows.append((row["row"], SimpleNamespace(pictures=[str(folder / row["file"])])))
    return folder, report, rows


def _counting(path, reward, strict, work):
    "A counting ZIP, or what was unpacked from one: check, data set, rows with their pictures"
    folder, report, rows = _unpacked(path, work, strict)
    found = DataCheck(report, "counting")
    dataset = load_counting(folder)
    # a ZIP's bad rows are always left out, but a truth that another reward cannot pay stops a run
    _try_truths(dataset, reward or "counting", False, found)
    return found, dataset, rows


def _questions(path, kind, image_dir, keys, reward, skip_bad_rows):
    "A file of questions: check, data set of the good rows or None, rows of the gate"
    rows, report = inspect_vqa(path, image_dir, keys)
    found = DataCheck(report, kind)
    if report.skipped and not skip_bad_rows:
        found.problems.append(report.refusal())
    if not rows:
        if skip_bad_rows:
            found.problems.append(DataError("row.none", f"none of {report.rows} rows can be used"))
        return found, None, rows
    # what is left when bad rows are skipped is looked at all the same, so that one call tells all there is
    dataset = vqa_dataset(rows, kind)
    dataset = _try_truths(dataset, reward or kind, skip_bad_rows, found)
    return found, dataset, rows


def _preferences(path, image_dir, keys, skip_bad_rows):
    "A file of preferences: check, None, rows of the gate"
    rows, report = inspect_preferences(path, image_dir, keys)
    found = DataCheck(report, "preferences")
    if report.skipped and not skip_bad_rows:
        found.problems.append(report.refusal())
    if not rows and skip_bad_rows:
        found.problems.append(DataError("row.none", f"none of {report.rows} rows can be used"))
    if rows and all(len(set(row.human_ranking)) == 1 for _, row in rows):
        message = "no pair has a preference: there is nothing to learn from"
        found.problems.append(DataError("preference.ties", message))
    return found, None, rows


def _try_truths(dataset, reward, skip, found):
    "The rows whose truths the reward can pay; the first other one is a problem"
    try:
        return with_good_truths(dataset, load_reward(reward), skip, found.report)
    except DataError as error:
        found.problems.append(error)
        return None


def _try_boxes(dataset, model, found):
    "Boxes must be of their picture and, where a model is named, large enough to be written in its scale"
    try:
        in_scale_of(dataset, model) if model else with_good_boxes(dataset)
    except DataError as error:
        found.problems.append(error)


def _try_split(dataset, found):
    "Training holds a part out by picture: there must be two pictures at least"
    try:
        split_by_picture(dataset)
    except DataError as error:
        found.problems.append(error)


def _measure(dataset, model, found):
    "Prompts that are too long for a run, by the model's own processor"
    from .models import load_processor  # here, since a look without a model needs no torch
    checked = preflight(dataset, load_processor(model))
    for problem in checked.problems:
        found.problems.append(DataError(problem["code"], problem["message"], row=problem["row"]))
