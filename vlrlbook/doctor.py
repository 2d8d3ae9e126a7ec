"""`vlrlbook doctor`: what this machine can run, what is missing, and what to do about it.

Written by hand, not exported from a notebook. Nothing heavy is imported at the top, since this module has to
work where torch is broken: what imports torch runs in a process of its own."""
import ast
import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from vlrlbook.chapters import notebooks_dir, own_python
from vlrlbook.versions import extra_of, installed_version, judge_version, own_requirements, requirements_of
from vlrlbook.versions import without_marker

__all__ = ["Finding", "check_python", "check_requirements", "check_extras", "main"]

# "The main job" in this module is the GRPO training of chapter 05 with the preset size=tiny, which runs on a
# CPU. This is the most memory that it took in our measurements (nbs/logs/chapters.csv and 05_runs.csv),
# rounded up, in MB of 2**20 bytes as there.
main_job_mb = 2200

# Library → one name in it that the main job uses. transformers and trl load their submodules only on first
# use, so `import trl` alone may succeed in a broken environment; looking up this name does not.
used_names = {"torch": "tensor", "transformers": "Trainer", "trl": "GRPOTrainer", "peft": "LoraConfig"}

# Extras that are not reported, since no reader needs them: two are for developers of the book, and `all` is
# the sum of the others.
extras_not_shown = ("dev", "docs", "all")

# Chapter → extra that it needs but does not import at its top: the functions that it calls import the
# extra's packages when they run. Imports at the top need no entry here: they are read from the chapter.
extra_of_chapter = {"08_service": "serve"}

# Settings for a short version of the main job: the same model and the same batch of 64 answers, but two steps
# and hardly any supervised training before them.
step_settings = dict(max_steps=2, warm_steps=5, eval_samples=8, logging_steps=1, save_steps=0)


@dataclass
class Finding:
    """One line of the table that `vlrlbook doctor` prints.

    The verdict is "good", "note" (the main job, chapter 05's training, can still run), "missing" (some
    chapter will not run) or "bad" (the main job will not run either)."""
    name: str # what was checked, such as "GPU"
    found: str # what is there, such as "none"
    verdict: str # good, note, missing or bad
    advice: str = "" # why the verdict is not good, and what to do


def one_line(
    error: BaseException, # any exception
) -> str: # such as "ValueError: bad number"; at most 300 characters
    "Return type and message of an exception on one line"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def guarded(
    name: str, # of the finding that is returned if the check raises
    verdict: str, # of that finding: "bad" where the main job needs what is checked, else "note"
    check, # function that returns a `Finding` or a list of them
    *args, # arguments of the function
) -> list: # of `Finding`
    """Run a check and return its findings as a list.

    If the check raises, the list holds one finding that names the exception, so that the other checks of the
    doctor still run."""
    try:
        result = check(*args)
    except ModuleNotFoundError as error:
        return [Finding(name, one_line(error), verdict, f"pip install {error.name}, then ask again")]
    except Exception as error:
        return [Finding(name, one_line(error), verdict, "this could not be looked at")]
    return result if isinstance(result, list) else [result]


def call(
    command: list, # program and arguments
    seconds: float, # time limit; then the program is killed
    more_env: dict = None, # environment variables that are added to those of this process
) -> tuple: # (exit status, or None after a timeout; text of stdout; text of stderr)
    "Run a program that may hang, crash or print anything; no failure of the program raises"
    # Python programs then write UTF-8, whatever encoding this terminal is set to.
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", **(more_env or {})}
    options: dict = dict(stdin=subprocess.DEVNULL, capture_output=True, env=env)
    try:
        done = subprocess.run(command, timeout=seconds, **options)
    except subprocess.TimeoutExpired as timeout:
        # What was printed before the timeout still tells how far the program came.
        return None, _decoded(timeout.stdout), _decoded(timeout.stderr)
    except OSError as error:
        # The program is not there, or no more processes can be started. A shell reports 127 then, too.
        return 127, "", one_line(error)
    return done.returncode, _decoded(done.stdout), _decoded(done.stderr)


def _decoded(
    output, # bytes that a program wrote; None if it was killed before it had written any
):
    "The text of a program's output, empty for None; bytes that are not UTF-8 become the mark U+FFFD"
    return (output or b"").decode("utf-8", "replace")


def call_python(
    code: str, # Python code
    seconds: float, # time limit; then the process is killed
) -> tuple: # (exit status, or None after a timeout; text of stdout; text of stderr)
    """Run Python code in a new process, and delete the temporary files that it leaves.

    For code that imports torch, since a broken installation may crash or hang the process that imports it."""
    try:
        with tempfile.TemporaryDirectory(prefix="vlrlbook-doctor-", ignore_cleanup_errors=True) as folder:
            return call([*own_python(), "-c", code], seconds, {"TMPDIR": folder})
    except OSError as error:
        # No temporary folder can be made, so the code was not run: reported as a failed process.
        return 1, "", one_line(error)


def last_line(
    text: str, # what a program printed
) -> str: # empty if there is none
    "Return the last line that is not blank, without spaces around it"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# Python and packages

def check_python(
    version: tuple = None, # such as (3, 12, 1); None: the Python that runs this
) -> Finding:
    "Compare the version of Python with the versions that vlrlbook supports: 3.11 to 3.13"
    version = tuple(version or sys.version_info[:3])
    version_text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("Python", version_text, "bad", "older than is needed (3.11)")
    if version < (3, 12):
        return Finding("Python", version_text, "note", "chapter 04 will not run: LeRobot needs Python 3.12")
    if version >= (3, 14):
        return Finding("Python", version_text, "note", "newer than was tested (3.13)")
    return Finding("Python", version_text, "good")


def check_requirement(
    requirement, # a `packaging.requirements.Requirement`
    version_of=installed_version, # function: package name → installed version, or None
) -> Finding:
    "Check one package that every installation needs: is it there, and does its version fit?"
    version = version_of(requirement.name)
    if version is None:
        # The marker, such as `; python_version >= "3.12"`, is nothing that a user has to type.
        advice = f"pip install '{without_marker(requirement)}'"
        return Finding(requirement.name, "not installed", "bad", advice)
    # "good", "note" (newer than was tested) or "bad" (too old), with advice for the last two
    verdict, advice = judge_version(requirement, version)
    return Finding(requirement.name, version, verdict, advice)


def check_requirements(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    version_of=installed_version, # function: package name → installed version, or None
) -> list: # of `Finding`
    "Check every package that every installation needs; one finding for each"
    if not lines:
        # Only a note: a git checkout on the PYTHONPATH has no metadata, and works all the same.
        advice = "vlrlbook itself is not installed: pip install -e ."
        return [Finding("requirements", "not known", "note", advice)]
    findings = []
    for requirement in requirements_of(lines):
        # `guarded` turns an exception of the check into a finding with the verdict "bad", so that a version
        # that cannot be read does not hide the other packages.
        findings += guarded(requirement.name, "bad", check_requirement, requirement, version_of)
    return findings


def extras_in(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
) -> list: # names of extras, in the order of the lines
    "List the extras (groups of optional packages) that a reader may want; those for developers are left out"
    # A line of an extra reads: uvicorn>=0.34; extra == "serve"
    names = re.findall(r"""extra\s*==\s*["']([\w-]+)""", "\n".join(lines))
    # An extra has several lines. `dict.fromkeys` drops the repeats and keeps the order.
    return [name for name in dict.fromkeys(names) if name not in extras_not_shown]


def absent_packages(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    extra: str, # name of the extra, such as "serve"
    version_of=installed_version, # function: package name → installed version, or None
) -> list: # names of packages
    "List the packages of an extra that are not installed"
    # Only requirements that apply to this Python and this system.
    requirements = requirements_of(lines, extra)
    return [requirement.name for requirement in requirements if version_of(requirement.name) is None]


def check_extra(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    extra: str, # name of the extra, such as "serve"
    version_of=installed_version, # function: package name → installed version, or None
) -> Finding:
    """Check the packages of one extra; all of them give one finding.

    The verdict is "good" or "note", never "bad": the main job (chapter 05's training) needs no extra."""
    name = f"extra {extra}"
    # Only those that apply to this Python and this system: LeRobot's, for one, need Python 3.12.
    requirements = requirements_of(lines, extra)
    if not requirements:
        return Finding(name, "not for this system", "note", "there are no packages for it here")
    absent = absent_packages(lines, extra, version_of)  # names of those that are not installed
    if absent:
        found = f"without {', '.join(absent)}"
        if len(absent) == len(requirements):
            found = "not installed"
        return Finding(name, found, "note", f"pip install 'vlrlbook[{extra}]'")
    return _versions_finding(name, requirements, version_of)


def _versions_finding(
    name, # of the finding, such as "extra serve"
    requirements, # list of `packaging.requirements.Requirement`; all of these packages are installed
    version_of, # function: package name → installed version, such as "0.34.0"
):
    """A finding about installed packages: their versions, and which of them were not tested.

    The verdict is "good" or "note", also where a version is too old: the main job needs no extra."""
    packages, advice = [], []
    for requirement in requirements:
        version = version_of(requirement.name)
        packages.append(f"{requirement.name} {version}")
        _verdict, text = judge_version(requirement, version)
        if text:  # none for a version that was tested
            advice.append(f"{requirement.name}: {text}")
    return Finding(name, ", ".join(packages), "note" if advice else "good", "; ".join(advice))


def check_extras(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    version_of=installed_version, # function: package name → installed version, or None
) -> list: # of `Finding`
    "Check every extra that a reader may want; one finding for each"
    # Every check below needs `packaging`. Without it this raises once, and not once for each extra.
    importlib.import_module("packaging")
    findings = []
    for extra in extras_in(lines):
        # `guarded` turns an exception of the check into a finding with the verdict "note".
        findings += guarded(f"extra {extra}", "note", check_extra, lines, extra, version_of)
    return findings


# What imports torch: a process of its own, which may crash

def import_libraries():
    """Import the libraries that the main job (chapter 05's training) needs; print a line of JSON for each.

    The lines are {"library": name, "error": text or null}. After torch comes {"gpu": what it says of GPUs}.
    `library_facts` runs this in a new process, which may crash, and reads the lines."""
    # `used_names`: library → a name in it; in the order of import, torch first
    for library, name in used_names.items():
        error = _import_error(library, name)
        # Flushed at once: the next import may crash the process, and this line must not be lost.
        print(json.dumps(dict(library=library, error=error)), flush=True)
        if library == "torch" and error is None:
            # A GPU that raises must not stop the imports that follow.
            try:
                facts = gpu_facts()
            except Exception as caught:
                facts = dict(error=one_line(caught))
            print(json.dumps(dict(gpu=facts)), flush=True)


def _import_error(
    library, # such as "trl"
    name, # of something in it that is used, such as "GRPOTrainer"
):
    "Import a library and look up one name in it: what that raised, as one line of text, or None"
    # transformers and trl import a submodule only when a name in it is used: `import trl` may work, and
    # trl.GRPOTrainer fail.
    try:
        getattr(importlib.import_module(library), name)
    except Exception as error:
        return one_line(error)
    return None


def gpu_facts() -> dict: # keys: build, cuda, available, devices, warnings
    """Ask torch about the GPUs of this machine.

    `build` is torch's version, `cuda` the CUDA or ROCm version that it was built for (None: for CPUs only),
    `available` is True if torch sees a GPU, `warnings` a list of texts, and `devices` a list of {name, gb,
    error}, whose error is None if the GPU can compute."""
    import torch
    count, messages = _usable_gpus(torch.cuda)
    devices = []
    for number in range(count or 0):  # None: torch can use no GPU
        properties = torch.cuda.get_device_properties(number)
        error = _error_of_a_sum(torch, number)  # torch may see a GPU and yet fail to compute on it
        devices.append(dict(name=properties.name, gb=properties.total_memory / 2**30, error=error))
    return dict(build=torch.__version__, cuda=torch.version.cuda or torch.version.hip,
                available=count is not None, devices=devices, warnings=messages)


def _error_of_a_sum(
    torch, # the module, which this file does not import at its top
    number, # of the GPU
):
    "What torch raises when it computes on a GPU, in one line; None if it can"
    # A build of torch has no code for GPUs that are older, or newer, than those that it was made for: it sees
    # them, and fails when it first computes ("no kernel image is available").
    try:
        return None if (torch.ones(2, device=f"cuda:{number}") + 1).sum().item() == 4 else "1 + 1 is not 2"
    except Exception as error:
        return one_line(error)


def _usable_gpus(
    cuda, # the module torch.cuda, which this file does not import at its top
):
    "(number of GPUs, or None if torch can use none; list of the warnings that torch gave, as texts)"
    import warnings
    # When a GPU is there but cannot be used, torch gives the reason in a warning.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = cuda.device_count() if cuda.is_available() else None
    # Each message on one line.
    return count, [" ".join(str(warning.message).split()) for warning in caught]


def library_facts(
    seconds: float = 300, # time limit; a first import from a network disk can take minutes
) -> dict: # errors: {library: error text, or None if it imports}; gpu: dict about GPUs, or None
    "Find out which libraries of the main job import, and what torch says about GPUs"
    # In a new process, since an import may crash it; it prints lines of JSON.
    code = "from vlrlbook.doctor import import_libraries; import_libraries()"
    status, stdout, stderr = call_python(code, seconds)  # the status is None if the time was up
    errors, gpu = _facts_printed(stdout)
    ending = "the time was up" if status is None else f"Python ended with status {status}"
    for library in used_names:
        # A library without a line: the process ended before or while it was imported.
        errors.setdefault(library, f"{ending}: {last_line(stderr)}"[:300])
    return dict(errors=errors, gpu=gpu)


def _facts_printed(
    output, # lines of JSON: {"library": "torch", "error": text or null} and {"gpu": dict}; other lines
):
    """Read what a process printed about its imports: ({library: error text or None}, dict about GPUs or None)

    The process may have crashed, so any of the lines may be missing."""
    errors, gpu = {}, None
    for line in output.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            # Libraries print lines of their own, which are no JSON.
            continue
        if isinstance(record, dict) and "library" in record:
            errors[record["library"]] = record["error"]
        elif isinstance(record, dict):
            gpu = record.get("gpu", gpu)
    return errors, gpu


def check_imports(
    facts: dict, # its key `errors`: {library: what its import raised, a text; None if it imports}
) -> list: # of `Finding`
    "Report for each library of the main job if it can be imported"
    findings = []
    for library, error in facts["errors"].items():
        name = f"import {library}"
        if error is None:
            findings.append(Finding(name, "works", "good"))
        else:
            advice = "install it again; if that does not help, in a new environment"
            if f"No module named '{library}'" in error:
                advice = f"pip install {library}"
            findings.append(Finding(name, error, "bad", advice))
    return findings


def driver_facts() -> str: # such as "NVIDIA L4, 23034 MiB, 570.86"; empty without a driver
    "Ask nvidia-smi about the first GPU: name, memory and driver version, or a sentence about its failure"
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = "--query-gpu=name,memory.total,driver_version"
    status, stdout, stderr = call([program, query, "--format=csv,noheader"], seconds=20)
    if status != 0:
        # nvidia-smi writes its own errors to stdout; stderr has those of the loader.
        return f"nvidia-smi fails: {last_line(stdout) or last_line(stderr)}"
    return stdout.strip().splitlines()[0] if stdout.strip() else "nvidia-smi lists no GPU"


def check_gpu(
    facts: dict | None, # torch's: {build, cuda, available, devices, warnings}, or {error}; None: no torch
    driver: str, # nvidia-smi's "name, memory, driver version", or how it fails; empty without a driver
) -> Finding:
    "Report the GPUs that torch can use or, if there is one that torch cannot use, the reason"
    # Never "bad": the main job, chapter 05 with size=tiny, runs on a CPU.
    if facts is None:
        return Finding("GPU", driver or "not known", "note", "torch does not import, so it was not asked")
    if "error" in facts:  # what torch raised when it was asked about GPUs
        advice = f"torch fails when it is asked: {facts['error']}"
        return Finding("GPU", driver or "not known", "note", advice)
    if facts["available"]:
        return _usable_gpu(facts, driver)
    if not driver:
        return Finding("GPU", "none", "note", "size=tiny runs on the CPU; size=gpu needs an NVIDIA GPU")
    return Finding("GPU", driver, "note", f"not usable from torch. {_why_unusable(facts)}")


def _usable_gpu(
    facts, # devices: [{name, gb, error}]; build: torch's version; cuda: the version that it was built for
    driver, # nvidia-smi's "NVIDIA L4, 23034 MiB, 570.86" (name, memory, driver version), or ""
):
    "The finding that names the GPUs which torch sees, its build and the driver: good if it can compute on all"
    names = [f"{device['name']} ({device['gb']:.0f} GB)" for device in facts["devices"]]
    found = f"{', '.join(names)}; torch {facts['build']} for CUDA {facts['cuda']}"
    if driver:
        driver_version = driver.split(", ")[-1]
        found += f"; driver: {driver_version}"
    for number, device in enumerate(facts["devices"]):
        if device.get("error"):
            return Finding("GPU", found, "note", f"torch cannot compute on GPU {number}: {device['error']}")
    return Finding("GPU", found, "good")


def _why_unusable(
    facts, # torch's: build, its version; cuda, what it was built for, or None; warnings, list of texts
):
    "Say why torch cannot use a GPU whose driver is there: wrong build, GPU hidden, or driver too old"
    if facts["cuda"] is None:
        return f"torch {facts['build']} is a build for the CPU only: install a build for CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    torch_name = f"torch {facts['build']} for CUDA {facts['cuda']}"
    if facts["warnings"]:
        # A warning such as "The NVIDIA driver on your system is too old (found version 11040)".
        return f"{torch_name} says: {facts['warnings'][0]}"
    return f"{torch_name} finds no GPU: is the driver too old for it?"


# The machine

def folder_above(
    path: Path, # need not exist
) -> Path: # exists
    "Return `path` if it exists, else the nearest folder above it that exists"
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_disk(
    name: str, # of the finding, such as "disk for runs"
    folder: Path, # need not exist
    usage=shutil.disk_usage, # function: folder → (total, used, free) in bytes
) -> Finding:
    "Check the free space where `folder` is or will be made, and if this user may write there"
    existing = folder_above(Path(folder))  # `folder` itself, or the nearest one above it that exists
    free_gb = usage(existing).free / 2**30
    found = f"{free_gb:.1f} GB free in {folder}"
    error = _write_error(existing)  # an OSError, or None if a file can be made there
    if error is not None:
        return Finding(name, found, "bad", f"nothing can be written there ({one_line(error)})")
    if free_gb < 1:
        return Finding(name, found, "bad", "less than 1 GB: a run can fill it up")
    if free_gb < 10:
        return Finding(name, found, "note", "less than 10 GB: enough for size=tiny; a 3B model takes 7.5 GB")
    return Finding(name, found, "good")


def _write_error(
    folder, # that exists
):
    "The OSError that writing into a folder raises, or None; nothing is left in the folder"
    # A file that vanishes when it is closed: permission bits would not tell of a read-only file system.
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error
    return None


def check_disk_of_runs() -> Finding:
    "Check the disk of the current folder: runs are written there unless output_dir is set"
    return check_disk("disk for runs", Path.cwd())


def check_disk_of_cache() -> Finding:
    "Check the disk of the cache folder, where warm starts and unpacked data are kept"
    from vlrlbook.core import cache_dir
    started = time.time()
    folder = cache_dir()
    finding = check_disk("disk for the cache", folder)
    # `cache_dir` makes the folder if it is not there. A check should leave nothing behind, so a folder that
    # was made just now and is empty is removed. One second of slack: some disks round the time of a file.
    # If an older empty folder is removed too, nothing is lost: `cache_dir` makes it again.
    if folder.stat().st_ctime >= started - 1 and not any(folder.iterdir()):
        folder.rmdir()
    return finding


def number_in(
    path: Path, # a file that the Linux kernel provides, such as /proc/meminfo
    label: str = "", # word before the number, such as MemAvailable; empty: the file holds only a number
) -> int | None: # None if there is no such file, or no number in it ("max" means no limit)
    "Read a number from a file of the Linux kernel"
    try:
        text = path.read_text()
    except OSError:
        return None
    # A line such as "MemAvailable:   123456 kB" or "inactive_file 4096".
    match = re.search(rf"^{re.escape(label)}:?\s*(\d+)\b", text, re.M)
    return int(match[1]) if match else None


# Version of Linux control groups → (file with the memory limit, file with the memory in use, label in
# memory.stat of the file cache that is counted as used but that the kernel frees when memory is needed).
group_files = {2: ("memory.max", "memory.current", "inactive_file"),
               1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}


def left_in_group(
    folder: Path, # of a Linux control group (cgroup)
    version: int, # of control groups on this system: 1 or 2
) -> float | None: # bytes; None if the group sets no limit
    "Return how much memory a control group, set by a container or a batch system, still lets a process take"
    # File names, and the label of the reclaimable file cache; they differ between the two versions.
    limit_name, usage_name, cache_label = group_files[version]
    limit, used = number_in(folder / limit_name), number_in(folder / usage_name)
    if limit is None or used is None:
        return None
    # This part of the file cache is counted as used, but the kernel frees it when a process needs memory.
    reclaimable = number_in(folder / "memory.stat", cache_label) or 0
    return limit - used + reclaimable


def control_groups(
    root: Path, # root of the file system: "/", or a folder in tests
) -> list: # of (folder of the group, version of control groups: 1 or 2)
    """List the Linux control groups that limit this process's memory, and all groups above them.

    A container or a batch system limits memory through such groups. Other systems than Linux have none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        groups += _groups_of_line(line, root / "sys/fs/cgroup")
    return groups


def _groups_of_line(
    line, # of /proc/self/cgroup, such as "0::/user.slice/job7" or "4:memory:/job7"
    cgroup_folder, # where Linux shows control groups: /sys/fs/cgroup
):
    """List (folder, version) of the memory group that a line names, and of all groups above it.

    Empty for a line about anything but memory. In a container the line may hold the host's path: then only
    the last folder, the top one, exists. The others count as groups without a limit (`left_in_group`)."""
    # Version 2 writes "0::/path". Version 1 writes a line for each controller (what is limited: memory, cpu).
    _, controllers, path = line.split(":", 2)
    if controllers == "":
        top, version = cgroup_folder, 2
    elif "memory" in controllers.split(","):
        top, version = cgroup_folder / "memory", 1
    else:
        return []
    group = Path(path.lstrip("/"))
    return [(top / folder, version) for folder in (group, *group.parents)]


def available_memory(
    root: Path = Path("/"), # folder with proc and sys in it; another one in tests
) -> tuple: # (bytes, "free" or "in all", True if a control group is what limits)
    """Return how much memory a new process can take.

    On Linux that is the free memory, or less where a control group (of a container or a batch system) has a
    limit. Elsewhere only the size of the whole memory is known: then the second value is "in all"."""
    free_kb = number_in(root / "proc/meminfo", "MemAvailable")
    if free_kb is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "in all", False
    free = free_kb * 1024
    # What each group, and each group above it, lets a process take; None where it has no limit. The limit of
    # a group above holds for all that is inside it.
    amounts = [left_in_group(folder, version) for folder, version in control_groups(root)]
    least = min((amount for amount in amounts if amount is not None), default=free)
    return min(free, least), "free", least < free


def core_count() -> int:
    "Return the number of cores that this process may use"
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory(
    root: Path = Path("/"), # folder with proc and sys in it; another one in tests
) -> Finding:
    "Compare the memory of this machine with what the main job (chapter 05) took, and name the cores"
    # bytes; "free", or "in all" where the free part is not known; True if a container sets the limit
    amount, kind, limited = available_memory(root)
    limit_text = ", limited by a container or a batch system" if limited else ""
    cores = core_count()
    cores_text = "1 core" if cores == 1 else f"{cores} cores"
    found = f"{amount / 2**30:.1f} GB {kind}{limit_text}; {cores_text}"
    main_job_bytes = main_job_mb * 2**20
    needed = f"the main job took {main_job_bytes / 2**30:.1f} GB with size=tiny"
    if amount < main_job_bytes:
        return Finding("memory", found, "bad", f"{needed}: end other programs, or raise the limit")
    if amount < 2 * main_job_bytes:
        return Finding("memory", found, "note", f"{needed}: do not run two at once")
    return Finding("memory", found, "good")


def check_ffmpeg() -> Finding:
    "Check if FFmpeg, which decodes video files, is installed"
    path = shutil.which("ffmpeg")
    if path:
        return Finding("FFmpeg", path, "good")
    return Finding("FFmpeg", "not found", "note", "only needed for LeRobot's video mode (chapter 04)")


def check_browser() -> Finding:
    "Look for a browser in which tests can open the web page of the training service"
    browsers = [name for name in ("chromium", "google-chrome", "firefox") if shutil.which(name)]
    if browsers:
        return Finding("browser", ", ".join(browsers), "good")
    return Finding("browser", "not found", "note", "only needed to test the page of the training service")


def check_kernel() -> Finding:
    "Check the Jupyter kernel that runs the chapters: is it installed, and does it start this Python?"
    program = _kernel_program()  # path or bare name of the kernel's Python; None without a kernel
    if program is None:
        return Finding("notebook kernel", "no python3", "bad", "pip install --force-reinstall ipykernel")
    # For a bare name such as "python", jupyter_client starts the Python that runs jupyter_client: this one.
    is_bare_name = program == Path(program).name
    folder = Path(program).parent
    is_there = folder.is_dir()  # not if the environment was removed, for which the kernel was installed
    if is_bare_name or (is_there and folder.samefile(Path(sys.executable).parent)):
        return Finding("notebook kernel", "python3", "good")
    # The command makes the kernel "python3" start the Python that runs the command.
    advice = "chapters run in that environment: python -m ipykernel install --sys-prefix"
    return Finding("notebook kernel", f"python3 is {program}", "note", advice)


def _kernel_program():
    "The Python that the kernel of the chapters starts, such as /usr/bin/python; None without such a kernel"
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from jupyter_core.paths import jupyter_path
    # The folders are given, since the manager would otherwise ask IPython for its folder, and IPython would
    # make it. A check should leave nothing behind.
    kernels = KernelSpecManager(kernel_dirs=jupyter_path("kernels"))
    try:
        return kernels.get_kernel_spec("python3").argv[0]  # the kernel that every chapter's metadata names
    except NoSuchKernel:
        return None


# The network: notes only, since everything runs offline

def pip_command() -> list | None: # program and first arguments; None without pip
    "Return the command that starts pip: this environment's own or, if it has none, the one on the PATH"
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    # The pip of another environment reads the same configuration files, so it asks the same package index,
    # which is all that `check_registry` wants of it.
    path = shutil.which("pip")
    return [path] if path else None


# `pip index` lists versions and installs nothing; `packaging` stands for any package. No retries: with those
# that pip makes by default, this takes minutes without a network.
_index_question = ("index", "versions", "packaging", "--timeout", "5", "--retries", "0", "--no-input",
                   "--disable-pip-version-check")


def check_registry(
    command: list | None, # from `pip_command`: how to start pip; None without pip
) -> Finding:
    """Check if pip can reach the package index that it is configured for.

    pip itself is started, so that its own settings for index, proxy and certificates are tried."""
    name, advice = "package index", "nothing can be installed from here; what is installed runs all the same"
    if command is None:
        return Finding(name, "not asked", "note", "there is no pip here to ask")
    # asks for the versions of one package, with `pip index`; the status is None after a timeout
    status, _, stderr = call([*command, *_index_question], seconds=30)
    if status == 0:
        return Finding(name, "reachable", "good")
    reason = "no answer in 30 seconds" if status is None else last_line(stderr)
    return Finding(name, "not reachable", "note", f"pip says: {reason}; {advice}"[:300])


def ask_hub():
    """Ask the Hugging Face hub for one model, and print "reachable" or the error.

    If the user has set HF_HUB_OFFLINE, "offline" is printed and nothing is asked.

    `check_hub` runs this in a new process and reads the line, since a network call may hang."""
    from huggingface_hub import HfApi, constants
    if constants.HF_HUB_OFFLINE:
        print("offline")
        return
    # The model that the preset size=gpu trains: if the hub has it for us, that preset can start.
    try:
        HfApi().model_info("Qwen/Qwen2.5-VL-3B-Instruct", timeout=5)
        print("reachable")
    except Exception as error:
        print(one_line(error))


def check_hub() -> Finding:
    """Check if models can be downloaded from the Hugging Face hub.

    `ask_hub` runs in a new process: waiting for a name server can be cut short only by ending the process.
    It prints "reachable", the error, or "offline" if HF_HUB_OFFLINE is set."""
    code = "from vlrlbook.doctor import ask_hub; ask_hub()"
    status, stdout, stderr = call_python(code, seconds=30)
    answer = last_line(stdout)
    if answer == "reachable":
        return Finding("model hub", "reachable", "good")
    if answer == "offline":
        return Finding("model hub", "not asked", "note", "HF_HUB_OFFLINE is set; size=tiny needs no hub")
    if status is None:
        reason = "no answer in 30 seconds"
    else:
        # Without an answer the process crashed before it could print one.
        reason = answer or last_line(stderr)
    return Finding("model hub", "not reachable", "note", f"{reason[:200]}; size=tiny needs no hub")


# Chapters

def imported_names(
    source: str, # Python code
    package: str = "", # package of the code, for relative imports
) -> set: # dotted names; for `from a import b` both a and a.b, since b may be a module
    """List the modules that code imports at its top level.

    Imports inside functions (such as Ray's), `if` or `try` are left out, since they may never be needed.
    Only torch, transformers, trl and peft are listed wherever they stand: the main job uses all four."""
    tree, names = ast.parse(source), set()
    for node in ast.walk(tree):
        at_top = node in tree.body
        for name in _names_of_import(node, package):
            # The library of "torch.nn" is "torch"; the keys of `used_names` are the four libraries.
            if at_top or name.partition(".")[0] in used_names:
                names.add(name)
    return names


def _names_of_import(
    node, # of a syntax tree, from `ast`
    package, # of the code, such as "vlrlbook.jobs", from which relative imports start
):
    """List the dotted names that a node of a syntax tree imports; empty if it is no import.

    `from a import b` → ["a", "a.b"], since b may be a module or only a name in a."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # level: the number of dots before a relative import; 0 for an absolute one
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


def code_of_chapter(
    path: Path, # a chapter's notebook
) -> str: # Python code
    "Return all code cells of a chapter as one text, without the lines that only IPython understands"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # "%" begins a magic command, "!" a command for the shell; `ast` can parse neither.
    return "\n".join(line for line in text.splitlines() if not line.startswith(("%", "!")))


@cache # several chapters import the same modules
def imports_of_module(
    name: str, # a module of vlrlbook, such as "vlrlbook.grpo"
) -> set: # dotted names; empty if there is no such module
    "List what a module of this package imports. Its file is parsed, since importing it would take seconds"
    # "vlrlbook.jobs.ledger" → this file's folder / "jobs/ledger"
    path = Path(__file__).resolve().parent.joinpath(*name.split(".")[1:])
    # Relative imports of a package's __init__.py start from itself, those of a module from its parent.
    parent = name.rpartition(".")[0]
    for file, package in ((path / "__init__.py", name), (path.with_suffix(".py"), parent)):
        if file.is_file():
            return imported_names(file.read_text(encoding="utf-8"), package)
    return set()


def needed_packages(
    chapter: Path, # its notebook
) -> set: # names as they are imported, such as "PIL"
    "List the packages that a chapter imports, directly or through the modules of vlrlbook that it imports"
    visited, to_visit = set(), imported_names(code_of_chapter(chapter))
    while to_visit:
        name = to_visit.pop()
        visited.add(name)
        # Only our own modules are followed: what other packages import, pip installs with them.
        if name.partition(".")[0] == "vlrlbook":
            to_visit |= imports_of_module(name) - visited  # of a name that is no module: nothing
    return {name.partition(".")[0] for name in visited} - {"vlrlbook"}


def why_not(
    chapter: Path, # its notebook
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    errors: dict, # {library: what it raised when it was imported, or None}
) -> tuple: # (reason, advice); both empty if the chapter will run
    """Say why a chapter cannot run on this machine, and what to install.

    It can run if each package that it imports can be imported, and if it has those of its extra, such as
    FastAPI for the chapter about the service."""
    needed = sorted(needed_packages(chapter))  # that it imports, itself or through modules of vlrlbook
    broken = [name for name in needed if errors.get(name)]
    if broken:
        return f"{', '.join(broken)} cannot be imported", "see the lines above"
    absent, extra = _absent_and_extra(chapter.stem, needed, lines)
    if not absent:
        return "", ""
    reason = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
    return reason, advice_to_install(lines, extra)


def _absent_and_extra(
    chapter_name, # such as "08_service"
    needed, # packages that the chapter imports, by the name for `import`, such as ["PIL", "torch"]
    lines, # requirements of vlrlbook, such as 'uvicorn>=0.34; extra == "serve"'; empty if not installed
):
    "(packages of a chapter that are not installed, the extra, such as serve, that brings them, or None)"
    is_installed = bool(lines)  # else nothing says which packages an extra has
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        # No chapter imports packages of two extras at its top level, so one package tells the extra; None for
        # a package that belongs to no extra.
        return absent, (extra_of(absent[0]) if is_installed else None)
    # A chapter that imports its extra's packages only inside functions, so that they are not in `needed`,
    # stands in this table: chapter → extra.
    extra = extra_of_chapter.get(chapter_name)  # None for most chapters
    if not extra or not is_installed:
        return [], extra  # nothing is known to be absent; the caller then does not use `extra`
    return absent_packages(lines, extra), extra


def advice_to_install(
    lines: list, # requirements of vlrlbook; empty where it is not installed, as in a git checkout
    extra: str | None, # the extra that brings the absent packages, such as "serve"; None: not known, or none
) -> str: # such as "pip install 'vlrlbook[serve]'"
    "Say how to install packages that are absent"
    if extra is None:
        # The package itself is not named: its name for pip may differ, as `pillow` does from `PIL`.
        return "pip install vlrlbook" if lines else "pip install -e ."
    # pip would install nothing, as for LeRobot's extra on Python 3.11.
    if not requirements_of(lines, extra):
        return "not made for this Python or this system"
    return f"pip install 'vlrlbook[{extra}]'"


def check_chapters(
    lines: list, # requirements of vlrlbook, as `importlib.metadata.requires` returns them
    errors: dict, # {library: what it raised when it was imported, or None}
) -> list: # of `Finding`: one that names all chapters that will run, then one for each that will not
    "Find out which chapters can run on this machine, and why the others cannot"
    running, findings = [], []
    for chapter in sorted(notebooks_dir().glob("[0-9]*.ipynb")):
        reason, advice = why_not(chapter, lines, errors)
        if reason:
            findings.append(Finding(f"chapter {chapter.stem}", f"will not run: {reason}", "missing", advice))
        else:
            running.append(chapter.stem)
    if not running:
        return [Finding("chapters that run", "none", "missing", "see the lines below"), *findings]
    return [Finding("chapters that run", ", ".join(running), "good"), *findings]


# Two real steps

def run_two_steps(
    output_dir: str, # folder of the run, which is made
):
    """Train two GRPO steps with the code of chapter 05 and a small version of its settings.

    `check_two_steps` runs this in a new process, which may crash, and reads the run's log."""
    from vlrlbook.core import read_settings
    from vlrlbook.grpo import GRPOSettings, run
    # `step_settings`: two steps, and hardly any supervised training before them.
    settings = read_settings(GRPOSettings, step_settings | dict(output_dir=output_dir))
    # measure=False: the model is not evaluated before and after, since two steps teach it nothing.
    run(settings, measure=False)


def logged_losses(
    path: Path, # run_log.csv of a run
) -> list: # of floats; empty if there is no such file
    "Read the loss of each logged training step"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]


def how_it_ended(
    status: int | None, # exit status of a process; None if it was killed after its time limit
    seconds: float, # the time limit
) -> str: # such as "ended with status 1"
    "Describe in words how a process ended; the text begins with a verb"
    if status is None:
        return f"did not finish in {seconds / 60:.0f} minutes"
    if status < 0:
        # `subprocess` reports a process that signal 9 ended as -9. Linux sends 9 when memory runs out.
        hint = ": was there enough memory?" if status == -9 else ""
        return f"was ended by signal {-status}{hint}"
    return f"ended with status {status}"


def judge_steps(
    status: int | None, # exit status of the process that trained; None if it was killed after its time limit
    output: str, # what it printed
    losses: list, # of the logged steps, as floats
    took: float, # seconds that it ran
    limit: float, # its time limit in seconds
) -> list: # of `Finding`
    """Judge a trial run of two training steps.

    It is good if the process ended well and logged two finite losses. A second finding, a note, is added if
    the run could not share the prompt among the answers of a group."""
    name = "two GRPO steps"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status != 0:  # None too: the time was up
        # The last twelve lines hold the end of a traceback: most people will paste just that into a report.
        found = f"the run {how_it_ended(status, limit)}"
        finding = Finding(name, found, "bad", "\n".join(lines[-12:]))
    elif len(losses) != step_settings["max_steps"] or not all(map(math.isfinite, losses)):
        finding = Finding(name, f"losses: {losses}", "bad", "two finite numbers were expected")
    else:
        shown = " and ".join(f"{loss:.4f}" for loss in losses)
        finding = Finding(name, f"losses {shown}, finite; {took:.0f} s with imports and start", "good")
    return [finding, *_unshared_prompts(lines)]


def _unshared_prompts(
    lines, # what the run printed
):
    "A note for each line in which a run says that a group's answers could not share the reading of a prompt"
    # Normally the model reads a prompt once for all answers of a group; else once for each of them.
    advice = "the run is slower; its numbers stay right"
    such_lines = [line for line in lines if line.startswith("shared prompt:")]
    return [Finding("shared prompt", line, "note", advice) for line in such_lines]


def check_two_steps(
    limit: float = 600, # time limit in seconds
) -> list: # of `Finding`
    """Train two steps of the main job (GRPO, chapter 05) in a new process, and judge how it went.

    Run, cache and temporary files are in one temporary folder, which is deleted at the end."""
    # It starts in the current folder, not in the temporary one: Python may find `vlrlbook` only from there (a
    # git checkout that is not installed).
    code = "import sys; from vlrlbook.doctor import run_two_steps; run_two_steps(sys.argv[1])"
    with tempfile.TemporaryDirectory(prefix="vlrlbook-doctor-", ignore_cleanup_errors=True) as folder:
        output_dir = Path(folder).resolve() / "run"
        # Added to the environment. Offline, since the small model is built, not downloaded.
        env = {"HF_HUB_OFFLINE": "1", "VLRLBOOK_CACHE": folder, "TMPDIR": folder}
        started = time.monotonic()
        status, stdout, stderr = call([*own_python(), "-c", code, str(output_dir)], limit, env)
        took = time.monotonic() - started
        losses = logged_losses(output_dir / "run_log.csv")
    return judge_steps(status, f"{stdout}\n{stderr}", losses, took, limit)


# The table

def printable(
    text: str, # any text, perhaps with codes for a terminal
) -> str: # without line breaks, codes for colours or bells
    "Replace each character that a terminal does not print, such as a line break, by a space"
    return "".join(character if character.isprintable() else " " for character in text)


def wrapped(
    text: str, # any text
    width: int, # most characters of a line
) -> list: # of str
    "Break text into lines between words, and inside a word only if it is longer than a line"
    pieces = []
    # textwrap itself would begin a long word (a path, a command) behind other words, and break at hyphens:
    # it could then not be copied. So a long word gets a line of its own, which is cut here.
    for line in wrap(printable(text), width, break_long_words=False, break_on_hyphens=False):
        pieces += [line[start:start + width] for start in range(0, len(line), width)]
    return pieces


def table_lines(
    findings: list, # of `Finding`
    width: int, # of the terminal, in characters
) -> list: # of str
    """Lay out findings as a table with the columns what, found and verdict.

    The advice of a finding stands below its row, under the second column, and begins with "> "."""
    rows = [Finding("what", "found", "verdict"), *findings]
    what_width, found_width = _column_widths(rows, width)
    indent = " " * what_width + _column_gap
    # The advice takes the width of the last two columns.
    advice_width = found_width + len(_column_gap) + _verdict_width
    lines = []
    for finding in rows:
        lines += _row_lines(finding, what_width, found_width)
        lines += [indent + line for line in advice_lines(finding.advice, advice_width)]
    dashes = "-" * min(width, len(indent) + advice_width)
    lines.insert(1, dashes)  # below the heading, which is always one line high
    return lines


_column_gap = "  "  # between two columns of the table
_verdict_width = len("verdict")  # characters of the last column: no verdict is longer than its heading


def _column_widths(
    rows, # of the table; the `name` of each stands in the first column
    width, # of the terminal, in characters
):
    """Widths in characters of a table's first two columns, what and found.

    The first is as wide as its longest cell, but at most a third of the terminal; the second takes what the
    first, the column of verdicts and the gaps leave."""
    what_width = min(max(len(row.name) for row in rows), width // 3)
    # 6 and 8 are the least widths that can be read. A very narrow terminal gets lines that are too long.
    what_width = max(what_width, 6)
    found_width = max(width - what_width - _verdict_width - 2 * len(_column_gap), 8)
    return what_width, found_width


def _row_lines(
    finding, # its name, found and verdict are the three cells; its advice is left out
    what_width, # characters of the first column
    found_width, # characters of the second
):
    "The lines of text of a table's row: long cells are wrapped, shorter ones are filled up"
    what_lines = wrapped(finding.name, what_width)
    found_lines = wrapped(finding.found, found_width)
    lines = []
    # A verdict is one short word, so it stands on the first line alone.
    for what, found, verdict in zip_longest(what_lines, found_lines, [finding.verdict], fillvalue=""):
        cells = (f"{what:{what_width}}", f"{found:{found_width}}", verdict)
        lines.append(_column_gap.join(cells).rstrip())
    return lines


def advice_lines(
    advice: str, # of a finding: empty, or one line or several
    width: int, # most characters of a line
) -> list: # of str
    """Break advice into lines of a table; "> " stands before the first line of each paragraph."""
    lines = []
    for paragraph in advice.splitlines():
        for number, line in enumerate(wrapped(paragraph, width - 2)):
            lines.append(("> " if number == 0 else "  ") + line)
    return lines


def overall(
    findings: list, # of `Finding`
) -> tuple: # (exit status, the last line)
    """Sum up all findings: exit status 1 and "bad" if one of them is bad, else 0 and "good".

    Good means that the main job (chapter 05) can run; the last line counts the findings that are not good."""
    bad_names = [finding.name for finding in findings if finding.verdict == "bad"]
    if bad_names:
        must_be_good = ", ".join(bad_names)
        return 1, f"Overall: bad. The main job (chapter 05) runs only when these are good: {must_be_good}."
    note_count = sum(finding.verdict != "good" for finding in findings)
    # With --quick, or without the libraries, no training step was tried.
    tried = any(finding.name == "two GRPO steps" and finding.verdict == "good" for finding in findings)
    end = "" if tried else " Its steps were not tried: leave out --quick to try two."
    return 0, f"Overall: good. The main job (chapter 05) can run here; notes: {note_count}.{end}"


def say(
    text: str, # one line or several
    stream, # such as sys.stdout
):
    "Print text; characters that the stream's encoding does not have become question marks, not errors"
    encoding = getattr(stream, "encoding", None) or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def examine(
    quick: bool = False, # leave out the two steps
) -> list: # of `Finding`
    """Run all checks of the doctor, one after the other.

    `guarded` runs one check. If the check raises, a finding with the name and verdict given here takes its
    place: "bad" where the main job (chapter 05) needs what is checked, else "note"."""
    findings = guarded("Python", "bad", check_python)
    # requirements of vlrlbook as texts, such as 'uvicorn>=0.34; extra == "serve"'; empty if not installed
    lines = own_requirements()
    findings += guarded("requirements", "bad", check_requirements, lines)
    findings += guarded("extras", "note", check_extras, lines)
    # errors: {library: error or None}; gpu: what torch says about GPUs, or None
    facts = library_facts()
    findings += guarded("imports", "bad", check_imports, facts)
    findings += _examine_machine(facts)
    findings += guarded("package index", "note", lambda: check_registry(pip_command()))
    findings += guarded("model hub", "note", check_hub)
    findings += guarded("chapters", "note", check_chapters, lines, facts["errors"])
    # the slowest check comes last
    return findings if quick else findings + _examine_training(facts["errors"])


def _examine_machine(
    facts, # its key `gpu`: a dict of what torch says about GPUs, or None
):
    "Findings about the notebook kernel, disks, memory, GPU and programs"
    # `guarded(name, verdict, check)` runs a check; if that raises, the list holds a finding with this name
    # and verdict instead.
    return [
        *guarded("notebook kernel", "bad", check_kernel),
        *guarded("disk for runs", "bad", check_disk_of_runs),
        *guarded("disk for the cache", "bad", check_disk_of_cache),
        *guarded("memory", "note", check_memory),
        # a lambda, so that `guarded` also catches what `driver_facts` raises
        *guarded("GPU", "note", lambda: check_gpu(facts["gpu"], driver_facts())),
        *guarded("FFmpeg", "note", check_ffmpeg),
        *guarded("browser", "note", check_browser)]


def _examine_training(
    errors, # {library: what it raised when it was imported, or None}
):
    "Findings of two real steps of training; only a note that they were not tried if a library has an error"
    if any(errors.values()):
        # The two steps would fail at the same import, and the table would say the same thing twice.
        return [Finding("two GRPO steps", "not tried", "note", "libraries cannot be imported")]
    # On stderr: stdout gets the table alone.
    say("two GRPO steps of the main job ... about a minute", sys.stderr)
    return guarded("two GRPO steps", "bad", check_two_steps)


def main(
    quick: bool = False, # leave out the two steps
) -> int: # exit status: 1 when the main job cannot run here
    "Check this machine, and print a table of findings and a verdict on whether the main job can run here"
    width = shutil.get_terminal_size().columns
    findings = examine(quick)
    status, last = overall(findings)
    last_lines = wrapped(last, max(width, 20))
    say("\n".join([*table_lines(findings, width), "", *last_lines]), sys.stdout)
    return status
