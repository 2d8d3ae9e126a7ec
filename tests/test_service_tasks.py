"""The tasks of chapter 05 behind the service: what each may set, which data it takes, and a real job of pointing and of zoom."""
import base64
import io
import json
import zipfile

import pytest
import torch
from conftest import ROOT, SEVEN, SHORT
from PIL import Image
from support.service import Served, archive, client, good, nothing_stays, png, refused, with_file
from vlrlbook.core import read_settings
from vlrlbook.grpo import load_data
from vlrlbook.rewards import load_reward
from vlrlbook.service import ServiceSettings, plan, read_request, request_form
from vlrlbook.service.front_page import data_format, sample_zip
from vlrlbook.service.openapi_document import train_schema
from vlrlbook.service.training_form import kind_of_task, reward_choices, task_labels
from vlrlbook.service.training_requests import requested_task
from vlrlbook.settings import GRPOSettings, by_task, drawn_rows_of_an_epoch
from vlrlbook.zoom import Eye, synthetic_zoom

BOX = "[12, 40, 31, 59] in pixels of 112 x 112"


def boxes(*answers, side=112):
    "A ZIP with a row and a picture for each answer"
    rows = "".join(f'images/{i}.png,Where is it?,"{answer}"\n' for i, answer in enumerate(answers))
    pictures = [(f"images/{i}.png", png(side * (i + 1))) for i in range(len(answers))] # of one shape, and all different
    return archive([("main.csv", "images_path,question,answer\n" + rows), *pictures])


def upload(c, data, kind=None, name="boxes.zip"):
    return c.post("/upload-data" + (f"?kind={kind}" if kind else ""), files={"file": (name, data)})


def train(c, file_id=None, **config):
    body = dict(job_name="a", training_config=config) | (dict(data_file_id=file_id) if file_id else {})
    return c.post("/train", json=body)


def by_name(form): return {f["name"]: f for group in form.values() for f in group}


# What each task may set

@pytest.mark.parametrize("size", ["tiny", "gpu"])
@pytest.mark.parametrize("task", by_task)
def test_the_form_of_a_task_has_its_defaults(task, size):
    "As `vlrlbook grpo --task … --size …` would fill them in"
    s = read_settings(GRPOSettings, dict(task=task, size=size))
    fields = by_name(request_form(size, task))
    names = dict(learning_rate="lr", reward_function="reward", r="lora_r")
    for name, field in fields.items():
        if name in ("max_steps", "num_epochs"): continue # the form shows the one that decides
        assert field["default"] == getattr(s, names.get(name, name)), name
        assert not field["choices"] or field["default"] in field["choices"]
    assert (fields["max_steps"]["default"] or -1) == s.max_steps
    assert ("max_looks" in fields) == (task == "zoom") and fields["task"]["choice_labels"] == task_labels


def test_every_task_has_rewards_that_pay_its_own_answers():
    said = dict(counting="A photo of 3 discs", vqa="<think>discs</think><answer>left</answer>", pointing="[12, 40, 31, 59]",
                zoom="A photo of 3 discs")
    truths = dict(counting="A photo of 3 discs", vqa="left", pointing=BOX, zoom="A photo of 3 discs")
    assert set(reward_choices) == set(task_labels) == set(kind_of_task) == set(by_task)
    for task, rewards in reward_choices.items():
        for reward in rewards: assert load_reward(reward)(said[task], truths[task])["overall"] > 0.8, (task, reward)


def test_the_form_is_asked_for_by_task(with_file):
    assert with_file.get("/settings?task=pointing").json() == json.loads(json.dumps(request_form("tiny", "pointing")))
    assert with_file.get("/settings?task=counting").json() == with_file.get("/settings").json()
    assert "did you mean 'pointing'" in refused(with_file.get("/settings?task=pointin"), "query.value")["detail"]


@pytest.mark.parametrize("config, said", [
    (dict(task="pointin"), ["training_config.task: 'pointin': did you mean 'pointing'?"]), (dict(task=3), ["task: expected str"]),
    (dict(task="pointing", reward_function="zoom"),
     ["'zoom' (there are: pointing, 0.9*pointing + 0.1*box_format); it is a choice of task zoom, not of pointing"]),
    (dict(reward_function="pointing"), ["it is a choice of task pointing, not of counting"]),
    (dict(max_looks=1), ["max_looks: belongs to task zoom, and this request is for task counting"]),
    (dict(task="pointing", max_looks=0), ["max_looks: belongs to task zoom, and this request is for task pointing"]),
    (dict(task="zoom", max_looks=4), ["4 is not between 0 and 3"]),
    (dict(task="zoom", model="tiny-aria"), ["it is a choice of task counting, vqa, pointing, not of zoom"]),
    (dict(task="zoom", model="Qwen/Qwen2-VL-2B-Instruct"), ["'Qwen/Qwen2-VL-2B-Instruct' (there are: tiny-qwen2_5_vl"])])
def test_what_does_not_fit_the_task_is_told_with_the_task(with_file, config, said):
    body = train(with_file, with_file.file_id, **config).json()
    assert body["status"] == 422 and all(text in body["detail"] for text in said), body["detail"]
    assert "Qwen/Qwen2-VL" not in str(config) or "choice of task" not in body["detail"] # of another size, not of another task


def test_a_setting_of_another_task_may_be_null(with_file):
    form = request_form("tiny")
    config = dict(max_looks=None, task=None)
    assert read_request(dict(job_name="a", data_file_id="f", training_config=config), form)["settings"] == {}


def test_requests_without_a_task_count_as_before(with_file):
    job = train(with_file, with_file.file_id, max_steps=3).json()
    assert job["parameters"] == dict(size="tiny", max_steps=3, task="counting") # and the data, which no client is told
    assert "data_file_id: expected a text" in refused(train(with_file, max_steps=3), "train.data_file_id")["detail"]
    assert "data_file_id" in refused(with_file.post("/train", json=dict(job_name="a", data_file_id="", training_config=dict(task="zoom"))),
                                     "train.data_file_id")["detail"] # an empty text is a mistake, not a wish for drawn pictures
    with_file.delete(f"/jobs/{job['job_id']}")


@pytest.mark.parametrize("body, task", [({}, "counting"), (dict(training_config=None), "counting"), (dict(training_config=[]), "counting"),
    (dict(training_config=dict(task=["zoom"])), "counting"), (dict(training_config=dict(task="nothing")), "counting"),
    (dict(training_config=dict(task="zoom")), "zoom")])
def test_the_task_of_a_request(body, task): assert requested_task(body) == task


def test_settings_that_clash_are_refused_before_the_queue(with_file):
    told = refused(train(with_file, with_file.file_id, loss_type="cispo"), "train.settings")
    assert "epsilon_high" in told["detail"]
    assert with_file.get("/jobs?status=queued").json()["jobs"] == []


def test_the_document_knows_every_task():
    fields = train_schema()["properties"]["training_config"]["properties"]
    assert fields["task"]["enum"] == [*by_task, None] and set(sum(reward_choices.values(), [])) < set(fields["reward_function"]["enum"])
    assert "task zoom alone" in fields["max_looks"]["description"] and "pointing: pointing |" in fields["reward_function"]["description"]
    assert train_schema()["required"] == ["job_name"]


# Which data

def test_which_upload_a_task_trains_on(client, good):
    c = client()
    counts = upload(c, good, name="discs.zip").json()
    places = upload(c, boxes(BOX, BOX.replace("12", "13", 1), BOX), "pointing").json()
    assert (counts["kind"], places["kind"], places["valid_images"]) == ("counting", "pointing", 3)
    of_kind = dict(counting=counts["file_id"], pointing=places["file_id"])
    for task, wanted in kind_of_task.items():
        for kind, file_id in of_kind.items():
            answer = train(c, file_id, task=task, max_steps=1)
            if kind == wanted:
                job = answer.json()
                assert (job["data_file_id"], job["parameters"]["task"]) == (file_id, task)
                continue
            body = refused(answer, "train.kind")
            name = dict(counting="discs.zip", pointing="boxes.zip")[kind]
            assert f"task {task}" in body["detail"] and f"'{name}'" in body["detail"] and "leave data_file_id out" in body["detail"]
            assert body["errors"][0]["field"] == "data_file_id"
            expected = "vlrlbook grpo --task vqa --data FILE" if wanted is None else f"?kind={wanted}"
            assert expected in body["detail"]
    assert data_format(ServiceSettings())["tasks"] == kind_of_task


def test_uploads_of_older_versions_are_counts(client, good):
    from vlrlbook.service import Uploads
    c = client()
    file_id = upload(c, good).json()["file_id"]
    path = c.service.uploads.root / file_id / "upload.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in facts.items() if name != "kind"}))
    assert Uploads(c.service.settings.data_dir, c.jobs.clock).get(file_id)["kind"] == "counting"
    path.write_text(json.dumps(facts | dict(kind=7)))
    assert Uploads(c.service.settings.data_dir, c.jobs.clock).known == {}


@pytest.mark.parametrize("kind", ["counting", "pointing"])
def test_the_sample_of_a_kind_is_taken_as_that_kind(client, kind):
    c = client()
    sent = c.get(f"/sample-data?kind={kind}").content
    assert zipfile.ZipFile(io.BytesIO(sent)).testzip() is None and sample_zip(kind) == sent
    told = upload(c, sent, kind).json()
    assert (told["kind"], told["valid_images"], told["skipped"]) == (kind, 60, [])
    refused(c.get("/sample-data?kind=zoom"), "query.value")
    refused(upload(c, sent, "zoom"), "query.value")


def test_boxes_that_were_uploaded_as_counts_are_noted(client):
    "A number is read in such a text; whoever forgot ?kind=pointing sees why"
    assert any("the answer is boxes" in note for note in upload(client(), boxes(BOX, BOX)).json()["notes"])


@pytest.mark.parametrize("task, config, drawn", [
    ("pointing", dict(max_steps=3, batch_size=8, num_generations=4), 6), ("zoom", dict(max_steps=2, batch_size=8), 2),
    ("vqa", dict(max_steps=2, batch_size=8, num_generations=4), 4), ("counting", dict(max_steps=2, batch_size=16), 4)])
def test_drawn_pictures_are_as_many_as_the_note_says(client, task, config, drawn, monkeypatch, tmp_path):
    c = client()
    job = train(c, task=task, seed=7, eval_samples=4, **config).json()
    assert job["notes"][0] == f"no data_file_id: {drawn} pictures are drawn to train on, by seed 7, and 4 others to measure with"
    assert job["data_file_id"] is None and "data" not in c.jobs.get(job["job_id"]).parameters
    told = c.get(f"/jobs/{job['job_id']}").json()
    assert (told["total_steps"], told["can_resume"], told["notes"]) == (config["max_steps"], False, job["notes"])
    monkeypatch.chdir(tmp_path)
    rows, held, _ = load_data(read_settings(GRPOSettings, c.jobs.get(job["job_id"]).parameters))
    assert (len(rows), len(held)) == (drawn, 4)


def test_drawn_pictures_by_epochs_and_too_many():
    form = request_form("gpu", "pointing")
    made, notes = plan(dict(task="pointing", num_epochs=2), "gpu", form, None)
    assert notes[0].startswith(f"no data_file_id: {drawn_rows_of_an_epoch} pictures") and any("4000 steps" in note for note in notes)
    from vlrlbook.service import Problem
    with pytest.raises(Problem, match="at most 4000 can be for task zoom: 500 steps of 8 rows"):
        plan(dict(task="zoom", max_steps=501), "tiny", request_form("tiny", "zoom"), None)
    assert plan(dict(task="zoom", max_steps=500), "tiny", request_form("tiny", "zoom"), None)
    with pytest.raises(Problem, match="at most 50000 can be for task counting"):
        plan(dict(task="counting", max_steps=10_000), "tiny", request_form("tiny"), None)
    assert plan(dict(task="counting", max_steps=10_000), "tiny", request_form("tiny"), 60) # an upload lies on the disk


# Real jobs

@pytest.fixture(scope="module")
def looking(cache):
    "A twin that has learned one answer by heart, with a look, in the place of the warm start: learning to look takes minutes"
    from vlrlbook.models import save_model, tiny_twin, twin_processor
    from vlrlbook.warm_twins import _folder
    from vlrlbook.zoom_turns import encode_turns, teach_calls, turn_labels
    model, _ = tiny_twin("qwen2_5_vl")
    eye = Eye.of("tiny-qwen2_5_vl", 56)
    teach_calls(eye.processor)
    said = "zoom(0, 0, 14, 14)\n<tool_response><image></tool_response>\nA photo of 2 discs"
    batch = encode_turns(eye.processor, synthetic_zoom(4, seed=1), [said] * 4, eye)
    labels, optimizer = turn_labels(batch["input_ids"], eye.processor), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model.eval(), twin_processor("qwen2_5_vl"), _folder("qwen2_5_vl", SHORT["warm_steps"], 0, "zoom", 1))


@pytest.fixture(scope="module")
def trainer_of_chapter_05(looking, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("tasks"))
    yield served
    served.stop()


def picture_of(url): return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize("task", ["pointing", "zoom"])
def test_a_real_job(trainer_of_chapter_05, task, tmp_path):
    "Train, look at the answers, the figures, the notebook, ask, download: pointing on an upload, zoom on drawn pictures"
    s, config = trainer_of_chapter_05, dict(task=task, max_image_size=56, **SHORT)
    body = dict(job_name=task, training_config=config)
    if task == "pointing":
        file = {"file": ("discs.zip", s.get("/sample-data?kind=pointing").content)}
        body["data_file_id"] = s.post("/upload-data?kind=pointing", files=file).json()["file_id"]
    job_id = s.post("/train", json=body).json()["job_id"]
    job = s.until(job_id, "completed", "failed", seconds=900)
    assert job["status"] == "completed", job["error_message"]
    assert (job["current_step"], job["parameters"]["task"], bool(job["data_file_id"])) == (2, task, task == "pointing")
    # the answers of the last step: in one line each, on a picture with what the task draws
    group = s.get(f"/jobs/{job_id}/rollouts").json()["groups"][0]
    answer, shown = group["answers"][0], picture_of(group["image"])
    found = s.get(f"/jobs/{job_id}/verdict").json()
    measures = {f["measure"]: f for f in found["figures"] if f["asked"] == "best guess"}
    assert found["task"] == task and {"exact_accuracy", "mean_reward"} < set(measures)
    columns = set(s.get(f"/jobs/{job_id}/metrics").json()["rows"][0])
    if task == "zoom":
        assert answer["text"] == "zoom(0, 0, 14, 14) → picture → A photo of 2 discs" and shown.width > shown.height
        assert answer["parts"]["looks"] == 1 and {"part/looks", "part/refused"} < columns
    else:
        assert "in pixels of 56 x 56" in group["truth"] and {"part/found", "part/readable"} < columns
        assert list(measures)[0] == "mean_iou" and "verbatim_accuracy" not in measures
    # asked with a picture of one's own, larger than what the model sees
    large = io.BytesIO()
    synthetic_zoom(1, seed=1)[0].images[0].save(large, "PNG")
    asked = s.post(f"/jobs/{job_id}/ask?question=How many discs are there?", files={"file": ("p.png", large.getvalue())}).json()
    assert asked["task"] == task
    for side in ("before", "after"):
        said = asked[side]
        if task == "zoom": assert "→ picture →" in said["greedy"] and said["read"] == "2" and picture_of(said["picture"]).width == 336
        else: assert said["read"] is None or said["read"].endswith(" in pixels of 448 x 448")
        assert picture_of(said["picture"]).size[0] == 336
    # the notebook, the report and the settings in the download are those of the task
    assert s.get(f"/jobs/{job_id}/notebook").status_code == 200
    got = zipfile.ZipFile(io.BytesIO(s.get(f"/jobs/{job_id}/download").content))
    assert SEVEN | {"results.json", "report.html", "out.ipynb"} <= set(got.namelist())
    assert json.loads(got.read("training_args.json"))["settings"]["task"] == task
    assert ("| greedy | mean_iou |" in got.read("out.ipynb").decode()) == (task == "pointing")
    report = got.read("report.html").decode()
    assert ("overlap of boxes" in report) == (task == "pointing") and "tool_response" not in report
    assert str(ROOT) not in json.dumps(asked) and str(ROOT) not in json.dumps(found)
