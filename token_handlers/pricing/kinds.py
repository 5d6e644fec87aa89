"""Tokens of a kind that a row has no rate of: which of them cost what the others do, and which are in doubt."""

import re
from decimal import Decimal

from token_handlers.pricing.rates import RateSheet, scaled
from token_handlers.pricing.served import Served

_MADE_FOR_IT = re.compile(r"tts|gpt-image|transcribe|chatgpt-image")
"""Models whose output is of one kind: their output rate is that of sound or images."""
_HOUR_TO_FIVE_MINUTES = Decimal("1.6")  # Anthropic's pricing page: 2 and 1.25 of the input rate


def price_kinds(sheet: RateSheet, served: Served) -> None:
    """Add the rates of cache writes that follow from others, and a doubt for each kind that has no rate.

    Images and video in the prompt cost what text does wherever a price list has no rate of them, and so does sound with
    Gemini.
    """
    _price_cache_writes(sheet, served)
    if "cache_read_mtok" not in sheet.rates:
        sheet.unit_doubts["cache_read_tokens"] = "no rate is known for cached tokens: that of other input is used"
    if not _MADE_FOR_IT.search(served.name):
        for kind in ("audio", "image", "video"):
            if f"output_{kind}_mtok" not in sheet.rates:
                sheet.unit_doubts[f"output_{kind}_tokens"] = (
                    f"no rate is known for {kind} in the output: that of text is used"
                )
    if "input_audio_mtok" not in sheet.rates and "gemini" not in served.name and not _MADE_FOR_IT.search(served.name):
        sheet.unit_doubts["input_audio_tokens"] = "no rate is known for sound in the prompt: that of text is used"


def _price_cache_writes(sheet: RateSheet, served: Served) -> None:
    written = sheet.rates.get("cache_write_mtok")
    if written is None:
        return  # where writing has no rate, it costs what other input does
    if "cache_write_1h_mtok" not in sheet.rates:
        if "claude" in served.name:
            sheet.set(
                "cache_write_1h_mtok", scaled(written, _HOUR_TO_FIVE_MINUTES), "twice the input rate, for an hour"
            )
        else:
            sheet.unit_doubts["cache_write_1h_tokens"] = "no rate is known for cache writes of an hour"
    if "input_mtok" in sheet.rates and "gpt-" in served.name:
        # LiteLLM's price list; OpenAI's page has the rate of 30 minutes alone
        rate = scaled(sheet.rates["input_mtok"], Decimal(2))
        sheet.set(
            "cache_write_12h_mtok",
            rate,
            "twice the input rate, for 12 hours",
            "twice the input rate is assumed for cache writes of 12 hours",
        )
        if served.said("cache_retention") in ("24h", "12h"):
            sheet.unit_doubts["cache_write_tokens"] = "cache writes may be billed for 12 hours, at twice the input rate"
    else:
        sheet.unit_doubts["cache_write_12h_tokens"] = "no rate is known for cache writes of 12 hours"
