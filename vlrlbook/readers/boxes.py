"""Boxes and points in a text: which numbers of a completion say where something is.

The grammar. Of the part that is the answer (`tokens.final_answer`: behind the thought, in the answer's
tags where there are some) every innermost pair of brackets, square or round, is looked at:

    box     [x1, y1, x2, y2]        also (x1, y1, x2, y2), and (x1, y1), (x2, y2), as Qwen2-VL writes
    point   [x, y]                  also (x, y)
    number  12   -3   0.25   .5     parted by a comma, white space, or both

What stands around them is free: a list, JSON with `bbox_2d` and `label`, a code fence, a sentence. Brackets
with a word inside say nothing. Brackets of one number alone say nothing either; of three, or of five and
more, they are a fault, and so are more than a hundred boxes and an answer that holds boxes and points. Nothing is
mended: swapped corners stay swapped.

A truth is a box or a list of boxes with its scale and the picture's size behind it:

    [12, 40, 31, 59] in pixels of 112 x 112
    [[0.1, 0.2, 0.3, 0.5], [0.5, 0.5, 0.9, 0.7]] in fractions of 640 x 480

Written by hand."""
import re
from typing import Any, NamedTuple

from .tokens import final_answer

__all__ = ["Boxes", "BoxTruth", "read_boxes", "read_box_truth", "say_boxes", "box_truth", "answer_form",
           "is_bare_boxes"]

most_boxes = 100  # in one answer; a model that repeats itself says more


class Boxes(NamedTuple):
    "What an answer says"
    boxes: list  # of (x1, y1, x2, y2), as they were written
    points: list  # of (x, y)
    fault: str = ""  # why it cannot be read; empty where it can


class BoxTruth(NamedTuple):
    "Where the things are"
    boxes: list  # of (x1, y1, x2, y2)
    scale: str = ""  # pixels, thousandths or fractions; empty where it is not said
    size: Any = None  # width and height of the picture in pixels; None where it is not said


_coordinate = r"[-+]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
# Innermost brackets: none inside. The text between is bounded, so that a long text is read in one pass.
_box_brackets = re.compile(r"[\[(]([^\[\]()]{1,400})[\])]")
_only_coordinates = re.compile(rf"\s*{_coordinate}(?:(?:\s*,\s*|\s+){_coordinate})*\s*,?\s*")
_each_coordinate = re.compile(_coordinate)
# (x1, y1), (x2, y2): two round pairs with a comma or nothing between
_corner_joint = re.compile(r"\s*,?\s*")
_longest_answer = 20_000  # of an answer that are read: a hundred boxes with labels take fewer


def read_boxes(
    completion: str,  # what the model wrote
) -> Boxes:  # `fault` says what is wrong, boxes and points are empty then
    "The boxes or points of an answer, by the grammar above"
    text = final_answer(completion)[:_longest_answer]
    boxes, points, ends = [], [], []  # `ends`: where each point begins and ends, and whether it is round
    for found in _box_brackets.finditer(text):
        # a label such as "disc (red)" is no place
        if not _only_coordinates.fullmatch(found[1]):
            continue
        numbers = tuple(float(one) for one in _each_coordinate.findall(found[1]))
        if len(numbers) == 4:
            boxes.append(numbers)
        elif len(numbers) == 2:
            points.append(numbers)
            ends.append((found.start(), found.end(), found[0][0] == "("))
        if len(boxes) + len(points) > most_boxes:
            break
        if len(numbers) not in (1, 2, 4):
            return Boxes([], [], f"{len(numbers)} numbers in brackets: a box has four, a point two")
    # only where nothing else is a box: beside one, two round pairs are two points too many
    if points and not boxes:
        corners = _joined_corners(text, points, ends)
        boxes, points = (corners, []) if corners else (boxes, points)
    return _checked_boxes(boxes, points)


def _joined_corners(text, points, ends):
    "Boxes of round pairs that stand two by two; none where one is left over or something stands between"
    if len(points) % 2:
        return []
    boxes = []
    for first in range(0, len(points), 2):
        (_, end, is_round), (begin, _, other_round) = ends[first], ends[first + 1]
        if not (is_round and other_round and _corner_joint.fullmatch(text[end:begin])):
            return []
        boxes.append(points[first] + points[first + 1])
    return boxes


def _checked_boxes(boxes, points):
    "What was found, or the fault of it"
    if not boxes and not points:
        return Boxes([], [], "no box and no point")
    if boxes and points:
        return Boxes([], [], "boxes and points together")
    if len(boxes) + len(points) > most_boxes:
        return Boxes([], [], f"more than {most_boxes} boxes or points")
    return Boxes(boxes, points)


# One box or a list of boxes, and nothing else
_box_text = rf"\[\s*{_coordinate}(?:\s*,\s*{_coordinate}){{3}}\s*\]"
_bare_boxes = re.compile(rf"{_box_text}|\[\s*{_box_text}(?:\s*,\s*{_box_text})*\s*\]")


def is_bare_boxes(
    text: str,  # an answer, without tags
) -> bool:  # a JSON list of four numbers, or a list of such lists
    "Whether a text is boxes and nothing else, in the form of this book's own answers"
    return len(text) <= _longest_answer and _bare_boxes.fullmatch(text.strip()) is not None


# Truths

_truth_form = re.compile(r"(?P<boxes>\[.*\]) in (?P<scale>pixels|thousandths|fractions)"
                    r" of (?P<width>\d{1,6}) x (?P<height>\d{1,6})")


def read_box_truth(
    answer: str,  # a row's truth
) -> BoxTruth:  # without boxes where the text is no truth of this task
    "A truth's boxes, scale and picture size"
    text = str(answer).strip()
    found = _truth_form.fullmatch(text)
    if found is None:
        return BoxTruth(read_boxes(text).boxes)
    size = int(found["width"]), int(found["height"])
    return BoxTruth(read_boxes(found["boxes"]).boxes, found["scale"], size)


def say_boxes(
    boxes: list,  # of (x1, y1, x2, y2)
    scale: str = "pixels",  # pixels and thousandths are whole numbers, fractions have three places
) -> str:  # such as [12, 40, 31, 59], or a list of such lists
    "Boxes as this book's models say them"
    texts = []
    for box in boxes:
        numbers = [f"{number:.3f}" if scale == "fractions" else str(round(number)) for number in box]
        texts.append(f"[{', '.join(numbers)}]")
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def box_truth(
    boxes: list,  # of (x1, y1, x2, y2)
    scale: str,  # in which they are
    size: tuple,  # width and height of the picture in pixels
) -> str:  # such as [12, 40, 31, 59] in pixels of 112 x 112
    "Boxes as a row's truth"
    return f"{say_boxes(boxes, scale)} in {scale} of {size[0]} x {size[1]}"


def answer_form(
    truth: str,  # of a row of any task
) -> str:  # [12, 40, 31, 59] for "[12, 40, 31, 59] in pixels of 112 x 112"; any other text as it is
    "What a model would write to say a truth: one of boxes also holds their scale, which an answer leaves out"
    found = _truth_form.fullmatch(str(truth).strip())
    return found["boxes"] if found else truth
