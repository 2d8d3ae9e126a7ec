"""`vllm serve` in processes of its own, on a port of this machine that is free: as people start it, but small enough for a CPU that
others use, too."""
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.verl_step import shim
from vlrlbook.chat_endpoint import data_url

BIN = Path(sys.executable).parent # of the environment that has vLLM
SMALL = ["--max-model-len", "512", "--dtype", "float32", # as our twins are loaded here
         "--enforce-eager", # compiling takes minutes, for models that answer in moments
         # vLLM would try out the largest batch and film that it could get, which takes minutes and 3 GB
         "--skip-mm-profiling", "--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--max-num-seqs", "16",
         "--max-num-batched-tokens", "1024"]
START = 1200 # seconds that a start may take: half a minute on a free machine, five on one that has other work
PR_SET_PDEATHSIG = 1 # linux/prctl.h


@dataclass
class Server:
    process: subprocess.Popen
    port: int
    log: Path # what it said

    @property
    def address(self): return f"http://127.0.0.1:{self.port}/v1"

    def logprobs(self, model, text, image, key):
        "Its greedy reply about a picture, and the log-prob of each token; asked beside our own code"
        content = [dict(type="image_url", image_url=dict(url=data_url(image))), dict(type="text", text=text)]
        body = dict(model=model, messages=[dict(role="user", content=content)], temperature=0.0, max_tokens=4, logprobs=True)
        request = urllib.request.Request(self.address + "/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=120) as response: choice = json.load(response)["choices"][0]
        return choice["message"]["content"], [token["logprob"] for token in choice["logprobs"]["content"]]

    def stop(self, first=signal.SIGTERM):
        "End all its processes: as one ends a server, and after twenty seconds without asking"
        for sign, patience in ((first, 20), (signal.SIGKILL, 20)):
            try: os.killpg(self.process.pid, sign)
            except ProcessLookupError: break
            end = time.monotonic() + patience
            while self.lives() and time.monotonic() < end: time.sleep(0.1)

    def lives(self):
        "Whether a process of the server is left"
        self.process.poll() # else what has ended stays as a zombie
        try: os.killpg(self.process.pid, 0)
        except ProcessLookupError: return False
        return True

    def waited_for(self):
        "Return when it answers; RuntimeError with its last words if it ends before, or takes too long"
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5): return self
            except OSError: time.sleep(0.5)
        raise RuntimeError(f"vllm serve did not start: {self.log.read_text(errors='replace')[-4000:]}")


def end_with_the_test():
    "The kernel ends the server if the test's process is killed (prctl(2)); called in the new process"
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def vllm_server(model, home, *options):
    "A `Server` of the folder `model`, until the block ends; its log and the name `vllm` for its package lie in the folder `home`"
    shim(sys.executable, home / "shim", plain_weights=False) # `vllm` asks for the version of a package of that name
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What test_vllm.py, and TRL within it, leave in the environment is meant for an engine within their own process.
    of_their_own = {"VLLM_ENABLE_V1_MULTIPROCESSING", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in of_their_own} | dict(
        PYTHONPATH=str(home / "shim"), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="INFO")
    command = [BIN / "vllm", "serve", model, "--host", "127.0.0.1", "--port", port, *SMALL, *options]
    with open(home / "said.txt", "w") as said:
        process = subprocess.Popen([str(word) for word in command], env=environment, stdout=said, stderr=subprocess.STDOUT,
                                   start_new_session=True, preexec_fn=end_with_the_test)
    server = Server(process, port, home / "said.txt")
    try: yield server.waited_for()
    finally: server.stop()
