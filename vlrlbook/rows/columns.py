"""Which column of a stranger's row holds what: the names that public sets use, and `keys` for all others.

A name is compared by its letters and digits alone: `Image_Path`, `imagePath` and `image path` are one.
Nothing is guessed from values; but a value that looks like a picture is never passed over without a word.
Written by hand."""
import re
from pathlib import PurePosixPath

from ..archive import DataError
from ..settings import SettingsError, nearest

__all__ = ["Columns", "read_keys", "check_keys", "is_row", "plain_name", "is_nothing", "empty_columns",
           "picture_suffixes", "holds_pictures", "roles"]

# What a column may be called, the first that is there wins. Each name was seen in a public set or trainer.
roles = {
    "question": ("question", "prompt", "problem", "query", "instruction"),
    # VQA v2 has the annotators' common answer beside the answers of all
    "answer": ("answer", "multiple_choice_answer", "answers", "solution", "ground_truth", "gt_answer",
               "gold_answer", "response", "output", "reward_model"),
    "image": ("images", "image", "image_name", "image_names", "image_path", "image_paths", "images_path",
              "image_file", "image_files", "image_filename", "img", "imgs", "img_name", "img_path",
              "img_paths", "img_file", "picture", "pictures", "picture_path", "pictures_path", "photo",
              "photos", "photo_path", "figure", "figure_path", "image_bytes", "image_base64", "file_name",
              "image_url", "image_urls", "jpg", "jpeg", "png", "webp"),
    "options": ("options", "choices", "option", "choice"),
    "chat": ("messages", "conversations", "conversation"),
    "video": ("video", "videos", "video_path", "video_paths", "video_url", "video_file", "mp4"),
    "response": ("response", "responses", "answers", "completions"),
    "ranking": ("human_ranking", "ranking", "rank", "ranks"),
    "chosen": ("chosen", "chosen_response", "preferred", "win"),
    "rejected": ("rejected", "rejected_response", "rejected_answer", "rejected_messages", "dispreferred",
                 "lose"),
    "margin": ("margin",),
    # of several people: how many preferred each answer, or the share of them that preferred the first
    "votes": ("votes", "human_votes", "annotator_votes"),
    "probability": ("probability", "preference_probability", "soft_label"),
    "group": ("group", "query_source"),
    "id": ("id",),
    "input": ("input",),  # of the Alpaca form, where it follows the instruction
    "system": ("system", "system_prompt"),
    "text": ("text",),  # of RLHF-V: one JSON text with question, chosen and rejected
}

# Of files that are meant as pictures, those that cannot be read among them
picture_suffixes = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic",
                    ".heif", ".avif", ".dcm", ".ppm", ".svg", ".nii")
# Columns that name the picture by its number in another table
_picture_numbers = ("imageid", "imgid", "pictureid", "imageids", "imageindex", "imgidx")
# How the base64 of a PNG, JPEG, GIF, WEBP and of a data URL begins
_base64_marks = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "data:image/")


def plain_name(
    name,  # of a column
) -> str:
    "A column's name as it is compared: its letters and digits in lower case"
    return re.sub(r"[\W_]+", "", str(name).casefold())


_plain_roles = {role: tuple(plain_name(name) for name in names) for role, names in roles.items()}


def read_keys(
    keys: str | list | dict | None,  # "question=problem image=img_name", the same as words, or as a dict
) -> dict:  # role → column; empty where nothing was said
    "Which column holds what, as a user wrote it; an unknown role is a `SettingsError` with the nearest"
    if not keys:
        return {}
    if isinstance(keys, list):
        keys = " ".join(keys)
    if isinstance(keys, dict):
        pairs = keys.items()
    else:
        # parted where the next word=… begins: names of columns may hold spaces
        pairs = [_pair(word) for word in re.split(r"[\s,]+(?=\w+=)", keys.strip())]
    found = {}
    for role, column in pairs:
        if role == "answers":  # of which any is right
            found["any"] = column
        role = _other_roles.get(role, role)
        if role not in roles:
            raise SettingsError(f"keys: there is no {role!r}{nearest(role, list(roles))}")
        if role in found:
            raise SettingsError(f"keys: {role!r} is said twice")
        found[role] = column
    return found


# Other words that people write for a role
_other_roles = {"answers": "answer", "images": "image", "picture": "image", "pictures": "image",
                "responses": "response",
                "human_ranking": "ranking", "prompt": "question", "query": "question"}


def _pair(word):
    "Role and column of one word such as answer=solution"
    role, mark, column = word.partition("=")
    if not (role and mark and column):
        raise SettingsError(f"keys: {word!r}, expected such as answer=solution")
    return role, column


def check_keys(
    keys: dict,  # role → column, from `read_keys`
    rows: list,  # of (number, row)
    file: str,  # its name, for the message
):
    "Refuse a column that `keys` names and no row has"
    names = {}  # as a set that keeps the order
    for _, row in rows:
        if isinstance(row, dict):
            names |= dict.fromkeys(map(str, row))
    for role, column in keys.items():
        if role != "any" and column not in names:
            message = f"{file}: no row has the column {column!r}, which keys names for {role}"
            raise DataError("row.keys", message + nearest(column, list(names)[:20]))


def is_row(
    row: dict,  # an object of a JSON file
) -> bool:
    "Whether an object has a column that only a row would have"
    plain = set(map(plain_name, row))
    telling = ("question", "answer", "chat", "chosen", "rejected", "image")
    return any(plain & set(_plain_roles[role]) for role in telling)


def holds_pictures(
    value,  # of any column
) -> bool:
    "Whether a value looks like a picture: a file's name, bytes, base64, or a list or dict of these"
    if isinstance(value, str):
        if value.startswith('["') and len(value) < 500:
            value = value[2:].partition('"')[0]  # a list that was written as text: its first name
        short_name = len(value) < 500 and "\n" not in value
        if value.startswith(("http://", "https://")):
            value = value.partition("?")[0]
        is_file = short_name and PurePosixPath(value.strip().casefold()).suffix in picture_suffixes
        # a sentence may end in "… see scan.png"
        return (is_file and value.count(" ") < 4) or value.startswith(_base64_marks)
    if isinstance(value, dict):
        inside = [value.get(key) for key in ("path", "url", "image", "image_url", "file_name")]
        return isinstance(value.get("bytes"), (bytes, str)) or any(map(holds_pictures, inside))
    if isinstance(value, (list, tuple)):
        return bool(value) and holds_pictures(value[0])
    return isinstance(value, (bytes, bytearray)) or hasattr(value, "getextrema")  # the last: a PIL image


def is_nothing(
    value,  # of any column
) -> bool:
    "Whether a column is there without a value: None, or the NaN that pandas writes for it"
    return value is None or (isinstance(value, float) and value != value)


def empty_columns(
    rows: list,  # of a whole file
) -> frozenset:  # names
    "Columns that hold nothing in any row: another column may play their role"
    names, filled = set(), set()
    for row in rows:
        if isinstance(row, dict):
            names |= set(row)
            filled |= {name for name, value in row.items() if not is_nothing(value)}
    return frozenset(names - filled)


class Columns:
    "The columns of one row by what they mean; remembers which of them were read"
    def __init__(self,
        row: dict,  # a row of a file
        keys: dict = None,  # role → column, from `read_keys`
        number: int = None,  # its line, for messages
        empty: frozenset = frozenset(),  # columns that hold nothing in any row of the file
    ):
        self.row, self.keys, self.number, self.empty = row, keys or {}, number, empty
        self.read = set()  # names of columns that meant something
        self._by_plain_name = {}
        for name in row:
            self._by_plain_name.setdefault(plain_name(name), name)

    def name_of(self,
        role: str,  # one of `roles`
    ) -> str | None:  # the column's name in this row
        "The column that plays a role and holds something; None where there is none"
        if role in self.keys:
            # A row may leave out what it has no value for. Whether any row has it, `check_keys` asks.
            wanted = self.keys[role]
            if wanted not in self.row:
                return None
            self.read.add(wanted)
            return None if is_nothing(self.row[wanted]) else wanted
        taken = set(self.keys.values())  # a column that was given a role by hand plays no other one
        for plain in _plain_roles[role]:
            name = self._by_plain_name.get(plain)
            if name is None or name in taken or name in self.empty:
                continue
            # The first that the file fills is asked, blank here or not: in a blank cell's place another
            # column must not become the truth.
            self.read.add(name)
            return None if is_nothing(self.row[name]) else name
        return None

    def get(self,
        role: str,  # one of `roles`
    ):  # the value, or None
        "What the column of a role holds"
        name = self.name_of(role)
        return None if name is None else self.row[name]

    def has(self,
        role: str,  # one of `roles`
    ) -> bool:
        "Whether a column for a role is there, with a value or without"
        if role in self.keys:
            return self.keys[role] in self.row
        return any(plain in self._by_plain_name for plain in _plain_roles[role])

    def there(self) -> str:
        "The names of all columns, for messages"
        return ", ".join(str(name) for name in self.row)[:120]

    def unread(self) -> list:  # names
        "Columns that hold something and were not read"
        return [name for name in self.row if name not in self.read and not is_nothing(self.row[name])]

    def unread_pictures(self) -> list:  # names
        "Columns that look like pictures and were not read"
        return [name for name in self.unread() if holds_pictures(self.row[name])]

    def unread_picture_numbers(self) -> list:  # names
        "Columns that name a picture by a number, as VQA v2 and GQA do, and were not read"
        return [name for name in self.unread() if plain_name(name) in _picture_numbers]
