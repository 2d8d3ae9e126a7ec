"""Numbers with their uncertainty: shares, means and paired gains with 95 % intervals; pairs of answers;
ordered bins.

Needs numpy and nothing else of the book, so that the reward model (chapter 03), the classifier (chapter 04)
and the evaluation (chapter 06) can all stand on it. Chapter 06 explains each interval and compares it with
what other libraries give. Where nothing can be said, as with no value or a single cluster, the
result is nan. Written by hand."""
import math
from functools import partial

import numpy as np

__all__ = ["wilson", "bootstrap_ci", "share_ci", "tango", "difference_ci", "metric", "difference",
           "metric_name", "with_interval",
           "mcnemar", "flips", "confusion", "macro_f1", "kappa", "spearman", "calibration", "pair_metrics",
           "swap_consistency", "pair_temperature", "pair_reliability", "classifier_metrics"]

_no_interval = float("nan"), float("nan")  # (low, high) where there are too few values for an interval
_normal_95 = 1.959964  # quantile of the normal distribution that leaves 2.5 % above it
# Measures whose mean is an amount and no share of right answers, even if every value happens to be 0 or 1
amounts = ("error", "reward")


# Intervals

def wilson(
    k: float,  # successes; half ones are allowed, for ties
    n: int,  # trials
    z: float = _normal_95,  # normal quantile; the default gives 95 %
) -> tuple:  # low, high; (nan, nan) without a trial
    """Return Wilson's 95 % interval of the share k / n

    It stays inside 0 and 1, and has a width even if every trial succeeds."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes of {n} trials")
    if n == 0:
        return _no_interval
    share = float(k) / n
    # Wilson 1927: the shares p for which the observed one lies within z standard errors sqrt(p (1 - p) / n).
    # That is a quadratic in p; its two solutions lie `half` on either side of `middle`.
    extra = z * z / n
    middle = (share + extra / 2) / (1 + extra)
    variance = share * (1 - share) / n + extra / (4 * n)
    half = z * math.sqrt(variance) / (1 + extra)
    # Rounding may lead a tiny bit outside.
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_ci(
    values: list,  # one number each
    clusters: list | np.ndarray | None = None,  # what each belongs to, such as its picture; drawn whole
    seed: int = 0,  # same seed, same interval
    resamples: int = 2000,  # draws
) -> tuple:  # low, high; (nan, nan) with fewer than two values or clusters
    "Return the 95 % interval of the mean by the percentile bootstrap"
    x = _finite_array("values", values)  # as an array; ValueError for nan
    cluster_of = _cluster_numbers(clusters, len(x))
    sums = np.bincount(cluster_of, x)  # sum of the values in each cluster
    sizes = np.bincount(cluster_of)
    if len(sums) < 2:
        return _no_interval
    means = _means_of_draws(sums, sizes, seed, resamples)
    low, high = np.percentile(means, [2.5, 97.5])  # the middle 95 % of these means
    return float(low), float(high)


def _means_of_draws(
    sums,  # array: sum of the values in each cluster, such as a picture's answers
    sizes,  # array: number of values in each cluster
    seed,  # same seed, same draws
    resamples,  # how many draws
):
    "Return the mean value of each bootstrap sample: as many clusters as there are, drawn with replacement"
    random = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = random.integers(0, len(sums), len(sums))  # numbers of clusters, some of them repeated
        # The mean over all values of the drawn clusters, not over the clusters' means: their sizes differ.
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    return means


def _cluster_numbers(clusters, n):
    "Return the number, from 0, of each of `n` values' cluster: b, a, b → 1, 0, 1; None gives each its own"
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{n} values but {len(clusters)} clusters")
    # [1]: for each value the index of its cluster among the different ones
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def share_ci(
    right: list,  # 1 or 0 each; 0.5 for a tie
    clusters: list | np.ndarray | None = None,  # what each belongs to, where they are not independent
) -> tuple:  # low, high
    "Return the 95 % interval of a share: Wilson's, or the bootstrap where values belong to clusters"
    interval, _name = _share_ci_and_name(right, clusters)
    return interval


def _share_ci_and_name(right, clusters):
    """Return the 95 % interval of a share, (low, high), and which it is: "Wilson" or "bootstrap"

    `right` has 1, 0 or 0.5 (a tie) for each case; `clusters` names what each belongs to, or is None."""
    x = _finite_array("right", right)  # as an array; ValueError for nan
    if clusters is None:  # Wilson's takes the cases as independent
        return wilson(x.sum(), len(x)), "Wilson"
    if len(x) and x.min() == x.max():
        # All values are equal, and so is every bootstrap sample: its interval would be a single point.
        # Wilson's is wider. Values in one cluster are not independent, so each cluster counts as one trial.
        cluster_count = _independent_count(x, clusters)
        return wilson(x[0] * cluster_count, cluster_count), "Wilson"  # x[0]: the value of all
    return bootstrap_ci(x, clusters), "bootstrap"


def tango(
    gained: int,  # pairs that went from wrong to right
    lost: int,  # pairs that went from right to wrong
    n: int,  # pairs in all
    z: float = _normal_95,  # normal quantile; the default gives 95 %
) -> tuple:  # low, high, between -1 and 1; (nan, nan) without a pair
    """Return Tango's 95 % interval of the gain (gained - lost) / n of paired shares

    It has a width even where no pair changed, and holds with few pairs, as Wilson's does for one share."""
    if min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n} pairs")
    if n == 0:
        return _no_interval
    # The interval holds every gain that a score test does not reject (Tango 1998): those whose score lies
    # between -z and z. The score of a gain is by how many standard errors the observed gain exceeds it, so
    # it falls as the gain grows: at the low end it comes down to z, at the high end to -z.
    observed = (gained - lost) / n
    low = _bisect(lambda gain: _tango_score(gained, lost, n, gain) > z, -1.0, observed)
    high = _bisect(lambda gain: _tango_score(gained, lost, n, gain) > -z, observed, 1.0)
    return low, high


def _tango_score(gained, lost, n, gain):
    """Return by how many standard errors the observed gain exceeds `gain`, if `gain` is the true one

    `gained` and `lost` are numbers of pairs that became right and wrong, of `n` pairs in all. A gain is
    share gained less share lost, from -1 to 1."""
    share_lost = _likeliest_share_lost(gained, lost, n, gain)
    # of gained - lost: n (share gained + share lost - gain²), where share gained = share lost + gain
    variance = n * (2 * share_lost + gain * (1 - gain))
    distance = gained - lost - n * gain
    # No other outcome is possible, so any distance but 0 is infinitely many standard errors.
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _likeliest_share_lost(
    gained,  # pairs that went from wrong to right
    lost,  # pairs that went from right to wrong
    n,  # pairs in all
    gain,  # the true share of gained pairs less that of lost ones, as it is assumed
):
    "Return the likeliest true share of lost pairs (maximum likelihood), if `gain` is the true gain"
    # Let q be that share; that of gained pairs is q + gain. The likelihood is
    # q^lost (q + gain)^gained (1 - 2 q - gain)^rest, with rest = n - gained - lost. Where it is greatest the
    # derivative of its logarithm is 0:
    #     lost / q + gained / (q + gain) - 2 rest / (1 - 2 q - gain) = 0
    # Multiplied by -1 and the three denominators: a q² + b q + c = 0 (Tango 1998, equation 7). The larger
    # root is the share: with the smaller one q or q + gain would not be above 0.
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * gain
    c = -lost * gain * (1 - gain)
    # max: rounding may lead a tiny bit below 0.
    return (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)


def _bisect(is_below, low, high):
    """Return the place between `low` and `high` where `is_below` turns from true to false

    `is_below(x)` says whether x lies below that place."""
    for _ in range(40):  # halves the range each time, to about 1e-12 of its width
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


# With fewer pairs than this a gain gets Tango's interval: the bootstrap holds for larger samples only.
few = 30
# The bootstrap needs at least so many values (or pictures, where rows share them). Of four values, one sample
# in 64 is the same value four times: the ends of the interval would be single values. Of two equal values it
# would have no width at all.
fewest_to_draw = 5


def _bootstrap_or_nan(values, clusters):
    """Return the bootstrap's 95 % interval of the mean; (nan, nan) with fewer than five values or clusters

    `clusters` names what each value belongs to, such as its picture, or is None: all are independent."""
    if _independent_count(values, clusters) < fewest_to_draw:
        return _no_interval
    return bootstrap_ci(values, clusters)


def _independent_count(values, clusters):
    "Return the number of independent values: of clusters (pictures) where given, else of values"
    return len(values) if clusters is None else len(set(np.asarray(clusters).tolist()))


def difference_ci(
    values: list,  # paired differences
    clusters: list = None,  # what each belongs to, where they are not independent; None: they are
    bounded: bool = True,  # differences of shares, so from -1 to 1
) -> tuple:  # (low, high), name of the interval
    """Return the 95 % interval of a mean of paired differences, and its name

    Fewer than 30 pairs of right and wrong, without clusters, get Tango's interval; equal differences get one
    made of Wilson's; all others get the bootstrap's, (nan, nan) with fewer than five values or clusters."""
    x = _finite_array("values", values)
    n = _independent_count(x, clusters)  # clusters if there are any, else values
    if not bounded or n == 0:  # without values it is (nan, nan)
        return _bootstrap_or_nan(x, clusters), "paired bootstrap"
    # 1: the answer became right, -1: wrong, 0: neither. Below `few` (30) the bootstrap does not hold.
    right_or_wrong = set(x.tolist()) <= {-1.0, 0.0, 1.0}
    if n < few and clusters is None and right_or_wrong:
        gained, lost = int((x > 0).sum()), int((x < 0).sum())
        return tango(gained, lost, n), "Tango"
    if x.min() < x.max():
        return _bootstrap_or_nan(x, clusters), "paired bootstrap"
    return _interval_of_equal_values(float(x[0]), n, lowest=-1), "Wilson"


def _interval_of_equal_values(value, n, lowest):
    """Return the 95 % interval (low, high) of the mean if all `n` values are `value`, between `lowest` and 1

    The bootstrap's would be a single point, since all its samples would be the same."""
    # 0 of n had another value, so the true share of others is at most Wilson's upper bound. At worst the
    # others are all `lowest` (low end) or all 1 (high end).
    _, others = wilson(0, n)
    low = (1 - others) * value + others * lowest
    high = (1 - others) * value + others * 1
    return low, high


def _finite_array(name, values, n=None):
    """Return `values` as a flat array of floats; ValueError if one is nan or infinite, or there are not `n`

    `name` is what the message calls them. Without the check a single nan would make every mean nan."""
    x = np.asarray(values, float).reshape(-1) if len(values) else np.zeros(0)
    if n is not None and len(x) != n:
        raise ValueError(f"{name}: {len(x)} values, expected {n}")
    bad = np.flatnonzero(~np.isfinite(x))  # indices
    if len(bad):
        first = bad[0]
        raise ValueError(f"{name}: value {first} is {x[first]}")
    return x


def _mean(values):
    "Return the mean as a float; nan of no values"
    return float(np.mean(values)) if len(values) else float("nan")


# A metric is a dict: what was measured stands in its fields, and its name is made of them for people to read

def metric_name(
    column: str,  # whose answers and how they were asked for, such as after_greedy
    mark: str = "",  # what was measured, such as exact
    group: str = None,  # over which rows, such as "count 3"; None: all
) -> str:  # such as after_greedy/exact/count 3
    "Return the name of a metric in tables and files"
    return "/".join(part for part in (column, mark, group) if part)


def metric(
    column: str,  # whose answers and how they were asked for, such as after_greedy
    values: list,  # a number per row; nan where it does not apply
    clusters: list = None,  # the picture of each row, where rows share pictures; None: each has its own
    mark: str = "",  # what was measured, such as exact
    group: str = None,  # over which rows; None: all
) -> dict:  # name, column, mark, group, kind (share or amount), value, n, ci95, interval
    """Return the mean of `values` as a metric, with the number of values and a 95 % interval

    Where every value is right (1) or wrong (0), it is a share, whose interval is that of `share_ci`. All else
    is an amount, with the interval of `_amount_ci_and_name`; so are the marks in `amounts` (error, reward),
    which may be 0 or 1 by chance and have other values in the next run."""
    x, clusters = _without_nan(values, clusters)
    right_or_wrong = len(x) > 0 and set(x.tolist()) <= {0.0, 1.0}
    if right_or_wrong and mark not in amounts:
        kind = "share"
        ci95, interval = _share_ci_and_name(x, clusters)
    else:
        kind = "amount"
        ci95, interval = _amount_ci_and_name(x, clusters, may_exceed_1=mark == "error")
    return _metric_dict(column, mark, group, kind, x, ci95, interval, clusters)


def _amount_ci_and_name(
    x,  # array of amounts, such as rewards
    clusters,  # the picture of each, or None
    may_exceed_1,  # True for amounts without an upper bound, such as the error of a count
):
    """Return the 95 % interval of a mean of amounts, (low, high), and its name: "bootstrap" or "Wilson"

    The bootstrap of equal amounts is a single point, as if five rewards of 1 proved that no other can come.
    Where amounts lie between 0 and 1, equal ones get an interval made of Wilson's. (nan, nan): too few."""
    ci95 = _bootstrap_or_nan(x, clusters)
    low, high = ci95
    if may_exceed_1 or low < high or math.isnan(low) or not 0 <= low <= 1:
        return ci95, "bootstrap"
    n = _independent_count(x, clusters)
    return _interval_of_equal_values(float(x[0]), n, lowest=0), "Wilson"


def difference(
    column: str,  # what was subtracted from what, such as gain_greedy
    values: list,  # paired differences, a number per row; nan where it does not apply
    clusters: list = None,  # the picture of each row, where rows share pictures; None: each has its own
    mark: str = "",  # what was measured, such as exact
    group: str = None,  # over which rows; None: all
) -> dict:  # as from `metric`, its kind "difference"
    """Return the mean of paired differences as a metric, with a 95 % interval

    `difference_ci` chooses the interval: Tango's, Wilson's or the bootstrap's."""
    x, clusters = _without_nan(values, clusters)  # without rows whose value is nan
    # Differences of right (1) and wrong (0) lie between -1 and 1; those of amounts, such as error, need not.
    ci95, interval = difference_ci(x, clusters, bounded=mark not in amounts)
    return _metric_dict(column, mark, group, "difference", x, ci95, interval, clusters)


def _without_nan(values, clusters):
    "Return the values that are not nan, as an array, and their clusters (None if there are none)"
    x = np.asarray(values, float)  # nan: the measure does not apply to this row
    applies = ~np.isnan(x)
    if clusters is None:
        return x[applies], None
    return x[applies], np.asarray(clusters)[applies]


def _metric_dict(
    column,  # which answers, such as after_greedy: those of the trained model, decoded greedily
    mark,  # what was measured of them, such as exact: the share of right ones
    group,  # which rows are counted, such as "count 3", those with this truth; None: all
    kind,  # share, amount or difference
    x,  # array of the values
    ci95,  # (low, high) of their mean
    interval,  # how `ci95` was computed: Wilson, bootstrap, paired bootstrap or Tango
    clusters,  # the picture of each value, where rows share pictures; else None
):
    "Return one metric as a dict, the form in which metrics are kept and shown"
    if clusters is not None:  # the interval took each picture, not each row, as one case
        interval += " over pictures"
    return dict(
        name=metric_name(column, mark, group),
        column=column,
        mark=mark,
        group=group,
        kind=kind,
        value=_mean(x),
        n=len(x),
        ci95=ci95,
        interval=interval,
    )


def with_interval(
    m: dict,  # from `metric` or `difference`
    sign: str = "",  # "+" for differences
) -> str:  # such as 0.564 (0.520 to 0.607)
    "Return a metric's value with its interval as text, or the value alone if there is no interval"
    low, high = m["ci95"]
    if math.isnan(low):  # too few values
        return f"{m['value']:{sign}.3f}"
    return f"{m['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


# The same rows before and after

def mcnemar(
    gained: int,  # wrong before, right after
    lost: int,  # right before, wrong after
) -> float:  # p value
    """Return the p value of the exact two-sided McNemar test

    If training had changed nothing, each answer that changed would be a fair coin: it becomes right or
    wrong with equal chance. The p value is the chance of numbers at least as unequal as these."""
    n, fewer = gained + lost, min(gained, lost)
    # Of the 2^n ways in which n coins can fall, those that are at least as unequal, to one side. Twice that
    # is the number for both sides.
    ways = sum(math.comb(n, i) for i in range(fewer + 1))
    # With equal numbers (n even) the middle belongs to both sides and is counted twice, hence `min`.
    return min(1.0, 2 * ways / 2**n)


def flips(
    before: list,  # 1 or 0 for each row
    after: list,  # the same rows
    pictures: list = None,  # the picture of each row, where rows share pictures; None: each has its own
) -> dict:  # became_right, became_wrong, stayed_right, stayed_wrong, n, p
    """Count the answers that became right or wrong or stayed so, with McNemar's p value

    p is the chance of such an imbalance between gains and losses if training had changed nothing. Where rows
    share pictures, whose answers are not independent, it is that of pictures_gained and pictures_lost: those
    with more answers that became right than wrong, and those with fewer."""
    # `_finite_array` returns an array, and raises ValueError for nan or another length
    was_right = _finite_array("before", before) == 1
    is_right = _finite_array("after", after, len(before)) == 1
    gained = int((is_right & ~was_right).sum())
    lost = int((was_right & ~is_right).sum())
    of_pictures = {}
    p = mcnemar(gained, lost)
    if pictures is not None:
        change = is_right.astype(int) - was_right.astype(int)
        balance = np.bincount(_cluster_numbers(pictures, len(change)), change)  # of each picture
        of_pictures = dict(pictures_gained=int((balance > 0).sum()), pictures_lost=int((balance < 0).sum()))
        p = mcnemar(*of_pictures.values())  # the sign test over pictures
    return of_pictures | dict(
        became_right=gained,
        became_wrong=lost,
        stayed_right=int((is_right & was_right).sum()),
        stayed_wrong=int((~is_right & ~was_right).sum()),
        n=len(was_right),
        p=p,
    )


# Classes and ranks

def confusion(
    labels: list,  # true class of each row
    predictions: list,  # predicted class
    classes: list | range,  # in the order of rows and columns
) -> list:  # [true][predicted] counts
    "Return the confusion matrix: how often a row of each true class was predicted as each class"
    index_of = {name: i for i, name in enumerate(classes)}
    size = len(index_of)
    table = np.zeros((size, size), int)
    for truth, prediction in zip(labels, predictions, strict=True):
        table[index_of[truth], index_of[prediction]] += 1
    return table.tolist()


def macro_f1(
    labels: list,  # true classes
    predictions: list,  # predicted classes
) -> float:  # 0 to 1
    "Return the mean F1 over the classes that occur in labels or predictions, each with equal weight"
    classes = sorted({*labels, *predictions})
    table = np.array(confusion(labels, predictions, classes))
    # F1 of a class = 2 · right / (predicted + true). Every class occurs on one side, so no sum is zero.
    right = table.diagonal()
    predicted, true = table.sum(0), table.sum(1)
    return float(np.mean(2 * right / (predicted + true)))


def kappa(
    a: list,  # classes, of any kind
    b: list,  # classes, same length
) -> float:  # 1: always the same; 0: as often as by chance; nan where chance alone always agrees
    """Return Cohen's kappa: how far two graders agree beyond chance

    Chance is how often they would agree if each gave the classes at random, as often as they did."""
    classes = sorted({*a, *b})
    table = np.array(confusion(a, b, classes), float)
    n = table.sum()
    if n == 0:
        return float("nan")
    agreed = table.trace() / n  # the diagonal: both gave the same class
    by_chance = float(table.sum(0) @ table.sum(1)) / n**2
    return float("nan") if by_chance == 1 else float((agreed - by_chance) / (1 - by_chance))


def spearman(
    a: list,  # numbers
    b: list,  # numbers, same length
) -> float:  # −1 to 1; nan where one side does not vary
    "Return Spearman's rank correlation; equal values get the mean of their ranks"
    x = _finite_array("a", a)
    y = _finite_array("b", b, len(x))
    if len(x) < 2:
        return float("nan")
    if x.min() == x.max() or y.min() == y.max():  # a side that does not vary
        return float("nan")
    correlations = np.corrcoef(_ranks(x), _ranks(y))
    return float(correlations[0, 1])


def _ranks(x):
    "Return the rank of each value, from 1; equal values get the mean of their ranks: 5, 7, 7 → 1, 2.5, 2.5"
    # index of each value among the distinct ones in ascending order, and how often each of those occurs
    _, distinct_index, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # the highest rank among equal values
    mean_rank = last - (count - 1) / 2
    return mean_rank[distinct_index]


def calibration(
    confidence: list | np.ndarray,  # probability of the predicted class
    right: list | np.ndarray,  # was it right?
    bins: int = 10,  # of equal width
) -> dict:  # ece, bins: a list of {confidence, accuracy, n}
    """Return the expected calibration error: does a model that says 0.8 turn out right in 8 of 10 cases?

    Cases are sorted into bins by confidence. `ece` is the mean gap between a bin's confidence and its
    accuracy, weighted by the bin's number of cases."""
    # `_finite_array` returns a flat array, and raises ValueError for nan or another length
    confidences = _finite_array("confidence", confidence)
    outcomes = _finite_array("right", right, len(confidences))
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)  # a confidence of 1 belongs to the last
    rows = []
    for b in np.unique(bin_of):
        inside = bin_of == b
        mean_confidence, accuracy = _mean(confidences[inside]), _mean(outcomes[inside])
        rows.append(dict(confidence=mean_confidence, accuracy=accuracy, n=int(inside.sum())))
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return dict(ece=math.fsum(gaps) / max(1, len(confidences)), bins=rows)


# Pairs of answers, for chapter 03

def pair_metrics(
    better: list,  # score of the better answer of each pair
    worse: list,  # score of the worse one
    groups: list = None,  # a name for each pair; then accuracies by group and their mean
    lengths: list = None,  # (length of the better, length of the worse) of each pair; None: no length_bias
    clusters: list = None,  # what each pair belongs to, such as its row or picture
) -> dict:  # pair_accuracy, ci95, n, ties, by_group, macro, margin_mean, length_bias
    """Measure how often a judge's score is higher for the better answer of a pair

    A tie counts one half, so that a judge with a constant score has an accuracy of 0.5."""
    better_scores = _finite_array("better", better)  # as an array; ValueError for nan or another length
    margin = better_scores - _finite_array("worse", worse, len(better_scores))
    won = (np.sign(margin) + 1) / 2  # of each pair: 1 won, 0.5 tie, 0 lost
    by_group = {} if groups is None else _accuracy_by_group(won, groups, clusters)
    # the mean of the groups' accuracies, each with equal weight
    macro = _mean([g["accuracy"] for g in by_group.values()]) if by_group else None
    length_bias = None if lengths is None else _length_bias(margin, lengths)
    return dict(
        pair_accuracy=_mean(won),
        ci95=share_ci(won, clusters),
        n=len(won),
        ties=int((margin == 0).sum()),
        by_group=by_group,
        macro=macro,
        margin_mean=_mean(margin),
        length_bias=length_bias)


def _accuracy_by_group(
    won,  # array: 1, 0.5 or 0 for each pair
    groups,  # a name for each pair
    clusters,  # what each pair belongs to, such as its picture, or None
):
    "Return {group: its accuracy, n and 95 % interval}, in the order in which groups occur"
    if len(groups) != len(won):
        raise ValueError(f"{len(won)} pairs but {len(groups)} groups")
    names = np.asarray(groups, str)
    accuracies = {}
    for group in dict.fromkeys(names):
        inside = names == group
        own = won[inside]
        # Values of one cluster are not independent, which widens the interval.
        own_clusters = None if clusters is None else np.asarray(clusters)[inside]
        accuracies[str(group)] = dict(accuracy=_mean(own), n=len(own), ci95=share_ci(own, own_clusters))
    return accuracies


def _length_bias(
    margin,  # array: score of the better answer less score of the worse one, for each pair
    lengths,  # (length of the better, length of the worse) of each pair
):
    """Measure how far scores follow the length of the answers; `n` is the number of pairs of unequal length

    longer_wins       how often the longer answer is the better one, over all pairs; equal ones count half
    prefers_longer    how often the longer answer has the higher score
    rank_correlation  between differences in score and differences in length"""
    gap = _length_gaps(lengths, len(margin))  # array: how much longer the better answer is
    differ = gap != 0
    # Each pair counts twice, as better less worse and as worse less better: the ranks of differences depend
    # on which answer is subtracted, and neither choice is the right one.
    margins = np.concatenate([margin[differ], -margin[differ]])
    gaps = np.concatenate([gap[differ], -gap[differ]])
    return dict(
        # (sign + 1) / 2 is 1, 0.5 or 0
        longer_wins=_mean((np.sign(gap) + 1) / 2),
        prefers_longer=_mean((np.sign(margin * gap)[differ] + 1) / 2),
        rank_correlation=spearman(margins, gaps),
        n=int(differ.sum()),
    )


def _length_gaps(lengths, n):
    """Return an array: length of the better answer less that of the worse; ValueError if not `n` pairs

    `lengths` are (length of the better, length of the worse): (5, 3) gives 2."""
    sizes = np.asarray(lengths, float).reshape(-1, 2)
    if len(sizes) != n:
        raise ValueError(f"{n} pairs but {len(sizes)} pairs of lengths")
    return sizes[:, 0] - sizes[:, 1]


def swap_consistency(
    scores_ab: list,  # (score of a, score of b) with the answers shown in this order
    scores_ba: list,  # (score of b, score of a) of the same pairs, shown the other way round
    clusters: list = None,  # what each pair belongs to, such as its row or picture
) -> dict:  # consistent (share of pairs with the same winner), ci95, n, max_difference (of any score)
    "Measure whether a judge prefers the same answer of each pair when the two are shown in the other order"
    ab = np.asarray(scores_ab, float).reshape(-1, 2)
    ba = np.asarray(scores_ba, float).reshape(-1, 2)[:, ::-1]  # columns turned round: (a, b), as in `ab`
    if ab.shape != ba.shape:
        raise ValueError(f"{len(ab)} pairs one way, {len(ba)} the other")
    _finite_array("scores_ab", ab)  # ValueError for a score that is nan or infinite
    _finite_array("scores_ba", ba)
    winner_one_way = np.sign(ab[:, 0] - ab[:, 1])
    winner_other_way = np.sign(ba[:, 0] - ba[:, 1])
    same = winner_one_way == winner_other_way
    largest = float(np.abs(ab - ba).max()) if len(ab) else float("nan")
    return dict(consistent=_mean(same), ci95=share_ci(same, clusters), n=len(same), max_difference=largest)


def pair_temperature(
    gaps: list,  # score of the first less score of the second answer of each pair
    preferred: list,  # 1 first better, 0 second better, between them the share of people who say first
) -> float | None:  # None where no number above 0 fits: there are no pairs, or they go against the scores
    """Return the temperature for which sigmoid(gap / temperature) fits how often the first is preferred

    It is the maximum-likelihood fit of the Bradley-Terry model. Its slope, 1 / temperature, is found by
    bisection."""
    gap = _finite_array("gaps", gaps)
    target = _finite_array("preferred", preferred, len(gap))
    n = len(gap)
    # Targets stay a little away from 0 and 1 (Platt 1999): else a temperature of 0 would be the best fit for
    # a judge that makes no mistake.
    target = (target * n + 1) / (n + 2)

    slope_is_too_small = partial(_slope_is_too_small, gap, target)
    if not n or not slope_is_too_small(0.0):
        return None
    # The slope 0 was too small, so some gap is not 0. The search begins where slope * the largest gap is 1.
    highest = _doubled_until_above(slope_is_too_small, 1 / np.abs(gap).max())
    return float(1 / _bisect(slope_is_too_small, 0.0, highest))


def _doubled_until_above(
    is_below,  # function of a number: whether it is too small, as for `_bisect`
    start,  # a number above 0
):
    "Return a number that is not too small: `start`, doubled as often as need be, at most 60 times"
    limit = start
    for _ in range(60):  # 2^60, a factor of 1e18, and never an endless loop
        if not is_below(limit):
            break
        limit *= 2
    return limit


def _slope_is_too_small(
    gap,  # array: score of the first less score of the second answer of each pair
    target,  # array: how often the first is preferred, between 0 and 1
    slope,  # the chance of the first is sigmoid(slope * gap)
):
    "Return whether the log-likelihood still rises at this slope; at the best slope its derivative is 0"
    # No offset is fitted, unlike Platt's: exchanging the two answers must turn p into 1 - p.
    with np.errstate(over="ignore"):  # exp may become infinite, and the chance is then 0 as it should
        chance = 1 / (1 + np.exp(-slope * gap))
    derivative = float((gap * (target - chance)).sum())
    return derivative > 0


def pair_reliability(
    gaps: list,  # score of the first less score of the second answer of each pair
    preferred: list,  # 1 first better, 0 second better, between them the share of people who say first
    temperature: float = 1.0,  # the chance of the first is sigmoid(gap / temperature); 1: plain Bradley-Terry
    bins: int = 20,  # of equal width from 0 to 1; the likelier answer lies in the upper half of them
) -> dict:  # temperature, n, ece, log_loss, bins: a list of {confidence, accuracy, n}
    """Measure whether people agree with a judge in 8 of 10 pairs where its scores say a chance of 0.8

    `ece` and `bins` are those of `calibration`."""
    gap = _finite_array("gaps", gaps) / temperature
    target = _finite_array("preferred", preferred, len(gap))
    # the share of people who agree with the judge about each pair
    agreeing = np.where(gap >= 0, target, 1 - target)
    margin = np.abs(gap)
    confidence = 1 / (1 + np.exp(-margin))  # the judge's chance for the answer that it prefers
    log_loss = _mean(_cross_entropy(margin, agreeing))
    reliability = calibration(confidence, agreeing, bins)  # ece and bins
    return dict(temperature=temperature, n=len(gap), log_loss=log_loss, **reliability)


def _cross_entropy(
    margin,  # array from 0; the judge's chance for the answer that it prefers is sigmoid(margin)
    agreeing,  # array: the share of people who prefer it, too
):
    "Return an array of the cross-entropy of each pair"
    # log1p keeps its precision where e^-margin is small.
    loss_if_people_agree = np.log1p(np.exp(-margin))  # -log(chance)
    loss_if_not = margin + loss_if_people_agree  # -log(1 - chance)
    return agreeing * loss_if_people_agree + (1 - agreeing) * loss_if_not


# Ordered bins, for chapter 04

def classifier_metrics(
    labels: list | np.ndarray,  # true bin of each frame
    probabilities: list | np.ndarray,  # [frames][bins], each row adding up to 1
    episodes: list | np.ndarray,  # of each frame; those of one episode are not independent
    frames: list = None,  # each one's place in its episode; needed for the rank correlation
) -> dict:  # accuracy, ci95, n, episodes, macro_f1, majority_accuracy, mae_bins, within_one, confusion, …
    "Measure a classifier whose classes are ordered bins, as chapter 04 reports it"
    p = np.asarray(probabilities, float)  # [frames, bins]
    truth = _finite_array("labels", labels, len(p)).astype(int)
    _check_probabilities(p, truth, episodes)  # ValueError where they do not fit together
    bins = p.shape[1]
    predicted = p.argmax(1)  # the likeliest bin of each frame
    expected = p @ np.arange(bins)  # the mean bin, weighted with the probabilities
    correlation = None if frames is None else _correlation_by_episode(expected, frames, episodes)
    return dict(
        **_bin_figures(truth, predicted, episodes),
        confusion=confusion(truth.tolist(), predicted.tolist(), range(bins)),
        rank_correlation=correlation,
        # p.max(1): the probability of the predicted bin
        calibration=calibration(p.max(1), predicted == truth),
        expected_bin=expected.tolist())


def _bin_figures(
    truth,  # array: the number of each frame's true bin
    predicted,  # array: that of the predicted one
    episodes,  # of each frame; those of one episode are not independent, which widens the interval
):
    "Return how far predicted bins agree with the true ones, as a dict from accuracy to within_one"
    right = predicted == truth
    distance = np.abs(predicted - truth)  # bins are ordered: a miss by one is not a miss by four
    return dict(
        accuracy=_mean(right),
        ci95=share_ci(right, episodes),
        n=len(truth),
        episodes=len(set(np.asarray(episodes).tolist())),
        macro_f1=macro_f1(truth.tolist(), predicted.tolist()),
        # of always predicting the commonest bin
        majority_accuracy=float(np.bincount(truth).max() / len(truth)),
        mae_bins=_mean(distance),
        within_one=_mean(distance <= 1))


def _check_probabilities(p, truth, episodes):
    """Raise ValueError if `p` is no table of probabilities [frames, bins], or does not fit the labels

    `truth` is an array of each frame's true bin, from 0; `episodes` names the episode of each frame."""
    if p.ndim != 2 or not len(p):
        raise ValueError(f"probabilities: shape {p.shape}, expected [frames, bins]")
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:  # allows for rounding
        raise ValueError("probabilities: every row must hold numbers from 0 that add up to 1")
    bins = p.shape[1]
    if truth.min() < 0 or truth.max() >= bins:
        raise ValueError(f"labels: from {truth.min()} to {truth.max()}, but there are {bins} bins")
    if len(episodes) != len(p):
        raise ValueError(f"{len(p)} frames but {len(episodes)} episodes")


def _correlation_by_episode(
    expected,  # array: the mean bin that a model predicts for each frame, such as 2.4
    frames,  # the place of each frame in its episode
    episodes,  # what episode each frame is from
):
    """Return the mean over episodes of the rank correlation between expected bin and frame number

    It is 1 if the expected bin rises all through every episode, and -1 if it falls."""
    frame_numbers = _finite_array("frames", frames, len(expected))
    episode_of = np.asarray(episodes)
    correlations = []
    for episode in np.unique(episode_of):
        inside = episode_of == episode
        correlations.append(spearman(expected[inside], frame_numbers[inside]))
    # `spearman` is nan where the expected bin never changes within an episode. Such an episode counts as 0:
    # leaving it out would favour a model that predicts the same bin everywhere.
    return _mean(np.nan_to_num(correlations))
