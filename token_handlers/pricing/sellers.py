"""A model's name as people write it: who sells it, and what they may have meant where nobody does."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from token_handlers.errors import TokenHandlersError
from token_handlers.pricing.calculator import find_plan
from token_handlers.pricing.providers import provider_id

if TYPE_CHECKING:
    from token_handlers.pricing.plans import Plan

_BEDROCK_ID = re.compile(
    r"(?:[a-z]{2,6}\.)?(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|mistral|moonshotai|nvidia|openai|qwen"
    r"|stability|writer|zai)\.[a-z]"
)


class UnknownModel(TokenHandlersError, ValueError):
    """No price is known under a model's name; the message asks what may have been meant."""


class Sold(NamedTuple):
    """A model, and who sells it: None is its maker, or whoever serves it."""

    model: str
    provider: str | None = None


NO_STAND_INS: Mapping[str, Sold] = {}


def find_seller(
    model: str,
    provider: str | None = None,
    *,
    base_url: str | None = None,
    service_tier: str | None = None,
    at: float | None = None,
    context: Mapping[str, str] | None = None,
) -> tuple[Sold, "Plan"]:
    """Return who sells a model by its name or PROVIDER/NAME, and the plan by which it is billed; else UnknownModel."""
    for sold in _candidates(model, provider, base_url):
        plan = find_plan(*sold, base_url=base_url, service_tier=service_tier, at=at, context=context)
        if plan is not None and plan.priced:
            return sold, plan
    raise UnknownModel(f"no price is known for {_named(model, provider)}: {_remedy(model, provider)}")


def checked_stand_ins(price_as: Mapping[str, str]) -> Mapping[str, Sold]:
    """Return the models that others stand for, by these others' names; a name that nobody sells is a ValueError."""
    if not isinstance(price_as, Mapping):
        example = '{"MockLLM": "gpt-4o-mini", "MockEmbedding": "openai/text-embedding-3-small"}'
        raise TypeError(f"price_as is a mapping of names to models, such as {example}, not {price_as!r}")
    return {str(name): find_seller(str(model))[0] for name, model in price_as.items()}


@functools.lru_cache(1024)
def seller_of(provider: str | None, host: str | None) -> str:
    """Return genai-prices' id of who billed a call: the owner of the host, else the provider; "" for nobody known."""
    from genai_prices.data_snapshot import get_snapshot

    from token_handlers.pricing.catalog import provider_of_url

    owner = provider_of_url(get_snapshot(), host)
    return owner.id if owner else provider_id(provider or "")


def _candidates(model: str, provider: str | None, base_url: str | None) -> Iterator[Sold]:
    yield Sold(model, provider)
    if provider is not None or base_url is not None:
        return
    seller, slash, name = model.partition("/")
    if slash:
        yield Sold(name, seller)
    if _BEDROCK_ID.match(model):
        yield Sold(model, "aws")
    sellers = sellers_of(model)
    if len(sellers) == 1:
        yield Sold(model, sellers[0])


def sellers_of(model: str) -> list[str]:
    """Return the ids of the providers that sell a model under just that name, its maker first."""
    from genai_prices.data_snapshot import get_snapshot

    from token_handlers.pricing.catalog import sellers

    return sellers(get_snapshot(), model)


def _named(model: str, provider: str | None) -> str:
    return f"{model!r} of {provider}" if provider else repr(model)


def _remedy(model: str, provider: str | None) -> str:
    from genai_prices.data_snapshot import get_snapshot

    from token_handlers.pricing.catalog import similar_names

    sellers = [] if provider else sellers_of(model)
    if sellers:
        return f"name its provider, such as {' or '.join(f'{seller}/{model}' for seller in sellers[:5])}"
    if similar := similar_names(get_snapshot(), model, provider):
        return f"did you mean {' or '.join(similar)}?"
    return "check the name, or name its provider: PROVIDER/MODEL"
