"""A loopback server that answers as recorded: for clients of providers that the ledger server does not speak as."""

import contextlib
import json
from collections.abc import Iterator

from tests.support.quiet_server import QuietHandler, serving


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

    class Handler(QuietHandler):
        def reply(self):
            self.content()
            media_type, body = replies.body(self.path)
            self.answer(replies.status, body.encode(), {"Content-Type": media_type})

    with serving(Handler) as port:
        replies.url = f"http://127.0.0.1:{port}"
        yield replies
