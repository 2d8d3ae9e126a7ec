"""Truth tables of chapter 02, properties that any text must keep, and the adapter as TRL calls it."""
import json
import sys
import time
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_torch
from hypothesis import given, settings, strategies as st
from vlrlbook.core import Rollout, RolloutGroup, Sample, mean_of
from vlrlbook.marking import marks, vqa_marks
from vlrlbook.rewards import (_anls, accepted_answers, advantages, anls_reward, cheats, check_reward, check_truth, count_table,
                              counting_reward, cut_reward, explain_count, final_answer, for_easyr1, for_trl, for_verl,
                              format_reward, format_table, is_cut, load_reward, mix, nasty, read_count, silent_share,
                              staircase, token_f1_reward, vqa_accuracy)
from vlrlbook.settings import SettingsError

CASES = Path(__file__).parent / "cases"
OUTSIDE = SHARED.parent / "cases"  # cases that others wrote, where they are at hand


def cases(path):
    "The rows of a file of cases"
    with path.open(encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


@pytest.mark.parametrize("text, count, why", count_table)
def test_counts(text, count, why): assert read_count(text) == count, why


def test_counts_of_the_case_file():
    "More of each kind than the page has room for, each with its reason"
    rows = cases(CASES / "counts.jsonl")
    wrong = [(row, read_count(row["text"])) for row in rows if read_count(row["text"]) != row["reads"]]
    assert len(rows) > 300 and not wrong


@pytest.mark.skipif(not OUTSIDE.exists(), reason="the cases of others are not beside this checkout")
def test_counts_of_others():
    wrong = [row for row in cases(OUTSIDE / "counts.jsonl") if read_count(row["text"]) != row["reads"]]
    assert not wrong


@pytest.mark.parametrize("text, roles", [
    ("There are 6, one of them green.", ["count", "pronoun"]),
    ("3 apples (95% sure), picture 512x512", ["count", "percentage", "size", "size"]),
    ("The 2nd of 12 May at 10:30", ["ordinal", "date or time", "date or time", "date or time"]),
    ("GPT-4 sees 5 cm, not 6", ["name", "measure", "denied"]),
    ("3 or 4, 5-7, 2/3", ["alternative"] * 2 + ["range or fraction"] * 4),
    ("2 of them on 3 plates (4)", ["share", "place", "in brackets"])])
def test_roles(text, roles):
    assert [row["role"] for row in explain_count(text)] == roles


@given(st.integers(0, 9999), st.sampled_from(["{}", "A photo of {} birds", "There are {}.", "<answer>{}</answer>"]))
def test_number_words_are_read(n, form):
    assert read_count(form.format(in_words(n))) == n
    assert read_count(form.format(in_words(n).replace(" ", "-"))) == n


def in_words(n):
    "English words of a number below ten thousand"
    small = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
             "seventeen eighteen nineteen").split()
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
    if n < 20:
        return small[n]
    if n < 100:
        return tens[n // 10 - 2] + (" " + small[n % 10] if n % 10 else "")
    name, size = ("hundred", 100) if n < 1000 else ("thousand", 1000)
    rest = f" and {in_words(n % size)}" if 0 < n % size < 100 else f" {in_words(n % size)}" if n % size else ""
    return f"{in_words(n // size)} {name}{rest}"


@given(st.integers(0, 9999))
def test_chinese_numerals_are_read(n):
    assert read_count(f"图中有{in_chinese(n)}个苹果") == n


def in_chinese(n):
    "Chinese numeral below ten thousand, as it is written"
    digits, written, wants_zero = "零一二三四五六七八九", "", False
    if n == 0:
        return "零"
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, n = divmod(n, size)
        if digit:
            written += ("零" if wants_zero else "") + digits[digit] + name
        wants_zero = bool(written) and digit == 0 and n > 0
    return written[1:] if written.startswith("一十") else written


@given(st.text(max_size=200))
def test_a_thought_is_never_paid(thought):
    "Whatever an unfinished thought holds"
    text = "<think>" + thought.replace("</think>", "")
    assert final_answer(text) == "" and is_cut(text)
    assert counting_reward(text, "3")["readable"] == 0
    for truth in ("no", "yes", "B", "3", "liver"):
        assert vqa_accuracy(text, truth)["overall"] == 0


@pytest.mark.parametrize("text, reward, why", format_table)
def test_format(text, reward, why): assert format_reward(text)["overall"] == reward, why


@pytest.mark.parametrize("completion, truth, earns, why", cheats)
def test_cheats_earn_what_is_written(completion, truth, earns, why): assert counting_reward(completion, truth)["overall"] == earns, why


@pytest.mark.parametrize("difference, pay", [(0, 1.0), (1, 0.85), (2, 0.7), (3, 0.4), (4, 0.3), (5, 0.2), (6, 0.0), (100, 0.0)])
def test_staircase(difference, pay): assert staircase(difference) == pytest.approx(pay)


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_paid(completion, truth):
    for reward in (counting_reward, format_reward, mix(counting=(counting_reward, 0.9), format=(format_reward, 0.1))):
        parts = reward(completion, truth)
        assert 0 <= parts["overall"] <= 1 and all(isinstance(v, float) for v in parts.values())


REWARDS = [load_reward(name) for name in ("counting", "accuracy", "format", "f1", "anls", "cut")]
PIECES = ("photo of ", "no ", "one ", "two hundred and ", "1,", "1 ", "(1 of ", "or 3 ", "not ", "answer is ", "A, ", "yes or ",
          "1. a\n", "半", "三四", "没有", "\\boxed{", "{", "$1", "½", "\ufdfa", "-", "'", "a", "\0", "\ud800", "<think>", "</think>")


def test_names_of_the_readers_are_different():
    "Chapter 09 writes the readers and the rewards into one file, where two of one name cannot stand"
    import ast
    from collections import Counter
    from vlrlbook import rewards
    package = Path(rewards.__file__).parent
    names = Counter()
    for path in (package / "rewards.py", *sorted((package / "readers").glob("[a-z]*.py"))):
        own = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Assign):
                own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        names.update(own - {"__all__", "_all_", "i", "word", "character"})
    assert max(names.values()) == 1, [name for name, n in names.items() if n > 1]


def passes_over(text, function):
    "How many passes over `text`, one character after the other, a function takes; both are timed in turn, the least of each counts"
    def seconds(work):
        start = time.thread_time()
        work()
        return time.thread_time() - start
    both = [(seconds(function), seconds(lambda: [c for c in text if c.isalnum()])) for _ in range(5)]
    return min(own for own, _ in both) / min(one for _, one in both)


@pytest.mark.parametrize("piece", PIECES)
def test_no_reward_takes_long_or_raises(piece):
    "On 100,000 characters of any one piece, for every reward and every kind of truth: 2.4 passes at most were measured, about 6 ms"
    text = (piece * 100_000)[:100_000]
    for reward in REWARDS:
        for truth in ("3", "yes", "B", "A, C", "liver, spleen", "left lung", "liver " * 20):
            assert passes_over(text, lambda: reward(text, truth)) < 6, (piece, truth)


@given(st.integers(0, 10**9), st.sampled_from(["A photo of {} apples", "{}", "<think>2</think><answer>{}</answer>", "I see {}"]))
def test_digits_are_read(n, form): assert read_count(form.format(n)) == n


@settings(max_examples=30)
@given(st.text(st.sampled_from("<answer></think>0123 one,.-十百\n\0"), min_size=1, max_size=40), st.integers(1, 2500))
def test_long_texts_are_quick(seed, times):
    text = (seed * times)[:100_000]
    assert passes_over("x" * 100_000, lambda: (counting_reward(text, "3"), format_reward(text))) < 6


@given(st.lists(st.sampled_from([0.0, 0.2, 0.7, 0.85, 1.0]), min_size=2, max_size=16))
def test_advantages_add_up_to_nothing(rewards):
    values = advantages(rewards)
    assert abs(sum(values)) < 1e-6
    assert (max(map(abs, values)) < 1e-9) == (len(set(rewards)) == 1)


def test_trl_adapter_logs_parts_and_passes_columns():
    seen, logged = [], []
    reward = for_trl(counting_reward, recorder=lambda *args: seen.append(args))
    paid = reward(prompts=None, completions=[[{"role": "assistant", "content": "3"}], "4"], answer=["3", "3"], row=[1, 2],
                  log_metric=lambda k, v: logged.append((k, v)))
    assert paid == [1.0, 0.85]
    assert logged == [("part/exact", 0.5), ("part/readable", 1.0)]
    assert seen[0][0] == ["3", "4"] and [s.row for s in seen[0][2]] == [1, 2]


@pytest.mark.parametrize("texts", [["short", "3 discs", "4 discs"], ["4 discs", "short", "3 discs"], ["4 discs", "3 discs", "short"]])
def test_a_part_that_an_early_return_leaves_out_is_the_mean_of_the_answers_that_have_it(texts):
    def early(completion, answer):
        if "discs" not in completion: return dict(overall=0.0)
        return dict(overall=0.5, right=float(answer in completion))
    assert check_reward(early) == []
    for reward, part in ((early, "right"), (mix(a=(early, 1.0), format=(format_reward, 1.0)), "a_right")):
        logged = {}
        paid = for_trl(reward, group_size=3)(prompts=None, completions=texts, answer=["3"] * 3, log_metric=logged.__setitem__)
        assert sorted(paid) == [0.0, 0.5, 0.5] and logged[f"part/{part}"] == 0.5 and logged["silent"] == 0.0
    logged = {}
    for_trl(early)(prompts=None, completions=["short"] * 2, answer=["3"] * 2, log_metric=logged.__setitem__)
    assert logged == {}, "a part that no answer has is not made up"


def test_own_reward_by_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def short(completion, answer): return {'overall': float(len(completion) < 5)}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_reward("mine:short")("abc", "")["overall"] == load_reward("mine.short")("abc", "")["overall"] == 1.0
    assert load_reward("0.5*mine:short + 0.5*counting")("3", "3")["overall"] == 1.0
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('no GPU here')\n")
    with pytest.raises(ValueError, match="SystemExit: no GPU here"): load_reward("ends:reward")
    with pytest.raises(ValueError, match="no attribute 'long'"): load_reward("mine:long")


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")
def test_real_completions_are_paid():
    rows = [json.loads(line) for line in (SHARED / "medvlm_r1_outputs" / "completions.jsonl").open()]
    assert len(rows) > 100
    for r in rows:
        assert 0 <= counting_reward(r["completion"], "3")["overall"] <= 1 and format_reward(r["completion"])["overall"] in (0.0, 1.0)
        thought = r["completion"].partition("</think>")[0]
        assert vqa_accuracy(thought, "no")["accuracy"] == 0, "98 of these once earned full accuracy"


ADVANTAGES = ["0x1.54be5b6a6646dp-1", "0x1.dee203ef7afb7p-3", "0x1.18e21aec76e76p+0", "0x1.54be5b6a6646dp-1",
              "-0x1.c7dc1283f7886p+0", "-0x1.425333e13050ep-1", "0x1.54be5b6a6646dp-1", "-0x1.d5ac702ae000ep-1"]


@pytest.mark.parametrize("G", [1, 2, 3, 6, 7, 8, 16])
@pytest.mark.parametrize("reward", [0.85, 0.1, 1 / 3, 0.7, -2.5, 1e-9, 3e8])
def test_a_group_of_equals_has_no_advantage_at_all(reward, G):
    "Not 1e-12, on any Python: before 3.12 `sum` of floats is not compensated"
    assert advantages([reward] * G) == [0.0] * G


def test_equal_up_to_rounding_is_equal():
    "0.1 + 0.2 is 0.30000000000000004: two ways to earn the same"
    assert advantages([0.1 + 0.2, 0.3, 0.3]) == [0.0] * 3
    group = RolloutGroup(Sample("", ""), [Rollout("", dict(overall=r)) for r in (0.1 + 0.2, 0.3)])
    assert group.silent and silent_share([0.1 + 0.2, 0.3], 2) == 1.0
    assert not RolloutGroup(Sample("", ""), [Rollout("", dict(overall=r)) for r in (0.30001, 0.3)]).silent


def test_sums_are_the_same_on_every_python():
    "Written down once; 3.11, 3.12 and 3.13 must all give these bits"
    assert [a.hex() for a in advantages([0.85, 0.7, 1.0, 0.85, 0.0, 0.4, 0.85, 0.3])] == ADVANTAGES
    assert mean_of([0.1] * 3) == 0.1 and mean_of([0.85] * 8) == 0.85 and mean_of([1e16, 1.0, -1e16]) == 1 / 3
    paid = mix(a=(lambda c, t: dict(overall=0.1), 1.0), b=(lambda c, t: dict(overall=0.2), 1.0), c=(lambda c, t: dict(overall=0.3), 1.0))
    assert paid("", "")["overall"].hex() == (0.6).hex()


def test_silent_groups_are_counted_whatever_their_reward():
    assert silent_share([0.85] * 8 + [0.7] * 8 + [1.0] * 7 + [0.85], 8) == pytest.approx(2 / 3)
    assert silent_share([0.1 + 0.2, 0.3], 2) == 1.0


def test_the_same_reward_twice_is_refused():
    with pytest.raises(ValueError, match="stands in it twice"): load_reward("0.5*counting + 0.5*counting")


def test_a_reward_that_looks_at_pictures(tmp_path, monkeypatch):
    "A trained model's reward is called with whole batches of completions and samples, alone or in a mix"
    from PIL import Image
    (tmp_path / "looks.py").write_text("""def wide(completions, samples): return [{'overall': float(s.images[0].width > s.images[0].height), 'wide': 1.0} for s in samples]
wide.batched = True
""")
    monkeypatch.syspath_prepend(tmp_path)
    reward = for_trl(load_reward("0.5*looks:wide + 0.5*counting"))
    images = [[Image.new("RGB", (8, 4))], [Image.new("RGB", (4, 8))]]
    assert reward(prompts=None, completions=["3", "3"], answer=["3", "3"], question=["?", "?"], images=images) == [1.0, 0.5]


def test_what_check_reward_finds():
    assert check_reward(counting_reward) == check_reward(load_reward("vqa")) == []
    assert "expected a dict" in check_reward(lambda c, a: 1.0)[0]
    assert "no finite number" in check_reward(lambda c, a: dict(overall=float("nan")))[0]
    assert "raises ZeroDivisionError" in check_reward(lambda c, a: dict(overall=1 / len(c)))[0]


def test_several_answers_are_accepted():
    assert accepted_answers("a") == ["a"] and accepted_answers(["a", "b"]) == accepted_answers('["a", "b"]') == ["a", "b"]
    assert accepted_answers('["a"') == ['["a"'] and accepted_answers('["a" b]') == ['["a" b]'] and accepted_answers([]) == [""]
    assert counting_reward("4", ["A photo of 3 discs", "5"])["overall"] == 0.85
    assert vqa_accuracy("both sides", ["bilateral", "both sides"]) == dict(overall=1.0, accuracy=1.0, answered=1.0)
    asked = dict(response="lungs", response_length=1, ground_truth=["lung", "lungs"])
    assert for_easyr1(vqa_accuracy)([asked])[0]["overall"] == 1
    assert for_verl(vqa_accuracy)("x", "lungs", ["lung", "lungs"], None, reward_router_address="here")["score"] == 1


@pytest.mark.parametrize("text, truths", [
    ('[ "a", "b" ]', ["a", "b"]), (' ["a"]\n', ["a"]), ('[\n  "a",\n  "b]"\n]', ["a", "b]"]), ('["a", null]', ["a"]),
    ('["a", 3]', ["a", "3"]),
    (["a", None], ["a"]), ([None], [""]), (("a", 3), ["a", "3"]), (np.array(["a", "b"], dtype=object), ["a", "b"]),
    # no lists of texts: a point, boxes, words in brackets, an empty list, a list in a sentence
    ("[3, 4]", ["[3, 4]"]), ("[[1, 2, 3, 4]]", ["[[1, 2, 3, 4]]"]), ("[unclear]", ["[unclear]"]), ("[]", ["[]"]), (" a ", [" a "]),
    ('see ["a"]', ['see ["a"]']), ('["a"] and ["b"]', ['["a"] and ["b"]'])])
def test_a_list_of_truths_may_be_written_with_spaces(text, truths): assert accepted_answers(text) == truths


@pytest.mark.parametrize("name", ["accuracy", "vqa", "f1", "anls", "verbatim", "counting", "zoom"])
@pytest.mark.parametrize("truth", [["A photo of 3 discs", "three"], ("A photo of 3 discs", "three"),
                                   np.array(["A photo of 3 discs", "three"], dtype=object), np.array(["A photo of 3 discs", "three"])])
def test_other_engines_may_hand_on_a_list_of_truths_in_any_form(name, truth):
    reward, said = load_reward(name), "A photo of 3 discs"
    expected = reward(said, list(truth))["overall"]
    assert expected >= 0.9
    assert for_verl(reward)("x", said, truth)["score"] == expected
    assert for_easyr1(reward)([dict(response=said, response_length=1, ground_truth=truth)])[0]["overall"] == expected
    assert reward("liver", list(truth))["overall"] == 0


@pytest.mark.parametrize("truth, said", [("yes", "yes"), (3, "3"), (3.5, "3.5"), (np.int64(3), "3"), (np.array("yes"), "yes"),
                                         (np.str_("yes"), "yes"), (np.array(["yes"], dtype=object), "yes")])
def test_a_single_truth_of_another_engine_is_a_text(truth, said):
    assert for_verl(load_reward("verbatim"))("x", said, truth)["score"] == 1
    assert for_verl(load_reward("verbatim"))("x", "none", truth)["score"] == 0


@pytest.mark.parametrize("truth, said", [
    (datetime(2019, 5, 1), "2019-05-01"), (datetime(2019, 5, 1, 12, 30), "2019-05-01 12:30:00"), (date(2019, 5, 1), "2019-05-01"),
    (np.datetime64("2019-05-01T00:00:00"), "2019-05-01"), ("2019-05-01 ", "2019-05-01"), ("2019-05-01", "2019-05-01"),
    ("2019-05-01 00:00:00", "2019-05-01 00:00:00"), ("12:00:00", "12:00:00")])
def test_a_date_that_an_engine_made_of_a_text_is_the_text_again(truth, said):
    def as_written(completion, answer): return dict(overall=float(completion == answer))
    assert for_easyr1(as_written)([dict(response=said, response_length=1, ground_truth=truth)])[0]["overall"] == 1
    assert for_verl(as_written)("x", said, truth)["score"] == 1


@pytest.mark.parametrize("said, truth, pay", [("yeah", ["yes", "yeah"], 1), (" yeah ", '["yes", "yeah"]', 1), ("Yeah", ["yes", "yeah"], 0),
                                              ('["yes", "yeah"]', '["yes", "yeah"]', 0), ("yes", " yes\n", 1), ("[1, 2]", "[1, 2]", 1)])
def test_verbatim_is_any_of_the_accepted_truths(said, truth, pay): assert load_reward("verbatim")(said, truth)["overall"] == pay


def test_synonyms_are_a_parameter():
    table = {"both sides": "bilateral", "MR": "MRI", "x-ray": "radiograph"}
    assert vqa_accuracy("both sides", "bilateral", table)["accuracy"] == 1
    assert vqa_accuracy("The answer is bilateral.", "Both sides", table)["accuracy"] == 1
    assert vqa_accuracy("MR, xray", "radiograph and MRI", table)["accuracy"] == 1
    assert vqa_accuracy("both", "bilateral", table)["accuracy"] == vqa_accuracy("both sides", "bilateral")["accuracy"] == 0
    assert token_f1_reward("chest x-ray", "chest radiograph", table)["f1"] == 1
    many = {f"phrase {i} of many": f"word {i}" for i in range(1000)}
    vqa_accuracy("phrase 7 of many", "word 7", many)
    start = time.thread_time()
    assert vqa_accuracy("phrase 7 of many", "word 7", many)["accuracy"] == 1 and time.thread_time() - start < 0.010


def test_soft_credit_has_its_parts():
    assert token_f1_reward("left lung", "left lower lung") == dict(overall=0.8, f1=0.8, precision=1.0, recall=2 / 3)
    assert token_f1_reward("lung lung lung", "lung")["precision"] == 1 / 3, "repeating is not paid"
    assert token_f1_reward("<think>left lung", "left lung")["overall"] == 0
    assert anls_reward("pneumonia", "Pneumonia")["anls"] == 1 and anls_reward("liver", "spleen")["anls"] == 0
    assert anls_reward("a" * 100_000, "a" * 100_000)["anls"] == 1 and anls_reward("", "")["anls"] == 0


def test_letters_count_in_long_texts_too():
    "Also where no space stands, and beyond the 120 letters above which words were compared"
    assert anls_reward("一" * 130 + "二", "一" * 131)["anls"] == pytest.approx(1 - 1 / 131)
    url = "https://example.org/" + "abc/" * 40
    assert anls_reward(url.replace("c/a", "c/x/a", 1), url)["anls"] == pytest.approx(1 - 2 / (len(url) + 2))
    words = " ".join(map(str, range(300)))
    assert anls_reward(words[:-40] + "x" * 40, words)["anls"] == pytest.approx(1 - 40 / len(words)), "120 words were looked at"
    assert anls_reward("x" * 3000 + "y" * 3000, "x" * 3000 + "z" * 3000)["anls"] == 0


@given(st.text("ab 一", max_size=12), st.text("ab 一", max_size=12))
def test_anls_by_the_table_of_distances(text, truth):
    above = list(range(len(truth) + 1))
    for row, letter in enumerate(text, 1):
        current = [row]
        for column, other in enumerate(truth, 1):
            current.append(min(above[column - 1] + (letter != other), above[column] + 1, current[-1] + 1))
        above = current
    share = above[-1] / max(len(text), len(truth), 1)
    assert _anls(text, truth) == pytest.approx(1 - share if share < 0.5 and text and truth else 0)


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")
def test_anls_is_that_of_others():
    "VLMEvalKit's distance on 400 pairs, which cuts at its threshold in the same place"
    for row in cases(SHARED / "peer_vectors" / "anls_pairs.jsonl"):
        first, second, distance = row["gt"], row["pred"], row["vlmevalkit_anls_distance"]
        if distance < 0.5:
            assert anls_reward(first, second)["anls"] == pytest.approx(1 - distance)


def test_an_answer_that_was_cut_is_a_part():
    cut, whole = "<think>2, 3", "<think>2, 3</think><answer>3</answer>"
    assert cut_reward(cut) == dict(overall=-1.0, cut=1.0) and cut_reward(whole) == dict(overall=0.0, cut=0.0)
    assert load_reward("counting + 0.2*cut")(cut, "3") == dict(overall=-0.2, counting_exact=0.0, counting_readable=0.0, cut=1.0)
    logged, seen = {}, []
    def paid(rule, **more):
        reward = for_trl(counting_reward, lambda texts, parts, *rest: seen.append(parts), group_size=3, when_cut=rule, **more)
        return reward(None, [cut, whole, "3"], ["3"] * 3, log_metric=logged.__setitem__, completion_ids=[[1], [1, 9], [1, 2]])
    assert paid("masked") == [None, 1.0, 1.0] and logged["part/cut"] == pytest.approx(1 / 3) and logged["silent"] == 1.0
    assert paid(-1) == [-1.0, 1.0, 1.0] and paid("masked", end_tokens={9}) == [None, 1.0, None]
    assert paid("paid", end_tokens={9}) == [0.0, 1.0, 1.0] and [p["cut"] for p in seen[-1]] == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="when_cut = 'no'"): for_trl(counting_reward, when_cut="no")
    assert advantages([None, 1.0, 0.0])[0] == 0.0 and sum(advantages([None, 1.0, 0.0])) == pytest.approx(0)
    assert advantages([None, None]) == [0.0, 0.0] and silent_share([None, 1.0, None, None], 2) == 1.0


@pytest.mark.parametrize("source, message", [
    ("def f(completion, answer): return 1.0", "expected a dict with `overall`"),
    ("def f(completion, answer): return None", "expected a dict with `overall`"),
    ("def f(completion, answer): return dict(reward=1.0)", "expected a dict with `overall`"),
    ("def f(completion, answer): return dict(overall=float('nan'))", "no finite number"),
    ("def f(completion, answer): return dict(overall=1.0, part=float('inf'))", "'part'"),
    ("def f(completion, answer): return dict(overall='1')", "no finite number"),
    ("def f(completion, answer): return dict(overall=1 / len(completion))", "raises ZeroDivisionError"),
    ("def f(completion): return dict(overall=1.0)", "raises TypeError"),
    ("def f(completions, samples): return 1.0\nf.batched = True", "expected a dict with `overall`"),
    ("def f(completions, samples): return [1 / 0]\nf.batched = True", "raises ZeroDivisionError")])
def test_a_reward_that_cannot_train_is_found(tmp_path, monkeypatch, source, message):
    (tmp_path / "faulty_reward.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "faulty_reward", raising=False)
    assert message in check_reward(load_reward("faulty_reward:f"))[0]


FAULTY_ON_TWO = {  # what a reward returns for "2 discs", or does; the message
    "dict(overall=float('nan'), x=1)": "a part is no finite number: 'overall' in {'overall': nan, 'x': 1}",
    "dict(overall=None)": "a part is no finite number: 'overall' in {'overall': None}",
    "dict(overall=1.0, length=float('inf'))": "a part is no finite number: 'length'",
    "dict(overall=1e39)": "a part is no finite number: 'overall' in {'overall': 1e+39}",  # inf in a trainer's float32
    "dict(overall=10 ** 400)": "a part is no finite number: 'overall'",
    "dict(overall='1.0')": "a part is no finite number: 'overall' in {'overall': '1.0'}",
    "dict(overall=1.0, why='because')": "a part is no finite number: 'why'",
    "dict(right=1.0)": "returns {'right': 1.0}, expected a dict with `overall`",
    "1.0": "returns 1.0, expected a dict with `overall`",
    "dict(overall=1 / 0)": "raises ZeroDivisionError: division by zero (late_reward.py, line 2)"}


@pytest.mark.parametrize("returned, message", FAULTY_ON_TWO.items())
@pytest.mark.parametrize("batched", [False, True])
def test_a_reward_that_fails_on_some_answers_only_is_named_with_the_answer(tmp_path, monkeypatch, returned, message, batched):
    "TRL took NaN and None for answers that are left out, and trained on; marking had no mean, or died without a name"
    source = f"def f(completion, answer):\n    return {returned} if completion == '2 discs' else dict(overall=1.0)\n"
    if batched:
        source = source.replace("def f", "def g") + "def f(texts, samples): return [g(t, s.answer) for t, s in zip(texts, samples)]\n"
        source += "f.batched = True\n"
    (tmp_path / "late_reward.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "late_reward", raising=False)
    reward = load_reward("late_reward:f")
    texts, samples = ["3 discs", "2 discs"], [Sample("How many?", "3", row=row) for row in (7, 9)]
    asked = (lambda: for_trl(reward)(None, texts, ["3"] * 2, row=[7, 9]), lambda: marks(samples, [[t] for t in texts], reward))
    if batched and "raises" in message:  # left to whoever wrote it: a judge's own message says more
        with pytest.raises(ZeroDivisionError): asked[0]()
        return
    for ask in asked:
        with pytest.raises(SettingsError) as error: ask()
        assert str(error.value).startswith(f"reward 'late_reward:f': {message}"), str(error.value)
        assert str(error.value).endswith("; for the answer '2 discs' to row 9")
    if not batched:
        with pytest.raises(SettingsError, match="reward 'late_reward:f'.*for the answer '2 discs'$"): vqa_marks(
            "2 discs", dict(question="How many?", answer="3"), reward)
        with pytest.raises(SettingsError, match=r"reward 'counting \+ f'"):
            marks(samples, [[t] for t in texts], load_reward("counting + late_reward:f"))


def test_a_batched_reward_returns_as_many_parts_as_it_got_answers():
    def forgets(texts, samples): return [dict(overall=1.0)]
    forgets.batched = True
    with pytest.raises(SettingsError, match="forgets' returns 1 items for 2 answers, expected a list with a dict for each"):
        for_trl(forgets)(None, ["1", "2"], ["3"] * 2)


def test_single_numbers_of_numpy_are_numbers_and_come_as_pythons_own():
    for three in (np.float32(1), np.float16(1), np.int64(1), np.bool_(True), np.array(1.0), 1, True, 1.0):
        def reward(completion, answer): return dict(overall=three if completion == "3" else 0 * three, size=np.int32(7))
        assert check_reward(reward) == []
        kept = []
        paid = for_trl(reward, lambda texts, parts, *rest: kept.extend(parts), group_size=2)(None, ["3", "4"], ["3"] * 2)
        assert paid == [1, 0] and json.loads(json.dumps(kept)) == [dict(overall=1, size=7), dict(overall=0, size=7)]
        assert marks([Sample("", "3", task="counting")], [["3", "4"]], reward)["reward"] == [0.5]
    for bad in (np.float32("nan"), np.str_("1"), np.array([1.0]), np.complex64(1)):
        assert "no finite number" in check_reward(lambda completion, answer: dict(overall=bad))[0]


@needs_torch
def test_a_tensor_of_one_number_is_a_number():
    import torch
    reward = for_trl(lambda completion, answer: dict(overall=torch.tensor(0.5)))
    assert reward(None, ["3"], ["3"]) == [0.5] and type(reward(None, ["3"], ["3"])[0]) is float
    assert "no finite number" in check_reward(lambda completion, answer: dict(overall=torch.tensor([0.5])))[0]


def test_a_reward_that_waits_is_slow():
    "It does no work of its own meanwhile"
    def waits(completion, answer):
        time.sleep(0.15)
        return dict(overall=0.0)
    assert all("takes" in problem for problem in check_reward(waits)) and check_reward(waits)


def test_a_reward_that_stalls_is_stopped():
    import re
    def stalls(completion, answer): return dict(overall=float(re.search("(1+)+$", completion[:40] + "x") is None))
    from vlrlbook import rewards
    kept, rewards._longest_call = rewards._longest_call, 0.2
    try: assert any("takes more than 0.2 s, at most 50 ms" in problem for problem in check_reward(stalls))
    finally: rewards._longest_call = kept


@pytest.mark.parametrize("latex, plain, same", [
    (r"\frac{1}{2}", "1/2", True), (r"$\dfrac{10}{3}$", "10/3", True), (r"\frac12", "1/2", True), (r"\frac{1}{2}", "0.5", True),
    (r"2\frac{1}{2}", "2 1/2", True), (r"-\tfrac{1}{2}", "-1/2", True), (r"\boxed{\frac{3}{4}}", "3/4", True),
    (r"\frac{1}{2}", "12", False), (r"\frac{1}{2}", "2", False), (r"\frac{1}{2}", "2/1", False), (r"2\frac12", "21/2", False)])
def test_a_fraction_of_latex_is_one_of_a_line(latex, plain, same):
    for answer, truth in ((latex, plain), (plain, latex)):
        assert vqa_accuracy(f"<answer>{answer}</answer>", truth)["accuracy"] == same
    assert read_count(r"\boxed{\frac{8}{2}}") is None and read_count(r"\frac{8}{2} = 4") == 4


@needs_torch
def test_the_path_of_a_trained_reward_may_hold_plus_and_star(monkeypatch):
    from vlrlbook import reward_model
    def as_reward(path): return lambda completion, answer: dict(overall=float(path == "runs/c++/3*3/model"))
    monkeypatch.setattr(reward_model, "as_reward", as_reward)
    assert load_reward("reward_model:runs/c++/3*3/model")("a", "a") == dict(overall=1.0)
    assert load_reward("0.5*reward_model:runs/c++/3*3/model + 0.5*format")("a", "a")["overall"] == 0.5


@pytest.mark.parametrize("spec, message", [
    ("countng", "did you mean 'counting'"), ("no_such_module_here:f", "ModuleNotFoundError"), ("json:nothing", "no attribute 'nothing'"),
    ("math:pi", "is a float, no function"), ("broken_module:f", "ZeroDivisionError"), ("nan*counting", "no finite number"),
    ("counting + ", "not `weight*name`"), ("", "there is no reward")])
def test_reward_names_resolve_or_say_why_not(tmp_path, monkeypatch, spec, message):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError) as refused: load_reward(spec)
    assert message in str(refused.value)


def test_a_reward_may_lie_in_the_current_folder(tmp_path, monkeypatch):
    "As an installed command runs, whose Python does not look there; and a file there hides no module of Python"
    monkeypatch.setattr("sys.path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here_lies.py").write_text("import beside_it\ndef f(completion, answer): return dict(overall=beside_it.pay)\n")
    (tmp_path / "beside_it.py").write_text("pay = 0.25\n")
    (tmp_path / "pkg_here").mkdir()
    (tmp_path / "pkg_here" / "inner.py").write_text("def f(completion, answer): return dict(overall=0.5)\n")
    (tmp_path / "json.py").write_text("raise SystemExit(3)\n")
    assert load_reward("here_lies:f")("a", "a") == dict(overall=0.25)
    assert load_reward("pkg_here.inner.f")("a", "a") == dict(overall=0.5)
    with pytest.raises(ValueError, match="no attribute 'nothing'"): load_reward("json:nothing")
    with pytest.raises(ValueError, match="ModuleNotFoundError: No module named 'lies_nowhere'"): load_reward("lies_nowhere:f")
    for path in ("here_lies.py:f", "./here_lies.py:f", "some/where/here_lies:f"):
        with pytest.raises(ValueError, match="names a file: expected its module as for `import`, here_lies:f"): load_reward(path)


def test_a_truth_that_cannot_be_earned_is_named():
    def always(completion, answer): return dict(overall=1.0)
    assert check_truth(always, "yes") == "the answer 'yes' earns 1 under its own reward, no more than an empty answer does"
    vqa, copied = load_reward("vqa"), "<think>dark</think><answer>no</answer>"
    for reward in (vqa, vqa_accuracy, load_reward("accuracy + 0.2*cut")):
        assert check_truth(reward, copied) and check_truth(reward, "no") is None
    assert "earns nothing" in check_truth(counting_reward, "A photo of several apples")
    assert [check_truth(format_reward, truth) for truth in ("no", copied)] == [None, None], "a form has no truth"
    short = lambda completion, answer: dict(overall=max(0.0, vqa_accuracy(completion, answer)["accuracy"] - 0.01 * len(completion)))
    assert check_truth(short, "left lower lobe") is None, "less than the best, but more than a wrong answer"

    def by_length(completion, answer): return dict(overall=float(len(completion) % 5))
    assert [check_truth(by_length, truth) for truth in ("A photo of 1 disc", "B")] == [None, None], "it looks at no truth"
    def length_and_truth(text, truth): return dict(overall=float(len(text) % 5) + 0.1 * (truth.lower() in text.lower()))
    assert [check_truth(length_and_truth, truth) for truth in ("no", "yes")] == [None, None], "some wrong answers earn more"


def test_a_number_that_cannot_be_told_does_not_stop_a_reward():
    "A total beside 2.5.1; and a slash between a word and a number makes no number of a truth"
    from vlrlbook.readers.words import truth_number
    from vlrlbook.rewards import answer_kind, vqa_accuracy
    for text in ("5 in total: 2.5.1", "5 in total: 007, 2.5.1", "5 in total: v2.5.1"): assert 0 <= vqa_accuracy(text, "5")["overall"] <= 1
    assert truth_number("1/2") == 0.5 and truth_number("(1/2).") == 0.5
    for text in ("km/2", "x/2", "3/x", "and/5", "no / 2", "1/2 cm", "1/2%", "½ cm", "3/4 full", "2 cm"):
        assert truth_number(text) is None and answer_kind(text) == "text", text


@pytest.mark.parametrize("number", ["hundred", "thousand", "million", "dozen", "couple", "couple of", "couple hundred", "pair of",
                                    "single", "hundred million", "thousand and six", "half dozen"])
def test_an_article_before_a_number_changes_nothing(number):
    with_article = "half a dozen" if number == "half dozen" else f"a {number}"
    truth, said = f"{number} islands", f"{with_article} islands"
    assert vqa_accuracy(said, truth)["accuracy"] == vqa_accuracy(truth, said)["accuracy"] == 1
    assert vqa_accuracy("1000 islands", "a thousand islands")["accuracy"] == vqa_accuracy("a dozen eggs", "12 eggs")["accuracy"] == 1
    assert vqa_accuracy("a thousand islands", "hundred islands")["accuracy"] == 0


@pytest.mark.parametrize("text, count", [
    ("5 birds of 2019: 2 of them red, 3 of them blue", 5), ("5 birds by 2019: 2 of them red", 5), ("A photo of 2019: 5 birds", 5),
    ("4 dogs, confidence 97 of 100", 4), ("at 10:30 there were 5", 5), ("10: 30", 30),
    ("confidence 97 of 100", None), ("a total of 2000", 2000)])
def test_a_year_before_a_colon_is_no_count(text, count): assert read_count(text) == count, explain_count(text)


@pytest.mark.parametrize("text, count", [
    ("有3个半透明的球", 3), ("三个半圆", 3), ("2个半球", 2), ("3只半死的鱼", 3), ("3人半跪", 3), ("4个半開的門", 4), ("有3，半个在外面", 3),
    ("三个半", None), ("三个半苹果", None), ("3个半小时", None), ("有3个半。", None), ("半打", 6)])
def test_a_word_that_begins_with_half_takes_no_half_from_a_count(text, count): assert read_count(text) == count, explain_count(text)


@pytest.mark.parametrize("text, number", [("the total is 5: 2.5 left, 2.5 right", 5), ("the total is 5: 2 left, 3 right", 5),
                                          ("a total of 0.3: 0.1 and 0.2", 0.3)])
def test_a_total_of_decimals_is_the_answer(text, number):
    "Its parts were cut to whole numbers before they were added up"
    from vlrlbook.readers.counts import read_number
    assert read_number(text) == number


def test_a_users_own_mix_is_no_sum_of_ours():
    "Only its name is that of our function, in which the names of a sum's rewards were looked for"
    from vlrlbook.rewards import checked_on_batch
    def mix(weight):
        def mine(completion, answer): raise RuntimeError("x")
        return mine
    with pytest.raises(SettingsError, match="mine.*raises RuntimeError: x"):
        checked_on_batch(mix(2))(["a"], [Sample("q", "3")])


@pytest.mark.parametrize("right, truth, wrong", [
    # the sign between two terms, however LaTeX and spaces stand around it (Geometry3K writes "6 \sqrt { 2 } - 6")
    (r"6\sqrt{2}+6", r"6 \sqrt { 2 } + 6", r"6\sqrt{2} - 6"), ("6√2 - 6", r"6\sqrt{2}-6", r"6\sqrt{2}+6"),
    ("x^2+4", "x^{2} + 4", "x^2-4"),
    (r"\dfrac{25\pi}{2}-24", r"\frac { 25 \pi } { 2 } - 24", r"\frac{25\pi}{2}+24"), ("x +4", "x+4", "x 4"),
    ("6√2 – 6", r"6\sqrt{2}-6", "6√2 + 6"), (r"\angle ABC", "angle ABC", r"\triangle ABC"), ("△ABC", "triangle ABC", "∠ABC"),
    (r"left \to right", "left to right", "left right"), ("A → B", "A to B", "A · B"),
    # names and dates are no sums
    ("beta-2 agonist", "β-2 agonist", "β-1 agonist"), ("omega 3", "ω-3", "ω-6"),
    ("vitamin B12", "Vitamin B-12", "vitamin B-6"), ("2020 01 05", "2020-01-05", "2020-05-01"),
    ("Ca2+", "Ca^{2+}", "Ca"), ("+6", "6", "-6"),
    # points, intervals and sequences of numbers; words may come in any order
    ("(2,3)", "(2, 3)", "(3, 2)"), ("0 and 4", "[0, 4]", "[4, 0]"), ("(0,4]", "(0, 4]", "[0, 4)"), ("(1, 1)", "(1, 1)", "1"),
    (r"\left(-\infty, 5\right)", "(-∞, 5)", "(5, -∞)"), ("IV and oral", "oral, IV", "oral"),
    ("The answer is (0, 4].", "(0, 4]", "It is (0, 4)."), ("$(2, 3)$", "(2, 3)", "$(3, 2)$"), ("(x, y)", "(x, y)", "(y, x)"),
    ("(√2, 1)", r"(\sqrt{2}, 1)", r"(1, \sqrt{2})"), ("(π, 0)", r"(\pi, 0)", r"(0, \pi)"),
    ("(right, left)", "(left, right)", "(left, left)"),
    (r"(-\infty, 3] \cup [5, \infty)", "(-∞, 3] ∪ [5, ∞)", r"(-\infty, 3) \cup (5, \infty)"),
    ("(10,200)", "(10, 200)", "(200,10)"), ("(10, 200)", "(10,200)", "(10, 20)"),
    ("[100, 200, 300, 400]", "[100,200,300,400]", "[100,200,300]"),
    ("1,200", "(1,200)", "(1, 20)"),
    # a minus that stands apart, as Geometry3K writes it, and before a Greek letter; a list of one is none
    ("-5", "- 5", "5"), ("- 5", "-5", "- 6"), ("x = -5", "x = - 5", "x = 5"), ("(-2,-3)", "( - 2, - 3 )", "(2, 3)"),
    ("- liver", "liver", "- lung"), ("**- 5**", "- 5", "**5**"), ("The answer is − 5.", "-5", "The answer is 5."),
    ("y = -x + 3", "y = - x + 3", "y = x + 3"), ("-θ", r"-\theta", "θ"), ("sin(-α)", r"sin(-\alpha)", "sin(α)"),
    # a hyphen between names in LaTeX's own letters, roots and powers written otherwise; a Greek name behind a bullet
    (r"\text{L4}-\text{L5}", "L4-L5", r"\text{L3}-\text{L5}"), ("6sqrt(2) - 6", r"6\sqrt{2} - 6", "6sqrt(2) + 6"),
    (r"6\sqrt 2\,-\,6", "6√2 - 6", r"6\sqrt 2 + 6"), ("2^N - 1", "2^{n} - 1", "2^n + 1"), ("x_1 - x_2", "x_{1} - x_{2}", "x_1 + x_2"),
    ("-Beta blockers\n-ACE inhibitors", "Beta blockers, ACE inhibitors", "-Beta blockers"), ("TNF -alpha", "TNF-alpha", "TNF -beta"),
    ("The value is (3,000)", "(3,000)", "The value is (3,001)"), ("size (1200 g, 3 cm)", "size (1,200 g, 3 cm)", "size (1200 g, 4 cm)"),
    ("mass, - 3 cm", "mass, 3 cm", "mass, - 4 cm"), ("1", "∠1", "2"), ("∠1", "∠1", "△1"),
    # what a worked solution ends with
    ("2 and 3 are 5.\n#### 5", "5", "2 and 3 are 5.\n#### 6"),
    ("<REASONING>5?</REASONING><CONCLUSION> liver </CONCLUSION>", "liver", "<CONCLUSION>lung"),
    # a unit's power
    ("12 cm^2", "12", "12^2"), (r"12 \text{ cm}^{2}", "12", r"13 \text{ cm}^2"), ("9.8 m/s^2", "9.8", "9.8^2"),
    ("12 units^2", "12", "12 units and 2"),
    # what LaTeX calls a sign, and the sign
    ("10π", r"10\pi", "10"), (r"\pm 3", "±3", "3"), ("x ≥ 3", r"x \geq 3", r"x \leq 3"),
    (r"AB \parallel CD", "AB∥CD", r"AB \perp CD"),
    ("α-fetoprotein", "alpha-fetoprotein", "fetoprotein"), (r"5 \mu m", "5 µm", "5 m"), (r"1{,}200", "1200", "1.2"),
    ("10 π", r"10\pi", r"10\theta"),
    # an option with its letter
    ("B. dog", "dog", "B. cat"), ("The answer is (B) dog because it barks.", "dog", "B"), ("**B. 3 cm**", "3 cm", "B. 4 cm"),
    ("E. coli", "E. coli", "E. faecalis"),
    # GLM's box
    ("<think>A?</think>It is C.\n<|begin_of_box|>C<|end_of_box|>", "C", "C <|begin_of_box|>B<|end_of_box|>"),
    ("<answer><|begin_of_box|>liver<|end_of_box|></answer>", "liver", "<|begin_of_box|>lung<|end_of_box|>")])
def test_formulas_points_and_units_are_read_as_they_are_meant(right, truth, wrong):
    assert [vqa_accuracy(text, truth)["overall"] for text in (right, truth, wrong)] == [1, 1, 0]
