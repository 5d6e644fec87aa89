"""Microseconds per warm price, next to genai-prices' own in the same run: ``python tests/benchmarks/pricing.py``."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import genai_prices

from token_handlers.pricing import load_prices, price_call

Case = tuple[str, str, dict[str, int], dict[str, str]]

CASES: dict[str, Case] = {
    "in + out": ("gpt-4.1-nano", "openai", {"input_tokens": 1200, "output_tokens": 300}, {}),
    "cached, web search": (
        "gpt-4o",
        "openai",
        {"input_tokens": 1200, "output_tokens": 300, "cache_read_tokens": 800, "web_searches": 1},
        {},
    ),
    "cache writes of two kinds": (
        "claude-sonnet-4-5-20250929",
        "anthropic",
        {
            "input_tokens": 9000,
            "output_tokens": 300,
            "cache_read_tokens": 4000,
            "cache_write_tokens": 3000,
            "cache_write_1h_tokens": 1000,
        },
        {},
    ),
    "tiers, audio, reasoning": (
        "gemini-2.5-pro",
        "google",
        {"input_tokens": 250_000, "output_tokens": 900, "cache_read_tokens": 4000, "reasoning_tokens": 600},
        {},
    ),
    "in + out, fast, in the US": (
        "claude-opus-4-8",
        "anthropic",
        {"input_tokens": 1200, "output_tokens": 300},
        {"speed": "fast", "inference_geo": "us"},
    ),
    "an estimate": (
        "gemini-2.5-flash",
        "google",
        {"input_tokens": 1200, "output_tokens": 300, "web_searches": 1},
        {},
    ),
}
GENAI_NAMES = {"reasoning_tokens": "output_reasoning_tokens"}


def best_of(rounds: int, calls: int, call: Callable[[], object]) -> float:
    """Return the microseconds per call of the fastest round."""
    fastest = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest / calls * 1e6


def python_calls(call: Callable[[], object]) -> int:
    """Return how many functions of Python a call runs."""
    events: list[str] = []
    sys.setprofile(lambda frame, event, argument: events.append(event))
    try:
        call()
    finally:
        sys.setprofile(None)
    return events.count("call")


def main() -> None:
    """Print a line per case."""
    load_prices()
    now = datetime.now(UTC)
    print(f"{'case':28}{'price_call':>12}{'calc_price':>12}{'ratio':>8}{'functions':>11}")
    for name, (model, provider, counts, context) in CASES.items():
        usage = genai_prices.Usage(**{GENAI_NAMES.get(key, key): count for key, count in counts.items()})
        ours = best_of(7, 20_000, lambda: price_call(counts, model, provider, context=context))  # noqa: B023
        functions = python_calls(lambda: price_call(counts, model, provider, context=context)) - 1  # noqa: B023
        theirs = best_of(
            7,
            500,
            lambda: genai_prices.calc_price(usage, model, provider_id=provider, genai_request_timestamp=now),  # noqa: B023
        )
        print(f"{name:28}{ours:9.2f} µs{theirs:9.1f} µs{theirs / ours:7.0f}x{functions:11}")


if __name__ == "__main__":
    main()
