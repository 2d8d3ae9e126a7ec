"""Boxes and points in a text: which numbers of a completion say where something is.

The grammar. Of the part that is the answer (`tokens.final_answer`: behind the thought, in the answer's
tags where there are some) every innermost pair of brackets, square or round, is looked at:

    box     [x1, y1, x2, y2]        also (x1, y1, x2, y2), and (x1, y1), (x2, y2), as Qwen2-VL writes
    point   [x, y]                  also (x, y)
    number  12   -3   0.25   .5     parted by a comma, white space, or both

What stands around them is free: a list, JSON with `bbox_2d` and `label`, a code fence, a sentence. Brackets
with a word inside say nothing. Brackets of one number alone say nothing either; of three, or of five and
more, they are a fault, and so are more than a hundred boxes and an answer that holds boxes and points.
Nothing is mended: swapped corners stay swapped.

A truth is a box or a list of boxes with its scale and the picture's size behind it:

    [12, 40, 31, 59] in pixels of 112 x 112
    [[0.1, 0.2, 0.3, 0.5], [0.5, 0.5, 0.9, 0.7]] in fractions of 640 x 480

Written by hand."""
import re
from itertools import islice
from typing import Any, NamedTuple

from .tokens import final_answer

__all__ = ["Boxes", "BoxTruth", "read_boxes", "read_box_truth", "say_boxes", "box_truth", "answer_form",
           "is_bare_boxes"]

most_boxes = 100  # in one answer; a model that repeats itself says more


class Boxes(NamedTuple):
    "The boxes or points in an answer"
    boxes: list  # of (x1, y1, x2, y2), as they were written
    points: list  # of (x, y)
    fault: str = ""  # why it cannot be read; empty where it can


class BoxTruth(NamedTuple):
    "The true boxes of a row, with the scale in which they are written"
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
    """Read the boxes or points in an answer: four or two numbers in brackets, `[x1, y1, x2, y2]` or `[x, y]`

    Two round pairs, `(x1, y1), (x2, y2)`, are a box, too. Brackets that hold a word are passed over."""
    text = final_answer(completion)[:_longest_answer]
    boxes, points = [], []
    point_matches = []  # of each point: the match of its brackets in the text
    # one more than are allowed, so that `_checked_boxes` can return a fault
    for match, numbers in islice(_numbers_in_brackets(text), most_boxes + 1):
        if len(numbers) not in (2, 4):
            return Boxes([], [], f"{len(numbers)} numbers in brackets: a box has four, a point two")
        if len(numbers) == 4:
            boxes.append(numbers)
        else:
            points.append(numbers)
            point_matches.append(match)
    if points and not boxes:
        # `(x1, y1), (x2, y2)` as boxes; [] unless all points are such corners
        joined = _joined_corners(text, points, point_matches)
        if joined:
            boxes, points = joined, []
    return _checked_boxes(boxes, points)  # a fault, where there are none, too many, or both kinds


def _numbers_in_brackets(text):
    """Yield for each pair of brackets with two numbers or more: (their match in the text, a tuple of floats)

    `at [12, 40, 31, 59], a disc (red)` yields one pair, with (12.0, 40.0, 31.0, 59.0)."""
    for match in _box_brackets.finditer(text):
        between_brackets = match[1]
        if not _only_coordinates.fullmatch(between_brackets):
            continue  # a label, such as "disc (red)"
        numbers = tuple(float(digits) for digits in _each_coordinate.findall(between_brackets))
        # One number alone, as in "(1)", is no fault: it may be the number of a list's entry.
        if len(numbers) > 1:
            yield match, numbers


def _joined_corners(
    text,  # an answer
    points,  # its points, (x, y) each, in their order
    point_matches,  # of each point: the match of its brackets in the text
):
    """Boxes made of the points two by two, for a model that writes a box as `(x1, y1), (x2, y2)`

    Returns [] unless all points pair up: two pairs of round brackets, with nothing but a comma or white space
    between. `[3, 4], [5, 6]`, in square brackets, stay two points."""
    if len(points) % 2:
        return []
    boxes = []
    for i in range(0, len(points), 2):
        first, second = point_matches[i], point_matches[i + 1]
        both_are_round = first[0].startswith("(") and second[0].startswith("(")
        between = text[first.end():second.start()]
        if not both_are_round or not _corner_joint.fullmatch(between):
            return []
        boxes.append(points[i] + points[i + 1])  # x1, y1 and x2, y2
    return boxes


def _checked_boxes(
    boxes,  # (x1, y1, x2, y2) each
    points,  # (x, y) each
):
    "The boxes or points as a `Boxes`; one with a fault where there are none, more than 100, or both kinds"
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
) -> bool:  # True for a JSON list of four numbers, or a list of such lists
    "Whether a text is boxes and nothing else, in the form in which vlrlbook's own models answer"
    # a text of more than 20,000 characters is never searched by the pattern, which would take long
    return len(text) <= _longest_answer and _bare_boxes.fullmatch(text.strip()) is not None


# Truths

_truth_form = re.compile(r"(?P<boxes>\[.*\]) in (?P<scale>pixels|thousandths|fractions)"
                    r" of (?P<width>\d{1,6}) x (?P<height>\d{1,6})")


def read_box_truth(
    answer: str,  # a row's truth
) -> BoxTruth:  # without boxes where the text is no truth of this task
    "Read a truth such as `[12, 40, 31, 59] in pixels of 112 x 112`: boxes, scale and the picture's size"
    text = str(answer).strip()
    match = _truth_form.fullmatch(text)
    if match is None:
        # boxes that do not say their scale and their picture's size
        return BoxTruth(read_boxes(text).boxes)
    size = int(match["width"]), int(match["height"])
    return BoxTruth(read_boxes(match["boxes"]).boxes, match["scale"], size)


def say_boxes(
    boxes: list,  # of (x1, y1, x2, y2)
    scale: str = "pixels",  # pixels and thousandths are whole numbers, fractions have three places
) -> str:  # such as [12, 40, 31, 59], or a list of such lists
    "Write boxes as text, in the form in which vlrlbook's own models answer"
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
    "Write boxes as the truth of a row, with their scale and the picture's size behind them"
    return f"{say_boxes(boxes, scale)} in {scale} of {size[0]} x {size[1]}"


def answer_form(
    truth: str,  # of a row of any task
) -> str:  # [12, 40, 31, 59] for "[12, 40, 31, 59] in pixels of 112 x 112"; any other text as it is
    """The text that a model would have to write to give a truth as its answer

    A truth of boxes also says their scale and the picture's size, which an answer leaves out."""
    match = _truth_form.fullmatch(str(truth).strip())
    return match["boxes"] if match else truth
