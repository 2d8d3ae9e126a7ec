"""The service as a whole: doors, faults of ours, two servers, stops, the page's example, the OpenAPI document, bytes at random."""
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests
from conftest import ROOT, SEVEN, SHORT
from support.service import (  # fixtures too
    CODES_MET_IN, Served, client, done, good, nothing_stays, posted, raw, refused, seen, server, trainer,
    with_file)
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.jobs import LedgerUnavailable, job_tag, tagged
from vlrlbook.service import ServiceSettings, clean, endpoints, host_name, openapi, problems, request_form
from vlrlbook.service.server import _goodbye


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


DOORS = [
    (dict(), None, 200), (dict(authorization=""), "door.token", 401), (dict(authorization="Bearer wrong"), "door.token", 401),
    (dict(authorization="Basic secret"), "door.token", 401), (dict(authorization="", cookie="vlrlbook_token=secret"), "door.token", 401),
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


def test_nobody_without_the_token_sees_the_facts(client):
    "The door and the handler of `/` judge alike what asks for the page, and what shows a token"
    c = client()
    def asked(address, *accept):
        headers = [("authorization", ""), *(("accept", x) for x in accept or ["application/json"])]
        return c.get(address, headers=headers, follow_redirects=False)
    for address in ("/?xtoken=1", "/?a=token=", "/?x;token=1", "/?tokens=1"): refused(asked(address), "door.token")
    for address in ("/?token", "/?token=", "/?token=wrong", "/?%74oken=wrong", "/?a=1&token=%ff"):
        answer = asked(address)
        assert (answer.status_code, answer.text, answer.headers["location"]) == (303, "", "./") and "set-cookie" not in answer.headers
    assert "set-cookie" in asked("/?%74oken=secret").headers
    for accept in (("application/json", "text/html"), ("text/html", "application/json")):
        assert asked("/", *accept).headers["content-type"] == "text/html; charset=utf-8"


def test_a_page_that_is_missing_does_not_become_the_facts(client, monkeypatch, tmp_path):
    monkeypatch.setattr("vlrlbook.service.front_page.web_folder", lambda: tmp_path)
    refused(client().get("/", headers={"authorization": "", "accept": "text/html"}), "door.path")


@pytest.mark.parametrize("given, message", [(dict(host="0.0.0.0", token=False), "without a token"), (dict(port=70000), "port"),
    (dict(on_exit="stay"), "on_exit"), (dict(size="huge"), "size"), (dict(slots=0), "slots"), (dict(prot=1), "did you mean 'port'")])
def test_settings_that_cannot_be(given, message):
    with pytest.raises(SettingsError, match=message): read_settings(ServiceSettings, given)


def test_the_package_is_light():
    "The process that reads an archive imports it, and who has no extra `serve` may read a form or a download with it"
    heavy = ("torch", "transformers", "pandas", "matplotlib", "starlette", "fastapi", "uvicorn", "python_multipart")
    code = f"import sys, vlrlbook.service; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_names_stay_where_they_were():
    "What could be imported from the service while it was one module still can be"
    import vlrlbook.service
    names = json.loads((ROOT / "tests" / "public_names.json").read_text())["service"]
    assert [n for n in names if not hasattr(vlrlbook.service, n)] == []
    assert set(vlrlbook.service.__all__) <= set(dir(vlrlbook.service))


def test_names_of_hosts():
    assert [host_name(h) for h in ("localhost", "localhost:1", "[::1]:8000", "::1", "")] == ["localhost", "localhost", "[::1]", "", ""]


def test_small_replies_are_sent_at_once():
    "A reply is two pieces; without TCP_NODELAY the second waits 40 ms for the client's acknowledgement of the first"
    import asyncio
    from vlrlbook.service import listen
    async def at_once():
        found, sock = asyncio.get_running_loop().create_future(), listen("127.0.0.1", 0)
        def came(reader, writer):
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
        async with await asyncio.start_server(came, sock=sock):
            _, writer = await asyncio.open_connection(*sock.getsockname())
            try: return await found
            finally: writer.close()
    assert asyncio.run(at_once())


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


@pytest.mark.parametrize("on_exit, counts, line", [
    ("keep", None, "jobs that train go on, and are found again at the next start"),
    ("interrupt", dict(saved=0, killed=0, running=0), "no job was interrupted"),
    ("interrupt", dict(saved=2, killed=0, running=0), "jobs that trained: 2 saved and wait"),
    ("interrupt", dict(saved=1, killed=0, running=3),
     "jobs that trained: 1 saved and wait; 3 still at work: each has 10 s in all to save, then it is killed")])
def test_the_last_line_tells_what_became_of_jobs(on_exit, counts, line):
    assert _goodbye(on_exit, counts, 10.0) == f"stopped; {line}"
    assert _goodbye("interrupt", None, 10.0).startswith("stopped at once;")


def test_jobs_are_interrupted_by_option(tmp_path, trainer, good):
    "`--on_exit interrupt`: a trainer that does not listen is killed after its grace, and the next server starts it again"
    served = Served(tmp_path, "--on_exit", "interrupt", "--grace", "2", env={"VLRLBOOK_TRAINER": trainer})
    job = served.train(served.upload(good).json()["file_id"], max_steps=100_000).json()["job_id"]
    served.until(job, "training")
    while not served.get(f"/jobs/{job}/metrics").json()["rows"]: time.sleep(0.05)
    assert served.stop(seconds=10) == 0
    assert served.last.strip() == "stopped; jobs that trained: 1 killed before they had saved, 2 s after the order (--grace)"
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


def test_what_is_refused_is_heard(server):
    "A client that sends on while it is refused still reads the answer"
    refused(server.post("/upload-data", files={"file": ("x.zip", os.urandom(30 << 20))}, headers={"Origin": "https://evil.example"}),
            "door.origin")
    refused(requests.post(server.url + "/upload-data", files={"file": ("x.zip", os.urandom(30 << 20))}), "door.token")


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


def test_openapi_is_whole(with_file):
    document = with_file.get("/openapi.json").json()
    assert document == json.loads(json.dumps(openapi()))
    for e in endpoints:
        operation = document["paths"][e.path][e.method.lower()]
        told = {c for r in operation["responses"].values() for c in r.get("content", {}).get("application/problem+json",
            {}).get("examples", {})}
        assert {*e.errors, "door.token", "door.host"} <= told
        assert operation["summary"] and operation["responses"]
        takes_body = e.name in ("train", "rank", "upload", "ask")
        assert ("requestBody" in operation) == takes_body, e.name
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
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "support" / "fuzz.py"), kind, os.environ.get("VLRLBOOK_FUZZ_SECONDS", "2")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1]) > 20


def test_every_code_is_met_in_some_file():
    "`CODES_MET_IN` leaves nothing of the table out, and names nothing that is not in it"
    assert set.union(*CODES_MET_IN.values()) == set(problems)


def test_every_code_of_app_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    assert CODES_MET_IN["app"] - seen == set()
