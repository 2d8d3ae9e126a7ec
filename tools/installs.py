#!/usr/bin/env python3
"""What the front page says of installing, as logs.

`tools/installs.py sizes` measures what an installation fetches and what it takes on the disk, for the wheel with
nothing pinned and for requirements.lock: nbs/logs/install.csv. Each is downloaded afresh (some gigabytes) and
installed into an environment that is thrown away.

`tools/installs.py tried LOG…` reads what `make test` printed on a system (`make test > LOG 2>&1` in a fresh clone)
and keeps a row of each: nbs/logs/systems.csv."""
import csv
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bootstrap

root = Path(__file__).resolve().parent.parent


def run(*words, **options):
    "Output of a command that ended well"
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True, **options).stdout


def megabytes(folder):
    "Bytes of all files in MB; files that are linked twice count once"
    files = {p.stat().st_ino: p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink()}
    return round(sum(files.values()) / 1e6)


def wheel(folder):
    "The package as people get it"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, root)
    return next(Path(folder).glob("*.whl"))


def measure(what, wanted):
    "One row: `wanted` is what pip and uv are asked for"
    with tempfile.TemporaryDirectory() as folder:
        fetched, environment = Path(folder) / "fetched", Path(folder) / "environment"
        seeded = Path(folder) / "pip"
        uv = bootstrap.find_uv()
        run(uv, "venv", "-q", "--seed", "-p", sys.executable, seeded) # a pip of its own, whatever is installed here
        run(seeded / "bin/python", "-m", "pip", "download", "-q", "-d", fetched, *wanted)
        run(uv, "venv", "-q", "-p", sys.executable, environment)
        run(uv, "pip", "install", "-q", "-p", environment / "bin/python", *wanted)
        packages = json.loads(run(uv, "pip", "list", "-q", "--format", "json", "-p", environment / "bin/python"))
        versions = {p["name"]: p["version"] for p in packages}
        return dict(what=what, python=".".join(map(str, sys.version_info[:2])), fetched_mb=megabytes(fetched),
                    on_disk_mb=megabytes(environment), packages=len(packages), torch=versions["torch"],
                    transformers=versions["transformers"])


def sizes():
    "Both ways to install, measured"
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure("pip install vlrlbook", [wheel(folder)]),
                measure("make grpo, make test", ["--no-deps", "-r", root / "requirements.lock"])]
    write("install.csv", rows)


def tried(logs):
    "A row for each log of `make test`; its own lines say what was run and how it ended"
    rows = []
    for log in logs:
        text = Path(log).read_text(encoding="utf-8")
        python = re.search(r"^bootstrap: Python (\S+) in \.venv", text, re.M)[1]
        closing = re.findall(r"^(?:(\d+) failed, )?(\d+) passed(?:, (\d+) skipped)?.* in ([\d.]+)s", text, re.M)[-1]
        failed, passed, skipped, seconds = (float(n or 0) for n in closing)
        left_out = re.search(r"^left out: (.*) \(\d+ skipped\)", text, re.M)
        rows.append(dict(system=system(), python=python, passed=int(passed), failed=int(failed), skipped=int(skipped),
                         left_out=left_out[1] if left_out else "", minutes=round(seconds / 60, 1)))
    write("systems.csv", rows)


def system():
    "Distribution and processor, as the system names them"
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"


def write(name, rows):
    "A log as CSV"
    with open(root / "nbs/logs" / name, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["sizes"]: sizes()
    elif sys.argv[1:2] == ["tried"] and sys.argv[2:]: tried(sys.argv[2:])
    else: sys.exit(__doc__)
