"""What validation found out about each row of a drop, kept for acceptance."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Engine, select

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


@dataclass(frozen=True)
class Fates:
    """What becomes of each row of a drop, held by column: a drop may have very many.

    Attributes:
        format: the drop's.
        table: `inspect.SCHEMA`, and `known`: the label that a row's bytes are stored with.
        fate: ``good``, ``duplicate`` or ``bad``, for each row.
        reasons: of the bad rows, by their place in the table.
    """

    format: str
    table: pa.Table
    fate: Sequence[str]
    reasons: Mapping[int, list[str]]

    def __len__(self) -> int:
        return len(self.fate)

    def count(self, fate: str) -> int:
        return sum(f == fate for f in self.fate)

    def rows(self, fate: str, *columns: str) -> list[dict[str, Any]]:
        """Some columns of the rows that have this fate; with `reasons`, if they are bad."""
        chosen = [i for i, f in enumerate(self.fate) if f == fate]
        rows: list[dict[str, Any]] = self.table.select(list(columns)).take(pa.array(chosen, pa.int64())).to_pylist()
        if fate == "bad":
            rows = [row | {"reasons": self.reasons[i]} for i, row in zip(chosen, rows, strict=True)]
        return rows


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/validated.parquet"


def save(ctx: Context, drop_id: str, fates: Fates) -> None:
    reasons = [orjson.dumps(fates.reasons.get(i, [])).decode() for i in range(len(fates.fate))]
    table = fates.table.append_column("reasons", pa.array(reasons, pa.string()))
    table = table.append_column("fate", pa.array(fates.fate, pa.string()))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"format": fates.format}), buffer)
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


def known_classes(connection: Connection) -> set[str]:
    """The classes of the newest dataset version; empty before the first."""
    newest = select(dataset_versions.c.classes).order_by(dataset_versions.c.number.desc()).limit(1)
    return set(connection.execute(newest).scalar() or ())


def conflicts(keys: Sequence[str], labels: Sequence[str | None], hashes: Sequence[str | None]) -> list[str | None]:
    """Words for each row whose bytes bear another label in the same drop: all of them are put aside.

    Another label than a stored sample has is no fault: it is one more annotation, see `ml.datasets.labels`.
    """
    first: dict[str, str] = {}
    told = [(label, digest) for label, digest in zip(labels, hashes, strict=True) if label and digest]
    contested = {digest for label, digest in told if first.setdefault(digest, label) != label}
    if not contested:
        return [None] * len(keys)
    same: dict[str, list[int]] = {}
    for i, digest in enumerate(hashes):
        if digest in contested and labels[i]:
            same.setdefault(digest, []).append(i)
    words: list[str | None] = [None] * len(keys)
    for rows in same.values():
        for i in rows:
            if (other := next((o for o in rows if labels[o] != labels[i]), None)) is not None:
                words[i] = f"the same image is labelled {labels[i]} here and {labels[other]} in {keys[other]}"
    return words
