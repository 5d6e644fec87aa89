"""An AgentSight API on the loopback interface that fails as it is told to, and keeps what it counted.

    with AgentSightAPI() as api:
        api.fail(Answer(503), path=ACTIONS)
        ConversationTracker("c1", api_key=KEY, endpoint=api.url).send_tracked_data()
        api.counted("c1")

It is strict: a request that differs from what AgentSight's own client sends is answered 400. It honours event ids: an
action that it has counted is acknowledged again and counted once.
"""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import NamedTuple

from tests.support.quiet_server import QuietHandler

KEY = "ags_0123456789abcdef0123456789abcdef_012345"
OTHER_KEY = "ags_ffffffffffffffffffffffffffffffff_ffffff"
CONVERSATIONS = "/api/conversations/"
ACTIONS = "/api/action_logs/"
WAIT_SECONDS = 20

_FIELDS = {
    CONVERSATIONS: {
        *(
            "conversation_id",
            "customer_id",
            "customer_ip_address",
            "device",
            "source",
            "language",
            "name",
            "is_used",
            "environment",
        ),
        *("metadata", "timestamp"),
    },
    ACTIONS: {"action_name", "metadata", "conversation_id", "conversation", "timestamp"},
}
_NUMBERS = ("prompt_tokens", "completion_tokens", "total_tokens", "embedding_tokens")


@dataclass
class Answer:
    """How one request fares: its status (None drops the connection), and whether it was processed before."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None
    processed: bool = False
    held: threading.Event | None = None


class Request(NamedTuple):
    """What came in."""

    path: str
    key: str | None
    event_id: str | None
    body: dict
    at: float


class AgentSightAPI:
    """The server, in threads of its own for the length of a ``with`` block."""

    def __init__(self):
        self.requests = []
        self.actions = {}
        self.conversations = {}
        self._failures = {CONVERSATIONS: deque(), ACTIONS: deque()}
        self._keys = {KEY, OTHER_KEY}
        self._changed = threading.Condition()
        self._held = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, *answers, path=ACTIONS):
        """Answer the next requests to a path so, one after the other."""
        self._failures[path].extend(answers)

    def hold(self, *, path=ACTIONS, processed=False, status=200):
        """Let the next request to a path stand until `release`."""
        held = threading.Event()
        self._held.append(held)
        self.fail(Answer(status, processed=processed, held=held), path=path)

    def release(self):
        """Answer the requests that stand."""
        for held in self._held:
            held.set()

    def revoke(self, key):
        """Answer 401 to a key from now on."""
        self._keys.discard(key)

    def wait_for(self, requests, path=ACTIONS):
        """Block until that many requests to a path have come in, and, where they are, been processed."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._count(path) >= requests, WAIT_SECONDS)
        assert arrived, f"{self._count(path)} requests to {path}"

    def counted(self, conversation):
        """Return the sums of a conversation under AgentSight's names."""
        with self._changed:
            counted = [body["metadata"] for body in self.actions.values() if body["conversation_id"] == conversation]
        return tuple(sum(numbers[name] for numbers in counted) for name in _NUMBERS)

    def sent_to(self, path=ACTIONS):
        """Return the requests to a path."""
        with self._changed:
            return [request for request in self.requests if request.path == path]

    def _count(self, path):
        return sum(request.path == path for request in self.requests)

    def _handler(self):
        api = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def reply(self):
                answer = api._take(self.path, self.headers, json.loads(self.content()))
                if answer.status is None:
                    self.close_connection = True
                else:
                    self.answer(answer.status, json.dumps(answer.body).encode(), answer.headers)

        return Handler

    def _take(self, path, headers, body):
        key = (headers["Authorization"] or "").removeprefix("Api-Key ")
        with self._changed:
            failures = self._failures.get(path)
            answer = failures.popleft() if failures else None
            if answer is None or answer.processed:
                processed = self._process(path, key, headers["Idempotency-Key"], body)
                answer = processed if answer is None else answer
                answer.body = processed.body if answer.body is None else answer.body
            self.requests.append(Request(path, key, headers["Idempotency-Key"], body, time.monotonic()))
            self._changed.notify_all()
        if answer.held is not None:
            answer.held.wait(WAIT_SECONDS)
        return answer

    def _process(self, path, key, event_id, body):
        if key not in self._keys:
            return Answer(401, body={"detail": f"Invalid key {key}"})
        if set(body) != _FIELDS.get(path):
            return Answer(400, body={"detail": f"{path} does not take {sorted(body)}"})
        if path == CONVERSATIONS:
            number = self.conversations.setdefault(body["conversation_id"], len(self.conversations) + 1)
            return Answer(201, body={"id": number})
        return self._count_action(event_id, body)

    def _count_action(self, event_id, body):
        numbers = body["metadata"]
        if self.conversations.get(body["conversation_id"]) != body["conversation"]:
            return Answer(400, body={"conversation": ["unknown"]})
        if body["action_name"] != "token_usage" or set(numbers) != {*_NUMBERS, "event_id"}:
            return Answer(400, body={"metadata": [str(numbers)]})
        if not event_id or numbers["event_id"] != event_id or any(type(numbers[name]) is not int for name in _NUMBERS):
            return Answer(400, body={"metadata": [str(numbers)]})
        known = self.actions.setdefault(event_id, body)
        if known != body:
            return Answer(409, body={"detail": f"{event_id} is another action"})
        return Answer(201, body={"id": len(self.actions)})
