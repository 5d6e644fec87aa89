"""A connection to a PostgreSQL server: no answer is waited for longer than the time-out, no error shows a secret."""

import contextlib
import functools
import itertools
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from token_handlers.errors import MissingDependency, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"

_SCHEMES = ("postgresql://", "postgres://")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_SCHEMA_OPTION = re.compile(r"([?&])schema=([^&#]*)(&)?")
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
_PREFIX = re.compile(r'^connection failed: connection to server at "[^"]*", port \d+ failed: (FATAL: )?')
_LOOK_SECONDS = 0.1
"""How often a wait looks whether its time is up."""

_REFUSED = ("22", "23")
"""The classes of SQLSTATE for a row that can't be kept."""

_REMEDIES = {
    "28": "look at the URL's user and password",
    "3D": "look at the URL's database, or create it",
    "25006": "it is a standby: name all hosts in the URL, with target_session_attrs=read-write",
    "3F": "let its owner open the ledger once",
    "42501": "let the schema's owner grant it",
    "53100": "free some space on the server",
    "53300": "raise max_connections, or put a pooler before it",
    "57014": "ask for less, or give SQLLedger a longer timeout",
}


class PostgresPlace:
    """Where a ledger is: a server's database, and a schema in it."""

    def __init__(self, url: str | SecretStr, schema: str | None, timeout: float) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingDependency("psycopg", "postgres") from None
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout must be seconds, more than 0 and at most 3,600, not {timeout!r}")
        self.psycopg = psycopg
        self.timeout = timeout
        self._options, named_schema = _options(url)
        self.schema = schema = named_schema if schema is None else schema
        if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
            raise ValueError(f"schema must be a name such as token_handlers, in lower case, not {schema!r}")
        named = {"host": "localhost", "port": "5432", **self._options}
        self.database = str(named.get("dbname") or named.get("user") or "")
        hosts, ports = str(named["host"]).split(","), str(named["port"]).split(",")
        places = ",".join(f"{host}:{port}" for host, port in zip(hosts, itertools.cycle(ports), strict=False))
        self.name = f"postgresql://{places}/{self.database} (schema {schema})"

    def connect(self) -> "Connection[Any]":
        """Return a new connection, which ends each wait for an answer at the time-out."""
        settings = {"application_name": "token_handlers", **self._options, "client_encoding": "utf8"}
        settings.setdefault("connect_timeout", str(max(2, round(self.timeout))))
        return _timed_class(self.timeout).connect(**settings, autocommit=True, prepare_threshold=None)

    def failure(self, error: Exception) -> StoreUnavailable:
        """Return an error that says what went wrong, and what to do, without a secret."""
        if isinstance(error, StoreUnavailable):
            return error
        if isinstance(error, TimeoutError):
            return self.refused(
                f"no answer within {self.timeout:g} s", "look at the server, or at what locks its tables"
            )
        state = getattr(error, "sqlstate", None) or ""
        primary = getattr(getattr(error, "diag", None), "message_primary", None)
        text = _PREFIX.sub("", " ".join(str(primary or error).split()))
        if password := self._options.get("password"):
            text = text.replace(str(password), "***")
        if state[:2] in _REFUSED:
            return StoreRefused(f"the ledger {self.name} can't keep this: {text}")
        remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or "look at the server and the URL"
        if "no encryption" in text:
            remedy = "the server wants TLS: add ?sslmode=verify-full, or require, to the URL"
        elif "could not extend file" in text:
            remedy = _REMEDIES["53100"]
        elif "certificate" in text:
            remedy = "let the server's certificate be for this host, and the URL's sslrootcert name who signed it"
        elif "does not support SSL" in text:
            remedy = "let the server have a certificate, or take sslmode out of the URL"
        elif "password authentication failed" in text or "no password supplied" in text:
            remedy = _REMEDIES["28"]
        return self.refused(text, remedy)

    def refused(self, reason: str, remedy: str) -> StoreUnavailable:
        """Return an error that names the place, a reason and the remedy."""
        return StoreUnavailable(f"the ledger {self.name} can't be used: {reason}: {remedy}")


class PostgresConnection:
    """One connection that threads share in turns; after anything that went wrong the next use opens another."""

    def __init__(self, place: PostgresPlace, opened: Callable[["OpenTransaction"], object]) -> None:
        self._place = place
        self._opened = opened
        self._left: list[object] = []
        self._connection: Connection[Any] | None = None
        self._lock = threading.Lock()

    def leave_to_parent(self) -> None:
        """Begin again in a forked child: what is open here is its parent's, and is not to be closed."""
        self._left.append(self._connection)
        self._connection = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def transaction(self, begin: str) -> Iterator["OpenTransaction"]:
        """Yield a transaction, and commit it; what goes wrong is a StoreUnavailable."""
        failure: StoreUnavailable | None = None
        with self._lock:
            try:
                transaction = self._begin(begin)
                yield transaction
                transaction.execute("COMMIT")
            except (self._place.psycopg.Error, TimeoutError, StoreUnavailable) as error:
                self._drop()
                failure = self._place.failure(error)
            except BaseException:
                self._drop()
                raise
        if failure is not None:
            raise failure  # outside of the except block: the client's error, which may quote the server, is not chained

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._drop()

    def _begin(self, begin: str) -> "OpenTransaction":
        milliseconds = round(self._place.timeout * 1000)
        settings = (
            f"{begin}; SET LOCAL search_path = {self._place.schema}, pg_temp; SET LOCAL jit = off; "
            f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {milliseconds}"
        )
        if self._connection is not None:
            try:
                self._connection.execute(settings)
            except self._place.psycopg.OperationalError:  # it was closed while it was not used
                self._drop()
            else:
                return OpenTransaction(self._connection)
        self._connection = self._place.connect()
        self._opened(OpenTransaction(self._connection))
        self._connection.execute(settings)
        return OpenTransaction(self._connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class OpenTransaction:
    """Runs statements whose parameters are named as in ``:name``."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._connection = connection

    def execute(self, query: str, given: Mapping[str, object] | None = None, /) -> "Cursor[Any]":
        """Return what a statement answers."""
        if given is None:
            return self._connection.execute(query.encode())
        return self._connection.execute(_translated(query), given)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Wait for each answer as long as it takes."""
        connection: Any = self._connection  # a TimedConnection
        before, connection.patience = connection.patience, float("inf")
        yield
        connection.patience = before

    def execute_all(self, query: str, given: Sequence[Mapping[str, object]]) -> None:
        """Run a statement with each of several parameters."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(query), given)


@functools.lru_cache(256)
def _translated(query: str) -> bytes:
    return _PARAMETER.sub(r"%(\1)s", query.replace("%", "%%")).encode()


@functools.lru_cache(16)
def _timed_class(timeout: float) -> "type[Connection[Any]]":
    """Return psycopg's Connection whose waits end: a server that hangs would hold its caller for ever."""
    import psycopg

    def ending(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
        end = time.monotonic() + seconds
        try:
            awaited = next(steps)
            while True:
                ready = yield awaited
                if not ready and time.monotonic() > end:
                    raise TimeoutError
                awaited = steps.send(ready)
        except StopIteration as last:
            return last.value

    class TimedConnection(psycopg.Connection[Any]):
        patience = timeout

        def wait(self, gen: Any, *args: object, **options: object) -> Any:  # noqa: ANN401 (psycopg's own)
            return super().wait(ending(gen, self.patience), _LOOK_SECONDS)

    return TimedConnection


def _options(url: str | SecretStr) -> tuple[dict[str, Any], str]:
    """Return libpq's options of a URL, and the schema, which is ours.

    Nothing of it is in an error: a mistyped one may have the password anywhere.
    """
    from psycopg.conninfo import conninfo_to_dict

    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    if not isinstance(text, str):
        raise TypeError(f"url must be a string, not {type(text).__name__}")
    if not text.startswith(_SCHEMES):
        raise ValueError("a PostgreSQL URL starts with postgresql://, and this one does not")
    schema = "token_handlers"
    if found := _SCHEMA_OPTION.search(text):
        schema, text = found[2], text.replace(found[0], found[1] if found[3] else "")
    options: dict[str, Any] | None = None
    with contextlib.suppress(Exception):
        options = conninfo_to_dict(text)
    if options is None:
        raise ValueError(
            "not a valid PostgreSQL URL: it is postgresql://user:password@host:5432/database, percent-encoded"
        )
    return options, schema
