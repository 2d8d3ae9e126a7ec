"""The contest of a class: bad rewards, names and files get one sentence; the same answers get the same marks; a collapse is last."""
import json
import random
from dataclasses import asdict, replace

import pytest
from vlrlbook import cli, contest, contest_files, standings
from vlrlbook.contest import as_reward, checked_reward, enter, reward_of_file
from vlrlbook.contest_files import ContestError, Entry, Rules, entry_name, fingerprint, frozen_pictures, read_entry, stored_entry
from vlrlbook.core import book_file
from vlrlbook.data import picture_key, synthetic_counting
from vlrlbook.verdict import questions

RULES = Rules(steps=3, pictures=40, answers=2, warm_steps=2)
STORED = ("the_books_reward", "likes_three")
PICTURES = frozen_pictures(RULES)


def answered(before, after, lent=None):
    "Rows of a run that says what three functions of (place, truth) return"
    rows = []
    for i, s in enumerate(PICTURES):
        said = {"before": before(i, s.answer), "after": after(i, s.answer)}
        row = dict(question=s.question, answer=s.answer, picture=picture_key(s.images[0]))
        for when, text in said.items():
            elsewhere = (lent or before)(i + 1, PICTURES[(i + 1) % len(PICTURES)].answer)
            row |= {f"{when}_greedy": [text], f"{when}_sampled": [text] * 2}
            row |= {f"{when}_no_picture": [elsewhere], f"{when}_shuffled": [elsewhere]}
        rows.append(row)
    return rows


def right(i, truth): return truth
def three(i, truth): return "A photo of 3 discs"
def half(i, truth): return truth if i % 2 else "A photo of 9 discs"


def made(name, rows, **changed):
    log = [dict(step=1.0, reward=0.25), dict(step=2.0, reward=0.75)]
    return replace(Entry(name, "def f(c, t): return 1", RULES, fingerprint(RULES), rows, log, dict(device="CPU")), **changed)


def put(folder, file, entry):
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(contest_files.entry_text(entry), encoding="utf-8")


# The reward

@pytest.mark.parametrize("reward, told", [
    (lambda c, t: "good", "returns 'good' (str) for the answer 'A photo of 3 discs'; it must return a number"),
    (lambda c, t: None, "returns 'None' (NoneType)"),
    (lambda c, t: {"right": 1}, "or a dict of numbers with 'overall'"),
    (lambda c, t: {"overall": "1"}, "or a dict of numbers with 'overall'"),
    (lambda c, t: float("nan"), "no finite number"),
    (lambda c, t: int(c), "stops with ValueError"),
    (lambda c: 1.0, "stops with TypeError"),
    (lambda c, t: float(c.split()[-1] == t), "IndexError"),
    ("exact", "the reward is 'exact' (str); it must be a function of (completion, truth)")])
def test_a_bad_reward_gets_one_sentence(reward, told, tmp_path):
    with pytest.raises(ContestError) as stopped: enter("Ada", reward, tmp_path)
    assert told in str(stopped.value) and "\n" not in str(stopped.value) and len(str(stopped.value)) < 300
    assert not list(tmp_path.iterdir())


def test_a_number_or_parts():
    assert checked_reward(lambda c, t: c == t)("3", "3") == dict(overall=1.0)
    assert as_reward(lambda c, t: dict(overall=0.5, right=1.0))("3", "4") == dict(overall=0.5, right=1.0)


def test_a_reward_in_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("def f(c, t):\n    return len(c) / 1e6\n\nx = 3\n")
    (tmp_path / "broken.py").write_text("def f(:")
    assert reward_of_file(f"{tmp_path}/mine.py:f")("abc", "") == 3e-6
    assert contest._source_of(reward_of_file(f"{tmp_path}/mine.py:f")) == "def f(c, t):\n    return len(c) / 1e6\n"
    for spec, told in ((f"{tmp_path}/mine.py:g", "has no function 'g'"), (f"{tmp_path}/mine.py:x", "has no function 'x'"),
                       (f"{tmp_path}/broken.py:f", "SyntaxError"), ("mine:f", "expected an existing file"), ("no.py:f", "names no reward")):
        with pytest.raises(ContestError, match=told): reward_of_file(spec)


def test_a_file_that_ends_the_program_gets_a_sentence(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ContestError, match="mine.py cannot be read: SystemExit: 3"): reward_of_file(f"{tmp_path}/mine.py:pay")
    (tmp_path / "late.py").write_text("def pay(completion, truth): exit()\n")
    with pytest.raises(ContestError, match="stops with SystemExit"): checked_reward(reward_of_file(f"{tmp_path}/late.py:pay"))("3", "3")


def test_names():
    assert entry_name("Ada Lovelace") == "ada-lovelace.json" and entry_name("../../x") == "x.json" and entry_name("Ольга") == "ольга.json"
    for name in ("", "  ", "a" * 41, "two\nlines", 3, None):
        with pytest.raises(ContestError, match="cannot be used"): entry_name(name)


def test_a_file_is_not_written_over(tmp_path):
    (tmp_path / "ada.json").write_text("mine")
    with pytest.raises(ContestError, match="again=True"): enter("Ada", right, tmp_path)
    assert (tmp_path / "ada.json").read_text() == "mine"


def test_grpo_is_not_trained_on_the_frozen_pictures():
    "Neither with the seed of the class, nor with one that would draw them: that one is refused"
    contest._refuse_frozen(synthetic_counting(3200, seed=Rules().seed), Rules())
    with pytest.raises(ContestError, match="draws 1 of the frozen pictures"): contest._refuse_frozen(PICTURES[:1], RULES)


# The file

def test_a_file_comes_back_and_holds_no_mark(tmp_path):
    entry = made("Ada", answered(half, right))
    put(tmp_path, "a.json", entry)
    back = read_entry(tmp_path / "a.json")
    assert back == entry
    held = json.loads((tmp_path / "a.json").read_text())
    assert list(held)[0] == "name" and not {"truth", "outcome", "questions"} & set(held)
    held["answer"] = "A photo of 3 discs"  # a truth that somebody adds is not read
    (tmp_path / "a.json").write_text(json.dumps(held))
    assert [row["answer"] for row in read_entry(tmp_path / "a.json").rows] == [s.answer for s in PICTURES]


def test_damaged_files(tmp_path):
    "Cut, another form, another field: one sentence with the file's name, never another error"
    path, text = tmp_path / "a.json", contest_files.entry_text(made("Ada", answered(half, right)))
    rng = random.Random(0)
    for place in [0, 1, len(text) - 3, *(rng.randrange(len(text)) for _ in range(20))]:
        path.write_text(text[:place], encoding="utf-8")
        with pytest.raises(ContestError, match=r"^a\.json"): read_entry(path)
    whole = json.loads(text)
    far, one_more = asdict(RULES) | dict(pictures=10**9), asdict(RULES) | dict(pictures=41)
    others = [dict(name=3), dict(name="\0"), dict(form=2), dict(rules={}), dict(rules=far), dict(rules=one_more), dict(texts="abc"),
              dict(texts=[1]), dict(answers={}), dict(log=3), dict(log=[3]), dict(facts=3)]
    for column, places in (("before_greedy", [[10**6]] * 40), ("after_greedy", [[0, 0]] * 40), ("after_sampled", [["x", 0]] * 40),
                           ("after_greedy", [[-1]] * 40), ("after_greedy", None)):
        others.append(dict(answers=whole["answers"] | {column: places}))
    for other in others:
        path.write_text(json.dumps(whole | other))
        with pytest.raises(ContestError, match=r"^a\.json") as stopped: read_entry(path)
        assert "\n" not in str(stopped.value)
    for content in (b"\xff\xfe", b"[" * 100_000, b"null", b"7", b'"form"'):
        path.write_bytes(content)
        with pytest.raises(ContestError, match=r"^a\.json"): read_entry(path)
    path.write_bytes(b" " * (contest_files.most_bytes + 1))
    with pytest.raises(ContestError, match="larger than 5 MB"): read_entry(path)


# The ranking

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A class: two good runs that share a place, one that changed nothing, one that collapsed, and what cannot be ranked"
    made_in = tmp_path_factory.mktemp("class") / "files"
    put(made_in, "1.json", made("Ada <b>&", answered(half, right)))
    put(made_in, "2.json", made("Ben", answered(half, right, lent=three)))
    put(made_in, "3.json", made("Cleo", answered(half, half)))
    put(made_in, "4.json", made("Dan", answered(half, three, lent=three), reward="<script>alert(1)</script>"))
    put(made_in, "5.json", made("Eve", answered(half, right)))
    put(made_in, "6.json", made("EVE", answered(half, half)))
    put(made_in, "7.json", made("Finn", answered(half, right), rules=replace(RULES, steps=9)))
    put(made_in, "8.json", made("Gus", answered(half, right), pictures="0" * 16))
    (made_in / "9.json").write_text("{")
    (made_in / "copy.json").write_bytes((made_in / "3.json").read_bytes())
    (made_in / "notes.txt").write_text("no result")
    return made_in


@pytest.fixture(scope="module")
def found(folder): return standings.gather(folder)


def test_ranking(found):
    by_name = {one.entry.name: one for one in found.results}
    assert list(by_name)[-1] == "Dan" and by_name["Dan"].outcome == "collapsed" and by_name["Dan"].place == 4
    assert by_name["Cleo"].place == 3 and by_name["Cleo"].yes < min(by_name["Ada <b>&"].yes, by_name["Ben"].yes)
    assert by_name["Dan"].often == ["40 × A photo of 3 discs"]
    for one in found.results:
        assert [q["name"] for q in one.asked] == [q["name"] for q in questions([], None)] and len(one.asked) == 8
        assert all(q["answer"] in ("yes", "no", "cannot tell") for q in one.asked)
    assert len(found.refused) == 4 and all("\n" not in sentence for sentence in found.refused)
    told = "\n".join(found.refused)
    for part in ("9.json is damaged", "5.json and 6.json are both from “Eve”", "7.json: made under other rules (steps = 9, most have 3)",
                 "8.json: its pictures (0000000000000000) are not those"):
        assert part in told
    assert "4. Dan" in repr(found) and "not ranked: 9.json" in repr(found)


def test_equal_answers_share_a_place():
    entry = made("a", answered(half, right))
    one, other = standings.judge(entry), standings.judge(replace(entry, name="b"))
    other.after, third = 0.9, standings.judge(made("c", answered(half, half)))
    worse = replace(other, outcome="worse")
    assert [(r.entry.name, r.place) for r in standings.ranked([third, worse, other, one])] == [("a", 1), ("b", 1), ("c", 3), ("b", 4)]


def test_page(folder, found, tmp_path, capsys):
    assert cli.main(["contest", str(folder), "--out", str(tmp_path / "page.html")]) == 1  # some file is not ranked
    assert "1. " in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>&" not in page and "&lt;script&gt;" in page and "http" not in page and str(tmp_path) not in page
    assert page.count('class="one"') == 4 and page.count("Not ranked") == 1 and "prefers-color-scheme: dark" in page
    part = found._repr_html_()
    assert "<html" not in part and part.count('class="one"') == 4


def test_nothing_to_gather(tmp_path):
    for name in ("nowhere", "."):
        with pytest.raises(SystemExit, match="no result of a student"): cli.main(["contest", str(tmp_path / name)])
    (tmp_path / "a.json").write_text("[]")
    assert cli.main(["contest", str(tmp_path)]) == 1
    assert "No result could be ranked" in (tmp_path / "results.html").read_text()


def test_the_command_has_the_rules_of_the_class():
    args = cli.parser().parse_args(["enter", "Ada", "mine.py:f"])
    assert (args.steps, args.pictures, args.warm_steps) == (Rules().steps, Rules().pictures, Rules().warm_steps)


# Stored runs

def test_stored_runs():
    "What the third notebook says of them is so"
    found = {name: standings.judge(stored_entry(name)) for name in STORED}
    assert {one.entry.pictures for one in found.values()} == {fingerprint(Rules())}
    assert found["the_books_reward"].entry.rules == Rules() and found["likes_three"].entry.rules == Rules(steps=80)
    assert found["likes_three"].outcome == "collapsed" and found["the_books_reward"].outcome == "better"
    assert "likes_three" in found["likes_three"].entry.reward
    log = found["likes_three"].entry.run_log().series("reward")[1]
    assert log[-1] > log[0] + 0.3  # its curve looks like a success
    assert all(book_file(f"logs/contest_{name}.json").stat().st_size < 200_000 for name in STORED)
