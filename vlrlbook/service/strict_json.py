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
    "The JSON object in `data`: each key once, real numbers and text, at most 32 levels; else a Problem"
    if len(data) > most:
        raise Problem("body.size", f"{len(data)} bytes, at most {most}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("json.encoding", f"byte {error.start} is no UTF-8") from error
    # Before anything is parsed, since it is the parser that deep nesting would break.
    if bracket_depth(text) > _most_levels:
        raise Problem("json.depth", f"at most {_most_levels} levels")
    try:
        found = json.loads(
            text,
            object_pairs_hook=_checked_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_int)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Problem("json.syntax", f"{place}: {error.msg}") from error
    # A list or a text is good JSON, but no request.
    if not isinstance(found, dict):
        raise Problem("json.object", f"a {type(found).__name__} in place of an object")
    return found


def bracket_depth(
    text: str,  # JSON, or what claims to be
) -> int:  # most brackets that are open at the same place
    "How deeply a text of JSON is nested; brackets inside its texts are not brackets"
    depth = deepest = 0
    # A mark is a whole text, which is neither kind of bracket and so changes nothing, or one bracket.
    for mark in _text_or_bracket.findall(text):
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _refuse_constant(text):
    "NaN, Infinity and -Infinity are words that Python writes and the standard does not know"
    raise Problem("json.number", f"{text} is no number in JSON")


def _finite_float(text):
    "A number with a point or an exponent; one that a float cannot hold is refused, not made infinite"
    value = float(text)
    if not math.isfinite(value):
        raise Problem("json.number", f"{clean(text, 40)} is too large")
    return value


def _short_int(text):
    "A whole number of few digits"
    # The time that Python takes to read one grows with the square of its digits.
    if len(text) > _most_digits:
        raise Problem("json.number", f"a whole number of {len(text)} digits")
    return int(text)


def _checked_object(pairs):
    "A dict of an object's keys and values, if each key stands once and every text in it is Unicode"
    seen = set()
    for key, value in pairs:
        # Whoever checks the first of two equal keys and whoever obeys the last have read different requests.
        if key in seen:
            raise Problem("json.duplicate", f"{clean(key)!r} stands twice")
        seen.add(key)
        for text in (key, *_texts_in(value)):
            if _has_half_a_pair(text):
                raise Problem("json.text", f"a half of a surrogate pair in or under {clean(key)!r}")
    return dict(pairs)


def _texts_in(value):
    "The texts of a value and of lists in it; objects in it were looked at when they were made"
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _has_half_a_pair(text):
    "Whether half of a surrogate pair stands in a text: a str to Python, but nothing that UTF-8 can hold"
    return any("\ud800" <= letter <= "\udfff" for letter in text)
