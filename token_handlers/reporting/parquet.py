"""Calls as a Parquet file, by pyarrow: a row a call, with the columns of `export --csv`."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from token_handlers.counter.tables import money
from token_handlers.errors import MissingDependency
from token_handlers.sinks.escapes import escaped
from token_handlers.usage import CostPart, Usage, UsageRecord

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = tuple(Usage.model_fields)

ROWS = 10_000
"""How many calls are in memory at once."""


def write_parquet(records: Iterable[UsageRecord], columns: Sequence[str], path: Path) -> int:
    """Write calls in one step, and return how many; raises MissingDependency and OSError.

    Times are timestamps in UTC, money is decimals of USD with 18 digits behind the point, counts are integers and null
    where they were not reported, tags are a map, doubts a list, and the parts of a cost a list of structures, in which
    amounts are texts, as a rate may have any number of digits.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingDependency("pyarrow", "parquet") from None
    schema = _schema(columns)
    number = 0
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            with parquet.ParquetWriter(file, schema) as writer:
                for rows in _batches(records):
                    writer.write_table(pa.Table.from_pylist([_row(record, columns) for record in rows], schema))
                    number += len(rows)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    return number


def _schema(columns: Sequence[str]) -> "pa.Schema":
    import pyarrow as pa

    kinds = {
        **dict.fromkeys(columns, pa.string()),
        **dict.fromkeys(_fields_of(datetime), pa.timestamp("us", "UTC")),
        **dict.fromkeys(_fields_of(Decimal), pa.decimal128(38, 18)),
        **dict.fromkeys((*COUNTS, *_fields_of(int)), pa.int64()),
        "tags": pa.map_(pa.string(), pa.string()),
        "doubts": pa.list_(pa.string()),
        "cost_breakdown": pa.list_(pa.struct([(name, _part_kind(name)) for name in CostPart._fields])),
    }
    return pa.schema([(name, kinds[name]) for name in columns])


def _fields_of(kind: type) -> list[str]:
    """Return the fields of a record that are of a type, or may be None beside it."""
    fields = UsageRecord.model_fields.items()
    return [name for name, field in fields if kind in (field.annotation, *get_args(field.annotation))]


def _part_kind(name: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.int64() if name in ("number", "per") else pa.string()


def _batches(records: Iterable[UsageRecord]) -> Iterator[list[UsageRecord]]:
    left = iter(records)
    while rows := list(islice(left, ROWS)):
        yield rows


def _row(record: UsageRecord, columns: Sequence[str]) -> dict[str, object]:
    values = {name: _plain(value) for name, value in record.__dict__.items() if name in columns}
    reported = record.usage.model_fields_set
    values.update((name, count if name in reported else None) for name, count in record.usage.__dict__.items())
    values["tags"] = [(escaped(name), escaped(value)) for name, value in record.tags.items()]
    values["doubts"] = [escaped(doubt) for doubt in record.doubts]
    values["cost_breakdown"] = [
        {name: money(value) if isinstance(value, Decimal) else _plain(value) for name, value in part._asdict().items()}
        for part in record.cost_breakdown
    ]
    return values


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return escaped(value) if isinstance(value, str) else value
