"""Judgements as parquet files: chunks while a judge is at work, and one file a side at the end."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from actors.files import exists, read_file, write_file
from pipelines.benchmark.items import Answer, Judgement, Unreadable

SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("image", pa.int32()),
        ("values", pa.list_(pa.string())),  # per question; null if there is no answer
        ("notes", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float64())),
        ("officially_lost", pa.bool_()),
        ("error", pa.string()),  # why there is no answer; null if there is one
        ("detail", pa.string()),
        ("raw", pa.string()),  # the reply
        ("attempts", pa.int32()),
    ]
)


def to_table(judgements: Sequence[Judgement]) -> pa.Table:
    """The rows of SCHEMA, in order."""
    return pa.Table.from_pylist([_row(each) for each in judgements], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Judgement]:
    """The judgements in a table of SCHEMA, in order."""
    return [_judgement(row) for row in table.to_pylist()]


def write_judgements(location: str, judgements: Sequence[Judgement]) -> None:
    """Writes a parquet file atomically. Equal judgements give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(to_table(judgements), buffer)
    write_file(location, buffer.getvalue())


def read_judgements(location: str) -> list[Judgement] | None:
    """The judgements in a file; None if there is none, or if it cannot be read."""
    if not exists(location):
        return None
    try:
        table = pq.read_table(pa.BufferReader(read_file(location)))
        return from_table(table.cast(SCHEMA))
    except (pa.ArrowException, KeyError, ValueError):
        return None


def _row(judgement: Judgement) -> dict[str, object]:
    row: dict[str, object] = {
        "item": judgement.item,
        "image": judgement.image,
        "raw": judgement.raw,
        "attempts": judgement.attempts,
    }
    if isinstance(judgement, Unreadable):
        return {**row, "error": judgement.why, "detail": judgement.detail, "officially_lost": False}
    return {
        **row,
        "values": list(judgement.values),
        "notes": list(judgement.notes),
        "probabilities": list(judgement.probabilities),
        "officially_lost": judgement.officially_lost,
        "detail": "",
    }


def _judgement(row: dict[str, object]) -> Judgement:
    values: dict[str, object] = {name: row[name] for name in ("item", "image", "raw", "attempts")}
    if row["error"] is not None:
        return Unreadable(**values, why=row["error"], detail=row["detail"] or "")  # pyright: ignore[reportArgumentType]
    return Answer(
        **values,  # pyright: ignore[reportArgumentType]
        values=tuple(row["values"]),  # pyright: ignore[reportArgumentType]
        notes=tuple(row["notes"]),  # pyright: ignore[reportArgumentType]
        probabilities=tuple(row["probabilities"]),  # pyright: ignore[reportArgumentType]
        officially_lost=bool(row["officially_lost"]),
    )
