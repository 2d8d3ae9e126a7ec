"""What people install: the wheel in an empty environment with nothing pinned, used from an empty folder.

Started by `make test-install`, and by `make test-newest`, which takes the upper bounds of settings.ini off first.
Neither is part of `make test`: each fetches some gigabytes the first time."""
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import bootstrap
from conftest import ROOT, SEVEN, build_book

MODE = os.environ.get("VLRLBOOK_INSTALL", "")
pytestmark = pytest.mark.skipif(MODE not in ("tested", "newest"), reason="VLRLBOOK_INSTALL is not set: run `make test-install`")

# the libraries whose insides we touch: settings.ini gives each of them an upper bound
BOUNDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "lerobot", "vllm")
UPPER_BOUND = re.compile(rf"\b({'|'.join(BOUNDED)})((?:\[\w+\])?>=[\w.]+),<[\w.]+")
MAIN_JOB = "run 05_grpo out.ipynb -p lr 5e-5 -p max_steps 2 -p warm_steps 5 -p eval_samples 8".split()


def without_bounds(settings):
    "settings.ini without the upper bounds of the libraries whose insides we touch"
    return UPPER_BOUND.sub(r"\1\2", settings)


@dataclass
class Environment:
    "An environment with the wheel in it, and nothing of the checkout"
    folder: Path # holds the environment, and a cache and a home of its own
    wheel: Path

    @property
    def programs(self): return self.folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def uv(self, *words):
        "Run uv; its own message on failure"
        done = subprocess.run([bootstrap.find_uv(), *words], capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def make(self, *extras):
        "Create the environment and install the wheel with `extras`; nothing else decides a version"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.programs.exists(): self.uv("venv", "-q", "-p", sys.executable, "venv")
        asked = f"{self.wheel}[{','.join(extras)}]" if extras else str(self.wheel)
        self.uv("pip", "install", "-q", "-p", str(self.programs / "python"), asked)
        return self

    def versions(self):
        "{package: version} of what was resolved"
        listed = json.loads(self.uv("pip", "list", "-q", "--format", "json", "-p", str(self.programs / "python")))
        return {package["name"]: package["version"] for package in listed}

    def environ(self):
        "A stranger's environment: no PYTHONPATH, an empty home, an empty cache"
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VLRLBOOK", "PYTEST", "OMP_"))}
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        own = dict(PATH=path, HOME=str(home), VLRLBOOK_CACHE=str(self.folder / "cache"), HF_HUB_OFFLINE="1")
        return {**kept, **own}

    def call(self, cwd, *words):
        "A program of the environment, in `cwd`; stdout and stderr of a run that ended well"
        done = subprocess.run([str(self.programs / words[0]), *words[1:]], cwd=cwd, env=self.environ(), capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-6000:]
        return said


def explained(environment, run):
    """What `run()` returns. Where it fails with releases beyond the bounds, each of them is put back in turn:
    the library whose tested release mends it is the one that broke it"""
    try: return run()
    except AssertionError as failure:
        if MODE != "newest": raise
        found, bounds = environment.versions(), upper_bounds()
        newer = [name for name in bounds if name in found and is_newer(found[name], bounds[name])]
        for name in newer:
            environment.uv("pip", "install", "-q", "-p", str(environment.programs / "python"), f"{name}<{bounds[name]}")
            try: run()
            except AssertionError: continue
            finally: environment.make()
            pytest.fail(f"{name} {found[name]} broke it: with {name}<{bounds[name]} it runs\n{failure}")
        pytest.fail(f"not one of {newer or 'the bounded libraries, none of which is newer'} alone\n{failure}")


def upper_bounds():
    "{library: first release that was not tested}, from settings.ini"
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    return {found[1]: found[0].rpartition("<")[2] for found in UPPER_BOUND.finditer(text)}


def is_newer(version, bound):
    "Whether `version` lies at or beyond `bound`"
    from packaging.version import Version
    return Version(version) >= Version(bound)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel; without upper bounds where the newest releases are asked for"
    return build_book(tmp_path_factory.mktemp("built"), without_bounds if MODE == "newest" else None)[0]


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
    "`pip install vlrlbook`, then the service's extra"
    made = Environment(tmp_path_factory.mktemp("plain"), wheel).make()
    report("plain", made)
    return made


@pytest.fixture(scope="module")
def robots(wheel, tmp_path_factory):
    "`pip install 'vlrlbook[aloha]'`; LeRobot holds torch back, so it is an environment of its own"
    made = Environment(tmp_path_factory.mktemp("robots"), wheel).make("aloha")
    report("aloha", made)
    return made


def report(name, environment):
    "Print what was resolved: pytest shows it with -s, and `make test-install` gives that"
    found, bounds = environment.versions(), upper_bounds()
    shown = [f"{library} {found[library]}" for library in BOUNDED if library in found]
    newer = [library for library in bounds if library in found and is_newer(found[library], bounds[library])]
    print(f"\n{name}: {', '.join(shown)}; beyond the bounds: {', '.join(newer) or 'none'}", flush=True)


def test_bounds_are_there_and_come_off():
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    assert set(upper_bounds()) == set(BOUNDED)
    bare = without_bounds(text)
    assert not UPPER_BOUND.search(bare) and "transformers>=" in bare and "lerobot[dataset]>=0.6;" in bare
    assert len(bare.splitlines()) == len(text.splitlines())


def test_the_main_job(plain, tmp_path):
    "The README's command, with a prompt that is shared to the end and a terminal that holds no warning"
    said = explained(plain, lambda: plain.call(tmp_path, "vlrlbook", *MAIN_JOB))
    run = tmp_path / "runs" / "05_grpo"
    results = json.loads((run / "results.json").read_text())
    assert results["shared_prompt"] == "on" and results["versions"]["transformers"] == plain.versions()["transformers"]
    assert SEVEN <= {p.name for p in run.iterdir()} and results["after"]["greedy"]["n"] == 8
    assert not re.search(r"warn|deprecat|encryption", said, re.I), said
    errors = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", ())
              if o["output_type"] == "error"]
    assert not errors


def test_one_step_of_a_reward_model(plain, tmp_path):
    "Chapter 03 as a command: pairs share their question"
    words = ["reward-model", "--num_epochs", "1", "--drawn_rows", "16", "--batch_size", "16", "--eval_rows", "16"]
    said = explained(plain, lambda: plain.call(tmp_path, "vlrlbook", *words))
    assert "shared prompt:" not in said
    assert list(tmp_path.glob("runs/**/head.safetensors")), said


def test_a_job_of_the_service(plain, tmp_path):
    "Upload, train two steps, download: with the extra alone"
    plain.make("serve")
    explained(plain, lambda: train_by_service(plain, tmp_path))


def train_by_service(environment, folder):
    "A job of two steps through the addresses that the page uses"
    draw = ("from vlrlbook.data import synthetic_counting, write_counting_zip; "
            "write_counting_zip(synthetic_counting(40, seed=3), 'discs.zip')")
    environment.call(folder, "python", "-c", draw)
    serve = [str(environment.programs / "vlrlbook"), "serve", "--port", "0", "--data-dir", "data", "--no-token"]
    log = open(folder / "serve.log", "ab")
    server = subprocess.Popen(serve, cwd=folder, env=environment.environ() | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
                              stderr=log, text=True)
    try:
        url = re.search(r"http://\S+:\d+", server.stdout.readline() or "no server")[0].replace("localhost", "127.0.0.1")
        file_id = upload(url, (folder / "discs.zip").read_bytes())
        config = dict(max_steps=2, warm_steps=5, eval_samples=8, batch_size=16)
        job_id = ask(f"{url}/train", dict(job_name="fresh", data_file_id=file_id, training_config=config, lora_config={}))["job_id"]
        end = time.monotonic() + 900
        while (job := ask(f"{url}/jobs/{job_id}"))["status"] not in ("completed", "failed", "cancelled"):
            assert time.monotonic() < end, job
            time.sleep(1)
        assert job["status"] == "completed", job
        assert ask(f"{url}/jobs/{job_id}/download", raw=True)[:2] == b"PK"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def ask(url, body=None, raw=False):
    "The reply of an address: JSON, or the bytes"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=60) as reply: content = reply.read()
    return content if raw else json.loads(content)


def upload(url, content):
    "Send a ZIP as a form does; the file's id"
    mark = "vlrlbook-fresh-install"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="discs.zip"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    request = urllib.request.Request(f"{url}/upload-data", body, {"Content-Type": f"multipart/form-data; boundary={mark}"})
    with urllib.request.urlopen(request, timeout=60) as reply: return json.loads(reply.read())["file_id"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="LeRobot needs Python 3.12 or newer")
def test_one_step_of_the_robots_chapter(robots, tmp_path):
    "Chapter 04 as a command, on drawn films"
    words = ["aloha", "--repo_id", "local/synthetic_aloha", "--max_steps", "1", "--episodes", "9", "--frames", "4"]
    explained(robots, lambda: robots.call(tmp_path, "vlrlbook", *words))
    assert json.loads((tmp_path / "runs" / "04_aloha" / "results.json").read_text())["versions"]["vlrlbook"]
