"""What broke the service in the field or under attack, each as a test that failed before it was mended; kinds, not lines."""
import builtins
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import pytest
import requests
from support.faults import TRAINER, everybody, history_is_legal, opened, served, supervisors, until, wait
from support.service import Served, client, good, nothing_stays, raw, refused, seen, trainer, with_file
from vlrlbook.folders import new_folder, write_json
from vlrlbook.jobs import Jobs, JobsError, Outcome, ends, give_order, take_lock
from vlrlbook.jobs.lock_file import order_of_lock_file
from vlrlbook.jobs.outcome import outcome_content
from vlrlbook.service import own_token, plan, request_form
from vlrlbook.service.refusals import clean
from vlrlbook.service.results import pack
from vlrlbook.service.run_log_reader import RunLog
from vlrlbook.service.run_length import rows_to_train_on
from vlrlbook.service.sessions import Sessions, session_cookie
from vlrlbook.settings import SettingsError


def uploaded(c, data): return c.post("/upload-data", files={"file": ("x.zip", data)}).json()["file_id"]
def train(c, file_id, **config): return c.post("/train", json=dict(job_name="a", data_file_id=file_id, training_config=config))


# Nothing finished is lost

def finished(tmp_path, n=2):
    "A data directory with finished jobs, its server stopped"
    with served(tmp_path) as jobs:
        ids = [jobs.submit(f"job {i}", dict(max_steps=1), TRAINER).job_id for i in range(n)]
        for i in ids: until(jobs, jobs.get(i), *ends)
    return ids


@pytest.mark.parametrize("how", ["missing", "empty", "text", "foreign"])
def test_jobs_without_their_ledger(tmp_path, how):
    ids = finished(tmp_path)
    for path in tmp_path.glob("ledger.sqlite3*"): path.unlink()
    ledger = tmp_path / "ledger.sqlite3"
    if how == "empty": ledger.touch()
    if how == "text": ledger.write_text("no ledger, " * 500)
    if how == "foreign":
        import sqlite3
        with sqlite3.connect(ledger) as db: db.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(JobsError, match="holds 2 jobs.*--adopt"): Jobs(tmp_path)
    assert all((tmp_path / "jobs" / i / "result" / "manifest.json").exists() for i in ids)
    jobs = Jobs(tmp_path, adopt=True)
    try:
        assert {(j.job_id, j.job_name, j.status, j.progress) for j in jobs.list()[0]} == {
                 (ids[0], "job 0", "completed", 100), (ids[1], "job 1", "completed", 100)}
        assert how not in ("text", "foreign") or (tmp_path / "ledger.sqlite3.damaged-1").exists()
    finally: jobs.stop()


def test_the_write_ahead_log_beside_an_empty_ledger_stays(tmp_path):
    "SQLite deletes it when it opens a file of no bytes, and with it every job"
    with opened(tmp_path) as jobs:
        jobs.submit("a", {})
        kept = {name: (tmp_path / name).read_bytes() for name in ("ledger.sqlite3", "ledger.sqlite3-wal")}
    (tmp_path / "ledger.sqlite3").write_bytes(b"")
    (tmp_path / "ledger.sqlite3-wal").write_bytes(kept["ledger.sqlite3-wal"])
    with pytest.raises(JobsError, match="is empty"): Jobs(tmp_path)
    assert (tmp_path / "ledger.sqlite3-wal").read_bytes() == kept["ledger.sqlite3-wal"]


def test_adopted_jobs_go_on_where_they_were(tmp_path):
    with opened(tmp_path) as jobs:
        waiting = jobs.submit("waiting", dict(max_steps=2), TRAINER).job_id
    with served(tmp_path, restarts=0) as jobs:
        until(jobs, jobs.get(waiting), "completed")
        failed = jobs.submit("failed", dict(max_steps=4, save_steps=1, end="exit"), TRAINER)
        until(jobs, failed, "failed")
    with opened(tmp_path) as jobs: queued = jobs.submit("queued", dict(max_steps=2), TRAINER).job_id
    for path in tmp_path.glob("ledger.sqlite3*"): path.unlink()
    with served(tmp_path, adopt=True) as jobs:
        assert jobs.get(waiting).status == "completed" and jobs.get(failed.job_id).error_code == "trainer.exit"
        assert until(jobs, jobs.get(queued), *ends).status == "completed"
        assert jobs.resume(failed.job_id).status == "queued"


def test_a_job_that_was_cancelled_while_it_waited_is_adopted_as_cancelled(tmp_path):
    "Queued, interrupted, cancelled and resumed again: the answer that its owner got holds without the ledger, too"
    with opened(tmp_path) as jobs:
        ids = {name: jobs.submit(name, dict(max_steps=40, seconds=0.02, save_steps=1, end="exit" if name == "failed" else "well"),
                                 TRAINER).job_id for name in ("waited", "waits", "stopped", "on again", "failed")}
        for name in ("stopped", "on again", "failed"):
            folder = jobs.data.job(ids[name])
            jobs.ledger.move(ids[name], "queued", "training", "slot 0", attempt=1)
            give_order(folder.lock, "run", 1)
            if name == "failed": Outcome(folder).write(dict(attempt=1, **outcome_content("failed", "trainer.exit", "exit 1")))
            jobs.ledger.move(ids[name], "training", "failed" if name == "failed" else "interrupted", "its supervisor died")
        checkpoint = jobs.data.job(ids["on again"]).run / "checkpoint-1"
        write_checkpoint(checkpoint)
        for name in ("waited", "stopped", "on again"): assert jobs.cancel(ids[name]).status == "cancelled"
        assert jobs.resume(ids["on again"]).status == "queued"
    for path in tmp_path.glob("ledger.sqlite3*"): path.unlink()
    jobs = Jobs(tmp_path, adopt=True)
    try:
        assert {name: jobs.get(job_id).status for name, job_id in ids.items()} == {
            "waited": "cancelled", "waits": "queued", "stopped": "cancelled", "on again": "interrupted", "failed": "failed"}
        assert jobs.get(ids["stopped"]).attempt == 1
    finally: jobs.stop()


def test_a_late_order_stops_no_later_attempt(tmp_path):
    "Cancelled, resumed and started at once: the order that is left for a lost ledger must not reach the attempt that trains now"
    with opened(tmp_path) as jobs:
        job_id = jobs.submit("a", {}, TRAINER).job_id
        lock_file = jobs.data.job(job_id).lock
        held = take_lock(lock_file) # as the supervisor of attempt 2 has it
        give_order(lock_file, "run", 2)
        jobs.control._leave_order(job_id, "cancel", "queued")
        os.close(held)
        jobs.control._leave_order(job_id, "cancel", "cancelled") # it is in another state
        assert order_of_lock_file(lock_file) == ("run", 2)


def write_checkpoint(path):
    "A committed checkpoint, as small as one can be"
    path.parent.mkdir(exist_ok=True)
    with new_folder(path) as aside: (aside / "trainer_state.json").write_text('{"global_step": 1}')


def test_what_the_ledger_does_not_know_is_left_and_named(tmp_path, caplog):
    ids = finished(tmp_path, 1)
    jobs = tmp_path / "jobs"
    (jobs / "README.txt").write_text("notes")
    shutil.copytree(jobs / ids[0], jobs / "a copy")
    (tmp_path / "tmp" / "mine").mkdir()
    with opened(tmp_path): pass
    assert (
    jobs /
    "README.txt").exists() and (
        jobs /
        "a copy" /
        "result" /
        "manifest.json").exists() and (
            tmp_path /
            "tmp" /
             "mine").exists()
    assert "README.txt" in caplog.text and "a copy" in caplog.text


def test_what_was_to_be_removed_is_removed_by_the_next_server(tmp_path, monkeypatch):
    ids = finished(tmp_path, 1)
    with opened(tmp_path) as jobs:
        monkeypatch.setattr(jobs.data, "discard", lambda folder: None) # killed between the row and the folder
        monkeypatch.setattr(jobs.ledger, "removal_done", lambda job_id: None)
        jobs.remove(ids[0])
    assert (tmp_path / "jobs" / ids[0]).exists()
    with opened(tmp_path): pass
    assert not (tmp_path / "jobs" / ids[0]).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"file_id": 7}'])
def test_a_damaged_upload_is_named_and_the_others_are_there(client, good, content, caplog):
    c = client()
    ids = [uploaded(c, good) for _ in range(2)]
    (c.service.uploads.root / ids[0] / "upload.json").write_bytes(content)
    again = type(c.service.uploads)(c.service.settings.data_dir)
    assert list(again.known) == [ids[1]] and ids[0] in caplog.text and (again.root / ids[0] / "rows.jsonl").exists()


def test_a_copied_upload_is_not_taken_for_the_first(client, good, caplog):
    c = client()
    file_id = uploaded(c, good)
    root = c.service.uploads.root
    shutil.copytree(root / file_id, root / "a copy")
    assert list(type(c.service.uploads)(c.service.settings.data_dir).known) == [file_id] and "a copy" in caplog.text


@pytest.mark.parametrize("damaged", ["rows.jsonl", "000002.png", "report.json"])
def test_damaged_uploads_are_refused_before_a_job_starts(client, good, damaged):
    c = client()
    file_id = uploaded(c, good)
    path = c.service.uploads.root / file_id / damaged
    if not path.exists(): path = path.with_suffix(".jpg")
    path.write_bytes(b"")
    refused(train(c, file_id, max_steps=1), "file.damaged")
    if damaged != "report.json": refused(c.get(f"/files/{file_id}/rows/2/image"), "file.damaged")
    if damaged == "rows.jsonl": path.write_bytes(b"{\n"), refused(c.get(f"/files/{file_id}/rows"), "file.damaged")


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"{}", b'{"attempt": 1}', b"\xff\xfe"])
def test_a_damaged_outcome_holds_up_nobody(tmp_path, content):
    with served(tmp_path, slots=1) as jobs:
        first = jobs.submit("first", dict(max_steps=10**6, seconds=0.02), TRAINER)
        behind = jobs.submit("behind", dict(max_steps=1), TRAINER)
        wait(lambda: jobs.get(first.job_id).current_step > 1)
        (jobs.folder(first.job_id) / "outcome.json").write_bytes(content)
        assert jobs.cancel(first.job_id).status in ("cancelling", "cancelled")
        assert until(jobs, behind, *ends).status == "completed" and until(jobs, first, *ends).status == "cancelled"


@pytest.mark.parametrize("name", ["lock", ".outcome", "job.json", "parameters.json", "run"])
@pytest.mark.parametrize("how", ["folder", "file", "gone"])
def test_a_damaged_job_holds_up_nobody(tmp_path, name, how):
    with opened(tmp_path) as jobs:
        first, behind = (jobs.submit(name, dict(max_steps=1), TRAINER) for name in ("first", "behind"))
        path = jobs.folder(first.job_id) / name
        if path.exists(): path.unlink()
        if how == "folder": path.mkdir()
        if how == "file": path.write_bytes(b"{")
    with served(tmp_path, slots=1, restarts=1) as jobs:
        assert until(jobs, behind, *ends).status == "completed"
        assert until(jobs, first, *ends, "interrupted").status


def test_removing_a_job_whose_folder_is_gone(client, good):
    c = client()
    job = train(c, uploaded(c, good), max_steps=1).json()["job_id"]
    c.delete(f"/jobs/{job}")
    shutil.rmtree(c.jobs.folder(job))
    assert c.delete(f"/jobs/{job}?purge=true").status_code == 204
    refused(c.get(f"/jobs/{job}"), "job.unknown")


@pytest.mark.parametrize("name, content",
    [("notes.json",
    b"{"),
    ("notes.json",
    b"7"),
    ("run/rollouts_now.json",
    b"{"),
    ("run/rollouts_now.json",
    b"[]"),
    ("run/run_log.csv",
    b"\xff\0,\n\n"),
    ("run/run_log.csv",
    None),
    ("job.log",
    None),
    ("run",
     b"")])
def test_damaged_files_of_a_job_are_no_fault_of_ours(client, good, name, content):
    c = client()
    job = train(c, uploaded(c, good), max_steps=1).json()["job_id"]
    path = c.jobs.folder(job) / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)
    for tail in ("", "/metrics", "/rollouts", "/moves"): assert c.get(f"/jobs/{job}{tail}").status_code == 200
    if name == "job.log": refused(c.get(f"/jobs/{job}/log"), "job.damaged")


@pytest.mark.parametrize("content, mode, says", [(b"", 0o600, None), (b"\n", 0o600, None), (b"two words", 0o600, "holds no token"),
    (b"\xff" * 30, 0o600, "holds no token"), (b"own-token", 0o644, None)])
def test_tokens_that_cannot_be_used(tmp_path, content, mode, says):
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    if says:
        with pytest.raises(SettingsError, match=says): own_token(tmp_path)
        assert path.read_bytes() == content
    else:
        token = own_token(tmp_path)
        assert token == (content.decode().strip() or path.read_text()) and len(token) > 8 and path.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("name", ["jobs", "uploads", "tmp", "token/", "server.lock/", "ledger.sqlite3/", ""])
def test_a_directory_that_cannot_be_served(tmp_path, name):
    "One sentence with the name of what is in the way, no traceback, and what lies there stays"
    import subprocess
    path = tmp_path / "data" / name if name else tmp_path / "data"
    if name.endswith("/"): path.mkdir(parents=True)
    else: path.parent.mkdir(exist_ok=True), path.write_text("a file")
    done = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", "0", "--data-dir", "data"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode and len(said) == 1 and path.name in said[0] and "Errno" not in said[0] and path.exists()


# Downloads

def test_a_damaged_result_is_not_sent(tmp_path):
    ids = finished(tmp_path, 1)
    folder = tmp_path / "jobs" / ids[0]
    whole, digest = pack(folder)
    data = whole.read_bytes()
    whole.write_bytes(b"") # a power cut, or somebody's editor
    assert pack(folder) == (whole, digest) and whole.read_bytes() == data
    (folder / "result" / "adapter_model.safetensors").write_bytes(b"weights".upper())
    assert pack(folder) == (whole, digest) # packed while it was whole
    whole.unlink()
    with pytest.raises(Exception, match="other content"): pack(folder)


def test_what_lies_beside_a_result_is_not_sent(tmp_path):
    "A file that somebody has put into the folder since, a folder too; a manifest of no file is no result"
    ids = finished(tmp_path, 1)
    folder = tmp_path / "jobs" / ids[0]
    names = sorted(path.name for path in (folder / "result").iterdir())
    (folder / "result" / "foreign").write_bytes(b"{")
    (folder / "result" / "a folder").mkdir()
    with zipfile.ZipFile(pack(folder)[0]) as sent: assert sent.namelist() == names
    (folder / "download.zip").unlink()
    (folder / "result" / "manifest.json").write_text("{}")
    with pytest.raises(Exception, match="holds no file"): pack(folder)


def test_a_download_leaves_the_disk_its_reserve(tmp_path):
    ids = finished(tmp_path, 1)
    with pytest.raises(Exception, match="storage.full"): pack(tmp_path / "jobs" / ids[0], reserve=2**60)
    assert not list((tmp_path / "jobs" / ids[0]).glob("*download*"))


# Races

def test_starting_on_data_against_deleting_them(client, good, monkeypatch):
    c = client()
    submit = c.jobs.submit
    def slowly(*args, **more):
        time.sleep(0.3)
        return submit(*args, **more)
    monkeypatch.setattr(c.jobs, "submit", slowly)
    for wait_first in (0.1, 0):
        file_id, got = uploaded(c, good), {}
        def ask(): got["train"] = train(c, file_id, max_steps=1)
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(wait_first)
        got["delete"] = c.delete(f"/files/{file_id}")
        thread.join()
        said_yes = [name for name, answer in got.items() if answer.status_code < 300]
        assert len(said_yes) == 1, {name: answer.text for name, answer in got.items()}


@pytest.mark.parametrize("known", [True, False])
def test_data_that_vanish_while_they_are_looked_at(client, good, monkeypatch, known):
    "Their files go between the list of the folder and the look at each: found by the machine of moves, as a 500"
    c = client()
    file_id, scandir = uploaded(c, good), os.scandir
    def vanish(folder):
        monkeypatch.undo()
        shutil.rmtree(folder)
        if not known: c.service.uploads.known.pop(file_id)
        return scandir(folder)
    monkeypatch.setattr("vlrlbook.service.uploads.os.scandir", vanish)
    refused(train(c, file_id, max_steps=1), "file.damaged" if known else "file.unknown")


def test_resuming_without_data(client, good):
    c = client()
    file_id = uploaded(c, good)
    job = train(c, file_id, max_steps=1).json()["job_id"]
    c.delete(f"/jobs/{job}")
    assert c.delete(f"/files/{file_id}").status_code == 204
    refused(c.post(f"/jobs/{job}/resume"), "job.no_data")


def attempts(jobs, job_id):
    "Rows of a job at its first and at its second attempt, the second training"
    ledger = jobs.ledger
    ledger.move(job_id, "queued", "training", "slot 0", attempt=1, slot="0")
    first = ledger.job(job_id)
    ledger.move(job_id, "training", "interrupted", "died")
    ledger.move(job_id, "interrupted", "queued", "again")
    ledger.move(job_id, "queued", "training", "slot 0", attempt=2, slot="0")
    return first, ledger.job(job_id)


def test_who_looks_at_a_dead_attempt_leaves_the_next_one_alone(tmp_path, monkeypatch):
    with opened(tmp_path) as jobs:
        first, second = attempts(jobs, jobs.submit("a", {}).job_id)
        swept = []
        monkeypatch.setattr(jobs.backend, "sweep", lambda *args: swept.append(args) or True)
        jobs.running.look_at(first)
        assert not swept and tuple(jobs.ledger.job(first["job_id"])) == tuple(second)
        assert not jobs.ledger.move(first["job_id"], "training", "failed", "late", of_attempt=1)


def test_an_order_to_stop_reaches_the_attempt_that_trains(tmp_path, monkeypatch):
    from vlrlbook.jobs.lock_file import order_of_lock_file
    with opened(tmp_path) as jobs:
        job = jobs.submit("a", {}).job_id
        first, _ = attempts(jobs, job)
        row = jobs.records.row
        monkeypatch.setattr(jobs.records, "row", lambda job_id: first) # read before the second attempt began
        jobs.control.cancel(job)
        monkeypatch.setattr(jobs.records, "row", row)
        assert order_of_lock_file(jobs.folder(job) / "lock") == ("cancel", 2)


def test_a_slow_order_to_stop_leaves_the_second_attempt_no_trainer(client, monkeypatch):
    """sv-19, over HTTP: the supervisor dies, a DELETE that read the row before still looks, the dispatcher would have time to go on.

    Nothing moves without an order, and a job that is told to be cancelled has no trainer any more."""
    c = client()
    jobs = c.jobs
    jobs.tick, jobs.grace, jobs.restarts = 0.25, 0.3, 5
    sweep, slow_ones = jobs.backend.sweep, []
    def slow(*args):
        # In the thread of a request alone, as in the report; meanwhile the dispatcher looks twice.
        if threading.current_thread() is not jobs.thread:
            slow_ones.append(args)
            time.sleep(0.6)
        return sweep(*args)
    monkeypatch.setattr(jobs.backend, "sweep", slow)
    jobs.start()
    job = jobs.submit("a", dict(max_steps=2000, seconds=0.03, save_steps=1), TRAINER).job_id
    wait(lambda: jobs.get(job).current_step > 2)
    step = jobs.get(job).current_step
    wait(lambda: jobs.get(job).current_step > step) # the dispatcher has looked just now
    for pid in supervisors(jobs.data_dir): os.kill(pid, signal.SIGKILL)
    assert c.delete(f"/jobs/{job}").status_code == 200
    wait(lambda: jobs.get(job).status in ends)
    moves = jobs.events(job)
    assert jobs.get(job).status == "cancelled" and history_is_legal(moves), moves
    ordered = [m for m in moves if m["to"] in ("cancelling", "cancelled") and m["why"] == "asked"]
    left = [(m["to"], m["why"]) for m in moves if m["from"] == "training" and m["attempt"] == 2]
    assert ordered and left in ([], [("cancelling", "asked")]), moves
    assert not everybody(jobs.data_dir), "it runs on"


COUNTING_SYSTEMS_EXAMPLE = """
import sys, requests
url, headers = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
with open("training_data.zip", "rb") as f:
    said = requests.post(f"{url}/upload-data", files={"file": f}, headers=headers)
if said.status_code != 200: sys.exit(f"{said.status_code} {said.json()['detail']}")
data_file_id = said.json()["file_id"]
config = {"num_epochs": 1, "learning_rate": 5e-5, "batch_size": 1}
job = requests.post(f"{url}/train", json={"job_name": "apple_counting_model", "data_file_id": data_file_id, "training_config": config},
                    headers=headers).json()
print(requests.get(f"{url}/jobs/{job['job_id']}", headers=headers).json()["job_name"])
"""


@pytest.mark.parametrize("token", [True, False])
def test_the_counting_systems_example_against_a_server_with_and_without_a_token(tmp_path, trainer, good, token):
    "sv-07: a stranger's program against the default server is told what it lacks, and runs with that or with --no-token"
    (tmp_path / "training_data.zip").write_bytes(good)
    (tmp_path / "example.py").write_text(COUNTING_SYSTEMS_EXAMPLE)
    served = Served(tmp_path, env={"VLRLBOOK_TRAINER": trainer}, token=token)
    def example(*headers): return subprocess.run([sys.executable, "example.py", served.url, *headers], cwd=tmp_path,
                                                 capture_output=True, text=True)
    try:
        bare = example()
        if token:
            assert bare.returncode == 1 and "401 send the header Authorization: Bearer TOKEN" in bare.stderr
            assert "`token`" in bare.stderr and "--no-token" in bare.stderr
        told = example("Authorization=Bearer " + (tmp_path / "data/token").read_text()) if token else bare
        assert told.returncode == 0 and told.stdout.strip() == "apple_counting_model", told.stderr
    finally: served.stop()


# Bodies and logs

HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
PART = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
BODIES = {"/train": ("application/json", "body.stalled", b"{"),
                     "/upload-data": ("multipart/form-data; boundary=xyz", "upload.stalled", PART)}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("drips", [False, True])
def test_slow_bodies(tmp_path, path, drips):
    kind, code, begin = BODIES[path]
    s = Served(tmp_path, "--stall_seconds", "0.7")
    connection = raw(s, HEAD.format(path=path, token=s.api.headers["Authorization"], kind=kind).encode() + begin, close=False)
    connection.settimeout(0.1)
    answer, end = b"", time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if drips: connection.sendall(b"-")
        except OSError: pass
        try: data = connection.recv(65536)
        except TimeoutError: continue
        except OSError: break
        if not data: break
        answer += data
    assert answer.startswith(b"HTTP/1.1 408") and code.encode() in answer
    seen.add(code)
    assert s.stop() == 0


def test_a_body_of_a_request_that_only_reads_holds_no_connection(tmp_path):
    s = Served(tmp_path, token=False)
    connection = raw(s, b"GET /files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n-", close=False)
    connection.settimeout(20) # by itself it would be closed after 75 s of silence, and never while bytes drip in
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
    assert s.stop() == 0


def test_a_listener_of_a_removed_job_is_told(client, good):
    c = client()
    job = train(c, uploaded(c, good), max_steps=1).json()["job_id"]
    c.delete(f"/jobs/{job}")
    side = c.service.event_side
    async def listen():
        stream, said = side._stream(job, c.jobs.records.folder(job), -1), []
        c.jobs.remove(job)
        async for event in stream: said.append(event)
        return said
    import asyncio
    assert asyncio.run(listen()) == [b'event: end\ndata: "removed"\n\n'] and side.streaming == 0 and not side.watches


@pytest.mark.parametrize("how", ["cancel", "remove", "resume"])
@pytest.mark.parametrize("reader_comes", ["before", "during"])
def test_a_reply_that_was_asked_before_a_change_is_not_remembered(how, reader_comes):
    "A reader that asks before a DELETE or resume, or while it is done, may be told the old state; nobody after it"
    import asyncio
    import contextlib
    from vlrlbook.service import JobSide, StateSide
    state, begun, may_end = ["old"], threading.Event(), threading.Event()
    def asked(job_id):
        told = state[0].encode()
        begun.set()
        assert may_end.wait(20)
        return told
    async def run():
        loop = asyncio.get_running_loop()
        def change(job_id):
            if reader_comes == "during":
                may_end.set()
                assert asyncio.run_coroutine_threadsafe(states.job(request), loop).result(20).body == b"old"
            state[0] = "new"
            return types.SimpleNamespace(as_dict=lambda: dict(parameters={}), parameters={})
        states = StateSide(None)
        states._reply_about = asked
        side = JobSide(types.SimpleNamespace(**{how: change}), types.SimpleNamespace(in_use=contextlib.nullcontext()), states, "tiny", {})
        request = types.SimpleNamespace(path_params=dict(job_id="a"), scope=dict(query_string=b"purge=1" if how == "remove" else b""))
        early = []
        if reader_comes == "before":
            early.append(asyncio.create_task(states.job(request)))
            await asyncio.to_thread(begun.wait, 20)
        await (side.resume if how == "resume" else side.cancel)(request)
        late = asyncio.create_task(states.job(request))
        may_end.set()
        assert [(await task).body for task in (*early, late)] == [b"old"] * len(early) + [b"new"]
        assert (await states.job(request)).body == b"new" and states.tasks == {}
    asyncio.run(run())


def test_jobs_that_were_cleaned_up_are_not_remembered(client):
    c = client()
    c.service.state_side.replies["x"] = (time.monotonic(), b"{}")
    assert c.get("/jobs/x").json() == {}
    assert c.post("/clean-up").status_code == 200
    refused(c.get("/jobs/x"), "job.unknown")


def test_a_log_is_read_once_for_all(tmp_path, monkeypatch):
    path = tmp_path / "run_log.csv"
    log = RunLog(path)
    assert log.after(-1) == ([], None)
    path.write_text("step,loss\n1,0.5\n2,nan\n3,")
    assert [json.loads(row) for row in log.after(-1)[0]] == [dict(step=1, loss=0.5), dict(step=2, loss=None)] and log.after(1)[1] == 2
    opens, real = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda *args, **more: opens.append(args) or real(*args, **more))
    for _ in range(50): assert log.after(2) == ([], None)
    assert opens == [(path, "rb")] or opens == [] or len(opens) <= 50 # a half line is looked at again, whole rows are not
    with real(path, "a") as file: file.write("0.25\n")
    assert [json.loads(row) for row in log.after(2)[0]] == [dict(step=3, loss=0.25)]
    opens.clear()
    for _ in range(50): log.after(-1)
    assert opens == []
    path.unlink()
    path.write_text("step,loss\n1,9\n") # a new attempt's
    assert [json.loads(row) for row in log.after(-1)[0]] == [dict(step=1, loss=9.0)]
    path.write_text("")
    assert log.after(-1) == ([], None)


def read_in_pieces(path, pieces):
    "Steps that a reader of the log knows after each piece that a run has written"
    log, known = RunLog(path), []
    for piece in pieces:
        with open(path, "a") as file: file.write(piece)
        log.refresh()
        known.append([json.loads(row)["step"] for row in log.known_after(-1)[0]])
    return known


@pytest.mark.parametrize("long", ["2," + "9" * 100, "9" * 64, "x" * 1000])
def test_a_line_that_is_too_long_is_passed(tmp_path, monkeypatch, caplog, long):
    "Whole or in pieces, and those behind it are read; one word in the log for each"
    monkeypatch.setattr("vlrlbook.service.run_log_reader._most_read_at_once", 64)
    begin = "step,loss\n1,0.5\n"
    for pieces, known in [([begin + long + "\n3,1\n"], [[1, 3]]), ([begin, long[:20], long[20:], "\n", "3,1\n"], [[1]] * 4 + [[1, 3]]),
                          ([begin + long, "7", "\n3,1", "\n"], [[1]] * 3 + [[1, 3]]), ([begin + f"{long}\n{long}\n3,1\n"], [[1, 3]])]:
        caplog.clear()
        (tmp_path / "run_log.csv").unlink(missing_ok=True)
        assert read_in_pieces(tmp_path / "run_log.csv", pieces) == known, pieces
        assert {record.reason for record in caplog.records} >= {"a line of more than 64 bytes, from byte 16 on, is left out"}
        assert len(caplog.records) == "".join(pieces).count(long)


def test_a_row_that_no_csv_can_have_costs_no_other(tmp_path, caplog):
    assert read_in_pieces(tmp_path / "run_log.csv", ["step,loss\n1,1\n2," + "9" * 140_000 + "\n3,1\n4,1\n"]) == [[1, 3, 4]]
    assert "field larger than field limit" in caplog.records[-1].reason


def test_a_line_of_nine_megabytes_holds_up_no_row(tmp_path):
    assert read_in_pieces(tmp_path / "run_log.csv", ["step,loss\n1,1\n2," + "9" * (9 << 20), "\n3,1\n"]) == [[1], [1, 3]]


LONG_LOG = "step,reward\n" + "".join(f"{step},{step / 7}\n" for step in range(1, 900))


@pytest.mark.parametrize("first, then", [
    ("step,reward\n1,1.001\n2,1.002\n", "step,reward\n1,2.001\n2,2.002\n3,2.003\n4,2.004\n"), # a new attempt's
    ("step,loss\n1,0.5\n2,0.25\n", "step,loss,eval_reward\n1,0.5,\n2,0.25,\n2,,0.75\n3,0.1,\n"), # a column that came later
    ("step,loss\n1,0.5\n2,0.25\n", "step,gain\n1,0.5\n2,0.25\n3,0.1\n"), # only another name
    ("step,loss\n1,0.5\n2,0.25\n", "step,loss\n1,0.7\n2,0.25\n"), # as long as before
    (LONG_LOG, LONG_LOG.replace("1,", "01,", 1).replace("\n2,", "\n 2,", 1) + "900,1\n"),
    (LONG_LOG, LONG_LOG[:-20] + "1" + LONG_LOG[-20:] + "900,1\n"),
    (LONG_LOG, LONG_LOG + "900,1\n901,2\n")]) # it only goes on
def test_a_file_that_was_written_anew_under_the_same_inode(tmp_path, first, then):
    "ext4 gives the inode of a removed file to the next one: the rows of two attempts stood in one curve, new columns were lost"
    path, fresh = tmp_path / "run_log.csv", tmp_path / "fresh.csv"
    path.write_text(first)
    log = RunLog(path)
    log.refresh()
    inode = path.stat().st_ino
    path.write_text(then)
    fresh.write_text(then)
    os.utime(path, ns=(1, 1)) # two writes within one tick of the clock are another matter
    assert path.stat().st_ino == inode and log.after(-1) == RunLog(fresh).after(-1) and log.after(-1)[0]


def test_steps_that_stand_twice(tmp_path):
    path = tmp_path / "run_log.csv"
    path.write_text("step,loss\n1,1\n2,2\n1,3\n2,4\n3,5\n")
    assert [json.loads(row)["loss"] for row in RunLog(path).after(1)[0]] == [2, 4, 5]


# Limits on what is written

def noise(side, form="PNG", **more):
    import io
    from PIL import Image
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(buffer, form, **more)
    return buffer.getvalue()


def zipped(path, table_rows, pictures):
    from support.service import archive
    table = "images_path,question,answer\n" + "".join(f"{name},q?,{count}\n" for name, count in table_rows)
    path.write_bytes(archive([("main.csv", table), *((f"images/{name}", data) for name, data in pictures.items())]))
    return path


def test_a_picture_of_many_rows_is_stored_once(tmp_path):
    from vlrlbook.archive import unpack_counting_zip
    picture = noise(300)
    path = zipped(tmp_path / "a.zip", [("a.png", i % 6 + 1) for i in range(200)] + [("b.png", 2), ("broken.png", 2), ("broken.png", 3)],
                  {"a.png": picture, "b.png": noise(64), "broken.png": b"no picture"})
    (tmp_path / "out").mkdir()
    report = unpack_counting_zip(path, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert (report.csv_rows, report.valid_images, [s["code"] for s in report.skipped]) == (203, 201, ["image.decode"] * 2)
    assert len({row["file"] for row in rows}) == 2 == len({row["picture"]
               for row in rows}) and [row["row"] for row in rows] == list(range(2, 203))
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) < 2 * len(picture)


def test_pictures_keys_are_chapter_01s(tmp_path):
    from PIL import Image
    from vlrlbook.archive import unpack_counting_zip
    from vlrlbook.data import load_counting, picture_key
    path = zipped(tmp_path / "a.zip", [("a.png", 1), ("b.jpg", 2), ("c.webp", 3)],
                  {"a.png": noise(40), "b.jpg": noise(50, "JPEG"), "c.webp": noise(60, "WEBP")})
    (tmp_path / "out").mkdir()
    unpack_counting_zip(path, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["picture"] for row in rows] == [picture_key(images[0]) for images in load_counting(tmp_path / "out")["images"]]


def test_the_disk_keeps_its_reserve_at_every_write(tmp_path, monkeypatch):
    from vlrlbook import archive
    path = zipped(tmp_path / "a.zip", [(f"{i}.png", 1) for i in range(8)], {f"{i}.png": noise(200 + i) for i in range(8)})
    used, out = [0], tmp_path / "out"
    out.mkdir()
    def free(folder): return 500_000 - sum(p.stat().st_size for p in out.iterdir()) # a disk of half a megabyte
    monkeypatch.setattr(archive, "free_bytes", free)
    with pytest.raises(archive.DataError, match="storage.full"): archive.unpack_counting_zip(path, out, reserve=100_000)
    assert free(out) >= 100_000


def test_what_is_written_is_counted_not_what_was_packed(tmp_path, monkeypatch):
    from vlrlbook import archive
    pictures = {f"{i}.webp": noise(400 + i, "WEBP", quality=5) for i in range(6)}
    path = zipped(tmp_path / "a.zip", [(name, 1) for name in pictures], pictures)
    most = 2 * sum(map(len, pictures.values()))
    monkeypatch.setattr(archive, "_always_unpacked", most)
    monkeypatch.setitem(archive.limits, "ratio", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(archive.DataError, match="zip.size"): archive.unpack_counting_zip(path, tmp_path / "out")


# Requests as their users write them

@pytest.mark.parametrize("size", ["tiny", "gpu"])
def test_the_counting_systems_request(size):
    from vlrlbook.service import read_request
    form = request_form(size)
    body = dict(job_name="apple_counting_model", data_file_id="x", training_config=dict(num_epochs=30, learning_rate=5e-5, batch_size=1))
    parameters, notes = plan(read_request(body, form)["settings"], size, form, 4)
    assert parameters["batch_size"] == 1 and parameters.get("gradient_accumulation_steps", 8) == 8
    assert any("90 steps" in note for note in notes)
    assert size == "gpu" or any("gradient_accumulation_steps is 8" in note for note in notes)


EXAMPLE = '''
import requests, time
base = "http://localhost:8000"
with open("training_data.zip", "rb") as f:
    file_id = requests.post(f"{base}/upload-data", files={"file": f}).json()["file_id"]
config = {"job_name": "apple_counting_model", "data_file_id": file_id,
          "training_config": {"num_epochs": 30, "learning_rate": 5e-5, "batch_size": 1}}
job_id = requests.post(f"{base}/train", json=config).json()["job_id"]
first = requests.get(f"{base}/jobs/{job_id}").json()
while True:
    status = requests.get(f"{base}/jobs/{job_id}").json()
    print(f"Progress: {status['progress']}% - Step {status['current_step']}/{status['total_steps']}")
    if status["status"] in ["completed", "failed", "cancelled"]: break
    time.sleep(0.2)
with open("trained_model.zip", "wb") as f: f.write(requests.get(f"{base}/jobs/{job_id}/download").content)
print(first["total_steps"], status["total_steps"], status["status"], status["error_message"])
'''


@pytest.mark.parametrize("size", ["tiny", "gpu"])
def test_the_counting_systems_example_as_written(tmp_path, trainer, size):
    "Upload, train, watch, download, by a server without a token; the trainer is one of moments"
    import subprocess, zipfile
    from support.service import archive, png
    table = "images_path,question,answer\n" + "".join(f"images/{i}.png,How many apples?,A photo of {i + 1} apples\n" for i in range(4))
    (tmp_path / "training_data.zip").write_bytes(archive([("main.csv", table), *((f"images/{i}.png", png(32 + i)) for i in range(4))]))
    s = Served(tmp_path, "--size", size, env={"VLRLBOOK_TRAINER": trainer}, token=False)
    done = subprocess.run([sys.executable, "-c", EXAMPLE.replace("http://localhost:8000", s.url)],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "90 90 completed None"
    assert "adapter_model.safetensors" in zipfile.ZipFile(tmp_path / "trained_model.zip").namelist()
    assert s.stop() == 0


@pytest.mark.parametrize(
    "config, chosen", [
        (dict(
            batch_size=3), dict(
                gradient_accumulation_steps=8)), (dict(
                    batch_size=12), dict(
                        gradient_accumulation_steps=2)), (dict(
                            gradient_accumulation_steps=3), {}), (dict(
                                batch_size=4, num_generations=6), dict(
                                    gradient_accumulation_steps=3))])
def test_one_part_of_a_batch_is_enough(config, chosen):
    parameters, _ = plan(config, "tiny", request_form("tiny"), 60)
    assert {name: parameters.get(name) for name in chosen} == chosen
    value = dict(batch_size=64, gradient_accumulation_steps=1, num_generations=8) | parameters
    assert value["batch_size"] * value["gradient_accumulation_steps"] % value["num_generations"] == 0


def test_a_batch_alone_on_few_rows_accumulates_less():
    parameters, notes = plan(dict(batch_size=8), "gpu", request_form("gpu"), 4)
    assert parameters["gradient_accumulation_steps"] == 3 and any("3 of 4 rows" in note for note in notes)


@pytest.mark.parametrize("pictures", [list("abcdefghij"), list("aabbccddee"), list("aaaaaaaab"), ["x", "y"], list("abca")])
@pytest.mark.parametrize("seed", [0, 43, 7])
def test_rows_to_train_on_as_chapter_05_splits(pictures, seed):
    from vlrlbook.data import split_rows_by_picture
    train_rows, _ = split_rows_by_picture([dict(image_name=name) for name in pictures], seed=seed)
    assert rows_to_train_on(pictures, 0.2, seed) == len(train_rows)


def test_total_steps_are_known_from_the_start(client, good):
    c = client()
    file_id = uploaded(c, good) # 24 rows, 19 of them to train on
    assert train(c, file_id, max_steps=7).json()["total_steps"] == 7
    job = train(c, file_id, num_epochs=30, batch_size=1).json()
    assert job["total_steps"] == 570 and c.get(f"/jobs/{job['job_id']}").json()["total_steps"] == 570
    assert any("570 steps" in note for note in job["notes"])


def test_ids_are_uuids(client, good):
    import uuid
    c = client()
    file_id = uploaded(c, good)
    for text in (file_id, train(c, file_id, max_steps=1).json()["job_id"]):
        assert str(uuid.UUID(text)) == text and uuid.UUID(text).version == 4


def test_joiners_are_letters():
    assert clean("می‌خواهم") == "می‌خواهم" and clean("👩‍🔬") == "👩‍🔬" and clean("a\u202eb\x07") == "a·b·"


# What came of it

def completed(c, tmp_path, monkeypatch, **results):
    "A job of an application that is completed, with results.json"
    job = c.jobs.submit("a", {}, TRAINER).job_id
    c.jobs.ledger.move(job, "queued", "training", "by hand", attempt=1)
    c.jobs.ledger.move(job, "training", "completed", "by hand")
    result = c.jobs.folder(job) / "result"
    result.mkdir()
    write_json(result / "results.json", results)
    return job


def test_the_verdict_of_a_run(client, tmp_path, monkeypatch):
    c = client()
    verdict = dict(outcome="better", sentence="Better: 1 of 2.", questions=[])
    told = c.get(f"/jobs/{completed(c, tmp_path, monkeypatch, verdict=verdict)}/verdict").json()
    assert told == verdict | dict(task="counting", figures=[]) # a job of an older version names no task
    side = dict(exact_accuracy=0.5, mean_reward=0.5)
    gained = dict(exact_accuracy=0.0, exact_accuracy_ci95=[None, None], mean_reward=0.0, mean_reward_ci95=[-0.1, 0.1])
    results = dict(verdict=verdict, before=dict(sampled=side), after=dict(sampled=side), gain=dict(sampled=gained))
    figures = c.get(f"/jobs/{completed(c, tmp_path, monkeypatch, **results)}/verdict").json()["figures"]
    assert [(f["measure"], f["ci95"]) for f in figures] == [("exact_accuracy", None), ("mean_reward", [-0.1, 0.1])]
    old = c.get(f"/jobs/{completed(c, tmp_path, monkeypatch)}/verdict").json() # a run of an older version, without answers
    assert old["outcome"] == "not measured" and old["sentence"]
    waiting = c.jobs.submit("b", {}, TRAINER).job_id
    refused(c.get(f"/jobs/{waiting}/verdict"), "job.not_completed")


def test_asking_a_model_that_is_none(client, tmp_path, monkeypatch):
    c = client()
    job = completed(c, tmp_path, monkeypatch)
    def ask(**more): return c.post(f"/jobs/{job}/ask", files={"file": ("a.png", b"no picture")}, **more)
    refused(ask(params=dict(question="How many?")), "ask.failed")
    refused(ask(params=dict(question="How many discs are there? " * 10)), "ask.failed") # a long question is a text, too
    refused(ask(params=dict(question="?" * 2001)), "query.value") # and a longer one is not cut without a word
    refused(ask(), "query.value")
    refused(ask(params=dict(question="How\0many?")), "query.value") # it was a fault of the server: no process takes such an argument
    assert not any(c.service.uploads.aside.iterdir())


BAR = "warm start: {}%|###   | {}/280 [00:10<00:20, 4.5it/s]"


def test_a_progress_bar_is_one_line_and_a_stage(tmp_path):
    from vlrlbook.service.results import log_tail, stage_of
    path = tmp_path / "job.log"
    lines = ["begin", *(line for i in range(0, 101, 10) for line in (BAR.format(i, 280 * i // 100), "")), "then", "", "50 % of | nothing"]
    path.write_text("\n".join(lines) + "\n")
    assert log_tail(path, 100) == "\n".join(["begin", BAR.format(100, 280), "then", "", "50 % of | nothing", ""])
    assert stage_of(path) == dict(name="warm start", done=280, of=280) and stage_of(tmp_path / "none") is None


# Sessions

def test_the_cookie_holds_no_token(client):
    c = client()
    answer = c.get("/?token=secret", headers={"authorization": "", "cookie": "vlrlbook_token=secret"}, follow_redirects=False)
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2 and cookies[0].startswith(
        "vlrlbook_session_80=") and "secret" not in cookies[0] and "vlrlbook_token=\"\"" in cookies[1]


def test_two_servers_of_one_host_do_not_fight():
    assert session_cookie("127.0.0.1:8001") != session_cookie("127.0.0.1:8002")
    assert [session_cookie(h) for h in ("localhost", "[::1]:9", "[::1]", "a:b")] == [f"vlrlbook_session_{p}" for p in (80, 9, 80, 80)]


def test_sessions_that_are_none(monkeypatch):
    sessions, name = Sessions("secret"), "vlrlbook_session_80"
    good_one = sessions.begin(name)
    assert sessions.is_good(name, good_one) and Sessions("secret").is_good(name, good_one)
    end, chance, mark = good_one.split(".")
    for bad in (
    "",
    "secret",
    good_one + "0",
    f"{int(end) + 1}.{chance}.{mark}",
    f"{end}.{'0' * 32}.{mark}",
    f"{end}.{chance}.{'0' * 64}",
     "é" * 10):
        assert not sessions.is_good(name, bad)
    assert not sessions.is_good("vlrlbook_session_81", good_one) and not Sessions("other").is_good(name, good_one)
    monkeypatch.setattr(time, "time", lambda: int(end) + 1)
    assert not sessions.is_good(name, good_one)


def test_a_session_lets_in(client):
    c = client()
    cookie = c.get("/?token=secret", headers={"authorization": ""}, follow_redirects=False).headers["set-cookie"].partition(";")[0]
    c.cookies.clear()
    assert c.get("/files", headers={"authorization": "", "cookie": "a=b; " + cookie}).status_code == 200
    refused(c.get("/files", headers={"authorization": "", "cookie": cookie + "0"}), "door.token")


def test_every_code_of_cases_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    from support.service import CODES_MET_IN
    assert CODES_MET_IN["cases"] - seen == set()
