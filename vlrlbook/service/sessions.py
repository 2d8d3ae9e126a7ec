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
# A session's three parts: its end in seconds since 1970, chance, mark.
_form = re.compile(r"(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")


def session_cookie(
    host: str,  # of a Host header, such as localhost:8000
) -> str:
    "The name of the cookie: with the port in it, since cookies know hosts only and two servers would fight"
    name, colon, port = host.rpartition(":")
    is_number = port.isascii() and port.isdigit()  # `isdigit` alone takes digits of other scripts too
    if not (name and colon and is_number):
        port = 80  # a Host header says no port where it is HTTP's own
    return f"vlrlbook_session_{port}"


class Sessions:
    "Makes and judges sessions; signed and kept nowhere, so that they outlive a restart of the server"
    def __init__(self,
        token: str,  # of the server: with a new token all sessions end
    ):
        # A key of its own, made from the token: a mark that somebody sees tells nothing about the token.
        self.key = hmac.digest(token.encode(), b"vlrlbook: key of sessions", "sha256")

    def begin(self,
        cookie: str,  # name of the cookie it goes into
    ) -> str:  # its value
        "A new session"
        end = int(time.time()) + session_seconds
        chance = secrets.token_hex(16)  # no two sessions are alike
        return f"{end}.{chance}.{self._mark(cookie, end, chance)}"

    def is_good(self,
        cookie: str,  # name of the cookie it came in
        value: str,  # as a browser sent it
    ) -> bool:
        "Whether a session was made here, for this cookie, and has not ended"
        parts = _form.fullmatch(value)
        if parts is None:
            return False
        end, chance, mark = parts.groups()
        # The mark first and in constant time: only then is what it covers worth reading.
        is_ours = hmac.compare_digest(mark, self._mark(cookie, int(end), chance))
        return is_ours and int(end) > time.time()

    def _mark(self, cookie, end, chance):
        "What only somebody who has the token could have written"
        # The cookie's name is in it, so that a session of one server is none of another port's.
        content = f"{cookie} {end} {chance}"
        return hmac.new(self.key, content.encode(), hashlib.sha256).hexdigest()
