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
# a turn of the tool; what a call holds. Neither goes beyond the next mark of its kind, so that a long text is
# read in one pass.
_tool_turn = re.compile(_begins + r"((?:[^<]|<(?!/?tool_response>))*)" + _ends)
_call = re.compile(r"zoom\(([^()]*)\)")
_positional = re.compile(rf"\s*({_number})\s*,\s*({_number})\s*,\s*({_number})\s*,\s*({_number})\s*")
_named_values = re.compile(rf"\s*x1\s*=\s*({_number})\s*,\s*y1\s*=\s*({_number})\s*,"
                           rf"\s*x2\s*=\s*({_number})\s*,\s*y2\s*=\s*({_number})\s*")
_parameter = re.compile(rf"<parameter=(\w+)>\s*({_number})\s*</parameter>")
_longest_call_text = 2_000  # characters of a call that are read


class Call(NamedTuple):
    "The part of the picture that a call of the tool asks for"
    box: tuple | None = None  # x1, y1, x2, y2 as they were written; None where they cannot be read
    fault: str = ""  # why they cannot be read; empty where they can


class Look(NamedTuple):
    "A call of the zoom tool and what the tool answered"
    said: str  # the text between the call's brackets, as the model wrote it
    box: tuple | None  # x1, y1, x2, y2; None where they cannot be read
    refused: str  # the kind of refusal; empty where the tool gave a picture


def read_call(
    said: str,  # the text of a call between the brackets of zoom(…)
) -> Call:  # `fault` says what is wrong, `box` is None then
    """Read the four numbers of a call of the zoom tool, in any form that a family of models was taught

    `98, 0, 112, 14`; `x1=98, y1=0, x2=112, y2=14`; a JSON object with a name and arguments; or
    `<parameter=x1>98</parameter>` and so on."""
    text = said.strip()
    if len(text) > _longest_call_text:
        return Call(fault=f"{len(text)} characters")
    for form in (_positional, _named_values):
        match = form.fullmatch(text)
        if match:
            return Call(_as_numbers(match.groups()))
    if text.startswith("{"):
        return _read_json(text)  # a `Call`, with a fault where it is no JSON or lacks a number
    arguments = dict(_parameter.findall(text))  # name → number as text
    if arguments:
        return _call_with_arguments(arguments)
    return Call(fault="expected x1, y1, x2, y2")


def _as_numbers(texts):
    "Texts of numbers as a tuple: an int for a whole number, a float for one with a decimal point"
    # kept apart, since the call is later written again as the model wrote it: 98, not 98.0
    return tuple(float(text) if "." in text else int(text) for text in texts)


def _read_json(
    text,  # begins with a brace, such as {"name": "zoom", "arguments": {"x1": 98, …}}
):
    "The `Call` that a JSON object asks for; one whose `fault` says what is wrong, if it asks for none"
    try:
        request = json.loads(text)  # a dict, since the text begins with a brace
    except ValueError:  # deep nesting raises no RecursionError: the text is short
        return Call(fault="this is no JSON")
    if request.get("name") != "zoom":
        return Call(fault="there is one tool, zoom")
    arguments = request.get("arguments")
    if not isinstance(arguments, dict):
        return Call(fault="arguments are missing")
    return _call_with_arguments(arguments)


def _call_with_arguments(
    arguments,  # name → number or its text, such as {"x1": 98, "y1": "0", "x2": 112, "y2": 14}
):
    "The `Call` for the box x1, y1, x2, y2; one with a fault if a name is missing, too many, or no number"
    if set(arguments) != set(names):  # exactly x1, y1, x2, y2
        return Call(fault="expected x1, y1, x2, y2")
    numbers = []
    for name in names:
        value = arguments[name]
        if isinstance(value, str) and re.fullmatch(_number, value):
            value = _as_numbers([value])[0]
        # a bool is an int to Python
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Call(fault=f"{name} is no number")
        # As many digits as `_number` takes. JSON as Python reads it may also hold NaN, for which this is
        # false too, Infinity, and an int that no float can hold.
        if not abs(value) < 1e9:
            return Call(fault=f"{name} is no number")
        numbers.append(value)
    return Call(tuple(numbers))


def written(
    turns: list,  # (role, text), role assistant or tool; of a picture the tool's text is `<image>`
) -> str:  # such as zoom(98, 0, 112, 14) ⏎ <tool_response><image></tool_response> ⏎ 3 discs
    """Join the turns of a model and a tool to one text, with the tool's in `<tool_response>` tags

    Empty turns are left out. `turns_of` reads the text back."""
    parts = []
    for role, text in turns:
        # Tags in the text are removed: a model could write them to fake an answer of the tool. The space in
        # their place keeps what stood around them from becoming a tag: <tool_<tool_response>response>.
        without_tags = text.replace(_begins, " ").replace(_ends, " ").strip()
        parts.append(f"{_begins}{without_tags}{_ends}" if role == "tool" else without_tags)
    return "\n".join(part for part in parts if part)


def turns_of(
    text: str,  # turns as one text, the tool's between <tool_response> marks
) -> list:  # (role, text) of each turn, empty turns left out
    "The turns of an answer: what the model wrote, and what the tool answered between `<tool_response>` marks"
    turns = []
    # `split` by a pattern with a group: at even places what stands outside the marks, at odd places inside
    for place, part in enumerate(_tool_turn.split(text)):
        if part.strip():
            turns.append(("tool" if place % 2 else "assistant", part.strip()))
    return turns


def last_turn(
    text: str,  # turns as one text, the tool's between <tool_response> marks, or any text
) -> str:  # the whole text where no tool was called
    "The text behind the tool's last turn: the model's own answer"
    # `rpartition` finds the last </tool_response>; without one `end_mark` is empty
    _, end_mark, behind = text.rpartition(_ends)
    return behind.strip() if end_mark else text


def looks_of(
    text: str,  # turns as one text, the tool's between <tool_response> marks
) -> list:  # of `Look`, one for each turn of the tool
    """The calls of the zoom tool in an answer, each with the box that it asked for and its refusal, if any

    A turn of the model may hold several calls; the tool's turns behind it answer them in order."""
    looks, unanswered_calls = [], []
    for role, part in turns_of(text):
        if role == "assistant":
            # what stands between the brackets of each zoom(…)
            unanswered_calls = [call_text.strip() for call_text in _call.findall(part)]
            continue
        # the call that this turn of the tool answers; "" where there is none, as in a text that was made up
        call_text = unanswered_calls.pop(0) if unanswered_calls else ""
        looks.append(Look(said=call_text, box=read_call(call_text).box, refused=refusal_kind(part)))
    return looks


def refusal_kind(
    told: str,  # the text of a turn of the tool
) -> str:  # a key of `refusals`, such as "outside"; empty where the tool gave a picture
    "Why the tool gave no picture, read from the text of its turn"
    if told == _picture:  # <image>
        return ""
    # TRL writes the tool's exception as {'error': 'outside: …'}. `error` does not match: a quote follows it.
    match = re.search(r"(\w+): ", told)
    if match is None or match[1] not in refusals:
        return "malformed"
    return match[1]


def on_one_line(
    text: str,  # turns as one text, the tool's between <tool_response> marks
) -> str:  # such as "zoom(98, 0, 112, 14) → picture → A photo of 3 discs"
    "An answer of several turns on one line, for people, with each turn of the tool as `picture` or `refused`"
    shown = []
    for role, part in turns_of(text):
        if role == "tool":
            kind = refusal_kind(part)
            part = f"refused ({kind})" if kind else "picture"
        shown.append(part)
    return " → ".join(shown) if len(shown) > 1 else text
