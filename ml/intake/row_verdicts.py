"""What validation found out about each row of a drop, kept for acceptance."""

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
        ("fate", pa.string()),  # the first column, so that a group of rows tells it without being read
        *inspect.SCHEMA,
        ("twin", pa.bool_()),  # a further copy of an image of the same drop
        ("reasons", pa.string()),
    ]
)
_JUDGED_BY: Final = frozenset({"problem", "mode", "sharpness", "entropy", "known", "twin", "fate", "reasons"})
_PAGE = 5000


@dataclass(frozen=True)
class RowVerdicts:
    """What becomes of each row of a drop, held by column: a drop may have very many.

    Attributes:
        table: `inspect.SCHEMA`, with `twin` as in `SCHEMA`.
        fate: ``good``, ``duplicate`` or ``bad``, for each row.
        reasons: of the bad rows, by their place in the table.
    """

    table: pa.Table
    fate: Sequence[RowVerdict]
    reasons: Mapping[int, list[str]]

    def __len__(self) -> int:
        return len(self.fate)

    def count(self, fate: RowVerdict) -> int:
        return sum(f == fate for f in self.fate)

    def rows(self, fate: RowVerdict, *columns: str) -> list[dict[str, Any]]:
        """Some columns of the rows that have this fate; with `reasons`, if they are bad."""
        chosen = [i for i, f in enumerate(self.fate) if f == fate]
        rows: list[dict[str, Any]] = self.table.select(list(columns)).take(pa.array(chosen, pa.int64())).to_pylist()
        if fate == "bad":
            rows = [row | {"reasons": self.reasons[i]} for i, row in zip(chosen, rows, strict=True)]
        return rows


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/validated.parquet"


def save(ctx: Context, drop_id: str, fates: RowVerdicts) -> None:
    """Keep the rows, sorted by fate, so that each fate is read page by page."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA) as writer:
        for fate in ROW_VERDICTS:
            chosen = [i for i, f in enumerate(fates.fate) if f == fate]
            table = fates.table.take(pa.array(chosen, pa.int64()))
            reasons = [orjson.dumps(fates.reasons.get(i, [])).decode() for i in chosen]
            table = table.append_column("reasons", pa.array(reasons, pa.string()))
            table = table.append_column("fate", pa.repeat(fate, len(chosen))).select(SCHEMA.names)
            if fate == "duplicate":
                table = table.sort_by("sha256")
            for start, end in _pages(table["sha256"].to_pylist()):
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    ctx.store.put(key(drop_id), buffer.getvalue())


def _pages(hashes: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """From and to of pages that keep together what follows upon one another with the same bytes."""
    start = 0
    while start < len(hashes):
        end = min(start + _PAGE, len(hashes))
        while end < len(hashes) and hashes[end] == hashes[end - 1] is not None:
            end += 1
        yield start, end
        start = end


class StoredRowVerdicts:
    """The kept rows; memory holds a page of them."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        groups = range(file.metadata.num_row_groups)
        self._fates = [file.metadata.row_group(g).column(0).statistics.min for g in groups]

    def count(self, fate: RowVerdict) -> int:
        return sum(self._file.metadata.row_group(g).num_rows for g in self._groups(fate))

    def columns(self, fate: RowVerdict, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return self._file.read_row_groups(self._groups(fate), columns=list(names))

    def pages(self, fate: RowVerdict) -> Iterator[list[dict[str, Any]]]:
        """Rows as dicts by the names of `SCHEMA`; of good ones without what was measured for validation only."""
        names = [n for n in SCHEMA.names if fate != "good" or n not in _JUDGED_BY]
        for group in self._groups(fate):
            rows = self._file.read_row_group(group, columns=names).to_pylist()
            if fate == "bad":
                for row in rows:
                    row["reasons"] = orjson.loads(row["reasons"])
            yield rows

    def _groups(self, fate: RowVerdict) -> list[int]:
        return [g for g, found in enumerate(self._fates) if found == fate]


@contextmanager
def opened(ctx: Context, drop_id: str) -> Iterator[StoredRowVerdicts]:
    """Raises NotFoundError for a drop that was not validated."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validated.parquet"
        ctx.store.get_file(key(drop_id), path)
        with pq.ParquetFile(path) as file:
            yield StoredRowVerdicts(file)


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
