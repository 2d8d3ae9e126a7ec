"""Ask an OpenAI-style chat endpoint about pictures, such as vLLM's server: several tries, then one error.

Read in vLLM 0.24 (`/v1/chat/completions`). Needs the standard library and Pillow. Written by hand."""
import base64
import http.client
import io
import ipaddress
import json
import math
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["EndpointError", "Reply", "Endpoint", "address_problem", "is_on_this_machine", "data_url"]

TRIED_AGAIN = {408, 429}  # statuses that may pass, beside all from 500 on
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the endpoint asks for
LARGEST_REPLY = 4 * 2**20  # bytes that are read: a reply of a few words is far below
TOLD = 200  # characters of a reply that an error repeats


class EndpointError(RuntimeError):
    "An endpoint that does not answer as it should: which one, what was expected, what came"


@dataclass
class Reply:
    "What a model said, and what it took"
    text: str  # the message's content
    is_whole: bool  # False: it was cut, at the token limit or by a filter
    prompt_tokens: int | None = None  # pictures among them; None: the endpoint does not say
    completion_tokens: int | None = None  # None: the endpoint does not say
    tries: int = 1  # requests that were sent


@dataclass
class Endpoint:
    "A chat endpoint and how patiently it is asked"
    address: str  # up to /v1
    model: str  # as the endpoint calls it
    timeout: float = 60.0  # seconds without a byte after which a request has failed
    retries: int = 4  # more tries where it may pass: no connection, no reply in time, 408, 429, from 500 on
    first_wait: float = 0.5  # seconds before the second try; doubled before each further one
    key: str | None = field(default=None, repr=False)  # sent as a bearer token; never shown

    @property
    def url(self) -> str:
        "Where requests go"
        return self.address.rstrip("/") + "/chat/completions"

    def ask(self,
        text: str,  # of the user
        images: list | tuple = (),  # PIL images, which come before the text
        **options,  # max_tokens, temperature, seed, …: as the endpoint takes them
    ) -> Reply:
        "What the model says to one message; EndpointError when it says nothing that can be used"
        body = dict(model=self.model, messages=[_message(text, images)], stream=False) | options
        content = json.dumps(body).encode()
        for number in range(1, self.retries + 2):
            status, came, asked_wait = self._once(content)
            if status == 200:
                return self._reply(came, number)
            may_pass = status is None or status in TRIED_AGAIN or status >= 500
            if not may_pass or number > self.retries:
                break
            # Twice as long each time, so that a server that starts, or is full, is not kept from it.
            wait = max(self.first_wait * 2 ** (number - 1), asked_wait)
            time.sleep(min(wait, LONGEST_WAIT))
        what = came if status is None else f"status {status}: {came}"
        times = "once" if number == 1 else f"{number} times"
        raise self._error(f"{what} (asked {times})")

    @property
    def patience(self) -> float:
        "Seconds that one question may take at most before it has failed"
        waits = [min(self.first_wait * 2**n, LONGEST_WAIT) for n in range(self.retries)]
        return (self.retries + 1) * self.timeout + sum(waits)

    def _once(self, content):
        "Status, text and the seconds that the endpoint wants to wait; status None where no reply came"
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, content, headers)
        try:
            with _opener.open(request, timeout=self.timeout) as response:
                return response.status, _whole(response), 0.0
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(LARGEST_REPLY).decode(errors="replace")
            return error.code, _one_line(said), _seconds(error.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            # URLError and TimeoutError are kinds of OSError; a connection that breaks off within a reply is an
            # HTTPException.
            reason = getattr(error, "reason", error)
            said = str(reason) or type(reason).__name__
            return None, _one_line(f"no reply: {said}"), 0.0

    def _reply(self, came, tries):
        "The reply in the JSON text of a chat completion"
        try:
            found = json.loads(came)
            choice = found["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, TypeError, LookupError):
            raise self._error(_one_line(came) or "nothing") from None
        if not isinstance(text, str):
            raise self._error(f"content {_one_line(json.dumps(text))}")
        usage = found.get("usage") or {}
        return Reply(text, choice.get("finish_reason") in ("stop", None), _count(usage.get("prompt_tokens")),
                     _count(usage.get("completion_tokens")), tries)

    def _error(self, what):
        "What to say of an endpoint that cannot be used"
        return EndpointError(f"{self.url}: expected a chat completion, came {what}")


def address_problem(
    address: str,  # such as http://localhost:8000/v1
) -> str | None:  # what is wrong with it
    "Why an address cannot be that of an endpoint"
    try:
        parts = urlsplit(address)
        parts.port  # read on purpose: a port that is no number raises
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected an address such as http://localhost:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "expected an address without a name, a password or anything behind a question mark"
    return None


def is_on_this_machine(
    address: str,  # without an `address_problem`
) -> bool:
    "Whether an address is this machine's own, so that nothing leaves it"
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anybody's
        return False


def data_url(
    image,  # PIL image
    max_size: int = None,  # pixels squared that it has at most; None: as it is
) -> str:  # data:image/png;base64,…
    "A picture as text, as chat endpoints take it"
    small = image.convert("RGB")
    shrink = max_size / math.sqrt(small.width * small.height) if max_size else 1
    if shrink < 1:
        small = small.resize([max(1, int(side * shrink)) for side in small.size])
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    "Leaves a redirect as it is: an error with its status"
    # Overrides `redirect_request` of urllib (read in Python 3.11 to 3.14), which makes the next request. A
    # redirect would carry pictures to a place that nobody wrote down. If the method were renamed, redirects
    # would be followed; a test asks for one.
    def redirect_request(self, *request):
        return None


# No proxy either: a proxy of the environment would be asked for addresses of this machine too.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def _message(text, images):
    "One turn of the user, pictures first; a text alone stays a text, which servers of text models want"
    if not images:
        return dict(role="user", content=text)
    parts = []
    for image in images:
        url = image if isinstance(image, str) else data_url(image)
        parts.append(dict(type="image_url", image_url=dict(url=url)))
    return dict(role="user", content=[*parts, dict(type="text", text=text)])


def _whole(response):
    "Text of a reply; IncompleteRead where the connection broke off before its announced end"
    content = response.read(LARGEST_REPLY)
    announced = response.headers.get("Content-Length", "")
    # With a bound `read` is content with less than was announced.
    if announced.isdecimal() and len(content) < min(int(announced), LARGEST_REPLY):
        raise http.client.IncompleteRead(content)
    return content.decode(errors="replace")


def _one_line(text):
    "The beginning of a text on one line, for an error"
    line = " ".join(text[:10 * TOLD].split())
    return line if len(line) <= TOLD else f"{line[:TOLD]}…"


def _seconds(text):
    "Seconds of a Retry-After header; 0 where there is none, or a date"
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _count(value):
    "A number of tokens, or None for anything else"
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
