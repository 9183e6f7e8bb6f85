"""Dataset versions: immutable manifests named by the SHA-256 of their bytes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, RowMapping, select, text
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions
from ml.context import Context
from ml.errors import ConflictError, IntegrityError, NotFoundError


@dataclass(frozen=True)
class Manifest:
    """What a version consists of.

    Attributes:
        segments: their ids, in the order in which they came.
        relabels: SHA-256 to the label that replaces the segment's.
        removals: SHA-256 of samples that are no part of the version.
        classes: every class of the version, as `label_of` gives them.
        class_map: classes that were renamed or merged, to what they are called now.
    """

    segments: tuple[str, ...]
    relabels: Mapping[str, str]
    removals: tuple[str, ...]
    classes: tuple[str, ...]
    class_map: Mapping[str, str] = field(default_factory=dict)

    def label_of(self, sha256: str, stored: str) -> str:
        """The label that a sample, stored in its segment as `stored`, has in this version."""
        label = self.relabels.get(sha256, stored)
        return self.class_map.get(label, label)

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same content gives the same bytes."""
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
            body.get("class_map", {}),  # format 1 had none
        )


EMPTY = Manifest((), {}, (), ())


@dataclass(frozen=True)
class DatasetVersion:
    """A version's row: its place in the line of versions and what it counts."""

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
    """The version with this id, or with the only id that begins so.

    Raises:
        NotFoundError: none or several do.
    """
    with transaction(ctx.engine) as connection:
        query = select(dataset_versions).where(dataset_versions.c.id.startswith(version_id, autoescape=True)).limit(2)
        rows = connection.execute(query).mappings().all()
    if len(rows) != 1:
        found = "no dataset version has" if not rows else "several dataset versions have"
        raise NotFoundError(f"{found} an id that begins with `{version_id}`")
    return _version(rows[0])


def manifest(ctx: Context, version_id: str) -> Manifest:
    """The manifest, proven by its hash.

    Raises:
        IntegrityError: the stored bytes are not the version's.
    """
    data = ctx.store.get(key(version_id))
    found = hashlib.sha256(data).hexdigest()
    if found != version_id:
        raise IntegrityError(f"{key(version_id)} has SHA-256 {found}: damaged or replaced")
    return Manifest.parse(data)


def check_newest(connection: Connection, parent: DatasetVersion | None) -> None:
    """Hold off other versions until the transaction ends, and make sure that `parent` is still the newest.

    Raises:
        ConflictError: it is not; a version made on it would lack what came in between.
    """
    connection.execute(text("lock table dataset_versions in share row exclusive mode"))
    now = newest(connection)
    if (now and now.id) != (parent and parent.id):
        raise ConflictError(f"dataset version {now.id[:12] if now else None} came in between; accept the drop again")


def counts(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Samples a split."""
    return Counter(row["split"] for row in rows)


def insert_version(
    connection: Connection, made: Manifest, parent: DatasetVersion | None, added: Counter[str], cause: str
) -> None:
    """Insert the row of a version that adds `added` samples to `parent`, within the caller's transaction."""
    values = {
        "id": made.id,
        "parent_id": parent.id if parent else None,
        "manifest_key": key(made.id),
        "classes": list(made.classes),
        "cause": cause,
        **{
            split: added[split] + (getattr(parent, split) if parent else 0)
            for split in ("train", "validation", "holdout")
        },
    }
    again = text("nextval(pg_get_serial_sequence('dataset_versions', 'number'))")
    # A label that is changed back makes an earlier content the newest one again.
    statement = (
        insert(dataset_versions)
        .values(values)
        .on_conflict_do_update(index_elements=["id"], set_={"number": again, "cause": cause})
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
