"""Values as tables write them: a text or number as text, and a list that a text writes.

Written by hand."""
import ast
import json
import re

from ..archive import DataError

__all__ = ["row_text", "listed", "as_list"]

# NumPy prints ['yes' 'no'] without commas; Python itself would join the two texts into one
_numpy_list = re.compile(r"\[\s*'[^']*'(?:\s+'[^']*')+\s*\]")


def row_text(
    value,  # of a column
    column: str,  # its name, for the message
    number: int = None,  # the row's line
    code: str = "vqa.empty",  # of the error
) -> str:  # without white space at its ends; line breaks inside stay
    "A question or an answer as text: texts and numbers are; anything else is named"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        found = f"a {type(value).__name__} ({str(value)[:40]!r})"
        raise DataError(code, f"{column!r} is {found}, expected a text", row=number)
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise DataError(code, f"{column!r} is {value}, no number", row=number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes 3 as 3.0 in a column with a gap
    text = str(value)
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        message = f"{column!r} holds half of a character (a lone surrogate): it was cut or decoded wrongly"
        raise DataError(code, message, row=number)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def listed(
    text: str,  # of a column
) -> list | dict | None:  # None for any other text
    "The list or dict that a text writes, in JSON, as Python or as NumPy does"
    if not text.lstrip().startswith(("[", "{")):
        return None
    if _numpy_list.fullmatch(text.strip()):
        return re.findall(r"'([^']*)'", text)
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, (list, dict)) else None
    return None


def as_list(
    value,  # of a column
) -> list | None:  # None for anything that is no list
    "A list from a list, a tuple, or an array of a table"
    if isinstance(value, (list, tuple)):
        return list(value)
    an_array = hasattr(value, "tolist") and not isinstance(value, (str, bytes))
    return value.tolist() if an_array else None
