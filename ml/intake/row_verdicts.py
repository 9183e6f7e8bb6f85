"""The verdict of validation on each row of a drop, stored for acceptance."""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ml.context import Context
from ml.intake import inspect

RowVerdict = Literal["good", "duplicate", "bad"]
ROW_VERDICTS: Final[tuple[RowVerdict, ...]] = ("good", "duplicate", "bad")
SCHEMA = pa.schema(
    [
        ("fate", pa.string()),  # first, so that it can be read from the statistics of a row group
        *inspect.SCHEMA,
        ("twin", pa.bool_()),  # a duplicate of an earlier image of the same drop
        ("reasons", pa.string()),
    ]
)
_VALIDATION_ONLY: Final = frozenset({"problem", "mode", "sharpness", "entropy", "known", "twin", "fate", "reasons"})
_PAGE_ROWS = 5000


@dataclass(frozen=True)
class RowVerdicts:
    """The verdicts on all rows of a drop, as columns: a drop may have very many rows.

    Attributes:
        table: `inspect.SCHEMA`, with `twin` as in `SCHEMA`.
        verdicts: ``good``, ``duplicate`` or ``bad``, for each row.
        reasons: of the bad rows, by index.
    """

    table: pa.Table
    verdicts: Sequence[RowVerdict]
    reasons: Mapping[int, list[str]]

    def __len__(self) -> int:
        return len(self.verdicts)

    def count(self, verdict: RowVerdict) -> int:
        return sum(v == verdict for v in self.verdicts)

    def rows(self, verdict: RowVerdict, *columns: str) -> list[dict[str, Any]]:
        """Some columns of the rows with this verdict; for bad rows also `reasons`."""
        rows: list[dict[str, Any]] = self.columns(verdict, columns).to_pylist()
        if verdict == "bad":
            rows = [row | {"reasons": self.reasons[i]} for i, row in zip(self._indices(verdict), rows, strict=True)]
        return rows

    def columns(self, verdict: RowVerdict, names: Sequence[str]) -> pa.Table:
        """Some columns of the rows with this verdict."""
        return self.table.select(list(names)).take(pa.array(self._indices(verdict), pa.int64()))

    def _indices(self, verdict: RowVerdict) -> list[int]:
        return [i for i, v in enumerate(self.verdicts) if v == verdict]


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/validated.parquet"


def save(ctx: Context, drop_id: str, rows: RowVerdicts) -> None:
    """Store the rows, sorted by verdict, so that those of one verdict can be read page by page."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA) as writer:
        for verdict in ROW_VERDICTS:
            indices = [i for i, v in enumerate(rows.verdicts) if v == verdict]
            table = rows.table.take(pa.array(indices, pa.int64()))
            reasons = [orjson.dumps(rows.reasons.get(i, [])).decode() for i in indices]
            table = table.append_column("reasons", pa.array(reasons, pa.string()))
            table = table.append_column("fate", pa.repeat(verdict, len(indices))).select(SCHEMA.names)
            if verdict == "duplicate":
                table = table.sort_by("sha256")
            for start, end in _pages(table["sha256"].to_pylist()):
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    ctx.store.put(key(drop_id), buffer.getvalue())


def _pages(hashes: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Start and end of pages; consecutive rows with the same bytes stay on one page."""
    start = 0
    while start < len(hashes):
        end = min(start + _PAGE_ROWS, len(hashes))
        while end < len(hashes) and hashes[end] == hashes[end - 1] is not None:
            end += 1
        yield start, end
        start = end


def turn_bad(ctx: Context, drop_id: str, reasons: Mapping[str, str]) -> None:
    """Turn stored good rows bad, with a reason by key; rows that are bad already keep theirs.

    Raises:
        NotFoundError: the drop was not validated.
    """
    table = pq.ParquetFile(io.BytesIO(ctx.store.get(key(drop_id)))).read()
    keys, verdicts = table["key"].to_pylist(), table["fate"].to_pylist()
    stored = (orjson.loads(text) for text in table["reasons"].to_pylist())
    reasons_by_row = {i: row_reasons for i, row_reasons in enumerate(stored) if row_reasons}
    for i, row_key in enumerate(keys):
        if verdicts[i] == "good" and row_key in reasons:
            verdicts[i] = "bad"
            reasons_by_row[i] = [reasons[row_key]]
    save(ctx, drop_id, RowVerdicts(table.drop_columns(["fate", "reasons"]), verdicts, reasons_by_row))


class StoredRowVerdicts:
    """The stored rows; memory holds one page of them."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        groups = range(file.metadata.num_row_groups)
        self._verdict_by_group = [file.metadata.row_group(g).column(0).statistics.min for g in groups]

    def count(self, verdict: RowVerdict) -> int:
        return sum(self._file.metadata.row_group(g).num_rows for g in self._groups(verdict))

    def columns(self, verdict: RowVerdict, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows with this verdict."""
        return self._file.read_row_groups(self._groups(verdict), columns=list(names))

    def column_pages(self, verdict: RowVerdict, names: Sequence[str]) -> Iterator[pa.Table]:
        """As `columns`, page by page."""
        for group in self._groups(verdict):
            yield self._file.read_row_group(group, columns=list(names))

    def pages(self, verdict: RowVerdict) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows as dicts by the names of `SCHEMA`; good rows lack the columns that only validation uses."""
        names = [n for n in SCHEMA.names if verdict != "good" or n not in _VALIDATION_ONLY]
        for group in self._groups(verdict):
            rows = self._file.read_row_group(group, columns=names).to_pylist()
            if verdict == "bad":
                for row in rows:
                    row["reasons"] = orjson.loads(row["reasons"])
            yield rows

    def _groups(self, verdict: RowVerdict) -> list[int]:
        return [g for g, v in enumerate(self._verdict_by_group) if v == verdict]


@contextmanager
def open_stored(ctx: Context, drop_id: str) -> Iterator[StoredRowVerdicts]:
    """Open the stored rows; raises NotFoundError if the drop was not validated."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validated.parquet"
        ctx.store.get_file(key(drop_id), path)
        with pq.ParquetFile(path) as file:
            yield StoredRowVerdicts(file)


def conflicts(keys: Sequence[str], labels: Sequence[str | None], hashes: Sequence[str | None]) -> list[str | None]:
    """A reason for each row whose bytes have another label elsewhere in the same drop, which quarantines all of them.

    A label that differs from that of a stored sample is not an error but a further annotation, see
    `ml.datasets.labels`.
    """
    first: dict[str, str] = {}
    labelled = [(label, digest) for label, digest in zip(labels, hashes, strict=True) if label and digest]
    contested = {digest for label, digest in labelled if first.setdefault(digest, label) != label}
    if not contested:
        return [None] * len(keys)
    rows_by_digest: dict[str, list[int]] = {}
    for i, digest in enumerate(hashes):
        if digest in contested and labels[i]:
            rows_by_digest.setdefault(digest, []).append(i)
    reasons: list[str | None] = [None] * len(keys)
    for rows in rows_by_digest.values():
        for i in rows:
            if (other := next((o for o in rows if labels[o] != labels[i]), None)) is not None:
                reasons[i] = f"the same image is labelled {labels[i]} here and {labels[other]} in {keys[other]}"
    return reasons
