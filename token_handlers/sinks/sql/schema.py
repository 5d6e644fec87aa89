"""The columns of a call, the sums of them, and the labels and times by which the sums are kept.

Times are milliseconds since 1970 in UTC. Money is integer nano-USD (``_nano``) and the rest below a nano-USD in 1e-18
USD (``_atto``), so that the sum of many small costs is exact. Usage's fields and MEASURES make the columns: a new one
has its column in each store.
"""

from collections.abc import Mapping
from typing import NamedTuple

from token_handlers.usage import MEASURES, PARTS, Usage

HOUR = 3_600_000
DAY = 24 * HOUR
MONTH = 32 * DAY
EVER = 10**5 * MONTH
"""More than any time has."""

LEVELS = {"rollup_ever": EVER, "rollup_32days": MONTH, "rollup_day": DAY, "rollup_hour": HOUR}
"""The tables of rollups, and how many milliseconds a bucket of each has, the coarsest first."""

COUNTS = tuple(Usage.model_fields)
TEXTS = (
    *("session", "user", "node", "model", "provider", "method", "cost_source", "requested_model"),
    *("service_tier", "region", "host", "request_id", "organization", "project"),
)
"""The fields of a record that are text, under their own names."""

COLUMNS: Mapping[str, str] = {
    "event_id": "TEXT NOT NULL UNIQUE",
    "ts_ms": "INTEGER NOT NULL",
    "ended_ms": "INTEGER",
    "tags": "TEXT",
    "operation": "TEXT NOT NULL",
    "outcome": "TEXT NOT NULL",
    "source": "TEXT NOT NULL",
    "requests": "INTEGER NOT NULL",
    "cost_nano": "INTEGER",
    "cost_atto": "INTEGER",
    "saved_nano": "INTEGER",
    "saved_atto": "INTEGER",
    "cache_saved_nano": "INTEGER",
    "cache_saved_atto": "INTEGER",
    "doubts": "TEXT",
    "cost_breakdown": "TEXT",
    "served": "TEXT",
    "billed": "TEXT",
    "beside": "TEXT",
    **dict.fromkeys(TEXTS, "TEXT"),
    **dict.fromkeys(COUNTS, "INTEGER"),
}
"""The columns of usage_event and their types. Tags, doubts, the breakdown and what was billed are JSON."""

_MONEY = ("priced", "cost_nano", "cost_atto", "cache_saved_nano", "cache_saved_atto", "saved_nano", "saved_atto")
SUMS = (*(measure.name for measure in MEASURES), *_MONEY)
"""What is summed: the measures, how many calls have a cost, and money."""

_WITHOUT_OUTPUT = "operation IN ('embeddings', 'rerank')"
_PARTS = {part for parts, _ in PARTS for part in parts}
_ANY_COUNT = f"{' + '.join(f'coalesce({name}, 0)' for name in COUNTS if name not in _PARTS)} > 0"
_SPECIAL = {
    "input_tokens": (f"NOT {_WITHOUT_OUTPUT}", "input_tokens"),
    "output_tokens": (f"NOT {_WITHOUT_OUTPUT}", "output_tokens"),
    "embedding_tokens": (_WITHOUT_OUTPUT, "input_tokens"),
    "successful_requests": ("source <> 'manual'", "requests"),
    "estimated_requests": ("source <> 'manual' AND (source = 'estimated' OR doubts IS NOT NULL)", "requests"),
    "unpriced_requests": (f"cost_nano IS NULL AND (source <> 'manual' OR {_ANY_COUNT})", "requests"),
    "unpriced_cache_tokens": (
        "cache_saved_nano IS NULL",
        "coalesce(cache_read_tokens, 0) + coalesce(cache_write_tokens, 0)",
    ),
}


def expression_of(unit: str) -> str:
    """Return what a call adds to the sum of a unit, in SQL, as counter.increment does."""
    if unit in ("failed_requests", "cached_responses"):
        outcome = unit.partition("_")[0]
        return f"CASE WHEN outcome = '{outcome}' THEN requests ELSE 0 END"
    condition, number = _SPECIAL.get(unit, ("", unit))
    also = f" AND ({condition})" if condition else ""
    return f"CASE WHEN outcome = 'success'{also} THEN coalesce({number}, 0) ELSE 0 END"


EXPRESSIONS: Mapping[str, str] = {
    **{measure.name: expression_of(measure.unit) for measure in MEASURES},
    "priced": "CASE WHEN outcome = 'success' AND cost_nano IS NOT NULL THEN 1 ELSE 0 END",
    **{name: f"CASE WHEN outcome = 'success' THEN coalesce({name}, 0) ELSE 0 END" for name in _MONEY[1:5]},
    **{name: f"CASE WHEN outcome = 'cached' THEN coalesce({name}, 0) ELSE 0 END" for name in _MONEY[5:]},
}
"""What a call adds to each of SUMS."""

MEASURED = (
    "ts_ms, session, \"user\", node, tags, coalesce(nullif(model, ''), '(unknown)') AS model, "
    "coalesce(provider, '') AS provider, operation, "
    f"{', '.join(f'{expression} AS {name}' for name, expression in EXPRESSIONS.items())}"
)
"""The columns of the view usage_measure, beside those by which a store tells calls."""

LABELLED = 'ts_ms, session, "user", node, tags, model, provider, operation'
"""Those of them by which rollups sum."""


class Label(NamedTuple):
    """A label by which rollups sum: the levels for all models together, and those apart by model, provider, operation.

    All tags are one label here. What is in rollup_ever is also there for all values together, under ``ALL`` and the
    label: so whoever asks for the most expensive reads these alone, and what the others add up to.
    """

    together: tuple[str, ...]
    apart: tuple[str, ...]


ALL = "every "
_EVER, _MONTH, _DAY, _HOUR = LEVELS
# What a report asks for is summed in at most a few hundred thousand rows; each further level costs the writer.
LABELS: Mapping[str, Label] = {
    "": Label((_HOUR,), (_DAY, _HOUR)),
    # There may be millions of sessions and users: theirs are the rollups that make a ledger large.
    "session": Label((_EVER, _DAY), (_MONTH,)),
    "user": Label((_EVER, _MONTH, _DAY), (_MONTH,)),
    "langgraph_node": Label((_DAY,), (_MONTH,)),
    "tag": Label((_MONTH, _DAY), (_MONTH,)),
}


class Source(NamedTuple):
    """A label's name and value, as expressions, and whether they are a tag's."""

    name: str
    value: str
    has_tags: bool = False

    def rows(self, calls: str, tags: str) -> str:
        """Return the tables in which they are found: one of calls and, where they are a tag's, that of its tags."""
        return f"{calls}, {tags}" if self.has_tags else calls


SOURCES: Mapping[str, Source] = {
    "": Source("''", "''"),
    "session": Source("'session'", "session"),
    "user": Source("'user'", '"user"'),
    "langgraph_node": Source("'langgraph_node'", "node"),
    "tag": Source("'tag:' || tag.key", "tag.value", has_tags=True),
}
EXTRA = {"rollup_ever": ("number",)}
"""The columns of a level beside its sums: how many values there are, where it is all of them."""

ROLLUP_KEY = ("apart", "label", "bucket", "value", "model", "provider", "operation")

MOST_EXPENSIVE = (
    "(coalesce(cost_nano, 0) + coalesce(cost_atto, 0) / 1000000000) DESC",
    "(coalesce(cost_atto, 0) % 1000000000) DESC",
    "(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) DESC",
)
"""The order of sums, and then by value. Rollup_ever has an index of it, for who asks for those without a number."""

COST_INDEX = (
    f"CREATE INDEX rollup_ever_cost ON rollup_ever (label, {', '.join(MOST_EXPENSIVE)}, value) WHERE number IS NULL"
)
