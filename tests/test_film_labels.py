"""Labels of robot films: vectors, whole numbers, successes, progress, and what is refused by film and frame."""
import numpy as np
import pytest

from vlrlbook.archive import DataError
from vlrlbook.film_labels import labels_beside, read_film_labels, read_label


def read(values, **how):
    "Labels of two films of equal length"
    n = len(values)
    return read_film_labels(values, np.arange(n) // max(1, n // 2), np.arange(n) % max(1, n // 2), **how)


@pytest.mark.parametrize("values, bins, kind, classes, words", [
    ([[0, 0, 1], [1, 0, 0]], [2, 0], "vector", 3, "one-hot vectors of 3 bins"),
    ([[0.2, 0.7, 0.1], [0.5, 0.4, 0.1]], [1, 0], "vector", 3, "the largest of which is the bin"),
    ([0, 3, 1, 4], [0, 3, 1, 4], "integer", 5, "whole numbers from 0 to 4, taken as bins"),
    ([0.0, 2.0, 1.0, 2.0], [0, 2, 1, 2], "integer", 3, "taken as bins"), # what LeRobot reads back is float
    ([[3], [0]], [3, 0], "integer", 4, "taken as bins"), # a column of shape (1,)
    ([False, True], [0, 1], "success", 2, "failure (bin 0) and success (bin 1)"),
    ([0.0, 1.0, 1.0], [0, 1, 1], "success", 2, "success (bin 1)"),
    ([0.0, 0.25, 0.5, 1.0], [0, 1, 2, 4], "progress", 5, "taken as progress and cut into 5 bins"),
    ([1.0005, 0.3], [4, 1], "progress", 5, "progress"), # resampled columns overshoot a little
])
def test_what_a_column_is_taken_for(values, bins, kind, classes, words):
    found = read(values)
    assert found.bins.tolist() == bins and set(found.kinds) == {kind} and found.num_classes == classes
    assert words in found.told and f"frames in each bin: {', '.join(map(str, np.bincount(bins, minlength=classes)))}" in found.told


def test_a_written_reading_wins():
    assert read([0, 1, 1, 0], label_as="progress").bins.tolist() == [0, 4, 4, 0]
    assert read([0, 1, 1, 0], label_as="integer").kinds[0] == "integer"
    assert read([0.0, 0.5, 1.0], progress_bins=2).bins.tolist() == [0, 1, 1]


@pytest.mark.parametrize("bins", [2, 3, 5, 7, 10, 20, 50, 64, 99, 100])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_progress_on_a_border_begins_the_next_bin(bins, kind):
    "0.7 of float32, and 0.29 of 100 bins, came into the bin below"
    marks = np.arange(bins, dtype=kind) / kind(bins)
    assert read([*marks.tolist(), 1.0], label_as="progress", progress_bins=bins).bins.tolist() == [*range(bins), bins - 1]
    below = (marks[1:] - kind(2e-4) / bins).tolist() # what is below stays below
    assert read(below, label_as="progress", progress_bins=bins).bins.tolist() == list(range(bins - 1))


def test_progress_in_tenths_fills_ten_bins():
    values = np.float32([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]).tolist()
    assert read(values, progress_bins=10).bins.tolist() == [*range(10), 9]
    assert read([-0.0005, 0.0999, 0.6998, 1.0005], progress_bins=10).bins.tolist() == [0, 0, 6, 9]


def test_all_zero_vectors_are_counted_aloud():
    found = read([[0, 1], [0, 0], [1, 0], [0, 0]])
    assert found.kinds.tolist() == ["vector", "zero", "vector", "zero"]
    assert "2 of 4 frames have an all-zero vector and count as bin 0" in found.told


@pytest.mark.parametrize("values, words, how", [
    ([[0, 1], [0, 1], [0, 1], [float("nan"), 0]], "film 1, frame 1: .*expected numbers", {}),
    ([0.0, 0.5, None, 1.0], "film 1, frame 0", {}),
    ([0.5, float("inf")], "film 1, frame 0", {}),
    ([[0, 1], [0, 1, 0]], "film 1, frame 0: 3 numbers, expected 2", {}),
    (["open", "shut"], "film 0, frame 0: 'open', expected numbers", {}),
    ([0, 1, 2, "shut"], "film 1, frame 1: 'shut', expected numbers", {}),
    ([[1, 0], [1, 0], [[1, 0], [1]], [0, 1]], "film 1, frame 0: .*expected numbers", {}),
    ([0, {"bin": 1}], "film 1, frame 0: .*expected numbers", {}), ([0, 10**400], "film 1, frame 0: .*expected numbers", {}),
    ([[], []], "film 0, frame 0: an empty list", {}),
    ([-1, 0, 1], "numbers from -1 to 1, expected whole numbers", {}),
    ([0.5, 3.5], "numbers from 0.5 to 3.5", {}),
    ([0, 1, 512], "numbers from 0 to 512", {}), # a counter, no label
    ([0.5, 0.7], "expected success", dict(label_as="success")),
    ([[0, 1], [1, 0]], "cannot be read as integer", dict(label_as="integer")),
    ([0, 1], "did you mean 'success'", dict(label_as="sucess")),
])
def test_what_cannot_be_read_is_named(values, words, how):
    with pytest.raises(DataError, match=words): read(values, **how)


@pytest.mark.parametrize("value", ["open", [[1, 0], [1]], {}, [], None])
def test_one_label_that_is_no_number(value):
    with pytest.raises(DataError, match="expected numbers"): read_label(value)


def test_progress_that_is_learnt_as_a_number():
    found = read([0.0, 0.325, 0.5, 1.0004], label_as="regress")
    assert found.targets.tolist() == pytest.approx([0, 1.3, 2, 4]) and found.bins.tolist() == [0, 1, 2, 4]
    assert set(found.kinds) == {"regress"} and found.num_classes == 5 and "learnt as progress between 5 marks" in found.told
    assert read([0, 1, 1, 0], label_as="regress").targets.tolist() == [0, 4, 4, 0] # only 0 and 1 are progress where that is said
    assert read([0.0, 0.5, 1.0], label_as="regress", progress_bins=3).targets.tolist() == [0, 1, 2]
    assert read([0.0, 0.5, 1.0]).targets is None
    with pytest.raises(DataError, match="numbers from 0 to 3, expected regress"): read([0, 3], label_as="regress")
    with pytest.raises(DataError, match="cannot be read as regress"): read([[0, 1], [1, 0]], label_as="regress")


def beside(bins, trained_as, values, **how):
    "Labels beside a classifier of some bins: their bins, or None where they are not its bins"
    found = labels_beside(bins, trained_as, values, np.zeros(len(values), int), np.arange(len(values)), **how)
    return None if found.reading == "missing" else found.bins.tolist()


@pytest.mark.parametrize("bins, trained_as, values, labels", [
    (10, "progress", [0.0, 0.35, 0.7, 1.0], [0, 3, 7, 9]), (10, None, [0.0, 0.35, 0.7, 1.0], [0, 3, 7, 9]),
    (10, "progress", [0, 0, 1], [0, 0, 9]), # read alone they would be failure and success, bins 0 and 1
    (10, "regress", [0.0, 0.35, 1.0], [0, 3, 9]), (5, "regress", [0, 1, 1], [0, 4, 4]),
    (10, "progress", np.eye(10)[[0, 9]].tolist(), [0, 9]), (10, "progress", [0, 7, 9], [0, 7, 9]), # bins by their numbers
    (5, "vector", [0, 4, 2], [0, 4, 2]), (5, "integer", np.eye(5)[[1, 3]].tolist(), [1, 3]), (5, "integer", [0, 1, 1], [0, 1, 1]),
    (7, "vector", np.eye(5)[[1, 3]].tolist(), [1, 3]), # it was trained with more bins than the labels name
    (5, "vector", [0.0, 0.3, 1.0], [0, 1, 4]), (2, "success", [0, 1, 1], [0, 1, 1]), (2, None, [0, 1, 1], [0, 1, 1]),
    (5, "success", [0, 1], [0, 1]),
])
def test_labels_beside_predictions_are_the_classifiers_bins(bins, trained_as, values, labels):
    assert beside(bins, trained_as, values) == labels


@pytest.mark.parametrize("bins, trained_as, values, how, words", [
    (10, None, [0, 0, 1], {}, "0 and 1, taken as failure"), # a success, or the last bin of ten?
    (2, "success", [0.0, 0.5], {}, "2 bins, trained on labels of the kind success"), (5, "integer", [0, 7], {}, "taken as bins"),
    (5, "vector", np.eye(7).tolist(), {}, "one-hot vectors of 7 bins"), (10, "progress", np.eye(5).tolist(), {}, "vectors of 5 bins"),
    (10, "progress", [0.0, 0.5], dict(progress_bins=5), "cut into 5 bins"), (5, "integer", [0, 7], dict(label_as="integer"), "as bins"),
])
def test_labels_that_are_not_the_classifiers_bins_are_left_out_aloud(bins, trained_as, values, how, words):
    zeros = np.zeros(len(values), int)
    told = labels_beside(bins, trained_as, values, zeros, zeros, **how).told
    assert beside(bins, trained_as, values, **how) is None and words in told
    assert "label_as says how reward_bins is to be read" in told and "not the bins of the classifier" in told


def test_what_is_no_label_is_an_error_beside_predictions_too():
    with pytest.raises(DataError, match="frame 1: .*expected numbers"): beside(5, "vector", [[0, 1], [float("nan"), 1]])
    assert beside(10, None, [0, 1], label_as="progress") == [0, 9]
