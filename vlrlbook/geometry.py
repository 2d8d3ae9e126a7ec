"""Boxes and points as numbers: the three scales in which models write them, overlap, which stands for which.

A box is `(x1, y1, x2, y2)`: left, top, right and bottom edge, x to the right and y downwards, from the
picture's upper left corner. A point is `(x, y)`. Written by hand, with nothing but Python's own library and
no decorators, since chapter 09 cuts these functions out into reward files that run where this package is
not. For that reason the matching is written out here and not taken from SciPy; the tests compare it with
trying all matchings."""

__all__ = ["scales", "scale_of_family", "good_overlap", "unit_of", "rescaled", "have_same_shape",
           "of_corner_and_size", "area", "overlap", "centre", "is_inside", "box_fault", "best_matching", "matched", "scale_that_fits"]

# How models write a coordinate: in pixels, from 0 to 1000, or from 0 to 1
scales = ("pixels", "thousandths", "fractions")

# What each family was trained to write: Qwen2.5-VL counts pixels of the picture as it sees it, resized;
# Qwen2-VL and Qwen3-VL write 0 to 1000 whatever the picture's size; Aria's report gives no scale of its own.
scale_of_family = {"qwen2_vl": "thousandths", "qwen2_5_vl": "pixels", "qwen3_vl": "thousandths",
                   "aria": "thousandths"}

good_overlap = 0.5  # IoU from which on a box counts as found, as in RefCOCO and PASCAL VOC


# Scales

def unit_of(
    scale: str,  # pixels, thousandths or fractions
    size: tuple,  # width and height of the picture in pixels
) -> tuple:  # the whole picture's width and height in that scale
    """Width and height of a whole picture in the units of a scale, such as (1.0, 1.0) in fractions

    `rescaled` converts a box from one scale to another by two such pairs."""
    if scale == "pixels":
        return float(size[0]), float(size[1])
    return (1000.0, 1000.0) if scale == "thousandths" else (1.0, 1.0)


def rescaled(
    numbers: tuple,  # a box or a point
    unit: tuple,  # width and height of the whole picture in the scale of `numbers`, from `unit_of`
    other: tuple,  # the same in the scale of the result
) -> tuple:  # of floats, as many as `numbers` has
    "A box or a point converted to another scale, or to another size of its picture"
    converted = []
    for i, number in enumerate(numbers):
        axis = i % 2  # 0 for an x, 1 for a y: they alternate
        converted.append(number / unit[axis] * other[axis])
    return tuple(converted)


# By how much the ratios width / height of two sizes of one picture may differ, relative to each other
_ratio_tolerance = 0.02


def have_same_shape(
    size: tuple,  # width and height of a picture
    other: tuple,  # the same of another one, or of the same picture in another size
) -> bool:
    """Whether two sizes have the same ratio of width and height, as a picture has before and after resizing

    The ratios may differ a little, since sides are rounded to whole pixels."""
    if not all((*size, *other)):
        return False  # a text may say that a picture has 0 pixels
    ratio = size[0] / size[1]
    return abs(ratio * other[1] / other[0] - 1) <= _ratio_tolerance


def of_corner_and_size(
    numbers: tuple,  # x and y of the upper left corner, width, height: as COCO writes a box
) -> tuple:  # x1, y1, x2, y2
    "Convert COCO's form of a box, corner and size, to this package's form, two opposite corners"
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
    "Intersection over union (IoU) of two boxes: the area they share, divided by the area they cover together"
    # the shared box goes from the larger x1 and y1 to the smaller x2 and y2
    x1, y1 = max(box[0], other[0]), max(box[1], other[1])
    x2, y2 = min(box[2], other[2]), min(box[3], other[3])
    intersection = area((x1, y1, x2, y2))  # 0 if the boxes do not meet: then the corners are swapped
    union = area(box) + area(other) - intersection
    return intersection / union if intersection > 0 else 0.0


def centre(
    box: tuple,  # x1, y1, x2, y2, or a point
) -> tuple:  # x, y
    "The middle of a box; a point is returned as it is"
    if len(box) == 2:
        return tuple(box)
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2


def is_inside(
    point: tuple,  # x, y
    box: tuple,  # x1, y1, x2, y2
) -> bool:  # also true for a point on the edge
    "Whether a point lies in a box"
    x, y = point
    x1, y1, x2, y2 = box
    return x1 <= x <= x2 and y1 <= y <= y2


def box_fault(
    box: tuple,  # x1, y1, x2, y2
) -> str | None:  # "swapped corners" or "no area"; None if the box is valid
    "What makes four numbers an invalid box, in words for a message; None if nothing does"
    width, height = box[2] - box[0], box[3] - box[1]
    if width < 0 or height < 0:
        return "swapped corners"
    return "no area" if width == 0 or height == 0 else None


# Several boxes

def best_matching(
    gains: list,  # one row per answer; in it one number of 0 or more per truth, such as their IoU
) -> list:  # of (row, column) with a gain above 0, no row and no column twice
    "The one-to-one matching with the largest sum: the Hungarian method (Kuhn 1955), by shortest paths"
    if not gains or not gains[0]:
        return []
    # `_assigned` needs at least as many columns as rows, so a table with more rows is transposed.
    is_wide = len(gains) <= len(gains[0])
    table = gains if is_wide else [list(column) for column in zip(*gains)]
    row_of_column = _assigned(table)  # None for a column that stays without a row
    pairs = []
    for column, row in enumerate(row_of_column):
        # `_assigned` gives every row a column, even with a gain of 0 (a box that hits nothing): leave it out
        if row is not None and table[row][column] > 0:
            pairs.append((row, column) if is_wide else (column, row))
    return sorted(pairs)


def _assigned(
    table,  # a list of gains for each row, such as IoU; at least as many columns as rows
):
    """Give every row of a table its own column, so that the sum of the gains is largest: the Hungarian method

    Returns a list: for each column its row, or None. Rows are added one at a time: on the cheapest path from
    the new row to a free column, rows that were added earlier move to other columns."""
    rows, columns = len(table), len(table[0])
    # The potentials of the Hungarian method. A pair costs -gain - row_potential - column_potential: 0 if it
    # is assigned, and never below 0 for a row that was added, as Dijkstra's search needs.
    row_potential, column_potential = [0.0] * rows, [0.0] * columns
    row_of_column: list = [None] * columns
    for new_row in range(rows):
        # the free column in which the path ends; a list: column → the one before it on the path
        column, previous_column = _path_to_free_column(
            table, new_row, row_potential, column_potential, row_of_column)
        _assign_along_path(row_of_column, column, previous_column, new_row)
    return row_of_column


def _assign_along_path(
    row_of_column,  # column → the row that it is assigned to, or None; changed
    column,  # the last one of the path, which has no row yet
    previous_column,  # column → the one before it on the path, None for the first
    new_row,  # gets the first column of the path
):
    "Move each row along a path of columns by one column, which makes room for a new row at the beginning"
    # from the path's end to its beginning, so that each row is read before it is overwritten
    while column is not None:
        previous = previous_column[column]
        row_of_column[column] = new_row if previous is None else row_of_column[previous]
        column = previous


def _path_to_free_column(
    table,  # a list of gains for each row
    new_row,  # where the path begins
    row_potential,  # row → number that makes a pair with this row cheaper; changed
    column_potential,  # column → number that makes a pair with this column cheaper; changed
    row_of_column,  # column → the row that it is assigned to, or None
):
    """Dijkstra's search for the cheapest path from a new row to a column that has no row yet

    Returns the path's last column, and a list: for each column the one before it on its path, None for the
    new row itself. A pair costs -gain - row_potential - column_potential: the potentials are such that this
    is 0 for an assigned pair, and not below 0 for a row that was added before, as Dijkstra's search needs."""
    columns = len(row_of_column)
    distance = [float("inf")] * columns  # column → cost of the cheapest path to it that is known so far
    previous_column: list = [None] * columns
    visited = [False] * columns  # columns through which the search has passed
    row, column = new_row, None  # where the search is: `column` is assigned to `row`; None: to the new row
    while row is not None:  # until a free column is reached
        if column is not None:
            visited[column] = True
        for other, gain in enumerate(table[row]):
            # This is also the cost of the whole path: up to `row` it costs 0, by `_update_potentials` below.
            cost = -gain - row_potential[row] - column_potential[other]
            if not visited[other] and cost < distance[other]:
                distance[other], previous_column[other] = cost, column
        nearest, shortest = _nearest(distance, visited)
        # All distances are lowered by `shortest`, so that the path to `nearest` costs 0 from here on.
        _update_potentials(
            shortest, new_row, row_potential, column_potential, distance, row_of_column, visited)
        column, row = nearest, row_of_column[nearest]
    return column, previous_column


def _nearest(
    distance,  # column → cost of the cheapest path to it
    visited,  # column → whether the search has passed through it
):
    "(the column with the smallest distance among those that were not visited, that distance)"
    nearest, shortest = None, float("inf")
    for column, length in enumerate(distance):
        if not visited[column] and length < shortest:
            nearest, shortest = column, length
    return nearest, shortest


def _update_potentials(
    shortest,  # distance of the nearest column that was not visited
    new_row,  # the row that is being added
    row_potential,  # row → its potential; changed
    column_potential,  # column → its potential; changed
    distance,  # column → cost of the cheapest path to it; changed
    row_of_column,  # column → the row that it is assigned to, or None
    visited,  # column → whether the search has passed through it
):
    """Change the potentials so that the nearest column gets the distance 0: a step of the Hungarian method

    All pairs of a row that the search has reached (`new_row`, or the row of a visited column) become cheaper
    by `shortest`."""
    row_potential[new_row] += shortest
    for column in range(len(distance)):
        if visited[column]:
            row_potential[row_of_column[column]] += shortest
            column_potential[column] -= shortest  # the row gets cheaper: so their pair still costs 0
        else:
            distance[column] -= shortest  # its path ends with a pair of a reached row, now cheaper


def matched(
    boxes: list,  # of an answer
    truths: list,  # true boxes, in the same scale
) -> list:  # of (place of the box, place of the truth, IoU), each box and each truth once at most
    "Pair the boxes of an answer with the true boxes one to one, so that the sum of the pairs' IoU is largest"
    iou_table = [[overlap(box, truth) for truth in truths] for box in boxes]
    pairs = []
    for box_place, truth_place in best_matching(iou_table):
        pairs.append((box_place, truth_place, iou_table[box_place][truth_place]))
    return pairs


# A wrong scale

def scale_that_fits(
    boxes: list,  # of an answer
    truths: list,  # true boxes
    scale: str,  # of the truths
    size: tuple,  # width and height of the picture in pixels
) -> str | None:  # pixels, thousandths or fractions; None if the answer is right as it is, or wrong in all
    """Find the wrong scale in which an answer was written: converted from it, its boxes match the truths

    They match if their mean IoU is at least `good_overlap`, 0.5."""
    truth_unit = unit_of(scale, size)  # width and height of the whole picture in the truths' scale
    # right as it is: no other scale is looked for
    if _mean_overlap(boxes, truths) >= good_overlap:
        return None
    # Several scales may fit, as in a picture of about 1000 pixels: take the one with the best IoU.
    best_iou, best_scale = good_overlap, None
    for other in scales:
        if other == scale:
            continue
        converted = [rescaled(box, unit_of(other, size), truth_unit) for box in boxes]
        mean_iou = _mean_overlap(converted, truths)
        if mean_iou >= best_iou:
            best_iou, best_scale = mean_iou, other
    return best_scale


def _mean_overlap(boxes, truths):
    "Mean IoU of boxes paired with true boxes; a box too many or one that is missing counts as an IoU of 0"
    # IoU: the area that two boxes share, divided by the area that they cover together
    total_iou = sum(iou for _, _, iou in matched(boxes, truths))
    return total_iou / max(1, len(boxes), len(truths))
