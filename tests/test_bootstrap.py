"""Setting up: which Python is taken, and what is said when it cannot be."""
import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("book_bootstrap", ROOT / "tools" / "bootstrap.py")
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def python_that_says(folder, name, *numbers):
    "A program that answers as a Python of that version would"
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {' '.join(map(str, numbers))}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("numbers", [(3, 11), (3, 12), (3, 13)])
def test_the_python_that_was_asked_for_is_taken(tmp_path, monkeypatch, numbers):
    asked = python_that_says(tmp_path, "mine", *numbers)
    monkeypatch.setenv("VLRLBOOK_PYTHON", asked)
    assert bootstrap.choose_python("no uv is needed") == asked


@pytest.mark.parametrize("numbers, said", [((3, 10), "Python 3.10, expected 3.11 to 3.13"), ((3, 14), "Python 3.14, expected")])
def test_a_python_that_cannot_be_used_is_refused(tmp_path, monkeypatch, numbers, said):
    monkeypatch.setenv("VLRLBOOK_PYTHON", python_that_says(tmp_path, "mine", *numbers))
    with pytest.raises(SystemExit, match=said): bootstrap.choose_python("uv")


def test_a_name_that_is_no_python_is_refused(tmp_path, monkeypatch):
    "It used to be passed over without a word"
    dead = tmp_path / "dead"
    dead.write_text("#!/bin/sh\nexit 127\n") # as pyenv's shims are where nothing is selected
    dead.chmod(0o755)
    for name in (str(tmp_path / "nowhere"), str(dead)):
        monkeypatch.setenv("VLRLBOOK_PYTHON", name)
        with pytest.raises(SystemExit, match="no Python that runs"): bootstrap.choose_python("uv")


def test_without_312_the_next_best_is_said(monkeypatch, capsys):
    monkeypatch.delenv("VLRLBOOK_PYTHON", raising=False)
    monkeypatch.setattr(bootstrap, "find_python", {"3.12": None, "3.13": None, "3.11": "/usr/bin/python3"}.get)
    assert bootstrap.choose_python("false") == "/usr/bin/python3" # `false python install` fails, as without a network
    assert "no Python 3.12 to be had, going on with /usr/bin/python3" in capsys.readouterr().out


def test_an_environment_of_another_python_is_made_anew(tmp_path, monkeypatch):
    "VLRLBOOK_PYTHON chooses, also where .venv is there already; the same Python leaves it alone"
    commands = []
    def run(command, **kwargs):
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0, stdout="uv 1.0")
    for name in ("requirements.lock", "settings.ini", "setup.py", "pyproject.toml"): (tmp_path / name).write_text(name)
    kernel = tmp_path / "vlrlbook/jupyter/kernels/python3/kernel.json"
    installed = tmp_path / ".venv/share/jupyter/kernels/python3"
    for folder in (kernel.parent, installed): folder.mkdir(parents=True)
    kernel.write_text("{}")
    versions = {str(tmp_path / ".venv/bin/python"): (3, 12), "asked-313": (3, 13), "asked-312": (3, 12)}
    monkeypatch.setattr(bootstrap, "root", tmp_path)
    monkeypatch.setattr(bootstrap, "venv", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "version", lambda exe, parts=2: versions.get(str(exe)))
    monkeypatch.setattr(bootstrap, "find_uv", lambda: "uv")
    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    for asked, made in (("asked-312", False), ("asked-312", False), ("asked-313", True)):
        monkeypatch.setenv("VLRLBOOK_PYTHON", asked)
        commands.clear()
        bootstrap.main()
        assert any(words[1:2] == ["venv"] for words in commands) is made
    assert (installed / "kernel.json").read_text() == "{}"


def test_the_chapters_kernel_is_installed():
    "So that papermill's terminal holds no line about TCP without encryption, whoever calls it"
    from jupyter_client.kernelspec import KernelSpecManager
    words = KernelSpecManager().get_kernel_spec("python3").argv
    assert "--log-level=ERROR" in words and "ipykernel_launcher" in words


def test_the_command_brings_its_own_kernel(monkeypatch):
    from vlrlbook import chapters, cli
    monkeypatch.setenv("JUPYTER_PATH", "somewhere")
    first, second = cli.kernels_path().split(os.pathsep)
    assert second == "somewhere" and os.path.isfile(os.path.join(first, "kernels/python3/kernel.json"))
    seen = []
    monkeypatch.setattr(chapters.subprocess, "call", lambda words, env: seen.append((words, env)) or 0)
    assert cli.main(["run", "00_core", "out.ipynb", "-p", "a", "1"]) == 0
    words, env = seen[0]
    assert words[:3] == [sys.executable, "-m", "papermill"] and words[-3:] == ["-p", "a", "1"] and env["JUPYTER_PATH"].startswith(first)


def test_a_copy_of_a_chapter_is_run_by_its_path(monkeypatch, tmp_path):
    from vlrlbook import chapters, cli
    ran = []
    monkeypatch.setattr(chapters.subprocess, "call", lambda words, env: ran.append(words) or 0)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "05_grpo.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("copy/05_grpo.ipynb", "./copy/05_grpo.ipynb", str(tmp_path / "copy" / "05_grpo.ipynb")):
        assert cli.main(["run", name, "out.ipynb"]) == 0
        assert ran[-1][-2] == str(chapters.Path(name))
    for name in ("05_grpo.ipynb", "05_grpo", "grpo"):
        cli.main(["run", name, "out.ipynb"])
        assert ran[-1][-2] == str(chapters.notebook("05_grpo"))
    for name in ("other/05_grpo.ipynb", "copy/05_grpo", "copy/06.ipynb"):
        with pytest.raises(SystemExit, match="no such file"): cli.main(["run", name, "out.ipynb"])
    assert len(ran) == 6


@pytest.mark.parametrize("words", [["05_grpo", "-p", "lr", "5e-5", "out.ipynb"], ["-p", "lr", "5e-5", "05_grpo", "out.ipynb"],
                                   ["05_grpo", "--parameters", "lr", "5e-5"]])
def test_an_option_before_the_output_is_no_file(words, monkeypatch):
    from vlrlbook import chapters, cli
    monkeypatch.setattr(chapters.subprocess, "call", lambda words, env: pytest.fail("papermill was started"))
    with pytest.raises(SystemExit, match="stands before the output; expected such as: vlrlbook run 05_grpo out.ipynb -p lr 5e-5"):
        cli.main(["run", *words])
