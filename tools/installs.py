#!/usr/bin/env python3
"""What the front page says of installing, as logs.

`tools/installs.py sizes` measures what an installation fetches and what it takes on the disk, for the wheel
with nothing pinned and for requirements.lock: nbs/logs/install.csv. Each is downloaded afresh (some
gigabytes) and installed into an environment that is thrown away.

`tools/installs.py tried LOG…` reads what `make test` printed on a system (`make test > LOG 2>&1` in a fresh
clone) and keeps a row of each: nbs/logs/systems.csv.

`tools/installs.py needs [EXTRA…]` prints the requirements of the package and of extras, a line each,
for pip."""
import csv
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bootstrap
from build_book import build_book

root = Path(__file__).resolve().parent.parent


def run(*words):
    "Output of a command that ended well"
    command = [str(word) for word in words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def megabytes(folder):
    "Bytes of all files in MB"
    sizes = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            # uv links files that two packages share: by inode, such a file counts once.
            status = path.stat()
            sizes[status.st_ino] = status.st_size
    return round(sum(sizes.values()) / 1e6)


def measure(
    what: str,  # way to install, as the log calls it
    wanted: list,  # words for pip and uv: a file to install, or options that name requirements
) -> dict:  # row of the log
    "Download and install once, and weigh both"
    with tempfile.TemporaryDirectory() as folder:
        fetched, environment = Path(folder) / "fetched", Path(folder) / "environment"
        seeded = Path(folder) / "pip"
        uv = bootstrap.find_uv()
        # uv keeps what it downloads in a cache of its own form, so pip fetches; a pip of its own, whatever is
        # installed here.
        run(uv, "venv", "-q", "--seed", "-p", sys.executable, seeded)
        run(seeded / "bin/python", "-m", "pip", "download", "-q", "-d", fetched, *wanted)
        run(uv, "venv", "-q", "-p", sys.executable, environment)
        python = environment / "bin/python"
        run(uv, "pip", "install", "-q", "-p", python, *wanted)
        packages = json.loads(run(uv, "pip", "list", "-q", "--format", "json", "-p", python))
        versions = {package["name"]: package["version"] for package in packages}
        return dict(
            what=what,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            fetched_mb=megabytes(fetched),
            on_disk_mb=megabytes(environment),
            packages=len(packages),
            torch=versions["torch"],
            transformers=versions["transformers"],
        )


def sizes():
    "Both ways to install, measured"
    with tempfile.TemporaryDirectory() as folder:
        wheel, _ = build_book(root, folder)
        rows = [
            measure("pip install vlrlbook", [wheel]),
            # The lock names every package, so nothing has to be resolved.
            measure("make grpo, make test", ["--no-deps", "-r", root / "requirements.lock"]),
        ]
    write("install.csv", rows)


def needs(extras):
    "Print what this Python needs: the requirements of the package as it is installed here, and of extras"
    from vlrlbook.versions import own_requirements, requirements_of, without_marker
    lines = own_requirements()
    for extra in ("", *extras):  # "" is what every installation brings
        for requirement in requirements_of(lines, extra):
            print(without_marker(requirement))


def tried(logs):
    "A row for each log of `make test`; its own lines say what was run and how it ended"
    write("systems.csv", [row_of_log(Path(log).read_text(encoding="utf-8")) for log in logs])


def row_of_log(text):
    "The row of one run of the tests"
    python = re.search(r"^bootstrap: Python (\S+) in \.venv", text, re.M)[1]
    # The last such line: tests that run pytest themselves print one too.
    closing = re.findall(r"^(?:(\d+) failed, )?(\d+) passed(?:, (\d+) skipped)?.* in ([\d.]+)s", text, re.M)
    failed, passed, skipped, seconds = closing[-1]
    left_out = re.search(r"^left out: (.*) \(\d+ skipped\)", text, re.M)
    return dict(
        system=system(),
        python=python,
        passed=int(passed),
        failed=int(failed or 0),
        skipped=int(skipped or 0),
        left_out=left_out[1] if left_out else "",
        minutes=round(float(seconds) / 60, 1),
    )


def system():
    "Distribution and processor, as the system names them"
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"


def write(name, rows):
    "A log as CSV"
    with open(root / "nbs/logs" / name, "w", newline="", encoding="utf-8") as file:
        # As tools/logs.py writes them: without \r, so that git shows only the lines that changed.
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["sizes"]:
        sizes()
    elif sys.argv[1:2] == ["tried"] and sys.argv[2:]:
        tried(sys.argv[2:])
    elif sys.argv[1:2] == ["needs"]:
        needs(sys.argv[2:])
    else:
        sys.exit(__doc__)
