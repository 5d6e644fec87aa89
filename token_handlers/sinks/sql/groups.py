"""Sums by the values of one label: of all values, or of the most expensive ones and of all others together."""

from collections.abc import Callable, Mapping, Sequence

from token_handlers.counter.totals import OTHER
from token_handlers.sinks.escapes import unescaped
from token_handlers.sinks.sql.queries import Reader, RollupQuery, is_of_all_time, query_for, sums_by
from token_handlers.sinks.sql.questions import Dimension, Window, dimension_of
from token_handlers.sinks.sql.rollups import ever, is_unknown
from token_handlers.sinks.sql.rows import day_of, hour_of, totals_of
from token_handlers.sinks.sql.schema import ALL, MOST_EXPENSIVE, SUMS
from token_handlers.usage import UsageTotals

_ORDERED = ("cost_nano", "cost_atto", "prompt_tokens", "completion_tokens")
"""What MOST_EXPENSIVE is made of."""

_TIMES: dict[str, Callable[[int], str]] = {"day": day_of, "hour": hour_of}


class Groups(dict[str, UsageTotals]):
    """Totals by the values of a label; the sum of ``others`` further values is under "(other)"."""

    def __init__(self, totals: Mapping[str, UsageTotals], others: int = 0) -> None:
        super().__init__(totals)
        self.others = others


def groups_by(reader: Reader, label: str, window: Window, top: int | None) -> Groups:
    """Return the totals of a window's calls by a label; with ``top`` of so many values, the most expensive first."""
    if top is None:
        sums = sums_by(reader, dimension_of(label), window)
        return Groups({_name_of(label, key): totals for (key,), totals in sums.items()})
    found, others, rest = _most_expensive(reader, dimension_of(label), window, top)
    groups = {_name_of(label, key): totals for key, totals in found.items()}
    return Groups({**groups, OTHER: rest} if others else groups, others)


def _name_of(label: str, key: str | int) -> str:
    return _TIMES[label](int(key)) if label in _TIMES else unescaped(str(key))


def _most_expensive(
    reader: Reader, dimension: Dimension, window: Window, number: int
) -> tuple[dict[str | int, UsageTotals], int, UsageTotals]:
    """Return the totals by a dimension's one key: the most expensive, how many there are besides, and their sum."""
    query = query_for(reader, dimension, window)
    used = [measure for measure in SUMS if query.sums[measure] != "0"] or SUMS[:1]
    if not query.parts:
        return {}, 0, UsageTotals()
    expressions = ", ".join(f"{expression} AS {name}" for name, expression in query.sums.items())
    if is_of_all_time(reader, dimension, window):
        tables, whole = _of_all_time(dimension.label, _parts(query, used), used, number)
    else:
        tables, whole = _of_a_time(query, used, number)
    tables["summed"] = f"SELECT key, {expressions} FROM calls GROUP BY key"  # noqa: S608 (constants)
    tables["most"] = f"SELECT 0, * FROM summed ORDER BY {', '.join(MOST_EXPENSIVE)}, key LIMIT {number}"  # noqa: S608 (constants)
    named = ", ".join(f"{name} AS ({table})" for name, table in tables.items())
    *rows, (count, _, *rest) = reader.rows(
        f"WITH {named} SELECT * FROM most UNION ALL SELECT {whole[0]}, NULL, {expressions} FROM {whole[1]}",  # noqa: S608 (constants)
        query.given,
    )
    found: dict[str | int, list[int]] = {key: each for _, key, *each in rows}
    if count > len(found):
        found.pop(OTHER, None)  # a value of that name is one of the others
        for each in found.values():
            rest = [a - b for a, b in zip(rest, each, strict=True)]
    others = totals_of(rest) if count > len(found) else UsageTotals()
    return {key: totals_of(each) for key, each in found.items()}, count - len(found), others


def _parts(query: RollupQuery, used: Sequence[str], also: str = "") -> list[str]:
    """Return the queries of a question's parts; ``also`` is a further condition, with {key}."""
    return [
        f"SELECT {', '.join((f'{key} AS key', *used))} FROM {rows}{also.format(key=key)}"  # noqa: S608 (constants)
        for (key,), rows in query.parts
    ]


def _of_a_time(query: RollupQuery, used: Sequence[str], number: int) -> tuple[dict[str, str], tuple[str, str]]:
    """Return the tables that have all calls of a window's most expensive keys, and the number and sums of all keys.

    Of each key only the sums are made that order the keys.
    """
    sums = ", ".join(f"{query.sums[measure]} AS {measure}" for measure in _ORDERED)
    some = " UNION ALL ".join(_parts(query, [measure for measure in _ORDERED if measure in used]))
    every = " UNION ALL ".join(_parts(query, used))
    tables = {
        "ranked": f"SELECT key, {sums} FROM ({some}) AS came GROUP BY key",  # noqa: S608 (constants)
        "best": f"SELECT key FROM ranked ORDER BY {', '.join(MOST_EXPENSIVE)}, key LIMIT {number}",  # noqa: S608 (constants)
        "calls": " UNION ALL ".join(_parts(query, used, " AND {key} IN (SELECT key FROM best)")),
    }
    # Counting makes it one row, also where nothing is summed.
    return tables, ("0 * count(*) + (SELECT count(*) FROM ranked)", f"({every}) AS whole")


def _of_all_time(
    label: str, parts: Sequence[str], used: Sequence[str], number: int
) -> tuple[dict[str, str], tuple[str, str]]:
    """Return the tables that have all calls of a label's most expensive values, and the number and sums of all values.

    Later calls make no value cheaper. So the most expensive values are among the most expensive before them, and the
    values of the later calls.
    """
    sums, names, order = ", ".join(used), ["best"], ", ".join((*MOST_EXPENSIVE, "value"))
    best = (
        f"SELECT value AS key FROM rollup_ever WHERE number IS NULL AND label = '{label}' "  # noqa: S608 (constants)
        f"ORDER BY {order} LIMIT {number}"
    )
    all_values = f"FROM rollup_ever WHERE {ever('rollup_ever', f'{ALL}{label}')}"
    tables, whole = {"best": best}, [f"SELECT {sums} {all_values}"]
    before, *later = parts
    for part in later:
        names.append("later")
        tables["later"] = part
        whole.append(f"SELECT {sums} FROM later")  # noqa: S608 (constants)
    chosen = " UNION ".join(f"SELECT key FROM {name}" for name in names)  # noqa: S608 (constants)
    calls = [f"{before} AND value IN (SELECT key FROM chosen)", *(f"SELECT * FROM {name}" for name in names[1:])]  # noqa: S608 (constants)
    tables |= {"chosen": chosen, "calls": " UNION ALL ".join(calls)}
    fresh = f"(SELECT count(*) FROM chosen WHERE {is_unknown(label, 'chosen.key')})"  # noqa: S608 (constants)
    # Counting makes it one row, also where nothing is summed.
    return tables, (
        f"0 * count(*) + coalesce((SELECT number {all_values}), 0) + {fresh}",
        f"({' UNION ALL '.join(whole)}) AS whole",
    )
