"""The rows of a file as people have it: JSON, JSON Lines, CSV, TSV or parquet, each row with its number.

What a row means is asked elsewhere (`vqa`, `preferences`); here a file is only opened. Whatever is wrong with
it as a file is one `DataError` that names it. Written by hand."""
import csv
import io
import json
from pathlib import Path

from ..archive import DataError
from .columns import is_row

__all__ = ["read_rows", "parquet_rows", "table_suffixes"]

table_suffixes = (".json", ".jsonl", ".csv", ".tsv", ".parquet")  # of files that hold rows

# What people give by mistake, by its first bytes, and what to do about it
_other_files = {
    b"PK\3\4": "a ZIP (a counting ZIP must be called .zip) or a spreadsheet (save it as CSV)",
    b"\x1f\x8b": "packed with gzip: unpack it first",
    b"ARROW1": "an Arrow file: save it as parquet",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save it as CSV",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: git lfs pull",
    b"<!DOCTYPE": "a web page, perhaps of an error while it was downloaded",
    b"<html": "a web page, perhaps of an error while it was downloaded",
    b"\x80\x04\x95": "a pickle: save it as parquet or JSON",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
_parquet_mark = b"PAR1"
_longest_field = 64 << 20  # characters of one CSV field: a picture in base64 is long
_utf16_marks = (b"\xff\xfe", b"\xfe\xff")


def read_rows(
    path: str | Path,  # .json (a list), .jsonl, .csv, .tsv or .parquet
) -> list:  # of (line, or place from 1, row)
    "Rows of a file; one that cannot be read is a `DataError` with its name, and the line where it breaks"
    path = Path(path)
    data = _bytes_of(path)
    # by its mark too: parquet files are often called .json by the tools that cache them
    if data.startswith(_parquet_mark) or path.suffix.lower() == ".parquet":
        return parquet_rows(path)
    text = _text_of(data, path.name)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table_rows(text, path)
    return _json_rows(text, path.name)


def _bytes_of(path):
    "What the file holds; a folder, a missing file and files of another kind are named"
    if not path.exists():
        raise DataError("file.missing", f"no such file: {path.name}")
    if path.is_dir():
        raise DataError("file.kind", f"{path.name} is a folder, expected a file with rows")
    data = path.read_bytes()
    for mark, what in _other_files.items():
        if data.startswith(mark):
            raise DataError("file.kind", f"{path.name} is {what}")
    return data


def _text_of(data, name):
    "Text in UTF-8 or, with its mark, UTF-16; any other encoding cannot be told for certain"
    encoding = "utf-16" if data[:2] in _utf16_marks else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        cure = "save it as UTF-8 (from GBK: iconv -f GBK -t UTF-8; from Western Windows: -f CP1252)"
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError("file.encoding", f"{name} is not UTF-8; {cure}", row=line) from error
    if "\0" in text:
        message = f"{name} holds NUL characters: it is no text, or UTF-16 without its mark"
        raise DataError("file.encoding", message)
    return text


def _json_rows(text, name):
    "Rows of a JSON list, of one object, or of an object a line"
    if not text.strip():
        raise DataError("json.empty", f"{name} holds no row")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):  # meant as a list: what breaks it stands in the message
            raise DataError("json.syntax", f"{name}: {error}") from error
        return _json_lines(text, name)
    if isinstance(whole, dict):
        # a row of its own has a column that means something, and then a list of objects is part of it
        inside = [] if is_row(whole) else [key for key, value in whole.items() if _is_rows(value)]
        if inside:
            message = f"{name} is one object; its rows stand under {inside[0]!r}: save that list by itself"
            raise DataError("json.rows", message)
        return [(1, whole)]
    if not isinstance(whole, list):
        raise DataError("json.rows", f"{name} is one {type(whole).__name__}, expected a list of rows")
    if not whole:
        raise DataError("json.empty", f"{name} holds no row")
    return list(enumerate(whole, 1))


def _is_rows(value):
    "Whether a value is a list of objects, such as the rows under \"data\""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _json_lines(text, name):
    "(line, object) of JSON Lines; a line that is no JSON is an error with its number"
    rows = []
    # not splitlines: it would also split at characters that JSON allows inside a text, such as U+2028
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise DataError("json.syntax", f"{name}: no JSON ({error})", row=number) from error
    return rows


def _table_rows(text, path):
    "(line, row) of a CSV or TSV with a header; empty fields are None"
    if text.startswith("sep="):  # Excel's own first line
        text = text.partition("\n")[2]
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator_of(text)
    before = csv.field_size_limit(_longest_field)  # one for the whole process, so it is put back
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = []  # (number of the line that ends it, fields)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append((reader.line_num, fields))
    except csv.Error as error:
        message = f"{path.name}: {error}, perhaps an unclosed quote"
        raise DataError("csv.syntax", message, row=reader.line_num) from error
    finally:
        csv.field_size_limit(before)
    if len(lines) < 2:
        raise DataError("csv.empty", f"{path.name} holds no row" + (" under its header" if lines else ""))
    header = [name.strip() for name in lines[0][1]]
    if not header[0] and all(fields[0].strip().isdigit() for _, fields in lines[1:]):
        header[0] = _index_column  # pandas writes its row numbers into a column without a name
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError("csv.columns", f"{path.name}: the column {twice!r} stands twice in the header", row=1)
    return [(number, _table_row(header, fields, number, path.name)) for number, fields in lines[1:]]


_index_column = "row number of pandas"


def _separator_of(text):
    "Comma, unless the header holds none and is parted by semicolons or tabs: some spreadsheets write these"
    header = text.lstrip("\n\r").partition("\n")[0]
    if "," in header:
        return ","
    return next((mark for mark in ";\t" if mark in header), ",")


def _table_row(header, fields, number, name):
    "One line of a table as a dict"
    # Empty fields behind the last column are harmless: a spreadsheet writes them where a cell was touched.
    too_many = any(field.strip() for field in fields[len(header):])
    if too_many or len(fields) < len(header):
        message = f"{name}: {len(fields)} fields, the header has {len(header)}"
        raise DataError("csv.fields", message, row=number)
    row = {}
    for column, field in zip(header, fields):
        if not column and field.strip():
            message = f"{name}: a value stands under no name: {field[:60]!r}"
            raise DataError("csv.columns", message, row=number)
        if column:
            row[column] = field if field.strip() else None
    return row


def parquet_rows(
    path: str | Path,  # .parquet
) -> list:  # of (place from 1, dict)
    "Rows of a parquet file, counted from 1; picture columns of the hub come as dicts of `bytes` and `path`"
    import pyarrow.parquet as pq
    name = Path(path).name
    try:
        rows = list(enumerate(pq.read_table(path).to_pylist(), 1))
    except (OSError, ValueError, OverflowError) as error:  # pyarrow's own errors are kinds of these
        raise DataError("file.kind", f"{name} is not a parquet file") from error
    if not rows:
        raise DataError("parquet.empty", f"{name} holds no row")
    return rows
