from collections.abc import Iterator

import pytest
from genai_prices.data_snapshot import set_custom_snapshot

from token_handlers.pricing import reset_prices


@pytest.fixture(autouse=True)
def _no_prices_left() -> Iterator[None]:
    """A test's prices, multipliers, snapshots and warnings end with it."""
    yield
    set_custom_snapshot(None)
    reset_prices()
