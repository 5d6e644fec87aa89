"""ConversationTracker: a conversation's tokens under AgentSight's names, sent to AgentSight or kept in a ledger."""

import asyncio
import operator
import sys
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self, SupportsIndex, TypedDict

from pydantic import SecretStr

from token_handlers.budget.budget import Budget
from token_handlers.counter.counter import TokenCounter
from token_handlers.errors import WHY
from token_handlers.install import install
from token_handlers.lifecycle import Warnings
from token_handlers.pricing.calculator import price_call
from token_handlers.pricing.price import Price
from token_handlers.settings import Settings
from token_handlers.sinks.agentsight.client import DEFAULT_ENDPOINT, AgentSightClient, SendFailed
from token_handlers.sinks.agentsight.http import checked_endpoint, checked_key
from token_handlers.sinks.agentsight.items import Item, ItemSender, conversation_fields
from token_handlers.sinks.agentsight.outbox import TokenCounts
from token_handlers.sinks.agentsight.unsent import Unsent
from token_handlers.sinks.configured import Ledger, add_configured_sinks, configured_ledger
from token_handlers.tracking.recorder import add_sink, record_manual
from token_handlers.tracking.scopes import NO_LABELS, active_scopes
from token_handlers.tracking.state import state
from token_handlers.tracking.track_tokens import track_tokens
from token_handlers.usage import Operation, Usage, UsageRecord

FLUSH_SECONDS = 30.0
"""How long a send waits for a ledger to have everything on disk."""

_shared_unsent = Unsent(state.counter)
_outside = Warnings()
_generated_id = f"conv_{uuid.uuid4().hex[:12]}"


class SendSummary(TypedDict):
    """What a send has delivered: the tokens ``sent``, by name, to the ``destination`` (an address or a path)."""

    destination: str
    conversation_id: str | None
    sent: dict[str, int]
    recovered: int  # batches of earlier sends and of processes that died, delivered as well
    error: str | None  # what kept others of those from being delivered


class ConversationTracker:
    """Counts a conversation's tokens, and sends them to AgentSight or to a ledger.

    With a conversation id it counts what is given to `track_token_usage` and the calls inside ``with tracker:`` (or
    ``async with``). Without one it shows the process-wide counter, all conversations included, and sends that under
    AGENTSIGHT_CONVERSATION_ID or a made-up name. Making one turns on the tracking that AGENTSIGHT_TOKEN_HANDLER_TYPE
    names, and adds the sinks that AGENTSIGHT_TOKEN_LEDGER and AGENTSIGHT_TOKEN_REDIS_URL name.

    ``api_key`` and ``endpoint`` are by default what AGENTSIGHT_API_KEY and AGENTSIGHT_API_ENDPOINT say when it sends.
    ``sink`` gets a record of each call, or is an AgentSightClient with settings of its own. Calls inside the block are
    checked against ``budget`` before they are sent; what `track_token_usage` is given is booked there as well.

    Programs written for agentsight's own ConversationTracker run after one changed import: messages, actions, buttons
    and attachments go to AgentSight where there is an API key, by a thread. They are kept nowhere, and without a key
    they are counted in `get_tracked_data_summary` and dropped.
    """

    def __init__(
        self,
        conversation_id: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        endpoint: str | None = None,
        sink: Callable[[UsageRecord], object] | None = None,
        budget: Budget | None = None,
    ) -> None:
        _check_conversation(conversation_id)
        if sink is not None and not callable(sink):
            raise TypeError(f"a sink is a callable of one UsageRecord, not {sink!r}")
        if isinstance(sink, AgentSightClient) and (api_key is not None or endpoint is not None):
            raise ValueError("an AgentSightClient has a key and an endpoint of its own: give them to it alone")
        self._key = checked_key(api_key) if api_key is not None else None
        self._endpoint = checked_endpoint(endpoint) if endpoint is not None else None
        self._client = sink if isinstance(sink, AgentSightClient) else None
        self._sink = sink if self._client is None else None
        self._budget = budget
        self._is_shared = conversation_id is None
        self._items: ItemSender | None = None
        self._tracked: Counter[str] = Counter()
        self._waiting: dict[str | None, Unsent] = {}
        self._entered: list[track_tokens] = []
        self._was_entered = False
        self._requests_before = state.counter.successful_requests
        settings = Settings()
        self.conversation_id: str | None = conversation_id or _text(settings.conversation_id)
        self._unsent = _shared_unsent if self._is_shared else Unsent(TokenCounter())
        handler_type = _text(settings.token_handler_type)
        if handler_type is not None:
            install(handler_type)
        add_configured_sinks(settings)
        self._attach()

    def _attach(self) -> None:
        sinks = (self._sink,) if self._sink is not None else ()
        if self._is_shared:
            for sink in sinks:
                add_sink(sink)
            self._block = track_tokens(session=self.conversation_id, budget=self._budget)
        else:
            self._block = track_tokens(
                session=self.conversation_id, budget=self._budget, counter=self._unsent.counter, sinks=sinks
            )

    def __enter__(self) -> Self:
        self._enter(sys._getframe(1))  # noqa: SLF001 (the caller's frame, which track_tokens wants)
        return self

    async def __aenter__(self) -> Self:
        self._enter(sys._getframe(1))  # noqa: SLF001 (as above)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)

    def _enter(self, frame: FrameType) -> None:
        self._entered.append(self._block)  # another conversation may be chosen inside
        self._was_entered = True
        self._block.__enter__(frame)

    def __repr__(self) -> str:
        counts = self._unsent.counts()
        return f"<ConversationTracker {self.conversation_id!r}, {counts.total + counts.embedding} tokens to send>"

    @property
    def counter(self) -> TokenCounter:
        """The counter behind it, with costs and models; it goes on when counts are sent."""
        return self._unsent.counter

    def track_token_usage(
        self,
        prompt_tokens: SupportsIndex | None = 0,
        completion_tokens: SupportsIndex | None = 0,
        total_tokens: SupportsIndex | None = 0,
        embedding_tokens: SupportsIndex | None = 0,
        *,
        model: str | None = None,
        provider: str | None = None,
        embedding_model: str | None = None,
    ) -> None:
        """Add usage, all of it or, where an argument is refused, nothing; None is 0.

        ``model`` and ``provider`` price it; where only embedding tokens are given, ``model`` is the embedding model,
        else that is ``embedding_model``. Without a model the cost is unknown, and counted in ``unpriced_requests``.

        The total is prompt plus completion where it is not given. A total above that is kept: how the rest divides is
        not known, so it counts in `get_token_usage()` and what is sent to AgentSight, but neither as prompt nor as
        completion, nor in a ledger, whose totals are the sum of both; its cost is unknown. A total below is a
        ValueError.
        """
        for name, value in (("model", model), ("provider", provider), ("embedding_model", embedding_model)):
            _check_name(name, value)
        prompt = _count("prompt_tokens", prompt_tokens)
        completion = _count("completion_tokens", completion_tokens)
        total = _count("total_tokens", total_tokens) or prompt + completion
        embedding = _count("embedding_tokens", embedding_tokens)
        if total < prompt + completion:
            raise ValueError(
                f"total_tokens ({total}) is below prompt_tokens ({prompt}) + completion_tokens ({completion})"
            )
        rest = TokenCounts(total=total - prompt - completion)
        now = datetime.now(UTC)
        records = []
        if total:
            cost = (
                _price(model, provider, now, input_tokens=prompt, output_tokens=completion) if not rest.total else None
            )
            usage = Usage(input_tokens=prompt, output_tokens=completion)
            records.append(self._record("chat", usage, model, provider, cost, now))
        if embedding:
            embedder = embedding_model or (None if total else model)
            cost = _price(embedder, provider, now, input_tokens=embedding)
            records.append(self._record("embeddings", Usage(input_tokens=embedding), embedder, provider, cost, now))
        sinks = (self._sink,) if self._sink is not None else ()
        budgets = (self._budget,) if self._budget is not None else ()
        with self._unsent.lock, _shared_unsent.lock:
            for record in records:
                record_manual(record, (self._unsent.counter,), sinks, budgets)
            self._unsent.add(rest)
            if not self._is_shared:
                _shared_unsent.add(rest)

    def get_token_usage(self) -> dict[str, int]:
        """Return the tokens that were counted since the last send.

        Its keys are prompt_llm_token_count, completion_llm_token_count, total_llm_token_count and
        total_embedding_token_count.
        """
        counts = self._unsent.counts()
        self._warn_if_outside(counts)
        return {
            "prompt_llm_token_count": counts.prompt,
            "completion_llm_token_count": counts.completion,
            "total_llm_token_count": counts.total,
            "total_embedding_token_count": counts.embedding,
        }

    def configure(
        self,
        api_key: str | SecretStr | None = None,
        conversation_id: str | None = None,
        endpoint: str | None = None,
        **others: object,
    ) -> None:
        """Change the key, the endpoint or the conversation from now on; what is None stays.

        What was counted for another conversation and not sent waits until that one is chosen again. Other arguments
        of agentsight's `configure`, such as ``log_level``, have no effect here.
        """
        _check_conversation(conversation_id)
        key = checked_key(api_key) if api_key is not None else self._key
        self._endpoint = checked_endpoint(endpoint) if endpoint is not None else self._endpoint
        self._key = key
        if api_key is not None or endpoint is not None:
            self._items = None
        if conversation_id is not None and conversation_id != self.conversation_id:
            self._choose(conversation_id)

    def get_or_create_conversation(self, conversation_id: str, **fields: object) -> None:
        """Choose a conversation from now on, and have AgentSight make it, with fields such as ``customer_id``."""
        if conversation_id != self.conversation_id:
            _check_conversation(conversation_id)
            self._choose(conversation_id)
        self._tell("conversation", conversation_fields(conversation_id, **fields))

    def initialize_conversation(self, conversation_id: str, **fields: object) -> None:
        """Have AgentSight make a conversation that is not used yet, with fields such as ``customer_id``."""
        _check_conversation(conversation_id)
        self._tell("conversation", conversation_fields(conversation_id, **{"is_used": False, **fields}))

    def track_human_message(
        self,
        message: str,
        attachments: Iterable[Mapping[str, object]] | None = None,
        attachment_mode: str = "base64",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Send a user's message, with attachments of ``filename``, ``mime_type`` and ``data`` (base64 or bytes)."""
        self._say(message, "end_user", attachments, metadata)

    def track_agent_message(
        self,
        message: str,
        attachments: Iterable[Mapping[str, object]] | None = None,
        attachment_mode: str = "base64",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Send an agent's message, as `track_human_message` sends a user's."""
        self._say(message, "agent", attachments, metadata)

    def track_attachments(
        self,
        attachments: Iterable[Mapping[str, object]],
        sender: str | None = None,
        metadata: Mapping[str, object] | None = None,
        mode: str = "base64",
    ) -> None:
        """Send attachments of ``filename``, ``mime_type`` and ``data``, which is base64 or bytes."""
        fields = {"attachments": _encoded(attachments), "sender": sender or "end_user", "mode": "base64"}
        self._tell("attachments", {**fields, "metadata": dict(metadata or {})})

    def track_action(self, action_name: str, **fields: object) -> None:
        """Send that the agent did something, with fields such as ``started_at``, ``duration_ms`` or ``tools_used``."""
        _check_text("action_name", action_name)
        given = {name: value for name, value in fields.items() if value is not None}
        self._tell("action", {"action_name": action_name, "metadata": {}, **given})

    def track_button(
        self, button_event: str, label: str, value: str, metadata: Mapping[str, object] | None = None
    ) -> None:
        """Send that the user pressed a button."""
        fields = {"button_event": button_event, "label": label, "value": value}
        for name, text in fields.items():
            _check_text(name, text)
        self._tell("button", {**fields, "metadata": dict(metadata or {})})

    def get_tracked_data_summary(self) -> dict[str, object]:
        """Return how many items of each kind were tracked since the last send, and the tokens; never their text."""
        kinds = {"message": "messages", "action": "actions", "button": "buttons", "conversation": "conversations"}
        counts = {kinds.get(kind, kind): number for kind, number in self._tracked.items()}
        return {"conversation_id": self.conversation_id, "summary": counts, "token_usage": self.get_token_usage()}

    def send_tracked_data(self) -> SendSummary:
        """Send what was counted since the last send that succeeded, to AgentSight or to the ledger.

        With an API key to AgentSight; without one, the ledger (AGENTSIGHT_TOKEN_LEDGER, or the sink) has written all
        records to disk. Raises SendFailed where that did not succeed; then nothing is lost, and the next send tries it
        again under the same event id. With a ledger, what is being sent is kept in its file, and what a killed
        process has left there is sent by the next process that sends; without one it is in memory only.
        """
        settings = Settings()
        client = self._client or self._configured_client(settings)
        self._warn_if_outside(self._unsent.counts())
        if client is not None:
            if self._items is not None and not self._items.flush(FLUSH_SECONDS):
                raise SendFailed(f"{client.endpoint} has not taken all messages yet; the next send goes on")
            self._tracked.clear()
            return self._send(client)
        sink = self._sink or configured_ledger(settings)
        if sink is None:
            raise SendFailed(
                "nowhere to send to: set AGENTSIGHT_API_KEY or AGENTSIGHT_TOKEN_LEDGER, or give ConversationTracker an "
                "api_key or a sink"
            )
        return self._flush(sink)

    async def asend_tracked_data(self) -> SendSummary:
        """Send as `send_tracked_data` does, in a thread; where the task is cancelled, that thread goes on."""
        return await asyncio.to_thread(self.send_tracked_data)

    def _send(self, client: AgentSightClient) -> SendSummary:
        conversation = self.conversation_id or client.conversation_id or _generated_id
        recovered, failure = client.send(
            self._unsent.hand_over(lambda counts: client.keep(conversation, counts), client.outbox.holds)
        )
        sent = self._unsent.acknowledged()
        return _summary(client.endpoint, conversation, sent, recovered, failure)

    def _flush(self, sink: Callable[[UsageRecord], object]) -> SendSummary:
        destination = str(getattr(sink, "place", type(sink).__name__))
        flush = getattr(sink, "flush", None)
        sent = self._unsent.flush(lambda: flush is None or flush(timeout=FLUSH_SECONDS) is not False)
        if sent is None:
            raise SendFailed(f"{destination} has not everything on disk yet; it goes on trying")
        return _summary(destination, self.conversation_id, sent)

    def _configured_key(self, settings: Settings) -> SecretStr | None:
        if self._key is None and settings.api_key is not None and settings.api_key.get_secret_value().strip():
            return checked_key(settings.api_key.get_secret_value().strip(), "AGENTSIGHT_API_KEY")
        return self._key

    def _configured_endpoint(self, settings: Settings) -> str:
        return self._endpoint or checked_endpoint(
            _text(settings.api_endpoint) or DEFAULT_ENDPOINT, "AGENTSIGHT_API_ENDPOINT"
        )

    def _configured_client(self, settings: Settings) -> AgentSightClient | None:
        key = self._configured_key(settings)
        if key is None:
            return None
        endpoint = self._configured_endpoint(settings)
        ledger = self._sink if isinstance(self._sink, Ledger) else configured_ledger(settings)
        if ledger is None:
            return AgentSightClient(key, endpoint)
        from token_handlers.sinks.sqlite.ledger import SQLiteLedger

        return AgentSightClient(key, endpoint, outbox=ledger if isinstance(ledger, SQLiteLedger) else None)

    def _warn_if_outside(self, counts: TokenCounts) -> None:
        """Warn once where the process's calls are tracked, and none of them was made inside this tracker's block."""
        if self._is_shared or self._was_entered or not state.automatic or any(counts):
            return
        if state.counter.successful_requests > self._requests_before:
            _outside.warn(
                "outside",
                "the tracker of %r has counted no call: automatic tracking counts for the whole process; make the "
                "conversation's calls inside `with tracker:` (%s)",
                self.conversation_id,
                WHY,
            )

    def _choose(self, conversation_id: str) -> None:
        """Count for another conversation from now on."""
        if any(self._unsent.counts()) and not self._is_shared:
            self._waiting[self.conversation_id] = self._unsent
        self.conversation_id, self._is_shared = conversation_id, False
        waiting = self._waiting.pop(conversation_id) if conversation_id in self._waiting else None
        self._unsent = waiting or Unsent(TokenCounter())
        self._attach()

    def _say(
        self,
        message: str,
        sender: str,
        attachments: Iterable[Mapping[str, object]] | None,
        metadata: Mapping[str, object] | None,
    ) -> None:
        _check_text("message", message)
        fields: dict[str, object] = {"content": message, "sender": sender, "metadata": dict(metadata or {})}
        self._tell("message", fields, _encoded(attachments or ()))

    def _tell(self, kind: str, fields: dict[str, object], attachments: Sequence[Mapping[str, object]] = ()) -> None:
        """Hand an item to the thread that sends it, where there is a key, and count it."""
        conversation = str(fields.get("conversation_id") or self.conversation_id or _generated_id)
        self._tracked[kind] += 1
        if self._items is None:
            settings = Settings()
            key, endpoint = self._configured_key(settings), self._configured_endpoint(settings)
            if self._client is not None or key is None:
                return
            self._items = ItemSender(key, endpoint)
        now = datetime.now(UTC).isoformat()
        self._items.put(Item(kind, conversation, {**fields, "timestamp": now}, attachments))

    def _record(
        self,
        operation: Operation,
        usage: Usage,
        model: str | None,
        provider: str | None,
        price: Price | None,
        now: datetime,
    ) -> UsageRecord:
        scopes = active_scopes()
        labels = scopes[-1].labels if scopes else NO_LABELS
        return UsageRecord(
            usage=usage,
            model=model,
            requested_model=model,
            provider=provider,
            operation=operation,
            source="manual",
            session=self.conversation_id or labels.session,
            user=labels.user,
            tags=labels.tags,
            cost=None if price is None else price.cost,
            cost_source=None if price is None else price.source,
            cache_saved_cost=None if price is None else price.cache_saved,
            doubts=() if price is None else price.doubts,
            started_at=now,
            ended_at=now,
        )


def _price(model: str | None, provider: str | None, now: datetime, **counts: int) -> Price | None:
    """Return what a model's tokens cost, or None where the model is not known."""
    return None if model is None else price_call(counts, model, provider, at=now.timestamp())


def _summary(
    destination: str, conversation: str | None, sent: TokenCounts, recovered: int = 0, failure: SendFailed | None = None
) -> SendSummary:
    return {
        "destination": destination,
        "conversation_id": conversation,
        "sent": {
            "prompt_tokens": sent.prompt,
            "completion_tokens": sent.completion,
            "total_tokens": sent.total,
            "embedding_tokens": sent.embedding,
        },
        "recovered": recovered,
        "error": str(failure) if failure is not None else None,
    }


def _count(name: str, value: SupportsIndex | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {value!r}")
    number = operator.index(value)
    if number < 0:
        raise ValueError(f"{name} must not be negative, as {number} is")
    return number


def _check_conversation(conversation_id: str | None) -> None:
    if conversation_id is not None and (not isinstance(conversation_id, str) or not conversation_id.strip()):
        raise ValueError(f"conversation_id must be a non-empty string, not {conversation_id!r}")
    if conversation_id is not None and conversation_id.startswith("ags_"):
        raise ValueError("conversation_id looks like an API key: the key is given as api_key=, or AGENTSIGHT_API_KEY")


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} must be a string with something in it, not {type(text).__name__}")


def _encoded(attachments: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return attachments as AgentSight takes them in JSON: their bytes in base64."""
    encoded = []
    for attachment in attachments:
        data = attachment["data"]
        raw = data.read() if isinstance(data, BytesIO) else data
        encoded.append({**attachment, "data": b64encode(raw).decode() if isinstance(raw, bytes) else raw})
    return encoded


def _check_name(name: str, value: str | None) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"{name} must be a non-empty string such as 'gpt-4o-mini', or None, not {value!r}")


def _text(value: str | None) -> str | None:
    """Return a setting; a blank one is none."""
    return value.strip() or None if value is not None else None


if TYPE_CHECKING:
    conversation_tracker: ConversationTracker
    """The ready-made tracker of the whole process, as agentsight has one; made when it is first asked for."""
else:

    def __getattr__(name: str) -> ConversationTracker:
        if name != "conversation_tracker":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, ConversationTracker())
