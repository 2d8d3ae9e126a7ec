"""The dry run: a clean export, every accident named with its row, memory and steps"""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from easyr1_cases import copied, export, processor, rows
from PIL import Image
from vlrlbook.core import SettingsError
from vlrlbook.data import vqa_template
from vlrlbook.easyr1 import dry_run, easyr1_messages, easyr1_size, memory_gb, read_engine_yaml, reward_file


def test_a_clean_export_has_no_problem(export):
    found = dry_run(export, progress=False, processes=1)
    assert found.ok and sum(found.rows.values()) == 80 == len(found.tokens)
    assert found.reward["reward of the truths, mean"] == 1.0 and found.reward["reward of wrong answers, mean"] < 0.2


def test_counts_equal_the_processors(export):
    "Tokens of every prompt as EasyR1 would make it, pictures resized by its rule, through the whole processor"
    import math
    from transformers import AutoProcessor
    processor, v = AutoProcessor.from_pretrained(export / "tiny"), read_engine_yaml(export / "config.yaml",
        overrides=["data.min_pixels=20000"]).values
    whole = []
    for name in ("train.jsonl", "val.jsonl"):
        for row in rows(export / name):
            image = Image.open(export / "images" / row["images"][0])
            factor = math.sqrt(v["data.min_pixels"] / (image.width * image.height))
            image = image.resize((int(image.width * factor), int(image.height * factor)))
            text = processor.apply_chat_template(easyr1_messages(row["prompt"], vqa_template), add_generation_prompt=True, tokenize=False)
            whole.append(processor(images=[image], text=[text], add_special_tokens=False, return_tensors="pt")["input_ids"].shape[1])
    found = dry_run(export, overrides=["data.min_pixels=20000"], progress=False, processes=1)
    assert found.tokens == whole and found.resized == (80, 0, 80)


@pytest.mark.parametrize("size, low, high, made",
                         [((112, 112), 3136, 1048576, (112, 112)), ((112, 112), 262144, None, (512, 512)),
                          ((4000, 3000), None, 1048576, (1182, 886)),
                          ((4000, 1), 262144, 4194304, (32381, 8)), ((10, 10), None, None, (10, 10))])
def test_easyr1s_resizing(size, low, high, made): assert easyr1_size(size, low, high) == made


ACCIDENTS = [
    ("images null", lambda r, f: r.update(images=None), "row.images", "null, on which EasyR1 stops"),
    ("marks", lambda r, f: r.update(prompt="<image>" + r["prompt"]), "row.images", "2 <image> marks after the template but 1"),
    ("missing", lambda r, f: r.update(images=["none.png"]), "image.missing", "none.png"),
    ("decode", lambda r, f: (f / "images" / r["images"][0]).write_bytes(b"x"), "image.decode", "cannot be decoded"),
    ("cut", lambda r, f: (f / "images" / r["images"][0]).write_bytes((f / "images" / r["images"][0]).read_bytes()[:-40]),
     "image.decode", "cannot be decoded"),
    ("no prompt", lambda r, f: r.pop("prompt"), "row.prompt", "the row has answer, images"),
    ("no answer", lambda r, f: r.update(answer=" "), "row.answer", "expected text"),
    ("number", lambda r, f: r.update(answer=3), "row.answer", "expected text"),
    ("long", lambda r, f: r.update(prompt=r["prompt"] + " why" * 300), "prompt.length",
     "at most 256; EasyR1 leaves the row out"), ("truth", lambda r, f: r.update(answer="<answer>"), "reward.truth", "earns"),
     ("images text", lambda r, f: r.update(images="a.png"), "row.images", "a str, expected a list")]


@pytest.mark.parametrize("name, spoil, code, message", ACCIDENTS, ids=[a[0] for a in ACCIDENTS])
def test_an_accident_is_named_with_its_row(export, tmp_path, processor, name, spoil, code, message):
    folder = copied(export, tmp_path)
    found = rows(folder / "train.jsonl")
    spoil(found[40], folder)
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    problems = dry_run(folder, processor=processor, progress=False, processes=1).problems
    assert any(p["file"] == "train.jsonl" and p["row"] == 41 and p["code"] == code and message in p["message"] for p in problems), problems
    assert {p["row"] for p in problems} == {41}


@pytest.mark.parametrize("answers, is_wrong", [
    (["2019-05-01", "2019-05-02"], True), (["2019-05-01 ", "2019-05-02 "], False), (["2019-05-01", "May"], False)])
def test_truths_that_easyr1_takes_for_points_in_time(export, tmp_path, processor, answers, is_wrong):
    folder = copied(export, tmp_path)
    found = rows(folder / "val.jsonl")
    for i, row in enumerate(found): row["answer"] = answers[i % 2]
    (folder / "val.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    problems = dry_run(folder, processor=processor, progress=False, processes=1).problems
    assert [(p["file"], p["row"], p["code"]) for p in problems] == [("val.jsonl", None, "row.type")] * is_wrong
    assert all("points in time" in p["message"] and "'answer'" in p["message"] for p in problems)


@pytest.mark.parametrize("engine, name, before, told", [
    ("easyr1", "train.jsonl", 60, 1), ("easyr1", "train.json", 60, 1), ("easyr1", "train.jsonl", 3, 0), ("easyr1", "train.jsonl", 0, 0),
    ("verl", "train.jsonl", 60, 0)])
def test_rows_without_pictures_that_fill_what_easyr1_reads_first(tmp_path, engine, name, before, told):
    from vlrlbook.easyr1.inspection import _type_problems
    context = SimpleNamespace(engine=engine, folder=tmp_path, answer_key="answer", image_key="images")
    plain = dict(prompt="Yes? " + "word " * 40_000, answer="yes", images=[]) # 200 kB: 60 rows are 12 MB
    order = [plain] * before + [plain | dict(images=["a.png"])] + [plain] * 60
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in order))
    problems = _type_problems(context, name)
    assert [(p["file"], p["row"], p["code"]) for p in problems] == [(name, None, "row.type")] * told
    assert all("no row of the first 10 MB has a picture" in p["message"] for p in problems)


VERL_ROW = dict(prompt=[dict(role="user", content="Is 3 odd?")], images=None, reward_model=dict(style="rule", ground_truth="yes"))


@pytest.mark.parametrize("change, code, message", [
    (dict(), None, ""), (dict(prompt=[dict(role="user", content=[dict(type="text", text="Is 3 odd?")])]), None, ""),
    (dict(reward_model="yes"), "row.answer", "'yes' under 'reward_model', expected a dict with 'ground_truth'"),
    (dict(reward_model=None), "row.answer", "None under 'reward_model', expected a dict"),
    (dict(reward_model=dict(style="rule")), "row.answer", "None under 'ground_truth' of 'reward_model', expected text"),
    (dict(prompt=["Is 3 odd?"]), "row.prompt", "under 'prompt': turn 1: a str, expected a dict with role and content"),
    (dict(prompt=[*VERL_ROW["prompt"], dict(role="user")]), "row.prompt", "under 'prompt': turn 2: None under 'content', expected text"),
    (dict(prompt=[dict(content=3)]), "row.prompt", "3 under 'content', expected text or a list of parts"),
    (dict(prompt=[dict(content=["Is 3 odd?"])]), "row.prompt", "'Is 3 odd?' under 'content', expected parts with type and text"),
    (dict(prompt=[dict(content=[dict(type="image")])]), "row.prompt", "{'type': 'image'} under 'content', expected parts"),
    (dict(prompt=[]), "row.prompt", "no text under 'prompt'; the row has prompt, images"),
    # verl puts no picture in a part's mark
    (dict(prompt=[dict(role="user", content=[dict(type="text", text="<image>Why?")])], images=[dict(bytes=b"")]),
     "row.images", "0 <image> marks"),
    (dict(prompt="Is 3 odd?"), "row.prompt", "under 'prompt': a str, expected a list of turns, dicts with role and content"),
    (dict(prompt=VERL_ROW["prompt"][0]), "row.prompt", "under 'prompt': a dict, expected a list of turns"),
    (dict(prompt=None), "row.prompt", "no text under 'prompt'"),
    (dict(prompt=[dict(content="Is 3 odd?")]), "row.prompt", "turn 1: None under 'role', expected a text such as user")])
def test_a_row_of_verl_that_is_malformed_is_a_problem_of_that_row(change, code, message):
    from types import SimpleNamespace
    from vlrlbook.easyr1 import check_row
    look = SimpleNamespace(engine="verl", prompt_key="prompt", answer_key="answer", image_key="images", most_images=0, longest=99,
                           min_pixels=None, max_pixels=None, size_of=lambda image: ((9, 9), None), text_tokens=len, processor=None)
    problems = check_row(VERL_ROW | change, 1, look)["problems"]
    assert [c for c, _ in problems] == ([code] if code else []) and all(message in told for _, told in problems), problems


@pytest.mark.parametrize("engine, filters, truncation, told", [
    ("easyr1", True, "right", "EasyR1 leaves the row out"), ("easyr1", False, "right", "EasyR1 cuts the prompt on the right"),
    ("verl", True, "error", "verl leaves the row out"), ("verl", False, "error", "verl stops at it, since data.truncation is error"),
    ("verl", False, "left", "verl cuts the prompt on the left"), ("verl", False, "middle", "verl cuts the prompt in the middle")])
def test_what_the_engine_does_to_a_prompt_that_is_too_long(tmp_path, engine, filters, truncation, told):
    from vlrlbook.easyr1 import engine_settings
    from vlrlbook.easyr1.inspection import _RowContext, _length_problems
    given = {"data.max_prompt_length": 9, "data.filter_overlong_prompts": filters}
    if engine == "verl": given["data.truncation"] = truncation
    settings = engine_settings(given, "verl" if engine == "verl" else "0.3.2")
    settings.values["data.format_prompt"] = None
    context = _RowContext(settings, tmp_path, engine, None)
    assert _length_problems(context, 10) == [("prompt.length", f"10 tokens, at most 9; {told}")] and _length_problems(context, 9) == []


def test_files_and_lines_that_are_broken(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    text = (folder / "val.jsonl").read_text().splitlines()
    (folder / "val.jsonl").write_text("\n".join([text[0][:-5], *text[1:]]) + "\n")
    assert [(p["file"], p["row"], p["code"]) for p in dry_run(folder, processor=processor, progress=False,
        processes=2).problems] == [("val.jsonl", 1, "row.json")]
    for name in ("val.jsonl", "prompt.jinja", "reward.py", "images"):
        os_path = folder / name
        os_path.rename(folder / "away")
        assert any(p["code"] == "file.missing" and name in p["message"]
                   for p in dry_run(folder, processor=processor, progress=False).problems)
        (folder / "away").rename(os_path)
    with pytest.raises(SettingsError, match="no export.json"): dry_run(tmp_path)


@pytest.mark.parametrize("name, content, rows, why", [
    ("whole.json", b'\xef\xbb\xbf[{"a": 1}, {"a": "\xc3\xa9"}]', [{"a": 1}, {"a": "é"}], ""),
    ("cut.json", b'[{"a": 1}, {"a"', [None], "delimiter"),
    ("deep.json", b"[" * 100_000, [None], "recursion"), ("lists.jsonl", b"[1]\n[2]\n", [None], "Extra data"),
    ("latin.json", b'[{"a": "\xe9"}]', [None], "can't decode byte 0xe9"),
    ("latin.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n{"a": 3}\n', [{"a": 1}, None, {"a": 3}], "can't decode byte 0xe9"),
    ("utf16.jsonl", '{"a": 1}'.encode("utf-16"), [None], "can't decode byte 0xff")])
def test_a_damaged_file_of_rows_is_reported(tmp_path, name, content, rows, why):
    from vlrlbook.easyr1.inspection import _read_rows, _row_fields
    (tmp_path / name).write_bytes(content)
    found = list(_read_rows(tmp_path / name))
    assert [number for number, _ in found] == list(range(1, len(rows) + 1))
    for (_, row), right in zip(found, rows):
        if right is not None: assert row == right
        else:
            [(code, message)] = _row_fields(None, row)[1]
            assert code == "row.json" and why in message, message


@pytest.mark.parametrize("spoil, good", [(lambda b: b[:-200], 0), (lambda b: b"", 0), (lambda b: b"{}", 0), (lambda b: b, 3000),
                                         (lambda b: b[:len(b) // 2] + b"x" * 3000 + b[len(b) // 2 + 3000:], None)])
def test_a_damaged_parquet_file_is_reported(tmp_path, spoil, good):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from vlrlbook.easyr1.inspection import _read_rows, _row_fields
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"a": [str(i) * 50 for i in range(3000)]}), path, row_group_size=300)
    path.write_bytes(spoil(path.read_bytes()))
    found = list(_read_rows(path))
    if good == 3000: assert len(found) == 3000 and all(isinstance(row, dict) for _, row in found)
    else:
        *rows_before, (number, row) = found
        assert number == len(rows_before) + 1 and all(isinstance(row, dict) for _, row in rows_before) and good in (None, len(rows_before))
        [(code, message)] = _row_fields(None, row)[1]
        assert code == "row.parquet" and message.startswith("no parquet file, or damaged from this row on: "), message


@pytest.mark.parametrize("name, content, why", [
    ("export.json", b'{"engine": "ea', "copy: export.json is damaged: "),
    ("export.json", b"[]", "names the engine None, not easyr1 or verl"),
    ("val.parquet", b"PAR1", ("val.parquet", 1, "row.parquet")), ("prompt.jinja", b"\xff", ("prompt.jinja", None, "prompt.template"))])
def test_a_damaged_file_does_not_stop_a_dry_run_without_a_word(export, tmp_path, processor, name, content, why):
    folder = copied(export, tmp_path)
    (folder / name).write_bytes(content)
    def problems(): return dry_run(folder, processor=processor, overrides=[f"data.val_files={name}"] if "val" in name else [],
                                   progress=False, processes=1).problems
    if isinstance(why, tuple): assert why in [(p["file"], p["row"], p["code"]) for p in problems()]
    else:
        with pytest.raises(SettingsError, match=why): problems()


def test_folders_of_rows_and_paths_with_an_at(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    (folder / "parts").mkdir()
    found = rows(folder / "train.jsonl")
    for i in range(2): (folder / f"parts/{i}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found[36 * i:36 * i + 36]))
    assert dry_run(folder, processor=processor, overrides=["data.train_files=parts"], progress=False,
                   processes=1).rows == {"parts/0.jsonl": 36, "parts/1.jsonl": 36, "val.jsonl": 8}
    folder.rename(tmp_path / "a@b")
    assert [p["code"] for p in dry_run(tmp_path / "a@b", processor=processor, progress=False, processes=1).problems] == ["file.at"]


def test_a_model_in_the_folder_where_dry_run_is_called_is_not_there_for_the_engine(export, tmp_path, monkeypatch):
    "train.sh changes into the export's folder: what `base` means here it does not mean there"
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    problems = dry_run(copied(export, tmp_path), overrides=["worker.actor.model.model_path=base"], progress=False, processes=1).problems
    [problem] = [p for p in problems if p["code"] == "model.missing"]
    assert f"write the whole path: {tmp_path / 'base'}" in problem["message"]


@pytest.mark.parametrize("key, written, parts", [
    ("data.image_dir", "pics@2x", ("pics@2x", "")), ("data.format_prompt", "a@b.jinja", ("a@b.jinja", "")),
    ("data.train_files", "rows.jsonl@train", ("rows.jsonl", "")), ("data.val_files", "rows.jsonl@test", ("rows.jsonl", "")),
    ("worker.reward.reward_function", "r@1.py:main", ("r@1.py", ":main")), ("worker.actor.model.model_path", "m@2", ("m@2", ""))])
def test_only_files_of_rows_name_a_split_behind_an_at(tmp_path, key, written, parts):
    from vlrlbook.easyr1.inspection import _path_and_function, _readable_from
    assert _path_and_function(key, written) == parts
    (tmp_path / parts[0]).touch()
    assert _readable_from(tmp_path, key, written) == "".join(parts)


def test_reward_files_that_are_wrong(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    for source, code in (("def compute_score(r): return [dict(overall=1.0) for _ in r]", "reward.wrong"),
                         ("def compute_score(r): return [dict(accuracy=1.0) for _ in r]", "reward.form"),
                         ("def compute_score(r): return [dict(overall=float('nan')) for _ in r]", "reward.form"),
                         ("def compute_score(r): raise KeyError('x')", "reward.file"),
                         ("import nothing_like_this", "reward.file"), ("x = 1", "reward.file"),
                         ("def compute_score(r): return [dict(overall=0.0) for _ in r]", "reward.truth")):
        (folder / "reward.py").write_text(source)
        assert code in {p["code"] for p in dry_run(folder, processor=processor, progress=False, processes=1).problems}, source


def test_of_several_accepted_answers_one_is_scored():
    "The column holds them as a JSON list, which no model writes: as a text it earned nothing, and every such row was a problem"
    from vlrlbook.easyr1.inspection import _texts_to_score, _wrong_answers
    from vlrlbook.rewards import vqa_accuracy
    truths = ['["soda can", "coke"]', '["coke", "cola"]', '["dog", "puppy"]', "cat"]
    wrong = _wrong_answers(truths)
    assert wrong == ["dog", "dog", "cat", "soda can"]
    for truth, other in zip(truths, wrong):
        earned = [vqa_accuracy(text, truth)["overall"] for text in _texts_to_score(truth, other)]
        assert earned == [1, 1, 0, 0, 0]


def test_processes_find_the_same(export, tmp_path, processor):
    folder = copied(export, tmp_path)
    found = rows(folder / "train.jsonl")
    for i in range(0, 60, 7): found[i]["images"] = None
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found * 4))
    one, two = (dry_run(folder, processor=processor, processes=n, progress=False) for n in (1, 2))
    assert one.problems == two.problems and one.tokens == two.tokens and len(one.problems) > 30


def test_memory_and_steps(export, processor):
    found = {r["what"]: r["value"] for r in dry_run(export, processor=processor, progress=False, processes=1).cost}
    train = len(rows(export / "train.jsonl"))
    assert found["steps, optimizer updates in each"] == f"{train // 32 * 15}, 1" and found["rows left over each epoch"] == train % 32
    tight = dry_run(export, processor=processor, gpu_gb=0.001, progress=False, processes=1)
    assert {"memory.update", "memory.sampling"} <= {p["code"] for p in tight.problems}
    few = dry_run(export, processor=processor, overrides=["data.rollout_batch_size=96"], progress=False, processes=1)
    assert "rows.few" in {p["code"] for p in few.problems}
    one, four = (memory_gb(3.75e9, 151936, 36, 2048, n, 4096, reference=False) for n in (1, 4))
    assert one["Adam"] == pytest.approx(30.0) and four["Adam"] == pytest.approx(7.5) and one["logits"] == four["logits"]


def test_a_reward_file_without_a_function_is_found(tmp_path):
    "EasyR1 calls `main` then; the path must stay as it is written"
    for name in ("rows.jsonl", "reward.py"): (tmp_path / name).touch()
    (tmp_path / "c.yaml").write_text(
        "data: {train_files: rows.jsonl, val_files: rows.jsonl, rollout_batch_size: 8}\n"
        "worker: {actor: {model: {model_path: ./model}, global_batch_size: 8}, "
        "rollout: {n: 16, tensor_parallel_size: 1}, reward: {reward_function: reward.py}}\n")
    problems = dry_run(tmp_path / "c.yaml", progress=False).problems
    assert [p["file"] for p in problems if p["code"] in ("file.missing", "model.missing")] == ["worker.actor.model.model_path"]


def test_memory_stays_flat(tmp_path, processor):
    "Rows are looked at and forgotten: eight times the rows, no more memory than noise"
    def held(n):
        folder = tmp_path / str(n)
        (folder / "images").mkdir(parents=True)
        noise = Image.effect_noise((448, 448), 90).convert("RGB")
        for i in range(n): noise.rotate(i).save(folder / f"images/{i}.png", compress_level=0)
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps(dict(prompt="<image> Is it?", answer="yes", images=[f"{i}.png"])) + "\n" for i in range(n)))
        (folder / "reward.py").write_text(reward_file("vqa"))
        (folder / "c.yaml").write_text("data: {train_files: rows.jsonl, val_files: rows.jsonl, image_dir: "
                                       "images, rollout_batch_size: 8}\nworker: {actor: {model: {model_path: "
                                       "x}, global_batch_size: 8}, rollout: {n: 16, tensor_parallel_size: "
                                       "1}, reward: {reward_function: 'reward.py:compute_score'}}\n")
        dry_run(folder / "c.yaml", processor=processor, processes=1, progress=False)
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    small = held(40)
    assert held(320) - small < 60 # 280 more pictures would be 160 MB
