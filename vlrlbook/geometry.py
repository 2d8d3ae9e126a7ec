"""Boxes and points as numbers: the three scales in which models write them, overlap, which stands for which.

A box is `(x1, y1, x2, y2)`: left, top, right and bottom edge, x to the right and y downwards, from the
picture's upper left corner. A point is `(x, y)`. Written by hand, with nothing but Python's own library and
no decorators, since chapter 09 cuts these functions out into reward files that run where this package is
not. For that reason the matching is written out here and not taken from SciPy; the tests compare it with
trying all matchings."""

__all__ = ["scales", "scale_of_family", "good_overlap", "unit_of", "rescaled", "of_corner_and_size", "area",
           "overlap", "centre", "is_inside", "box_fault", "best_matching", "matched", "scale_that_fits"]

# How models write a coordinate, and what stands for a whole side
scales = ("pixels", "thousandths", "fractions")

# What each family was trained to write: Qwen2.5-VL counts pixels of the picture as it sees it, after resizing;
# Qwen2-VL and Qwen3-VL write 0 to 1000 whatever the picture's size; Aria's report gives no scale of its own.
scale_of_family = {"qwen2_vl": "thousandths", "qwen2_5_vl": "pixels", "qwen3_vl": "thousandths",
                   "aria": "thousandths"}

good_overlap = 0.5  # IoU from which on a box counts as found, as in RefCOCO and PASCAL VOC


# Scales

def unit_of(
    scale: str,  # pixels, thousandths or fractions
    size: tuple,  # width and height of the picture in pixels
) -> tuple:  # what stands for the whole width and for the whole height
    "How a whole side of a picture is written in a scale"
    if scale == "pixels":
        return float(size[0]), float(size[1])
    return (1000.0, 1000.0) if scale == "thousandths" else (1.0, 1.0)


def rescaled(
    numbers: tuple,  # a box or a point
    unit: tuple,  # the whole width and height as the numbers write them, from `unit_of`
    other: tuple,  # the same of the wanted scale, or of the same picture in another size
) -> tuple:  # as many floats
    "A box or a point in another scale"
    found = []
    for place, number in enumerate(numbers):
        side = place % 2  # x, y, x, y
        found.append(number / unit[side] * other[side])
    return tuple(found)


def of_corner_and_size(
    numbers: tuple,  # x and y of the upper left corner, width, height: as COCO writes a box
) -> tuple:  # x1, y1, x2, y2
    "COCO's box as two corners"
    x, y, width, height = numbers
    return x, y, x + width, y + height


# One box, two boxes

def area(
    box: tuple,  # x1, y1, x2, y2
) -> float:  # in squared units of its scale; 0 where the corners are swapped
    "Area of a box"
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def overlap(
    box: tuple,  # x1, y1, x2, y2
    other: tuple,  # in the same scale
) -> float:  # 0 to 1
    "Intersection over union (IoU): the shared area by the area that both cover together"
    # of both upper left corners what is further in, and of both lower right ones
    corner, opposite = map(max, box[:2], other[:2]), map(min, box[2:], other[2:])
    inside = area((*corner, *opposite))
    together = area(box) + area(other) - inside
    return inside / together if inside > 0 else 0.0


def centre(
    box: tuple,  # x1, y1, x2, y2, or a point
) -> tuple:  # x, y
    "Middle of a box; a point is its own"
    if len(box) == 2:
        return tuple(box)
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2


def is_inside(
    point: tuple,  # x, y
    box: tuple,  # x1, y1, x2, y2
) -> bool:  # an edge belongs to the box
    "Whether a point lies in a box"
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def box_fault(
    box: tuple,  # x1, y1, x2, y2
) -> str | None:  # a few words; None for a box
    "Why four numbers are no box"
    across, down = box[2] - box[0], box[3] - box[1]
    if across < 0 or down < 0:
        return "swapped corners"
    return "no area" if across == 0 or down == 0 else None


# Several boxes

def best_matching(
    gains: list,  # a row per answer, a number of 0 or more per truth
) -> list:  # of (row, column) with a gain above 0, no row and no column twice
    "The one-to-one matching with the largest sum: the Hungarian method (Kuhn 1955), by shortest paths"
    # Truths are few and answers may be many: the method's time grows with the square of the first.
    if not gains or not gains[0]:
        return []
    # the method wants as many columns as rows, or more
    is_wide = len(gains) <= len(gains[0])
    table = gains if is_wide else [list(column) for column in zip(*gains)]
    pairs = []
    # a pair that gains nothing is no pair: its box hit nothing
    for place, row in enumerate(_assigned(table)):
        if row is not None and table[row][place] > 0:
            pairs.append((row, place) if is_wide else (place, row))
    return sorted(pairs)


def _assigned(table):
    "For each column of a table that is at least as wide as high its row or None; every row has a column"
    rows, columns = len(table), len(table[0])
    # prices of rows and columns: no pair gains more than both prices together allow
    row_price, column_price = [0.0] * rows, [0.0] * columns
    taken_by: list = [None] * columns
    for new_row in range(rows):
        distance, came_from = [float("inf")] * columns, [None] * columns
        done, row, last = [False] * columns, new_row, None
        while row is not None:
            if last is not None:
                done[last] = True
            _reach(table, row, last, row_price, column_price, distance, came_from, done)
            nearest, shortest = _nearest(distance, done)
            _move_prices(shortest, new_row, row_price, column_price, distance, taken_by, done)
            last, row = nearest, taken_by[nearest]
        # walk back: each column on the path goes to the row from which it was reached
        while last is not None:
            before = came_from[last]
            taken_by[last] = new_row if before is None else taken_by[before]
            last = before
    return taken_by


def _reach(table, row, last, row_price, column_price, distance, came_from, done):
    "Take in how far each column is by way of `row`, which was reached from the column `last`"
    for column, gain in enumerate(table[row]):
        # a cost is what a pair lacks, since the largest sum of gains is wanted
        step = -gain - row_price[row] - column_price[column]
        if not done[column] and step < distance[column]:
            distance[column], came_from[column] = step, last


def _nearest(distance, done):
    "The column that is reached next, and how far it is"
    nearest, shortest = None, float("inf")
    for column, length in enumerate(distance):
        if not done[column] and length < shortest:
            nearest, shortest = column, length
    return nearest, shortest


def _move_prices(shortest, new_row, row_price, column_price, distance, taken_by, done):
    "Raise prices so that the column that was found costs nothing"
    row_price[new_row] += shortest
    for column in range(len(distance)):
        if done[column]:
            row_price[taken_by[column]] += shortest
            column_price[column] -= shortest
        else:
            distance[column] -= shortest


def matched(
    boxes: list,  # of an answer
    truths: list,  # true boxes, in the same scale
) -> list:  # of (place of the box, place of the truth, IoU), each box and each truth once at most
    "Which box stands for which truth, so that their IoU together is as large as it can be"
    gains = [[overlap(box, truth) for truth in truths] for box in boxes]
    return [(row, column, gains[row][column]) for row, column in best_matching(gains)]


# A wrong scale

def scale_that_fits(
    boxes: list,  # of an answer
    truths: list,  # true boxes
    scale: str,  # of the truths
    size: tuple,  # width and height of the picture in pixels
) -> str | None:  # pixels, thousandths or fractions; None where the answer fits none but its own, or no one
    "The other scale in which an answer would be right: its boxes overlap there by half or more"
    wanted = unit_of(scale, size)
    if _mean_overlap(boxes, truths) >= good_overlap:
        return None
    # of several that fit, as where a picture is nearly 1000 pixels wide, the one that fits best is named
    best, fits_best = good_overlap, None
    for other in scales:
        if other == scale:
            continue
        meant = [rescaled(box, unit_of(other, size), wanted) for box in boxes]
        reached = _mean_overlap(meant, truths)
        if reached >= best:
            best, fits_best = reached, other
    return fits_best


def _mean_overlap(boxes, truths):
    "Sum of the best matching's IoU by the number of boxes on the longer side"
    together = sum(iou for _, _, iou in matched(boxes, truths))
    return together / max(1, len(boxes), len(truths))
