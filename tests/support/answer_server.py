"""A loopback server that answers as a test says: in which pieces, when, how compressed, and whether to the end."""

import contextlib
import gzip
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import brotli
import h2.config
import h2.connection
import h2.events
import httpx


@dataclass
class Reply:
    """One answer.

    ``pieces`` are sent one by one, each after its entry of ``gates`` is set; after the last one the connection is
    dropped in the middle of the body if ``drops``. ``drops_at_once``: before anything of the answer. ``holds``: the
    answer waits for this event.
    """

    pieces: list[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False
    drops_at_once: bool = False
    holds: threading.Event | None = None
    gates: list[threading.Event] = field(default_factory=list)


def body(answer, *, status=200, size=None, encoding=None, **headers):
    """Return a reply of one JSON body, in pieces of `size` bytes, compressed by `encoding`."""
    return _reply(json.dumps(answer).encode(), "application/json", status, size, encoding, headers)


def events(listed, *, size=None, encoding=None, done=False, named=False, **headers):
    """Return a reply of server-sent events: dicts, with their type as event name if `named`, and [DONE]."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event, separators=(',', ':'))}\n\n"
        for event in listed
    ]
    text = "".join(lines) + ("data: [DONE]\n\n" if done else "")
    return _reply(text.encode(), "text/event-stream", 200, size, encoding, headers)


def lines(listed, *, size=None, media_type="application/x-ndjson"):
    """Return a reply of JSON values, one a line."""
    return _reply("".join(json.dumps(each) + "\n" for each in listed).encode(), media_type, 200, size, None, {})


def _reply(data, media_type, status, size, encoding, headers):
    given = {"Content-Type": media_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if encoding is not None:
        data = {"gzip": gzip.compress, "br": brotli.compress}[encoding](data)
        given["Content-Encoding"] = encoding
    size = size or len(data) or 1
    return Reply([data[i : i + size] for i in range(0, len(data), size)], status, given)


class AnswerServer:
    """Serves replies in their order, the last one again and again, and keeps the requests' paths and bodies."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, str, bytes]] = []
        self.url = ""

    def answer(self, *replies: Reply) -> "AnswerServer":
        """Serve these from now on."""
        self.replies = list(replies)
        return self

    def next(self) -> Reply:
        """Return the reply whose turn it is."""
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class Rerouted(httpx.HTTPTransport):
    """Sends what is for another host to a loopback server."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    def handle_request(self, request):
        headers = [(name, value) for name, value in request.headers.items() if name != "host"]
        return super().handle_request(
            httpx.Request(request.method, self.url + request.url.path, headers=headers, content=request.read())
        )


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: AnswerServer

    def do_POST(self):
        length = int(self.headers["Content-Length"] or 0)
        self.answers.asked.append((self.command, self.path, self.rfile.read(length)))
        reply = self.answers.next()
        self.close_connection = True
        if reply.holds is not None:
            reply.holds.wait(30)
        if reply.drops_at_once:
            return
        with contextlib.suppress(OSError):  # the reader has gone
            self._send(reply)

    def do_GET(self):
        self.do_POST()

    def _send(self, reply):
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Transfer-Encoding": "chunked", "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        for number, piece in enumerate(reply.pieces):
            if number < len(reply.gates):
                reply.gates[number].wait(30)
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        if not reply.drops:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def answering(*replies: Reply) -> Iterator[AnswerServer]:
    """Serve replies on a loopback address."""
    server = AnswerServer().answer(*replies)
    handler = type("Handler", (_Handler,), {"answers": server})
    with _Server(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{running.server_port}"
        yield server
        running.shutdown()
        thread.join()


@contextlib.contextmanager
def answering_http2(data: bytes) -> Iterator[str]:
    """Serve one JSON body by HTTP/2 without TLS, and yield the URL."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            self.request.sendall(connection.data_to_send())
            while received := self.request.recv(65_536):
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.StreamEnded):
                        headers = [(":status", "200"), ("content-type", "application/json")]
                        connection.send_headers(event.stream_id, headers)
                        connection.send_data(event.stream_id, data, end_stream=True)
                self.request.sendall(connection.data_to_send())

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def relaying_app(url, asked):
    """Return an application for this process that sends a request body to a provider at a URL, by its own client."""
    import fastapi

    app = fastapi.FastAPI()

    @app.post("/v1/chat/completions")
    async def proxy():
        async with httpx.AsyncClient() as client:
            answer = await client.post(url + "/v1/chat/completions", json=asked)
        return json.loads(answer.content)

    return app
