"""RedisCounter: one set of counters and budgets for a fleet, on any Redis-protocol server."""

import functools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from pydantic import SecretStr

from token_handlers.budget.limits import Amounts, Reserved, Spent
from token_handlers.counter.listeners import MakeRecord
from token_handlers.errors import StoreRefused, StoreUnavailable
from token_handlers.lifecycle import at_exit, not_at_exit
from token_handlers.sinks.backlog import Backlog
from token_handlers.sinks.redis.budgets import (
    amounts_of,
    limits_of,
    reserved_of,
    spent_of,
    sums_of,
)
from token_handlers.sinks.redis.connection import RedisConnection
from token_handlers.sinks.redis.increments import LABELS, MAX_BATCH, Increments, Keys, encoded, script_input, totals_of
from token_handlers.sinks.redis.scripts import RECORD, RELEASE, RESERVE, SETTLE, SPENT, Script
from token_handlers.sinks.redis.writer import EXIT_TIMEOUT, Deferred, RedisWriter
from token_handlers.usage import UsageRecord, UsageTotals

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["Amounts", "Backlog", "RedisCounter", "Reserved", "Spent", "StoreRefused", "StoreUnavailable"]

logger = logging.getLogger("token_handlers")

READ_AT_ONCE = 500
LONGEST = 10**9
"""No time of ours is longer, in seconds."""


class RedisCounter:
    """A sink that adds up the calls of a fleet on a Redis-protocol server: Valkey, Redis from 6.2, a cluster's node.

    ``url`` is redis://, rediss:// (TLS) or unix://; nothing connects before the first use. All keys of a ``namespace``
    share one hash tag, so that one script adds a record to all its totals at once. A record is counted once, however
    often it is given, by its event id, which the server remembers for ``remember`` seconds.

    Records are sent by one thread: up to ``batch`` of them in one script, ``linger`` seconds after the first one.
    Giving it a record takes a microsecond, whatever the server does. While the server can't be used, up to ``capacity``
    records wait in memory, later ones in the ``backlog`` where there is one; without, they are ``dropped``. Totals and
    budgets ask the server at once, for ``timeout`` seconds, and raise StoreUnavailable.

    Sums are those of a TokenCounter, with each record's cost rounded (half even) to a nano-USD. What has had no record
    for ``keep_days`` is forgotten, apart from the total of all.

    The server has to keep its keys: with a maxmemory and a maxmemory-policy other than noeviction it forgets what was
    counted and spent. There a budget is refused, and records are warned of once, unless ``allow_eviction`` accepts it.
    What the server has not saved when it fails is forgotten too: appendonly yes loses a second at most.
    """

    def __init__(
        self,
        url: str | SecretStr,
        namespace: str = "token_handlers",
        *,
        timeout: float = 0.25,
        batch: int = 256,
        linger: float = 0.1,
        capacity: int = 50_000,
        remember: float = 86_400.0,
        keep_days: int = 400,
        backlog: Backlog | None = None,
        allow_eviction: bool = False,
    ) -> None:
        for name, value, most in (
            ("batch", batch, MAX_BATCH),
            ("capacity", capacity, 10**9),
            ("keep_days", keep_days, 10**4),
        ):
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} must be an int from 1 to {most:,}, not {value!r}")
        if not 0 <= linger <= LONGEST:
            raise ValueError(f"linger must be seconds, 0 or more, not {linger!r}")
        _milliseconds("timeout", timeout)
        self._keys = Keys(namespace)
        self._namespace = namespace
        self._remember_ms = _milliseconds("remember", remember)
        self._keep_days = keep_days
        self._timeout = timeout
        self._evicts: bool | None = False if allow_eviction else None
        self._server = RedisConnection(url, timeout)
        self._writer = RedisWriter(self._add, batch=batch, linger=linger, capacity=capacity, backlog=backlog)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        at_exit(self._at_exit)

    def __repr__(self) -> str:
        return f"<RedisCounter {self._namespace!r} at {self._server.address}, {self.waiting} waiting>"

    def __call__(self, record: UsageRecord) -> None:
        """Take a record; never waits."""
        if not isinstance(record, UsageRecord):
            raise TypeError(f"a RedisCounter takes UsageRecords, not {type(record).__name__}")
        self._writer.put(record)

    def defer(self, make_record: MakeRecord) -> None:
        """Take a record that the counter's thread makes; it returns the same one each time it is called."""
        self._writer.put(Deferred(make_record))

    @property
    def waiting(self) -> int:
        """How many records (and settlements) wait in memory for the server."""
        return self._writer.waiting

    @property
    def dropped(self) -> int:
        """How many records were lost: there were too many of them, or they can't be added."""
        return self._writer.dropped

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the server has every record that was given; return whether it has.

        Waits ``timeout`` seconds at most; with None for as long as the server answers.
        """
        return self._writer.flush(timeout)

    def close(self, timeout: float = EXIT_TIMEOUT) -> None:
        """Send what waits, for so many seconds, and end. Done at the end of the process where nobody did it before."""
        not_at_exit(self._at_exit)
        self._writer.close(timeout)
        self._server.close()

    def ping(self) -> None:
        """Return if the server can be used, and raise a StoreUnavailable that says why not otherwise."""
        self._server.ping()

    def eviction(self) -> str | None:
        """Return the server's setting by which it drops keys when its memory is full; None where it drops none.

        A server that does not let this user ask is taken for one that drops none.
        """
        return self._server.eviction()

    def totals(
        self,
        session: str | None = None,
        user: str | None = None,
        model: str | None = None,
        since: date | None = None,
        until: date | None = None,
    ) -> UsageTotals:
        """Return the totals of all calls, or of one session, one user, or one model.

        ``since`` (inclusive) and ``until`` (exclusive) are UTC days on which calls started, for all calls and for one
        model. Other combinations are a ValueError: a ledger answers them.
        """
        labels = {"session": session, "user": user, "model": model}
        chosen = [(label, value) for label, value in labels.items() if value is not None]
        if len(chosen) > 1:
            raise ValueError("totals are of one session, one user or one model: a ledger has the combinations")
        scope = chosen[0] if chosen else ()
        if since is None and until is None:
            return totals_of(self._read([scope or ("total",)]))
        if chosen and model is None:
            raise ValueError("totals by day are of all calls or of one model: a ledger has those of sessions and users")
        first, last = _day("since", since, ""), _day("until", until, "9")
        return totals_of(self._read([("day", day, *scope) for day in self._names("day") if first <= day < last]))

    def by(self, label: str) -> dict[str, UsageTotals]:
        """Return the totals by 'model', 'session', 'user' or 'day'; reads every one of them."""
        if label not in LABELS:
            raise ValueError(f"totals are kept by {', '.join(LABELS)}, not by {label!r}: a ledger has those by tag")
        names = self._names(label)
        hashes = self._read([(label, name) for name in names])
        return {name: totals_of([amounts]) for name, amounts in zip(names, hashes, strict=True)}

    def reserve(
        self,
        scope: str,
        *,
        reservation: str,
        cost: Decimal = Decimal(0),
        tokens: int = 0,
        requests: int = 1,
        limits: Mapping[str, Decimal | int | None],
        window: str | None = None,
        ttl: float = 600.0,
    ) -> Reserved:
        """Hold what a call may use, if what the scope has spent in the window, and what it holds, leaves room for it.

        ``limits`` has max_cost (USD), max_tokens and max_requests, inclusive. ``window`` is 'hour', 'day' or 'month',
        by the server's clock in UTC. ``reservation`` names the call: reserving again under that name replaces what it
        holds, until it is settled. After ``ttl`` seconds, which should be longer than any call, it holds nothing.
        Where there is no room, it asks again once what waits here, such as settlements, has arrived. Raises
        StoreUnavailable, at once while the server is known to be down.
        """
        keys, amounts = self._keys.budget(scope, reservation), amounts_of(cost, tokens, requests, reserve=True)
        terms = (sums_of(window), *limits_of(limits), _milliseconds("ttl", ttl))
        if not self._writer.is_up:
            raise StoreUnavailable(self._writer.why_down)
        try:
            answer = reserved_of(self._budget(RESERVE, keys, reservation, *amounts, *terms))
            if not answer.granted and self._writer.flush(self._timeout):
                answer = reserved_of(self._budget(RESERVE, keys, reservation, *amounts, *terms))
            if self._evicts is not False:
                self._refuse_eviction(keys, reservation)
        except StoreRefused:
            raise
        except StoreUnavailable as error:
            self._writer.went_down(error)
            # The answer alone may be missing. This also finds out when the server is back.
            self._writer.put(lambda: self._budget(RELEASE, keys, reservation))
            raise
        return answer

    def settle(
        self, scope: str, reservation: str, *, cost: Decimal, tokens: int, requests: int = 1, wait: bool = True
    ) -> bool:
        """Book what a call really used, once, in place of what it held, above a limit too, and after it expired.

        Returns whether it is booked; otherwise it waits, like a record, until the server can be used. Without ``wait``
        it always does, and never takes the server's time.
        """
        keys, amounts = self._keys.budget(scope, reservation), amounts_of(cost, tokens, requests)
        return self._now_or_later(
            lambda: self._budget(SETTLE, keys, reservation, *amounts, self._remember_ms), now=wait
        )

    def release(self, scope: str, reservation: str, *, wait: bool = True) -> bool:
        """Let go of what a call held that was not sent. Returns whether it is done; otherwise it waits."""
        keys = self._keys.budget(scope, reservation)
        return self._now_or_later(lambda: self._budget(RELEASE, keys, reservation), now=wait)

    def spent(self, scope: str, window: str | None = None) -> Spent:
        """Return what a scope has spent, in this window or in all, and what the calls that are under way hold."""
        return spent_of(self._budget(SPENT, self._keys.budget(scope, ""), "", sums_of(window)))

    def _add(self, increments: Sequence[Increments]) -> None:
        self._server.script(RECORD, *script_input(self._keys, increments, self._remember_ms, self._keep_days))
        if self._evicts is None and (setting := self._eviction_now()):
            logger.warning(
                "The Redis server at %s drops keys when its memory is full (%s), so that totals may shrink: set "
                "maxmemory-policy noeviction, or accept it by RedisCounter(allow_eviction=True)",
                self._server.address,
                setting,
            )

    def _refuse_eviction(self, keys: Sequence[bytes], reservation: str) -> None:
        """Let go of what a reservation holds and refuse it, where the server may forget what was spent."""
        if setting := self._eviction_now():
            self._budget(RELEASE, keys, reservation)
            raise StoreRefused(
                f"The Redis server at {self._server.address} drops keys when its memory is full ({setting}), so that a "
                "budget would forget what was spent: set maxmemory-policy noeviction, or accept it by "
                "RedisCounter(allow_eviction=True)"
            )

    def _eviction_now(self) -> str | None:
        """Ask how the server drops keys, until it is known that it drops none."""
        setting = self._server.eviction()
        self._evicts = setting is not None
        return setting

    def _budget(self, script: Script, keys: Sequence[bytes], reservation: str, *arguments: str | int) -> object:
        return self._server.script(script, keys, [self._keep_days * 86_400, encoded(reservation), *arguments])

    def _now_or_later(self, action: Callable[[], object], *, now: bool) -> bool:
        if now and self._writer.is_up:
            try:
                action()
            except StoreRefused:
                raise
            except StoreUnavailable as error:
                self._writer.went_down(error)
            else:
                return True
        self._writer.put(action)
        return False

    def _names(self, label: str) -> list[str]:
        found = self._server.run(lambda client: client.zrange(self._keys.key("index", label), 0, -1))
        return sorted(name.decode("utf-8", "surrogatepass") for name in cast("list[bytes]", found))

    def _read(self, scopes: Sequence[tuple[str, ...]]) -> list[Mapping[bytes, bytes]]:
        def read(client: "Redis", part: Sequence[tuple[str, ...]]) -> list[Mapping[bytes, bytes]]:
            with client.pipeline(transaction=False) as pipeline:
                for scope in part:
                    pipeline.hgetall(self._keys.key(*scope))
                return pipeline.execute()

        parts = [scopes[start : start + READ_AT_ONCE] for start in range(0, len(scopes), READ_AT_ONCE)]
        return [found for part in parts for found in self._server.run(functools.partial(read, part=part))]


def _day(name: str, day: date | None, default: str) -> str:
    if day is None:
        return default
    if isinstance(day, datetime):
        if day.utcoffset() != timedelta(0) or day.time() != time(0):
            raise ValueError(f"{name} is a day, or a datetime at midnight UTC, not {day!r}: totals are kept by day")
        return day.date().isoformat()
    return day.isoformat()


def _milliseconds(name: str, seconds: float) -> int:
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"{name} must be seconds, more than 0, not {seconds!r}")
    return max(1, int(seconds * 1000))


def _close(counter: "weakref.ref[RedisCounter]") -> None:
    alive = counter()
    if alive is not None:
        alive.close()
