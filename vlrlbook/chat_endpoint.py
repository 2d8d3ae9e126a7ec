"""Ask an OpenAI-style chat endpoint about pictures, such as vLLM's server: several tries, then one error.

Run against the server of vLLM 0.24.0 (`/v1/chat/completions` and `/v1/models`; tests/test_vllm_judge.py).
Needs no further library than Pillow. Written by hand."""
import base64
import http.client
import io
import ipaddress
import json
import math
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .archive import to_rgb

__all__ = ["EndpointError", "Reply", "Endpoint", "address_problem", "key_problem", "is_on_this_machine",
           "data_url"]

# HTTP statuses after which a request is sent again: time-out, too many requests; also all from 500 on.
TRIED_AGAIN = {408, 429}
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the endpoint asks for
LARGEST_REPLY = 4 * 2**20  # bytes that are read of a reply; one of a few words is far smaller
# Characters of a reply that an error message repeats. vLLM takes 300 to say that a request is too long.
LONGEST_QUOTE = 400
SHORTEST_SECRET = 8  # characters of a key from which on it is hidden where a server repeats it
# Values of finish_reason, in small letters with _, after which a reply is not whole; those of OpenAI (first
# row) and of other servers. For the end of a whole reply each server has a word of its own: stop, eos,
# eos_token, end, end_turn. So only these are known, and any other word means that the model had ended.
CUT_REPLIES = {"length", "content_filter", "tool_calls", "function_call",
               "max_tokens", "max_output_tokens", "max_length", "model_length",
               "model_context_window_exceeded", "content_filtered", "guardrail_intervened", "safety",
               "recitation", "tool_use", "abort", "aborted", "cancelled", "error", "incomplete",
               "insufficient_system_resource"}
LISTED_MODELS = 8  # names of served models that an error message lists


class EndpointError(RuntimeError):
    "An endpoint does not answer as it should; the message says which one, what was expected and what came"


@dataclass
class Reply:
    "What a model said, and what it took"
    text: str  # the message's content
    is_whole: bool  # False: it was cut, at the token limit or by a filter
    prompt_tokens: int | None = None  # pictures among them; None: the endpoint does not say
    completion_tokens: int | None = None  # None: the endpoint does not say
    tries: int = 1  # requests that were sent
    # The endpoint's own word for why the reply ended, such as length; None of a model that runs here.
    finish_reason: str | None = field(default=None, compare=False)


@dataclass
class Endpoint:
    "A chat endpoint and how patiently it is asked"
    address: str  # up to /v1
    model: str  # as the endpoint calls it
    timeout: float = 60.0  # seconds without a byte after which a request has failed
    retries: int = 4  # more tries where it may pass: no connection, no reply in time, 408, 429, from 500 on
    first_wait: float = 0.5  # seconds before the second try; doubled before each further one
    key: str | None = field(default=None, repr=False)  # sent as a bearer token; never shown

    def __post_init__(self):
        "Take the blanks and line breaks around the key away; EndpointError if the rest cannot be sent"
        # A file of keys ends in a line break, in two characters if it was saved on Windows.
        self.key = self.key.strip() if self.key else None
        problem = key_problem(self.key) if self.key else None
        if problem:
            raise EndpointError(f"{self.url}: the key cannot be sent: {problem}")

    @property
    def url(self) -> str:
        "Where requests go"
        return self.address.rstrip("/") + "/chat/completions"

    def ask(self,
        text: str,  # of the user
        images: list | tuple = (),  # PIL images, which come before the text
        **options,  # max_tokens, temperature, seed, …: as the endpoint takes them
    ) -> Reply:
        """Send one message and return the model's reply; try again after a temporary failure

        Raises EndpointError after the last try, or at once after any other failure."""
        body = dict(model=self.model, messages=[_message(text, images)], stream=False) | options
        content = json.dumps(body).encode()
        for tries in range(1, self.retries + 2):
            # HTTP status (None: no reply came), text of the reply, seconds that the endpoint wants us to wait
            status, reply_text, requested_wait = self._send(self.url, content)
            if status == 200:
                return self._reply(reply_text, tries)
            is_last_try = tries > self.retries
            if is_last_try or not _is_temporary(status):
                break
            # Exponential backoff gives an overloaded server time to recover.
            wait = max(self.first_wait * 2 ** (tries - 1), requested_wait)
            time.sleep(min(wait, LONGEST_WAIT))
        raise self._failure(status, reply_text, tries)

    def _failure(self,
        status,  # HTTP status of the last try; None: no reply came
        reply_text,  # beginning of its reply or, without one, why none came
        tries,  # requests that were sent
    ):
        "The EndpointError to be raised after the last try"
        problem = reply_text if status is None else f"status {status}: {reply_text}"
        times = "once" if tries == 1 else f"{tries} times"
        # 404: the server does not have this model, or the address is wrong.
        hint = self._models_hint() if status == 404 else ""
        return self._error(f"{problem} (asked {times}){hint}")

    @property
    def patience(self) -> float:
        "The most seconds that `ask` takes before it gives up: every try times out, plus the waits between"
        # An endpoint may ask, by Retry-After, for the longest wait before each further try.
        return (self.retries + 1) * self.timeout + self.retries * LONGEST_WAIT

    def _models_hint(self):
        "What an error message adds after status 404: which models are served, or that the address is wrong"
        models_url = self.address.rstrip("/") + "/models"
        status, reply_text, _ = self._send(models_url)  # the third: seconds to wait
        if status == 404:  # an address that is right knows at least this path
            return f"; {models_url} is not there either: expected an address such as http://localhost:8000/v1"
        try:
            names = [str(model["id"]) for model in json.loads(reply_text)["data"]]
        except (ValueError, TypeError, LookupError):  # no list of models, as of a server that keeps none
            return ""
        if not names:
            return "; no model is served there"
        rest = ", …" if len(names) > LISTED_MODELS else ""
        return f"; served there: {_one_line(', '.join(names[:LISTED_MODELS]))}{rest}"

    def _send(self, url, content=None):
        """Send a request once: (HTTP status, text of the reply, seconds that the endpoint wants us to wait)

        `content` (bytes of JSON) is posted; without it the address is only read. Where no reply came, the
        status is None and the text says why."""
        headers = {"Content-Type": "application/json"}
        if self.key:  # None or empty: the endpoint asks for none
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(url, content, headers)
        try:
            # `_opener` uses no proxy and follows no redirect. `_read_text` raises if the reply breaks off.
            with _opener.open(request, timeout=self.timeout) as response:
                return response.status, _read_text(response), 0.0
        except urllib.error.HTTPError as error:  # a status other than 2xx
            return _refused(error, self.key)  # the same three values, of the status and the error's words
        except (OSError, http.client.HTTPException) as error:
            # URLError and TimeoutError are kinds of OSError; a connection that breaks off within a reply is
            # an HTTPException.
            reason = getattr(error, "reason", error)  # a URLError holds the real error as its reason
            words = str(reason) or type(reason).__name__
            return None, _one_line(f"no reply: {words}"), 0.0

    def _reply(self, reply_text, tries):
        """Make a `Reply` of the JSON text of a chat completion; EndpointError if the text is anything else

        Such a text is {"choices": [{"message": {"content": …}, "finish_reason": "stop"}], "usage": {…}}."""
        try:
            completion = json.loads(reply_text)
            choice = completion["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, TypeError, LookupError, RecursionError):  # the last: nested too deeply
            # `_error` makes it "…: expected a chat completion, came nothing", for example.
            raise self._error(_one_line(reply_text) or "nothing") from None
        reason = choice.get("finish_reason")  # such as stop or length; None of some servers
        # Beside a finish_reason, a content of null is an empty answer: the server has removed the thoughts
        # (vLLM with --reasoning-parser), and nothing is left.
        if text is None and isinstance(reason, str):
            text = ""
        if not isinstance(text, str):
            raise self._error(f"content {_one_line(json.dumps(text))}")
        reason = reason if isinstance(reason, str) else None
        is_whole = reason is None or reason.strip().lower().replace("-", "_") not in CUT_REPLIES
        usage = completion.get("usage")  # counts of tokens, which not every server reports
        usage = usage if isinstance(usage, dict) else {}
        # `_count`: None for anything that is no number of tokens.
        return Reply(text, is_whole, prompt_tokens=_count(usage.get("prompt_tokens")),
                     completion_tokens=_count(usage.get("completion_tokens")), tries=tries,
                     finish_reason=reason)

    def _error(self, problem):
        "The EndpointError that says what came from this endpoint instead of a chat completion"
        return EndpointError(f"{self.url}: expected a chat completion, came {problem}")


def address_problem(
    address: str,  # such as http://localhost:8000/v1
) -> str | None:  # what is wrong with it
    "Say why an address cannot be that of an endpoint; None if nothing is wrong with it"
    try:
        parts = urlsplit(address)
        parts.port  # a property that raises ValueError for a port that is no number
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected an address such as http://localhost:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "expected an address without a name, a password or anything behind a question mark"
    return None


# What HTTP can send in a header: letters and signs of Latin-1, without line breaks and other controls.
_header_text = re.compile(r"[\t\x20-\x7e\xa0-\xff]+")


def key_problem(
    key: str,  # with or without blanks and line breaks around it
) -> str | None:  # what is wrong with it
    "Say why a key cannot be sent as a bearer token, without repeating it; None if nothing is wrong with it"
    key = key.strip()  # an empty one is none, and is not sent
    # Checked here, since `http.client` repeats a header that it refuses, and so would print the key.
    if not key or _header_text.fullmatch(key):
        return None
    if len(key.splitlines()) > 1:
        return "it has a line break within"
    return "it has a character that a header cannot carry, such as a curly quotation mark"


def is_on_this_machine(
    address: str,  # one in which `address_problem` finds nothing
) -> bool:
    "Whether an address is this machine's own, so that nothing leaves it"
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name and not a number: it may lead to any machine
        return False


def data_url(
    image,  # PIL image
    max_size: int = None,  # N: at most N × N pixels in all; None: the picture keeps its size
) -> str:  # data:image/png;base64,…
    "A picture as a data URL (its PNG bytes in base64), the form in which chat endpoints take pictures"
    # not `convert("RGB")`, in which transparent pixels become black, and greys of 16 bits nearly all white
    rgb = to_rgb(image)
    if max_size:
        factor = max_size / math.sqrt(rgb.width * rgb.height)  # for both sides
        if factor < 1:  # pictures are never enlarged
            most = max_size * max_size  # of a side, where the other one is a single pixel
            rgb = rgb.resize([min(max(1, int(side * factor)), most) for side in rgb.size])
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    "Does not follow a redirect: urllib then raises HTTPError with the redirect's status"
    # Overrides `redirect_request` of urllib (read in Python 3.11 to 3.14), which returns the request to the
    # new address, or None to follow none. A redirect could send pictures to an address that no setting names.
    # If the method were renamed, redirects would be followed; a test asks for one.
    def redirect_request(self, *request):
        return None


# {}: no proxy. One from the environment (http_proxy) would get requests to this machine's own addresses, too.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def _message(text, images):
    "One message of the user: pictures (PIL images or data URLs) first, then the text"
    if not images:
        return dict(role="user", content=text)  # servers of models without pictures take only a plain text
    parts = []
    for image in images:
        url = image if isinstance(image, str) else data_url(image)
        parts.append(dict(type="image_url", image_url=dict(url=url)))
    return dict(role="user", content=[*parts, dict(type="text", text=text)])


def _read_text(response):
    "The text of a response; IncompleteRead if the connection broke off before the announced length"
    content = response.read(LARGEST_REPLY)  # no more, so that a broken server cannot fill the memory
    announced = response.headers.get("Content-Length", "")
    # Given a limit, `read` does not raise for a reply that is too short, so the length is compared here.
    if announced.isdecimal() and len(content) < min(int(announced), LARGEST_REPLY):
        raise http.client.IncompleteRead(content)
    return content.decode(errors="replace")


def _is_temporary(status):
    "True for an HTTP status after which another try may succeed; None (no reply came) is one"
    return status is None or status in TRIED_AGAIN or status >= 500


def _refused(error, key):
    """What came with urllib's HTTPError: (status, beginning of the server's words, seconds to wait)

    Such an error is at once the response that the server sent with a status other than 2xx. A `key` (None:
    there is none) that the server repeats is replaced by KEY."""
    with error:  # closes the connection
        reply_text = error.read(LARGEST_REPLY).decode(errors="replace")
    requested_wait = _seconds(error.headers.get("Retry-After"))  # 0 if there is no such header
    words = _words_of_error(reply_text)
    # Gateways tell which key they do not know. A word such as `none`, which stands for a key, is no secret.
    if key and len(key) >= SHORTEST_SECRET:
        words = words.replace(key, "KEY")
    return error.code, _one_line(words), requested_wait


def _words_of_error(reply_text):
    """What a server says of an error: the message in its JSON, else the whole text

    vLLM and OpenAI send {"error": {"message": …}}, vLLM without the right key {"error": …}, FastAPI
    {"detail": …}."""
    try:
        reply = json.loads(reply_text)
    except ValueError:
        return reply_text
    if not isinstance(reply, dict):
        return reply_text
    words = reply.get("error") or reply.get("detail")
    if isinstance(words, dict):
        words = words.get("message")
    return words if isinstance(words, str) and words.strip() else reply_text


def _one_line(text):
    "The first 400 characters of a text on one line, for an error message; an … behind them if it was longer"
    beginning = text[:10 * LONGEST_QUOTE]  # more than enough, even if most of it is blanks
    line = " ".join(beginning.split())
    return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}…"


def _seconds(text):
    "Seconds of a Retry-After header; 0 if the header is missing (None), negative or a date"
    try:
        seconds = float(text)
    except (TypeError, ValueError):  # None, or a date
        return 0.0
    # float also reads "inf" and "nan", for which nobody can wait.
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _count(value):
    "`value` if it can be a number of tokens (an int from 0 on), else None: a server may send anything"
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None
