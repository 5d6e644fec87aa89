"""What one call used (Usage), one call (UsageRecord), and a sum of calls (UsageTotals)."""

import itertools
import os
import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property, lru_cache
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypedDict, overload

from pydantic import BaseModel, ConfigDict, Field, computed_field, create_model, model_validator

Count = Annotated[int, Field(strict=True, ge=0)]
Operation = Literal["chat", "text_completion", "embeddings", "rerank", "tool"]
Source = Literal["reported", "estimated", "manual"]
Outcome = Literal["success", "failed", "cached"]

TOOLS = "(tools)"
"""The model of what tools cost by themselves, which have none."""

# part -> the whole that includes it; parts that share a whole and a line of WHOLES are disjoint
PARTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("cache_read_tokens", "cache_write_tokens"), "input_tokens"),
    (("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens"), "cache_write_tokens"),
    (("input_audio_tokens", "input_image_tokens", "input_video_tokens"), "input_tokens"),
    (("cache_audio_read_tokens",), "cache_read_tokens"),
    (("cache_audio_read_tokens",), "input_audio_tokens"),
    (("reasoning_tokens", "output_citation_tokens"), "output_tokens"),
    (("output_audio_tokens", "output_image_tokens", "output_video_tokens"), "output_tokens"),
)


class Usage(BaseModel):
    """What one call used, in tokens and per-call fees, under genai-prices' unit names.

    Buckets are inclusive: ``input_tokens`` contains cache reads, cache writes, audio, images and video;
    ``output_tokens`` contains reasoning, audio and images. A part above its whole is refused, as are negatives,
    bools, floats and strings.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_5m_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    reasoning_tokens: Count = 0
    input_audio_tokens: Count = 0
    output_audio_tokens: Count = 0
    cache_audio_read_tokens: Count = 0
    input_image_tokens: Count = 0
    output_image_tokens: Count = 0
    input_video_tokens: Count = 0
    output_citation_tokens: Count = 0
    output_video_tokens: Count = 0
    cache_write_12h_tokens: Count = 0
    web_searches: Count = 0
    social_searches: Count = 0
    storage_searches: Count = 0
    code_executions: Count = 0
    rerank_searches: Count = 0
    container_sessions: Count = 0
    maps_searches: Count = 0
    sources: Count = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

    @cached_property
    def response_id(self) -> str | None:
        """The id of the provider's answer that usage_from_payload() read; None where it read a usage alone."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _check_total(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "total_tokens" not in data:
            return data
        rest = {key: value for key, value in data.items() if key != "total_tokens"}
        parts = rest.get("input_tokens", 0), rest.get("output_tokens", 0)
        if data["total_tokens"] != sum(part for part in parts if isinstance(part, int)):
            raise ValueError(
                f"total_tokens ({data['total_tokens']!r}) is not input_tokens + output_tokens ({parts[0]} + {parts[1]})"
            )
        return rest

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        check_parts(self.__dict__)
        return self


_NAMES, _INTEGERS = frozenset(Usage.model_fields), frozenset((int,))


def check_parts(counts: Mapping[str, int]) -> None:
    """Raise ValueError where a part is above its whole; what is absent is 0."""
    for parts, whole in _rules_for(tuple(compress(counts, counts.values()))):
        total, limit = 0, counts.get(whole, 0)
        for part in parts:  # not by sum(), since each record is checked twice
            total += counts.get(part, 0)
        if total > limit:
            named = " + ".join(parts)
            raise ValueError(f"{named} ({total}) exceeds {whole} ({limit}), which must include it")


@lru_cache(256)
def _rules_for(names: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Return the rules of PARTS that counts can break if only those of these names are not 0."""
    return tuple((parts, whole) for parts, whole in PARTS if not set(parts).isdisjoint(names))


def checked_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Return the counts that a Usage of them would have; where there can be none, raise ValueError as it does."""
    if (
        counts.keys() <= _NAMES
        and _INTEGERS.issuperset(map(type, counts.values()))
        and min(counts.values(), default=0) >= 0
    ):
        check_parts(counts)
        return counts
    usage = Usage(**counts)
    return usage.model_dump(include=usage.model_fields_set)


EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""In which money is added up: a user's own decimal context may round to six digits."""

new_tuple = tuple.__new__
"""Makes a NamedTuple of a tuple of all its fields, without the time of its own __new__, which is a Python function."""


class CostPart(NamedTuple):
    """One part of a call's cost: ``number`` of a unit (Usage's field, or "requests"), and what they cost together.

    ``rate`` is USD for ``per`` of the unit, every factor included; ``note`` says which rate it is, such as
    "service_tier=flex" or "x1.1 for us". ``model`` is the model that was billed for it, where that is another one.
    """

    unit: str
    number: int
    rate: Decimal
    per: int
    cost: Decimal
    note: str = ""
    model: str | None = None


def new_event_id() -> str:
    """Return an id that no other record has: the process's own random prefix and a running number.

    Not from ``random``, which a seeded program repeats; a forked child begins again under a prefix of its own. The
    numbers have a width, so that the ids of a process are sorted: a store's index of them grows at its end.
    """
    global _process_ids  # noqa: PLW0603 (the one that there is)
    if _process_ids.process != os.getpid():
        _process_ids = _ProcessIds()
    return f"{_process_ids.prefix}{next(_process_ids.numbers):06x}"


class _ProcessIds:
    def __init__(self) -> None:
        self.process = os.getpid()
        self.prefix = f"{uuid.uuid4().hex}-"
        self.numbers = itertools.count(1)


_process_ids = _ProcessIds()


class UsageRecord(BaseModel):
    """One call: what it used, what it cost, and the labels it carries. Numbers, names and labels only, never text.

    Costs are USD, exact. ``started_at`` and ``ended_at`` are in UTC as we set them; stores take a time without a zone
    for a local one.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    usage: Usage = Usage()
    model: str | None = Field(default=None, description="The name that the provider answered with, where it did.")
    requested_model: str | None = Field(default=None, description="The name that was asked for, of calls as they end.")
    provider: str | None = None
    operation: Operation = "chat"
    outcome: Outcome = "success"
    requests: Annotated[int, Field(strict=True, ge=0, description="HTTP calls: a legacy LLM's may be shared.")] = 1
    source: Source = "reported"
    method: str | None = Field(default=None, description="How an estimate was made, such as 'tiktoken:o200k_base'.")
    session: str | None = None
    user: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)
    node: str | None = Field(default=None, description="LangGraph's node.")
    cost: Decimal | None = Field(default=None, ge=0, description="USD; None is unknown, never free.")
    cost_source: str | None = Field(
        default=None, description="'reported', 'user', 'genai-prices', 'token_handlers' or 'repriced'."
    )
    saved_cost: Decimal | None = Field(default=None, ge=0, description="USD that an answer from a cache did not cost.")
    cache_saved_cost: Decimal | None = Field(
        default=None,
        description="USD that reads from the provider's prompt cache did not cost, less what writes to it cost more, "
        "at list prices; None is unknown, or nothing was read or written.",
    )
    doubts: tuple[str, ...] = Field(default=(), description="Why usage or cost is an estimate, for people.")
    cost_breakdown: tuple[CostPart, ...] = Field(default=(), description="What each part cost and by which rate.")
    service_tier: str | None = Field(default=None, description="The tier that served the call.")
    region: str | None = Field(default=None, description="The place that served the call, where it has a price.")
    host: str | None = Field(default=None, description="The host that answered.")
    served: Mapping[str, str] = Field(
        default_factory=dict, description="What else of the answer changes its price, such as speed=fast."
    )
    billed: Mapping[str, int] | None = Field(
        default=None, description="The counts that price the call, where they are others than those it used."
    )
    beside: tuple[tuple[str | None, Mapping[str, int]], ...] = Field(
        default=(), description="Parts of the counts that another model was billed for; None is the same one again."
    )
    request_id: str | None = Field(default=None, description="The provider's own id of the request or answer.")
    organization: str | None = Field(default=None, description="The account that the answer's headers name.")
    project: str | None = Field(default=None, description="The account's project that the answer's headers name.")
    event_id: str = Field(default_factory=new_event_id, description="Tells the record from all others.")
    started_at: datetime | None = None
    ended_at: datetime | None = None
    chunk_seconds: tuple[float, ...] = Field(
        default=(),
        exclude=True,
        repr=False,
        description="When each piece of a stream came, from the request on, where a sink measures it; never stored.",
    )


class RecordFields(TypedDict):
    """The fields of a UsageRecord but its usage, before pydantic has checked them."""

    model: str | None
    requested_model: str | None
    provider: str | None
    operation: Operation
    outcome: Outcome
    requests: int
    source: Source
    method: str | None
    session: str | None
    user: str | None
    tags: Mapping[str, str]
    node: str | None
    cost: Decimal | None
    cost_source: str | None
    saved_cost: Decimal | None
    cache_saved_cost: Decimal | None
    doubts: tuple[str, ...]
    cost_breakdown: tuple[CostPart, ...]
    service_tier: str | None
    region: str | None
    host: str | None
    served: Mapping[str, str]
    billed: Mapping[str, int] | None
    beside: tuple[tuple[str | None, Mapping[str, int]], ...]
    request_id: str | None
    organization: str | None
    project: str | None
    event_id: str
    started_at: datetime | None
    ended_at: datetime | None
    chunk_seconds: tuple[float, ...]


class Measure:
    """One number of the totals: an attribute of counters and handlers, a ledger's column, a field of Redis.

    ``unit`` is what it sums: a field of Usage, or the measure's own name where it counts requests. As an attribute it
    is the number that its owner's ``_measure(unit)`` returns.
    """

    def __init__(self, unit: str, meaning: str) -> None:
        self.unit = unit
        self.__doc__ = meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...

    @overload
    def __get__(self, instance: "Measures", owner: type, /) -> int: ...

    def __get__(self, instance: "Measures | None", owner: type) -> Self | int:
        return self if instance is None else instance._measure(self.unit)  # noqa: SLF001 (the owner's part of this)


class Measures:
    """What totals count, in tokens, requests and events that have a price of their own."""

    __slots__ = ()

    prompt_tokens = Measure("input_tokens", "Input tokens of LLM calls, cache reads and writes included.")
    completion_tokens = Measure("output_tokens", "Output tokens, reasoning included.")
    prompt_tokens_cached = Measure("cache_read_tokens", "Input tokens that the provider read from its prompt cache.")
    cache_write_tokens = Measure("cache_write_tokens", "Input tokens that the provider wrote to its prompt cache.")
    reasoning_tokens = Measure("reasoning_tokens", "Output tokens spent on reasoning.")
    embedding_tokens = Measure("embedding_tokens", "Input tokens of embedding calls.")
    successful_requests = Measure("successful_requests", "Requests that were billed, LLM calls and embeddings.")
    failed_requests = Measure("failed_requests", "Requests that the provider rejected: nothing was billed.")
    cached_responses = Measure(
        "cached_responses", "Answers from LangChain's own cache: nothing was sent, nothing was billed."
    )
    estimated_requests = Measure("estimated_requests", "Requests whose usage or cost is an estimate.")
    unpriced_requests = Measure(
        "unpriced_requests", "Requests whose cost is not known; ``total_cost`` leaves them out."
    )
    unpriced_cache_tokens = Measure(
        "unpriced_cache_tokens",
        "Tokens read from the provider's prompt cache or written to it, of which nobody knows what that saved; "
        "``cache_saved_cost`` leaves them out.",
    )
    cache_write_1h_tokens = Measure("cache_write_1h_tokens", "Those of ``cache_write_tokens`` that are kept an hour.")
    input_audio_tokens = Measure("input_audio_tokens", "Input tokens of audio.")
    output_audio_tokens = Measure("output_audio_tokens", "Output tokens of audio.")
    input_image_tokens = Measure("input_image_tokens", "Input tokens of images.")
    output_image_tokens = Measure("output_image_tokens", "Output tokens of images.")
    input_video_tokens = Measure("input_video_tokens", "Input tokens of video.")
    web_searches = Measure("web_searches", "Web searches that the provider made and bills.")
    storage_searches = Measure("storage_searches", "Searches of files that the provider stores.")
    code_executions = Measure("code_executions", "Code executions that the provider made.")
    container_sessions = Measure("container_sessions", "Sessions of containers in which the provider ran code.")
    rerank_searches = Measure("rerank_searches", "Search units of rerankers.")
    maps_searches = Measure("maps_searches", "Searches of maps that the provider made and bills.")
    social_searches = Measure("social_searches", "Searches of posts that the provider made and bills.")
    sources = Measure("sources", "Sources that the provider read and bills.")

    def _measure(self, unit: str) -> int:
        raise NotImplementedError


MEASURES = tuple(measure for measure in vars(Measures).values() if isinstance(measure, Measure))
"""The measures in their order."""


class _Sum(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    if TYPE_CHECKING:  # made of MEASURES below
        prompt_tokens: int
        prompt_tokens_cached: int
        completion_tokens: int
        cost: Decimal | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens of the LLM calls; embeddings have their own count."""
        return self.prompt_tokens + self.completion_tokens

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_cost(self) -> float:
        """USD as a float; 0.0 where nothing could be priced (``cost`` is None then)."""
        return float(self.cost or 0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cache_hit_rate(self) -> float:
        """The share of the prompt tokens that the provider read from its prompt cache, from 0 to 1."""
        return self.prompt_tokens_cached / self.prompt_tokens if self.prompt_tokens else 0.0


if TYPE_CHECKING:

    class UsageTotals(_Sum, Measures):
        """A sum of calls, under the names of TokenCounter's attributes."""

        cost: Decimal | None
        saved_cost: Decimal
        cache_saved_cost: Decimal | None

        def __init__(self, **totals: int | Decimal | None) -> None: ...

else:
    UsageTotals = create_model(
        "UsageTotals",
        __base__=_Sum,
        __module__=__name__,
        __doc__="A sum of calls, under the names of TokenCounter's attributes.",
        **{measure.name: (int, Field(default=0, description=measure.__doc__)) for measure in MEASURES},
        cost=(
            Decimal | None,
            Field(default=Decimal(0), description="USD; None where none of the requests has a price."),
        ),
        saved_cost=(Decimal, Field(default=Decimal(0), description="USD that answers from caches did not cost.")),
        cache_saved_cost=(
            Decimal | None,
            Field(
                default=Decimal(0),
                description="USD that reads from the provider's prompt cache did not cost, less what writes to it cost "
                "more, at list prices; None where it is not known of any cached token.",
            ),
        ),
    )
    for _measure in MEASURES:
        setattr(UsageTotals, _measure.name, _measure)  # what it means, for whoever asks the class
