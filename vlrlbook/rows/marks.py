"""The marks of pictures in a question: an `<image>` for each, out of the marks that other tools write.

Written by hand."""
import re

from ..archive import DataError

__all__ = ["marked_question"]

# What LLaVA, MMMU, InternVL, Qwen-VL, Phi and VILA write in a picture's place: <image>, <|image_1|>, <img 2>
_mark_words = "image|img|picture|ImageHere|image_placeholder"
_any_mark = re.compile(rf"<\|?(?:{_mark_words})[\s_-]?(\d*)\|?>", re.IGNORECASE)
# Qwen-VL's first form: the name of the file stands inside
_named_picture = re.compile(r"<img>\s*([^<]{1,200}?)\s*</img>", re.IGNORECASE)
_video_mark = re.compile(r"<\|?video[\s_-]?\d*\|?>", re.IGNORECASE)


def marked_question(
    question: str,  # as the row holds it
    pictures: int,  # how many the row shows
    code: str,  # of an error: vqa.marks or preference.marks
    notes: list,  # gets a sentence if marks are left as words
    number: int = None,  # the row's line in its file, for the message of an error
) -> str:  # with as many `<image>` as pictures, or with the question's marks unchanged
    """The question with all marks of pictures, in whatever form, replaced by `<image>`.

    Raises `DataError` if there are not as many marks as pictures. Numbers that do not count the pictures in
    their order are words of the question, which then stays unchanged."""
    def raise_error(message):
        "Raise a `DataError` about this question"
        raise DataError(code, message, row=number)

    # A video cannot be shown, and without it the question would mean something else.
    if _video_mark.search(question):
        raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
    named = _named_picture.search(question)
    if named:
        cure = "put the file into a column and <image> in its place"
        raise_error(f"the question names a picture inside ({named[0][:80]!r}): {cure}")

    marks = list(_any_mark.finditer(question))
    if not marks:
        return question

    first_mark = marks[0][0]
    numbers = [int(mark[1]) for mark in marks if mark[1]]
    # A row without pictures is not meant here: its marks are the error below.
    if numbers and numbers != list(range(1, pictures + 1)) and pictures:
        # Such a question calls pictures, or parts of one picture, by numbers, as in "Is <image 2> larger?"
        # The marks are left as words, and the pictures come in front of the question.
        notes.append(f"marks such as {first_mark} are words here; the pictures stand in front")
        return question

    if len(marks) != pictures:
        raise_error(f"{len(marks)} {first_mark} marks but {pictures} pictures")
    return _any_mark.sub("<image>", question)
