"""Which file system holds a folder: the ledger must not lie on a network disk.

Written by hand, not exported from a notebook."""
import re
from pathlib import Path

__all__ = ["network_systems", "file_system"]

# Types in /proc/self/mountinfo whose files may be open on several machines. SQLite's write-ahead log shares
# memory between the processes that use it, and memory is not shared between machines.
network_systems = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "virtiofs")

mount_point_field = 4  # of a line of mountinfo, counted from 0: see proc(5)


def file_system(
    path: str | Path,  # a folder that exists
    mountinfo: str = None,  # text of /proc/self/mountinfo; None reads that file
) -> str:  # such as ext4; "unknown" if no mount point holds the folder
    "The type of the file system that holds `path`, by Linux's list of mounts"
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    resolved = Path(path).resolve()
    system_type, longest = "unknown", -1  # `longest`: characters of the best mount point so far
    for line in text.splitlines():
        mount_point, type_of_mount = _mount_of(line)
        # Mounts are nested: the longest mount point above the folder is the one that holds it.
        # ">=": of several mounts on one point the last hides the others, as where an automounter
        # has put NFS over its autofs.
        is_above = resolved.is_relative_to(mount_point)
        if is_above and len(mount_point) >= longest:
            system_type, longest = type_of_mount, len(mount_point)
    return system_type


def _mount_of(line):
    """The mount point and the file system's type in a line of /proc/self/mountinfo.

    `36 25 8:2 / /home rw shared:1 - ext4 /dev/sda2 rw` → ("/home", "ext4")"""
    words = line.split()
    mount_point = without_escapes(words[mount_point_field])  # the kernel writes a space as \040
    # Any number of optional fields stands before a lone "-"; the type is the word behind it.
    type_field = words.index("-") + 1
    return mount_point, words[type_field]


def without_escapes(
    mount_point: str,  # as mountinfo writes it
) -> str:  # the path itself
    r"A path of mountinfo, where a space is written as \040 and other special characters likewise"
    return re.sub(r"\\([0-7]{3})", _character_of_escape, mount_point)


def _character_of_escape(match):
    r"The character of an octal escape that a regular expression found: \040 → a space"
    return chr(int(match[1], 8))
