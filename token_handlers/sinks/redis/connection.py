"""A connection to a Redis-protocol server: no retries, short time-outs, errors that say what to do and no secret."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from token_handlers.errors import MissingDependency, StoreRefused, StoreUnavailable
from token_handlers.sinks.redis.scripts import Script

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

MAX_HOPS = 3
MAX_CONNECTIONS = 10_000

_SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_PATH = re.compile(r"(/\d*)?(\?[^@#]*)?")
"""What may follow the host: with an unquoted /, ? or # in the password, the rest of it would."""

_OF_THE_POOL = ("connection_class", "max_connections")
_RELIED_ON = ("decode_responses", "encoding", "encoding_errors", "protocol", "retry", "retry_on_error")


class RedisConnection:
    """One server, or in a cluster the node that holds our slot: as all keys share it, following MOVED is enough."""

    def __init__(self, url: str | SecretStr, timeout: float) -> None:
        try:
            import redis
        except ImportError:
            raise MissingDependency("redis", "redis") from None
        self._redis = redis
        self._timeout = timeout
        self._is_redis = False
        self._home = _options(url)
        self._is_tls = self._home.get("connection_class") is redis.SSLConnection
        self._client = self._connect(self._home)
        self.address = _address(self._home)

    def ping(self) -> None:
        """Ask the server for an answer."""
        self.run(lambda client: client.ping())

    def script(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> object:
        """Run a script, sending its text only to a server that has not seen it."""

        def evaluate(client: "Redis") -> object:
            try:
                return client.evalsha(script.sha, len(keys), *keys, *arguments)
            except self._redis.exceptions.NoScriptError:
                return client.eval(script.text, len(keys), *keys, *arguments)

        return self.run(evaluate)

    def run(self, action: Callable[["Redis"], T]) -> T:
        """Do something with a client; what goes wrong is a StoreUnavailable."""
        for _ in range(MAX_HOPS):
            try:
                answer = action(self._client)
            except (self._redis.RedisError, OSError, ValueError) as error:
                if not self._follow(error):
                    failure = self._failure(error)
                    break
            else:
                self._is_redis = True
                return answer
        else:
            failure = StoreUnavailable(f"The Redis cluster at {self.address} moves our slot around")
        self._reconnect()
        raise failure  # outside of the except block: the client's error, which may quote the server, is not chained

    def eviction(self) -> str | None:
        """Return how the server drops keys when its memory is full; None where it drops none, or does not say."""

        def ask(client: "Redis") -> Mapping[str, object]:
            try:
                return cast("Mapping[str, object]", client.info("memory"))
            except self._redis.exceptions.ResponseError:  # a user who may not ask
                return {}

        memory = self.run(ask)
        policy, limit = str(memory.get("maxmemory_policy", "noeviction")), int(str(memory.get("maxmemory", 0)))
        return f"maxmemory-policy {policy}, maxmemory {limit}" if limit and policy != "noeviction" else None

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._client.connection_pool.disconnect()

    def _connect(self, options: dict[str, object]) -> "Redis":
        redis = self._redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        settings: dict[str, object] = {"socket_timeout": self._timeout, "max_connections": MAX_CONNECTIONS}
        if "path" not in options:
            settings["socket_connect_timeout"] = self._timeout
        settings |= {name: value for name, value in options.items() if name not in _RELIED_ON}
        settings |= {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        pool = redis.ConnectionPool(**settings)
        return cast("Redis", redis.Redis(connection_pool=pool))

    def _follow(self, error: Exception) -> bool:
        """Go to the node that an error names, if it does."""
        moved = error
        if str(error).startswith("MOVED "):  # redis-py 5 knows these in its cluster client alone
            moved = self._redis.exceptions.MovedError(str(error).removeprefix("MOVED "))
        if not isinstance(moved, self._redis.exceptions.MovedError):
            return False
        options = self._home | {"port": moved.port}
        if moved.host:
            options["host"] = moved.host
        self._client = self._connect(options)
        self.address = _address(options)
        return True

    def _reconnect(self) -> None:
        """Look the address up again at the next use: after a failover it may lead to another server."""
        if self.address == _address(self._home):
            self._client.connection_pool.disconnect(inuse_connections=False)
        else:
            self._client = self._connect(self._home)
            self.address = _address(self._home)

    def _failure(self, error: Exception) -> StoreUnavailable:  # noqa: PLR0911 (one a cause)
        errors, where = self._redis.exceptions, f"The Redis server at {self.address}"
        text = str(error).partition(", with args")[0].rstrip(".")  # those of an unknown AUTH are the password
        if self._home.get("password"):
            text = text.replace(str(self._home["password"]), "***")
        if "REFUSED" in text or "WRONGTYPE" in text:
            return StoreRefused(f"{where} could not run a script: {text.removeprefix('REFUSED ')}")
        if isinstance(error, errors.AuthenticationError | errors.AuthenticationWrongNumberOfArgsError):
            return StoreUnavailable(f"{where} refused the user name or the password: look at the URL")
        if isinstance(error, errors.InvalidResponse | ValueError):
            return StoreUnavailable(
                f"What answers at {self.address} does not speak the Redis protocol: look at the URL"
            )
        if not self._is_redis and "closed by server" in text:
            return StoreUnavailable(
                f"What answers at {self.address} hung up without a word of the Redis protocol: look at the URL"
            )
        if self._is_tls and not self._is_redis and (isinstance(error, errors.TimeoutError) or "SSL" in text):
            return StoreUnavailable(
                f"What answers at {self.address} does not speak TLS, which rediss:// is: use its TLS port, or redis://"
            )
        if isinstance(error, errors.TimeoutError | TimeoutError):
            return StoreUnavailable(f"{where} did not answer within {self._timeout} s")
        return StoreUnavailable(f"{where} can't be used: {text}")


def _options(url: str | SecretStr) -> dict[str, object]:
    """Parse a URL. Nothing of it is in an error: a mistyped one may have the password anywhere."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    if not isinstance(text, str):
        raise TypeError(f"url must be a string, not {type(text).__name__}")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError("a Redis URL starts with redis://, rediss:// (TLS) or unix://, and this one does not")
    options = _parse(f"{_SCHEMES[scheme]}://{rest}")
    if options is None:
        raise ValueError("not a valid Redis URL: it is redis://user:password@host:6379/0, percent-encoded")
    return options


def _parse(url: str) -> dict[str, object] | None:
    from redis.connection import Connection, parse_url

    try:
        parts = urlsplit(url)
        if parts.scheme != "unix" and not _PATH.fullmatch(url.removeprefix(f"{parts.scheme}://{parts.netloc}")):
            return None
        options = cast("dict[str, object]", parse_url(url))  # type: ignore[no-untyped-call]
        connection = options.get("connection_class", Connection)
        connection(**{name: value for name, value in options.items() if name not in _OF_THE_POOL})  # type: ignore[operator]
    except (TypeError, ValueError):
        return None
    return options


def _address(options: dict[str, object]) -> str:
    return (
        str(options["path"]) if "path" in options else f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    )
