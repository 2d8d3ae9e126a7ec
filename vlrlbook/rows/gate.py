"""The gate that a file of rows passes before anything is trained, exported, scored or called good.

Every door asks the same two functions, `inspect_vqa` and `inspect_preferences`: `vlrlbook check-data`,
`convert-vqa`, the exports, GRPO, the reward model and the evaluation. So a file that is called good trains,
and a row that is refused is refused everywhere, with the same code and the same words. Written by hand."""
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..archive import DataError
from .columns import check_keys, empty_columns, read_keys
from .files import read_rows
from .pictures import decoded, located
from .preferences import read_preference_row
from .vqa import file_habits, read_vqa_row

__all__ = ["RowReport", "inspect_vqa", "inspect_preferences", "read_vqa_file", "read_preference_file",
           "leaks", "picture_content"]

_most_told = 20  # skipped rows and notes that a report prints; all of them stand in the object


@dataclass
class RowReport:
    "What a file of rows holds, what can be used, and what was done to it"
    file: str = ""  # its name
    rows: int = 0  # in the file
    kept: int = 0  # rows that can be used
    with_pictures: int = 0  # of the kept ones
    several_pictures: int = 0  # kept rows with two or more
    skipped: list = field(default_factory=list)  # {row, code, message, entry} of each row that cannot be used
    notes: list = field(default_factory=list)  # (sentence, number of rows that it is true of)
    own_system: list = field(default_factory=list)  # kept rows that have a turn of the system of their own

    @property
    def csv_rows(self):
        "As a counting ZIP's report calls it"
        return self.rows

    @property
    def valid_images(self):
        "As a counting ZIP's report calls it"
        return self.kept

    def refusal(self) -> DataError:
        "The first skipped row as an error, for those who did not ask to skip"
        first, more = self.skipped[0], len(self.skipped) - 1  # `skipped` is in the order of the rows
        rest = "skip_bad_rows leaves bad rows out"
        if more:
            rest = f"and {more} more of {self.rows} rows, which vlrlbook check-data lists; {rest}"
        message = f"{self.file}: {first['message']} ({rest})"
        return DataError(first["code"], message, row=first["row"], entry=first["entry"])

    def _repr_markdown_(self):
        pictures = f"{self.with_pictures} with pictures"
        if self.several_pictures:
            pictures += f" ({self.several_pictures} of them with several)"
        lines = [f"{self.rows} rows, {self.kept} kept, {len(self.skipped)} skipped; {pictures}"]
        for row in self.skipped[:_most_told]:
            entry = f", `{row['entry'][:80]}`" if row["entry"] else ""
            lines.append(f"- row {row['row']}{entry}: {row['code']}, {row['message']}")
        if len(self.skipped) > _most_told:
            lines.append(f"- and {len(self.skipped) - _most_told} more")
        lines += [f"- {count} row{'s' * (count != 1)}: {note}" for note, count in self.notes[:_most_told]]
        return "\n".join(lines)

    __repr__ = _repr_markdown_


# VQA rows

def inspect_vqa(
    path: str | Path,  # a file of rows in any of the forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # such as "question=problem image=img_name"
    look: bool = True,  # open every picture; False: pictures are not looked for at all
    rows: list = None,  # of (number, row) that a converter made of the file; None: the file's own
) -> tuple:  # list of (number, VQARow with pictures as absolute paths or bytes), RowReport
    "All rows of a file, the good ones and a list of the bad; only a file that cannot be read is an error"
    path, keys = Path(path), read_keys(keys)
    place = Path(image_dir) if image_dir else path.parent
    report, kept, rows = RowReport(path.name), [], read_rows(path) if rows is None else rows
    check_keys(keys, rows, path.name)
    # columns that are empty throughout, and how the file counts options: one row cannot tell
    habits = file_habits(rows, keys)
    for number, raw in rows:
        report.rows += 1
        try:
            row = read_vqa_row(raw, number, keys, habits)
            if look:
                row.pictures = [located(picture, place, number) for picture in row.pictures]
        except DataError as error:
            _skip(report, number, error)
        else:
            kept.append((number, row))
    if look:  # after all rows were read: what is wrong with a text is found in a second, pictures take longer
        kept = _with_good_pictures(kept, report)
    report.own_system = [number for number, row in kept if row.has_system]
    _tell_pictures(kept, report)
    _tell_notes(kept, report)
    _tell_repeats(kept, report)
    if kept and look and not report.with_pictures:
        report.notes.append(("no row has a picture: the model answers from the text alone", len(kept)))
    converted = sum(any(row.needs_white) for _, row in kept)
    if converted:
        report.notes.append(("a picture is converted: transparency on white, deep greys scaled", converted))
    return kept, report


def _skip(report, number, error):
    "Note a row that cannot be used"
    row = number if error.row is None else error.row
    report.skipped.append(dict(row=row, code=error.code, message=error.message, entry=error.entry))


def _with_good_pictures(kept, report):
    "Rows whose pictures can all be opened; `row.needs_white` says which must be converted"
    different = set()  # one picture with many questions is opened once
    for _, row in kept:
        different.update(row.pictures)
    verdicts = decoded(different)  # picture → its DataError, or whether it must be converted
    good = []
    for number, row in kept:
        bad = next((p for p in row.pictures if isinstance(verdicts[p], DataError)), None)
        if bad is not None:
            fault = verdicts[bad]
            name = Path(bad).name if isinstance(bad, str) else None
            _skip(report, number, DataError(fault.code, fault.message, row=number, entry=name))
            continue
        row.needs_white = [verdicts[picture] for picture in row.pictures]
        good.append((number, row))
    report.skipped.sort(key=lambda row: row["row"])
    return good


def _tell_pictures(kept, report):
    "Count the rows with pictures"
    report.kept = len(kept)
    report.with_pictures = sum(bool(row.pictures) for _, row in kept)
    report.several_pictures = sum(len(row.pictures) > 1 for _, row in kept)


def _tell_notes(kept, report):
    "Count what was done to how many rows, the commonest first"
    counts = Counter()
    for _, row in kept:
        counts.update(set(row.notes))  # a note counts rows, however often it is true of one
    report.notes = counts.most_common()
    # Behind the counted notes and not among them: it names columns of the file, not a thing done to rows.
    unread = {}  # as a set that keeps the order
    for _, row in kept:
        unread |= dict.fromkeys(row.unread)
    if unread:
        with_some = sum(bool(row.unread) for _, row in kept)
        report.notes.append((f"columns that are not read: {', '.join(unread)}", with_some))


def _identity(picture):
    "What two rows with the same picture share: its path, or its bytes by their hash"
    return picture if isinstance(picture, str) else hashlib.sha256(picture).hexdigest()


def _tell_repeats(kept, report):
    "Count rows that stand twice, and questions that have two different truths"
    answers: dict = {}  # question and pictures → the truths that rows give
    for _, row in kept:
        asked = (row.question, *map(_identity, row.pictures))
        answers.setdefault(asked, []).append(row.answer)
    twice = sum(len(given) - len(set(given)) for given in answers.values())
    contradicted = sum(len(given) for given in answers.values() if len(set(given)) > 1)
    if twice:
        report.notes.append(("question, pictures and answer are those of an earlier row", twice))
    if contradicted:
        note = "the same question about the same pictures has another answer elsewhere"
        report.notes.append((note, contradicted))


def _usable(kept, report, skip_bad_rows):
    "Stop at the first bad row unless they may be skipped; a file without a usable row always stops"
    if report.skipped and not skip_bad_rows:
        raise report.refusal()
    if not kept:
        first = report.skipped[0]
        why = f"{first['code']}, {first['message']}"
        message = f"{report.file}: none of {report.rows} rows can be used; the first: {why}"
        raise DataError("row.none", message, row=first["row"])


def read_vqa_file(
    path: str | Path,  # a file of rows in any of the forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # such as "question=problem image=img_name"
    skip_bad_rows: bool = False,  # list bad rows in the report and go on
    look: bool = True,  # open every picture
) -> tuple:  # list of (number, VQARow), RowReport
    "The usable rows of a file; the first bad one is an error unless they may be skipped"
    kept, report = inspect_vqa(path, image_dir, keys, look)
    _usable(kept, report, skip_bad_rows)
    return kept, report


# Preference rows

def inspect_preferences(
    path: str | Path,  # a file of rows in any of the forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # such as "query=question chosen=better"
) -> tuple:  # list of (number, PreferenceRow with pictures as absolute paths or bytes), RowReport
    "All preference rows of a file, the good ones and a list of the bad"
    path, keys = Path(path), read_keys(keys)
    place = Path(image_dir) if image_dir else path.parent
    report, kept, rows = RowReport(path.name), [], read_rows(path)
    check_keys(keys, rows, path.name)
    empty = empty_columns([raw for _, raw in rows])
    for number, raw in rows:
        report.rows += 1
        try:
            row = read_preference_row(raw, number, keys, empty)
            row.pictures = [located(picture, place, number) for picture in row.pictures]
        except DataError as error:
            _skip(report, number, error)
        else:
            kept.append((number, row))
    kept = _with_good_pictures(kept, report)
    _tell_pictures(kept, report)
    _tell_notes(kept, report)
    _tell_ranks(kept, report)
    return kept, report


def _tell_ranks(kept, report):
    "Count ties, equal answers, repeats and rows that contradict each other"
    ties = sum(len(set(row.human_ranking)) == 1 for _, row in kept)
    equal = sum(len({text.strip() for text in row.response}) < len(row.response) for _, row in kept)
    better: dict = {}  # (question, pictures, set of two answers) → the preferred ones
    for _, row in kept:
        order = sorted(zip(row.human_ranking, row.response), key=lambda pair: pair[0])
        asked = (row.query, *row.turns, *map(_identity, row.pictures), frozenset(row.response))
        better.setdefault(asked, []).append(order[0][1] if order[0][0] != order[-1][0] else None)
    repeats = sum(len(won) - len(set(won)) for won in better.values())
    contradicted = sum(len(won) for won in better.values() if len(set(won) - {None}) > 1)
    voted, talks = sum(row.votes is not None for _, row in kept), sum(bool(row.turns) for _, row in kept)
    for count, note in ((ties, "all ranks are equal: the row prefers nothing"),
                        (voted, "votes of several people: trained on as shares"),
                        (talks, "a talk of several turns: the answers are to its last question"),
                        (equal, "two answers are the same text"),
                        (repeats, "question, pictures, answers and ranks are those of an earlier row"),
                        (contradicted, "the same answers are ranked the other way elsewhere")):
        if count:
            report.notes.append((note, count))
    # what a judge learns nothing from, or learns something else from than its user thinks
    if kept and ties == len(kept):
        report.notes.append(("no pair has a preference: there is nothing to learn from", ties))
    if kept and not report.with_pictures:
        report.notes.append(("no row has a picture: the model judges texts alone", len(kept)))


def read_preference_file(
    path: str | Path,  # a file of rows in any of the forms
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    keys: str | dict | None = None,  # such as "query=question chosen=better"
    skip_bad_rows: bool = False,  # list bad rows in the report and go on
) -> tuple:  # list of (number, PreferenceRow), RowReport
    "The usable preference rows of a file; the first bad one is an error unless they may be skipped"
    kept, report = inspect_preferences(path, image_dir, keys)
    _usable(kept, report, skip_bad_rows)
    return kept, report


# Two files

def leaks(
    rows: list,  # (number, row) of one file, from `inspect_vqa` or `inspect_preferences`
    others: list,  # of another
) -> list:  # numbers of the first file's rows
    "Rows whose picture stands in the other file too, by path or by bytes"
    hashes = {}  # of each different picture: many questions share one
    for _, row in [*rows, *others]:
        for picture in row.pictures:
            if picture not in hashes:
                hashes[picture] = picture_content(picture)
    there = set()
    for _, row in others:
        there.update(hashes[picture] for picture in row.pictures)
    return [number for number, row in rows if any(hashes[picture] in there for picture in row.pictures)]


def picture_content(
    picture: str | bytes,  # path or encoded picture
) -> str:  # 64 hex digits
    "A picture's bytes by their hash, wherever they come from"
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return hashlib.sha256(data).hexdigest()
