"""Rows of genai-prices' table that are wrong or missing, each dated and with its source.

A correction is here only while genai-prices differs from it, which a test checks.
``token-handlers price --corrections`` lists them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, TieredPrices

from token_handlers.pricing.rates import RateSheet
from token_handlers.pricing.served import Served

OUR_SOURCE = "token_handlers"
"""Whose price it is where the rates of a model are our own."""
_MIDDAY = 12  # UTC: off-peak on any day


class Correction(NamedTuple):
    """What holds in place of a row's rates, for names of one maker that match as a whole.

    ``rates`` take the place of those of the same keys; ``as_model`` is the name whose row is used instead, ``as_hour``
    the hour (UTC) whose rates are; ``sold`` is False where the maker does not sell the model. A correction with a
    ``doubt`` is an estimate. It holds ``since`` a day, ``until`` another one, and at moments that ``when`` is true of.
    ``is_of_place``: the name is of a place, and the rates are those there.
    """

    maker: str
    models: str
    source: str
    rates: Mapping[str, str] = {}
    since: date | None = None
    until: date | None = None
    as_model: str | None = None
    as_hour: int | None = None
    sold: bool = True
    doubt: str = ""
    when: Callable[[datetime], bool] | None = None
    is_of_place: bool = False

    def holds(self, maker: str, name: str, at: datetime) -> bool:
        """Whether it is about a maker's model at a moment."""
        return (
            self.maker == maker
            and (self.since is None or at.date() >= self.since)
            and (self.until is None or at.date() < self.until)
            and re.fullmatch(self.models, name) is not None
            and (self.when is None or self.when(at))
        )

    @property
    def says(self) -> str:
        """What holds, in words."""
        if not self.sold:
            return "not sold"
        if self.as_model:
            return f"as {self.as_model}"
        if self.as_hour is not None:
            return "off-peak rates"
        return ", ".join(f"{key} {rate}" for key, rate in self.rates.items()) or "in doubt"


class Addition(NamedTuple):
    """A model that genai-prices does not have, of one seller."""

    seller: str
    models: str
    rates: Mapping[str, str]
    source: str

    @property
    def says(self) -> str:
        """What it costs, in words."""
        return ", ".join(f"{key} {rate}" for key, rate in self.rates.items())


_CHINESE_HOLIDAYS = {  # of the State Council's calendar for 2026: first and last day
    2026: (
        (date(2026, 1, 1), date(2026, 1, 3)),
        (date(2026, 2, 15), date(2026, 2, 23)),
        (date(2026, 4, 4), date(2026, 4, 6)),
        (date(2026, 5, 1), date(2026, 5, 5)),
        (date(2026, 6, 19), date(2026, 6, 21)),
        (date(2026, 9, 25), date(2026, 9, 27)),
        (date(2026, 10, 1), date(2026, 10, 7)),
    )
}


def _is_free_day(at: datetime) -> bool:
    """Whether DeepSeek has no peak hours on a day: both of its windows are on one date in UTC and in China."""
    holidays = _CHINESE_HOLIDAYS.get(at.year, ())
    return at.weekday() >= 5 or any(first <= at.date() <= last for first, last in holidays)


def _is_peak(at: datetime) -> bool:
    return not _is_free_day(at) and (1 <= at.hour < 4 or 6 <= at.hour < 10)


def _is_peak_of_unknown_year(at: datetime) -> bool:
    return at.year > max(_CHINESE_HOLIDAYS) and _is_peak(at)


_DEEPSEEK_PAGE = "DeepSeek's pricing page: peak hours are Monday to Friday, Chinese public holidays excepted"
_LITELLM = "LiteLLM's price list of November 2026"
_OPEN_WEIGHTS = "OpenAI's pricing page does not list it: the weights are open, and others serve them"


def _nova() -> Iterator[Correction]:
    """Yield the rates of Amazon's models outside the US; a cached token costs a quarter of one of the input."""
    for name, profile, rates in (
        ("nova-micro-v1:0", "eu", ("0.046", "0.0115", "0.184")),
        ("nova-lite-v1:0", "eu", ("0.078", "0.0195", "0.312")),
        ("nova-pro-v1:0", "eu", ("1.05", "0.2625", "4.2")),
        ("nova-micro-v1:0", "apac", ("0.037", "0.00925", "0.148")),
        ("nova-lite-v1:0", "apac", ("0.063", "0.01575", "0.252")),
        ("nova-pro-v1:0", "apac", ("0.84", "0.21", "3.36")),
        ("nova-2-lite-v1:0", "eu", ("0.429", "0.10725", "3.597")),
        ("nova-2-lite-v1:0", "(apac|jp)", ("0.396", "0.099", "3.311")),
    ):
        keys = ("input_mtok", "cache_read_mtok", "output_mtok")
        models = rf"(.*/)?{profile}\.amazon\.{name}"
        yield Correction("aws", models, _LITELLM, dict(zip(keys, rates, strict=True)), is_of_place=True)


CORRECTIONS = (
    Correction(
        "deepseek",
        "deepseek-(flash|v4-flash.*|v4-pro.*)",
        _DEEPSEEK_PAGE,
        since=date(2026, 8, 17),
        as_hour=_MIDDAY,
        when=_is_free_day,
    ),
    Correction(
        "deepseek",
        "deepseek-(v4-flash.*|v4-pro.*)",
        "DeepSeek's notice: peak hours began on 17 August 2026",
        until=date(2026, 8, 17),
        as_hour=_MIDDAY,
    ),
    Correction(
        "deepseek",
        "deepseek-v4-flash.*",
        "DeepSeek's notice: twice the off-peak rates of the time",
        {"input_mtok": "0.44", "cache_read_mtok": "0.014", "output_mtok": "1.32"},
        since=date(2026, 8, 17),
        until=date(2026, 9, 10),
        when=_is_peak,
    ),
    Correction(
        "deepseek",
        "deepseek-(flash|v4-flash.*|v4-pro.*)",
        "the State Council's calendar of that year is not in this table",
        doubt="off-peak if that day is a Chinese public holiday, which is not known here",
        since=date(2027, 1, 1),
        when=_is_peak_of_unknown_year,
    ),
    Correction(
        "deepseek",
        "deepseek-(chat|reasoner)",
        "DeepSeek's notice: retired on 24 July 2026, served as flash",
        since=date(2026, 7, 24),
        as_model="deepseek-v4-flash",
    ),
    Correction(
        "deepseek",
        "deepseek-(chat|reasoner)",
        "DeepSeek's notice of V3.2: one rate for both names, at any hour",
        {"input_mtok": "0.28", "cache_read_mtok": "0.028", "output_mtok": "0.42"},
        since=date(2025, 9, 29),
        until=date(2026, 7, 24),
        doubt="the name was moved to other models in that time",
    ),
    Correction(
        "mistral",
        "mistral-large-latest",
        _LITELLM,
        since=date(2025, 12, 2),
        until=date(2026, 10, 29),
        as_model="mistral-large-2512",
    ),
    Correction(
        "mistral",
        "mistral-large-latest",
        _LITELLM,
        since=date(2026, 10, 29),
        as_model="mistral-large-2512",
        doubt="the name may mean mistral-large-4 by now, at 0.70 and 2.10 USD per million tokens",
    ),
    Correction("mistral", "mistral-medium", _LITELLM, since=date(2026, 6, 16), as_model="mistral-medium-latest"),
    Correction(
        "mistral",
        "magistral-small-latest",
        _LITELLM,
        {"input_mtok": "0.15", "cache_read_mtok": "0.015", "output_mtok": "0.6"},
        since=date(2026, 6, 16),
    ),
    Correction(
        "mistral", "magistral-medium-latest", _LITELLM, since=date(2026, 6, 16), as_model="mistral-medium-latest"
    ),
    Correction(
        "mistral",
        "open-mistral-nemo",
        _LITELLM,
        {"input_mtok": "0.3", "cache_read_mtok": "0.03", "output_mtok": "0.3"},
        doubt="price lists differ: 0.15 or 0.30 USD per million tokens",
    ),
    Correction(
        "x-ai",
        "grok-code-fast(-1(-0825)?)?",
        "xAI's notice: retired on 15 May 2026, served as grok-build-0.1",
        since=date(2026, 5, 15),
        as_model="grok-build-0.1",
    ),
    Correction(
        "openai",
        "gpt-4o-audio-preview.*",
        "OpenAI's pricing page of December 2024, and " + _LITELLM,
        {"input_audio_mtok": "40", "output_audio_mtok": "80"},
        since=date(2024, 12, 17),
    ),
    Correction(
        "openai",
        "gpt-4o-audio-preview.*",
        "OpenAI's pricing page of October 2024",
        {"input_audio_mtok": "100", "output_audio_mtok": "200"},
        until=date(2024, 12, 17),
    ),
    Correction(
        "openai",
        "gpt-4o-mini-audio.*",
        "OpenAI's pricing page of December 2024, and " + _LITELLM,
        {"input_audio_mtok": "10", "output_audio_mtok": "20"},
    ),
    Correction("cohere", "embed-v4.*", "Cohere's pricing page", {"input_image_mtok": "0.47"}),
    Correction(
        "google",
        "gemini-3\\.8-flash-cyber",
        _LITELLM,
        {"input_mtok": "1.5", "cache_read_mtok": "0.15", "output_mtok": "7.5"},
        doubt="whether the reduced rates of gemini-3.8-flash hold for it too is not known",
    ),
    *_nova(),
    Correction("openai", "gpt-oss-.*", _OPEN_WEIGHTS, sold=False),
)

ADDITIONS = (
    Addition(
        "cohere",
        r"rerank-(english-|multilingual-)?v3\.[05]|rerank-v4\.0-fast",
        {"rerank_searches_kcount": "2"},
        _LITELLM,
    ),
    Addition("cohere", r"rerank-v4\.0-pro", {"rerank_searches_kcount": "2.5"}, _LITELLM),
    Addition("cohere", r"rerank-v5\.0-fast", {"input_mtok": "0.02"}, _LITELLM),
    Addition("cohere", r"rerank-v5\.0-pro", {"input_mtok": "0.05"}, _LITELLM),
    Addition("aws", r"amazon\.rerank-v1:0", {"rerank_searches_kcount": "1"}, "Amazon's pricing page, and " + _LITELLM),
    Addition(
        "aws", r"cohere\.rerank-v3-5:0", {"rerank_searches_kcount": "2"}, "Amazon's pricing page, and " + _LITELLM
    ),
    Addition("azure", r"cohere-rerank-v4\.0-fast", {"rerank_searches_kcount": "2"}, _LITELLM),
    Addition("azure", r"cohere-rerank-v4\.0-pro", {"rerank_searches_kcount": "2.5"}, _LITELLM),
    Addition("google", r"semantic-ranker-.*", {"rerank_searches_kcount": "1"}, _LITELLM),
    Addition("voyageai", r"rerank-(1|2|2\.5|3)", {"input_mtok": "0.05"}, "Voyage's pricing page, and " + _LITELLM),
    Addition(
        "voyageai", r"rerank-(lite-1|(2|2\.5|3)-lite)", {"input_mtok": "0.02"}, "Voyage's pricing page, and " + _LITELLM
    ),
)


def correction_of(maker: str, name: str, at: datetime) -> Correction | None:
    """Return the correction that holds for a maker's model at a moment."""
    return next((each for each in CORRECTIONS if each.holds(maker, name, at)), None)


def is_added(seller: str, name: str) -> bool:
    """Whether a seller's model is one that genai-prices' table lacks."""
    return _addition_of(seller, name) is not None


def _addition_of(seller: str, name: str) -> Addition | None:
    return next((each for each in ADDITIONS if each.seller == seller and re.fullmatch(each.models, name)), None)


def added_model(seller: str, name: str) -> ModelInfo | None:
    """Return a model that genai-prices' table of a seller lacks."""
    found = _addition_of(seller, name)
    if found is None:
        return None
    rates = {key: Decimal(rate) for key, rate in found.rates.items()}
    return ModelInfo(id=name, match=ClauseEquals(name), prices=ModelPrice(**rates))


def correct(sheet: RateSheet, correction: Correction | None) -> None:
    """Bring a row's rates to what a correction says of them."""
    if correction is None:
        return
    for key, rate in correction.rates.items():
        sheet.set(key, Decimal(rate), "")
        sheet.source = OUR_SOURCE
    explain(sheet, correction)


_UNLISTED_STEPS = (  # of LiteLLM's price list
    (r"gpt-5\.[456]", 272_000),  # on Bedrock, in batches, and gpt-5.6-cyber
    (r"claude-sonnet-4(?!-[6-9])", 200_000),  # on Bedrock
)


def doubt_long_prompts(sheet: RateSheet, served: Served) -> None:
    """Doubt long prompts of Claude Sonnet 4 and 4.5, whose beta is listed no more, and where a table lacks their rate.

    xAI's page has twice the rates from 200,000 input tokens on for every model, of 2025 from 128,000 on.
    """
    steps = sheet.rates.get("input_mtok")
    if isinstance(steps, Decimal):
        for models, above in _UNLISTED_STEPS:
            if re.search(models, served.name):
                sheet.long_prompts = (above, "prompts this long cost twice as much, by a rate that the table lacks")
    if served.maker == "x-ai" and isinstance(steps, Decimal) and "grok-4" in served.name:
        sheet.long_prompts = (128_000, "prompts this long cost twice as much with xAI, by a rate that no table has")
    if isinstance(steps, TieredPrices) and served.said("prompts"):
        sheet.long_prompts = (steps.tiers[0].start, "the tokens of several prompts, each of which may be below a step")
    if isinstance(steps, TieredPrices) and re.search(r"claude-sonnet-4(?!-[6-9])", served.name):
        sheet.long_prompts = (steps.tiers[0].start, "whether prompts this long still cost more is not certain")


def explain(sheet: RateSheet, correction: Correction | None) -> None:
    """Say on the rates that a correction is about them, and why it is an estimate."""
    if correction is None:
        return
    for key in correction.rates or tuple(sheet.rates):
        sheet.note(key, f"corrected ({correction.says}): {correction.source}")
    if correction.doubt:
        sheet.doubt(correction.doubt)


def hour_of(correction: Correction | None, at: datetime) -> datetime:
    """Return the moment whose rates a correction uses, for one at which the call was made."""
    if correction is None or correction.as_hour is None:
        return at
    return at.replace(hour=correction.as_hour, minute=0, second=0, microsecond=0)


def edges(served: Served) -> Iterator[float]:
    """Yield the moments at which a correction of a model may begin or end, in epoch seconds."""
    for each in CORRECTIONS:
        if each.maker != served.maker or not re.fullmatch(each.models, served.name):
            continue
        for day in (each.since, each.until):
            if day is not None:
                yield _midnight(day)
        if each.when is not None:
            yield from (_midnight(served.at.date() + timedelta(days)) for days in range(-1, 3))
            yield from (datetime.combine(served.at.date(), time(hour), UTC).timestamp() for hour in (1, 4, 6, 10))


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
