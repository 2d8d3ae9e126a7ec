"""Did a run get better? The questions that a gain must survive, asked of its answers, and one word and one
sentence that say what came of it.

Stands first in `results.json` of every run, in its model card, in its report and on the service's page. It
needs the answers before and after training and nothing else: no model, no torch, so that a server can read
the verdict of an old run. Chapter 06 tells what each question means. Written by hand."""
import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

from .marking import best_blind, blind_metrics, by_group, columns, gains, group_names, guess_task
from .marking import flip_mark, grade, losing_groups, main_mark, pictures_of, said_as, score_rows, seeing_gain
from .marking import truths_said_as
from .metrics import difference, flips, metric, with_interval
from .readers.turns import last_turn
from .rewards import accepted_answers, known_rewards, load_reward
from .settings import by_task, reward_terms

__all__ = ["outcomes", "good_outcomes", "questions", "verdict_of", "not_measured", "no_answers",
           "read_verdict", "verdict_line", "read_answers", "commonest"]

# What came of a run: a word, and what it means. A page colours by it: green is for "better" alone.
outcomes = {
    "better": "the best guess is right clearly more often than before, and than one answer to everything",
    "surer": "sampled answers are right more often, the best guess is not: the same guesses, with less doubt",
    "not better": "there are enough pictures to see a gain of ten points, and there is none",
    "worse": "the best guess is right clearly less often than before",
    "no better than one answer": "right more often than before, but one answer to everything does as well",
    "not as meant": "answers that count as right became more, answers equal to the truth did not",
    "gamed": "a trained reward pays clearly more than before, and answers are right no more often",
    "collapsed": "nearly every picture gets the same answer, whatever it shows",
    "one truth": "all held-out pictures have the same truth, so one answer to everything is always right",
    "too few pictures": "gain and loss are both possible: more held-out pictures are needed to tell",
    "not measured": "the run kept no answers from before and after training",
}
good_outcomes = ("better",)

nearly_all = 0.75  # share of pictures with the same answer from which on a run has collapsed
# Below so many pictures that says nothing: three answers given blindly to six pictures agree so far in one of
# twenty runs, to four pictures in one of three.
fewest_to_collapse = 6
seen_gain = 0.10  # a gain that enough pictures would show: the interval reaches no further to either side


# The questions of chapter 06. Each judge returns (answer, because); "yes" needs the whole interval, not its
# middle.

def questions(
    metrics: list,  # from `all_metrics`
    flipped: dict = None,  # from `flips`: became_right, became_wrong, p, …; None: not measured
    task: str = "counting",  # counting, vqa, pointing or zoom
) -> list:  # of {name, question, answer, because}
    """Answer the questions that tell whether a run's gain is real, each from metrics of the run

    An answer is yes, no, cannot tell (too few pictures), or not measured (a metric is missing)."""
    main = main_mark(task)  # exact, accuracy or iou
    overall = _over_all_rows(metrics)  # (column, mark) → metric
    # gains of the groups that clearly got worse, perhaps none: []; None where no gain was measured
    losers = losing_groups(metrics, main) if ("gain_greedy", main) in overall else None
    answered = []
    # judge: a function such as `_rose`; evidence: its arguments, None for each that was not measured
    for name, question, judge, evidence in _questions_to_ask(main, overall, flipped, losers):
        answer, because = judge(*evidence) if None not in evidence else ("not measured", "")
        answered.append(dict(name=name, question=question, answer=answer, because=because))
    return answered


def _over_all_rows(metrics):
    "The metrics over all rows, none of single groups, as a dict: (column, mark) → metric"
    return {(m["column"], m["mark"]): m for m in metrics if m["group"] is None}


def _questions_to_ask(
    main,  # the task's main mark: exact, accuracy or iou
    overall,  # (column, mark), such as ("after_greedy", "exact") → metric over all rows: value, ci95, …
    flipped,  # dict: became_right and became_wrong (counts of pictures), p; None: not measured
    losers,  # the gains of groups that got clearly worse; None: not measured
):
    """The questions as (name, question, judge, evidence): judge(*evidence) returns (answer, because)

    What was not measured is None in the evidence; the judge must then not be called."""
    # greedy: the model's best guess; sampled: answers that were drawn by chance
    sampled_gain, greedy_gain = overall.get(("gain_sampled", main)), overall.get(("gain_greedy", main))
    # best guesses with the right picture, and with that of another row
    after, shuffled = overall.get(("after_greedy", main)), overall.get(("after_shuffled", main))
    one_answer = overall.get(("majority", main))  # what the best single answer to everything gets
    seeing = overall.get(("seeing_gain", main))  # how much more was gained with the right picture
    # as_meant: is most of the gain in answers that are the truth word for word, and not only right?
    # no_group_paid: is there no group of rows (a count, a type of question) that clearly got worse?
    return [
        ("sampled_rose", f"Did sampled {main} rise?", _rose, [sampled_gain]),
        ("greedy_rose", f"Did greedy {main} rise?", _rose, [greedy_gain]),
        ("more_than_luck", "More gains than losses than luck allows?", _more_than_luck, [flipped]),
        ("as_meant", "Was most of the gain earned as meant, to the letter?", _mostly_meant,
         _word_for_word_evidence(overall)),
        ("beats_one_answer", "Better than one answer to everything?", _above, [after, one_answer]),
        ("needs_picture", "Does it need its picture?", _below, [shuffled, after]),
        ("learned_to_see", "Did it learn to see, not only what is common?", _rose, [seeing]),
        ("no_group_paid", "Did every group keep its accuracy?", _no_losers, [losers]),
    ]


def _word_for_word_evidence(overall):
    """The evidence on whether a gain is in the truth's own words: the four arguments of `_mostly_meant`

    These are metrics of sampled answers, None for each that was not measured. `overall`: (column, mark) →
    metric."""
    # Two marks, each 1 or 0. If the truth is "A photo of 3 discs", that text alone is `verbatim`; "3" is
    # `exact`, too.
    columns_and_marks = [("gain_sampled", "verbatim"), ("gain_sampled", "exact"),
                         ("before_sampled", "verbatim"), ("before_sampled", "exact")]
    return [overall.get(column_and_mark) for column_and_mark in columns_and_marks]


def _decided(is_shown, is_no_otherwise):
    """The answer to a question about an effect: yes, no, or cannot tell

    `is_shown`: the data show the effect. `is_no_otherwise`: if they do not, there is none, since the data
    point the other way, or are enough to show it. False: they are too few to tell."""
    if is_shown:
        return "yes"
    return "no" if is_no_otherwise else "cannot tell"


def _is_narrow(m):
    "Whether a metric's 95 % interval is within ten points (`seen_gain`) to either side: a gain would show"
    low, high = m["ci95"]
    return (high - low) / 2 <= seen_gain  # False where there is no interval, and both ends are nan


def _rose(
    gain,  # metric of a gain by training: value and ci95, (low, high)
):
    "Answer whether a gain's whole 95 % interval is above zero: (yes, no or cannot tell, the numbers as text)"
    low, _ = gain["ci95"]
    return _decided(is_shown=low > 0, is_no_otherwise=_would_show_a_gain(gain)), with_interval(gain, "+")


def _would_show_a_gain(gain):
    """Whether a gain would have shown if there were one, so that a missing one means no

    `gain` is a metric with ci95, (low, high): its interval must be narrow, or end at zero or below."""
    _, high = gain["ci95"]
    return high <= 0 or _is_narrow(gain)


def _more_than_luck(flipped):
    """Answer whether more answers became right than became wrong, beyond luck

    Returns (yes, no or cannot tell, the numbers as text). `flipped` is a dict: became_right and became_wrong
    (counts of answers), and `p`, that of McNemar's test for these two. Where rows share pictures it also has
    pictures_gained and pictures_lost, and p is that of these two."""
    gained, lost, p = flipped["became_right"], flipped["became_wrong"], flipped["p"]
    numbers = f"{gained} against {lost}"
    if "pictures_gained" in flipped:
        # the questions to one picture are not independent, and so only its balance counts
        gained, lost = flipped["pictures_gained"], flipped["pictures_lost"]
        numbers = f"{numbers} questions, {gained} against {lost} pictures"
    # With five flips even the best case, all gains, has p = 2 / 2^5 = 0.06: a no would mean nothing.
    is_no_otherwise = gained + lost >= 6
    is_shown = p < 0.05 and gained > lost
    return _decided(is_shown, is_no_otherwise), f"{numbers}, p = {p:.2g}"


def _mostly_meant(
    verbatim_gain,  # metric (value, ci95): gain in answers that are the truth word for word
    exact_gain,  # metric: gain in right answers, in any words
    verbatim_before,  # metric before training: share of answers that were the truth word for word
    exact_before,  # metric before training: share of right answers, in any words
):
    "Answer whether most of the gain in right answers is word for word: (answer, reason as text)"
    because = f"{with_interval(verbatim_gain, '+')} of {exact_gain['value']:+.3f}"
    verbatim_low, _ = verbatim_gain["ci95"]  # above zero: the gain is clear
    exact_low, _ = exact_gain["ci95"]
    is_most_of_the_gain = verbatim_gain["value"] > exact_gain["value"] / 2
    if verbatim_low > 0 and is_most_of_the_gain:
        return "yes", because
    # "3" is right where the truth is "A photo of 3 discs". A model that mostly answered so before training
    # may go on so: that is no fault.
    if verbatim_before["value"] < exact_before["value"] / 2:
        return "cannot tell", f"{because}; before, right answers were not in the truth's own words either"
    # Without a clear gain in right answers nobody can say how it was earned.
    return "no" if exact_low > 0 else "cannot tell", because


def _above(
    m,  # metric: value and ci95, (low, high)
    other,  # metric of which only the value counts, such as that of one answer to everything
):
    "Answer whether a metric's whole interval is above another's value: (answer, the numbers as text)"
    low, _ = m["ci95"]
    # No if m is not even larger, or if its interval is so narrow that an advantage would show.
    is_no_otherwise = m["value"] <= other["value"] or _is_narrow(m)
    because = f"{with_interval(m)} against {other['value']:.3f}"
    return _decided(low > other["value"], is_no_otherwise), because


def _paid_for_right(pay, gain, sampled):
    """Answer whether right answers rose, if a trained reward pays clearly more than before training

    The arguments are metrics of gains by training: `pay` in that reward, `gain` in right best guesses,
    `sampled` in right sampled answers, or None. Returns (yes, no or cannot tell, the numbers as text)."""
    because = f"pay {with_interval(pay, '+')}, right answers {with_interval(gain, '+')}"
    (pay_low, _), (gain_low, _) = pay["ci95"], gain["ci95"]  # above zero: the gain is clear
    if pay_low <= 0:  # the reward does not clearly pay more, so there is nothing to explain
        return "cannot tell", because
    sampled_gain_is_clear = bool(sampled and sampled["ci95"][0] > 0)
    more_are_right = gain_low > 0 or sampled_gain_is_clear
    # If neither gain is clear: no, where there are enough rows to show a gain of the best guesses.
    return _decided(more_are_right, _would_show_a_gain(gain)), because


def _below(
    shuffled,  # metric of the answers that were given with the picture of another row
    right,  # the same metric, value and ci95, with the right pictures
):
    """Answer whether answers to another picture are clearly worse than those to the right one

    Returns (yes, no or cannot tell, the numbers as text)."""
    (_, shuffled_high), (right_low, _) = shuffled["ci95"], right["ci95"]
    is_shown = shuffled_high < right_low  # one interval is wholly below the other
    # No if they are not worse at all, or if the interval is so narrow that a difference would show. That of
    # `shuffled` is about as wide, since both have the same rows.
    is_no_otherwise = shuffled["value"] >= right["value"] or _is_narrow(right)
    return _decided(is_shown, is_no_otherwise), f"{with_interval(shuffled)} with another picture"


def _no_losers(losers):
    "Answer whether no group clearly lost; `losers` are the gains of those that did: returns (answer, names)"
    named = [f"{m['group']}: {with_interval(m, '+')}" for m in losers]
    return "no" if losers else "yes", ", ".join(named) or "none clearly lost"


# One answer to everything

def commonest(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    column: str,  # such as after_greedy
    task: str,  # counting, vqa, pointing or zoom
) -> dict:  # said, text, count, n, others, others_count, truths
    """The answer that a column gives most often, and how often it is given where it is wrong

    Texts that mean the same, such as the same count, are one answer: `said_as` gives them the same form. Of
    several accepted answers each one is right."""
    answers = [row[column][0] for row in rows]  # the first answer
    form_of = {text: said_as(text, task) for text in set(answers)}  # each text is read once
    answer_forms = [form_of[answer] for answer in answers]
    true_forms = _true_forms(rows, task)
    top, count = Counter(answer_forms).most_common(1)[0]  # the commonest form, and how often it is given
    # what the model answers in the rows for which the commonest answer is wrong
    where_wrong = [answer for answer, truths in zip(answer_forms, true_forms) if top not in truths]
    return dict(
        said=top,  # form of the commonest answer
        text=_commonest_text(answer for answer in answers if form_of[answer] == top),
        count=count,  # rows that get it
        n=len(rows),
        others=len(where_wrong),  # rows for which it is wrong
        others_count=where_wrong.count(top),  # rows that get it although it is wrong
        truths=_number_of_truths(true_forms),
    )


def _true_forms(
    rows,  # dicts with the truth, `answer`
    task,  # counting, vqa, pointing or zoom
):
    "For each row the list of its accepted answers, in the form in which answers are compared"
    forms_of = {truth: truths_said_as(truth, task) for truth in {row["answer"] for row in rows}}
    return [forms_of[row["answer"]] for row in rows]


def _number_of_truths(
    true_forms,  # for each row the list of its accepted answers, in the form in which they are compared
):
    "How many true answers differ; 1 if one text is accepted in every row, so that always saying it is right"
    if set.intersection(*map(set, true_forms)):
        return 1
    # No text is right everywhere: counted are the different first accepted answers, two or more.
    return len({truths[0] for truths in true_forms})


def _text_right_everywhere(
    rows,  # dicts with the truth, `answer`; some text is right in all of them (the outcome `one truth`)
    task,  # counting, vqa, pointing or zoom
):
    "A text that is right in every row: the first such one among the accepted answers of the first row"
    # `said_as` gives texts of the same meaning one form, in which they can be compared.
    true_forms = _true_forms(rows, task)  # for each row a list: its accepted answers in this form
    return next(text for text in accepted_answers(rows[0]["answer"])
                if all(said_as(text, task) in truths for truths in true_forms))


def _commonest_text(answers):
    "The text that most answers end with; the turns of a tool before it are left out"
    texts = Counter(last_turn(answer).strip() for answer in answers)
    return texts.most_common(1)[0][0]


def _by_kind(
    rows,  # dicts with the truth, `answer`; of VQA also question_type, where the set has it
    task,  # counting, vqa, pointing or zoom
):
    "The rows in groups (lists): for VQA a group for each type of question, else one group of all rows"
    if task != "vqa":
        return [rows]
    groups = {}  # type of question → rows
    for row in rows:
        main_type = group_names(row, task)[0]  # of several types, data sets name the main one first
        groups.setdefault(main_type, []).append(row)
    return list(groups.values())


def _collapsed(
    rows,  # dicts with the truth, `answer`, and lists of texts in columns
    column,  # whose answers, such as after_greedy
    task,  # counting, vqa, pointing or zoom
):
    """Whether nearly all rows (75 %) get the same answer, and also nearly all of those where it is wrong

    Or, in VQA, whether this is so when each type of question has its own commonest answer."""
    of_all_rows = commonest(rows, column, task)
    of_groups = [commonest(group, column, task) for group in _by_kind(rows, task)]
    # A group with a single truth is left out: there the same answer each time may be right each time.
    with_several_truths = [group for group in of_groups if group["truths"] > 1]
    row_count = len(rows)
    return _get_one_answer([of_all_rows], row_count) or _get_one_answer(with_several_truths, row_count)


def _get_one_answer(
    groups,  # list of dicts from `commonest`: of n rows, count get the commonest answer of the group
    row_count,  # of the run, rows outside these groups included
):
    "Whether nearly all rows (75 %) of the groups get their group's commonest answer, also where it is wrong"
    rows = sum(group["n"] for group in groups)
    get_it = sum(group["count"] for group in groups)
    wrong_for = sum(group["others"] for group in groups)  # rows for which that answer is wrong
    get_it_wrongly = sum(group["others_count"] for group in groups)  # of those, the rows that get it
    if 2 * rows <= row_count:  # half of the rows or fewer say nothing about the whole run
        return False
    if not wrong_for:  # right in every row, so that always giving it is no fault
        return False
    # Both are asked: where most rows have one truth, a model that looks at the pictures gives it to most rows
    # as well, but to few of those where it is wrong.
    return get_it >= nearly_all * rows and get_it_wrongly >= nearly_all * wrong_for


# The verdict

def verdict_of(
    rows: list,  # of a predictions file; columns beside before_greedy and after_greedy are optional
    task: str = None,  # counting, vqa, pointing or zoom; None guesses
    reward=None,  # (completion, answer) → parts, that of the run; None: the task's own
) -> dict:  # outcome, sentence, questions: a list of {name, question, answer, detail}
    "Judge a run by its answers before and after training: one word, one sentence, and the questions asked"
    if not rows or not {"before_greedy", "after_greedy"} <= set(columns(rows)):
        return not_measured()
    task = task or guess_task(rows)
    # A reward with the attribute `batched` is a trained model. It needs the pictures, which the rows do not
    # hold, so the task's own reward (None) is computed in its place.
    reads_text = not getattr(reward, "batched", False)
    text_reward = reward if reads_text else None
    # flipped: dict of how many answers became right by training, and how many wrong
    metrics, flipped = _needed_metrics(rows, task, text_reward)
    # (column, mark) → metric, such as ("gain_greedy", "exact"). Only a run with a trained reward has a
    # ("gain_greedy", "reward"), from `_paid_gain`.
    overall = _over_all_rows(metrics) | _paid_gain(rows)

    from_metrics = questions(metrics, flipped, task)
    # adds questions that need more than metrics, such as whether all pictures get the same answer
    all_questions = _all_questions(rows, task, overall, from_metrics, reads_text)
    answers = {q["name"]: q["answer"] for q in all_questions}
    outcome = _outcome(rows, task, overall, answers)  # a key of `outcomes`
    sentence = _sentence(outcome, rows, task, overall)
    return dict(outcome=outcome, sentence=sentence, questions=all_questions)


def _needed_metrics(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    reward,  # (completion, answer) → parts; None: the task's own
):
    """What a verdict is made from: (list of metrics, {became_right, became_wrong, p, …} of the best guesses)

    `all_metrics` computes more metrics, and takes ten times as long."""
    scored = _needed_scores(rows, task, reward)  # column → mark → array with a number per row
    pictures = pictures_of(rows)  # of each row, or None
    metrics = []
    for column, marks in scored.items():  # such as before_greedy
        metrics += [metric(column, values, pictures, mark=mark) for mark, values in marks.items()]
    metrics += blind_metrics(rows, task, reward)  # what the best answers without a picture earn
    gain_by_looking = seeing_gain(rows, scored, main_mark(task))  # None without answers to shuffled pictures
    if gain_by_looking:
        metrics.append(gain_by_looking)

    metrics += _gains_of_groups(rows, scored, task)  # of each count, or type of question
    metrics += gains(rows, scored)  # of all rows, for each mark of greedy and of sampled answers

    right_or_wrong = flip_mark(task)  # a mark that is 1 or 0
    before, after = scored["before_greedy"], scored["after_greedy"]  # mark → array
    return metrics, flips(before[right_or_wrong], after[right_or_wrong], pictures)


def _gains_of_groups(
    rows,  # dicts with the truth, `answer`
    scored,  # column, such as after_greedy → mark, such as exact → array, a number per row
    task,  # counting, vqa, pointing or zoom
):
    "The gain of the best guesses in each group of rows (one true count or type of question): list of metrics"
    main = main_mark(task)
    gain_of_rows = {"gain_greedy": scored["after_greedy"][main] - scored["before_greedy"][main]}
    # `difference` makes a metric of each group's gains; `mark` is the name under which it stands there
    groups = by_group(rows, gain_of_rows, task, measure=partial(difference, mark=main))
    return [group["gain_greedy"] for group in groups]


def _needed_scores(
    rows,  # dicts with the truth, `answer`, and lists of texts in columns such as after_greedy
    task,  # counting, vqa, pointing or zoom
    reward,  # (completion, answer) → parts; None: the task's own
):
    """The marks that a verdict needs: column → mark → array with a number per row

    A mark is a number for each answer, such as `exact` (1 or 0) or `iou`, the overlap of boxes. The other
    marks of `score_rows` are left out, since an interval for each of them would take long."""
    scored = {}
    for column, marks in score_rows(rows, task, reward).items():
        wanted = [main_mark(task), "exact", "verbatim"]  # where a task has them: boxes have no `verbatim`
        if column == "after_greedy":
            wanted.append("reward")  # to compare with what the best answer without a picture earns
        scored[column] = {mark: values for mark, values in marks.items() if mark in wanted}
    return scored


def _paid_gain(rows):
    """The gain of best guesses in a trained reward, {("gain_greedy", "reward"): metric}; {} for other runs

    A run with such a reward has stored it in each row, as the dict `paid`: {before_greedy: 0.4, …}."""
    rewards_of_rows = [row.get("paid") for row in rows]
    if not all(map(_are_rewards, rewards_of_rows)):
        return {}
    gain_per_row = [rewards["after_greedy"] - rewards["before_greedy"] for rewards in rewards_of_rows]
    # `pictures_of`: rows of one picture are not independent, and the interval allows for that
    gain = difference("gain_greedy", gain_per_row, pictures_of(rows), mark="reward")
    return {("gain_greedy", "reward"): gain}


def _are_rewards(paid):
    "Whether the field `paid` of a row holds rewards; in another program's file it may be anything"
    if not isinstance(paid, dict):
        return False
    return all(isinstance(paid.get(name), (int, float)) for name in ("before_greedy", "after_greedy"))


# Why an evaluation of such a file has no verdict
no_answers = "The file holds scores or probabilities, and no answers from before and after training."


def not_measured(
    why: str = "No answers from before and after training were kept, so nothing can be said.",  # one sentence
) -> dict:  # as from `verdict_of`, without a question
    "The verdict of a run that was not measured"
    return dict(outcome="not measured", sentence=why, questions=[])


def _all_questions(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
    from_metrics,  # list of {name, question, answer, because}, from `questions`
    reads_text,  # False: the run's reward is a trained model, and `overall` has the task's own in its place
):
    "The verdict's questions in the order in which they are shown: dicts of name, question, answer, detail"
    gain = overall["gain_greedy", main_mark(task)]
    asked = [_about_variety(rows, task), _about_enough_pictures(gain)]
    if ("gain_greedy", "reward") in overall:  # what a trained reward paid, from `_paid_gain`
        asked.append(_about_pay(overall, main_mark(task)))
    if reads_text:  # only then is the reward in `overall` the one that the run was trained with
        asked.append(_about_blind_reward(overall))
    asked += [_in_plain_words(q, task) for q in from_metrics]
    # Questions whose columns are missing are left out: only an evaluation (chapter 06) has answers without a
    # picture and to the picture of another row.
    measured = [q for q in asked if q["answer"] != "not measured"]
    return sorted(measured, key=lambda q: _question_order.index(q["name"]))


_question_order = ("different_answers", "enough_pictures", "beats_one_answer", "beats_blind_reward",
                   "paid_for_right", "greedy_rose", "sampled_rose", "as_meant", "more_than_luck",
                   "no_group_paid", "needs_picture", "learned_to_see")


def _about_variety(
    rows,  # dicts with the truth, `answer`, and the column after_greedy, a list of one text
    task,  # counting, vqa, pointing or zoom
):
    "Answer whether different pictures get different answers: a dict of name, question, answer, detail"
    top = commonest(rows, "after_greedy", task)  # its `text` is the answer that most rows get: `count` of `n`
    answer = "no" if _collapsed(rows, "after_greedy", task) else "yes"
    if top["n"] < fewest_to_collapse:  # fewer than 6 pictures may all get one answer by chance
        answer = "cannot tell"
    return dict(name="different_answers", question="Does it say different things to different pictures?",
                answer=answer, detail=f"“{top['text']}” to {top['count']} of {top['n']} pictures")


def _about_enough_pictures(
    gain,  # metric of the gain by training: value, n, ci95 (low, high), interval (its method)
):
    "Answer whether there are enough pictures to tell gain from luck: a dict of name, question, …, detail"
    low, high = gain["ci95"]
    # a narrow interval tells, and so does a wide one that lies on one side of zero
    is_decided = _is_narrow(gain) or low > 0 or high < 0
    return dict(name="enough_pictures", question="Are there enough pictures to tell?",
                answer="yes" if is_decided else "no",
                detail=f"{gain['n']}: {with_interval(gain, '+')}, {gain['interval']}")


def _about_pay(
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
    main,  # the task's main mark: exact, accuracy or iou
):
    "Answer whether right answers rose where a trained reward paid more: a dict of name, question, …, detail"
    answer, because = _paid_for_right(
        overall["gain_greedy", "reward"], overall["gain_greedy", main], overall.get(("gain_sampled", main)))
    question = "Where the trained reward pays more, are more answers right?"
    return dict(name="paid_for_right", question=question, answer=answer, detail=because)


def _about_blind_reward(overall):
    """Answer whether the reward is above that of the best answer that ignores the picture ("blind")

    `overall` maps (column, mark) to a metric. Returns a dict of name, question, answer and detail."""
    question = "Does it earn more than the best answer that ignores the picture?"
    answer, because = _above(overall["after_greedy", "reward"], overall["blind", "reward"])
    return dict(name="beats_blind_reward", question=question, answer=answer, detail=because)


def _in_plain_words(
    question,  # {name, question, answer, because}, such as "Did greedy exact rise?"
    task,  # counting, vqa, pointing or zoom
):
    "Turn a question from `questions` into one of the verdict: two in plainer words, `because` named `detail`"
    # "sharper guessing": a model that only gets surer of its best guesses is right more often in sampled
    # answers, and not in its best guesses
    words = dict(greedy_rose="More than sharper guessing: is the best guess right more often?",
                 sampled_rose="Are sampled answers right more often?")
    # a box is seldom right or wrong: it overlaps more or less
    if task == "pointing":
        words = dict(greedy_rose="More than sharper guessing: does the best guess overlap more?",
                     sampled_rose="Do sampled answers overlap more?")
    name = question["name"]
    return dict(name=name, question=words.get(name, question["question"]), answer=question["answer"],
                detail=question["because"])


def _outcome(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
    answers,  # name of a question → yes, no or cannot tell
):
    """The outcome of a run, a key of `outcomes`, which explains each of them

    Faults that make any gain worthless are looked for first. If a run has several, the first one counts."""
    if answers["different_answers"] == "no":  # nearly all pictures get the same answer
        return "collapsed"
    different_truths = commonest(rows, "after_greedy", task)["truths"]  # how many true answers differ
    if different_truths == 1:  # then one answer to everything is always right
        return "one truth"
    if answers.get("paid_for_right") == "no":  # a trained reward pays more, and no more answers are right
        return "gamed"
    _, gain_high = overall["gain_greedy", main_mark(task)]["ci95"]  # upper end of the gain's interval
    return "worse" if gain_high < 0 else _outcome_by_gain(answers)


def _outcome_by_gain(answers):
    """The outcome, a key of `outcomes`, of a run without the faults that `_outcome` looks for

    `answers`: name of a question → yes, no or cannot tell. Questions about sampled answers may be missing.
    "surer": only sampled answers got better, so the model makes the same best guesses with less doubt."""
    # did the best guesses, and did sampled answers, get better?
    greedy, sampled = answers["greedy_rose"], answers.get("sampled_rose")
    # as_meant: is most of the gain in answers that are the truth word for word? beats_one_answer: does the
    # model do better than one text that is given to all questions?
    if "yes" in (greedy, sampled) and answers.get("as_meant") == "no":
        return "not as meant"
    if greedy == "yes":
        words = {"yes": "better", "no": "no better than one answer", "cannot tell": "too few pictures"}
        return words[answers["beats_one_answer"]]
    if greedy == "no":
        return "surer" if sampled == "yes" else "not better"
    return "too few pictures"


# Words

def _sentence(
    outcome,  # a word, one of the keys of `outcomes`
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
):
    "The verdict in one plain sentence or two, with the numbers, such as `Better: right answers went from …`"
    change = _change_clause(rows, task, overall)  # most sentences hold it
    if outcome == "collapsed":
        return _collapse_sentence(rows, task, change)
    if outcome == "one truth":  # all rows have that of the first one
        return (f"Cannot be told: all {len(rows)} {_words_for_rows(rows)} have the same truth, "
                f"“{_text_right_everywhere(rows, task)}”, so that one answer to everything is always right.")
    if outcome == "no better than one answer":
        return ("Better than before, but no better than one answer to everything: "
                f"{change}; {_best_answer_clause(rows, task)}.")
    if outcome == "not as meant":
        return _not_meant_sentence(rows, task, overall)
    if outcome == "gamed":
        pay = with_interval(overall["gain_greedy", "reward"], "+")
        return f"Gamed: the trained reward pays more than before ({pay}), and yet {change}."
    if outcome == "surer":
        return _surer_sentence(task, overall, change)
    if outcome == "too few pictures":
        return _too_few_sentence(rows, task, change)
    first_words = {"better": "Better", "worse": "Worse", "not better": "Not better"}
    return f"{first_words[outcome]}: {change}."


def _change_clause(
    rows,  # dicts; called pictures in the clause, or questions where several have the same `picture`
    task,  # counting, vqa, pointing or zoom
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
):
    """A clause that says how the best guesses changed by training

    `right answers went from 20.0 % to 60.0 % of 50 held-out pictures (…)`, or the same of the mean IoU of
    boxes. The brackets hold the gain in points, with its interval."""
    main = main_mark(task)  # exact, accuracy or iou
    before, after = overall["before_greedy", main], overall["after_greedy", main]
    gain = overall["gain_greedy", main]
    asked = f"{gain['n']} {_words_for_rows(rows)} ({_points(gain)})"
    # IoU is no share of pictures, and is not written in percent
    if task == "pointing":
        return f"mean IoU went from {before['value']:.3f} to {after['value']:.3f} on {asked}"
    return f"right answers went from {_percent(before)} to {_percent(after)} of {asked}"


def _not_meant_sentence(
    rows,  # dicts; called pictures in the sentence, or questions where several have the same `picture`
    task,  # counting, vqa, pointing or zoom
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
):
    "The sentence about a run whose answers are right more often, but not in the words of the truth"
    main = main_mark(task)
    right_gain = _points(overall["gain_sampled", main])  # text, such as `+12.0 points, 95 % interval …`
    verbatim_gain = _points(overall["gain_sampled", "verbatim"])
    row_count = overall["gain_greedy", main]["n"]
    return (f"Not as meant: sampled answers that count as right became more ({right_gain}), answers "
            f"equal to the truth did not keep up ({verbatim_gain}); {row_count} {_words_for_rows(rows)}.")


def _surer_sentence(
    task,  # counting, vqa, pointing or zoom; the IoU of boxes is not called right or wrong
    overall,  # (column, mark) → metric, such as ("gain_greedy", "exact") → dict with value and ci95
    change,  # clause such as "right answers went from 20.0 % to 22.0 % of …", about the best guess
):
    "The sentence about a run of which only sampled answers got better: it is surer of the same best guesses"
    sampled_gain = _points(overall["gain_sampled", main_mark(task)])
    more = "overlap more" if task == "pointing" else "are right more often"
    no_more = "does not" if task == "pointing" else "is not"
    return f"Surer, not better: sampled answers {more} ({sampled_gain}), the best guess {no_more}: {change}."


def _too_few_sentence(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    change,  # clause such as "right answers went from 20.0 % to 40.0 % of 5 held-out pictures (…)"
):
    "The sentence about a run with too few pictures; a second one if nearly all of these get the same answer"
    one_answer = ""
    if _collapsed(rows, "after_greedy", task):  # nearly all get the same answer, which may be by chance
        one_answer = " " + _said_to_all(rows, task)
    return (f"Cannot be told, too few pictures: {change}. No gain and a large one could both look like "
            f"it.{one_answer}")


def _words_for_rows(rows):
    "What the rows are called in a sentence: questions where several rows share a picture, as in VQA sets"
    return "held-out pictures" if pictures_of(rows) is None else "held-out questions"


def _collapse_sentence(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
    change,  # clause such as "right answers went from 20.0 % to 40.0 % of …"
):
    """The sentences about a run that gives nearly all pictures the same answer

    They say which answer, how the run's score changed, and what the best single answer would score."""
    finding = _what_is_repeated(rows, task)  # a clause: which answer, and to how many pictures
    before = _how_uniform_before(rows, task)  # a clause: how often the model gave one answer before
    change = change[0].upper() + change[1:]
    return f"Collapsed: {finding} ({before}). {change}; {_best_answer_clause(rows, task)}."


def _best_answer_clause(rows, task):
    "A clause with the best answer to everything, such as `always saying “3” is right on 40.0 %`"
    answer, share = _one_answer(rows, task)
    verb = "has a mean IoU of" if task == "pointing" else "is right on"
    return f"always saying “{answer}” {verb} {share}"


def _what_is_repeated(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
):
    """A clause: `the model says “3” to 49 of 50 held-out pictures, whatever the picture shows`

    Or `one kind of question gets one answer, …`, where each type of VQA question has its own such answer."""
    # {text, count, n, said, …}: count of n rows get this text; said: what it means, in a standard form
    after = commonest(rows, "after_greedy", task)
    n, row_words = after["n"], _words_for_rows(rows)  # such as "held-out pictures"
    quoted = f"“{after['text']}”"
    if after["said"] == "none":  # no answer could be read: no count, or no boxes
        quoted = f"what holds no answer, such as {quoted},"
    if after["count"] >= nearly_all * n:  # 75 % of the rows
        return f"the model says {quoted} to {after['count']} of {n} {row_words}, whatever the picture shows"
    # Else nearly all rows get the commonest answer of their own type of question.
    return f"one kind of question gets one answer, such as {quoted}, on nearly all {n} {row_words}"


def _said_to_all(
    rows,  # dicts with the truth, `answer`, and columns before_greedy and after_greedy: lists of texts
    task,  # counting, vqa, pointing or zoom
):
    """A sentence about the answer that most rows get after training

    `The model says “3” to 4 of 4 (before training its commonest answer went to 2 of 4).`"""
    after = commonest(rows, "after_greedy", task)
    before = _how_uniform_before(rows, task)  # the clause in brackets
    return f"The model says “{after['text']}” to {after['count']} of {after['n']} ({before})."


def _how_uniform_before(rows, task):
    "`before training its commonest answer went to 20 of 50`: of the best guesses in the column before_greedy"
    before = commonest(rows, "before_greedy", task)
    return f"before training its commonest answer went to {before['count']} of {before['n']}"


def _one_answer(
    rows,  # dicts with the truth, `answer`
    task,  # counting, vqa, pointing or zoom
):
    """The best answer to everything, and its mean grade in percent, as text: ("3", "40.0 %")

    VQA has a best answer for each type of question. The text is then the one that most rows get; the grade is
    the mean over all rows, each with the answer of its type."""
    def grade_in_row(text, row):
        return grade(text, row["answer"], task)  # 0 to 1

    # for each row the text that gets the best mean grade where all rows of its type of question get it
    best_texts = best_blind(rows, grade_in_row, task)
    # Many rows have the same text and truth: each such pair is graded once.
    pairs = Counter((text, row["answer"]) for text, row in zip(best_texts, rows))
    grades = [count * grade(text, truth, task) for (text, truth), count in pairs.items()]
    commonest_text, _ = Counter(best_texts).most_common(1)[0]
    return commonest_text, f"{100 * math.fsum(grades) / len(rows):.1f} %"


def _percent(m):
    "The value of a metric, a share, as text in percent"
    return f"{100 * m['value']:.1f} %"


def _points(gain):
    "A gain as text: `+12.0 points, 95 % interval +3.1 to +20.9, Tango` (the method of the interval)"
    low, high = gain["ci95"]
    if math.isnan(low):  # too few rows for an interval
        return f"{100 * gain['value']:+.1f} points, no interval"
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {gain['interval']}"
    return f"{100 * gain['value']:+.1f} points, {interval}"


def verdict_line(
    found: dict,  # from `verdict_of`
) -> str:  # one line
    "The verdict on one line, as every run prints it: the sentence, and how many questions are answered yes"
    questions_asked = found["questions"]
    yes = sum(q["answer"] == "yes" for q in questions_asked)
    # the total is written, too, since it differs: only an evaluation (chapter 06) asks all questions
    tally = f" [{yes} of {len(questions_asked)} questions: yes]" if questions_asked else ""
    return f"verdict: {found['sentence']}{tally}"


# Read back

def read_answers(
    path: str | Path,  # predictions.jsonl of a GRPO run (chapter 05) or an evaluation (chapter 06)
) -> list:  # rows: `answer`, the truth, is a text; each column of answers, such as after_greedy, is a list
    "Read the rows of a predictions file that vlrlbook wrote; a ValueError names the first bad line"
    # Files that others wrote are read by `evaluation.read_predictions`, which checks each field.
    rows = []
    # Not `splitlines`: it would also split at characters that JSON allows inside a text, such as U+2028.
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            rows.append(_row_of_line(line, f"{Path(path).name}: line {number}"))
    # Every row must have every column of answers, since a verdict compares two columns row by row.
    names = columns(rows)
    for number, row in enumerate(rows, 1):
        if missing := [name for name in names if name not in row]:
            raise ValueError(f"{Path(path).name}: line {number} has no {missing[0]}, as other lines do")
    return rows


def _row_of_line(
    line,  # of a predictions file
    where,  # file and line, for messages
):
    "A line of a predictions file as a row, for `read_answers`; ValueError if it holds none"
    try:
        row = json.loads(line)
        answer = str(row["answer"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where} is no row with an answer") from error
    texts = {name: _as_list(row[name]) for name in columns([row])}  # the columns that hold answers
    for name, answers in texts.items():
        if not answers or not all(isinstance(text, str) for text in answers):
            raise ValueError(f"{where}: {name} is {row[name]!r}, expected a text or a list of texts")
    return row | texts | dict(answer=answer)


def _as_list(answers):
    "The answers in a field of a row as a list; one answer may stand there without a list"
    return answers if isinstance(answers, list) else [answers]


def read_verdict(
    folder: str | Path,  # of a run or of a job's result: results.json, predictions.jsonl
) -> dict:  # as from `verdict_of`
    "Read a run's verdict from its results.json; for an older run without one, make it from its kept answers"
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        results = None
    # A file of another program may hold anything, also a list.
    results = results if isinstance(results, dict) else {}
    if _is_verdict(results.get("verdict")):
        return results["verdict"]
    # Written by an evaluation of scores or probabilities, which has no answers: a predictions.jsonl beside it
    # is of another evaluation.
    if "judged" in results:
        return not_measured(no_answers)
    try:
        rows = read_answers(folder / "predictions.jsonl")
    except FileNotFoundError:
        return not_measured()
    except ValueError as error:
        return not_measured(f"The answers that the run kept cannot be read: {error}.")
    settings = results.get("settings")
    return _verdict_with_settings(rows, settings if isinstance(settings, dict) else {})


def _is_verdict(value):
    "Whether a value from results.json has the parts of a verdict, which pages and reports show"
    return isinstance(value, dict) and {"outcome", "sentence", "questions"} <= set(value)


def _verdict_with_settings(
    rows,  # of the run's predictions file
    settings,  # dict from its results.json; only task and reward are used, and both may be missing
):
    "The verdict on a run's answers, for the task and the reward of its settings where these can be used"
    task = settings.get("task")
    # In a damaged file it may be a list, for which `in by_task`, a dict, would raise: hence the tuple.
    if task not in tuple(by_task):
        task = None  # `verdict_of` then guesses it from the answers
    # None for a reward that is not vlrlbook's, whose code is not run here: `verdict_of` takes the task's own
    reward = _plain_reward(settings.get("reward"))
    return verdict_of(rows, task, reward)


def _plain_reward(spec):
    """The reward that a run's settings name, if it is one of vlrlbook's or a sum of such; else None

    `spec` is a text such as "counting" or "0.9*counting+0.1*format", or whatever stands in a damaged file.
    Any other reward, such as `my.module:function`, would run other people's code only to read a result."""
    if not isinstance(spec, str):
        return None
    if not all(name in known_rewards for _weight, name in reward_terms(spec)):
        return None
    try:
        return load_reward(spec)
    except ValueError:  # a weight that is no number, or the same reward twice
        return None
