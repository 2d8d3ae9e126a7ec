"""What a request says beside its address: the parameters of its query string, and a JSON body.

FastAPI could read both. But its `Query` (0.165.0) takes the last of two equal parameters and passes over an
unknown one without a word, its integers refuse the `1e2` that settings take, and what it says of a fault is
its own: codes and details here are part of what clients program against. Written by hand, not exported from
a notebook."""
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..settings import SettingsError, as_type, nearest
from .body_clock import chunks_in_time
from .refusals import Problem, clean
from .strict_json import most_json_bytes, read_json

__all__ = ["QueryParameter", "query", "json_body"]

_bool_of_word = {"true": True, "1": True, "false": False, "0": False}
_longest_value = 100  # letters; Python's time to read a number grows with the square of its length


class QueryParameter(NamedTuple):
    "A parameter that an address takes in its query string"
    kind: type  # int, float, bool or str
    default: object  # what it is where the query string says nothing
    least: float | None = None  # smallest value; None: any
    most: float | None = None  # largest value; None: any


def query(
    request,  # with its query string
    **known,  # name → `QueryParameter`, or a tuple (type, default, least, most)
) -> dict:  # name → value
    """Read the parameters of a request's query string; those that are missing have their default.

    Raises a Problem for unknown names, for a name that stands twice, and for a value out of range."""
    # `*fields` also takes a `QueryParameter` apart, since it is a tuple, too.
    parameters = {name: QueryParameter(*fields) for name, fields in known.items()}
    values = {name: parameter.default for name, parameter in parameters.items()}

    seen_names = set()
    for name, text in _pairs_in(request.scope["query_string"]):
        # Ignoring a misspelt name such as `limt=2` would return fifty rows without a word about it.
        if name not in parameters:
            raise _unknown_parameter(name, parameters)
        # A proxy in front of the server may have checked the first of two, while the last would count here.
        if name in seen_names:
            raise Problem("query.value", f"{name} stands twice")
        seen_names.add(name)
        values[name] = _value_of(name, text, parameters[name])  # of the parameter's type and in its range
    return values


def _pairs_in(query_string):
    "The (name, value) pairs of a query string, given as bytes; a Problem if it is no UTF-8"
    try:
        text = query_string.decode("utf-8")  # usually ASCII, in which other letters stand as %C3%84
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        # Else each letter would become U+FFFD, and a model would be asked something that nobody meant.
        raise Problem("query.value", "expected UTF-8, in which Ä is %C3%84 and not %C4") from error


def _unknown_parameter(
    name,  # as the client wrote it
    parameters,  # those that the address takes: a dict with their names as keys
):
    "The Problem of a request with a query parameter that its address does not take"
    shown_name = clean(name, 60)
    advice = nearest(shown_name, list(parameters)) if parameters else ""  # ": did you mean …?"
    return Problem("query.unknown", f"there is no {shown_name!r}{advice}")


def _value_of(
    name,  # of the parameter, for the message
    text,  # its value as the client wrote it
    parameter,  # `QueryParameter`: kind (a type), least and most (both None: any value)
):
    "Convert the text of a query parameter to its type, and check its range; a Problem says what was expected"
    try:
        value = _converted(name, text, parameter.kind)
    except (SettingsError, KeyError, OverflowError) as error:  # KeyError: no word for a bool
        expected = f"expected {parameter.kind.__name__}"
        raise Problem("query.value", f"{name} = {clean(text, 60)!r}: {expected}") from error
    if parameter.least is not None and not parameter.least <= value <= parameter.most:
        expected = f"expected {parameter.least} to {parameter.most}"
        raise Problem("query.value", f"{name} = {clean(text, 60)}: {expected}")
    return value


def _converted(
    name,  # of the parameter, for the message
    text,  # its value as a client wrote it
    kind,  # int, float, bool or str
):
    "Convert a text to a type, as settings are read: 1e2 is an int; SettingsError or KeyError if it is none"
    if kind is str:
        return text  # of any length: who uses it has a limit of its own, such as of a question
    if kind is bool:
        return _bool_of_word[text.lower()]
    if len(text) >= _longest_value:
        text = ""  # no number, because Python would need very long to read one of many digits
    return as_type(name, text, kind)


async def json_body(
    request,  # with a JSON body
    most: int = most_json_bytes,  # bytes
    seconds: float = 30.0,  # in which all of it must have come; a caller that takes megabytes gives more
) -> dict:  # the object
    """Read the JSON object in a request's body.

    Raises a Problem if the body is no JSON object, has more than `most` bytes or does not come in time."""
    _check_media_type(request)
    data = bytearray()
    # `seconds` would only limit the wait for each piece; `in_all` limits the whole body.
    async for chunk in chunks_in_time(request, seconds, "body.stalled", in_all=seconds):
        data += chunk
        if len(data) > most:
            raise Problem("body.size", f"more than {most} bytes")
    return read_json(bytes(data), most)  # a Problem if it is no JSON object


def _check_media_type(request):
    "Raise a Problem unless a request says that its body is application/json"
    # Without parameters, such as charset.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Required, since a form on a stranger's page can make a browser send text here, but not application/json.
    if media_type != "application/json":
        raise Problem("body.type", f"{clean(media_type, 60)!r}; expected application/json")
