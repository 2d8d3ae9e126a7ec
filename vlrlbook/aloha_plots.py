"""Figures of chapter 04: a set of robot films before training, a run, its confusion, a film that was judged.

`frames` is an `AlohaFrames` of chapter 04. Of it is used, with an entry for every frame of the data set:
`episodes` (which film), `moments` (the place in it), `labels` (the bin, -1 without a label), `kinds` (how the
label was read), `tasks` (in words); and `num_classes`, `labelled` and `cameras` of the whole.
Written by hand, not exported from a notebook."""
import re
from collections import Counter

import numpy as np

from .core import RunLog, blue, figure, film_strip, grey, orange, smooth
from .film_labels import bin_counts

__all__ = ["plot_analysis", "plot_training", "plot_confusion", "judged_film"]

_legend = dict(fontsize=7, frameon=False)
_dashed = dict(color=grey, lw=1, ls="--")  # a line to compare with
_dots = dict(color=orange, ms=5, mec="black", mew=0.6)  # what was measured now and then


# A data set

most_courses = 60  # films whose bins are drawn as lines; more would be one grey area


def plot_analysis(
    frames,  # `AlohaFrames`, all of a data set
):  # matplotlib figure
    "Bins, lengths, tasks, and how the bins run through the films"
    fig, axes = figure(9, 4.8, nrows=2, ncols=2)
    for draw, ax in zip((_draw_bins, _draw_lengths, _draw_tasks, _draw_course), axes.flat):
        draw(ax, frames)
        ax.title.set_fontsize(9)
    return fig


def _draw_bins(ax, frames):
    "Frames in each bin; orange: bin 0 only because the label says nothing"
    bins = range(frames.num_classes)
    ax.bar(bins, bin_counts(frames.labels, frames.num_classes), color=blue, label="labelled")
    silent = (frames.kinds == "zero").sum()
    if silent:
        ax.bar([0], [silent], color=orange, label="bin 0 by default")
        ax.legend(**_legend)
    title = f"frames in each bin (n = {len(frames.labels)})"
    ax.set(xlabel="bin", ylabel="frames", title=title, xticks=bins)


def _draw_lengths(ax, frames):
    "How long the films are"
    lengths = list(Counter(frames.episodes.tolist()).values())
    low, high = min(lengths), max(lengths)
    # A bar for each length, its middle at the number; at most 20 bars.
    bars = min(20, high - low + 1)
    edges = np.linspace(low - 0.5, high + 0.5, bars + 1)
    ax.hist(lengths, bins=edges, color=blue)
    title = "length of a film"
    if low == high:
        title = f"every film has {low} frames"
    ax.set_title(f"{title} (n = {len(lengths)})")
    ax.set(xlabel="frames", ylabel="films")
    ax.set_xlim(0, high * 1.1)


def _draw_tasks(ax, frames):
    "The nine commonest tasks"
    commonest = Counter(frames.tasks).most_common(9)[::-1]  # barh begins at the bottom
    names = [task[:34] for task, _ in commonest]
    counts = [count for _, count in commonest]
    ax.barh(names, counts, color=blue)
    ax.set_xlabel("frames")
    different = set(frames.tasks)
    ax.set_title(f"tasks (n = {len(different)})")


def _draw_course(ax, frames):
    "A line for each film, coloured by how it ends"
    films, ends = np.unique(frames.episodes)[:most_courses], Counter()
    for film in films if frames.labelled else ():  # there is no course without labels
        here = frames.episodes == film
        bins = frames.labels[here]
        end, colour = _end_of(bins, frames.num_classes - 1)
        ends[end, colour] += 1
        # Films are drawn a little above or below their bins, or all would lie on one line.
        height = 0.3 * (film % 11 / 11 - 0.5)
        ax.plot(frames.moments[here], bins + height, color=colour, alpha=0.4, lw=1)
    for (end, colour), count in sorted(ends.items()):
        ax.plot([], [], color=colour, lw=2, label=f"{end} ({count})")  # for the legend only
    if ends:
        ax.legend(loc="upper left", **_legend)
    ax.set(xlabel="moment", ylabel="bin")
    ax.set_title(f"bins through the films (n = {len(films)})")


def _end_of(bins, last):
    "How a film with these bins ends, in words, and the colour of it"
    if bins[-1] == last:
        return "ends in the last bin", blue
    return ("ends lower", orange) if bins.any() else ("never rises", grey)


# A run

def plot_training(
    log: RunLog,  # of a classifier's run
    validation: np.ndarray = None,  # labels of the validation frames: their number, a line for the commonest
):  # matplotlib figure
    "Loss of training and validation, and what validation says of the bins"
    fig, (loss, share) = figure(9, 2.8, ncols=2)
    _draw_loss(loss, log)
    _draw_validation(share, log, validation)
    for ax in (loss, share):
        ax.set_xlabel("step")
        ax.title.set_fontsize(9)
        ax.legend(fontsize=7.5, frameon=False)
    return fig


def _draw_loss(ax, log):
    "Loss of training, faint and smoothed, that of validation as dots"
    steps, values = log.series("loss")
    ax.plot(steps, values, color=blue, alpha=0.25, lw=1)
    ax.plot(steps, smooth(values), color=blue, lw=2, label="training")
    ax.plot(*log.series("eval/loss"), "o", label="validation", **_dots)
    ax.set(ylabel="loss", ylim=(0, None))
    ax.set_title(f"loss (n = {len(values)} rows)")


def _draw_validation(ax, log, labels):
    "Accuracy and macro-F1 on the validation films, and what always saying the commonest bin would get"
    ax.plot(*log.series("accuracy"), "o-", color=blue, ms=5, label="accuracy")
    ax.plot(*log.series("macro_f1"), "o-", color=orange, ms=5, label="macro_f1")
    title = "validation films"
    if labels is not None:
        title += f" (n = {len(labels)} frames)"
        # Accuracy that stays below it has learned nothing.
        commonest = np.bincount(labels).max() / len(labels)
        ax.axhline(commonest, label="commonest bin", **_dashed)
    ax.set_ylim(0, 1.03)
    ax.set_title(title)


def plot_confusion(
    results: dict,  # with `confusion` and `calibration`
):  # matplotlib figure
    "Counts of true against predicted bins, and whether its confidence comes true"
    fig, (grid, sure) = figure(9, 3.4, ncols=2)
    _draw_confusion(grid, np.array(results["confusion"]))
    _draw_calibration(sure, results["calibration"])
    for ax in (grid, sure):
        ax.title.set_fontsize(9)
    return fig


def _draw_confusion(ax, counts):
    "Counts [true bin, predicted bin] as a grid; the colour is the share of the true bin's frames"
    shares = counts / counts.sum(1, keepdims=True).clip(1)  # a bin without frames stays white
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), count in np.ndenumerate(counts):
        is_dark = count > counts[true].sum() / 2
        style = dict(fontsize=8, color="white" if is_dark else "black")
        ax.text(predicted, true, count, ha="center", va="center", **style)
    bins = range(len(counts))
    ax.set(xlabel="predicted bin", ylabel="true bin", xticks=bins, yticks=bins)
    ax.set_title(f"frames (n = {counts.sum()})")


def _draw_calibration(ax, calibration):
    "A dot for each class of confidence at the share that is right; on the dashed line confidence comes true"
    rows = calibration["bins"]  # of each: confidence and accuracy on average, n frames
    ax.plot([0, 1], [0, 1], **_dashed)
    confidences = [row["confidence"] for row in rows]
    accuracies = [row["accuracy"] for row in rows]
    # A dot's area grows with the root of its frames; with their number the largest would hide the others.
    roots = [row["n"] ** 0.5 for row in rows]
    ax.scatter(confidences, accuracies, s=[12 + 12 * root for root in roots], color=blue)
    style = dict(textcoords="offset points", fontsize=7, ha="right")
    for row, root in zip(rows, roots):
        # In points; further away the larger the dot is.
        left_of_the_dot = -4 - (3 + 3 * root) ** 0.5, -3
        place = row["confidence"], row["accuracy"]
        ax.annotate(f"n = {row['n']}", place, left_of_the_dot, **style)
    ax.set(xlabel="confidence", ylabel="share right")
    ax.set(xlim=(0, 1.03), ylim=(0, 1.05))
    ax.set_title(f"calibration, mean gap {calibration['ece']:.3f}")


def judged_film(
    run,  # `AlohaRun`, finished
    episode: int,  # one of the test films
    moments: int = 10,  # drawn
):  # matplotlib figure
    "One film with true and predicted bins beneath"
    # Places in `run.test`, whose `rows` are places among all frames; `run.probabilities` has a row for each.
    places = np.flatnonzero(run.frames.episodes[run.test.rows] == episode)
    count = min(moments, len(places))
    evenly = np.linspace(0, len(places) - 1, count).astype(int)
    chosen = places[evenly]
    items = run.test.__getitems__(chosen)
    # such as "right wrist" for observation.images.cam_right_wrist
    names = [re.sub(r".*cam_", "", camera) for camera in run.frames.cameras]
    names = [name.replace("_", " ") for name in names]
    # An item may show earlier moments first; the last pictures are those of the frame itself.
    cameras = len(names)
    pictures = [item["images"][-cameras:] for item in items]
    labels = [item["label"] for item in items]
    predicted = run.probabilities[chosen].argmax(1)
    fig = film_strip(pictures, labels, predicted, names)
    fig.suptitle(f"film {episode}: {items[0]['text']}", fontsize=9)
    return fig
