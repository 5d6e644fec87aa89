"""Every public name as a typed user writes it: checked by mypy --strict and by pyright in strict mode, and never run.

test_typing.py asserts that none is missing. What is written out as ``assert_type`` is what callers rely on.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, assert_type

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import FakeListChatModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from opentelemetry.metrics import NoOpMeterProvider
from pydantic import SecretStr

import token_handlers.auto
import token_handlers.sinks
from token_handlers import (
    Budget,
    BudgetExceeded,
    ConversationTracker,
    MissingDependency,
    TokenCounter,
    TokenHandlersError,
    Usage,
    UsageRecord,
    UsageTotals,
    add_sink,
    estimate,
    get_llm_token_usage_for_session,
    get_openai_callback,
    install,
    record_cost,
    remove_sink,
    report_stream_usage,
    set_price,
    shared_counter,
    track_tokens,
    uninstall,
    usage_from_payload,
)
from token_handlers.budget import Amounts, BudgetWarning
from token_handlers.conversation import SendSummary
from token_handlers.install import Settings
from token_handlers.langchain import (
    BudgetMiddleware,
    LangChainTokenHandler,
    TrackedEmbeddings,
    get_bedrock_anthropic_callback,
)
from token_handlers.langchain import report_stream_usage as report_langchain
from token_handlers.llama_index import LlamaIndexTokenHandler
from token_handlers.llama_index import report_stream_usage as report_llama_index
from token_handlers.sessions import LLMTokenUsage
from token_handlers.sinks import redis as redis_sink
from token_handlers.sinks.agentsight import DEFAULT_ENDPOINT, AgentSightClient, SendFailed
from token_handlers.sinks.otel import OTelMetrics
from token_handlers.sinks.postgres import SQLLedger
from token_handlers.sinks.redis import Backlog, RedisCounter, Reserved, Spent, StoreRefused, StoreUnavailable
from token_handlers.sinks.sqlite import SQLiteLedger


def blocks(counter: TokenCounter) -> None:
    with track_tokens() as plain:
        assert_type(plain, TokenCounter)
    with track_tokens(session="s", user="u", tags={"team": "red", "try": 2}, budget=Budget(max_cost="1")) as labelled:
        assert_type(labelled, TokenCounter)
    with track_tokens(tags=["nightly"], counter=counter, sinks=[print, SQLiteLedger("ledger.db")]):
        pass
    with track_tokens(counter=shared_counter()) as shared, track_tokens():
        assert_type(shared, TokenCounter)


async def async_blocks() -> None:
    async with track_tokens(session="s") as counter:
        assert_type(counter, TokenCounter)
    async with get_openai_callback() as handler:
        assert_type(handler, LangChainTokenHandler)
    async with ConversationTracker("c") as tracker:
        assert_type(tracker, ConversationTracker)


@track_tokens(session="s")
def function(question: str, *, times: int = 1) -> list[str]:
    return [question] * times


@track_tokens()
async def coroutine(question: str) -> str:
    return question


@track_tokens(tags=["stream"])
def generator(number: int) -> Iterator[int]:
    yield number


@track_tokens()
async def async_generator(number: int) -> AsyncIterator[int]:
    yield number


class Agent:
    @track_tokens()
    def ask(self, question: str) -> str:
        return question


async def decorated() -> None:
    assert_type(function("why?", times=2), list[str])
    assert_type(await coroutine("why?"), str)
    assert_type(generator(1), Iterator[int])
    assert_type(async_generator(1), AsyncIterator[int])
    assert_type(Agent().ask("why?"), str)
    function(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function("why?", often=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def totals(counter: TokenCounter, record: UsageRecord) -> None:
    assert_type(
        (counter.prompt_tokens, counter.completion_tokens, counter.total_tokens, counter.embedding_tokens),
        tuple[int, int, int, int],
    )
    assert_type(
        (counter.prompt_tokens_cached, counter.cache_write_tokens, counter.reasoning_tokens), tuple[int, int, int]
    )
    assert_type((counter.successful_requests, counter.failed_requests, counter.cached_responses), tuple[int, int, int])
    assert_type((counter.estimated_requests, counter.unpriced_requests), tuple[int, int])
    assert_type((counter.cost, counter.total_cost, counter.saved_cost), tuple[Decimal | None, float, Decimal])
    assert_type(counter.by_model, dict[str, UsageTotals])
    assert_type(counter.by_session["s"].cost, Decimal | None)
    assert_type(counter.by("team").get("red"), UsageTotals | None)
    assert_type((counter.snapshot(), counter.reset()), tuple[UsageTotals, UsageTotals])
    assert_type(counter.get_token_usage(), dict[str, int])
    counter.add(record)
    counter.on_record(print)
    counter.on_record(lambda seen: seen.usage.input_tokens)
    counter.on_record(takes_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type((str(counter), repr(counter)), tuple[str, str])


def takes_text(text: str) -> None:
    """Take what is no record."""


def records() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=20, cache_read_tokens=900, reasoning_tokens=4)
    assert_type((usage.input_tokens, usage.total_tokens, usage.web_searches), tuple[int, int, int])
    record = UsageRecord(usage=usage, model="gpt-4o", cost=Decimal("0.01"), started_at=datetime.now(UTC))
    assert_type((record.usage, record.model, record.cost), tuple[Usage, str | None, Decimal | None])
    assert_type(record.operation, Literal["chat", "text_completion", "embeddings", "rerank", "tool"])
    assert_type(record.outcome, Literal["success", "failed", "cached"])
    assert_type(record.source, Literal["reported", "estimated", "manual"])
    assert_type((record.session, record.user, record.node), tuple[str | None, str | None, str | None])
    assert_type((record.started_at, record.tags), tuple[datetime | None, Mapping[str, str]])
    summed = UsageTotals(prompt_tokens=3)
    assert_type((summed.total_tokens, summed.cost, summed.total_cost), tuple[int, Decimal | None, float])
    assert_type(usage_from_payload({"prompt_tokens": 1}, provider="openai"), Usage | None)


def errors() -> None:
    try:
        function("why?")
    except BudgetExceeded as error:
        assert_type((error.scope, error.limit), tuple[str | None, str | None])
        assert_type((error.maximum, error.spent), tuple[Decimal | int | None, Decimal | int | None])
    except (MissingDependency, SendFailed, StoreRefused, StoreUnavailable) as error:
        assert_type(error, MissingDependency | SendFailed | StoreRefused | StoreUnavailable)
        raise TokenHandlersError("a base of all") from error


def budgets(store: RedisCounter) -> None:
    def warn(warning: BudgetWarning) -> None:
        assert_type((warning.scope, warning.limit), tuple[str, str])

    def allow(error: BudgetExceeded) -> bool:
        return error.limit == "max_tokens"

    budget = Budget(max_cost=Decimal(5), max_tokens=10, per="day", each="user", on_warning=warn, on_exceeded=allow)
    Budget(max_cost="1.50", scope="team", store=store, on_outage="fail_open", hold_seconds=60)
    assert_type(budget.limits, Mapping[str, Decimal | int | None])
    assert_type((budget.spent(), budget.held("ann")), tuple[Amounts, Amounts])
    assert_type(budget.refused(BudgetExceeded("no")), bool)
    budget.set_limits(max_cost=6.5)
    Budget(max_cost=1, per="week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def process_wide(sink: Callable[[UsageRecord], object]) -> None:
    install()
    install("langchain,llamaindex")
    uninstall()
    add_sink(sink)
    remove_sink(sink)
    assert_type(shared_counter(), TokenCounter)
    record_cost("search API", "0.005")
    set_price("my-llama", input_mtok=0, output_mtok="0.5")
    set_price("gpt-4o", "azure", alias_of="gpt-4o", alias_provider="openai")
    found = estimate("gpt-4o", "Hello", tools=[{"type": "web_search"}], max_tokens=5, provider="openai")
    assert_type((found.min_cost, found.max_cost), tuple[Decimal | None, Decimal | None])
    assert_type((found.input_tokens, found.max_output_tokens, found.reason), tuple[int, int | None, str | None])
    settings = Settings()
    assert_type((settings.token_handler_type, settings.token_ledger), tuple[str | None, str | None])
    assert_type((settings.api_key, settings.token_redis_url), tuple[SecretStr | None, SecretStr | None])
    assert_type((token_handlers.auto.__name__, token_handlers.sinks.__name__), tuple[str, str])


def no_such_names() -> None:
    from token_handlers import track_token  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    from token_handlers.langchain import TokenHandler  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    from token_handlers.llama_index import LlamaTokenHandler  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    del track_token, TokenHandler, LlamaTokenHandler


def langchain(embeddings: DeterministicFakeEmbedding) -> None:
    handler = LangChainTokenHandler(TokenCounter())
    callbacks: list[BaseCallbackHandler] = [handler]
    model = FakeListChatModel(responses=["hello"], callbacks=callbacks)
    assert_type(report_langchain(model), FakeListChatModel)
    assert_type(report_stream_usage(model), FakeListChatModel)
    assert_type(token_handlers.LangChainTokenHandler(), LangChainTokenHandler)
    assert_type(handler.counter, TokenCounter)
    assert_type((handler.total_tokens, handler.prompt_tokens, handler.completion_tokens), tuple[int, int, int])
    assert_type((handler.successful_requests, handler.total_cost), tuple[int, float])
    assert_type((handler.cost, handler.estimated_requests), tuple[Decimal | None, int])
    assert_type(handler.by_model, dict[str, UsageTotals])
    assert_type(handler.usage_metadata["gpt-4o"]["input_tokens"], int)
    with get_openai_callback() as callback, get_bedrock_anthropic_callback() as bedrock:
        assert_type((callback, bedrock), tuple[LangChainTokenHandler, LangChainTokenHandler])
    tracked = TrackedEmbeddings(embeddings, counter=TokenCounter())
    plain: Embeddings = tracked
    assert_type(plain.embed_query("why?"), list[float])
    assert_type(tracked.embed_documents(["why?"]), list[list[float]])
    assert_type(BudgetMiddleware(Budget(max_tokens=9), on_exceeded="interrupt").budget, Budget)


def llama_index() -> None:
    handler = LlamaIndexTokenHandler()
    llm = MockLLM(callback_manager=CallbackManager([handler]))
    assert_type(report_llama_index(llm), MockLLM)
    assert_type(token_handlers.LlamaIndexTokenHandler(), LlamaIndexTokenHandler)
    assert_type(handler.counter, TokenCounter)
    assert_type((handler.prompt_llm_token_count, handler.completion_llm_token_count), tuple[int, int])
    assert_type((handler.total_llm_token_count, handler.total_embedding_token_count), tuple[int, int])
    assert_type((handler.cost, handler.estimated_requests), tuple[Decimal | None, int])
    assert_type(handler.by_model, dict[str, UsageTotals])
    handler.reset_counts()


async def conversations(sink: Callable[[UsageRecord], object]) -> None:
    tracker = ConversationTracker("c", api_key=SecretStr("key"), endpoint=DEFAULT_ENDPOINT)
    with tracker as entered, ConversationTracker(sink=sink, budget=Budget(max_requests=3)):
        assert_type(entered, ConversationTracker)
    tracker.track_token_usage(1, 2, total_tokens=3, embedding_tokens=None)
    tracker.track_token_usage(1, model="gpt-4o", provider="openai", embedding_model=None)
    assert_type(tracker.get_token_usage(), dict[str, int])
    assert_type(tracker.counter, TokenCounter)
    assert_type(tracker.send_tracked_data(), SendSummary)
    summary = await tracker.asend_tracked_data()
    assert_type((summary["destination"], summary["sent"]), tuple[str, dict[str, int]])
    assert_type(get_llm_token_usage_for_session("s", ledger=SQLiteLedger("x.db")), dict[str, LLMTokenUsage] | None)


def sinks(record: UsageRecord) -> None:
    with SQLiteLedger(Path("ledger.db"), durability="sync") as ledger:
        assert_type(ledger, SQLiteLedger)
        assert_type(ledger.totals(session="s", since=date(2026, 1, 1), until="2026-02-01"), UsageTotals)
        by_day: dict[str, UsageTotals] = ledger.by("day", since=datetime.now(UTC))
        assert_type(by_day["2026-01-01"], UsageTotals)
        assert_type(list(ledger.records(model="gpt-4o")), list[UsageRecord])
        assert_type(ledger.update_costs(lambda seen: seen.cost), tuple[int, int])
        assert_type((ledger.waiting, ledger.failed_writes, ledger.lost), tuple[int, int, int])
    backlog: Backlog = ledger
    with SQLLedger(SecretStr("postgresql://host/db"), "shop", timeout=5, backlog=backlog) as server:
        assert_type(server, SQLLedger)
        assert_type((server.totals(user="u").cost, server.place, server.flush(1.0)), tuple[Decimal | None, str, bool])
    fleet = RedisCounter(SecretStr("redis://localhost"), namespace="n", backlog=backlog)
    assert_type((fleet.totals(user="u"), fleet.by("day")), tuple[UsageTotals, dict[str, UsageTotals]])
    assert_type((fleet.waiting, fleet.dropped, fleet.flush(1.0)), tuple[int, int, bool])
    assert_type(fleet.reserve("team", reservation="r", limits={"max_cost": Decimal(1)}), Reserved)
    assert_type(fleet.spent("team"), Spent)
    assert_type(fleet.spent("team").spent, redis_sink.Amounts)
    metrics = OTelMetrics(NoOpMeterProvider())
    client = AgentSightClient("key", DEFAULT_ENDPOINT, outbox="outbox", environment="production")
    assert_type((client.flush(), client.take_over(timeout=1.0), metrics.flush()), tuple[bool, bool, bool])
    for sink in (ledger, fleet, metrics, client):
        sink(record)
        sink.flush()
        sink.close()
        add_sink(sink)
