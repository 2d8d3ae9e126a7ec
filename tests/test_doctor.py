"""`vlrlbook doctor` and `vlrlbook --version`: here, on machines that are made up, and on broken ones."""
import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import ROOT

from vlrlbook import doctor, versions
from vlrlbook.doctor import Finding

LINES = ["torch>=2.10,<2.16", "fastcore<2", "papermill>=2.7",
         "ray[default]>=2.45; python_version < '3.0'",
         'fastapi>=0.115; extra == "serve"', 'uvicorn>=0.35,<1; extra == "serve"', 'pytest; extra == "dev"',
         'lerobot[dataset]>=0.6; python_version < "3.0" and extra == "aloha"',
         'fastapi>=0.115; extra == "all"']
HERE = dict(torch="2.11.0+cpu", fastcore="1.9", papermill="2.7.0")
WORKING = {library: None for library in doctor.used_names}


def run_doctor(*options, folder=None, code=None, **env):
    "The command as a user calls it, or `code`, in a process of its own that sees this checkout"
    path = os.pathsep.join([*([str(env.pop("first"))] if "first" in env else []), str(ROOT)])
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "vlrlbook.cli", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "COLUMNS": "100", **env, "PYTHONPATH": path})


def verdicts(output):
    "{name: verdict} of the lines of a printed table"
    rows = [line.split() for line in output.splitlines()]
    return {row[1] if row[0] in ("import", "extra") else row[0]: row[-1] for row in rows
            if row and row[-1] in ("good", "note", "missing", "bad")}


# Versions

@pytest.mark.parametrize("requirement, version, verdict, words", [
    ("torch>=2.10,<2.16", "2.10", "good", ""), ("torch>=2.10,<2.16", "2.15.9", "good", ""),
    ("torch>=2.10,<2.16", "2.11.0+cpu", "good", ""),
    ("torch>=2.10,<2.16", "2.12.0.dev20260101", "good", ""),
    ("torch>=2.10,<2.16", "2.16.0", "note", "newer than was tested (<2.16)"),
    ("torch>=2.10,<2.16", "3.1", "note", "newer than was tested (<2.16)"),
    ("torch>=2.10,<2.16", "2.9.1", "bad", "needed (>=2.10): pip install -U 'torch<2.16,>=2.10'"),
    ("torch>2.10", "2.10", "bad", "older"), ("torch<=2.16", "2.17", "note", "newer"),
    ("torch==2.11.*", "2.12", "note", "newer"), ("torch==2.11.*", "2.10", "bad", "older"),
    ("torch~=2.11", "3.0", "note", "newer"), ("torch~=2.11", "2.1", "bad", "older"),
    ("torch!=2.12,<2.16", "2.12", "bad", "known not to work"), ("numpy", "0.1", "good", "")])
def test_versions_against_bounds(requirement, version, verdict, words):
    from packaging.requirements import Requirement
    found, advice = doctor.judge_version(Requirement(requirement), version)
    assert found == verdict and words in advice and bool(words) == bool(advice)


def test_a_run_says_which_libraries_were_not_tested(monkeypatch, capsys):
    "The first line of a run, not the last of a traceback; an extra that nobody asked for says nothing"
    lines = ["torch>=2.11,<2.16", "trl>=1.16,<1.17", "numpy", 'vllm<0.25,>=0.22; sys_platform == "linux" and extra == "gpu"',
             'lerobot[dataset]<0.7,>=0.6; extra == "aloha"', 'ray[default]>=2.45; extra == "cluster"']
    installed = {"torch": "2.16.1", "trl": "1.15", "numpy": "1.0", "lerobot": "0.7.0", "ray": "1.0"}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    said = versions.untested_versions(lines)
    assert said == ["torch 2.16.1 is newer than was tested (<2.16); if something breaks: pip install 'torch<2.16,>=2.11'",
                    "trl 1.15 is older than is needed (>=1.16): pip install -U 'trl<1.17,>=1.16'",
                    "lerobot 0.7.0 is newer than was tested (<0.7); if something breaks: pip install 'lerobot[dataset]<0.7,>=0.6'"]
    monkeypatch.setattr(versions, "own_requirements", lambda: lines)
    versions.warn_of_untested.cache_clear()
    for _ in range(2): versions.warn_of_untested()
    told = capsys.readouterr().err
    assert all(told.count(sentence) == 1 for sentence in said)
    versions.warn_of_untested.cache_clear()


def test_this_environment_is_a_tested_one():
    assert versions.untested_versions() == []


def test_requirements_one_finding_each():
    found = doctor.check_requirements(LINES, HERE.get)
    assert [(f.name, f.found, f.verdict) for f in found] == [
        ("torch", "2.11.0+cpu", "good"), ("fastcore", "1.9", "good"), ("papermill", "2.7.0", "good")]
    found = doctor.check_requirements(LINES, dict(torch="2.20", fastcore="no version").get)
    assert [f.verdict for f in found] == ["note", "bad", "bad"]
    assert "InvalidVersion" in found[1].found, "a version that cannot be read hides no other line"
    assert found[2].found == "not installed" and found[2].advice == "pip install 'papermill>=2.7'"


def test_a_checkout_that_is_not_installed():
    assert doctor.check_requirements([])[0].verdict == "note"
    assert doctor.check_extras([]) == []


def test_extras_one_finding_each():
    found = {f.name: f for f in doctor.check_extras(LINES, HERE.get)}
    assert list(found) == ["extra serve", "extra aloha"], "dev and all are not for readers"
    assert (found["extra serve"].found, found["extra serve"].verdict) == ("not installed", "note")
    assert found["extra serve"].advice == "pip install 'vlrlbook[serve]'"
    assert found["extra aloha"].found == "not for this system" and found["extra aloha"].verdict == "note"
    part = doctor.check_extra(LINES, "serve", dict(fastapi="0.120").get)
    assert (part.found, part.verdict) == ("without uvicorn", "note")
    whole = doctor.check_extra(LINES, "serve", dict(fastapi="0.120", uvicorn="0.40").get)
    assert (whole.found, whole.verdict, whole.advice) == ("fastapi 0.120, uvicorn 0.40", "good", "")
    new = doctor.check_extra(LINES, "serve", dict(fastapi="0.120", uvicorn="1.2").get)
    assert new.verdict == "note" and "uvicorn: newer than was tested (<1)" in new.advice


def test_the_package_s_own_metadata():
    names = {f.name for f in doctor.check_requirements(doctor.own_requirements())}
    assert {"torch", "transformers", "trl", "peft", "papermill"} <= names
    extras = doctor.extras_in(doctor.own_requirements())
    assert {"aloha", "serve", "lab", "gpu", "flash", "quant", "cluster"} <= set(extras)
    assert not {"dev", "docs", "all"} & set(extras)


@pytest.mark.parametrize("version, verdict, words", [
    ((3, 10, 4), "bad", "3.11"), ((3, 11, 9), "note", "chapter 04"),
    ((3, 12, 1), "good", ""), ((3, 13, 0), "good", ""),
    ((3, 14, 0), "note", "newer than was tested")])
def test_python(version, verdict, words):
    found = doctor.check_python(version)
    assert found.verdict == verdict and words in found.advice


# Imports and GPU

def test_a_broken_torch_is_bad_and_named(tmp_path):
    "The whole command, with a torch in front that raises: exit status 1, and no step is tried"
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.99: cannot open\\nshared object')")
    done = run_doctor("doctor", folder=tmp_path, first=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "OSError: libcudart.so.99: cannot open shared object" in done.stdout
    assert "not tried" in done.stdout and "two GRPO steps of the main job" not in done.stderr
    assert "Overall: bad." in done.stdout and "good: import torch" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("chapter 05_grpo"))
    assert row.endswith("missing") and "torch" in row


def test_an_import_that_ends_python(tmp_path, monkeypatch):
    "Such as a library made for another processor: the libraries before it are good all the same"
    ending = "import os, sys; print('illegal', file=sys.stderr, flush=True); os._exit(132)"
    (tmp_path / "trl.py").write_text(ending)
    for name, text in (("torch", "tensor = 1; __version__ = '0'"), ("transformers", "Trainer = 1")):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    facts = doctor.library_facts()
    assert "AttributeError" in facts["gpu"]["error"], "this torch knows no GPU, and the others are tried"
    found = {f.name: f for f in doctor.check_imports(facts)}
    assert found["import transformers"].verdict == "good"
    assert found["import trl"].verdict == found["import peft"].verdict == "bad"
    assert found["import trl"].found == "Python ended with status 132: illegal"


def test_an_import_without_an_end(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    found = doctor.library_facts(seconds=3)
    assert all(error.startswith("the time was up") for error in found["errors"].values())
    assert found["gpu"] is None


L4 = "NVIDIA L4, 23034 MiB, 570.86" # as nvidia-smi writes it


def gpu(**changes):
    "What torch would say on a machine without a GPU, but for `changes`"
    return dict(build="2.11.0", cuda="13.0", available=False, devices=[], warnings=[]) | changes


@pytest.mark.parametrize("facts, driver, verdict, words", [
    (None, "", "note", "torch does not import"),
    (dict(error="RuntimeError: ECC"), "", "note", "RuntimeError: ECC"),
    (gpu(), "", "note", "size=tiny runs on the CPU"),
    (gpu(cuda=None, build="2.11.0+cpu"), L4, "note", "2.11.0+cpu is a build for the CPU only"),
    (gpu(warnings=["The NVIDIA driver on your system is too old (found version 11040)."]), L4, "note",
     "driver on your system is too old"),
    (gpu(), L4, "note", "is the driver too old"),
    (gpu(available=True, devices=[dict(name="NVIDIA L4", gb=22.5, error=None), dict(name="Tesla K80", gb=11.2,
         error="AcceleratorError: CUDA error: no kernel image is available for execution on the device")]), L4, "note",
     "torch cannot compute on GPU 1: AcceleratorError: CUDA error: no kernel image"),
    (gpu(available=True, devices=[dict(name="NVIDIA L4", gb=22.5, error=None)]), L4, "good", "")])
def test_gpu(facts, driver, verdict, words, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = doctor.check_gpu(facts, driver)
    assert found.verdict == verdict and words in found.advice
    if verdict == "good":
        assert found.found == "NVIDIA L4 (22 GB); torch 2.11.0 for CUDA 13.0; driver: 570.86"


def test_torch_is_asked_to_compute_on_a_gpu():
    "Where there is no GPU, the first sum fails as on one that this build of torch has no code for"
    import torch
    there_is_one = torch.cuda.is_available()
    assert there_is_one or re.match(r"\w+Error: .*(CUDA|NVIDIA)", doctor._error_of_a_sum(torch, 0))

    class Computes: # stands in for torch with a GPU
        ones = staticmethod(lambda n, device: torch.ones(n))
    assert doctor._error_of_a_sum(Computes, 0) is None


def test_a_hidden_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides" in doctor.check_gpu(gpu(), L4).advice


def test_the_driver_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for script, words in ((f"echo '{L4}'", L4),
                          ("echo 'no driver'; exit 9", "nvidia-smi fails: no driver"),
                          ("exit 0", "nvidia-smi lists no GPU")):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert doctor.driver_facts() == words


# The machine

@pytest.mark.parametrize("gb, verdict", [(0.5, "bad"), (5, "note"), (50, "good")])
def test_disk(gb, verdict, tmp_path):
    usage = namedtuple("usage", "total used free")
    found = doctor.check_disk("disk", tmp_path / "not" / "there", lambda folder: usage(0, 0, gb * 2**30))
    assert found.verdict == verdict and f"{gb:.1f} GB" in found.found
    assert not list(tmp_path.iterdir())


def test_a_full_disk(small_disk):
    "Too small, and then full to the last byte: one bad line each time"
    assert doctor.check_disk("disk", small_disk).verdict == "bad"
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(bytes(2**24))
    assert doctor.check_disk("disk", small_disk).verdict == "bad"


def test_a_folder_where_nothing_can_be_written(tmp_path, monkeypatch):
    def refused(dir): raise OSError(30, "Read-only file system", str(dir))
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    found = doctor.check_disk("disk", tmp_path)
    assert found.verdict == "bad" and "Read-only file system" in found.advice


def test_the_cache_is_looked_at_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("VLRLBOOK_CACHE", str(tmp_path / "cache"))
    assert doctor.check_disk_of_cache().name == "disk for the cache"
    assert not (tmp_path / "cache").exists(), "a folder that was made for the question is gone"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "warm").touch()
    doctor.check_disk_of_cache()
    assert (tmp_path / "cache" / "warm").exists()


def machine(root, free_mb, group="", **files):
    "A /proc and a /sys under `root`; `files` lie in the folder `group` of /sys/fs/cgroup"
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:    {free_mb * 1024} kB\n")
    folder = root / "sys" / "fs" / "cgroup" / group
    folder.mkdir(parents=True)
    for name, text in files.items():
        # A keyword cannot hold a point: the names begin with memory.
        (folder / f"memory.{name}").write_text(f"{text}\n")
    return root


@pytest.mark.parametrize("own, group, files, gb, limited", [
    ("0::/", "", {}, 8, False),
    ("0::/a/b", "a/b", dict(max="max", current=7), 8, False),
    # The limit may stand at a group above; what the kernel can give back is not lost.
    ("0::/a/b", "a", dict(max=4 * 2**30, current=3 * 2**30, stat=f"anon 1\ninactive_file {2**30}"), 2, True),
    # The path is the host's, the files are the container's.
    ("4:cpu:/x\n3:memory:/docker/a", "memory", dict(limit_in_bytes=2**30, usage_in_bytes=0), 1, True),
    ("3:memory:/", "memory", dict(limit_in_bytes=2**63 - 4096, usage_in_bytes=0), 8, False)])
def test_memory_of_a_control_group(own, group, files, gb, limited, tmp_path):
    root = machine(tmp_path, 8 * 1024, group, **files)
    (root / "proc" / "self" / "cgroup").write_text(f"{own}\n")
    assert doctor.available_memory(root) == (gb * 2**30, "free", limited)


@pytest.mark.parametrize("mb, verdict", [(1000, "bad"), (2500, "note"), (8000, "good")])
def test_memory(mb, verdict, tmp_path):
    found = doctor.check_memory(machine(tmp_path, mb))
    assert found.verdict == verdict and "core" in found.found and bool(found.advice) == (verdict != "good")


def test_memory_there_and_memory_needed_are_told_in_one_unit(tmp_path):
    found = doctor.check_memory(machine(tmp_path, doctor.main_job_mb))  # as much as is needed, to the byte
    there = re.match(r"[\d.]+ GB", found.found)[0]
    assert found.verdict == "note" and f"took {there} with" in found.advice


def test_memory_without_proc(tmp_path):
    amount, what, limited = doctor.available_memory(tmp_path)
    assert amount > 2**28 and what == "in all" and not limited


def test_the_memory_of_the_main_job_is_what_was_measured():
    "The constant stays beside the logs"
    rows = list(csv.DictReader((ROOT / "nbs/logs/chapters.csv").open()))
    page = next(int(row["memory_mb"]) for row in rows if row["chapter"] == "05_grpo")
    assert page <= doctor.main_job_mb < 1.5 * page


def test_the_kernel_of_another_python(tmp_path, monkeypatch):
    assert doctor.check_kernel().verdict == "good"
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    spec = dict(argv=[str(tmp_path / "other" / "python")], display_name="x")
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert doctor.check_kernel().verdict == "note"
    (tmp_path / "other").rmdir()  # the environment was removed
    assert doctor.check_kernel().verdict == "note"


# The network

@pytest.mark.parametrize("script, verdict, words", [
    ("print('packaging (26.0)')", "good", ""),
    ("import sys; sys.exit('ERROR: No matching distribution')", "note", "No matching distribution")])
def test_package_index(script, verdict, words):
    found = doctor.check_registry([sys.executable, "-c", script])
    assert found.verdict == verdict and words in found.advice


def test_package_index_without_pip(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert doctor.pip_command() is None
    assert doctor.check_registry(None).found == "not asked"
    assert doctor.check_registry(["/no/such/pip"]).verdict == "note"


def test_the_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert (doctor.check_hub().found, doctor.check_hub().verdict) == ("not asked", "note")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = doctor.check_hub()
    assert (found.found, found.verdict) == ("not reachable", "note")
    assert "size=tiny needs no hub" in found.advice


# Chapters

def test_what_code_imports():
    code = ("import torch, os.path as p\nfrom .core import Table\nfrom vlrlbook import grpo\n"
            "def f():\n    import ray\n    from trl import GRPOTrainer\n")
    names = doctor.imported_names(code, "vlrlbook")
    assert {"torch", "os.path", "vlrlbook.core", "vlrlbook.grpo", "trl"} <= names
    assert "ray" not in names, "a function may never be called"


def test_chapters_that_need_something():
    found = doctor.check_chapters(LINES, WORKING)
    assert found[0].name == "chapters that run"
    errors = WORKING | dict(trl="ImportError: no")
    found = {f.name: f for f in doctor.check_chapters(LINES, errors)}
    assert "00_core" in found["chapters that run"].found and "05_grpo" not in found["chapters that run"].found
    assert found["chapter 05_grpo"].verdict == "missing" and "trl" in found["chapter 05_grpo"].found


def test_a_chapter_without_its_extra(monkeypatch):
    from importlib.util import find_spec
    known = [line for line in doctor.own_requirements() if "lerobot" in line] + LINES[4:6]
    def found_but_lerobot(name): return None if name == "lerobot" else find_spec(name)
    monkeypatch.setattr("importlib.util.find_spec", found_but_lerobot)
    monkeypatch.setattr(doctor, "absent_packages", lambda lines, extra: ["uvicorn"])
    found = {f.name: f for f in doctor.check_chapters(known, WORKING)}
    assert found["chapter 04_aloha"].found == "will not run: lerobot is not installed"
    assert found["chapter 08_service"].advice == "pip install 'vlrlbook[serve]'"
    wanted = "pip install 'vlrlbook[aloha]'" if sys.version_info >= (3, 12) else "not made for this Python"
    assert found["chapter 04_aloha"].advice.startswith(wanted)
    assert len(found) == 3 and found["chapters that run"].verdict == "good"


def test_a_chapter_whose_extra_is_called_inside_functions_exists():
    "The table of such chapters names chapters and extras that there are"
    for chapter, extra in doctor.extra_of_chapter.items():
        assert (ROOT / "nbs" / f"{chapter}.ipynb").exists()
        assert extra in doctor.extras_in(doctor.own_requirements())


# Two steps

@pytest.mark.parametrize("status, losses, verdict, words", [
    (0, [0.1, -0.2], "good", "losses 0.1000 and -0.2000"), (0, [0.1, float("nan")], "bad", "nan"),
    (0, [0.1], "bad", "0.1"), (None, [], "bad", "did not finish in 10 minutes"),
    (-9, [], "bad", "enough memory"), (1, [], "bad", "status 1")])
def test_judging_steps(status, losses, verdict, words):
    found, = doctor.judge_steps(status, "one\ntwo\nValueError: three", losses, 9.0, 600)
    assert found.verdict == verdict and words in found.found
    if status != 0:
        assert found.advice.endswith("ValueError: three")


def test_the_plain_way_is_a_note():
    output = "bar 10%\rbar 20%\nshared prompt: off, since attention is eager, not sdpa\n"
    _, found = doctor.judge_steps(0, output, [0.1, 0.2], 9.0, 600)
    assert (found.found, found.verdict) == ("shared prompt: off, since attention is eager, not sdpa", "note")


def test_a_run_that_fails_shows_its_last_lines(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise RuntimeError('too new')")
    found, = doctor.check_two_steps()
    assert found.verdict == "bad" and "RuntimeError: too new" in found.advice
    assert "Traceback" not in found.found


def test_two_real_steps(tmp_path):
    "The whole command, in an empty home: the steps were taken, and nothing is left behind"
    folders = {name: tmp_path / name for name in ("home", "tmp", "here")}
    for folder in folders.values():
        folder.mkdir()
    places = dict(HOME=str(folders["home"]), TMPDIR=str(folders["tmp"]))
    done = run_doctor("doctor", folder=folders["here"], **places)
    rows = [line for line in done.stdout.splitlines() if line.startswith("two GRPO steps")]
    assert done.stderr == "two GRPO steps of the main job ... about a minute\n"
    assert len(rows) == 1 and rows[0].endswith("good") and "finite" in rows[0], done.stdout
    assert not list(folders["tmp"].iterdir()) and not list(folders["here"].iterdir())
    assert not list(folders["home"].rglob("*vlrlbook*"))
    # With little disk or memory the verdict may be bad; the exit status says the same thing as the lines.
    is_bad = "bad" in verdicts(done.stdout).values()
    assert done.returncode == int(is_bad) and is_bad == ("Overall: bad" in done.stdout)


# The table and the command

def test_a_check_that_raises_is_a_line():
    def check(number): return [Finding("a", "b", "good")] * (2 // number)
    assert len(doctor.guarded("x", "note", check, 1)) == 2
    found, = doctor.guarded("x", "note", check, 0)
    assert (found.name, found.verdict) == ("x", "note") and found.found.startswith("ZeroDivisionError")
    def absent(): raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
    assert doctor.guarded("x", "bad", absent)[0].advice == "pip install numpy, then ask again"


@pytest.mark.parametrize("width", [1, 20, 40, 80, 300])
def test_the_table_fits(width):
    findings = [Finding("extra serve", "fastapi 0.165.0, uvicorn 0.54.0, starlette 1.10.0", "good"),
                Finding("GPU", "x" * 200, "note", "because of that\n" + "y" * 200)]
    lines = doctor.table_lines(findings, width)
    assert lines[0].split() == ["what", "found", "verdict"] and set(lines[1]) == {"-"}
    if width >= 40: assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    assert text.count("x") >= 200 and text.count("y") >= 200, "nothing is cut off"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_terminal(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    finding = Finding("import torch", "OSError: \u5e93 \x1b[31m\x07 not found", "bad", "\u2192 again")
    doctor.say("\n".join(doctor.table_lines([finding], 60)), stream)
    stream.seek(0)
    printed = stream.read()
    assert "not found" in printed and "\x1b" not in printed and "\x07" not in printed


@pytest.mark.parametrize("verdict, status", [("good", 0), ("note", 0), ("missing", 0), ("bad", 1)])
def test_the_last_line(verdict, status):
    found, last = doctor.overall([Finding("torch", "", "good"), Finding("trl", "", verdict)])
    assert found == status and ("trl" in last) == bool(status)
    assert last.startswith(f"Overall: {'bad' if status else 'good'}.")


def fake_machine(monkeypatch, installed, errors):
    "A machine with these packages and imports, where nothing else is looked at"
    monkeypatch.setattr(doctor, "own_requirements", lambda: LINES)
    monkeypatch.setattr(doctor, "check_requirements", lambda lines: [
        doctor.check_requirement(r, installed.get) for r in doctor.requirements_of(lines)])
    monkeypatch.setattr(doctor, "library_facts", lambda: dict(errors=errors, gpu=None))
    for name in ("kernel", "disk_of_runs", "disk_of_cache", "memory", "hub"):
        monkeypatch.setattr(doctor, f"check_{name}", lambda name=name: Finding(name, "", "good"))
    monkeypatch.setattr(doctor, "check_registry", lambda command: Finding("index", "", "note"))


@pytest.mark.parametrize("installed, errors, status", [
    (HERE, WORKING, 0), (HERE | dict(torch="9.9"), WORKING, 0), (HERE | dict(torch="1.0"), WORKING, 1),
    (HERE | dict(papermill=None), WORKING, 1), (HERE, WORKING | dict(torch="OSError: libcudart"), 1)])
def test_exit_status(installed, errors, status, monkeypatch, capsys):
    fake_machine(monkeypatch, installed, errors)
    assert doctor.main(quick=True) == status
    assert ("Overall: bad" in capsys.readouterr().out) == bool(status)


def test_quick_for_real_in_ascii_and_forty_columns(tmp_path):
    narrow = dict(PYTHONIOENCODING="ascii", COLUMNS="40", VLRLBOOK_CACHE=str(tmp_path / "c"))
    done = run_doctor("doctor", "--quick", folder=tmp_path, **narrow)
    assert done.stderr == "" and done.stdout.isascii() and max(map(len, done.stdout.splitlines())) <= 40
    found = verdicts(done.stdout)
    assert found["Python"] in ("good", "note") and found["trl"] == "good" and "GRPO" not in done.stdout
    assert done.returncode == int("bad" in found.values())
    assert not list(tmp_path.iterdir())


def test_version_and_module_are_light():
    "Neither needs torch, NumPy or a working installation of them"
    code = """if True:
        import sys
        import vlrlbook.doctor
        assert not {"torch", "transformers", "numpy", "packaging"} & set(sys.modules), "the module alone"
        from vlrlbook.cli import main
        try: main(["--version"])
        except SystemExit as e: assert not e.code
        assert not {"torch", "transformers", "trl"} & set(sys.modules), "the version"
        """
    from importlib.metadata import version
    done = run_doctor(code=code)
    assert done.returncode == 0 and done.stdout == f"vlrlbook {version('vlrlbook')}\n", done.stderr


def test_version_without_numpy(tmp_path):
    "Where the package was installed without what it needs, the command still starts"
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')")
    for options in (["--version"], ["doctor", "--help"]):
        done = run_doctor(*options, folder=tmp_path, first=tmp_path)
        assert done.returncode == 0 and "vlrlbook" in done.stdout, done.stderr


def test_no_host_is_named():
    "pip and the hub's library know where they go"
    source = Path(doctor.__file__).read_text()
    assert not re.search(r"://|\w\.(org|com|co|io|net)\b", source)
