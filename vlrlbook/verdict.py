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
    "What a gain must survive; an answer is yes, no, cannot tell (too few pictures) or not measured"
    main = main_mark(task)
    overall = {(m["column"], m["mark"]): m for m in metrics if m["group"] is None}
    sampled, greedy = overall.get(("gain_sampled", main)), overall.get(("gain_greedy", main))
    to_the_letter, exact = overall.get(("gain_sampled", "verbatim")), overall.get(("gain_sampled", "exact"))
    written, right = overall.get(("before_sampled", "verbatim")), overall.get(("before_sampled", "exact"))
    after, shuffled = overall.get(("after_greedy", main)), overall.get(("after_shuffled", main))
    majority, seen = overall.get(("majority", main)), overall.get(("seeing_gain", main))
    losers = None if greedy is None else losing_groups(metrics, main)
    asked: list = [
        ("sampled_rose", f"Did sampled {main} rise?", _rose, [sampled]),
        ("greedy_rose", f"Did greedy {main} rise?", _rose, [greedy]),
        ("more_than_luck", "More gains than losses than luck allows?", _more_than_luck, [flipped]),
        ("as_meant", "Was most of the gain earned as meant, to the letter?", _mostly_meant,
         [to_the_letter, exact, written, right]),
        ("beats_one_answer", "Better than one answer to everything?", _above, [after, majority]),
        ("needs_picture", "Does it need its picture?", _below, [shuffled, after]),
        ("learned_to_see", "Did it learn to see, not only what is common?", _rose, [seen]),
        ("no_group_paid", "Did no group pay for the gain of others?", _no_losers, [losers]),
    ]
    found = []
    for name, question, judge, needed in asked:
        if any(m is None for m in needed):
            answer, because = "not measured", ""
        else:
            answer, because = judge(*needed)
        found.append(dict(name=name, question=question, answer=answer, because=because))
    return found


def _decided(is_so, enough):
    "yes; else no where there are enough pictures to have seen it, cannot tell where there are not"
    if is_so:
        return "yes"
    return "no" if enough else "cannot tell"


def _sees_a_gain(m):
    "Whether an interval is so narrow that a gain of ten points would have shown"
    low, high = m["ci95"]
    return (high - low) / 2 <= seen_gain  # nan, where there is no interval, is not


def _rose(gain):
    low, high = gain["ci95"]
    enough = high <= 0 or _sees_a_gain(gain)
    return _decided(low > 0, enough), with_interval(gain, "+")


def _more_than_luck(flipped):
    gained, lost, p = flipped["became_right"], flipped["became_wrong"], flipped["p"]
    # Whatever so few flips had been, none could have been called more than luck: 2 / 2^5 is above 0.05.
    could_have_told = gained + lost >= 6
    is_so = p < 0.05 and gained > lost
    return _decided(is_so, could_have_told), f"{gained} against {lost}, p = {p:.2g}"


def _mostly_meant(verbatim, exact, written, right):
    because = f"{with_interval(verbatim, '+')} of {exact['value']:+.3f}"
    if verbatim["ci95"][0] > 0 and verbatim["value"] > exact["value"] / 2:
        return "yes", because
    if written["value"] < right["value"] / 2:
        # A model that says "3" where the truth is "A photo of 3 discs" was never right to the letter.
        return "cannot tell", f"{because}; before, right answers were not in the truth's own words either"
    # Where no gain can be told from luck there is none that could have been meant otherwise.
    return ("no" if exact["ci95"][0] > 0 else "cannot tell"), because


def _above(m, other):
    low, value = m["ci95"][0], m["value"]
    enough = value <= other["value"] or _sees_a_gain(m)
    return _decided(low > other["value"], enough), f"{with_interval(m)} against {other['value']:.3f}"


def _paid_for_right(pay, gain, sampled):
    "Whether what a trained reward pays more is earned by right answers; nothing is gamed where it pays no more"
    because = f"pay {with_interval(pay, '+')}, right answers {with_interval(gain, '+')}"
    if pay["ci95"][0] <= 0:
        return "cannot tell", because
    rose = gain["ci95"][0] > 0 or bool(sampled and sampled["ci95"][0] > 0)
    return _decided(rose, gain["ci95"][1] <= 0 or _sees_a_gain(gain)), because


def _below(shuffled, right):
    is_so = shuffled["ci95"][1] < right["ci95"][0]
    enough = shuffled["value"] >= right["value"] or _sees_a_gain(right)
    return _decided(is_so, enough), f"{with_interval(shuffled)} with another picture"


def _no_losers(losers):
    named = [f"{m['group']}: {with_interval(m, '+')}" for m in losers]
    return "no" if losers else "yes", ", ".join(named) or "none clearly lost"


# One answer to everything

def commonest(
    rows: list,  # of a predictions file
    column: str,  # such as after_greedy
    task: str,  # counting, vqa or pointing
) -> dict:  # said (class), text, count, n, others, others_count, truths
    "The answer that a column gives most often, and how often it stands where the truth is another"
    pairs = [(row[column][0], row["answer"]) for row in rows]
    class_of = {text: said_as(text, task) for text in set(chain(*pairs))}
    said = [class_of[text] for text, _ in pairs]
    truths = [class_of[text] for _, text in pairs]
    top, count = Counter(said).most_common(1)[0]
    texts = Counter(row[column][0].strip() for row, own in zip(rows, said) if own == top)
    elsewhere = [own for own, truth in zip(said, truths) if truth != top]
    return dict(
        said=top,
        text=texts.most_common(1)[0][0],
        count=count,
        n=len(rows),
        others=len(elsewhere),  # pictures for which it is wrong
        others_count=elsewhere.count(top),  # that get it all the same
        truths=len(set(truths)),  # different ones
    )


def _by_kind(rows, task):
    "Rows in groups that habit could answer: all counts together, each type of a VQA question for itself"
    if task != "vqa":
        return [rows]
    # A set may name several types for a question; the first is the one that its authors put first.
    groups = {}
    for row in rows:
        groups.setdefault(group_names(row, task)[0], []).append(row)
    return list(groups.values())


def _collapsed(rows, column, task):
    "Whether nearly every picture gets its group's commonest answer, those too for which it is wrong"
    everything = commonest(rows, column, task)
    groups = [commonest(group, column, task) for group in _by_kind(rows, task)]
    # A group of one truth says nothing about looking: its one answer may be right each time.
    telling = [group for group in groups if group["truths"] > 1]
    for found in ([everything], telling):
        n, others = sum(g["n"] for g in found), sum(g["others"] for g in found)
        same, wrong_too = sum(g["count"] for g in found), sum(g["others_count"] for g in found)
        # Groups that hold a small part of the pictures do not speak for the rest.
        if 2 * n > len(rows) and others and same >= nearly_all * n and wrong_too >= nearly_all * others:
            return True
    return False


# The verdict

def verdict_of(
    rows: list,  # of a predictions file: columns before_greedy and after_greedy, better also sampled; and `paid`
    task: str = None,  # counting, vqa or pointing; None guesses
    reward=None,  # (completion, answer) → parts, that of the run; None: the task's own
) -> dict:  # outcome, sentence, questions: a list of {name, question, answer, detail}
    "What came of a run, from its answers before and after training alone"
    if not rows or not {"before_greedy", "after_greedy"} <= set(columns(rows)):
        return not_measured()
    task = task or guess_task(rows)
    # A trained reward looks at pictures, which are not kept; the other marks do not need it.
    of_text = None if getattr(reward, "batched", False) else reward
    metrics, flipped = _needed_metrics(rows, task, of_text)
    found = questions(metrics, flipped, task)
    facts = {(m["column"], m["mark"]): m for m in metrics if m["group"] is None}
    facts |= _paid_gain(rows)
    asked = _all_questions(rows, task, facts, found, pays_text=of_text is reward)
    answers = {q["name"]: q["answer"] for q in asked}
    outcome = _outcome(rows, task, facts, answers)
    return dict(outcome=outcome, sentence=_sentence(outcome, rows, task, facts), questions=asked)


def _needed_metrics(rows, task, reward):
    "Of `all_metrics` those that a verdict needs, which takes a tenth of the time; and the flips"
    main, pictures = main_mark(task), pictures_of(rows)
    scored = {}
    for column, marks in score_rows(rows, task, reward).items():
        # of boxes there is no `verbatim`: an edge that is a pixel off is another text and as good an answer
        wanted = [main, "exact", "verbatim"]
        if column == "after_greedy":
            wanted.append("reward")
        scored[column] = {mark: values for mark, values in marks.items() if mark in wanted}
    found = []
    for column, marks in scored.items():
        found += [metric(column, values, pictures, mark=mark) for mark, values in marks.items()]
    found += blind_metrics(rows, task, reward)
    seen = seeing_gain(rows, scored, main)
    found += [seen] if seen else []
    before, after = scored["before_greedy"][main], scored["after_greedy"][main]
    right = [scored[f"{when}_greedy"][flip_mark(task)] for when in ("before", "after")]
    # Of the groups only the gain is asked for: whether one of them paid for that of others.
    for group in by_group(rows, {"gain_greedy": after - before}, task, partial(difference, mark=main)):
        found.append(group["gain_greedy"])
    del scored["after_greedy"]["reward"]  # the gain in reward is not asked for
    return found + gains(rows, scored), flips(*right)


def _paid_gain(rows):
    """The gain in what a trained reward pays for best guesses, under the key of the facts; nothing where rows
    do not say it. Such a reward looks at pictures: its pay is kept with the answers and not computed again."""
    kept = [row.get("paid") for row in rows]
    # A stranger's file may have a column of that name, with something else in it.
    if not all(isinstance(paid, dict) and {"before_greedy", "after_greedy"} <= set(paid) for paid in kept):
        return {}
    more = [paid["after_greedy"] - paid["before_greedy"] for paid in kept]
    return {("gain_greedy", "reward"): difference("gain_greedy", more, pictures_of(rows), mark="reward")}


def not_measured(
    why: str = "No answers from before and after training were kept, so nothing can be said.",  # one sentence
) -> dict:  # as from `verdict_of`, without a question
    "The verdict of a run that was not measured"
    return dict(outcome="not measured", sentence=why, questions=[])


def _all_questions(rows, task, facts, found, pays_text):
    "The verdict's questions in the order in which people want to know"
    main = main_mark(task)
    same, gain = commonest(rows, "after_greedy", task), facts["gain_greedy", main]
    varied = "no" if _collapsed(rows, "after_greedy", task) else "yes"
    if same["n"] < fewest_to_collapse:
        varied = "cannot tell"
    asked = [("different_answers", "Does it say different things to different pictures?", varied,
              f"“{same['text']}” to {same['count']} of {same['n']} pictures")]
    decided = _sees_a_gain(gain) or gain["ci95"][0] > 0 or gain["ci95"][1] < 0
    asked.append(("enough_pictures", "Are there enough pictures to tell?", "yes" if decided else "no",
                  f"{gain['n']}: {with_interval(gain, '+')}, {gain['interval']}"))
    pay = facts.get(("gain_greedy", "reward"))
    if pay:
        is_earned, because = _paid_for_right(pay, gain, facts.get(("gain_sampled", main)))
        question = "Where the trained reward pays more, are more answers right?"
        asked.append(("paid_for_right", question, is_earned, because))
    if pays_text:
        question = "Does it earn more than the best answer that ignores the picture?"
        is_more, because = _above(facts["after_greedy", "reward"], facts["blind", "reward"])
        asked.append(("beats_blind_reward", question, is_more, because))
    asked += [(q["name"], q["question"], q["answer"], q["because"]) for q in found]
    order = ("different_answers", "enough_pictures", "beats_one_answer", "beats_blind_reward",
             "paid_for_right", "greedy_rose", "sampled_rose", "as_meant", "more_than_luck", "no_group_paid",
             "needs_picture", "learned_to_see")
    # A question whose column is missing is left out: controls are asked by chapter 06 only.
    asked = [row for row in asked if row[2] != "not measured"]
    asked.sort(key=lambda row: order.index(row[0]))
    words = dict(greedy_rose="More than sharper guessing: is the best guess right more often?",
                 sampled_rose="Are sampled answers right more often?")
    # a box is seldom right or wrong: it overlaps more or less
    if task == "pointing":
        words = dict(greedy_rose="More than sharper guessing: does the best guess overlap more?",
                     sampled_rose="Do sampled answers overlap more?")
    found = []
    for name, question, answer, detail in asked:
        found.append(dict(name=name, question=words.get(name, question), answer=answer, detail=detail))
    return found


def _outcome(rows, task, facts, answers):
    "The word for a run; what would make a gain worthless is looked for before the gain"
    if answers["different_answers"] == "no":
        return "collapsed"
    if commonest(rows, "after_greedy", task)["truths"] == 1:
        return "one truth"
    greedy, sampled = answers["greedy_rose"], answers.get("sampled_rose")
    if answers.get("paid_for_right") == "no":
        return "gamed"
    if facts["gain_greedy", main_mark(task)]["ci95"][1] < 0:
        return "worse"
    rose = "yes" in (greedy, sampled)
    if rose and answers.get("as_meant") == "no":
        return "not as meant"
    if greedy == "yes":
        words = {"yes": "better", "no": "no better than one answer", "cannot tell": "too few pictures"}
        return words[answers["beats_one_answer"]]
    if sampled == "yes" and greedy == "no":
        return "surer"
    return "not better" if greedy == "no" else "too few pictures"


# Words

def _sentence(outcome, rows, task, facts):
    "One plain sentence or two, with the numbers"
    main, asked = main_mark(task), _asked(rows)
    gain = facts["gain_greedy", main]
    change = (f"right answers went from {_percent(facts['before_greedy', main])} to "
              f"{_percent(facts['after_greedy', main])} of {gain['n']} {asked} ({_points(gain)})")
    # IoU is no share of pictures, and is not written in percent
    if task == "pointing":
        change = (f"mean IoU went from {facts['before_greedy', main]['value']:.3f} to "
                  f"{facts['after_greedy', main]['value']:.3f} on {gain['n']} {asked} ({_points(gain)})")
    if outcome == "collapsed":
        return _collapse_sentence(rows, task, change)
    if outcome == "one truth":
        truth = rows[0]["answer"]
        return (f"Cannot be told: all {len(rows)} {asked} have the same truth, “{truth}”, so that "
                "one answer to everything is always right.")
    if outcome == "no better than one answer":
        answer, share = _one_answer(rows, task)
        return (f"Better than before, but no better than one answer to everything: {change}; always saying "
                f"“{answer}” {_reaches(task)} {share}.")
    if outcome == "not as meant":
        paid, meant = facts["gain_sampled", main], facts["gain_sampled", "verbatim"]
        return (f"Not as meant: sampled answers that count as right became more ({_points(paid)}), answers "
                f"equal to the truth did not keep up ({_points(meant)}); {gain['n']} {asked}.")
    if outcome == "gamed":
        pay = with_interval(facts["gain_greedy", "reward"], "+")
        return f"Gamed: the trained reward pays more than before ({pay}), and yet {change}."
    if outcome == "surer":
        surer = _points(facts["gain_sampled", main])
        more = "overlap more" if task == "pointing" else "are right more often"
        no_more = "does not" if task == "pointing" else "is not"
        return f"Surer, not better: sampled answers {more} ({surer}), the best guess {no_more}: {change}."
    if outcome == "too few pictures":
        same = ""
        if _collapsed(rows, "after_greedy", task):
            same = " " + _said_to_all(rows, task)
        return (f"Cannot be told, too few pictures: {change}. No gain and a large one could both look like "
                f"it.{same}")
    begins = {"better": "Better", "worse": "Worse", "not better": "Not better"}
    return f"{begins[outcome]}: {change}."


def _asked(rows):
    "What a row is: VQA sets ask several questions about a picture"
    return "held-out pictures" if pictures_of(rows) is None else "held-out questions"


def _collapse_sentence(rows, task, change):
    "What a collapsed run says, what it said before, and what the change of its score is worth"
    after, asked = commonest(rows, "after_greedy", task), _asked(rows)
    n, said = after["n"], f"“{after['text']}”"
    if after["said"] == "none":
        said = f"what holds no answer, such as {said},"
    if after["count"] >= nearly_all * n:
        what = f"the model says {said} to {after['count']} of {n} {asked}, whatever the picture shows"
    else:
        what = f"one kind of question gets one answer, such as {said}, on nearly all {n} {asked}"
    answer, share = _one_answer(rows, task)
    then = _before(rows, task)
    change = change[0].upper() + change[1:]
    return f"Collapsed: {what} ({then}). {change}; always saying “{answer}” {_reaches(task)} {share}."


def _said_to_all(rows, task):
    "A sentence about few pictures that nearly all got one answer"
    after = commonest(rows, "after_greedy", task)
    return f"The model says “{after['text']}” to {after['count']} of {after['n']} ({_before(rows, task)})."


def _before(rows, task):
    "How uniform the answers were before training"
    before = commonest(rows, "before_greedy", task)
    return f"before training its commonest answer went to {before['count']} of {before['n']}"


def _one_answer(rows, task):
    "The best answer to everything (VQA: to the largest type of question), and its share right as text"
    def right(text, row):
        return grade(text, row["answer"], task)

    texts = best_blind(rows, right, task)
    pairs = Counter((text, row["answer"]) for text, row in zip(texts, rows))
    counted = [count * right(text, dict(answer=answer)) for (text, answer), count in pairs.items()]
    return Counter(texts).most_common(1)[0][0], f"{100 * math.fsum(counted) / len(rows):.1f} %"


def _reaches(task):
    "What a share of `_one_answer` is a share of"
    return "has a mean IoU of" if task == "pointing" else "is right on"


def _percent(m):
    "A share as text"
    return f"{100 * m['value']:.1f} %"


def _points(gain):
    "A gain as text: points, interval and how it was made"
    low, high = gain["ci95"]
    if math.isnan(low):
        return f"{100 * gain['value']:+.1f} points, no interval"
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {gain['interval']}"
    return f"{100 * gain['value']:+.1f} points, {interval}"


def verdict_line(
    found: dict,  # from `verdict_of`
) -> str:  # one line
    "The verdict as every run prints it"
    asked = found["questions"]
    # Of so many: questions that need controls are asked by chapter 06 only.
    yes = sum(q["answer"] == "yes" for q in asked)
    tally = f" [{yes} of {len(asked)} questions: yes]" if asked else ""
    return f"verdict: {found['sentence']}{tally}"


# Read back

def read_answers(
    path: str | Path,  # predictions.jsonl of chapter 05 or 06
) -> list:  # rows, each column a list of texts
    "Rows of a predictions file that this book wrote; ValueError names the line that is none"
    # Our own files only: what strangers write is read by chapter 06, with its fields looked at one by one.
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            answer = str(row["answer"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{Path(path).name}: line {number} is no row with an answer") from error
        texts = {name: row[name] if isinstance(row[name], list) else [row[name]] for name in columns([row])}
        rows.append(row | texts | dict(answer=answer))
    return rows


def read_verdict(
    folder: str | Path,  # of a run or of a job's result: results.json, predictions.jsonl
) -> dict:  # as from `verdict_of`
    "The verdict of a run: the one in results.json; of an older run, made from the answers that it kept"
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
    settings = results.get("settings") or {}
    task = settings.get("task") if settings.get("task") in tuple(by_task) else None
    return verdict_of(rows, task, _plain_reward(settings.get("reward")))


def _plain_reward(spec):
    "A reward by its name, or a sum of such; None for others: reading a result must run no stranger's code"
    names = [term.rpartition("*")[2].strip() for term in (spec or "").split("+")]
    if not all(name in known_rewards for name in names):
        return None
    return load_reward(spec)
