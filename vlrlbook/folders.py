"""Files and folders that are there whole or not at all: written under a hidden name, renamed when complete.

Everything that is kept goes the same way: it is written under a hidden name, gets a `manifest.json`, is
brought to the disk, and is renamed once. `new_folder` and `new_file` do this; `damage` tells whether a folder
still is as it was committed; the functions on checkpoints read a run's `checkpoint-N` folders by number.
Written by hand, with nothing but Python's own library, so that a process that must start fast, such as a
job's supervisor, can use this too.

What a killed writer leaves has a hidden name, `.NAME-` and eight random letters, beside its target. No
reader here takes such a name for a result, and `remove_leftovers` clears it away."""
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

__all__ = ["manifest_name", "new_file", "write_whole", "write_json", "finite", "unused_key", "new_folder",
           "commit_folder", "damage", "free_bytes", "sha256_of", "read_header", "to_disk", "leftovers",
           "remove_leftovers",
           "checkpoint_number", "checkpoint_step", "checkpoint_folders", "surplus_checkpoints",
           "newest_whole_checkpoint", "move_newer_checkpoints", "move_earlier_run"]

manifest_name = "manifest.json"  # in a committed folder: path of each file -> its bytes and SHA-256
# A hidden name repeats its file's name if that has at most so many bytes. File systems allow 255 in all.
_longest_repeated = 200
header_length = struct.Struct("<Q")  # a safetensors file begins with the length of its JSON header


# Files

@contextmanager
def new_file(
    path: str | Path,  # the file's name once it is complete; a file of that name is replaced, a link followed
    durable: bool = True,  # bring it to the disk before the rename; False where it can be made again
):
    """Yield a hidden path to write to; it is renamed to `path` when the block ends without an error

    After an error it is removed, and a file that was at `path` before is still there. What is no file, such
    as /dev/null, /dev/stdout or a named pipe, is written into at the end, and stays what it is."""
    path = Path(path)
    if _takes_a_stream(path):
        with _copied_into(path) as aside:
            yield aside
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _linked_file(path)  # `path`, or where it leads if it is a link
    # `_hidden_prefix` returns `.NAME-`; mkstemp adds random letters
    handle, name = tempfile.mkstemp(prefix=_hidden_prefix(target), dir=target.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(_permissions_of(target))  # mkstemp makes files that only their owner can read
        if durable:
            to_disk(aside)
        os.replace(aside, target)
    finally:
        # After the rename there is nothing to remove. After an error or Ctrl-C half a file must not stay.
        aside.unlink(missing_ok=True)


def _linked_file(path):
    """Return the path to which `new_file` renames a new file: where a link leads, or a path that is no link

    A rename to the link itself would replace the link, and not the file to which it leads."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        message = f"a link into a folder that is not there, {target.parent}"
        raise FileNotFoundError(errno.ENOENT, message, str(path))
    return target


def _permissions_of(path):
    "Return the permissions of the file at `path`, for the one that replaces it; of a new one as umask says"
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask():
    "Return the permissions that this process takes away from new files and folders"
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        status = ""
    umask_line = re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)
    if umask_line:
        return int(umask_line[1], 8)
    # Elsewhere it can only be read by setting another. A strict one (nothing for others), since another
    # thread may make a file before the old one is back.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _takes_a_stream(path):
    "Return True if a path leads to a device, pipe or socket, or to an open file of this process: /dev/stdout"
    try:
        mode = path.stat().st_mode  # a link is followed
    except OSError:  # nothing is there yet
        return False
    is_file_or_folder = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    # After `python … > log.txt` /dev/stdout leads to a file, but is to be written to, not replaced.
    return not is_file_or_folder or _own_handle(path) is not None


@contextmanager
def _copied_into(path):
    "Yield a temporary file to write to; its bytes go into a device or pipe when the block ends without error"
    # Not beside the device: only root may make files in /dev.
    with tempfile.TemporaryDirectory(prefix="vlrlbook-") as folder:
        aside = Path(folder) / "stream"
        aside.touch()
        yield aside
        number = _own_handle(path)
        if number is None:
            handle = os.open(path, os.O_WRONLY)
        else:  # opened anew it would begin at its first byte, over what was printed already
            print(end="", flush=True)
            handle = os.dup(number)
        with open(aside, "rb") as source, open(handle, "wb") as stream:
            shutil.copyfileobj(source, stream)


def _own_handle(path):
    "Return the file descriptor of this process that a path leads to: 1 for /dev/stdout; None for any other"
    # On Linux this folder has a link for each open file, named by its descriptor: /dev/stdout leads to its 1.
    descriptors = os.path.realpath("/proc/self/fd")
    for _ in range(40):  # Linux follows no more links in a row
        folder = os.path.realpath(path.parent)
        if folder == descriptors and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            return None
        # One link at a time: the link 1 itself would lead on, to a terminal or a file.
        path = Path(folder, os.readlink(path))
    return None


def write_whole(
    path: str | Path,  # file to write; folders above it are made
    text: str,  # its content
):
    "Write a text file so that a reader sees the old file or the new one, never half of it"
    content = text.encode("utf-8")  # first, so that a text that cannot be encoded changes no file
    with new_file(path) as aside:
        aside.write_bytes(content)


def write_json(
    path: str | Path,  # file to write
    content,  # anything JSON can hold; NaN and infinities become null
):
    "Write `content` as indented JSON; a reader sees the old file or the new one, never half of it"
    # `finite` makes None of NaN and infinities, which JSON does not have
    text = json.dumps(finite(content), indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def finite(
    x,  # anything JSON can hold, also with NumPy's numbers in it
):  # the same, without what JSON cannot hold
    """Return `x` in a form that JSON can hold

    NaN and infinities become None, tuples become lists, and NumPy's numbers become Python's. Keys become
    texts; where two become equal, the second is numbered: {1: 0.5, "1": 0.7} gives "1" and "1 (2)"."""
    if isinstance(x, dict):
        written: dict = {}
        for key, value in x.items():
            written[unused_key(str(key), written)] = finite(value)
        return written
    if isinstance(x, (list, tuple)):
        return [finite(value) for value in x]
    # NumPy is not imported here, which would be slow: `x` can hold its numbers only if somebody has done so.
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(x, numpy.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def unused_key(
    key: str,  # for a new entry of a dict
    taken: dict,  # the dict, or anything that tells by `in` which keys there are
) -> str:  # the key, or with a number behind it
    "Return `key`, or where it is taken the first of `key (2)`, `key (3)` and so on that is not"
    unused, number = key, 1
    while unused in taken:
        number += 1
        unused = f"{key} ({number})"
    return unused


# Folders

@contextmanager
def new_folder(
    path: str | Path,  # the folder's name once it is complete; folders above it are made, and stay
    existing: str = "empty",  # what may be there: "none", "empty" (a folder without files), "any" (replaced)
    manifest: bool = True,  # put manifest.json into it, for `damage`
    durable: bool = True,  # bring it all to the disk before the rename; False where it can be made again
    mode: int | None = 0o777,  # permissions of the finished folder, less the umask's; None leaves them
    aside: str | Path | None = None,  # where to write, on the same disk; None: a new hidden folder beside it
    part: str = None,  # name of the folder inside `aside` that is committed; None: all of `aside`
):
    """Yield a hidden folder to write into; it is renamed to `path` when the block ends without an error

    After an error it is removed, and what was at `path` before is still there."""
    path = Path(path)
    _refuse(path, existing)  # FileExistsError if something is at `path` that must not be replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    # A caller names `aside` itself where, for example, several processes write into it.
    aside = _hidden_folder(path) if aside is None else _emptied_folder(Path(aside))
    try:
        yield aside
        # `part`: some libraries insist on making their folder themselves, inside `aside`.
        finished = aside if part is None else aside / part
        if mode is not None:
            finished.chmod(mode & ~_umask())  # a new hidden folder is closed to other users
        _refuse(path, existing)  # again, since another process may have made the folder in the meantime
        commit_folder(finished, path, manifest=manifest, durable=durable, replace=existing == "any")
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # all that was not renamed


def commit_folder(
    aside: str | Path,  # a finished folder under another name, on the same disk
    path: str | Path,  # its name from now on
    manifest: bool = True,  # put manifest.json into it, for `damage`
    durable: bool = True,  # bring its files, the folder and its new name to the disk
    replace: bool = True,  # remove what is at `path`; False: FileExistsError if that holds anything
):
    "Rename a finished folder to `path`; before that write its manifest and bring all to the disk"
    aside, path = Path(aside), Path(path)
    if manifest:
        write_json(aside / manifest_name, _listed(aside))  # each file's size and SHA-256
    if durable:
        _all_to_disk(aside)
    # Both rename. The first replaces the folder at `path`; the second raises if that holds anything.
    if replace and path.exists():
        _take_the_place(aside, path)
    else:
        _give_name(aside, path)
    if durable:
        to_disk(path.parent)  # the parent folder holds the new name


def damage(
    path: str | Path,  # a folder
) -> str | None:  # the first thing that is wrong with it; None if it is as it was committed
    "Compare a committed folder with its manifest; return what is wrong, such as a file of another size"
    path = Path(path)
    try:
        manifest = json.loads((path / manifest_name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {manifest_name}"
    except (OSError, ValueError):
        return f"{manifest_name} cannot be read"
    if not _is_manifest(manifest):
        return f"{manifest_name} is no list of files"
    for name, listed in manifest.items():  # path inside the folder -> its bytes and sha256
        problem = _damage_of_file(path, name, listed)
        if problem:
            return problem
    return None


def _damage_of_file(
    folder,  # where the file is
    name,  # its path inside the folder
    listed,  # what the folder's manifest says of it: {bytes: its size, sha256: 64 hexadecimal digits}
):
    "What is wrong with a file, such as `model.bin is missing`; None if size and content are as listed"
    if not (folder / name).is_file():
        return f"{name} is missing"
    # The size comes before the content: it is quick to read, and most damaged files are cut short.
    size = (folder / name).stat().st_size
    if size != listed["bytes"]:
        return f"{name} has {size} bytes, not {listed['bytes']}"
    if sha256_of(folder / name) != listed["sha256"]:
        return f"{name} has other content"
    return None


def _is_manifest(
    content,  # of a JSON file, such as {"model.bin": {"bytes": 12, "sha256": "5f70…"}}
):
    "Return True if parsed JSON has the form of a manifest: each file's name -> its bytes and SHA-256"
    if not isinstance(content, dict):
        return False
    for listed in content.values():
        if not isinstance(listed, dict) or not {"bytes", "sha256"} <= set(listed):
            return False
    return True


def sha256_of(
    path: str | Path,  # a file of any size
) -> str:  # 64 hexadecimal digits
    "Return the SHA-256 of a file as text; the file is read in pieces"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(
    path: str | Path,  # a safetensors file
) -> tuple:  # (tensor -> {dtype, shape, data_offsets}, and __metadata__; place of the first number)
    "Read the table at the beginning of a safetensors file: where each tensor lies and of which type it is"
    # the file: the header's length (8 bytes), the header (JSON), then the numbers of all tensors
    path = Path(path)
    with open(path, "rb") as f:
        beginning = f.read(header_length.size)
        if len(beginning) < header_length.size:
            raise _no_safetensors(path, beginning)
        (length,) = header_length.unpack(beginning)
        # Before it is read: the first bytes of another file would be the length of a header of petabytes.
        if length > path.stat().st_size - header_length.size:
            raise _no_safetensors(path, beginning)
        try:
            return json.loads(f.read(length)), header_length.size + length
        except ValueError as error:  # no UTF-8, or no JSON
            raise _no_safetensors(path, beginning) from error


def _no_safetensors(path, beginning):
    "A ValueError about a file that is called .safetensors and is none; `beginning`: its first 8 bytes"
    why = "it is cut short, or of another format"
    if beginning == b"version ":  # of a text of three lines that stands for the file
        why = "git has left a pointer in its place; run git lfs pull there"
    return ValueError(f"{path}: no safetensors file: {why}")


def free_bytes(
    path: str | Path,  # a file or folder that is there
) -> int:
    "Return how many bytes an ordinary user can still write to the disk on which `path` lies"
    disk = os.statvfs(path)  # not on Windows
    return disk.f_bavail * disk.f_frsize  # free blocks × bytes of a block


def to_disk(
    path: str | Path,  # a file or a folder
):
    "Write a file, or the names in a folder, from the system's memory to the disk now (fsync)"
    windows = os.name == "nt"
    if windows and Path(path).is_dir():
        return  # Windows has no such call for folders
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # Windows wants a file open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def leftovers(
    path: str | Path,  # a file or folder that `new_file` or `new_folder` writes
) -> list:  # paths of hidden files and folders beside it
    """Return the hidden files and folders that killed writers of `path` have left

    Those of a writer that is still at work look the same."""
    path = Path(path)
    if path.is_symlink() and not path.is_dir():  # a new file is written beside the one that a link leads to
        path = Path(os.path.realpath(path))
    # A hidden name is `.NAME-` and the eight random letters of Python's tempfile. A file of a user, such as
    # `.NAME-backup`, must not be taken for one; nor a hidden name of NAME-2, which has a hyphen more.
    hidden_name = re.compile(re.escape(_hidden_prefix(path)) + "[a-z0-9_]{8}")
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if hidden_name.fullmatch(p.name))


def remove_leftovers(
    path: str | Path,  # a file or folder of `new_file` or `new_folder` that nobody is writing now
):
    "Remove the hidden files and folders that killed writers of `path` have left behind"
    for leftover in leftovers(path):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _hidden_prefix(path):
    """Return `.NAME-`, with which the hidden names begin under which `path` is written

    tempfile adds eight random letters and no hyphen, so the hidden names of NAME and NAME-2 always differ."""
    name = path.name
    in_bytes = os.fsencode(name)
    # A name may have 255 bytes in all, and the random letters need some. In place of a long name stand its
    # beginning and, since other names may begin alike, a hash of all of it.
    if len(in_bytes) > _longest_repeated:
        begin = name[:_longest_repeated // 4]  # in characters, each of at most four bytes
        name = f"{begin}~{hashlib.sha256(in_bytes).hexdigest()[:16]}"
    return f".{name}-"


def _hidden_folder(path):
    "A new hidden folder beside `path`, so on the same disk: a rename from one disk to another is impossible"
    return Path(tempfile.mkdtemp(prefix=_hidden_prefix(path), dir=path.parent))


def _emptied_folder(aside):
    "Make the folder `aside` anew and return it; what a killed writer left in it is removed"
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(mode=0o700, parents=True)  # as mkdtemp makes folders: nobody else can read unfinished files
    return aside


def _refuse(
    path,  # where a folder is to be made
    existing,  # "none": nothing may be there; "empty": an empty folder may; "any": everything may
):
    "Raise FileExistsError if something is at a path that may not be there"
    if existing not in ("none", "empty", "any"):
        raise ValueError(f"existing = {existing!r}: expected none, empty or any")
    if existing == "any" or not path.exists():
        return
    if existing == "none":
        raise FileExistsError(f"{path} is there already")
    if not path.is_dir() or any(path.iterdir()):
        raise FileExistsError(f"{path.name} is there already and is not empty")


def _listed(folder):
    "Return the content of a folder's manifest: relative path of each file -> its bytes and SHA-256"
    listed = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != manifest_name:  # the manifest cannot list itself
            name = file.relative_to(folder).as_posix()
            listed[name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    return listed


def _all_to_disk(folder):
    "Bring a folder, its folders and its files to the disk (fsync)"
    inside = sorted(folder.rglob("*"))
    files = [p for p in inside if p.is_file()]  # files first, so that no name is on the disk without content
    # Eight at a time, because a file system writes several together: thousands one by one would take seconds.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(to_disk, files))  # the list waits for all, and raises what one of them raised
    # Then the folders: fsync of a file does not bring its name, which stands in its folder, to the disk.
    for inner in inside:
        if inner.is_dir():
            to_disk(inner)
    to_disk(folder)


def _give_name(
    aside,  # a finished folder
    path,  # its name from now on, on the same disk: nothing is there, or an empty folder
):
    """Rename a finished folder

    FileExistsError where another process has made a folder of that name in the meantime."""
    if os.name == "nt" and path.is_dir() and not any(path.iterdir()):
        path.rmdir()  # on other systems a rename replaces an empty folder by itself
    try:
        os.rename(aside, path)
    except OSError as e:
        # Another writer made the folder just before this rename. Its folder stays as it is. (Which of the
        # three numbers comes depends on the system, and on whether a file or a folder is there.)
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
            raise FileExistsError(f"{path} is there already") from e
        raise


def _take_the_place(
    aside,  # a finished folder
    path,  # its name from now on; a folder is there
):
    "Rename a finished folder to a name that another folder has, and remove that one"
    # A folder cannot be renamed over one that holds files, so the old one first moves into a hidden folder.
    # A process that is killed between the two renames leaves it there, complete.
    # No `-` in the prefix: `remove_leftovers` of a folder called `old` would take `.old-` for its own.
    hidden_folder = Path(tempfile.mkdtemp(prefix=".old.", dir=path.parent))
    old = hidden_folder / path.name
    try:
        os.rename(path, old)
        os.rename(aside, path)
    finally:
        second_rename_failed = old.exists() and not path.exists()
        if second_rename_failed:
            os.rename(old, path)  # as it was before
        if path.exists():  # else the hidden folder holds the only one there is
            shutil.rmtree(hidden_folder, ignore_errors=True)


# Checkpoints: folders `checkpoint-N` of a run, told apart by N. File times change when a folder is copied.

def checkpoint_number(
    path: str | Path,  # of any file or folder
) -> int | None:  # N of checkpoint-N; None if it is not called so
    "Return the optimizer step in the name of a checkpoint's folder: 40 for checkpoint-40"
    match = re.fullmatch(r"checkpoint-(\d+)", Path(path).name)
    return int(match[1]) if match else None


def checkpoint_step(
    path: str | Path,  # a checkpoint's folder
) -> int:  # optimizer steps taken when it was saved
    "Return the step at which a checkpoint was saved, from its trainer_state.json and not from its name"
    state = json.loads((Path(path) / "trainer_state.json").read_text())
    return state["global_step"]  # transformers' name for it


def checkpoint_folders(
    run: str | Path,  # a run's output_dir
) -> list:  # paths, the lowest number first
    "Return the folders checkpoint-N of a run by their number, complete or not"
    numbered = [p for p in Path(run).glob("checkpoint-*") if checkpoint_number(p) is not None]
    return sorted(numbered, key=checkpoint_number)  # type: ignore[arg-type]  # all have a number


def surplus_checkpoints(
    run: str | Path,  # a run's output_dir
    limit: int | None,  # how many to keep; None or 0 keeps all
    best: str | None,  # path of one that is kept in any case
) -> list:  # paths to remove
    "Return the checkpoints that are to be removed: all but the newest `limit` and the best one"
    if not limit:
        return []
    best_path = Path(best).resolve() if best else None  # `run` may be relative, and `best` not
    # the lowest number, the oldest, comes first
    return [p for p in checkpoint_folders(run)[:-limit] if p.resolve() != best_path]


def newest_whole_checkpoint(
    run: str | Path,  # a run's output_dir
) -> tuple:  # its path, or None if there is none; a list of what is wrong with each newer one
    "Find the checkpoint with the highest number whose files still are as its manifest says"
    problems = []
    for path in reversed(checkpoint_folders(run)):
        problem = damage(path)  # what differs from the manifest, such as a missing file; None if nothing does
        if problem is None:
            return path, problems
        problems.append(f"{path.name} ({problem})")
    return None, problems


def move_newer_checkpoints(
    run: str | Path,  # a run's output_dir
    last: int,  # the number up to which checkpoints stay; -1: none stays
) -> Path | None:  # where they are now; None if there was none
    """Move checkpoints with a number above `last` into a new folder earlier-1, or -2 and so on

    An earlier run in the same folder has made them; left there, they would be taken for this run's."""
    checkpoints = checkpoint_folders(run)  # only folders checkpoint-N: each has a number
    newer = [p for p in checkpoints if checkpoint_number(p) > last]  # type: ignore[operator]  # never None
    if not newer:
        return None
    folder = _new_numbered(Path(run), "earlier")
    for path in newer:
        os.rename(path, folder / path.name)
    print(f"{len(newer)} checkpoints of an earlier run moved to {folder.name}")
    return folder


def move_earlier_run(
    run: str | Path,  # a run's output_dir
    files: list,  # what else the earlier run has left there: paths in `run` of files or folders
    needed: list | tuple = (),  # those of `files` that the new run reads: they are copied, and stay too
) -> Path | None:  # where it all is now; None if there was nothing
    """Move an earlier run's checkpoints and files together into a new folder earlier-1, or -2 and so on

    What is in a run's folder must come from one run: a log beside another run's results would be taken for
    that of these results, and a checkpoint could not be resumed without the settings it began with."""
    checkpoints = checkpoint_folders(run)
    others = [path for path in map(Path, files) if path.exists()]
    if not checkpoints and not others:
        return None
    folder = _new_numbered(Path(run), "earlier")
    stay = set(map(Path, needed))
    # Files come last: if the process is killed in between, no checkpoint is left without its settings.
    for path in (*checkpoints, *others):
        if path not in stay:
            os.rename(path, folder / path.name)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy2(path, folder / path.name)
    print(f"{len(checkpoints)} checkpoints and {len(others)} files of an earlier run moved to {folder.name}")
    return folder


def _new_numbered(folder, name):
    "Make the first of the folders NAME-1, NAME-2 and so on where nothing is, and return its path"
    number = 1
    while True:
        new = folder / f"{name}-{number}"
        try:
            new.mkdir()  # not `exists` first: another process may make the folder in between
            return new
        except FileExistsError:
            number += 1
