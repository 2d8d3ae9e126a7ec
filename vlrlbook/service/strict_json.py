"""JSON as a stranger may write it, read strictly.

Python's own reader takes NaN, takes the last of two equal keys, and ends in a RecursionError at brackets
that are nested deeply. This one says what is wrong. Written by hand, not exported from a notebook."""
import json
import math
import re

from .refusals import Problem, clean

__all__ = ["most_json_bytes", "read_json", "bracket_depth"]

most_json_bytes = 256 << 10  # of a body; a request with every setting in it has two thousand
_most_levels = 32  # of nesting; a request has two
_most_digits = 20  # of a whole number: 64 bits have 19 and a sign

# A whole text, or one bracket outside of texts. `*+` never gives back what it took (Python 3.11): with a
# plain `*` a text that is not closed would be tried anew from each of its quotes, in time that grows with
# its square.
_text_or_bracket = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def read_json(
    data: bytes,  # a request's body
    most: int = most_json_bytes,  # bytes
) -> dict:  # the object
    """Read the JSON object in `data`.

    Raises a Problem if it is no object, repeats a key, is nested too deeply, or holds a number or a text that
    the JSON standard or UTF-8 does not know."""
    if len(data) > most:
        raise Problem("body.size", f"{len(data)} bytes, at most {most}")
    text = _decoded(data)
    # Checked before anything is parsed, since deep nesting would end Python's parser in a RecursionError.
    if bracket_depth(text) > _most_levels:
        raise Problem("json.depth", f"at most {_most_levels} levels")
    content = _parsed(text)
    # A list or a text alone is valid JSON, but every request is an object.
    if not isinstance(content, dict):
        raise Problem("json.object", f"a {type(content).__name__} in place of an object")
    return content


def _decoded(data):
    "The text of a body, which must be UTF-8; else a Problem"
    try:
        # -sig: without the byte order mark that PowerShell 5 and some editors write before a text
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem("json.encoding", f"byte {error.start} is no UTF-8") from error


def _parsed(text):
    "The content of a JSON text, of any type; a Problem for wrong syntax, NaN, repeated keys, huge numbers"
    # Each hook is given an object's pairs, a number's text, or NaN or Infinity: it returns the value, or
    # raises a Problem. Without them Python would take NaN, and of two equal keys the last.
    try:
        return json.loads(
            text,
            object_pairs_hook=_checked_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_int)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Problem("json.syntax", f"{place}: {error.msg}") from error


def bracket_depth(
    text: str,  # JSON, or what claims to be
) -> int:  # most brackets that are open at the same place
    "Return how deeply JSON is nested; brackets inside its strings do not count"
    depth = deepest = 0
    # Each token is one bracket, or a whole string with its quotes, which is skipped.
    for token in _text_or_bracket.findall(text):
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def _refuse_constant(text):
    "Refuse NaN, Infinity and -Infinity, which Python reads though the JSON standard does not have them"
    raise Problem("json.number", f"{text} is no number in JSON")


def _finite_float(text):
    "Read a number with a point or an exponent; a Problem if it is too large, where Python reads infinity"
    # 1e400 is such a number: the largest float is near 1.8e308.
    value = float(text)
    if not math.isfinite(value):
        raise Problem("json.number", f"{clean(text, 40)} is too large")
    return value


def _short_int(text):
    "Read a whole number; a Problem if it has more digits than any setting needs"
    # The time that Python takes to read an integer grows with the square of its digits.
    if len(text) > _most_digits:
        raise Problem("json.number", f"a whole number of {len(text)} digits")
    return int(text)


def _checked_object(pairs):
    """Make a dict of a JSON object's (key, value) pairs; json.loads calls it for each object.

    Raises a Problem if a key stands twice, or if a text holds half of a surrogate pair (no Unicode)."""
    seen_keys = set()
    for key, value in pairs:
        # Of two equal keys `dict` would keep the last, while a proxy may have checked the first.
        if key in seen_keys:
            raise Problem("json.duplicate", f"{clean(key)!r} stands twice")
        seen_keys.add(key)
        # `_texts_in`: also those in its lists; an object in it was checked by a call of its own
        for text in (key, *_texts_in(value)):
            if _has_half_a_pair(text):  # JSON can write it, as \ud800; UTF-8 cannot hold it
                raise Problem("json.text", f"a half of a surrogate pair in or under {clean(key)!r}")
    return dict(pairs)


def _texts_in(value):
    "Yield a text, or the texts in a list and in its lists; of an object nothing"
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _has_half_a_pair(text):
    "Whether half of a surrogate pair stands in a text: a str to Python, but nothing that UTF-8 can hold"
    return any("\ud800" <= letter <= "\udfff" for letter in text)
