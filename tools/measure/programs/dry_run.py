"""One dry run, watched: `dry_run.py EXPORTED_FOLDER PROCESSES`."""
import json
import os
import re
import resource
import sys
import threading
from pathlib import Path

from vlrlbook.easyr1 import dry_run
from vlrlbook.models import twin_processor


def held_mb(pid):
    "Memory of a process in MB, pages that several share counted by its share (Pss)"
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # the process has ended since it was listed
    found = re.search(r"Pss:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0  # an ending process has an empty map


def watch_memory(sums, done):
    "Every tenth of a second the memory of this process and of its children, all together"
    me = os.getpid()
    while not done.wait(0.1):
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        sums.append(sum(held_mb(pid) for pid in (me, *children)))


def cpu_seconds():
    "Of this process and of children that have ended"
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def main(folder, processes):
    "Print rows a second and memory"
    processor = twin_processor("qwen2_5_vl")
    imports_mb = held_mb(os.getpid())
    # A first sum, so that a dry run of less than a tenth of a second has one too.
    sums, done = [imports_mb], threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(sums, done))
    watcher.start()
    begun = cpu_seconds()
    found = dry_run(folder, processor=processor, processes=int(processes), progress=False)
    spent = cpu_seconds() - begun
    done.set()
    watcher.join()
    n = sum(found.rows.values())
    row = dict(rows=n, per_second=round(found.per_second), per_cpu_second=round(n / spent))
    row |= dict(imports_mb=round(imports_mb), all_processes_mb=round(max(sums)), problems=len(found.problems))
    print("ROW", json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
