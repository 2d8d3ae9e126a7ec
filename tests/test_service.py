"""The service as strangers meet it: every address, every refusal, hostile and broken uploads, full disks, two servers, stops.

A real server where that matters."""
import concurrent.futures
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests
from conftest import ROOT, SEVEN, SHORT
from PIL import Image
from starlette.testclient import TestClient
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.data import synthetic_counting, write_counting_zip
from vlrlbook.jobs import Jobs, LedgerUnavailable, job_tag, tagged
from vlrlbook.service import ServiceSettings, Uploads, chapter_05, clean, create_app, endpoints, host_name, openapi, problems
from vlrlbook.service import plan, read_json, read_request, request_form

HEADER = "images_path,question,answer\n"
ROW = HEADER + "images/a.png,How many?,3\n"
TRAINER = '''
"A trainer of moments: a log, groups, a notebook, a result"
import json, os, sys, time
from pathlib import Path
p, run = json.loads(Path("parameters.json").read_text()), Path("run")
run.mkdir(exist_ok=True)
print("steps", p["max_steps"], flush=True)
with open(run / "run_log.csv", "w") as f: f.write("step,reward,loss,silent\\n")
for step in range(1, p["max_steps"] + 1):
    time.sleep(0.01)
    with open(run / "run_log.csv", "a") as f: f.write(f"{step},{0.5 + step / 1000},nan,0.25\\n")
    aside = run / ".now"
    aside.write_text(json.dumps(dict(step=step, total_steps=p["max_steps"], groups=[dict(question="q", truth="3", image=None, answers=[dict(text="3", parts=dict(overall=1.0), advantage=0.5)])])))
    aside.rename(run / "rollouts_now.json")
cell = lambda text, html: dict(cell_type="code", id=text, metadata={}, source=text, execution_count=None, outputs=[dict(output_type="display_data", metadata={}, data={"text/html": html})])
words = dict(cell_type="markdown", id="m", metadata={}, source="## A heading\\n\\nwith [a link](javascript:alert(3))")
Path("out.ipynb").write_text(json.dumps(dict(cells=[words, cell("a", "<b>bold</b><script>alert(1)</script><img src=x onerror=alert(2)>")], metadata={}, nbformat=4, nbformat_minor=5)))
(run / "adapter_model.safetensors").write_bytes(os.urandom(300_000))
from vlrlbook.jobs import commit_result
commit_result(".")
'''


def png(side=32, form="PNG", **kwargs):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, form, **kwargs)
    return buffer.getvalue()


def archive(entries=(("main.csv", ROW), ("images/a.png", png())), method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as z:
        for name, data in entries: z.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_counting_zip(synthetic_counting(24, seed=3), tmp_path_factory.mktemp("zip") / "discs.zip").read_bytes()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainer") / "trainer.py"
    path.write_text(TRAINER)
    return f"{sys.executable} {path}"


running = []


@pytest.fixture(scope="module", autouse=True)
def nothing_stays():
    "Servers of tests that failed are ended too"
    yield
    for served in running:
        if served.process.poll() is None: served.process.kill()


class Served:
    "A real `vlrlbook serve` in a process of its own"
    def __init__(self, folder, *options, env=(), token=True):
        self.folder = Path(folder)
        running.append(self)
        self.process = subprocess.Popen([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", "0", "--data-dir", "data",
                                         *(() if token else ("--no-token",)), *options], cwd=folder, stdout=subprocess.PIPE,
                                         stderr=open(self.folder / "serve.log", "ab"),
                                        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **dict(env)})
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", first)
        if not found: raise RuntimeError(f"no server: {first} {(self.folder / 'serve.log').read_text()[-2000:]}")
        self.port, self.url = int(found[1]), f"http://127.0.0.1:{found[1]}"
        self.said = first + "".join(self.process.stdout.readline() for _ in range(3))
        self.api = requests.Session()
        if token: self.api.headers["Authorization"] = "Bearer " + (self.folder / "data" / "token").read_text()

    def get(self, path, **kwargs): return self.api.get(self.url + path, **kwargs)
    def post(self, path, **kwargs): return self.api.post(self.url + path, **kwargs)
    def delete(self, path, **kwargs): return self.api.delete(self.url + path, **kwargs)
    def upload(self, data, name="discs.zip", **kwargs): return self.post("/upload-data", files={"file": (name, data)}, **kwargs)

    def train(self, file_id, headers=None, **config):
        return self.post("/train", json=dict(job_name="test", data_file_id=file_id, training_config=config, lora_config={}),
                         headers=headers)

    def until(self, job_id, *states, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = self.get(f"/jobs/{job_id}").json()
            if job["status"] in states: return job
            time.sleep(0.05)
        raise AssertionError(f"{job} and not {states}")

    def stop(self, sig=signal.SIGTERM, seconds=10):
        self.process.send_signal(sig)
        code = self.process.wait(seconds)
        self.last = self.process.stdout.read()
        return code


@pytest.fixture(scope="module")
def server(tmp_path_factory, trainer):
    served = Served(tmp_path_factory.mktemp("served"), env={"VLRLBOOK_TRAINER": trainer, "WANDB_API_KEY": "a-key-that-nobody-may-see"})
    yield served
    served.stop()


@pytest.fixture
def client(tmp_path, request):
    "The application without a network: `client(settings…)`; jobs are not started"
    made = []
    def make(token="secret", **settings):
        s = read_settings(ServiceSettings, dict(data_dir=str(tmp_path / f"data{len(made)}"), size="tiny", reserve_mb=0))
        for name, value in settings.items(): setattr(s, name, value)
        jobs = Jobs(s.data_dir, max_queued=s.max_queued)
        made.append(jobs)
        c = TestClient(create_app(s, jobs, token), base_url="http://localhost", headers={"Authorization": f"Bearer {token}"} if token
                       else {}, raise_server_exceptions=False)
        c.service, c.jobs = c.app.state.service, jobs
        return c
    yield make
    for jobs in made: jobs.stop()


seen = set()


def refused(response, code):
    "A refusal in its form, with a code of the table"
    assert response.headers["content-type"] == "application/problem+json", (response.status_code, response.text[:300])
    body = response.json()
    assert {"type", "status", "code", "title", "detail"} <= set(body)
    assert (body["code"], response.status_code, body["status"]) == (code, problems[code][0], problems[code][0]), body
    assert "Traceback" not in response.text and str(ROOT) not in response.text and "/tmp/" not in response.text
    seen.update([code, *(e["code"] for e in body.get("errors", []))])
    return body


# uploads: what is wrong with them

link = zipfile.ZipInfo("images/l.png")
link.external_attr = (stat.S_IFLNK | 0o777) << 16
odd = zipfile.ZipInfo("images/b.png")
odd.compress_type = zipfile.ZIP_LZMA


def forged(data, name, offset, value):
    "Overwrite bytes in the central directory's record of `name`"
    at = data.rindex(name) - 46 + offset
    return data[:at] + value + data[at + len(value):]


def encrypted(data):
    "Set bit 0 of the flags of both records of a.png"
    out = bytearray(data)
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(mark, data.index(b"images/a.png") - 60 if mark == b"PK\3\4" else data.rindex(b"images/a.png") - 46) + offset
        out[at] |= 1
    return bytes(out)


def overlapping():
    "An entry whose bytes are another entry, header and all"
    inner, buffer = archive([("images/a.png", png())], zipfile.ZIP_STORED), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(inner)) as z: info = z.infolist()[0]
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("outer.txt", inner[:inner.index(b"PK\1\2")])
        z.writestr("main.csv", ROW)
        info.header_offset = 30 + len("outer.txt")
        z.filelist.append(info)
        z.NameToInfo[info.filename] = info
    return buffer.getvalue()


GOOD = archive()
BAD_UPLOADS = {
    "zip.broken": lambda: b"not a zip at all", "zip.path": lambda: archive([("main.csv", ROW), ("../a.png", png())]),
    "zip.link": lambda: archive([("main.csv", ROW), (link, "/etc/passwd")]),
    "zip.content": lambda: archive([("main.csv", ROW), ("run.exe", b"MZ")]),
    "zip.encrypted": lambda: encrypted(GOOD),
    "zip.method": lambda: archive([("main.csv", ROW), ("images/a.png", png()), (odd, b"x" * 99)]),
    "zip.duplicate": lambda: archive([("main.csv", ROW), ("images/a.png", png()), ("images/A.png", png())]),
    "zip.headers": lambda: GOOD.replace(b"images/a.png", b"images/b.png", 1), "zip.overlap": overlapping,
    "zip.foreign": lambda: GOOD + b"more",
    "zip.entries": lambda: archive([("main.csv", ROW), *((f"{i}.txt", b"") for i in range(20_001))], zipfile.ZIP_STORED),
    "zip.size": lambda: forged(GOOD, b"images/a.png", 24, b"\0\0\0\xf0"),
    "csv.missing": lambda: archive([("images/a.png", png())]), "csv.size": lambda: archive([("main.csv", b"a" * (65 << 20))]),
    "csv.encoding": lambda: archive([("main.csv", (HEADER + "a,几,3\n").encode("gbk"))]),
    "csv.nul": lambda: archive([("main.csv", HEADER + "a\0,b,c\n")]),
    "csv.syntax": lambda: archive([("main.csv", HEADER + 'a,"b,c\n')]), "csv.empty": lambda: archive([("main.csv", HEADER)]),
    "csv.columns": lambda: archive([("main.csv", "a,b\n1,2\n")]), "csv.fields": lambda: archive([("main.csv", HEADER + "a,b\n")]),
    "csv.rows": lambda: archive([("main.csv", HEADER + "a,b,c\n" * 100_001)]),
    "csv.no_valid_row": lambda: archive([("main.csv", HEADER + "images/none.png,q,3\n")])}


@pytest.mark.parametrize("code", BAD_UPLOADS)
def test_bad_archives_and_tables(client, code):
    c = client()
    data = BAD_UPLOADS[code]()
    refused(c.post("/upload-data", files={"file": ("x.zip", data)}), code)
    assert c.get("/files").json()["files"] == []
    assert not list(c.service.uploads.root.iterdir()) and not list(c.service.uploads.aside.iterdir())


BAD_PICTURES = {"image.name": ("/etc/passwd", png()), "image.missing": ("b.png", png()),
                "image.bytes": ("a.png", b"\0" * ((32 << 20) + 1)), "image.pixels": ("a.png", png(7100)),
                "image.decode": ("a.png", png()[:60]), "row.empty": ("a.png", png())}


def strips():
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def film():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    return buffer.getvalue()


BAD_PICTURES |= {"image.shape": ("a.png", strips()), "image.animated": ("a.png", film())}


@pytest.mark.parametrize("code", BAD_PICTURES)
def test_bad_pictures_are_skipped_or_refused(client, code):
    name, data = BAD_PICTURES[code]
    rows = f"{HEADER}images/good.png,How many?,3\n{name},{'' if code == 'row.empty' else 'How many?'},3\n"
    c, packed = client(), archive([("main.csv", rows), ("images/good.png", png()), ("images/a.png", data)])
    found = c.post("/upload-data", files={"file": ("x.zip", packed)}).json()
    assert (found["csv_rows"], found["valid_images"]) == (2, 1) and [(s["row"], s["code"]) for s in found["skipped"]] == [(3, code)]
    body = refused(c.post("/upload-data?strict=true", files={"file": ("x.zip", packed)}), code)
    assert body["row"] == 3
    assert len(c.get("/files").json()["files"]) == 1


def form(parts, boundary="xyz", end=True):
    "A multipart body by hand"
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), data) for head, data in parts)
    return body + (b"--%s--\r\n" % boundary.encode() if end else b"")


FILE = 'Content-Disposition: form-data; name="file"; filename="a.zip"'
BAD_FORMS = [
    ("upload.type", "application/zip", GOOD), ("upload.type", "multipart/form-data", GOOD),
    ("upload.type", "multipart/mixed; boundary=xyz", form([(FILE, GOOD)])),
    ("upload.form", "multipart/form-data; boundary=xyz", b"no boundary here at all"),
    ("upload.form", f"multipart/form-data; boundary={'x' * 300}", b""),
    ("upload.form", "multipart/form-data; boundary=xyz", b"--xyz\r\nbad header\r\n\r\n"),
    ("upload.cut", "multipart/form-data; boundary=xyz", form([(FILE, GOOD)], end=False)),
    ("upload.cut", "multipart/form-data; boundary=xyz", b""),
    ("upload.field", "multipart/form-data; boundary=xyz", form([('Content-Disposition: form-data; name="data"; filename="a.zip"', GOOD)])),
    ("upload.field", "multipart/form-data; boundary=xyz", form([('Content-Disposition: form-data; name="file"', b"text")])),
    ("upload.field", "multipart/form-data; boundary=xyz", form([(FILE, GOOD), (FILE, GOOD)])),
    ("upload.field", "multipart/form-data; boundary=xyz", b"--xyz--\r\n"),
    ("zip.broken", "multipart/form-data; boundary=xyz", form([(FILE, b"")]))]


@pytest.mark.parametrize("code, kind, body", BAD_FORMS, ids=range(len(BAD_FORMS)))
def test_bad_forms(client, code, kind, body):
    c = client()
    refused(c.post("/upload-data", content=body, headers={"content-type": kind}), code)
    assert not list(c.service.uploads.root.iterdir()) and not list(c.service.uploads.aside.iterdir())


def test_limits_of_uploads(client, monkeypatch):
    one = {"file": ("x.zip", GOOD)}
    refused(client(upload_mb=1).post("/upload-data", files={"file": ("x.zip", b"\0" * (2 << 20))}), "upload.size")
    refused(client(upload_mb=1).post("/upload-data", content=iter([form([(FILE, b"")], end=False), *[b"\0" * 65536] * 40]),
                                     headers={"content-type": "multipart/form-data; boundary=xyz"}), "upload.size")
    refused(client(uploads_at_once=0).post("/upload-data", files=one), "upload.busy")
    refused(client(quota_gb=0).post("/upload-data", files=one), "storage.quota")
    refused(client(reserve_mb=1 << 40).post("/upload-data", files=one), "storage.full")
    refused(client(intake_seconds=0.01).post("/upload-data", files=one), "intake.time")
    refused(client(intake_mb=1).post("/upload-data", files=one), "intake.memory")
    c = client()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    refused(c.post("/upload-data", files=one), "intake.died")
    assert not list(c.service.uploads.aside.iterdir())


def test_a_full_disk_while_writing(client, monkeypatch):
    import errno
    import vlrlbook.service
    def full(*args): raise OSError(errno.ENOSPC, "no space")
    c = client()
    for name in ("_write_all", "write_json"):
        with monkeypatch.context() as m:
            m.setattr(vlrlbook.service, name, full)
            refused(c.post("/upload-data", files={"file": ("x.zip", GOOD)}), "storage.full")
        assert not list(c.service.uploads.root.iterdir()) and not list(c.service.uploads.aside.iterdir())
    assert c.post("/upload-data", files={"file": ("x.zip", GOOD)}).status_code == 200


# requests for training

BAD_JSON = [
    ("json.encoding", b'{"job_name": "\xff"}'), ("json.syntax", b"{"), ("json.syntax", b""), ("json.number", b'{"job_name": NaN}'),
    ("json.number", b'{"job_name": 1e999}'), ("json.number", b'{"job_name": ' + b"9" * 5000 + b"}"), ("json.number", b'{"a": -Infinity}'),
    ("json.duplicate", b'{"job_name": "a", "job_name": "b"}'), ("json.duplicate", b'{"training_config": {"r": 1, "r": 2}}'),
    ("json.depth", b"[" * 100_000), ("json.depth", b'{"a":' * 40 + b"1" + b"}" * 40), ("json.text", b'{"job_name": "\\ud800"}'),
    ("json.text", b'{"\\udfff": 1}'),
    ("json.text", b'{"a": ["\\ud800"]}'), ("json.object", b"[]"), ("json.object", b'"x"'),
    ("json.syntax", b'"' + b'\\"' * 120_000), # an unclosed text: looked through once, not once from each of its quotes
    ("body.size", b'{"a": "' + b"a" * (257 << 10) + b'"}')]


@pytest.mark.parametrize("code, body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json(client, code, body): refused(client().post("/train", content=body, headers={"content-type": "application/json"}), code)


def test_json_that_is_fine():
    assert read_json('{"a": "\\ud83d\\ude00 [[[{", "b": [1.5, -3], "c": null}'.encode()) == {"a": "😀 [[[{", "b": [1.5, -3], "c": None}


@pytest.fixture(scope="module")
def with_file(tmp_path_factory, good):
    "One application with an upload, for requests that only read"
    s = read_settings(ServiceSettings, dict(data_dir=str(tmp_path_factory.mktemp("one") / "data"), size="tiny"))
    jobs = Jobs(s.data_dir, max_queued=3)
    c = TestClient(create_app(s, jobs, None), base_url="http://localhost", raise_server_exceptions=False)
    c.jobs, c.service = jobs, c.app.state.service
    c.file_id = c.post("/upload-data", files={"file": ("discs.zip", good)}).json()["file_id"]
    yield c
    jobs.stop()


def wrong_values():
    "A value out of range, and one of the wrong type, for each field of the form"
    for group, fields in request_form().items():
        for f in fields:
            yield group, f["name"], [1]
            if f["choices"]: yield group, f["name"], "none of these"
            elif f["type"] in ("int", "float"):
                yield group, f["name"], f["minimum"] - 1
                yield group, f["name"], f["maximum"] * 2 + 1
                yield group, f["name"], True
                yield group, f["name"], "1"


@pytest.mark.parametrize("group, name, value", [*wrong_values()], ids=lambda v: str(v)[:24])
def test_every_setting_has_its_range(with_file, group, name, value):
    body = refused(with_file.post("/train", json={"job_name": "a", "data_file_id": with_file.file_id, group: {name: value}}),
                   f"{group}.{name}")
    assert body["errors"][0]["field"] == f"{group}.{name}"


BAD_TRAIN = [
    ({}, "train.job_name"), (dict(job_name=""), "train.job_name"), (dict(job_name="\u0007"), "train.job_name"),
    (dict(job_name=3), "train.job_name"), (dict(job_name="a" * 201), "train.job_name"), (dict(data_file_id=None), "train.data_file_id"),
    (dict(data_file_id="../../etc"), "file.unknown"),
    (dict(training_confg={}), "train.unknown"), (dict(training_config=[]), "training_config.type"),
    (dict(lora_config="r"), "lora_config.type"), (dict(training_config=dict(learning_rat=1)), "training_config.unknown"),
    (dict(lora_config=dict(rank=1)), "lora_config.unknown"),
    *((dict(training_config={name: value}), "training_config.unknown") for name, value in (("output_dir", "/tmp/x"), ("data", "/etc"),
        ("trust_remote_code", True), ("adapter", "/x"), ("hub_model_id", "a/b"), ("report_to", "wandb"), ("resume", "true"),
        ("vllm_server_base_url", "http://x"), ("size", "gpu"))),
    (dict(training_config=dict(reward_function="os:system")), "training_config.reward_function"),
    (dict(training_config=dict(model="/etc/passwd")), "training_config.model"),
    (dict(training_config=dict(lr=1e-4, learning_rate=1e-4)), "training_config.learning_rate"),
    (dict(training_config=dict(batch_size=12)), "training_config.batch_size"),
    (dict(training_config=dict(batch_size=1024)), "training_config.batch_size")]


@pytest.mark.parametrize("change, code", BAD_TRAIN, ids=range(len(BAD_TRAIN)))
def test_bad_requests_for_training(with_file, change, code):
    base = {} if change == {} else dict(job_name="a", data_file_id=with_file.file_id)
    body = refused(with_file.post("/train", json=base | change), code)
    if code.endswith("unknown") and code != "file.unknown" and "learning_rat" in str(change):
        assert "did you mean 'learning_rate'" in body["detail"]
    assert with_file.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize("size, rows, batch, said", [
    ("tiny", 60, (60, 1), "batch_size is 60: whole groups of 6 answers"), ("tiny", 6, (18, 1), "batch_size is 18: a step takes 3"),
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
        assert settings.max_steps == {None: 200, 50: -1, 2: 3}[config.get("num_epochs")]
        assert any("use_4bit is off" in n for n in job["notes"]) == bool(config.get("use_4bit"))
        assert with_file.get(f"/jobs/{job['job_id']}").json()["notes"] == job["notes"]
        assert job["data_file_id"] == with_file.file_id and "data" not in job["parameters"] and str(
            with_file.service.settings.data_dir) not in json.dumps(job)
        with_file.delete(f"/jobs/{job['job_id']}")
        assert with_file.delete(f"/jobs/{job['job_id']}?purge=true").status_code == 204


# the queue

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
    assert c.get(f"/jobs/{job}/metrics").json() == dict(rows=[], next_step=0)
    assert c.get(f"/jobs/{job}/rollouts").json() == dict(step=0, groups=[])
    c.delete(f"/jobs/{job}"), c.delete(f"/jobs/{job}?purge=true")


@pytest.mark.parametrize("path, code", [("/files?limit=0", "query.value"), ("/files?limit=501", "query.value"),
    ("/files?limit=x", "query.value"), ("/files?limit=1&limit=2", "query.value"), ("/files?limt=1", "query.unknown"),
    ("/files?after=none", "query.value"), ("/jobs?status=lost", "query.value"),
    ("/jobs?after=x", "query.value"), ("/data-format?x=1", "query.unknown"), ("/files/ID/rows?after=-1", "query.value"),
    ("/files/ID/rows/2/image?size=9999", "query.value"), ("/files?limit=1e999", "query.value"),
    ("/files?limit=" + "9" * 5000, "query.value")])
def test_query_parameters(with_file, path, code): refused(with_file.get(path.replace("ID", with_file.file_id)), code)


def test_pages_of_uploads_and_rows(with_file, good):
    c = with_file
    c.post("/upload-data", files={"file": ("C:\\dir\\..\\o\u202eld\u0007.zip", good)})
    names = [f["filename"] for f in c.get("/files").json()["files"]]
    assert names[1] == "discs.zip" and not set(names[0]) & set("\\/\u0007\u202e")
    page = c.get("/files?limit=1").json()
    assert c.get(f"/files?limit=1&after={page['next']}").json()["files"][0]["file_id"] == c.file_id
    rows, after = [], 0
    while after is not None:
        page = c.get(f"/files/{c.file_id}/rows?limit=10&after={after}").json()
        rows, after = rows + page["rows"], page["next"]
    assert [r["row"] for r in rows] == list(range(2, 26))
    small = c.get(rows[0]["image"] + "?size=40")
    with Image.open(io.BytesIO(small.content)) as image:
        assert max(image.size) == 40 and f"image/{image.format.lower()}" == small.headers["content-type"]
    with Image.open(io.BytesIO(c.get(rows[0]["image"] + "?size=1024").content)) as image:
        assert image.size == (112, 112), "a picture is never made larger"
    other = page = c.get("/files?limit=1").json()["files"][0]["file_id"]
    assert c.delete(f"/files/{other}").status_code == 204
    refused(c.get(f"/files/{other}"), "file.unknown")


def test_faults_of_ours(client, monkeypatch, caplog):
    c = client()
    def broken(*args, **kwargs): raise ZeroDivisionError("secret words")
    monkeypatch.setattr(c.jobs, "list", broken)
    assert "secret words" not in refused(c.get("/jobs"), "server.error")["detail"]
    assert "secret words" in caplog.text
    def unavailable(*args, **kwargs): raise LedgerUnavailable("the ledger cannot be used now: disk I/O error")
    monkeypatch.setattr(c.jobs, "get", unavailable)
    answer = c.get("/jobs/x")
    refused(answer, "ledger.unavailable")
    assert answer.headers["retry-after"]


# doors

DOORS = [
    (dict(), None, 200), (dict(authorization=""), "door.token", 401), (dict(authorization="Bearer wrong"), "door.token", 401),
    (dict(authorization="Basic secret"), "door.token", 401), (dict(authorization="", cookie="vlrlbook_token=secret"), None, 200),
    (dict(authorization="", cookie="vlrlbook_token=sécret"), "door.token", 401),
    (dict(host="evil.example"), "door.host", 403), (dict(host="localhost.evil.example"), "door.host", 403),
    (dict(host="localhost:8000"), None, 200), (dict(host="127.0.0.1"), None, 200), (dict(host="[::1]:8000"), None, 200),
    (dict(host=""), "door.host", 403)]


@pytest.mark.parametrize("headers, code, status", DOORS, ids=range(len(DOORS)))
def test_doors_for_reading(client, headers, code, status):
    answer = client().get("/files", headers={k: v.encode() for k, v in headers.items()})
    assert answer.status_code == status
    if code: refused(answer, code)
    assert answer.headers["x-content-type-options"] == "nosniff" and "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("headers, inside",
                         [(dict(origin="http://localhost"), True), (dict(origin="http://localhost:9999"), False),
                          (dict(origin="null"), False), (dict(origin="https://evil.example"), False),
                          ({"sec-fetch-site": "cross-site"}, False), ({"sec-fetch-site": "same-site"}, False),
                          ({"sec-fetch-site": "same-origin"}, True)])
def test_doors_for_changing(client, headers, inside):
    answer = client().post("/clean-up", headers=headers)
    if inside: assert answer.json() == dict(files=[], jobs=[])
    else: refused(answer, "door.origin")


def test_token_in_a_cookie(client):
    c = client()
    answer = c.get("/?token=secret", headers={"authorization": ""}, follow_redirects=False)
    assert answer.status_code == 303 and all(w in answer.headers["set-cookie"] for w in ("HttpOnly",
        "SameSite=strict")) and "token" not in answer.headers["location"]
    assert "set-cookie" not in c.get("/?token=wrong", headers={"authorization": ""}, follow_redirects=False).headers
    refused(client().get("/", headers={"authorization": ""}), "door.token")


@pytest.mark.parametrize("given, message", [(dict(host="0.0.0.0", token=False), "without a token"), (dict(port=70000), "port"),
    (dict(on_exit="stay"), "on_exit"), (dict(size="huge"), "size"), (dict(slots=0), "slots"), (dict(prot=1), "did you mean 'port'")])
def test_settings_that_cannot_be(given, message):
    with pytest.raises(SettingsError, match=message): read_settings(ServiceSettings, given)


def test_names_of_hosts():
    assert [host_name(h) for h in ("localhost", "localhost:1", "[::1]:8000", "::1", "")] == ["localhost", "localhost", "[::1]", "", ""]


def test_streams_have_a_limit(client, good):
    c = client(streams=0)
    file_id = c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"]
    job = c.post("/train", json=dict(job_name="a", data_file_id=file_id)).json()["job_id"]
    refused(c.get(f"/jobs/{job}/events"), "events.busy")


def test_clean_up_by_age(client, good):
    c = client()
    ids = [c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"] for _ in range(2)]
    jobs = [c.post("/train", json=dict(job_name="a", data_file_id=ids[0])).json()["job_id"] for _ in range(2)]
    c.delete(f"/jobs/{jobs[0]}")
    assert c.post("/clean-up?older_than_days=1").json() == dict(files=[], jobs=[])
    assert c.post("/clean-up?older_than_days=0").json() == dict(files=[ids[1]], jobs=[jobs[0]]), "what a waiting job needs stays"
    assert [p.name for p in c.service.uploads.root.iterdir()] == [ids[0]]


def test_age_of_uploads_is_days_of_service(client, good, monkeypatch):
    "A wall clock that is wrong by half a century deletes nothing; two days of service do, a restart between them or not"
    c = client()
    with monkeypatch.context() as wrong:
        wrong.setattr("vlrlbook.service.now", lambda: "1970-01-01T00:00:00Z")
        file_id = c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"]
    assert "clock" not in c.get(f"/files/{file_id}").json()
    assert c.post("/clean-up?older_than_days=1").json() == dict(files=[], jobs=[])
    c.jobs.clock_base += 2 * 86400
    assert c.service.tidy(3) == []
    again = Uploads(c.service.settings.data_dir, c.jobs.clock)
    assert (again.older(1), again.older(3), again.known) == ([file_id], [], c.service.uploads.known)
    assert c.post("/clean-up?older_than_days=1").json() == dict(files=[file_id], jobs=[])


def test_an_upload_of_an_older_version_counts_from_now(client, good):
    c = client()
    file_id = c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"]
    path = c.service.uploads.root / file_id / "upload.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "clock"}))
    c.jobs.clock_base += 2 * 86400
    assert Uploads(c.service.settings.data_dir, c.jobs.clock).older(1) == []


# a real server

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


@pytest.fixture(scope="module")
def done(server, good):
    job = server.train(server.upload(good).json()["file_id"], max_steps=2).json()
    return server.until(job["job_id"], "completed")["job_id"]


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


def raw(server, data, close=True):
    "Send bytes to the server, then hang up (or not)"
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(data)
    if close: s.close()
    return s


def posted(server, body, length=None):
    return (f"POST /upload-data HTTP/1.1\r\nHost: localhost\r\nAuthorization: {server.api.headers['Authorization']}\r\nContent-Type: "
            f"multipart/form-data; boundary=xyz\r\nContent-Length: {length or len(body)}\r\n\r\n").encode() + body


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_cut_uploads_leave_nothing(server, percent):
    body = form([(FILE, os.urandom(3 << 20))])
    before = server.get("/files").json()
    for _ in range(3):
        client = raw(server, posted(server, body[:len(body) * percent // 100], len(body)), close=False)
        while not any((server.folder / "data" / "tmp").iterdir()): time.sleep(0.01)
        client.close()
    end = time.monotonic() + 5
    while any((server.folder / "data" / "tmp").iterdir()) and time.monotonic() < end: time.sleep(0.05)
    assert not list((server.folder / "data" / "tmp").iterdir())
    assert server.get("/files").json() == before


def test_stalled_uploads_are_dropped(tmp_path, trainer):
    served = Served(tmp_path, "--stall_seconds", "0.5")
    s = raw(served, posted(served, b"--xyz\r\n", 1000), close=False)
    s.settimeout(20)
    answer = "".join(iter(lambda: s.recv(65536).decode(), ""))
    assert answer.startswith("HTTP/1.1 408") and '"upload.stalled"' in answer
    seen.add("upload.stalled")
    assert served.stop() == 0


def test_half_a_request_does_not_stay_for_ever(tmp_path):
    served = Served(tmp_path, "--stall_seconds", "0.5")
    for begun in (b"", b"GET /files HTTP/1.1\r\nHost: local"):
        s = raw(served, begun, close=False)
        s.settimeout(20)
        assert s.recv(1000) == b"", "the server hangs up"
    assert served.get("/files").status_code == 200
    time.sleep(1)
    assert served.get("/files").status_code == 200, "an idle connection that has asked before may stay"
    assert served.stop() == 0


def test_sigterm_with_a_stalled_upload_and_a_stream(tmp_path, trainer, good):
    served = Served(tmp_path, env={"VLRLBOOK_TRAINER": trainer})
    job = served.train(served.upload(good).json()["file_id"], max_steps=100_000).json()["job_id"]
    served.until(job, "training")
    raw(served, posted(served, b"--xyz\r\n", 1000), close=False)
    lines = served.get(f"/jobs/{job}/events", stream=True).iter_lines()
    assert next(lines) == b"event: status"
    assert served.stop(seconds=10) == 0 and "stopped" in served.last
    assert not list((tmp_path / "data" / "tmp").iterdir())
    log = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    assert {"time", "level", "event"} <= set(log[0]) and any(line["event"] == "train" and line["job_id"] == job for line in log)
    again = Served(tmp_path, env={"VLRLBOOK_TRAINER": trainer}) # the job went on, and is found
    assert again.get(f"/jobs/{job}").json()["status"] == "training"
    again.delete(f"/jobs/{job}")
    again.until(job, "cancelled")
    assert again.stop() == 0


def test_jobs_are_interrupted_by_option(tmp_path, trainer, good):
    "`--on_exit interrupt`: a trainer that does not listen is killed after its grace, and the next server starts it again"
    served = Served(tmp_path, "--on_exit", "interrupt", "--grace", "2", env={"VLRLBOOK_TRAINER": trainer})
    job = served.train(served.upload(good).json()["file_id"], max_steps=100_000).json()["job_id"]
    served.until(job, "training")
    while not served.get(f"/jobs/{job}/metrics").json()["rows"]: time.sleep(0.05)
    assert served.stop(seconds=10) == 0
    assert not tagged(job_tag(tmp_path / "data" / "jobs" / job))
    again = Served(tmp_path, env={"VLRLBOOK_TRAINER": trainer})
    while again.get(f"/jobs/{job}").json()["attempt"] < 2: time.sleep(0.05)
    assert "interrupted" in [m["to"] for m in again.get(f"/jobs/{job}/moves").json()["moves"]]
    again.delete(f"/jobs/{job}")
    again.until(job, "cancelled")
    assert again.stop() == 0


def test_two_servers(server):
    second = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", "0", "--data-dir", "data"], cwd=server.folder,
                            capture_output=True, text=True)
    assert second.returncode and "another server" in second.stderr and "Traceback" not in second.stderr
    taken = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", str(server.port), "--data-dir", "other"],
                           cwd=server.folder, capture_output=True, text=True)
    assert taken.returncode and "cannot listen" in taken.stderr
    open_door = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "serve", "--host", "0.0.0.0", "--no-token"], cwd=server.folder,
                               capture_output=True, text=True)
    assert open_door.returncode and "without a token" in open_door.stderr


def test_keys_are_nowhere(server, done):
    secret = b"a-key-that-nobody-may-see"
    for path in (server.folder / "data").rglob("*"):
        if path.is_file(): assert secret not in path.read_bytes(), path
    assert secret not in (server.folder / "serve.log").read_bytes()
    token = server.api.headers["Authorization"][7:].encode()
    commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not [c for c in commands if secret in c or token in c]
    for path in (server.folder / "data").rglob("*"):
        if path.is_file() and path.name != "token": assert token not in path.read_bytes(), path


def test_a_full_disk(small_disk, good):
    served = Served(small_disk, "--reserve_mb", "0")
    big = archive([("main.csv", ROW), ("images/a.png", os.urandom(6 << 20))], zipfile.ZIP_STORED)
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (4 << 20))
    for _ in range(3): refused(served.upload(big), "storage.full")
    assert not list((small_disk / "data" / "tmp").iterdir()) and served.get("/files").json()["files"] == []
    with pytest.raises(OSError), open(filler, "ab", buffering=0) as f:
        while f.write(b"\0" * 4096) == 4096: pass
        raise OSError
    refused(served.upload(good), "storage.full")
    filler.unlink()
    assert served.upload(good).status_code == 200
    assert served.stop() == 0


def test_what_is_refused_is_heard(server):
    "A client that sends on while it is refused still reads the answer"
    refused(server.post("/upload-data", files={"file": ("x.zip", os.urandom(30 << 20))}, headers={"Origin": "https://evil.example"}),
            "door.origin")
    refused(requests.post(server.url + "/upload-data", files={"file": ("x.zip", os.urandom(30 << 20))}), "door.token")


def test_many_readers_and_no_error(server, done):
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: server.get(f"/jobs/{done}").status_code, range(600)))
    assert set(answers) == {200}


# the example of the page, as it stands

def five_lines():
    "The cell of chapter 08 that a program of five lines is"
    cells = ["".join(c["source"]) for c in json.loads((ROOT / "nbs" / "08_service.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
    return next(c for c in cells if "/upload-data" in c and "/download" in c)


def test_five_lines_on_an_empty_machine(tmp_path, good):
    "Upload, train for real, poll, download; the adapter loads"
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText
    served = Served(tmp_path, env={"VLRLBOOK_CACHE": str(tmp_path / "cache")})
    (tmp_path / "discs.zip").write_bytes(good)
    assert "http://localhost:8000" in five_lines() and "training_config={}" in five_lines() and "vlrlbook-data" in five_lines()
    code = "import time, requests\n" + five_lines().replace("http://localhost:8000", served.url).replace("vlrlbook-data",
        "data").replace("training_config={}", f"training_config={SHORT}")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert served.stop() == 0
    with zipfile.ZipFile(tmp_path / "adapter.zip") as z: z.extractall(tmp_path / "adapter")
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert SEVEN | {"out.ipynb", "manifest.json"} <= names
    base = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), tmp_path / "adapter")
    assert model.active_adapters == ["default"]


# the document

def test_openapi_is_whole(with_file):
    document = with_file.get("/openapi.json").json()
    assert document == json.loads(json.dumps(openapi()))
    for e in endpoints:
        operation = document["paths"][e.path][e.method.lower()]
        told = {c for r in operation["responses"].values() for c in r.get("content", {}).get("application/problem+json",
            {}).get("examples", {})}
        assert {*e.errors, "door.token", "door.host"} <= told
        assert operation["summary"] and operation["responses"]
    assert {c for e in endpoints for c in e.errors} | {"door.token", "door.host", "door.origin", "door.method", "door.path",
        "server.error"} == set(problems), "a code that no address may answer with"
    assert {e["code"] for e in with_file.get("/data-format").json()["errors"]} == set(problems)


def test_front_for_programs_and_people(with_file):
    assert with_file.get("/").json()["trains"] == "tiny"
    assert with_file.get("/settings").json() == json.loads(json.dumps(request_form()))
    assert zipfile.ZipFile(io.BytesIO(with_file.get("/sample-data").content)).testzip() is None


def test_strangers_texts_are_cleaned():
    assert clean("a\u0000\u001b[31m\u202e" + "b" * 500) == "a··[31m·" + "b" * 191 + "…"


def test_schemathesis(server):
    "Requests drawn from our own document: never a 5xx, only documented statuses and media types"
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings as bounded
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
    schema, called = schemathesis.openapi.from_dict(openapi()), []
    for operation in schema.get_all_operations():
        operation = operation.ok()
        @given(case=operation.as_strategy())
        @bounded(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
                 suppress_health_check=list(HealthCheck))
        def ask(case):
            response = case.call(session=server.api, base_url=server.url)
            called.append(response.status_code)
            case.validate_response(response,
                                   checks=[not_a_server_error, status_code_conformance, content_type_conformance,
                                           response_schema_conformance])
        ask()
    assert len(called) > 100


@pytest.mark.parametrize("kind", ["json", "csv", "zip"])
def test_bytes_at_random(kind):
    "Atheris from kept seeds, two seconds each; VLRLBOOK_FUZZ_SECONDS gives it longer"
    pytest.importorskip("atheris")
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "fuzz.py"), kind, os.environ.get("VLRLBOOK_FUZZ_SECONDS", "2")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1]) > 20


def test_every_code_was_met():
    "The last test: each code of the table was answered somewhere above"
    assert set(problems) - seen == set()
