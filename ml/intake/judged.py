"""What validation found out about each row of a drop, kept for acceptance."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, select

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, samples
from ml.context import Context

_PAGE = 5000


@dataclass(frozen=True)
class Judged:
    """Rows of a validated drop, as dicts with `inspect.SCHEMA`'s columns plus `reasons`."""

    format: str
    good: list[dict[str, Any]]
    duplicates: list[dict[str, Any]]
    bad: list[dict[str, Any]]


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/validated.parquet"


def save(ctx: Context, drop_id: str, judged: Judged) -> None:
    rows = [
        {**row, "fate": fate, "reasons": orjson.dumps(row.get("reasons", [])).decode()}
        for fate, part in (("good", judged.good), ("duplicate", judged.duplicates), ("bad", judged.bad))
        for row in part
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"format": judged.format}), buffer)
    ctx.store.put(key(drop_id), buffer.getvalue())


def read(ctx: Context, drop_id: str) -> Judged:
    """Raises NotFoundError for a drop that was not validated."""
    table = pq.read_table(io.BytesIO(ctx.store.get(key(drop_id))))
    parts: dict[str, list[dict[str, Any]]] = {"good": [], "duplicate": [], "bad": []}
    for row in table.to_pylist():
        row["reasons"] = orjson.loads(row["reasons"])
        parts[row.pop("fate")].append(row)
    return Judged(table.schema.metadata[b"format"].decode(), parts["good"], parts["duplicate"], parts["bad"])


def known_labels(engine: Engine, hashes: Sequence[str]) -> dict[str, str]:
    """The current label of every sample among `hashes`; the cost follows the drop, not the store."""
    found: dict[str, str] = {}
    with transaction(engine) as connection:
        for start in range(0, len(hashes), _PAGE):
            page = list(hashes[start : start + _PAGE])
            rows = connection.execute(select(samples.c.sha256, samples.c.label).where(samples.c.sha256.in_(page)))
            found.update(dict(rows.all()))
    return found


def known_classes(engine: Engine) -> set[str]:
    """The classes of the newest dataset version; empty before the first."""
    with transaction(engine) as connection:
        newest = select(dataset_versions.c.classes).order_by(dataset_versions.c.number.desc()).limit(1)
        return set(connection.execute(newest).scalar() or ())


def conflicts(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Row key → words, for rows whose bytes bear another label in the same drop: all of them are put aside.

    Another label than a stored sample has is no fault: it is one more annotation, see `ml.datasets.labels`.
    """
    by_hash: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["sha256"] and row["label"]:
            by_hash.setdefault(row["sha256"], []).append(row)
    words: dict[str, str] = {}
    for same in by_hash.values():
        for row in same:
            if other := next((o for o in same if o["label"] != row["label"]), None):
                words[row["key"]] = (
                    f"the same image is labelled {row['label']} here and {other['label']} in {other['key']}"
                )
    return words
