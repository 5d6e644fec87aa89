"""What the tests' HTTP servers on the loopback interface have in common."""

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Answers in one packet, as the second would wait for an ACK; logs nothing, and minds no client that has gone."""

    wbufsize = -1

    def reply(self) -> None:
        """Answer a request, as the server does what it is for."""
        self.answer(501)

    def do_POST(self):
        self.reply()

    def do_GET(self):
        self.reply()

    def answer(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send an answer, with the length of its content unless the headers have another."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def content(self) -> bytes:
        """Return what the request holds."""
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve on a free port, in threads; yields the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()
