"""The ledger's tables: a row for each call, and sums of calls by label and time that each commit keeps in step.

``usage_event`` has the calls. ``usage_measure`` says what each adds to a sum, as counter.increment does. The rollups
sum that by label ('' for all calls, 'session', 'user', 'langgraph_node', 'tag:NAME') and time, and where ``apart`` is 1
by model, provider and operation. Times are milliseconds since 1970 in UTC; ``bucket`` is a time divided by the unit of
its rollup. Money is integer nano-USD (``_nano``) and what is below a nano-USD in 1e-18 USD (``_atto``), so that the sum
of many small costs is exact. ``usage_outbox`` has the ids of calls that a fleet's server is not known to have, and the
id 0 where the ledger is a fleet's backlog: without it nothing is put there.
"""

from typing import NamedTuple

from token_handlers.usage import Usage

APPLICATION_ID = 0x544F4B4C
"""'TOKL' in the file's header: what tells a ledger from other SQLite files."""

NAMELESS = "ledger:"
"""How the event ids begin that a ledger gives to records without one: a fleet's server would not know them again."""

HOUR = 3_600_000
DAY = 24 * HOUR
LEVELS = {"rollup_32days": 32 * DAY, "rollup_day": DAY, "rollup_hour": HOUR}
"""Rollups and how many milliseconds a bucket of each has, the coarsest first."""

MEASURES = (
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_cached",
    "cache_write_tokens",
    "reasoning_tokens",
    "embedding_tokens",
    "successful_requests",
    "failed_requests",
    "cached_responses",
    "estimated_requests",
    "unpriced_requests",
    "priced",
    "cost_nano",
    "cost_atto",
    "saved_nano",
    "saved_atto",
)
_NEW = {"output_video_tokens", "cache_write_12h_tokens", "container_sessions", "maps_searches", "sources"}
COUNTS = tuple(name for name in Usage.model_fields if name not in _NEW)
COLUMNS = (
    *("event_id", "ts_ms", "ended_ms", "session", "user", "node", "tags", "model", "provider", "operation", "outcome"),
    *("source", "method", "requests", "cost_nano", "cost_atto", "cost_source", "saved_nano", "saved_atto"),
    *COUNTS,
)


class Label(NamedTuple):
    """Where the values of a label are found in usage_measure, and which rollups sum them: for all models together, and
    apart by model, provider and operation. All tags are one label here.
    """

    name: str
    value: str
    tables: str
    together: tuple[str, ...]
    apart: tuple[str, ...]


_MONTH, _DAY, _HOUR = LEVELS
LABELS = {
    "": Label("''", "''", "usage_measure", (_MONTH, _DAY, _HOUR), (_MONTH, _DAY, _HOUR)),
    # There may be millions of sessions and users: theirs are the rollups that make a ledger large.
    "session": Label("'session'", "session", "usage_measure", (_DAY,), (_MONTH,)),
    "user": Label("'user'", "user", "usage_measure", (_MONTH, _DAY), (_MONTH,)),
    "langgraph_node": Label("'langgraph_node'", "node", "usage_measure", (_MONTH, _DAY, _HOUR), (_MONTH, _DAY)),
    "tag": Label(
        "'tag:' || tag.key",
        "tag.value",
        "usage_measure, json_each(tags) AS tag",
        (_MONTH, _DAY, _HOUR),
        (_MONTH, _DAY),
    ),
}

_EVENT = """
CREATE TABLE usage_event (
  id INTEGER PRIMARY KEY,
  event_id TEXT NOT NULL UNIQUE,
  ts_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  session TEXT,
  user TEXT,
  node TEXT,
  tags TEXT,
  model TEXT,
  provider TEXT,
  operation TEXT NOT NULL,
  outcome TEXT NOT NULL,
  source TEXT NOT NULL,
  method TEXT,
  requests INTEGER NOT NULL,
  cost_nano INTEGER,
  cost_atto INTEGER,
  cost_source TEXT,
  saved_nano INTEGER,
  saved_atto INTEGER,
  input_tokens INTEGER,
  output_tokens INTEGER,
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  cache_write_5m_tokens INTEGER,
  cache_write_1h_tokens INTEGER,
  reasoning_tokens INTEGER,
  input_audio_tokens INTEGER,
  output_audio_tokens INTEGER,
  cache_audio_read_tokens INTEGER,
  input_image_tokens INTEGER,
  output_image_tokens INTEGER,
  input_video_tokens INTEGER,
  output_citation_tokens INTEGER,
  web_searches INTEGER,
  social_searches INTEGER,
  storage_searches INTEGER,
  code_executions INTEGER,
  rerank_searches INTEGER
) STRICT
"""

_MEASURE = """
CREATE VIEW usage_measure AS SELECT
  id, ts_ms, session, user, node, tags,
  coalesce(nullif(model, ''), '(unknown)') AS model,
  coalesce(provider, '') AS provider,
  operation,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(input_tokens, 0), 0) AS prompt_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(output_tokens, 0), 0) AS completion_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(cache_read_tokens, 0), 0) AS prompt_tokens_cached,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(cache_write_tokens, 0), 0) AS cache_write_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(reasoning_tokens, 0), 0) AS reasoning_tokens,
  iif(outcome = 'success' AND operation = 'embeddings', coalesce(input_tokens, 0), 0) AS embedding_tokens,
  iif(outcome = 'success' AND source <> 'manual', requests, 0) AS successful_requests,
  iif(outcome = 'failed', requests, 0) AS failed_requests,
  iif(outcome = 'cached', requests, 0) AS cached_responses,
  iif(outcome = 'success' AND source = 'estimated', requests, 0) AS estimated_requests,
  iif(outcome = 'success' AND source <> 'manual' AND cost_nano IS NULL, requests, 0) AS unpriced_requests,
  iif(outcome = 'success' AND cost_nano IS NOT NULL, 1, 0) AS priced,
  iif(outcome = 'success', coalesce(cost_nano, 0), 0) AS cost_nano,
  iif(outcome = 'success', coalesce(cost_atto, 0), 0) AS cost_atto,
  iif(outcome = 'cached', coalesce(saved_nano, 0), 0) AS saved_nano,
  iif(outcome = 'cached', coalesce(saved_atto, 0), 0) AS saved_atto
FROM usage_event
"""

_ROLLUP = """
CREATE TABLE {} (
  apart INTEGER NOT NULL,
  label TEXT NOT NULL,
  bucket INTEGER NOT NULL,
  value TEXT NOT NULL,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  operation TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  prompt_tokens_cached INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  embedding_tokens INTEGER NOT NULL,
  successful_requests INTEGER NOT NULL,
  failed_requests INTEGER NOT NULL,
  cached_responses INTEGER NOT NULL,
  estimated_requests INTEGER NOT NULL,
  unpriced_requests INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  cost_atto INTEGER NOT NULL,
  saved_nano INTEGER NOT NULL,
  saved_atto INTEGER NOT NULL,
  PRIMARY KEY (apart, label, bucket, value, model, provider, operation)
) STRICT, WITHOUT ROWID
"""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        _EVENT,
        "CREATE INDEX usage_event_time ON usage_event (ts_ms)",
        "CREATE INDEX usage_event_session ON usage_event (session, ts_ms) WHERE session IS NOT NULL",
        "CREATE INDEX usage_event_user ON usage_event (user, ts_ms) WHERE user IS NOT NULL",
        _MEASURE,
        *(_ROLLUP.format(name) for name in ("rollup_32days", "rollup_day", "rollup_hour")),
    ),
    ("CREATE TABLE usage_outbox (id INTEGER PRIMARY KEY) STRICT",),
)
"""The statements that make version n + 1 of a ledger out of version n; the file has its version as user_version."""


def roll_up(chosen: str, sign: str = "+") -> tuple[str, ...]:
    """Return the statements that add the calls which a condition chooses to all rollups, or take them off with '-'."""
    return tuple(
        _roll_up(label, level, apart, chosen, sign)
        for label in LABELS.values()
        for apart, levels in enumerate((label.together, label.apart))
        for level in levels
    )


def _roll_up(label: Label, level: str, apart: int, chosen: str, sign: str) -> str:
    names = "model, provider, operation" if apart else "'', '', ''"
    sums = ", ".join(f"{sign}sum({measure})" for measure in MEASURES)
    adding = ", ".join(f"{measure} = {measure} + excluded.{measure}" for measure in MEASURES)
    return (
        f"INSERT INTO {level} SELECT {apart}, {label.name}, ts_ms / {LEVELS[level]}, {label.value}, {names}, {sums} "  # noqa: S608 (constants)
        f"FROM {label.tables} WHERE {chosen} AND {label.value} IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7 "
        f"ON CONFLICT (apart, label, bucket, value, model, provider, operation) DO UPDATE SET {adding}"
    )
