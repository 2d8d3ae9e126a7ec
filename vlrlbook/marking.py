"""Marks of answers, one by one and over a whole file of predictions: what is right, what was gained, what an
answer that looks at nothing would earn.

The one scorer of the book: chapter 05 marks its run with it, chapter 06 any model or any file of answers, and
the verdict of every run (`verdict`) stands on it, so that a number in `results.json` of a run and the same
number in an evaluation can never differ. No torch: a server reads verdicts of old runs with it. Told on page
06. Written by hand."""
import math
from collections import Counter
from functools import partial
from statistics import NormalDist

import numpy as np

from .core import mean_ci95, mean_of
from .metrics import difference, flips, metric
from .geometry import unit_of
from .readers.boxes import answer_form, read_box_truth, read_boxes, say_boxes
from .readers.turns import last_turn, looks_of
from .rewards import answer_kind, answer_text, box_reward, counting_reward, final_answer, is_right
from .rewards import load_reward, normalise_answer, on_batch, point_reward, read_count, vqa_accuracy
from .rewards import word_overlap
# as a reward and a mark it stood here first; `vlrlbook.answers:verbatim` goes on naming it
from .rewards import verbatim_reward as verbatim

__all__ = ["answer_marks", "verbatim", "counting_marks", "pointing_marks", "is_closed", "word_scores",
           "vqa_marks", "marks", "summary", "gain", "counted", "merged", "hows", "columns", "guess_task",
           "main_mark", "flip_mark", "grade", "said_as", "score_rows", "pictures_of", "group_names",
           "by_group", "gains", "greedy_flips", "best_blind", "blind_metrics", "baselines", "seeing_gain",
           "all_metrics", "losing_groups"]

_not_applicable = float("nan")  # a mark that a question cannot have; it stays out of every mean


# Marking one answer

def answer_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> dict:  # exact and verbatim: 1 or 0; error: a distance of counts, nan where there is none; pointing: iou
    """Marks of one answer: `exact`, the right count or answer; `verbatim`, the truth to the letter; `error`

    Of boxes `exact` is an IoU of 0.5 or more for each, none too many, none missing; `iou` is their mean."""
    # an error is a distance of counts; how far a box is off, its IoU says
    if task == "pointing":
        iou = grade(text, answer, task)
        said = final_answer(text) == answer_form(answer)
        found = float(is_right(text, answer, task))
        return dict(exact=found, verbatim=float(said), error=_not_applicable, iou=iou)
    error = _not_applicable
    if task == "zoom":
        text = last_turn(text)
    if task != "vqa":
        count, truth = read_count(text), read_count(answer)
        if count is not None and truth is not None:
            error = float(abs(count - truth))
    exact = float(is_right(text, answer, task))
    return dict(exact=exact, verbatim=_verbatim_mark(text, answer, task), error=error)


def _verbatim_mark(text, answer, task):
    "1.0 for the truth to the letter, of VQA inside its tags"
    # Without tags there is no VQA answer: None, which equals no truth.
    said = answer_text(text) if task == "vqa" else text.strip()
    return float(said == answer.strip())


def counting_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth
    reward=counting_reward,  # (completion, answer) → parts
) -> dict:  # exact, verbatim, within_one, error (nan where no count could be read), reward
    "The marks of one answer to a counting question; `exact` asks for the count, `verbatim` for the sentence"
    found = answer_marks(text, answer, "zoom")  # of an answer without a tool the same as "counting"
    return dict(
        exact=found["exact"],
        verbatim=found["verbatim"],
        within_one=float(found["error"] <= 1),  # nan is not
        error=found["error"],
        reward=float(reward(text, answer)["overall"]),
    )


def pointing_marks(
    text: str,  # what the model wrote
    answer: str,  # the truth, boxes
    reward=box_reward,  # (completion, answer) → parts
) -> dict:  # iou, exact, inside, count, readable, off_scale, reward; each 0 to 1
    "The marks of one answer to where something is; `exact` asks for an IoU of 0.5, `inside` for the middle"
    parts = box_reward(text, answer)
    return dict(
        iou=parts["overall"],
        exact=float(is_right(text, answer, "pointing")),
        inside=point_reward(text, answer)["inside"],
        count=parts["count"],
        readable=parts["readable"],
        off_scale=parts["off_scale"],
        reward=float(reward(text, answer)["overall"]),
    )


def is_closed(
    row: dict,  # question, answer, and answer_type where the set has one
) -> bool:  # a closed question
    "The set's own word for it; else yes/no, a letter, or a choice that the question offers"
    if row.get("answer_type"):
        return str(row["answer_type"]).strip().upper() == "CLOSED"
    if answer_kind(row["answer"]) in ("yes/no", "letter"):
        return True
    # A choice that the question offers: "Is it on the left or the right?", with blanks for whole words.
    truth = normalise_answer(row["answer"])
    question = f" {normalise_answer(row.get('question', ''))} "
    return f" {truth} or " in question or f" or {truth} " in question


def word_scores(
    text: str,  # an answer
    truth: str,  # the true one
) -> tuple:  # recall, f1
    "Overlap of words, each counted as often as it stands in both: repeating a word earns nothing"
    _, recall, f1 = word_overlap(text, truth)
    return recall, f1


def vqa_marks(
    text: str,  # what the model wrote
    row: dict,  # question, answer, and answer_type where the set has one
    reward=None,  # (completion, answer) → parts; None: accuracy and format as in chapter 02
) -> dict:  # accuracy, closed_accuracy, open_accuracy, open_recall, open_f1, answered, verbatim, reward
    "The marks of one answer to a VQA question; nan where one does not apply, as recall to a closed question"
    answer, reward = row["answer"], reward or load_reward("vqa")
    parts = vqa_accuracy(text, answer)
    right, closed = parts["accuracy"], is_closed(row)
    recall, f1 = word_scores(final_answer(text), answer)
    return dict(
        accuracy=right,
        closed_accuracy=right if closed else _not_applicable,
        open_accuracy=_not_applicable if closed else right,
        open_recall=_not_applicable if closed else recall,
        open_f1=_not_applicable if closed else f1,
        answered=parts["answered"],
        verbatim=_verbatim_mark(text, answer, "vqa"),
        reward=float(reward(text, answer)["overall"]),
    )


# Marking a run

def marks(
    samples: list,  # of `Sample`
    answers: list,  # texts for each sample
    reward=counting_reward,  # (completion, answer) → parts, or a batched one
) -> dict:  # reward, exact, error, verbatim: a number per sample, its answers averaged
    """Each sample's mean reward, share right, mean error of counts that were read, share equal to the truth

    Where boxes were asked for also the mean `iou`."""
    out = {"reward": [], "exact": [], "error": [], "verbatim": []}
    if any(sample.task == "pointing" for sample in samples):
        out["iou"] = []
    paid_in_order = iter(_paid(samples, answers, reward))
    for sample, texts in zip(samples, answers):
        found = [answer_marks(text, sample.answer, sample.task) for text in texts]
        # An answer without a number has no error; counting it as a large one would need a size made up.
        errors = [m["error"] for m in found if not math.isnan(m["error"])]
        paid = [next(paid_in_order) for _ in texts]
        out["reward"].append(mean_of(parts["overall"] for parts in paid))
        out["exact"].append(mean_of(m["exact"] for m in found))
        out["error"].append(mean_of(errors) if errors else _not_applicable)
        out["verbatim"].append(mean_of(m["verbatim"] for m in found))
        if "iou" in out:
            out["iou"].append(mean_of(m.get("iou", 0.0) for m in found))
    return out


def _paid(samples, answers, reward):
    "The parts of every answer, one after the other; a reward that is a model is asked about many at once"
    asked = []
    for sample, texts in zip(samples, answers):
        asked += [(text, sample) for text in texts]
    pay, found = on_batch(reward), []
    for start in range(0, len(asked), _answers_at_once):
        texts, of_samples = zip(*asked[start:start + _answers_at_once])
        found += pay(list(texts), list(of_samples))
    return found


_answers_at_once = 64  # with one call an answer a judge would spend its time on beginning


def summary(
    scored: dict,  # from `marks`
) -> dict:  # exact_accuracy, mean_absolute_error, mean_reward, verbatim_accuracy, n; of boxes also mean_iou
    "The means that `results.json` holds; the error is None where no answer held a count"
    errors = [error for error in scored["error"] if not math.isnan(error)]
    of_boxes = dict(mean_iou=mean_ci95(scored["iou"])[0]) if "iou" in scored else {}
    return of_boxes | dict(
        exact_accuracy=mean_ci95(scored["exact"])[0],
        mean_absolute_error=mean_ci95(errors)[0] if errors else None,
        mean_reward=mean_ci95(scored["reward"])[0],
        verbatim_accuracy=mean_ci95(scored["verbatim"])[0],
        n=len(scored["exact"]),
    )


def gain(
    before: dict,  # from `marks`
    after: dict,  # the same samples
    pictures: list = None,  # the picture of each sample, where several share one
) -> dict:  # mean_reward, exact_accuracy, verbatim_accuracy, each with its ci95 and the interval's name
    "Paired differences over the same pictures, with 95 % intervals"
    out, names = {}, dict(reward="mean_reward", exact="exact_accuracy", verbatim="verbatim_accuracy")
    # first where it is there: it is what such a task is judged by
    if "iou" in before:
        names = dict(iou="mean_iou") | names
    for mark, name in names.items():
        # Pairing takes the pictures' difficulty out, so the interval is narrower than that of either side.
        changes = [late - early for early, late in zip(before[mark], after[mark])]
        found = difference("gain", changes, pictures, mark=mark)
        out[name] = found["value"]
        out[f"{name}_ci95"] = found["ci95"]
        out[f"{name}_interval"] = found["interval"]
    return out


def counted(
    texts: list,  # answers to one picture
) -> list:  # such as ["7 × A photo of 3 discs", "1 × A photo of 4 discs"]
    "Several answers, equal ones counted, the most frequent first"
    # Blanks at the ends are no difference that a reader could see.
    counts = Counter(text.strip() or "(nothing)" for text in texts)
    return [f"{count} × {text}" for text, count in counts.most_common()]


def merged(
    texts: list,  # answers to one picture
) -> str:  # such as "7 × A photo of 3 discs; 1 × A photo of 4 discs"
    "Several answers on one line, equal ones counted"
    return "; ".join(counted(texts))


# Marking a file of answers: a row per picture, a column per model and way of asking

hows = ("greedy", "sampled", "no_picture", "shuffled")  # ways of asking, the ends of a column's name


def columns(
    rows: list,  # of a predictions file
) -> list:  # such as before_greedy
    "The columns that hold answers, in order of first sight"
    ends = tuple(f"_{how}" for how in hows)
    found = {}  # a dict keeps the order of first sight
    for row in rows:
        for name in row:
            if name == "prediction" or name.endswith(ends):
                found[name] = None
    return list(found)


def guess_task(
    rows: list,  # of a predictions file
) -> str:  # counting, vqa, pointing or zoom
    "The task of a file's rows, told by its truths and answers; VQA where nothing else is plain"
    # pointing: every truth is boxes with their scale; zoom: an answer has called a tool;
    # counting: every truth holds a count
    if all(read_box_truth(row["answer"]).size for row in rows):
        return "pointing"
    for row in rows:
        for column in columns([row]):
            if any(looks_of(text) for text in row[column]):
                return "zoom"
    return "counting" if all(read_count(row["answer"]) is not None for row in rows) else "vqa"


def main_mark(
    task: str,  # counting, vqa or pointing
) -> str:  # the mark by which a task is judged
    "exact for counts, accuracy for VQA, iou for boxes"
    return {"vqa": "accuracy", "pointing": "iou"}.get(task, "exact")


def flip_mark(
    task: str,  # counting, vqa or pointing
) -> str:  # a mark that is 1 or 0
    "The mark whose changes are counted: `main_mark`, of boxes an IoU of 0.5 or more"
    return "exact" if task == "pointing" else main_mark(task)


def grade(
    text: str,  # what the model wrote
    answer: str,  # the truth
    task: str = "counting",  # counting, vqa or pointing
) -> float:  # 0 to 1
    "The task's main mark of one answer, `main_mark`: right or wrong, of boxes their IoU"
    return box_reward(text, answer)["overall"] if task == "pointing" else float(is_right(text, answer, task))


def said_as(
    text: str,  # an answer
    task: str = "counting",  # counting, vqa or pointing
) -> str:  # a count, a normalised answer, or "none"
    "The class that an answer falls into: two wordings of one answer are the same class"
    if task in ("counting", "zoom"):
        count = read_count(last_turn(text))
        return "none" if count is None else str(count)
    if task == "pointing":
        # one model writes [1,2,3,4], another the same in JSON
        return _said_boxes(text)
    return normalise_answer(final_answer(text)) or "none"


def _said_boxes(text):
    "Boxes as a class: of a truth, or of an answer, whose numbers stand for themselves"
    boxes = read_box_truth(text).boxes or read_boxes(text).boxes
    return say_boxes(boxes, "fractions") if boxes else "none"


def score_rows(
    rows: list,  # of a predictions file, each column a list of texts
    task: str = None,  # counting, vqa or pointing; None guesses
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> dict:  # column → mark → array, a number per row
    "The marks of every answer, averaged over the answers to each picture"
    task = task or guess_task(rows)
    reward = reward or load_reward(task)
    scored, known = {}, {}
    for column in columns(rows):
        marked = []
        for row in rows:
            if task == "vqa":
                marked.append([vqa_marks(text, row, reward) for text in row[column]])
            else:
                # short answers repeat, and so do their marks
                of_one = pointing_marks if task == "pointing" else counting_marks
                truth = row["answer"]
                marked.append([_known_marks(of_one, text, truth, reward, known) for text in row[column]])
        scored[column] = _averaged(marked)
    return scored


def _known_marks(marks_of_one, text, answer, reward, known):
    "The marks of an answer, each pair of text and truth looked at once, since most answers are repeats"
    if (text, answer) not in known:
        known[text, answer] = marks_of_one(text, answer, reward)
    return known[text, answer]


def _averaged(marked):
    "A list of marks per row → mark → array of means; nan stays out of a mean unless there is nothing else"
    averages = {}
    for name in marked[0][0]:  # every answer of a task has the same marks
        means = []
        for of_one_row in marked:
            values = np.array([m[name] for m in of_one_row])
            known = values[~np.isnan(values)]
            means.append(known.mean() if len(known) else _not_applicable)
        averages[name] = np.array(means)
    return averages


def pictures_of(
    rows: list,  # of a predictions file
) -> list | None:  # a name per row, or None where no two rows share a picture, or it is not known
    "What rows must be drawn together"
    keys = [row.get("picture") for row in rows]
    some_shared = len(set(keys)) < len(keys)
    return keys if all(keys) and some_shared else None


def group_names(
    row: dict,  # question, answer, and question_type where the set has one
    task: str = "counting",  # counting, vqa or pointing
) -> list:  # the groups that it belongs to; "POS, PRES" is in both
    "The true count, the number of boxes, or the type of the question"
    if task in ("counting", "zoom"):
        return [str(read_count(row["answer"]))]
    if task == "pointing":
        # one thing and several are other tasks: to find, and to find all
        return [str(len(read_box_truth(row["answer"]).boxes))]
    words = str(row.get("question_type", "")).split(",")
    types = [word.strip().upper() for word in words if word.strip()]
    return types or [answer_kind(row["answer"])]


def by_group(
    rows: list,  # of a predictions file
    values: dict,  # column → array, a number per row
    task: str = "counting",  # counting, vqa or pointing
    measure=metric,  # or `difference`; called with column, values, clusters and `group`
) -> list:  # of {group, n, column: metric, …}
    "Each column's mean and interval within each group, small counts and large groups first"
    members, pictures = {}, pictures_of(rows)
    for i, row in enumerate(rows):
        for group in group_names(row, task):
            members.setdefault(group, []).append(i)
    if task in ("counting", "pointing", "zoom"):
        order = sorted(members, key=lambda group: (len(group), group))  # 2 before 10, though both are texts
    else:
        order = sorted(members, key=lambda group: -len(members[group]))
    # The word in a metric's name, such as "count 3".
    groups, kind = [], {"counting": "count", "zoom": "count", "pointing": "boxes"}.get(task, "type")
    for group in order:
        inside = members[group]
        clusters = None if pictures is None else [pictures[i] for i in inside]
        found = dict(group=group, n=len(inside))
        for column, numbers in values.items():
            found[column] = measure(column, numbers[inside], clusters, group=f"{kind} {group}")
        groups.append(found)
    return groups


# What was gained

def gains(
    rows: list,  # with columns before_… and after_…
    scored: dict,  # from `score_rows` on the same rows
) -> list:  # of differences, their columns gain_greedy, gain_sampled, …
    "After less before, picture by picture, for each way of asking and each mark"
    found, clusters = [], pictures_of(rows)
    for how in hows:
        before, after = scored.get(f"before_{how}"), scored.get(f"after_{how}")
        if before is None or after is None:
            continue
        for mark in before:
            found.append(difference(f"gain_{how}", after[mark] - before[mark], clusters, mark=mark))
    return found


def greedy_flips(
    rows: list,  # of a predictions file
    task: str,  # counting, vqa or pointing
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> dict | None:  # from `flips`, or None where a file does not have both
    "How many pictures the best guess got right that it got wrong before, and the other way round"
    # Only the best guesses are scored again: sampled answers are many, and a share of them cannot flip.
    needed = ("question", "answer", "answer_type", "question_type", "before_greedy", "after_greedy")
    kept = [{name: row[name] for name in needed if name in row} for row in rows]
    if not {"before_greedy", "after_greedy"} <= set(columns(kept)):
        return None
    scored, mark = score_rows(kept, task, reward), flip_mark(task)
    return flips(scored["before_greedy"][mark], scored["after_greedy"][mark])


# What needs no picture

def best_blind(
    rows: list,  # of a predictions file
    pay,  # (text, row) → number, the same for rows of one truth
    task: str = "counting",  # counting, vqa or pointing
    most: int = 20,  # candidates in each group, the most common truths
) -> list:  # a text per row
    "The best answer to a whole group (all counts; each type of question) that does not depend on the picture"
    members = {}
    for i, row in enumerate(rows):
        group = group_names(row, task)[0] if task == "vqa" else ""
        members.setdefault(group, []).append(i)
    texts = [""] * len(rows)
    for inside in members.values():
        truths = Counter(rows[i]["answer"] for i in inside)
        row_of = {rows[i]["answer"]: rows[i] for i in inside}  # pay depends on the truth of a row alone
        best, most_earned = "", -math.inf
        candidates = [candidate for candidate, _ in truths.most_common(most)]
        if task == "pointing":
            # hardly two pictures share a truth, so the commonest is a poor guess
            candidates = [answer_form(candidate) for candidate in candidates] + _middle_boxes(truths)
        for candidate in candidates:
            # `fsum`: ties are ties on every Python
            earned = math.fsum(count * pay(candidate, row_of[truth]) for truth, count in truths.items())
            if earned > most_earned:
                best, most_earned = candidate, earned
        for i in inside:
            texts[i] = best
    return texts


def _middle_boxes(truths):
    "Boxes that one would say without looking: the whole picture, and the median edges of all first boxes"
    # all in one scale: `in_scale_of` has written them in the model's
    known = [read_box_truth(truth) for truth in truths]
    # of the truths that say their scale: a box has to be written in one
    known = [truth for truth in known if truth.size and truth.boxes]
    if not known:
        return []
    scale, size = known[0].scale, known[0].size
    whole = (0.0, 0.0, *unit_of(scale, size))
    # the median, since one large thing would pull a mean towards it
    edges = np.median([truth.boxes[0] for truth in known], axis=0)
    return [say_boxes([whole], scale), say_boxes([tuple(edges)], scale)]


def blind_metrics(
    rows: list,  # of a predictions file
    task: str = "counting",  # counting, vqa or pointing
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> list:  # two metrics: the main mark of "majority", the reward of "blind"
    "What the best answers that need no picture earn"
    reward, pictures = reward or load_reward(task), pictures_of(rows)

    def right(text, row):
        return grade(text, row["answer"], task)

    def paid(text, row):
        return float(reward(text, row["answer"])["overall"])

    found = []
    for column, mark, pay in (("majority", main_mark(task), right), ("blind", "reward", paid)):
        known, earned = {}, []
        for text, row in zip(best_blind(rows, pay, task), rows):
            pair = text, row["answer"]
            if pair not in known:
                known[pair] = pay(text, row)
            earned.append(known[pair])
        found.append(metric(column, earned, pictures, mark=mark))
    return found


def baselines(
    rows: list,  # question and answer of each; question_type where the set has one
    task: str,  # counting, vqa or pointing
    reward=None,  # (completion, answer) → parts; a trained one is not asked, since it looks at pictures
) -> dict:  # majority: share right; blind_reward: what the best blind answer earns, if the reward reads text
    "What the best answers that look at nothing would get on these truths: lines for the chart of a run"
    # The share right can be had either way; for it the reward is not needed.
    reads_text = not getattr(reward, "batched", False)
    majority, blind = blind_metrics(rows, task, reward if reads_text else None)
    found = dict(majority=majority["value"])
    if reads_text:
        found["blind_reward"] = blind["value"]
    return found


def seeing_gain(
    rows: list,  # with columns before_ and after_ greedy and shuffled
    scored: dict,  # from `score_rows` on the same rows
    mark: str = "exact",  # which mark
) -> dict | None:  # a difference, or None where a column is missing
    "Gain with the right picture less gain with another one, picture by picture"
    # shuffled: the best guess again, with the picture of another row
    needed = ("after_greedy", "before_greedy", "after_shuffled", "before_shuffled")
    if not set(needed) <= set(scored):
        return None
    after, before, after_other, before_other = (scored[column][mark] for column in needed)
    # What training gained without looking it gained with a shuffled picture too, and it falls out.
    seen = (after - before) - (after_other - before_other)
    return difference("seeing_gain", seen, pictures_of(rows), mark=mark)


# All of it

def all_metrics(
    rows: list,  # of a predictions file
    task: str = None,  # counting, vqa or pointing; None guesses
    reward=None,  # (completion, answer) → parts; None: the task's own
) -> list:  # of metrics and differences
    "Every mark of every column, the gains, the controls, and the main mark of each count or type of question"
    task = task or guess_task(rows)
    scored, clusters, main = score_rows(rows, task, reward), pictures_of(rows), main_mark(task)
    found = []
    for column, marks_of_column in scored.items():
        for mark, values in marks_of_column.items():
            found.append(metric(column, values, clusters, mark=mark))
    found += gains(rows, scored)
    seen = seeing_gain(rows, scored, main)
    found += [seen] if seen else []
    found += blind_metrics(rows, task, reward)
    values = {column: marks_of_column[main] for column, marks_of_column in scored.items()}
    for group in by_group(rows, values, task, partial(metric, mark=main)):
        found += [group[column] for column in values]
    if {"before_greedy", "after_greedy"} <= set(scored):
        change = {"gain_greedy": values["after_greedy"] - values["before_greedy"]}
        groups = by_group(rows, change, task, partial(difference, mark=main))
        found += [group["gain_greedy"] for group in groups]
    return found


def losing_groups(
    metrics: list,  # from `all_metrics`
    main: str = "exact",  # the mark
) -> list:  # of the metrics of groups that clearly got worse
    "Groups whose gain is below zero, its interval widened for the number of groups"
    # Bonferroni on the normal scale: with many groups one of them falls by luck alone.
    found = [m for m in metrics if m["group"] and (m["column"], m["mark"]) == ("gain_greedy", main)]
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / max(1, len(found))) / normal.inv_cdf(0.975)
    losers = []
    for m in found:
        half = m["ci95"][1] - m["value"]
        if m["value"] + wider * half < 0:
            losers.append(m)
    return losers
