"""A small chat endpoint for tests: it says what a test tells it to, after the troubles that a test wants."""
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Answers POST /v1/chat/completions with `say(text)`; before that come the `troubles`, one a request. GET /v1/models lists
    `served`; None: there is no such address"""
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, say, troubles, served):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.troubles, self.served = say, list(troubles), served
        self.asked, self.headers_seen, self.most_at_once = [], [], 0
        self.now, self.lock = 0, threading.Lock()

    @property
    def address(self): return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.is_counted = True
        with server.lock:
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
            server.asked.append(body)
            server.headers_seen.append(dict(self.headers))
            trouble = server.troubles.pop(0) if server.troubles else None
        try: self.trouble(trouble) if trouble else self.chat(body)
        except (BrokenPipeError, ConnectionResetError): pass # who asked did not wait
        finally: self.uncount()

    def uncount(self):
        "A request ends before its reply goes out: who has it may ask again before this thread goes on"
        if getattr(self, "is_counted", False):
            with self.server.lock: self.server.now -= 1
        self.is_counted = False

    def do_GET(self):
        if self.path != "/v1/models" or self.server.served is None: self.reply(404, json.dumps(dict(detail="Not Found")))
        else: self.reply(200, json.dumps(dict(object="list", data=[dict(id=name) for name in self.server.served])))

    def chat(self, body):
        said = self.server.say(text_of(body))
        if not isinstance(said, dict):
            said = dict(choices=[dict(message=dict(role="assistant", content=said), finish_reason="stop")],
                        usage=dict(prompt_tokens=100, completion_tokens=2))
        self.reply(200, json.dumps(said))

    def trouble(self, trouble):
        "A status, `slow`, `cut` (half a reply), `closed` (none), (status, headers), or (status, headers, text)"
        if trouble == "slow": time.sleep(1.0); self.reply(200, "{}")
        elif trouble == "closed": self.close_connection = True
        elif trouble == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif isinstance(trouble, tuple): self.reply(trouble[0], trouble[2] if len(trouble) > 2 else "", trouble[1])
        else: self.reply(trouble, json.dumps(dict(error=dict(message=f"trouble {trouble}"))))

    def reply(self, status, text, headers=()):
        content = text.encode()
        self.uncount()
        self.send_response(status)
        for name, value in dict(headers).items(): self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args): pass


def text_of(body):
    "The text of a request's message"
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def chat_server(say=lambda text: "yes", troubles=(), served=("m",)):
    "A `ChatServer` that listens until the block ends"
    server = ChatServer(say, troubles, served)
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
    thread.start()
    try: yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
