"""What one call used (Usage), one call (UsageRecord), and a sum of calls (UsageTotals)."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

Count = Annotated[int, Field(strict=True, ge=0)]
Operation = Literal["chat", "text_completion", "embeddings"]
Source = Literal["reported", "estimated", "manual"]
Outcome = Literal["success", "failed", "cached"]

# part -> the whole that includes it; parts that share a whole and a line of WHOLES are disjoint
PARTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("cache_read_tokens", "cache_write_tokens"), "input_tokens"),
    (("cache_write_5m_tokens", "cache_write_1h_tokens"), "cache_write_tokens"),
    (("input_audio_tokens", "input_image_tokens", "input_video_tokens"), "input_tokens"),
    (("cache_audio_read_tokens",), "cache_read_tokens"),
    (("cache_audio_read_tokens",), "input_audio_tokens"),
    (("reasoning_tokens", "output_citation_tokens"), "output_tokens"),
    (("output_audio_tokens", "output_image_tokens"), "output_tokens"),
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
    web_searches: Count = 0
    social_searches: Count = 0
    storage_searches: Count = 0
    code_executions: Count = 0
    rerank_searches: Count = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

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
        for parts, whole in PARTS:
            total, limit = sum(getattr(self, part) for part in parts), getattr(self, whole)
            if total > limit:
                named = " + ".join(parts)
                raise ValueError(f"{named} ({total}) exceeds {whole} ({limit}), which must include it")
        return self


EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""In which money is added up: a user's own decimal context may round to six digits."""


class UsageRecord(BaseModel):
    """One call: what it used, what it cost, and the labels it carries. Numbers, names and labels only, never text."""

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
    cost_source: str | None = Field(default=None, description="'reported', 'user', 'genai-prices' or 'repriced'.")
    saved_cost: Decimal | None = Field(default=None, ge=0, description="USD that an answer from a cache did not cost.")
    event_id: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class UsageTotals(BaseModel):
    """A sum of calls, under the names of TokenCounter's attributes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_cached: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    embedding_tokens: int = 0
    successful_requests: int = 0
    failed_requests: int = 0
    cached_responses: int = 0
    estimated_requests: int = 0
    unpriced_requests: int = 0
    cost: Decimal | None = Decimal(0)
    saved_cost: Decimal = Decimal(0)

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
