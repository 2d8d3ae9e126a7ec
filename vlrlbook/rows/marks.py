"""The marks of pictures in a question: an `<image>` for each, out of the marks that other tools write.

Written by hand."""
import re

from ..archive import DataError

__all__ = ["marked_question"]

# What LLaVA, MMMU, InternVL, Qwen-VL, Phi and VILA write where a picture stands, numbered or not
_words = "image|img|picture|ImageHere|image_placeholder"
_other_mark = re.compile(rf"<\|?(?:{_words})[\s_-]?(\d*)\|?>", re.IGNORECASE)
_named_picture = re.compile(r"<img>\s*([^<]{1,200}?)\s*</img>", re.IGNORECASE)  # Qwen-VL's first form
_video_mark = re.compile(r"<\|?video[\s_-]?\d*\|?>", re.IGNORECASE)


def marked_question(
    question: str,  # as the row holds it
    pictures: int,  # how many the row shows
    code: str,  # vqa.marks or preference.marks
    notes: list,  # gets a sentence where marks are left as words
    number: int = None,  # the row's line
) -> str:  # with as many `<image>` as pictures, or none at all
    "The question with the marks of this book; marks that do not fit the pictures are a `DataError`"
    def refuse(message):
        raise DataError(code, message, row=number)

    if _video_mark.search(question):
        raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
    named = _named_picture.search(question)
    if named:
        cure = "put the file into a column and <image> in its place"
        refuse(f"the question names a picture inside ({named[0][:80]!r}): {cure}")
    found = list(_other_mark.finditer(question))
    if not found:
        return question
    numbers = [int(mark[1]) for mark in found if mark[1]]
    if numbers and numbers != list(range(1, pictures + 1)) and pictures:
        # "<image 2> or <image 1>?" speaks of pictures by their number; one picture may be pasted out of several.
        # The marks stay as words, and the pictures stand in front in their order.
        notes.append(f"marks such as {found[0][0]} are words here; the pictures stand in front")
        return question
    if len(found) != pictures:
        refuse(f"{len(found)} {found[0][0]} marks but {pictures} pictures")
    return _other_mark.sub("<image>", question)
