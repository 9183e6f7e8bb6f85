"""What validation found out about each row of a drop, kept for acceptance."""

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, any_, bindparam, select

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, samples
from ml.context import Context
from ml.intake import inspect

Fate = Literal["good", "duplicate", "bad"]
FATES: Final[tuple[Fate, ...]] = ("good", "duplicate", "bad")
SCHEMA = pa.schema(
    [
        ("fate", pa.string()),  # the first column, so that a group of rows tells it without being read
        *inspect.SCHEMA,
        ("known", pa.string()),  # the label it has in the catalog, if it is there
        ("twin", pa.bool_()),  # a further copy of an image of the same drop
        ("reasons", pa.string()),
    ]
)
_JUDGED_BY: Final = frozenset({"problem", "mode", "sharpness", "entropy", "known", "twin", "fate", "reasons"})
_PAGE = 5000


@dataclass(frozen=True)
class Judged:
    """Rows of a validated drop, as dicts with `inspect.SCHEMA`'s columns plus `known`, `twin` and `reasons`."""

    good: list[dict[str, Any]]
    duplicates: list[dict[str, Any]]
    bad: list[dict[str, Any]]


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/validated.parquet"


def save(ctx: Context, drop_id: str, judged: Judged) -> None:
    """Keep the rows, sorted by fate, so that each fate is read page by page."""
    buffer = io.BytesIO()
    duplicates = sorted(judged.duplicates, key=lambda row: str(row["sha256"]))
    with pq.ParquetWriter(buffer, SCHEMA) as writer:
        for fate, part in (("good", judged.good), ("duplicate", duplicates), ("bad", judged.bad)):
            for page in _paged(part):
                rows = [{**r, "fate": fate, "reasons": orjson.dumps(r.get("reasons", [])).decode()} for r in page]
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    ctx.store.put(key(drop_id), buffer.getvalue())


def _paged(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Pages that keep together what follows upon one another with the same bytes."""
    start = 0
    while start < len(rows):
        end = min(start + _PAGE, len(rows))
        while end < len(rows) and rows[end]["sha256"] == rows[end - 1]["sha256"] is not None:
            end += 1
        yield rows[start:end]
        start = end


class Verdicts:
    """The kept rows; memory holds a page of them."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        groups = range(file.metadata.num_row_groups)
        self._fates = [file.metadata.row_group(g).column(0).statistics.min for g in groups]

    def count(self, fate: Fate) -> int:
        return sum(self._file.metadata.row_group(g).num_rows for g in self._groups(fate))

    def columns(self, fate: Fate, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return self._file.read_row_groups(self._groups(fate), columns=list(names))

    def pages(self, fate: Fate) -> Iterator[list[dict[str, Any]]]:
        """Rows as dicts by the names of `SCHEMA`; of good ones without what was measured for validation only."""
        names = [n for n in SCHEMA.names if fate != "good" or n not in _JUDGED_BY]
        for group in self._groups(fate):
            rows = self._file.read_row_group(group, columns=names).to_pylist()
            if fate == "bad":
                for row in rows:
                    row["reasons"] = orjson.loads(row["reasons"])
            yield rows

    def _groups(self, fate: Fate) -> list[int]:
        return [g for g, found in enumerate(self._fates) if found == fate]


@contextmanager
def opened(ctx: Context, drop_id: str) -> Iterator[Verdicts]:
    """Raises NotFoundError for a drop that was not validated."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validated.parquet"
        ctx.store.get_file(key(drop_id), path)
        with pq.ParquetFile(path) as file:
            yield Verdicts(file)


def known_labels(engine: Engine, hashes: Sequence[str]) -> dict[str, str]:
    """The current label of every sample among `hashes`; the cost follows the drop, not the store."""
    found: dict[str, str] = {}
    with transaction(engine) as connection:
        for start in range(0, len(hashes), _PAGE):
            page = list(hashes[start : start + _PAGE])
            asked = select(samples.c.sha256, samples.c.label).where(samples.c.sha256 == any_(bindparam("page")))
            rows = connection.execute(asked, {"page": page})
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
