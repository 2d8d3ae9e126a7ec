"""Jobs by request and what they leave: the queue, metrics, events, notebooks, downloads; a real server where that matters."""
import concurrent.futures
import hashlib
import io
import json
import re
import shutil
import stat
import types
import zipfile

import pytest

from support.service import CODES_MET_IN, client, done, good, nothing_stays, refused, seen, server, trainer, with_file
from vlrlbook.jobs import JobFolder
from vlrlbook.service import Problem, one_range


def test_keys_and_the_queue(with_file):
    body = dict(job_name="a", data_file_id=with_file.file_id)
    first = with_file.post("/train", json=body, headers={"Idempotency-Key": "k1"}).json()
    assert with_file.post("/train", json=body, headers={"Idempotency-Key": "k1"}).json() == first
    refused(with_file.post("/train", json=body | dict(job_name="b"), headers={"Idempotency-Key": "k1"}), "idempotency.reused")
    ids = [first["job_id"], *(with_file.post("/train", json=body).json()["job_id"] for _ in range(2))]
    full = with_file.post("/train", json=body)
    refused(full, "job.queue_full")
    assert int(full.headers["retry-after"]) > 0
    refused(with_file.delete(f"/files/{with_file.file_id}"), "file.in_use")
    page = with_file.get("/jobs?limit=2").json()
    assert [j["job_id"] for j in page["jobs"]] == ids[:0:-1]
    rest = with_file.get(f"/jobs?limit=2&after={page['next']}").json()
    assert [j["job_id"] for j in rest["jobs"]] == ids[:1] and rest["next"] is None
    refused(with_file.delete(f"/jobs/{ids[0]}?purge=true"), "job.state")
    refused(with_file.post(f"/jobs/{ids[0]}/resume"), "job.state")
    for i in ids: assert with_file.delete(f"/jobs/{i}").json()["status"] == "cancelled"
    refused(with_file.delete(f"/jobs/{ids[0]}"), "job.state")
    refused(with_file.post(f"/jobs/{ids[0]}/resume"), "job.no_checkpoint")
    assert [m["to"] for m in with_file.get(f"/jobs/{ids[0]}/moves").json()["moves"]] == ["queued", "cancelled"]
    for i in ids: assert with_file.delete(f"/jobs/{i}?purge=true").status_code == 204
    refused(with_file.get(f"/jobs/{ids[0]}"), "job.unknown")


def test_the_same_key_gives_the_same_job_when_its_upload_is_gone(client, good):
    "It was 404, file.unknown, for a job that exists"
    c = client()
    file_id = c.post("/upload-data", files={"file": ("discs.zip", good)}).json()["file_id"]
    body, key = dict(job_name="a", data_file_id=file_id), {"Idempotency-Key": "k2"}
    first = c.post("/train", json=body, headers=key).json()
    c.delete(f"/jobs/{first['job_id']}")
    assert c.delete(f"/files/{file_id}").status_code < 300
    again = c.post("/train", json=body, headers=key).json()
    assert (again["job_id"], again["notes"]) == (first["job_id"], first["notes"]) and first["notes"]
    refused(c.post("/train", json=body | dict(job_name="b"), headers=key), "idempotency.reused")
    refused(c.post("/train", json=body, headers={"Idempotency-Key": "k3"}), "file.unknown")


def test_notes_that_were_not_written_are_made_again(client):
    c, key = client(), {"Idempotency-Key": "k"}
    body = dict(job_name="a", training_config=dict(task="counting", num_generations=6))
    first = c.post("/train", json=body, headers=key).json()
    notes = JobFolder(c.jobs.folder(first["job_id"])).notes
    notes.unlink()
    assert c.post("/train", json=body, headers=key).json() == first and notes.exists()


def test_a_refused_method_hears_which_there_are(with_file):
    c = with_file
    def allowed(path): return c.put(path).headers["allow"]
    assert allowed("/jobs/x") == allowed("/files/x") == "DELETE, GET, HEAD"
    assert (allowed("/files"), allowed("/train")) == ("GET, HEAD", "POST")


def test_what_there_is_not(with_file):
    c = with_file
    for path in ("", "/log", "/metrics", "/rollouts", "/notebook", "/download", "/events", "/moves"):
        refused(c.get("/jobs/none" + path), "job.unknown")
    for path in ("", "/rows", "/rows/2/image"): refused(c.get("/files/f-none" + path), "file.unknown")
    refused(c.delete("/files/f-none"), "file.unknown")
    for row in ("1", "999", "x", "-2", "9" * 20, "2.0", "٣"): refused(c.get(f"/files/{c.file_id}/rows/{row}/image"), "file.row")
    refused(c.get("/nothing"), "door.path")
    refused(c.get("/static/..%2f..%2fcore.py"), "door.path")
    refused(c.get("/static/core.py"), "door.path")
    refused(c.put("/files"), "door.method")
    job = c.post("/train", json=dict(job_name="a", data_file_id=c.file_id)).json()["job_id"]
    assert c.get(f"/jobs/{job}/log").text == ""
    refused(c.get(f"/jobs/{job}/notebook"), "job.no_notebook")
    refused(c.get(f"/jobs/{job}/download"), "job.not_completed")
    assert c.get(f"/jobs/{job}/metrics").json() == dict(rows=[], next_step=-1)
    assert c.get(f"/jobs/{job}/rollouts").json() == dict(step=0, groups=[])
    c.delete(f"/jobs/{job}"), c.delete(f"/jobs/{job}?purge=true")


def test_a_notebook_that_takes_too_long_is_told_as_such(tmp_path, monkeypatch):
    "It was a status 500 without a name"
    import asyncio
    from vlrlbook.service import notebook_page
    (tmp_path / "out.ipynb").write_text("{}")
    monkeypatch.setattr(notebook_page, "_longest_making", 0.01)
    with pytest.raises(notebook_page.Problem, match="more than 0.01 seconds") as problem:
        asyncio.run(notebook_page.notebook_html(tmp_path / "out.ipynb", asyncio.Semaphore(1)))
    assert problem.value.code == "job.no_notebook" and not list(tmp_path.glob("*.html"))


def test_streams_have_a_limit(client, good):
    c = client(streams=0)
    file_id = c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"]
    job = c.post("/train", json=dict(job_name="a", data_file_id=file_id)).json()["job_id"]
    refused(c.get(f"/jobs/{job}/events"), "events.busy")


def test_train_watch_download(server, good):
    assert "data" in server.said and "stop" in server.said and (
        server.api.headers["Authorization"][7:] not in server.said), "a token is for terminals"
    assert stat.S_IMODE((server.folder / "data" / "token").stat().st_mode) == 0o600
    file_id = server.upload(good).json()["file_id"]
    job = server.train(file_id, max_steps=30).json()
    refused(server.get(f"/jobs/{job['job_id']}/download"), "job.not_completed")
    stream = server.get(f"/jobs/{job['job_id']}/events", stream=True).text
    names = re.findall(r"^event: (\w+)", stream, re.M)
    assert names[0] == "status" and names[-1] == "end" and {"metrics", "rollouts"} <= set(names)
    steps = [r["step"] for text in re.findall(r"event: metrics\nid: \d+\ndata: (.+)", stream) for r in json.loads(text)]
    assert steps == list(range(1, 31))
    again = server.get(f"/jobs/{job['job_id']}/events", headers={"Last-Event-ID": "28"}).text
    assert [r["step"] for text in re.findall(r"event: metrics\nid: \d+\ndata: (.+)", again) for r in json.loads(text)] == [29, 30]
    job = server.until(job["job_id"], "completed")
    assert job["progress"] == 100 and job["total_steps"] == 30 and job["loss"] is None, "nan is null"
    assert {"job_id", "job_name", "status", "progress", "current_step", "total_steps", "loss", "created_at", "error_message",
            "output_dir"} <= set(job)
    rows = server.get(f"/jobs/{job['job_id']}/metrics?after_step=25").json()
    assert [r["step"] for r in rows["rows"]] == [26, 27, 28, 29, 30] and rows["next_step"] == 30 and rows["rows"][0]["loss"] is None
    assert server.get(f"/jobs/{job['job_id']}/rollouts").json()["groups"][0]["answers"][0]["advantage"] == 0.5
    assert server.get(f"/jobs/{job['job_id']}/log").text == "steps 30\n"
    page = server.get(f"/jobs/{job['job_id']}/notebook")
    assert "<b>bold</b>" in page.text and "<h2" in page.text and "sandbox" in page.headers["content-security-policy"]
    for hostile in ("&lt;h2", 'href="javascript', "<script", "<img src=x"): assert hostile not in page.text


def test_downloads(server, done):
    whole = server.get(f"/jobs/{done}/download")
    digest = hashlib.sha256(whole.content).hexdigest()
    assert whole.headers["etag"] == f'"{digest}"'
    with zipfile.ZipFile(io.BytesIO(whole.content)) as z:
        manifest = json.loads(z.read("manifest.json"))
        assert {"adapter_model.safetensors", "out.ipynb"} <= set(manifest)
        for name, file in manifest.items(): assert hashlib.sha256(z.read(name)).hexdigest() == file["sha256"]
    size = len(whole.content)
    parts = [server.get(f"/jobs/{done}/download", headers={"Range": f"bytes={a}-{a + 99_999}"}) for a in range(0, size, 100_000)]
    assert {p.status_code for p in parts} == {206} and b"".join(p.content for p in parts) == whole.content
    assert server.get(f"/jobs/{done}/download", headers={"Range": "bytes=-10"}).content == whole.content[-10:]
    for odd in ("bytes=5-2", "lines=1-2", "bytes=a-b"):
        assert server.get(f"/jobs/{done}/download", headers={"Range": odd}).content == whole.content
    refused(server.get(f"/jobs/{done}/download", headers={"Range": f"bytes={size}-"}), "range.unsatisfiable")
    assert server.get(f"/jobs/{done}/download", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        hashes = set(pool.map(lambda _: hashlib.sha256(server.get(f"/jobs/{done}/download").content).hexdigest(), range(100)))
    assert hashes == {digest}


def test_a_client_that_has_any_version_is_sent_none(server, done):
    "RFC 9110: If-None-Match may be *, and a Range of another version of the file does not count"
    def status(**headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.get(f"/jobs/{done}/download", headers=named).status_code

    etag, far = server.get(f"/jobs/{done}/download").headers["etag"], "bytes=99999999-"
    assert (status(If_None_Match="*"), status(If_None_Match='"x"'), status(Range=far, If_Range='"old"')) == (304, 200, 200)
    assert (status(Range="bytes=0-9", If_Range='"old"'), status(Range="bytes=0-9", If_Range=etag)) == (200, 206)
    assert (status(Range=far, If_Range=etag), status(Range=far)) == (416, 416)


def test_who_asks_before_the_first_row_misses_none(with_file):
    "Also if it is of step 0: each `next_step` is sent as the next `after_step`"
    c = with_file
    job = c.post("/train", json=dict(job_name="a", data_file_id=c.file_id)).json()["job_id"]
    log, seen, after = JobFolder(c.jobs.folder(job)).run_log, [], -1
    log.parent.mkdir(parents=True, exist_ok=True)
    for text in ("", "step,loss\n", "0,0.5\n", "", "1,0.25\n2,0.125\n", ""):
        with open(log, "a") as file: file.write(text)
        page = c.get(f"/jobs/{job}/metrics?after_step={after}").json()
        after = page["next_step"]
        seen.append(([row["step"] for row in page["rows"]], after))
    assert seen == [([], -1), ([], -1), ([0], 0), ([], 0), ([1, 2], 2), ([], 2)]
    c.delete(f"/jobs/{job}"), c.delete(f"/jobs/{job}?purge=true")


@pytest.mark.parametrize("given, kept", [("bytes=9-5", False), ("bytes=5-4", False), ("bytes=3-1", False), ("bytes=1-3", True),
                                         ("bytes=4-9", True), ("bytes=5-9", None), ("bytes=9-", None), ("bytes=-0", None)])
def test_a_range_is_kept_dropped_or_refused(given, kept):
    "Of a file of five bytes. None: refused"
    request = types.SimpleNamespace(headers={"range": given}, scope=dict(headers=[(b"range", given.encode()), (b"a", b"b")]))
    if kept is None:
        with pytest.raises(Problem) as refusal: one_range(request, 5)
        assert refusal.value.code == "range.unsatisfiable" and refusal.value.headers == {"content-range": "bytes */5"}
    else:
        one_range(request, 5)
        assert [name for name, _ in request.scope["headers"]] == ([b"range"] if kept else []) + [b"a"]


def test_a_job_without_its_files(server, good):
    job = server.train(server.upload(good).json()["file_id"], max_steps=1).json()["job_id"]
    server.until(job, "completed")
    shutil.rmtree(server.folder / "data" / "jobs" / job / "result")
    refused(server.get(f"/jobs/{job}/download"), "job.no_artefact")


def test_cancel_while_training(server, good):
    job = server.train(server.upload(good).json()["file_id"], max_steps=100_000).json()["job_id"]
    server.until(job, "training")
    assert server.delete(f"/jobs/{job}").json()["status"] in ("cancelling", "cancelled")
    assert server.until(job, "cancelled")["ended_at"]
    refused(server.delete(f"/jobs/{job}"), "job.state")


def test_many_readers_and_no_error(server, done):
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: server.get(f"/jobs/{done}").status_code, range(600)))
    assert set(answers) == {200}


def test_every_code_of_results_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    assert CODES_MET_IN["results"] - seen == set()
