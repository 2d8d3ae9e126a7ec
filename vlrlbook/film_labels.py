"""What the label column of a robot data set says: a bin for each frame, and what the column was taken for.

Data sets hold labels in four ways: a one-hot vector of bins, a whole number, a 0 or 1 for success, or
progress from 0 to 1. LeRobot itself writes the last three as plain numbers (`next.reward`, `next.success`). A
number is read together with its whole column: 1.0 alone may be a bin, a success or the end of a progress.
Progress is cut into bins, or, where somebody asks for it, learnt as the number that it is.

Written by hand, not exported from a notebook; chapter 04 imports it."""
from dataclasses import dataclass

import numpy as np

from .archive import DataError
from .settings import nearest

__all__ = ["readings", "FilmLabels", "no_labels", "read_film_labels", "labels_beside", "read_label",
           "bin_counts"]

# How a label column can be read; auto decides by its values.
readings = ["auto", "vector", "integer", "success", "progress", "regress"]

NO_BIN = -1 # stands for the bin of a frame without a label
PROGRESS_BINS = 5 # as the real set `realworld_aloha_success_bhc` has
# Progress may lie this much outside of [0, 1], as resizing, averaging and float16 leave it.
PROGRESS_TOLERANCE = 1e-3
# A number this close below a bin's lower border is on it: float32, in which LeRobot stores 0.7, has 6.9999999
# for ten times that, and for a hundred times its numbers up to 6e-6 too little.
BORDER_TOLERANCE = 1e-5
# Whole numbers below this may be bins. A column with larger ones is rather a counter, such as `frame_index`.
MOST_BINS = 100


@dataclass
class FilmLabels:
    "The labels of all frames of a data set"
    bins: np.ndarray # [frames] the bin of each; -1 where the data set has no labels
    kinds: np.ndarray # [frames] how each was read: vector, zero, integer, success, progress or missing
    num_classes: int # bins that the column can name; 0 where there are no labels
    told: str # a sentence for users: how the column was read, frames in each bin, frames that say nothing
    targets: np.ndarray | None = None # [frames] progress learnt as a number: from 0 to num_classes - 1

    @property
    def reading(self) -> str: # vector, integer, success, progress or regress; missing without labels
        "How the column was read, one word for all frames"
        # `kinds` has a word for each frame. All are the same, but that vectors of zeros are called "zero".
        kinds = set(self.kinds.tolist()) - {"zero"}
        return kinds.pop() if kinds else "vector"


def no_labels(
    frames: int, # of the data set
) -> FilmLabels:
    "The `FilmLabels` of a data set without a label column: every frame has the bin -1"
    return FilmLabels(
        bins=np.full(frames, NO_BIN),
        kinds=np.full(frames, "missing"),
        num_classes=0,
        told="the films have no labels")


def read_film_labels(
    values: list, # what the column holds, a vector or a number for each frame
    episodes: np.ndarray, # [frames] film of each frame, for messages
    moments: np.ndarray, # [frames] its place in the film
    column: str = "reward_bins", # its name, for messages
    label_as: str = "auto", # one of `readings`
    progress_bins: int = None, # into how many progress is cut; None: 5
) -> FilmLabels:
    """Read a bin for each frame from the label column of a data set.

    A label that is no number is a DataError that names its film and frame."""
    if label_as not in readings:
        raise DataError("aloha.label", f"label_as = {label_as!r}{nearest(label_as, readings)}")
    table = _as_table(values, episodes, moments, column) # [frames, numbers of a label]
    # bins [frames]; kinds: how each label was read, one word; meaning: how the column was read, some words
    if table.shape[1] > 1: # vectors: a number for each bin
        _check_vectors(table, column, label_as)
        bins, kinds, num_classes, meaning = _from_vectors(table)
    else:
        bins, kinds, num_classes, meaning = _from_numbers(
            table[:, 0], column, label_as, progress_bins or PROGRESS_BINS)
    # "regress": progress is learnt as a number from 0 to num_classes - 1
    targets = _scaled_progress(table[:, 0], num_classes) if label_as == "regress" else None
    told = _column_in_words(column, bins, kinds, num_classes, meaning) # a sentence for users
    return FilmLabels(bins, kinds, num_classes, told, targets)


def labels_beside(
    bins: int, # how many a trained classifier tells apart, such as 5
    trained_as: str | None, # `reading` of the labels that it was trained on, such as progress; None: unknown
    values: list, # of the label column, as for `read_film_labels`
    episodes: np.ndarray, # [frames] film of each frame
    moments: np.ndarray, # [frames] its place in the film
    column: str = "reward_bins", # its name
    label_as: str = "auto", # one of `readings`; auto: as the classifier was trained
    progress_bins: int = None, # into how many progress is cut; None: as many as the classifier has
) -> FilmLabels:
    """Labels of a column in a classifier's own bins, so that its predictions can be compared with them.

    If the column does not name these bins, no frame gets a label, and `told` (for users) says why."""
    cut_into = progress_bins or bins
    labels = read_film_labels(values, episodes, moments, column, label_as, cut_into)
    if label_as == "auto" and labels.reading != "missing":
        # So far the column was read by its values alone. The classifier may need another reading: 0 and 1
        # are read as success, for example, but may be the first two of its five bins.
        wanted = _reading_beside(labels.reading, trained_as, bins) # None: they cannot be its bins
        if wanted is None:
            return _not_comparable(labels, bins, trained_as, column)
        if wanted != labels.reading:
            labels = read_film_labels(values, episodes, moments, column, wanted, cut_into)
    # Bin 3 of 5 is another progress than bin 3 of 4, so the numbers of bins must be equal where bins are
    # parts of a progress. Else bins are mere numbers, of which the column may lack the last ones.
    progress = ("progress", "regress")
    vectors_of_progress = labels.reading == "vector" and trained_as in progress
    if labels.reading in progress or vectors_of_progress:
        fits = labels.num_classes == bins
    else:
        fits = labels.num_classes <= bins
    return labels if fits else _not_comparable(labels, bins, trained_as, column)


def _reading_beside(
    reading, # what the column looks like by its values alone: vector, integer, success or progress
    # how the labels were read that the classifier was trained on: one of these four, or "regress" for a
    # progress that is predicted as a number and not as a bin; None: nobody knows
    trained_as,
    bins, # how many the classifier tells apart
):
    """How to read a column so that its labels are the classifier's bins: one of `readings`.

    None if its labels cannot be these bins."""
    if reading == "success": # only 0 and 1, which may also be the first two bins, or the ends of a progress
        # vector: the places in it are numbers of bins, so it is like "integer"
        by_training = dict(vector="integer", integer="integer", success="success", progress="progress",
                           regress="regress")
        # If nobody knows how it was trained, 0 and 1 can only be compared with two bins: of more bins, 1 may
        # be the second one (a number) or the last one (success).
        return by_training.get(trained_as, "success" if bins == 2 else None)
    if reading == "progress": # with numbers between 0 and 1, such as 0.5
        # A classifier of successes has no bin for them. Any other can only be meant as one of progress.
        return {"success": None, "regress": "regress"}.get(trained_as, "progress")
    return reading # a vector or a whole number names a bin


def _not_comparable(
    labels, # `FilmLabels` of the column
    bins, # how many the classifier tells apart
    trained_as, # how the labels were read on which it was trained, such as success; None: nobody knows
    column, # name of the label column
):
    """`FilmLabels` with no label for any frame, in place of `labels`, which are not the classifier's bins.

    Its `told`, the sentence for users, says why."""
    # of "label COLUMN: how it was read; frames in each bin: 1, 2" only the part before the semicolon
    read_as = labels.told.partition("; ")[0]
    trained = f", trained on labels of the kind {trained_as}" if trained_as else ""
    none_instead = no_labels(len(labels.bins))
    none_instead.told = (
        f"{read_as}; they are not the bins of the classifier ({bins} bins{trained}), so the predictions "
        f"stand without labels; label_as says how {column} is to be read")
    return none_instead


def _check_vectors(
    table, # [frames, numbers of a label], two numbers or more
    column, # name of the label column, for the message
    label_as, # one of `readings`
):
    "Raise a DataError if the user wants vectors to be read as single numbers"
    if label_as not in ("auto", "vector"):
        message = f"vectors of {table.shape[1]} numbers, which cannot be read as {label_as}"
        raise DataError("aloha.label", message, entry=column)


def read_label(
    value, # what the label column holds in one row: a vector, a list or a number
) -> tuple: # bin, and how it was read: "vector", "zero" or "scalar"
    """The bin of one label, read without the other labels of its column: a vector's largest entry.

    A vector of zeros and a single number get the bin 0. A text, NaN and an empty list raise a DataError."""
    numbers = _numbers_in(value)
    if numbers is None or not numbers.size or not np.isfinite(numbers).all():
        raise DataError("aloha.label", f"{str(value)[:60]}, expected numbers")
    if numbers.size < 2:
        # It may be a bin, a success or progress: only the whole column could tell. 0 stands in for its bin.
        return 0, "scalar"
    if not numbers.any():
        return 0, "zero"
    return int(numbers.argmax()), "vector"


def _numbers_in(
    value, # of one label: a number, a list or an array
):
    "A label as an array of floats, NaN where a number is missing; None for a text or a ragged list"
    try:
        return np.atleast_1d(np.asarray(value, dtype=float)) # a single number becomes a vector of one
    except (TypeError, ValueError, OverflowError): # OverflowError: an int of hundreds of digits
        return None


def _as_table(
    values, # the label column: a vector or a number for each frame
    episodes, # [frames] the film of each frame
    moments, # [frames] its place in the film
    column, # name of the column
):
    """The labels of all frames as one array [frames, numbers of a label].

    A text, a vector of another length, NaN and None are a DataError that names film and frame."""
    rows = []
    for value, episode, moment in zip(values, episodes, moments, strict=True):
        row = _numbers_in(value)
        width = None if not rows else rows[0].size
        # such as "4 numbers, expected 5 as in the first frame", or None
        fault = f"{str(value)[:60]!r}, expected numbers" if row is None else _fault_of_label(row, width)
        if fault:
            message = f"film {int(episode)}, frame {int(moment)}: {fault}"
            raise DataError("aloha.label", message, entry=column)
        rows.append(row)
    if not rows:
        return np.zeros((0, 1))
    return np.stack([row.ravel() for row in rows])  # ravel: a label may be nested, such as [[0, 1, 0]]


def _fault_of_label(
    row, # one label as an array
    width, # how many numbers the first label of the column has; None: this is the first
):
    "What is wrong with a label (empty, another length than the first one, NaN, infinity), or None"
    if not row.size:
        return "an empty list, expected numbers"
    if width is not None and row.size != width:
        return f"{row.size} numbers, expected {width} as in the first frame"
    if not np.isfinite(row).all(): # NaN, which also stands for a missing number, or infinity
        return f"{row.tolist()}, expected numbers"
    return None


def _from_vectors(
    table, # [frames, bins], a vector for each frame, such as [0, 0, 1, 0, 0]
):
    """Bins of vectors: the place of each row's largest entry, 0 for a row of zeros.

    Returns (bins [frames], kinds [frames], number of bins, how the vectors were read in words). A row's kind
    is "zero" if all its entries are 0, else "vector"."""
    is_zero = ~table.any(axis=1)
    kinds = np.where(is_zero, "zero", "vector")
    # A one-hot vector has a single entry that is not 0, and this entry is 1.
    has_single_entry = np.count_nonzero(table, axis=1) == 1
    is_one_hot = has_single_entry & (table.max(axis=1) == 1)
    width = table.shape[1]
    meaning = f"one-hot vectors of {width} bins"
    if not (is_one_hot | is_zero).all(): # such as probabilities: users are told what was made of them
        meaning = f"vectors of {width} numbers, the largest of which is the bin"
    return table.argmax(axis=1), kinds, width, meaning


def _from_numbers(
    numbers, # [frames] the label column
    column, # its name, for messages
    label_as, # one of `readings`
    progress_bins, # into how many bins progress is cut
):
    """Bins of a column of single numbers, read as `label_as` says; auto decides by the whole column.

    Returns (bins [frames], kinds [frames], number of bins, a phrase for users on how they were read). Each
    frame's kind is the reading that was taken: success, integer, progress or regress."""
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    are_whole = bool((numbers == np.round(numbers)).all())
    reading = _reading_of(low, high, are_whole) if label_as == "auto" else label_as
    _check_range(low, high, are_whole, column, reading, label_as) # a DataError if they cannot be read so
    kinds = np.full(len(numbers), reading)
    if reading == "success": # all are 0 or 1
        return numbers.astype(int), kinds, 2, "0 and 1, taken as failure (bin 0) and success (bin 1)"
    if reading == "integer":
        meaning = f"whole numbers from {low:g} to {high:g}, taken as bins"
        # bins from 0 to the largest number; two at least, since one bin leaves nothing to tell apart
        return numbers.astype(int), kinds, max(2, int(high) + 1), meaning
    bins, taken_as = _bins_of_progress(numbers, reading, progress_bins)
    return bins, kinds, progress_bins, f"numbers from {low:.3g} to {high:.3g}, {taken_as}"


def _bins_of_progress(
    progress, # [frames] from 0 to 1, or a thousandth outside
    reading, # progress or regress
    bins, # how many
):
    """The bin of each frame's progress, and in words what the progress was taken for.

    "progress": of 5 bins of equal width, 0.3 is in bin 1 (0.2 to 0.4). "regress": of the 5 marks 0, 0.25,
    0.5, 0.75 and 1, mark 1 is the nearest to 0.3."""
    if reading == "regress":
        # What is learnt is the number; its bin is for metrics. 0.3 is scaled to 1.2 and rounded to 1. The
        # scaled numbers lie from 0 to bins - 1, since `_scaled_progress` clips them.
        nearest_marks = np.rint(_scaled_progress(progress, bins)).astype(int)
        return nearest_marks, f"learnt as progress between {bins} marks"
    # The tolerance: 0.7 in float32 is a little less than 0.7, and would miss the bin that begins there.
    bins_begun = np.floor(progress * bins + BORDER_TOLERANCE).astype(int)
    # clip: 1.0 belongs to the last bin, and what lies outside of 0 to 1 to the first or the last.
    equal_bins = np.clip(bins_begun, 0, bins - 1)
    return equal_bins, f"taken as progress and cut into {bins} bins"


def _scaled_progress(progress, marks):
    "Progress from 0 to 1 as a number from 0, the first mark, to marks - 1, the last one"
    return np.clip(progress, 0, 1) * (marks - 1)


def _check_range(
    low, # smallest number of the column, whose labels are single numbers
    high, # largest number
    are_whole, # True if all numbers are whole
    column, # its name, for the message
    reading, # how the numbers are going to be read: success, integer, progress, regress or vector
    label_as, # what the user asked for; auto: nothing
):
    "Raise a DataError if the numbers of a label column cannot be read as `reading`"
    if reading == "success":
        fits = are_whole and 0 <= low and high <= 1
    elif reading == "integer":
        fits = are_whole and 0 <= low and high < MOST_BINS # 100: larger numbers rather count frames
    elif reading in ("progress", "regress"):
        # a thousandth outside of 0 to 1 is allowed: averaging and float16 leave such numbers
        fits = -PROGRESS_TOLERANCE <= low and high <= 1 + PROGRESS_TOLERANCE
    else: # "vector": these are single numbers
        fits = False
    if not fits:
        message = f"numbers from {low:g} to {high:g}, {_expected_numbers(label_as)}"
        raise DataError("aloha.label", message, entry=column)


def _expected_numbers(
    label_as, # what the user asked for: auto (nothing), vector, integer, success, progress or regress
):
    "The end of an error message about a column of numbers: what was expected, for what the user asked for"
    if label_as == "auto": # the user asked for no reading: name all that are possible
        return f"expected whole numbers from 0 to {MOST_BINS - 1}, or progress from 0 to 1"
    if label_as == "vector":
        return "expected a vector of bins in each frame"
    return f"expected {label_as}"


def _reading_of(
    low, # smallest number of the column
    high, # largest number
    are_whole, # True if all numbers are whole
):
    """How a column of single numbers is read, decided by its range: as success, integer or progress.

    0 and 1: success; 0 to 7: integer; 0.0 to 0.9: progress. Whether they can be read so is checked later."""
    # The narrowest reading first: a column of 0 and 1 could be bins or progress, too.
    if are_whole and 0 <= low and high <= 1:
        return "success"
    if are_whole:
        return "integer"
    return "progress"


def _column_in_words(
    column, # name of the label column
    bins, # [frames]
    kinds, # [frames] how each label was read; "zero" is a vector of zeros
    num_classes, # number of bins
    meaning, # how the column was read, in words
):
    "A sentence for users about a label column: how it was read, and how many frames are in each bin"
    # minlength: bins without frames are counted, too
    counts = ", ".join(str(n) for n in np.bincount(bins, minlength=num_classes))
    sentence = f"label {column}: {meaning}; frames in each bin: {counts}"
    all_zero = int((kinds == "zero").sum())
    if all_zero:
        sentence += f"; {all_zero} of {len(bins)} frames have an all-zero vector and count as bin 0"
    return sentence


def bin_counts(
    bins: np.ndarray,  # of all frames; below 0 where a frame has no label
    num_classes: int,  # bins that there are
) -> np.ndarray:  # [num_classes] frames in each bin
    "How many frames are in each bin; frames without a label are not counted"
    return np.bincount(bins[bins >= 0], minlength=num_classes)
