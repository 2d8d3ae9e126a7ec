"""Bytes at random into the readers: `python tests/support/fuzz.py zip|csv|json SECONDS`. Atheris looks for inputs that reach new lines, from the
seeds in tests/support/seeds; anything but our own refusals is a find."""
import json
import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vlrlbook"]):
    import vlrlbook.archive as archive
    from vlrlbook.service import Problem, read_json

MEMORY = 2 << 30  # bytes
SEEDS = Path(__file__).resolve().parent / "seeds"
archive.limits |= dict(entries=50, rows=100, picture_pixels=10_000, unpacked=1 << 20)


def fuzz_json(raw):
    "What is read can be written again by any strict writer"
    try: found = read_json(raw, 4096)
    except Problem: return
    json.dumps(found, allow_nan=False).encode()
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def fuzz_csv(raw):
    "Rows have four fields, and numbers that climb"
    try: rows = archive.counting_table(raw.decode("utf-8", "replace"))
    except archive.DataError: return
    assert rows and all(len(r) == 4 for r in rows) and [r[0] for r in rows] == sorted(r[0] for r in rows)


def fuzz_zip(raw):
    "What is unpacked lies in its folder, under our names, and can be opened"
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "x.zip", Path(folder) / "out"
        path.write_bytes(raw)
        out.mkdir()
        try: report = archive.unpack_counting_zip(path, out, False)
        except archive.DataError: return
        names = {p.name for p in out.iterdir()} - {"rows.jsonl", "report.json"}
        assert len(names) == report.valid_images == report.csv_rows - len(report.skipped)
        assert {p.name for p in Path(folder).iterdir()} == {"x.zip", "out"}


def main(kind, seconds):
    """Run one target; a find ends the process with a status of its own. Memory is held by the kernel: libFuzzer's own limit looks at
    `ru_maxrss`, which starts from what the parent held"""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as found:
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=0", "-max_len=8192",
                       f"-artifact_prefix={found}/", "-print_final_stats=1", found, str(SEEDS / kind)],
                       {"json": fuzz_json, "csv": fuzz_csv, "zip": fuzz_zip}[kind])
        atheris.Fuzz()


if __name__ == "__main__": main(sys.argv[1], int(sys.argv[2]))
