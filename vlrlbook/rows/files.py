"""The rows of a file as people have it: JSON, JSON Lines, CSV, TSV or parquet, each row with its number.

What a row means is asked elsewhere (`vqa`, `preferences`); here a file is only opened. Whatever is wrong with
it as a file is one `DataError` that names it. Written by hand."""
import csv
import io
import json
from functools import partial
from pathlib import Path

from ..archive import DataError, refuse_swallowed_rows
from .columns import is_row
from .values import ClassName

__all__ = ["read_rows", "parquet_rows", "is_archive", "table_suffixes"]

table_suffixes = (".json", ".jsonl", ".csv", ".tsv", ".parquet")  # of files that hold rows

_zip_mark = b"PK\3\4"  # first bytes of every ZIP that holds something
# First bytes of files that people give by mistake → what such a file is, and what to do about it
_other_files = {
    _zip_mark: "a ZIP (rows of questions are a table beside their pictures: unpack it) or a spreadsheet "
               "(save it as CSV)",
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
_parquet_mark = b"PAR1"  # first bytes of every parquet file
_longest_field = 64 << 20  # characters of one CSV field; it may be a picture in base64
_utf16_marks = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, with which a UTF-16 file begins


def read_rows(
    path: str | Path,  # .json (a list), .jsonl, .csv, .tsv or .parquet
) -> list:  # of (number, row): the line in the file or, of JSON lists and parquet, the position from 1
    "Read the rows of a file; `DataError` if it cannot be read, with the line where it breaks"
    path = Path(path)
    data = _bytes_of(path)  # `DataError` if it is missing, or known to be of another kind
    # Also by its first bytes, since tools that cache parquet files often name them .json.
    if data.startswith(_parquet_mark) or path.suffix.lower() == ".parquet":
        return parquet_rows(path)
    text = _text_of(data, path.name)  # from UTF-8 or UTF-16
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table_rows(text, path)
    return _json_rows(text, path.name)  # a list of rows, or a row on each line


def is_archive(
    path: str | Path,  # of a data set
) -> bool:
    """Whether a data set is a counting ZIP, or a folder, into which such a ZIP was unpacked.

    All other files hold rows. A file without a suffix is told by its first bytes."""
    path = Path(path)
    if path.is_dir():
        return True
    if path.suffix:
        return path.suffix.lower() == ".zip"
    if not path.is_file():  # it is missing, which the reader of archives reports
        return True
    with open(path, "rb") as file:
        return file.read(4) == _zip_mark


def _bytes_of(path):
    "The content of a file; `DataError` if it is missing, a folder, or of a kind that holds no rows"
    if not path.exists():
        raise DataError("file.missing", f"no such file: {path.name}")
    if path.is_dir():
        raise DataError("file.kind", f"{path.name} is a folder, expected a file with rows")
    data = path.read_bytes()
    for first_bytes, description in _other_files.items():
        if data.startswith(first_bytes):
            raise DataError("file.kind", f"{path.name} is {description}")
    return data


def _text_of(data, name):
    """Decode the content (bytes) of the file `name` as text; `DataError` if it is neither UTF-8 nor UTF-16.

    UTF-16 is known by its byte order mark. Other encodings cannot be recognised with certainty."""
    encoding = "utf-16" if data[:2] in _utf16_marks else "utf-8-sig"  # -sig: a byte order mark is dropped
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        cure = "save it as UTF-8 (from GBK: iconv -f GBK -t UTF-8; from Western Windows: -f CP1252)"
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError("file.encoding", f"{name} is not UTF-8; {cure}", row=line) from error
    if "\0" in text:  # every second byte of plain letters in UTF-16 is 0, and 0 is also valid UTF-8
        message = f"{name} holds NUL characters: it is no text, or UTF-16 without its mark"
        raise DataError("file.encoding", message)
    return text


def _json_rows(text, name):
    """Rows of JSON, from a list, from one object, or from an object on each line (JSON Lines).

    Each is (number from 1, object). `text` is the content of the file `name`, which stands in errors."""
    if not text.strip():
        raise DataError("json.empty", f"{name} holds no row")
    try:
        whole = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, _KeyTwice) and _is_one_value(text):
            raise DataError("json.keys", f"{name}: {error}") from error
        # A JSON list with an error in it. As JSON Lines the error would be about its first line, a lone [.
        if text.lstrip().startswith("["):
            raise DataError("json.syntax", f"{name}: {error}") from error
        return _json_lines(text, name)  # a row on each line

    if isinstance(whole, dict):
        _refuse_wrapped_rows(whole, name)  # `DataError` for {"data": [rows]}
        whole = [whole]  # a file of one row
    if not isinstance(whole, list):
        raise DataError("json.rows", f"{name} is one {type(whole).__name__}, expected a list of rows")
    if not whole:
        raise DataError("json.empty", f"{name} holds no row")
    return list(enumerate(whole, 1))


def _is_one_value(text):
    "Whether a text is one value of JSON, such as a list or an object, and not JSON Lines"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _KeyTwice(ValueError):
    "An object of JSON has two values under one key"


def _object(pairs):
    """An object of JSON as a dict, from its (key, value); `_KeyTwice` for two values under one key.

    Python's reader would keep the last value and drop the others without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        first: dict = {}
        for key, value in pairs:
            earlier = first.setdefault(key, value)
            # Compared as they are written: NaN is not equal to itself, and True is equal to 1.
            if repr(earlier) != repr(value):
                both = f"{earlier!r:.40} and {value!r:.40}"
                raise _KeyTwice(f"the key {key!r} stands twice in an object, with {both}")
    return values


def _refuse_wrapped_rows(whole, name):
    'Raise `DataError` if a JSON object is no row but holds a list of rows: {"version": 1, "data": […]}'
    keys_with_rows = [key for key, value in whole.items() if _is_rows(value)]
    # A row may hold a list of objects too, a chat; `is_row` knows it by the names of its columns.
    if keys_with_rows and not is_row(whole):
        place = f"its rows stand under {keys_with_rows[0]!r}"
        raise DataError("json.rows", f"{name} is one object; {place}: save that list by itself")


def _is_rows(value):
    "True for a list of one or more dicts"
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _json_lines(text, name):
    """Rows of JSON Lines as (line number, object); a line that is no JSON is a `DataError` with its number.

    Empty lines are passed over, and counted. `name` is the file's, for the error."""
    rows = []
    # Not splitlines: it would also split at characters that JSON allows inside a text, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line, object_pairs_hook=_object)))
        except _KeyTwice as error:
            raise DataError("json.keys", f"{name}: {error}", row=number) from error
        except (ValueError, RecursionError) as error:
            raise DataError("json.syntax", f"{name}: no JSON ({error})", row=number) from error
    return rows


def _table_rows(text, path):
    """Rows of a CSV or TSV with a header, as (line number, {column: text}); empty fields are None.

    `text` is the content of the file `path`, whose ending says which of both it is."""
    text = _without_separator_line(text)  # `sep=;`, a first line of Excel's
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator_of(text)
    lines = _table_lines(text, separator, path.name)  # (line number, list of fields), no empty ones
    if len(lines) < 2:
        end = " under its header" if lines else ""
        raise DataError("csv.empty", f"{path.name} holds no row{end}")

    (_, header_fields), *rows = lines
    header = [name.strip() for name in header_fields]
    if not header[0] and all(fields[0].strip().isdigit() for _, fields in rows):
        header[0] = _index_column  # pandas writes its row numbers into a first column without a name
    _refuse_repeated_columns(header, path.name)
    return [(number, _table_row(header, fields, number, path.name)) for number, fields in rows]


def _table_lines(text, separator, name):
    """The lines of a CSV that are not empty, as (line number, list of fields); `DataError` for bad syntax.

    A row that goes over several lines has the number of its last line. `separator` is one character, `name`
    is the file's, for the error."""
    # Fields may hold pictures in base64. The limit is one for the whole process, so the old one is restored.
    old_limit = csv.field_size_limit(_longest_field)
    # Strict: an unclosed quote would swallow the rest of the file without an error.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                # `DataError` if a field holds whole rows, from one stray quotation mark to the next
                refuse_swallowed_rows(fields, separator, name, reader.line_num)
                lines.append((reader.line_num, fields))
    except csv.Error as error:
        message = f"{name}: {error}, perhaps an unclosed quote"
        raise DataError("csv.syntax", message, row=reader.line_num) from error
    finally:
        csv.field_size_limit(old_limit)
    return lines


def _refuse_repeated_columns(header, name):
    "Raise `DataError` if two names in the header (a list) are the same; several columns may have none"
    named = [column for column in header if column]
    if len(set(named)) < len(named):  # in a dict the second would silently replace the first
        twice = next(column for column in named if named.count(column) > 1)
        raise DataError("csv.columns", f"{name}: the column {twice!r} stands twice in the header", row=1)


_index_column = "row number of pandas"  # the name that such a column gets here; no role has it


def _without_separator_line(text):
    """Drop a first line such as `sep=;`, which Excel writes to say which character separates the fields.

    Excel does not show it and counts its rows from the header, and so do our line numbers."""
    return text.partition("\n")[2] if text.startswith("sep=") else text


def _separator_of(text):
    """The character that separates the fields of a CSV: a comma, a semicolon or a tab.

    Semicolons and tabs, which some spreadsheets write, count only if the header holds no comma."""
    header = text.lstrip("\n\r").partition("\n")[0]
    if "," in header:
        return ","
    return next((separator for separator in ";\t" if separator in header), ",")


def _table_row(
    header,  # names of the columns; empty for a column without a name
    fields,  # texts of one line
    number,  # of the line, for an error
    name,  # of the file, for an error
):
    "One line of a table as a dict, column → text or None"
    if not _fits_header(fields, header):  # too few fields, or a text behind the last column
        message = f"{name}: {len(fields)} fields, the header has {len(header)}"
        raise DataError("csv.fields", message, row=number)
    row = {}
    for column, field in zip(header, fields):
        if not column and field.strip():  # it would be lost; an empty field under no name is no loss
            message = f"{name}: a value stands under no name: {field[:60]!r}"
            raise DataError("csv.columns", message, row=number)
        if column:
            row[column] = field if field.strip() else None
    return row


def _fits_header(fields, header):
    "True if a line has a field for each column, and nothing behind the last one"
    # Empty fields behind the last column are no error: spreadsheets write some for cells once edited.
    has_more = any(field.strip() for field in fields[len(header):])
    return len(fields) >= len(header) and not has_more


def parquet_rows(
    path: str | Path,  # .parquet
) -> list:  # of (number from 1, dict)
    """Read the rows of a parquet file.

    A picture of a Hugging Face data set comes as a dict of `bytes` and `path`."""
    import pyarrow.parquet as pq
    name = Path(path).name
    try:
        _refuse_equal_columns(pq.read_schema(path).names, name)  # `read_table` fails on them
        table = pq.read_table(path)
        # A float32 of 0.1 would become 0.10000000149011612 in Python. So plain columns and lists of float32
        # become float64 here, all at once; other types, such as structs, follow below, row by row.
        short = _with_short_columns(table)
        values = short.to_pylist()
    except DataError:  # a kind of ValueError, too
        raise
    except (OSError, ValueError, OverflowError) as error:  # pyarrow's own errors are kinds of these
        raise DataError("file.kind", f"{name} is not a parquet file") from error
    if not values:
        raise DataError("parquet.empty", f"{name} holds no row")
    _shorten_floats(values, short.schema)  # passes over columns that are float64 in this schema
    _name_classes(values, table.schema, name)  # the schema of the file, in which `datasets` keeps their names
    return list(enumerate(values, 1))


def _refuse_equal_columns(columns, name):
    "Raise `DataError` if two columns of a file have one name: a row, a dict, could hold only one of them"
    for column in columns:
        if columns.count(column) > 1:
            raise DataError("file.columns", f"{name} has two columns named {column!r}")


def _with_short_columns(table):
    """A table of pyarrow with its columns of float32, and of lists of it, as float64: 0.1 stays 0.1.

    A mere cast to float64 would make it 0.10000000149011612. pyarrow does it by way of text, forty times as
    fast as `_shorten_floats`, which is for all other types: a column of embeddings has millions of numbers."""
    import pyarrow as pa
    for place, column in enumerate(table.schema):
        like = _plain_or_list(column.type)  # makes the type of such a column with other numbers
        if like is not None:
            texts = table.column(place).cast(like(pa.string()))  # the shortest decimals, such as "0.1"
            table = table.set_column(place, column.name, texts.cast(like(pa.float64())))
    return table


def _plain_or_list(kind):
    """A function that makes the type `kind` with other numbers; None unless it is float32 or a list of it.

    `kind` is a type of pyarrow. The function takes a type of number: where `kind` is a list of float32, it
    turns float64 into a list of float64, and where it is float32, into float64. A list may be a large one, or
    one of a fixed length, as `datasets` writes a box."""
    import pyarrow as pa
    if kind == pa.float32():
        return lambda number: number
    makers = [pa.list_, pa.large_list]
    if pa.types.is_fixed_size_list(kind):
        makers = [partial(pa.list_, list_size=kind.list_size)]
    return next((make for make in makers if kind == make(pa.float32())), None)


def _shorten_floats(rows, schema):
    """Write the numbers of columns of float32 and float16 as people do: 0.1, not 0.10000000149011612.

    `rows` are dicts, changed in place; `schema` is pyarrow's, with the type of each column."""
    for column in schema:
        shorten = _shortener(column.type)
        if shorten is not None:
            for row in rows:
                row[column.name] = shorten(row[column.name])


def _shortener(kind):
    """A function that writes the floats in a value as short decimals; None for a type without short floats.

    `kind` is pyarrow's type of the value: a float of 16 or 32 bits, a list, a map or a struct (a dict) with
    such floats in it, or any other. The type is looked through once, and not again for each row."""
    import numpy as np
    from pyarrow import types
    if types.is_struct(kind):
        members = {member.name: _shortener(member.type) for member in kind}
        members = {name: shorten for name, shorten in members.items() if shorten is not None}
        return partial(_with_short_members, members) if members else None
    if types.is_map(kind):
        shorten = _shortener(kind.item_type)
        return None if shorten is None else partial(_with_short_items, shorten)
    # A list of any kind has a `value_type`. A dictionary, a column that repeats few values, has one, too, but
    # its values are not in lists.
    if hasattr(kind, "value_type") and not types.is_dictionary(kind):
        shorten = _shortener(kind.value_type)
        return None if shorten is None else partial(_with_short_elements, shorten)
    if types.is_float32(kind):
        return partial(_short_float, np.float32)
    return partial(_short_float, np.float16) if types.is_float16(kind) else None


def _with_short_members(members, value):
    "A struct (a dict, or None) with short decimals; `members`: for some of its names a function that makes them"
    if value is None:
        return None
    return value | {name: shorten(value[name]) for name, shorten in members.items()}


def _with_short_items(shorten, value):
    "A map (a list of (key, item), or None) with short decimals, which the function `shorten` makes of an item"
    return None if value is None else [(key, shorten(item)) for key, item in value]


def _with_short_elements(shorten, value):
    "A list (or None) with short decimals, which the function `shorten` makes of an element"
    return None if value is None else [shorten(element) for element in value]


def _short_float(kind, value):
    "A number (or None) as Python's float of the shortest decimal that has the same bits as a `kind` of NumPy's"
    return None if value is None else float(str(kind(value)))


def _name_classes(rows, schema, name):
    """Replace the numbers of classes by their names, in columns that `datasets` wrote as `ClassLabel`.

    `rows` are dicts, changed in place; `schema` is pyarrow's, `name` the file's, for an error. The names
    stand in the schema, beside the columns: without them, 0 could mean yes."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):  # another program's note under this name, or none
        return
    if not isinstance(features, dict):
        return
    for column in schema.names:
        feature = features.get(column)
        if feature is not None and '"ClassLabel"' in json.dumps(feature):
            for number, row in enumerate(rows, 1):
                row[column] = _with_class_names(row[column], feature, f"{name}: {column!r}", number)


def _with_class_names(
    value,  # of a column: the number of a class, or a list or dict with such numbers in it
    feature,  # what `datasets` notes about it: {"_type": …}, or a dict of these, or a list of one
    place,  # the file and the column, for an error
    number,  # of the row, for an error
):
    "A value with the names of classes in the place of their numbers; `DataError` for a number without a name"
    if isinstance(feature, list):  # how older versions note a list
        feature = dict(_type="List", feature=feature[0])
    kind = feature.get("_type")
    if kind == "ClassLabel":
        return _class_name(value, feature.get("names"), place, number)
    if isinstance(value, list) and "feature" in feature:
        return [_with_class_names(element, feature["feature"], place, number) for element in value]
    if isinstance(value, dict):
        return _struct_with_class_names(value, feature, place, number)
    return value


def _struct_with_class_names(value, feature, place, number):
    """A struct (a dict) with the names of classes in the place of their numbers, in all its members.

    `feature`: member's name → what `datasets` notes about it, such as {"_type": "ClassLabel", …}; of a struct
    of lists {"_type": "Sequence", "feature": {…}}. `place` (file, column), `number` (row): for an error."""
    # `datasets` writes a Sequence of structs as a struct of lists. A plain struct may have a member that is
    # named `feature`, too, but its note has no text under `_type`.
    is_struct_of_lists = isinstance(feature.get("_type"), str) and "feature" in feature
    note_of = feature["feature"] if is_struct_of_lists else feature
    members = {}
    for key, member in value.items():
        note = note_of.get(key)
        if note is None:  # `datasets` says nothing about this member
            members[key] = member
            continue
        if is_struct_of_lists:  # the note is about one element of the member, which is a list
            note = dict(_type="List", feature=note)
        members[key] = _with_class_names(member, note, place, number)
    return members


def _class_name(value, names, place, number):
    "The name of a class from its number; None for -1, which `datasets` writes where there is none"
    if not isinstance(value, int) or not names:
        return value
    if value == -1:
        return None
    if not 0 <= value < len(names):
        message = f"{place} is the class {value}, but only {len(names)} classes have names"
        raise DataError("parquet.class", message, row=number)
    return ClassName(names[value])
