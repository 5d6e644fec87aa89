from collections.abc import Iterator

import pytest

from tests.support.bill_server import BillServer


@pytest.fixture
def bills() -> Iterator[BillServer]:
    """A provider's API; a test says what it answers."""
    with BillServer() as running:
        yield running
