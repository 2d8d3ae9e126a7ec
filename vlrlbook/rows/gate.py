"""The gate that a file of rows passes before anything is trained, exported, scored or called good.

Every door asks the same two functions, `inspect_vqa` and `inspect_preferences`: `vlrlbook check-data`,
`convert-vqa`, the exports, GRPO, the reward model and the evaluation. So a file that is called good trains,
and a row that is refused is refused everywhere, with the same code and the same words. Written by hand."""
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..archive import DataError
from .columns import check_keys, empty_columns, holds_encoded_pictures, read_keys
from .files import read_rows
from .pictures import decoded, located
from .preferences import read_preference_row
from .vqa import file_habits, read_vqa_row

__all__ = ["RowReport", "inspect_vqa", "inspect_preferences", "read_vqa_file", "read_preference_file",
           "leaks", "picture_content"]

_most_listed = 20  # skipped rows, and notes, that a report prints; the object holds all of them


@dataclass
class RowReport:
    "What a file of rows holds, how much of it can be used, and what was changed on the way"
    file: str = ""  # name of the file
    rows: int = 0  # number of rows in the file
    kept: int = 0  # number of rows that can be used
    with_pictures: int = 0  # how many of the kept rows have pictures
    several_pictures: int = 0  # how many of the kept rows have two or more
    skipped: list = field(default_factory=list)  # {row, code, message, entry} of each row that cannot be used
    notes: list = field(default_factory=list)  # of (sentence, number of rows that it is true of)
    own_system: list = field(default_factory=list)  # numbers of kept rows that came with a system turn

    @property
    def csv_rows(self):
        "The number of rows, under the name that it has in `archive.Report`, so that programs read both"
        return self.rows

    @property
    def valid_images(self):
        "The number of kept rows, under the name that it has in `archive.Report`, so that programs read both"
        return self.kept

    def refusal(self) -> DataError:
        "An error about the first skipped row, to be raised where the user did not ask to skip bad rows"
        first, more = self.skipped[0], len(self.skipped) - 1  # `skipped` is in the order of the rows
        advice = "skip_bad_rows leaves bad rows out"
        if more:
            advice = f"and {more} more of {self.rows} rows, which vlrlbook check-data lists; {advice}"
        message = f"{self.file}: {first['message']} ({advice})"
        return DataError(first["code"], message, row=first["row"], entry=first["entry"])

    def _repr_markdown_(self):
        "The counts on one line, then the first skipped rows and the first notes, one on a line"
        pictures = f"{self.with_pictures} with pictures"
        if self.several_pictures:
            pictures += f" ({self.several_pictures} of them with several)"
        lines = [f"{self.rows} rows, {self.kept} kept, {len(self.skipped)} skipped; {pictures}"]
        for row in self.skipped[:_most_listed]:
            # What of the row is bad, such as a picture's path; None or empty if the message says all.
            entry = f", `{row['entry'][:80]}`" if row["entry"] else ""
            lines.append(f"- row {row['row']}{entry}: {row['code']}, {row['message']}")
        if len(self.skipped) > _most_listed:
            lines.append(f"- and {len(self.skipped) - _most_listed} more")
        for note, count in self.notes[:_most_listed]:
            plural = "" if count == 1 else "s"
            lines.append(f"- {count} row{plural}: {note}")
        return "\n".join(lines)

    __repr__ = _repr_markdown_


# VQA rows

def inspect_vqa(
    path: str | Path,  # a file of rows in any of the known forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "question=problem image=img_name"
    look: bool = True,  # find and open every picture; False: paths stay as they are, unchecked
    rows: list = None,  # of (row number, dict) in place of the file's, such as those made of a COCO file
) -> tuple:  # list of (row number, VQARow with pictures as absolute paths or bytes), RowReport
    """Read and check all rows of a file; returns the good ones, and a report that lists the bad ones.

    Raises an error only if the file itself cannot be read, or `keys` do not fit it."""
    path, keys = Path(path), read_keys(keys)
    picture_folder = Path(image_dir) if image_dir else path.parent
    if rows is None:
        rows = read_rows(path)
    check_keys(keys, rows, path.name)  # `DataError` for a column that no row has
    # habits: which columns are empty in the whole file, and whether its options are counted from 0 or 1
    read_row = partial(read_vqa_row, keys=keys, habits=file_habits(rows, keys))
    report = RowReport(path.name)  # the calls below fill it
    kept = _readable_rows(rows, read_row, picture_folder if look else None, report)
    # Pictures are opened last, since this takes much longer than reading the texts.
    kept = _with_good_pictures(kept, report, look)
    # A run's own system prompt is not put in front of these.
    report.own_system = [number for number, row in kept if row.has_system]
    _count_pictures(kept, report)
    _add_notes(kept, report)
    _add_repeats(kept, report)
    _add_picture_notes(kept, report, look)
    return kept, report


def _readable_rows(
    rows,  # of (row number, dict)
    read_row,  # called with a dict and its number; `DataError` for a bad row
    picture_folder,  # where picture paths begin; None: pictures are not looked for
    report,  # `RowReport`: its `rows` counts all, its `skipped` gets those that cannot be read
):
    "Read rows and find their pictures' files: a list of (row number, row) without the bad ones"
    kept = []
    for number, raw_row in rows:
        report.rows += 1
        try:
            row = read_row(raw_row, number)
            if picture_folder is not None:
                # Each becomes the absolute path of a file; one that stands in the row as bytes stays.
                row.pictures = [located(picture, picture_folder, number) for picture in row.pictures]
        except DataError as error:
            _skip(report, number, _with_other_column(error, raw_row))
        else:
            kept.append((number, row))
    return kept


def _with_other_column(error, raw_row):
    """An error about a row (a dict) that, if a picture's file is missing, names a column that holds pictures.

    MathVista and MathVision have a path in `image` and the picture itself in `decoded_image`."""
    if error.code != "image.missing":
        return error
    for name, value in raw_row.items():
        if holds_encoded_pictures(value):
            message = f"{error.message}; column {str(name)!r} holds pictures: say --keys image={name}"
            return DataError(error.code, message, row=error.row, entry=error.entry)
    return error


def _add_picture_notes(
    kept,  # (row number, `VQARow`) of each good row
    report,  # `RowReport`: its `notes` get (sentence, number of rows that it is true of)
    look,  # True: pictures were opened; False: they were not, since nobody knows where they are
):
    "Note in the report if no row has a picture, and in how many rows training will convert one"
    if kept and look and not report.with_pictures:
        report.notes.append(("no row has a picture: the model answers from the text alone", len(kept)))
    # `needs_white`: True for each picture with transparency or greys of more than 8 bits, which a model's
    # processor would get wrong. It is empty where pictures were not opened.
    converted = sum(any(row.needs_white) for _, row in kept)
    if converted:
        report.notes.append(("a picture is converted: transparency on white, deep greys scaled", converted))


def _skip(
    report,  # `RowReport`: its `skipped` gets {row, code, message, entry}
    number,  # of the row
    error,  # `DataError` that says why it cannot be used
):
    "List a row that cannot be used in the report"
    # Most errors name their row; for one that names none it is the row that was being read.
    row_number = number if error.row is None else error.row
    skipped = dict(row=row_number, code=error.code, message=error.message, entry=error.entry)
    report.skipped.append(skipped)


def _with_good_pictures(
    kept,  # (row number, row); row.pictures: absolute paths or encoded bytes
    report,  # `RowReport`: its `skipped` gets the other rows
    files_too=True,  # False: only encoded pictures are opened, since the folder of the paths is not known
):
    """The rows whose pictures can all be opened, as (row number, row).

    Their `needs_white` says for each picture whether training must convert it: put transparency on white, or
    scale greys of more than 8 bits. Without `files_too` it stays empty."""
    pictures = set()  # so that a picture of several rows is opened once
    for _, row in kept:
        pictures.update(picture for picture in row.pictures if files_too or isinstance(picture, bytes))
    results = decoded(pictures)  # picture → True if it must be converted, False if not, or its `DataError`

    good = []
    for number, row in kept:
        error = _first_picture_error(row.pictures, results, number)  # None for files not opened
        if error is not None:
            _skip(report, number, error)
            continue
        if files_too:
            row.needs_white = [results[picture] for picture in row.pictures]
        good.append((number, row))

    # Rows that were skipped for their texts are in the list already, so it is put in order again.
    report.skipped.sort(key=lambda skipped: skipped["row"])
    return good


def _first_picture_error(
    pictures,  # of a row: paths (text) and encoded pictures (bytes)
    results,  # picture → its `DataError` if it is broken, else whether training must convert it
    number,  # of the row, for the error
):
    "A `DataError` with row and file name for the first broken picture of a row; None if all are good"
    for picture in pictures:
        error = results.get(picture)  # None for a file that was not opened
        if isinstance(error, DataError):
            # Only the file's name, not its folders; bytes have none.
            name = Path(picture).name if isinstance(picture, str) else None
            return DataError(error.code, error.message, row=number, entry=name)
    return None


def _count_pictures(
    kept,  # (row number, row); row.pictures: a list, empty for a row without
    report,  # `RowReport`, whose counts are set
):
    "Count in the report the good rows, and how many of them have a picture or several"
    report.kept = len(kept)
    report.with_pictures = sum(bool(row.pictures) for _, row in kept)
    report.several_pictures = sum(len(row.pictures) > 1 for _, row in kept)


def _add_notes(
    kept,  # (row number, row); row.notes: sentences about changes; row.unread: names of columns
    report,  # `RowReport`, whose `notes` are set: (sentence, number of rows that it is true of)
):
    """Note in the report what was changed in the good rows, and in how many of them.

    The commonest comes first; a last one names the columns that are not read."""
    counts = Counter()
    for _, row in kept:
        counts.update(set(row.notes))  # a set: a row that has a note twice counts once
    report.notes = counts.most_common()

    unread = {}  # names of columns; a dict as a set that keeps the order
    for _, row in kept:
        unread |= dict.fromkeys(row.unread)
    if unread:
        rows_with_some = sum(bool(row.unread) for _, row in kept)
        report.notes.append((f"columns that are not read: {', '.join(unread)}", rows_with_some))


def _identity(picture):
    "A text that is equal for equal pictures: the path, or the hash of the bytes"
    return picture if isinstance(picture, str) else hashlib.sha256(picture).hexdigest()


def _add_repeats(
    kept,  # (row number, `VQARow`) of each good row
    report,  # `RowReport`: its `notes` get (sentence, number of rows that it is true of)
):
    "Note in the report how many good rows repeat an earlier one, and how many contradict another one"
    answers: dict = {}  # (question, pictures) → the true answers of all rows that ask this
    for _, row in kept:
        key = (row.question, *map(_identity, row.pictures))  # `_identity`: a path, or the hash of bytes
        answers.setdefault(key, []).append(row.answer)

    repeats = contradicted = 0
    for group in answers.values():
        # Of the answers yes, yes, no one repeats another, and all three rows count as contradicted.
        different = set(group)
        repeats += len(group) - len(different)
        contradicted += len(group) if len(different) > 1 else 0
    if repeats:
        report.notes.append(("question, pictures and answer are those of an earlier row", repeats))
    if contradicted:
        note = "the same question about the same pictures has another answer elsewhere"
        report.notes.append((note, contradicted))


def _require_usable(
    kept,  # the good rows
    report,  # `RowReport`; its `skipped` lists the bad rows: {row, code, message, entry}
    skip_bad_rows,  # False: a single bad row is an error
):
    "Raise `DataError` if the file has a bad row, unless `skip_bad_rows`, or if it has no good row at all"
    if report.skipped and not skip_bad_rows:
        raise report.refusal()  # about the first bad row
    if not kept:
        # A file without any row was refused when it was opened, so here at least one was skipped.
        first = report.skipped[0]
        reason = f"{first['code']}, {first['message']}"
        message = f"{report.file}: none of {report.rows} rows can be used; the first: {reason}"
        raise DataError("row.none", message, row=first["row"])


def read_vqa_file(
    path: str | Path,  # a file of rows in any of the known forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "question=problem image=img_name"
    skip_bad_rows: bool = False,  # list bad rows in the report instead of stopping at the first
    look: bool = True,  # open every picture to check it; False: paths stay as they are, unchecked
) -> tuple:  # list of (row number, VQARow), RowReport
    "Read and check the rows of a file; the first bad row is a `DataError` unless bad rows may be skipped"
    kept, report = inspect_vqa(path, image_dir, keys, look)
    _require_usable(kept, report, skip_bad_rows)
    return kept, report


# Preference rows

def inspect_preferences(
    path: str | Path,  # a file of rows in any of the known forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "query=question chosen=better"
) -> tuple:  # list of (row number, PreferenceRow with pictures as absolute paths or bytes), RowReport
    """Read and check all preference rows of a file; returns the good ones, and a report about the bad ones.

    Raises an error only if the file itself cannot be read, or `keys` do not fit it."""
    path, keys = Path(path), read_keys(keys)
    picture_folder = Path(image_dir) if image_dir else path.parent
    rows = read_rows(path)
    check_keys(keys, rows, path.name)  # `DataError` for a column that no row has
    empty = empty_columns([raw_row for _, raw_row in rows])  # names of columns without any value: not read
    read_row = partial(read_preference_row, keys=keys, empty=empty)
    report = RowReport(path.name)
    kept = _readable_rows(rows, read_row, picture_folder, report)
    kept = _with_good_pictures(kept, report)
    _count_pictures(kept, report)
    _add_notes(kept, report)  # what was changed, and which columns are not read
    _add_rank_notes(kept, report)  # ties, votes, repeats, contradictions
    return kept, report


def _best_answers(row):
    "The answers of a `PreferenceRow` with the best (smallest) rank, as a set; None if all ranks are equal"
    if _is_tie(row):
        return None
    best = min(row.human_ranking)
    return frozenset(answer for rank, answer in zip(row.human_ranking, row.response) if rank == best)


def _add_rank_notes(
    kept,  # (row number, `PreferenceRow`) of each good row
    report,  # `RowReport`: its `notes` get (sentence, number of rows that it is true of)
):
    "Note in the report how many good rows are ties, have votes, repeat or contradict other rows, and so on"
    # `_rank_notes` also gives the sentences that are true of no row.
    report.notes += [(note, count) for note, count in _rank_notes(kept) if count]
    ties = sum(_is_tie(row) for _, row in kept)
    if kept and ties == len(kept):
        report.notes.append(("no pair has a preference: there is nothing to learn from", ties))
    if kept and not report.with_pictures:
        report.notes.append(("no row has a picture: the model judges texts alone", len(kept)))


def _rank_notes(kept):
    """All that can be noted about preference rows, given as (row number, `PreferenceRow`).

    A list of (sentence, number of rows that it is true of); the number may be 0."""
    rows = [row for _, row in kept]
    repeats, contradicted = _repeats_and_contradictions(kept)
    return [
        ("all ranks are equal: the row prefers nothing", sum(map(_is_tie, rows))),
        ("votes of several people: trained on as shares", sum(row.votes is not None for row in rows)),
        ("a talk of several turns: the answers are to its last question",
         sum(bool(row.turns) for row in rows)),
        ("two answers are the same text", sum(map(_has_equal_answers, rows))),
        ("question, pictures, answers and ranks are those of an earlier row", repeats),
        ("the same answers are ranked the other way elsewhere", contradicted)]


def _is_tie(row):
    "True if all ranks of a `PreferenceRow` are equal"
    return len(set(row.human_ranking)) == 1


def _has_equal_answers(row):
    "True if two answers of a `PreferenceRow` are the same text, apart from white space at their ends"
    different = {text.strip() for text in row.response}
    return len(different) < len(row.response)


def _repeats_and_contradictions(kept):
    """Of (row number, `PreferenceRow`)s: how many repeat an earlier row, how many contradict another one.

    Rows are compared that ask the same question about the same pictures, in the same order, and have the same
    answers, in any order."""
    # (question, turns, pictures, set of answers) → the best answers of each such row, None for a tie
    best_answers: dict = {}
    for _, row in kept:
        key = (row.query, *row.turns, *map(_identity, row.pictures), frozenset(row.response))
        best_answers.setdefault(key, []).append(_best_answers(row))

    repeats = contradicted = 0
    for group in best_answers.values():
        different = set(group)
        repeats += len(group) - len(different)
        if len(different - {None}) > 1:  # a tie (None) contradicts nothing
            contradicted += sum(best is not None for best in group)
    return repeats, contradicted


def read_preference_file(
    path: str | Path,  # a file of rows in any of the known forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # which column holds what, such as "query=question chosen=better"
    skip_bad_rows: bool = False,  # list bad rows in the report instead of stopping at the first
) -> tuple:  # list of (row number, PreferenceRow), RowReport
    "Read and check the preference rows of a file; a bad row is a `DataError` unless bad rows may be skipped"
    kept, report = inspect_preferences(path, image_dir, keys)
    _require_usable(kept, report, skip_bad_rows)
    return kept, report


# Two files

def leaks(
    rows: list,  # of one file: (row number, row), from `inspect_vqa` or `inspect_preferences`
    others: list,  # of another file, in the same form
) -> list:  # row numbers of the first file
    """Numbers of the rows in `rows` that have a picture of `others`.

    Pictures are compared by their bytes, since the same picture may lie in two folders under two names."""
    hashes = _picture_hashes([*rows, *others])  # picture → hash of its bytes
    other_hashes = set()
    for _, row in others:
        other_hashes.update(hashes[picture] for picture in row.pictures)

    shared = []
    for number, row in rows:
        if any(hashes[picture] in other_hashes for picture in row.pictures):
            shared.append(number)
    return shared


def _picture_hashes(rows):
    """The hash of each picture's bytes, as a dict: the picture (a path or bytes) → 64 hex digits.

    `rows` are (row number, row)s, and row.pictures is a list."""
    hashes = {}
    for _, row in rows:
        for picture in row.pictures:
            if picture not in hashes:  # many rows may ask about one picture: its file is read once
                hashes[picture] = picture_content(picture)
    return hashes


def picture_content(
    picture: str | bytes,  # path or encoded picture
) -> str:  # 64 hex digits
    "Hash of a picture's encoded bytes, which are read from the file if it is given as a path"
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return hashlib.sha256(data).hexdigest()
