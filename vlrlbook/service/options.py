"""Settings of the service: options of `vlrlbook serve`, and parameters of the page of chapter 08.

Written by hand, not exported from a notebook."""
from dataclasses import dataclass
from pathlib import Path

from ..jobs import gpu_count
from ..settings import SettingsError, nearest

__all__ = ["ServiceSettings"]

_more_than_zero = ("slots", "max_queued", "grace", "upload_mb", "quota_gb", "uploads_at_once",
                   "stall_seconds", "intake_seconds", "intake_mb", "streams")
_this_machine = ("127.0.0.1", "::1", "localhost")  # addresses that no other machine can reach


@dataclass
class ServiceSettings:
    "Settings of the service; `vlrlbook serve` takes them as options"
    host: str = "127.0.0.1"  # address to listen on; any other than this machine's own needs a token
    port: int = 8000  # 0 lets the system choose
    data_dir: str = "vlrlbook-data"  # uploads, jobs, ledger and token lie here
    token: bool = True  # false (or --no-token) lets anyone on this machine in; refused on other addresses
    allowed_hosts: str = ""  # further host names under which people reach the server, parted by commas
    size: str = None  # tiny or gpu; None: gpu where there is one
    slots: int = 1  # jobs that train at the same time
    backend: str = "local"  # where jobs run
    max_queued: int = 200  # jobs that may wait
    on_exit: str = "keep"  # keep: jobs train on when the server stops; interrupt: they save and stop
    grace: float = 10.0  # seconds a job has to save and stop
    upload_mb: int = 2048  # most of one upload
    quota_gb: float = 20.0  # all uploads together
    reserve_mb: int = 64  # of the disk that uploads leave free
    uploads_at_once: int = 8  # being received or read; more are asked to wait
    stall_seconds: float = 30.0  # an upload that sends nothing for so long is dropped
    intake_seconds: int = 300  # to read one archive
    intake_mb: int = 4096  # of memory to read one archive
    streams: int = 200  # of events at once
    adopt: bool = False  # true: make a new ledger where it was lost, and list the jobs that lie there
    reward_model: str = None  # directory of a reward model that POST /rank asks; None: there is no ranking
    keep_days: float = 30.0  # uploads that no job needs and ended jobs are removed after that; 0 keeps all

    def check(self):
        "Raise one SettingsError that names every setting that is impossible or would let strangers in"
        problems = [text for is_broken, text in self._rules() if is_broken]
        if problems:
            raise SettingsError("; ".join(problems))

    def _rules(self):
        """Yield a pair for each rule: (whether it is broken, the message for the user).

        The messages are made even where the rule is kept; `check` picks those of the broken rules."""
        yield from self._rules_for_numbers()
        if self.size is not None:  # None: gpu where there is one
            sizes = ["tiny", "gpu"]
            yield self.size not in sizes, f"size = {self.size!r}{nearest(str(self.size), sizes)}"
        # `nearest` ends a message with ": did you mean …?" or with the list of all choices.
        choices = ["keep", "interrupt"]
        yield self.on_exit not in choices, f"on_exit = {self.on_exit!r}{nearest(str(self.on_exit), choices)}"
        folder = self.reward_model
        is_no_model = bool(folder) and not Path(folder or "", "reward_model.json").is_file()
        message = "no reward_model.json there, so this is no reward model"
        yield is_no_model, f"reward_model = {folder!r}: {message}"
        # Everybody in the network who reaches the address could train and download: nothing but the token
        # keeps them out.
        is_open = self.host not in _this_machine and not self.token
        yield is_open, f"host = {self.host!r} without a token: only this machine may do without one"

    def _rules_for_numbers(self):
        "Yield a pair for each rule about numbers: (whether it is broken, the message for the user)"
        for name in _more_than_zero:  # names of settings, such as slots and upload_mb
            value = getattr(self, name)
            yield value <= 0, f"{name} = {value}: expected more than 0"
        yield not 0 <= self.port < 65536, f"port = {self.port}: expected 0 to 65535"
        yield self.keep_days < 0 or self.reserve_mb < 0, "keep_days and reserve_mb: expected 0 or more"

    @property
    def trains(self) -> str:
        "What the server trains: tiny or gpu, as `size` says or as this machine can"
        if self.size:
            return self.size
        # Asking torch would import it, which takes seconds and a gigabyte.
        return "gpu" if gpu_count() else "tiny"
