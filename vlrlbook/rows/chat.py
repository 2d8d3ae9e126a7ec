"""The turns of a chat row: OpenAI's and Qwen's `messages`, LLaVA's `conversations`.

The content of a turn is a text, or a list of parts: texts and pictures. Written by hand."""
from dataclasses import dataclass, field

from ..archive import DataError
from .pictures import picture_list
from .values import is_finite_number, refuse_half_characters

__all__ = ["Turn", "read_turns", "is_turns"]

# Names of roles in the chats of LLaVA, Gemma and others → the role in vlrlbook
_role_names = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
               "chatbot": "assistant"}
_roles = ("system", "user", "assistant")
# The `type` of a part of a message, as OpenAI's two interfaces, Qwen and transformers write it
_video_types = ("video", "video_url", "input_video")
_picture_types = ("image", "image_url", "input_image")
_text_types = ("text", "input_text", "output_text")


@dataclass
class Turn:
    "One turn of a chat: its text with a mark for each picture, and the pictures that it holds itself"
    role: str  # system, user or assistant
    text: str  # with `<image>` in the place of each picture
    # Paths and bytes. For a part that only marks the place of a picture, which then stands in a column: None,
    # or which of the column's pictures it is, counted from 0.
    pictures: list = field(default_factory=list)


def is_turns(
    value,  # of a column
) -> bool:
    "True if a value is the list of a chat's turns: of dicts with role and content, or from and value"
    if not isinstance(value, (list, tuple)) or not value:
        return False
    # Every element is checked, since a list of several answers may hold dicts, too.
    for turn in value:
        if not isinstance(turn, dict):
            return False
        if not ({"role", "content"} <= set(turn) or {"from", "value"} <= set(turn)):
            return False
    return True


def read_turns(
    turns,  # a list of dicts with role and content, or from and value
    number: int = None,  # the row's line in its file, for the message of an error
    code: str = "vqa.chat",  # of an error
) -> list:  # of `Turn`
    "Read the turns of a chat; `DataError` if the value is no chat"
    if not isinstance(turns, (list, tuple)) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(code, "messages must be a list of turns", row=number)
    read = [_turn(turn, number, code) for turn in turns]
    for turn in read:
        refuse_half_characters(turn.text, f"a turn of the {turn.role}", number, code)
    return read


def _turn(turn, number, code):
    """Read one turn, a dict with role and content or with from and value, as a `Turn`.

    `number` (of the row) and `code` belong to the `DataError` that is raised if it is no turn."""
    role = turn.get("role", turn.get("from"))
    role = _role_names.get(role, role)  # "human" means user, "gpt" assistant
    if role not in _roles:
        raise DataError(code, f"a turn of {role!r}, expected one of {', '.join(_roles)}", row=number)

    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):  # its pictures are marks such as `<image>`, and stand in a column
        if "<video>" in content:
            raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
        return Turn(role, content)
    if not isinstance(content, (list, tuple)) or not all(isinstance(part, (dict, str)) for part in content):
        raise DataError(code, "content must be text or a list of parts", row=number)
    return _turn_of_parts(role, content, number, code)


def _turn_of_parts(
    role,  # system, user or assistant
    parts,  # texts, and dicts such as {"type": "text", "text": …} or {"type": "image", "image": …}
    number,  # of the row, for an error
    code,  # of an error
):
    """A `Turn` of the texts and pictures in its parts, which are joined with one blank between two of them

    ["Look:", picture, " how many? "] → "Look: <image> how many?". Line breaks in the texts stay, also at
    their ends; a part of nothing but white space is left out."""
    texts, pictures = [], []
    for part in parts:
        # For a picture the text is `<image>`, and `pictures` gets the picture.
        text = _part(part, pictures, number, code)
        if text.strip():  # an empty part would leave two blanks
            texts.append(text.strip(" \t"))  # one blank is put between two parts below
    return Turn(role, " ".join(texts), pictures)


def _part(
    part,  # a text, or a dict such as {"type": "text", "text": …} or {"type": "image", "image": …}
    pictures,  # of the turn so far; gets the part's picture
    number,  # of the row, for an error
    code,  # of an error
):
    """The text of one part of a turn; for a picture it is the mark `<image>`, and `pictures` gets it.

    `DataError` for a video, for a text that is none, and for a part of any other type."""
    if isinstance(part, str):
        return part
    kind = _kind_of_part(part)
    if kind in _video_types:
        raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
    if kind in _picture_types:
        pictures.append(_picture_of(part, number))  # None if the part only marks a place
        return "<image>"
    if kind in _text_types:
        text = part.get("text")
        if text is None or isinstance(text, str):
            return text or ""
        raise DataError(code, f"a part whose text is a {type(text).__name__}", row=number)
    raise DataError(code, f"a part of type {kind!r}, expected text or image", row=number)


def _kind_of_part(part):
    "The type of a part (a dict), such as image_url; None if it has none"
    if part.get("type") is not None:  # Parquet gives all parts the same keys, and None where one has no value
        return part["type"]
    # Qwen's first form has no type but names it by the key: {"image": "a.png"}
    type_keys = ("image", "image_url", "video", "text")
    return next((key for key in type_keys if part.get(key) is not None), None)


def _picture_of(part, number):
    """The picture of a part of a turn, as a path or bytes; `DataError` about row `number` unless it is one.

    `part` is a dict such as {"type": "image", "image": "a.png"}. None for {"type": "image"} alone: it only
    marks the place of a picture that the row holds in another column. {"type": "image", "index": 1} gives 1:
    the second picture of that column stands there."""
    for key in ("image", "image_url", "url", "path"):
        if part.get(key):
            pictures = picture_list(part[key], number)  # a list of paths and bytes
            if len(pictures) != 1:
                message = f"{len(pictures)} pictures in one part, expected one"
                raise DataError("vqa.images", message, row=number)
            return pictures[0]
    if part.get("bytes"):
        return picture_list(part, number)[0]  # a dict with bytes is one picture
    index = part.get("index")  # None: the places take the column's pictures one after the other
    return int(index) if is_finite_number(index) else None
