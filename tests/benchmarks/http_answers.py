"""What watching providers' answers adds to a call over loopback: CPU of the client's thread, as a ratio.

    python tests/benchmarks/http_answers.py [rounds]

Rows are ways of calling; the server is a process of its own. `own` is what the client takes by itself, in ms; `idle` is
what is added while nothing is tracked, `watched` with an observer that owns every request, reading included. The three
take turns, and the lower quartile of the calls is compared: other processes only ever add.
"""

import gc
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import httpx
import openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

from token_handlers import http

USAGE = {"prompt_tokens": 500, "completion_tokens": 20, "total_tokens": 520}
KNOWN = {"id": "c", "created": 1, "model": "gpt-4o-mini"}
CALLS, CHUNKS = 20, 400


def completion(size: int) -> bytes:
    """Return an answer of some bytes of text."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a word " * (size // 7)}}
    return json.dumps({**KNOWN, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def vectors(number: int) -> bytes:
    """Return an answer of some embeddings."""
    data = [{"object": "embedding", "index": index, "embedding": [0.123456789] * 1536} for index in range(number)]
    return json.dumps(
        {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    ).encode()


def stream(*, every: bool) -> bytes:
    """Return a stream, with a usage in every chunk or in the last one."""
    chunks = [
        {
            **KNOWN,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
            "usage": {**USAGE, "completion_tokens": number} if every else None,
        }
        for number in range(CHUNKS)
    ]
    chunks.append({**KNOWN, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


ANSWERS = {
    "2": ("application/json", completion(2_000)),
    "20": ("application/json", completion(20_000)),
    "200": ("application/json", completion(200_000)),
    "vectors": ("application/json", vectors(20)),
    "stream": ("text/event-stream", stream(every=False)),
    "totals": ("text/event-stream", stream(every=True)),
}


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path; a stream's events one by one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        media_type, data = ANSWERS[self.path.split("/")[1]]
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for event in data.split(b"\n\n") if "event" in media_type else [data]:
            self.wfile.write(event + b"\n\n" if "event" in media_type and event else event)

    def log_message(self, *args: object) -> None:
        pass


def serve(pipe: Connection) -> None:
    """Serve until the benchmark ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        pipe.send(server.server_port)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


class Watcher:
    """An observer that owns every request."""

    is_wanting = True

    def wants(self) -> bool:
        """Return whether it is on."""
        return self.is_wanting

    def opened(self, request: http.ProviderRequest) -> object:
        """Own it."""
        return self

    def begun(self, owner: object) -> None:
        """Let it come."""

    def answered(self, owner: object, answer: http.ProviderAnswer) -> None:
        """See that the answer was read."""
        assert answer.is_final, answer


def cases(url: str) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return the ways of calling, and how often one is called in a round."""
    plain = httpx.Client()
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "one more word " * 140}]}
    words = "one more word " * 27
    conversation = [HumanMessage(words), AIMessage(words)] * 3

    def sdk(kind: str) -> openai.OpenAI:
        return openai.OpenAI(api_key="sk-1", base_url=f"{url}/{kind}/v1", max_retries=0)

    clients = {kind: sdk(kind) for kind in ANSWERS}
    langchain = {
        kind: ChatOpenAI(model="gpt-4o-mini", api_key="sk-1", base_url=f"{url}/{kind}/v1", max_retries=0)
        for kind in ("2", "stream")
    }

    def chat(kind: str, **more: object) -> object:
        return clients[kind].chat.completions.create(**asked, **more)

    return {
        "httpx, 2 kB": (CALLS, lambda: plain.post(f"{url}/2/v1/chat/completions", json=asked)),
        "openai, 2 kB": (CALLS, lambda: chat("2")),
        "openai, 20 kB": (CALLS, lambda: chat("20")),
        "openai, 200 kB": (CALLS, lambda: chat("200")),
        "ChatOpenAI, 2 kB": (CALLS, lambda: langchain["2"].invoke(conversation)),
        "openai, 20 vectors": (CALLS, lambda: clients["vectors"].embeddings.create(model="m", input="a")),
        f"openai, stream of {CHUNKS}": (1, lambda: list(chat("stream", stream=True))),
        "  usage in each": (1, lambda: list(chat("totals", stream=True))),
        f"ChatOpenAI, stream of {CHUNKS}": (1, lambda: list(langchain["stream"].stream(conversation))),
    }


def time_calls(into: list[float], calls: int, call: Callable[[], object]) -> None:
    """Add what each of some calls takes of this thread's CPU, in ms."""
    for _ in range(calls):
        start = time.thread_time_ns()
        call()
        into.append((time.thread_time_ns() - start) / 1e6)


def measure(rounds: int, calls: int, call: Callable[[], object]) -> tuple[float, float, float]:
    """Return what a call takes by itself, and what is added, idle and watched."""
    watcher = Watcher()
    own: list[float] = []
    idle: list[float] = []
    watched: list[float] = []
    call()
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        call()  # attaching and detaching empty the interpreter's caches
        time_calls(own, calls, call)
        http.attach(watcher)
        watcher.is_wanting = False
        call()
        time_calls(idle, calls, call)
        watcher.is_wanting = True
        time_calls(watched, calls, call)
        http.detach()
    gc.enable()
    base, *others = (statistics.quantiles(times, n=4)[0] for times in (own, idle, watched))
    return base, others[0] - base, others[1] - base


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    print(f"{'':24}{'own, ms':>10}{'idle':>9}{'watched':>9}{'µs':>8}")
    for name, (calls, call) in cases(f"http://127.0.0.1:{ours.recv()}").items():
        own, idle, watched = measure(rounds, calls, call)
        print(f"{name:24}{own:10.2f}{idle / own:9.1%}{watched / own:9.1%}{watched * 1000:8.0f}", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
