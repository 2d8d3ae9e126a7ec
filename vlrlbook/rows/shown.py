"""Which pictures a row shows, where its chat and a column both may hold some; and what of a row was not read.

Questions and preferences ask the same. Written by hand."""
from ..archive import DataError
from .columns import plain_name
from .pictures import picture_list

__all__ = ["pictures_shown", "unread_columns", "belonging_columns", "is_said"]


def pictures_shown(
    columns,  # `Columns` of the row
    turn_pictures: list,  # one for each picture part of the chat: a path, bytes, None or an index
    notes: list,  # sentences about pictures that are not used are added to it
    kind: str,  # vqa or preference: what the codes of errors begin with
) -> list:  # of paths and bytes, in the order in which the question shows them
    """The pictures that a row shows, from its column of pictures, from its chat, or from both.

    A part of the chat with None or an index is a place: there a picture of the column is shown, the next one
    for None, the second one for the index 1.
    Raises `DataError` if no picture would be shown though some other column looks like one."""
    name = columns.name_of("image")  # of the column of pictures in this file, or None
    code = "vqa.images" if kind == "vqa" else "preference.image"
    names = [name] if name is not None else []
    if kind == "vqa":  # two pictures of a preference may be the two answers
        names += columns.numbered_pictures()  # image_1, image_2, …; none where `name` is a column
    if name is None and names:
        name = names[0]
        notes.append(f"pictures stand in numbered columns, from {str(name)!r} on")
    column_pictures = []
    for picture_column in names:
        column_pictures += picture_list(columns.row[picture_column], columns.number, code)
    chat_pictures = [picture for picture in turn_pictures if isinstance(picture, (str, bytes))]
    indices = [picture for picture in turn_pictures if isinstance(picture, int)]
    if indices and column_pictures:
        column_pictures = _ordered(column_pictures, indices, turn_pictures, code, columns.number)

    if not column_pictures and not chat_pictures:
        _refuse_unread_pictures(columns, code)  # returns for a question about no picture
    for other in columns.unread_pictures():  # names of columns whose values look like pictures
        notes.append(f"column {str(other)!r} looks like pictures too and is not read")
    if not chat_pictures:
        return column_pictures  # the caller compares their number with the marks in the text

    # Each part of the chat has its own picture.
    if column_pictures and len(chat_pictures) == len(turn_pictures):
        notes.append(f"the pictures stand in the chat; column {name!r} is not read")
        return chat_pictures
    # Some parts hold pictures, others are places, which take the column's. Or no part is a place: then the
    # column is empty here, and the chat's pictures are returned as they are.
    return _with_filled_places(turn_pictures, column_pictures, f"{kind}.marks", columns.number)


def _ordered(
    column_pictures,  # of the row's column: paths and bytes
    indices,  # those among `turn_pictures`, such as [1, 0]: the chat shows the column's second picture first
    turn_pictures,  # one for each picture part of the chat: a path, bytes, None or an index
    code,  # of an error
    number,  # of the row, for an error
):
    "The column's pictures in the order of the chat's places; `DataError` unless each picture has one place"
    # None beside an index: nobody knows which picture that place shows.
    if None in turn_pictures or sorted(indices) != list(range(len(column_pictures))):
        count = len(column_pictures)
        message = f"parts of the chat show pictures {indices} by index and the row holds {count}"
        raise DataError(code, message, row=number)
    return [column_pictures[index] for index in indices]


def _with_filled_places(
    turn_pictures,  # one for each picture part of the chat: a path, bytes, None or an index
    column_pictures,  # of the row's column: paths and bytes
    code,  # of an error
    number,  # of the row, for an error
):
    """The chat's pictures, where each place (None or an index) takes the column's next one.

    a.png, None, b.png of the chat and c.png of the column become a.png, c.png, b.png. `DataError` unless the
    column has as many pictures as there are places."""
    is_place = [not isinstance(picture, (str, bytes)) for picture in turn_pictures]
    places = sum(is_place)
    if places != len(column_pictures):
        message = f"{places} parts of the chat mark a picture and the row holds {len(column_pictures)}"
        raise DataError(code, message, row=number)
    remaining = iter(column_pictures)
    return [next(remaining) if empty else picture for empty, picture in zip(is_place, turn_pictures)]


def _refuse_unread_pictures(columns, code):
    """Raise `DataError` if a column that was not read looks like pictures, or names a picture by its number.

    For a row that would show no picture: it would be trained as a question about none. `columns` are the
    row's `Columns`, `code` is the error's."""
    picture_columns = columns.unread_pictures()
    if picture_columns:
        other = picture_columns[0]
        message = f"column {str(other)!r} holds pictures and is not read: say --keys image={other}"
        if len(picture_columns) > 1:  # followed without another word, that would lose the others
            names = ", ".join(repr(str(name)) for name in picture_columns)
            into_one = "write those that the question shows as one list into a column images"
            alone = f"if it shows one alone, say --keys image={other}"
            message = f"columns {names} hold pictures and are not read: {into_one}; {alone}"
        raise DataError(code, message, row=columns.number)
    number_columns = columns.unread_picture_numbers()  # such as image_id
    if number_columns:
        other = str(number_columns[0])
        message = f"column {other!r} names a picture by its number, and no column names its file"
        raise DataError(code, message, row=columns.number)


def unread_columns(
    columns,  # `Columns` of the row: knows which were read; called when all else of the row was read
) -> list:  # names
    "Columns with a value that were not read, except those of pictures, which `pictures_shown` notes itself"
    picture_columns = columns.unread_pictures()
    return [str(name) for name in columns.unread() if name not in picture_columns]


# Columns, by `plain_name`, without which some questions of MMBench, ScienceQA and M3CoT cannot be answered.
# In other sets a hint gives the solution away, so that they are not read unless the user says so.
_belonging = ("hint", "context", "passage")


def belonging_columns(
    columns,  # `Columns` of the row, when all else of it was read
) -> list:  # names
    "Columns that were not read and that may belong to the question, since they hold a text to it"
    names = [name for name in columns.unread() if plain_name(name) in _belonging]
    return [str(name) for name in names if is_said(columns.row[name])]


def is_said(
    value,  # of a column
) -> bool:
    "True for a text that says something: not an empty one, nor the nan that stands for one in MMBench"
    return isinstance(value, str) and value.strip() not in ("", "nan")
