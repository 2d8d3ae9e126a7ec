"""The command `vlrlbook serve`: socket, token, log, a greeting, and uvicorn with a clock for headers.

Written by hand, not exported from a notebook."""
import asyncio
import contextlib
import logging
import os
import re
import resource
import secrets
import shlex
import signal
import socket
import sys
from pathlib import Path

from ..settings import SettingsError
from .app import create_app
from .log_lines import JsonLines, logger
from .options import ServiceSettings

__all__ = ["own_token", "listen", "patient", "serve"]

_possible_token = re.compile(r"[!-~]{1,200}")  # characters that a header can carry
_rights_of_others = 0o077  # of a file
_waiting_connections = 2048  # that the system holds until the application is ready
_most_open_files = 65536  # asked for, though the system may allow a thousand times as many
_keep_alive_seconds = 75  # a connection that has asked before may be idle for so long
_shutdown_seconds = 3  # uvicorn waits for replies on SIGTERM; an upload that stands still has no more


def own_token(
    data_dir: str | Path,  # of the server
) -> str:  # as the file holds it; one that is drawn here has 43 characters
    """Return the token in the data directory; draw one if there is none yet.

    Only the owner of its file can read it."""
    path = Path(data_dir) / "token"
    if path.exists():
        token = _token_in(path)  # empty if the file is
        if token:
            return token
    token = secrets.token_urlsafe(32)  # 32 random bytes
    _write_privately(path, token)
    return token


def _write_privately(
    path,  # of the file for the token
    token,  # a text of ASCII
):
    "Write the token into its file, whole or not at all, readable for its owner only"
    temporary = path.with_name(f".token-{secrets.token_hex(8)}")  # a name that no other server takes
    # Created with its final rights (0o600): with a later chmod others could read it before that.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _token_in(path):
    """Read the token in the file at `path`, and take from others the right to read it, if they have it.

    Returns an empty text if the file is empty, as it may be after a power cut. Raises a SettingsError if it
    holds no token."""
    if not path.is_file():
        message = f"{path.name} in the data directory is no file: move it away, and a token is drawn"
        raise SettingsError(message)
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if not token:
        logger.warning("the file of the token was empty: a new token is drawn")
        return ""
    # The token is sent in a header, which carries printable ASCII only.
    if not _possible_token.fullmatch(token):
        message = (f"{path.name} in the data directory holds no token (letters, digits and signs on one "
                   "line): move it away, and one is drawn")
        raise SettingsError(message)
    _take_rights_from_others(path)
    return token


def _take_rights_from_others(path):
    "Make the file of the token readable for its owner only, with a warning in the log if it was not"
    if path.stat().st_mode & _rights_of_others:
        logger.warning(
            "others could read the file of the token: now they cannot; move it away for a new token")
        path.chmod(0o600)


def listen(
    host: str,  # address
    port: int,  # 0: any that is free
) -> socket.socket:  # bound, and taking connections
    "Open a socket for TCP connections to `host` and `port`; a SettingsError says why that cannot be"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # IPPROTO_TCP must be given: otherwise asyncio does not set TCP_NODELAY, and the second piece of a
        # reply comes 40 ms late.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # Without this option the port stays taken for a minute after a server has ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        # Begun before the application is ready: a client that connects early waits, and is not refused.
        sock.listen(_waiting_connections)
        return sock
    except OSError as error:
        # Most often: another server has taken the port.
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def patient(
    seconds: float,  # for the headers of a request
):  # a protocol class for uvicorn
    """Make a subclass of uvicorn's HTTP protocol that closes a connection whose headers do not come in time.

    uvicorn itself waits for the rest of a request's headers for ever, so a thousand unfinished requests would
    hold a thousand connections."""
    # Reads `conn`, `cycle`, `loop` and `transport` of uvicorn 0.35 to 0.54. If it changes one of them,
    # test_half_a_request_does_not_stay_for_ever fails.
    from uvicorn.protocols.http.h11_impl import H11Protocol, h11

    class Patient(H11Protocol):
        timer: asyncio.TimerHandle | None = None  # closes the connection; None while no headers are awaited

        def connection_made(self, transport):
            super().connection_made(transport)
            self.update_timer()

        def data_received(self, data):
            super().data_received(data)
            self.update_timer()  # stopped, once all headers are here

        def connection_lost(self, exc):
            super().connection_lost(exc)
            if self.timer:
                self.timer.cancel()

        def update_timer(self):
            "Start the timer if the headers of a request are awaited, `seconds` at most; else stop it"
            # IDLE: h11's state of a client until all headers of its next request have come. While it gets a
            # reply, it need not send any.
            is_waiting = self.conn.their_state is h11.IDLE and not _is_answering(self)
            if is_waiting and self.timer is None:
                self.timer = self.loop.call_later(seconds, self.transport.close)
            elif not is_waiting and self.timer:
                self.timer.cancel()
                self.timer = None

    return Patient


def _is_answering(protocol):
    "Tell whether a connection, an H11Protocol of uvicorn, has a request whose reply is not sent to its end"
    cycle = protocol.cycle  # uvicorn's object for the last request and its reply; None before the first
    return cycle is not None and not cycle.response_complete


def serve(
    settings: ServiceSettings,  # checked
):
    """Run the service until SIGTERM or Ctrl-C.

    Prints where it listens, where its data lie and how to stop it; a SettingsError if it cannot start."""
    data_dir = _made_data_dir(settings)
    _log_as_json()  # before anything that may log
    sock = listen(settings.host, settings.port)  # before the jobs: if the port is taken, none is touched
    jobs = _jobs_for(settings)
    _allow_many_files()  # each connection is an open file
    with _refusing_in_a_sentence(settings):  # errors about the data directory become a SettingsError
        token = own_token(data_dir) if settings.token else None  # read from its file, or drawn
        app = create_app(settings, jobs, token)

    service = app.state.service
    test_command = os.environ.get("VLRLBOOK_TRAINER")  # set by tests, in place of the real trainer
    if test_command:
        service.command = shlex.split(test_command)
    port = sock.getsockname()[1]  # (host, port, …); the system has chosen it if the settings say 0
    _greet(settings, port, token, service.size)
    _uvicorn_for(app, settings).run(sockets=[sock])
    print(_goodbye(settings.on_exit, service.stopped_jobs, settings.grace), flush=True)


def _goodbye(
    on_exit,  # keep or interrupt
    stopped_jobs,  # dict of numbers: saved, killed, running; None: the server did not wait to see
    grace,  # seconds from the order to stop until a job is killed
):
    "The line that says what becomes of the jobs now that the server has stopped"
    if on_exit == "keep":
        return "stopped; jobs that train go on, and are found again at the next start"
    words = dict(
        saved="saved and wait",
        killed=f"killed before they had saved, {grace:g} s after the order (--grace)",
        running=f"still at work: each has {grace:g} s in all to save, then it is killed")
    if stopped_jobs is None:  # after a second Ctrl-C
        return "stopped at once; the next start finds what has become of the jobs"
    parts = [f"{stopped_jobs[name]} {what}" for name, what in words.items() if stopped_jobs[name]]
    return f"stopped; jobs that trained: {'; '.join(parts)}" if parts else "stopped; no job was interrupted"


def _made_data_dir(settings):
    "Make the data directory if it is not there, and return its path; a SettingsError if that cannot be done"
    data_dir = Path(settings.data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"{settings.data_dir} cannot be the data directory: {error.strerror}") from error
    return data_dir


def _uvicorn_for(
    app,  # the FastAPI application; app.state.service is the `Service` behind it
    settings,  # `ServiceSettings`: stall_seconds, in which the headers of a request must come
):
    """Make uvicorn's server for the application.

    When it is asked to stop, it first tells the open streams of events, so that they end by themselves."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame):
            # Replaces uvicorn's method (0.54) without calling it. That one also keeps the signal, and uvicorn
            # raises it again once it has stopped: the process would end before `serve` prints its last line.
            is_second_ctrl_c = self.should_exit and sig == signal.SIGINT
            self.force_exit = is_second_ctrl_c
            self.should_exit = True
            app.state.service.stopping.set()  # ends the streams of events

    config = uvicorn.Config(
        app,
        http=patient(settings.stall_seconds),  # closes connections whose requests do not come in time
        timeout_keep_alive=_keep_alive_seconds,
        timeout_graceful_shutdown=_shutdown_seconds,
        log_config=None,  # it would replace our JSON lines
        access_log=False,  # our middleware `Doors` logs the requests that are worth a line
        server_header=False)
    return Server(config)


def _jobs_for(settings):
    "Open the jobs of the data directory, and their ledger; what goes wrong becomes a SettingsError"
    from ..jobs import Jobs
    # Turns errors about the data directory into a SettingsError of one sentence.
    with _refusing_in_a_sentence(settings):
        return Jobs(
            settings.data_dir,
            slots=settings.slots,
            backend=settings.backend,
            max_queued=settings.max_queued,
            grace=settings.grace,
            on_exit=settings.on_exit,
            keep_days=settings.keep_days or None,  # 0 and None both mean: keep all
            adopt=settings.adopt)


@contextlib.contextmanager
def _refusing_in_a_sentence(settings):
    """A context: errors about the data directory, raised in its block, become a SettingsError.

    Its message is one sentence that names the directory, so that the user needs no traceback."""
    from ..jobs import JobsError
    try:
        yield
    except JobsError as error:  # such as: another server holds the folder, or it lies on a network
        raise SettingsError(f"{settings.data_dir}: {error}") from error
    except OSError as error:
        # Such as: there is a file where a folder should be. The message names it.
        name = Path(error.filename).name if error.filename else "a file"
        raise SettingsError(f"{settings.data_dir}: {name} cannot be used: {error.strerror}") from error


def _log_as_json():
    "Everything that is logged goes to stderr, one JSON object a line"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _allow_many_files():
    "Raise this process's limit on open files: each connection is one, and the limit is often only 1024"
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # (soft limit, hard limit)
    soft_limit = min(hard_limit, _most_open_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))


def _greet(
    settings,  # `ServiceSettings`: host, data_dir, slots, on_exit
    port,  # at which the server listens
    token,  # that clients must show; None: none is needed
    size,  # of the models that are trained: tiny or gpu
):
    "Print the four lines that the person who started the server needs: address, data, training, how to stop"
    # An IPv6 address stands in brackets before a port.
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # The token is printed on a terminal only: a file that the output goes to may be read by others.
    query_string = f"?token={token}" if token and sys.stdout.isatty() else ""
    if token:
        access = f"token in {settings.data_dir}/token"
    else:
        access = "no token: whoever is on this machine may come in"
    trains = "a tiny model on the CPU, minutes a job" if size == "tiny" else "Qwen2.5-VL-3B on the GPU"
    jobs_then = "train on" if settings.on_exit == "keep" else "save and wait"  # when the server stops
    print(f"vlrlbook serve: http://{host}:{port}/{query_string}")
    print(f"  data        {settings.data_dir}, {access}")
    print(f"  trains      {trains}, {settings.slots} at a time")
    print(f"  stop        Ctrl-C or kill {os.getpid()}; jobs {jobs_then}", flush=True)
