"""A loopback server that answers as recorded: for clients of providers that the ledger server does not speak as."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator


class Replies:
    """What a server answers, by the end of the path, and the paths that it was asked for.

    An answer is a JSON body, or a list of them: the events of a stream. ``status`` is that of all answers.
    """

    def __init__(self, **by_method):
        self.by_method = by_method
        self.status = 200
        self.asked = []
        self.url = ""

    def body(self, path):
        """Return the media type and the body for a path."""
        self.asked.append(path)
        answer = {"error": {"code": self.status, "message": "no"}}
        if self.status == 200:
            answer = self.by_method[path.partition("?")[0].rpartition("/")[2].rpartition(":")[2]]
        if isinstance(answer, list):
            return "text/event-stream", "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in answer)
        return "application/json", json.dumps(answer)


@contextlib.contextmanager
def replying(**by_method: object) -> Iterator[Replies]:
    """Serve replies; each connection ends with its answer."""
    replies = Replies(**by_method)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            media_type, body = replies.body(self.path)
            self.send_response(replies.status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        replies.url = f"http://127.0.0.1:{running.server_port}"
        yield replies
        running.shutdown()
        thread.join()
