"""Which column of a stranger's row holds what: the names that public sets use, and `keys` for all others.

A name is compared by its letters and digits alone: `Image_Path`, `imagePath` and `image path` are one.
Nothing is guessed from values; but a value that looks like a picture is never passed over without a word.
Written by hand."""
import re
from pathlib import PurePosixPath

from ..archive import DataError
from ..settings import SettingsError, nearest
from .values import unboxed

__all__ = ["Columns", "read_keys", "check_keys", "is_row", "plain_name", "is_nothing", "empty_columns",
           "picture_suffixes", "holds_pictures", "holds_encoded_pictures", "roles"]

# Role of a column → names that it may have; the first one that a row has is taken. Each name is used by a
# public data set or trainer.
roles = {
    "question": ("question", "prompt", "problem", "query", "instruction"),
    # VQA v2 has the annotators' common answer beside the answers of all
    "answer": ("answer", "multiple_choice_answer", "answers", "ground_truth", "gt_answer",
               "gold_answer", "solution", "response", "output", "reward_model"),
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

# Of files that are meant as pictures, also of kinds that cannot be read: then the error says so
picture_suffixes = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic",
                    ".heif", ".avif", ".dcm", ".ppm", ".svg", ".nii")
# Columns, by `plain_name`, that name the picture by its number in another table
_picture_numbers = ("imageid", "imgid", "pictureid", "imageids", "imageindex", "imgidx")
# Columns, by `plain_name`, that hold one picture each of those of a row, as in MMMU and BLINK
_numbered_picture = re.compile(r"(?:image|img|picture|photo)(\d{1,2})")
# How the base64 of a PNG, JPEG, GIF, WEBP and of a data URL begins
_base64_marks = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "data:image/")


def plain_name(
    name,  # of a column; a text, or what else a JSON or parquet file has as a key
) -> str:
    "A column's name as names are compared: only its letters and digits, in lower case"
    return re.sub(r"[\W_]+", "", str(name).casefold())


# As `roles`, with each name as `plain_name` gives it
_plain_roles = {role: tuple(plain_name(name) for name in names) for role, names in roles.items()}


def read_keys(
    keys: str | list | dict | None,  # "question=problem image=img_name", a list of such texts, or a dict
) -> dict:  # role → column; empty if `keys` is None or empty
    """Read what a user says about which column holds what; an unknown role is a `SettingsError`.

    "answers" sets two keys: "answer", and "any", which says that any answer of a list is right."""
    if not keys:
        return {}
    columns = {}
    for role, column in _roles_and_columns(keys):  # pairs such as ("answers", "solution")
        if role == "answers":
            columns["any"] = column
        role = _other_roles.get(role, role)  # "answers" means "answer", "images" means "image"
        if role not in roles:
            raise SettingsError(f"keys: there is no {role!r}{nearest(role, list(roles))}")
        if role in columns:
            raise SettingsError(f"keys: {role!r} is said twice")
        columns[role] = column
    return columns


# Other words that people write for a role → the role
_other_roles = {"answers": "answer", "images": "image", "picture": "image", "pictures": "image",
                "responses": "response",
                "human_ranking": "ranking", "prompt": "question", "query": "question"}


def _roles_and_columns(keys):
    """The pairs (role, column) in `keys`: "answer=a image=b" → ("answer", "a"), ("image", "b").

    `keys` may also be a list of such texts, or a dict {role: column}."""
    if isinstance(keys, dict):
        return keys.items()
    text = " ".join(keys) if isinstance(keys, list) else keys
    # Split in front of each role=, not at every space, since the name of a column may hold spaces.
    return [_role_and_column(word) for word in re.split(r"[\s,]+(?=\w+=)", text.strip())]


def _role_and_column(word):
    "Split \"answer=solution\" into the role and the column's name; `SettingsError` if one of both is missing"
    role, mark, column = word.partition("=")
    if not (role and mark and column):
        raise SettingsError(f"keys: {word!r}, expected such as answer=solution")
    return role, column


def check_keys(
    keys: dict,  # role → column, from `read_keys`
    rows: list,  # of (row number, row)
    file: str,  # name of the rows' file, for the message
):
    "Raise `DataError` if `keys` names a column that no row has"
    names = {}  # of all columns; a dict as a set that keeps the order
    for _, row in rows:
        if isinstance(row, dict):
            names |= dict.fromkeys(map(str, row))

    for role, column in keys.items():
        # "any" is no role: it repeats the column of "answer"
        if role != "any" and column not in names:
            message = f"{file}: no row has the column {column!r}, which keys names for {role}"
            raise DataError("row.keys", message + nearest(column, list(names)[:20]))


def is_row(
    row: dict,  # an object of a JSON file
) -> bool:
    "True if an object of a JSON file is a row of data: if it has a column that is named as one of a row"
    names = set(map(plain_name, row))
    main_roles = ("question", "answer", "chat", "chosen", "rejected", "image")
    # `_plain_roles`: role → all names that a column with this role may have
    return any(names & set(_plain_roles[role]) for role in main_roles)


def holds_pictures(
    value,  # of any column
) -> bool:
    "True if a value looks like a picture: a file's name, bytes, base64, a PIL image, a list or dict of these"
    if isinstance(value, (bytes, bytearray)):
        return True
    if isinstance(value, str):
        return _looks_like_picture(value)
    if isinstance(value, (list, tuple)):
        return bool(value) and holds_pictures(value[0])
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), (bytes, str)):
            return True
        keys = ("path", "url", "image", "image_url", "file_name")
        return any(holds_pictures(value.get(key)) for key in keys)
    return hasattr(value, "getextrema")  # a method of PIL's images; so PIL need not be imported


def holds_encoded_pictures(
    value,  # of any column
) -> bool:
    "True if a value is a picture itself, not a file's name, or a list of such: bytes, base64, a PIL image"
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(holds_encoded_pictures, value))
    if isinstance(value, dict):  # as `datasets` writes pictures: `bytes` is None where `path` names a file
        return value.get("bytes") is not None
    if isinstance(value, str):
        return value.startswith(_base64_marks)
    return holds_pictures(value)


_longest_name = 500  # characters; a longer text is no file's name


def _looks_like_picture(text):
    """True if a text looks like a picture: the name of a file, an address or base64.

    It may also be a list of these that was written as a text, such as '["a.png", "b.png"]'."""
    if text.startswith('["') and len(text) < _longest_name:
        text = text[2:].partition('"')[0]  # the first text of the list
    return text.startswith(_base64_marks) or _looks_like_picture_name(text)


def _looks_like_picture_name(text):
    "True if a text looks like the name or the address of a picture's file, such as a/b.png"
    if len(text) >= _longest_name or "\n" in text:
        return False
    if text.startswith(("http://", "https://")):
        text = text.partition("?")[0]  # without the query, as in https://x.org/a.png?size=80
    has_suffix = PurePosixPath(text.strip().casefold()).suffix in picture_suffixes
    # With many spaces it is a sentence that ends with a name: "… see scan.png".
    return has_suffix and text.count(" ") < 4


def is_nothing(
    value,  # of any column
) -> bool:
    "True for a column without a value: None, or the NaN that pandas writes in its place"
    value = unboxed(value)  # np.float32's NaN is no float
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan


def empty_columns(
    rows: list,  # dicts, all rows of a file
) -> frozenset:  # names
    """Columns that have no value in any row of a file.

    They are passed over when a role is looked for: another column with a fitting name is taken."""
    names, filled = set(), set()
    for row in rows:
        if isinstance(row, dict):
            names |= set(row)
            filled |= {name for name, value in row.items() if not is_nothing(value)}
    return frozenset(names - filled)


class Columns:
    "The columns of one row, found by their role (see `roles`); remembers which of them were read"
    def __init__(self,
        row: dict,  # a row of a file
        keys: dict = None,  # role → column, from `read_keys`
        number: int = None,  # the row's line in its file, for messages
        empty: frozenset = frozenset(),  # columns that have no value in any row of the file
    ):
        "Keep the row, and note for each of its columns the name by which columns are compared"
        self.row = {name: unboxed(value) for name, value in row.items()}  # 3 for np.int64(3)
        self.keys, self.number, self.empty = keys or {}, number, empty
        self.read = set()  # names of the columns that were used, so that the others can be reported
        # image_path, Image Path and imagePath are all compared as imagepath; of these the first one counts.
        self._by_plain_name = {}  # `plain_name` → name in the row
        for name in row:
            self._by_plain_name.setdefault(plain_name(name), name)

    def name_of(self,
        role: str,  # one of `roles`
    ) -> str | None:  # the column's name in this row
        "Name of the column that has a role and a value in this row; None if there is none. It counts as read"
        name = self._column_for(role)
        if name is None:
            return None
        self.read.add(name)
        return None if is_nothing(self.row[name]) else name

    def _column_for(self, role):
        """Name of this row's column for a role, with a value or without; None if there is no such column

        A column that is empty in this row alone is taken all the same: otherwise rows of one file would take,
        for example, their answers from different columns."""
        if role in self.keys:
            chosen = self.keys[role]  # by the user
            return chosen if chosen in self.row else None
        taken = set(self.keys.values())  # a column to which the user gave a role has no other role
        # `_plain_roles`: role, such as "answer", → the names that its column may have, the best first
        for plain in _plain_roles[role]:
            name = self._by_plain_name.get(plain)  # as this row writes it
            is_empty_in_file = name in self.empty
            if name is not None and name not in taken and not is_empty_in_file:
                return name
        return None

    def get(self,
        role: str,  # one of `roles`
    ):  # the value, or None
        "The value of the column that has a role; None if there is no such column or no value"
        name = self.name_of(role)
        return None if name is None else self.row[name]

    def has(self,
        role: str,  # one of `roles`
    ) -> bool:
        "True if the row has a column for a role, with a value or without"
        if role in self.keys:  # then the user has named the column, and no other counts
            return self.keys[role] in self.row
        return any(plain in self._by_plain_name for plain in _plain_roles[role])

    def numbered_pictures(self) -> list:  # names
        """Columns image_1, image_2, … with a value, in the order of their numbers. They count as read.

        None of them is taken if another column has the role image, or if none of them looks like pictures."""
        if "image" in self.keys or self._column_for("image") is not None:
            return []
        taken = set(self.keys.values())  # by the user for another role
        by_number = {}  # number → name
        for name, value in self.row.items():
            numbered = _numbered_picture.fullmatch(plain_name(name))
            is_empty = is_nothing(value) or (isinstance(value, str) and not value.strip())
            if numbered and not is_empty and name not in taken:
                by_number.setdefault(int(numbered[1]), name)
        names = [by_number[number] for number in sorted(by_number)]
        if not any(holds_pictures(self.row[name]) for name in names):
            return []
        self.read.update(names)
        return names

    def there(self) -> str:
        "The names of all columns as one text, for messages; cut after 120 characters"
        return ", ".join(str(name) for name in self.row)[:120]

    def unread(self) -> list:  # names
        "Columns that have a value and were not read"
        return [name for name in self.row if name not in self.read and not is_nothing(self.row[name])]

    def unread_pictures(self) -> list:  # names
        "Columns that look like pictures and were not read"
        return [name for name in self.unread() if holds_pictures(self.row[name])]

    def unread_picture_numbers(self) -> list:  # names
        "Columns that name a picture by its number, as VQA v2 and GQA do, and were not read"
        return [name for name in self.unread() if plain_name(name) in _picture_numbers]
