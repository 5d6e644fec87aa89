"""What a call costs: the prices that the user set, then genai-prices' dated table as corrected here, else unknown."""

from token_handlers.pricing.calculator import load_prices, price_call, reset_prices, set_multiplier, set_price
from token_handlers.pricing.price import Price

__all__ = ["Price", "load_prices", "price_call", "reset_prices", "set_multiplier", "set_price"]
