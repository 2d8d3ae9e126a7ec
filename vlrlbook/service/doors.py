"""The doors, before any address is looked at: the host name, the page that a request comes from, the token.

They keep strangers' pages and clumsy programs out. They do not make the service fit for people who cannot
be trusted: whoever has the token may fill the disk up to the quota and the queue up to its length. Written
by hand, not exported from a notebook."""
import asyncio
import contextlib
import hmac
import logging
import time
from typing import Any
from urllib.parse import parse_qsl

from .log_lines import logger
from .refusals import Problem, clean
from .replies import problem_response
from .sessions import Sessions, session_cookie

__all__ = ["own_host_names", "host_name", "Entry", "Doors", "shows_token", "wants_page",
           "names_token"]

own_host_names = ("127.0.0.1", "localhost", "[::1]")  # by which this machine may be called

_reading_methods = ("GET", "HEAD")  # by HTTP's rules they change nothing
_longest_drain = 5  # seconds
_most_drained = 256 << 20  # bytes
_slow_request = 2  # seconds, from which a request that only reads is worth a line in the log


def host_name(
    host: str,  # of a Host header, such as localhost:8000 or [::1]:8000
) -> str:  # without its port
    "Return the name in a Host header, without the port"
    if host.startswith("["):  # an IPv6 address has colons of its own, and stands in brackets
        return host.rpartition("]")[0] + "]"
    return host.partition(":")[0]


def shows_token(
    shown: bytes,  # what somebody sent
    token: bytes,  # the server's
) -> bool:  # they are equal
    "Compare a token in constant time: the time must not tell an attacker how many letters were right"
    return hmac.compare_digest(shown, token)


def wants_page(
    headers: list,  # of a request: pairs (name in lower case, value) of bytes; a name may stand twice
) -> bool:  # it is a browser's, which is sent HTML
    "Tell whether a request accepts HTML; the doors and the handler of `/` must judge that alike"
    return any(name == b"accept" and b"text/html" in value for name, value in headers)


def names_token(
    query_string: bytes,  # of an address, such as b"token=abc&x=1"
) -> bool:  # it has a parameter of that very name, with or without a value
    "Tell whether the parameter `token` stands in an address: `xtoken=1` and `x=token=` have none"
    # Read as Starlette reads it for the handler of `/`, so that `%74oken` is the same name for both.
    parameters = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return "token" in dict(parameters)


class Entry:
    "Decides by a request's headers whether it may come in; ten bytes or two gigabytes cost it the same"
    def __init__(self,
        token: str | None,  # None: no token is asked for
        hosts: list,  # names by which the server may be called
    ):
        "Prepare to decide by a request's headers whether it may come in"
        self.token = token.encode() if token else None
        # Checks what a browser keeps in its cookie after its user has shown the token.
        self.sessions: Any = Sessions(token) if token else None
        self.hosts = {name.lower() for name in hosts}  # host names do not depend on upper and lower case

    def refusal(self,
        scope: dict,  # ASGI's description of a request
    ) -> Problem | None:  # None: it may come in
        """Return a Problem if a request may not come in, else None.

        It must name this server in its Host header, must not change anything from another site's page, and
        must show the server's token or a session that was begun with it."""
        headers = dict(scope["headers"])  # bytes; the names in lower case
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # Not `headers`: a dict does not show a header that stands twice.
        if not self._names_this_server(scope["headers"], host):
            return Problem("door.host", f"{clean(host, 100)!r} is not a name of this server")
        # Against cross-site request forgery.
        if scope["method"] not in _reading_methods and self._comes_from_elsewhere(headers, host):
            return Problem("door.origin", "requests from the pages of others are refused")

        if self.token is None or self._needs_no_token(scope):
            return None
        # Programs show the token in a header; a browser's cookie shows a session that was begun with it.
        if shows_token(self._shown_token(headers), self.token) or self._has_session(headers, host):
            return None
        return _no_token()

    def _names_this_server(self,
        headers,  # of the request: pairs (name, value) of bytes, in which a name may stand twice
        host,  # its Host header, such as localhost:8000
    ):
        "Tell whether a request has one Host header, and that names this server"
        # Against DNS rebinding, where a stranger's host name points to 127.0.0.1.
        is_known_host = host_name(host) in self.hosts
        # Of two Host headers a proxy may have checked the one that we do not read.
        has_one_host = [name for name, _ in headers].count(b"host") == 1
        return has_one_host and is_known_host

    def _comes_from_elsewhere(self,
        headers,  # of the request: name in lower case → value, both bytes
        host,  # its Host header, such as localhost:8000
    ):
        """Return whether a browser's headers say that the page of another site sends this request.

        Programs that are no browsers send neither of the two headers looked at here, Origin and
        Sec-Fetch-Site, and may come in."""
        origin = headers.get(b"origin")
        if origin is not None:
            own_origins = (f"http://{host}", f"https://{host}")
            if origin.decode("latin-1").lower() not in own_origins:
                return True
        # A browser sends "none" where no page does it, such as an address that a person typed.
        site = headers.get(b"sec-fetch-site", b"none")
        return site not in (b"same-origin", b"none")

    def _needs_no_token(self,
        scope,  # ASGI's description of the request, with its path, headers and query_string
    ):
        """Return whether a request may come in without a token.

        It may if it is for the page for people or for that page's files, which hold no data of any user."""
        if scope["path"].startswith("/static/"):
            return True
        # The page itself asks its user for the token. A token in the address, /?token=…, is checked by the
        # handler of `/`, which begins a session with it.
        is_front = scope["path"] == "/"
        return is_front and (wants_page(scope["headers"]) or names_token(scope["query_string"]))

    def _shown_token(self, headers):
        """Return the token that a program shows, as bytes; empty if it shows none.

        With the headers {b"authorization": b"Bearer abc"} it is b"abc"."""
        authorization = headers.get(b"authorization", b"")
        scheme = b"bearer "
        if authorization[:len(scheme)].lower() == scheme:
            return authorization[len(scheme):].strip()
        return b""

    def _has_session(self,
        headers,  # of the request: name in lower case → value, both bytes
        host,  # its Host header, such as localhost:8000
    ):
        "Return whether the request's cookies hold a valid session, begun on this server with the token"
        name = session_cookie(host)  # of the cookie; it contains the port of `host`
        prefix = name.encode() + b"="
        for cookie in headers.get(b"cookie", b"").split(b";"):
            cookie = cookie.strip()
            if cookie.startswith(prefix):
                value = cookie[len(prefix):].decode("latin-1")
                return self.sessions.is_good(name, value)
        return False


def _no_token():
    "The refusal of a request that shows neither the token nor a session"
    reply_headers = {"www-authenticate": "Bearer"}  # the standard requires it with every 401
    advice = ("send the header Authorization: Bearer TOKEN; the token lies in the file `token` of the "
              "server's data directory, and a server started with --no-token asks this machine for none")
    return Problem("door.token", advice, reply_headers)


class Doors:
    "ASGI middleware: asks `Entry` first; adds to every reply its headers, to the log its line"
    # What a browser may do with the page: run and show our own files, and pictures that stand in the text.
    page_policy = ("default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
                   "form-action 'self'; frame-ancestors 'none'")
    # And with any other reply: nothing at all.
    reply_policy = "default-src 'none'; frame-ancestors 'none'"

    def __init__(self,
        app,  # the ASGI application that is wrapped
        token: str | None,  # None: no token is asked for
        hosts: list,  # names by which the server may be called
    ):
        "Wrap an application: check its requests, complete the headers of its replies, and log both"
        self.app = app
        self.entry = Entry(token, hosts)  # decides which requests may come in

    async def __call__(self, scope, receive, send):
        "Answer one request (ASGI calls this): with a refusal of `Entry`, or by the application"
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # "policy violation": none are served here
            return
        if scope["type"] != "http":  # "lifespan": the server starts or stops
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        # Its `receive` and `send` stand in for the server's: they complete headers and note the status.
        exchange = _Exchange(scope, receive, send, self._complete_headers)
        try:
            problem = self.entry.refusal(scope)
            answer = self.app if problem is None else problem_response(problem)
            await answer(scope, exchange.receive, exchange.send)
        finally:
            self._log(scope, exchange.status, time.perf_counter() - started)

    def _complete_headers(self, reply_headers):
        """Add to the headers of a reply those that every reply carries, unless it has its own of that name.

        Takes and returns a list of (name, value), in bytes and with names in lower case, as ASGI has them."""
        default_headers = {
            b"x-content-type-options": b"nosniff",  # what is called a picture is never run as a script
            b"referrer-policy": b"no-referrer",  # an address may hold a job's identifier
            b"cache-control": b"no-store",
            b"cross-origin-resource-policy": b"same-origin",
            b"content-security-policy": self.reply_policy.encode()}
        own_names = {name for name, _ in reply_headers}
        completed = list(reply_headers)
        for name, value in default_headers.items():
            if name not in own_names:
                completed.append((name, value))
        return completed

    def _log(self,
        scope,  # ASGI's description of the request, with its method and path
        status,  # of the reply; 0 if no reply was begun
        seconds,  # that the request took
    ):
        """Log a request that may change something; a GET or HEAD only if it is slow or fails in the server.

        So a quick GET with a 404 is not logged, but one with a 500 is."""
        reads = scope["method"] in _reading_methods
        if reads and 0 < status < 500 and seconds < _slow_request:
            return
        # Checked before the line is made, which would cost time with a thousand requests a second.
        if not logger.isEnabledFor(logging.INFO):
            return
        logger.info("request", extra=dict(
            method=scope["method"], path=clean(scope["path"]), status=status, ms=round(1000 * seconds)))


class _Exchange:
    "One request and its reply: knows how much of the body has come, and reads the rest before a reply begins"
    def __init__(self,
        scope,  # ASGI's description of the request
        receive,  # ASGI's function that returns the next message of the request
        send,  # ASGI's function that sends a message of the reply
        complete_headers,  # function: headers of a reply → a new list, with those that every reply carries
    ):
        "Stand between server and application for one request and its reply"
        self._receive_message = receive
        self._send_message = send
        self._complete_headers = complete_headers
        self.status = 0  # of the reply; 0 before it begins

        # The request and its body.
        headers = dict(scope["headers"])
        self._is_get_or_head = scope["method"] in _reading_methods  # these need no body
        announces_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        self._may_have_body = announces_body or not self._is_get_or_head
        # "Expect: 100-continue": the client sends its body only after the server has asked for it.
        self._expects_continue = b"expect" in headers
        self._body_requested = False  # True after the first `receive`
        self._body_ended = False  # True after its last piece was received, or if the client has gone

    async def receive(self):
        "Return the next ASGI message of the request; note when the body has ended"
        self._body_requested = True
        message = await self._receive_message()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self._body_ended = True
        return message

    async def send(self, message):
        """Send an ASGI message of the reply; before the first one, read the rest of the request's body.

        The first message carries the status and the headers, which are completed here."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._body_is_being_sent():  # not with a GET, nor with a client from which nothing more comes
                await self._drain()  # has limits, so it may stop before the body's end
            headers = self._complete_headers(message["headers"])  # a new list, with those of every reply
            # A rest that was not read would be taken for the next request on this connection: it is closed.
            if self._may_have_body and not self._body_ended:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send_message(message)

    def _body_is_being_sent(self):
        "Return whether the client is still sending a body that must be read before the reply"
        if self._body_ended or self._is_get_or_head:  # nobody needs the body of a GET
            return False
        client_stalled = self.status == 408  # refused since nothing came: nothing more will come
        was_never_requested = self._expects_continue and not self._body_requested
        return not client_stalled and not was_never_requested

    async def _drain(self):
        """Read the rest of the request's body and throw it away, within limits of time and size.

        Without this, a client that is refused while it sends sees a broken connection, not the reason."""
        bytes_left = _most_drained
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_longest_drain):
                while not self._body_ended and bytes_left > 0:
                    message = await self.receive()  # sets `_body_ended`, also if the client has gone
                    bytes_left -= len(message.get("body", b""))
