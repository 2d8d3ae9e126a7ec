"""Did a run get better? The questions that a gain must survive, asked of its answers, and one word and one
sentence that say what came of it.

Stands first in `results.json` of every run, in its model card, in its report and on the service's page. It
needs the answers before and after training and nothing else: no model, no torch, so that a server can read
the verdict of an old run. Chapter 06 tells what each question means. Written by hand."""
import json
import math
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path

from .marking import best_blind, blind_metrics, by_group, columns, gains, group_names, guess_task
from .marking import flip_mark, grade, losing_groups, main_mark, pictures_of, said_as, score_rows, seeing_gain
from .metrics import difference, flips, metric, with_interval
from .readers.turns import last_turn
from .rewards import known_rewards, load_reward
from .settings import by_task

__all__ = ["outcomes", "good_outcomes", "questions", "verdict_of", "not_measured", "read_verdict",
           "verdict_line", "read_answers", "commonest"]

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
    flipped: dict = None,  # from `flips`
    task: str = "counting",  # counting, vqa or pointing
) -> list:  # of {name, question, answer, because}
    """Ask the questions that a gain must survive, each answered from the metrics of a run

    An answer is yes, no, cannot tell (too few pictures), or not measured (a metric is missing)."""
    main = main_mark(task)
    # (column, mark) → metric, of those over all rows; `get` returns None for one that was not measured
    overall = {(m["column"], m["mark"]): m for m in metrics if m["group"] is None}
    sampled_gain, greedy_gain = overall.get(("gain_sampled", main)), overall.get(("gain_greedy", main))
    # marks of 1 or 0: `verbatim` for an answer equal to the truth to the letter, `exact` for one that is
    # right in any words. `_mostly_meant` asks how much of the gain in `exact` is one in `verbatim`, too; where
    # few right answers were verbatim before, it cannot tell.
    verbatim_gain = overall.get(("gain_sampled", "verbatim"))
    exact_gain = overall.get(("gain_sampled", "exact"))
    verbatim_before = overall.get(("before_sampled", "verbatim"))
    exact_before = overall.get(("before_sampled", "exact"))
    # answers to the right picture and to another one; the best single answer to everything; how much more was
    # gained with the right picture than with another one
    after, shuffled = overall.get(("after_greedy", main)), overall.get(("after_shuffled", main))
    majority, seeing_gain_metric = overall.get(("majority", main)), overall.get(("seeing_gain", main))
    losers = None if greedy_gain is None else losing_groups(metrics, main)  # gains of those that got worse

    # (name, question, judge: a function that returns (answer, because), the metrics that it is called with)
    questions_to_ask: list = [
        ("sampled_rose", f"Did sampled {main} rise?", _rose, [sampled_gain]),
        ("greedy_rose", f"Did greedy {main} rise?", _rose, [greedy_gain]),
        ("more_than_luck", "More gains than losses than luck allows?", _more_than_luck, [flipped]),
        ("as_meant", "Was most of the gain earned as meant, to the letter?", _mostly_meant,
         [verbatim_gain, exact_gain, verbatim_before, exact_before]),
        ("beats_one_answer", "Better than one answer to everything?", _above, [after, majority]),
        ("needs_picture", "Does it need its picture?", _below, [shuffled, after]),
        ("learned_to_see", "Did it learn to see, not only what is common?", _rose, [seeing_gain_metric]),
        ("no_group_paid", "Did every group keep its accuracy?", _no_losers, [losers]),
    ]

    answered = []
    for name, question, judge, needed_metrics in questions_to_ask:
        if any(m is None for m in needed_metrics):
            answer, because = "not measured", ""
        else:
            answer, because = judge(*needed_metrics)
        answered.append(dict(name=name, question=question, answer=answer, because=because))
    return answered


def _decided(is_shown, could_be_shown):
    """The answer to a question about an effect: yes, no, or cannot tell

    `is_shown`: the data show the effect. `could_be_shown`: if there were one, they would show it, so a
    missing effect is a no; where it is False, a missing effect means nothing."""
    if is_shown:
        return "yes"
    return "no" if could_be_shown else "cannot tell"


def _sees_a_gain(m):
    "Whether a metric's 95 % interval is so narrow that a gain of ten points (`seen_gain`) would have shown"
    low, high = m["ci95"]
    return (high - low) / 2 <= seen_gain  # False where there is no interval, and both ends are nan


def _rose(gain):
    "Answer whether a gain is above zero, its whole interval: returns (answer, the numbers as text)"
    low, high = gain["ci95"]
    return _decided(low > 0, _would_show_a_gain(gain)), with_interval(gain, "+")


def _would_show_a_gain(gain):
    "Whether a gain would have shown, so that a missing one is a no: its interval is narrow, or below zero"
    _, high = gain["ci95"]
    return high <= 0 or _sees_a_gain(gain)


def _more_than_luck(flipped):
    """Answer whether more answers became right than became wrong, beyond luck

    Returns (answer, the numbers as text). `flipped` comes from `flips`: how many became right, how many
    became wrong, and the p value of McNemar's test for these two."""
    gained, lost, p = flipped["became_right"], flipped["became_wrong"], flipped["p"]
    # With five flips even the best case, all gains, has p = 2 / 2^5 = 0.06: a no would mean nothing.
    could_be_shown = gained + lost >= 6
    is_shown = p < 0.05 and gained > lost
    return _decided(is_shown, could_be_shown), f"{gained} against {lost}, p = {p:.2g}"


def _mostly_meant(verbatim_gain, exact_gain, verbatim_before, exact_before):
    """Answer whether most of the gain is in answers equal to the truth to the letter, as the task means them

    Returns (answer, reason as text). `exact` asks for the right count, `verbatim` for the truth's words."""
    because = f"{with_interval(verbatim_gain, '+')} of {exact_gain['value']:+.3f}"
    # a gain is clear where its whole 95 % interval, (low, high), is above zero
    verbatim_low, _ = verbatim_gain["ci95"]
    exact_low, _ = exact_gain["ci95"]
    if verbatim_low > 0 and verbatim_gain["value"] > exact_gain["value"] / 2:
        return "yes", because
    # A model that said "3" before, where the truth is "A photo of 3 discs", uses words of its own: that its
    # gain is not in the truth's words does not tell that it was earned in another way.
    if verbatim_before["value"] < exact_before["value"] / 2:
        return "cannot tell", f"{because}; before, right answers were not in the truth's own words either"
    # Clearly more right answers, and most of the gain is not to the letter.
    if exact_low > 0:
        return "no", because
    return "cannot tell", because  # no clear gain in right answers, so there is none to judge


def _above(m, other):
    "Answer whether a metric's whole interval is above another's value: returns (answer, the numbers as text)"
    low, _ = m["ci95"]
    # `_sees_a_gain`: so narrow an interval would have shown the metric above the other value
    could_be_shown = m["value"] <= other["value"] or _sees_a_gain(m)
    because = f"{with_interval(m)} against {other['value']:.3f}"
    return _decided(low > other["value"], could_be_shown), because


def _paid_for_right(pay, gain, sampled):
    """Answer whether a trained reward that pays more than before pays for more right answers

    `pay` is the gain in reward, `gain` the gain in right answers of the best guess, `sampled` that of sampled
    answers, or None. Returns (answer, the numbers as text): cannot tell where the reward pays no more."""
    because = f"pay {with_interval(pay, '+')}, right answers {with_interval(gain, '+')}"
    # a gain is clear where its whole 95 % interval, (low, high), is above zero
    (pay_low, _), (gain_low, _) = pay["ci95"], gain["ci95"]
    if pay_low <= 0:
        return "cannot tell", because
    sampled_gain_is_clear = bool(sampled and sampled["ci95"][0] > 0)
    if gain_low > 0 or sampled_gain_is_clear:
        return "yes", because
    # no: the interval of the best guess's gain is below zero, or so narrow that a gain would have shown
    return ("no" if _would_show_a_gain(gain) else "cannot tell"), because


def _below(shuffled, right):
    """Answer whether answers to another picture are clearly worse than those to the right one

    Returns (answer, the numbers as text)."""
    # the whole interval of one lies below the whole interval of the other
    (_, shuffled_high), (right_low, _) = shuffled["ci95"], right["ci95"]
    is_shown = shuffled_high < right_low
    # `_sees_a_gain`: so narrow an interval would have shown that another picture does worse
    could_be_shown = shuffled["value"] >= right["value"] or _sees_a_gain(right)
    return _decided(is_shown, could_be_shown), f"{with_interval(shuffled)} with another picture"


def _no_losers(losers):
    "Answer whether no group clearly lost; `losers` are the gains of those that did: returns (answer, names)"
    named = [f"{m['group']}: {with_interval(m, '+')}" for m in losers]
    return "no" if losers else "yes", ", ".join(named) or "none clearly lost"


# One answer to everything

def commonest(
    rows: list,  # of a predictions file: dicts with the truth, `answer`, and columns such as after_greedy
    column: str,  # such as after_greedy
    task: str,  # counting, vqa or pointing
) -> dict:  # said (class), text, count, n, others, others_count, truths
    """The answer that a column gives most often, and how often it is given where it is wrong

    Different wordings of an answer are one class, such as a count: see `said_as`."""
    pairs = [(row[column][0], row["answer"]) for row in rows]  # the first answer, and the truth
    class_of = {text: said_as(text, task) for text in set(chain(*pairs))}  # of answers and truths
    answer_classes = [class_of[text] for text, _ in pairs]
    true_classes = [class_of[truth] for _, truth in pairs]
    top, count = Counter(answer_classes).most_common(1)[0]
    # Its wordings; of an answer with calls of a tool what stands behind the last one.
    texts = Counter(last_turn(text).strip() for text, _ in pairs if class_of[text] == top)
    # answers to the pictures for which the commonest is wrong
    where_wrong = [own for own, truth in zip(answer_classes, true_classes) if truth != top]
    return dict(
        said=top,
        text=texts.most_common(1)[0][0],
        count=count,
        n=len(rows),
        others=len(where_wrong),
        others_count=where_wrong.count(top),  # of these the pictures that get it nevertheless
        truths=len(set(true_classes)),  # how many different ones
    )


def _by_kind(rows, task):
    """The rows in groups within which one answer could be given to everything: a list of lists

    VQA has a group for each type of question, any other task one group of all rows."""
    if task != "vqa":
        return [rows]
    groups = {}
    # of several types that a data set names for a question, its authors put the main one first
    for row in rows:
        groups.setdefault(group_names(row, task)[0], []).append(row)
    return list(groups.values())


def _collapsed(rows, column, task):
    """Whether nearly every picture (`nearly_all`, 75 %) gets the commonest answer, also where that is wrong

    Tried for all rows together, and for groups of rows (types of VQA questions), each with its commonest."""
    # dicts of counts: `n` rows; `count` of them get the commonest answer; for `others` it is wrong, and
    # `others_count` of these get it nevertheless
    of_all_rows = commonest(rows, column, task)
    # VQA has a list of rows for each type of question, any other task one list
    of_groups = [commonest(group, column, task) for group in _by_kind(rows, task)]
    # In a group with a single truth, the same answer each time may be right each time.
    of_groups = [group for group in of_groups if group["truths"] > 1]
    for groups in ([of_all_rows], of_groups):
        pictures, got_commonest = sum(g["n"] for g in groups), sum(g["count"] for g in groups)
        wrong_for, got_it_wrongly = sum(g["others"] for g in groups), sum(g["others_count"] for g in groups)
        # groups that hold half of the pictures or less do not speak for the rest
        hold_most_rows = 2 * pictures > len(rows)
        # Both conditions are needed: where most pictures have this very truth, a model that looks gives it
        # often, too, but not to the pictures for which it is wrong.
        nearly_all_get_it = got_commonest >= nearly_all * pictures
        also_where_wrong = got_it_wrongly >= nearly_all * wrong_for
        if hold_most_rows and wrong_for and nearly_all_get_it and also_where_wrong:
            return True
    return False


# The verdict

def verdict_of(
    # before_greedy and after_greedy are needed. The sampled columns are optional, and so is `paid` (column →
    # reward), which is there where a trained reward has kept what it paid.
    rows: list,  # of a predictions file
    task: str = None,  # counting, vqa or pointing; None guesses
    reward=None,  # (completion, answer) → parts, that of the run; None: the task's own
) -> dict:  # outcome, sentence, questions: a list of {name, question, answer, detail}
    "Judge a run by its answers before and after training: one word, one sentence, and the questions asked"
    if not rows or not {"before_greedy", "after_greedy"} <= set(columns(rows)):
        return not_measured()
    task = task or guess_task(rows)
    # A trained reward (`batched`) looks at pictures, which are not kept, so it cannot be asked here. Any
    # other reads text alone, also the task's own, which is taken for None.
    reward_reads_text = not getattr(reward, "batched", False)
    text_reward = reward if reward_reads_text else None
    metrics, flipped = _needed_metrics(rows, task, text_reward)  # flipped: how many became right, and wrong
    # (column, mark) → metric over all rows, such as ("gain_greedy", "exact")
    overall = {(m["column"], m["mark"]): m for m in metrics if m["group"] is None}
    overall |= _paid_gain(rows)  # what a trained reward pays more than before, if its pay was kept

    from_metrics = questions(metrics, flipped, task)
    # these and those that no metric answers alone, such as whether the reward is earned without looking
    all_questions = _all_questions(rows, task, overall, from_metrics, pays_text=reward_reads_text)
    answers = {q["name"]: q["answer"] for q in all_questions}
    outcome = _outcome(rows, task, overall, answers)  # a key of `outcomes`
    sentence = _sentence(outcome, rows, task, overall)
    return dict(outcome=outcome, sentence=sentence, questions=all_questions)


def _needed_metrics(rows, task, reward):
    """What a verdict (did training help?) is made from: metrics, and how many answers became right or wrong.

    Returns a list of metrics and the dict of `flips`. The metrics are a part of what `all_metrics` computes,
    in a tenth of the time. A *mark* is a number for each answer, such as `exact` (1 or 0) or an overlap of
    boxes."""
    main, pictures = main_mark(task), pictures_of(rows)  # the mark that counts in this task
    scored = {}  # column → mark → array with a number per row
    for column, marks in score_rows(rows, task, reward).items():
        # Boxes have no `verbatim`: an edge that is a pixel off is another text and as good an answer.
        wanted = [main, "exact", "verbatim"]
        if column == "after_greedy":
            # to be compared with what the best answer without a picture earns; no other question asks for it
            wanted.append("reward")
        scored[column] = {mark: values for mark, values in marks.items() if mark in wanted}

    metrics = []
    for column, marks in scored.items():
        metrics += [metric(column, values, pictures, mark=mark) for mark, values in marks.items()]
    metrics += blind_metrics(rows, task, reward)  # what the best answers without a picture earn
    gain_by_looking = seeing_gain(rows, scored, main)  # None without answers to shuffled pictures
    metrics += [gain_by_looking] if gain_by_looking else []

    before, after = scored["before_greedy"][main], scored["after_greedy"][main]
    # 1 or 0 for right or wrong, from which flips (right to wrong, and back) can be counted. `flip_mark` is
    # the main mark, except for boxes: their IoU is any number, so `exact` is taken.
    right_before = scored["before_greedy"][flip_mark(task)]
    right_after = scored["after_greedy"][flip_mark(task)]
    # The gain in each group of rows (a count, a type of question): one may lose where the others gain.
    gain_of_rows = {"gain_greedy": after - before}
    for group in by_group(rows, gain_of_rows, task, measure=partial(difference, mark=main)):
        metrics.append(group["gain_greedy"])  # the mean of this group's rows, with its interval
    # `gains`: after less before, for each mark of greedy and of sampled answers
    return metrics + gains(rows, scored), flips(right_before, right_after)


def _paid_gain(rows):
    """The gain in what a trained reward pays for best guesses: {("gain_greedy", "reward"): difference}

    Such a reward looks at pictures, which are not kept, so its pay is stored with the answers under `paid`.
    An empty dict where the rows hold no pay."""
    pay_of_rows = [row.get("paid") for row in rows]
    # another program's file may have a column `paid` with something else in it
    needed = {"before_greedy", "after_greedy"}
    if not all(isinstance(pay, dict) and needed <= set(pay) for pay in pay_of_rows):
        return {}
    gain_per_row = [pay["after_greedy"] - pay["before_greedy"] for pay in pay_of_rows]
    # with the picture of each row: rows of one picture are not independent, and the interval allows for that
    gain = difference("gain_greedy", gain_per_row, pictures_of(rows), mark="reward")
    return {("gain_greedy", "reward"): gain}


def not_measured(
    why: str = "No answers from before and after training were kept, so nothing can be said.",  # one sentence
) -> dict:  # as from `verdict_of`, without a question
    "The verdict of a run that was not measured"
    return dict(outcome="not measured", sentence=why, questions=[])


def _all_questions(rows, task, overall, from_metrics, pays_text):
    """The verdict's questions with their answers, in the order in which people want to know

    `overall` maps (column, mark) to a metric, `from_metrics` comes from `questions`. `pays_text`: the reward
    reads text alone, so that its pay was computed. Returns a list of {name, question, answer, detail}."""
    main = main_mark(task)
    top, gain = commonest(rows, "after_greedy", task), overall["gain_greedy", main]
    varied = "no" if _collapsed(rows, "after_greedy", task) else "yes"
    if top["n"] < fewest_to_collapse:  # so few may have one answer by chance
        varied = "cannot tell"
    asked = [("different_answers", "Does it say different things to different pictures?", varied,
              f"“{top['text']}” to {top['count']} of {top['n']} pictures")]
    low, high = gain["ci95"]
    is_decided = _sees_a_gain(gain) or low > 0 or high < 0
    asked.append(("enough_pictures", "Are there enough pictures to tell?", "yes" if is_decided else "no",
                  f"{gain['n']}: {with_interval(gain, '+')}, {gain['interval']}"))
    pay = overall.get(("gain_greedy", "reward"))  # only of a trained reward
    if pay:
        answer, because = _paid_for_right(pay, gain, overall.get(("gain_sampled", main)))
        question = "Where the trained reward pays more, are more answers right?"
        asked.append(("paid_for_right", question, answer, because))
    if pays_text:
        question = "Does it earn more than the best answer that ignores the picture?"
        answer, because = _above(overall["after_greedy", "reward"], overall["blind", "reward"])
        asked.append(("beats_blind_reward", question, answer, because))
    asked += [(q["name"], q["question"], q["answer"], q["because"]) for q in from_metrics]

    order = ("different_answers", "enough_pictures", "beats_one_answer", "beats_blind_reward",
             "paid_for_right", "greedy_rose", "sampled_rose", "as_meant", "more_than_luck", "no_group_paid",
             "needs_picture", "learned_to_see")
    # Questions without their columns are left out: only chapter 06 asks without and with another picture.
    asked = [entry for entry in asked if entry[2] != "not measured"]  # (name, question, answer, because)
    asked.sort(key=lambda entry: order.index(entry[0]))

    # plainer words than those of `questions`
    words = dict(greedy_rose="More than sharper guessing: is the best guess right more often?",
                 sampled_rose="Are sampled answers right more often?")
    # a box is seldom right or wrong: it overlaps more or less
    if task == "pointing":
        words = dict(greedy_rose="More than sharper guessing: does the best guess overlap more?",
                     sampled_rose="Do sampled answers overlap more?")
    all_questions = []
    for name, question, answer, detail in asked:
        question = words.get(name, question)
        all_questions.append(dict(name=name, question=question, answer=answer, detail=detail))
    return all_questions


def _outcome(rows, task, overall, answers):
    """The one word for a run, a key of `outcomes`

    `overall` maps (column, mark) to a metric, `answers` the name of a question to yes, no or cannot tell.
    What would make a gain worthless, such as one answer to everything, is looked for before the gain."""
    if answers["different_answers"] == "no":
        return "collapsed"  # nearly every picture gets the same answer
    # `truths`: how many different true answers the rows have. With one, a model that never looks is right.
    if commonest(rows, "after_greedy", task)["truths"] == 1:
        return "one truth"
    greedy, sampled = answers["greedy_rose"], answers.get("sampled_rose")
    if answers.get("paid_for_right") == "no":
        return "gamed"  # a trained reward pays more than before, and right answers became no more
    # the upper end of the gain's interval is below zero
    if overall["gain_greedy", main_mark(task)]["ci95"][1] < 0:
        return "worse"
    rose = "yes" in (greedy, sampled)
    if rose and answers.get("as_meant") == "no":
        return "not as meant"  # answers that count as right became more, those to the letter did not
    if greedy == "yes":
        words = {"yes": "better", "no": "no better than one answer", "cannot tell": "too few pictures"}
        return words[answers["beats_one_answer"]]
    # Sampled answers are right more often, the best guess is not: the same guesses, given with less doubt.
    if sampled == "yes" and greedy == "no":
        return "surer"
    return "not better" if greedy == "no" else "too few pictures"


# Words

def _sentence(outcome, rows, task, overall):
    """The verdict in one plain sentence or two, with the numbers

    `overall` maps (column, mark) to a metric; a mark is a way of scoring an answer, such as "exact"."""
    # the mark by which the task is judged: exact, accuracy or iou; and a name such as "held-out pictures"
    main, row_words = main_mark(task), _words_for_rows(rows)
    gain = overall["gain_greedy", main]
    # the clause that most sentences hold; `_points` writes a gain with its interval
    change = (f"right answers went from {_percent(overall['before_greedy', main])} to "
              f"{_percent(overall['after_greedy', main])} of {gain['n']} {row_words} ({_points(gain)})")
    # IoU is no share of pictures, and is not written in percent
    if task == "pointing":
        before, after = overall["before_greedy", main]["value"], overall["after_greedy", main]["value"]
        change = (f"mean IoU went from {before:.3f} to {after:.3f} on {gain['n']} {row_words} "
                  f"({_points(gain)})")

    if outcome == "collapsed":
        return _collapse_sentence(rows, task, change)
    if outcome == "one truth":
        truth = rows[0]["answer"]
        return (f"Cannot be told: all {len(rows)} {row_words} have the same truth, “{truth}”, so that "
                "one answer to everything is always right.")
    if outcome == "no better than one answer":
        answer, share = _one_answer(rows, task)  # the best one, and its share as text
        verb = _reaches(task)  # "is right on", or of boxes "has a mean IoU of"
        return (f"Better than before, but no better than one answer to everything: {change}; always saying "
                f"“{answer}” {verb} {share}.")
    if outcome == "not as meant":
        right_gain = _points(overall["gain_sampled", main])
        verbatim_gain = _points(overall["gain_sampled", "verbatim"])
        return (f"Not as meant: sampled answers that count as right became more ({right_gain}), answers "
                f"equal to the truth did not keep up ({verbatim_gain}); {gain['n']} {row_words}.")
    if outcome == "gamed":
        pay = with_interval(overall["gain_greedy", "reward"], "+")
        return f"Gamed: the trained reward pays more than before ({pay}), and yet {change}."
    if outcome == "surer":
        sampled_gain = _points(overall["gain_sampled", main])
        more = "overlap more" if task == "pointing" else "are right more often"
        no_more = "does not" if task == "pointing" else "is not"
        return (f"Surer, not better: sampled answers {more} ({sampled_gain}), the best guess {no_more}: "
                f"{change}.")
    if outcome == "too few pictures":
        one_answer = ""
        if _collapsed(rows, "after_greedy", task):  # nearly all of the few got the same answer
            one_answer = " " + _said_to_all(rows, task)
        return (f"Cannot be told, too few pictures: {change}. No gain and a large one could both look like "
                f"it.{one_answer}")
    first_words = {"better": "Better", "worse": "Worse", "not better": "Not better"}
    return f"{first_words[outcome]}: {change}."


def _words_for_rows(rows):
    "What the rows are called in a sentence: questions where several rows share a picture, as in VQA sets"
    return "held-out pictures" if pictures_of(rows) is None else "held-out questions"


def _collapse_sentence(rows, task, change):
    """The sentences about a collapsed run: the one answer that it gives, and what its score is worth

    `change` says how the score changed, such as `right answers went from …`."""
    # The answer given most often: `text` is its commonest wording, `said` what is read in it, such as "3";
    # `count` of `n` rows got it.
    after = commonest(rows, "after_greedy", task)
    row_words = _words_for_rows(rows)  # such as "held-out pictures"
    n, quoted = after["n"], f"“{after['text']}”"
    if after["said"] == "none":  # no answer could be read: no count, or no boxes
        quoted = f"what holds no answer, such as {quoted},"
    if after["count"] >= nearly_all * n:
        how_often = f"{after['count']} of {n} {row_words}"
        finding = f"the model says {quoted} to {how_often}, whatever the picture shows"
    else:
        # `_collapsed` looks at all rows together, then at each type of VQA question with its own commonest
        # answer. Here it was the second: over all rows no answer is given that often.
        finding = f"one kind of question gets one answer, such as {quoted}, on nearly all {n} {row_words}"
    answer, share = _one_answer(rows, task)  # the best answer to everything, and its share as text
    verb = _reaches(task)  # "is right on", or of boxes "has a mean IoU of"
    before = _how_uniform_before(rows, task)  # a clause: how often the model gave one answer before
    change = change[0].upper() + change[1:]
    return f"Collapsed: {finding} ({before}). {change}; always saying “{answer}” {verb} {share}."


def _said_to_all(rows, task):
    "A sentence that says which answer nearly all of the few pictures got, and how it was before training"
    after = commonest(rows, "after_greedy", task)
    before = _how_uniform_before(rows, task)
    return f"The model says “{after['text']}” to {after['count']} of {after['n']} ({before})."


def _how_uniform_before(rows, task):
    "A clause that says to how many pictures the commonest answer went before training"
    before = commonest(rows, "before_greedy", task)
    return f"before training its commonest answer went to {before['count']} of {before['n']}"


def _one_answer(rows, task):
    """The best answer to everything, and the share of the main mark that it reaches, as text

    VQA has a best answer for each type of question: that to the largest type is named."""
    def right(text, row):
        return grade(text, row["answer"], task)  # 0 to 1

    texts = best_blind(rows, right, task)  # for each row the answer that is best for all rows of its group
    pairs = Counter((text, row["answer"]) for text, row in zip(texts, rows))  # few: each is graded once
    earned = [count * right(text, dict(answer=answer)) for (text, answer), count in pairs.items()]
    commonest_text, _ = Counter(texts).most_common(1)[0]
    return commonest_text, f"{100 * math.fsum(earned) / len(rows):.1f} %"


def _reaches(task):
    "The verb between an answer to everything and its share, as in: always saying “3” is right on 40.0 %"
    return "has a mean IoU of" if task == "pointing" else "is right on"


def _percent(m):
    "The value of a metric, a share, as text in percent"
    return f"{100 * m['value']:.1f} %"


def _points(gain):
    "A gain as text: percentage points, the 95 % interval, and by which method that was computed"
    low, high = gain["ci95"]
    if math.isnan(low):
        return f"{100 * gain['value']:+.1f} points, no interval"
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {gain['interval']}"
    return f"{100 * gain['value']:+.1f} points, {interval}"


def verdict_line(
    found: dict,  # from `verdict_of`
) -> str:  # one line
    "The verdict on one line, as every run prints it: the sentence, and how many questions are answered yes"
    questions_asked = found["questions"]
    yes = sum(q["answer"] == "yes" for q in questions_asked)
    # the total is written, too, since it differs: only chapter 06 asks all questions
    tally = f" [{yes} of {len(questions_asked)} questions: yes]" if questions_asked else ""
    return f"verdict: {found['sentence']}{tally}"


# Read back

def read_answers(
    path: str | Path,  # predictions.jsonl of chapter 05 or 06
) -> list:  # rows: `answer`, the truth, is a text; each column of a model's answers (`columns`) is a list
    "Read the rows of a predictions file that this book wrote; a ValueError names the first line that is none"
    # Files that others wrote are read by chapter 06, which checks each field.
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            answer = str(row["answer"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{Path(path).name}: line {number} is no row with an answer") from error
        texts = {}
        for name in columns([row]):  # the columns that hold answers; one answer may stand without a list
            texts[name] = row[name] if isinstance(row[name], list) else [row[name]]
        rows.append(row | texts | dict(answer=answer))
    return rows


def read_verdict(
    folder: str | Path,  # of a run or of a job's result: results.json, predictions.jsonl
) -> dict:  # as from `verdict_of`
    "Read a run's verdict from its results.json; for an older run without one, make it from its kept answers"
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        results = {}
    if isinstance(results.get("verdict"), dict):
        return results["verdict"]
    try:
        rows = read_answers(folder / "predictions.jsonl")
    except FileNotFoundError:
        return not_measured()
    except ValueError as error:
        return not_measured(f"The answers that the run kept cannot be read: {error}.")
    # the run's task and reward where they are known; with None `verdict_of` guesses
    settings = results.get("settings") or {}
    task = settings.get("task") if settings.get("task") in tuple(by_task) else None
    # a reward of this book; None for any other, whose code is not run to read a result
    reward = _plain_reward(settings.get("reward"))
    return verdict_of(rows, task, reward)


def _plain_reward(spec):
    """The reward that a run's settings name, if it is one of this book's or a sum of such; else None

    Any other, such as `my.module:function`, would run other people's code only to read a result."""
    # of each term such as "0.9*counting" the name
    names = [term.rpartition("*")[2].strip() for term in (spec or "").split("+")]
    if not all(name in known_rewards for name in names):
        return None
    return load_reward(spec)
