"""Messages, actions, buttons and attachments of a conversation on their way to AgentSight's API.

They hold people's text, so they are in memory for as long as sending takes, and nowhere else: not in a ledger, not in
the log. What AgentSight refuses is dropped, with a warning that names its kind.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import SecretStr

from token_handlers.lifecycle import BackgroundWriter, Warnings
from token_handlers.sinks.agentsight.http import SendFailed, Wire

if TYPE_CHECKING:
    import httpx

PATHS = {
    "message": "/api/track/",
    "action": "/api/action_logs/",
    "button": "/api/buttons/",
    "attachments": "/api/attachments/",
    "conversation": "/api/conversations/",
}
MOST_WAITING = 1_000
"""How many items wait to be sent; later ones are dropped, with a warning."""

_MOST_CONVERSATIONS = 1_000
_SECONDS = 10.0
_warnings = Warnings()


class Item(NamedTuple):
    """One item: its kind, the conversation's id, AgentSight's fields for it, and what is attached to a message."""

    kind: str
    conversation_id: str
    fields: Mapping[str, object]
    attachments: Sequence[Mapping[str, object]] = ()


class ItemSender:
    """Sends items in their order, by a thread; the conversation that an item belongs to is made with the first."""

    def __init__(self, key: SecretStr, endpoint: str) -> None:
        self._wire = Wire(key, endpoint, _SECONDS, 2, 0.5)
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._writer: BackgroundWriter[Item] = BackgroundWriter(
            self._send, name="token_handlers-agentsight-items", capacity=MOST_WAITING, refused=_refused
        )

    def put(self, item: Item) -> None:
        """Take an item; never waits."""
        if not self._writer.put(item):
            _warnings.warn("full", "AgentSight is %d items behind; later ones are dropped", MOST_WAITING)

    def flush(self, timeout: float) -> bool:
        """Return whether everything was sent, or refused, within so many seconds."""
        return self._writer.flush(timeout)

    def _send(self, batch: Sequence[Item]) -> None:
        with self._wire.connect() as http:
            for item in batch:
                self._deliver(http, item)

    def _deliver(self, http: "httpx.Client", item: Item) -> None:
        if item.kind == "conversation":
            self._remember(
                item.conversation_id, self._wire.created(self._wire.post(http, PATHS[item.kind], item.fields))
            )
            return
        number = self._numbers.get(item.conversation_id)
        if number is None:
            number = self._make_conversation(http, item)
        place = {"conversation_id": item.conversation_id, "conversation": number}
        answer = self._wire.post(http, PATHS[item.kind], {**item.fields, **place})
        if item.attachments:
            message = answer.get("id") if isinstance(answer, Mapping) else None
            sender = {name: item.fields[name] for name in ("sender", "metadata")}
            self._wire.post(
                http, PATHS["attachments"], {"attachments": item.attachments, "message": message, **sender, **place}
            )

    def _make_conversation(self, http: "httpx.Client", item: Item) -> int:
        fields = conversation_fields(item.conversation_id, timestamp=item.fields.get("timestamp"))
        number = self._wire.created(self._wire.post(http, PATHS["conversation"], fields))
        self._remember(item.conversation_id, number)
        return number

    def _remember(self, conversation_id: str, number: int) -> None:
        self._numbers[conversation_id] = number
        while len(self._numbers) > _MOST_CONVERSATIONS:
            self._numbers.popitem(last=False)


def conversation_fields(conversation_id: str, **given: object) -> dict[str, object]:
    """Return all fields of a conversation as AgentSight takes them; those that are not given are None."""
    names = ("customer_id", "customer_ip_address", "device", "source", "language", "name", "metadata", "timestamp")
    return {
        "conversation_id": conversation_id,
        **dict.fromkeys(names),
        "is_used": True,
        "environment": "development",
        **given,
    }


def _refused(item: Item, error: Exception) -> None:
    reason = str(error) if isinstance(error, SendFailed) else type(error).__name__
    _warnings.warn((item.kind, reason), "AgentSight did not take an item (%s), which is dropped: %s", item.kind, reason)
