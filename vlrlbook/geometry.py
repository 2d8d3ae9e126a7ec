"""Boxes and points as numbers: the three scales in which models write them, overlap, which stands for which.

A box is `(x1, y1, x2, y2)`: left, top, right and bottom edge, x to the right and y downwards, from the
picture's upper left corner. A point is `(x, y)`. Written by hand, with nothing but Python's own library and
no decorators, since chapter 09 cuts these functions out into reward files that run where this package is
not. For that reason the matching is written out here and not taken from SciPy; the tests compare it with
trying all matchings."""

__all__ = ["scales", "scale_of_family", "good_overlap", "unit_of", "rescaled", "have_same_shape",
           "of_corner_and_size", "area", "overlap", "centre", "is_inside", "box_fault", "best_matching", "matched", "scale_that_fits"]

# How models write a coordinate, and what stands for a whole side
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
) -> tuple:  # what stands for the whole width and for the whole height
    """The numbers that stand for a picture's whole width and whole height in a scale

    To write a coordinate in another scale, divide it by the side's number in the old one and multiply by that
    in the new one: `rescaled` does so."""
    if scale == "pixels":
        return float(size[0]), float(size[1])
    return (1000.0, 1000.0) if scale == "thousandths" else (1.0, 1.0)


def rescaled(
    numbers: tuple,  # a box or a point
    unit: tuple,  # the whole width and height as the numbers write them, from `unit_of`
    other: tuple,  # the whole width and height as the result shall write them, from `unit_of`
) -> tuple:  # of floats, as many as `numbers` has
    "A box or a point converted to another scale, or to another size of its picture"
    converted = []
    for place, number in enumerate(numbers):
        side = place % 2  # 0 (width) for an x, 1 (height) for a y: the two alternate in `numbers`
        converted.append(number / unit[side] * other[side])
    return tuple(converted)


# The largest relative difference between the sides' ratios of two sizes of one picture
_same_shape = 0.02


def have_same_shape(
    size: tuple,  # width and height of a picture
    other: tuple,  # the same of another one, or of the same picture in another size
) -> bool:
    """Whether two sizes have the same ratio of width and height, as a picture has before and after resizing

    The ratios may differ a little, since sides are rounded to whole pixels."""
    if not all((*size, *other)):
        return False  # a text may say that a picture has 0 pixels
    ratio = size[0] / size[1]
    return abs(ratio * other[1] / other[0] - 1) <= _same_shape


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
    # the shared box begins at the larger x1 and y1 and ends at the smaller x2 and y2
    upper_left = map(max, box[:2], other[:2])
    lower_right = map(min, box[2:], other[2:])
    # where the boxes do not meet, these corners are swapped, and `area` is 0
    intersection = area((*upper_left, *lower_right))
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
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


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
    # `_assigned` wants as many columns as rows, or more: a higher table is transposed. It is also faster so:
    # its time grows with the square of the rows, truths are few, and answers may be many.
    is_wide = len(gains) <= len(gains[0])
    table = gains if is_wide else [list(column) for column in zip(*gains)]
    row_of_column = _assigned(table)  # None for a column that stays without a row
    pairs = []
    for column, row in enumerate(row_of_column):
        # `_assigned` gives every row a column, also one with a gain of 0: a box that hit nothing
        if row is not None and table[row][column] > 0:
            pairs.append((row, column) if is_wide else (column, row))
    return sorted(pairs)


def _assigned(table):
    """Give every row of a table a column of its own, so that the sum of the gains is largest

    `table` holds gains and is at least as wide as high. Returns a list: for each column its row, or None.
    The Hungarian method in the form with prices: rows are added one by one. For each the cheapest path to a
    free column is searched, on which rows that were added earlier move to other columns."""
    rows, columns = len(table), len(table[0])
    # A pair (row, column) costs -gain - row_price[row] - column_price[column]. For rows that are added,
    # prices keep every cost at 0 or more, as Dijkstra's search needs, and that of assigned pairs at 0.
    row_price, column_price = [0.0] * rows, [0.0] * columns
    taken_by: list = [None] * columns  # column → its row
    for new_row in range(rows):
        # Dijkstra's search. For each column: its distance, the cost of the cheapest path to it; the column
        # before it on that path (None: the path begins with it); and whether its distance is final.
        distance, came_from = [float("inf")] * columns, [None] * columns
        done = [False] * columns
        row, last = new_row, None  # the row that is reached, and the column by which it was (None: the start)
        while row is not None:  # until a column is reached that no row has taken
            if last is not None:
                done[last] = True
            _reach(table, row, last, row_price, column_price, distance, came_from, done)
            # `distance` now counts paths by way of `row`, too
            nearest, shortest = _nearest(distance, done)
            # lowers the distance of every column that is not done by `shortest`; assigned pairs still cost 0
            _move_prices(shortest, new_row, row_price, column_price, distance, taken_by, done)
            # so `nearest` is at a distance of 0, and the search goes on from the row that has it, if one has
            last, row = nearest, taken_by[nearest]

        # walk the path back: each column on it goes to the row from which it was reached
        while last is not None:
            before = came_from[last]
            taken_by[last] = new_row if before is None else taken_by[before]
            last = before
    return taken_by


def _reach(table, row, last, row_price, column_price, distance, came_from, done):
    """One step of the shortest-path search in `_assigned`: update the distance of each column by way of `row`

    Where the path by way of `row` is shorter, `distance` and `came_from` of that column are changed in place.
    `last` is the column from which `row` was reached, None for the row that is being added. A column with
    `done` has its final distance. The price of a row or a column is taken off the cost of each of its pairs,
    so that no cost is below 0 (see `_assigned`)."""
    for column, gain in enumerate(table[row]):
        # The pair's cost; a gain counts with a minus, since the search looks for the smallest sum of costs.
        # The way to `row` adds nothing: it is the start, or its column `last` is at a distance of 0, to which
        # `_move_prices` brings the nearest column after each step.
        cost = -gain - row_price[row] - column_price[column]
        if not done[column] and cost < distance[column]:
            distance[column], came_from[column] = cost, last


def _nearest(distance, done):
    "The column with the smallest distance among those that are not `done`, and that distance"
    nearest, shortest = None, float("inf")
    for column, length in enumerate(distance):
        if not done[column] and length < shortest:
            nearest, shortest = column, length
    return nearest, shortest


def _move_prices(
    shortest,  # distance of the nearest column
    new_row,  # the row that is being added
    row_price,  # row → its price; changed
    column_price,  # column → its price; changed
    distance,  # column → cost of the cheapest path to it; changed
    taken_by,  # column → the row that it is assigned to, or None
    done,  # column → whether the search has passed through it
):
    """A step of the Hungarian method: change prices so that the nearest column is at a distance of 0

    A pair costs -gain - row_price[row] - column_price[column], so a higher price makes it cheaper. The prices
    of the rows that the search has reached rise by `shortest`: of `new_row`, and of those that have the
    columns with `done`."""
    row_price[new_row] += shortest
    for column in range(len(distance)):
        if done[column]:
            # one up, one down by the same amount: this assigned pair keeps its cost of 0
            row_price[taken_by[column]] += shortest
            column_price[column] -= shortest
        else:
            # the path ends with a pair of a reached row and this column, which now costs so much less
            distance[column] -= shortest


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
) -> str | None:  # pixels, thousandths or fractions; None if the answer is right as it is, or in no scale
    """The wrong scale that an answer was written in: read so, its boxes would be right

    Right means a mean IoU of `good_overlap`, one half, or more."""
    truth_unit = unit_of(scale, size)  # what stands for the whole width and height in the truths' scale
    if _mean_overlap(boxes, truths) >= good_overlap:
        return None
    # Several scales may fit: in a picture nearly 1000 pixels wide, pixels and thousandths are alike.
    # Then the best is taken.
    best_iou, best_scale = good_overlap, None
    for other in scales:
        if other == scale:
            continue
        reread = [rescaled(box, unit_of(other, size), truth_unit) for box in boxes]
        mean_iou = _mean_overlap(reread, truths)
        if mean_iou >= best_iou:
            best_iou, best_scale = mean_iou, other
    return best_scale


def _mean_overlap(boxes, truths):
    "Mean IoU of boxes paired with true boxes; a box too many or one that is missing counts as an IoU of 0"
    total_iou = sum(iou for _, _, iou in matched(boxes, truths))
    return total_iou / max(1, len(boxes), len(truths))
