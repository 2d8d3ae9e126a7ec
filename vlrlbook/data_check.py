"""`vlrlbook check-data`: a file looked through as training will, before anything is loaded.

A counting ZIP goes through the wall of `archive`, a file of rows through the gate of `rows`; then come the
truths under the reward, the split and, where a model is named, the length of the prompts. What is called good
here trains. Written by hand."""
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from .archive import DataError, report_in, unpack_counting_zip, zip_kinds
from .data import load_counting, preference_fields, preflight, rows_that_teach, split_by_picture
from .data import split_preferences, vqa_dataset, with_good_truths
from .pointing import in_scale_of, with_good_boxes
from .rewards import load_reward
from .rows.files import is_archive
from .rows.gate import inspect_preferences, inspect_vqa, leaks
from .settings import SettingsError, nearest
from .settings import presets as size_presets

__all__ = ["DataCheck", "check_file"]

# Kind of a file → how its rows are called in the text of a `DataCheck`
_kinds = {"vqa": "VQA rows", "preferences": "preference rows", "counting": "counting rows",
          "pointing": "pointing rows"}
_most_numbers = 10  # row numbers that one message lists
_pairs_seed = 42  # default of a reward model's settings, whose module needs torch; a test compares the two


@dataclass
class DataCheck:
    "What a file holds, and whether training will take it"
    report: object  # `archive.Report` or `rows.gate.RowReport`: what was kept, left out and changed
    kind: str = "vqa"  # vqa, preferences, counting or pointing
    problems: list = field(default_factory=list)  # `DataError`s at which training would stop

    @property
    def good(self) -> bool:
        "Whether training takes the file as it is"
        return not self.problems

    def _repr_markdown_(self):
        "The report, then a line for each problem but the first, which the caller raises or prints itself"
        # "12 rows, 10 kept" becomes "12 VQA rows, 10 kept".
        lines = [str(self.report).replace(" rows,", f" {_kinds[self.kind]},", 1)]
        lines += [f"- {problem}" for problem in self.problems[1:]]
        return "\n".join(lines)

    __repr__ = _repr_markdown_


def check_file(
    path: str | Path,  # .zip, or rows in .json, .jsonl, .csv, .tsv or .parquet
    kind: str = "vqa",  # of the rows: vqa, preferences, counting, pointing; of a ZIP pointing, else counting
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "question=problem image=scan"
    reward: str = None,  # that the true answers must be able to earn; None: the reward of the kind
    skip_bad_rows: bool = False,  # bad rows will be left out in training, so they are no problem
    strict: bool = False,  # refuse a ZIP for one bad row
    val_data: str | Path | None = None,  # for evaluation, must not share a picture with this file; None: none
    model: str = None,  # whose processor measures the prompts; None: lengths are not checked
) -> DataCheck:
    """Check a file's rows, pictures, true answers and split as training will, but without training.

    Whatever training would stop at is listed in `problems`. Only a file that cannot be read at all, and
    arguments that make no sense, raise an error."""
    path = Path(path)
    if kind not in _kinds:
        raise SettingsError(f"kind = {kind!r}{nearest(kind, list(_kinds))}")

    with tempfile.TemporaryDirectory() as work:  # archives are unpacked into it
        # dataset: what a run would read, or None. rows: usable ones as (number, object with `pictures`).
        if is_archive(path):
            if keys:  # they would have no effect
                raise SettingsError("keys: a counting ZIP has the columns of its contract")
            kind = _kind_of_zip(kind)  # pointing, or else counting
            check, dataset, rows = _counting(path, kind, strict, Path(work) / "data")
        elif kind == "preferences":
            check, dataset, rows = _preferences(path, image_dir, keys, skip_bad_rows)
            _check_pairs(rows, 1 if val_data else 2, check)  # without `val_data` two sets are split off
        else:
            check, dataset, rows = _questions(path, kind, image_dir, keys, skip_bad_rows)

        # `_check_dataset` and `_look_for_leaks` add the problems that they find to `check`.
        if dataset is not None:
            _check_dataset(dataset, reward or kind, skip_bad_rows, model, check)
        if val_data is not None:
            others = _rows_of(Path(val_data), kind, image_dir, keys, Path(work) / "val")
            _look_for_leaks(rows, others, Path(val_data).name, check)
    return check


def _check_dataset(
    dataset,  # the rows of a file that could be read
    reward,  # name of the reward that the true answers must be able to earn, such as vqa
    skip,  # rows whose true answer earns too little will be left out in training
    model,  # whose processor measures the prompts, or None
    check,  # `DataCheck` of the file, which gets the problems
):
    "Add what is wrong with a data set's boxes, true answers, split and prompts to `check`"
    # In the order in which a run does it: boxes are looked at before rows are left out.
    if check.kind == "pointing":
        _check_boxes(dataset, model, check)
    rewarded = _rewarded_rows(dataset, reward, skip, check)  # None: a problem was added
    # All rows are checked further even if an answer would stop a run, so that one call finds all problems.
    trained = dataset if rewarded is None else rewarded
    _check_split(trained, check)
    if model:
        _check_prompts(trained, model, check)


def _kind_of_zip(kind):
    "What the answers in a ZIP are, a key of `archive.zip_kinds`: counts unless boxes were asked for"
    return kind if kind in zip_kinds else "counting"


def _look_for_leaks(
    rows,  # of this file: (row number, object with `pictures`)
    others,  # of the file that is compared, in the same form
    other_name,  # name of that file
    check,  # `DataCheck` that gets the problem
):
    "Add a problem to `check` if a picture stands in both files"
    shared = leaks(rows, others)  # numbers of the rows in `rows` whose picture, by its bytes, is in `others`
    if shared:
        numbers = ", ".join(map(str, shared[:_most_numbers]))
        if len(shared) > _most_numbers:
            numbers += " …"
        message = f"pictures of {len(shared)} rows stand in {other_name} too (rows {numbers})"
        check.problems.append(DataError("split.leak", message))


def _rows_of(
    path,  # a file of rows, a counting ZIP, or a folder that one was unpacked into
    kind,  # of the rows: vqa, preferences, counting or pointing
    image_dir,  # where picture paths begin; None: beside the file
    keys,  # which column holds what, such as "question=problem image=scan"
    work,  # new folder that a ZIP is unpacked into
):
    "The usable rows of a file, as (row number, object with `pictures`), to be compared with another file"
    if is_archive(path):
        # Not strict: bad rows of this file are no problem of the file that is checked.
        _, _, rows = _unpacked(path, work, _kind_of_zip(kind), strict=False)
    elif kind == "preferences":
        rows, _ = inspect_preferences(path, image_dir, keys)  # _: the report, with the rows that are bad
    else:
        rows, _ = inspect_vqa(path, image_dir, keys)
    return rows


def _unpacked(
    path,  # a counting ZIP, or the folder into which such a ZIP was unpacked before
    work,  # new folder that a ZIP is unpacked into
    kind,  # what its answers are, a key of `zip_kinds`
    strict,  # refuse a ZIP for one bad row
):
    """Unpack a counting ZIP, and read its rows; of a ZIP that was unpacked before, only read the rows.

    Returns the folder, the `Report`, and the rows as (row number, object with `pictures`)."""
    if path.is_dir():
        return path, report_in(path), _rows_in(path)  # the `Report` that was saved when it was unpacked
    if not path.is_file():
        raise DataError("zip.missing", f"no such file: {path.name}")
    work.mkdir()
    # Writes rows.jsonl and the pictures into `work`.
    report = unpack_counting_zip(path, work, strict, kind=kind)
    return work, report, _rows_in(work)


def _rows_in(folder):
    "The rows of a folder that a counting ZIP was unpacked into, as (row number, object with `pictures`)"
    rows = []  # in the form that `leaks` takes, which looks for pictures in two files
    with open(folder / "rows.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)  # row (its number), question, answer, file (of its picture)
            rows.append((row["row"], SimpleNamespace(pictures=[str(folder / row["file"])])))
    return rows


def _counting(
    path,  # a counting ZIP, or a folder that one was unpacked into
    kind,  # what its answers are, a key of `zip_kinds`
    strict,  # refuse a ZIP for one bad row
    work,  # new folder that a ZIP is unpacked into
):
    """Read the rows of a counting ZIP.

    Returns the `DataCheck`, the data set, and the rows as (row number, object with `pictures`)."""
    folder, report, rows = _unpacked(path, work, kind, strict)
    return DataCheck(report, kind), load_counting(folder, kind), rows


def _questions(
    path,  # a file of rows
    kind,  # of the rows: vqa, counting or pointing
    image_dir,  # where picture paths begin; None: beside the file
    keys,  # which column holds what, such as "question=problem image=scan"
    skip_bad_rows,  # bad rows will be left out in training, so they are no problem
):
    """Read the rows of a file of questions, and add bad ones to the problems.

    Returns the `DataCheck`, the data set of the good rows, None if there is none, and the usable rows as (row
    number, `VQARow`)."""
    rows, report = inspect_vqa(path, image_dir, keys)
    check = DataCheck(report, kind)
    _add_bad_rows(rows, skip_bad_rows, check)
    if not rows:
        return check, None, rows
    # The good rows are checked even if bad ones would stop a run, so that one call finds all problems.
    return check, vqa_dataset(rows, kind), rows


def _add_bad_rows(
    rows,  # the usable ones
    skip_bad_rows,  # bad rows will be left out in training
    check,  # `DataCheck`; its report has the bad rows in `skipped`
):
    "Add a problem to `check` for the first bad row; if bad rows are left out, only if no row remains"
    report = check.report
    if report.skipped and not skip_bad_rows:
        check.problems.append(report.refusal())  # the first bad row as an error
    # Then all rows were bad: a file without any row is refused when it is read.
    if not rows and skip_bad_rows:
        check.problems.append(DataError("row.none", f"none of {report.rows} rows can be used"))


def _preferences(
    path,  # a file of rows
    image_dir,  # where picture paths begin; None: beside the file
    keys,  # which column holds what, such as "question=query chosen=better"
    skip_bad_rows,  # bad rows will be left out in training, so they are no problem
):
    """Check the rows of a file of preferences.

    Returns the `DataCheck`, None in place of a data set, since a reward model trains on the rows themselves,
    and the usable rows as (row number, `PreferenceRow`)."""
    rows, report = inspect_preferences(path, image_dir, keys)
    check = DataCheck(report, "preferences")
    _add_bad_rows(rows, skip_bad_rows, check)
    return check, None, rows


def _check_pairs(
    rows,  # the usable ones: (row number, `PreferenceRow`)
    held_out_sets,  # how many sets of rows training splits off: for evaluation and test, or for the test
    check,  # `DataCheck` that gets the problem
):
    "Add a problem to `check` if preference rows teach nothing, or if there are too few groups to hold one out"
    if not rows:
        return  # `_add_bad_rows` has added a problem
    train = [preference_fields(row) for _, row in rows]
    try:
        rows_that_teach(train)  # first of all rows, so that the message is about the file
        for _ in range(held_out_sets):
            # As a run with the default seed does it; another seed holds out other rows.
            train, _held_out = split_preferences(train, seed=_pairs_seed)
        rows_that_teach(train)
    except DataError as error:
        check.problems.append(error)


def _rewarded_rows(
    dataset,  # questions with their true answers
    reward,  # its name, such as vqa
    skip,  # leave rows out whose true answer earns too little for a model to learn from it
    check,  # `DataCheck`: its `report` gets the rows that are left out, its `problems` what stops the check
):
    """Return the rows whose true answer the reward pays well, as a data set.

    Without `skip`, a row whose true answer earns too little becomes a problem of `check`, and the result is
    None; with `skip` that happens only if no row is left."""
    try:
        # adds the rows that it leaves out to the report
        return with_good_truths(dataset, load_reward(reward), skip, check.report)
    except DataError as error:  # about the first such row
        check.problems.append(error)
        return None


# A run scales large pictures down before it counts their tokens or rewrites boxes, and so does this check.
_longest_side = cast(int, size_presets["gpu"]["max_image_size"])  # N: at most N × N pixels in all


def _check_boxes(dataset, model, check):
    """Add a problem to `check` if a box of a true answer lies outside its picture.

    If a model is given, a box that is too small for that model's coordinates is a problem too."""
    try:
        if model:
            # Writes the boxes in the model's coordinates, as for a run that scales pictures down to
            # `_longest_side` squared pixels at most. Only the error matters here.
            in_scale_of(dataset, model, _longest_side)
        else:
            with_good_boxes(dataset)
    except DataError as error:
        check.problems.append(error)


def _check_split(dataset, check):
    """Add a problem to `check` if there are no two rows without a common picture.

    Training needs one row at least to train on and one to hold out."""
    try:
        split_by_picture(dataset)
    except DataError as error:
        check.problems.append(error)


def _check_prompts(dataset, model, check):
    "Add to `check` what `preflight` finds with the model's processor, such as prompts that are too long"
    from .models import load_processor  # imported here: without a model no torch is needed
    result = preflight(dataset, load_processor(model, _longest_side))
    for problem in result.problems:
        error = DataError(problem["code"], problem["message"], row=problem["row"])
        check.problems.append(error)
