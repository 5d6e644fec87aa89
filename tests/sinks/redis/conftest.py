import pytest
import redis


@pytest.fixture
def client(valkey):
    """A client of the server, to look at what is there."""
    with redis.Redis(port=valkey.port, protocol=2) as own:
        yield own
