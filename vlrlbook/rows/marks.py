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
    """Replace each mark of a picture, such as `<|image_1|>` or `<img>`, by `<image>`.

    Marks that only name pictures, as in "Is <image 2> larger?", are words of the question, which stays
    unchanged. In any other question a `DataError` is raised if there are not as many marks as pictures."""
    _refuse_other_marks(question, code, number)  # of a video, or with the name of a file inside
    marks = list(_any_mark.finditer(question))  # of <image>, <|image_1|>, <img 2> and the like
    if not marks:
        return question
    first_mark = marks[0][0]  # its text, such as <img 2>
    # A question that stays without `<image>` gets its pictures in front. In a row without pictures every mark
    # is an error (below).
    if pictures and _numbers_are_words(marks, pictures):
        notes.append(f"marks such as {first_mark} are words here; the pictures stand in front")
        return question

    if len(marks) != pictures:
        raise DataError(code, f"{len(marks)} {first_mark} marks but {pictures} pictures", row=number)
    return _any_mark.sub("<image>", question)


def _numbers_are_words(marks, pictures):
    """True if marks such as <image 2> are words of a question, which name pictures but do not stand for them.

    Their numbers tell: they are not 1, 2, … up to `pictures`, the number of pictures. With two pictures: True
    for "<image 2>" and "<image 2> <image 1>", False for "<image> <image>" and "<image 1> <image 2>". False,
    too, for "<image 1> <image 2> <image 3>", where a picture is missing.
    `marks`: matches of a pattern whose group 1 is the number, or empty."""
    numbers = [int(mark[1]) for mark in marks if mark[1]]
    stand_for_pictures = numbers == list(range(1, pictures + 1))
    counts_up = numbers == list(range(1, len(marks) + 1))  # 1, 2, … in all marks
    picture_is_missing = counts_up and len(marks) > pictures
    return bool(numbers) and not stand_for_pictures and not picture_is_missing


def _refuse_other_marks(question, code, number):
    """Raise `DataError` if a question holds a video's mark, or a picture's file name as <img>a.png</img>.

    `code` (such as vqa.marks) and `number` (of the row) belong to the error."""
    if _video_mark.search(question):
        raise DataError("row.video", "a video: only pictures are read, save its frames", row=number)
    file_name_mark = _named_picture.search(question)
    if file_name_mark:
        cure = "put the file into a column and <image> in its place"
        message = f"the question names a picture inside ({file_name_mark[0][:80]!r}): {cure}"
        raise DataError(code, message, row=number)
