"""What a run's results say of before and after, as rows for tables: those of the report and of the service.

No library is needed, so that a server can show the figures of a run. Written by hand, not exported from a
notebook."""

__all__ = ["measure_words", "compared_figures"]

# A measure in results.json → words for people, in the order in which a table has them. Of boxes the overlap
# comes first, since they are judged by it.
measure_words = {
    "mean_iou": "overlap of boxes (IoU)",
    "exact_accuracy": "right",
    "verbatim_accuracy": "to the letter",
    "mean_reward": "mean reward",
}


def compared_figures(
    results: dict,  # what results.json of a run holds
) -> list:  # of {asked, measure, words, before, after, gain, ci95, interval}; empty if nothing was measured
    """Compare the measures of a run before and after training, for greedy and for sampled answers.

    `ci95` is the confidence interval of the gain, or None; `interval` is the method that computed it. A file
    that is damaged, or of another program, gives no rows."""
    rows = []
    try:
        for decoding, gains in (results.get("gain") or {}).items():  # greedy, sampled
            before, after = results["before"][decoding], results["after"][decoding]
            for measure in _measures_of(gains):
                rows.append(_row(decoding, measure, before, after, gains))
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return rows


def _measures_of(
    gains,  # dict from results.json: exact_accuracy → gain, exact_accuracy_ci95 → its interval, …
):
    "List the measures of which there is a gain, in the order of `measure_words`: exact_accuracy and so on"
    measures = [measure for measure in measure_words if measure in gains]
    if "mean_iou" not in measures:
        return measures
    # A mean IoU is one of boxes. verbatim_accuracy, the share of texts equal to the truth's, says nothing of
    # them: a box that is a pixel off is another text and as good an answer.
    return [measure for measure in measures if measure != "verbatim_accuracy"]


def _row(
    decoding,  # greedy (the best guess) or sampled
    measure,  # such as exact_accuracy
    before,  # measure → value before training
    after,  # measure → value after it
    gains,  # measure → gain; also exact_accuracy_ci95, (low, high), and exact_accuracy_interval, its method
):
    "The figures of one measure as a dict, a row of a table: asked, measure, words, before, after, gain, …"
    low, high = map(_number, gains[f"{measure}_ci95"])
    return dict(
        asked="best guess" if decoding == "greedy" else decoding,
        measure=measure,
        words=measure_words[measure],
        before=_number(before[measure]),
        after=_number(after[measure]),
        gain=_number(gains[measure]),
        # None: the interval could not be computed, as for one picture.
        ci95=None if low is None or high is None else [low, high],
        # Older runs did not store the method, which was always "normal".
        interval=gains.get(f"{measure}_interval", "normal"))


def _number(value):
    "A number, or None for one that was not measured (JSON has no NaN), as it is; TypeError for anything else"
    if value is None or isinstance(value, (int, float)):
        return value
    raise TypeError(f"{value!r}: expected a number")
