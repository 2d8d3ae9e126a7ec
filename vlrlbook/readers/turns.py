"""An answer of several turns as one text: what the model said, what a tool told it, what it said then.

The written form, which stands in predictions.jsonl and is handed to a reward:

    zoom(98, 0, 112, 14)
    <tool_response><image></tool_response>
    A photo of 3 discs

A turn of the model, then a turn of the tool between its marks, and so on; `<image>` stands for a picture that
the tool gave. The picture itself is not kept: the call on the question's picture gives it again. A refusal is
a text that begins with its kind: `{'error': 'outside: …'}`. An answer without a tool is its own written form.

The grammar of a call, `read_call`: four numbers x1, y1, x2, y2 in any of three forms, so that each family of
models may call as it was taught: `98, 0, 112, 14` or `x1=98, y1=0, x2=112, y2=14`; the JSON object
`{"name": "zoom", "arguments": {"x1": 98, …}}` (Qwen2.5, Qwen3-VL); `<parameter=x1>98</parameter>…` (Qwen3.5).
Nothing is mended. Written by hand."""
import json
import math
import re
from typing import NamedTuple

__all__ = ["refusals", "Call", "Look", "read_call", "turns_of", "last_turn", "written", "looks_of",
           "refusal_kind", "on_one_line"]

# Why a tool gives no picture, the first word of what it says.
refusals = {
    "malformed": "no four numbers could be read",
    "outside": "a corner lies outside of the picture",
    "swapped": "x2 is not right of x1, or y2 is not below y1",
    "thin": "less than a pixel of the picture, or one side is very much longer than the other",
    "too_many": "more calls than allowed",
}

names = ("x1", "y1", "x2", "y2")
_number = r"[-+]?\d{1,9}(?:\.\d{0,9})?"
_begins, _ends, _picture = "<tool_response>", "</tool_response>", "<image>"
# Neither goes beyond the next mark of its kind, so that a long text is read in one pass.
_told = re.compile(_begins + r"((?:[^<]|<(?!/?tool_response>))*)" + _ends)
_call = re.compile(r"zoom\(([^()]*)\)")
_positional = re.compile(rf"\s*({_number})\s*,\s*({_number})\s*,\s*({_number})\s*,\s*({_number})\s*")
_named_values = re.compile(rf"\s*x1\s*=\s*({_number})\s*,\s*y1\s*=\s*({_number})\s*,\s*x2\s*=\s*({_number})\s*,"
                    rf"\s*y2\s*=\s*({_number})\s*")
_parameter = re.compile(rf"<parameter=(\w+)>\s*({_number})\s*</parameter>")
_longest_call_text = 2_000  # characters of a call that are read


class Call(NamedTuple):
    "A call as it was said"
    box: tuple | None = None  # x1, y1, x2, y2 as they were written; None where they cannot be read
    fault: str = ""  # why not


class Look(NamedTuple):
    "A call and what came of it"
    said: str  # between the brackets
    box: tuple | None  # x1, y1, x2, y2; None where they cannot be read
    refused: str  # the kind of refusal; empty where the tool gave a picture


def read_call(
    said: str,  # what stands in a call
) -> Call:  # `fault` says what is wrong, `box` is None then
    "The four numbers of a call, by the grammar above"
    text = said.strip()
    if len(text) > _longest_call_text:
        return Call(fault=f"{len(text)} characters")
    for form in (_positional, _named_values):
        found = form.fullmatch(text)
        if found:
            return Call(_as_numbers(found.groups()))
    if text.startswith("{"):
        return _read_json(text)
    given = dict(_parameter.findall(text))
    if given:
        return _of_names(given)
    return Call(fault="expected x1, y1, x2, y2")


def _as_numbers(texts):
    "Numbers as they were written: whole ones stay whole"
    return tuple(float(text) if "." in text else int(text) for text in texts)


def _read_json(text):
    "The call in a JSON object with a name and arguments"
    try:
        asked = json.loads(text)
    except ValueError:  # RecursionError cannot be: the text is short
        return Call(fault="this is no JSON")
    if asked.get("name") != "zoom":
        return Call(fault="there is one tool, zoom")
    arguments = asked.get("arguments")
    return _of_names(arguments) if isinstance(arguments, dict) else Call(fault="arguments are missing")


def _of_names(given):
    "The call of a dictionary of arguments"
    if set(given) != set(names):
        return Call(fault="expected x1, y1, x2, y2")
    numbers = []
    for name in names:
        value = given[name]
        if isinstance(value, str) and re.fullmatch(_number, value):
            value = _as_numbers([value])[0]
        # a bool is an int to Python
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return Call(fault=f"{name} is no number")
        numbers.append(value)
    return Call(tuple(numbers))


def written(
    turns: list,  # (role, text), role assistant or tool; of a picture the tool's text is `<image>`
) -> str:  # the written form
    "Several turns as one text"
    parts = []
    for role, text in turns:
        # A model that writes the tool's marks itself must not seem to have been given something.
        plain = text.replace(_begins, "").replace(_ends, "").strip()
        parts.append(f"{_begins}{plain}{_ends}" if role == "tool" else plain)
    return "\n".join(part for part in parts if part)


def turns_of(
    text: str,  # the written form
) -> list:  # (role, text) of each turn, empty turns left out
    "The turns of an answer"
    turns = []
    # `split` with a group gives what stands between the marks at every second place
    for place, part in enumerate(_told.split(text)):
        if part.strip():
            turns.append(("tool" if place % 2 else "assistant", part.strip()))
    return turns


def last_turn(
    text: str,  # the written form, or any text
) -> str:  # as it is where no tool has told anything
    "What the model said last: its answer"
    _, mark, behind = text.rpartition(_ends)
    return behind.strip() if mark else text


def looks_of(
    text: str,  # the written form
) -> list:  # of `Look`, one for each thing that the tool told
    "What was asked of the tool, and what came of it"
    looks, waiting = [], []
    for role, part in turns_of(text):
        if role == "assistant":
            waiting = [said.strip() for said in _call.findall(part)]
            continue
        said = waiting.pop(0) if waiting else ""
        looks.append(Look(said, read_call(said).box, refusal_kind(part)))
    return looks


def refusal_kind(
    told: str,  # what the tool told
) -> str:  # a key of `refusals`; empty for a picture
    "Why the tool gave no picture"
    if told == _picture:
        return ""
    # {'error': 'outside: …'}: TRL writes an exception so, and its text begins with the kind
    found = re.search(r"(\w+): ", told)
    return found[1] if found and found[1] in refusals else "malformed"


def on_one_line(
    text: str,  # the written form
) -> str:  # such as "zoom(98, 0, 112, 14) → picture → A photo of 3 discs"
    "An answer as a card writes it"
    shown = []
    for role, part in turns_of(text):
        if role == "tool":
            kind = refusal_kind(part)
            part = f"refused ({kind})" if kind else "picture"
        shown.append(part)
    return " → ".join(shown) if len(shown) > 1 else text
