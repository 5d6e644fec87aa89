"""What a call costs: the prices that the user set, then genai-prices' dated table as corrected here, else unknown."""

from token_handlers.pricing.calculator import (
    Price,
    explain_call,
    load_prices,
    price_call,
    reset_prices,
    set_multiplier,
    set_price,
)

__all__ = ["Price", "explain_call", "load_prices", "price_call", "reset_prices", "set_multiplier", "set_price"]
