"""The frozen listing: the files of a drop when it was claimed. It determines the drop's id and what is read later."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

import orjson

from ml.catalog import markers
from ml.catalog.markers import MARKERS, READY
from ml.context import Context
from ml.errors import IntegrityError
from ml.storage.object_store import ObjectInfo, ObjectStore

_MAX_FOLDERS: Final = 64  # that are listed in parallel


@dataclass(frozen=True)
class Listing:
    """Keys are relative to `prefix`; `hint` is the format that the marker names, if any."""

    prefix: str
    files: tuple[ObjectInfo, ...]
    hint: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over prefix, hint and every file's name, size and ETag."""
        rows = [[f.key, f.size, f.etag] for f in self.files]
        return hashlib.sha256(orjson.dumps([self.prefix, self.hint, rows])).hexdigest()

    @cached_property
    def drop_id(self) -> str:
        return f"d-{self.digest[:16]}"


def list_drop(ctx: Context, prefix: str) -> Listing:
    """The current files of a ready drop, without markers.

    Raises:
        NotFoundError: there is no marker.
    """
    return list_prefix(ctx, prefix, markers.hint(ctx.labels.get(prefix + READY)))


def list_prefix(ctx: Context, prefix: str, hint: str | None) -> Listing:
    """As `list_drop`, with or without a marker. Stops after one file more than a drop may have."""
    limit = ctx.settings.max_drop_images + 1
    objects = ((o.key.removeprefix(prefix), o) for o in _objects(ctx.labels, prefix, limit) if not o.key.endswith("/"))
    files = (ObjectInfo(key, o.size, o.etag, None) for key, o in objects if key not in MARKERS)
    return Listing(prefix, tuple(islice(files, limit)), hint)


def _objects(store: ObjectStore, prefix: str, limit: int) -> Iterable[ObjectInfo]:
    """Objects in key order. A few folders are listed in parallel: a page of a thousand keys is slow."""
    max_objects = limit + len(MARKERS)
    top = list(islice(store.list(prefix, recursive=False), max_objects))
    folders = [o.key for o in top if o.key.endswith("/")]
    if len(folders) > _MAX_FOLDERS:
        return store.list(prefix)
    with ThreadPoolExecutor(4) as pool:
        folder_objects = pool.map(lambda folder: list(islice(store.list(folder), max_objects)), folders)
        return sorted([*top, *(o for objects in folder_objects for o in objects)], key=lambda o: o.key)


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
    """The saved listing.

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
