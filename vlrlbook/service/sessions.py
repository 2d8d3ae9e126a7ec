"""Sessions: what a browser keeps in its cookie once its person has shown the token.

A browser sends the cookies of a host to every port of that host, so whoever listens on another port of this
machine, and is visited, reads them. Therefore the token itself is in no cookie: a session ends by itself, and
the token cannot be found from it. Written by hand, not exported from a notebook."""
import hashlib
import hmac
import re
import secrets
import time

__all__ = ["Sessions", "session_cookie", "session_seconds"]

session_seconds = 7 * 86400  # after that the token is asked for again
# A session's three parts: its end in seconds since 1970, random digits, signature.
_form = re.compile(r"(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")


def session_cookie(
    host: str,  # of a Host header, such as localhost:8000
) -> str:
    """Return the name of the cookie for a session; it contains the port.

    Browsers keep cookies by host only, so two servers on one host would overwrite each other's."""
    name, colon, port = host.rpartition(":")
    is_number = port.isascii() and port.isdigit()  # `isdigit` alone takes digits of other scripts too
    if not (name and colon and is_number):
        port = 80  # HTTP's standard port is left out of a Host header
    return f"vlrlbook_session_{port}"


class Sessions:
    "Makes and judges sessions; signed and kept nowhere, so that they outlive a restart of the server"
    def __init__(self,
        token: str,  # of the server: with a new token all sessions end
    ):
        "Make and check sessions: what a browser keeps in its cookie in place of the token"
        # The key for signatures is derived from the token, so that no signature tells anything about it.
        self.key = hmac.digest(token.encode(), b"vlrlbook: key of sessions", "sha256")

    def begin(self,
        cookie: str,  # name of the cookie it goes into
    ) -> str:  # its value
        "Make a new session: its end, random digits and a signature of both, joined by dots"
        end = int(time.time()) + session_seconds
        random_hex = secrets.token_hex(16)  # makes no two sessions equal
        return f"{end}.{random_hex}.{self._signature(cookie, end, random_hex)}"

    def is_good(self,
        cookie: str,  # name of the cookie it came in
        value: str,  # as a browser sent it
    ) -> bool:
        "Return whether a session was made by this server for this cookie, and has not ended"
        match = _form.fullmatch(value)  # None: not of the form end.random.signature
        if match is None:
            return False
        end, random_hex, signature = match.groups()
        # Compared in constant time, which tells an attacker nothing about how much was right.
        expected = self._signature(cookie, int(end), random_hex)
        is_ours = hmac.compare_digest(signature, expected)
        return is_ours and int(end) > time.time()

    def _signature(self,
        cookie,  # name of the cookie, with the server's port in it
        end,  # of the session, in seconds since 1970
        random_hex,  # 32 digits that no other session has
    ):  # 64 hexadecimal digits
        "Sign a session with the key that comes from the server's token; nobody without the token can"
        # The cookie's name contains the port, so a session of one server is not valid on another port.
        content = f"{cookie} {end} {random_hex}"
        return hmac.new(self.key, content.encode(), hashlib.sha256).hexdigest()
