"""The service at the pass figures: cut uploads, full disks, two servers, stops, a thousand readers, downloads, bad inputs. `python
tools/logs.py service_faults` writes what it measures."""
import concurrent.futures
import hashlib
import io
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from support import bad_requests, service as t
from vlrlbook.data import synthetic_counting, write_counting_zip
from vlrlbook.service import gentle, problems

pollers = """
import asyncio, json, sys, time, aiohttp
url, token, n, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
took, bad, begun = [], [], time.monotonic()
async def client(session, start):
    await asyncio.sleep(start)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        at = time.perf_counter()
        try:
            async with session.get(url) as r:
                await r.read()
                if r.status != 200: bad.append(r.status)
        except (aiohttp.ClientError, OSError) as e: bad.append(repr(e))
        took.append((time.perf_counter() - at, int(time.monotonic() - begun)))
        await asyncio.sleep(max(0, 1 - (time.perf_counter() - at)))
heard = dict(listeners=int(sys.argv[5]) if len(sys.argv) > 5 else 0, events=0, bytes=0, complete=0)
async def listen(session, start):
    await asyncio.sleep(start)
    most = 0
    try:
        async with session.get(url + "/events", timeout=aiohttp.ClientTimeout(total=None)) as r:
            if r.status != 200: bad.append(r.status)
            async for line in r.content.iter_any():
                heard["bytes"] += len(line)
                heard["events"] += line.count(b"event: ")
                most += line.count(b'"step"')
    except asyncio.CancelledError: pass
    except (aiohttp.ClientError, OSError, ValueError) as e: bad.append(repr(e))
    heard["complete"] += most >= 3000
async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": f"Bearer {token}"}) as s:
        streams = [asyncio.create_task(listen(s, 2 * i / (heard["listeners"] or 1))) for i in range(heard["listeners"])]
        if streams:
            await asyncio.sleep(6)
            global begun
            begun = time.monotonic()
        await asyncio.gather(*(client(s, i / n) for i in range(n)))
        for stream in streams: stream.cancel()
        await asyncio.gather(*streams)
asyncio.run(main())
def part(values, q): return sorted(values)[int(len(values) * q)]
every = [t for t, _ in took]
seconds = {}
for t, s in took: seconds.setdefault(s, []).append(t)
print(json.dumps(heard | dict(n=len(took), errors=len(bad), first=str(bad[:1]), p50=part(every, 0.5), p99=part(every, 0.99), most=max(every),
    seconds=[dict(second=s, n=len(v), p50_ms=round(1000 * part(v, 0.5), 2), p99_ms=round(1000 * part(v, 0.99), 2)) for s, v in sorted(seconds.items()) if 2 * len(v) > n])))
"""


by_second = [] # of the readers, for the chapter's figure
listened = [] # rows of `listeners`, one for each measurement


def row(fault, n, failures, figure=""):
    "One row of the table"
    found = dict(fault=fault, n=n, failures=failures, figure=figure)
    print(found, flush=True)
    return found


def good_zip(folder, n=24): return write_counting_zip(synthetic_counting(n, seed=3), Path(folder) / f"good{n}.zip").read_bytes()


def cut_uploads(folder, n=100):
    "A client that hangs up after 1, 50 and 99 % of 3 MB"
    served, body, failures, longest = t.Served(folder), t.form([(t.FILE, os.urandom(3 << 20))]), 0, 0.0
    before = served.get("/files").json()
    for i in range(n):
        client = t.raw(served, t.posted(served, body[:len(body) * (1, 50, 99)[i % 3] // 100], len(body)), close=False)
        while not any((Path(folder) / "data" / "tmp").iterdir()): time.sleep(0.005) # it is being received
        client.close()
        start = time.monotonic()
        while any((Path(folder) / "data" / "tmp").iterdir()) and time.monotonic() - start < 5: time.sleep(0.01)
        longest = max(longest, time.monotonic() - start)
        failures += any((Path(folder) / "data" / "tmp").iterdir()) or served.get("/files").json() != before
    served.stop()
    return row("upload cut at 1, 50 and 99 %: no id, list unchanged, space back in 5 s", n, failures,
               f"space back after {longest:.2f} s at most")


def full_disk(folder, n=20):
    "A file system of 8 MB, filled; uploads and the ledger"
    disk = Path(folder) / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        served, good = t.Served(disk, "--reserve_mb", "0"), good_zip(folder)
        big = t.archive([("main.csv", t.ROW), ("images/a.png", os.urandom(9 << 20))], zipfile.ZIP_STORED)
        file_id, uploads, ledger, again = served.upload(good).json()["file_id"], 0, 0, 0
        for i in range(n):
            answer = served.upload(big)
            uploads += answer.status_code != 507 or any((disk / "data" / "tmp").iterdir()) or len(served.get("/files").json()["files"]) != 1
        for i in range(n):
            with open(disk / "filler", "wb", buffering=0) as f:
                try:
                    while f.write(b"\0" * 4096) == 4096: pass
                except OSError: pass
            answer = served.train(file_id, max_steps=1)
            ledger += answer.status_code != 503 or answer.json()["code"] != "ledger.unavailable" or len(
                served.get("/jobs").json()["jobs"]) != 0
            (disk / "filler").unlink()
            answer = served.upload(good)
            again += answer.status_code != 200 or served.delete(f"/files/{answer.json()['file_id']}").status_code != 204
        served.stop()
    finally: subprocess.run(["umount", "-l", str(disk)], check=True)
    return [row("disk full (tmpfs) while uploading: 507, nothing left behind", n, uploads),
            row("disk full when a job is submitted: 503, no job", n, ledger), row("space freed: an upload works again", n, again)]


def two_servers(folder, n=20):
    "A second server on the same data directory"
    served, failures = t.Served(folder), 0
    for _ in range(n):
        done = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", "0", "--data-dir", "data"], cwd=folder,
                              capture_output=True, text=True)
        failures += not done.returncode or "another server" not in done.stderr or served.get("/files").status_code != 200
    served.stop()
    return row("two servers on one data directory: the second refuses", n, failures)


def stops(folder, trainer, n=20):
    "SIGTERM with a stalled upload, a stream of events and a job that trains"
    good, failures, longest, job = good_zip(folder), 0, 0.0, None
    for i in range(n):
        served = t.Served(folder, env={"VLRLBOOK_TRAINER": trainer})
        if job is None: job = served.train(served.upload(good).json()["file_id"], max_steps=100_000).json()["job_id"]
        served.until(job, "training")
        held = t.raw(served, t.posted(served, b"--xyz\r\n", 1000), close=False)
        stream = served.get(f"/jobs/{job}/events", stream=True)
        next(stream.iter_lines())
        start = time.monotonic()
        failures += served.stop(seconds=30) != 0
        took = time.monotonic() - start
        longest, failures = max(longest, took), failures + (took > 10)
        held.close()
    served = t.Served(folder, env={"VLRLBOOK_TRAINER": trainer})
    failures += served.get(f"/jobs/{job}").json()["attempt"] != 1
    served.delete(f"/jobs/{job}")
    served.until(job, "cancelled")
    served.stop()
    return row("SIGTERM with a stalled upload, a stream and a job: ends within 10 s, the job trains on", n, failures,
               f"{longest:.1f} s at most")


def readers(folder, n=1000, seconds=60):
    "A thousand clients ask once a second, while a real job trains and uploads are read"
    served = t.Served(folder, env={"VLRLBOOK_CACHE": str(Path(folder) / "cache")})
    file_id, more, uploads, stop = served.upload(good_zip(folder, 60)).json()["file_id"], good_zip(folder, 400), [], threading.Event()
    job = served.train(file_id, warm_steps=20).json()["job_id"]
    while not served.get(f"/jobs/{job}/rollouts").json()["groups"]: time.sleep(1)
    def upload():
        while not stop.is_set():
            uploads.append(t.requests.post(f"{served.url}/upload-data", files={"file": ("more.zip", more)},
                                           headers=dict(served.api.headers)).status_code)
    thread = threading.Thread(target=upload)
    thread.start()
    before = served.get(f"/jobs/{job}").json()["current_step"]
    done = subprocess.run([sys.executable, "-c", pollers, f"{served.url}/jobs/{job}", served.api.headers["Authorization"][7:], str(n),
                           str(seconds)], capture_output=True, text=True, check=True)
    state = served.get(f"/jobs/{job}").json()
    stop.set()
    thread.join()
    served.delete(f"/jobs/{job}")
    served.until(job, "cancelled", "completed")
    served.stop()
    found = json.loads(done.stdout)
    by_second[:] = found["seconds"]
    bad = found["errors"] + sum(u != 200 for u in uploads) + (found["p99"] > 0.15)
    return row(f"{n} clients, one question a second each, {seconds} s, while training and uploading: p99 of at most 150 ms, no error",
               found["n"], bad,
               f"p50 {1000 * found['p50']:.0f} ms, p99 {1000 * found['p99']:.0f} ms, longest {1000 * found['most']:.0f} ms; {len(uploads)} "
               f"uploads of 400 pictures, steps {before:.0f} to {state['current_step']:.0f} meanwhile")


talker = """
"The real trainer as the server starts it, but for a job of seed 99: that one has a log of 3,000 rows and adds five a second"
import json, os, sys, time
if json.load(open("parameters.json")).get("seed") != 99: os.execv(sys.executable, json.loads(sys.argv[1]))
names = "step,reward,loss,silent,kl,entropy,lr,grad_norm,completion_length,clip_ratio,exact,readable,seconds,tokens".split(",")
def row(step): return ",".join([str(step), *(f"{0.1234567 * i + step / 9000:.7f}" for i in range(1, len(names)))]) + "\\n"
os.makedirs("run", exist_ok=True)
with open("run/run_log.csv", "w") as f: f.write(",".join(names) + "\\n" + "".join(map(row, range(1, 3001))))
for step in range(3001, 10**6):
    with open("run/run_log.csv", "a") as f: f.write(row(step))
    time.sleep(0.2)
"""


def listeners(folder, n=1000, streams=200, seconds=60):
    "A thousand clients and 200 listeners of a job with 3,000 rows, while a real job trains beside it"
    script = Path(folder) / "talker.py"
    script.write_text(talker)
    words = [sys.executable, str(script), json.dumps(gentle("tiny"))]
    served = t.Served(folder, "--slots", "2", "--streams", str(streams), env={"VLRLBOOK_CACHE": str(Path(folder) / "cache"),
        "VLRLBOOK_TRAINER": shlex.join(words)})
    file_id = served.upload(good_zip(folder, 60)).json()["file_id"]
    real = served.train(file_id, warm_steps=20, max_steps=10_000).json()["job_id"]
    told = served.train(file_id, seed=99, max_steps=10**5).json()["job_id"]
    while not served.get(f"/jobs/{real}/rollouts").json()["groups"]:
        if served.get(f"/jobs/{real}").json()["status"] not in ("queued", "training"): raise RuntimeError(served.get(f"/jobs/{real}").text)
        time.sleep(1)
    before = served.get(f"/jobs/{real}").json()["current_step"]
    done = subprocess.run([sys.executable, "-c", pollers, f"{served.url}/jobs/{told}", served.api.headers["Authorization"][7:], str(n),
                           str(seconds), str(streams)], capture_output=True, text=True, check=True)
    after = served.get(f"/jobs/{real}").json()["current_step"]
    for job in (real, told): served.delete(f"/jobs/{job}")
    for job in (real, told): served.until(job, "cancelled", "completed")
    served.stop()
    found = json.loads(done.stdout)
    bad = found["errors"] + (found["p99"] > 0.15) + (found["complete"] != streams)
    listened.append(dict(
        clients=n, listeners=streams, seconds=seconds, answers=found["n"], errors=found["errors"], whole_logs=found["complete"],
        p50_ms=round(1000 * found["p50"], 1), p99_ms=round(1000 * found["p99"], 1), most_ms=round(1000 * found["most"], 1),
        events=found["events"], megabytes=round(found["bytes"] / 1e6, 1), training_steps=after - before))
    return row(
        f"{n} clients and {streams} listeners of a log of 3,000 rows, {seconds} s, while training: p99 of at most 150 ms, no error",
        found["n"], bad,
        f"p50 {1000 * found['p50']:.0f} ms, p99 {1000 * found['p99']:.0f} ms, longest {1000 * found['most']:.0f} ms; "
        f"{found['events']} events, steps {before:.0f} to {after:.0f} meanwhile")


def downloads(folder, trainer, n=50):
    "Before the end, a hundred at once, and in parts"
    served = t.Served(folder, env={"VLRLBOOK_TRAINER": trainer})
    file_id, early, late, parts = served.upload(good_zip(folder)).json()["file_id"], 0, 0, 0
    slow = served.train(file_id, max_steps=100_000).json()["job_id"]
    for _ in range(n): early += served.get(f"/jobs/{slow}/download").status_code != 409
    served.delete(f"/jobs/{slow}")
    job = served.train(file_id, max_steps=2).json()["job_id"]
    served.until(job, "completed")
    ask = lambda **headers: served.get(f"/jobs/{job}/download", headers=headers)
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: t.requests.get(f"{served.url}/jobs/{job}/download", headers=dict(served.api.headers)),
                                range(100)))
    for a in answers:
        with zipfile.ZipFile(io.BytesIO(a.content)) as z:
            manifest = json.loads(z.read("manifest.json"))
            late += a.headers["etag"] != f'"{hashlib.sha256(a.content).hexdigest()}"' or any(hashlib.sha256(z.read(name)).hexdigest()
                != file["sha256"] for name, file in manifest.items())
    whole, rng = answers[0].content, random.Random(0)
    for _ in range(n):
        a, b = sorted(rng.sample(range(len(whole)), 2))
        answer = ask(Range=f"bytes={a}-{b}")
        parts += answer.status_code != 206 or answer.content != whole[a:b + 1]
    served.stop()
    return [row("download before the end: 409", n, early),
            row("100 downloads at once, the first of them: sha256 as the manifest and ETag say", 100, late),
            row("parts of a download (Range)", n, parts)]


def bad_inputs(folder, mutated=1500):
    "Everything wrong that the tests know, with the code it must get; then real requests with bytes changed at random"
    served, wrong, tried, rng = t.Served(folder, "--stall_seconds", "5"), [], 0, random.Random(0)
    file_id = served.upload(good_zip(folder)).json()["file_id"]
    def look(what, answer, code=None):
        nonlocal tried
        tried += 1
        try: body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        except ValueError: body = {}
        refused = answer.headers.get("content-type") == "application/problem+json" and body.get(
            "code") in problems and answer.status_code == problems[body["code"]][0] < 500
        if not (refused and body["code"] == code if code else refused or answer.status_code == 200):
            wrong.append((what, answer.status_code, body.get("code")))
    for code, make in bad_requests.BAD_UPLOADS.items(): look(code, served.upload(make()), code)
    for code, (name, data) in bad_requests.BAD_PICTURES.items():
        question, answer = bad_requests.BAD_TEXTS.get(code, ("How many?", "3"))
        rows = f"{t.HEADER}images/good.png,How many?,3\n{name},{question},{answer}\n"
        look(code, served.upload(t.archive([("main.csv", rows), ("images/good.png", t.png()), ("images/a.png", data)]),
                                 params=dict(strict="true")), code)
    for code, kind, body in bad_requests.BAD_FORMS: look(code, served.post("/upload-data", data=body, headers={"content-type": kind}), code)
    for code, body in bad_requests.BAD_JSON:
        look(code, served.post("/train", data=body, headers={"content-type": "application/json"}), code)
    for group, name, value in bad_requests.wrong_values():
        look(f"{group}.{name}", served.post("/train", json={"job_name": "a", "data_file_id": file_id, group: {name: value}}),
             f"{group}.{name}")
    for change, code in bad_requests.BAD_TRAIN:
        look(code, served.post("/train", json=({} if change == {} else dict(job_name="a", data_file_id=file_id)) | change), code)
    by_hand = tried
    valid = json.dumps(dict(job_name="a", data_file_id="f-none", training_config=dict(learning_rate=1e-4, seed=3),
                            lora_config=dict(r=8))).encode()
    for i in range(mutated):
        look(f"JSON {i}", served.post("/train", data=changed(valid, rng), headers={"content-type": "application/json"}))
    packed = good_zip(folder, 4)
    def one(seed):
        return seed, t.requests.post(f"{served.url}/upload-data", files={"file": ("x.zip", changed(packed, random.Random(seed)))},
                                     headers=dict(served.api.headers))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for seed, answer in pool.map(one, range(mutated // 5)): look(f"ZIP {seed}", answer)
    form = t.form([(t.FILE, packed)])
    head, tail = form[:120], form[-20:]
    for i in range(mutated // 5):
        look(f"form {i}", served.post("/upload-data", data=changed(head, rng) + form[120:-20] + changed(tail, rng),
                                      headers={"content-type": "multipart/form-data; boundary=xyz"}))
    if served.get("/jobs").json()["jobs"]: wrong.append(("a job was started by a bad request", 0, None))
    served.stop()
    print(wrong[:10])
    return [row("bad inputs made by hand, each with the code it must get", by_hand,
                len([w for w in wrong if not w[0].startswith(("JSON ", "ZIP ", "form "))])),
            row("requests with bytes changed at random: refused with a code, or still good; never a 5xx", tried - by_hand,
                len([w for w in wrong if w[0].startswith(("JSON ", "ZIP ", "form "))]))]


def fuzzed(folder, seconds=40):
    "Atheris on the readers, from the seeds"
    rows = []
    for kind in ("json", "csv", "zip"):
        done = subprocess.run([sys.executable, str(Path(__file__).parent / "fuzz.py"), kind, str(seconds)], capture_output=True, text=True)
        runs = int(t.re.search(r"number_of_executed_units: (\d+)", done.stderr)[1])
        rows.append(row(f"Atheris on the {kind.upper()} reader: only our own refusals", runs, int(done.returncode != 0), f"{seconds} s"))
    return rows


def changed(data, rng):
    "Bytes cut, doubled, flipped or overwritten in one to four places"
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) or 1)
        how = rng.randrange(4)
        if how == 0: del data[at:at + rng.randint(1, 8)]
        elif how == 1: data[at:at] = data[at:at + rng.randint(1, 8)]
        elif how == 2 and data: data[at % len(data)] ^= 1 << rng.randrange(8)
        else: data[at:at + 1] = bytes(rng.choice((0, 34, 44, 92, 123, 255)) for _ in range(rng.randint(1, 3)))
    return bytes(data)


def measure(names=()):
    "All rows, or those of the functions named, a few at a time; NAME=50,10 calls one with other numbers"
    asked = {name: [int(number) for number in numbers.split(",") if number] for name, _, numbers in (n.partition("=") for n in names)}
    faults = (cut_uploads, full_disk, two_servers, stops, downloads, bad_inputs, fuzzed, readers, listeners)
    unknown = sorted(set(asked) - {f.__name__ for f in faults})
    if unknown: sys.exit(f"no fault is called {unknown[0]}; there are {', '.join(f.__name__ for f in faults)}")
    with tempfile.TemporaryDirectory() as root:
        script = Path(root) / "trainer.py"
        script.write_text(t.TRAINER)
        trainer = f"{sys.executable} {script}"
        for f in faults:
            if asked and f.__name__ not in asked: continue
            folder = Path(root) / f.__name__
            folder.mkdir()
            more = (trainer,) if f in (stops, downloads) else ()
            found = f(folder, *more, *asked.get(f.__name__, ()))
            yield found if isinstance(found, list) else [found]
