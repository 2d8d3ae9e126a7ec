"""A trainer of milliseconds with chapter 05's manners: run_log.csv, checkpoints with manifests, a committed result. parameters.json says
how it goes."""
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

p = dict(max_steps=5, seconds=0.01, save_steps=2, end="well", child=False, deaf=False, loss=0.5, say="",
         polite=True) | json.loads(Path("parameters.json").read_text())
run = Path("run")
run.mkdir(exist_ok=True)


def note(what):
    "One line that survives kill -9, however many write"
    with open("events.txt", "ab", buffering=0) as f:
        f.write(f"{what} {os.environ['VLRLBOOK_ATTEMPT']} {os.getpid()} {time.monotonic_ns()}\n".encode())


def commit(folder, files):
    "A folder with a manifest, by one rename"
    aside = Path(f".aside-{os.getpid()}")
    aside.mkdir()
    for name, text in files.items(): (aside / name).write_text(text)
    (aside / "manifest.json").write_text(
        json.dumps({n: {"bytes": len(t.encode()), "sha256": hashlib.sha256(t.encode()).hexdigest()} for n, t in files.items()}))
    aside.rename(folder)


alone = os.open("alone", os.O_RDWR | os.O_CREAT)
try: fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: note("OVERLAP")
note("start")
if Path("result").exists(): sys.exit(note("nothing"))
if p["deaf"]: signal.signal(signal.SIGTERM, signal.SIG_IGN)
if p["child"]:
    subprocess.Popen([sys.executable, "-S", "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
                     start_new_session=True, pass_fds=[alone])
done = max((int(c.name[11:]) for c in run.glob("checkpoint-*")), default=0)
log = run / "run_log.csv"
rows = log.read_text().splitlines()[:done + 1] if done else ["step,loss"]
log.unlink(missing_ok=True)
log.write_text("\n".join(rows) + "\n")
print(p["say"], flush=True)
for step in range(done + 1, p["max_steps"] + 1):
    time.sleep(p["seconds"])
    with open(log, "a") as f: f.write(f"{step},{p['loss']}\n")
    if step % p["save_steps"] == 0: commit(run / f"checkpoint-{step}", {"trainer_state.json": json.dumps({"global_step": step})})
    if p["polite"] and Path(os.environ["VLRLBOOK_STOP"]).read_text().startswith("interrupt"):
        if step % p["save_steps"]: commit(run / f"checkpoint-{step}", {"trainer_state.json": json.dumps({"global_step": step})})
        sys.exit(note("left"))
    if step == p["max_steps"] // 2 and p["end"] != "well" and not p["end"].startswith("late"): break
note("end")
if p["end"] == "exit": sys.exit("it did not work")
if p["end"] == "settings": sys.exit("vlrlbook.core.SettingsError: chapter 05: there is no 'learing_rate'")
if p["end"] == "memory":
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
    bytearray(2**30)
if p["end"] == "kill": os.kill(os.getpid(), signal.SIGKILL)
if p["end"] == "nothing": sys.exit(0)
commit("result", {"adapter_model.safetensors": "weights", "run_log.csv": log.read_text()})
note("finish")
