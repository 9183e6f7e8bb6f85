"""The frozen listing: what a drop held when it became ready. It names the drop and everything read later."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

import orjson

from ml.context import Context
from ml.errors import IntegrityError
from ml.intake.find import MARKERS, READY
from ml.storage.object_store import ObjectInfo, ObjectStore

_FOLDERS: Final = 64


@dataclass(frozen=True)
class Listing:
    """Keys are relative to `prefix`; `hint` is the format that the marker names, if it does."""

    prefix: str
    files: tuple[ObjectInfo, ...]
    hint: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over prefix and every file's name, size and ETag."""
        rows = [[f.key, f.size, f.etag] for f in self.files]
        return hashlib.sha256(orjson.dumps([self.prefix, self.hint, rows])).hexdigest()

    @cached_property
    def drop_id(self) -> str:
        return f"d-{self.digest[:16]}"


def take(ctx: Context, prefix: str) -> Listing:
    """What the bucket holds below `prefix` now, markers left out.

    Raises:
        NotFoundError: there is no marker.
    """
    return of(ctx, prefix, _hint(ctx.labels.get(prefix + READY)))


def of(ctx: Context, prefix: str, hint: str | None) -> Listing:
    """As `take`, whether there is a marker or not. Of too large a drop, as many files as show that it is."""
    most = ctx.settings.max_drop_images + 1
    found = ((o.key.removeprefix(prefix), o) for o in _objects(ctx.labels, prefix, most) if not o.key.endswith("/"))
    files = (ObjectInfo(key, o.size, o.etag, None) for key, o in found if key not in MARKERS)
    return Listing(prefix, tuple(islice(files, most)), hint)


def _objects(store: ObjectStore, prefix: str, most: int) -> Iterable[ObjectInfo]:
    """In key order. A few folders are listed side by side: an answer of a thousand keys takes its time."""
    enough = most + len(MARKERS)
    top = list(islice(store.list(prefix, recursive=False), enough))
    folders = [o.key for o in top if o.key.endswith("/")]
    if len(folders) > _FOLDERS:
        return store.list(prefix)
    with ThreadPoolExecutor(4) as pool:
        inside = pool.map(lambda folder: list(islice(store.list(folder), enough)), folders)
        return sorted([*top, *(o for part in inside for o in part)], key=lambda o: o.key)


def _hint(marker: bytes) -> str | None:
    """The format that the marker names; anything else in it is nobody's business."""
    if not marker.strip():
        return None
    try:
        body = orjson.loads(marker)
    except orjson.JSONDecodeError:
        return None
    named = body.get("format") if isinstance(body, dict) else None
    return str(named) if named is not None else None


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/listing.json"


def save(ctx: Context, listing: Listing) -> None:
    body = {
        "prefix": listing.prefix,
        "hint": listing.hint,
        "files": [[f.key, f.size, f.etag] for f in listing.files],
    }
    ctx.store.put(key(listing.drop_id), orjson.dumps(body), "application/json")


def read(ctx: Context, drop_id: str) -> Listing:
    """The listing that was saved.

    Raises:
        NotFoundError: the drop was never claimed.
        IntegrityError: the object is damaged.
    """
    data = ctx.store.get(key(drop_id))
    try:
        body = orjson.loads(data)
        return Listing(body["prefix"], tuple(ObjectInfo(k, s, e, None) for k, s, e in body["files"]), body["hint"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the listing of drop {drop_id}, {key(drop_id)}, is damaged: {error!r}") from error
