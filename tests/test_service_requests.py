"""Requests for training, and query parameters: what is refused, with which code, and what the server decides."""
import json
import types

import pytest
from conftest import ROOT
from support.bad_requests import BAD_JSON, BAD_TRAIN, wrong_values
from support.service import CODES_MET_IN, GOOD, client, form, good, nothing_stays, refused, seen, with_file
from vlrlbook.core import read_settings
from vlrlbook.service import Problem, chapter_05, plan, query, read_json, read_request, request_form


@pytest.mark.parametrize("code, body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json(client, code, body): refused(client().post("/train", content=body, headers={"content-type": "application/json"}), code)


def test_json_that_is_fine():
    assert read_json('{"a": "\\ud83d\\ude00 [[[{", "b": [1.5, -3], "c": null}'.encode()) == {"a": "😀 [[[{", "b": [1.5, -3], "c": None}


@pytest.mark.parametrize("group, name, value", [*wrong_values()], ids=lambda v: str(v)[:24])
def test_every_setting_has_its_range(with_file, group, name, value):
    body = refused(with_file.post("/train", json={"job_name": "a", "data_file_id": with_file.file_id, group: {name: value}}),
                   f"{group}.{name}")
    assert body["errors"][0]["field"] == f"{group}.{name}"


@pytest.mark.parametrize("change, code", BAD_TRAIN, ids=range(len(BAD_TRAIN)))
def test_bad_requests_for_training(with_file, change, code):
    base = {} if change == {} else dict(job_name="a", data_file_id=with_file.file_id)
    body = refused(with_file.post("/train", json=base | change), code)
    if code.endswith("unknown") and code != "file.unknown" and "learning_rat" in str(change):
        assert "did you mean 'learning_rate'" in body["detail"]
    assert with_file.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize("size, rows, batch, said", [
    ("tiny", 60, (60, 1), "batch_size is 60: whole groups of 6 answers"), ("tiny", 6, (30, 1), "batch_size is 30: a step takes 5"),
    ("gpu", 60, (1, 6), "gradient_accumulation_steps is 6: whole groups of 6 answers")])
def test_a_group_size_alone_gets_a_batch_that_fits(size, rows, batch, said):
    form, asked = request_form(size), dict(num_generations=6)
    settings = read_request(dict(job_name="a", data_file_id="f-1", training_config=asked), form)["settings"]
    assert settings == asked # what the server chooses is not taken for the client's
    made, notes = plan(settings, size, form, rows)
    value = lambda name: made.get(name, next(f["default"] for f in form["training_config"] if f["name"] == name))
    assert (value("batch_size"), value("gradient_accumulation_steps")) == batch
    assert any(note.startswith(said) for note in notes), notes


def test_what_is_taken_back_is_told():
    _, notes = plan(dict(gradient_accumulation_steps=8), "tiny", request_form("tiny"), 6)
    assert any("gradient_accumulation_steps 1:" in note for note in notes), notes


@pytest.mark.parametrize("value, taken", [(30, 30), (30.0, 30), (3e1, 30)])
def test_a_whole_number_is_an_integer_as_json_writes_it(value, taken):
    "The OpenAPI document calls it an integer, and by JSON Schema 30.0 is one"
    body = dict(job_name="a", data_file_id="f-1", training_config=dict(num_epochs=value))
    settings = read_request(body, request_form("tiny"))["settings"]
    assert settings == dict(num_epochs=taken) and type(settings["num_epochs"]) is int


@pytest.mark.parametrize("value", [30.5, "30", True, 1e300])
def test_other_numbers_are_none(value):
    body = dict(job_name="a", data_file_id="f-1", training_config=dict(num_epochs=value))
    with pytest.raises(Problem): read_request(body, request_form("tiny"))


def test_a_byte_order_mark_before_json_is_passed_over():
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(Problem): read_json(b'{"a": 1}\xef\xbb\xbf')


@pytest.mark.parametrize("query_string, taken", [(b"a=%C3%84pfel", "Äpfel"), ("a=几个".encode(), "几个"), (b"a=x+y%2B", "x y+"),
                                                 (b"a=%C4pfel", None), (b"a=\xc4pfel", None), (b"%C4=1", None)])
def test_a_query_is_utf8_or_refused(query_string, taken):
    "A letter of Latin-1 became U+FFFD without a word, and a model was asked that"
    request = types.SimpleNamespace(scope=dict(query_string=query_string))
    if taken is None:
        with pytest.raises(Problem, match="query.value|UTF-8"): query(request, a=(str, None))
    else: assert query(request, a=(str, None)) == dict(a=taken)


@pytest.mark.parametrize("prompt, shown", [("You count things.\r\nAnswer in one line.\r\n", "You count things.\nAnswer in one line.\n"),
                                           ("\u202bספור\u202c", "\ufffdספור\ufffd"), ("Count.\n\tAll.", "Count.\n\tAll.")])
def test_a_system_prompt_is_trained_with_as_it_was_given(client, prompt, shown):
    "Line breaks of Windows and marks of writing direction became U+FFFD in each prompt of the run"
    c, config = client(), dict(task="counting", max_steps=3, system_prompt=prompt)
    job, jobs = c.post("/train", json=dict(job_name="a", training_config=config)).json(), c.jobs
    kept = json.loads((jobs.folder(job["job_id"]) / "parameters.json").read_text(encoding="utf-8"))
    assert kept["system_prompt"] == jobs.get(job["job_id"]).parameters["system_prompt"] == prompt
    assert job["parameters"]["system_prompt"] == shown
    assert c.get(f"/jobs/{job['job_id']}").json()["parameters"]["system_prompt"] == shown


def test_media_type_and_key(with_file):
    refused(with_file.post("/train", content=b"{}", headers={"content-type": "text/plain"}), "body.type")
    refused(with_file.post("/train", json={}, headers={"Idempotency-Key": "a b"}), "idempotency.key")


def test_one_row_is_too_few(client):
    c = client()
    file_id = c.post("/upload-data", files={"file": ("x.zip", GOOD)}).json()["file_id"]
    refused(c.post("/train", json=dict(job_name="a", data_file_id=file_id)), "train.rows")


def test_the_form_says_what_chapter_05_says():
    known = chapter_05()
    for size in ("tiny", "gpu"):
        form = request_form(size)
        names = {f["name"]: f for group in form.values() for f in group}
        assert {"num_epochs", "learning_rate", "batch_size", "gradient_accumulation_steps", "num_generations", "temperature", "use_4bit",
                "max_image_size", "seed", "r", "lora_alpha", "lora_dropout"} <= set(names)
        assert names["r"]["default"] == known["presets"][size]["lora_r"] and names["temperature"]["default"] == known["presets"][size][
            "temperature"]
        for f in names.values():
            assert f["help"] and f["type"] in ("int", "float", "bool", "str")
            assert f["default"] is None or f["minimum"] is None or f["minimum"] <= f["default"] <= f["maximum"], f
            assert not f["choices"] or f["default"] in f["choices"], f
    gpu = {f["name"]: f["default"] for f in request_form("gpu")["training_config"]}
    assert (gpu["num_epochs"], gpu["learning_rate"], gpu["batch_size"], gpu["gradient_accumulation_steps"], gpu["num_generations"],
            gpu["temperature"], gpu["use_4bit"], gpu["max_image_size"], gpu["seed"]) == (50, 5e-5, 1, 8, 8, 0.2, True, 512, 43)


def test_what_the_server_decides_is_settings_of_chapter_05(with_file, monkeypatch):
    from vlrlbook.grpo import GRPOSettings
    for config in ({},
                   dict(num_epochs=50, learning_rate=5e-5, batch_size=1, gradient_accumulation_steps=8, num_generations=8, temperature=0.2,
                        use_4bit=True, max_image_size=512, seed=43), dict(num_generations=6), dict(max_steps=3, num_epochs=2)):
        job = with_file.post("/train",
                             json=dict(job_name="a", data_file_id=with_file.file_id, training_config=config,
                                       lora_config=dict(r=64, alpha=128, dropout=0.05))).json()
        monkeypatch.chdir(with_file.jobs.folder(job["job_id"])) # where the trainer runs
        settings = read_settings(GRPOSettings, with_file.jobs.get(job["job_id"]).parameters)
        monkeypatch.chdir(ROOT)
        assert settings.use_4bit is False and settings.lora_r == 64 and settings.lora_alpha == 128
        assert settings.max_steps == {None: 400, 50: -1, 2: 3}[config.get("num_epochs")]
        assert any("use_4bit is off" in n for n in job["notes"]) == bool(config.get("use_4bit"))
        assert with_file.get(f"/jobs/{job['job_id']}").json()["notes"] == job["notes"]
        assert job["data_file_id"] == with_file.file_id and "data" not in job["parameters"] and str(
            with_file.service.settings.data_dir) not in json.dumps(job)
        with_file.delete(f"/jobs/{job['job_id']}")
        assert with_file.delete(f"/jobs/{job['job_id']}?purge=true").status_code == 204


@pytest.mark.parametrize("path, code", [("/files?limit=0", "query.value"), ("/files?limit=501", "query.value"),
    ("/files?limit=x", "query.value"), ("/files?limit=1&limit=2", "query.value"), ("/files?limt=1", "query.unknown"),
    ("/files?after=none", "query.value"), ("/jobs?status=lost", "query.value"),
    ("/jobs?after=x", "query.value"), ("/data-format?x=1", "query.unknown"), ("/files/ID/rows?after=-1", "query.value"),
    ("/files/ID/rows/2/image?size=9999", "query.value"), ("/files?limit=1e999", "query.value"),
    ("/files?limit=" + "9" * 5000, "query.value")])
def test_query_parameters(with_file, path, code): refused(with_file.get(path.replace("ID", with_file.file_id)), code)


def test_every_code_of_requests_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    assert CODES_MET_IN["requests"] - seen == set()


def test_a_note_that_another_one_overrules_is_not_sent():
    "A batch of 8 was noted, then one of 16"
    _, notes = plan(dict(gradient_accumulation_steps=3), "gpu", request_form("gpu"), 3)
    assert sum(note.startswith("batch_size is") for note in notes) == 1, notes


def test_a_single_step_that_draws_too_much_is_told_to_be_smaller():
    "The advice was `0 steps of 524288 rows`"
    huge = dict(batch_size=1024, gradient_accumulation_steps=1024, num_generations=2, max_steps=1)
    with pytest.raises(Problem, match="a step of at most 50000 rows") as caught:
        plan(huge, "tiny", request_form("tiny"), None)
    assert caught.value.code == "training_config.batch_size"
