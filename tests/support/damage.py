"""A data directory as it lies while the server is off, ways to break one thing in it, and what must hold when a server starts on it."""
import io
import json
import os
import shutil
import signal
import sqlite3
import time
import zipfile
from pathlib import Path

from starlette.testclient import TestClient
from support.faults import TRAINER, die, history_is_legal, supervisors, until, wait
from support.service import HEADER, archive, png
from vlrlbook.core import read_settings
from vlrlbook.folders import damage
from vlrlbook.jobs import Jobs, JobsError, ends
from vlrlbook.service import ServiceSettings, create_app, own_token
from vlrlbook.settings import SettingsError

TABLE = HEADER + "".join(f"images/{i}.png,How many?,{i + 1}\n" for i in range(4))
PACKED = archive([("main.csv", TABLE), *((f"images/{i}.png", png(32 + i)) for i in range(4))])


def opened(data_dir, adopt=False):
    "The application of a data directory, without a network; its dispatcher is not started"
    settings = read_settings(ServiceSettings, dict(data_dir=str(data_dir), size="tiny", reserve_mb=0, token=False))
    jobs = Jobs(data_dir, slots=2, grace=0.2, restarts=1, adopt=adopt)
    jobs.tick = 0.02
    try: client = TestClient(create_app(settings, jobs, None), base_url="http://localhost", raise_server_exceptions=False)
    except BaseException:
        jobs.stop()
        raise
    client.jobs, client.app.state.service.command = jobs, TRAINER
    return client


def build(data_dir):
    "Two uploads and six jobs: two finished (one packed), one failed with a checkpoint, one cancelled, one orphaned, one that waits"
    own_token(data_dir.mkdir() or data_dir)
    client = opened(data_dir)
    jobs = client.jobs
    files = [client.post("/upload-data", files={"file": ("a.zip", PACKED)}).json()["file_id"] for _ in range(2)]
    def submit(name, file=0, **more): return jobs.submit(name,
               dict(data=f"../../uploads/{files[file]}", max_steps=4, save_steps=1) | more, TRAINER)
    names = {}
    jobs.start()
    for name, more in dict(done={}, packed={}, failed=dict(end="exit")).items():
        job = submit(name, **more)
        names[name] = until(jobs, job, *ends).job_id
    assert client.get(f"/jobs/{names['packed']}/download").status_code == 200
    dead = submit("dead", max_steps=200, seconds=0.02)
    wait(lambda: jobs.get(dead.job_id).current_step > 2)
    names["dead"] = dead.job_id
    die(jobs)
    for pid in supervisors(data_dir): os.kill(pid, signal.SIGKILL)
    wait(lambda: not supervisors(data_dir))
    client = opened(data_dir)
    jobs = client.jobs
    def late(name): return jobs.submit(name, dict(data=f"../../uploads/{files[1]}", max_steps=2), TRAINER).job_id
    names["cancelled"], names["waiting"] = late("cancelled"), late("waiting")
    jobs.cancel(names["cancelled"])
    jobs.stop()
    for name in ("job.log", "out.ipynb", "notes.json"):
        path = data_dir / "jobs" / names["done"] / name
        if not path.exists(): path.write_text("[]")
    return names, files


def remove(path): shutil.rmtree(path) if path.is_dir() else path.unlink()


def other_kind(path):
    "A folder where a file was, a file where a folder was"
    was_folder = path.is_dir()
    remove(path)
    path.write_text("a file") if was_folder else path.mkdir()


def emptied(path):
    if path.is_dir():
        for inside in path.iterdir(): remove(inside)
    else: path.write_bytes(b"")


def copied(path):
    copy = path.with_name(f"{path.name} (copy)")
    shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)


def copied_as_uuid(path):
    if path.is_dir(): shutil.copytree(path, path.with_name("00000000-0000-4000-8000-000000000000"))
    else: path.with_name("00000000-0000-4000-8000-000000000000").write_bytes(path.read_bytes())


def overwritten(content):
    def change(path):
        if path.is_dir(): (path / "foreign").write_bytes(content)
        else: path.write_bytes(content)
    return change


def cut(path):
    if path.is_dir(): (path / "foreign").mkdir()
    else: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def dangling(path):
    remove(path)
    path.symlink_to("nowhere")


WAYS = dict(
    remove=remove,
    emptied=emptied,
    other_kind=other_kind,
    copied=copied,
    copied_as_uuid=copied_as_uuid,
    cut=cut,
    dangling=dangling,
    brace=overwritten(b"{"),
    list=overwritten(b"[]"),
    object=overwritten(b"{}"),
    number=overwritten(b"7"),
    bytes=overwritten(
        b"\xff\0\xfe" * 50))


def things(data_dir):
    "Every file and folder, one of each kind: pictures of an upload and checkpoints of a run stand for one another"
    seen, found = set(), []
    for path in sorted(data_dir.rglob("*")):
        inside = path.relative_to(data_dir)
        parts = [part.rstrip("0123456789") if part.startswith("checkpoint-")
                             else "N.png" if part.endswith(".png") else part for part in inside.parts]
        if tuple(parts) in seen: continue
        seen.add(tuple(parts))
        found.append(inside)
    return found


def roles(data_dir):
    "Number of each job and upload of an undamaged data directory -> what it is there"
    # immutable: SQLite would lay files of its own beside a ledger that it opens, and they would be broken too
    db = sqlite3.connect(f"file:{data_dir / 'ledger.sqlite3'}?immutable=1", uri=True)
    names = {job: f"job {name}" for job, name in db.execute("SELECT job_id, job_name FROM jobs")}
    db.close()
    # the first upload is the one that finished jobs were trained on
    uploads = sorted((data_dir / "uploads").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return names | {path.name: f"upload {number}" for number, path in enumerate(uploads, 1)}


def contents(data_dir, names):
    "Bytes of everything that was finished: results, checkpoints, adapters, uploads"
    kept = {}
    for folder in [*(data_dir / "jobs").glob("*/result"), *(data_dir / "jobs").glob("*/run"), *(data_dir / "uploads").glob("*")]:
        if folder.is_dir(): kept |= {p.relative_to(data_dir): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    dead = names["dead"]
    return {path: data for path, data in kept.items() if dead not in path.parts and names["waiting"] not in path.parts} | {
        path: data for path, data in kept.items() if dead in path.parts and path.parts[-2].startswith("checkpoint-")}


def sent_other_bytes(sent, result):
    "Whether a download holds other files than the result had when it was finished; a ZIP packed before the damage does not"
    with zipfile.ZipFile(io.BytesIO(sent)) as zipped:
        return {n: zipped.read(n) for n in zipped.namelist()} != {p.name: p.read_bytes() for p in result.iterdir()}


def after_damage(data_dir, whole, names, files, target):
    "Start a server on `data_dir`, of which `whole` is the undamaged one; (what is wrong, whether it refused)"
    wrong, before = [], contents(data_dir, names)
    try:
        own_token(data_dir)
        client = opened(data_dir)
    except (JobsError, SettingsError, OSError) as e:
        said = str(e)
        if isinstance(e, OSError) and not e.filename: wrong.append(f"refused without a name: {e!r}")
        if contents(data_dir, names) != before: wrong.append("refused, and yet something finished changed")
        return wrong + ([] if said and "Traceback" not in said else [f"no sentence: {said!r}"]), True
    jobs = client.jobs
    try:
        def ask(path, method="GET", **more):
            answer = client.request(method, path, **more)
            if answer.status_code >= 500: wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            return answer
        for job in names.values():
            for tail in ("", "/moves", "/log", "/metrics", "/rollouts", "/download"): ask(f"/jobs/{job}{tail}")
        for file in files:
            for tail in ("", "/rows", "/rows/2/image", "/rows/5/image"): ask(f"/files/{file}{tail}")
        for path in ("/jobs", "/files", "/", "/data-format"): ask(path)
        known = {j.job_id for j in jobs.list(limit=100)[0]}
        if target.parts[0] != "ledger.sqlite3-wal" and known != set(names.values()): wrong.append("the ledger forgot a job")
        jobs.start()
        started = []
        for file in files:
            answer = ask("/train", "POST", json=dict(job_name="new", data_file_id=file, training_config=dict(max_steps=1)))
            if answer.status_code == 200: started.append(answer.json()["job_id"])
            elif file not in target.parts and target.parts[0] != "uploads":
                wrong.append(f"a whole upload cannot be trained on: {answer.text[:150]}")
        limit = time.monotonic() + 30
        def at_work(): return any(j.status not in ends and j.status != "interrupted" for j in jobs.list(limit=100)[0])
        while at_work() and time.monotonic() < limit: time.sleep(0.02)
        for job in jobs.list(limit=100)[0]:
            hit = job.job_id in target.parts
            if job.status not in (*ends, "interrupted"): wrong.append(f"{job.job_name} is {job.status} for ever")
            if not history_is_legal(jobs.events(job.job_id)): wrong.append(f"{job.job_name}: {jobs.events(job.job_id)}")
            is_finished = job.job_name in ("done", "packed", "waiting", "new", "dead")
            if is_finished and not hit and target.parts[0] not in (
                "jobs.", "ledger.sqlite3-wal") and len(target.parts) > 1 and job.status != "completed":
                wrong.append(f"{job.job_name}, whole, is {job.status}: {job.error_message}")
            if job.status == "completed" and job.job_name == "new" and damage(jobs.folder(job.job_id) / "result"):
                wrong.append("completed without a result")
        for name in ("done", "packed"):
            folder = data_dir / "jobs" / names[name]
            answer = ask(f"/jobs/{names[name]}/download")
            if answer.status_code == 200 and sent_other_bytes(answer.content, whole / folder.relative_to(data_dir) / "result"):
                wrong.append(f"{name}: a damaged result was sent")
            if answer.status_code != 200 and damage(folder / "result") is None and names[name] not in target.parts and names[name] in known:
                wrong.append(f"{name}: {answer.text[:200]}")
        # whoever throws a damaged job away is not stopped by the damage
        for name in ("failed", "cancelled"): ask(f"/jobs/{names[name]}?purge=true", "DELETE")
    finally:
        jobs.stop()
    purged = {names["failed"], names["cancelled"]}
    now = contents(data_dir, names)
    for path, data in before.items():
        if not purged & set(path.parts) and now.get(path) != data: wrong.append(f"{path} is {'gone' if path not in now else 'another'}")
    return wrong, False


def table(folder, pick=None):
    "Break one thing after the other: rows of (path, way, refused, what was wrong)"
    whole = folder / "whole"
    names, files = build(whole)
    cases = [(path, way) for path in things(whole) for way in WAYS]
    for path, way in pick(cases) if pick else cases:
        data_dir = folder / "data"
        if data_dir.exists(): shutil.rmtree(data_dir)
        shutil.copytree(whole, data_dir, symlinks=True)
        for source in whole.rglob("*"):
            os.utime(data_dir / source.relative_to(whole), ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
        WAYS[way](data_dir / path)
        try: wrong, refused = after_damage(data_dir, whole, names, files, path)
        except Exception as e: wrong, refused = [f"{type(e).__name__}: {e}"], False
        yield path, way, refused, wrong
