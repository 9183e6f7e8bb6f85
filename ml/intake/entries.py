"""A drop's entries, frozen when it was claimed: a table that changes later changes nothing.

They are kept in pages, one for each task that inspects, and a head that says what there is; the head
comes last, so that either everything is there or nothing counts.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ml.context import Context
from ml.errors import IntegrityError
from ml.intake.archives import ArchiveMember
from ml.intake.formats import Entry
from ml.intake.listing import Listing
from ml.intake.reading import Drop

ANNOTATION = [
    ("label", pa.string()),
    ("annotator", pa.string()),
    ("confidence", pa.float64()),
    ("labelled_at", pa.timestamp("us", tz="UTC")),
]
FIELDS = [
    ("key", pa.string()),
    ("label", pa.string()),
    ("annotator", pa.string()),
    ("confidence", pa.float64()),
    ("labelled_at", pa.timestamp("us", tz="UTC")),
    ("problem", pa.string()),
    ("others", pa.list_(pa.struct(ANNOTATION))),
    ("subject", pa.string()),
    ("size", pa.int64()),  # null: the drop has no such file
    ("archive", pa.string()),  # and where in it, see `archives.ArchiveMember`; null: an object of its own
    ("offset", pa.int64()),
    ("span", pa.int64()),
]
_SCHEMA: Final = pa.schema(FIELDS)
_LEAST: Final = 8192  # bytes a small image counts as in a page: that much it costs to ask for it


@dataclass(frozen=True)
class Head:
    """Of the frozen entries.

    Attributes:
        prefix: the drop's folder.
        format: the name of the format it was read as.
        problem: why the drop cannot be used at all, if it cannot.
        count: entries.
        pages: how many pages they are on.
        archives: ETags of the archives that images are in, by key.
    """

    prefix: str
    format: str
    problem: str | None
    count: int
    pages: int
    archives: Mapping[str, str]


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/entries.json"


def page_key(drop_id: str, page: int) -> str:
    return f"drops/{drop_id}/entries/{page:06}.parquet"


def save(ctx: Context, listing: Listing, drop: Drop, problem: str | None = None) -> None:
    """Keep the entries; `problem` says why the drop cannot be used at all."""
    drop_id = listing.drop_id
    pages = list(_pages(drop, ctx.settings.inspect_bytes))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ctx.store.put(page_key(drop_id, n), _parquet(drop, pages[n])), range(len(pages))))
    inside = {place.archive for place in drop.places.values()}
    head = Head(
        listing.prefix,
        drop.format,
        problem,
        len(drop.entries),
        len(pages),
        {f.key: f.etag for f in listing.files if f.key in inside},
    )
    ctx.store.put(key(drop_id), orjson.dumps(head), "application/json")


def head(ctx: Context, drop_id: str) -> Head:
    """What there is.

    Raises:
        NotFoundError: the drop was never claimed.
        IntegrityError: the object is damaged.
    """
    data = ctx.store.get(key(drop_id))
    try:
        return Head(**orjson.loads(data))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"the entries of drop {drop_id}, {key(drop_id)}, are damaged: {error!r}") from error


def read(ctx: Context, drop_id: str, page: int) -> list[dict[str, Any]]:
    """The entries of a page, by the names of `FIELDS`.

    Raises:
        NotFoundError: there is no such page.
        IntegrityError: the object is damaged.
    """
    data = ctx.store.get(page_key(drop_id, page))
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()  # `read_table` imports a library for whole folders first
        columns = [_values(table[name]) for name in table.column_names]
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"entries of drop {drop_id}, {page_key(drop_id, page)}, are damaged: {error}") from error
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """Of a column; most drops say nothing in half of them, and nothing takes as long to convert as something."""
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_list(column.type) and not len(column.combine_chunks().flatten()):
        return [[] for _ in range(len(column))]
    values: list[Any] = column.to_pylist()
    return values


def _pages(drop: Drop, most: int) -> Iterator[Sequence[Entry]]:
    """Pages of nearly equal cost, of about `most` bytes of images each."""
    costs = [max(_LEAST, drop.sizes.get(e.key, 0)) for e in drop.entries]
    total = sum(costs)
    if not total:
        return
    share = total / -(-total // most)
    start, spent = 0, 0
    for i, cost in enumerate(costs, 1):
        spent += cost
        if spent >= share or i == len(costs):
            yield drop.entries[start:i]
            start, spent = i, 0


def _parquet(drop: Drop, page: Sequence[Entry]) -> bytes:
    placed = [drop.places.get(e.key) for e in page]
    columns = {name: [getattr(e, name) for e in page] for name in vars(page[0]) if name not in ("others", "problem")}
    columns["others"] = [[vars(o) for o in e.others] for e in page]
    columns["problem"] = [_problem(e, p, drop) for e, p in zip(page, placed, strict=True)]
    columns["size"] = [drop.sizes.get(e.key) for e in page]
    for name in ("archive", "offset", "span"):
        columns[name] = [getattr(p, name) if p else None for p in placed]
    buffer = io.BytesIO()
    pq.write_table(pa.table([pa.array(columns[f.name], f.type) for f in _SCHEMA], schema=_SCHEMA), buffer)
    return buffer.getvalue()


def _problem(entry: Entry, place: ArchiveMember | None, drop: Drop) -> str | None:
    if problem := entry.problem or (place.problem if place else None):
        return problem
    return None if entry.key in drop.sizes else "its name is too long, or holds a NUL character"
