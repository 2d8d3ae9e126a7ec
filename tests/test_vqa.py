"""The VQA shelf and its reward: dialects, splits, truth tables, and the real files and peers where they are at hand."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from hypothesis import given, strategies as st
from vlrlbook.data import DataError, convert_vqa, published_split, read_rows, split_rows_by_picture, vqa_prompt, vqa_row
from vlrlbook.rewards import (answer_kind, choice_letters, for_easyr1, for_verl, format_reward, load_reward, normalise_answer,
                              normalise_table, read_count, read_number, vqa_accuracy, vqa_table, word_overlap,
                              yes_or_no)
from vlrlbook.rows.columns import read_keys
from vlrlbook.rows.gate import inspect_vqa
from vlrlbook.rows.pictures import picture_list
from vlrlbook.rows.preferences import read_preference_row
from vlrlbook.rows.values import as_list
from vlrlbook.rows.vqa import read_vqa_row

real = pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")


@pytest.mark.parametrize("completion, truth, accuracy, why", vqa_table)
def test_accuracy(completion, truth, accuracy, why): assert vqa_accuracy(completion, truth)["accuracy"] == accuracy, why


CASES = (Path(__file__).parent / "cases" / "vqa.jsonl", SHARED.parent / "cases" / "vqa.jsonl")


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=pytest.mark.skipif(not path.exists(), reason="the cases of others are not beside this checkout"))
    for path in CASES], ids=["ours", "of others"])
def test_accuracy_of_the_case_files(path):
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    wrong = [row for row in rows if vqa_accuracy(row["completion"], row["truth"])["accuracy"] != row["accuracy"]]
    assert len(rows) > 60 and not wrong


@given(st.text(max_size=60).filter(lambda text: text.strip() and "<" not in text and "\\" not in text))
def test_any_truth_earns_under_its_own_reward(truth):
    assert vqa_accuracy(f"<think>.</think><answer>{truth}</answer>", truth)["accuracy"] == 1


@pytest.mark.parametrize("text, side", [("No, it is normal.", "no"), ("I have no idea", None), ("yes or no", None), ("no, yes", None),
    ("No, wait: yes", "yes"), ("not yes", None), ("neither", None), ("There is no mass", "no"), ("There is no doubt: yes", "yes")])
def test_sides(text, side): assert yes_or_no(text) == side


@pytest.mark.parametrize("text, letters", [("**B**", "B"), ("\\boxed{\\text{B}}", "B"), ("(B) yes", "B"), ("Option B", "B"), ("A, C", "AC"),
    ("a liver", ""), ("The answer is not A but B", "B"), ("b", "B"), ("E. coli", ""), ("Both", ""), ("It can't be A; it must be B.", "B"),
    ("(A) and (B) is correct", "AB"), ("A and B is correct", "AB"), ("(B) is correct", "B")])
def test_letters(text, letters): assert choice_letters(text) == frozenset(letters)


@pytest.mark.parametrize("text, normalised", normalise_table)
def test_normalise(text, normalised): assert normalise_answer(text) == normalised


@pytest.mark.parametrize("text, truth", [
    ("2", "√2"), ("√2", "2"), ("3", "\\sqrt{3}"), ("sqrt(3)", "3"), ("2√x", "2"), ("√3, x", "3, x"), ("-√2", "√2"), ("2", "±2"),
    ("±3", "3"), ("plus or minus 3", "-3"), ("plus or minus 3", "3"), ("plus-minus 3", "-3"), ("-3", "plus or minus 3"),
    ("-x", "x"), ("x", "-x"), ("x=-y", "x=y"), ("-sin x", "sin x"), ("-(x+1)", "(x+1)"), ("-∞", "∞"), ("x-2", "x^2"), ("10^3", "10-3"),
    ("x²", "x³"), ("x² and y", "x³ and y"), ("5 cm²", "5 cm³"), ("5 cm", "5 cm²"), ("10⁻³", "10"), ("10⁻³", "10^3"), ("A∪B", "A∩B"),
    ("x≠2", "x 2"), ("5", "5!"), ("T↑", "T↓"), ("O", "O-"), ("O+", "O-"), ("ER", "ER-"), ("HER2", "HER2-"), ("A", "A-"), ("C", "C#"),
    ("B", "B♭"),
    ("$5", "€5"), ("£3", "$3"), ("minus 5", "5"), ("5", "minus 5"), ("negative five", "5"), ("负5", "5"), ("1.5e3", "1.5"),
    ("1.5e-3", "1.5")])
def test_a_sign_that_changes_what_is_said_is_compared(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == 0 and vqa_accuracy(truth, truth)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    # another spelling of the same sign
    ("\\sqrt{2}", "√2"), ("$2\\sqrt{3}$", "2√3"), ("sqrt(2)", "√2"), ("x²", "x^2"), ("x^{2}", "x²"), ("y, x²", "x² and y"),
    ("5 cm²", "5 cm^2"),
    ("10⁻³", "10^-3"), ("negative 5", "-5"), ("minus five", "-5"), ("-5", "minus 5"), ("The answer is minus 5.", "-5"), ("−5", "-5"),
    ("o-", "O-"),
    # marks that say nothing
    ("X-ray", "xray"), ("x-ray", "x ray"), ("T2-weighted", "T2 weighted"), ("T-2", "T2"), ("- liver", "liver"), ("-liver", "liver"),
    ("* liver", "liver"), ("pre- and postoperative", "pre and postoperative"), ("ER-positive", "ER positive"), ("left-", "left"),
    ("liver!", "liver"), ("It is room 5!", "room 5"), ("the answer is 5!", "5!"), ("5!", "5"), ("No!", "no"), ("~5 cm", "5 cm"),
    ("| liver |", "liver"),
    ("5", "$5"), ("$5", "5"), ("5€", "€5"), ("$5$", "5"), ("5 - 6", "5 6"), ("7 minus 2", "7 minus 2"),
    ("HIV negative 5 times", "HIV negative 5 times"),
    ("√9 = 3, so the answer is 3", "3"), ("The blood group is O-.", "blood group is O-"), ("0.5", "1/2"), ("C#", "C#"), ("1.5e3", "1.5e3")])
def test_marks_that_change_nothing_are_not_compared(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    # charges, isotopes, endings, units, degrees and a transposed matrix: ^ raises, and says nothing
    ("Ca^{2+}", "Ca2+"), ("Ca$^{2+}$", "Ca2+"), ("$Ca^{2+}$", "Ca²⁺"), ("\\text{Fe}^{3+} ions", "Fe3+ ions"), ("H^+", "H⁺"),
    ("Na^+", "Na+"), ("Cl^{-}", "Cl-"), ("O²⁻", "O2-"), ("CH_3COO^-", "CH3COO-"), ("SO_4^{2-}", "SO4 2-"), ("NH_4^+", "NH4+"),
    ("^{14}C", "14C"), ("{}^{99m}Tc", "99mTc"), ("¹⁴C", "14C"), ("3^{rd}", "3rd"), ("3$^{rd}$", "3rd"), ("n^{th} row", "nth row"),
    ("$21^{\\text{st}}$ century", "21st century"), ("25 m^2", "25 m2"), ("25 m²", "25 m2"), ("25 m$^2$", "25 m²"),
    ("3 \\text{ cm}^{3}", "3 cm3"), ("9.8 m/s^2", "9.8 m/s2"), ("50 kg/m²", "50 kg/m2"), ("30^\\circ", "30°"),
    ("25^{\\circ}\\text{C}", "25 °C"), ("30\\degree", "30°"), ("A^T", "Aᵀ"), ("A^{T}", "AT"), ("N^o 5", "No 5"), ("liver^{a}", "livera")])
def test_latex_that_only_raises_says_nothing(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == vqa_accuracy(truth, text)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    ("$12$ €", "12 €"), ("$12$€", "12€"), ("€ $12$", "€12"), ("£$12.50$", "£12.50"), ("$£12.50$", "£12.50"), ("$12.50$", "€12.50"),
    ("$5 \\text{ €}$", "5 €"), ("The answer is $12$ €.", "12 €"), ("Between $5$ and $6$ €", "between 5 and 6 €"), ("$\\$5$", "$5"),
    ("$5 and $10", "$5 and $10"), ("\\$5", "$5"), ("$5$", "$5")])
def test_dollar_signs_around_a_formula_are_no_money(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    ("$5", "€5"), ("\\$5", "€5"), ("$\\$5$", "€5"), ("$\\text{\\$}5$", "€5"), ("$5 - $10", "€5 - €10"), ("$5-$10", "€5-€10"),
    ("from $5 to $10", "from €5 to €10"), ("5$", "5€"), ("$ 5", "€ 5"), ("US$5", "€5"), ("$£5$", "€5"), ("$5 or €5", "€5")])
def test_another_currency_is_another_answer(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == 0 and vqa_accuracy(text, text)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    ("C♯ minor", "C# minor"), ("F#", "F♯"), ("plus or minus 3", "±3"), ("5 ± 2", "5 plus/minus 2"),
    ("G♯m", "G#m"), ("C #", "C#"), ("P#1", "P1"), ("#5", "5"), ("AB ∥ CD", "AB || CD"),
    ("AB||CD", "AB ∥ CD"), ("|x||y|", "|x| |y|"), ("O–", "O-"), ("2^n", "2ⁿ"), ("√ correct", "correct"), ("√ 正确", "正确"),
    ("-\\sqrt{2}", "-√2"), ("pre-", "pre"), ("Sub-", "sub"), ("mid-", "mid"), ("Revenue¹", "Revenue"), ("√ 9", "√9")])
def test_one_sign_in_two_spellings_is_one(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == vqa_accuracy(truth, text)["accuracy"] == 1


@pytest.mark.parametrize("text, truth", [
    ("F", "F♯"), ("C#7", "C7"), ("-\\sqrt{2}", "√2"), ("√ x", "x"), ("√ab", "ab"), ("O", "O–"), ("25 feet²", "25 feet"),
    ("25 metres²", "25 metres"), ("sinh²", "sinh"), ("x²", "x"),
    ("x^2", "x2"), ("5^2", "52"), ("10^{3}", "103"), ("x^2+1", "x2+1"), ("x^{2}+y", "x2+y"), ("x^2 + y", "x2 + y"), ("e^{-x}", "e-x"),
    ("x^{14}C", "x14C"), ("sinh^2 x", "sinh2 x"), ("25 m^2", "25 m^3"), ("25 m^2", "25 m"), ("Ca^{2+}", "Ca+"), ("Cl^-", "Cl"),
    ("H^+", "H-"), ("3^{rd}", "4th"), ("x^n", "xn"), ("30^\\circ", "60°"), ("x^2+√2", "x2+√2")])
def test_a_power_is_still_compared(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == 0 and vqa_accuracy(text, text)["accuracy"] == 1


@pytest.mark.parametrize("text, number", [
    ("30^{\\circ}", 30), ("minus 5", -5), ("minus two hundred", -200), ("it is negative 5", -5), ("-5", -5),
    ("minus 2.5 cm", -2.5), ("√2", None),
    ("3√2", None), ("±2", None), ("plus or minus 3", None), ("plus/minus 3", None), ("plus minus 3", None), ("3 or minus 3", None),
    ("the answer is minus 3", -3), ("plus 3", 3),
    ("1.5e3", None), ("1.5E-3", None), ("10⁻³", None), ("2.5 cm", 2.5), ("the patient is HIV negative 5", 5), ("minus 0", 0)])
def test_the_sign_of_a_number_is_read(text, number): assert read_number(text) == number


def test_counts_are_read_as_they_were():
    texts = {"30^{\\circ}": read_count("30°"), "minus the red one: 3": 3, "10⁻³": None, "3 discs (minus the red one)": 3,
             "A photo of 3 discs!": 3, "5² = 25": 25, "3 x 4 = 12": 12, "-3": None}
    assert {text: read_count(text) for text in texts} == texts


@pytest.mark.parametrize("one, other", [
    ("दाल", "दिल"), ("हूँ", "हाँ"), ("বিম", "বাম"), ("น้ำ", "นำ"), ("ซ้าย", "ซาย"), ("மலை", "மாலை"), ("நாய்", "நீய்"), ("ಮನೆ", "ಮನ"),
    ("ਮੇਰਾ", "ਮੋਰਾ"), ("ကား", "ကာ"), ("ខ្មែរ", "ខមរ"), ("སྐད", "སྐུད"), ("යන්න", "යන")])
def test_a_vowel_sign_is_part_of_its_word(one, other):
    "Hindi, Bengali, Thai, Tamil, Kannada, Gurmukhi, Burmese, Khmer, Tibetan, Sinhala: words were compared without their vowels"
    assert vqa_accuracy(one, other)["accuracy"] == vqa_accuracy(other, one)["accuracy"] == 0
    assert normalise_answer(one) != normalise_answer(other) and " " not in normalise_answer(one)
    for text in (one, f"<answer>{one}</answer>", f"The answer is {one}.", f"**{one}**"):
        assert vqa_accuracy(text, one)["accuracy"] == 1
    assert word_overlap(one, other) == (0, 0, 0) and word_overlap(f"{one} {other}", one)[0] == 0.5


@pytest.mark.parametrize("text, truth", [
    ("Meniere", "Ménière"), ("me\u0301nie\u0300re", "Ménière"), ("naive", "naïve"), ("كَتَبَ", "كتب"), ("כֶּלֶב", "כלב"),
    ("за́мок", "замок"),
    ("X-ray", "xray"), ("don't", "dont"), ("l'œil", "l'œil"), ("heart ❤\ufe0f", "heart ❤"), ("क्\u200dष", "क्ष"), ("3 दिन", "3 दिन")])
def test_marks_that_may_be_left_out_still_may(text, truth):
    assert vqa_accuracy(text, truth)["accuracy"] == vqa_accuracy(truth, text)["accuracy"] == 1


@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing(text): assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@given(st.text(max_size=200), st.text(max_size=60))
def test_any_text_is_paid(completion, truth):
    parts = load_reward("vqa")(completion, truth)
    assert 0 <= parts["overall"] <= 1 and all(isinstance(v, float) for v in parts.values())


def test_wrong_is_not_missing():
    assert vqa_accuracy("<answer>yes</answer>", "no") == dict(overall=0.0, accuracy=0.0, answered=1.0)
    assert vqa_accuracy("<answer>abnormal</answer>", "no")["answered"] == 0.0
    assert yes_or_no("abnormal") is None and answer_kind("no") == "yes/no"


def test_the_prompts_own_example_earns_full_marks():
    prompt = vqa_prompt("<image> Is there evidence of an aortic aneurysm?")
    content, task = prompt.split("\n\nYour task:\n")
    assert content == "<image> Is there evidence of an aortic aneurysm?" and [line[:2] for line in task.splitlines()] == ["1.", "2.", "3."]
    example = "<think>...</think><answer>...</answer>"
    assert all(tag in task for tag in ("<think>...</think>", "<answer>...</answer>")) and format_reward(example)["overall"] == 1
    assert load_reward("vqa")(example.replace("<answer>...", "<answer>yes"), "yes")["overall"] == pytest.approx(1.0)


@pytest.mark.parametrize("row, code", [
    ([], "vqa.row"), ({"question": "?"}, "vqa.fields"), ({"question": "?", "answer": None}, "vqa.empty"),
    ({"question": " ", "answer": "a"}, "vqa.empty"),
    ({"question": "<image>", "answer": "a", "image": "x"}, "vqa.empty"),
    ({"question": "<image> ?", "answer": "a", "images": None}, "vqa.marks"),
    ({"question": "?", "answer": "a", "images": [3]}, "vqa.images"),
    ({"question": "?", "answer": "a", "images": {"bytes": "x"}}, "vqa.images"),
    ({"messages": [{"role": "user", "content": "?"}]}, "vqa.chat"), ({"messages": "hello"}, "vqa.chat"),
    ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "a"}]}, "vqa.chat"),
    ({"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "?"}]}, "vqa.chat")])
def test_bad_rows(row, code):
    with pytest.raises(DataError) as e: vqa_row(row, 12)
    assert (e.value.code, e.value.row) == (code, 12)


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9)), lambda c: st.one_of(st.lists(c, max_size=3),
    st.dictionaries(st.sampled_from(["messages", "conversations", "role", "from", "content", "value", "question", "answer", "image",
                                     "images", "type", "text"]), c, max_size=5)), max_leaves=12))
def test_any_json_is_a_row_or_an_error(value):
    try: row = vqa_row(value, 1)
    except DataError: return
    assert set(row) == {"prompt", "answer", "images"} and row["prompt"].count("<image>") == len(row["images"])


@pytest.mark.parametrize("answer, read", [(np.int64(3), "3"), (np.float32(2), "2"), (np.array(3), "3"), (np.str_("left"), "left"),
                                          (np.array("left"), "left"), (np.array(["yes"], dtype=object), "yes")])
def test_numpy_s_scalars_are_values_as_python_s_are(answer, read):
    assert vqa_row(dict(question="?", answer=answer), 1)["answer"] == read
    choice = dict(question="?", options=["a", "b"])
    assert vqa_row(choice | dict(answer=np.int64(2)), 1) == vqa_row(choice | dict(answer=2), 1)
    assert as_list(np.int64(3)) is as_list(np.array("a")) is None and as_list([np.int64(3)]) == as_list(np.array([3])) == [3]
    assert picture_list(np.array("a.png")) == picture_list(np.array(["a.png"])) == ["a.png"] and picture_list(np.array(None)) == []
    for no_picture in (np.int64(3), np.array(3), [np.float32(3)]):
        with pytest.raises(DataError, match="row 7: .*expected a path"): picture_list(no_picture, 7)
    with pytest.raises(DataError, match="row 7"): picture_list(dict(bytes=[True, False]), 7)
    for no_text in (np.bool_(True), np.float32("nan")):
        with pytest.raises(DataError) as told: vqa_row(dict(question="?", answer=no_text), 7)
        assert told.value.row == 7


def test_no_option_is_lost_where_letters_differ_by_case_alone():
    row = vqa_row(dict(question="Which?", options={"a": "cat", "A": "dog"}, answer="dog"), 1)
    assert "cat" in row["prompt"] and "dog" in row["prompt"]


def answers_of(rows, **given):
    "Truth of each good row by its number, and the bad ones' messages by theirs"
    numbered = [(number, dict(question="Which?") | row) for number, row in enumerate(rows, 1)]
    kept, report = inspect_vqa("x.jsonl", look=False, rows=numbered, **given)
    return {number: row.answer for number, row in kept}, {row["row"]: row["message"] for row in report.skipped}


TWO_TO_FIVE = ["2", "3", "4", "5"]


@pytest.mark.parametrize("options, answers, truths, bad", [
    (TWO_TO_FIVE, "34253", "34253", {}), (TWO_TO_FIVE, "342536", "34253", {6: "none of the 4"}),  # a wrong row decides nothing
    (TWO_TO_FIVE, [3, 4, 2, 9], "342", {4: "none of the 4"}), (list("۲۳۴۵"), "۳۴۲۵", "۳۴۲۵", {}), (list("२३४"), "३२४", "३२४", {}),
    (list("２３４"), "３２４", "３２４", {}), (list("۲۳۴۵"), "3425", "۳۴۲۵", {}), (["2.0", "3.0", "4.0"], [3.0, 2, "4"], ["3.0", "2.0", "4.0"], {}),
    (["0.10", "0.20"], [0.1, "0.2"], ["0.10", "0.20"], {}), (["cat", "dog", "cow"], "120", "BCA", {}), (["cat", "dog"], "12", "AB", {}),
    (["1", "2", "3"], "0121", "ABCB", {}), (["1", "2", "3", "4"], [0, 1, 2, 3], "ABCD", {}),  # each fourth is no text: places
    (["1", "2", "3", "4", "5"], "12340" * 3, "BCDEA" * 3, {}),  # three rows are no slips
    (["1", "2", "3", "4"], "123230", "", dict.fromkeys((1, 2, 3, 4, 5), "write its letter")),  # one row of six: a slip?
    (TWO_TO_FIVE, "32323231", "", dict.fromkeys(range(1, 8), "one option's text and may be another's place")),  # one row in eight: a slip?
    (TWO_TO_FIVE, "342531111", "", {1: "may be another's place"})])  # 5 is no place, 1 is no text
def test_a_number_is_an_option_s_text_or_its_place(options, answers, truths, bad):
    found, told = answers_of([dict(options=options, answer=answer) for answer in answers])
    assert list(found.values()) == list(truths) or not truths
    for number, message in bad.items(): assert message in told[number]
    assert len(found) + len(told) == len(answers) and set(bad) <= set(told)


def test_one_wrong_row_shifts_no_truths():
    "Rows of words whose answers are numbers show what a number means; rows of words alone show nothing"
    numbers, words = dict(options=["1", "2", "3", "4"]), dict(options=["cat", "dog", "eel", "fox"])
    rows = [numbers | dict(answer=answer) for answer in "123230"]
    found, told = answers_of([words | dict(answer="cat")] * 20 + rows)
    assert set(found.values()) == {"cat"} and len(told) == len(rows) and all("write its letter" in message for message in told.values())
    found, told = answers_of([words | dict(answer=answer) for answer in "0123"] + rows)
    assert "".join(found.values()) == "ABCD" + "BCDCDA" and not told


def written_by_datasets(path, features, **columns):
    "A parquet file as `Dataset.to_parquet` writes it"
    from datasets import Dataset, Features
    Dataset.from_dict(columns, features=Features(features)).to_parquet(path)
    return path


def test_classes_of_a_parquet_file_are_read_by_their_names(tmp_path):
    from datasets import ClassLabel, Value
    from vlrlbook.rows.files import parquet_rows
    sides, words = ClassLabel(names=["yes", "no"]), Value("string")
    path = written_by_datasets(tmp_path / "a.parquet", dict(question=words, answer=sides), question=["a?", "b?", "c?"], answer=[0, 1, -1])
    kept, report = inspect_vqa(path)
    assert [row.answer for _, row in kept] == ["yes", "no"] and [row["row"] for row in report.skipped] == [3]
    assert "2 rows: the answer is a class label" in str(report)
    # by its key; in lists and structs; a number that is no class stays one
    number = Value("int64")
    kinds = dict(question=words, label=sides, several=[sides], more=dict(side=sides, n=number), answer=number)
    path = written_by_datasets(tmp_path / "b.parquet", kinds, question=["a?"], label=[1], several=[[0, 1]],
                               more=[dict(side=1, n=1)], answer=[1])
    assert inspect_vqa(path, keys="answer=label")[0][0][1].answer == "no" and inspect_vqa(path)[0][0][1].answer == "1"
    (_, row), = parquet_rows(path)
    assert (row["several"], row["more"]) == (["yes", "no"], dict(side="no", n=1))


def test_two_columns_of_one_name_are_refused(tmp_path):
    from vlrlbook.rows.files import parquet_rows
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table([["a?"], ["yes"], ["no"]], names=["question", "answer", "answer"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="x.parquet has two columns named 'answer'"): parquet_rows(tmp_path / "x.parquet")


def test_a_member_named_feature_keeps_its_class(tmp_path):
    from vlrlbook.rows.files import parquet_rows
    import pyarrow as pa
    import pyarrow.parquet as pq
    sides = dict(names=["left", "right"], _type="ClassLabel")
    features = dict(place=dict(feature=sides, n=dict(dtype="int64", _type="Value")))
    note = {b"huggingface": json.dumps(dict(info=dict(features=features))).encode()}
    pq.write_table(pa.table(dict(place=[dict(feature=1, n=1)])).replace_schema_metadata(note), tmp_path / "x.parquet")
    assert parquet_rows(tmp_path / "x.parquet") == [(1, dict(place=dict(feature="right", n=1)))]


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"info": {"features": null}}', b'{"info": {"features": ["answer"]}}',
                                  b'{"info": {"features": {"answer": {"names": ["yes"], "_type": "ClassLabel"}}}}'])
def test_a_note_that_names_no_class_or_too_few(tmp_path, note):
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = pa.table(dict(question=["a?", "b?"], answer=[0, 1])).replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, tmp_path / "x.parquet")
    if b"names" not in note:
        assert [row.answer for _, row in inspect_vqa(tmp_path / "x.parquet")[0]] == ["0", "1"]
        return
    with pytest.raises(DataError, match="'answer' is the class 1, but only 1 classes have names") as told:
        inspect_vqa(tmp_path / "x.parquet")
    assert told.value.row == 2


def test_numbers_of_32_bits_are_read_as_people_write_them(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    halves, singles = np.array([0.1, 2.3, 4.0], np.float16), np.array([0.1, 2.3, 4.0], np.float32)
    columns = dict(question=["a?", "b?", "c?"], answer=singles, half=halves, double=[0.1 + 0.2, 1.0, float("nan")],
                   several=pa.array([[0.1], [2.3], None], pa.list_(pa.float32())), more=pa.StructArray.from_arrays([singles], ["x"]),
                   mapped=pa.array([[("a", 0.1)], [], None], pa.map_(pa.string(), pa.float32())))
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert [row.answer for _, row in inspect_vqa(tmp_path / "x.parquet")[0]] == ["0.1", "2.3", "4"]
    assert [row.answer for _, row in inspect_vqa(tmp_path / "x.parquet", keys="answer=half")[0]] == ["0.1", "2.3", "4"]
    rows = [row for _, row in read_rows(tmp_path / "x.parquet")]
    assert [row["several"] for row in rows] == [[0.1], [2.3], None] and rows[0]["more"] == {"x": 0.1} and rows[0]["double"] == 0.1 + 0.2
    assert vqa_row(dict(question="?", answer=np.float32(0.1)), 1)["answer"] == "0.1"
    assert rows[0]["mapped"] == [("a", 0.1)]
    assert as_list(singles) == [0.1, 2.3, 4.0] == as_list(list(singles)) and as_list(np.array([0.1 + 0.2])) == [0.1 + 0.2]


def test_boxes_of_32_bits_are_read_quickly_and_as_they_were_written(tmp_path, monkeypatch):
    "As `datasets` writes them: lists of a fixed length, in a struct, too; a type is looked through once, not for each number"
    import pyarrow as pa
    import pyarrow.parquet as pq
    from vlrlbook.rows import files
    box, short, half = [0.1, 2.3, None, float("inf")], pa.float32(), pa.float16()
    objects = pa.struct([("bbox", pa.list_(pa.list_(short, 4))), ("name", pa.string()), ("score", half)])
    values = dict(fixed=([box, None] * 50, pa.list_(short, 4)), large=([box, []] * 50, pa.large_list(short)),
                  objects=([dict(bbox=[box, None, box], name="cat", score=np.float16(0.1)), None] * 50, objects),
                  parts=([[dict(x=0.1), None, dict(x=None)], None] * 50, pa.list_(pa.struct([("x", short)]))),
                  mapped=([[("a", [0.1]), ("b", None)], None] * 50, pa.map_(pa.string(), pa.list_(short))),
                  exact=([[0.1 + 0.2], None] * 50, pa.list_(pa.float64())), whole=([[1, 2], None] * 50, pa.list_(pa.int32(), 2)))
    pq.write_table(pa.table({name: pa.array(*column) for name, column in values.items()}), tmp_path / "x.parquet")
    asked, shortener = [], files._shortener
    monkeypatch.setattr(files, "_shortener", lambda kind: asked.append(kind) or shortener(kind))
    rows = [row for _, row in read_rows(tmp_path / "x.parquet")]
    expected = {name: column[0] for name, (column, _) in values.items()}
    expected["objects"] = dict(bbox=[box, None, box], name="cat", score=0.1)
    assert rows[::2] == [expected] * 50 and rows[1::2] == [dict.fromkeys(values) | dict(large=[])] * 50
    assert type(rows[0]["objects"]["score"]) is float and len(asked) < 25
    assert short not in [getattr(kind, "value_type", kind) for kind in asked[:2]] # the fixed ones and the large ones are pyarrow's work


def test_a_mixed_file_says_which_number_is_uncertain():
    sides = [dict(choices=["no", "yes"], answer=answer) for answer in (0, 1, 1)]
    found, told = answers_of([*sides, dict(choices=["1", "2", "3"], answer=2), dict(choices=["1", "2", "3"], answer="B")])
    assert found == {1: "A", 2: "B", 3: "B", 5: "B"} and "write its letter" in told[4]
    # one row whose number can be no place shows that numbers are texts; counted from 1 both are the same option
    found, _ = answers_of([*sides, dict(choices=["1", "2", "3"], answer=2), dict(choices=["2", "3"], answer=3)])
    assert found == dict(zip(range(1, 6), "ABB23"))
    assert answers_of([dict(choices=["no", "yes"], answer=2), dict(choices=["1", "2", "3"], answer=2)])[0] == {1: "B", 2: "B"}


def test_a_row_s_own_numbers_of_its_options_count():
    animals = {"0": "cat", "1": "dog", "2": "cow"}
    assert answers_of([dict(options=animals, answer="1"), dict(options=["a", "b", "c"], answer=3)])[0] == {1: "B", 2: "C"}
    from_one = dict(options={"2": "dog", "1": "cat"}, answer=2)
    found, told = answers_of([from_one, from_one | dict(answer=1), from_one | dict(answer=0)])
    assert found == {1: "B", 2: "A"} and "none of the 2" in told[3]
    arc = dict(choices={"text": ["cat", "dog"], "label": ["1", "2"]}, answer="1")
    assert answers_of([arc, dict(options=["a", "b"], answer=0)])[0] == {1: "A", 2: "A"}
    lettered = dict(options=["B. dog", "A. cat", "C. cow"])
    found, told = answers_of([lettered | dict(answer=0), lettered | dict(answer="B"), dict(options=["A. a", "B. b"], answer=0)])
    assert found == {2: "B", 3: "A"} and "not in order" in told[1]
    for own in (dict(options={"0": "B. dog", "1": "A. cat"}), dict(option0="B. dog", option1="A. cat"),
                dict(choices={"text": ["B. dog", "A. cat"], "label": ["0", "1"]})):
        found, told = answers_of([own | dict(answer=0), own | dict(answer="B")])
        assert found == {2: "B"} and "not in order" in told[1]


@pytest.mark.parametrize("name", ["option{}", "option {}", "Choice_{}", "opt{}"])
def test_columns_of_options_count_from_0_or_from_1(name):
    def row(first, answer):
        return {name.format(number): animal for number, animal in enumerate(("cat", "dog", "bird", "fish"), first)} | dict(answer=answer)

    assert answers_of([row(0, answer) for answer in ("A", 1, "2", "fish")])[0] == {1: "A", 2: "B", 3: "C", 4: "fish"}
    assert answers_of([row(1, answer) for answer in ("A", 4, "2", "fish")])[0] == {1: "A", 2: "D", 3: "B", 4: "fish"}
    assert answers_of([row(1, answer) for answer in (0, 3)])[0] == {1: "A", 2: "D"}  # as before: the answers say where they count from
    first_is_empty = [row(1, "A") | {name.format(0): None} for _ in range(2)]  # a column that is empty in all rows
    assert answers_of(first_is_empty)[0] == {1: "A", 2: "A"}
    gap = row(0, "A")
    del gap[name.format(1)]
    ten = {name.format(i): f"animal {i}" for i in range(1, 11)} | dict(answer="J")
    found, told = answers_of([gap, ten, ten | {name.format(11): "one more"}])
    assert found == {2: "J"} and "option B is empty" in told[1] and "one option too many" in told[3]


@pytest.mark.parametrize("written, truth", [
    ("yes<|im_end|>", "yes"), ("a dog</s>", "a dog"), ("3<|endoftext|>", "3"), ("no <|eot_id|>\n", "no"), ("B<end_of_turn>", "B"),
    ("yes<|im_end|>\n<|endoftext|>", "yes"), ("<think>dark</think><answer>no</answer><|im_end|>", "no"), ("<s>old</s>", "<s>old</s>"),
    ("a </s> b", "a </s> b"), ("|im_end|", "|im_end|"), ("<|im_end|>", None), ("<|im_start|>assistant\nyes<|im_end|>", None),
    ("ye<|im_end|>s", None), ("<|image_pad|>", None)])
def test_a_truth_holds_no_control_token(written, truth):
    row = dict(question="Is it?", answer=written)
    chat = dict(messages=[dict(role="user", content="Is it?"), dict(role="assistant", content=written)])
    for given in (row, chat, dict(question="Is it?", answers=[written, written])):
        found, told = answers_of([given])
        assert found == ({} if truth is None else {1: truth})
        if truth is None: assert "control token" in told[1] or "is empty" in told[1]
    _, report = inspect_vqa("x.jsonl", look=False, rows=[(1, row)])
    assert ("stood behind the answer" in str(report)) == (truth is not None and truth not in ("<s>old</s>", "a </s> b", "|im_end|"))


HALF = "yes \ud83d"


def test_half_a_character_is_named_wherever_it_stands():
    turns = [dict(role="user", content=HALF), dict(role="assistant", content="no")]
    rows = [dict(messages=turns), dict(messages=[dict(role="system", content=HALF), dict(turns[0], content="Is it?"), turns[1]]),
            dict(messages=[dict(turns[0], content=[dict(type="text", text=HALF)]), turns[1]]), dict(answer="no", system=HALF),
            dict(instruction="Is it?", input=HALF, answer="no"), dict(answer=HALF), dict(options=["a", HALF], answer="A"),
            dict(answer="a whole one: \U0001f600")]
    rows = [row if "instruction" in row else dict(question="Is it?") | row for row in rows]
    kept, report = inspect_vqa("x.jsonl", look=False, rows=list(enumerate(rows, 1)))
    assert [number for number, _ in kept] == [8] and [row["row"] for row in report.skipped] == list(range(1, 8))
    assert all("half of a character" in row["message"] for row in report.skipped)


def test_half_a_character_in_preferences_is_named():
    ranked = dict(query="Is it?", response=["a", "b"], human_ranking=[0, 1])
    pair = dict(question="Is it?", chosen="a", rejected="b")
    chat = [dict(role="user", content=HALF), dict(role="assistant", content="a"), dict(role="user", content="And?")]
    cases = [(ranked | dict(query=HALF), "query"), (ranked | dict(response=["a", HALF]), "response"), (pair | dict(question=HALF), "query"),
             (pair | dict(chosen=HALF), "response"), (pair | dict(rejected=dict(value=HALF)), "response"),
             (dict(messages=chat, chosen="a", rejected="b"), "query")]
    for row, code in cases:
        with pytest.raises(DataError, match="row 7.*half of a character") as told: read_preference_row(row, 7)
        assert told.value.code == f"preference.{code}"
    assert read_preference_row(pair | dict(chosen="\U0001f600"), 7).response[0] == "\U0001f600"


def test_places_in_a_chat_show_the_pictures_that_they_name():
    def row(*parts, images=("a.png", "b.png")):
        content = [part if isinstance(part, str) else dict(type="image", **part) for part in parts]
        return dict(messages=[dict(role="user", content=content), dict(role="assistant", content="no")], images=list(images))

    def shown(row): return vqa_row(row, 1)["images"]
    assert shown(row("Is", dict(index=1), "like", dict(index=0), "?")) == ["b.png", "a.png"]
    assert shown(row("Is", dict(index=0), "like", dict(index=1.0), "?")) == ["a.png", "b.png"]
    assert shown(row("Is", {}, "like", dict(index=None), "?")) == ["a.png", "b.png"]  # no numbers: one after the other
    assert shown(row("Is", dict(image="c.png"), "like", dict(index=0), "?", images=["a.png"])) == ["c.png", "a.png"]
    for parts in ((dict(index=1), dict(index=1)), (dict(index=0), {}), (dict(index=1), dict(index=2))):
        with pytest.raises(DataError, match="vqa.images: row 1.* by index and the row holds 2"): vqa_row(row("Is it?", *parts), 1)


def test_a_system_column_beside_a_chat_is_read():
    "LLaMA-Factory's form"
    turns = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "no"}]
    assert vqa_row(dict(conversations=turns, system="Be brief."), 1)["prompt"] == "Be brief.\n\nIs it?"
    assert vqa_row(dict(conversations=turns, system=None), 1)["prompt"] == vqa_row(dict(conversations=turns), 1)["prompt"] == "Is it?"
    own = [{"from": "system", "value": "Be brief."}, *turns]
    assert vqa_row(dict(conversations=own, system="Be brief. "), 1)["prompt"] == "Be brief.\n\nIs it?"
    assert vqa_row(dict(conversations=own, system="Be kind."), 1)["prompt"] == "Be kind.\n\nBe brief.\n\nIs it?"
    own = [{"from": "system", "value": "One."}, {"from": "system", "value": "Two."}, *turns]
    assert vqa_row(dict(conversations=own), 1)["prompt"] == "One.\n\nTwo.\n\nIs it?"


def test_nothing_is_written_when_a_row_is_bad(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"question": "?", "answer": "a"}\n{"question": "?"}\n')
    with pytest.raises(DataError, match="row 2"): convert_vqa(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_adapters_speak_three_dialects_of_one_reward():
    reward, text = load_reward("vqa"), "<think>t</think><answer>Yes.</answer>"
    parts = reward(text, "yes")
    assert for_easyr1(reward)([dict(response=text, response_length=9, ground_truth="yes")]) == [parts]
    assert for_verl(reward)("vqa", text, "yes", {}) == {"score": parts["overall"], **{k: v for k, v in parts.items() if k != "overall"}}


def test_console_commands(tmp_path):
    import subprocess, sys
    run = lambda *args: subprocess.run([sys.executable, "-m", "vlrlbook.cli", *map(str, args)], capture_output=True, text=True)
    (tmp_path / "in.jsonl").write_text('{"question": "?", "answer": "a", "image": "x.png"}\n')
    done = run("convert-vqa", "--input_jsonl", tmp_path / "in.jsonl", "--output-jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0 and json.loads((tmp_path / "out.jsonl").read_text()) == {"prompt": "<image> ?", "answer": "a",
        "images": ["x.png"]}
    bad = run("check-data", tmp_path / "in.jsonl")
    assert bad.returncode and "image.missing: row 1, 'x.png'" in bad.stderr and "Traceback" not in bad.stderr
    for k, colour in enumerate(("red", "blue"), 1): Image.new("RGB", (32, 24), colour).save(tmp_path / f"{k}.png")
    (tmp_path / "good.jsonl").write_text("".join(json.dumps({"problem": "?", "answer": "a", "scan": f"{k}.png"}) + "\n" for k in (1, 2)))
    good = run("check-data", tmp_path / "good.jsonl", "--keys", "question=problem", "image=scan")
    assert good.returncode == 0 and "2 VQA rows, 2 kept, 0 skipped; 2 with pictures" in good.stdout
    assert "training will take it" in good.stdout
    assert "say --keys image=scan" in run("check-data", tmp_path / "good.jsonl").stderr
    rad = [{"question": "?", "answer": "a", "image_name": f"{i % 5}.jpg",
            "phrase_type": "test_freeform" if i > 7 else "freeform"} for i in range(12)]
    (tmp_path / "rad.json").write_text(json.dumps(rad))
    lines = lambda name: [json.loads(line) for line in (tmp_path / name).open()]
    done = run("convert-vqa", "--input_jsonl", tmp_path / "rad.json", "--output_jsonl", tmp_path / "rad.jsonl", "--split", "published")
    assert "100% of the test pictures are in the train part too" in done.stdout and len(lines("rad_train.jsonl")) == 8 and len(
        lines("rad_test.jsonl")) == 4
    assert run("convert-vqa", "--input_jsonl", tmp_path / "rad.json", "--output_jsonl", tmp_path / "own.jsonl", "--split",
               "picture").returncode == 0
    assert not {r["images"][0] for r in lines("own_train.jsonl")} & {r["images"][0] for r in lines("own_test.jsonl")}
    refused = run("convert-vqa", "--input_jsonl", tmp_path / "in.jsonl", "--output_jsonl", tmp_path / "no.jsonl", "--split", "published")
    assert "vqa.split: row 1: no phrase_type" in refused.stderr and not list(tmp_path.glob("no*"))
    assert run("check-data", tmp_path / "none.zip").returncode and run("convert-vqa", "--inptu", "x").returncode == 2


@real
def test_vqa_rad_converts_whole(tmp_path):
    source = SHARED / "vqa_rad" / "VQA_RAD_Dataset_Public.json"
    assert convert_vqa(source, tmp_path / "out.jsonl", SHARED / "vqa_rad" / "images") == 1114
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert all(r["prompt"].startswith("<image> ") and len(r["images"]) == 1 and r["answer"] == r["answer"].strip() for r in rows)
    assert all(vqa_accuracy(f"<answer>{r['answer']}</answer>", r["answer"])["accuracy"] == 1 for r in rows)
    spellings = [str.upper, str.lower, "The answer is {}.".format, "Answer: {}".format, "**{}**".format, "It is {}".format,
                 "\\boxed{{\\text{{{}}}}}".format, lambda t: t.replace("-", " "), lambda t: t.replace(" ", "-"),
                 lambda t: t.replace(",", "")]
    for answer in sorted({r["answer"] for r in rows}):
        assert all(vqa_accuracy(f"<answer>{spell(answer)}</answer>", answer)["accuracy"] == 1 for spell in spellings), answer


@real
def test_published_split_leaks_and_ours_does_not():
    rows = [r for _, r in read_rows(SHARED / "vqa_rad" / "VQA_RAD_Dataset_Public.json")]
    train, test, leak = published_split(rows)
    assert len(train) + len(test) == 1114 and leak > 0.9
    a, b = split_rows_by_picture(rows)
    assert not {r["image_name"] for r in a} & {r["image_name"] for r in b} and len(a) + len(b) == 1114


@real
def test_peers_on_real_completions():
    load = lambda name: [json.loads(line) for line in (SHARED / name).open()]
    completions, peers = load("medvlm_r1_outputs/completions.jsonl"), load("peer_vectors/rewards_on_medvlm.jsonl")
    for c, p in zip(completions, peers):
        text, got = c["completion"], vqa_accuracy(c["completion"], p["gold"])["accuracy"] if p["gold"] else None
        assert format_reward(text)["overall"] == p["easyr1_r1v_format"] == p["vlmr1_format"] == p["r1v_format"]
        if got is not None: assert got == p["vlmr1_mcq"]
        if got is not None and got != p["easyr1_r1v_accuracy"]: assert "<answer>\n" in text and got == 1.0
    normalised = load("peer_vectors/vqa_normalise.jsonl")
    for key in ("vlmevalkit_process_answer", "evalai_m4c"):
        differ = [r for r in normalised if normalise_answer(r["raw"]) != r[key]]
        assert len(differ) <= 16 and all("'" in r["raw"] or "~" in r["raw"] for r in differ)


def test_a_converted_picture_is_what_training_sees(tmp_path):
    "Other programs put no white behind transparency and do not turn a picture as its EXIF says"
    import base64
    import io
    clear, turned = io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(clear, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6 # turned by 90 degrees
    Image.new("RGB", (60, 40), "red").save(turned, "JPEG", exif=exif)
    rows = [dict(question="What?", answer="a", image=base64.b64encode(file.getvalue()).decode()) for file in (clear, turned)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    convert_vqa(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    first, second = [Image.open(tmp_path / json.loads(line)["images"][0]) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first.mode == second.mode == "RGB" and first.getpixel((5, 5)) == (255, 255, 255) and second.size == (40, 60)


def equal_pairs(folder):
    "A file of 20 rows; rows 2i and 2i + 1 have equal pictures under different names"
    folder.mkdir()
    lines = []
    for i in range(20):
        Image.new("RGB", (32, 32), (10 * (i // 2), 0, 0)).save(folder / f"{i}.png")
        lines.append(json.dumps(dict(question="What?", answer="a", image=f"{i}.png")))
    (folder / "rows_train.jsonl").write_text("\n".join(lines))
    return folder / "rows_train.jsonl"


@pytest.mark.parametrize("output", ["in/o.jsonl", "out/deep/o.jsonl"])
def test_equal_pictures_stay_together_wherever_the_output_lies(tmp_path, output):
    convert_vqa(equal_pairs(tmp_path / "in"), tmp_path / output, split="picture")
    sides = []
    for ending in ("train", "test"):
        path = (tmp_path / output).with_stem(f"o_{ending}")
        names = [json.loads(line)["images"][0] for line in path.read_text().splitlines()]
        assert all((path.parent / name).is_file() for name in names)
        sides.append({int(Path(name).stem) // 2 for name in names})
    assert sides[0] | sides[1] == set(range(10)) and not sides[0] & sides[1]


def test_a_split_does_not_write_over_the_rows_that_it_reads(tmp_path):
    rows = equal_pairs(tmp_path / "in")
    before = rows.read_bytes()
    with pytest.raises(ValueError, match="rows_train.jsonl: the output is the input"):
        convert_vqa(rows, tmp_path / "in/rows.jsonl", split="picture")
    assert rows.read_bytes() == before


@pytest.mark.parametrize("parts, text", [
    (["\nhi \n"], "\nhi \n"), (["Look:", dict(type="image"), " how many? "], "Look: <image> how many?"),
    (["one\ntwo", " \n ", "\tthree\n"], "one\ntwo three\n"), ([""], "")])
def test_parts_of_a_turn_are_joined_and_keep_their_line_breaks(parts, text):
    from vlrlbook.rows.chat import read_turns
    assert read_turns([dict(role="user", content=parts)])[0].text == text


@pytest.mark.parametrize("columns, keys, told", [
    (dict(hint="Magnets attract."), None, "hint"), (dict(context="A bird sits in a tree."), None, "context"),
    (dict(hint="nan"), None, None), (dict(hint=""), None, None), (dict(hint=None), None, None), (dict(category="x"), None, None),
    (dict(hint="Magnets attract."), "system=hint", None)])
def test_a_text_that_may_belong_to_the_question_has_a_note_of_its_own(columns, keys, told):
    row = read_vqa_row(dict(question="Which?", image="a.png", answer="no", **columns), keys=read_keys(keys))
    notes = [note for note in row.notes if "may belong to the question" in note]
    assert len(notes) == bool(told) and all(f"--keys system={told}" in note for note in notes)
    assert ("Magnets" in row.question) == bool(keys)


@pytest.mark.parametrize("options, left_out", [(dict(A="x", B="y", C="nan"), True), (dict(A="x", B="y", C="nan", D="z"), False),
                                               (dict(option1="x", option2="y", option3="nan"), True), (dict(A="x", B="nan"), False)])
def test_options_that_are_left_out_are_told(options, left_out):
    row = read_vqa_row(dict(question="Which?", image="a.png", answer="A", **options))
    assert any('"nan" are left out' in note for note in row.notes) == left_out


@pytest.mark.parametrize("cell, pictures", [
    ("[]", []), ("  [ ] ", []), (" ['2.png']", ["2.png"]), ('["a.png", "b.png"]', ["a.png", "b.png"]),
    ("", []), ("[unclear].png", ["[unclear].png"])])
def test_a_list_that_a_csv_writes_as_a_text(tmp_path, cell, pictures):
    "An empty one was taken for the path of a picture, and so was one behind a blank"
    for name in ("2.png", "a.png", "b.png", "[unclear].png"): Image.new("RGB", (32, 32)).save(tmp_path / name)
    with (tmp_path / "rows.csv").open("w", newline="") as f:
        csv.writer(f).writerows([["question", "images", "answer"], ["2 + 2?", cell, "4"]])
    [(_, row)] = inspect_vqa(tmp_path / "rows.csv")[0]
    assert [Path(str(picture)).name for picture in row.pictures] == pictures


@pytest.mark.parametrize("options, answer, told", [
    (["cat", "dog"], "dog", True), (["cat", "dog"], "Dog", True), (["2", "3", "4"], "3", True),
    (["cat", "dog"], "B", False), (["A", "B"], "B", False), (["cat", "dog"], "A and B", False)])
def test_a_text_beside_letters_is_told(options, answer, told):
    "Where the truth is an option's text, an answer that is its letter earns nothing: that is said"
    row = read_vqa_row(dict(question="Which?", image="a.png", options=options, answer=answer))
    assert any("its letter earns nothing" in note for note in row.notes) == told
