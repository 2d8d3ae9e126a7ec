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

from vlrlbook.chapters import notebooks_dir
from vlrlbook.versions import extra_of, installed_version, judge_version, own_requirements, requirements_of
from vlrlbook.versions import without_marker

__all__ = ["Finding", "check_python", "check_requirements", "check_extras", "main"]

# Most memory that a run of chapter 05 with its preset took on a CPU (nbs/logs/chapters.csv and 05_runs.csv).
main_job_mb = 1800

# One name of each library that the main job uses. transformers and trl load their parts when they are asked
# for, so `import trl` alone succeeds in many a broken environment.
used_names = {"torch": "tensor", "transformers": "Trainer", "trl": "GRPOTrainer", "peft": "LoraConfig"}

# Extras for those who work on the book itself, and the sum of the others: nothing that a reader misses.
extras_not_shown = ("dev", "docs", "all")

# Chapters whose page calls functions that import the packages of an extra when they are called. What a page
# imports at its top is read from the page.
extra_of_chapter = {"08_service": "serve"}

# The main job, small: the same batch of 64 answers and the same model, but hardly any warm start.
step_settings = dict(max_steps=2, warm_steps=5, eval_samples=8, logging_steps=1, save_steps=0)


@dataclass
class Finding:
    "One line of the table"
    name: str # what was looked at
    found: str # what is there
    verdict: str # good; note: no harm to the main job; missing: a chapter will not run; bad: nor the main job
    advice: str = "" # why it is not good, and what to do


def one_line(
    error: BaseException, # anything that was raised
) -> str: # at most 300 characters
    "Type and message of an exception on one line"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def guarded(
    name: str, # of the line, if the check itself fails
    verdict: str, # then: bad where the main job needs what is checked, else note
    check, # function that returns a `Finding` or a list of them
    *args, # of the function
) -> list: # of `Finding`
    "The findings of a check; a check that raises becomes one line that names the exception"
    try:
        found = check(*args)
    except ModuleNotFoundError as error:
        return [Finding(name, one_line(error), verdict, f"pip install {error.name}, then ask again")]
    except Exception as error:
        return [Finding(name, one_line(error), verdict, "this could not be looked at")]
    return found if isinstance(found, list) else [found]


def call(
    command: list, # program and arguments
    seconds: float, # limit
    more_env: dict = None, # environment variables beside those of this process
) -> tuple: # (exit status or None when the time was up, what it printed, what it printed on stderr)
    "Run a program that may hang, crash or print anything"
    # The child writes UTF-8, whatever this terminal is set to.
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", **(more_env or {})}
    options: dict = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        done = subprocess.run(command, timeout=seconds, **options)
        status, printed, complained = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        # What was printed up to then still tells how far it came.
        status, printed, complained = None, late.stdout or b"", late.stderr or b""
    except OSError as error:
        # The program is not there, or this machine starts no more processes.
        status, printed, complained = 127, b"", one_line(error).encode()
    return status, printed.decode("utf-8", "replace"), complained.decode("utf-8", "replace")


def call_python(
    code: str, # Python code
    seconds: float, # limit
) -> tuple: # see `call`
    "Run code in a process of its own, whose temporary files go away with it"
    try:
        with tempfile.TemporaryDirectory(prefix="vlrlbook-doctor-", ignore_cleanup_errors=True) as folder:
            return call([sys.executable, "-c", code], seconds, {"TMPDIR": folder})
    except OSError as error:
        # There is no folder for temporary files.
        return 1, "", one_line(error)


def last_line(
    text: str, # what a program printed
) -> str: # empty if there is none
    "The last line that holds anything"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# Python and packages

def check_python(
    version: tuple = None, # (3, 12, 1), say; None: the Python that runs this
) -> Finding:
    "Python against the releases that the book was written for"
    version = tuple(version or sys.version_info[:3])
    found = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("Python", found, "bad", "older than is needed (3.11)")
    if version < (3, 12):
        return Finding("Python", found, "note", "chapter 04 will not run: LeRobot needs Python 3.12")
    if version >= (3, 14):
        return Finding("Python", found, "note", "newer than was tested (3.13)")
    return Finding("Python", found, "good")


def check_requirement(
    requirement, # a `packaging.requirements.Requirement`
    version_of=installed_version, # name → version or None
) -> Finding:
    "One package that every installation needs"
    version = version_of(requirement.name)
    if version is None:
        advice = f"pip install '{without_marker(requirement)}'"
        return Finding(requirement.name, "not installed", "bad", advice)
    verdict, advice = judge_version(requirement, version)
    return Finding(requirement.name, version, verdict, advice)


def check_requirements(
    lines: list, # as `importlib.metadata.requires` returns them
    version_of=installed_version, # name → version or None
) -> list: # of `Finding`
    "Every package that the book cannot do without, one finding each"
    if not lines:
        # A checkout on the PYTHONPATH works without metadata, so this alone stops nobody.
        advice = "vlrlbook itself is not installed: pip install -e ."
        return [Finding("requirements", "not known", "note", advice)]
    findings = []
    for requirement in requirements_of(lines):
        # Each alone: one version that cannot be read must not hide the others.
        findings += guarded(requirement.name, "bad", check_requirement, requirement, version_of)
    return findings


def extras_in(
    lines: list, # as `importlib.metadata.requires` returns them
) -> list: # names, in the order of the lines
    "The extras that a reader may want"
    names = re.findall(r"""extra\s*==\s*["']([\w-]+)""", "\n".join(lines))
    return [name for name in dict.fromkeys(names) if name not in extras_not_shown]


def absent_packages(
    lines: list, # as `importlib.metadata.requires` returns them
    extra: str, # its name
    version_of=installed_version, # name → version or None
) -> list: # names
    "Packages of an extra that are not installed"
    return [r.name for r in requirements_of(lines, extra) if version_of(r.name) is None]


def check_extra(
    lines: list, # as `importlib.metadata.requires` returns them
    extra: str, # its name
    version_of=installed_version, # name → version or None
) -> Finding:
    "The packages of one extra, as one finding; none of them stops the main job"
    name, wanted = f"extra {extra}", requirements_of(lines, extra)
    if not wanted:
        return Finding(name, "not for this system", "note", "there are no packages for it here")
    absent = absent_packages(lines, extra, version_of)
    command = f"pip install 'vlrlbook[{extra}]'"
    if len(absent) == len(wanted):
        return Finding(name, "not installed", "note", command)
    if absent:
        return Finding(name, f"without {', '.join(absent)}", "note", command)
    versions = {r.name: version_of(r.name) for r in wanted}
    judged = {r.name: judge_version(r, versions[r.name]) for r in wanted}
    advice = [f"{package}: {text}" for package, (_, text) in judged.items() if text]
    found = ", ".join(f"{package} {version}" for package, version in versions.items())
    return Finding(name, found, "note" if advice else "good", "; ".join(advice))


def check_extras(
    lines: list, # as `importlib.metadata.requires` returns them
    version_of=installed_version, # name → version or None
) -> list: # of `Finding`
    "Every extra that a reader may want, one finding each"
    # Where this is not installed, one line says so, and not one for each extra.
    importlib.import_module("packaging")
    findings = []
    for extra in extras_in(lines):
        findings += guarded(f"extra {extra}", "note", check_extra, lines, extra, version_of)
    return findings


# What imports torch: a process of its own, which may crash

def import_libraries():
    "Import the main job's libraries and print a line of JSON for each; run in a process of its own"
    for library, name in used_names.items():
        error = None
        try:
            getattr(importlib.import_module(library), name)
        except Exception as caught:
            error = one_line(caught)
        # At once: if the next import ends the process, this line is there.
        print(json.dumps(dict(library=library, error=error)), flush=True)
        if library == "torch" and error is None:
            # A GPU that fails must not keep the other libraries from being tried.
            try:
                facts = gpu_facts()
            except Exception as caught:
                facts = dict(error=one_line(caught))
            print(json.dumps(dict(gpu=facts)), flush=True)


def gpu_facts() -> dict: # build, cuda, available, devices, warnings
    "What torch says about GPUs"
    import warnings
    import torch
    # torch tells in a warning why a GPU that is there cannot be used.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        count = torch.cuda.device_count() if available else 0
    devices = []
    for number in range(count):
        properties = torch.cuda.get_device_properties(number)
        devices.append(dict(name=properties.name, gb=properties.total_memory / 2**30))
    return dict(build=torch.__version__, cuda=torch.version.cuda or torch.version.hip, available=available,
                devices=devices, warnings=[" ".join(str(w.message).split()) for w in caught])


def library_facts(
    seconds: float = 300, # limit; a network disk can take minutes over a first import
) -> dict: # errors: {library: its error or None}; gpu: see `check_gpu`
    "Which libraries import, and what torch says about GPUs"
    code = "from vlrlbook.doctor import import_libraries; import_libraries()"
    status, printed, complained = call_python(code, seconds)
    errors, gpu = {}, None
    for line in printed.splitlines():
        # Libraries print lines of their own.
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "library" in said:
            errors[said["library"]] = said["error"]
        elif isinstance(said, dict):
            gpu = said.get("gpu", gpu)
    ending = "the time was up" if status is None else f"Python ended with status {status}"
    for library in used_names:
        # No line: the process ended before or while it was imported.
        errors.setdefault(library, f"{ending}: {last_line(complained)}"[:300])
    return dict(errors=errors, gpu=gpu)


def check_imports(
    facts: dict, # from `library_facts`
) -> list: # of `Finding`
    "Whether the libraries of the main job import, one finding each"
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
    "What the NVIDIA driver says about the first GPU, asked without torch"
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = "--query-gpu=name,memory.total,driver_version"
    status, printed, complained = call([program, query, "--format=csv,noheader"], 20)
    if status != 0:
        return f"nvidia-smi fails: {last_line(printed) or last_line(complained)}"
    return printed.strip().splitlines()[0] if printed.strip() else "nvidia-smi lists no GPU"


def check_gpu(
    facts: dict | None, # from `gpu_facts`, or its error; None where torch does not import
    driver: str, # from `driver_facts`
) -> Finding:
    "The GPU that torch can use; if there is one that it cannot use, why"
    if facts is None:
        return Finding("GPU", driver or "not known", "note", "torch does not import, so it was not asked")
    if "error" in facts:
        advice = f"torch fails when it is asked: {facts['error']}"
        return Finding("GPU", driver or "not known", "note", advice)
    if facts["available"]:
        names = [f"{d['name']} ({d['gb']:.0f} GB)" for d in facts["devices"]]
        found = f"{', '.join(names)}; torch {facts['build']} for CUDA {facts['cuda']}"
        return Finding("GPU", f"{found}; driver: {driver.split(', ')[-1]}" if driver else found, "good")
    if not driver:
        return Finding("GPU", "none", "note", "size=tiny runs on the CPU; size=gpu needs an NVIDIA GPU")
    if facts["cuda"] is None:
        why = f"torch {facts['build']} is a build for the CPU only: install a build for CUDA"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        why = "CUDA_VISIBLE_DEVICES hides every GPU"
    elif facts["warnings"]:
        # Such as "The NVIDIA driver on your system is too old (found version 11040)".
        why = f"torch {facts['build']} for CUDA {facts['cuda']} says: {facts['warnings'][0]}"
    else:
        why = f"torch {facts['build']} for CUDA {facts['cuda']} finds no GPU: is the driver too old for it?"
    return Finding("GPU", driver, "note", f"not usable from torch. {why}")


# The machine

def folder_above(
    path: Path, # need not exist
) -> Path: # exists
    "`path` if it exists, else the nearest folder above it that does"
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_disk(
    name: str, # of the line
    folder: Path, # need not exist
    usage=shutil.disk_usage, # folder → total, used and free bytes
) -> Finding:
    "Free space where `folder` is or will be, and whether this user may write there"
    existing = folder_above(Path(folder))
    free = usage(existing).free / 2**30
    found = f"{free:.1f} GB free in {folder}"
    # A file without a name is the only sure test: permission bits do not know of a read-only file system.
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return Finding(name, found, "bad", f"nothing can be written there ({one_line(error)})")
    if free < 1:
        return Finding(name, found, "bad", "less than 1 GB: a run can fill it up")
    if free < 10:
        return Finding(name, found, "note", "less than 10 GB: enough for size=tiny; a 3B model takes 7.5 GB")
    return Finding(name, found, "good")


def check_disk_of_runs() -> Finding:
    "The disk of this folder, where runs go unless output_dir says otherwise"
    return check_disk("disk for runs", Path.cwd())


def check_disk_of_cache() -> Finding:
    "The disk of the cache, where warm starts and unpacked data are kept"
    from vlrlbook.core import cache_dir
    started = time.time()
    folder = cache_dir()
    finding = check_disk("disk for the cache", folder)
    # `cache_dir` makes the folder. If that was just now, and nobody has used it since, it goes again.
    if folder.stat().st_ctime >= started - 1 and not any(folder.iterdir()):
        folder.rmdir()
    return finding


def number_in(
    path: Path, # a file of the kernel
    label: str = "", # the word before the number; empty: the file holds the number alone
) -> int | None: # None if there is no such file or no number ("max")
    "A number that the kernel tells in a file"
    try:
        text = path.read_text()
    except OSError:
        return None
    found = re.search(rf"^{re.escape(label)}:?\s*(\d+)\b", text, re.M)
    return int(found[1]) if found else None


# Names of limit and usage, and of the part of the usage that the kernel gives back when it is needed: in the
# second version of control groups, and in the first.
group_files = {2: ("memory.max", "memory.current", "inactive_file"),
               1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}


def left_in_group(
    folder: Path, # of a control group
    version: int, # of control groups: 1 or 2
) -> float | None: # bytes; None without a limit
    "What a container or a batch system still lets this process take"
    limit_name, usage_name, inactive = group_files[version]
    limit, used = number_in(folder / limit_name), number_in(folder / usage_name)
    if limit is None or used is None:
        return None
    return limit - used + (number_in(folder / "memory.stat", inactive) or 0)


def control_groups(
    root: Path, # "/" outside tests
) -> list: # of (folder, version)
    "The control groups that count this process's memory, and all groups above them"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        # "0::/path" is the second version, "4:memory:/path" the first.
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, version = root / "sys/fs/cgroup", 2
        elif "memory" in controllers.split(","):
            top, version = root / "sys/fs/cgroup/memory", 1
        else:
            continue
        # In a container the path may be the host's. Then only the top exists, and it is the container's own.
        inner = Path(path.lstrip("/"))
        groups += [(top / folder, version) for folder in (inner, *inner.parents)]
    return groups


def available_memory(
    root: Path = Path("/"), # where proc and sys are
) -> tuple: # (bytes, "free" or "in all", whether a control group is what limits)
    "Memory that a new process can take"
    free = number_in(root / "proc/meminfo", "MemAvailable")
    if free is None:
        # No Linux: only the size of the memory is known, not how much of it is free.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "in all", False
    free *= 1024
    left = [left_in_group(folder, version) for folder, version in control_groups(root)]
    least = min((amount for amount in left if amount is not None), default=free)
    return min(free, least), "free", least < free


def core_count() -> int:
    "Cores that this process may use"
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory(
    root: Path = Path("/"), # where proc and sys are
) -> Finding:
    "Memory and cores, beside what the main job took when it was measured"
    amount, what, limited = available_memory(root)
    cores = core_count()
    group = ", limited by a container or a batch system" if limited else ""
    found = f"{amount / 2**30:.1f} GB {what}{group}; {cores} core{'s' if cores > 1 else ''}"
    needed = f"the main job took {main_job_mb / 1000:.1f} GB with size=tiny"
    if amount < main_job_mb * 2**20:
        return Finding("memory", found, "bad", f"{needed}: end other programs, or raise the limit")
    if amount < 2 * main_job_mb * 2**20:
        return Finding("memory", found, "note", f"{needed}: do not run two at once")
    return Finding("memory", found, "good")


def check_ffmpeg() -> Finding:
    "The program that films are read with"
    found = shutil.which("ffmpeg")
    if found:
        return Finding("FFmpeg", found, "good")
    return Finding("FFmpeg", "not found", "note", "only needed for LeRobot's video mode (chapter 04)")


def check_browser() -> Finding:
    "A browser in which tests can open the service's page"
    found = [name for name in ("chromium", "google-chrome", "firefox") if shutil.which(name)]
    if found:
        return Finding("browser", ", ".join(found), "good")
    return Finding("browser", "not found", "note", "only needed to test the page of the training service")


def check_kernel() -> Finding:
    "The notebook kernel that papermill starts: whether it is there, and belongs to this Python"
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from jupyter_core.paths import jupyter_path
    # Without folders of its own, the manager asks IPython for one more, and IPython makes that folder.
    kernels = KernelSpecManager(kernel_dirs=jupyter_path("kernels"))
    # "python3" is what every chapter's metadata asks for.
    try:
        program = kernels.get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding("notebook kernel", "no python3", "bad", "pip install --force-reinstall ipykernel")
    # jupyter_client replaces a bare name by the Python that runs it.
    folder = Path(program).parent
    if program == Path(program).name or folder.samefile(Path(sys.executable).parent):
        return Finding("notebook kernel", "python3", "good")
    advice = "chapters run in that environment: python -m ipykernel install --sys-prefix"
    return Finding("notebook kernel", f"python3 is {program}", "note", advice)


# The network: notes only, since everything runs offline

def pip_command() -> list | None: # None without pip
    "How to start pip: the environment's own, or the one on the PATH, which reads the same configuration"
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip")
    return [found] if found else None


def check_registry(
    command: list | None, # from `pip_command`
) -> Finding:
    "Whether pip reaches the package index it is configured for; pip itself is asked, with its own settings"
    name, advice = "package index", "nothing can be installed from here; what is installed runs all the same"
    if command is None:
        return Finding(name, "not asked", "note", "there is no pip here to ask")
    # `pip index` lists versions and installs nothing. One try: pip's own five take minutes without a network.
    asked = ["index", "versions", "packaging", "--timeout", "5", "--retries", "0", "--no-input"]
    status, _, complained = call([*command, *asked, "--disable-pip-version-check"], 30)
    if status == 0:
        return Finding(name, "reachable", "good")
    reason = "no answer in 30 seconds" if status is None else last_line(complained)
    return Finding(name, "not reachable", "note", f"pip says: {reason}; {advice}"[:300])


def ask_hub():
    "Print one line about the hub: offline, reachable, or the error; run in a process of its own"
    from huggingface_hub import HfApi, constants
    if constants.HF_HUB_OFFLINE:
        print("offline")
        return
    # The model of size=gpu: if the hub hands out this one, that preset can begin.
    try:
        HfApi().model_info("Qwen/Qwen2.5-VL-3B-Instruct", timeout=5)
        print("reachable")
    except Exception as error:
        print(one_line(error))


def check_hub() -> Finding:
    "Whether models can be fetched from the hub"
    # In a process of its own, since a name server that does not answer has a time limit of its own.
    code = "from vlrlbook.doctor import ask_hub; ask_hub()"
    status, printed, complained = call_python(code, 30)
    answer = last_line(printed)
    if answer == "reachable":
        return Finding("model hub", "reachable", "good")
    if answer == "offline":
        return Finding("model hub", "not asked", "note", "HF_HUB_OFFLINE is set; size=tiny needs no hub")
    reason = "no answer in 30 seconds" if status is None else answer or last_line(complained)
    return Finding("model hub", "not reachable", "note", f"{reason[:200]}; size=tiny needs no hub")


# Chapters

def imported_names(
    source: str, # Python code
    package: str = "", # that relative imports start from
) -> set: # dotted names; of `from a import b` both a and a.b, since b may be a module
    "What code needs to run: imports at its top, and the main job's libraries wherever they are imported"
    tree, names = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        # An import inside a function may be one that a page never calls: Ray, or a robot's films.
        names.update(name for name in found if node in tree.body or name.partition(".")[0] in used_names)
    return names


def code_of_chapter(
    path: Path, # a notebook
) -> str: # Python code
    "All code cells of a chapter, without lines for IPython alone"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(line for line in text.splitlines() if not line.startswith(("%", "!")))


@cache # several chapters import the same modules
def imports_of_module(
    name: str, # such as "vlrlbook.grpo"
) -> set: # dotted names; empty if there is no such module
    "What a module of this package imports, read from its file: importing it would take seconds"
    path = Path(__file__).resolve().parent.joinpath(*name.split(".")[1:])
    for file, package in ((path / "__init__.py", name), (path.with_suffix(".py"), name.rpartition(".")[0])):
        if file.is_file():
            return imported_names(file.read_text(encoding="utf-8"), package)
    return set()


def needed_packages(
    chapter: Path, # a notebook
) -> set: # names as they are imported, such as "PIL"
    "Packages that a chapter imports, itself or through the modules of this package"
    seen, waiting = set(), imported_names(code_of_chapter(chapter))
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name.partition(".")[0] == "vlrlbook":
            waiting |= imports_of_module(name) - seen
    return {name.partition(".")[0] for name in seen} - {"vlrlbook"}


def why_not(
    chapter: Path, # a notebook
    lines: list, # as `importlib.metadata.requires` returns them
    errors: dict, # {library: what it raised when it was imported, or None}
) -> tuple: # (reason, advice); both empty if the chapter will run
    "What keeps a chapter from running here"
    needed = sorted(needed_packages(chapter))
    broken = [name for name in needed if errors.get(name)]
    if broken:
        return f"{', '.join(broken)} cannot be imported", "see the lines above"
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    extra = extra_of_chapter.get(chapter.stem)
    if absent:
        extra = extra_of(absent[0]) if lines else None
    elif extra and lines:
        absent = absent_packages(lines, extra)
    if not absent:
        return "", ""
    reason = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
    if extra is None:
        # Every installation brings it, under a name that may differ: PIL comes with pillow.
        return reason, "pip install vlrlbook" if lines else "pip install -e ."
    # LeRobot, say, is not made for Python 3.11: then pip would install nothing.
    if not requirements_of(lines, extra):
        return reason, "not made for this Python or this system"
    return reason, f"pip install 'vlrlbook[{extra}]'"


def check_chapters(
    lines: list, # as `importlib.metadata.requires` returns them
    errors: dict, # {library: what it raised when it was imported, or None}
) -> list: # of `Finding`: one for all chapters that will run, then one for each that will not
    "Which chapters will run here"
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
    output_dir: str, # new folder
):
    "Two GRPO steps by the main job's own code; run in a process of its own"
    from vlrlbook.core import read_settings
    from vlrlbook.grpo import GRPOSettings, run
    # What the two steps are worth is nobody's question here: nothing is measured around them.
    run(read_settings(GRPOSettings, step_settings | dict(output_dir=output_dir)), measure=False)


def logged_losses(
    path: Path, # a run_log.csv
) -> list: # of floats; empty without a file
    "The loss of each logged step"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]


def how_it_ended(
    status: int | None, # exit status; None when the time was up
    seconds: float, # that it had
) -> str: # begins with a verb
    "The end of a process in words"
    if status is None:
        return f"did not finish in {seconds / 60:.0f} minutes"
    if status < 0:
        # 9 is what the kernel sends when there is no memory left.
        return f"was ended by signal {-status}" + (": was there enough memory?" if status == -9 else "")
    return f"ended with status {status}"


def judge_steps(
    status: int | None, # exit status of the process; None when the time was up
    output: str, # what it printed
    losses: list, # from `logged_losses`
    took: float, # seconds
    limit: float, # seconds that it had
) -> list: # of `Finding`
    "What two steps have shown"
    name, findings = "two GRPO steps", []
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status != 0:
        # The end of a traceback and the lines before it: most people will paste just that.
        found = f"the run {how_it_ended(status, limit)}"
        findings.append(Finding(name, found, "bad", "\n".join(lines[-12:])))
    elif len(losses) != step_settings["max_steps"] or not all(map(math.isfinite, losses)):
        findings.append(Finding(name, f"losses: {losses}", "bad", "two finite numbers were expected"))
    else:
        shown = " and ".join(f"{loss:.4f}" for loss in losses)
        findings.append(Finding(name, f"losses {shown}, finite; {took:.0f} s with imports and start", "good"))
    # The run says so itself when it reads each prompt once an answer, and not once a group.
    plain = [line for line in lines if line.startswith("shared prompt:")]
    advice = "the run is slower; its numbers stay right"
    findings += [Finding("shared prompt", line, "note", advice) for line in plain]
    return findings


def check_two_steps(
    limit: float = 600, # seconds
) -> list: # of `Finding`
    "Run two steps of the main job in a folder that goes away, cache and temporary files with it"
    code = "import sys; from vlrlbook.doctor import run_two_steps; run_two_steps(sys.argv[1])"
    with tempfile.TemporaryDirectory(prefix="vlrlbook-doctor-", ignore_cleanup_errors=True) as folder:
        # Absolute, since the process stays in this folder, where a checkout that is not installed is found.
        output_dir = Path(folder).resolve() / "run"
        env = {"HF_HUB_OFFLINE": "1", "VLRLBOOK_CACHE": folder, "TMPDIR": folder}
        started = time.monotonic()
        status, printed, complained = call([sys.executable, "-c", code, str(output_dir)], limit, env)
        took = time.monotonic() - started
        losses = logged_losses(output_dir / "run_log.csv")
    return judge_steps(status, f"{printed}\n{complained}", losses, took, limit)


# The table

def printable(
    text: str, # anything
) -> str: # no line breaks, no colours, no bells
    "`text` with a space in place of each character that moves a terminal's cursor"
    return "".join(c if c.isprintable() else " " for c in text)


def wrapped(
    text: str, # anything
    width: int, # most characters of a line
) -> list: # of str
    "Lines of `text`, broken between words; inside a word only where it is longer than a line"
    pieces = []
    for line in wrap(printable(text), width, break_long_words=False, break_on_hyphens=False):
        pieces += [line[start:start + width] for start in range(0, len(line), width)]
    return pieces


def table_lines(
    findings: list, # of `Finding`
    width: int, # of the terminal
) -> list: # of str
    "The table: what, found, verdict; advice stands under what was found"
    gap, verdict_width = "  ", len("verdict")
    rows = [Finding("what", "found", "verdict"), *findings]
    what_width = min(max(len(f.name) for f in rows), width // 3)
    # A terminal of a few columns gets lines that are too long for it, never an error.
    what_width = max(what_width, 6)
    found_width = max(width - what_width - verdict_width - 2 * len(gap), 8)
    advice_width = found_width + len(gap) + verdict_width
    lines = []
    for finding in rows:
        whats = wrapped(finding.name, what_width)
        founds = wrapped(finding.found, found_width)
        for what, found, verdict in zip_longest(whats, founds, [finding.verdict], fillvalue=""):
            lines.append(f"{what:{what_width}}{gap}{found:{found_width}}{gap}{verdict}".rstrip())
        for part in finding.advice.splitlines():
            for number, line in enumerate(wrapped(part, advice_width - 2)):
                lines.append(" " * what_width + gap + ("  " if number else "> ") + line)
    # A rule under the heading, which is always one line.
    lines.insert(1, "-" * min(width, what_width + found_width + verdict_width + 2 * len(gap)))
    return lines


def overall(
    findings: list, # of `Finding`
) -> tuple: # (exit status, the last line)
    "The verdict over all checks: bad if one of them is, else good"
    bad = [f.name for f in findings if f.verdict == "bad"]
    if bad:
        return 1, f"Overall: bad. The main job (chapter 05) runs only when these are good: {', '.join(bad)}."
    others = sum(f.verdict != "good" for f in findings)
    tried = any(f.name == "two GRPO steps" and f.verdict == "good" for f in findings)
    end = "" if tried else " Its steps were not tried: leave out --quick to try two."
    return 0, f"Overall: good. The main job (chapter 05) can run here; notes: {others}.{end}"


def say(
    text: str, # lines
    stream, # such as sys.stdout
):
    "Print on a terminal of any encoding: what it cannot show becomes a question mark"
    encoding = getattr(stream, "encoding", None) or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def examine(
    quick: bool = False, # leave out the two steps
) -> list: # of `Finding`
    "All checks, one after the other"
    findings = guarded("Python", "bad", check_python)
    lines = own_requirements()
    findings += guarded("requirements", "bad", check_requirements, lines)
    findings += guarded("extras", "note", check_extras, lines)
    facts = library_facts()
    findings += guarded("imports", "bad", check_imports, facts)
    findings += guarded("notebook kernel", "bad", check_kernel)
    findings += guarded("disk for runs", "bad", check_disk_of_runs)
    findings += guarded("disk for the cache", "bad", check_disk_of_cache)
    findings += guarded("memory", "note", check_memory)
    findings += guarded("GPU", "note", lambda: check_gpu(facts["gpu"], driver_facts()))
    findings += guarded("FFmpeg", "note", check_ffmpeg)
    findings += guarded("browser", "note", check_browser)
    findings += guarded("package index", "note", lambda: check_registry(pip_command()))
    findings += guarded("model hub", "note", check_hub)
    findings += guarded("chapters", "note", check_chapters, lines, facts["errors"])
    if quick:
        return findings
    if any(facts["errors"].values()):
        # They would fail at the same import, and the table would say the same thing twice.
        return [*findings, Finding("two GRPO steps", "not tried", "note", "libraries cannot be imported")]
    say("two GRPO steps of the main job ... about a minute", sys.stderr)
    return findings + guarded("two GRPO steps", "bad", check_two_steps)


def main(
    quick: bool = False, # leave out the two steps
) -> int: # exit status: 1 when the main job cannot run here
    "Print the table and the verdict"
    width = shutil.get_terminal_size().columns
    findings = examine(quick)
    status, last = overall(findings)
    say("\n".join([*table_lines(findings, width), "", *wrapped(last, max(width, 20))]), sys.stdout)
    return status
