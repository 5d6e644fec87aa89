"""A ledger's schema made, or brought up to today's version, by whichever process comes first."""

from token_handlers.sinks.postgres.connection import WRITE, OpenTransaction, PostgresPlace
from token_handlers.sinks.postgres.schema import VERSION, made_lock, statements_since

OLDEST_SERVER = 140_000
"""The server_version_num of the oldest PostgreSQL that a ledger may be on."""

_SERVER = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')"
_HAS_SCHEMA = "SELECT count(*) FROM pg_namespace WHERE nspname = :schema"
# Not by to_regclass, which may not know yet what another process made while this one waited.
_TABLES = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = :schema
"""
_COLUMNS = """
SELECT attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = :schema AND relname = :table AND attnum > 0 AND NOT attisdropped
"""
_READERS = """
SELECT grantee FROM information_schema.role_table_grants
WHERE table_schema = :schema AND table_name = 'usage_measure' AND privilege_type = 'SELECT' AND grantee <> current_user
"""
_WRITERS = """
SELECT grantee FROM information_schema.routine_privileges
WHERE routine_schema = :schema AND routine_name = 'add_calls' AND grantee <> current_user
"""


def bring_up(place: PostgresPlace, connection: OpenTransaction, *, read_only: bool) -> None:
    """Check that a new connection leads to a ledger of today's version; make it one, unless it is only to be read."""
    version = _version(place, connection)
    if version == VERSION:
        return
    if read_only:
        if version == 0:
            raise place.refused("there is none", "the first program that writes to it makes it")
        raise place.refused(f"an older token_handlers made it (version {version})", "let its owner write to it once")
    _check_server(place, connection)
    connection.execute(f"{WRITE}; SET LOCAL search_path = {place.schema}, pg_temp")
    _migrate(place, connection)
    connection.execute("COMMIT")


def _migrate(place: PostgresPlace, connection: OpenTransaction) -> None:
    connection.execute(made_lock(place.schema))
    version = _version(place, connection)
    if version == VERSION:  # another process was faster
        return
    if version == 0:
        _check_schema(place, connection)
    columns, sums = (_names(connection, _COLUMNS, place, table=table) for table in ("usage_event", "rollup_day"))
    readers, writers = _names(connection, _READERS, place), _names(connection, _WRITERS, place)
    with connection.patient():  # all calls of an older ledger are counted
        for statement in statements_since(version, columns, sums, place.schema):
            connection.execute(statement)
    for reader in readers:
        connection.execute(f"GRANT SELECT ON usage_measure, rollup_ever TO {_role(reader)}")
    for writer in writers:
        connection.execute(f"GRANT EXECUTE ON FUNCTION write_calls TO {_role(writer)}")


def _role(name: str) -> str:
    return name if name == "PUBLIC" else '"' + name.replace('"', '""') + '"'


def _version(place: PostgresPlace, connection: OpenTransaction) -> int:
    """Return the version of the ledger in the schema, 0 where there is none; refuse one that is newer."""
    if "ledger_version" not in _names(connection, _TABLES, place):
        return 0
    ((version,),) = connection.execute(f"SELECT version FROM {place.schema}.ledger_version").fetchall()  # noqa: S608 (a checked name)
    if version > VERSION:
        raise place.refused(f"a newer token_handlers made it (version {version})", "upgrade token_handlers")
    return int(version)


def _check_server(place: PostgresPlace, connection: OpenTransaction) -> None:
    ((number, encoding),) = connection.execute(_SERVER).fetchall()
    if number < OLDEST_SERVER:
        raise place.refused(f"PostgreSQL {number // 10_000} is too old", f"it needs {OLDEST_SERVER // 10_000}")
    if encoding != "UTF8":
        raise place.refused(f"the database's encoding is {encoding}", "choose one in UTF8")


def _check_schema(place: PostgresPlace, connection: OpenTransaction) -> None:
    """Make the schema; refuse one that is another program's, and leave it as it is."""
    ((schemas,),) = connection.execute(_HAS_SCHEMA, {"schema": place.schema}).fetchall()
    if not schemas:
        connection.execute(f"CREATE SCHEMA {place.schema}")
    if _names(connection, _TABLES, place):
        raise place.refused("the schema has another program's tables", "choose another by SQLLedger(url, schema=...)")


def _names(connection: OpenTransaction, query: str, place: PostgresPlace, **given: str) -> list[str]:
    return [str(name) for (name,) in connection.execute(query, {"schema": place.schema, **given}).fetchall()]
