"""Providers' cost and usage APIs on the loopback interface, in the documented shapes, which fail as they are told to.

with BillServer(key="sk-admin-1") as server:
    server.pages["/organization/costs"] = [page, next_page]
    server.fail(429, {"Retry-After": "0"})
"""

import json
import threading
from collections import deque
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.support.quiet_server import QuietHandler

WAIT_SECONDS = 20


class BillServer:
    """The server, in threads of its own for the length of a ``with`` block.

    ``pages`` are the answers of a path, one after the other by ``page=``; ``asked`` are the paths, parameters and
    headers of the requests.
    """

    def __init__(self, *headers):
        self.pages = {}
        self.asked = []
        self.key_headers = headers
        self.failures = deque()
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, status, headers=None, body=b'{"error": {"message": "no"}}', *, drip=False):
        """Answer the next request so; None drops the connection, and what drips never ends."""
        self.failures.append((status, headers or {}, body, drip))

    def params(self, path):
        """Return the parameters of the requests to a path."""
        return [params for asked, params, _ in self.asked if asked == path]

    def _answer(self, path, params):
        pages = self.pages.get(path)
        if pages is None:
            return 404, {}, b"{}", False
        position = int(dict(params).get("page", "page_0").removeprefix("page_"))
        more = position + 1 < len(pages)
        page = {"has_more": more, "next_page": f"page_{position + 1}" if more else None, **pages[position]}
        return 200, {}, json.dumps(page).encode(), False

    def _handler(self):
        bills = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def reply(self):
                parts = urlsplit(self.path)
                params = parse_qsl(parts.query)
                bills.asked.append((parts.path, params, dict(self.headers)))
                failure = bills.failures.popleft() if bills.failures else None
                status, headers, body, drip = failure or bills._answer(parts.path, params)
                if status is None:
                    self.close_connection = True
                    return
                length = {"Content-Length": str(len(body) + 10**6)} if drip else {}
                self.answer(status, body, {"Content-Type": "application/json", **length, **headers})
                while drip and not bills.released.wait(0.02):
                    self.wfile.write(b" ")
                    self.wfile.flush()

        return Handler
