"""Which pictures a row shows, where its chat and a column both may hold some; and what of a row was not read.

Questions and preferences ask the same. Written by hand."""
from ..archive import DataError
from .pictures import picture_list

__all__ = ["pictures_shown", "unread_columns"]


def pictures_shown(
    columns,  # `Columns` of the row
    turn_pictures: list,  # of the chat's parts: paths, bytes, and None for a part that only marks a place
    notes: list,  # gets a sentence for what is not used
    kind: str,  # vqa or preference: what the codes of errors begin with
) -> list:  # of paths and bytes, as they stand in the question
    "Pictures of the chat's parts and of the row's column; a column of pictures that nobody reads is an error"
    name = columns.name_of("image")
    code = "vqa.images" if kind == "vqa" else "preference.image"
    of_row = picture_list(columns.row[name], columns.number, code) if name is not None else []
    own = [picture for picture in turn_pictures if picture is not None]
    beside = columns.unread_pictures()
    if beside and not of_row and not own:
        # The commonest way to train a blind model without knowing it
        message = f"column {str(beside[0])!r} holds pictures and is not read: say --keys image={beside[0]}"
        raise DataError(code, message, row=columns.number)
    by_number = columns.unread_picture_numbers()
    if by_number and not of_row and not own:
        message = f"column {str(by_number[0])!r} names a picture by its number, and no column names its file"
        raise DataError(code, message, row=columns.number)
    notes += [f"column {str(other)!r} looks like pictures too and is not read" for other in beside]
    if not own:
        return of_row  # parts that mark places, if there are any, are counted against these by their marks
    places = len(turn_pictures) - len(own)
    if of_row and places == 0:
        notes.append(f"the pictures stand in the chat; column {name!r} is not read")
        return own
    if places != len(of_row):
        message = f"{places} parts of the chat mark a picture and the row holds {len(of_row)}"
        raise DataError(f"{kind}.marks", message, row=columns.number)
    rest = iter(of_row)
    return [next(rest) if picture is None else picture for picture in turn_pictures]


def unread_columns(
    columns,  # `Columns` of the row, when all else was asked
) -> list:  # names
    "What of a row was not read, pictures apart, of which `pictures_shown` has told"
    pictures = columns.unread_pictures()
    return [str(name) for name in columns.unread() if name not in pictures]
