"""Files and folders that are there whole or not at all: written under a hidden name, renamed when it is well.

The road of everything that is kept: write aside, `manifest.json`, onto the disk, one rename. `new_folder` and
`new_file` walk it; `damage` tells whether a folder still is as it was committed; the functions on checkpoints
read a run's `checkpoint-N` folders by number. Written by hand, with nothing but Python's own library, so that
a process that must start light, such as a job's supervisor, can use this too.

What a killed writer leaves has a hidden name, `.NAME-` and random letters, beside its target. No reader here
takes such a name for a result, and `remove_leftovers` clears it away."""
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

__all__ = ["manifest_name", "new_file", "write_whole", "write_json", "finite", "new_folder", "commit_folder",
           "damage", "free_bytes", "sha256_of", "to_disk", "leftovers", "remove_leftovers", "checkpoint_number",
           "checkpoint_step", "checkpoint_folders", "surplus_checkpoints", "newest_whole_checkpoint",
           "move_newer_checkpoints"]

manifest_name = "manifest.json"  # in a committed folder: path of each file -> its bytes and SHA-256
_longest_repeated = 200  # bytes of a name that its hidden name repeats; file systems take 255 in all


# Files

@contextmanager
def new_file(
    path: str | Path,  # the file's name once it is whole; a file of that name is replaced
    durable: bool = True,  # bring it to the disk before the rename; False where it can be made again
):
    "Yield a hidden path to write to; the file becomes `path` when the block ends well, and is removed if not"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_hidden_prefix(path), dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)  # mkstemp makes files that only their owner can read
        if durable:
            to_disk(aside)
        os.replace(aside, path)
    finally:
        # After the rename there is none. Before it, whatever stopped us, half a file must not stay.
        aside.unlink(missing_ok=True)


def write_whole(
    path: str | Path,  # file to write; folders above it are made
    text: str,  # its content
):
    "Write a text file so that a reader sees the old file or the new one, never half of it"
    content = text.encode("utf-8")  # first: a text that cannot be encoded touches nothing
    with new_file(path) as aside:
        aside.write_bytes(content)


def write_json(
    path: str | Path,  # file to write
    content,  # anything JSON can hold; NaN and infinities become null
):
    "Write `content` as indented JSON, whole or not at all"
    write_whole(path, json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n")


def finite(
    x,  # anything JSON can hold, also with NumPy's numbers in it
):  # the same, without what JSON cannot hold
    "`x` with NaN and infinities as None, tuples as lists, NumPy's numbers as Python's"
    if isinstance(x, dict):
        return {str(key): finite(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(value) for value in x]
    # A number of NumPy can only be there if NumPy has been imported by somebody.
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


# Folders

@contextmanager
def new_folder(
    path: str | Path,  # the folder's name once it is whole; folders above it are made, and stay
    existing: str = "empty",  # what may be there: "none", "empty" (a folder without files), "any" (replaced)
    manifest: bool = True,  # put manifest.json into it, for `damage`
    durable: bool = True,  # bring it all to the disk before the rename; False where it can be made again
    mode: int | None = 0o755,  # permissions of the finished folder; None leaves them
    aside: str | Path | None = None,  # where to write, on the same disk; None: a new hidden folder beside it
    part: str = None,  # name of the folder inside `aside` that is committed; None: all of `aside`
):
    "Yield a hidden folder to write into; it becomes `path` when the block ends well, and is removed if not"
    # `aside` is for several processes that must know the name, or for a place swept at the next start.
    # `part` is for libraries that insist on making their folder themselves.
    path = Path(path)
    _refuse(path, existing)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _hidden_folder(path) if aside is None else _emptied_folder(Path(aside))
    try:
        yield aside
        finished = aside if part is None else aside / part
        if mode is not None:
            finished.chmod(mode)
        # Another writer of the same folder may have been quicker; then this one reports it and leaves.
        _refuse(path, existing)
        commit_folder(finished, path, manifest=manifest, durable=durable, replace=existing == "any")
    finally:
        # After the rename there is nothing, or a shell around `part`. Ctrl-C comes through here too.
        shutil.rmtree(aside, ignore_errors=True)


def commit_folder(
    aside: str | Path,  # a finished folder under another name, on the same disk
    path: str | Path,  # its name from now on
    manifest: bool = True,  # put manifest.json into it, for `damage`
    durable: bool = True,  # bring its files, the folder and its new name to the disk
    replace: bool = True,  # what stood there goes; False: FileExistsError if that holds anything
):
    "Give a finished folder its name: a manifest in it, everything on the disk, then one rename"
    aside, path = Path(aside), Path(path)
    if manifest:
        write_json(aside / manifest_name, _listed(aside))
    if durable:
        _all_to_disk(aside)
    if replace and path.exists():
        _take_the_place(aside, path)
    else:
        _give_name(aside, path)
    if durable:
        to_disk(path.parent)  # the name itself is kept there


def damage(
    path: str | Path,  # a folder
) -> str | None:  # the first thing that is wrong with it; None if it is as it was committed
    "Compare a committed folder with its manifest: missing files, other sizes, other bytes"
    path = Path(path)
    try:
        listed = json.loads((path / manifest_name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {manifest_name}"
    except (OSError, ValueError):
        return f"{manifest_name} cannot be read"
    if not _is_manifest(listed):
        return f"{manifest_name} is no list of files"
    for name, file in listed.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        # Sizes before contents: they cost nothing, and most damage is a file that was cut.
        size = (path / name).stat().st_size
        if size != file["bytes"]:
            return f"{name} has {size} bytes, not {file['bytes']}"
        if sha256_of(path / name) != file["sha256"]:
            return f"{name} has other content"
    return None


def _is_manifest(listed):
    "Whether what was read has a manifest's form: each file's name -> its bytes and SHA-256"
    if not isinstance(listed, dict):
        return False
    return all(isinstance(file, dict) and {"bytes", "sha256"} <= set(file) for file in listed.values())


def sha256_of(
    path: str | Path,  # a file of any size
) -> str:  # 64 hexadecimal digits
    "SHA-256 of a file, read in pieces"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(
    path: str | Path,  # a file or folder that is there
) -> int:
    "How much an ordinary user may still write to the disk on which something lies"
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def to_disk(
    path: str | Path,  # a file or a folder
):
    "Have the system write a file, or the names in a folder, to the disk now"
    windows = os.name == "nt"
    if windows and Path(path).is_dir():
        return  # it has no such call for folders
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # Windows wants a file open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def leftovers(
    path: str | Path,  # a file or folder that `new_file` or `new_folder` writes
) -> list:  # paths of hidden files and folders beside it
    "What killed writers of `path` have left; a writer that is still at work looks the same"
    path = Path(path)
    name = re.compile(re.escape(_hidden_prefix(path)) + "[a-z0-9_]+")  # the letters of Python's tempfile
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name))


def remove_leftovers(
    path: str | Path,  # a file or folder that `new_file` or `new_folder` writes, and nobody else just now
):
    "Clear away what killed writers of `path` have left"
    for left in leftovers(path):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _hidden_prefix(path):
    "How the hidden names begin under which `path` is written"
    name = path.name
    # A name that fills its 255 bytes leaves no room for the random letters.
    if len(os.fsencode(name)) > _longest_repeated:
        name = name[:_longest_repeated // 4]  # a letter has at most four bytes
    return f".{name}-"


def _hidden_folder(path):
    "A new hidden folder beside `path`"
    return Path(tempfile.mkdtemp(prefix=_hidden_prefix(path), dir=path.parent))


def _emptied_folder(aside):
    "The folder `aside`, new; what a killed writer left under this name goes"
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(mode=0o700, parents=True)  # as mkdtemp makes them: nobody else reads what is not finished
    return aside


def _refuse(path, existing):
    "Raise FileExistsError unless what is at `path` may be there, by `new_folder`'s parameter `existing`"
    if existing not in ("none", "empty", "any"):
        raise ValueError(f"existing = {existing!r}: expected none, empty or any")
    if existing == "any" or not path.exists():
        return
    if existing == "none":
        raise FileExistsError(f"{path} is there already")
    if not path.is_dir() or any(path.iterdir()):
        raise FileExistsError(f"{path.name} is there already and is not empty")


def _listed(folder):
    "What a manifest says of a folder's files: relative path -> bytes and SHA-256"
    listed = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != manifest_name:
            name = file.relative_to(folder).as_posix()
            listed[name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    return listed


def _all_to_disk(folder):
    "Bring a folder, its folders and its files to the disk"
    inside = sorted(folder.rglob("*"))
    files = [p for p in inside if p.is_file()]
    # Eight at a time: the journal of a file system writes many together; one by one, thousands take seconds.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(to_disk, files))  # the list waits for all, and raises what one of them raised
    for inner in inside:
        if inner.is_dir():
            to_disk(inner)
    to_disk(folder)


def _give_name(aside, path):
    "Rename `aside` to `path`, where there is nothing or an empty folder"
    if os.name == "nt" and path.is_dir() and not any(path.iterdir()):
        path.rmdir()  # elsewhere a rename takes an empty folder's place by itself
    try:
        os.rename(aside, path)
    except OSError as e:
        # Another writer came between the last look and this rename. It has won: its folder stays as it is.
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
            raise FileExistsError(f"{path} is there already") from e
        raise


def _take_the_place(aside, path):
    "Rename `aside` to `path`, and remove what stood there"
    # A folder with files cannot be renamed over. For a moment neither is there; a kill in that moment leaves
    # the old one, whole, inside a folder `.old-…` beside its place.
    stash = Path(tempfile.mkdtemp(prefix=".old-", dir=path.parent))
    old = stash / path.name
    try:
        os.rename(path, old)
        os.rename(aside, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)  # the second rename failed: better the old one than none
        if path.exists():
            shutil.rmtree(stash, ignore_errors=True)


# Checkpoints: folders `checkpoint-N` of a run, told apart by N. File times change when a folder is copied.

def checkpoint_number(
    path: str | Path,  # of any file or folder
) -> int | None:  # N of checkpoint-N; None if it is not called so
    "The optimizer step in a checkpoint folder's name"
    match = re.fullmatch(r"checkpoint-(\d+)", Path(path).name)
    return int(match[1]) if match else None


def checkpoint_step(
    path: str | Path,  # a checkpoint's folder
) -> int:  # optimizer steps taken when it was saved
    "The step of a checkpoint, from its trainer_state.json, whatever the folder is called"
    state = json.loads((Path(path) / "trainer_state.json").read_text())
    return state["global_step"]


def checkpoint_folders(
    run: str | Path,  # a run's output_dir
) -> list:  # paths, the lowest number first
    "The folders checkpoint-N of a run, whole or not"
    numbered = [p for p in Path(run).glob("checkpoint-*") if checkpoint_number(p) is not None]
    return sorted(numbered, key=checkpoint_number)  # type: ignore[arg-type]  # all have one


def surplus_checkpoints(
    run: str | Path,  # a run's output_dir
    limit: int | None,  # how many to keep; None or 0 keeps all
    best: str | None,  # path of one that is kept in any case
) -> list:  # paths to remove
    "Checkpoints of a run beyond the newest `limit`, the best one spared"
    if not limit:
        return []
    return [p for p in checkpoint_folders(run)[:-limit] if str(p) != best]


def newest_whole_checkpoint(
    run: str | Path,  # a run's output_dir
) -> tuple:  # its path, or None if there is none; a list of what is wrong with each newer one
    "The checkpoint of the highest number that equals its manifest"
    problems = []
    for path in reversed(checkpoint_folders(run)):
        problem = damage(path)
        if problem is None:
            return path, problems
        problems.append(f"{path.name} ({problem})")
    return None, problems


def move_newer_checkpoints(
    run: str | Path,  # a run's output_dir
    last: int,  # the number up to which checkpoints stay; -1: none stays
) -> Path | None:  # where they are now; None if there was none
    "Move checkpoints beyond number `last`, which another run made, into a new folder earlier-1, -2 and so on"
    newer = [p for p in checkpoint_folders(run) if (checkpoint_number(p) or 0) > last]
    if not newer:
        return None
    place = 1
    while (Path(run) / f"earlier-{place}").exists():
        place += 1
    folder = Path(run) / f"earlier-{place}"
    folder.mkdir()
    for path in newer:
        os.rename(path, folder / path.name)
    print(f"{len(newer)} checkpoints of an earlier run moved to {folder.name}")
    return folder
