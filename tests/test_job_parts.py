"""The parts of chapter 07a's jobs, each alone: the names of files, the lock, the log, verdicts, progress, the parts of `Jobs`."""
import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from conftest import ROOT
from support.faults import TRAINER, what_happened
from vlrlbook.jobs import (Log, Outcome, RayBackend, as_given, clean, devices_of, file_system, give_order, gpu_count, last_row,
                           own_python, progress_of, supervisor_command, take_lock, train_command, verdict)
from vlrlbook.jobs import parents, processes
from vlrlbook.jobs.dispatcher import DispatcherThread
from vlrlbook.jobs.folder import DataFolder, JobFolder
from vlrlbook.jobs.job_log import last_line_of
from vlrlbook.jobs.ledger import Ledger
from vlrlbook.jobs.records import JobRecords
from vlrlbook.jobs.submission import Submission, make_job_folder
from vlrlbook.jobs.supervisor import longest_text

WING = ROOT / "vlrlbook" / "jobs"


# Starting

def test_a_supervisor_starts_light():
    code = ("import sys, vlrlbook.jobs; "
            "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'PIL', 'matplotlib', 'submitit', 'ray') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("words", [[], ["look"], ["supervise"], ["supervise", "jobs/a"], ["train", "now"]])
def test_the_command_says_what_it_knows(tmp_path, words):
    "From an empty folder: no warning of Python's, no traceback, nothing is made"
    done = subprocess.run([sys.executable, "-W", "error", "-m", "vlrlbook.jobs", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and not list(tmp_path.iterdir())
    assert done.stderr == "vlrlbook.jobs: supervise FOLDER ATTEMPT DEVICES [LOCK], or train\n"


def test_the_command_supervises_from_an_empty_folder(tmp_path):
    "As a cluster starts it: from anywhere, without a lock that it inherits"
    folder, elsewhere = new_job(tmp_path / "a", dict(max_steps=2)), tmp_path / "elsewhere"
    elsewhere.mkdir()
    give_order(folder.lock, "run", 1)
    subprocess.run([sys.executable, "-m", "vlrlbook.jobs", "supervise", str(folder.path), "1", ""], cwd=elsewhere, check=True)
    assert Outcome.read(folder, 1)["state"] == "completed" and not list(elsewhere.iterdir())
    assert what_happened(folder.path) == dict(start=1, end=1, finish=1)


def test_an_environment_that_is_empty_for_a_moment_is_read_again(monkeypatch):
    "The kernel shows none while a process becomes another program; a search that believed it would overlook an orphan"
    looks = iter([b"", b"", b"A=1\0VLRLBOOK_JOB=x\0"])
    monkeypatch.setattr(Path, "read_bytes", lambda path: next(looks))
    assert processes.environment_of(os.getpid()) == b"A=1\0VLRLBOOK_JOB=x\0"


def test_a_process_without_an_environment_is_not_waited_for_long():
    program = subprocess.Popen([shutil.which("sleep"), "30"], env={})
    try:
        assert processes.environment_of(program.pid) == b"" and processes.has_program(program.pid)
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("counters, kills", [("nr_free 3\noom_kill 7\n", 7), ("nr_free 3\n", 0), (None, 0)])
def test_a_kernel_that_counts_no_kills(monkeypatch, counters, kills):
    "Linux before 4.13 has no such line, gVisor no such file: every job was lost there before its trainer began"
    def read(path):
        if counters is None: raise FileNotFoundError(path)
        return counters
    monkeypatch.setattr(Path, "read_text", read)
    assert processes.memory_kills() == kills


def test_the_last_line_of_a_log(tmp_path):
    log = tmp_path / "supervisor.log"
    assert last_line_of(log) == last_line_of(tmp_path) == ""
    for text, last in ((b"", ""), (b"\n \n", ""), (b"one\n  two \n\n", "two"), (b"x" * 99_999 + b"\nend", "end"), (b"\xff!", "\ufffd!")):
        log.write_bytes(text)
        assert last_line_of(log) == last


# Folders

def new_job(path, parameters, command=TRAINER):
    "The folder of a job that runs the fake trainer"
    folder = JobFolder(path)
    make_job_folder(folder, path.with_name("aside"), dict(command=command, grace=0.3, name="a"), parameters)
    return folder


def names_of(folder):
    "Attribute → name on the disk"
    return {name: path.name for name, path in vars(folder).items() if isinstance(path, Path) and path != folder.path}


def test_the_names_of_a_jobs_files():
    "Running trainers, the service and servers before an update read these names: none changes"
    assert names_of(JobFolder("x")) == dict(
        request="job.json", parameters="parameters.json", notes="notes.json", lock="lock", log="job.log",
        supervisor_log="supervisor.log", outcome="outcome.json", outcome_room=".outcome", run="run", run_log="run_log.csv",
        rollouts="rollouts_now.json", executed_notebook="out.ipynb", result="result", download="download.zip")
    assert JobFolder("x").run_log == Path("x/run/run_log.csv") and os.fspath(JobFolder("x")) == "x" and JobFolder("x/y").job_id == "y"
    assert names_of(DataFolder("x")) | dict(ledger_dir="", path="") == dict(
        path="", ledger_dir="", jobs="jobs", tmp="tmp", server_lock="server.lock", submitit="submitit", ledger="ledger.sqlite3")


SERVICE = WING.parent / "service" # which reads what jobs leave
SPELLING = [p for folder in (WING, SERVICE) for p in sorted(folder.glob("*.py")) if p.name != "folder.py"]


@pytest.mark.parametrize("path", SPELLING, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_nobody_else_spells_these_names(path):
    "A text in the code that is a file's name, or a path with one; docstrings may tell of files"
    names = {*names_of(JobFolder("x")).values(), *names_of(DataFolder("x", "y")).values()} - {"x", "y"}
    # words that are also something else than a folder: an order, a back end
    words = {"lock_file.py": {"run"}, "backend.py": {"submitit"}, "dispatcher.py": {"submitit"}}.get(path.name, set())
    if path.parent == SERVICE: words = {"jobs", "run", "tmp"} # addresses begin with the first
    tree = ast.parse(path.read_text())
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    told = {id(n.body[0].value) for n in documented if n.body and isinstance(n.body[0], ast.Expr)}
    spelled = [(n.lineno, n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in told
               and names.intersection(n.value.split("/")) - words]
    assert not spelled, spelled


def test_a_discarded_folder_is_gone_at_once(tmp_path, monkeypatch):
    "While its files are being removed it is already out of jobs/; what a kill leaves is found at the next start"
    data = DataFolder(tmp_path)
    data.make()
    new_job(data.jobs / "a", {})
    def killed(path): raise KeyboardInterrupt
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt): data.discard(data.job("a"))
    assert not list(data.jobs.iterdir()) and [p.parent for p in data.half_made()] == [data.tmp]


MOUNTS = ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /home rw shared:1 - nfs4 server:/home rw\n"
          "3 2 8:2 / /home/me/my\\040disk rw - xfs /dev/sdb rw\n4 1 0:6 / /数据 rw - nfs server:/d rw\n"
          "5 1 0:7 / /brought rw - autofs auto.direct rw\n6 5 0:8 / /brought rw - nfs4 server:/e rw\n")


@pytest.mark.parametrize("path, kind", [("/data", "ext4"), ("/home/me", "nfs4"), ("/home/me/my disk/x", "xfs"), ("/homely", "ext4"),
                                        ("/数据/jobs", "nfs"), ("/brought/here", "nfs4")])
def test_file_systems(path, kind): assert file_system(path, MOUNTS) == kind


# The lock

def test_a_supervisor_waits_for_who_only_asks(tmp_path):
    "To ask whether a lock is held one takes it for a moment: a supervisor that comes just then must not leave"
    folder = new_job(tmp_path / "a", dict(max_steps=1))
    give_order(folder.lock, "run", 1)
    asking = take_lock(folder.lock)
    supervisor = subprocess.Popen([sys.executable, "-m", "vlrlbook.jobs", "supervise", str(folder.path), "1", ""])
    while str(folder.lock) not in open_files(supervisor.pid): time.sleep(0.002)
    time.sleep(0.05) # it has opened the file and cannot lock it
    os.close(asking)
    assert supervisor.wait(30) == 0 and Outcome.read(folder, 1)["state"] == "completed"


def open_files(pid):
    "What a process has opened"
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try: found.append(os.readlink(path))
        except FileNotFoundError: continue # closed while we looked
    return found


def test_a_supervisor_leaves_where_another_works(tmp_path):
    folder = new_job(tmp_path / "a", dict(max_steps=1))
    give_order(folder.lock, "run", 1)
    held = take_lock(folder.lock)
    subprocess.run([sys.executable, "-m", "vlrlbook.jobs", "supervise", str(folder.path), "1", ""], check=True, timeout=60)
    os.close(held)
    assert not folder.outcome.exists() and not folder.log.exists()


# Where supervisors run

class RayClient:
    "What chapter 07a asks of Ray's client; tests/test_ledger.py runs the real one"
    def __init__(self, address):
        assert address == "http://head:8265"
        self.jobs, self.stopped = {}, []

    def submit_job(self, entrypoint, submission_id, runtime_env, **more):
        self.jobs[submission_id] = dict(words=shlex.split(entrypoint), environment=runtime_env, **more)
        return submission_id

    def get_job_status(self, name):
        if name not in self.jobs: raise RuntimeError(f"job {name} does not exist")
        return self.jobs[name].get("state", "PENDING")

    def stop_job(self, name): self.stopped.append(name)


@pytest.mark.parametrize("options, environment", [({}, {"env_vars": {"CUDA_VISIBLE_DEVICES": "3"}}), ({"entrypoint_num_gpus": 1}, {})])
def test_what_is_asked_of_ray(tmp_path, monkeypatch, options, environment):
    "One name for job and attempt; devices only where Ray gives none; stopped by Ray only before the supervisor has begun"
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.job_submission", types.SimpleNamespace(JobSubmissionClient=RayClient))
    backend, folder = RayBackend({"address": "http://head:8265", **options}), tmp_path / "1a2b"
    folder.mkdir()
    assert backend.start(folder, 2, "3") == "1a2b-2"
    assert backend.client.jobs == {"1a2b-2": dict(words=supervisor_command(folder, 2, ""), environment=environment, **options)}
    assert backend.alive(folder, "1a2b-2") and not backend.alive(folder, "1a2b-1") and not backend.alive(folder, None)
    backend.withdraw(folder, "1a2b-2")
    assert backend.client.stopped == ["1a2b-2"]
    backend.client.jobs["1a2b-2"]["state"] = "RUNNING"
    backend.withdraw(folder, "1a2b-2")
    assert backend.client.stopped == ["1a2b-2"] and backend.alive(folder, "1a2b-2")
    backend.client.jobs["1a2b-2"]["state"] = "FAILED"
    lock = take_lock(folder / "lock")
    assert backend.alive(folder, "1a2b-2"), "whatever Ray says, somebody holds the lock"
    os.close(lock)
    assert not backend.alive(folder, "1a2b-2")


# Progress

@pytest.mark.parametrize("text, row", [("", {}), ("step,loss\n", {}), ("step,loss\n1,0.5\n2,0.", dict(step="1", loss="0.5")),
                                       ("step,loss,kl\n1,0.5,\n2,,3\n", dict(step="2", loss="0.5", kl="3")),
                                       ("step,loss\n1,0.5\n2\n", dict(step="1", loss="0.5")),
                                       ("step,loss\n" + "".join(f"{i},{i}\n" for i in range(9999)), dict(step="9998", loss="9998"))])
def test_the_last_whole_row(tmp_path, text, row):
    (tmp_path / "log.csv").write_text(text)
    assert last_row(tmp_path / "log.csv") == row


@pytest.mark.parametrize("row, step, loss", [("3,0.5", 3, 0.5), ("3.0,", 3, None), ("3,nan", 3, None), ("3,1e400", 3, None),
                                             ("inf,0.5", 0, None), ("nan,0.5", 0, None), ("x,0.5", 0, None), ("3,x", 0, None)])
def test_a_row_that_is_odd_stops_nobody(tmp_path, row, step, loss):
    "A dispatcher that stumbled over one job's log would look after no other job"
    folder = JobFolder(tmp_path)
    folder.run.mkdir()
    folder.run_log.write_text(f"step,loss\n{row}\n")
    found = progress_of(folder, total=4)
    assert found == dict(current_step=step, loss=loss, total_steps=4, progress=25.0 * step)


# Parts of Jobs

def test_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_of(["0,1", "2,3"]) == ["0,1", "2,3"]
    for gpus, slots, devices in ((0, 2, ["0", "1"]), (2, 2, ["0", "1"]), (1, 2, ["0", "0"]), (2, 3, ["0", "1", "0"]), (8, 1, ["0"])):
        monkeypatch.setattr("vlrlbook.jobs.waiting.gpu_count", lambda: gpus)
        assert devices_of(slots) == devices, "GPUs are shared in turn; one that is not there would hide all"
    for given, devices in (("4,6", ["4", "6"]), ("3", ["3", "3"]), ("1,2,3", ["1", "2"]), ("", ["", ""]), ("-1", ["-1", "-1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert devices_of(2) == devices, "only what the server itself may see"


def test_gpus_are_counted_by_their_files(tmp_path):
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"): (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    assert gpu_count(tmp_path) == gpu_count(tmp_path / "nothing") == 0
    for name in ("nvidia3", "nvidia11"): (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 2


def test_parts_work_without_jobs(tmp_path):
    "A job is written down and asked for; nobody serves the data directory"
    data = DataFolder(tmp_path)
    data.make()
    ledger = Ledger(data.ledger)
    records = JobRecords(ledger, data)
    job = Submission(ledger, data, records).submit("a", dict(max_steps=3), TRAINER)
    assert records.get(job.job_id) == job and (job.status, job.total_steps, job.output_dir) == ("queued", 3, f"jobs/{job.job_id}/run")
    assert json.loads(data.job(job.job_id).request.read_text()) == dict(command=TRAINER, grace=10.0, name="a")
    ledger.close()


def test_a_stop_by_order_is_no_start_by_itself(tmp_path):
    "And does not count, however often the job has started by itself before"
    from support.faults import opened
    from vlrlbook.jobs.outcome import outcome_content
    told, killed = outcome_content("interrupted"), outcome_content("interrupted") | dict(why="its supervisor died")
    with opened(tmp_path) as jobs:
        job_id, said = jobs.submit("a", {}, TRAINER).job_id, []
        for attempt, outcome in enumerate([told, killed, told, killed, told, told, killed], 1):
            jobs.ledger.move(job_id, "queued", "training", "slot 0", attempt=attempt)
            jobs.running._close(jobs.ledger.job(job_id), jobs.data.job(job_id), outcome)
            jobs.waiting.queue_interrupted(3)
            said.append(jobs.events(job_id)[-1]["why"])
    after_order, by_itself = "goes on after a stop", "start {} of 3 by itself".format
    assert said == [after_order, by_itself(1), after_order, by_itself(2), after_order, after_order, by_itself(3)]


def test_the_thread_outlives_what_goes_wrong(caplog):
    "Each look fails in another way, and the next comes all the same"
    looks, done = iter([ValueError("one"), OSError("two")]), threading.Event()
    def look():
        error = next(looks, None)
        if error: raise error
        done.set()
    thread = DispatcherThread(look, lambda: 0.01)
    thread.start()
    assert done.wait(10)
    thread.stop()
    assert not thread.thread.is_alive()
    told = [(r.message, bool(r.exc_info)) for r in caplog.records if r.name == "vlrlbook.jobs"]
    assert told == [("ValueError: one", True), ("OSError: two", False)], "a traceback where it is not known what went wrong"


# Outcomes

def test_the_longest_outcome_fits_into_its_room(tmp_path):
    "On a full disk there is no more than the room that was taken at the start"
    assert "killed by signal 35" in verdict(-35, "x", "missing")["error_message"] # a real-time signal has no name in Python
    outcome, told = Outcome(tmp_path), clean(dict(attempt=1, **verdict(1, "🍎" * 999, "there is none")), longest_text)
    outcome.write(told)
    assert JobFolder(tmp_path).outcome.stat().st_size == Outcome.size and Outcome.read(tmp_path, 1) == told
    assert told["error_message"].endswith("🍎") and Outcome.read(tmp_path, 2) is None


def test_a_log_keeps_its_newest_half(tmp_path):
    log = Log(tmp_path / "job.log", most=1000)
    for i in range(100): log.write(f"line {i:03}\n".encode() * 2)
    kept = "".join((tmp_path / n).read_text() for n in ("job.log.1", "job.log"))
    assert len(kept) <= 2000 and kept.endswith("line 099\n") and (log.tail.decode() + "").endswith(kept[-500:])


NONE = "there is none"


@pytest.mark.parametrize("code, tail, whole, killed, expected", [
    (0, "", None, False, ("completed", None)), (-9, "", None, False, ("completed", None)),
    (1, "ValueError: while leaving", None, False, ("completed", None)),
    (0, "", NONE, False, ("failed", "trainer.no_artefact")), (0, "", "x has 1 bytes, not 2", False, ("failed", "trainer.no_artefact")),
    (1, "a\nValueError: x", NONE, False, ("failed", "trainer.exit")),
    (1, "torch.OutOfMemoryError: CUDA out of memory.", NONE, False, ("failed", "trainer.out_of_memory")),
    (-9, "", NONE, True, ("failed", "trainer.out_of_memory")), (-9, "", NONE, False, ("failed", "trainer.killed")),
    (-11, "", NONE, False, ("failed", "trainer.killed")), (1, "SettingsError: lr", NONE, False, ("failed", "trainer.parameters")),
    (1, "SettingsError: shown on the page\n" + "x" * 3000 + "\nKeyError: 1", NONE, False, ("failed", "trainer.exit")),
    (1, "OSError: [Errno 28] No space left on device", NONE, False, ("failed", "trainer.disk_full"))])
def test_verdicts(code, tail, whole, killed, expected):
    found = verdict(code, tail, whole, killed)
    assert (found["state"], found["error_code"]) == expected
    assert found["state"] == "completed" or "ValueError" not in tail or "ValueError: x" in found["error_message"]


def test_children_import_what_their_parent_does(tmp_path, monkeypatch):
    "Python's -m and -c look into the current folder first; a clone that is not installed is found only there"
    monkeypatch.chdir(tmp_path)
    Path("random.py").write_text("raise SystemExit(3)")
    for words in (supervisor_command(tmp_path, 1, ""), train_command()):
        assert words[:4] == [sys.executable, "-P", "-m", "vlrlbook.jobs"]
    told = subprocess.run([*own_python(), "-c", "import random; print(random.__file__)"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in told.stdout
    monkeypatch.chdir(ROOT)
    assert own_python() == [sys.executable]


def test_nobody_starts_a_child_in_another_way():
    "doctor.py starts pip so, whose modules nobody's folder may hide; the pipeline writes the interpreter's path for its user"
    starters = {path.name for path in (ROOT / "vlrlbook").rglob("*.py") if "sys.executable" in path.read_text(encoding="utf-8")}
    assert starters == {"chapters.py", "doctor.py", "export.py"}


@pytest.mark.parametrize("given, kept",
                         [("a\ud800b", "a?b"), ("a\0b\x1b", "a\ufffdb\ufffd"), (float("nan"), None),
                          ({"a": [float("inf"), 1, True, None]}, {"a": [None, 1, True, None]}), ("三个苹果\n", "三个苹果\n"),
                          ("三个\u3000苹果\u00a0👨\u200d👩", "三个\u3000苹果\u00a0👨\u200d👩"), ("a\u202eb\u2066\x85", "a\ufffdb\ufffd\ufffd"),
                          ({"a\x01": 1, "a\x02": 2, "a\x03": [{1: 3, "1": 4}]},
                           {"a\ufffd": 1, "a\ufffd (2)": 2, "a\ufffd (3)": [{"1": 3, "1 (2)": 4}]}),
                          ({"a\x01": 2, "a\ufffd (2)": 3, "a\x02": 4}, {"a\ufffd": 2, "a\ufffd (2)": 3, "a\ufffd (3)": 4})])
def test_clean(given, kept): assert clean(given) == kept and clean(kept) == kept


@pytest.mark.parametrize("given, kept", [("a\r\nb\r\n", "a\nb\n"), ("a\rb", "a\ufffdb"), ("a\r\r\nb", "a\ufffd\nb")])
def test_a_line_break_of_windows_is_shown_as_one(given, kept): assert clean(given) == kept and clean(kept) == kept


@pytest.mark.parametrize("text", ["You count.\r\nAnswer in one line.\r\n", "\u202bעברית\u202c", "\u2066x\u2069", "a\x01", "三" * 200_000])
def test_a_trainer_reads_the_parameters_as_they_were_given(text): assert as_given({text[:20]: [text]}) == {text[:20]: [text]}


@pytest.mark.parametrize("given, kept", [("a\ud800b", "a?b"), ({"a": [float("inf"), 1, True, None]}, {"a": [None, 1, True, None]}),
                                         ({1: 3, "1": 4}, {"1": 3, "1 (2)": 4})])
def test_what_json_cannot_hold_is_replaced_there_too(given, kept): assert as_given(given) == kept


def test_cleaning_cuts_texts_and_not_their_names():
    assert clean({"a" * 20: ["b" * 20]}, 5) == {"a" * 20: ["b" * 5]}


def test_a_lock_that_cannot_be_had_leaves_no_file_open(tmp_path, monkeypatch):
    "On a file system without locks: the error goes on, and the descriptor is closed"
    import errno
    import fcntl
    from vlrlbook.jobs.lock_file import take_lock
    def no_locks(descriptor, how): raise OSError(errno.ENOLCK, "No locks available")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", no_locks)
        for _ in range(3):
            with pytest.raises(OSError, match="No locks"): take_lock(tmp_path / "lock")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_jobs_name_is_no_markup():
    from vlrlbook.jobs.job import Job
    job = types.SimpleNamespace(job_id="1", job_name="<img src=x>", status="queued", attempt=0, progress=0.0)
    assert "<img" not in Job._repr_html_(job)
