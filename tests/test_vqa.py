"""The VQA shelf and its reward: dialects, splits, truth tables, and the real files and peers where they are at hand."""
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
from vlrlbook.rows.pictures import picture_list
from vlrlbook.rows.values import as_list

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
    ("±3", "3"),
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


@pytest.mark.parametrize("text, number", [
    ("minus 5", -5), ("minus two hundred", -200), ("it is negative 5", -5), ("-5", -5), ("minus 2.5 cm", -2.5), ("√2", None),
    ("3√2", None), ("±2", None),
    ("1.5e3", None), ("1.5E-3", None), ("10⁻³", None), ("2.5 cm", 2.5), ("the patient is HIV negative 5", 5), ("minus 0", 0)])
def test_the_sign_of_a_number_is_read(text, number): assert read_number(text) == number


def test_counts_are_read_as_they_were():
    texts = {"minus the red one: 3": 3, "10⁻³": None, "3 discs (minus the red one)": 3,
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


@pytest.mark.parametrize("parts, text", [
    (["\nhi \n"], "\nhi \n"), (["Look:", dict(type="image"), " how many? "], "Look: <image> how many?"),
    (["one\ntwo", " \n ", "\tthree\n"], "one\ntwo three\n"), ([""], "")])
def test_parts_of_a_turn_are_joined_and_keep_their_line_breaks(parts, text):
    from vlrlbook.rows.chat import read_turns
    assert read_turns([dict(role="user", content=parts)])[0].text == text
