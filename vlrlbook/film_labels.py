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

__all__ = ["readings", "FilmLabels", "no_labels", "read_film_labels", "read_label", "bin_counts"]

# What a column can be taken for; auto looks at its values.
readings = ["auto", "vector", "integer", "success", "progress", "regress"]

NO_BIN = -1 # of a frame without a label
PROGRESS_BINS = 5 # as the real set `realworld_aloha_success_bhc` has
# Resizing, averaging and float16 leave values that are this much outside of [0, 1].
SLACK = 1e-3
# A column of whole numbers up to here may be bins; beyond, it is rather a counter, such as `frame_index`.
MOST_BINS = 100


@dataclass
class FilmLabels:
    "The labels of all frames of a data set"
    bins: np.ndarray # [frames] the bin of each; -1 where the data set has no labels
    kinds: np.ndarray # [frames] how each was read: vector, zero, integer, success, progress or missing
    num_classes: int # bins that the column can name; 0 where there are no labels
    told: str # in words: what the column was taken for, frames in each bin, frames that say nothing
    targets: np.ndarray | None = None # [frames] progress learnt as a number: from 0 to num_classes - 1


def no_labels(
    frames: int, # of the data set
) -> FilmLabels:
    "Of a data set that nobody has labelled"
    return FilmLabels(np.full(frames, NO_BIN), np.full(frames, "missing"), 0, "the films have no labels")


def read_film_labels(
    values: list, # what the column holds, a vector or a number for each frame
    episodes: np.ndarray, # [frames] film of each frame, for messages
    moments: np.ndarray, # [frames] its place in the film
    column: str = "reward_bins", # its name, for messages
    label_as: str = "auto", # one of `readings`
    progress_bins: int = None, # into how many progress is cut; None: 5
) -> FilmLabels:
    "A bin for each frame; a label that is no number stops with its film and frame"
    if label_as not in readings:
        raise DataError("aloha.label", f"label_as = {label_as!r}{nearest(label_as, readings)}")
    table = _as_table(values, episodes, moments, column)
    # One number to a frame may mean several things; a vector is bins whatever it holds.
    if table.shape[1] > 1:
        if label_as not in ("auto", "vector"):
            told = f"vectors of {table.shape[1]} numbers, which cannot be read as {label_as}"
            raise DataError("aloha.label", told, entry=column)
        found = _from_vectors(table)
    else:
        found = _from_numbers(table[:, 0], column, label_as, progress_bins or PROGRESS_BINS)
    bins, kinds, num_classes, meaning = found
    targets = _places(table[:, 0], num_classes) if label_as == "regress" else None
    return FilmLabels(bins, kinds, num_classes, _in_words(column, bins, kinds, num_classes, meaning), targets)


def read_label(
    value, # what the label column holds in one row: a vector, a list or a number
) -> tuple: # bin, then "vector", "zero" or "scalar"
    "The bin of one row by itself: the largest entry of a vector; bin 0, and its reason, where there is none"
    x = np.asarray(value, float)
    if not np.isfinite(x).all():
        raise DataError("aloha.label", f"{value!r}, expected numbers")
    if x.size < 2:
        # one number alone: bin, success or progress, which only the whole column could tell
        return 0, "scalar"
    if not x.any():
        return 0, "zero"
    return int(x.argmax()), "vector"


def _as_table(values, episodes, moments, column):
    "[frames, numbers of a label]; a vector of another length, NaN and None are refused by film and frame"
    # None becomes NaN, and a number a vector of one.
    rows = [np.atleast_1d(np.asarray(value, dtype=float)) for value in values]
    width = rows[0].size if rows else 1
    for row, episode, moment in zip(rows, episodes, moments):
        where = f"film {int(episode)}, frame {int(moment)}"
        if row.size != width:
            told = f"{where}: {row.size} numbers, expected {width} as in the first frame"
            raise DataError("aloha.label", told, entry=column)
        if not np.isfinite(row).all():
            raise DataError("aloha.label", f"{where}: {row.tolist()}, expected numbers", entry=column)
    return np.stack([row.ravel() for row in rows]) if rows else np.zeros((0, width))


def _from_vectors(table):
    "The largest entry of each row; an all-zero row counts as bin 0"
    empty = ~table.any(axis=1)
    kinds = np.where(empty, "zero", "vector")
    # one-hot: a single entry that is not 0, and it is 1
    single = np.count_nonzero(table, axis=1) == 1
    one_hot = single & (table.max(axis=1) == 1)
    width = table.shape[1]
    meaning = f"one-hot vectors of {width} bins"
    if not (one_hot | empty).all():
        meaning = f"vectors of {width} numbers, the largest of which is the bin"
    return table.argmax(axis=1), kinds, width, meaning


def _from_numbers(numbers, column, label_as, progress_bins):
    "A bin for each number, by what all of them together look like"
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    whole = bool((numbers == np.round(numbers)).all())
    reading = _reading_of(low, high, whole) if label_as == "auto" else label_as
    _check_range(low, high, whole, column, reading, label_as)
    kinds = np.full(len(numbers), reading)
    if reading == "success":
        return numbers.astype(int), kinds, 2, "0 and 1, taken as failure (bin 0) and success (bin 1)"
    if reading == "integer":
        meaning = f"whole numbers from {low:g} to {high:g}, taken as bins"
        return numbers.astype(int), kinds, max(2, int(high) + 1), meaning
    if reading == "regress":
        # The bin is the nearest of the marks 0, 1/4, … 1; what is learnt is the place between two of them.
        meaning = f"numbers from {low:.3g} to {high:.3g}, learnt as progress between {progress_bins} marks"
        return np.rint(_places(numbers, progress_bins)).astype(int), kinds, progress_bins, meaning
    # The end, 1.0, belongs to the last bin.
    bins = np.clip((numbers * progress_bins).astype(int), 0, progress_bins - 1)
    meaning = f"numbers from {low:.3g} to {high:.3g}, taken as progress and cut into {progress_bins} bins"
    return bins, kinds, progress_bins, meaning


def _places(progress, marks):
    "Progress from 0 to 1 as a place from the first mark, 0, to the last"
    return np.clip(progress, 0, 1) * (marks - 1)


def _check_range(low, high, whole, column, reading, label_as):
    "Refuse numbers that cannot be what they are to be read as"
    if reading == "success":
        fits = whole and 0 <= low and high <= 1
    elif reading == "integer":
        fits = whole and 0 <= low and high < MOST_BINS
    else:
        fits = reading in ("progress", "regress") and -SLACK <= low and high <= 1 + SLACK
    if fits:
        return
    # Without a word of the user's, the message names what could have been read.
    wanted = f"expected {reading}"
    if label_as == "auto":
        wanted = f"expected whole numbers from 0 to {MOST_BINS - 1}, or progress from 0 to 1"
    if label_as == "vector":
        wanted = "expected a vector of bins in each frame"
    raise DataError("aloha.label", f"numbers from {low:g} to {high:g}, {wanted}", entry=column)


def _reading_of(low, high, whole):
    "What a column of numbers is, by its range"
    # The narrowest first: 0 and 1 alone are whole numbers and progress as well.
    if whole and 0 <= low and high <= 1:
        return "success"
    if whole:
        return "integer"
    return "progress"


def _in_words(column, bins, kinds, num_classes, meaning):
    "One line for every mode: meaning, frames in each bin, and how many are bin 0 because they say nothing"
    counts = ", ".join(str(n) for n in np.bincount(bins, minlength=num_classes))
    told = f"label {column}: {meaning}; frames in each bin: {counts}"
    empty = int((kinds == "zero").sum())
    if empty:
        told += f"; {empty} of {len(bins)} frames have an all-zero vector and count as bin 0"
    return told


def bin_counts(
    bins: np.ndarray,  # of all frames; below 0 where a frame has no label
    num_classes: int,  # bins that there are
) -> np.ndarray:  # [num_classes] frames in each bin
    "How many frames have which bin; frames without a label are in none"
    return np.bincount(bins[bins >= 0], minlength=num_classes)
