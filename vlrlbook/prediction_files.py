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

_lmms_eval = ("target", "filtered_resps")  # fields of each row of `*_samples_TASK.jsonl`


def as_ours(
    row: dict,  # of any predictions file
) -> dict:  # the same with `answer` and `prediction`, where another program calls them otherwise
    "A row of lmms-eval in chapter 06's words; any other row as it is"
    # `answer` beside them: the row is ours, and the two fields are only columns that somebody has added.
    if not set(_lmms_eval) <= set(row) or "answer" in row:
        return row
    asked = row.get("input")
    question = asked if isinstance(asked, str) else ""
    said = _texts(row["filtered_resps"])
    return row | dict(question=question, answer=row["target"], prediction=said)


def _texts(responses):
    "What was said, out of lists in lists: one request's list is flattened there, several requests' are not"
    if not isinstance(responses, list):
        return [responses]
    texts = []
    for one in responses:
        texts += _texts(one)
    return texts


def save_predictions_as(
    form: str,  # lmms-eval or vlmevalkit
    rows: list,  # of chapter 06, see `evaluation.read_predictions`
    column: str,  # whose texts are written, such as after_greedy
    path: str | Path,  # .jsonl; for VLMEvalKit .tsv or .json
) -> int:  # rows written
    "Write one column of predictions as another program keeps them; DataError where it cannot hold them"
    if form not in forms:
        raise DataError("predictions.form", f"{form!r}{nearest(form, list(forms))}")
    # what a list stands in is a column of answers; all else tells of the row
    columns = [name for name in rows[0] if isinstance(rows[0][name], list)]
    if column not in columns:
        raise DataError("predictions.column", f"{column!r}{nearest(column, columns)}")
    write_whole(path, forms[form](rows, column, Path(path)))
    return len(rows)


def _for_lmms_eval(rows, column, path):
    "A line of JSON for each row"
    if path.suffix != ".jsonl":
        raise DataError("predictions.form", f"{path.name}: lmms-eval's samples are .jsonl")
    lines = []
    for number, row in enumerate(rows):
        texts = row[column]
        # There a single answer is a text, and `resps` is left out where it is the same.
        line = dict(doc_id=number, target=str(row["answer"]), input=row["question"])
        line["filtered_resps"] = texts[0] if len(texts) == 1 else texts
        lines.append(json.dumps(line | dict(row=row["row"]), ensure_ascii=False) + "\n")
    return "".join(lines)


def _for_vlmevalkit(rows, column, path):
    "A table with index, question, answer and prediction"
    several = next((row for row in rows if len(row[column]) != 1), None)
    if several:
        told = (f"{column} holds {len(several[column])} answers to a question, and VLMEvalKit's table has "
                "place for one: take a greedy column")
        raise DataError("predictions.column", told, row=several["row"])
    table = [dict(index=row["row"], question=row["question"], answer=row["answer"], prediction=row[column][0])
             for row in rows]
    if path.suffix == ".json":
        return json.dumps(table, indent=4, ensure_ascii=False)
    if path.suffix != ".tsv":
        told = f"{path.name}: VLMEvalKit reads .tsv and .json (PRED_FORMAT there)"
        raise DataError("predictions.form", told)
    text = io.StringIO()
    # every cell in quotation marks, as it writes them itself: an answer may hold tabs and line breaks
    writer = csv.DictWriter(text, list(table[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


forms = {"lmms-eval": _for_lmms_eval, "vlmevalkit": _for_vlmevalkit}  # name → (rows, column, path) → text
