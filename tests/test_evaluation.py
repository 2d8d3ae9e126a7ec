"""Metrics against the libraries that others use; questioning that survives kills; files of other programs; the main job's table."""
import csv
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, papermill, run_page, start_process
from hypothesis import given, settings as hypothesis_settings, strategies as st
from papermill import inspect_notebook
from PIL import Image
from test_parameters import parsed
from vlrlbook.core import RunLog, SettingsError, read_settings
from vlrlbook.data import DataError, draw_discs, load_vqa, synthetic_counting, synthetic_vqa, to_dataset, write_counting_zip
from vlrlbook.evaluation import (EvaluationSettings, all_metrics, best_blind, bootstrap_ci, by_group, by_length, calibration,
                                 classifier_metrics, columns, compare, confusion, difference, evaluate, flips,
                                 frozen_key, group_names, guess_task, is_closed, join, load_set, losing_groups, macro_f1, mcnemar,
                                 metric, other_pictures, pair_metrics, parting, questions, read_bins, read_predictions,
                                 recompute, score_rows, share_ci, spearman, swap_consistency, vqa_marks, wilson, word_scores)
from vlrlbook.marking import answer_marks, counting_marks, pictures_of
from vlrlbook.models import add_lora, load_vlm, tiny_twin
from vlrlbook.rewards import vqa_accuracy

CHAPTER = ROOT / "nbs" / "06_evaluation.ipynb"
REFERENCE = json.loads((ROOT / "tests" / "support" / "reference_metrics.json").read_text())
TINY = "tiny-qwen2_5_vl"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Twins are too small to share"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- numbers

def test_wilson_is_statsmodels():
    for r in REFERENCE["shares"]: assert wilson(r["k"], r["n"]) == pytest.approx(r["ci95"], abs=1e-6)


def test_mcnemar_is_statsmodels():
    for r in REFERENCE["flips"]: assert mcnemar(r["gained"], r["lost"]) == pytest.approx(r["p"], abs=1e-12)


def test_classes_are_sklearns():
    for r in REFERENCE["classes"]:
        assert macro_f1(r["labels"], r["said"]) == pytest.approx(r["macro_f1"], abs=1e-12)
        assert confusion(r["labels"], r["said"], range(r["classes"])) == r["confusion"]
        found = classifier_metrics(r["labels"], np.eye(r["classes"])[r["said"]], episodes=np.arange(len(r["said"])) // 7)
        assert (found["accuracy"], found["macro_f1"], found["mae_bins"]) == pytest.approx((r["accuracy"], r["macro_f1"], r["mae"]))


def test_rank_correlation_is_scipys():
    for r in REFERENCE["ranks"]: assert spearman(r["a"], r["b"]) == pytest.approx(r["spearman"], abs=1e-12, nan_ok=True)


def test_word_overlap_is_rouge_1():
    for r in REFERENCE["overlap"]: assert word_scores(r["said"], r["truth"]) == pytest.approx((r["recall"], r["f1"]), abs=1e-12)


def test_bootstrap_is_scipys_up_to_its_own_noise():
    for r in REFERENCE["mean"]:
        width = r["high"] - r["low"]
        assert bootstrap_ci(r["values"]) == pytest.approx((r["low"], r["high"]), abs=0.06 * width)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_stays_inside(k, n):
    k = min(k, n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1 and high > low


def test_wilson_covers_at_small_n():
    "Over all outcomes at n = 12 and shares from 0.02 to 0.98, the interval holds the truth in 95 % on average"
    from math import comb
    covered = [sum(comb(12, k) * p**k * (1 - p) ** (12 - k) for k in range(13) if wilson(k, 12)[0] <= p <= wilson(k, 12)[1])
               for p in np.linspace(0.02, 0.98, 97)]
    assert 0.94 < np.mean(covered) < 0.97 and min(covered) > 0.8


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(0)
    films = rng.normal(size=30)
    values, of = np.repeat(films, 20), np.repeat(np.arange(30), 20)
    narrow, wide = (np.diff(bootstrap_ci(values, clusters=c))[0] for c in (None, of))
    assert wide == pytest.approx(narrow * 20**0.5, rel=0.15)
    assert bootstrap_ci(values, of) == bootstrap_ci(values, [f"film {i:02d}" for i in of])
    assert share_ci([1] * 40, clusters=[0] * 20 + [1] * 20) == wilson(2, 2)
    all_right = metric("m", [1] * 40, clusters=[0] * 20 + [1] * 20)
    assert all_right["ci95"] == wilson(2, 2) and all_right["interval"] == "Wilson over pictures"


def test_the_unknown_is_nan_and_the_impossible_is_refused():
    # of four amounts the bootstrap would draw one and the same in one of 64 draws: no interval
    assert np.isnan(metric("paid", [0.04, 0.04], mark="reward")["ci95"]).all()
    assert np.isnan(difference("gain_greedy", [0.1, 0.2, 0.1, 0.3], mark="reward")["ci95"]).all()
    assert not np.isnan(difference("gain_greedy", [0.1, 0.2, 0.1, 0.3, 0.2], mark="reward")["ci95"]).any()
    assert all(np.isnan(wilson(0, 0))) and all(np.isnan(bootstrap_ci([]))) and all(np.isnan(bootstrap_ci([1.0])))
    assert metric("m", [])["n"] == 0 and np.isnan(metric("m", [float("nan")])["value"])
    for wrong, message in ((lambda: wilson(5, 3), "5 successes of 3"),
                           (lambda: bootstrap_ci([1, 2], clusters=[1]), "2 values but 1 clusters"),
                           (lambda: bootstrap_ci([float("inf"), 1]), "value 0 is inf"),
                           (lambda: pair_metrics([1, 2], [1]), "worse: 1 values, expected 2"),
                           (lambda: pair_metrics([1], [1], lengths=[(1, 2), (3, 4)]), "1 pairs but 2 pairs of lengths"),
                           (lambda: swap_consistency([(1, 2)], []), "1 pairs one way, 0 the other"),
                           (lambda: classifier_metrics([0], [[0.4, 0.4]], [0]), "add up to 1"),
                           (lambda: classifier_metrics([2], [[0.5, 0.5]], [0]), "there are 2 bins"),
                           (lambda: classifier_metrics([], [], []), "expected [frames, bins]")):
        with pytest.raises(ValueError, match=re.escape(message)): wrong()


def test_the_frozen_set_is_the_one_that_training_keeps_away_from():
    from vlrlbook import evaluation, grpo
    assert grpo.frozen_seed == evaluation.frozen_seed


# ---- pairs and bins

def test_pairs_by_hand():
    found = pair_metrics([3, 1, 2, 0], [1, 2, 2, -1], groups=["a", "a", "b", "b"], lengths=[(9, 5), (2, 8), (4, 4), (3, 6)])
    assert found["pair_accuracy"] == 0.625 and found["ties"] == 1 and found["margin_mean"] == 0.5
    assert found["by_group"]["a"]["accuracy"] == 0.5 and found["by_group"]["b"]["accuracy"] == 0.75 and found["macro"] == 0.625
    assert found["length_bias"]["longer_wins"] == 0.375 and found["length_bias"]["n"] == 3
    assert found["length_bias"]["prefers_longer"] == pytest.approx(2 / 3)


def test_a_scorer_of_length_is_found_out():
    rng = np.random.default_rng(1)
    lengths = rng.integers(5, 50, (200, 2))
    found = pair_metrics(lengths[:, 0], lengths[:, 1], lengths=lengths)["length_bias"]
    assert found["prefers_longer"] == 1 and found["rank_correlation"] == pytest.approx(1)
    blind = pair_metrics(rng.normal(size=200), rng.normal(size=200), lengths=lengths)
    assert abs(blind["length_bias"]["rank_correlation"]) < 0.2 and blind["ci95"][0] < 0.5 < blind["ci95"][1]


def test_rows_of_one_picture_are_drawn_together():
    "Six pairs of each of 20 rows, all right or all wrong"
    better, of = np.repeat(np.arange(20) % 2, 6), np.repeat(np.arange(20), 6)
    lone, joint = (pair_metrics(better, np.full(120, 0.5), clusters=c)["ci95"] for c in (None, of))
    assert joint[1] - joint[0] > 2 * (lone[1] - lone[0])


def test_a_row_without_a_picture_leaves_the_others_together():
    "One text-only row made all questions of all pictures independent: intervals of a third of their width"
    rows = [dict(picture=f"p{i // 10}") for i in range(120)]
    right = [float(i // 10 % 3 > 0) for i in range(120)]
    together = metric("after_greedy", right, pictures_of(rows), mark="accuracy")["ci95"]
    for alone in ({}, dict(picture=""), dict(picture=None)):
        pictures = pictures_of([*rows, alone, alone])
        assert len(set(pictures)) == 14 and pictures[:120] == [r["picture"] for r in rows]
        low, high = metric("after_greedy", [*right, 0.0, 0.0], pictures, mark="accuracy")["ci95"]
        assert high - low > 0.9 * (together[1] - together[0])
    # no shared picture, or none at all: each row counts as one
    for lone in ([], [{}, {}], [dict(picture="")] * 3, [dict(picture="a"), dict(picture="b"), {}, {}]):
        assert pictures_of(lone) is None


def test_swapping():
    assert swap_consistency([(1, 0), (0, 1)], [(0, 1), (1, 0)])["consistent"] == 1
    always_first = swap_consistency([(1, 0)] * 4, [(1, 0)] * 4)
    assert always_first["consistent"] == 0 and always_first["max_difference"] == 1


def test_calibration_by_hand():
    found = calibration([0.95, 0.95, 0.55, 1.0], [1, 0, 1, 1])
    assert [b["n"] for b in found["bins"]] == [1, 3] and found["ece"] == pytest.approx((0.45 + 3 * abs(2 / 3 - 2.9 / 3)) / 4)


def test_length_bias_does_not_hang_on_which_answer_is_called_the_first():
    rng = np.random.default_rng(0)
    scores, lengths = rng.normal(size=(60, 2)), rng.integers(10, 14, (60, 2))
    turned = np.where(rng.random(60)[:, None] < 0.5, [[0, 1]], [[1, 0]])
    told = [pair_metrics(*np.take_along_axis(scores, turn, 1).T, lengths=np.take_along_axis(lengths, turn, 1))["length_bias"]
            for turn in (np.array([[0, 1]] * 60), turned)]
    assert told[0]["rank_correlation"] == pytest.approx(told[1]["rank_correlation"])
    assert told[0]["prefers_longer"] == pytest.approx(told[1]["prefers_longer"])


def test_rank_correlation_is_taken_within_films():
    "A film that rises and one that falls cancel out; one that stands still counts nothing"
    p = np.eye(4)[[0, 1, 2, 3, 3, 2, 1, 0]]
    args = dict(labels=[0, 1, 2, 3] * 2, probabilities=p, frames=[0, 1, 2, 3] * 2)
    assert classifier_metrics(**args, episodes=[0] * 4 + [1] * 4)["rank_correlation"] == pytest.approx(0)
    assert classifier_metrics([0] * 4, np.eye(4)[[1] * 4], [0] * 4, frames=range(4))["rank_correlation"] == 0
    assert classifier_metrics([0] * 4, np.eye(4)[[1] * 4], [0] * 4)["rank_correlation"] is None


# ---- answers

def row(answer, question="?", **said): return dict(row=1, question=question, answer=answer, **said)


def counting_rows(before, after, truths):
    return [dict(row=i, question="?", answer=f"A photo of {t} discs", before_greedy=[b], after_greedy=[a])
            for i, (b, a, t) in enumerate(zip(before, after, truths))]


@pytest.mark.parametrize("question, answer, extra, closed, why", [
    ("Is it normal?", "Yes", {}, True, "yes/no"), ("Which?", "B", {}, True, "a letter"),
    ("Is it on the left or the right?", "Right", {}, True, "the question offers it"),
    ("Where is it?", "left", {}, False, "nothing offered"), ("Which plane?", "axial", {"answer_type": "CLOSED "}, True,
    "the set says so"), ("Is it normal?", "yes", {"answer_type": "OPEN"}, False, "the set says so"),
    ("How many are there?", "3", {}, False, "a number is open"),
    ("Is it?", "yes", {"answer_type": "yes/no"}, True, "VQA v2's word"),
    ("Is it?", "maybe", {"answer_type": " Yes/No "}, True, "the set says so"),
    ("Is it?", "maybe", {"answer_type": "binary"}, True, "so does this"),
    ("Where?", "axial", {"answer_type": "Closed-ended"}, True, "the set says so"),
    ("Is it?", "yes", {"answer_type": "open_ended"}, False, "the set says so"),
    ("How many?", "3", {"answer_type": "number"}, False, "a number"),
    ("Which?", "B", {"answer_type": "multi-choice"}, True, "a letter"),
    ("Is it?", "no", {"answer_type": "other"}, True, "other says neither"),
    ("Where?", "left", {"answer_type": "other"}, False, "nothing offered"), ("Is it?", "yes", {"answer_type": None}, True, "an empty cell"),
    ("Is it?", "yes", {"answer_type": float("nan")}, True, "an empty cell"),
    ("Where?", "left", {"answer_type": ""}, False, "an empty cell")])
def test_closed_or_open(question, answer, extra, closed, why):
    assert is_closed(dict(question=question, answer=answer, **extra)) is closed, why


def test_vqa_marks_apply_to_their_own_kind():
    closed, open_ = vqa_marks("<answer>no</answer>", row("no")), vqa_marks("<answer>the left lung</answer>", row("left lung"))
    assert closed["closed_accuracy"] == 1 and np.isnan(closed["open_f1"])
    assert open_["open_accuracy"] == open_["open_recall"] == 1 and np.isnan(open_["closed_accuracy"])
    assert vqa_marks("lung " * 50, row("left lung"))["open_recall"] == 0.5, "repeating earns nothing"
    assert vqa_marks("", row("left lung"))["answered"] == 0


def test_any_accepted_answer_is_a_truth_for_every_mark():
    "A list of accepted answers is kept as JSON; no mark may take that text for the truth"
    cans = vqa_marks("<answer>coke</answer>", row('["soda can", "coke", "can"]'))
    assert cans["accuracy"] == cans["open_accuracy"] == cans["open_recall"] == cans["open_f1"] == cans["verbatim"] == 1
    assert word_scores("right", '["left lung", "the right lung"]') == (0.5, 2 / 3), "the best of all"
    assert word_scores("right", "the right lung") == (0.5, 2 / 3)
    for truth, group in (('["yes", "yeah"]', "yes/no"), ('["no", "none", "nope"]', "yes/no"), ('["B", "b"]', "letter"),
                         ('["soda can", "coke"]', "text"), ('["2", "two dogs"]', "number")):
        assert group_names(row(truth), "vqa") == [group] and is_closed(row(truth)) is (group in ("yes/no", "letter"))
    assert is_closed(row('["left", "left side"]', "Is it on the left or the right?"))
    discs = counting_marks("A photo of 5 discs", '["A photo of 4 discs", "A photo of 5 discs"]')
    assert (discs["error"], discs["verbatim"], discs["within_one"], discs["exact"]) == (0, 1, 1, 1)
    assert counting_marks("9", '["A photo of 4 discs", "6"]')["error"] == 3, "the nearest one"
    assert group_names(row('["A photo of 4 discs", "A photo of 5 discs"]'), "counting") == ["4"]
    boxes = '["[1, 2, 30, 40] in pixels of 99 x 99", "[5, 6, 30, 40] in pixels of 99 x 99"]'
    assert answer_marks("[5, 6, 30, 40]", boxes, "pointing")["verbatim"] == 1 and group_names(row(boxes), "pointing") == ["1"]
    assert guess_task([row(boxes)]) == "pointing" and guess_task([row('["3", "three"]')]) == "counting"
    # a text that only looks like a list is one truth
    assert answer_marks("[1, 2]", "[1, 2]", "vqa")["exact"] == 1 and group_names(row('["liver"'), "vqa") == ["text"]


def test_a_confusion_table_has_one_class_for_all_accepted_answers():
    from vlrlbook.evaluation import confusion_rows
    said = (('["soda can", "coke"]', "coke"), ('["soda can", "coke"]', "soda can"), ('["dog", "puppy"]', "coke"), ("dog", "dog"))
    classes, counts = confusion_rows([dict(answer=truth, after=[answer]) for truth, answer in said], "after", "vqa")
    table = dict(zip(classes, counts))
    assert table["soda can"][classes.index("soda can")] == 2 and table["dog"][classes.index("dog")] == 1
    assert table["dog"][classes.index("other")] == 1 and len(classes) == 3


def test_the_types_of_a_question():
    assert group_names(row("yes", question_type="POS, PRES "), "vqa") == ["POS", "PRES"]
    for empty in (None, float("nan"), "", " , ", []):
        assert group_names(row("yes", question_type=empty), "vqa") == ["yes/no"]
    assert group_names(row("yes", question_type="PRES, pres"), "vqa") == ["PRES"], "each once"
    assert group_names(row("yes", question_type=["PRES", "POS"]), "vqa") == ["PRES", "POS"]
    assert group_names(row("yes", question_type="['PRES', 'POS']"), "vqa") == ["PRES", "POS"], "a list in a table's cell"
    assert group_names(row("yes", question_type=3), "vqa") == ["3"]
    assert group_names(row("yes"), "vqa") == ["yes/no"] and group_names(row("A photo of 3 discs"), "counting") == ["3"]


def test_unreadable_counts_are_wrong_but_have_no_error():
    rows = counting_rows(["A photo of 3 discs", "what?"], ["A photo of 4 discs", "5"], [3, 5])
    found = {m["name"]: m for m in all_metrics(rows)}
    assert found["before_greedy/exact"]["value"] == 0.5 and found["before_greedy/error"]["n"] == 1
    assert found["before_greedy/error"]["value"] == 0
    assert found["after_greedy/within_one"]["value"] == 1 and found["gain_greedy/error"]["n"] == 1


@pytest.mark.parametrize("text, message", [
    ("", "holds no row"), ('{"answer": "3"}\n', "row 1, 'p.jsonl': no field 'prediction'"),
    ('{"prediction": "3"}\n', "row 1, 'p.jsonl': no truth"),
    ('{"answer": "3", "prediction": null}\n', "row 1, 'p.jsonl': prediction: expected a text"),
    ('{"answer": "3", "prediction": []}\n', "row 1, 'p.jsonl': prediction: expected a text"),
    ('{"answer": "3", "after_greedy": ["3"]}\n{"answer": "3", "before_greedy": ["3"]}\n', "row 1, 'p.jsonl': no 'before_greedy'"),
    ('{"answer": "3", "after_greedy": "3", "row": 7}\n\n{"answer": "3", "prediction": "3"}\n', "row 1, 'p.jsonl': no 'prediction'"),
    ('{"answer": "3", "a_greedy": "3", "a_sampled": "3"}\n\n{"answer": "3", "a_greedy": "3"}\n', "row 3, 'p.jsonl': no 'a_sampled'"),
    ('{"answer": "3", "prediction": "3"}\n{"answer": "3", "prediction": "3", "row": [1]}\n', "row 2, 'p.jsonl': field 'row' is [1]"),
    ('{"answer": "3", "prediction": "3"}\n{"answer"\n', "row 2: p.jsonl: no JSON"), ("[3]", "int, expected an object"),
    ('{"answer": {"a": 1}, "prediction": "3"}', "no truth"),
    ('{"answer": true, "prediction": "yes"}', "no truth in field 'answer': True is a bool, expected a text"),
    ('{"answer": "no", "prediction": "no"}\n{"answer": NaN, "prediction": "no"}',
     "row 2, 'p.jsonl': no truth in field 'answer': nan is no number"),
    ('{"answer": [3, 4], "prediction": "no"}', "no truth in field 'answer': [3, 4] is a list, expected a text"),
    ('{"answer": [], "prediction": "no"}', "no truth in field 'answer': [] is a list"),
    ('{"answer": ["yes", "yeah"], "prediction": "yes"}', 'is a list of 2 answers: if any is right, write the text ["yes", "yeah"]; if all'),
    ('{"answer": "[\'liver\', \'heart\']", "prediction": "yes"}', "if all must be named, the text liver, heart")])
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)): read_predictions(tmp_path / "p.jsonl")


def test_no_rows_are_of_no_other_task(): assert guess_task([]) == "vqa" and score_rows([]) == score_rows([], "vqa")


def test_files_of_other_programs(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([dict(question="Is it?", answer="yes", prediction="Yes, it is."),
        dict(question="What?", answer="left lung", prediction=["lung", "left lung"])]))
    rows = read_predictions(tmp_path / "p.json")
    assert columns(rows) == ["prediction"] and guess_task(rows) == "vqa"
    found = {m["name"]: m for m in all_metrics(rows)}
    assert found["prediction/accuracy"]["value"] == 0.75 and found["prediction/closed_accuracy"]["n"] == 1
    assert found["prediction/open_recall"]["value"] == 0.75


def write_lines(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def judged(tmp_path, rows):
    given = dict(predictions=write_lines(tmp_path / "p.jsonl", rows), output_dir=str(tmp_path / "out"))
    return evaluate(read_settings(EvaluationSettings, given))


def test_samples_of_lmms_eval(tmp_path):
    "Rows as `save_results_samples` leaves them: one response is a text, several are a list, and `doc` is gone"
    told = [dict(doc_id=0, target="yes", filtered_resps="Yes.", input="Is there a fracture?", exact_match=1.0, doc_hash="a"),
            dict(doc_id=1, target="3", filtered_resps=["3", "4"], resps=["3 ", "4 "], input=["How many?", {"until": []}])]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    rows = read_predictions(tmp_path / "samples.jsonl")
    read = [(r["question"], r["answer"], r["prediction"]) for r in rows]
    assert read == [("Is there a fracture?", "yes", ["Yes."]), ("", "3", ["3", "4"])]
    assert list(score_rows(rows[1:], "counting")["prediction"]["exact"]) == [0.5]
    (tmp_path / "bad.jsonl").write_text(json.dumps(dict(doc_id=0, target="", filtered_resps="x")) + "\n")
    with pytest.raises(DataError, match="row 1.*no truth"): read_predictions(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("target, said, right, answer", [
    ("['ITC Limited', 'itc limited', 'ITC']", "ITC Limited", True, '["ITC Limited", "itc limited", "ITC"]'),
    ("['yes', 'yes', 'no']", "yes", True, '["yes", "no"]'), (["3", "three"], "3", True, '["3", "three"]'),
    ("['pepsi']", "pepsi", True, "pepsi"), ("['liver', 'heart']", "spleen", False, None),
    ('["it\'s", "its"]', "it's", True, '["it\'s", "its"]'), ("['yes' \"don't\"]", "yes", True, '["yes", "don\'t"]'),
    ("['1/8/93', '1/8/93']", "1/8/93", True, "1/8/93"), ("['heart', '', None]", "", False, "heart"),
    # read as before: letters that must all be chosen, words in brackets, numbers, a sentence
    ("['A', 'C']", "A, C", True, "['A', 'C']"), ("['A', 'C']", "A", False, "['A', 'C']"), ("[unclear]", "unclear", True, "[unclear]"),
    ("[3, 4]", "liver", False, "[3, 4]"), ("3", "3", True, "3"), ("it is ['a']", "no", False, "it is ['a']")])
def test_a_target_of_lmms_eval_may_be_a_list_of_accepted_answers(tmp_path, capsys, target, said, right, answer):
    "It writes `str(target)`, a Python list as text where a question accepts several answers, as DocVQA's do"
    rows = [dict(doc_id=0, target=target, filtered_resps=[said], input="?")]
    read = read_predictions(write_lines(tmp_path / "s.jsonl", rows))
    assert answer is None or read[0]["answer"] == answer
    assert (score_rows(read, "vqa")["prediction"]["accuracy"][0] == 1) == right
    is_several = read[0]["answer"].startswith('["') and read[0]["answer"] != target  # a JSON text is our own form
    assert ("s.jsonl: target is a list, any of whose answers is right (1)" in capsys.readouterr().out) == is_several


@pytest.mark.parametrize("answer, kept", [
    ('["yes", "yeah"]', '["yes", "yeah"]'), ('[ "yes", "yeah" ]', '[ "yes", "yeah" ]'), (["yes"], "yes"), ("['yes']", "yes"),
    (3, "3"), (3.5, "3.5"), ("['A', 'C']", "['A', 'C']"), ("yes, no", "yes, no"), ("[3, 4]", "[3, 4]"),
    ("[1, 2, 3, 4] in pixels of 9 x 9", "[1, 2, 3, 4] in pixels of 9 x 9")])
def test_a_truth_is_kept_as_rewards_read_it(tmp_path, capsys, answer, kept):
    assert read_predictions(write_lines(tmp_path / "p.jsonl", [dict(answer=answer, prediction="yes")]))[0]["answer"] == kept
    assert capsys.readouterr().out == ""


def test_answers_that_pandas_wrote_into_a_table_are_lists_again(tmp_path, capsys):
    import pandas as pd
    rows = [dict(row=i, question="q", answer=["liver", '["yes", "yeah"]'][i % 2], before_greedy=["no"],
                 after_greedy=[["liver", "it's"][i % 2]], after_sampled=["liver", "liver", "heart", "yes"]) for i in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pd.read_json(tmp_path / "p.jsonl", lines=True)
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_csv(tmp_path / "p.tsv", index=False, sep="\t")
    table.to_parquet(tmp_path / "p.parquet")
    pd.read_parquet(tmp_path / "p.parquet").to_csv(tmp_path / "numpy.csv", index=False)  # lists without commas
    expected = read_predictions(tmp_path / "p.jsonl")
    assert capsys.readouterr().out == ""
    for name in ("p.csv", "p.tsv", "p.parquet", "numpy.csv"):
        back = read_predictions(tmp_path / name)
        assert [{c: r[c] for c in columns([r])} | dict(answer=r["answer"]) for r in back] == [
            {c: r[c] for c in columns([r])} | dict(answer=r["answer"]) for r in expected], name
        told = capsys.readouterr().out
        assert ("after_sampled was read as lists of texts (6)" in told) == (name != "p.parquet"), told


@pytest.mark.parametrize("row, said, right", [
    (dict(A="cat", B="dog", C="cow", D="pig", answer="B"), ["B", "dog", "(B) dog", "B. dog", "a dog", "A", "cat", "b and d"],
     [1, 1, 1, 1, 1, 0, 0, 0]),
    (dict(options=["cat", "dog"], answer="A"), ["cat", "dog", "A"], [1, 0, 1]),
    (dict(A="cat", B="dog", C=float("nan"), D=None, answer="B"), ["dog", "cat"], [1, 0]),
    # words that name no single option: the letter alone counts, as before
    (dict(A="B", B="A", answer="B"), ["B", "A"], [1, 0]), (dict(A="dog", B="Dog", answer="B"), ["B", "dog"], [1, 0]),
    (dict(A="cat", B="dog", answer="D"), ["D", "dog"], [1, 0]), (dict(A="cat", C="dog", answer="C"), ["C", "dog"], [1, 0]),
    (dict(answer="B"), ["B", "dog"], [1, 0]), (dict(A="cat", B="dog", answer="dog"), ["dog", "B"], [1, 0])])
def test_the_words_of_an_option_are_its_letter(tmp_path, capsys, row, said, right):
    "A model that answers in words was reported lower than by VLMEvalKit itself"
    path = write_lines(tmp_path / "p.jsonl", [dict(question="What animal?", prediction=text) | row for text in said])
    rows = read_predictions(path)
    assert score_rows(rows, "vqa")["prediction"]["accuracy"].tolist() == right
    assert (rows[0]["answer"] != row["answer"]) == ("option's letter" in capsys.readouterr().out)
    assert [r["answer"] for r in read_predictions(path, with_options=False)] == [row["answer"]] * len(said)


@pytest.mark.parametrize("lines, column, kept", [
    (["answer,prediction", "yes,\"['yes', 'no']\""], "prediction", ["['yes', 'no']"]),  # what another program's model said
    (["answer,a_greedy", "yes,\"['yes', 'no']\""], "a_greedy", ["['yes', 'no']"]),  # a best guess is one text
    (["answer,a_sampled", "yes,\"['yes', 'no']\"", "no,no"], "a_sampled", ["['yes', 'no']"]),  # not all of the column
    (["answer,a_sampled", "yes,\"[1, 2]\""], "a_sampled", ["[1, 2]"])])
def test_an_answer_that_is_a_list_stays_what_the_model_said(tmp_path, lines, column, kept):
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    assert read_predictions(tmp_path / "p.csv")[0][column] == kept


@pytest.mark.parametrize("form, name", [("lmms-eval", "s.jsonl"), ("vlmevalkit", "t.tsv"), ("vlmevalkit", "t.json")])
def test_what_is_written_for_others_comes_back(tmp_path, form, name):
    from vlrlbook.cli import main
    rows = [dict(row=i, question=f'How "many"\t{i}?\nNow.', answer=str(i), before_greedy=["x"], after_greedy=[f"= {i}\n"])
            for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["predictions", str(tmp_path / "p.jsonl"), str(tmp_path / name), "--form", form])
    back = read_predictions(tmp_path / name)
    assert [(r["question"], r["answer"], r["prediction"]) for r in back] == [(r["question"], r["answer"], r["after_greedy"]) for r in rows]


def test_vlmevalkit_itself_reads_the_table_as_it_reads_its_own(tmp_path):
    "Its `load` of a .tsv is pandas with tabs; the columns are the four that its judges ask for"
    import pandas as pd
    from vlrlbook.prediction_files import save_predictions_as
    rows = [dict(row=7, question="a\tb", answer="yes", after_greedy=['no "x"'])]
    assert save_predictions_as("vlmevalkit", rows, "after_greedy", tmp_path / "t.tsv") == 1
    table = pd.read_csv(tmp_path / "t.tsv", sep="\t")
    assert table.to_dict("records") == [dict(index=7, question="a\tb", answer="yes", prediction='no "x"')]


@pytest.mark.parametrize("form, name, column, told", [
    ("vlmevalkit", "t.tsv", "after_sampled", "row 7: after_sampled holds 2 answers.*take a greedy column"),
    ("vlmevalkit", "t.xlsx", "after_greedy", "reads .tsv and .json"), ("lmms-eval", "t.tsv", "after_greedy", "samples are .jsonl"),
    ("lmmseval", "t.jsonl", "after_greedy", "did you mean 'lmms-eval'"),
    ("lmms-eval", "t.jsonl", "after_greed", "did you mean 'after_greedy'")])
def test_what_another_program_cannot_hold_is_refused(tmp_path, form, name, column, told):
    from vlrlbook.prediction_files import save_predictions_as
    rows = [dict(row=7, question="q", answer="yes", after_greedy=["no"], after_sampled=["no", "yes"])]
    with pytest.raises(DataError, match=told): save_predictions_as(form, rows, column, tmp_path / name)
    with pytest.raises(DataError, match="no rows to write|did you mean"): save_predictions_as(form, [], column, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_files_of_chapter_03_are_scored(tmp_path):
    rows = [dict(id=i, response=["no", "yes!"], human_ranking=[0, 1], scores=[1.0, 2.0 if i < 2 else 0.0]) for i in range(40)]
    found = judged(tmp_path, rows)
    assert found["task"] == "preference" and found["judged"]["pair_accuracy"] == 0.95 and found["metrics"][0]["n"] == 40
    assert found["questions"][0]["answer"] == "no" # the first is always the better one
    turned = [r | dict(response=["yes!", "no"], human_ranking=[1, 0], scores=r["scores"][::-1]) if r["id"] % 2 else r for r in rows]
    turned = [r | dict(response=["same", "long"]) for r in turned]
    assert judged(tmp_path, turned)["questions"][0]["answer"] == "yes"
    assert (tmp_path / "out" / "metrics.csv").read_text().startswith("name,value,n")


def test_files_of_chapter_04_are_scored(tmp_path):
    rows = [dict(episode_index=i // 5, frame_index=i % 5, label=i % 5, **{f"p{b}": 0.9 if b == i % 5 else 0.025 for b in range(5)})
            for i in range(50)]
    found = judged(tmp_path, rows)
    assert found["task"] == "aloha" and found["judged"]["accuracy"] == 1.0 and found["judged"]["episodes"] == 10
    assert found["questions"][0]["answer"] == "yes"


def test_rows_of_ties_change_no_interval(tmp_path):
    "With many of them all pairs of one row counted as independent"
    rows = [dict(response=["a", "b", "c", "d"], human_ranking=[0, 1, 2, 3], scores=[4, 3, 2, 1] if i % 3 else [1, 2, 3, 4])
            for i in range(12)]
    tie = dict(response=["a", "b"], human_ranking=[0, 0], scores=[1, 2])
    intervals = [judged(tmp_path, rows + [tie] * ties)["metrics"][0]["ci95"] for ties in (0, 30, 70)]
    assert intervals[0] == intervals[1] == intervals[2] and intervals[0][1] - intervals[0][0] > 0.4
    alone = [dict(response=["a", "b"], human_ranking=[0, 1], scores=[2, 1] if i % 4 else [1, 2]) for i in range(40)]
    assert judged(tmp_path, alone + [tie] * 3)["metrics"][0]["ci95"] == wilson(30, 40), "one pair in each row: as before"


@pytest.mark.parametrize("films, count", [
    ([None] * 6, 6), ([float("nan")] * 6, 6), ([3, 3.0, 3, 4, 4.0, 4], 2), (["a", "a", "b", "b", "3", 3.0], 3), ([1, 1, None, None, 2, 2], 4),
    ([1, 1, 1, 2, 2, 2], 2), ([1.5, 1.5, 1, 1, 2, 2], 3)])
def test_films_of_frames(tmp_path, films, count):
    rows = [dict(label=i % 2, p0=0.6, p1=0.4, episode_index=film) for i, film in enumerate(films)]
    assert len(set(read_bins(write_lines(tmp_path / "b.jsonl", rows))["episodes"])) == count
    without = [{name: value for name, value in row.items() if name != "episode_index"} for row in rows]
    assert len(set(read_bins(write_lines(tmp_path / "b.jsonl", without))["episodes"])) == 6


@pytest.mark.parametrize("row_", [dict(human_ranking=[0, 1], scores=[1.0, 2.0], response=["a", "b"]), dict(label=0, p0=0.9, p1=0.1)])
def test_no_verdict_on_answers_that_another_evaluation_left(tmp_path, row_):
    from vlrlbook.report import report_html
    from vlrlbook.verdict import read_verdict
    (tmp_path / "out").mkdir()
    left = [dict(row=i, answer=str(i % 5), before_greedy=["9"], after_greedy=[str(i % 5)]) for i in range(60)]
    write_lines(tmp_path / "out" / "predictions.jsonl", left)
    assert read_verdict(tmp_path / "out")["outcome"] == "better"
    found = judged(tmp_path, [row_] * 12)
    assert found["verdict"]["outcome"] == read_verdict(tmp_path / "out")["outcome"] == "not measured"
    assert "Better" not in report_html(tmp_path / "out")
    results = json.loads((tmp_path / "out/results.json").read_text())
    del results["verdict"] # as an older version wrote it
    (tmp_path / "out/results.json").write_text(json.dumps(results))
    assert read_verdict(tmp_path / "out")["outcome"] == "not measured"


@pytest.mark.parametrize("row, message", [
    (dict(human_ranking=[0, 1], scores=[1.0]), "predictions.scores: row 2"),
    (dict(human_ranking=[0, 1], scores=[1.0, None]), "predictions.scores: row 2"),
    (dict(human_ranking=[0, 1], scores=[1, 2, 3]), "3 scores of 2 ranked answers"),
    (dict(scores=[1, 2]), "predictions.human_ranking: row 2")])
def test_a_bad_row_of_chapter_03_is_named(tmp_path, row, message):
    good = dict(response=["a", "b"], human_ranking=[0, 1], scores=[1, 0])
    with pytest.raises(DataError, match=re.escape(message)): judged(tmp_path, [good, row])


@pytest.mark.parametrize("row, message", [
    (dict(label=10**400, p0=0.5, p1=0.5), "expected a bin from 0 to 1"), (dict(label=0, p0=10**400, p1=0), "add up to 1"),
    (dict(label=2, p0=0.5, p1=0.5), "label = 2, expected a bin from 0 to 1"), (dict(label=0, p0=0.5, p1=0.6), "add up to 1"),
    (dict(label=0, p0=1.0), "1 probabilities p0, p1, …, the first row has 2"), (dict(label=True, p0=0.5, p1=0.5), "label = True"),
    (dict(label=0, p0=0.5, p2=0.5), "p2 without p1"),
    (dict(label=0, p0="a", p1=0.5), "expected numbers from 0"), (dict(label=0), "no probabilities p0, p1, …")])
def test_a_bad_row_of_chapter_04_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=re.escape(message)) as error: judged(tmp_path, [dict(label=0, p0=0.5, p1=0.5), row])
    assert error.value.row == 2


def test_a_first_row_without_probabilities_is_named(tmp_path):
    "It was a ValueError of `min`, about an empty list"
    (tmp_path / "bins.jsonl").write_text(json.dumps(dict(label=0)) + "\n")
    with pytest.raises(DataError, match="predictions.bins: row 1: no probabilities"): read_bins(tmp_path / "bins.jsonl")


def test_ranks_that_are_all_equal_are_no_result(tmp_path):
    with pytest.raises(DataError, match="no pair with a preference"):
        judged(tmp_path, [dict(response=["a", "b"], human_ranking=[0, 0], scores=[1, 0])])


def test_joining_another_set_is_refused():
    rows = counting_rows("12", "12", [1, 2])
    with pytest.raises(ValueError, match="not the same set"): join(rows, counting_rows("1", "1", [1]))


# ---- is a gain real?

def answers(counts): return [f"A photo of {c} discs" for c in counts]


def test_luck_is_no_gain_and_a_gain_is_one():
    rng = np.random.default_rng(0)
    truths = rng.integers(1, 7, 400)
    guess = lambda share: answers(np.where(rng.random(400) < share, truths, rng.integers(1, 7, 400)))
    verdicts = {}
    for name, share in (("same", 0.5), ("better", 0.75)):
        rows = [r | dict(before_sampled=r["before_greedy"], after_sampled=r["after_greedy"], before_shuffled=[b],
                         after_shuffled=[a]) for r, b, a in zip(counting_rows(guess(0.5), guess(share), truths), guess(0), guess(0))]
        scored = score_rows(rows)
        verdicts[name] = [q["answer"]
                          for q in questions(all_metrics(rows), flips(scored["before_greedy"]["exact"], scored["after_greedy"]["exact"]))]
    assert verdicts["same"][:3] == ["no"] * 3 and verdicts["better"] == ["yes"] * 8


def test_habit_is_not_sight():
    "A model that only learns which count is common gains, needs no picture, and is told so"
    rng = np.random.default_rng(1)
    truths = np.where(rng.random(400) < 0.6, 5, rng.integers(1, 7, 400))
    rows = [r | dict(before_shuffled=r["before_greedy"], after_shuffled=r["after_greedy"])
            for r in counting_rows(answers(rng.integers(1, 7, 400)), answers([5] * 400), truths)]
    found = {q["question"]: q["answer"] for q in questions(all_metrics(rows))}
    assert found["Did greedy exact rise?"] == "yes"
    assert (found["Does it need its picture?"] == found["Better than one answer to everything?"]
            == found["Did it learn to see, not only what is common?"] == "no")
    assert found["Did sampled exact rise?"] == "not measured"


def test_who_pays_is_named():
    "Fives win, fours lose, the mean rises"
    truths = np.repeat([4, 5], [60, 200])
    rows = counting_rows(answers(np.repeat([4, 4], [60, 200])), answers(np.repeat([5, 5], [60, 200])), truths)
    found = {q["question"]: q for q in questions(all_metrics(rows))}
    assert found["Did greedy exact rise?"]["answer"] == "yes"
    assert found["Did every group keep its accuracy?"]["answer"] == "no"
    assert found["Did every group keep its accuracy?"]["because"].startswith("count 4: -1.000")


def test_groups_alarm_seldom_by_luck():
    rng = np.random.default_rng(4)
    alarms = []
    for _ in range(60):
        truths = rng.integers(1, 7, 240)
        luck = (rng.random(240) < 0.6).astype(float) - (rng.random(240) < 0.6)
        groups = by_group(counting_rows(truths, truths, truths), {"gain": luck}, measure=difference)
        alarms.append(bool(losing_groups([g["gain"] | dict(name=f"gain_greedy/exact/count {g['group']}") for g in groups])))
    assert sum(alarms) <= 6


def test_mcnemar_alarms_one_time_in_twenty_at_most():
    rng = np.random.default_rng(2)
    alarms = [flips(b, a)["p"] < 0.05 for b, a in ((rng.random(200) < 0.6, rng.random(200) < 0.6) for _ in range(1000))]
    assert np.mean(alarms) < 0.06


def test_no_blind_answer_beats_the_best_blind_one():
    rows = counting_rows(["x"] * 60, ["x"] * 60, np.random.default_rng(3).integers(1, 7, 60))
    pay = lambda text, r: float(text == r["answer"])
    best = sum(pay(t, r) for t, r in zip(best_blind(rows, pay), rows))
    assert best == max(sum(pay(c, r) for r in rows) for c in {r["answer"] for r in rows})


def test_groups_add_up():
    rows = counting_rows(["1", "2", "3"], ["1", "1", "3"], [1, 2, 10])
    groups = by_group(rows, {"after_greedy": score_rows(rows)["after_greedy"]["exact"]})
    assert [g["group"] for g in groups] == ["1", "2", "10"] and [g["after_greedy"]["value"] for g in groups] == [1, 0, 0]


@pytest.mark.parametrize("start, step", [(0, 0), (60, 65), (200, None)])
def test_parting(start, step):
    "Smoothing delays what it sees; a run that never parts has no step"
    from vlrlbook.core import RunLog
    log = RunLog(rows=[{"step": s, "part/counting_exact": 0.5, "part/verbatim": 0.5 - 0.1 * (s >= start)} for s in range(100)])
    found = parting(log)["step"]
    assert found is None if step is None else abs(found - step) <= 3


@pytest.mark.parametrize("rows, told", [
    ([], "no column 'part/counting_exact', it has: no rows"), ([{"step": 1, "reward": 0.5}], "it has: step, reward"),
    ([{"step": 1, "part/counting_exact": 0.5}], "no column 'part/verbatim'"),
    ([{"step": 1, "part/counting_exact": 0.5}, {"step": 2, "part/verbatim": 0.5}], "logged at different steps")])
def test_parting_says_what_a_log_lacks(rows, told):
    from vlrlbook.core import RunLog
    with pytest.raises(ValueError, match=told): parting(RunLog(rows=rows))


# ---- asking

@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    "An adapter that changes what the untrained twin says"
    folder = tmp_path_factory.mktemp("adapter")
    model = add_lora(tiny_twin("qwen2_5_vl")[0], r=4, alpha=64)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight.data, std=0.5)
    model.save_pretrained(folder)
    return folder


ASK = dict(answers=2, max_new_tokens=3, batch_size=3)


def test_the_adapter_is_off_before_and_on_after(adapter):
    from vlrlbook.grpo import generate_answers
    samples = synthetic_counting(4, seed=7)
    rows = compare(TINY, adapter, samples, **ASK)
    assert columns(rows) == [f"{w}_{h}" for w in ("before", "after") for h in ("greedy", "sampled", "no_picture", "shuffled")]
    alone = compare(TINY, None, to_dataset(samples), **ASK)
    assert [r["before_greedy"] for r in rows] == [r["before_greedy"] for r in alone]
    assert [r["before_sampled"] for r in rows] == [r["before_sampled"] for r in alone]
    model, processor = load_vlm(TINY, adapter=str(adapter))
    assert [r["after_greedy"] for r in rows] == generate_answers(model, processor, samples, max_new_tokens=3, batch_size=3)
    assert any(r["before_greedy"] != r["after_greedy"] for r in rows) and all(len(r["after_sampled"]) == 2 for r in rows)


def test_a_whole_model_is_a_second_load(tmp_path):
    from vlrlbook.models import save_model
    model, processor = tiny_twin("qwen2_5_vl", seed=1)
    save_model(model, processor, tmp_path / "whole")
    rows = compare(TINY, tmp_path / "whole", synthetic_counting(3, seed=7), **ASK, controls=False)
    assert columns(rows) == ["before_greedy", "before_sampled", "after_greedy", "after_sampled"]
    assert any(r["before_greedy"] != r["after_greedy"] for r in rows)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen3_5", "gemma3", "aria"])
def test_every_family_is_asked(family):
    rows = compare(f"tiny-{family}", None, synthetic_counting(2, seed=7), **ASK)
    assert len(rows) == 2 and columns(rows) == ["before_greedy", "before_sampled", "before_no_picture", "before_shuffled"]


def test_several_processes_give_the_answers_of_one(adapter, tmp_path):
    samples = synthetic_counting(7, seed=7)
    alone, shared = RunLog(), RunLog()
    rows = compare(TINY, adapter, samples, tmp_path / "one.jsonl", **ASK, log=alone)
    assert compare(TINY, adapter, samples, tmp_path / "two.jsonl", **ASK, processes=2, log=shared) == rows
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert [(r["step"], r["pictures"], r["answers"]) for r in shared.rows] == [(r["step"], r["pictures"], r["answers"]) for r in alone.rows]
    # a file that one process began is finished by two: the number is no part of how it was made
    (tmp_path / "two.jsonl").write_bytes((tmp_path / "one.jsonl").read_bytes()[:-20])
    assert compare(TINY, adapter, samples, tmp_path / "two.jsonl", **ASK, processes=2) == rows


def test_what_fails_in_another_process_is_told_in_this_one(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json"):
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "tiny-qwen2_vl", "lora_alpha": 0}')
        compare(TINY, tmp_path, synthetic_counting(2, seed=7), **ASK, processes=2)


class Engine:
    "vLLM without vLLM: the model of the folder answers by transformers, and says what it has read"
    folders, wished = [], []

    def __init__(self, folder, **options):
        self.model, self.processor = load_vlm(folder)
        self.folders.append(folder)
        assert options == dict(dtype="float32", gpu_memory_utilization=0.4, max_model_len=256)

    def generate(self, rows, wishes, use_tqdm):
        token, outputs = self.processor.image_token_id, []
        self.wished += wishes
        for row, wish in zip(rows, wishes, strict=True):
            pictures = row.get("multi_modal_data", {}).get("image", [])
            text = self.processor.tokenizer.decode(row["prompt_token_ids"])
            batch = self.processor(text=[text], images=pictures or None, return_tensors="pt")
            assert row["prompt_token_ids"].count(token) == len(pictures)
            with torch.no_grad():
                said = self.model.generate(**batch, max_new_tokens=wish.max_tokens, do_sample=False, suppress_tokens=list(wish.logit_bias))
            text = self.processor.tokenizer.decode(said[0, batch["input_ids"].shape[1]:], skip_special_tokens=True)
            outputs.append(types.SimpleNamespace(prompt_token_ids=batch["input_ids"][0].tolist(),
                                                 outputs=[types.SimpleNamespace(text=text)] * wish.n))
        return outputs


class Wishes:
    "vLLM's SamplingParams"
    def __init__(self, **given): self.__dict__ |= dict(n=1) | given


def test_vllm_is_asked_as_transformers_are(adapter, tmp_path, monkeypatch):
    "Both models whole, the adapter merged, greedy answers equal, a seed for every row; nothing is left behind"
    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.__spec__ = Engine, Wishes, importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    samples, engine, path = synthetic_counting(7, seed=7), dict(share=0.8, longest=256), tmp_path / "said.jsonl"
    rows, asked = compare(TINY, adapter, samples, **ASK), compare(TINY, adapter, samples, path, **ASK, engine=engine)
    greedy = [c for c in columns(rows) if not c.endswith("sampled")]
    assert [{c: r[c] for c in greedy} for r in asked] == [{c: r[c] for c in greedy} for r in rows]
    assert columns(asked) == columns(rows) and all(len(r["after_sampled"]) == ASK["answers"] for r in asked)
    seeds = [w.seed for w in Engine.wished[:-len(samples)] if w.n == ASK["answers"]]
    assert len(set(seeds)) == len(seeds) // 2 # two engines, each row with a seed of its own
    assert len(Engine.folders) == 2 and not any(os.path.exists(folder) for folder in Engine.folders)
    # who answered is a part of how a file was made
    with pytest.raises(SettingsError, match="engine = 'vllm', now 'transformers'"): compare(TINY, adapter, samples, path, **ASK)
    for given_, message in ((dict(processes=2), "use_vllm asks in one process"), (dict(use_4bit=True), "leave out use_4bit"),
                            (dict(vllm_max_model_length=8), "no room for a prompt"),
                            (dict(vllm_gpu_memory_utilization=1.5), "up to 1")):
        with pytest.raises(SettingsError, match=message): read_settings(EvaluationSettings, given_ | dict(use_vllm=True))


@pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vLLM is installed here")
def test_without_vllm_it_is_said_before_a_model_is_loaded():
    with pytest.raises(SettingsError, match="vLLM is not installed"): read_settings(EvaluationSettings, dict(use_vllm=True))


class Bomb(Image.Image):
    "A picture whose arrival kills a process"
    def __reduce__(self): return os._exit, (9,)


def test_a_process_that_dies_is_told_in_words(tmp_path):
    samples, path = synthetic_counting(6, seed=7), tmp_path / "p.jsonl"
    last = samples[by_length(load_vlm(TINY)[1], samples)[-1]]
    last.images[0].__class__ = Bomb
    with pytest.raises(SettingsError, match="one of those that ask has died"):
        compare(TINY, None, samples, path, **ASK, processes=2, controls=False)
    last.images[0].__class__ = Image.Image
    assert compare(TINY, None, samples, path, **ASK, controls=False) == read_predictions(path) and len(read_predictions(path)) == 6


def test_batches_go_by_length():
    from vlrlbook.models import twin_processor
    samples = synthetic_vqa(12) + synthetic_counting(3)
    order = by_length(twin_processor("qwen2_5_vl"), samples)
    assert sorted(order) == list(range(15)) and len(samples[order[0]].question) > len(samples[order[-1]].question)


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(0, 100))
def test_nobody_keeps_his_picture(which, seed):
    pictures = synthetic_counting(6, seed=1)
    samples = [pictures[i] for i in which]
    given_to = other_pictures(samples, seed)
    assert all(which[j] != which[i] for i, j in enumerate(given_to)) or len(set(which)) == 1
    assert given_to == other_pictures(samples, seed)


def test_a_torn_file_is_cut_back_and_finished(adapter, tmp_path):
    samples, path = synthetic_counting(7, seed=7), tmp_path / "p.jsonl"
    compare(TINY, adapter, samples, path, **ASK)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, next(i for i, b in enumerate(whole) if b > 127) + 1, len(whole) - 5, len(whole)):
        path.write_bytes(whole[:size])
        rows = compare(TINY, adapter, samples, path, **ASK)
        assert path.read_bytes() == whole and rows == read_predictions(path)
    with pytest.raises(SettingsError, match="temperature = 1.0, now 0.5"): compare(TINY, adapter, samples, path, **ASK, temperature=0.5)
    with pytest.raises(SettingsError, match="begun with data"): compare(TINY, adapter, samples[::-1], path, **ASK)
    assert path.read_bytes() == whole
    (tmp_path / "p.settings.json").unlink()
    with pytest.raises(SettingsError, match="p.settings.json that says how it was made"): compare(TINY, adapter, samples, path, **ASK)
    compare(TINY, adapter, samples, path, **ASK, resume=False)
    assert path.read_bytes() == whole


def test_a_retrained_adapter_is_not_mixed_with_the_old_one(adapter, tmp_path):
    import shutil
    from safetensors.torch import load_file, save_file
    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    compare(TINY, copy, synthetic_counting(3, seed=7), tmp_path / "p.jsonl", **ASK)
    weights = load_file(copy / "adapter_model.safetensors")
    save_file({k: 1.01 * w for k, w in weights.items()}, copy / "adapter_model.safetensors")
    with pytest.raises(SettingsError, match="begun with adapter"):
        compare(TINY, copy, synthetic_counting(3, seed=7), tmp_path / "p.jsonl", **ASK)


# ---- jobs

def command(folder, *options):
    return [sys.executable, "-m", "vlrlbook.cli", "evaluate", *map(str, options)], dict(cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def evaluates(folder, *options):
    "`vlrlbook evaluate` in `folder`"
    from vlrlbook.cli import main
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(main(["evaluate", *map(str, options)]))


def test_killed_twice_ends_with_the_same_file(adapter, tmp_path):
    options = ("--model", TINY, "--adapter", adapter, "--eval_samples", 30, "--eval_batch_size",
               2, "--eval_answers", 2, "--max_completion_length", 2)
    path, seen = tmp_path / "runs/06_evaluation/predictions.jsonl", 0
    for wanted in (4, 12):
        process = start_process(evaluates, tmp_path, *options)
        while process.is_alive() and (not path.exists() or path.read_bytes().count(b"\n") < wanted): time.sleep(0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen, before = path.read_bytes().count(b"\n"), seen
        assert before < seen < 30
    for more in ((), ("--output_dir", "whole")):
        process = start_process(evaluates, tmp_path, *options, *more)
        process.join()
        assert process.exitcode == 0
    assert path.read_bytes() == (tmp_path / "whole/predictions.jsonl").read_bytes()
    a, b = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("runs/06_evaluation", "whole"))
    assert a["metrics"] == b["metrics"] and b["pictures_per_second"] > 0


def test_console_command_scores_a_file_without_a_model(tmp_path):
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps(dict(question="How many?", answer=str(i % 4), prediction=str(i % 3))) + "\n" for i in range(12)))
    line, how = command(tmp_path, "--predictions", "mine.jsonl", "--output-dir", "out")
    done = subprocess.run(line, **how)
    assert done.returncode == 0, done.stderr
    assert "prediction/exact" in done.stdout
    found = json.loads((tmp_path / "out/results.json").read_text())
    by_name = {m["name"]: m for m in found["metrics"]}
    assert {"name", "column", "mark", "group", "kind", "value", "n", "ci95", "interval"} == set(by_name["prediction/exact"])
    assert by_name["prediction/exact"]["n"] == 12
    assert {"settings", "versions", "commit", "seconds", "peak_memory_mb"} <= set(found)
    table = {r["name"]: r for r in csv.DictReader((tmp_path / "out/metrics.csv").open())}
    assert list(table) == list(by_name) and float(table["prediction/exact"]["value"]) == by_name["prediction/exact"]["value"]
    for options, message in ((("--predictions", "none.jsonl"), "no such file"), ((), "nothing to measure"),
                             (("--predictions", "mine.jsonl", "--task", "count"), "did you mean 'counting'"),
                             (("--prediction_file", "mine.jsonl"), "did you mean 'predictions'")):
        line, how = command(tmp_path, *options)
        failed = subprocess.run(line, **how)
        assert failed.returncode and message in failed.stderr and "Traceback" not in failed.stderr


def test_vqa_rows_are_asked_with_their_prompt(tmp_path):
    samples = synthetic_vqa(24, seed=5)
    with (tmp_path / "mine.jsonl").open("w") as f:
        for i, s in enumerate(samples):
            s.images[0].save(tmp_path / f"{i // 2}.png") # two questions about each picture
            f.write(json.dumps(dict(question=s.question, answer=s.answer, image=f"{i // 2}.png",
                                    question_type=("PRES", "POS, PRES")[i % 2])) + "\n")
    settings = dict(model=TINY, data=str(tmp_path / "mine.jsonl"), eval_answers=2, max_completion_length=2,
                    eval_batch_size=4, output_dir=str(tmp_path / "out"), max_image_size=56)
    found = evaluate(read_settings(EvaluationSettings, settings))
    rows, plan = read_predictions(tmp_path / "out/predictions.jsonl"), json.loads((tmp_path / "out/predictions.settings.json").read_text())
    assert found["task"] == "vqa" and "Your task" not in rows[0]["question"] and {"question_type", "picture"} <= set(rows[0])
    assert plan["data"] == frozen_key(load_vqa(settings["data"]).select(sorted(r["row"] - 1 for r in rows))), "asked in the VQA prompt"
    held = {r["picture"] for r in rows}
    assert 0 < len(held) < 12 and len(rows) == 2 * len(held), "whole pictures are held out"
    by_name = {m["name"]: m for m in found["metrics"]}
    assert {"before_greedy/accuracy", "before_greedy/closed_accuracy", "before_greedy/open_recall", "before_greedy/open_f1",
            "majority/accuracy", "before_greedy/accuracy/type PRES"} <= set(by_name)
    assert by_name["before_greedy/accuracy/type PRES"]["n"] == len(rows)
    # An untrained twin answers nothing right: all shares are 0, and a bootstrap of equal values has no width.
    assert by_name["before_greedy/accuracy"]["value"] == 0 and by_name["before_greedy/accuracy"]["interval"] == "Wilson over pictures"
    everything = evaluate(read_settings(EvaluationSettings, settings | dict(split="all", output_dir=str(tmp_path / "all"), controls=False)))
    assert {m["name"]: m for m in everything["metrics"]}["before_greedy/accuracy"]["n"] == 24


@pytest.mark.parametrize("types, groups", [
    (["PRES", "POS"], ["PRES", "POS"]), ("POS, PRES", ["POS", "PRES"]), (float("nan"), ["yes/no"]), (None, ["yes/no"]), ([], ["yes/no"]),
    (" pres ", ["PRES"]), ([None, "pos"], ["POS"]), (7, ["7"])])
def test_types_of_a_data_file_are_those_of_its_cells(tmp_path, types, groups):
    "A list became the group ['PRES', an empty cell the group NAN"
    draw_discs(3, random.Random(0)).save(tmp_path / "a.png")
    line = json.dumps(dict(question="Is it?", answer="yes", image="a.png", question_type=types, answer_type=float("nan")))
    (tmp_path / "mine.jsonl").write_text(line + "\n")
    given_ = dict(model=TINY, data=str(tmp_path / "mine.jsonl"), split="all")
    dataset, more = load_set(read_settings(EvaluationSettings, given_))
    assert group_names(dict(answer="yes") | more[1], "vqa") == groups and "answer_type" not in more[1]
    assert json.loads(json.dumps(more[1])) == more[1]


def test_a_continued_file_has_the_types_of_now(tmp_path):
    from vlrlbook.evaluation import _earlier_rows
    path, plan = tmp_path / "p.jsonl", dict(seed=1)
    _earlier_rows(path, plan, [[0, 1]], resume=True)
    path.write_text('{"row": 1, "a_greedy": ["é"]}\n{"row": 2, "question_type": "OLD", "a_greedy": ["b"]}\n', encoding="utf-8")
    before = path.read_bytes()
    assert _earlier_rows(path, plan, [[0, 1]], resume=True)[0] == {"row": 1, "a_greedy": ["é"]} and path.read_bytes() == before
    rows = _earlier_rows(path, plan, [[0, 1]], True, {1: {"question_type": "NEW"}, 2: {"question_type": ["A", "B"]}})
    assert [r["question_type"] for r in rows] == ["NEW", ["A", "B"]] and [r["a_greedy"] for r in rows] == [["é"], ["b"]]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == rows


def test_a_row_whose_truth_earns_nothing_is_told_of(tmp_path, capsys):
    "The report was printed before such rows were added to it"
    draw_discs(3, random.Random(0)).save(tmp_path / "a.png")
    truths = ("A photo of 3 discs", "A photo of several discs", "A photo of 3 discs")
    rows = [dict(question="How many?", answer=truth, image="a.png") for truth in truths]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = dict(task="counting", reward="counting", data=str(tmp_path / "mine.jsonl"), split="all", skip_bad_rows=True)
    dataset, _ = load_set(read_settings(EvaluationSettings, settings))
    report = capsys.readouterr().out
    assert dataset["row"][:] == [1, 3] and "3 rows, 2 kept, 1 skipped" in report and "- row 2: row.truth" in report


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    "Chapter 05, short, on a ZIP"
    folder = tmp_path_factory.mktemp("main")
    write_counting_zip(synthetic_counting(30, seed=3), folder / "mine.zip")
    run_page(ROOT / "nbs" / "05_grpo.ipynb", folder, data="mine.zip", lr=3e-3, warm_steps=2, max_steps=2, batch_size=8, reward="counting",
             num_generations=4, eval_samples=6, eval_answers=2, logging_steps=1, save_steps=0)
    return folder


def test_the_main_jobs_table_comes_out_of_its_answers(main_job):
    out = main_job / "runs/05_grpo"
    rows, results = read_predictions(out / "predictions.jsonl"), json.loads((out / "results.json").read_text())
    again, scored = recompute(rows), score_rows(rows)
    for when in ("before", "after"):
        for how in ("greedy", "sampled"): assert again[when][how] == pytest.approx(results[when][how])
    for how in ("greedy", "sampled"):
        for mark, name in (("reward", "mean_reward"), ("exact", "exact_accuracy"), ("verbatim", "verbatim_accuracy")):
            found = difference("gain", scored[f"after_{how}"][mark] - scored[f"before_{how}"][mark], pictures_of(rows), mark=mark)
            assert results["gain"][how][name] == pytest.approx(found["value"]) == pytest.approx(again["gain"][how][name])
            assert results["gain"][how][f"{name}_ci95"] == pytest.approx(found["ci95"])
            assert results["gain"][how][f"{name}_interval"] == found["interval"] != "normal"


@pytest.mark.parametrize("task", ["counting", "vqa"])
def test_the_main_jobs_table_of_either_task(task):
    "Chapter 05's own marks of its own rows, and ours from the saved text"
    from vlrlbook.grpo import gain, marks, summary
    from vlrlbook.rewards import load_reward
    samples = synthetic_counting(12, seed=3) if task == "counting" else synthetic_vqa(12, seed=3)
    tag = (lambda t: t) if task == "counting" else (lambda t: f"<think>a</think><answer>{t}</answer>")
    said = {when: {how: [[tag(samples[(i * step + k) % 12].answer) for k in range(n)] for i in range(12)]
                   for how, n in (("greedy", 1), ("sampled", 3))} for when, step in (("before", 5), ("after", 1))}
    rows = [dict(row=s.row, question=s.question, answer=s.answer,
                 **{f"{w}_{h}": texts[i] for w, hows in said.items() for h, texts in hows.items()}) for i, s in enumerate(samples)]
    theirs, again = {w: {h: marks(samples, texts, load_reward(task)) for h, texts in hows.items()}
                     for w, hows in said.items()}, recompute(rows, task)
    for how in ("greedy", "sampled"):
        for when in ("before", "after"): assert again[when][how] == pytest.approx(summary(theirs[when][how]))
        known = gain(theirs["before"][how], theirs["after"][how])
        assert again["gain"][how] == pytest.approx({k: known[k] for k in ("mean_reward", "exact_accuracy", "verbatim_accuracy")})


def test_the_page_measures_its_adapter(main_job):
    "The same held-out pictures as chapter 05 kept back, and the same greedy answers"
    run_page(CHAPTER, main_job, adapter="runs/05_grpo", data="mine.zip", eval_samples=6, eval_batch_size=6, eval_answers=2)
    rows, theirs = (read_predictions(main_job / "runs" / d / "predictions.jsonl") for d in ("06_evaluation", "05_grpo"))
    assert {r["row"]: (r["answer"], r["before_greedy"], r["after_greedy"])
            for r in rows} == {r["row"]: (r["answer"], r["before_greedy"], r["after_greedy"]) for r in theirs}
    found = json.loads((main_job / "runs/06_evaluation/results.json").read_text())
    assert found["settings"]["adapter"] == "runs/05_grpo"
    assert {"gain_sampled/exact", "after_shuffled/exact", "majority/exact", "seeing_gain/exact"} <= {m["name"] for m in found["metrics"]}
    assert (main_job / "runs/06_evaluation/metrics.csv").exists() and (main_job / "runs/06_evaluation/run_log.csv").exists()


def test_papermill_scores_a_file(tmp_path):
    "Answers of another program, no model: the whole page speaks of them"
    samples = synthetic_vqa(20, seed=5)
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps(dict(question=s.question, answer=s.answer, prediction="yes" if i % 2 else s.answer)) + "\n"
                for i, s in enumerate(samples)))
    done = papermill(CHAPTER, tmp_path, predictions="mine.jsonl")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "runs/06_evaluation/results.json").read_text())
    metrics = {m["name"]: m for m in found["metrics"]}
    assert found["task"] == "vqa" and metrics["prediction/accuracy"]["n"] == 20 and 0.5 <= metrics["prediction/accuracy"]["value"] < 1
    assert found["pictures_per_second"] is None and not (tmp_path / "runs/06_evaluation/predictions.jsonl").exists()


def test_parameters_cell_equals_settings():
    cells = [c for c in json.loads(CHAPTER.read_text())["cells"] if "parameters" in c["metadata"].get("tags", [])]
    module = (ROOT / "vlrlbook" / "evaluation_settings.py").read_text()
    body = module.split("class EvaluationSettings(Settings):")[1].split("    presets: ClassVar")[0].split('"\n', 1)[1]
    assert len(cells) == 1 and parsed("".join(cells[0]["source"])) == parsed(body)
    assert all(p["help"] for p in inspect_notebook(str(CHAPTER)).values())


@pytest.mark.parametrize("given_, message",
                         [({"adaptor": "x"}, "did you mean 'adapter'"), ({"adapter": "nowhere"}, "no adapter_config.json"),
                          ({"data": "none.zip"}, "no such file"), ({"split": "held_out"}, "did you mean 'held-out'"),
                                             ({"eval_samples": 0}, "expected more than 0"),
                                             ({"size": "big"}, "there are: tiny, gpu"),
                                             ({"task": "vqaa"}, "did you mean 'vqa'"),
                                             ({"prompt": "vqa"}, "there is no 'prompt'"), ({"resume": "maybe"}, "expected bool")])
def test_refused(given_, message):
    with pytest.raises(SettingsError, match=message): read_settings(EvaluationSettings, given_)


@pytest.mark.parametrize("sign", ["begun_with.json", "training_args.json"])
def test_the_records_of_a_training_are_not_replaced(tmp_path, sign):
    "Its results.json was replaced without a word, and its log was removed"
    (tmp_path / "adapter_config.json").write_text("{}")
    read_settings(EvaluationSettings, dict(adapter=str(tmp_path), output_dir=str(tmp_path))) # a folder with an adapter alone
    (tmp_path / sign).write_text("{}")
    for given_ in (dict(adapter=str(tmp_path)), dict(predictions=str(tmp_path / sign)), dict(model=TINY, resume=False)):
        with pytest.raises(SettingsError, match="a training has its records there.*take .*evaluation'"):
            read_settings(EvaluationSettings, given_ | dict(output_dir=str(tmp_path)))
    read_settings(EvaluationSettings, dict(adapter=str(tmp_path), output_dir=str(tmp_path / "evaluation")))


def test_a_refused_evaluation_leaves_the_log(tmp_path):
    given_ = dict(model=TINY, eval_samples=2, eval_answers=1, max_completion_length=1, controls=False, output_dir=str(tmp_path))
    log, settings = tmp_path / "run_log.csv", read_settings(EvaluationSettings, given_)
    log.write_text("step,reward\n1,0.5\n")
    (tmp_path / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(SettingsError, match="resume = false begins anew"): evaluate(settings)
    assert log.read_text() == "step,reward\n1,0.5\n", "what is refused changes nothing"
    evaluate(read_settings(EvaluationSettings, given_ | dict(resume=False)))
    assert "pictures" in log.read_text() and "reward" not in log.read_text()
    evaluate(settings) # all is answered: the speed of the earlier session is not this one's
    assert not log.exists()


# ---- real questions

@pytest.mark.skipif(not (SHARED / "vqa_rad").exists(), reason="the folder with VQA-RAD is not beside this checkout")
def test_real_radiology_questions(tmp_path):
    known = json.loads((SHARED / "vqa_rad" / "VQA_RAD_Dataset_Public.json").read_text())
    rows = [dict(question=r["question"], answer=" ".join(str(r["answer"]).split()), answer_type=r["answer_type"],
                 question_type=r["question_type"], picture=r["image_name"]) for r in known]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r | dict(prediction=r["answer"])) + "\n" for r in rows))
    found = {m["name"]: m for m in all_metrics(read_predictions(tmp_path / "p.jsonl"), "vqa")}
    assert found["prediction/closed_accuracy"]["n"] == 612 and found["prediction/open_accuracy"]["n"] == 502
    assert found["prediction/accuracy"]["value"] == found["prediction/open_f1"]["value"] == 1, [r["answer"]
        for r in rows if not vqa_accuracy(r["answer"], r["answer"])["accuracy"]]
    assert found["prediction/accuracy/type PRES"]["n"] == sum("PRES" in r["question_type"] for r in rows)
    assert 0.2 < found["majority/accuracy"]["value"] < 0.6 and found["majority/accuracy"]["interval"] == "bootstrap over pictures"


def test_a_short_last_batch_is_not_taken_for_answered(tmp_path):
    "A run killed within its second batch left more lines than the first and the short last batch need together"
    from vlrlbook.evaluation import _earlier_rows
    path, plan = tmp_path / "predictions.jsonl", dict(seed=1)
    batches = [list(range(64)), list(range(64, 128)), list(range(128, 138))]
    assert _earlier_rows(path, plan, batches, resume=False) == []
    path.write_text("".join(f'{{"row": {row}}}\n' for row in range(84)) + '{"row": 8')
    assert [row["row"] for row in _earlier_rows(path, plan, batches, resume=True)] == list(range(64))
    assert len(path.read_text().splitlines()) == 64


def test_one_model_needs_one_name():
    "Page 06 asks an untrained model alone"
    from vlrlbook.answers import speakers
    models, _ = speakers("tiny-qwen2_5_vl", None, ("untrained",))
    assert [name for name, _, _ in models] == ["untrained"]


def test_a_truth_that_is_called_other_stands_once():
    from vlrlbook.evaluation import confusion_rows
    said = (("other", "other"), ("other", "liver"), ("liver", "liver"), ("lung", "heart"))  # (truth, answer)
    rows = [dict(answer=truth, after=[answer]) for truth, answer in said]
    classes, counts = confusion_rows(rows, "after", "vqa", most=2)
    assert classes == ["liver", "other", "all other"] and counts[1][1] == 1 and counts[2][2] == 1


def test_predictions_are_not_continued_without_a_setting_that_they_were_begun_with(tmp_path):
    "A setting that is off stands in no plan, so both plans' names are compared"
    from vlrlbook.evaluation import _refuse_other_plan
    with_looks, without = dict(seed=1, looks=2), dict(seed=1)
    for old, new in ((with_looks, without), (without, with_looks)):
        with pytest.raises(SettingsError, match="looks = "): _refuse_other_plan(tmp_path / "p.jsonl", old, new)
    _refuse_other_plan(tmp_path / "p.jsonl", without, dict(seed=1, base_weights="abc")) # begun before the base's weights were known


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_predictions_know_the_weights_of_their_base(tmp_path, name):
    from vlrlbook.evaluation import _plan
    rows = to_dataset(synthetic_counting(2, seed=1))
    (tmp_path / name).write_bytes(b"first")
    first = _plan(tmp_path, None, rows, {}, None)
    (tmp_path / name).write_bytes(b"other")
    assert _plan(tmp_path, None, rows, {}, None) != first
    assert "base_weights" not in _plan("Qwen/Qwen2.5-VL-3B-Instruct", None, rows, {}, None)
    other = _plan(tmp_path, None, rows, {}, None)
    (tmp_path / "optimizer.pt").write_bytes(b"the answers do not depend on it")
    assert _plan(tmp_path, None, rows, {}, None) == other


def test_no_two_answers_share_a_seed(monkeypatch):
    "vLLM gives the n answers of a prompt the seeds from its own one on"
    from vlrlbook import asking
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(SamplingParams=types.SimpleNamespace))
    monkeypatch.setattr(asking, "vision_marker_ids", lambda processor: [1])
    panel = types.SimpleNamespace(processor=None, sampling=dict(answers=4, temperature=1.0, max_new_tokens=3))
    used = []
    for seed in (0, 1):
        for way in ("sampled", "greedy"):
            of_way = [p.seed + i for p in asking.EnginePanel._sampling_parameters(panel, way, 5, seed) for i in range(getattr(p, "n", 1))]
            assert len(set(of_way)) == len(of_way)
            used += of_way if way == "sampled" else []
    assert len(set(used)) == len(used) == 40
