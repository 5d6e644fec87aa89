"""What is billed beside the tokens: searches, containers, requests. USD per 1,000, by seller, with its source.

genai-prices' own rate of an event comes first, except where it is known to be wrong (``instead``). A fee with a doubt
is an estimate; an event without any rate leaves the cost without it, and says so.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

from genai_prices.types import TieredPrices

from token_handlers.pricing.rates import Rate, RateSheet, amount_of
from token_handlers.pricing.served import Served


class Fee(NamedTuple):
    """What a seller bills for 1,000 events, or requests, of models that match anywhere in their name.

    ``when`` is what the call's context must say ("" for nothing). ``tokens`` are input tokens that each event costs
    besides. ``instead``: also where genai-prices has a rate.
    """

    seller: str
    models: str
    key: str
    usd: str
    source: str
    doubt: str = ""
    when: Mapping[str, str] = {}
    tokens: int = 0
    instead: bool = False
    since: date | None = None
    until: date | None = None

    @property
    def says(self) -> str:
        """What is billed, in words."""
        when = "".join(f" where {key} is {value or 'not said'}" for key, value in self.when.items())
        return f"{self.key} {self.usd}{when}"

    def holds(self, served: Served) -> bool:
        """Whether it is about a call."""
        return (
            self.seller == served.seller
            and (self.since is None or served.at.date() >= self.since)
            and (self.until is None or served.at.date() < self.until)
            and re.search(self.models, served.name) is not None
            and all(served.said(key) == value for key, value in self.when.items())
        )


_OPENAI = "OpenAI's pricing page of 2026"
_LITELLM = "LiteLLM's price list of November 2026"
_XAI = "xAI's pricing page of 2026"
_ANTHROPIC = "Anthropic's pricing page of August 2026"
_GOOGLE = "Google's pricing page of 2026"
_PERPLEXITY = "Perplexity's pricing page of 2026"

_NO_REASONING = r"^(ft:)?(gpt-(4|3\.5)|chatgpt-4o)"
_SMALL = r"^(ft:)?gpt-(4o|4\.1)-mini"
_GA, _PREVIEW, _UNSAID = ({"web_search_tool": tool} for tool in ("web_search", "web_search_preview", ""))
_KIND = "which web search tool it was is not known: of the preview tool 1,000 cost 25 USD, not 10"
_BLOCK = "8,000 input tokens are billed for each search, and may be in the usage already"
_ONE_SEARCH = "one web search a request is assumed: the answer does not count them"
_FREE_QUOTA = "at most: a daily or monthly number of searches is free of charge"
_CONTAINER = "one session of a 1 GB container for 20 minutes is assumed"
_SONAR_ENDED = "since 27 September 2026 only the cost that Perplexity states is its bill"
_ROUTED = "OpenRouter's own cost is its bill, and is not in the answer: the price of the model's usual route is used"
_SIZE = "the search context size is not known: low is assumed"
_PRO_SEARCH = "the fee of Pro Search is not on Perplexity's page any more"
_EVERY_CLAUDE = ("google", "aws", "azure")


def _perplexity() -> Iterator[Fee]:
    sizes = (("low", ""), ("medium", ""), ("high", ""), (None, _SIZE))
    for models, amounts in (
        (r"^sonar(-reasoning)?$", ("5", "8", "12", "5")),
        (r"^sonar(-reasoning)?-pro$", ("6", "10", "14", "6")),
        (r"^sonar-pro-search$", ("14", "18", "22", "14")),
    ):
        for (size, doubt), usd in zip(sizes, amounts, strict=True):
            when = {} if size is None else {"search_context_size": size}
            why = doubt or (_PRO_SEARCH if "search" in models else "")
            yield Fee("perplexity", models, "requests_kcount", usd, _PERPLEXITY, why, when, instead=True)


FEES = (
    # web search in chat completions: no answer says how many there were
    Fee("openai", "gpt-4o(-mini)?-search-preview", "requests_kcount", "25", _OPENAI, _ONE_SEARCH),
    Fee("openai", "gpt-5-search-api", "requests_kcount", "10", _OPENAI, _ONE_SEARCH),
    Fee(
        "openai",
        "-search-(preview|api)",
        "web_searches_kcount",
        "0",
        _OPENAI + ": in the fee of the request",
        instead=True,
    ),
    Fee("openai", _SMALL, "web_searches_kcount", "10", _OPENAI, _BLOCK, _GA, tokens=8000, instead=True),
    Fee(
        "openai", _SMALL, "web_searches_kcount", "10", _OPENAI, f"{_KIND}; {_BLOCK}", _UNSAID, tokens=8000, instead=True
    ),
    Fee("openai", _NO_REASONING, "web_searches_kcount", "25", _OPENAI, when=_PREVIEW, instead=True),
    Fee("openai", _NO_REASONING, "web_searches_kcount", "10", _OPENAI, when=_GA),
    Fee("openai", _NO_REASONING, "web_searches_kcount", "10", _OPENAI, _KIND, instead=True),
    Fee("openai", "", "web_searches_kcount", "10", _OPENAI),
    Fee("openai", "", "storage_searches_kcount", "2.5", _OPENAI),
    Fee("openai", "", "container_sessions_kcount", "30", _OPENAI, _CONTAINER),
    Fee("azure", "claude", "web_searches_kcount", "10", _LITELLM, "the fee is not on Azure's page", instead=True),
    Fee("azure", "", "web_searches_kcount", "14", _LITELLM, "the fee is not on Azure's page", instead=True),
    Fee("azure", "", "storage_searches_kcount", "2.5", _OPENAI, "the fee is OpenAI's own", instead=True),
    Fee("azure", "", "container_sessions_kcount", "33", _LITELLM, _CONTAINER),
    Fee("anthropic", "claude", "web_searches_kcount", "10", _ANTHROPIC),
    *(
        Fee(seller, "claude", "web_searches_kcount", "10", _LITELLM, "the fee is that of Anthropic's own API")
        for seller in ("google", "aws")
    ),
    *(
        # 0.05 USD an hour, five minutes at least, 1,550 hours a month free, and free beside newer web tools
        Fee(
            seller,
            "claude",
            key,
            "4.2",
            _ANTHROPIC,
            "code execution is billed by the container's time: five minutes are assumed, which may be free of charge",
        )
        for seller in ("anthropic", *_EVERY_CLAUDE)
        for key in ("code_executions_kcount", "container_sessions_kcount")
    ),
    # the tools of OpenAI's models on Bedrock
    Fee(
        "aws", r"openai\.", "web_searches_kcount", "12", _LITELLM, "the fee is between 10 and 14.40 USD, by the region"
    ),
    # by prompt up to Gemini 2.5, by query from Gemini 3 on
    Fee("google", r"gemini-(1|2|pro|flash-1)", "web_searches_kcount", "35", _GOOGLE, _FREE_QUOTA),
    Fee("google", "gemini", "web_searches_kcount", "14", _GOOGLE, _FREE_QUOTA),
    Fee("google", r"gemini-(1|2|pro|flash-1)", "maps_searches_kcount", "25", _GOOGLE, _FREE_QUOTA),
    Fee("google", "gemini", "maps_searches_kcount", "14", _GOOGLE, _FREE_QUOTA),
    Fee("x-ai", "", "web_searches_kcount", "5", _XAI),
    Fee("x-ai", "", "social_searches_kcount", "5", _XAI),
    Fee("x-ai", "", "code_executions_kcount", "5", _XAI),
    Fee("x-ai", "", "storage_searches_kcount", "2.5", _XAI),
    Fee("x-ai", "", "sources_kcount", "25", "xAI's documentation of 2025", "live search is no longer on xAI's page"),
    *_perplexity(),
    Fee(
        "perplexity",
        r"^sonar(-reasoning)?(-pro)?$",
        "web_searches_kcount",
        "0",
        _PERPLEXITY + ": in the fee of the request",
    ),
    Fee("perplexity", "sonar-deep-research", "web_searches_kcount", "5", _PERPLEXITY),
    Fee("perplexity", "/", "web_searches_kcount", "5", _PERPLEXITY, "the fee of the fast kind is 1 USD"),
    *(
        Fee("mistral", "", key, "30", "Mistral's announcement of May 2025", "the fee of the connector is that of 2025")
        for key in ("web_searches_kcount", "code_executions_kcount")
    ),
    Fee("groq", "", "web_searches_kcount", "5", "Groq's pricing page", "the fee is between 1 and 8 USD, by the kind"),
    Fee("moonshotai", "", "web_searches_kcount", "5", "Moonshot's page of tools: 0.005 USD each"),
    Fee("cohere", "rerank-v4.0-pro", "rerank_searches_kcount", "2.5", _LITELLM),
    Fee("cohere", "rerank-(english|multilingual|v3|v4)", "rerank_searches_kcount", "2", _LITELLM),
)
"""The first that holds for a call and a price key counts."""

DOUBTED_RATES = (
    ("google", "gemini", "web_searches", _FREE_QUOTA),
    ("google", "claude", "web_searches", "the fee is that of Anthropic's own API"),
)
"""Rates of the table, by seller, model and unit, that are not all of the truth."""

_SONAR_END = date(2026, 9, 27)


def add_fees(sheet: RateSheet, served: Served) -> None:
    """Add the fees of a call's model to its rates."""
    seen = set()
    for seller, models, unit, doubt in DOUBTED_RATES:
        if seller == served.seller and re.search(models, served.name):
            sheet.unit_doubts[unit] = doubt
    for fee in FEES:
        if fee.key in seen or not fee.holds(served):
            continue
        seen.add(fee.key)
        if fee.key not in sheet.rates or fee.instead:
            sheet.set(fee.key, _with_tokens(fee, sheet), _note(fee), fee.doubt)
    if served.seller == "openrouter":
        sheet.doubt(_ROUTED)
    if served.seller == "perplexity" and re.match("sonar", served.name) and served.at.date() >= _SONAR_END:
        sheet.doubt(_SONAR_ENDED)


def _with_tokens(fee: Fee, sheet: RateSheet) -> Rate:
    """Return the rate of 1,000 events with the input tokens that each of them costs besides."""
    usd, per_million = Decimal(fee.usd), sheet.rates.get("input_mtok")
    if not fee.tokens or per_million is None or isinstance(per_million, TieredPrices):
        return usd
    return usd + amount_of(per_million) * fee.tokens / 1000


def _note(fee: Fee) -> str:
    tokens = f", with {fee.tokens:,} input tokens each" if fee.tokens else ""
    return f"{fee.source}{tokens}"


def edges() -> Iterator[float]:
    """Yield the moments at which a fee begins or ends, in epoch seconds."""
    days = {day for fee in FEES for day in (fee.since, fee.until) if day} | {_SONAR_END}
    yield from (datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() for day in days)
