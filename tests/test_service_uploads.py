"""Uploads as strangers send them: hostile and broken archives, forms and pictures, full disks, clients that hang up; their age."""
import asyncio
import errno
import io
import json
import os
import re
import shutil
import sys
import threading
import time
import zipfile

import pytest
from PIL import Image
from support.bad_requests import BAD_BOXES, BAD_FORMS, BAD_PICTURES, BAD_TEXTS, BAD_UPLOADS
from support.service import (  # fixtures too
    CODES_MET_IN, FILE, GOOD, HEADER, ROW, Served, archive, client, form, good, nothing_stays, png, posted, raw,
    refused, seen, server, trainer, with_file)
from conftest import ROOT
from vlrlbook.service import ServiceSettings, Uploads, problems


def test_every_code_of_the_wall_is_in_the_table():
    "A code that the table does not know would be a fault of ours, a 500"
    code = (ROOT / "vlrlbook" / "archive.py").read_text()
    raised = set(re.findall(r'"((?:zip|csv|image|row|storage)\.[a-z_]+)"', code))
    assert raised > {"zip.size", "row.count"} and raised <= set(problems)


@pytest.mark.parametrize("code", BAD_UPLOADS)
def test_bad_archives_and_tables(client, code):
    c = client()
    data = BAD_UPLOADS[code]()
    refused(c.post("/upload-data", files={"file": ("x.zip", data)}), code)
    assert c.get("/files").json()["files"] == []
    assert not list(c.service.uploads.root.iterdir()) and not list(c.service.uploads.aside.iterdir())


@pytest.mark.parametrize("code", BAD_PICTURES)
def test_bad_pictures_are_skipped_or_refused(client, code):
    name, data = BAD_PICTURES[code]
    question, answer = BAD_TEXTS.get(code, ("How many?", "3"))
    rows = f"{HEADER}images/good.png,How many?,3\n{name},{question},{answer}\n"
    c, packed = client(), archive([("main.csv", rows), ("images/good.png", png()), ("images/a.png", data)])
    found = c.post("/upload-data", files={"file": ("x.zip", packed)}).json()
    assert (found["csv_rows"], found["valid_images"]) == (2, 1) and [(s["row"], s["code"]) for s in found["skipped"]] == [(3, code)]
    body = refused(c.post("/upload-data?strict=true", files={"file": ("x.zip", packed)}), code)
    assert body["row"] == 3
    assert len(c.get("/files").json()["files"]) == 1


@pytest.mark.parametrize("answer, words", BAD_BOXES.items())
def test_bad_boxes_are_skipped_or_refused(client, answer, words):
    rows = f'{HEADER}images/a.png,Where?,"[1, 2, 30, 31] in pixels of 32 x 32"\nimages/a.png,Where?,"{answer}"\n'
    c, packed = client(), archive([("main.csv", rows), ("images/a.png", png())])
    found = c.post("/upload-data?kind=pointing", files={"file": ("x.zip", packed)}).json()
    assert (found["kind"], found["valid_images"], [(s["row"], s["code"]) for s in found["skipped"]]) == ("pointing", 1, [(3, "row.boxes")])
    assert words in found["skipped"][0]["message"]
    assert refused(c.post("/upload-data?kind=pointing&strict=true", files={"file": ("x.zip", packed)}), "row.boxes")["row"] == 3


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
    c = client(quota_gb=1)
    kept = c.post("/upload-data", files=one).json()
    c.service.uploads.known[kept["file_id"]] |= dict(size_bytes=2 << 30, unpacked_bytes=1 << 20)
    assert c.post("/upload-data", files=one).status_code == 200 # the archive is not kept, only what was in it
    refused(client(reserve_mb=1 << 40).post("/upload-data", files=one), "storage.full")
    refused(client(intake_seconds=0.01).post("/upload-data", files=one), "intake.time")
    refused(client(intake_mb=1).post("/upload-data", files=one), "intake.memory")
    c = client()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    refused(c.post("/upload-data", files=one), "intake.died")
    assert not list(c.service.uploads.aside.iterdir())


@pytest.mark.parametrize("head, name", [
    ("filename*=UTF-8''%e8%8b%b9.zip", "苹.zip"), ("filename*=iso-8859-1'de'%e4.zip", "ä.zip"),
    ("filename=a.zip; filename*=UTF-8''b.zip", "a.zip"),
    ("FileName*=utf-8''c%3A%5Cx%5Cb.zip", "b.zip"), ("filename*=none-such''%e4.zip", "%e4.zip"), ("filename*=plain.zip", "plain.zip"),
    ("filename*=a\0b''%41.zip", "%41.zip"),
    ("filename*=undefined''%41.zip", "%41.zip"), ("filename*=punycode''%C4.zip", "%C4.zip"),
    ("filename*=unicode_escape''%5Cud800.zip", "%5Cud800.zip")])
def test_the_longer_form_of_a_name_is_read(client, head, name):
    body = form([(f'Content-Disposition: form-data; name="file"; {head}', GOOD)])
    reply = client().post("/upload-data", content=body, headers={"content-type": "multipart/form-data; boundary=xyz"})
    assert (reply.status_code, reply.json().get("filename")) == (200, name), reply.text


def test_a_text_is_no_file(client):
    for head in ('name="file"', "name=file; filename*="):
        body = form([(f"Content-Disposition: form-data; {head}", GOOD)])
        reply = client().post("/upload-data", content=body, headers={"content-type": "multipart/form-data; boundary=xyz"})
        refused(reply, "upload.field")


def test_files_where_the_server_was_started_are_no_modules_of_its_children(client, monkeypatch, tmp_path):
    "A random.py or csv.py of somebody's project: each upload was refused as the archive's fault, each job died"
    for name in ("random", "csv", "queue", "json", "vlrlbook"): (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert client().post("/upload-data", files={"file": ("x.zip", GOOD)}).status_code == 200


def test_a_reader_that_cannot_start_is_no_fault_of_the_archive(client, monkeypatch, tmp_path):
    (tmp_path / "csv.py").write_text("raise ImportError('of another Python')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    refused(client().post("/upload-data", files={"file": ("x.zip", GOOD)}), "server.error")


def test_a_full_disk_while_writing(client, monkeypatch):
    import errno
    import vlrlbook.service.multipart_file
    import vlrlbook.service.uploads
    def full(*args): raise OSError(errno.ENOSPC, "no space")
    c = client()
    for module, name in ((vlrlbook.service.multipart_file, "write_all"), (vlrlbook.service.uploads, "write_json")):
        with monkeypatch.context() as m:
            m.setattr(module, name, full)
            refused(c.post("/upload-data", files={"file": ("x.zip", GOOD)}), "storage.full")
        assert not list(c.service.uploads.root.iterdir()) and not list(c.service.uploads.aside.iterdir())
    assert c.post("/upload-data", files={"file": ("x.zip", GOOD)}).status_code == 200


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
        wrong.setattr("vlrlbook.service.uploads.now", lambda: "1970-01-01T00:00:00Z")
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


def test_who_hangs_up_while_an_upload_is_stored_leaves_it_whole(tmp_path, monkeypatch):
    "Cleaning up after the request must wait for the thread that still moves the folder"
    from vlrlbook.service import uploads as module
    moving, may_move, commit = threading.Event(), threading.Event(), module.commit_folder
    async def receive(request, path, settings): return "x.zip", 3
    async def read(path, data, strict, settings, kind):
        data.mkdir()
        for name in ("rows.jsonl", "1.jpg"): (data / name).write_text("x")
        return dict(csv_rows=1, valid_images=1, skipped=[])
    def commit_late(*given, **named):
        moving.set()
        assert may_move.wait(30)
        commit(*given, **named)
    for name, stand_in in (("receive_file", receive), ("read_apart", read), ("commit_folder", commit_late)):
        monkeypatch.setattr(module, name, stand_in)

    uploads = Uploads(tmp_path)
    async def hung_up():
        task = asyncio.create_task(uploads.add(None, False, ServiceSettings(), asyncio.Semaphore(1)))
        assert await asyncio.to_thread(moving.wait, 30)
        task.cancel()
        await asyncio.sleep(0.2)  # long enough for a clean-up that does not wait
        may_move.set()
        with pytest.raises(asyncio.CancelledError): await task
    asyncio.run(hung_up())
    stored = list(uploads.root.iterdir())
    assert [folder.name for folder in stored] == list(uploads.known) and len(stored) == 1
    assert {path.name for path in stored[0].iterdir()} == {"rows.jsonl", "1.jpg", "upload.json"}
    assert not list(uploads.aside.iterdir())


def test_a_remembered_upload_may_be_forgotten_by_another_request_at_any_moment(client, good):
    c = client()
    file_id = c.post("/upload-data", files={"file": ("x.zip", good)}).json()["file_id"]
    class ForgetsWhenAsked(dict):
        def __contains__(self, key):
            was_there = super().__contains__(key)
            self.pop(key, None)  # as another thread may, just behind this look-up
            return was_there
    c.service.uploads.indexes = ForgetsWhenAsked()
    for _ in range(3): assert c.get(f"/files/{file_id}/rows/2/image").status_code == 200


def test_stalled_uploads_are_dropped(tmp_path, trainer):
    served = Served(tmp_path, "--stall_seconds", "0.5")
    s = raw(served, posted(served, b"--xyz\r\n", 1000), close=False)
    s.settimeout(20)
    answer = "".join(iter(lambda: s.recv(65536).decode(), ""))
    assert answer.startswith("HTTP/1.1 408") and '"upload.stalled"' in answer
    seen.add("upload.stalled")
    assert served.stop() == 0


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


def test_every_code_of_uploads_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    assert CODES_MET_IN["uploads"] - seen == set()
