"""What a judge learns from and says beyond "this one is better": votes of several people, talks of several turns, several
pictures, a prompt of its own, and chances that were held against what came."""
import json

import numpy as np
import pytest
import torch
from support import preferences
from support.preferences import untrained_judge, with_pictures, write
from torch.nn.functional import binary_cross_entropy_with_logits

from vlrlbook.core import Sample, SettingsError, cast, read_settings
from vlrlbook.data import DataError, encode, permuted, preference_pairs, preference_row, to_messages
from vlrlbook.metrics import pair_reliability, pair_temperature
from vlrlbook.models import families, tiny_twin
from vlrlbook.reward_model import (RewardModelSettings, VLRewardModel, calibrate, chances_of, encode_answers, encode_pairs, judge_template,
                                   load_rows, pair_figures, pairs_of, pairwise_loss, plot_reliability, preferred_pairs, rank_answers,
                                   read_pair_rows, report_table, reversed_rows, score_file, score_rows, train_reward_model)
from vlrlbook.rows.gate import inspect_preferences, inspect_vqa
from vlrlbook.rows.preferences import read_preference_row

SHORT = dict(num_epochs=1, batch_size=4, logging_steps=1, log_samples=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Twelve pictures"
    return with_pictures(tmp_path_factory.mktemp("judgements"))


@pytest.fixture(scope="module")
def judge(): return untrained_judge()


def base(k, **more):
    "The shared row; a column that is given as None is left out"
    return {name: value for name, value in preferences.base(k, **more).items() if value is not None}


def settings(folder, **given): return read_settings(RewardModelSettings, SHORT | dict(output_dir=str(folder / "out")) | given)


# the whole question

SYSTEM = "Answer in centimetres."
USER, BOT = (lambda text: dict(role="user", content=text)), (lambda text: dict(role="assistant", content=text))
RANKED = dict(response=["5", "50"], human_ranking=[0, 1])
PAIR = dict(chosen="5", rejected="50")


@pytest.mark.parametrize("row, query", [
    (dict(query="How long?") | RANKED, "How long?"), (dict(prompt="How long?") | PAIR, "How long?"),
    (dict(prompt=[USER("How long?")]) | PAIR, "How long?"), (dict(messages=[USER("How long?")]) | RANKED, "How long?"),
    (dict(messages=[USER("How long?"), BOT("5")], rejected_response="50"), "How long?"),
    (dict(prompt="How long?", chosen=[USER("How long?"), BOT("5")], rejected=[USER("How long?"), BOT("50")]), "How long?"),
    (dict(conversations=[{"from": "human", "value": "How long?"}], chosen={"from": "gpt", "value": "5"},
          rejected={"from": "gpt", "value": "50"}), "How long?"),
    (dict(instruction="Measure it.", input="How long?") | RANKED, "Measure it.\nHow long?"),
    (dict(instruction="Measure it.", input="How long?") | PAIR, "Measure it.\nHow long?")])
def test_a_column_of_the_system_is_part_of_the_question(row, query):
    "It was listed as not read: the judge learnt from half a question"
    plain, read = read_preference_row(row), read_preference_row(row | dict(system=f" {SYSTEM}\n"))
    assert plain.query == query and not [note for note in plain.notes if "system" in note]
    assert read.query == f"{SYSTEM}\n\n{query}" and not read.unread and read.response == ["5", "50"]
    assert sum("'system', stands in front" in note for note in read.notes) == 1
    assert ("input" in row) == any("'input' stands behind" in note for note in read.notes)
    # nothing said is nothing: no empty line in front
    for empty in ("", " ", float("nan"), None): assert read_preference_row(row | dict(system=empty)).query == query
    listed = read_preference_row(row | dict(system=["a", "b"]))
    assert listed.query == query and listed.unread == ["system"]


def test_a_column_of_the_system_beside_a_turn_of_it():
    turns = [dict(role="system", content=SYSTEM), USER("What?"), BOT("A rod."), USER("How long?")]
    alike = read_preference_row(dict(prompt=turns, system=SYSTEM) | PAIR)
    assert alike.turns[0] == ("user", f"{SYSTEM}\n\nWhat?") and alike.query == "How long?" and not alike.unread
    other = read_preference_row(dict(prompt=turns, system="Be brief.") | PAIR)
    assert other.turns[0] == ("user", f"Be brief.\n\n{SYSTEM}\n\nWhat?") and other.query == "How long?"


# what a CSV and other tables hold

@pytest.mark.parametrize("answers, ranks", [('["x", "it\'s"]', "[1, 0]"), ("['x', \"it's\"]", "[1, 0]"), ("['x' \"it's\"]", "[1.0, 0.0]")])
def test_ranked_rows_of_a_csv(answers, ranks, tmp_path):
    "They could not be read at all"
    row = read_preference_row(dict(query="Q?", response=answers, human_ranking=ranks))
    assert (row.response, row.human_ranking) == (["x", "it's"], [1, 0])
    assert read_preference_row(dict(query="Q?", response=answers, votes="[1, 3]")).human_ranking == [1, 0]
    assert read_preference_row(dict(query="Q?", response=answers, rank="first", votes=[1, 3])).human_ranking == [1, 0]  # as before


@pytest.mark.parametrize("given, told", [
    (dict(human_ranking=1), r"2 responses but ranks 1; expected a list of 2 numbers"),
    (dict(rank="first"), "ranks 'first'; expected a list"),
    (dict(human_ranking="[0]"), r"2 responses but ranks \[0\]"), (dict(human_ranking='["0", "1"]'), "ranks must be numbers"),
    (dict(order=[0, 1]), "2 responses but ranks None; the row has query, response, order"),
    (dict(response="[3, 4]", human_ranking=[0, 1]), "two or more texts"),
    (dict(response='["x"]', human_ranking=[0, 1]), "two or more texts"),
    (dict(response="[unclear]", human_ranking=[0, 1]), "two or more texts")])
def test_ranks_and_answers_that_cannot_be(given, told):
    with pytest.raises(DataError, match=told): read_preference_row(dict(query="Q?", response=["x", "y"]) | given)


def test_no_advice_loses_a_picture():
    "`--keys image=image_1` would have shown one picture of two"
    row = dict(query="Compare them?", image_1="a.png", image_2="b.png") | RANKED
    with pytest.raises(DataError, match="'image_1', 'image_2' hold pictures.*as one list into a column images; .*--keys image=image_1"):
        read_preference_row(row)
    with pytest.raises(DataError, match="column 'image_1' holds pictures and is not read: say --keys image=image_1$"):
        read_preference_row(row | dict(image_2=None))
    assert read_preference_row(dict(query="Compare them?", images=["a.png", "b.png"]) | RANKED).pictures == ["a.png", "b.png"]


@pytest.mark.parametrize("more, told", [
    (dict(decoded_image=b"a"), True), (dict(decoded_image={"bytes": b"a", "path": None}), True), (dict(views=[{"bytes": b"a"}]), True),
    (dict(decoded_image=None), False), (dict(decoded_image={"bytes": None, "path": "a.png"}), False), (dict(thumb="b.png"), False)])
def test_a_missing_file_whose_picture_stands_in_another_column(more, told, tmp_path):
    "MathVista and MathVision hold a path in `image` and the picture in `decoded_image`"
    row = dict(question="What?", answer="2", image="images/1.jpg") | more
    _, report = inspect_vqa("x.jsonl", tmp_path, rows=[(1, row)])
    [skipped] = report.skipped
    column = next(iter(more))
    assert skipped["code"] == "image.missing" and (f"say --keys image={column}" in skipped["message"]) == told


# several people

def test_votes_are_shares_and_ranks():
    row = preference_row(base(0, human_ranking=None, votes=[7, 3]))
    assert (row["votes"], row["human_ranking"], preference_pairs(row)[0][2]) == ([7.0, 3.0], [0, 1], 0.7)
    assert preference_pairs(preference_row(base(0, human_ranking=None, votes="[1, 3]")))[0][2] == 0.25 # of a CSV
    assert preference_pairs(preference_row(base(0, human_ranking=None, probability=0.2)))[0][2] == pytest.approx(0.2)
    pair = dict(question="Which?", chosen="a", rejected="b", probability="0.9")
    assert preference_pairs(preference_row(pair))[0][2] == pytest.approx(0.9)
    three = preference_row(base(0, response=["a", "b", "c"], human_ranking=None, votes=[0, 2, 0]))
    assert three["human_ranking"] == [1, 0, 1] and [p for _, _, p in preference_pairs(three)] == [0.0, 0.5, 1.0]
    # a file may call a close vote a tie
    assert preference_row(base(0, human_ranking=[0, 0], votes=[3, 2]))["votes"] == [3, 2]
    assert "votes" not in preference_row(base(0))


@pytest.mark.parametrize("wrong, told", [
    (dict(votes=[1, 2, 3]), "expected 2 numbers"), (dict(votes=[0, 0], human_ranking=None), "nobody has voted"),
    (dict(votes=[-1, 2]), "expected 2 numbers"), (dict(votes="many"), "expected 2 numbers"), (dict(votes=[1, 2]), "prefer another answer"),
    (dict(probability=1.2), "expected 0 to 1"), (dict(probability=0.8, votes=[4, 1]), "one of them"),
    (dict(probability=0.1), "prefer another"),
    (dict(probability=0.5, response=["a", "b", "c"], human_ranking=[0, 1, 2]), "a probability among 3"),
    (dict(votes=[1, True]), "expected 2 numbers")])
def test_votes_that_cannot_be_are_refused(wrong, told):
    with pytest.raises(DataError, match=told) as refused: preference_row(base(0, **wrong), 7)
    assert refused.value.code == "preference.votes" and refused.value.row == 7


def test_votes_go_with_their_answers():
    rows = [preference_row(base(k, votes=[9, k], human_ranking=None)) for k in range(8)]
    for turned in (permuted(rows, 3), reversed_rows(rows)):
        for old, new in zip(rows, turned):
            assert dict(zip(old["response"], old["votes"])) == dict(zip(new["response"], new["votes"]))
    assert any(old["response"] != new["response"] for old, new in zip(rows, permuted(rows, 3)))


def test_the_loss_of_a_share_is_its_cross_entropy():
    first, second, share = torch.tensor([1.0, -2.0, 0.3]), torch.tensor([0.0, 1.0, 0.3]), torch.tensor([0.7, 0.2, 0.5])
    wanted = binary_cross_entropy_with_logits(first - second, share, reduction="none")
    for margin in (0.0, 0.5): assert torch.allclose(pairwise_loss(first, second, share, margin), wanted) # nobody asks the divided for a gap
    # least where the chance is the share
    gap = torch.tensor([0.847], requires_grad=True)
    pairwise_loss(gap, torch.zeros(1), torch.tensor([0.7])).sum().backward()
    assert abs(gap.grad.item()) < 1e-3
    assert pair_figures(first, second, torch.tensor([0.7, 0.2, 0.5])) == dict(pair_accuracy=1.0, margin=pytest.approx(2.0))


def test_a_run_learns_shares(folder, capsys):
    "Twelve rows of votes train, are told of, and say the share where it is asked"
    path = write(folder / "votes.jsonl", [base(k, human_ranking=None, votes=[3 + k % 2, 1]) for k in range(12)])
    found = train_reward_model(settings(folder, train_data=path, eval_data=path, test_data=path, experiment_name="voted"))
    said = capsys.readouterr().out
    assert "12 rows: votes of several people" in said and found["n"] == 12
    line = json.loads(next((folder / "out").glob("voted_*/predictions.jsonl")).read_text().splitlines()[0])
    assert sorted(line["votes"]) in ([1, 3], [1, 4])
    with pytest.raises(SettingsError, match="votes of several people have no such loss"):
        load_rows(settings(folder, train_data=path, loss_type="hinge", use_margin_loss=True))


# several turns, several pictures

TALK = [dict(role="system", content="Be short."), dict(role="user", content="<image>What is this?"),
        dict(role="assistant", content="A disc."), dict(role="user", content="And its colour?")]


def test_a_talk_is_read_turn_by_turn(folder):
    row = preference_row(base(0, query=TALK))
    assert row["turns"] == [("user", "Be short.\n\n<image>What is this?"), ("assistant", "A disc.")] and row["query"] == "And its colour?"
    pair = dict(images=["a.png"], chosen=[*TALK, dict(role="assistant", content="Red.")],
                rejected=[*TALK, dict(role="assistant", content="3")])
    assert preference_row(pair)["turns"] == row["turns"] and preference_row(pair)["response"] == ["Red.", "3"]
    parts = [dict(role="user", content=[dict(type="image", image="img/p0.png"), dict(type="text", text="one")]),
             dict(role="assistant", content="yes"),
             dict(role="user", content=[dict(type="text", text="two"), dict(type="image", image="img/p1.png")])]
    both = preference_row(base(0, query=parts, image=None))
    assert both["image"] == ["img/p0.png", "img/p1.png"] and both["turns"][0] == ("user", "<image> one") and both["query"] == "two <image>"
    kept, report = inspect_preferences(write(folder / "talks.jsonl", [base(0, query=TALK)]))
    assert len(kept) == 1 and "a talk of several turns" in str(report)


@pytest.mark.parametrize("turns, told", [
    (TALK[:-1], "turns by turns|by turns"), (TALK[2:], "by turns"), ([TALK[1], TALK[1]], "by turns"),
    ([*TALK[:-1], dict(role="user", content=" ")], "query is empty"),
    ([*TALK, dict(role="assistant", content=[dict(type="image", image="b.png")]), TALK[-1]], "the assistant holds a picture"),
    ([TALK[1], dict(role="assistant", content="<|im_end|>"), TALK[-1]], "control token")])
def test_a_talk_that_is_none_is_refused(turns, told):
    with pytest.raises(DataError, match=told): preference_row(base(0, query=turns), 3)


@pytest.mark.parametrize("family", families)
def test_turns_reach_the_model(family):
    "In the order in which they were said, with the pictures where they stood; an earlier turn changes the score"
    sample = cast()
    turns = [("user", "<image>What is this?"), ("assistant", "A disc.")]
    talk = Sample("How many?", "", sample.images, "preference", turns=turns)
    assert [m["role"] for m in to_messages(talk)] == ["user", "assistant", "user"]
    assert [p["type"] for p in to_messages(talk)[0]["content"]] == ["image", "text"]
    unmarked = Sample("How many?", "", sample.images, "preference", turns=[("user", "What is this?"), ("assistant", "A disc.")])
    assert to_messages(unmarked) == to_messages(talk) # pictures without marks stand in front of all
    twin, processor = tiny_twin(family)
    text = processor.tokenizer.decode(encode(processor, [talk])["input_ids"][0])
    assert text.index("What is this") < text.index("A disc.") < text.index("How many")
    made = VLRewardModel(twin.model, processor).eval()
    torch.nn.init.normal_(made.head[2].weight, std=0.5)
    alone, later = (made.score(sample.images, "How many?", ["three"], t)[0] for t in ((), turns))
    assert abs(alone - later) > 1e-4
    batch = encode_pairs(processor, pairs_of([dict(query="How many?", image=sample.images, response=["3", "4"], human_ranking=[0, 1],
                                                   turns=turns)]))["encodings"]
    scores = made.score(sample.images, "How many?", ["3", "4"], turns)
    with torch.no_grad(): assert made(**batch).tolist() == pytest.approx(scores, abs=1e-4)


def test_several_pictures_and_turns_train(folder):
    "Rows of two pictures, held out by picture; rows that share one stay on one side"
    rows = [base(k, image=[f"img/p{k}.png", f"img/p{(k // 3) * 3}.png"], query=TALK[:1] + [
        dict(role="user", content="<image><image>Which is larger?"), TALK[2], dict(role="user", content=f"Why {k}?")]) for k in range(12)]
    path = write(folder / "two.jsonl", rows)
    train, held, test, _ = load_rows(settings(folder, train_data=path))
    sides = [{p for row in side for p in row["image"]} for side in (train, held, test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    found = train_reward_model(settings(folder, train_data=path, test_data=path, experiment_name="two"))
    assert found["n"] == 12
    line = json.loads(next((folder / "out").glob("two_*/predictions.jsonl")).read_text().splitlines()[0])
    assert line["turns"][1] == ["assistant", "A disc."] and "<image><image>" in line["turns"][0][1]


# a prompt of the judge's own

def test_a_judge_has_its_own_prompt(judge, folder):
    template = "Judge by counting.\n{{ content | trim }}\nWhich is right?"
    (folder / "judge.jinja").write_text(template)
    assert judge_template(str(folder / "judge.jinja")) == judge_template(template) == template and judge_template(None) is None
    sample = cast()
    text = judge.processor.tokenizer.decode(encode_answers(judge.processor, [sample], ["3"], template=template)["input_ids"][0])
    assert text.index("Judge by counting.") < text.index("How many discs") < text.index("Which is right?")
    told = VLRewardModel(judge.backbone, judge.processor, prompt_template=template)
    told.head.load_state_dict(judge.head.state_dict())
    asked = f"Judge by counting.\n{sample.question}\nWhich is right?"
    assert told.eval().score(sample.images, sample.question, ["3"]) == pytest.approx(judge.score(sample.images, asked, ["3"]), abs=1e-5)
    told.save_pretrained(folder / "told")
    again = VLRewardModel.from_pretrained(folder / "told", "cpu")
    assert again.score(sample.images, sample.question, ["3"]) == pytest.approx(told.score(sample.images, sample.question, ["3"]), abs=1e-4)


@pytest.mark.parametrize("written, told", [
    ("Which is right?", "is no file"), ("{{ question }}", "found question"), ("{{ content }", "prompt_template, line 1"),
    ("<image>{{ content }}", "the mark of a picture"), ("{{ content }} {{ answer }}", "found answer, content")])
def test_a_prompt_that_cannot_be_is_refused(written, told):
    with pytest.raises(SettingsError, match=told): read_settings(RewardModelSettings, dict(prompt_template=written))


def test_a_run_keeps_its_prompt(folder):
    path = write(folder / "plain.jsonl", [base(k) for k in range(12)])
    found = train_reward_model(settings(folder, train_data=path, eval_data=path, test_data=path, prompt_template="Look.\n{{ content }}",
                                        experiment_name="asked"))
    assert VLRewardModel.from_pretrained(found["model"], "cpu").facts["prompt_template"] == "Look.\n{{ content }}"


# chances

def drawn_pairs(n, temperature, seed):
    "Gaps, and what came, of a judge that is too sure by a factor"
    random = np.random.default_rng(seed)
    gaps = random.normal(0, 3, n)
    return gaps, (random.random(n) < 1 / (1 + np.exp(-gaps / temperature))).astype(float)


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(truth):
    gaps, came = drawn_pairs(4000, truth, 0)
    fitted = pair_temperature(gaps, came)
    assert fitted == pytest.approx(truth, rel=0.15)
    # told the other way round the pairs say the same
    assert pair_temperature(-gaps, 1 - came) == pytest.approx(fitted, rel=1e-6)
    others = drawn_pairs(4000, truth, 1)
    before, after = pair_reliability(*others), pair_reliability(*others, fitted)
    assert after["ece"] < 0.03 and after["n"] == 4000 and sum(b["n"] for b in after["bins"]) == 4000
    if truth != 1: assert after["log_loss"] < before["log_loss"] - 0.01 and after["ece"] < before["ece"]


def test_the_temperature_is_the_likeliest():
    "By trying: no neighbour gives what came, with Platt's targets, a higher chance"
    gaps, came = drawn_pairs(200, 2.0, 5)
    soft = torch.tensor((came * 200 + 1) / 202)
    cost = lambda t: binary_cross_entropy_with_logits(torch.tensor(gaps / t), soft).item()
    fitted = pair_temperature(gaps, came)
    assert all(cost(fitted) < cost(fitted * step) for step in (0.5, 0.9, 0.999, 1.001, 1.1, 2))


def test_where_no_temperature_fits_none_is_made():
    assert pair_temperature([], []) is None and pair_temperature([0.0, 0.0], [1, 0]) is None
    assert pair_temperature([1.0, 2.0], [0, 0]) is None # the pairs go against the scores
    assert 0 < pair_temperature([1.0, 2.0, 3.0], [1, 1, 1]) < 100 # no mistake in three pairs is no certainty
    assert pair_temperature([2.0] * 10, [0.7] * 10) == pytest.approx(2 / np.log((0.7 * 10 + 1) / (0.3 * 10 + 1)), rel=1e-6)
    with pytest.raises(ValueError, match="gaps: value 0 is nan"): pair_temperature([float("nan")], [1])


def test_reliability_by_hand():
    found = pair_reliability([2.0, -2.0, 0.0], [1, 0.5, 1], bins=2)
    sure = 1 / (1 + np.exp(-2))
    assert found["bins"] == [dict(confidence=pytest.approx((2 * sure + 0.5) / 3), accuracy=pytest.approx(2.5 / 3), n=3)]
    assert found["log_loss"] == pytest.approx((-np.log(sure) - (np.log(sure) + np.log(1 - sure)) / 2 + np.log(2)) / 3)


def test_a_judge_says_whether_its_chances_were_tried(judge, folder, capsys):
    from vlrlbook.cli import main
    path = write(folder / "plain.jsonl", [base(k) for k in range(12)])
    rows = read_pair_rows(path)[0]
    gaps, preferred = preferred_pairs(rows, score_rows(judge, rows))
    assert preferred == [1.0] * 12 and gaps == pytest.approx([a - b for a, b in score_rows(judge, rows)])
    assert judge.temperature == 1 and chances_of([0.0, np.log(3)]) == pytest.approx([0.25, 0.75])
    # whichever way this judge mostly points
    turned = rows if pair_temperature(gaps, preferred) else [row | dict(human_ranking=[1, 0]) for row in rows]
    kept = calibrate(judge, turned)
    try:
        assert kept["pairs"] == 12 and judge.temperature == kept["temperature"] > 0
        judge.save_pretrained(folder / "tried")
    finally: judge.facts["calibration"] = None
    again = VLRewardModel.from_pretrained(folder / "tried", "cpu")
    assert again.facts["calibration"] == kept
    plain, tried = (rank_answers(j, None, "?", ["a", "b b"])[0]["chance"] for j in (judge, again))
    assert plain != pytest.approx(tried, abs=1e-4)
    judge.save_pretrained(folder / "untried")
    for name, told, line in (("untried", "not calibrated", False), ("tried", "of 12 other pairs", True)):
        main(["rank", "none", "?", "a", "b b", "--model", str(folder / name)])
        assert ("not calibrated" in capsys.readouterr().out) is not line
        found = score_file(str(folder / name), path, str(folder / "scored"))
        assert any(told in row["what"] for row in report_table(found["report"]))
        first = json.loads(open(found["path"]).readline())
        assert first["calibrated"] is line and sum(first["chances"]) == pytest.approx(1)
        assert plot_reliability(found["report"]["chances"]).axes


def test_a_run_fits_its_temperature_on_the_rows_that_stop_it(folder):
    path = write(folder / "plain.jsonl", [base(k) for k in range(12)])
    held = write(folder / "held.jsonl", [base(k) for k in range(5)])
    found = train_reward_model(settings(folder, train_data=path, eval_data=held, test_data=path, experiment_name="tried"))
    fitted = found["chances"]["fitted"]
    assert fitted is None or fitted["pairs"] == 5
    assert found["chances"]["before"]["n"] == 12 and (found["chances"]["after"] is None) == (fitted is None)
    assert VLRewardModel.from_pretrained(found["model"], "cpu").facts["calibration"] == fitted
