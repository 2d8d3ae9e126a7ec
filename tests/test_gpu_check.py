"""tools/gpu_check.py on a CPU with small shapes; nothing here is a measurement of a GPU."""
import csv
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, tool

gpu_check = tool("gpu_check")


def rows_of(path):
    with open(path, encoding="utf-8") as file: return list(csv.DictReader(file))


def test_small_shapes_run_from_end_to_end(tmp_path):
    "Real steps and a real race; packages that are missing are told by name"
    command = [sys.executable, ROOT / "tools/gpu_check.py", "--small", "--folder", tmp_path, "--seconds", "900"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    rows = {row["part"]: row for row in rows_of(tmp_path / "gpu_check.csv")}
    assert done.returncode == 0, (done.stderr, rows)
    assert rows["race"]["state"] == "measured" and float(rows["race"]["ratio"]) > 0, rows["race"]
    steps = rows["size_gpu"]
    assert steps["state"] == "measured" and steps["steps"] == "3", steps
    assert float(steps["measured_gb"]) > float(steps["counted_gb"]) > 0 and "libraries included" in steps["settings"]
    assert not steps["ratio"]  # on a CPU the mark holds the libraries
    assert rows_of(tmp_path / "gpu_race.csv")[0]["stock_memory_mb"] == ""
    for part, package in gpu_check.needs.items():
        state, why = rows[part]["state"], rows[part]["why"]
        assert state == "failed" or (state == "not there" and package in why), rows[part]
        assert why


def test_budgets_leave_room_in_ten_minutes():
    assert sum(gpu_check.budgets.values()) < 600 and set(gpu_check.needs) < set(gpu_check.budgets)
    assert all(hasattr(gpu_check, f"part_{part}") for part in gpu_check.budgets)


def test_a_part_out_of_time_and_a_part_that_fails_are_rows(monkeypatch):
    late = gpu_check.run_part("size_gpu", True, 0.05)
    assert late["state"] == "out of time" and "0 seconds" in late["why"]

    def failing(*args, **kwargs): return subprocess.CompletedProcess(args, 3, "", "Traceback\nRuntimeError: no memory\n")
    monkeypatch.setattr(gpu_check.subprocess, "run", failing)
    failed = dict(part="race", seconds=0, state="failed", why="RuntimeError: no memory")
    assert gpu_check.run_part("race", True, 1) | dict(seconds=0) == failed


def test_without_a_gpu_the_3b_shape_is_not_tried(tmp_path, capsys):
    if gpu_check._has_gpu(): pytest.skip("there is a GPU here")
    assert gpu_check.main(["--folder", str(tmp_path)]) == 1
    assert "no GPU" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_map_gets_what_was_measured_and_keeps_the_rest(tmp_path, monkeypatch):
    (tmp_path / "nbs/logs").mkdir(parents=True)
    shutil.copy(ROOT / "nbs/logs/chapters.csv", tmp_path / "nbs/logs")
    shutil.copy(ROOT / "index.ipynb", tmp_path)
    called = []
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **kwargs: called.append(command))
    row = dict(part="size_gpu", state="measured", seconds_per_step=4.04, measured_gb=12.3, device="A GPU")
    gpu_check.redraw([row, dict(part="race", state="failed", why="x")], tmp_path)
    said = {r["chapter"]: r["gpu"] for r in rows_of(tmp_path / "nbs/logs/chapters.csv")}
    assert said.pop("05_grpo") == "4.0 s a step, 12 GB (3B, A GPU)"
    assert said == {r["chapter"]: r["gpu"] for r in rows_of(ROOT / "nbs/logs/chapters.csv") if r["chapter"] != "05_grpo"}
    before, after = ((folder / "index.ipynb").read_text().splitlines() for folder in (ROOT, tmp_path))
    changed = [(a, b) for a, b in zip(before, after) if a != b]
    assert len(before) == len(after) and changed
    assert all("05_grpo" in a and b.rstrip().rstrip('",').endswith("4.0 s a step, 12 GB (3B, A GPU) |\\n") for a, b in changed)
    assert called and str(called[0][-1]).endswith("readme.py")


def test_nothing_measured_redraws_nothing(tmp_path):
    gpu_check.redraw([dict(part="race", state="out of time", why="x")], tmp_path)
    assert not list(tmp_path.iterdir())
