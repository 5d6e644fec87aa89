import asyncio
import os
import re
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

import certifi
import pytest

from tests.support.redis_servers import Valkey
from token_handlers.demo.server.server import Channel, LedgerServer
from token_handlers.errors import raise_faults

if TYPE_CHECKING:
    from tests.support.postgres_servers import Postgres

FOREIGN = re.compile(
    r"(HTTPS?|ALL|NO)_PROXY|(OPENAI|AZURE_OPENAI|ANTHROPIC|LANGCHAIN|LANGSMITH|AGENTSIGHT)_.*", re.IGNORECASE
)
CHANNELS = count(1)
NAMESPACES = count(1)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No proxy, key, address or setting of the surroundings reaches a test, nor a price table that is kept there.

    httpx trusts one authority: no test speaks TLS to a stranger, and each client takes 20 ms to read them all.
    """
    authority, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    trusted = tmp_path_factory.mktemp("trusted") / "authority.pem"
    trusted.write_text(authority + end, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(trusted))
        for name in filter(FOREIGN.fullmatch, list(os.environ)):
            patch.delenv(name)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # programs would compile us again and again
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_event_loop() -> None:
    """Who asks for the main thread's event loop gets an error, as after any async test, and leaves none open.

    LlamaIndex's own TokenCountingHandler asks, and then runs one that it closes.
    """
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session", autouse=True)
def _raised_faults() -> Iterator[None]:
    """A fault inside a handler fails the test, where an application would find one line in its log."""
    raise_faults(True)
    yield
    raise_faults(False)


@pytest.fixture(scope="session")
def server() -> Iterator[LedgerServer]:
    """The loopback server that knows what it billed; one for all tests of a worker."""
    with LedgerServer() as running:
        yield running


@pytest.fixture
def chan() -> str:
    """A channel name that no other test of the worker has."""
    return f"test-{next(CHANNELS)}"


@pytest.fixture
def ledger(server: LedgerServer, chan: str) -> Iterator[Channel]:
    """The server as a channel of the test's own; who still waits at its gate when the test ends is let through.

    Connections end with each answer: LangChain caches its HTTP clients, and an event loop may end before them.
    """
    own = server.channel(chan, close=1)
    yield own
    own.release()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Valkey server for the tests of a module."""
    with Valkey() as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return f"test-{next(NAMESPACES)}"


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL server for all tests of a worker; each test uses another schema."""
    from tests.support.postgres_servers import Postgres

    with Postgres() as running:
        yield running


@pytest.fixture
def schema() -> str:
    """A schema of the test's own."""
    return f"test_{next(NAMESPACES)}"
