"""Dataset versions: immutable manifests identified by the SHA-256 of their bytes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, RowMapping, select, text
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions
from ml.context import Context
from ml.errors import ConflictError, IntegrityError, NotFoundError
from ml.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Manifest:
    """The content of a version.

    Attributes:
        segments: segment ids, in order of creation.
        relabels: SHA-256 to the label that replaces the one in the segment.
        removals: SHA-256 of samples in the segments that are excluded from the version.
        classes: every class of the version, as returned by `label_of`.
        class_map: renamed or merged classes to their current name.
    """

    segments: tuple[str, ...]
    relabels: Mapping[str, str]
    removals: tuple[str, ...]
    classes: tuple[str, ...]
    class_map: Mapping[str, str] = field(default_factory=dict)

    def label_of(self, sha256: str, stored: str) -> str:
        """The label in this version of a sample whose segment has the label `stored`."""
        label = self.relabels.get(sha256, stored)
        return self.class_map.get(label, label)

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal content gives equal bytes."""
        body = {
            "format": 2,
            "segments": list(self.segments),
            "relabels": dict(self.relabels),
            "removals": sorted(self.removals),
            "classes": sorted(self.classes),
            "class_map": dict(self.class_map),
        }
        return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        body = orjson.loads(data)
        return cls(
            tuple(body["segments"]),
            body["relabels"],
            tuple(body["removals"]),
            tuple(body["classes"]),
            body.get("class_map", {}),  # format 1 has none
        )


EMPTY = Manifest((), {}, (), ())


@dataclass(frozen=True)
class DatasetVersion:
    """A row of `dataset_versions`: lineage and sample counts."""

    id: str
    number: int
    parent_id: str | None
    classes: tuple[str, ...]
    train: int
    validation: int
    holdout: int
    cause: str


def key(version_id: str) -> str:
    return f"versions/{version_id}.json"


def latest(ctx: Context) -> DatasetVersion | None:
    """The newest version, or None before the first accepted drop."""
    with transaction(ctx.engine) as connection:
        return newest(connection)


def newest(connection: Connection) -> DatasetVersion | None:
    query = select(dataset_versions).order_by(dataset_versions.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return _version(row) if row else None


def get(ctx: Context, version_id: str) -> DatasetVersion:
    """Return the version with this id or unique id prefix.

    Raises:
        NotFoundError: no version matches, or several do.
    """
    with transaction(ctx.engine) as connection:
        query = select(dataset_versions).where(dataset_versions.c.id.startswith(version_id, autoescape=True)).limit(2)
        rows = connection.execute(query).mappings().all()
    if len(rows) != 1:
        matches = "no dataset version has" if not rows else "several dataset versions have"
        raise NotFoundError(f"{matches} an id that begins with `{version_id}`")
    return _version(rows[0])


def manifest(ctx: Context, version_id: str) -> Manifest:
    """The version's manifest; each is read and verified once a process, since its content never changes.

    Raises:
        IntegrityError: the stored bytes do not match the id.
        NotFoundError: there is no such version.
    """
    return _cached_manifest(ctx.store, version_id)  # type: ignore[arg-type]  # a store is hashed by its identity


def read_manifest(store: ObjectStore, version_id: str) -> Manifest:
    """As `manifest`, always from the store."""
    data = store.get(key(version_id))
    actual = hashlib.sha256(data).hexdigest()
    if actual != version_id:
        raise IntegrityError(f"{key(version_id)} has SHA-256 {actual}: damaged or replaced")
    return Manifest.parse(data)


_cached_manifest = lru_cache(maxsize=16)(read_manifest)


def check_newest(connection: Connection, parent: DatasetVersion | None) -> None:
    """Lock out other versions until the transaction ends, and check that `parent` is still the newest.

    Raises:
        ConflictError: it is not; a version derived from it would lose the changes of the newest one.
    """
    connection.execute(text("lock table dataset_versions in share row exclusive mode"))
    latest_version = newest(connection)
    if (latest_version and latest_version.id) != (parent and parent.id):
        newest_id = latest_version.id[:12] if latest_version else None
        raise ConflictError(f"dataset version {newest_id} was created meanwhile; retry")


def counts(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Number of samples per split."""
    return Counter(row["split"] for row in rows)


def insert_version(
    connection: Connection, manifest: Manifest, parent: DatasetVersion | None, added: Counter[str], cause: str
) -> None:
    """Insert the row of a version that adds `added` samples to `parent`, within the caller's transaction."""
    values = {
        "id": manifest.id,
        "parent_id": parent.id if parent else None,
        "manifest_key": key(manifest.id),
        "classes": list(manifest.classes),
        "cause": cause,
        **{
            split: added[split] + (getattr(parent, split) if parent else 0)
            for split in ("train", "validation", "holdout")
        },
    }
    next_number = text("nextval(pg_get_serial_sequence('dataset_versions', 'number'))")
    # Changing a label back yields the manifest of an earlier version, which becomes the newest again.
    statement = (
        insert(dataset_versions)
        .values(values)
        .on_conflict_do_update(index_elements=["id"], set_={"number": next_number, "cause": cause})
    )
    connection.execute(statement)


def all_versions(engine: Engine, limit: int = 50) -> list[DatasetVersion]:
    """The newest first."""
    with transaction(engine) as connection:
        rows = connection.execute(select(dataset_versions).order_by(dataset_versions.c.number.desc()).limit(limit))
        return [_version(row) for row in rows.mappings()]


def _version(row: RowMapping) -> DatasetVersion:
    return DatasetVersion(
        row["id"],
        row["number"],
        row["parent_id"],
        tuple(row["classes"]),
        row["train"],
        row["validation"],
        row["holdout"],
        row["cause"],
    )
