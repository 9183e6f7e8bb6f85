"""The frozen listing: what a drop held when it became ready. It names the drop and everything read later."""

import hashlib
from collections.abc import Set
from dataclasses import dataclass

import orjson

from ml.context import Context
from ml.errors import IntegrityError
from ml.intake.find import MARKERS
from ml.objects import ObjectInfo


@dataclass(frozen=True)
class Listing:
    """Keys are relative to `prefix`; `hint` is the format that the marker names, if it does."""

    prefix: str
    files: tuple[ObjectInfo, ...]
    hint: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over prefix and every file's name, size and ETag."""
        rows = [[f.key, f.size, f.etag] for f in self.files]
        return hashlib.sha256(orjson.dumps([self.prefix, self.hint, rows])).hexdigest()

    @property
    def drop_id(self) -> str:
        return f"d-{self.digest[:16]}"


def take(ctx: Context, prefix: str, hint: str | None) -> Listing:
    """What the bucket holds below `prefix` now, markers left out."""
    files = (
        ObjectInfo(o.key.removeprefix(prefix), o.size, o.etag, None)
        for o in ctx.labels.list(prefix)
        if not o.key.endswith("/")
    )
    return Listing(prefix, tuple(f for f in files if f.key not in MARKERS), hint)


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
    return _chosen(ctx, drop_id, None)


def read_some(ctx: Context, drop_id: str, keys: Set[str]) -> Listing:
    """As `read`, but of all files only `keys`: a chunk of a large drop needs few of them."""
    return _chosen(ctx, drop_id, keys)


def _chosen(ctx: Context, drop_id: str, keys: Set[str] | None) -> Listing:
    data = ctx.store.get(key(drop_id))
    try:
        body = orjson.loads(data)
        files = tuple(ObjectInfo(k, s, e, None) for k, s, e in body["files"] if keys is None or k in keys)
        return Listing(body["prefix"], files, body["hint"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the listing of drop {drop_id}, {key(drop_id)}, is damaged: {error!r}") from error
