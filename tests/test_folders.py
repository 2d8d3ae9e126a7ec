"""Files and folders are there whole or not at all, whatever stops their writer: mechanism and users."""
import errno
import importlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import ROOT, needs_lerobot
from vlrlbook import folders
from vlrlbook.folders import checkpoint_folders, checkpoint_number, checkpoint_step, damage, leftovers
from vlrlbook.folders import move_earlier_run, move_newer_checkpoints, new_file, new_folder, newest_whole_checkpoint
from vlrlbook.folders import remove_leftovers, surplus_checkpoints, write_json, write_whole


FULL = "(?i)no space|os error 28" # as Python says it, and as the writer of safetensors does


def names(folder):
    "Names of all that is in a folder, hidden or not"
    return sorted(os.listdir(folder))


def mode(path):
    "Permissions"
    return stat.S_IMODE(path.stat().st_mode)


def fill(disk, left=0):
    "Take a file system's room until `left` bytes are free; remove what is returned to have it back"
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - left)))
        while not left:
            file.write(bytes(4096))
    return ballast


def no_space(*args, **kwargs):
    "What a full disk answers"
    raise OSError(errno.ENOSPC, "No space left on device")


# New folders

def test_a_folder_is_committed_whole(tmp_path):
    with new_folder(tmp_path / "a" / "b" / "made") as aside:
        assert aside.parent == tmp_path / "a" / "b" and aside.name.startswith(".made-")
        assert not (tmp_path / "a" / "b" / "made").exists()
        (aside / "deep").mkdir()
        write_whole(aside / "deep" / "weights.bin", "0123")
    made = tmp_path / "a" / "b" / "made"
    assert names(made.parent) == ["made"] and damage(made) is None
    assert names(made) == ["deep", "manifest.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_whatever_stops_the_writer_nothing_is_left(tmp_path, error):
    with pytest.raises(error):
        with new_folder(tmp_path / "made") as aside:
            (aside / "half").write_text("x")
            raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["_listed", "_all_to_disk", "_give_name", "write_json"])
def test_whatever_stops_the_commit_nothing_is_left(tmp_path, monkeypatch, call):
    with pytest.raises(OSError, match="No space"):
        with new_folder(tmp_path / "made") as aside:
            (aside / "whole").write_text("x")
            monkeypatch.setattr(folders, call, no_space)
    assert names(tmp_path) == []


def writer(folder, where):
    "A program that writes a folder, and says so and waits half-way: in the block, or before the rename"
    stop = "print('half', flush=True); time.sleep(60)"
    late = f"folders._give_name = lambda *a: exec({stop!r})" if where == "commit" else ""
    early = stop if where == "block" else "pass"
    code = f"""
import signal, sys, time
from pathlib import Path
from vlrlbook import folders
signal.signal(signal.SIGINT, signal.default_int_handler) # a test run in the background hands on an ignored one
{late}
with folders.new_folder(Path(sys.argv[1]) / "checkpoint-7") as aside:
    (aside / "trainer_state.json").write_text('{{"global_step": 7}}')
    {early}
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    return process


@pytest.mark.parametrize("where", ["block", "commit"])
def test_what_a_killed_writer_leaves_is_hidden_and_taken_for_nothing(tmp_path, where):
    process = writer(tmp_path, where)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left, = names(tmp_path)
    assert left.startswith(".checkpoint-7-") and leftovers(tmp_path / "checkpoint-7") == [tmp_path / left]
    assert checkpoint_folders(tmp_path) == [] and newest_whole_checkpoint(tmp_path) == (None, [])
    checkpoint = tmp_path / "checkpoint-7"
    with new_folder(checkpoint) as aside: write_json(aside / "trainer_state.json", dict(global_step=7))
    assert newest_whole_checkpoint(tmp_path) == (checkpoint, []) and checkpoint_step(checkpoint) == 7
    remove_leftovers(checkpoint)
    assert names(tmp_path) == ["checkpoint-7"]


@pytest.mark.parametrize("where", ["block", "commit"])
def test_ctrl_c_leaves_nothing(tmp_path, where):
    process = writer(tmp_path, where)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode and names(tmp_path) == []


@pytest.mark.parametrize("left", [100_000, 0])
def test_a_full_disk_leaves_nothing(small_disk, left):
    "In the middle of a file, or, with all files written, at the manifest"
    with pytest.raises(OSError, match="No space"):
        with new_folder(small_disk / "made") as aside:
            if left:
                fill(small_disk, left)
                (aside / "weights.bin").write_bytes(bytes(200_000))
            else:
                (aside / "weights.bin").write_bytes(bytes(200_000))
                fill(small_disk)
    assert names(small_disk) == ["ballast"]
    (small_disk / "ballast").unlink()
    with new_folder(small_disk / "made") as aside: (aside / "weights.bin").write_bytes(bytes(200_000))
    assert damage(small_disk / "made") is None


def some_of_each(folder):
    "What may stand at a name: path of a file, an empty folder, and a folder with a file"
    (folder / "file").write_text("mine")
    (folder / "empty").mkdir()
    write_whole(folder / "full" / "mine.txt", "mine")
    return "file", "empty", "full"


@pytest.mark.parametrize("existing, taken", [
    ("none", []), ("empty", ["empty"]), ("any", ["file", "empty", "full"])])
def test_what_is_there_already(tmp_path, existing, taken):
    for name in some_of_each(tmp_path):
        if name in taken:
            with new_folder(tmp_path / name, existing=existing) as aside: (aside / "new").write_text("x")
            assert names(tmp_path / name) == ["manifest.json", "new"] and damage(tmp_path / name) is None
        else:
            with pytest.raises(FileExistsError, match=f"{name} is there already"):
                with new_folder(tmp_path / name, existing=existing): pytest.fail("asked too late")
    assert names(tmp_path) == ["empty", "file", "full"]
    if "full" not in taken: assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="expected none, empty or any"):
        with new_folder(tmp_path / "other", existing="all"): pass


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path):
    write_whole(tmp_path / "made" / "old", "old")
    with pytest.raises(OSError):
        with new_folder(tmp_path / "made", existing="any"): raise OSError
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["old"]
    with new_folder(tmp_path / "made", existing="any") as aside:
        (aside / "new").write_text("x")
        assert names(tmp_path / "made") == ["old"]
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["manifest.json", "new"]


@pytest.mark.parametrize("fails", [1, 2])
def test_the_old_folder_comes_back_when_a_rename_fails(tmp_path, monkeypatch, fails):
    write_whole(tmp_path / "made" / "old", "old")
    calls, rename = [], os.rename
    def sometimes(source, target):
        calls.append(source)
        if len(calls) == fails: raise OSError(errno.EIO, "bad disk")
        rename(source, target)
    with pytest.raises(OSError, match="bad disk"):
        with new_folder(tmp_path / "made", existing="any") as aside:
            (aside / "new").write_text("x")
            monkeypatch.setattr(os, "rename", sometimes)
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["old"]


def test_a_parent_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "made", tmp_path / "file" / "deeper" / "made"):
        with pytest.raises(OSError):
            with new_folder(path): pytest.fail("there is no such place")
        with pytest.raises(OSError): write_whole(path, "x")
    assert names(tmp_path) == ["file"]


def test_a_parent_that_cannot_be_written(small_disk):
    "Also root cannot write to a disk that is there for reading only"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        with new_folder(small_disk / "made"): pytest.fail("too late")
    with pytest.raises(OSError, match="Read-only"): write_whole(small_disk / "file", "x")
    assert names(small_disk) == []


def at_once(path, n=2, **how):
    "Several writers of one folder, all half-way at the same time: what each raised, or None"
    together, raised = threading.Barrier(n), [None] * n
    def write(number):
        try:
            with new_folder(path, **how) as aside:
                for i in range(10): (aside / f"{i}").write_text(f"{number}" * 1000)
                together.wait(20)
        except BaseException as e: raised[number] = e
    threads = [threading.Thread(target=write, args=(i,)) for i in range(n)]
    for t in threads: t.start()
    for t in threads: t.join()
    return raised


@pytest.mark.parametrize("existing", ["none", "empty"])
def test_of_two_writers_at_once_one_wins_and_the_other_says_so(tmp_path, existing):
    for turn in range(30):
        path = tmp_path / str(turn) / "cache"
        raised = at_once(path, existing=existing)
        assert [type(e) for e in sorted(raised, key=repr)] == [FileExistsError, type(None)], raised
        winner = raised.index(None)
        assert names(path.parent) == ["cache"] and damage(path) is None
        assert {(path / f"{i}").read_text()[0] for i in range(10)} == {str(winner)}


def test_the_rename_itself_does_not_replace(tmp_path, monkeypatch):
    "Between the last look and the rename somebody else was quicker"
    monkeypatch.setattr(folders, "_refuse", lambda *args: None)
    some_of_each(tmp_path)
    for name in ("file", "full"):
        with pytest.raises(FileExistsError, match="is there already"):
            with new_folder(tmp_path / name) as aside: (aside / "x").write_text("x")
    assert names(tmp_path) == ["empty", "file", "full"]
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine.txt").read_text() == "mine"


@contextmanager
def umask(taken):
    "What new files and folders do not get"
    before = os.umask(taken)
    try: yield
    finally: os.umask(before)


def test_permissions(tmp_path):
    "As the umask says, or less if that is asked for; nobody else reads what is not finished"
    for name, taken in (("closed", 0o077), ("usual", 0o022), ("group", 0o002)):
        with umask(taken):
            with new_folder(tmp_path / name / "made") as aside:
                assert mode(aside) == 0o700
                write_whole(aside / "file", "x")
            with new_folder(tmp_path / name / "own", mode=0o700, aside=tmp_path / ".here") as aside:
                assert mode(aside) == 0o700
            with new_folder(tmp_path / name / "left", mode=None, part="part") as aside:
                (aside / "part").mkdir()
                (aside / "part").chmod(0o750)
        folder, file = 0o777 & ~taken, 0o666 & ~taken
        wanted = {"made": folder, "made/file": file, "made/manifest.json": file, "own": 0o700, "left": 0o750}
        assert {part: mode(tmp_path / name / part) for part in wanted} == wanted


def test_a_place_of_its_own_and_a_part(tmp_path):
    "For several processes, with what a killed one left there; and for a library that makes its own folder"
    (tmp_path / ".saving").mkdir()
    (tmp_path / ".saving" / "old").write_text("x")
    with new_folder(tmp_path / "made", manifest=False, aside=tmp_path / ".saving", part="inner") as aside:
        assert aside == tmp_path / ".saving" and names(aside) == []
        write_whole(aside / "inner" / "new", "x")
        (aside / "outer").write_text("not committed")
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["new"]
    with pytest.raises(FileNotFoundError):
        with new_folder(tmp_path / "never", part="inner"): "which nobody makes"
    assert names(tmp_path) == ["made"]


def test_what_is_durable_goes_to_the_disk_before_the_rename(tmp_path, monkeypatch):
    done, rename = [], os.rename
    def renamed(source, target):
        done.append("rename")
        rename(source, target)
    monkeypatch.setattr(folders, "to_disk", lambda path: done.append(Path(path).name))
    monkeypatch.setattr(os, "rename", renamed)
    with new_folder(tmp_path / "made", manifest=False) as aside:
        (aside / "deep").mkdir()
        for name in ("a", "deep/b"): (aside / name).write_text("x")
        hidden = aside.name
    assert sorted(done[:2]) == ["a", "b"] and done[2:] == ["deep", hidden, "rename", tmp_path.name]
    done.clear()
    with new_folder(tmp_path / "quick", manifest=False, durable=False) as aside: (aside / "a").write_text("x")
    assert done == ["rename"]


def test_leftovers_are_those_of_one_name(tmp_path):
    others = [".a-", ".a-2-x1_y5678", ".a-X1_Y5678", ".a-backup", ".a-b-x1_y5678", ".b-x1_y5678", "a-x1_y5678"] # .a-backup: a user's
    for name in (*others, ".a-x1_y5678"): (tmp_path / name).mkdir()
    (tmp_path / ".a-file5678").write_text("x")
    assert [p.name for p in leftovers(tmp_path / "a")] == [".a-file5678", ".a-x1_y5678"]
    assert leftovers(tmp_path / "no" / "a") == []
    remove_leftovers(tmp_path / "a")
    assert names(tmp_path) == sorted(others)


@pytest.mark.parametrize("begin", ["n" * 199, "n" * 250, "名" * 83])
def test_long_names_that_begin_alike_are_two_names(tmp_path, begin):
    "Another process may be writing the other one"
    one, other = tmp_path / f"{begin}-1", tmp_path / f"{begin}-2"
    with new_file(one) as aside:
        aside.write_text("x")
        remove_leftovers(other)
        assert leftovers(one) == [aside] and leftovers(other) == []
    assert one.read_text() == "x"


def test_what_a_commit_moved_aside_is_no_leftover_of_a_folder_called_old(tmp_path, monkeypatch):
    "A process that is killed between the two renames of `_take_the_place` leaves the only copy there"
    with new_folder(tmp_path / "a") as aside: (aside / "kept").write_text("x")
    real, done = os.rename, []
    def rename(source, target):
        if done: raise KeyboardInterrupt
        done.append(real(source, target))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", rename)
        with new_folder(tmp_path / "a", existing="any", manifest=False, durable=False): pass
    assert not (tmp_path / "a").exists()
    remove_leftovers(tmp_path / "old")
    assert [path.read_text() for path in tmp_path.glob(".*/a/kept")] == ["x"]


@pytest.mark.parametrize("name", ["n" * 255, "名" * 85, "🙂" * 63])
def test_names_as_long_as_they_may_be(tmp_path, name):
    write_whole(tmp_path / "f" / name, "x")
    with new_folder(tmp_path / name) as aside: assert leftovers(tmp_path / name) == [aside]
    assert names(tmp_path / "f") == [name] and damage(tmp_path / name) is None


# New files

def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt):
        with new_file(tmp_path / "a") as aside:
            aside.write_text("half")
            raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
    with new_file(tmp_path / "a") as aside:
        aside.write_text("new")
        assert aside.name.startswith(".a-") and leftovers(tmp_path / "a") == [aside]
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("has_status", [True, False], ids=["Linux", "elsewhere"])
def test_a_file_keeps_its_permissions(tmp_path, monkeypatch, has_status):
    "Patients' rows that only their owner may read were readable for all after they were written again"
    before = os.umask(0o022)
    os.umask(before)
    if not has_status: monkeypatch.setattr(Path, "read_text", no_space)
    for name, permissions in (("private", 0o600), ("shared", 0o664), ("read only", 0o444)):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(permissions)
        write_whole(tmp_path / name, "new")
        assert mode(tmp_path / name) == permissions and (tmp_path / name).read_bytes() == b"new"
    for taken in (0o077, 0o027):
        with umask(taken): write_whole(tmp_path / f"{taken}", "new")
        assert mode(tmp_path / f"{taken}") == 0o666 & ~taken
    assert os.umask(before) == before, "the umask is as it was"


def test_a_link_is_followed(tmp_path):
    "A link to a file on a large disk was replaced by a file on the small one"
    disk, run = tmp_path / "disk", tmp_path / "run"
    for folder in (disk, run): folder.mkdir()
    (disk / "rows").write_text("old")
    (disk / "rows").chmod(0o600)
    (run / "rows").symlink_to(disk / "rows")
    (run / "next").symlink_to("rows")
    (run / "new").symlink_to("../disk/new")
    for name in ("rows", "next", "new"):
        with pytest.raises(KeyboardInterrupt), new_file(run / name) as aside:
            aside.write_text("half")
            assert aside.parent == disk and leftovers(run / name) == [aside]
            raise KeyboardInterrupt
        write_whole(run / name, name)
        assert (run / name).is_symlink() and (run / name).read_text() == name
    assert names(disk) == ["new", "rows"] and mode(disk / "rows") == 0o600
    (run / "lost").symlink_to(tmp_path / "unmounted" / "rows")
    with pytest.raises(FileNotFoundError, match="a link into a folder that is not there, .*unmounted.*run/lost"):
        write_whole(run / "lost", "x")
    (run / "folder").symlink_to(disk)
    with pytest.raises(IsADirectoryError): write_whole(run / "folder", "x")
    write_whole(run / "folder" / "rows", "by a folder's link")
    assert names(run) == ["folder", "lost", "new", "next", "rows"] and (run / "rows").read_text() == "by a folder's link"


def test_a_pipe_and_a_device_are_written_into(tmp_path):
    "As root, `--output_jsonl /dev/null` made a file of the machine's /dev/null"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    text = "row\n" * 50_000  # more than a pipe holds at a time
    for path in (pipe, tmp_path / "link"):
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(pipe.read_text)
            write_whole(path, text)
            assert reader.result() == text
    (tmp_path / "null").symlink_to(os.devnull)
    write_whole(tmp_path / "null", text)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(KeyboardInterrupt), new_file(pipe): raise KeyboardInterrupt  # nobody reads: it would wait for ever
    assert names(tmp_path) == ["link", "null", "pipe"]


to_its_stdout = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from vlrlbook.folders import write_whole
print("before")
write_whole(sys.argv[1], "rows\\n")
print("behind")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_a_programs_own_output_is_written_into(tmp_path, path):
    "A pipe, and a file: what is there already stays, and what is printed comes in its order"
    (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", to_its_stdout, path]
    said = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said == "before\nrows\nbehind\n"
    for how, begin in (("w", ""), ("a", "kept\n")):
        (tmp_path / "log").write_text("kept\n")
        with (tmp_path / "log").open(how) as log: subprocess.run(command, cwd=tmp_path, stdout=log, check=True)
        assert (tmp_path / "log").read_text() == begin + said
    assert names(tmp_path) == ["link", "log"] and (tmp_path / "link").is_symlink()


def test_keys_that_become_one_text_lose_no_entry(tmp_path):
    write_json(tmp_path / "a.json", {1: 0.5, "1": [{"1 (2)": 1, 1.5: 2, "1.5": float("nan")}], None: 3, "None": 4})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "1": 0.5, "1 (2)": [{"1 (2)": 1, "1.5": 2, "1.5 (2)": None}], "None": 3, "None (2)": 4}


def test_a_full_disk_keeps_the_old_file(small_disk):
    write_whole(small_disk / "a", "old")
    fill(small_disk)
    with pytest.raises(OSError, match="No space"): write_whole(small_disk / "a", "new" * 100_000)
    assert names(small_disk) == ["a", "ballast"] and (small_disk / "a").read_text() == "old"


# Checkpoints

def test_checkpoints_by_number(tmp_path, capsys):
    oldest, middle, newest = (tmp_path / f"checkpoint-{number}" for number in (9, 10, 100))
    for path in (newest, oldest, middle):
        with new_folder(path) as aside: write_json(aside / "trainer_state.json", dict(global_step=1))
    others = "checkpoint-x", "checkpoint-", ".checkpoint-11-x1", "checkpoint-11.old"
    for name in others: (tmp_path / name).mkdir()
    assert checkpoint_folders(tmp_path) == [oldest, middle, newest]
    assert checkpoint_number("run/checkpoint-12") == 12 and checkpoint_number("checkpoint-x") is None
    assert newest_whole_checkpoint(tmp_path) == (newest, [])
    (newest / "trainer_state.json").unlink()
    assert newest_whole_checkpoint(tmp_path) == (middle, ["checkpoint-100 (trainer_state.json is missing)"])
    assert surplus_checkpoints(tmp_path, 2, None) == [oldest]
    assert surplus_checkpoints(tmp_path, 2, str(oldest)) == []
    assert surplus_checkpoints(os.path.relpath(tmp_path), 2, str(oldest)) == []
    assert surplus_checkpoints(tmp_path, 2, str(tmp_path / "other" / oldest.name)) == [oldest]
    for limit in (None, 0, 3, 9): assert surplus_checkpoints(tmp_path, limit, None) == []
    assert move_newer_checkpoints(tmp_path, 100) is None
    assert move_newer_checkpoints(tmp_path, 10) == tmp_path / "earlier-1"
    assert move_newer_checkpoints(tmp_path, -1) == tmp_path / "earlier-2"
    assert names(tmp_path / "earlier-1") == ["checkpoint-100"]
    assert names(tmp_path / "earlier-2") == ["checkpoint-10", "checkpoint-9"]
    assert "2 checkpoints of an earlier run moved to earlier-2" in capsys.readouterr().out


def test_an_earlier_run_is_moved_whole(tmp_path, capsys):
    for name in ("checkpoint-9", "checkpoint-x", "classifier", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for name in ("run_log.csv", "adapter.bin", "mine.txt"): (tmp_path / name).write_text(name)
    files = [tmp_path / name for name in ("run_log.csv", "results.json", "classifier", "kept", "adapter.bin")] # no results.json there
    needed = [tmp_path / "kept", tmp_path / "adapter.bin"]
    assert move_earlier_run(tmp_path, files, needed) == tmp_path / "earlier-1"
    assert names(tmp_path / "earlier-1") == ["adapter.bin", "checkpoint-9", "classifier", "kept", "run_log.csv"]
    assert names(tmp_path) == ["adapter.bin", "checkpoint-x", "earlier-1", "kept", "mine.txt"]
    assert (tmp_path / "kept/file").read_text() == (tmp_path / "earlier-1/kept/file").read_text() == "kept"
    assert "1 checkpoints and 4 files of an earlier run moved to earlier-1" in capsys.readouterr().out
    assert move_earlier_run(tmp_path, files[:3]) is None and names(tmp_path / "earlier-1") != []


def test_a_number_that_another_process_takes_meanwhile_is_passed(tmp_path, monkeypatch):
    for name in ("checkpoint-9", "earlier-1", "earlier-2"): (tmp_path / name).mkdir()
    monkeypatch.setattr(Path, "exists", lambda path, **more: False)
    assert move_newer_checkpoints(tmp_path, -1) == tmp_path / "earlier-3"


# The module

def test_it_is_light():
    "A job's supervisor imports it: nothing but Python's own library, and nothing of the package"
    code = "import sys; before = set(sys.modules); import vlrlbook.folders; print(*set(sys.modules) - before)"
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    own = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert own == {"vlrlbook", "vlrlbook.folders"}


@pytest.mark.parametrize("module, moved", [
    ("core", "manifest_name write_whole write_json finite commit_folder damage sha256_of to_disk"),
    ("easyr1", "new_folder"), ("models", "checkpoint_step")])
def test_names_are_still_where_they_were(module, moved):
    there = importlib.import_module(f"vlrlbook.{module}")
    for name in moved.split(): assert getattr(there, name) is getattr(folders, name)


# Those who write folders: a full disk leaves nothing of them

@pytest.fixture
def nearly_full(small_disk):
    "A disk on which 300 kB are left: enough to begin with, too little for weights and pictures"
    fill(small_disk, 300_000)
    return small_disk


def test_a_models_folder(nearly_full):
    from vlrlbook.models import save_model, tiny_twin
    model, processor = tiny_twin("qwen2_5_vl")
    with pytest.raises(Exception, match=FULL): save_model(model, processor, nearly_full / "model")
    assert names(nearly_full) == ["ballast"]


def test_a_run_that_is_finished_again_keeps_its_model(tmp_path):
    "Until the new model is whole, the one of the earlier finish stays"
    from vlrlbook import reward_model
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("of the earlier finish")
    def write(folder):
        (folder / "weights").write_text("half")
        no_space()
    with pytest.raises(OSError, match="No space"):
        reward_model.finish_run(types.SimpleNamespace(), types.SimpleNamespace(write=write), tmp_path, [], [], {})
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "weights").read_text() == "of the earlier finish"


def test_a_reward_models_folder(nearly_full, tmp_path):
    from test_reward_model import settings
    from vlrlbook.reward_model import load_model
    made = load_model(settings(tmp_path))
    with pytest.raises(Exception, match=FULL): made.save_pretrained(nearly_full / "model")
    assert names(nearly_full) == ["ballast"]


@pytest.mark.parametrize("choice", [
    dict(finetune_mode="full"), dict(finetune_mode="lora", lora_r=64, lora_alpha=8)], ids=["full", "lora"])
@needs_lerobot
def test_a_classifiers_folder(small_disk, choice):
    "The old one stays whole, and the new one's weights do not stay anywhere"
    from vlrlbook import aloha
    classifier, processor = aloha.build_classifier(aloha.read_settings(aloha.AlohaSettings, choice), 5)
    write_whole(small_disk / "kept" / "classifier.json", "old") # of anything else nothing would be written
    fill(small_disk, 300_000)
    with pytest.raises(Exception, match=FULL):
        aloha.save_classifier(classifier, processor, small_disk / "kept", base="tiny-qwen3_vl")
    assert names(small_disk) == ["ballast", "kept"] and names(small_disk / "kept") == ["classifier.json"]
    assert (small_disk / "kept" / "classifier.json").read_text() == "old"


@needs_lerobot
def test_drawn_films(tmp_path, monkeypatch):
    "A full disk leaves nothing; a writer that was quicker is not disturbed, and its films are taken"
    from vlrlbook import aloha
    settings = aloha.read_settings(aloha.AlohaSettings, dict(output_dir=str(tmp_path), repo_id=aloha.DRAWN))
    def draws_half(root, *args, **kwargs):
        write_whole(root / "half", "x")
        no_space()
    monkeypatch.setattr(aloha, "synthetic_aloha", draws_half)
    with pytest.raises(OSError, match="No space"): aloha.drawn_data(settings)
    assert names(tmp_path) == []
    def somebody_was_quicker(root, *args, **kwargs):
        for folder in (root, tmp_path / f"drawn-{settings.episodes}x{settings.frames}-seed{settings.seed}"):
            write_whole(folder / "whose", folder.name)
    monkeypatch.setattr(aloha, "synthetic_aloha", somebody_was_quicker)
    drawn = aloha.drawn_data(settings)
    assert names(tmp_path) == [drawn.name] and (drawn / "whose").read_text() == drawn.name


@needs_lerobot
def test_predicted_bins(tmp_path, monkeypatch):
    "One file, beside the data set"
    from vlrlbook import aloha
    import pandas as pd
    data = types.SimpleNamespace(data=types.SimpleNamespace(root=str(tmp_path / "films")))
    judged = dict(label=[1], predicted=[1], progress_sparse=[0.5])
    answers = dict(load_classifier=(types.SimpleNamespace(moments=[]), None, []), open_frames=data, predict_bins=[], prediction_rows=judged)
    for name, answer in answers.items(): monkeypatch.setattr(aloha, name, lambda *args, answer=answer, **kwargs: answer)
    settings = types.SimpleNamespace(ckpt_dir="best", batch_size=1, named=(), output_dir=tmp_path / "out", labelled_set=None)
    assert aloha.predict_dataset(settings).name == "films-best-bins.parquet"
    before = (tmp_path / "out" / "films-best-bins.parquet").read_bytes()
    def half(rows, path, **how):
        path.write_text("half")
        no_space()
    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(OSError, match="No space"): aloha.predict_dataset(settings)
    assert names(tmp_path / "out") == ["films-best-bins.parquet"]
    assert (tmp_path / "out" / "films-best-bins.parquet").read_bytes() == before, "the file of the run before"


def test_an_unpacked_archive(small_disk, tmp_path):
    from vlrlbook.data import DataError, read_counting_zip, synthetic_counting, write_counting_zip
    archive = write_counting_zip(synthetic_counting(60, seed=7), tmp_path / "x.zip")
    fill(small_disk, 20_000)
    with pytest.raises(DataError, match="storage.full: no space"): read_counting_zip(archive, small_disk / "out")
    assert names(small_disk) == ["ballast"]


@pytest.mark.parametrize("engine", ["easyr1", "verl"])
def test_an_export(small_disk, engine):
    from vlrlbook import easyr1
    from vlrlbook.data import synthetic_vqa
    fill(small_disk, 20_000)
    export = easyr1.export_easyr1 if engine == "easyr1" else easyr1.export_verl
    settings = dict(easyr1=dict(rollout_batch_size=32), verl={"data.train_batch_size": 32})[engine]
    with pytest.raises(OSError, match="No space"):
        export(synthetic_vqa(60), "vqa", settings, small_disk / "out")
    assert names(small_disk) == ["ballast"]


@pytest.mark.parametrize("call", ["write_weights", "_describe"])
def test_merged_shards(tmp_path, monkeypatch, call):
    from vlrlbook.easyr1 import merge
    def weights(folder, *args):
        write_whole(folder / "model.safetensors", "half")
        if call == "write_weights": no_space()
    def described(source, folder, *args):
        write_whole(folder / "config.json", "{}")
        no_space()
    monkeypatch.setattr(merge, "write_weights", weights)
    monkeypatch.setattr(merge, "_describe", described)
    report = dict(megabytes=0.1, dtype="float32")
    with pytest.raises(OSError, match="No space"):
        merge._write_model({}, None, tmp_path, tmp_path / "out" / "model", report, 5.0)
    assert names(tmp_path / "out") == []


def test_the_trained_model_of_a_quick_start(tmp_path, monkeypatch):
    "Copied as a whole, when there is no adapter to fold in"
    from vlrlbook.easyr1 import pipeline
    write_whole(tmp_path / "train" / "model.safetensors", "x")
    write_whole(tmp_path / "base" / "config.json", json.dumps(dict(model_type="qwen2_5_vl")))
    def copies_half(source, target):
        Path(target).write_text("x")
        no_space()
    monkeypatch.setattr(pipeline.shutil, "copyfile", copies_half)
    settings = types.SimpleNamespace(engine="trl")
    with pytest.raises(OSError, match="No space"):
        pipeline._merge_shards_stage(settings, str(tmp_path / "base"), tmp_path / "train", tmp_path / "trained")
    assert names(tmp_path) == ["base", "train"]


@pytest.mark.parametrize("command", ["workshop", "notebooks"])
def test_folders_of_chapters(small_disk, command):
    from vlrlbook import cli
    fill(small_disk, 100_000)
    with pytest.raises((SystemExit, OSError, shutil.Error), match="No space"):
        cli.main([command, str(small_disk / "mine")])
    assert names(small_disk) == ["ballast"]


def test_a_jobs_folder(small_disk):
    from vlrlbook.jobs.folder import JobFolder
    from vlrlbook.jobs.submission import make_job_folder
    for name in ("jobs", "tmp"): (small_disk / name).mkdir()
    job, aside = small_disk / "jobs" / "a", small_disk / "tmp" / "job-a"
    ballast = fill(small_disk, 8192)
    for told in (dict(note="x" * 20_000), {}):
        if not told: fill(small_disk)
        with pytest.raises(OSError, match="No space"):
            make_job_folder(JobFolder(job), aside, dict(name="a"), told)
        assert names(small_disk / "jobs") == names(small_disk / "tmp") == []
    ballast.unlink()
    make_job_folder(JobFolder(job), aside, dict(name="a"), {})
    assert names(small_disk / "tmp") == [] and names(job) == ["job.json", "lock", "parameters.json"]
    assert mode(job) == 0o700


def test_a_jobs_result(small_disk):
    from vlrlbook.jobs import commit_result
    write_whole(small_disk / "run" / "adapter.safetensors", "x")
    write_whole(small_disk / "run" / "rollouts_now.json", "x")
    write_whole(small_disk / "run" / ".run_log.csv-x1y2", "what a killed writer left")
    write_whole(small_disk / "out.ipynb", "{}")
    ballast = fill(small_disk)
    with pytest.raises(OSError, match="No space"): commit_result(small_disk)
    assert names(small_disk) == ["ballast", "out.ipynb", "run"]
    ballast.unlink()
    write_whole(small_disk / ".result-x1y2z3w4" / "half", "what a killed trainer left")
    commit_result(small_disk)
    assert names(small_disk) == ["out.ipynb", "result", "run"] and damage(small_disk / "result") is None
    assert names(small_disk / "result") == ["adapter.safetensors", "manifest.json", "out.ipynb"]


def test_a_download(small_disk):
    pytest.importorskip("fastapi")
    from vlrlbook.service import Problem, pack
    with new_folder(small_disk / "result") as aside: (aside / "adapter").write_bytes(bytes(200_000))
    fill(small_disk, 100_000)
    with pytest.raises(Problem, match="storage.full: no space"): pack(small_disk)
    assert names(small_disk) == ["ballast", "result"]


def test_an_upload_that_is_kept(tmp_path, monkeypatch):
    "Before its name is on the disk it is not in the list"
    pytest.importorskip("fastapi")
    from vlrlbook.service import Intake
    intake, work = Intake(tmp_path), tmp_path / "tmp" / "work"
    write_whole(work / "data" / "rows.jsonl", "")
    monkeypatch.setattr(folders, "_all_to_disk", no_space)
    report = dict(skipped=[], csv_rows=1, valid_images=1)
    with pytest.raises(OSError, match="No space"): intake._keep(work, "x.zip", 1, report, "counting")
    assert names(tmp_path / "uploads") == [] and intake.known == {}


def test_a_warm_start_that_somebody_else_made_meanwhile(tmp_path, monkeypatch):
    "The cache's folder is theirs, whole, and it is used"
    import vlrlbook.warm_twins as warm_twins
    from vlrlbook.models import save_model
    def somebody_was_quicker(model, processor, path):
        write_whole(path / "theirs", "x")
        save_model(model, processor, path)
    monkeypatch.setenv("VLRLBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(warm_twins, "supervised", lambda family, *args: (warm_twins.tiny_twin(family)[0], [1.0]))
    monkeypatch.setattr(warm_twins, "save_model", somebody_was_quicker)
    path = Path(warm_twins.warm_start("qwen2_5_vl", 1))
    assert names(tmp_path) == [path.name] and names(path) == ["theirs"]


@pytest.mark.parametrize("words, says_how_to_go_on", [(["grpo"], True), (["fit"], False)])
def test_ctrl_c_is_no_fault(words, says_how_to_go_on, monkeypatch, capsys):
    "One line and the status that shells know, no traceback of sixty lines"
    from vlrlbook import cli
    def stopped(args, rest): raise KeyboardInterrupt
    parser = cli.parser
    def parsed():
        top = parser()
        real = top.parse_known_args
        def ask(words):
            args, rest = real(words)
            args.function = stopped
            return args, rest
        top.parse_known_args = ask
        return top
    monkeypatch.setattr(cli, "parser", parsed)
    monkeypatch.setattr(cli, "_die_of_ctrl_c", lambda: None)
    assert cli.main(words) == 130
    told = capsys.readouterr().err
    assert told.startswith(f"vlrlbook {words[0]}: stopped by Ctrl-C") and told.count("\n") == 1
    assert ("--resume true" in told) == says_how_to_go_on


@pytest.mark.skipif(os.name != "posix", reason="signals of a shell")
def test_ctrl_c_stops_a_shell_too(tmp_path):
    "A shell goes on with the next command, unless the one before died of the signal"
    (tmp_path / "stopped.py").write_text("from vlrlbook import cli\n"
                                         "def stopped(*_): raise KeyboardInterrupt\n"
                                         "cli.fit = stopped\n"
                                         "cli.main(['fit'])\n")
    ran = subprocess.run([sys.executable, "stopped.py"], cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(ROOT)),
                         capture_output=True, text=True)
    assert ran.returncode == -signal.SIGINT and ran.stderr == "vlrlbook fit: stopped by Ctrl-C\n", ran.stderr
