"""job.log: what a trainer printed, kept as far as the disk allows.

A log is worth less than a run, so a full disk costs lines and never stops the trainer. Written by hand, not
exported from a notebook."""
import errno
import os
from pathlib import Path

__all__ = ["Log", "last_line_of"]

largest_log = 16 * 2**20  # bytes of job.log; the file before it is kept as job.log.1
remembered_bytes = 16384  # of the end of the log, for the verdict on the attempt
disk_is_full = (errno.ENOSPC, errno.EDQUOT)


class Log:
    "job.log: a full disk costs lines, never the run; beyond `most` bytes the older half goes"

    def __init__(self,
        path: str | Path,  # appended to
        most: int = largest_log,  # bytes of the file; a full one is renamed to job.log.1
    ):
        "Prepare to write; the file is opened by each `write`"
        self.path = Path(path)
        self.most = most
        self.lost = 0  # bytes that did not fit on the disk, and that the log does not yet report as lost
        # The last bytes given to `write`, lost ones too: from them the supervisor tells why a job failed.
        self.tail = b""

    def write(self,
        data: bytes,  # what the trainer wrote
    ):
        """Append to the file, and remember the last bytes in `tail`.

        On a full disk the bytes are lost and counted; any other OSError is raised."""
        self.tail = (self.tail + data)[-remembered_bytes:]
        try:
            self._start_new_file_if_full(len(data))
            # Opened and closed each time, so that no bytes are lost if this process is killed.
            with open(self.path, "ab") as file:
                file.write(self._note_of_loss() + data)
        except OSError as e:
            if e.errno not in disk_is_full:
                raise
            self.lost += len(data)
        else:
            self.lost = 0  # the note of lost bytes, if there were any, is now in the file

    def _start_new_file_if_full(self,
        byte_count: int,  # how many bytes will be appended
    ):
        "Rename job.log to job.log.1, over the older one, if `byte_count` bytes more would make it too large"
        if self.path.exists() and self.path.stat().st_size + byte_count > self.most:
            os.replace(self.path, f"{self.path}.1")

    def _note_of_loss(self):
        "The line that the log holds in the place of lost bytes; empty if none were lost"
        if not self.lost:
            return b""
        return f"\n[{self.lost} bytes lost: the disk was full]\n".encode()


def last_line_of(
    path: str | Path,  # of a log
) -> str:  # without blanks around it; "" if there is none
    "Return the last line of a log that is not empty, or nothing if the file is missing or cannot be read"
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # Only the last 16 KiB are read, since a log may be large; of a longer line its end is returned.
            file.seek(max(0, size - remembered_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
