"""Values as tables write them: a text or number as text, and a list that a text writes.

Written by hand."""
import ast
import json
import re
from typing import TypeGuard

from ..archive import DataError

__all__ = ["row_text", "listed", "as_list", "unboxed", "is_finite_number", "ClassName",
           "refuse_half_characters"]


class ClassName(str):
    "A text that stands in its file as the number of a class, such as normal for 0"


_largest_number = 1e15  # far larger ints cannot be converted to a float

# A text in quotes of either kind, as Python writes it: inside, a backslash takes the next character with it.
_quoted_text = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# NumPy prints ['yes' "don't know"], without commas. It must not be parsed as Python, which would join the two
# texts.
_numpy_list = re.compile(rf"\[\s*{_quoted_text}(?:\s+{_quoted_text})+\s*\]")


def row_text(
    value,  # of a column
    column: str,  # its name, for the message
    number: int = None,  # the row's line in its file, for the message of an error
    code: str = "vqa.empty",  # of the error
) -> str:  # without white space at the ends of its lines; line breaks stay
    "A question or an answer as text, from a text or a number; `DataError` for any other value"
    value = unboxed(value)  # np.int64(3) as 3
    problem = _no_text_or_number(value)  # what is wrong with it, or None
    if problem:
        raise DataError(code, f"{column!r} {problem}", row=number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns 3 into 3.0 in a column where another row has no value
    text = str(value)
    refuse_half_characters(text, repr(column), number, code)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def refuse_half_characters(
    text: str,  # of a row
    name: str,  # what the text is, for the message
    number: int = None,  # the row's line in its file, for the message
    code: str = "vqa.empty",  # of an error
):
    "Raise `DataError` if a text holds a lone surrogate, half of a character, which no tokenizer can read"
    # `isprintable` is fast, and false for such a text.
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        message = f"{name} holds half of a character (a lone surrogate): it was cut or decoded wrongly"
        raise DataError(code, message, row=number)


def _no_text_or_number(value):
    "What is wrong with a value, such as 'is nan, no number'; None if it is a text or a finite number"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return f"is a {type(value).__name__} ({str(value)[:40]!r}), expected a text"
    if isinstance(value, float) and not abs(value) < float("inf"):  # NaN is not below it, either
        return f"is {value}, no number"
    return None


def listed(
    text: str,  # of a column
) -> list | dict | None:  # None for any other text
    "Parse a text that writes a list or a dict in the form of JSON, Python or NumPy, as a CSV may hold it"
    text = text.strip()
    if not text.startswith(("[", "{")):
        return None
    # NumPy writes ['yes' 'no'], without commas; Python's parser would join these texts.
    parsers = (_texts_of_numpy,) if _numpy_list.fullmatch(text) else (json.loads, ast.literal_eval)
    for parse in parsers:
        # Whatever a parser cannot read is no error: the text stays a text, such as "[unclear]".
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, (list, dict)) else None
    return None


def _texts_of_numpy(text):
    "The texts of a list that NumPy printed, such as ['yes' 'no']; it writes each as Python does"
    return [ast.literal_eval(quoted) for quoted in re.findall(_quoted_text, text)]


def as_list(
    value,  # of a column
) -> list | None:  # None for anything else
    "A list from a list, a tuple, or an array of NumPy or pandas, with Python's numbers in it"
    if isinstance(value, (list, tuple)):
        return [unboxed(element) for element in value]
    # By its method, so that neither NumPy nor pandas need be imported.
    is_array = hasattr(value, "tolist") and not isinstance(value, (str, bytes))
    as_python = value.tolist() if is_array else None  # no list of an array without dimensions: of a number
    if not isinstance(as_python, list):
        return None
    if _is_short_float(value) and value.ndim == 1:  # such as an array of float32
        return [_shortest_decimal(value, number) for number in as_python]
    return as_python


def unboxed(
    value,  # of a column, or an element of a list in it, such as np.int64(3) or np.array("a.png")
):  # such as 3 or "a.png"; any other value is returned unchanged
    "The Python value of NumPy's scalars, also of arrays without dimensions, which are no int, text or list"
    # By its attributes, so that NumPy need not be imported.
    is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "tolist")
    if is_scalar and _is_short_float(value):
        return _shortest_decimal(value, value.tolist())
    return value.tolist() if is_scalar else value


def _is_short_float(value):
    "True for a value or an array of NumPy or pandas whose numbers are floats of 16 or 32 bits"
    dtype = getattr(value, "dtype", None)
    return getattr(dtype, "kind", None) == "f" and getattr(dtype, "itemsize", 8) < 8


def _shortest_decimal(value, number):
    """A float as people write it: 0.1 for the float32 that is 0.10000000149011612 as a Python float.

    `value` is of NumPy or pandas, and says of which type the number is."""
    return float(str(value.dtype.type(number)))


def is_finite_number(
    value,  # of a column
) -> TypeGuard[float]:
    "True for a finite int or float below 1e15; bools, which are ints in Python, are no numbers here"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < _largest_number  # false for NaN, too
