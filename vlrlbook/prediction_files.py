"""Predictions of other evaluation programs, read and written: lmms-eval's samples and VLMEvalKit's tables.

Both were read in their sources (lmms-eval of August 2026, `save_results_samples`; VLMEvalKit of August 2026,
`smp/file.py` and `inference.py`). Written by hand, not exported from a notebook."""
import csv
import io
import json
from pathlib import Path

from .archive import DataError
from .folders import write_whole
from .settings import nearest

__all__ = ["forms", "as_ours", "save_predictions_as"]

_lmms_eval = ("target", "filtered_resps")  # fields that every row of lmms-eval's `*_samples_TASK.jsonl` has


def as_ours(
    row: dict,  # of a file of predictions, ours or lmms-eval's
) -> dict:  # for a row of lmms-eval: the row with question, answer and prediction (a list of texts) added
    "Give a row of lmms-eval the names of columns that chapter 06 reads; any other row is returned unchanged"
    # `_lmms_eval`: target and filtered_resps, two fields that every row of that program has.
    # A row with an `answer` is ours, even if a user has added columns with the names of lmms-eval's fields.
    if not set(_lmms_eval) <= set(row) or "answer" in row:
        return row
    # `input` is the prompt. It may be missing, or no text, and the scores do not need it.
    prompt = row.get("input")
    question = prompt if isinstance(prompt, str) else ""
    completions = _flat(row["filtered_resps"])  # a list of texts
    return row | dict(question=question, answer=row["target"], prediction=completions)


def _flat(responses):
    """The texts of `filtered_resps`, a field of lmms-eval, as one list: [["a"], ["b"]] → ["a", "b"].

    The field is a text, a list of texts, or a list of lists, depending on how many requests the row made."""
    if not isinstance(responses, list):
        return [responses]  # a single text
    texts = []
    for part in responses:
        texts += _flat(part)
    return texts


def save_predictions_as(
    form: str,  # lmms-eval or vlmevalkit
    rows: list,  # dicts with question, answer and answers of models, see `evaluation.read_predictions`
    column: str,  # whose completions are written, such as after_greedy
    path: str | Path,  # .jsonl for lmms-eval; .tsv or .json for VLMEvalKit
) -> int:  # rows written
    "Write one column of predictions in another program's file format; `DataError` if that cannot hold them"
    if form not in forms:
        raise DataError("predictions.form", f"{form!r}{nearest(form, list(forms))}")

    if not rows:
        raise DataError("predictions.none", "there are no rows to write")
    # Completions of a model are always a list; the other columns of a row are single values.
    columns = [name for name in rows[0] if isinstance(rows[0][name], list)]
    if column not in columns:
        raise DataError("predictions.column", f"{column!r}{nearest(column, columns)}")

    file_text = forms[form](rows, column, Path(path))  # `forms`: the function that writes each form
    write_whole(path, file_text)
    return len(rows)


def _for_lmms_eval(
    rows,  # dicts with row, question, answer and lists of completions
    column,  # whose completions are written
    path,  # of the file; only its suffix is used here
):
    "The text of an lmms-eval file of samples: a line of JSON for each row"
    if path.suffix != ".jsonl":
        raise DataError("predictions.form", f"{path.name}: lmms-eval's samples are .jsonl")
    lines = []
    for number, row in enumerate(rows):
        line = _lmms_eval_sample(row, number, row[column])
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _lmms_eval_sample(
    row,  # dict with row, question, answer (the truth)
    number,  # of the line in the file that is written, from 0
    completions,  # the model's answers to it, a list of texts
):
    "A row of predictions as a dict with lmms-eval's names of fields"
    # As in lmms-eval: one completion is a text, several are a list. lmms-eval leaves out its field `resps`
    # (the unfiltered completions) if it is equal to `filtered_resps`, and so does this file.
    responses = completions[0] if len(completions) == 1 else completions
    return dict(
        doc_id=number,
        target=str(row["answer"]),
        input=row["question"],
        filtered_resps=responses,
        row=row["row"],  # added by us: the row's number in its own file
    )


def _for_vlmevalkit(
    rows,  # dicts with row, question, answer and lists of completions
    column,  # whose completions are written
    path,  # of the file; its suffix chooses between the two formats
):
    "The text of a VLMEvalKit file of predictions: a table with index, question, answer and prediction"
    _refuse_several_answers(rows, column)
    table = []
    for row in rows:
        prediction = row[column][0]  # the only one, as has been checked
        cells = dict(index=row["row"], question=row["question"], answer=row["answer"], prediction=prediction)
        table.append(cells)

    if path.suffix == ".json":
        return json.dumps(table, indent=4, ensure_ascii=False)
    if path.suffix == ".tsv":
        return _as_tsv(table)
    message = f"{path.name}: VLMEvalKit reads .tsv and .json (PRED_FORMAT there)"
    raise DataError("predictions.form", message)


def _refuse_several_answers(rows, column):
    """Raise DataError at the first row that does not hold exactly one completion in this column.

    `rows` are dicts; row[column] is a list of texts: one of a greedy column, several of a sampled one."""
    bad_row = next((row for row in rows if len(row[column]) != 1), None)
    if bad_row:
        message = (f"{column} holds {len(bad_row[column])} answers to a question, and VLMEvalKit's table has "
                   "place for one: take a greedy column")
        raise DataError("predictions.column", message, row=bad_row["row"])


def _as_tsv(
    table,  # dicts, a row of the table each, all with the same keys
):
    "The text of a table as tab-separated values, with a header"
    text = io.StringIO()
    # Every cell in quotation marks, as VLMEvalKit writes them: an answer may hold tabs and line breaks.
    writer = csv.DictWriter(text, list(table[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


# Name of a program → function (rows, column, path) → text of a file for it
forms = {"lmms-eval": _for_lmms_eval, "vlmevalkit": _for_vlmevalkit}
