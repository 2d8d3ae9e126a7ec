"""The turns of a chat row: OpenAI's and Qwen's `messages`, LLaVA's `conversations`.

The content of a turn is a text, or a list of parts: texts and pictures. Written by hand."""
from dataclasses import dataclass, field

from ..archive import DataError
from .pictures import picture_list

__all__ = ["Turn", "read_turns", "is_turns"]

# What LLaVA, Gemma and others call the two who speak
_role_names = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
               "chatbot": "assistant"}
_roles = ("system", "user", "assistant")
# `type` of a part, as OpenAI's two interfaces, Qwen and transformers write it
_video_types = ("video", "video_url", "input_video")
_picture_types = ("image", "image_url", "input_image")
_text_types = ("text", "input_text", "output_text")


@dataclass
class Turn:
    "One turn: its text with a mark for each picture, and the pictures that stand in the turn itself"
    role: str  # system, user or assistant
    text: str  # `<image>` where a picture stands
    pictures: list = field(default_factory=list)  # paths and bytes; None for a part that only marks the place


def is_turns(
    value,  # of a column
) -> bool:
    "Whether a value is a list of turns of a chat"
    keys = ({"role", "content"}, {"from", "value"})
    # all of them: a list of several answers may hold dicts too
    is_list = isinstance(value, (list, tuple)) and bool(value)
    return is_list and all(isinstance(turn, dict) and any(k <= set(turn) for k in keys) for turn in value)


def read_turns(
    turns,  # a list of dicts with role and content, or from and value
    number: int = None,  # the row's line
    code: str = "vqa.chat",  # of the error
) -> list:  # of `Turn`
    "The turns of a chat; what is no chat is a `DataError`"
    if not isinstance(turns, (list, tuple)) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(code, "messages must be a list of turns", row=number)
    return [_turn(turn, number, code) for turn in turns]


def _turn(turn, number, code):
    "One turn"
    role = turn.get("role", turn.get("from"))
    role = _role_names.get(role, role)
    if role not in _roles:
        raise DataError(code, f"a turn of {role!r}, expected one of {', '.join(_roles)}", row=number)
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        if "<video>" in content:
            raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
        return Turn(role, content)
    if not isinstance(content, (list, tuple)) or not all(isinstance(part, (dict, str)) for part in content):
        raise DataError(code, "content must be text or a list of parts", row=number)
    texts, pictures = [], []
    for part in content:
        text = _part(part, pictures, number, code)
        if text.strip():  # parts follow each other on one line, as a chat template writes them
            texts.append(text.strip(" \t"))
    return Turn(role, " ".join(texts), pictures)


def _part(part, pictures, number, code):
    "Text of one part of a turn, a mark for a picture; the picture goes into `pictures`"
    if isinstance(part, str):
        return part
    kind = part.get("type")
    if kind is None:  # Qwen's first form names the type by the key: {"image": "a.png"}
        known = ("image", "image_url", "video", "text")
        kind = next((key for key in known if part.get(key) is not None), None)
    if kind in _video_types:
        raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
    if kind in _picture_types:
        pictures.append(_picture_of(part, number))  # None where the part only marks a place
        return "<image>"
    if kind in _text_types:
        text = part.get("text")
        if text is None or isinstance(text, str):
            return text or ""
        raise DataError(code, f"a part whose text is a {type(text).__name__}", row=number)
    raise DataError(code, f"a part of type {kind!r}, expected text or image", row=number)


def _picture_of(part, number):
    "The picture of a part; None where it only marks the place of one that the row holds elsewhere"
    for key in ("image", "image_url", "url", "path"):
        if part.get(key):
            found = picture_list(part[key], number)
            if len(found) != 1:
                raise DataError("vqa.images", f"{len(found)} pictures in one part, expected one", row=number)
            return found[0]
    if part.get("bytes"):
        return picture_list(part, number)[0]
    return None
