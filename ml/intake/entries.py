"""A drop's entries, frozen when it is claimed: later changes of its labels file have no effect.

They are stored in pages, one per inspection task, with a head that describes them. The head is written
last, so that entries are either complete or absent.
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
    ("archive", pa.string()),  # position as in `archives.ArchiveMember`; null: the file is an object
    ("offset", pa.int64()),
    ("span", pa.int64()),
]
_SCHEMA: Final = pa.schema(FIELDS)
_MIN_COST: Final = 8192  # bytes that a small image counts as in a page, for the cost of its request


@dataclass(frozen=True)
class Head:
    """Describes the frozen entries.

    Attributes:
        prefix: the drop's folder.
        format: the name of the drop's format.
        problem: why the whole drop cannot be used, if so.
        count: the number of entries.
        pages: the number of pages.
        archives: ETags of the archives that hold images, by key.
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
    """Store the entries; `problem` says why the whole drop cannot be used."""
    drop_id = listing.drop_id
    pages = list(_pages(drop, ctx.settings.inspect_bytes))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ctx.store.put(page_key(drop_id, n), _parquet(drop, pages[n])), range(len(pages))))
    archive_keys = {member.archive for member in drop.archive_members.values()}
    head = Head(
        listing.prefix,
        drop.format,
        problem,
        len(drop.entries),
        len(pages),
        {f.key: f.etag for f in listing.files if f.key in archive_keys},
    )
    ctx.store.put(key(drop_id), orjson.dumps(head), "application/json")


def head(ctx: Context, drop_id: str) -> Head:
    """Read the head.

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
    """The values of a column. Empty columns, about half of those of most drops, skip the slow conversion."""
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_list(column.type) and not len(column.combine_chunks().flatten()):
        return [[] for _ in range(len(column))]
    values: list[Any] = column.to_pylist()
    return values


def _pages(drop: Drop, target_bytes: int) -> Iterator[Sequence[Entry]]:
    """Pages of nearly equal cost, of about `target_bytes` of images each."""
    costs = [max(_MIN_COST, drop.sizes.get(e.key, 0)) for e in drop.entries]
    total = sum(costs)
    if not total:
        return
    page_cost = total / -(-total // target_bytes)
    start, cost_so_far = 0, 0
    for i, cost in enumerate(costs, 1):
        cost_so_far += cost
        if cost_so_far >= page_cost or i == len(costs):
            yield drop.entries[start:i]
            start, cost_so_far = i, 0


def _parquet(drop: Drop, page: Sequence[Entry]) -> bytes:
    members = [drop.archive_members.get(e.key) for e in page]
    columns = {name: [getattr(e, name) for e in page] for name in vars(page[0]) if name not in ("others", "problem")}
    columns["others"] = [[vars(o) for o in e.others] for e in page]
    columns["problem"] = [_problem(e, m, drop) for e, m in zip(page, members, strict=True)]
    columns["size"] = [drop.sizes.get(e.key) for e in page]
    for name in ("archive", "offset", "span"):
        columns[name] = [getattr(m, name) if m else None for m in members]
    buffer = io.BytesIO()
    pq.write_table(pa.table([pa.array(columns[f.name], f.type) for f in _SCHEMA], schema=_SCHEMA), buffer)
    return buffer.getvalue()


def _problem(entry: Entry, member: ArchiveMember | None, drop: Drop) -> str | None:
    if problem := entry.problem or (member.problem if member else None):
        return problem
    return None if entry.key in drop.sizes else "its name is too long, or holds a NUL character"
