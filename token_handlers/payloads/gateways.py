"""Gateways: what LiteLLM and Vercel's say of the cost of a call to somebody else's model."""

from decimal import Decimal, InvalidOperation

from token_handlers.payloads.fields import Fields, part, text
from token_handlers.payloads.reported import ReportedUsage, reported_cost, usd

_LITELLM = "the cost is of LiteLLM's own price table"
_OWN_KEY = "Vercel bills nothing for a key of one's own: what the model's provider bills is by Vercel's market cost"


def estimated_cost(response: Fields) -> ReportedUsage | None:
    """What is no bill: LiteLLM's ``response_cost``, of its own table, and Vercel's market cost beside a cost of 0."""
    market = _market_cost(response)
    if market:
        return ReportedUsage({}, market, doubts=(_OWN_KEY,))
    cost = usd(response.get("response_cost"))
    if cost is None:
        cost = usd(part(response, "_hidden_params").get("response_cost"))
    return None if cost is None else ReportedUsage({}, cost, doubts=(_LITELLM,))


def stated_cost(response: Fields) -> Decimal | None:
    """What the biller states, Vercel's gateway included, whose AI SDK passes the number on as a text."""
    cost = reported_cost(response)
    if cost is None:
        cost = _as_usd(_gateway(response), "cost")
    return None if not cost and _market_cost(response) else cost


def _market_cost(response: Fields) -> Decimal | None:
    cost = usd(response.get("market_cost"))
    return _as_usd(_gateway(response), "marketCost") if cost is None else cost


def _gateway(response: Fields) -> Fields:
    return part(part(response, "providerMetadata", "provider_metadata"), "gateway")


def _as_usd(fields: Fields, key: str) -> Decimal | None:
    stated = text(fields, key)
    try:
        return None if stated is None else usd(Decimal(stated))
    except InvalidOperation:
        return None
