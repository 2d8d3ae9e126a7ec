"""The same file gets the same verdict in every door: what check-data calls good trains, and what it lists is refused
or left out everywhere, with the same code. The files are those of tests/corpus."""
import json

import pytest
from PIL import Image
from support.corpus import PICTURES, cases, made, zipped
from vlrlbook import data_check
from vlrlbook.archive import DataError
from vlrlbook.core import Sample
from vlrlbook.data import convert_vqa, read_counting_zip, read_vqa, synthetic_vqa, write_counting_zip
from vlrlbook.data_check import check_file
from vlrlbook.easyr1 import export_easyr1, export_verl
from vlrlbook.evaluation import EvaluationSettings, load_set
from vlrlbook.grpo import GRPOSettings, load_data
from vlrlbook.reward_model import RewardModelSettings, load_rows, read_pair_rows
from vlrlbook.rows.gate import inspect_preferences, inspect_vqa
from vlrlbook.rows.preferences import read_preference_row
from vlrlbook.settings import read_settings


def listed(skipped): return [(row["row"], row["code"]) for row in skipped]


def asked(door, *args):
    "What a door says: rows kept, bad rows with codes, the code of a refusal"
    try:
        kept, bad = door(*args)
    except DataError as error:
        return dict(kept=None, bad=[], refused=error.code)
    return dict(kept=kept, bad=bad, refused=None)


def by_check(path, keys, skip):
    found = check_file(path, keys=keys, skip_bad_rows=skip)
    stops = [problem for problem in found.problems if problem.code != "data.split"]
    if stops: raise stops[0]
    return found.report.kept, listed(found.report.skipped)


def by_convert(path, keys, skip):
    told = []
    written = convert_vqa(path, path.with_name("out.jsonl"), path.parent, keys=keys, skip_bad_rows=skip, tell=told.append)
    assert written == len(path.with_name("out.jsonl").read_text().splitlines())
    return written, listed(told[0].skipped)


def by_reader(path, keys, skip):
    dataset, report = read_vqa(path, keys=keys, skip_bad_rows=skip)
    return list(dataset["row"]), listed(report.skipped)


def by_grpo(path, keys, skip):
    settings = read_settings(GRPOSettings, dict(task="vqa", data=str(path), keys=keys, skip_bad_rows=skip, batch_size=2,
                                                num_generations=2, max_steps=1, eval_samples=1000))
    train, held, report = load_data(settings)
    return sorted([*train["row"], *held["row"]]), listed(report.skipped)


def by_evaluation(path, keys, skip):
    settings = read_settings(EvaluationSettings, dict(data=str(path), keys=keys, skip_bad_rows=skip, split="all"))
    return list(load_set(settings)[0]["row"]), None


SMALL_VERL = {"data.train_batch_size": 1, "actor_rollout_ref.actor.ppo_mini_batch_size": 1, "actor_rollout_ref.rollout.n": 2,
              "trainer.n_gpus_per_node": 1, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2}
SMALL_EXPORT = {"data.rollout_batch_size": 1, "worker.actor.global_batch_size": 1, "worker.rollout.n": 2, "trainer.n_gpus_per_node": 1,
                "worker.actor.micro_batch_size_per_device_for_experience": 2, "worker.actor.micro_batch_size_per_device_for_update": 2}


def by_export(path, keys, skip):
    "The directory for EasyR1, and the look through it"
    told, out = [], path.with_name(f"easyr1-{skip}")
    export_easyr1(path, "vqa", SMALL_EXPORT, out, "current", val=synthetic_vqa(2), keys=keys, skip_bad_rows=skip, tell=told.append)
    return len((out / "train.jsonl").read_text().splitlines()), listed(told[0].skipped)


def by_export_for_verl(path, keys, skip):
    told, out = [], path.with_name(f"verl-{skip}")
    export_verl(path, "vqa", SMALL_VERL, out, val=synthetic_vqa(2), keys=keys, skip_bad_rows=skip, tell=told.append)
    return json.loads((out / "export.json").read_text())["rows"][0], listed(told[0].skipped)


VQA_DOORS = [by_export, by_export_for_verl, by_check, by_convert, by_reader, by_grpo, by_evaluation]


@pytest.mark.parametrize("case", cases("vqa"), ids=lambda case: case["name"])
def test_questions(case, tmp_path):
    path, verdict = made(case, "vqa", tmp_path)
    keys = case.get("keys")
    for door in VQA_DOORS:
        for skip in (True, False):
            said = asked(door, path, keys, skip)
            refused = verdict["refused"] or (verdict["bad"][0][1] if verdict["bad"] and not skip else None)
            if door is by_grpo and case.get("cannot"): refused = case["cannot"]
            if verdict["refused"] == "row.none" and not skip: refused = verdict["bad"][0][1]
            assert said["refused"] == refused, (door.__name__, skip, said)
            if refused: continue
            kept = len(verdict["kept"]) if isinstance(said["kept"], int) else verdict["kept"]
            assert said["kept"] == kept, (door.__name__, said)
            assert said["bad"] in (None, verdict["bad"]), (door.__name__, said)
    if case.get("cannot"): assert case["cannot"] in [problem.code for problem in check_file(path, keys=keys).problems]
    if "answers" in case: assert [row.answer for _, row in inspect_vqa(path)[0]] == case["answers"]
    if "row" in case and "code" not in case: what_became_of_it(case, inspect_vqa(path, keys=keys)[0][-1][1])
    if "says" in case: assert case["says"] in inspect_vqa(path, keys=keys)[1].skipped[-1]["message"]
    if "line" in case:
        with pytest.raises(DataError) as error: inspect_vqa(path, keys=keys)
        assert error.value.row == case["line"] and path.name in error.value.message


def what_became_of_it(case, row):
    "A good row holds what the case says, and nothing of it is lost"
    if "pictures" in case: assert len(row.pictures) == case["pictures"]
    if "answer" in case: assert row.answer == case["answer"]
    if "holds" in case: assert case["holds"] in row.question
    assert row.question.count("<image>") == len(row.pictures)


def by_pairs(path, keys, skip):
    rows, skipped = read_pair_rows(path, skip_bad=skip, keys=keys)
    return len(rows), listed(skipped)


def by_check_of_preferences(path, keys, skip):
    found = check_file(path, "preferences", keys=keys, skip_bad_rows=skip)
    # what the reader takes, and only a training does not
    stops = [problem for problem in found.problems if problem.code not in ("preference.ties", "preference.equal", "data.split")]
    if stops: raise stops[0]
    return found.report.kept, listed(found.report.skipped)


@pytest.mark.parametrize("case", cases("preferences"), ids=lambda case: case["name"])
def test_preferences(case, tmp_path):
    path, verdict = made(case, "preferences", tmp_path)
    keys = case.get("keys")
    for door in (by_check_of_preferences, by_pairs):
        for skip in (True, False):
            said = asked(door, path, keys, skip)
            refused = verdict["refused"] or (verdict["bad"][0][1] if verdict["bad"] and not skip else None)
            assert said["refused"] == refused, (door.__name__, skip, said)
            if not refused: assert (said["kept"], said["bad"]) == (len(verdict["kept"]), verdict["bad"]), door.__name__
    if case.get("cannot"): assert case["cannot"] in [problem.code for problem in check_file(path, "preferences").problems]
    if "says" in case: assert case["says"] in inspect_preferences(path, keys=keys)[1].skipped[-1]["message"]
    if "row" not in case or "code" in case: return
    row = inspect_preferences(path, keys=keys)[0][-1][1]
    if "pictures" in case: assert len(row.pictures) == case["pictures"]
    if "best" in case: assert row.response[row.human_ranking.index(0)] == case["best"]


def test_prompt_and_chats_lose_nothing_together():
    "Either order of a text and a chat, a turn of the system that one of both holds, and columns that are named as not read"
    chat = [dict(role="user", content="What?"), dict(role="assistant", content="a disc")]
    pairs = [read_preference_row(dict(prompt="What?", chosen=one, rejected=other)) for one, other in ((chat, "no"), ("no", chat))]
    assert [(row.query, row.response, row.unread) for row in pairs] == [("What?", ["a disc", "no"], []), ("What?", ["no", "a disc"], [])]
    brief = [dict(role="system", content="Be brief."), *chat]
    row = read_preference_row(dict(prompt=chat[:1], chosen=brief, rejected=[*brief[:2], dict(role="assistant", content="no")]))
    assert row.query == "Be brief.\n\nWhat?"
    assert read_preference_row(dict(prompt="What?", messages=chat, chosen=chat, rejected="no")).unread == ["prompt"]


def by_archive(path, strict):
    dataset, report = read_counting_zip(path, path.parent / f"out-{strict}", strict)
    return list(dataset["row"]), listed(report.skipped)


def by_check_of_zips(path, strict):
    found = check_file(path, strict=strict)
    stops = [problem for problem in found.problems if problem.code != "data.split"]
    if stops: raise stops[0]
    return found.report.valid_images, listed(found.report.skipped)


def by_counting(path, strict):
    settings = read_settings(GRPOSettings, dict(data=str(path), batch_size=2, num_generations=2, max_steps=1, eval_samples=1000))
    train, held, report = load_data(settings)
    return sorted([*train["row"], *held["row"]]), listed(report.skipped)


def by_export_of_zips(path, strict):
    told, out = [], path.with_name("easyr1-zip")
    export_easyr1(path, "counting", SMALL_EXPORT, out, "current", val=synthetic_vqa(2), template="{{ content | trim }}", tell=told.append)
    return len((out / "train.jsonl").read_text().splitlines()), listed(told[0].skipped)


def by_evaluation_of_zips(path, strict):
    return list(load_set(read_settings(EvaluationSettings, dict(data=str(path), split="all")))[0]["row"]), None


@pytest.mark.parametrize("case", cases("counting"), ids=lambda case: case["name"])
def test_counting(case, tmp_path, monkeypatch):
    monkeypatch.setenv("VLRLBOOK_CACHE", str(tmp_path / "cache"))
    path, verdict = made(case, "counting", tmp_path)
    doors = [(by_archive, False), (by_archive, True), (by_check_of_zips, False), (by_check_of_zips, True), (by_counting, False),
             (by_evaluation_of_zips, False), (by_export_of_zips, False)]
    for door, strict in doors:
        said = asked(door, path, strict)
        refused = verdict["bad"][0][1] if verdict["bad"] and strict else verdict["refused"]
        if door is by_counting and case.get("cannot"): refused = case["cannot"]
        assert said["refused"] == refused, (door.__name__, strict, said)
        if refused: continue
        kept = len(verdict["kept"]) if isinstance(said["kept"], int) else verdict["kept"]
        assert said["kept"] == kept, (door.__name__, said)
        assert said["bad"] in (None, verdict["bad"]), (door.__name__, said)
    if "says" in case:
        with pytest.raises(DataError, match=case["says"]): by_archive(path, strict=True)


@pytest.mark.parametrize("kind", ["vqa", "preferences", "counting"]) # with pointing it may hold boxes
def test_a_zip_holds_counting_rows_whatever_kind_is_named(kind, tmp_path):
    rows = "images_path,question,answer\na.png,How many discs?,A photo of 3 discs\nb.png,How many discs?,A photo of 4 discs\n"
    (tmp_path / "x.zip").write_bytes(zipped({"main.csv": rows, "a.png": "a.png", "b.png": "b.png"}))
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(PICTURES[name])
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(dict(question="How many discs?", answer="5", image=name)))
    found = check_file(tmp_path / "x.zip", kind, val_data=tmp_path / "c.png.jsonl")
    assert found.good and found.kind == "counting", found.problems
    leaked = check_file(tmp_path / "x.zip", kind, val_data=tmp_path / "a.png.jsonl")
    assert [problem.code for problem in leaked.problems] == ["split.leak"]


def test_a_check_leaves_out_what_training_leaves_out(tmp_path, monkeypatch):
    "Rows of a ZIP whose truth an own reward does not pay: with skip_bad_rows both go on without them, else both stop"
    monkeypatch.setenv("VLRLBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "only_small_counts.py").write_text("def reward(text, truth):\n"
                                                   "    return dict(overall=float(text == truth and not truth.endswith('9 discs')))\n")
    samples = [Sample("How many discs?", f"A photo of {n} discs", [Image.new("RGB", (56, 56), (n, 0, 0))]) for n in range(6, 10)]
    write_counting_zip(samples, tmp_path / "x.zip")
    few = dict(batch_size=2, num_generations=2, max_steps=1, eval_samples=1)
    own = few | dict(data=str(tmp_path / "x.zip"), reward="only_small_counts:reward")
    train, held, report = load_data(read_settings(GRPOSettings, own | dict(skip_bad_rows=True)))
    found = check_file(own["data"], "counting", reward=own["reward"], skip_bad_rows=True)
    assert found.good and found.report.skipped == report.skipped and [skipped["row"] for skipped in report.skipped] == [5]
    assert found.report.valid_images == report.valid_images == 3 and "4 counting rows, 3 kept, 1 skipped" in repr(found)
    with pytest.raises(DataError, match="row.truth"): load_data(read_settings(GRPOSettings, own))
    assert [problem.code for problem in check_file(own["data"], "counting", reward=own["reward"]).problems] == ["row.truth"]


@pytest.mark.parametrize("change, code", [
    (lambda k: {}, None), (lambda k: dict(image="a.png"), "data.split"), (lambda k: dict(image=None, query="One question?"), None),
    (lambda k: dict(image=f"{'ab'[k % 2]}.png"), "data.split"), (lambda k: dict(response=["x", "x"]), "preference.equal"),
    (lambda k: dict(human_ranking=[0, 0]), "preference.ties"), (lambda k: dict(response=["x", "x"] if k else ["x", "y"]), None),
    (lambda k: dict(response=["x", "x"]) if k < 6 else dict(human_ranking=[1, 1]), "preference.equal"),
    (lambda k: dict(image=None), None)])
def test_what_check_data_calls_good_trains_a_reward_model(change, code, tmp_path):
    for name, colour in (("a", "red"), ("b", "blue"), *((f"p{k}", (k, k, k)) for k in range(12))):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    rows = [dict(query=f"What {k}?", image=f"p{k}.png", response=[f"red {k}", f"blue {k}"], human_ranking=[0, 1]) | change(k)
            for k in range(12)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [problem.code for problem in check_file(path, "preferences").problems]
    assert found == ([code] if code else [])
    assert data_check._pairs_seed == RewardModelSettings.seed
    settings = read_settings(RewardModelSettings, dict(train_data=str(path)))
    if not code:
        load_rows(settings)
        return
    with pytest.raises(DataError, match="eval_data and test_data" if code == "data.split" else code): load_rows(settings)
    # with files of their own for evaluation and test nothing is split off
    if code == "data.split":
        load_rows(read_settings(RewardModelSettings, dict(train_data=str(path), eval_data=str(path), test_data=str(path))))


def test_one_set_less_is_split_off_where_the_other_is_given(tmp_path):
    for name in "abc": Image.new("RGB", (40, 40), dict(a="red", b="blue", c="green")[name]).save(tmp_path / f"{name}.png")
    row = dict(query="What?", response=["x", "y"], human_ranking=[0, 1])
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row | dict(image=f"{name}.png")) + "\n" for name in "ab"))
    (tmp_path / "v.jsonl").write_text(json.dumps(row | dict(image="c.png")) + "\n")
    assert [problem.code for problem in check_file(tmp_path / "t.jsonl", "preferences").problems] == ["data.split"]
    assert check_file(tmp_path / "t.jsonl", "preferences", val_data=tmp_path / "v.jsonl").good


def test_the_corpus_is_large():
    assert sum(len(cases(kind)) for kind in ("vqa", "preferences", "counting")) >= 150


@pytest.mark.parametrize("column", ["input", "system"])
def test_a_picture_in_a_column_of_text_is_not_put_into_the_question(tmp_path, column):
    "It would be lost: the row is refused, with a message that names the column"
    row = {"query": "What colour?", column: "a.png", "response": ["a", "b"], "human_ranking": [0, 1]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    kept, report = inspect_preferences(tmp_path / "p.jsonl")
    assert not kept and f"column '{column}' holds pictures" in report.skipped[0]["message"]
    (tmp_path / "p.jsonl").write_text(json.dumps(row | {column: "<image>Be brief."}))
    kept, _ = inspect_preferences(tmp_path / "p.jsonl")
    if column == "system": assert kept[0][1].query == "Be brief.\n\nWhat colour?"
