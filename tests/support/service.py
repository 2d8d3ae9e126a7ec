"""What the tests of the service share: a server, an application without a network, bodies made by hand, and `refused`.

Codes that were met are counted file by file: `CODES_MET_IN` says which file must meet which, all together the whole table."""
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests
from conftest import ROOT
from PIL import Image
from starlette.testclient import TestClient
from vlrlbook.core import read_settings
from vlrlbook.data import synthetic_counting, write_counting_zip
from vlrlbook.jobs import Jobs
from vlrlbook.service import ServiceSettings, create_app, problems
from vlrlbook.service.addresses import codes_of

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


GOOD = archive()


def form(parts, boundary="xyz", end=True):
    "A multipart body by hand"
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), data) for head, data in parts)
    return body + (b"--%s--\r\n" % boundary.encode() if end else b"")


FILE = 'Content-Disposition: form-data; name="file"; filename="a.zip"'


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_counting_zip(synthetic_counting(24, seed=3), tmp_path_factory.mktemp("zip") / "discs.zip").read_bytes()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainer") / "trainer.py"
    path.write_text(TRAINER)
    return f"{sys.executable} {path}"


running = []


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


@pytest.fixture(scope="module")
def done(server, good):
    job = server.train(server.upload(good).json()["file_id"], max_steps=2).json()
    return server.until(job["job_id"], "completed")["job_id"]


def raw(server, data, close=True):
    "Send bytes to the server, then hang up (or not)"
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(data)
    if close: s.close()
    return s


def posted(server, body, length=None):
    return (f"POST /upload-data HTTP/1.1\r\nHost: localhost\r\nAuthorization: {server.api.headers['Authorization']}\r\nContent-Type: "
            f"multipart/form-data; boundary=xyz\r\nContent-Length: {length or len(body)}\r\n\r\n").encode() + body


seen = set()  # codes that `refused` has met in this file
CODES_MET_IN = {
    "uploads": {*codes_of("upload", "zip", "csv", "image", "row", "intake", "storage")},
    "cases": {"ask.failed", "body.stalled", "file.damaged", "job.damaged", "job.no_data"},
    "requests": {*codes_of("body", "json", "train", "training_config", "lora_config", "query"), "idempotency.key"} - {"body.stalled"},
    "results": {*codes_of("job", "events", "file", "range"), "idempotency.reused", "door.path", "door.method"}
    - {"file.damaged", "job.damaged", "job.no_data"},
    "rank": {*codes_of("rank")},
    "app": {"door.token", "door.host", "door.origin", "ledger.unavailable", "server.error"}}


@pytest.fixture(scope="module", autouse=True)
def nothing_stays():
    "Codes are counted anew in each file; servers of tests that failed are ended too"
    seen.clear()
    yield
    for served in running:
        if served.process.poll() is None: served.process.kill()


def refused(response, code):
    "A refusal in its form, with a code of the table"
    assert response.headers["content-type"] == "application/problem+json", (response.status_code, response.text[:300])
    body = response.json()
    assert {"type", "status", "code", "title", "detail"} <= set(body)
    assert (body["code"], response.status_code, body["status"]) == (code, problems[code][0], problems[code][0]), body
    assert "Traceback" not in response.text and str(ROOT) not in response.text and "/tmp/" not in response.text
    seen.update([code, *(e["code"] for e in body.get("errors", []))])
    return body
