"""The drop's entries, read from its format once and frozen: a table that changes later changes nothing."""

import io
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.context import Context
from ml.errors import ConflictError, InvalidInputError
from ml.intake import formats
from ml.intake.formats import Annotation, Entry
from ml.intake.listing import Listing

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
]
_KEY_BYTES = 1024  # S3's limit; only the name of a file that does not exist can be longer


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/entries.parquet"


def take(ctx: Context, listing: Listing) -> tuple[str, list[Entry]]:
    """Read the drop: the format's name, and what it says.

    Raises:
        InvalidInputError: no format fits, or its table cannot be read.
        NotFoundError: the table was removed meanwhile.
        ConflictError: the table was replaced meanwhile; list the drop again.
    """
    get = cache(_reader(ctx, listing))  # several formats may look into the same file
    name = formats.detect(listing, get)
    found: list[Entry] = formats.read(name, listing, get)
    return name, list({e.key: e for e in map(_storable, reversed(found))}.values())[::-1]


def save(ctx: Context, drop_id: str, format_name: str, entries: Sequence[Entry], problem: str | None = None) -> None:
    """Keep the entries; `problem` says why the drop cannot be used at all."""
    buffer = io.BytesIO()
    schema = pa.schema(FIELDS, {"format": format_name} | ({"problem": problem} if problem else {}))
    columns = [[getattr(e, name) for e in entries] for name in schema.names if name != "others"]
    columns.insert(schema.names.index("others"), [[vars(o) for o in e.others] for e in entries])
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer)
    ctx.store.put(key(drop_id), buffer.getvalue())


def count(ctx: Context, drop_id: str) -> int:
    rows: int = _metadata(ctx, drop_id).num_rows
    return rows


def problem(ctx: Context, drop_id: str) -> str | None:
    """Why the drop cannot be used at all, if it cannot."""
    words: bytes | None = (_metadata(ctx, drop_id).metadata or {}).get(b"problem")
    return words.decode() if words else None


def format_of(ctx: Context, drop_id: str) -> str:
    """The name of the format that the drop was read as."""
    name: bytes = _metadata(ctx, drop_id).metadata[b"format"]
    return name.decode()


def _metadata(ctx: Context, drop_id: str) -> Any:
    return pq.read_metadata(io.BytesIO(ctx.store.get(key(drop_id))))


def read(ctx: Context, drop_id: str, start: int = 0, length: float = math.inf) -> list[Entry]:
    """The frozen entries, or `length` of them from `start`.

    Raises:
        NotFoundError: the drop was never claimed.
    """
    table = pq.read_table(io.BytesIO(ctx.store.get(key(drop_id))))
    rows: Iterable[dict[str, Any]] = table.slice(start, int(min(length, table.num_rows))).to_pylist()
    return [_entry(row) for row in rows]


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "others": tuple(Annotation(**other) for other in row["others"] or ())})


def _reader(ctx: Context, listing: Listing) -> Callable[[str], bytes]:
    etags = {f.key: f.etag for f in listing.files}

    def get(name: str) -> bytes:
        if name not in etags:
            raise InvalidInputError(f"the drop has no `{name}`, which its format needs")
        data = ctx.labels.get(listing.prefix + name)
        if ctx.labels.info(listing.prefix + name).etag != etags[name]:
            raise ConflictError(f"`{listing.prefix}{name}` was replaced while the drop was claimed; it is tried again")
        return data

    return get


def _storable(entry: Entry) -> Entry:
    """The entry in a form that Postgres, Parquet and S3 can all hold; classes spelt alike on every system."""
    name = entry.key.replace("\0", "\ufffd").encode()[:_KEY_BYTES].decode(errors="ignore")
    kept = replace(
        entry,
        key=name,
        annotator=_clean(entry.annotator),
        subject=_clean(entry.subject),
        others=tuple(
            replace(o, label=unicodedata.normalize("NFC", o.label), annotator=_clean(o.annotator))
            for o in entry.others
            if "\0" not in o.label
        ),
    )
    if entry.label is None or "\0" not in entry.label:
        return replace(kept, label=unicodedata.normalize("NFC", entry.label) if entry.label else None)
    return replace(kept, label=None, problem=entry.problem or "the label holds a NUL character")


def _clean(text: str | None) -> str | None:
    return text.replace("\0", "\ufffd") if text else None
