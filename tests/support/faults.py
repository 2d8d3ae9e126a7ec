"""What chapter 07a's jobs are put through, in any number. Each function breaks things n times and counts what went wrong; tools/logs.py
writes the full table, tests/test_ledger.py runs a small one."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from vlrlbook.jobs import AlreadyServed, Jobs, LedgerUnavailable, WrongState, ends, job_tag, newest_checkpoint, parents, signal_all, tagged

HERE = Path(__file__).resolve().parent
TRAINER = [sys.executable, "-S", str(HERE / "fake_trainer.py")]


@contextmanager
def served(folder=None, tick=0.02, **options):
    "Jobs with a dispatcher, ended well"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        jobs = Jobs(folder or own, **{"grace": 0.3, "slots": 2, **options})
        jobs.tick = tick
        jobs.start()
        try: yield jobs
        finally:
            for job in jobs.list(limit=10**6)[0]:
                if job.status not in ends: jobs.cancel(job.job_id)
            wait(lambda: all(j.status in ends for j in jobs.list(limit=10**6)[0]))
            jobs.stop()


@contextmanager
def opened(folder):
    "Jobs to look at, without a dispatcher"
    jobs = Jobs(folder)
    try: yield jobs
    finally: jobs.stop()


def wait(true, seconds=60):
    "Until `true()`, or an error"
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit: raise TimeoutError(f"still not so after {seconds} s")
        time.sleep(0.01)


def until(jobs, job, *status):
    "The job, once it is in one of these states"
    wait(lambda: jobs.get(job.job_id).status in status)
    return jobs.get(job.job_id)


def history_is_legal(events):
    "Moves follow one another, from submission on, and leave an end only by resume"
    allowed = {(None, "queued"), ("queued", "training"), ("queued", "cancelled"), ("training", "cancelling"), ("interrupted", "queued"),
               ("interrupted", "cancelled"), ("failed", "queued"), ("cancelled", "queued"),
               *((a, b) for a in ("training", "cancelling") for b in ("completed", "failed", "cancelled", "interrupted"))}
    return all((e["from"], e["to"]) in allowed for e in events) and all(a["to"]
        == b["from"] for a, b in zip(events, events[1:])) and events[0]["from"] is None


def what_happened(folder):
    "Counts of the trainer's own notes: starts, finishes, overlaps"
    path = folder / "events.txt"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def supervisors(data_dir):
    "Ids of living supervisors of a data directory"
    found = []
    for pid, (_, state) in parents().items():
        try: words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError): continue
        if state not in "ZX" and b"supervise" in words and any(w.startswith(str(data_dir).encode()) for w in words): found.append(pid)
    return found


def everybody(data_dir):
    "All of them at one look at /proc"
    tag, found = f"VLRLBOOK_JOB={data_dir}/".encode(), []
    for pid, (_, state) in parents().items():
        try: environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError): continue
        if state not in "ZX" and b"\0" + tag in b"\0" + environment: found.append(pid)
    return found


def kill_at_random(n, seed=0, every=0.2, parameters=None):
    "n jobs; all the while the server, a supervisor or a trainer is killed -9"
    rng, kills = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        given = json.dumps({"max_steps": 6, "seconds": 0.08, "child": True, **(parameters or {})})
        start = lambda: subprocess.Popen([sys.executable, str(HERE / "fault_server.py"), str(folder), str(n), given],
                                         stderr=open(folder / "server.log", "ab"))
        server, acks, began = start(), folder / "acks.txt", time.monotonic()
        try:
            while True:
                time.sleep(rng.expovariate(1 / every))
                who = rng.choice(["server", "supervisor", "trainer"])
                pids = {"server": [server.pid], "supervisor": supervisors(folder), "trainer": everybody(folder)}[who]
                if pids:
                    signal_all([rng.choice(pids)], signal.SIGKILL)
                    kills[who] += 1
                if who == "server":
                    server.wait()
                    if acks.exists() and len(acks.read_text().splitlines()) == n:
                        with opened(folder) as jobs: waiting = [j for j in jobs.list(limit=10**6)[0] if j.status not in ends]
                        if not waiting: break
                    server = start()
                if time.monotonic() - began > 1500: raise TimeoutError("jobs do not end")
        finally:
            server.kill()
            server.wait()
        time.sleep(1.5) # who is to die by the system's hand has died
        with opened(folder) as jobs:
            given_out = dict(line.split() for line in acks.read_text().splitlines())
            found = {j.job_id: j for j in jobs.list(limit=10**6)[0]}
            done = {j: what_happened(folder / "jobs" / j) for j in found}
            wrong = dict(lost=sum(j not in found or found[j].status not in ends for j in given_out.values()),
                         unasked=len(set(found) - set(given_out.values())),
                         overlapping=sum(d["OVERLAP"] > 0 for d in done.values()),
                         orphans=len(everybody(folder)) + len(supervisors(folder)),
                         finished_twice=sum(d["finish"] > 1 for d in done.values()),
                         illegal=sum(not history_is_legal(jobs.events(j)) for j in found),
                         unexplained=sum(j.status == "failed" and j.error_code != "trainer.killed" for j in found.values()),
                         told_wrongly=sum((j.status == "completed") != (newest_result(folder / "jobs" / i)) for i, j in found.items()))
            states = Counter(j.status for j in found.values())
        return dict(n=n, failures=sum(wrong.values()),
                    detail=f"{sum(kills.values())} kills ({', '.join(f'{k} {v}' for k, v in sorted(kills.items()))}); {dict(states)}; "
                    + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in wrong.items()))


def newest_result(folder):
    "Whether a whole result lies there"
    from vlrlbook.core import damage
    return damage(folder / "result") is None


def cancel_in_every_state(n, grace=0.3):
    """Cancelled while queued, starting, training, saving, just finishing, finished, and twice; trainers are deaf to SIGTERM and have a
    child; the time is judged in the full run only"""
    wrong, slowest, moments = Counter(), 0.0, ["queued", "starting", "training", "saving", "finishing", "finished", "twice"]
    rng = random.Random(1)
    with served(slots=1, grace=grace) as jobs:
        for i in range(n):
            moment = moments[i % len(moments)]
            steps = 4 if moment in ("finishing", "finished") else 2000
            given = dict(max_steps=steps, seconds=0.02, save_steps=1, child=True, deaf=True)
            first = jobs.submit("in the way", dict(max_steps=2000, seconds=0.02), TRAINER) if moment == "queued" else None
            if first: until(jobs, first, "training")
            job = jobs.submit(f"{moment} {i}", given, TRAINER)
            if moment == "starting": until(jobs, job, "training")
            if moment in ("training", "twice"): wait(lambda: jobs.get(job.job_id).current_step > 2)
            if moment == "saving": wait(lambda: list(jobs.folder(job.job_id).glob(".aside-*")) or jobs.get(job.job_id).current_step > 5)
            if moment == "finishing":
                wait(lambda: what_happened(jobs.folder(job.job_id))["start"])
                time.sleep(rng.uniform(0.05, 0.15))
            if moment == "finished": until(jobs, job, "completed")
            began = time.monotonic()
            try:
                jobs.cancel(job.job_id)
                if moment == "twice": jobs.cancel(job.job_id)
                if moment == "finished": wrong["a finished job was cancelled"] += 1
            except WrongState:
                if moment not in ("finished", "finishing", "twice"): wrong["refused"] += 1
            alive = lambda: bool(tagged(job_tag(jobs.folder(job.job_id))))
            took = 0.0 # when somebody of the tree was last seen
            while jobs.get(job.job_id).status not in ends or alive():
                if alive(): took = time.monotonic() - began
                if time.monotonic() - began > 60: raise TimeoutError("a job that does not end")
            slowest = max(slowest, took)
            if n >= 100 and took > grace + 1: wrong["tree alive after grace + 1 s"] += 1
            events = jobs.events(job.job_id)
            if not history_is_legal(events) or sum(e["to"] in ends for e in events) != 1: wrong["not one end"] += 1
            if moment not in ("finished", "finishing") and jobs.get(job.job_id).status != "cancelled": wrong["not cancelled"] += 1
            try: jobs.cancel(job.job_id)
            except WrongState: pass
            else: wrong["an end was cancelled again"] += 1
            if first:
                jobs.cancel(first.job_id)
                until(jobs, first, "cancelled")
    return dict(n=n, failures=sum(wrong.values()),
                detail=f"slowest tree dead after {slowest:.2f} s, grace {grace} s" + "".join(f"; {v} × {k}" for k, v in wrong.items()))


def two_servers(n):
    "A second server on a data directory, in this process and in another"
    failures, code = 0, ("import sys\nfrom vlrlbook.jobs import Jobs, AlreadyServed\n"
                          "try: Jobs(sys.argv[1])\nexcept AlreadyServed: sys.exit(7)")
    with served() as jobs:
        for i in range(n):
            if i % 5: # another process is slow to start
                try: Jobs(jobs.data_dir)
                except AlreadyServed: continue
                failures += 1
            else: failures += subprocess.run([sys.executable, "-c", code, str(jobs.data_dir)]).returncode != 7
    return dict(n=n, failures=failures, detail="every fifth from another process; each refused")


def restart_with_queue(n):
    "A server that dies with jobs waiting (fewer in CI); the next starts them in order, each once"
    wrong, jobs_each = Counter(), 50 if n > 1 else 12
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder:
            first = Jobs(folder)
            ids = [first.submit(str(i), dict(max_steps=1, seconds=0),
                                ["/bin/sh", "-c", f"echo {i} >> ../../order.txt"]).job_id for i in range(jobs_each)]
            die(first)
            with served(folder, tick=0.01, slots=1) as jobs:
                wait(lambda: all(j.status in ends for j in jobs.list(limit=1000)[0]), 120)
                order = (Path(folder) / "order.txt").read_text().split()
                wrong["order"] += order != [str(i) for i in range(jobs_each)]
                wrong["started twice"] += any(jobs.get(i).attempt != 1 for i in ids)
    return dict(n=n, failures=sum(wrong.values()), detail=f"{jobs_each} jobs waiting each time, one slot; order kept, each started once")


def die(jobs):
    "What the system does with the files of a server that was killed"
    jobs.stopping = True
    if jobs.thread: jobs.thread.join()
    jobs.ledger.close()
    os.close(jobs.server_lock)


def clock_jumps(n):
    "The clock goes a day back or forth under a running server: order, progress and ages stay"
    wrong, rng = Counter(), random.Random(2)
    for i in range(n):
        shift = [0.0]
        Jobs.wall = staticmethod(lambda: time.time() + shift[0])
        try:
            with served(slots=1, keep_days=0.5) as jobs:
                old = until(jobs, jobs.submit("old", dict(max_steps=1), TRAINER), *ends)
                ids = []
                for k in range(3):
                    shift[0] = rng.choice([-86400, 86400]) * (k + 1)
                    ids.append(jobs.submit(str(k), dict(max_steps=2), TRAINER).job_id)
                    jobs.clean_up()
                wait(lambda: all(jobs.get(j).status in ends for j in ids))
                wrong["removed"] += not jobs.ledger_knows(old.job_id)
                wrong["order"] += [j.job_id for j in jobs.list()[0]] != [*ids[::-1], old.job_id]
                starts = [int(line.split()[3]) for j in ids for line in (jobs.folder(j) / "events.txt").read_text().splitlines()
                          if line.startswith("start")]
                wrong["started out of order"] += starts != sorted(starts)
        finally: Jobs.wall = staticmethod(time.time)
    return dict(n=n, failures=sum(wrong.values()),
                detail="clock ±1 to 3 days between submissions, clean-up of half a day on; order kept, nothing removed")


endings = {"memory": "trainer.out_of_memory", "exit": "trainer.exit", "nothing": "trainer.no_artefact", "settings": "trainer.parameters",
           "kill": "trainer.killed"}


def bad_endings(n):
    "Out of memory, exit 1, exit 0 without a result, bad parameters, killed: failed, each with its code"
    with served() as jobs:
        given = [(end, jobs.submit(end, dict(end=end, child=True), TRAINER)) for _ in range(n) for end in endings]
        missing = jobs.submit("no such program", {}, ["/no/such/program"])
        wait(lambda: all(j.status in ends for j in jobs.list(limit=10**6)[0]), 300)
        found = [(endings[end], jobs.get(job.job_id)) for end, job in given] + [("trainer.start", jobs.get(missing.job_id))]
    wrong = sum((j.status, j.error_code) != ("failed", code) for code, j in found)
    return dict(n=len(found), failures=wrong, detail=f"{n} of each: {', '.join(sorted(set(endings.values())))}")


odd = ["\ud800 lone", "nul \0 inside", "\x1b[31mred", "<script>alert(1)</script>", "'; DROP TABLE jobs; --", "三个苹果 🍎", "a\r\nb",
       "\u202eright to left", "x" * 5000, "", "NaN", '{"a": NaN}', "\ufeffbom", "\udcff"]


def odd_texts(n):
    "Losses that are NaN or infinite, and odd characters in names, parameters, words of the trainer: the list stays JSON"
    wrong = Counter()
    with served() as jobs:
        for i in range(n):
            text, loss = odd[i % len(odd)], ["nan", "inf", "-inf", "1e400", "x"][i % 5]
            jobs.submit(text, dict(max_steps=3, loss=loss, say=text, **{text[:20]: [text, float("nan"), float("inf")]},
                                   end=["well", "exit"][i % 2]), TRAINER)
        wait(lambda: all(j.status in ends for j in jobs.list(limit=10**6)[0]), 300)
        for job in jobs.list(limit=10**6)[0]:
            try: json.loads(json.dumps(job.as_dict(), allow_nan=False, ensure_ascii=False).encode("utf-8"))
            except (ValueError, UnicodeError) as e: wrong[type(e).__name__] += 1
            wrong["loss"] += job.loss is not None and abs(job.loss) == float("inf")
            json.dumps(jobs.events(job.job_id), allow_nan=False, ensure_ascii=False).encode("utf-8")
        wrong["lost"] += n - len(jobs.list(limit=10**6)[0])
    return dict(n=n, failures=sum(wrong.values()), detail=f"{len(odd)} texts, 5 losses")


def damaged_checkpoints(n):
    "The newest checkpoint damaged in each way: the one before is used and named"
    def cut(p): (p / "trainer_state.json").write_text("{")
    def other(p): (p / "trainer_state.json").write_text((p / "trainer_state.json").read_text().replace("8", "9"))
    ways = dict(cut_short=cut, other_bytes=other, file_missing=lambda p: (p / "trainer_state.json").unlink(),
                no_manifest=lambda p: (p / "manifest.json").unlink(), manifest_cut=lambda p: (p / "manifest.json").write_text("{"),
                empty=lambda p: [f.unlink() for f in p.iterdir()])
    wrong = Counter()
    with served() as jobs:
        for way, harm in ways.items():
            for _ in range(n):
                job = jobs.submit(way, dict(max_steps=16, end="exit", save_steps=2), TRAINER)
                until(jobs, job, "failed")
                run = jobs.folder(job.job_id) / "run"
                harm(run / "checkpoint-8")
                wrong[way] += newest_checkpoint(run).name != "checkpoint-6"
                shutil.rmtree(run / "checkpoint-8")
                (jobs.folder(job.job_id) / "parameters.json").write_text(json.dumps(dict(max_steps=16, save_steps=2)))
                jobs.resume(job.job_id)
                wrong[way] += until(jobs, job, *ends).resumed_from != "checkpoint-6" or jobs.get(job.job_id).status != "completed"
    return dict(n=n * len(ways), failures=sum(wrong.values()), detail=f"{n} of each: {', '.join(w.replace('_', ' ') for w in ways)}")


def disk_full(n, part):
    """In a small file system of its own (a mount name space; SQLite lets its log grow to 4 MB before it begins anew): ledger or log on a
    full disk, then room again"""
    with tempfile.TemporaryDirectory() as folder:
        script = f"mount -t tmpfs -o size=16m tmpfs {folder} && exec {sys.executable} {HERE / 'faults.py'} {part} {folder} {n}"
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(HERE.parent)})
        if done.returncode: raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1])


def fill(folder):
    "Every byte that is left"
    path = Path(folder) / "ballast"
    with open(path, "wb", buffering=0) as f:
        for size in (65536, 4096, 512, 1):
            try:
                while True: f.write(b"x" * size)
            except OSError: pass
    return path


def ledger_on_a_full_disk(folder, n):
    "Submitting says so and leaves nothing; a running job ends well; afterwards all works again"
    wrong = Counter()
    with served(Path(folder) / "data", slots=1) as jobs:
        for i in range(n):
            running = jobs.submit("running", dict(max_steps=3, seconds=0.5, child=True), TRAINER)
            wait(lambda: jobs.get(running.job_id).status == "training" and what_happened(jobs.folder(running.job_id))["start"])
            waiting = jobs.submit("waiting", dict(max_steps=1), TRAINER)
            before, ballast = sorted(p.name for p in (jobs.data_dir / "jobs").iterdir()), fill(folder)
            refused = 0
            for _ in range(5):
                try: jobs.submit("no room", dict(note="x" * 20000), TRAINER)
                except LedgerUnavailable: refused += 1
            wrong["accepted without room"] += refused < 5
            wrong["list fails"] += not jobs.list()[0]
            try: wrong["cancelled by half"] += jobs.cancel(waiting.job_id).status != "cancelled"
            except LedgerUnavailable: wrong["cancelled by half"] += jobs.get(waiting.job_id).status == "cancelled"
            except WrongState: wrong["refused without an end"] += jobs.get(waiting.job_id).status not in ends # the first one was quick
            time.sleep(0.3)
            ballast.unlink()
            wrong["left behind"] += sorted(p.name for p in (jobs.data_dir / "jobs").iterdir()) != before or any(
                (jobs.data_dir / "tmp").iterdir())
            ended = until(jobs, running, *ends)
            wrong["ended badly"] += ended.status not in ("completed", "failed") or ended.error_code not in (None, "trainer.disk_full",
                "trainer.exit")
            until(jobs, waiting, *ends)
            again = until(jobs, jobs.submit("room again", dict(max_steps=1), TRAINER), *ends)
            wrong["not working again"] += again.status != "completed"
            for j in (running, waiting, again): jobs.remove(j.job_id)
    return dict(n=n, failures=sum(wrong.values()),
                detail="; ".join(["5 submissions each: LedgerUnavailable, nothing left behind, works again",
                                  *(f"{v} × {k}" for k, v in wrong.items() if v)]))


def log_on_a_full_disk(folder, n):
    "A trainer that talks while the disk is full loses words, not its life; its end is told"
    wrong, talk = Counter(), ("import time\nfor i in range(60): print('word ' * 200, flush=True); time.sleep(0.02)\n"
                              "import shutil, os; os.rename('ready', 'result')")
    with served(Path(folder) / "data") as jobs:
        for i in range(n):
            job = jobs.submit("talks", {}, [sys.executable, "-c", talk])
            ready = jobs.folder(job.job_id) / "ready"
            ready.mkdir()
            (ready / "manifest.json").write_text("{}")
            wait(lambda: (jobs.folder(job.job_id) / "job.log").exists())
            ballast = fill(folder)
            wait(lambda: (jobs.folder(job.job_id) / "outcome.json").exists())
            wrong["end not told"] += json.loads((jobs.folder(job.job_id) / "outcome.json").read_text())["state"] != "completed"
            ballast.unlink()
            wrong["not completed"] += until(jobs, job, *ends).status != "completed"
            jobs.remove(job.job_id)
    return dict(n=n, failures=sum(wrong.values()),
                detail="; ".join(["the run completes on a full disk, and its end is told there",
                                  *(f"{v} × {k}" for k, v in wrong.items() if v)]))


if __name__ == "__main__":
    print(json.dumps({"ledger": ledger_on_a_full_disk, "log": log_on_a_full_disk}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
