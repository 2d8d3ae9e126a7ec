"""A server of jobs for fault tests: submits N jobs as an impatient client would, each with a key, and writes down every id it was given.

    python fault_server.py DATA_DIR N ['{"max_steps": 6}']"""
import json
import os
import sys
import time
from pathlib import Path

from vlrlbook.jobs import Jobs, QueueFull

folder, n, parameters = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
Jobs.tick = 0.02
jobs = Jobs(folder, slots=parameters.pop("slots", 4), grace=0.3, restarts=10**6)
acks = folder / "acks.txt"
known = {line.split()[0] for line in acks.read_text().splitlines()} if acks.exists() else set()
jobs.start()
with open(acks, "a") as f:
    for i in range(n):
        if str(i) in known: continue
        while True:
            try:
                job = jobs.submit(f"job {i}", {**parameters, "say": str(i)},
                                  [sys.executable, "-S", str(Path(__file__).with_name("fake_trainer.py"))], key=str(i), request_hash="")
            except QueueFull: time.sleep(0.05)
            else: break
        f.write(f"{i} {job.job_id}\n")
        f.flush()
        os.fsync(f.fileno())
while True: time.sleep(1)
