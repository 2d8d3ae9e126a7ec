"""Marks of answers, one by one and over a whole file of predictions: what is right, what was gained, what an
answer that looks at nothing would earn.

The one scorer of the book: chapter 05 marks its run with it, chapter 06 any model or any file of answers, and
the verdict of every run (`verdict`) stands on it, so that a number in `results.json` of a run and the same
number in an evaluation can never differ. No torch: a server reads verdicts of old runs with it. Told on page
06. Written by hand."""
import math
import re
from collections import Counter
from functools import partial
from operator import itemgetter
from statistics import NormalDist

import numpy as np

from .core import mean_ci95, mean_of
from .metrics import difference, flips, metric
from .geometry import unit_of
from .readers.boxes import answer_form, read_box_truth, read_boxes, say_boxes
from .readers.turns import last_turn, looks_of
from .rewards import accepted_answers, answer_kind, answer_text, box_reward, counting_reward, final_answer
from .rewards import is_right
from .rewards import checked_on_batch, load_reward, normalise_answer, pay_of, point_reward, read_count
from .rewards import vqa_accuracy
from .rewards import word_overlap
from .rows.values import listed
# as a reward and a mark it stood here first; `vlrlbook.answers:verbatim` goes on naming it
from .rewards import verbatim_reward as verbatim

__all__ = ["answer_marks", "verbatim", "counting_marks", "pointing_marks", "is_closed", "word_scores",
           "vqa_marks", "marks", "summary", "gain", "counted", "merged", "hows", "columns", "guess_task",
           "main_mark", "flip_mark", "grade", "said_as", "truths_said_as", "score_rows", "pictures_of",
           "group_names", "by_group", "gains", "greedy_flips", "best_blind", "blind_metrics", "baselines",
           "seeing_gain", "all_metrics", "losing_groups"]

_not_applicable = float("nan")  # a mark that a question cannot have; it stays out of every mean


# Marking one answer

def answer_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> dict:  # exact and verbatim: 1 or 0; error: a distance of counts, nan where there is none; pointing: iou
    """The marks of one answer

    `exact` is 1 for a right answer; boxes are right if each has an IoU of 0.5 or more, with none too many and
    none missing. `verbatim` is 1 for the truth to the letter, `error` is how far the count is from the true
    one, and `iou` is the mean IoU of boxes."""
    if task == "pointing":
        return _box_marks(text, answer)
    if task == "zoom":
        text = last_turn(text)  # what the model says after its last call of the tool
    error = _not_applicable if task == "vqa" else _count_error(text, answer)
    return dict(exact=float(is_right(text, answer, task)), verbatim=_verbatim_mark(text, answer, task),
                error=error)


def _box_marks(
    text,  # what the model wrote
    answer,  # the truth, such as "[12, 40, 31, 59] in pixels of 112 x 112"
):
    """The marks of an answer of boxes, as a dict: exact and verbatim (1 or 0), error (nan), iou (0 to 1)

    Right (`exact`): each box overlaps its true one with an IoU of 0.5 or more. `error` is of counts alone."""
    exact = float(is_right(text, answer, "pointing"))
    # a truth also says its scale and the picture's size: `answer_form` takes " in pixels of 112 x 112" off
    is_verbatim = final_answer(text) in [answer_form(truth) for truth in accepted_answers(answer)]
    iou = grade(text, answer, "pointing")
    return dict(exact=exact, verbatim=float(is_verbatim), error=_not_applicable, iou=iou)


def _count_error(text, answer):
    "How far the count in an answer is from the true one, of several the nearest; nan if one cannot be read"
    count = read_count(text)
    truths = [read_count(truth) for truth in accepted_answers(answer)]
    true_counts = [truth for truth in truths if truth is not None]
    if count is None or not true_counts:
        return _not_applicable
    return float(min(abs(count - truth) for truth in true_counts))


def _verbatim_mark(
    text,  # what the model wrote; of VQA such as "<think>…</think><answer>left</answer>"
    answer,  # the truth, or a JSON list of texts any of which is right
    task,  # counting, vqa or zoom
):
    "1.0 if an answer is a truth to the letter, else 0.0; of VQA the text in the answer tags"
    # `answer_text` is None without tags, which equals no truth
    answer_part = answer_text(text) if task == "vqa" else text.strip()
    return float(answer_part in [truth.strip() for truth in accepted_answers(answer)])


def counting_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth
    reward=counting_reward,  # (completion, answer) → parts
) -> dict:  # exact, verbatim, within_one, error (nan where no count could be read), reward
    """The marks of one answer to a counting question

    `exact` is 1 for the right count in any words, `verbatim` only for the text of the truth itself."""
    # "zoom" serves both tasks that count: an answer is read behind its last call of the tool, and as a whole
    # where it has none.
    basic = answer_marks(text, answer, "zoom")
    return dict(
        exact=basic["exact"],
        verbatim=basic["verbatim"],
        within_one=float(basic["error"] <= 1),  # 0 without a count: nan <= 1 is False
        error=basic["error"],
        reward=pay_of(reward, text, answer),
    )


def pointing_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth, boxes
    reward=box_reward,  # (completion, answer) → parts; for the mark `reward`, and no other
) -> dict:  # iou, exact, inside, count, readable, off_scale, reward; each 0 to 1
    """The marks of one answer of boxes to the question where something is

    `exact` asks for an IoU of 0.5 or more for each box, `inside` only for its middle inside the true box.
    `off_scale` is 1 if the boxes would be right in another scale, such as pixels for thousandths."""
    parts = box_reward(text, answer)  # for the other marks, whatever `reward` is
    return dict(
        iou=parts["overall"],
        exact=float(is_right(text, answer, "pointing")),
        inside=point_reward(text, answer)["inside"],
        count=parts["count"],
        readable=parts["readable"],
        off_scale=parts["off_scale"],
        reward=pay_of(reward, text, answer),
    )


_closed_types = ("CLOSED", "CLOSEDENDED", "YESNO", "BINARY", "BOOLEAN")  # of a column `answer_type`
_open_types = ("OPEN", "OPENENDED")


def is_closed(
    row: dict,  # question, answer, and answer_type where the set has one
) -> bool:  # True for a closed question
    """Whether a VQA question is closed: answered by yes or no, a letter, or a choice that the question offers

    Where the data set has a column `answer_type` that says one of the two, that decides. Of several accepted
    answers the first one says what kind of question it is."""
    # "Closed-ended" and "yes/no " become CLOSEDENDED and YESNO
    type_letters = re.sub(r"[^A-Z]", "", str(row.get("answer_type")).upper())
    # any other word, such as VQA v2's "number" and "other", does not say it: the truth does
    if type_letters in _closed_types or type_letters in _open_types:
        return type_letters in _closed_types
    first_truth = accepted_answers(row["answer"])[0]
    if answer_kind(first_truth) in ("yes/no", "letter"):
        return True
    # A choice that the question offers: "Is it on the left or the right?". With the blanks, only whole words
    # match.
    truth = normalise_answer(first_truth)
    question = f" {normalise_answer(row.get('question', ''))} "
    return f" {truth} or " in question or f" or {truth} " in question


def word_scores(
    text: str,  # an answer
    truth: str,  # the true one, or a JSON list of texts any of which is right
) -> tuple:  # recall, f1
    """The share of the truth's words that an answer holds (recall), and the F1 of it and the precision

    Each word counts as often as it stands in both texts, so repeating a word earns nothing. Of several
    accepted answers the one with the highest F1 counts, as in the reward `f1`."""
    recalls_and_f1s = []
    for accepted in accepted_answers(truth):
        _, recall, f1 = word_overlap(text, accepted)
        recalls_and_f1s.append((recall, f1))
    return max(recalls_and_f1s, key=itemgetter(1))


def vqa_marks(
    text: str,  # what the model wrote
    row: dict,  # question, answer, and answer_type where the set has one
    reward=None,  # (completion, answer) → parts; None: accuracy and format as in chapter 02
) -> dict:  # accuracy, closed_accuracy, open_accuracy, open_recall, open_f1, answered, verbatim, reward
    "The marks of one answer to a VQA question; nan where one does not apply, as recall to a closed question"
    answer, reward = row["answer"], reward or load_reward("vqa")
    parts = vqa_accuracy(text, answer)  # a dict with accuracy and answered, each 1.0 or 0.0
    accuracy, closed = parts["accuracy"], is_closed(row)
    recall, f1 = word_scores(final_answer(text), answer)
    return dict(
        accuracy=accuracy,
        closed_accuracy=accuracy if closed else _not_applicable,
        open_accuracy=_not_applicable if closed else accuracy,
        open_recall=_not_applicable if closed else recall,
        open_f1=_not_applicable if closed else f1,
        answered=parts["answered"],  # 0.0 where the truth is, say, a number and the answer holds none
        verbatim=_verbatim_mark(text, answer, "vqa"),
        reward=pay_of(reward, text, answer),
    )


# Marking a run

def marks(
    samples: list,  # of `Sample`
    answers: list,  # texts for each sample
    reward=counting_reward,  # (completion, answer) → parts, or a batched one
) -> dict:  # reward, exact, error, verbatim: a number per sample, its answers averaged
    """The marks of each sample, averaged over its answers: mark → list, in the order of the samples

    The error is averaged over the answers in which a count could be read. Where boxes were asked for, there
    is also the mark `iou`."""
    names = ["reward", "exact", "error", "verbatim"]
    if any(sample.task == "pointing" for sample in samples):
        names.append("iou")
    marks_of_samples: dict = {name: [] for name in names}
    parts_of_answers = iter(_reward_parts(samples, answers, reward))  # one dict per answer, in order
    for sample, texts in zip(samples, answers):
        rewards = [next(parts_of_answers)["overall"] for _ in texts]
        marks_of_answers = [answer_marks(text, sample.answer, sample.task) for text in texts]
        means = _mean_marks(rewards, marks_of_answers)
        for name, values in marks_of_samples.items():
            values.append(means[name])
    return marks_of_samples


def _mean_marks(
    rewards,  # a number for each answer to one sample
    marks_of_answers,  # a dict for each: exact, error (nan without a count), verbatim; of boxes also iou
):
    "The marks of one sample, as a dict: the means over its answers"
    # An answer without a count has no error, and is left out of the mean error.
    errors = [m["error"] for m in marks_of_answers if not math.isnan(m["error"])]
    return dict(
        reward=mean_of(rewards),
        exact=mean_of(m["exact"] for m in marks_of_answers),
        error=mean_of(errors) if errors else _not_applicable,
        verbatim=mean_of(m["verbatim"] for m in marks_of_answers),
        # 0 in other tasks than pointing, where `marks` leaves it out
        iou=mean_of(m.get("iou", 0.0) for m in marks_of_answers),
    )


def _reward_parts(
    samples,  # list of `Sample`
    answers,  # for each of them a list of texts
    reward,  # (completion, answer) → parts, or one marked `batched`: (completions, samples) → list of parts
):
    """What the reward gives each answer, a dict such as {"overall": 1.0}: a flat list, sample after sample

    The reward is called for many answers at once, which saves time where it is a model."""
    pairs = []
    for sample, texts in zip(samples, answers):
        pairs += [(text, sample) for text in texts]
    # (texts, samples) → list of parts, also of a reward that marks one answer at a time
    batched_reward = checked_on_batch(reward)
    parts = []
    for start in range(0, len(pairs), _answers_at_once):
        texts, samples_of_texts = zip(*pairs[start:start + _answers_at_once])
        parts += batched_reward(list(texts), list(samples_of_texts))
    return parts


_answers_at_once = 64  # with one call per answer, a judge would spend most of its time on starting calls


def summary(
    scored: dict,  # from `marks`
) -> dict:  # exact_accuracy, mean_absolute_error, mean_reward, verbatim_accuracy, n; of boxes also mean_iou
    """The means over all samples that `results.json` holds; the error is None where no answer held a count

    exact: right in any words; verbatim: equal to the truth to the letter."""
    errors = [error for error in scored["error"] if not math.isnan(error)]
    iou_of_boxes = dict(mean_iou=_mean(scored["iou"])) if "iou" in scored else {}
    return iou_of_boxes | dict(
        exact_accuracy=_mean(scored["exact"]),
        mean_absolute_error=_mean(errors) if errors else None,
        mean_reward=_mean(scored["reward"]),
        verbatim_accuracy=_mean(scored["verbatim"]),
        n=len(scored["exact"]),
    )


def _mean(values):
    "The mean alone of what `mean_ci95` returns, (mean, interval)"
    mean, _ = mean_ci95(values)
    return mean


def gain(
    before: dict,  # from `marks`
    after: dict,  # the same samples
    pictures: list = None,  # the picture of each sample, where several share one; None: each has its own
) -> dict:  # mean_reward, exact_accuracy, verbatim_accuracy, each with its ci95 and the interval's name
    "What training gained: the mean over the samples of after less before, with paired 95 % intervals"
    # mark → its name in `results.json`; boxes are judged by their IoU, so it comes first
    names = dict(iou="mean_iou", reward="mean_reward", exact="exact_accuracy", verbatim="verbatim_accuracy")
    if "iou" not in before:
        del names["iou"]
    gained = {}
    for mark, name in names.items():
        # Pairing takes out how difficult each picture is: the interval is narrower than that of either side.
        changes = [late - early for early, late in zip(before[mark], after[mark])]
        metric_of_gain = difference("gain", changes, pictures, mark=mark)
        gained[name] = metric_of_gain["value"]
        gained[f"{name}_ci95"] = metric_of_gain["ci95"]
        gained[f"{name}_interval"] = metric_of_gain["interval"]
    return gained


def counted(
    texts: list,  # answers to one picture
) -> list:  # such as ["7 × A photo of 3 discs", "1 × A photo of 4 discs"]
    "Count equal answers to one picture: a text for each different answer, the most frequent first"
    # answers that differ only in white space at the ends look the same, so they count as equal
    counts = Counter(text.strip() or "(nothing)" for text in texts)
    return [f"{count} × {text}" for text, count in counts.most_common()]


def merged(
    texts: list,  # answers to one picture
) -> str:  # such as "7 × A photo of 3 discs; 1 × A photo of 4 discs"
    "The answers to one picture on one line, equal ones counted"
    return "; ".join(counted(texts))


# Marking a file of answers: a row per picture, a column per model and way of asking

hows = ("greedy", "sampled", "no_picture", "shuffled")  # ways of asking, the ends of a column's name


def columns(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
) -> list:  # of names, such as before_greedy
    "The names of the columns that hold answers, in the order in which they first appear"
    ends = tuple(f"_{how}" for how in hows)  # the ways of asking: _greedy, _sampled, …
    names = {}  # a dict used as a set that keeps its order
    for row in rows:
        for name in row:
            # prediction: the answers in a row of lmms-eval, see `prediction_files.as_ours`
            if name == "prediction" or name.endswith(ends):
                names[name] = None
    return list(names)


def guess_task(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
) -> str:  # counting, vqa, pointing or zoom
    "Guess the task of a file's rows from truths and answers; vqa for no rows and where no other task fits"
    if not rows:  # of no rows everything is true of all
        return "vqa"
    # of several accepted answers the first one says what kind of truth it is
    truths = [accepted_answers(row["answer"])[0] for row in rows]
    # only a truth of boxes says its picture's size; of any other text `size` is None
    if all(read_box_truth(truth).size for truth in truths):
        return "pointing"
    for row in rows:
        for column in columns([row]):
            answers = row[column]  # a list of texts, also of one
            # `looks_of` lists the turns of the zoom tool in an answer
            if any(looks_of(text) for text in answers):
                return "zoom"
    each_truth_is_a_count = all(read_count(truth) is not None for truth in truths)
    return "counting" if each_truth_is_a_count else "vqa"


def main_mark(
    task: str,  # counting, vqa, pointing or zoom
) -> str:  # exact for counts, accuracy for VQA, iou for boxes
    "The name of the mark by which a task is judged"
    return {"vqa": "accuracy", "pointing": "iou"}.get(task, "exact")


def flip_mark(
    task: str,  # counting, vqa, pointing or zoom
) -> str:  # the name of a mark that is 1 or 0
    """The mark by which answers are counted that became right or wrong

    It is the task's main mark, except for boxes: their IoU is any number, so `exact` is taken."""
    return "exact" if task == "pointing" else main_mark(task)


def grade(
    text: str,  # what the model wrote
    answer: str,  # the truth
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> float:  # 0 to 1
    "The task's main mark of one answer: 1 or 0 for right or wrong; of boxes their mean IoU"
    if task == "pointing":
        return box_reward(text, answer)["overall"]
    return float(is_right(text, answer, task))


def said_as(
    text: str,  # an answer
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> str:  # a count, boxes, a normalised answer, or "none" where there is none of these in the answer
    "An answer in a standard form: two wordings of the same answer become the same text"
    if task in ("counting", "zoom"):
        # `last_turn`: the text after the last call of the tool; all of it where none was called
        count = read_count(last_turn(text))
        return "none" if count is None else str(count)
    if task == "pointing":
        return _boxes_in_one_form(text)
    return normalise_answer(final_answer(text)) or "none"


def truths_said_as(
    answer: str,  # a truth, or a JSON list of texts any of which is right
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> list:  # of texts as from `said_as`, each once, the first accepted answer's first
    "The accepted answers of a question in the standard form in which answers are compared"
    return list(dict.fromkeys(said_as(truth, task) for truth in accepted_answers(answer)))


def _boxes_in_one_form(text):
    "The boxes of a truth or an answer in one form, for [1,2,3,4] and for JSON; \"none\" without boxes"
    boxes = read_box_truth(text).boxes or read_boxes(text).boxes
    # "fractions" here only means three decimal places: the numbers are not converted
    return say_boxes(boxes, "fractions") if boxes else "none"


def score_rows(
    rows: list,  # of a predictions file: dicts with `answer`, and lists of texts such as after_greedy
    task: str = None,  # counting, vqa, pointing or zoom; None guesses
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> dict:  # column → mark → array, a number per row
    "The marks of every answer, averaged over the answers to each picture"
    task = task or guess_task(rows)
    reward = reward or load_reward(task)
    scored = {}
    cache = {}  # (text, truth) → marks
    for column in columns(rows):
        marks_of_rows = []  # for each row a list with the marks of each of its answers
        for row in rows:
            marks_of_rows.append([_marks_of(text, row, task, reward, cache) for text in row[column]])
        scored[column] = _averaged(marks_of_rows)  # mark → array, a number per row
    return scored


def _marks_of(
    text,  # an answer
    row,  # dict with the truth, `answer`; of VQA also question and answer_type
    task,  # counting, vqa, pointing or zoom
    reward,  # (completion, answer) → parts
    cache,  # is filled in: (text, truth) → marks, since short answers repeat
):
    "The marks of one answer to a row, as a dict, such as exact → 1.0"
    if task == "vqa":
        return vqa_marks(text, row, reward)  # not kept: these marks depend on the row's question, too
    truth = row["answer"]
    if (text, truth) not in cache:
        mark_one = pointing_marks if task == "pointing" else counting_marks
        cache[text, truth] = mark_one(text, truth, reward)
    return cache[text, truth]


def _averaged(
    marks_of_rows,  # of one row at least; each a list of the marks of its answers: [[{"exact": 1.0}, …], …]
):
    """Average the marks over the answers of each row: returns mark → array with a number per row

    A mark that does not apply is nan and is left out of the mean; the mean of nothing but nan is nan."""
    averages = {}
    for name in marks_of_rows[0][0]:  # every answer of a task has the same marks
        means = []
        for marks_of_answers in marks_of_rows:
            values = np.array([m[name] for m in marks_of_answers])
            applicable = values[~np.isnan(values)]
            means.append(applicable.mean() if len(applicable) else _not_applicable)
        averages[name] = np.array(means)
    return averages


def pictures_of(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
) -> list | None:  # a name per row; None where no two rows share a picture, or where the file does not say
    """The picture of each row, for intervals that resample pictures instead of rows

    Rows with one picture are not independent of each other: the bootstrap must draw them together. A row
    without a picture shares it with no other one, and gets a name of its own."""
    pictures = [row.get("picture") for row in rows]
    named = [picture for picture in pictures if picture]
    if len(set(named)) == len(named):  # no two rows share one
        return None
    return [picture or f"no picture, row {i}" for i, picture in enumerate(pictures)]


def group_names(
    row: dict,  # question, answer, and question_type where the set has one
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> list:  # names; several for a question_type such as VQA-RAD's "POS, PRES" (position and presence)
    """The groups by which a row's answers are reported: its true count, number of boxes, or types of question

    Of several accepted answers the first one says the group."""
    first_truth = accepted_answers(row["answer"])[0]
    if task in ("counting", "zoom"):
        return [str(read_count(first_truth))]
    if task == "pointing":
        # to find one thing is easier than to find all of several
        return [str(len(read_box_truth(first_truth).boxes))]
    # without types, by the form of the truth, such as "yes/no"
    return _question_types(row.get("question_type")) or [answer_kind(first_truth)]


def _question_types(
    value,  # of the column question_type: a text such as "POS, PRES", a list of texts, None or NaN
):
    "The types of a question in capitals, each once; an empty list where the row names none"
    if value is None or isinstance(value, float) and math.isnan(value):  # an empty cell of a table
        return []
    if isinstance(value, str):  # a table may hold a list as text, such as "['POS', 'PRES']"
        value = listed(value) or value
    texts = value if isinstance(value, (list, tuple)) else [value]
    words = ",".join(map(str, texts)).split(",")
    types = [word.strip().upper() for word in words if word.strip()]
    return list(dict.fromkeys(types))


def by_group(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    values: dict,  # column → array, a number per row
    task: str = "counting",  # counting, vqa, pointing or zoom
    measure=metric,  # or `difference`; called with column, values, clusters and `group`
) -> list:  # of {group, n, column: metric, …}
    """Each column's mean and interval within each group of rows

    Groups of counts come in the order of the counts, types of questions by their size, the largest first."""
    pictures = pictures_of(rows)  # of each row, or None
    kind = {"counting": "count", "zoom": "count", "pointing": "boxes"}.get(task, "type")
    groups = []
    for group, indices in _indices_by_group(rows, task).items():
        clusters = None if pictures is None else [pictures[i] for i in indices]
        group_words = f"{kind} {group}"  # such as "count 3"
        metrics = {column: measure(column, numbers[indices], clusters, group=group_words)
                   for column, numbers in values.items()}
        groups.append(dict(group=group, n=len(indices)) | metrics)
    return groups


def _indices_by_group(
    rows,  # dicts with the truth, `answer`; of VQA also question_type, where the set has it
    task,  # counting, vqa, pointing or zoom
):
    """The rows of each group, a true count or a type of question: {"3": [0, 4], "10": [1]}, as indices

    Counts come in their order, types of questions the largest group first. A row may have several types."""
    indices = {}
    for i, row in enumerate(rows):
        for group in group_names(row, task):
            indices.setdefault(group, []).append(i)

    if task in ("counting", "pointing", "zoom"):
        # The names are counts as texts: by their length first, so that 2 comes before 10.
        order = sorted(indices, key=lambda group: (len(group), group))
    else:
        order = sorted(indices, key=lambda group: -len(indices[group]))
    return {group: indices[group] for group in order}


# What was gained

def gains(
    rows: list,  # with columns before_… and after_…
    scored: dict,  # from `score_rows` on the same rows: column → mark → array, a number per row
) -> list:  # of differences, their columns gain_greedy, gain_sampled, …
    "The paired differences, after less before, for each way of asking and each mark, with their intervals"
    differences, clusters = [], pictures_of(rows)  # clusters: rows of one picture are resampled together
    for how in hows:  # greedy, sampled, …
        before, after = scored.get(f"before_{how}"), scored.get(f"after_{how}")
        if before is None or after is None:  # not both models were asked in this way
            continue
        for mark in before:  # exact, reward, …
            gain_per_row = after[mark] - before[mark]
            differences.append(difference(f"gain_{how}", gain_per_row, clusters, mark=mark))
    return differences


def greedy_flips(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    task: str,  # counting, vqa, pointing or zoom
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> dict | None:  # became_right, became_wrong and p, from `flips`; None without answers before and after
    "How many answers training made right for the best guess (greedy decoding), and how many it made wrong"
    needed = ("question", "answer", "answer_type", "question_type", "before_greedy", "after_greedy")
    # without sampled answers, since `score_rows` would mark all of them for nothing
    greedy_rows = [{name: row[name] for name in needed if name in row} for row in rows]
    answer_columns = columns(greedy_rows)  # names of the columns with answers
    if not {"before_greedy", "after_greedy"} <= set(answer_columns):
        return None
    scored = score_rows(greedy_rows, task, reward)  # column → mark → array, a number per row
    mark = flip_mark(task)  # a mark that is 1 or 0, such as exact
    pictures = pictures_of(rows)  # a name per row; None where no two rows share a picture
    return flips(scored["before_greedy"][mark], scored["after_greedy"][mark], pictures)


# What needs no picture

def best_blind(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    pay,  # (text, row) → number, the same for rows of one truth
    task: str = "counting",  # counting, vqa, pointing or zoom
    most: int = 20,  # candidates in each group, the most common truths
) -> list:  # a text per row
    """For each row the one answer that earns most when it is given to every row of the row's group

    It shows what can be earned without looking at the pictures. VQA has a group for each type of question,
    other tasks one group of all rows. The candidates are the group's own truths; where a row accepts several
    answers, each of them is one. If the tags <think> and <answer> earn more, they are tried in these, too."""
    # [0]: of several types of a question the main one, which data sets name first
    group_of_each = [group_names(row, task)[0] if task == "vqa" else "" for row in rows]
    rows_of_group = {}  # group → its rows
    for group, row in zip(group_of_each, rows):
        rows_of_group.setdefault(group, []).append(row)
    best = {group: _best_for_all(members, pay, task, most) for group, members in rows_of_group.items()}
    return [best[group] for group in group_of_each]


def _best_for_all(
    rows,  # dicts with the truth, `answer`
    pay,  # (text, row) → what the text earns as an answer to the row; the same for rows of one truth
    task,  # counting, vqa, pointing or zoom
    most,  # how many of the commonest truths are tried
):
    "The one answer, a text, that earns most when all of these rows get it"
    truths = Counter(row["answer"] for row in rows)  # truth → how many rows have it
    row_with = {row["answer"]: row for row in rows}  # a row for each truth; `pay` is the same for all of them
    accepted: Counter = Counter()  # one text that is right → how many rows accept it
    for row in rows:
        # a dict, so that a row counts once for each text
        accepted.update(dict.fromkeys(accepted_answers(row["answer"]), 1))
    # texts that could be said without looking at the picture, the most accepted ones first
    candidates = _blind_candidates(accepted, task, most)
    # Where the reward pays for the form too, each is also tried in <think> and <answer> tags.
    if _earns_by_its_form(candidates, rows, pay):
        candidates = candidates + list(map(_in_tags, candidates))
    best, most_earned = "", -math.inf
    for candidate in candidates:  # the earliest one wins a tie
        # `fsum` rounds the same on every Python, so that the same candidate wins
        earned = math.fsum(count * pay(candidate, row_with[truth]) for truth, count in truths.items())
        if earned > most_earned:
            best, most_earned = candidate, earned
    return best


def _in_tags(text):
    "An answer in the form that VQA's prompt asks for, and for which the reward `format` pays"
    return f"<think>a guess</think><answer>{text}</answer>"


def _earns_by_its_form(
    candidates,  # texts, the commonest truth first; empty where there is none
    rows,  # dicts with the truth, `answer`
    pay,  # (text, row) → what the text earns as an answer to the row
):
    """Whether an answer in <think> and <answer> tags earns more than the bare answer

    Tried once, since a reward that pays for the form pays for it in every row, and it may be slow."""
    if not candidates:
        return False
    text = candidates[0]
    # a row that accepts it; rows[0] if none has it letter for letter, as with boxes
    row = next((row for row in rows if text in accepted_answers(row["answer"])), rows[0])
    return pay(_in_tags(text), row) > pay(text, row)


def _blind_candidates(
    truths,  # Counter: a single accepted answer → how many rows have it
    task,  # of pointing, truths are boxes
    most,  # how many truths to take
):
    "Answers to try without a look at a picture: the commonest truths; for boxes two typical ones as well"
    candidates = [truth for truth, _ in truths.most_common(most)]
    if task != "pointing":
        return candidates
    # Hardly two pictures share a truth, so two typical boxes may earn more: the whole picture and the median.
    # `answer_form` returns the boxes of a truth as a model would write them.
    return [answer_form(truth) for truth in candidates] + _middle_boxes(truths)


def _middle_boxes(
    truths,  # texts such as "[12, 40, 31, 59] in pixels of 112 x 112"
):
    """Two answers that one could give without looking, as texts: the whole picture, and a typical box

    The typical box has the median edges of the first box of every truth. An empty list where no truth says
    its scale."""
    box_truths = [read_box_truth(truth) for truth in truths]
    box_truths = [truth for truth in box_truths if truth.size and truth.boxes]
    if not box_truths:
        return []
    # all truths of a data set are in one scale, the model's: `in_scale_of` has written them so
    scale, size = box_truths[0].scale, box_truths[0].size
    width, height = unit_of(scale, size)  # of the whole picture in this scale: 1000 and 1000 in thousandths
    whole_picture = (0.0, 0.0, width, height)
    # the median, since one large thing would pull a mean towards it
    median_edges = np.median([truth.boxes[0] for truth in box_truths], axis=0)
    return [say_boxes([whole_picture], scale), say_boxes([tuple(median_edges)], scale)]


def blind_metrics(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    task: str = "counting",  # counting, vqa, pointing or zoom
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> list:  # two metrics: the main mark of "majority", the reward of "blind"
    """What answers earn that were chosen without looking at the pictures, by two measures

    "majority" is measured by the main mark and "blind" by the reward. Each has its own answers from
    `best_blind`: those that earn most by that measure."""
    reward = reward or load_reward(task)

    def mark_of(text, row):
        return grade(text, row["answer"], task)

    def reward_of(text, row):
        return pay_of(reward, text, row["answer"])

    return [_blind_metric(rows, task, "majority", main_mark(task), mark_of),
            _blind_metric(rows, task, "blind", "reward", reward_of)]


def _blind_metric(
    rows,  # dicts with the truth, `answer`
    task,  # counting, vqa, pointing or zoom
    column,  # name of the metric: majority or blind
    mark,  # name of what is measured: the task's main mark, such as exact (majority), or reward (blind)
    pay,  # (text, row) → number: that mark of a text as the row's answer; the same for rows of one truth
):
    "What the best answers earn that are given without a look at the pictures, as a metric with its interval"
    cache = {}  # (text, truth) → number: the few pairs repeat
    earned = []  # a number per row
    for text, row in zip(best_blind(rows, pay, task), rows):
        pair = text, row["answer"]
        if pair not in cache:  # a reward may be slow
            cache[pair] = pay(text, row)
        earned.append(cache[pair])
    return metric(column, earned, pictures_of(rows), mark=mark)  # rows of one picture are resampled together


def baselines(
    rows: list,  # question and answer of each; question_type where the set has one
    task: str,  # counting, vqa, pointing or zoom
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> dict:  # majority: share right; blind_reward: what the best answer earns (not of a batched reward)
    "What the best answers that need no picture would earn on these truths: two lines in the chart of a run"
    if getattr(reward, "batched", False):
        # Such a reward, for example a trained model's, also looks at pictures: no text alone has a reward.
        majority, _ = blind_metrics(rows, task)
        return dict(majority=majority["value"])
    majority, blind = blind_metrics(rows, task, reward)
    return dict(majority=majority["value"], blind_reward=blind["value"])


def seeing_gain(
    rows: list,  # with columns before_ and after_ greedy and shuffled
    scored: dict,  # from `score_rows` on the same rows: column → mark → array, a number per row
    mark: str = "exact",  # name of the mark to compare, such as exact, accuracy or iou
) -> dict | None:  # a difference, or None where a column is missing
    "How much more training gained with the right picture than with another one: what it learned by looking"
    # columns `shuffled`: the best guess to the same question, shown the picture of another row
    needed = ("after_greedy", "before_greedy", "after_shuffled", "before_shuffled")
    if not set(needed) <= set(scored):
        return None
    gain_with_own = scored["after_greedy"][mark] - scored["before_greedy"][mark]
    gain_with_other = scored["after_shuffled"][mark] - scored["before_shuffled"][mark]
    # Both hold what was gained without looking, so that cancels out.
    gain_by_looking = gain_with_own - gain_with_other
    clusters = pictures_of(rows)  # for the interval, which resamples rows of one picture together
    return difference("seeing_gain", gain_by_looking, clusters, mark=mark)


# All of it

def all_metrics(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    task: str = None,  # counting, vqa, pointing or zoom; None guesses
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> list:  # of metrics and differences
    "Every mark of every column, the gains, the controls, and the main mark of each count or type of question"
    task = task or guess_task(rows)
    scored = score_rows(rows, task, reward)  # column → mark → array, a number per row
    clusters = pictures_of(rows)  # rows of one picture are resampled together
    metrics = []
    for column, marks_of_column in scored.items():
        metrics += [metric(column, values, clusters, mark=mark) for mark, values in marks_of_column.items()]
    metrics += gains(rows, scored)
    gain_by_looking = seeing_gain(rows, scored, main_mark(task))  # None without answers to shuffled pictures
    if gain_by_looking:
        metrics.append(gain_by_looking)
    metrics += blind_metrics(rows, task, reward)  # what the best answers without a picture earn
    metrics += _group_metrics(rows, scored, task)
    return metrics


def _group_metrics(
    rows,  # dicts with the truth, `answer`, and columns of answers
    scored,  # column, such as after_greedy → mark, such as exact → array, a number per row
    task,  # counting, vqa, pointing or zoom
):
    "A list of metrics: the task's main mark of each column in each group of rows, and the gain in each group"
    main = main_mark(task)
    values = {column: marks_of_column[main] for column, marks_of_column in scored.items()}
    metrics = []
    # `by_group` calls them for each column in each group; a call returns one metric, a dict
    main_metric, main_difference = partial(metric, mark=main), partial(difference, mark=main)
    for group in by_group(rows, values, task, main_metric):  # {group, n, column: metric, …}
        metrics += [group[column] for column in values]
    if {"before_greedy", "after_greedy"} <= set(scored):
        change = {"gain_greedy": values["after_greedy"] - values["before_greedy"]}
        for group in by_group(rows, change, task, main_difference):
            metrics.append(group["gain_greedy"])
    return metrics


def losing_groups(
    metrics: list,  # from `all_metrics`
    main: str = "exact",  # the mark
) -> list:  # of the metrics of groups that clearly got worse
    """Groups that clearly got worse: the whole interval of their gain is below zero

    The 95 % intervals are first widened for the number of groups (Bonferroni): of many groups one often falls
    by luck alone."""
    group_gains = [m for m in metrics if m["group"] and (m["column"], m["mark"]) == ("gain_greedy", main)]
    widening = _bonferroni_widening(len(group_gains))
    losers = []
    for m in group_gains:
        _, high = m["ci95"]  # nan for a group with too few rows, which is then no loser: nan < 0 is False
        # the upper end moves away from the mean; the lower one does not matter for a loss
        widened_high = m["value"] + widening * (high - m["value"])
        if widened_high < 0:
            losers.append(m)
    return losers


def _bonferroni_widening(count):
    """The factor by which to widen each of `count` 95 % intervals, so that all hold at once with 95 %

    1 → 1.0, 10 → 1.43: each of ten may then miss with a tenth of 5 %. For normal distributions."""
    normal = NormalDist()
    # half widths in standard errors
    half_width_for_all = normal.inv_cdf(1 - 0.025 / max(1, count))
    half_width_for_one = normal.inv_cdf(0.975)
    return half_width_for_all / half_width_for_one
