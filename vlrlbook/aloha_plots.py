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

most_courses = 60  # at most so many films are drawn as lines; more lines would be one grey area


def plot_analysis(
    frames,  # `AlohaFrames`, all of a data set
):  # matplotlib figure
    "Four panels of a data set: frames in each bin, lengths of films, tasks, and each film's bins over time"
    fig, axes = figure(9, 4.8, nrows=2, ncols=2)
    panels = (_draw_bins, _draw_lengths, _draw_tasks, _draw_course)
    for draw_panel, ax in zip(panels, axes.flat):
        draw_panel(ax, frames)
        ax.title.set_fontsize(9)
    return fig


def _draw_bins(
    ax,  # matplotlib axes
    frames,  # `AlohaFrames`; `labels` and `kinds` have an entry for each frame
):
    "A bar for each bin with the number of its frames; orange: frames that are in bin 0 only by default"
    bins = range(frames.num_classes)
    ax.bar(bins, bin_counts(frames.labels, frames.num_classes), color=blue, label="labelled")
    # kinds: how each frame's label was read, such as vector or zero
    all_zero_labels = (frames.kinds == "zero").sum()  # vectors of zeros name no bin, and count as bin 0
    if all_zero_labels:
        ax.bar([0], [all_zero_labels], color=orange, label="bin 0 by default")
        ax.legend(**_legend)
    title = f"frames in each bin (n = {len(frames.labels)})"
    ax.set(xlabel="bin", ylabel="frames", title=title, xticks=bins)


def _draw_lengths(
    ax,  # matplotlib axes
    frames,  # `AlohaFrames`; `episodes` has the film's number of each frame
):
    "A histogram of the number of frames in a film"
    lengths = list(Counter(frames.episodes.tolist()).values())  # frames in each film
    low, high = min(lengths), max(lengths)
    # A bar for each length, with its middle at that number; at most 20 bars, so that they stay readable.
    bars = min(20, high - low + 1)
    edges = np.linspace(low - 0.5, high + 0.5, bars + 1)
    ax.hist(lengths, bins=edges, color=blue)
    title = f"every film has {low} frames" if low == high else "length of a film"
    ax.set_title(f"{title} (n = {len(lengths)})")
    ax.set(xlabel="frames", ylabel="films")
    ax.set_xlim(0, high * 1.1)


def _draw_tasks(
    ax,  # matplotlib axes
    frames,  # `AlohaFrames`; `tasks` has the task of each frame, in words
):
    "A bar for each of the nine commonest tasks with the number of its frames"
    commonest = Counter(frames.tasks).most_common(9)[::-1]  # reversed: barh draws the first one at the bottom
    names = [task[:34] for task, _ in commonest]  # as many characters as there is room for
    counts = [count for _, count in commonest]
    places = range(len(names))  # not by name: two long tasks may begin with the same words
    ax.barh(places, counts, color=blue)
    ax.set_yticks(places, names)
    ax.set_xlabel("frames")
    different_tasks = set(frames.tasks)
    ax.set_title(f"tasks (n = {len(different_tasks)})")


def _draw_course(
    ax,  # matplotlib axes
    frames,  # `AlohaFrames`; for each frame `episodes` has its film's number, `labels` its bin (-1: none)
):
    "A line for each film: the bins of its frames, one after the other, coloured by how the film ends"
    films = np.unique(frames.episodes)[:most_courses]
    ends = Counter()  # (how films end, colour), such as ("ends lower", orange) → number of films
    if frames.labelled:  # False: the data set has no labels at all, so there are no lines to draw
        for film in films:
            ends[_draw_film(ax, frames, film)] += 1
    for (end, colour), count in sorted(ends.items()):
        ax.plot([], [], color=colour, lw=2, label=f"{end} ({count})")  # draws nothing but the legend's line
    if ends:
        ax.legend(loc="upper left", **_legend)
    ax.set(xlabel="moment", ylabel="bin")
    ax.set_title(f"bins through the films (n = {len(films)})")


def _draw_film(
    ax,  # matplotlib axes
    frames,  # `AlohaFrames`; for each frame `episodes` has its film, `moments` its place in it, from 0
    film,  # its number
):
    "Draw a line through the bins of a film's frames; returns (how it ends in words, the line's colour)"
    is_its_frame = frames.episodes == film
    bins = frames.labels[is_its_frame]
    end, colour = _end_of(bins, last_bin=frames.num_classes - 1)
    # A little above or below its bins, at one of 11 heights, or all films would lie on the same line.
    height = film % 11  # 0 to 10
    offset = 0.3 * (height / 11 - 0.5)
    ax.plot(frames.moments[is_its_frame], bins + offset, color=colour, alpha=0.4, lw=1)
    return end, colour


def _end_of(
    bins,  # array: of the film's frames, in the order of time
    last_bin,  # the highest bin that there is: success
):
    "How a film with these bins ends, as (words for the legend, colour)"
    if bins[-1] == last_bin:
        return "ends in the last bin", blue
    # any(): some bin is above 0; else the film stays in bin 0
    return ("ends lower", orange) if bins.any() else ("never rises", grey)


# A run

def plot_training(
    log: RunLog,  # of a classifier's run
    validation: np.ndarray = None,  # labels of the validation frames, for a line to compare with
):  # matplotlib figure
    "Two panels of a run: the loss in training and validation, and accuracy and macro-F1 in validation"
    fig, (loss_ax, validation_ax) = figure(9, 2.8, ncols=2)
    _draw_loss(loss_ax, log)
    _draw_validation(validation_ax, log, validation)
    for ax in (loss_ax, validation_ax):
        ax.set_xlabel("step")
        ax.title.set_fontsize(9)
        ax.legend(fontsize=7.5, frameon=False)
    return fig


def _draw_loss(
    ax,  # matplotlib axes
    log,  # `RunLog` of a classifier's run; a row has columns such as step, loss, eval/loss
):
    "The training loss as a faint line and smoothed, and the validation loss as dots"
    # series: the steps at which a column was logged, and its values there
    steps, losses = log.series("loss")
    ax.plot(steps, losses, color=blue, alpha=0.25, lw=1)
    ax.plot(steps, smooth(losses), color=blue, lw=2, label="training")
    validation_steps, validation_losses = log.series("eval/loss")
    ax.plot(validation_steps, validation_losses, "o", label="validation", **_dots)
    ax.set(ylabel="loss", ylim=(0, None))  # from 0, so that a small change does not look large
    ax.set_title(f"loss (n = {len(losses)} rows)")


def _draw_validation(
    ax,  # matplotlib axes
    log,  # `RunLog` of a classifier's run
    labels,  # bins of the validation frames, or None
):
    """Accuracy and macro-F1 on the validation films.

    A dashed line shows the accuracy of always predicting the commonest bin."""
    for name, colour in (("accuracy", blue), ("macro_f1", orange)):
        steps, values = log.series(name)
        ax.plot(steps, values, "o-", color=colour, ms=5, label=name)
    title = "validation films"
    if labels is not None:
        title += f" (n = {len(labels)} frames)"
        # A classifier whose accuracy stays below this line has learned nothing.
        share_of_commonest = np.bincount(labels).max() / len(labels)  # bincount: frames in each bin
        ax.axhline(share_of_commonest, label="commonest bin", **_dashed)
    ax.set_ylim(0, 1.03)
    ax.set_title(title)


def plot_confusion(
    results: dict,  # with `confusion` and `calibration`
):  # matplotlib figure
    """Two panels of a classifier's results: the confusion matrix, and the calibration.

    Calibration compares its confidence with the share of frames on which it is right."""
    fig, (confusion_ax, calibration_ax) = figure(9, 3.4, ncols=2)
    _draw_confusion(confusion_ax, np.array(results["confusion"]))
    _draw_calibration(calibration_ax, results["calibration"])
    for ax in (confusion_ax, calibration_ax):
        ax.title.set_fontsize(9)
    return fig


def _draw_confusion(
    ax,  # matplotlib axes
    counts,  # array [true bin, predicted bin]: on how many frames both occur together
):
    "Counts [true bin, predicted bin] as a grid; the colour is the share of the true bin's frames"
    frames_of_true_bin = counts.sum(1, keepdims=True)  # [true bin, 1]
    shares = counts / frames_of_true_bin.clip(1)  # a bin without frames is divided by 1 and stays white
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), count in np.ndenumerate(counts):
        is_dark = shares[true, predicted] > 0.5  # black digits could not be read there
        style = dict(fontsize=8, color="white" if is_dark else "black")
        # x is the column of the grid, y its row
        ax.text(predicted, true, count, ha="center", va="center", **style)
    bins = range(len(counts))
    ax.set(xlabel="predicted bin", ylabel="true bin", xticks=bins, yticks=bins)
    ax.set_title(f"frames (n = {counts.sum()})")


def _draw_calibration(
    ax,  # matplotlib axes
    calibration,  # dict: `bins`, the groups, and `ece`, their mean distance from the dashed line
):
    """A reliability diagram: a dot for each group of frames with about the same confidence.

    A dot stands over its mean confidence at the share of its frames that are right. A classifier whose
    confidence is true has its dots on the dashed line."""
    groups = calibration["bins"]  # dicts of confidence and accuracy (means of the group) and n (frames)
    ax.plot([0, 1], [0, 1], **_dashed)  # as often right as it is confident
    confidences = [group["confidence"] for group in groups]
    accuracies = [group["accuracy"] for group in groups]
    areas = [_area_of_dot(group["n"]) for group in groups]
    ax.scatter(confidences, accuracies, s=areas, color=blue)
    for group, area in zip(groups, areas):
        _write_count(ax, group, area)
    ax.set(xlabel="confidence", ylabel="share right")
    ax.set(xlim=(0, 1.03), ylim=(0, 1.05))
    ax.set_title(f"calibration, mean gap {calibration['ece']:.3f}")


def _area_of_dot(
    n,  # frames in the group
):
    "The area, in square points, of the dot of a group of `n` frames"
    # It grows with the square root of n; with n itself the largest dot would hide the others.
    root = n ** 0.5
    return 12 + 12 * root


def _write_count(
    ax,  # matplotlib axes
    group,  # dict of confidence, accuracy and n
    area,  # of its dot, square points
):
    "Write a group's number of frames left of its dot, 4 points from the dot's edge"
    # matplotlib's `s`, here `area`, is the square of a dot's diameter: (diameter / 2)² is a quarter of it
    radius = (area / 4) ** 0.5
    offset = (-4 - radius, -3)  # 3 points down: the middle of the text is as high as the dot
    place = (group["confidence"], group["accuracy"])
    ax.annotate(f"n = {group['n']}", place, offset, textcoords="offset points", fontsize=7, ha="right")


def judged_film(
    run,  # `AlohaRun`, finished
    episode: int,  # number of one of the test films
    moments: int = 10,  # how many frames are drawn
):  # matplotlib figure
    "Some frames of one test film, with the true and the predicted bin beneath each"
    chosen = _spread_over_film(run, episode, moments)
    items = run.test.__getitems__(chosen)  # a dict for each frame
    # "right wrist" for observation.images.cam_right_wrist
    camera_names = [re.sub(r".*cam_", "", camera) for camera in run.frames.cameras]
    camera_names = [name.replace("_", " ") for name in camera_names]
    # An item may begin with pictures of earlier frames (`AlohaFrames.shown_before`); the last ones, one for
    # each camera, show the frame itself.
    pictures = [item["images"][-len(camera_names):] for item in items]
    labels = [item["label"] for item in items]
    predicted = run.probabilities[chosen].argmax(1)  # the likeliest bin of each frame
    fig = film_strip(pictures, labels, predicted, camera_names)
    fig.suptitle(f"film {episode}: {items[0]['text']}", fontsize=9)
    return fig


def _spread_over_film(
    run,  # `AlohaRun`: `frames` are all frames of the data set, `test` those of the test films
    film,  # number of one of the test films
    most,  # how many frames at most; a shorter film is taken whole
):
    "Frames evenly spread over a film, as indices into the test frames"
    # episodes: the film of every frame of the data set; rows: the numbers of the test frames among them
    film_of_test_frames = run.frames.episodes[run.test.rows]
    film_indices = np.flatnonzero(film_of_test_frames == film)
    count = min(most, len(film_indices))
    evenly_spread = np.linspace(0, len(film_indices) - 1, count).astype(int)
    return film_indices[evenly_spread]
