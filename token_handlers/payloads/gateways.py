"""Gateways: what LiteLLM and Vercel's say of the cost of a call to somebody else's model."""

from decimal import Decimal, InvalidOperation

from token_handlers.payloads.fields import Fields, part, text
from token_handlers.payloads.reported import ReportedUsage, reported_cost, usd

_LITELLM = "the cost is of LiteLLM's own price table"


def estimated_cost(response: Fields) -> ReportedUsage | None:
    """LiteLLM's ``response_cost``: what its own table says, and so no bill."""
    cost = usd(response.get("response_cost"))
    if cost is None:
        cost = usd(part(response, "_hidden_params").get("response_cost"))
    return None if cost is None else ReportedUsage({}, cost, doubts=(_LITELLM,))


def stated_cost(response: Fields) -> Decimal | None:
    """What the biller states, Vercel's gateway included, whose AI SDK passes the number on as a text."""
    cost = reported_cost(response)
    if cost is not None:
        return cost
    stated = text(part(part(response, "providerMetadata", "provider_metadata"), "gateway"), "cost")
    if stated is None:
        return None
    try:
        return usd(Decimal(stated))
    except InvalidOperation:
        return None
