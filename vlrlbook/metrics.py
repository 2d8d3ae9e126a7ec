"""Numbers with their uncertainty: shares, means and paired gains with 95 % intervals; pairs of answers;
ordered bins.

Needs numpy and nothing else of the book, so that the reward model (chapter 03), the classifier (chapter 04)
and the evaluation (chapter 06) can all stand on it. Chapter 06 explains each interval and compares it with
what other libraries give. Wherever nothing can be said (no value, one cluster) the answer is nan, never a
guess. Written by hand."""
import math

import numpy as np

__all__ = ["wilson", "bootstrap_ci", "share_ci", "tango", "difference_ci", "metric", "difference",
           "metric_name", "with_interval",
           "mcnemar", "flips", "confusion", "macro_f1", "kappa", "spearman", "calibration", "pair_metrics",
           "swap_consistency", "pair_temperature", "pair_reliability", "classifier_metrics"]

_nothing = float("nan"), float("nan")  # the interval of no values
_normal_95 = 1.959964  # quantile of the normal distribution that leaves 2.5 % above it
amounts = ("error", "reward")  # marks that are no shares, even where every value happens to be 0 or 1


# Intervals

def wilson(
    k: float,  # successes; half ones are allowed, for ties
    n: int,  # trials
    z: float = _normal_95,  # normal quantile; this one is 95 %
) -> tuple:  # low, high; (nan, nan) without a trial
    "Wilson's interval of a share: it stays inside 0 and 1, and has a width even when every trial succeeds"
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes of {n} trials")
    if n == 0:
        return _nothing
    share = float(k) / n
    # Wilson 1927: the shares p for which the observed one lies within z standard errors sqrt(p (1 - p) / n).
    # That is a quadratic in p; its two solutions lie `half` on either side of `middle`.
    extra = z * z / n
    middle = (share + extra / 2) / (1 + extra)
    variance = share * (1 - share) / n + extra / (4 * n)
    half = z * math.sqrt(variance) / (1 + extra)
    # Rounding may lead a hair outside.
    low = max(0.0, middle - half)
    high = min(1.0, middle + half)
    return low, high


def bootstrap_ci(
    values: list,  # one number each
    clusters: list | np.ndarray | None = None,  # what each belongs to (episode, picture); drawn whole
    seed: int = 0,  # same seed, same interval
    resamples: int = 2000,  # draws
) -> tuple:  # low, high; (nan, nan) with fewer than two values or clusters
    "Percentile bootstrap, 95 %, of the mean"
    x = _finite("values", values)
    if clusters is not None and len(clusters) != len(x):
        raise ValueError(f"{len(x)} values but {len(clusters)} clusters")
    if clusters is None:
        cluster_of = np.arange(len(x))
    else:
        cluster_of = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums, sizes = np.bincount(cluster_of, x), np.bincount(cluster_of)
    if len(sums) < 2:
        return _nothing
    random = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = random.integers(0, len(sums), len(sums))
        # Clusters differ in size, so the mean is over their values and not over their means.
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def share_ci(
    right: list,  # 1 or 0 each; 0.5 for a tie
    clusters: list | np.ndarray | None = None,  # what each belongs to, where they are not independent
) -> tuple:  # low, high
    "95 % interval of a share: Wilson's; with clusters the bootstrap over them"
    x = _finite("right", right)
    if clusters is None:
        return wilson(x.sum(), len(x))
    if len(x) and x.min() == x.max():
        # No draw can differ, so the bootstrap would claim certainty. Wilson's, with the clusters as trials.
        n = len(set(np.asarray(clusters).tolist()))
        return wilson(x[0] * n, n)
    return bootstrap_ci(x, clusters)


def tango(
    gained: int,  # pairs that went from wrong to right
    lost: int,  # pairs that went from right to wrong
    n: int,  # pairs in all
    z: float = _normal_95,  # normal quantile; this one is 95 %
) -> tuple:  # low, high, between -1 and 1; (nan, nan) without a pair
    "Tango's interval of the gain (gained - lost) / n of paired shares: what Wilson's is for one share"
    if min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n} pairs")
    if n == 0:
        return _nothing
    # The gains that a score test does not reject (Tango 1998). The score falls as the gain in question grows,
    # so each end is found by halving. It has a width even where no pair changed, and holds with few pairs.
    observed = (gained - lost) / n
    low = _halved(lambda gain: _tango_score(gained, lost, n, gain) > z, -1.0, observed)
    high = _halved(lambda gain: _tango_score(gained, lost, n, gain) > -z, observed, 1.0)
    return low, high


def _tango_score(gained, lost, n, gain):
    "How many standard errors the observed gain lies above `gain`, were that the true one"
    # The variance needs the share of pairs that are lost; its most likely value, given the gain, solves
    # a x² + b x + c = 0 (Tango 1998, equation 7).
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * gain
    c = -lost * gain * (1 - gain)
    share_lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * share_lost + gain * (1 - gain))
    distance = gained - lost - n * gain
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _halved(is_below, low, high):
    "Where `is_below` turns from true to false between `low` and `high`, to about 1e-12"
    for _ in range(40):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


few = 30  # pairs; below so many a gain has no interval that leans on a large sample
# Values, or pictures where rows share them. Of four, one draw in 64 is the same value four times: the ends of
# such an interval would be single values, and of two that happen to be equal it would be no interval at all.
fewest_to_draw = 5


def _drawn_ci(values, clusters):
    "`bootstrap_ci`, and no interval where there is too little to draw from"
    return bootstrap_ci(values, clusters) if _how_many(values, clusters) >= fewest_to_draw else _nothing


def _how_many(values, clusters):
    "Values that can be drawn apart: pictures, where rows share them"
    return len(values) if clusters is None else len(set(np.asarray(clusters).tolist()))


def difference_ci(
    values: list,  # paired differences
    clusters: list = None,  # what each belongs to, where they are not independent
    bounded: bool = True,  # differences of shares, so from -1 to 1
) -> tuple:  # (low, high), name of the interval
    """95 % interval of a mean difference: Tango's for few pairs that flip or do not, else the bootstrap.

    There is none, (nan, nan), where the bootstrap would have fewer than five values to draw from."""
    x = _finite("values", values)
    n = _how_many(x, clusters)
    if not bounded or n == 0:
        return _drawn_ci(x, clusters), "paired bootstrap"
    flips_only = set(x.tolist()) <= {-1.0, 0.0, 1.0}
    if n < few and clusters is None and flips_only:
        return tango(int((x > 0).sum()), int((x < 0).sum()), n), "Tango"
    if x.min() < x.max():
        return _drawn_ci(x, clusters), "paired bootstrap"
    # All pairs moved alike, so no draw can differ and the bootstrap would claim certainty. Up to this share
    # of all pairs may still move in another way: Wilson's bound for what was seen in none of n.
    unseen = wilson(0, n)[1]
    same = float(x[0])
    return (same - unseen * (same + 1), same + unseen * (1 - same)), "Wilson"


def _finite(name, values, n=None):
    "`values` as a flat array of finite floats, `n` of them if given; ValueError names the first that is not"
    x = np.asarray(values, float).reshape(-1) if len(values) else np.zeros(0)
    if n is not None and len(x) != n:
        raise ValueError(f"{name}: {len(x)} values, expected {n}")
    bad = np.flatnonzero(~np.isfinite(x))
    if len(bad):
        first = bad[0]
        raise ValueError(f"{name}: value {first} is {x[first]}")
    return x


def _mean(values):
    "Mean as a float, nan of nothing"
    return float(np.mean(values)) if len(values) else float("nan")


# A metric is a record: what was measured stands in fields, and the name is made from them for people to read

def metric_name(
    column: str,  # whose answers and how they were asked for, such as after_greedy
    mark: str = "",  # what was measured, such as exact
    group: str = None,  # over which rows, such as "count 3"; None: all
) -> str:  # such as after_greedy/exact/count 3
    "The name of a metric in tables and files"
    return "/".join(part for part in (column, mark, group) if part)


def metric(
    column: str,  # whose answers and how they were asked for, such as after_greedy
    values: list,  # a number per row; nan where it does not apply
    clusters: list = None,  # the picture of each row, where rows share pictures
    mark: str = "",  # what was measured, such as exact
    group: str = None,  # over which rows; None: all
) -> dict:  # name, column, mark, group, kind (share or amount), value, n, ci95, interval
    "Mean of `values` with n and 95 % interval: Wilson's where each is right or wrong, else the bootstrap"
    x, clusters = _applicable(values, clusters)
    right_or_wrong = len(x) > 0 and set(x.tolist()) <= {0.0, 1.0}
    if right_or_wrong and mark not in amounts:
        kind, ci95, interval = "share", share_ci(x, clusters), "Wilson" if clusters is None else "bootstrap"
    else:
        kind, ci95, interval = "amount", _drawn_ci(x, clusters), "bootstrap"
    return _record(column, mark, group, kind, x, ci95, interval, clusters)


def difference(
    column: str,  # what was subtracted from what, such as gain_greedy
    values: list,  # paired differences, a number per row; nan where it does not apply
    clusters: list = None,  # the picture of each row, where rows share pictures
    mark: str = "",  # of which measure, such as exact
    group: str = None,  # over which rows; None: all
) -> dict:  # as from `metric`, its kind "difference"
    "A metric of paired differences: the bootstrap, or Tango's interval where there are few pairs that flip"
    x, clusters = _applicable(values, clusters)
    ci95, interval = difference_ci(x, clusters, bounded=mark not in amounts)
    return _record(column, mark, group, "difference", x, ci95, interval, clusters)


def _applicable(values, clusters):
    "The values that are no nan, as an array, and their clusters"
    x = np.asarray(values, float)
    applies = ~np.isnan(x)
    if clusters is None:
        return x[applies], None
    return x[applies], np.asarray(clusters)[applies]


def _record(column, mark, group, kind, x, ci95, interval, clusters):
    "One metric"
    if clusters is not None:
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
    "A metric as text"
    low, high = m["ci95"]
    if math.isnan(low):
        return f"{m['value']:{sign}.3f}"
    return f"{m['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


# The same rows before and after

def mcnemar(
    gained: int,  # wrong before, right after
    lost: int,  # right before, wrong after
) -> float:  # p value
    "Exact two-sided McNemar test: had training changed nothing, each flip would be a fair coin"
    n, fewer = gained + lost, min(gained, lost)
    # How many of the 2^n ways to throw n coins are at least as uneven, to one side; twice that for both.
    ways = sum(math.comb(n, i) for i in range(fewer + 1))
    # With equal numbers both sides share their middle, which would be counted twice.
    return min(1.0, 2 * ways / 2**n)


def flips(
    before: list,  # 1 or 0 for each picture
    after: list,  # the same pictures
) -> dict:  # became_right, became_wrong, stayed_right, stayed_wrong, n, p
    "What happened to each picture, and how likely such an imbalance is by chance"
    was_right = _finite("before", before) == 1
    is_right = _finite("after", after, len(before)) == 1
    gained = int((is_right & ~was_right).sum())
    lost = int((was_right & ~is_right).sum())
    return dict(
        became_right=gained,
        became_wrong=lost,
        stayed_right=int((is_right & was_right).sum()),
        stayed_wrong=int((~is_right & ~was_right).sum()),
        n=len(was_right),
        p=mcnemar(gained, lost),
    )


# Classes and ranks

def confusion(
    labels: list,  # true class of each row
    predictions: list,  # predicted class
    classes: list | range,  # in the order of rows and columns
) -> list:  # [true][predicted] counts
    "How often each class was taken for each"
    place = {name: i for i, name in enumerate(classes)}
    size = len(place)
    table = np.zeros((size, size), int)
    for truth, said in zip(labels, predictions, strict=True):
        table[place[truth], place[said]] += 1
    return table.tolist()


def macro_f1(
    labels: list,  # true classes
    predictions: list,  # predicted classes
) -> float:  # 0 to 1
    "Mean F1 over the classes that occur on either side, each class weighing the same"
    classes = sorted({*labels, *predictions})
    table = np.array(confusion(labels, predictions, classes))
    # F1 of a class = 2 · right / (said + true). Every class occurs on one side, so none divides by zero.
    right = table.diagonal()
    said, true = table.sum(0), table.sum(1)
    return float(np.mean(2 * right / (said + true)))


def kappa(
    a: list,  # classes, of any kind
    b: list,  # classes, same length
) -> float:  # 1: always the same; 0: as often as by chance; nan where chance alone always agrees
    "Cohen's kappa: how far two graders agree beyond what their shares of each class give by chance"
    classes = sorted({*a, *b})
    table = np.array(confusion(a, b, classes), float)
    n = table.sum()
    if n == 0:
        return float("nan")
    agreed = table.trace() / n
    by_chance = float(table.sum(0) @ table.sum(1)) / n**2
    return float("nan") if by_chance == 1 else float((agreed - by_chance) / (1 - by_chance))


def spearman(
    a: list,  # numbers
    b: list,  # numbers, same length
) -> float:  # −1 to 1; nan where one side does not vary
    "Rank correlation; ties get their mean rank"
    x = _finite("a", a)
    y = _finite("b", b, len(x))
    if len(x) < 2:
        return float("nan")
    if x.min() == x.max() or y.min() == y.max():
        return float("nan")
    correlations = np.corrcoef(_ranks(x), _ranks(y))
    return float(correlations[0, 1])


def _ranks(x):
    "Rank of each value from 1, the mean rank for equal ones"
    _, place, size = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(size)  # rank of the last of each run of equal values
    mean_rank = last - (size - 1) / 2
    return mean_rank[place]


def calibration(
    confidence: list | np.ndarray,  # probability of the predicted class
    right: list | np.ndarray,  # was it right?
    bins: int = 10,  # of equal width
) -> dict:  # ece, bins: a list of {confidence, accuracy, n}
    "Does a model that says 0.8 come true in 8 of 10 cases? `ece` is the mean gap, weighted by n"
    c = _finite("confidence", confidence)
    r = _finite("right", right, len(c))
    bin_of = np.minimum((c * bins).astype(int), bins - 1)  # a confidence of 1 belongs to the last
    rows, gaps = [], []
    for b in np.unique(bin_of):
        inside = bin_of == b
        said, came_true = _mean(c[inside]), _mean(r[inside])
        n = int(inside.sum())
        rows.append(dict(confidence=said, accuracy=came_true, n=n))
        gaps.append(n * abs(came_true - said))
    ece = math.fsum(gaps) / max(1, len(c))
    return dict(ece=ece, bins=rows)


# Pairs of answers, for chapter 03

def pair_metrics(
    better: list,  # score of the better answer of each pair
    worse: list,  # score of the worse one
    groups: list = None,  # a name for each pair; then accuracies by group and their mean
    lengths: list = None,  # (length of the better, length of the worse) of each pair
    clusters: list = None,  # what each pair belongs to, such as its row or picture
) -> dict:  # pair_accuracy, ci95, n, ties, by_group, macro, margin_mean, length_bias
    "How often the better answer scores higher; a tie counts half, so that a constant score earns one half"
    b = _finite("better", better)
    margin = b - _finite("worse", worse, len(b))
    won = (np.sign(margin) + 1) / 2  # 1, 0.5 or 0
    if groups is not None and len(groups) != len(won):
        raise ValueError(f"{len(won)} pairs but {len(groups)} groups")
    by_group = _accuracy_by_group(won, groups, clusters)
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
        length_bias=length_bias,
    )


def _accuracy_by_group(won, groups, clusters):
    "{group: accuracy, n and interval}, in order of first sight; empty without groups"
    names = np.asarray(groups if groups is not None else [], str)
    found = {}
    for group in dict.fromkeys(names):
        inside = names == group
        own = won[inside]
        of = None if clusters is None else np.asarray(clusters)[inside]
        found[str(group)] = dict(accuracy=_mean(own), n=len(own), ci95=share_ci(own, of))
    return found


def _length_bias(margin, lengths):
    "What length alone would earn, and how far the scores follow it in the `n` pairs of unequal length"
    sizes = np.asarray(lengths, float).reshape(-1, 2)
    if len(sizes) != len(margin):
        raise ValueError(f"{len(margin)} pairs but {len(sizes)} pairs of lengths")
    gap = sizes[:, 0] - sizes[:, 1]
    differ = gap != 0
    # Each pair stands both ways round, or the correlation would depend on which of a pair is called the
    # first.
    margins = np.concatenate([margin[differ], -margin[differ]])
    gaps = np.concatenate([gap[differ], -gap[differ]])
    return dict(
        longer_wins=_mean((np.sign(gap) + 1) / 2),
        prefers_longer=_mean((np.sign(margin * gap)[differ] + 1) / 2),
        rank_correlation=spearman(margins, gaps),
        n=int(differ.sum()),
    )


def swap_consistency(
    scores_ab: list,  # (score of a, score of b) with the answers shown in this order
    scores_ba: list,  # (score of b, score of a) of the same pairs, shown the other way round
) -> dict:  # consistent, ci95, n, max_difference
    "Share of pairs whose winner does not depend on the order, and the largest change of any score"
    ab = np.asarray(scores_ab, float).reshape(-1, 2)
    ba = np.asarray(scores_ba, float).reshape(-1, 2)[:, ::-1]  # now (a, b) too
    if ab.shape != ba.shape:
        raise ValueError(f"{len(ab)} pairs one way, {len(ba)} the other")
    _finite("scores_ab", ab)
    _finite("scores_ba", ba)
    winner_one_way = np.sign(ab[:, 0] - ab[:, 1])
    winner_other_way = np.sign(ba[:, 0] - ba[:, 1])
    same = winner_one_way == winner_other_way
    largest = float(np.abs(ab - ba).max()) if len(ab) else float("nan")
    return dict(consistent=_mean(same), ci95=share_ci(same), n=len(same), max_difference=largest)


def pair_temperature(
    gaps: list,  # score of the first less score of the second answer of each pair
    preferred: list,  # 1 first better, 0 second better, between them the share of people who say first
) -> float | None:  # None where no number above 0 fits: there are no pairs, or they go against the scores
    "What gaps are divided by, so that their sigmoid says how often the first answer is preferred"
    gap = _finite("gaps", gaps)
    target = _finite("preferred", preferred, len(gap))
    n = len(gap)
    # Platt 1999: a pair that was seen to go one way may go the other way next time. Without it the pairs of a
    # judge that makes no mistake would ask for a temperature of 0. There is no second number to fit: a pair
    # told the other way round must have the chance 1 - p.
    target = (target * n + 1) / (n + 2)

    def slope_is_too_small(slope):
        # the derivative of the log-likelihood, which falls as the slope grows
        with np.errstate(over="ignore"):
            said = 1 / (1 + np.exp(-slope * gap))
        return float((gap * (target - said)).sum()) > 0

    if not n or not slope_is_too_small(0.0):
        return None
    highest = 1 / np.abs(gap).max()
    for _ in range(60):
        if not slope_is_too_small(highest):
            break
        highest *= 2
    return float(1 / _halved(slope_is_too_small, 0.0, highest))


def pair_reliability(
    gaps: list,  # score of the first less score of the second answer of each pair
    preferred: list,  # 1 first better, 0 second better, between them the share of people who say first
    temperature: float = 1.0,  # what gaps are divided by; 1: the chance that Bradley-Terry reads off scores
    bins: int = 20,  # of equal width from 0 to 1; the likelier answer lies in the upper half of them
) -> dict:  # temperature, n, ece, log_loss, bins: a list of {confidence, accuracy, n}
    "Whether answers that are preferred with a chance of 0.8 are preferred in 8 of 10 pairs"
    gap = _finite("gaps", gaps) / temperature
    target = _finite("preferred", preferred, len(gap))
    # of each pair the answer that the judge prefers; equal scores say one half of either
    towards = np.where(gap >= 0, target, 1 - target)
    with np.errstate(over="ignore"):
        confidence = 1 / (1 + np.exp(-np.abs(gap)))
    # -log of the chance that was given to what came; log(1 + e^-x) for x > 0 loses no digits
    log_loss = np.log1p(np.exp(-np.abs(gap))) + (1 - towards) * np.abs(gap)
    found = calibration(confidence, towards, bins)
    return dict(temperature=temperature, n=len(gap), log_loss=_mean(log_loss), **found)


# Ordered bins, for chapter 04

def classifier_metrics(
    labels: list | np.ndarray,  # true bin of each frame
    probabilities: list | np.ndarray,  # [frames][bins], each row adding up to 1
    episodes: list | np.ndarray,  # what film each frame is from; the interval is over films
    frames: list = None,  # its place in the film; needed for the rank correlation
) -> dict:  # accuracy, ci95, n, episodes, macro_f1, majority_accuracy, mae_bins, within_one, confusion, …
    "All that chapter 04 reports of a classifier whose classes are ordered bins"
    p = np.asarray(probabilities, float)
    truth = _finite("labels", labels, len(p)).astype(int)
    _check_probabilities(p, truth, episodes)
    bins = p.shape[1]
    said, expected = p.argmax(1), p @ np.arange(bins)  # the likeliest bin, and the mean one
    right = said == truth
    distance = np.abs(said - truth)  # bins are ordered: a miss by one is not a miss by four
    correlation = None if frames is None else _correlation_by_episode(expected, frames, episodes)
    return dict(
        accuracy=_mean(right),
        ci95=share_ci(right, episodes),
        n=len(truth),
        episodes=len(set(np.asarray(episodes).tolist())),
        macro_f1=macro_f1(truth.tolist(), said.tolist()),
        majority_accuracy=float(np.bincount(truth).max() / len(truth)),
        mae_bins=_mean(distance),
        within_one=_mean(distance <= 1),
        confusion=confusion(truth.tolist(), said.tolist(), range(bins)),
        rank_correlation=correlation,
        calibration=calibration(p.max(1), right),
        expected_bin=expected.tolist(),
    )


def _check_probabilities(p, truth, episodes):
    "Refuse what is no table of probabilities, and labels outside it"
    if p.ndim != 2 or not len(p):
        raise ValueError(f"probabilities: shape {p.shape}, expected [frames, bins]")
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("probabilities: every row must hold numbers from 0 that add up to 1")
    bins = p.shape[1]
    if truth.min() < 0 or truth.max() >= bins:
        raise ValueError(f"labels: from {truth.min()} to {truth.max()}, but there are {bins} bins")
    if len(episodes) != len(p):
        raise ValueError(f"{len(p)} frames but {len(episodes)} episodes")


def _correlation_by_episode(expected, frames, episodes):
    "Mean over episodes of the rank correlation between expected bin and frame number, from -1 to 1"
    frame_numbers = _finite("frames", frames, len(expected))
    episode_of = np.asarray(episodes)
    correlations = []
    for episode in np.unique(episode_of):
        inside = episode_of == episode
        correlations.append(spearman(expected[inside], frame_numbers[inside]))
    # `spearman` is nan where the expected bin never changes within an episode. Such an episode counts 0:
    # leaving it out would reward a model that says one bin to everything.
    return _mean(np.nan_to_num(correlations))
