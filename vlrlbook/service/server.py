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
) -> str:  # 43 characters
    "The token in the data directory, drawn once, readable by its owner only"
    path = Path(data_dir) / "token"
    if path.exists():
        token = _token_in(path)
        if token:
            return token
    # Made with its rights at once: a second call would come a moment too late, and others could have read it.
    # Under another name first, so that a server that is killed here leaves no token of half its letters.
    aside = path.with_name(f".token-{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    return path.read_text().strip()


def _token_in(path):
    "The token in a file, which only its owner can read from now on; empty where the file is, as after a power cut"
    if not path.is_file():
        raise SettingsError(f"{path.name} in the data directory is no file: move it away, and a token is drawn")
    token = path.read_text(encoding="ascii", errors="replace").strip()
    if not token:
        logger.warning("the file of the token was empty: a new token is drawn")
        return ""
    if not _possible_token.fullmatch(token):
        raise SettingsError(f"{path.name} in the data directory holds no token (letters, digits and signs on one "
                            "line): move it away, and one is drawn")
    if path.stat().st_mode & _rights_of_others:
        logger.warning("others could read the file of the token: now they cannot; move it away for a new token")
        path.chmod(0o600)
    return token


def listen(
    host: str,  # address
    port: int,  # 0: any that is free
) -> socket.socket:  # bound, and taking connections
    "A socket, or a SettingsError that says why not"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # TCP by name: asyncio sends small pieces at once (TCP_NODELAY) only where the socket says that it is
        # TCP. A reply is two pieces, and the second would wait 40 ms for the client's word about the first.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # Without it a port stays taken for a minute after a server has ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        # Before the application is ready: whoever reads the greeting and comes at once waits, and is not
        # refused.
        sock.listen(_waiting_connections)
        return sock
    except OSError as error:
        # A port that is taken is the first thing that goes wrong in a classroom.
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def patient(
    seconds: float,  # for the headers of a request
):  # a protocol class for uvicorn
    "uvicorn's HTTP protocol with a clock: by itself it waits for the rest of a header for ever"
    # A thousand half requests would hold a thousand connections. Overridden are three methods of
    # asyncio.Protocol as uvicorn's H11Protocol has them, and read are its `conn`, `cycle`, `loop` and
    # `transport` (uvicorn 0.35 to 0.54). Should one of them move,
    # test_half_a_request_does_not_stay_for_ever fails.
    from uvicorn.protocols.http.h11_impl import H11Protocol, h11

    class Patient(H11Protocol):
        timer: asyncio.TimerHandle | None = None  # closes the connection; None while nothing is waited for

        def connection_made(self, transport):
            super().connection_made(transport)
            self.watch()

        def data_received(self, data):
            super().data_received(data)
            self.watch()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            if self.timer:
                self.timer.cancel()

        def watch(self):
            "Let the clock run from a connection's, or a request's, first byte to the end of its headers"
            is_idle = self.conn.their_state is h11.IDLE  # the headers of a next request are not complete
            has_answered = self.cycle is None or self.cycle.response_complete
            waits_for_headers = is_idle and has_answered
            if waits_for_headers and self.timer is None:
                self.timer = self.loop.call_later(seconds, self.transport.close)
            elif not waits_for_headers and self.timer:
                self.timer.cancel()
                self.timer = None

    return Patient


def serve(
    settings: ServiceSettings,  # checked
):
    "Run the service until SIGTERM or Ctrl-C; says where it listens, where the data lie and how to stop it"
    data_dir = Path(settings.data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"{settings.data_dir} cannot be the data directory: {error.strerror}") from error
    # Before the jobs are looked at, so that what is set aside is named in the log's own form.
    _log_as_json()
    # The socket before the ledger, so that a port that is taken touches no job.
    sock = listen(settings.host, settings.port)
    jobs = _jobs_for(settings)
    _allow_many_files()
    with _refusing_in_a_sentence(settings):
        token = own_token(data_dir) if settings.token else None
        app = create_app(settings, jobs, token)
    service = app.state.service
    # Tests and fault tables put a trainer of moments in the place of the real one.
    if os.environ.get("VLRLBOOK_TRAINER"):
        service.command = shlex.split(os.environ["VLRLBOOK_TRAINER"])
    _greet(settings, sock.getsockname()[1], token, service.size)
    _uvicorn_for(app, settings).run(sockets=[sock])
    if settings.on_exit == "keep":
        print("stopped; jobs that train go on, and are found again at the next start", flush=True)
    else:
        print("stopped; jobs that trained have saved and wait", flush=True)


def _uvicorn_for(app, settings):
    "uvicorn's server, which tells streams of events as soon as it is asked to stop"
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame):
            # In place of uvicorn's own, which raises the signal again when all has ended (0.54), so that
            # nobody would read how it went. A second Ctrl-C still means: at once.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True
            # Streams end by themselves then; uvicorn would wait for them and cut them off.
            app.state.service.stopping.set()

    config = uvicorn.Config(
        app,
        http=patient(settings.stall_seconds),
        timeout_keep_alive=_keep_alive_seconds,
        timeout_graceful_shutdown=_shutdown_seconds,
        log_config=None,  # it would replace our JSON lines
        access_log=False,  # `Doors` writes a line for what is worth one
        server_header=False)
    return Server(config)


def _jobs_for(settings):
    "Chapter 07a's jobs with the service's settings; their refusals are matters of settings here"
    from ..jobs import Jobs
    with _refusing_in_a_sentence(settings):
        return Jobs(
            settings.data_dir,
            slots=settings.slots,
            backend=settings.backend,
            max_queued=settings.max_queued,
            grace=settings.grace,
            on_exit=settings.on_exit,
            keep_days=settings.keep_days or None,
            adopt=settings.adopt)


@contextlib.contextmanager
def _refusing_in_a_sentence(settings):
    "What is wrong with a data directory becomes a SettingsError: one sentence, with the name of what it is about"
    from ..jobs import JobsError
    try:
        yield
    except JobsError as error:  # such as: another server holds the folder, or it lies on a network
        raise SettingsError(f"{settings.data_dir}: {error}") from error
    except OSError as error:
        # Such as a file where a folder should be. The name, so that somebody can look at it.
        name = Path(error.filename).name if error.filename else "a file"
        raise SettingsError(f"{settings.data_dir}: {name} cannot be used: {error.strerror}") from error


def _log_as_json():
    "Everything that is logged goes to stderr, one JSON object a line"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _allow_many_files():
    "Let this process open as many files as it may: each connection is one, and 1024 is a usual limit"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _most_open_files), most))


def _greet(settings, port, token, size):
    "Print the four lines that a person who started the server needs"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # The token is for people who look at a terminal. Where the output goes into a file, others may read it.
    with_token = f"?token={token}" if token and sys.stdout.isatty() else ""
    if token:
        lock = f"token in {settings.data_dir}/token"
    else:
        lock = "no token: whoever is on this machine may come in"
    trains = "a tiny model on the CPU, minutes a job" if size == "tiny" else "Qwen2.5-VL-3B on the GPU"
    then = "train on" if settings.on_exit == "keep" else "save and wait"
    print(f"vlrlbook serve: http://{host}:{port}/{with_token}")
    print(f"  data        {settings.data_dir}, {lock}")
    print(f"  trains      {trains}, {settings.slots} at a time")
    print(f"  stop        Ctrl-C or kill {os.getpid()}; jobs {then}", flush=True)
