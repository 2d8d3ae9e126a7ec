"""What came of a run: the verdict of answers made up so that it is known, intervals of few pictures, the report, asking a model."""
import dataclasses
import json
import re
from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vlrlbook.answers import ask_model
from vlrlbook.cli import main as command
from vlrlbook.core import RunLog, SettingsError, cast, read_settings
from vlrlbook.data import DataError
from vlrlbook.evaluation_settings import EvaluationSettings
from vlrlbook.marking import baselines, counted, gain, greedy_flips, marks, merged
from vlrlbook.metrics import difference, difference_ci, flips, tango
from vlrlbook.report import StageCards, changed_settings, curve_words, report_html, write_report
from vlrlbook.rewards import load_reward
from vlrlbook.run_files import save_predictions
from vlrlbook.verdict import commonest, good_outcomes, outcomes, read_answers, read_verdict, verdict_line, verdict_of


def counting(truths, before, after, sampled_before=None, sampled_after=None, words="A photo of {} discs"):
    "Predictions of chapter 05 from counts; a text stands for itself"
    said = lambda x: x if isinstance(x, str) else words.format(x)
    rows = []
    for i, (t, b, a) in enumerate(zip(truths, before, after)):
        early, late = (sampled_before or before)[i], (sampled_after or after)[i]
        rows.append(dict(row=i + 1, question="How many?", answer=said(t), before_greedy=[said(b)], after_greedy=[said(a)],
                         before_sampled=[said(early)] * 2, after_sampled=[said(late)] * 2))
    return rows


def guesses(truths, share, seed):
    "Counts of which about `share` are right, the rest one of six"
    rng = np.random.default_rng(seed)
    return [int(t) if rng.random() < share else int(rng.integers(1, 7)) for t in truths]


def judged(rows, before, after):
    "The rows with what a trained reward pays for each: about so much before, and so much after"
    noise = np.random.default_rng(0).normal(0, 0.05, (len(rows), 2))
    return [row | dict(paid=dict(before_greedy=before + float(a), after_greedy=after + float(b))) for row, (a, b) in zip(rows, noise)]


TRUTHS = [int(x) for x in np.random.default_rng(9).integers(1, 7, 300)]
EIGHT = [3, 2, 3, 5, 1, 3, 4, 6]


@pytest.mark.parametrize("word, rows", [
    ("better", lambda: counting(TRUTHS, guesses(TRUTHS, 0.4, 1), guesses(TRUTHS, 0.8, 2))),
    ("worse", lambda: counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.4, 2))),
    ("not better", lambda: counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.8, 2))),
    ("surer", lambda: counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.8, 2),
                               guesses(TRUTHS, 0.3, 3), guesses(TRUTHS, 0.8, 4))),
    # right and wrong by turns of two answers: more than before, and no more than "5" to everything
    ("no better than one answer", lambda: counting([5] * 200 + [1, 2, 3, 4] * 25, [2] * 300, [5, 4, 5, 1, 5, 2] * 50)),
    ("not as meant", lambda: counting(TRUTHS, guesses(TRUTHS, 0.4, 1),
                                      [f"A photo of {x} 6 discs" for x in guesses(TRUTHS, 0.9, 2)])),
    ("collapsed", lambda: counting(TRUTHS, guesses(TRUTHS, 0.4, 1), [3] * 300)),
    ("collapsed", lambda: counting(EIGHT, [2, 5, 2, 2, 5, 1, 2, 2], [3] * 7 + [1])), # forty photographs, eight held out
    ("collapsed", lambda: counting(EIGHT, EIGHT, [f"A photo of of discs {'discs ' * i}" for i in range(8)])), # babble
    ("gamed", lambda: judged(counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.8, 2)), 0.5, 0.7)),
    ("gamed", lambda: judged(counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.4, 2)), 0.5, 0.7)), # worse, and paid more for it
    ("worse", lambda: judged(counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.4, 2)), 0.5, 0.5)),
    ("better", lambda: judged(counting(TRUTHS, guesses(TRUTHS, 0.4, 1), guesses(TRUTHS, 0.8, 2)), 0.5, 0.7)),
    ("collapsed", lambda: judged(counting(TRUTHS, guesses(TRUTHS, 0.4, 1), [3] * 300), 0.5, 0.9)),
    ("too few pictures", lambda: judged(counting(EIGHT, [3, 2, 1, 1, 1, 1, 1, 1], [3, 2, 3, 5, 2, 1, 1, 1]), 0.2, 0.9)),
    ("one truth", lambda: counting([3] * 40, guesses([3] * 40, 0.3, 1), [3] * 40)),
    ("too few pictures", lambda: counting(EIGHT, [3, 2, 1, 1, 1, 1, 1, 1], [3, 2, 3, 5, 2, 1, 1, 1])),
    ("too few pictures", lambda: counting(EIGHT, EIGHT, EIGHT)), # nothing changed, of eight
    ("too few pictures", lambda: counting([0, 2], [1, 4], [3, 3])), # one answer to two pictures is no collapse
    ("one truth", lambda: counting([0, 0], [3, 3], [4, 4])),
    ("collapsed", lambda: counting(EIGHT[:6], [1, 4, 2, 5, 3, 1], [7] * 6)),
    ("not measured", lambda: []),
    ("not measured", lambda: [dict(answer="3", prediction=["3"])]),
])
def test_the_word(word, rows):
    found = verdict_of(rows())
    assert found["outcome"] == word and word in outcomes, verdict_line(found)
    assert len(found["sentence"]) > 20 and found["sentence"][0].isupper() and "\n" not in verdict_line(found)
    assert {q["answer"] for q in found["questions"]} <= {"yes", "no", "cannot tell"}
    assert all(set(q) == {"name", "question", "answer", "detail"} and q["detail"] for q in found["questions"])


@pytest.mark.parametrize("n", [1, 2, 5, 8, 29, 30, 200])
@pytest.mark.parametrize("words", ["A photo of {} discs", "{}", "I see {}."])
def test_answers_that_are_all_the_same_are_never_good(n, words):
    "Whatever the truths, whatever was said before, whatever the words"
    rng = np.random.default_rng(n)
    for truths in ([4] * n, [int(x) for x in rng.integers(1, 7, n)], [4] * (n - 1) + [1]):
        for before in ([1] * n, [4] * n, guesses(truths, 0.5, n)):
            found = verdict_of(counting(truths, before, [4] * n, words=words), "counting")
            assert found["outcome"] not in good_outcomes, (truths, before, found["sentence"])


def test_a_collapse_is_told_with_its_answer_and_its_worth():
    sentence = verdict_of(counting(EIGHT, [2, 5, 2, 2, 5, 1, 2, 2], [3] * 7 + [1]))["sentence"]
    assert sentence.startswith("Collapsed: the model says “A photo of 3 discs” to 7 of 8 held-out pictures")
    assert "always saying “A photo of 3 discs” is right on 37.5 %" in sentence and "Tango" in sentence
    answers = {q["name"]: q["answer"] for q in verdict_of(counting(EIGHT, [1] * 8, [3] * 8))["questions"]}
    assert answers["different_answers"] == answers["beats_one_answer"] == answers["enough_pictures"] == "no"


def test_rows_that_share_a_picture_are_called_questions():
    rows = [r | dict(picture=f"p{i // 2}") for i, r in enumerate(counting(TRUTHS, guesses(TRUTHS, 0.4, 1), guesses(TRUTHS, 0.8, 2)))]
    assert "of 300 held-out questions" in verdict_of(rows)["sentence"] and "over pictures" in verdict_of(rows)["sentence"]


def flipped(pictures, of_each=12, lost=0):
    "Verdict on rows that share pictures; all answers of the first pictures became right, of the last `lost` ones wrong"
    rows = []
    for picture in range(pictures):
        for k in range(of_each):
            before, after = ("heart", "liver") if picture < pictures - lost else ("liver", "heart")
            rows.append(dict(row=len(rows), question=f"q{k}", answer="liver" if k % 2 else '["liver", "a liver"]', picture=f"p{picture}",
                             before_greedy=[before], after_greedy=[after]))
    return {q["name"]: q for q in verdict_of(rows, "vqa")["questions"]}["more_than_luck"], greedy_flips(rows, "vqa")


def test_luck_is_counted_in_pictures_where_questions_share_them():
    "24 answers to two pictures are no 24 coins"
    question, counts = flipped(2)
    assert counts["became_right"] == 24 and counts["p"] == 0.5 and question["answer"] == "cannot tell"
    assert question["detail"] == "24 against 0 questions, 2 against 0 pictures, p = 0.5"
    assert flipped(6)[0]["answer"] == "yes" and flipped(6)[1]["p"] == 2 / 2 ** 6
    question, counts = flipped(6, lost=3)
    assert question["answer"] == "no" and (counts["pictures_gained"], counts["pictures_lost"]) == (3, 3)
    # each picture its own: as before
    assert flips([0] * 6, [1] * 6) == dict(became_right=6, became_wrong=0, stayed_right=0, stayed_wrong=0, n=6, p=2 / 2 ** 6)
    # a picture that gained as much as it lost tells nothing
    assert flips([0, 1, 0, 0], [1, 0, 1, 1], ["a", "a", "b", "b"])["pictures_gained"] == 1


def test_a_common_truth_is_no_collapse():
    "Nine of ten pictures show one disc, and the model finds the tenth"
    truths = ([1] * 9 + [4]) * 30
    assert verdict_of(counting(truths, guesses(truths, 0.5, 1), truths))["outcome"] == "better"


def test_words_of_its_own_are_not_held_against_it():
    "A model that says '3' where the truth is 'A photo of 3 discs' was never right to the letter"
    rows = counting(TRUTHS, guesses(TRUTHS, 0.4, 1), guesses(TRUTHS, 0.8, 2), words="There are {}.")
    rows = [r | dict(answer=f"A photo of {t} discs") for r, t in zip(rows, TRUTHS)]
    found = verdict_of(rows)
    assert found["outcome"] == "better"
    assert {q["name"]: q["answer"] for q in found["questions"]}["as_meant"] == "cannot tell"


def vqa(kinds):
    "Rows of VQA from (question, truth, before, after)"
    tagged = lambda text: [f"<think>t</think><answer>{text}</answer>"]
    return [dict(row=i, question=q, answer=t, before_greedy=tagged(b), after_greedy=tagged(a), before_sampled=tagged(b),
                 after_sampled=tagged(a)) for i, (q, t, b, a) in enumerate(kinds)]


def test_a_habit_for_each_kind_of_question_is_a_collapse():
    "'yes' to every question of yes and no, 'left' to every other: two answers, and no look at a picture"
    sides = [("Left or right side?", ("left", "right")[i % 2], ("right", "left")[i % 3 == 0], "left") for i in range(40)]
    closed = [("Is there a disc?", ("yes", "no")[i % 2], ("no", "yes")[i % 3 == 0], "yes") for i in range(40)]
    assert verdict_of(vqa(sides + closed), "vqa")["outcome"] == "collapsed"
    seen = [(q, t, b, t) for q, t, b, _ in sides + closed]
    assert verdict_of(vqa(seen), "vqa")["outcome"] == "better"


def several(rows):
    "The same rows, each truth as a list of accepted answers with wordings that nobody uses"
    return [r | dict(answer=json.dumps([r["answer"], f"a {r['answer']} finding"])) for r in rows]


OTHERS = ["cyst", "polyp", "ulcer", "nodule"]


@pytest.mark.parametrize("word, rows", [
    # right on the 60 % that are benign, and so is saying it always
    ("no better than one answer", [("What?", ("benign" if i % 5 < 3 else OTHERS[i % 4]), ("benign" if i % 4 == 0 else OTHERS[(i + 3) % 4]),
                                   ("benign" if i % 5 < 3 else OTHERS[(i + 1) % 4])) for i in range(200)]),
    ("better", [("What?", OTHERS[i % 4], OTHERS[(i + i % 3) % 4], OTHERS[i % 4]) for i in range(60)]),
    ("collapsed", [("What?", OTHERS[i % 4], OTHERS[(i + i % 3) % 4], "cyst") for i in range(60)]),
    ("one truth", [("What?", "cyst", OTHERS[i % 4], "cyst") for i in range(60)])])
def test_more_wordings_of_each_truth_change_no_verdict(word, rows):
    one, more = verdict_of(vqa(rows), "vqa"), verdict_of(several(vqa(rows)), "vqa")
    assert one["outcome"] == more["outcome"] == word and one["sentence"] == more["sentence"]
    assert [q["answer"] for q in one["questions"]] == [q["answer"] for q in more["questions"]]
    assert baselines(vqa(rows), "vqa") == baselines(several(vqa(rows)), "vqa")


def test_one_text_that_every_question_accepts_is_one_truth():
    rows = vqa([("What?", ('["can", "coke"]', '["coke", "soda"]')[i % 2], "dog", "coke") for i in range(8)])
    found = verdict_of(rows, "vqa")
    assert found["outcome"] == "one truth" and "“coke”" in found["sentence"]
    mixed = vqa([("What?", ('["can", "coke"]', '["coke", "soda"]', '["cat"]')[i % 3], "dog", "coke") for i in range(9)])
    assert commonest(mixed, "after_greedy", "vqa") | dict(text="") == dict(
        said="coke", text="", count=9, n=9, others=3, others_count=3, truths=3)


# ---- intervals

def test_tango_holds_with_few_pairs():
    "Over all outcomes of 12 pairs the interval holds the true gain in about 95 %, and never far fewer"
    for gained, lost in ((0.3, 0.1), (0.2, 0.2), (0.05, 0.0), (0.6, 0.2)):
        held = 0.0
        for g in range(13):
            for l in range(13 - g):
                p = comb(12, g) * comb(12 - g, l) * gained**g * lost**l * (1 - gained - lost) ** (12 - g - l)
                low, high = tango(g, l, 12)
                held += p * (low - 1e-9 <= gained - lost <= high + 1e-9)
        assert held > 0.91, (gained, lost, held)


def test_tango_by_hand():
    assert tango(0, 0, 500) == pytest.approx((-0.00762, 0.00762), abs=1e-4) # z² / (n + z²), as Wilson's
    low, high = tango(3, 1, 20)
    assert tango(1, 3, 20) == pytest.approx((-high, -low))
    assert tango(8, 0, 8)[0] > 0 > tango(3, 0, 8)[0] and all(np.isnan(tango(0, 0, 0)))
    with pytest.raises(ValueError, match="9 gained and 0 lost of 8"): tango(9, 0, 8)


def test_no_normal_interval_below_thirty_and_each_is_named():
    few = [1, 0, 0, -1, 1, 1, 0, 1]
    assert difference_ci(few) == (tango(4, 1, 8), "Tango")
    assert difference("d", [0.5, 0.25, 0, 0.5])["interval"] == "paired bootstrap"
    assert difference("d", few * 10)["interval"] == "paired bootstrap"
    # nothing moved: no certainty, with few pictures or many
    (low, high), name = difference_ci([0.0] * 40)
    assert -high == low < -0.05 and name == "Wilson"
    samples = [cast()] * 8
    found = gain(marks(samples, [["4"]] * 8), marks(samples, [["3"]] * 4 + [["4"]] * 4))
    assert found["exact_accuracy_interval"] == "Tango" and found["exact_accuracy_ci95"] == tango(4, 0, 8)


# ---- read back, also from runs without one

def test_old_runs_are_read_and_nothing_strange_is_run(tmp_path):
    rows = counting(EIGHT, [1] * 8, [3] * 8)
    assert read_verdict(tmp_path)["outcome"] == "not measured"
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_verdict(tmp_path) == verdict_of(rows)
    settings = dict(task="counting", reward="os:remove")
    (tmp_path / "results.json").write_text(json.dumps(dict(settings=settings)))
    assert read_verdict(tmp_path)["outcome"] == "collapsed"
    (tmp_path / "results.json").write_text(json.dumps(dict(verdict=dict(outcome="better", sentence="s", questions=[]))))
    assert read_verdict(tmp_path)["outcome"] == "better"
    (tmp_path / "results.json").unlink()
    (tmp_path / "predictions.jsonl").write_text(json.dumps(rows[0]) + "\nno row\n")
    assert "line 2" in read_verdict(tmp_path)["sentence"]


@pytest.mark.parametrize("results", [[], None, "x", dict(settings=["x"]), dict(settings=dict(reward=["x"])), dict(verdict={}),
    dict(settings=dict(task=["x"], reward="x*counting")), dict(settings=dict(reward="format+format")), dict(verdict=["better"])])
def test_damaged_results_leave_the_verdict_to_the_answers(tmp_path, results):
    rows = counting(EIGHT, [1] * 8, [3] * 8)
    save_predictions(tmp_path / "predictions.jsonl", rows)
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_verdict(tmp_path) == verdict_of(rows)
    if not isinstance(results, dict):
        with pytest.raises(SettingsError, match="results.json is no object"): report_html(tmp_path)


@pytest.mark.parametrize("damage, words", [(dict(before_greedy=[], after_greedy=[]), "line 2: before_greedy is []"),
    (dict(after_greedy=[3]), "line 2: after_greedy is [3]"), (dict(before_sampled=None), "line 2: before_sampled is None"),
    (None, "line 2 has no")])
def test_a_row_without_answers_is_named(tmp_path, damage, words):
    first, second = counting([3, 4], [1, 1], [3, 4])
    save_predictions(tmp_path / "predictions.jsonl", [first, second | damage if damage else dict(answer="x")])
    found = read_verdict(tmp_path)
    assert found["outcome"] == "not measured" and words in found["sentence"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_an_answer_may_hold_what_python_takes_for_a_line_break(tmp_path, mark):
    "A line of JSON ends at a line break alone; these stand unescaped in an answer's text"
    rows = [row | dict(after_greedy=[f"A photo{mark}of 3 discs"]) for row in counting(EIGHT, [1] * 8, [3] * 8)]
    save_predictions(tmp_path / "predictions.jsonl", rows)
    assert [row["after_greedy"] for row in read_answers(tmp_path / "predictions.jsonl")] == [row["after_greedy"] for row in rows]
    assert read_verdict(tmp_path) == verdict_of(rows)


def test_baselines_of_a_set():
    rows = [dict(question="How many?", answer=f"A photo of {n} discs") for n in (3, 3, 3, 4)]
    assert baselines(rows, "counting") == dict(majority=0.75, blind_reward=pytest.approx((3 + 0.85) / 4))


@pytest.mark.parametrize("n, answer", [(6, "cannot tell"), (12, "cannot tell"), (300, "yes")])
def test_equal_rewards_of_few_pictures_are_no_certainty(n, answer):
    "The bootstrap of equal rewards has no width: six of 1.0 were certainly more than 0.9"
    rows = counting([1 + i % 3 for i in range(n)], [9] * n, [1 + i % 3 for i in range(n)])
    found = {q["name"]: q for q in verdict_of(rows)["questions"]}["beats_blind_reward"]
    assert found["answer"] == answer and found["detail"].startswith("1.000 (") and "(1.000 to 1.000)" not in found["detail"]
    worse = counting([1 + i % 3 for i in range(n)], [9] * n, [50] * n) # nothing earned by all
    assert {q["name"]: q["answer"] for q in verdict_of(worse)["questions"]}["beats_blind_reward"] == "no"


@pytest.mark.parametrize("reward, task, truths, expected", [
    ("vqa", "vqa", ["yes", "no"], 0.55), ("0.5*accuracy + 0.5*format", "vqa", ["yes", "yes", "no", "no"], 0.75),
    ("format", "vqa", ["yes", "no"], 1.0),
    ("0.9*counting + 0.1*format", "counting", ["3", "3", "3", "4"], 0.9 * (3 + 0.85) / 4 + 0.1),
    # a form that earns nothing changes nothing
    ("accuracy", "vqa", ["yes", "no"], 0.5), ("f1", "vqa", ["yes", "no"], 0.5),
    ("counting", "counting", ["3", "3", "3", "4"], (3 + 0.85) / 4)])
def test_a_blind_answer_has_the_form_that_is_paid_for(reward, task, truths, expected):
    "The thought and the tags need no picture; the best blind answer lacked them, so the line was too low"
    rows = [dict(question="?", answer=truth) for truth in truths * 3]
    found = baselines(rows, task, load_reward(reward))
    assert found["blind_reward"] == pytest.approx(expected)
    assert found["majority"] == baselines(rows, task)["majority"] == max(map(truths.count, truths)) / len(truths)


def test_the_form_and_one_answer_beat_no_blind_answer():
    rows = vqa([("Is it there?", ("yes", "no")[i % 2], "I do not know", "yes") for i in range(300)])
    answers = {q["name"]: q["answer"] for q in verdict_of(rows, "vqa")["questions"]}
    assert answers["beats_blind_reward"] == "no"


def test_equal_answers_are_merged():
    assert counted(["3", "4", "3 ", ""]) == ["2 × 3", "1 × 4", "1 × (nothing)"]
    assert merged(["a"] * 8) == "8 × a"


# ---- the report

def left(folder, rows, **results):
    "A run's folder with what a report needs"
    pictures = [dict(row=1, question="<image> How many <b>?", answer="A photo of 3 discs", image="data:image/png;base64,AA==")]
    stages = [dict(when=w, step=s, greedy=[["A photo of 4 discs"]], sampled=[["3", "3", "4"]])
              for w, s in (("first", 0), ("middle", 2), ("last", 4))]
    flips = [pictures[0] | dict(before="<script>alert(1)</script>", after="3", became_right=True)]
    (folder / "pictures.json").write_text(json.dumps(dict(pictures=pictures, stages=stages, flips=flips)))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    log = RunLog(folder / "run_log.csv")
    for step in range(1, 7): log.append(dict(step=step, reward=0.5 + step / 20, silent=0.25))
    found = dict(verdict=verdict_of(rows), settings=dict(size="tiny", task="counting", seed=44, data="/home/me/photos.zip",
                 output_dir="/home/me/runs"), baselines=dict(majority=0.3, blind_reward=0.77), seconds=90.0) | results
    (folder / "results.json").write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize("rows, begins", [
    (counting(TRUTHS, guesses(TRUTHS, 0.4, 1), guesses(TRUTHS, 0.8, 2)), "Better: "), (counting(EIGHT, [1] * 8, [3] * 8), "Collapsed: "),
    (counting(EIGHT, [3, 2, 1, 1, 1, 1, 1, 1], [3, 2, 3, 5, 2, 1, 1, 1]), "Cannot be told, too few pictures: ")])
def test_the_first_line_says_what_happened(tmp_path, rows, begins):
    page = write_report(left(tmp_path, rows)).read_text()
    words = re.sub(r"<style>.*?</style>|<title>.*?</title>|<[^>]+>", "\n", page, flags=re.S).split("\n")
    lines = [line for line in words if line.strip()]
    assert lines[1].startswith(begins) # behind the title
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "/home" not in page and "How many &lt;b&gt;?" in page
    assert "seed = 44" in page and "photos.zip" in page and "2 × 3" in page and "0.77" in page and "1.5 minutes" in page


def test_a_report_of_an_old_run_leaves_out_what_was_not_kept(tmp_path):
    rows = counting(EIGHT, [1] * 8, [3] * 8)
    left(tmp_path, rows)
    (tmp_path / "results.json").write_text(json.dumps(dict(settings=dict(task="counting"))))
    for name in ("pictures.json", "run_log.csv"): (tmp_path / name).unlink()
    assert "Collapsed: " in report_html(tmp_path)
    with pytest.raises(SettingsError, match="no results.json there"): report_html(tmp_path / "nowhere")


def test_the_command_writes_a_report(tmp_path, capsys):
    left(tmp_path, counting(EIGHT, [1] * 8, [3] * 8))
    command(["report", str(tmp_path), "--out", str(tmp_path / "sent.html")])
    assert "sent.html" in capsys.readouterr().out and (tmp_path / "sent.html").exists()
    with pytest.raises(SystemExit, match="no results.json there"): command(["report", str(tmp_path / "none")])


def test_the_curve_is_told_by_its_own_numbers():
    log = RunLog(rows=[dict(step=s, reward=r) for s, r in ((5, 0.5), (10, 0.6), (15, 0.7))], baselines=dict(blind_reward=0.8))
    assert "0.50 at first and 0.70 at last" in curve_words(log) and "not above" in curve_words(log)
    assert curve_words(RunLog()) == "No step was logged."
    assert changed_settings(dict(size="tiny", task="counting", lr=5e-5, seed=7, data="x.zip")) == dict(seed=7)


def test_the_report_of_an_evaluation_knows_its_settings(tmp_path):
    "They were compared with the defaults of chapter 05, and the data of a file of predictions were drawn pictures"
    for given in (dict(task="vqa"), dict(task="counting", temperature=0.5)):
        settings = dataclasses.asdict(read_settings(EvaluationSettings, given))
        changed = dict(given, seed=3)
        del changed["task"]
        assert changed_settings(settings | dict(seed=3, data="x.jsonl")) == changed
    unset = dataclasses.asdict(read_settings(EvaluationSettings, dict(predictions=__file__)))
    assert changed_settings(unset) == {}
    (tmp_path / "results.json").write_text(json.dumps(dict(task="vqa", settings=unset)))
    page = report_html(tmp_path)
    assert "vqa, evaluated" in page and Path(__file__).name in page and "drawn pictures" not in page and "vqa after training" not in page


# ---- asking

def test_a_model_is_asked_about_one_picture(tmp_path, capsys):
    cast().images[0].save(tmp_path / "p.png")
    found = ask_model("tiny-qwen2_5_vl", tmp_path / "p.png", "How many?", answers=3, max_new_tokens=4)
    assert found["after"] is None and len(found["before"]["sampled"]) == 3 and isinstance(found["before"]["greedy"], str)
    again = ask_model("tiny-qwen2_5_vl", cast().images[0], "How many?", answers=3, max_new_tokens=4)
    assert again == found # the same seed, a picture and its path
    command(["ask", "tiny-qwen2_5_vl", str(tmp_path / "p.png"), "How many?", "--answers", "2", "--max_new_tokens", "4"])
    assert "best guess" in capsys.readouterr().out


@pytest.mark.parametrize("data, code", [(b"", "image.decode"), (b"GIF89a", "image.decode"), (b"<svg></svg>", "image.decode")])
def test_a_bad_picture_is_refused_as_an_upload_is(tmp_path, data, code):
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(DataError, match=code): ask_model("no-such-model", tmp_path / "p.png", "How many?")


def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(tmp_path):
    strip = Image.new("RGB", (1000, 4))
    with pytest.raises(DataError, match="image.shape"): ask_model("no-such-model", strip, "How many?")
    good = cast().images[0]
    for wrong, said in ((dict(question=" "), "question"), (dict(answers=-1), "answers = -1"), (dict(temperature=0), "temperature = 0")):
        with pytest.raises(SettingsError, match=said): ask_model(**{**dict(model="no-such-model", picture=good, question="q"), **wrong})
    with pytest.raises(SettingsError, match="no such file"): ask_model("no-such-model", tmp_path / "none.png", "q")


def test_before_and_after_stand_side_by_side(tmp_path):
    "An adapter that changes what is said, asked through the folder of its run, with the settings that were kept there"
    import torch
    from vlrlbook.models import add_lora, load_vlm
    model, _ = load_vlm("tiny-qwen2_5_vl", trainable=True)
    model = add_lora(model, 4, 64)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(described | dict(base_model_name_or_path="tiny-qwen2_5_vl")))
    kept = dict(size="tiny", task="vqa", temperature=0.5, max_completion_length=3, max_image_size=112)
    (tmp_path / "training_args.json").write_text(json.dumps(dict(settings=kept)))
    found = ask_model(tmp_path, cast().images[0], "How many?", answers=2)
    assert found["task"] == "vqa" and found["before"] != found["after"]
    assert found == ask_model("tiny-qwen2_5_vl", cast().images[0], "How many?", adapter=tmp_path, answers=2)


def test_stage_cards_say_the_same_as_text():
    cards = StageCards(dict(pictures=[dict(question="How many?", answer="3", image=None)],
                            stages=[dict(when="first", step=0, greedy=[["4"]], sampled=[["3", "3"]])]))
    assert "before training, step 0: 4 · sampled: 2 × 3" in repr(cards) and "(no picture)" in cards._repr_html_()


def test_gaming_is_told_with_both_numbers_and_only_where_somebody_paid():
    rows = counting(TRUTHS, guesses(TRUTHS, 0.8, 1), guesses(TRUTHS, 0.8, 2))
    assert not any(q["name"] == "paid_for_right" for q in verdict_of(rows)["questions"])
    found = verdict_of(judged(rows, 0.5, 0.7))
    asked = next(q for q in found["questions"] if q["name"] == "paid_for_right")
    told = r"Gamed: the trained reward pays more than before \(\+0\.\d{3} .*, and yet right answers went from"
    assert asked["answer"] == "no" and re.match(told, found["sentence"])
    equal = next(q for q in verdict_of(judged(rows, 0.5, 0.5))["questions"] if q["name"] == "paid_for_right")
    assert equal["answer"] == "cannot tell", "no more pay, so there is nothing to be gamed"
    # another program's column of that name is not ours
    assert verdict_of([row | dict(paid="yes") for row in rows]) == verdict_of(rows)


def test_several_accepted_truths_are_words_on_the_report():
    "They are kept as JSON, which is no way to show them"
    from vlrlbook.report import _flips, _question_words
    picture = dict(question="Which colour?", answer='["gray", "grey"]', image=None)
    cards = StageCards(dict(pictures=[picture], stages=[dict(when="last", step=3, greedy=[["grey"]], sampled=[["grey"]])]))
    flip = dict(picture, image="data:,", became_right=True, before="red", after="grey")
    shown = [repr(cards), cards._repr_html_(), _question_words(picture), _flips(dict(flips=[flip]))]
    assert all("gray or grey" in text and "[" not in text for text in shown), shown
