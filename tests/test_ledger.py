"""Jobs may be killed at any moment: none is lost, none runs twice. VLRLBOOK_FULL=1 runs every fault as often as the chapter's table
says."""
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from support import faults
import pytest
from conftest import ROOT, SEVEN, SHORT
from support.faults import TRAINER, die, everybody, history_is_legal, opened, served, supervisors, until, wait, what_happened
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from vlrlbook import jobs as module
from vlrlbook.core import RunLog, damage
from vlrlbook.jobs import (Jobs, KeyReused, LedgerUnavailable, NetworkFolder, NoCheckpoint, NoData, QueueFull, UnknownJob, WrongState,
                           ends,
                           job_tag, live, newest_checkpoint, signal_all, states, tagged)

FULL = bool(os.environ.get("VLRLBOOK_FULL"))
own_mounts = subprocess.run(["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
                            capture_output=True).returncode == 0 if shutil.which("unshare") else False
needs_mounts = pytest.mark.skipif(not own_mounts, reason="this machine gives no mount name space")
FAULTS = [("kill_at_random", (), 16, 300), ("cancel_in_every_state", (), 7, 100), ("two_servers", (), 5, 20),
          ("restart_with_queue", (), 1, 20), ("clock_jumps", (), 1, 20), ("bad_endings", (), 1, 20),
          ("odd_texts", (), 14, 100), ("damaged_checkpoints", (), 1, 5), ("disk_full", ("ledger",), 1, 20), ("disk_full", ("log",), 1, 20)]


@pytest.mark.parametrize("name, more, few, many",
                         [pytest.param(*f, marks=needs_mounts if f[0] == "disk_full" else (), id=" ".join([f[0], *f[1]])) for f in FAULTS])
def test_fault(name, more, few, many):
    found = getattr(faults, name)(many if FULL else few, *more)
    assert found["failures"] == 0, found


def test_the_fault_tests_notice_an_orphan(monkeypatch):
    "Without the search for what a dead supervisor left, a second attempt meets the first one's child"
    monkeypatch.setattr(module.LocalBackend, "sweep", lambda *args: True)
    with served() as jobs:
        job = jobs.submit("a", dict(max_steps=100, seconds=0.03, child=True), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 4)
        signal_all(supervisors(jobs.data_dir), signal.SIGKILL)
        until(jobs, job, *ends)
        assert what_happened(jobs.folder(job.job_id))["OVERLAP"] == 1 and len(everybody(jobs.data_dir)) == 1
        signal_all(everybody(jobs.data_dir), signal.SIGKILL)


def test_the_pages_table_is_of_the_full_size_and_without_failures():
    rows = list(csv.DictReader((ROOT / "nbs" / "logs" / "07a_faults.csv").open()))
    assert {(r["fault"], r["part"]) for r in rows} >= {(f[0], *(f[1] or ("",))) for f in FAULTS}
    wanted = {(f[0], *(f[1] or ("",))): f[3] for f in FAULTS}
    assert all(int(r["n"]) >= wanted[r["fault"], r["part"]] and r["failures"] == "0" for r in rows if (r["fault"], r["part"]) in wanted)


def test_the_same_key_is_the_same_job(tmp_path):
    with opened(tmp_path) as jobs:
        one = jobs.submit("a", {}, key="k", request_hash="1")
        assert jobs.submit("a", {}, key="k", request_hash="1").job_id == one.job_id
        with pytest.raises(KeyReused): jobs.submit("b", {}, key="k", request_hash="2")
        assert jobs.submit("a", {}).job_id != one.job_id and len(jobs.list()[0]) == 2
        assert sorted(p.name for p in (tmp_path / "jobs").iterdir()) == sorted(j.job_id for j in jobs.list()[0]) and not list(
            (tmp_path / "tmp").iterdir())
        jobs.remove(jobs.cancel(one.job_id).job_id)
        assert jobs.submit("b", {}, key="k", request_hash="2").status == "queued"


def test_refusals(tmp_path):
    with opened(tmp_path) as jobs:
        jobs.max_queued = 2
        a, b = jobs.submit("a", {}), jobs.submit("b", {})
        with pytest.raises(QueueFull): jobs.submit("c", {})
        assert len(list((tmp_path / "jobs").iterdir())) == 2
        for call in (jobs.get, jobs.cancel, jobs.resume, jobs.remove, jobs.events, jobs.folder):
            for unknown in ("nobody", "../../etc", "\ud800", ""):
                with pytest.raises(UnknownJob): call(unknown)
        for call in (jobs.resume, jobs.remove):
            with pytest.raises(WrongState): call(a.job_id)
        assert jobs.cancel(a.job_id).status == "cancelled"
        with pytest.raises(WrongState): jobs.cancel(a.job_id)
        with pytest.raises(NoCheckpoint): jobs.resume(a.job_id)
        with pytest.raises(ValueError, match="did you mean 'queued'"): jobs.list(status="qeued")
        assert [j.job_id for j in jobs.list(status="queued")[0]] == [b.job_id]
    with pytest.raises(ValueError, match="did you mean 'ray'"): Jobs(tmp_path, backend="rai")
    with opened(tmp_path): pass # a refusal holds no lock


def test_pages_of_the_list(tmp_path):
    with opened(tmp_path) as jobs:
        ids = [jobs.submit(str(i), {}).job_id for i in range(7)]
        found, after = [], None
        while True:
            page, after = jobs.list(limit=3, after=after)
            found += [j.job_id for j in page]
            if after is None: break
        assert found == ids[::-1]


def test_network_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrlbook.jobs.dispatcher.file_system", lambda path: "ext4" if Path(path).name == "here" else "nfs4")
    with pytest.raises(NetworkFolder, match="nfs4"): Jobs(tmp_path / "shared")
    Jobs(tmp_path / "shared", ledger_dir=tmp_path / "here").stop()


def test_a_locked_ledger_says_so_and_recovers(tmp_path):
    with opened(tmp_path) as jobs:
        other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable): jobs.submit("a", {})
        assert not list((tmp_path / "jobs").iterdir())
        other.execute("ROLLBACK")
        other.close()
        assert jobs.submit("a", {}).status == "queued"


def test_what_a_crash_left_is_tidied(tmp_path):
    with opened(tmp_path) as jobs: kept = jobs.submit("a", {})
    for name in ("jobs/0123456789abcdef", "tmp/job-x"): (tmp_path / name).mkdir()
    with opened(tmp_path) as jobs:
        assert [p.name for p in (tmp_path / "jobs").iterdir()] == [kept.job_id] and not list((tmp_path / "tmp").iterdir())


def test_progress_does_not_fall_within_an_attempt(tmp_path):
    with served(tmp_path, restarts=0) as jobs:
        job, seen = jobs.submit("a", dict(max_steps=120, seconds=0.02, save_steps=7), TRAINER), []
        wait(lambda: jobs.get(job.job_id).current_step > 30)
        signal_all(supervisors(tmp_path), signal.SIGKILL)
        until(jobs, job, "failed") # no start by itself is allowed, so this end is the last
        jobs.resume(job.job_id)
        while jobs.get(job.job_id).status not in ends:
            now = jobs.get(job.job_id)
            if now.attempt == 2 and now.status == "training": seen.append((now.progress, now.current_step))
        last = jobs.get(job.job_id)
        assert seen == sorted(seen) and len(set(seen)) > 5
        assert seen[0][1] >= int(last.resumed_from[11:]) and last.resumed_from != "checkpoint-0" and (last.progress, last.current_step,
            last.attempt) == (100, 120, 2)
        assert all(p < 100 for p, _ in seen)


def test_adopted_by_the_next_server(tmp_path):
    first = Jobs(tmp_path, grace=0.3)
    first.start()
    job = first.submit("a", dict(max_steps=200, seconds=0.02), TRAINER)
    wait(lambda: first.get(job.job_id).current_step > 2)
    die(first)
    with served(tmp_path) as jobs:
        assert until(jobs, job, *ends).status == "completed" and jobs.get(job.job_id).attempt == 1
        assert [e["to"] for e in jobs.events(job.job_id)] == ["queued", "training", "completed"]


@pytest.mark.parametrize("polite", [True, False])
def test_a_server_that_stops_may_interrupt(tmp_path, polite):
    with served(tmp_path, on_exit="interrupt", restarts=0) as jobs:
        # 200 steps of 0.02 s: a busy machine may see step 17 seconds late, and the job must still be running then.
        job = jobs.submit("a", dict(max_steps=200, seconds=0.02, child=True, polite=polite, save_steps=15), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 16)
        jobs.stop(5)
        assert not everybody(tmp_path) and not supervisors(tmp_path)
        jobs.__init__(tmp_path, restarts=0)
        step = jobs.get(job.job_id).current_step
        assert jobs.get(job.job_id).status == "interrupted"
        jobs.start()
        ended = until(jobs, job, *ends)
        assert (ended.status, ended.resumed_from) == ("completed", f"checkpoint-{step if polite else step - step % 15}")
    assert what_happened(tmp_path / "jobs" / job.job_id)["finish"] == 1


def test_after_its_last_start_by_itself_a_job_ends_and_says_why(tmp_path):
    "It waited for ever, and so did its upload; what the supervisor printed is the last that is known"
    with served(tmp_path, restarts=1) as jobs:
        job = jobs.submit("a", dict(max_steps=2000, seconds=0.02, save_steps=10**6), TRAINER)
        for attempt in (1, 2):
            wait(lambda: jobs.get(job.job_id).attempt == attempt and jobs.get(job.job_id).current_step > 1)
            (jobs.folder(job.job_id) / "supervisor.log").write_text("Traceback\n  …\nImportError: no randint\n\n")
            signal_all(supervisors(tmp_path), signal.SIGKILL)
        ended = until(jobs, job, *ends)
        assert (ended.status, ended.attempt, ended.error_code) == ("failed", 2, "trainer.killed") and ended.ended_at
        assert ended.error_message == ("interrupted 2 times without a new checkpoint, the last time: its supervisor died; "
                                       "last words: ImportError: no randint")
        assert history_is_legal(jobs.events(job.job_id)) and not everybody(tmp_path)
        with pytest.raises(NoCheckpoint): jobs.resume(job.job_id)


def test_a_job_that_an_older_release_left_ends_too(tmp_path):
    "Interrupted with all its starts behind it; one that was stopped by order or may start again goes on"
    with opened(tmp_path) as jobs:
        ids = {restarts: jobs.submit("a", dict(max_steps=1), TRAINER).job_id for restarts in (-1, 2, 3)}
        for restarts, job_id in ids.items():
            jobs.ledger.move(job_id, "queued", "training", "slot 0", attempt=4, slot="0")
            jobs.ledger.move(job_id, "training", "interrupted", "could not be started: No such thing" if restarts == 3 else
                             "its supervisor died", restarts=restarts)
        jobs.waiting.queue_interrupted(3)
        assert {restarts: jobs.get(job_id).status for restarts, job_id in ids.items()} == {-1: "queued", 2: "queued", 3: "failed"}
        last = jobs.get(ids[3])
        assert (last.error_code, last.attempt) == ("trainer.start", 4) and "4 times" in last.error_message
        assert last.error_message.endswith("could not be started: No such thing")


@pytest.mark.parametrize("who", [supervisors, everybody])
def test_a_machine_that_shuts_down_interrupts_its_jobs(tmp_path, who):
    "SIGTERM to a supervisor, or to each process as systemd sends it: no crash, and a trainer that lives saves first"
    with served(tmp_path, restarts=0, grace=5) as jobs:
        job = jobs.submit("a", dict(max_steps=150, seconds=0.02, save_steps=5), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 16)
        at_once = supervisors(tmp_path)
        signal_all([*at_once, *(pid for pid in who(tmp_path) if pid not in at_once)], signal.SIGTERM)
        ended = until(jobs, job, *ends)
        assert (ended.status, ended.attempt) == ("completed", 2) and int(ended.resumed_from[11:]) >= 15
        whys = [e["why"] for e in jobs.events(job.job_id)]
        assert whys[2:4] == ["its outcome says so", "goes on after a stop"]
        if who is supervisors: assert "left" in what_happened(jobs.folder(job.job_id))


def test_a_cancelled_job_stays_cancelled_where_the_machine_shuts_down(tmp_path):
    with served(tmp_path, grace=0.5) as jobs:
        job = jobs.submit("a", dict(max_steps=2000, seconds=0.02, deaf=True, polite=False), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 2)
        jobs.cancel(job.job_id)
        signal_all(supervisors(tmp_path), signal.SIGTERM)
        assert until(jobs, job, *ends).status == "cancelled"


@pytest.mark.parametrize("polite, grace, seconds, counts", [
    (True, 5, 5, dict(saved=1, killed=0, running=0)), (False, 0.2, 5, dict(saved=0, killed=1, running=0)),
    (False, 2, 0.2, dict(saved=0, killed=0, running=1))])
def test_a_stop_tells_who_has_saved(tmp_path, polite, grace, seconds, counts):
    "It said that all had, also where the trainer was killed in the middle of a step, or still ran"
    with served(tmp_path, on_exit="interrupt", grace=grace) as jobs:
        job = jobs.submit("a", dict(max_steps=3000, seconds=0.02, polite=polite, save_steps=10**6), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 2)
        assert jobs.stop(seconds) == counts and jobs.stop() is None
        wait(lambda: not supervisors(tmp_path))
        jobs.__init__(tmp_path, grace=0.3)
        jobs.start()
        wait(lambda: jobs.get(job.job_id).attempt == 2)
        whys = [e["why"] for e in jobs.events(job.job_id)]
        told = "its outcome says so" if polite else (
            f"its outcome says so: killed {grace:g} s after the order to stop, before it had saved and ended")
        assert whys[2:4] == [told, "goes on after a stop"]
        assert (jobs.get(job.job_id).resumed_from is None) == (not polite)


def test_a_job_whose_folder_is_gone_blocks_nobody(tmp_path):
    with opened(tmp_path) as jobs:
        gone, next_one = (jobs.submit(name, dict(max_steps=1), TRAINER) for name in ("gone", "next"))
        shutil.rmtree(jobs.folder(gone.job_id))
    with served(tmp_path, slots=1) as jobs:
        assert until(jobs, next_one, *ends).status == "completed"
        assert (jobs.get(gone.job_id).status, jobs.get(gone.job_id).error_code) == ("failed", "trainer.start")
        jobs.stop()
        jobs.stop()
        jobs.__init__(tmp_path)


def test_one_job_per_slot(tmp_path):
    say = [sys.executable, "-S", "-c", "import os, time; print('devices', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(0.4)"]
    with served(tmp_path, slots=["2", "5"]) as jobs:
        ids = [jobs.submit(str(i), {}, say).job_id for i in range(5)]
        most = 0
        while any(jobs.get(i).status not in ends for i in ids):
            running = [j for j in jobs.list()[0] if j.status in live]
            most = max(most, len(running))
            assert len({j.slot for j in running}) == len(running) <= 2
        said = {(jobs.folder(i) / "job.log").read_text().strip() for i in ids}
    assert said == {"devices 2", "devices 5"} and most == 2


@pytest.mark.parametrize("given, each", [(None, max(1, len(os.sched_getaffinity(0)) // 2)), ("7", 7)])
def test_jobs_share_the_cores(tmp_path, monkeypatch, given, each):
    "A job's threads are its share, unless the server was told how many"
    if given: monkeypatch.setenv("OMP_NUM_THREADS", given)
    else: monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with served(tmp_path, slots=2) as jobs:
        job = until(jobs, jobs.submit("a", {}, [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]), *ends)
        assert (jobs.folder(job.job_id) / "job.log").read_text() == f"{each}\n"


def test_old_and_large_jobs_go_but_no_others(tmp_path):
    with served(tmp_path) as jobs:
        ids = [jobs.submit(str(i), dict(max_steps=1), TRAINER).job_id for i in range(4)]
        wait(lambda: all(jobs.get(i).status == "completed" for i in ids))
        ids.sort(key=lambda i: jobs.get(i).ended_at)
    with opened(tmp_path) as jobs:
        waiting = {jobs.submit("waits", {}).job_id for _ in range(3)}
        jobs.keep_days = 1
        jobs.clock_base += 86300
        assert jobs.clean_up() == []
        jobs.keep_bytes = sum(module.folder_bytes(jobs.folder(i)) for i in ids[2:])
        assert jobs.clean_up() == ids[:2]
        jobs.clock_base += 200
        assert jobs.clean_up() == ids[2:]
        assert {j.job_id for j in jobs.list()[0]} == waiting == {p.name for p in (tmp_path / "jobs").iterdir()}
        clock = jobs.clock()
    with opened(tmp_path) as jobs: assert jobs.clock() >= clock


def test_age_by_request_is_days_of_service(tmp_path):
    "A limit that is asked for once, whatever the wall clock says; jobs that have not ended stay"
    with opened(tmp_path) as jobs:
        ids = [jobs.submit(str(i), {}).job_id for i in range(3)]
        jobs.cancel(ids[0])
        jobs.wall = jobs.ledger.wall = lambda: 0.0
        jobs.cancel(ids[1])
        assert jobs.clean_up() == jobs.clean_up(days=1) == []
        jobs.clock_base += 2 * 86400
        assert jobs.clean_up(days=3) == [] and jobs.clean_up(days=1) == ids[:2]
        assert jobs.clean_up(days=0) == [] and [j.job_id for j in jobs.list()[0]] == ids[2:]


@pytest.mark.parametrize("order", ["cancelled", "interrupted"])
def test_a_trainer_that_never_stops_talking_can_be_stopped(tmp_path, order):
    "Its words come faster than the pauses in which orders were once looked for"
    talks = [sys.executable, "-c", "import itertools, time\nfor i in itertools.count(): print(i, flush=True); time.sleep(0.005)"]
    jobs = Jobs(tmp_path, grace=0.2, on_exit="interrupt")
    jobs.start()
    folder = jobs.folder((job := jobs.submit("talks", {}, talks)).job_id)
    wait(lambda: (folder / "job.log").exists() and (folder / "job.log").stat().st_size > 100)
    if order == "cancelled":
        jobs.cancel(job.job_id)
        until(jobs, job, order)
    jobs.stop()
    wait((folder / "outcome.json").exists)
    assert not everybody(tmp_path) and json.loads((folder / "outcome.json").read_text())["state"] == order


@pytest.mark.skipif(not find_spec("submitit"), reason="submitit is not installed (extra cluster)")
def test_submitits_local_executor(tmp_path):
    cluster_goes_well(tmp_path, "submitit", {"cluster": "local"})


@pytest.mark.skipif(not FULL or not find_spec("ray"), reason="Ray takes half a minute to start: VLRLBOOK_FULL=1, and the extra cluster")
def test_ray_jobs(tmp_path):
    words = (f"{Path(sys.executable).parent}/ray start --head --block --num-cpus 1 --port 26389 --dashboard-port 28266 "
             f"--ray-client-server-port 28267 --object-store-memory 100000000 --disable-usage-stats --temp-dir {tmp_path}/ray")
    ray = subprocess.Popen(words.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        from urllib.error import URLError
        from urllib.request import urlopen
        def answers():
            try: return urlopen("http://127.0.0.1:28266/api/version", timeout=2).status == 200
            except (URLError, ConnectionError): return time.sleep(0.5)
        wait(answers, 120)
        cluster_goes_well(tmp_path / "data", "ray", {"address": "http://127.0.0.1:28266"})
    finally:
        ray.terminate()
        ray.wait()


def cluster_goes_well(folder, backend, options):
    "Through a cluster: two ends, a server that stops, cancelling, and a dead supervisor"
    with served(folder, backend=backend, options=dict(options)) as jobs:
        well, badly = (jobs.submit(end, dict(end=end, child=True), TRAINER) for end in ("well", "exit"))
        assert until(jobs, well, *ends).status == "completed" and until(jobs, badly, *ends).error_code == "trainer.exit"
        long = dict(max_steps=400, seconds=0.02, child=True, deaf=True)
        job = jobs.submit("long", long, TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 3)
        jobs.stop()
        jobs.__init__(folder, backend=backend, options=dict(options), grace=0.3)
        jobs.start()
        wait(lambda: jobs.get(job.job_id).current_step > 5)
        jobs.cancel(job.job_id)
        until(jobs, job, "cancelled")
        assert jobs.get(job.job_id).attempt == 1 and not tagged(job_tag(jobs.folder(job.job_id)))
        job = jobs.submit("killed", long | dict(max_steps=150), TRAINER)
        wait(lambda: jobs.get(job.job_id).current_step > 3)
        trainer = int((jobs.folder(job.job_id) / "events.txt").read_text().split()[2])
        signal_all([module.parents()[trainer][0]], signal.SIGKILL)
        ended = until(jobs, job, *ends)
        assert (ended.status, ended.attempt) == ("completed", 2) and ended.resumed_from
        assert what_happened(jobs.folder(job.job_id)) == dict(start=2, end=1, finish=1)


class Machine(RuleBasedStateMachine):
    "Whatever happens in whatever order: known jobs stay known, their histories legal; in the end all end, once, alone"
    known = Bundle("known")

    @initialize()
    def begin(self):
        import tempfile
        self.folder, self.told, self.seen, self.old = Path(tempfile.mkdtemp()).resolve(), set(), {}, []
        self.data = self.folder / "uploads" / "x"
        self.data.mkdir(parents=True)
        self.open()

    def open(self): self.jobs = Jobs(self.folder, slots=2, grace=0.1, restarts=10**6)

    @rule(target=known, steps=st.integers(1, 6), end=st.sampled_from(["well", "well", "exit", "kill", "nothing"]), deaf=st.booleans())
    def submit(self, steps, end, deaf):
        self.told.add(job := self.jobs.submit("x", dict(max_steps=steps, seconds=0.02, end=end, deaf=deaf, child=True, save_steps=1,
                                                      data="../../uploads/x"),
                                              TRAINER).job_id)
        return job

    @rule(job=known)
    def cancel(self, job):
        try: assert self.jobs.cancel(job).status in ("cancelled", "cancelling")
        except WrongState: assert self.jobs.get(job).status in ends

    @rule(job=known)
    def resume(self, job):
        try: assert self.jobs.resume(job).status == "queued"
        except WrongState: assert self.jobs.get(job).status not in ("interrupted", "failed", "cancelled")
        except NoCheckpoint: assert newest_checkpoint(self.jobs.folder(job) / "run") is None
        except NoData: assert not self.data.exists()
        else: assert self.data.exists()

    @rule(there=st.booleans())
    def lose_or_bring_the_data(self, there):
        if there: self.data.mkdir(exist_ok=True)
        elif self.data.exists(): self.data.rmdir()

    @rule(job=known)
    def read_a_row(self, job): self.old = [*self.old[-3:], self.jobs.ledger.job(job)]

    @rule()
    def look_with_rows_read_long_ago(self):
        for row in self.old:
            if row is not None: self.jobs.running.look_at(row)

    @rule(job=consumes(known))
    def remove(self, job):
        try: self.jobs.remove(job)
        except WrongState: assert self.jobs.get(job).status not in ends
        else: self.told.discard(job)

    @rule(who=st.sampled_from([supervisors, everybody]))
    def kill(self, who): signal_all(who(self.folder)[:1], signal.SIGKILL)

    @rule()
    def crash(self):
        die(self.jobs)
        self.open()

    @rule(seconds=st.sampled_from([0, 0.05, 0.3]))
    def look(self, seconds):
        self.jobs.look()
        time.sleep(seconds)

    @invariant()
    def nothing_is_lost_and_histories_are_legal(self):
        if not hasattr(self, "jobs"): return
        found = {j.job_id: j for j in self.jobs.list(limit=1000)[0]}
        assert set(found) == self.told and sum(j.status in live for j in found.values()) <= 2
        for j in found.values():
            assert j.status in states and history_is_legal(self.jobs.events(j.job_id))
            assert j.progress >= self.seen.get((j.job_id, j.attempt), 0)
            self.seen[j.job_id, j.attempt] = j.progress

    def teardown(self):
        if not hasattr(self, "jobs"): return
        def over():
            self.jobs.look()
            return all(j.status in ends for j in self.jobs.list(limit=1000)[0])
        wait(over)
        wait(lambda: not supervisors(self.folder))
        assert not everybody(self.folder)
        for job in self.told:
            happened = what_happened(self.folder / "jobs" / job)
            assert happened["OVERLAP"] == 0 and happened["finish"] <= 1
            assert (self.jobs.get(job).status == "completed") == (damage(self.folder / "jobs" / job / "result") is None)
        self.jobs.stop()
        shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100 if FULL else 10, stateful_step_count=25 if FULL else 12, deadline=None,
                                suppress_health_check=list(HealthCheck))


def test_chapter_05_as_a_job_killed_and_resumed(tmp_path):
    "A papermill run of the main chapter: its supervisor is killed in mid-run, and it ends as if nothing had happened"
    with served(tmp_path, tick=0.05) as jobs:
        job = jobs.submit("counting", {**SHORT, "max_steps": 8, "lr": 3e-4})
        wait(lambda: newest_checkpoint(jobs.folder(job.job_id) / "run"), 300)
        signal_all(supervisors(tmp_path), signal.SIGKILL)
        wait(lambda: jobs.get(job.job_id).status in ends, 300)
        found, folder = jobs.get(job.job_id), jobs.folder(job.job_id)
        assert (found.status, found.attempt, found.progress, found.current_step, found.total_steps) == ("completed", 2, 100, 8,
            8), (folder / "job.log").read_text()[-2000:]
        assert int(found.resumed_from[11:]) >= 1 and not everybody(tmp_path)
        assert SEVEN | {"results.json", "run_log.csv", "out.ipynb", "predictions.jsonl",
                        "manifest.json"} <= {p.name for p in (folder / "result").iterdir()} and damage(folder / "result") is None
        assert RunLog.read(folder / "result" / "run_log.csv").series("lr")[0] == list(range(1, 9))
        shown = json.loads((folder / "run" / "rollouts_now.json").read_text())
        assert (shown["step"], shown["total_steps"]) == (8,
            8) and shown["groups"][0]["image"].startswith("data:image/png") and len(shown["groups"][0]["answers"]) == 4
        bad = jobs.submit("bad", {"lr": "fast"})
        wait(lambda: jobs.get(bad.job_id).status in ends, 120)
        assert jobs.get(bad.job_id).error_code == "trainer.parameters" and "lr = 'fast'" in jobs.get(bad.job_id).error_message


def test_half_a_character_in_a_name_hides_no_process():
    "Linux cuts a process's name after 15 bytes, wherever that is"
    code = ("import ctypes, time; ctypes.CDLL(None).prctl(15, 'ééééééééé'.encode()[:15], 0, 0, 0); "
            "print('named', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"named\n"
        with pytest.raises(UnicodeDecodeError): Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8")
        assert module.parents()[child.pid][0] == os.getpid()
    finally: child.kill(), child.wait()
