"""Bulk corrections of labels: one class of a drop becomes another, on record and undoable."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from ml.catalog import existing_samples, label_changes
from ml.catalog.classes import class_map
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.label_changes import LabelChange
from ml.catalog.tables import drops, label_fixes, label_tasks, samples
from ml.catalog.tables import labels as labels_table
from ml.context import Context
from ml.datasets import amend, labels, revert
from ml.datasets.labels import Annotation
from ml.datasets.versions import Manifest
from ml.errors import ConflictError, InvalidInputError, NotFoundError

_PAGE = 5000


@dataclass(frozen=True)
class Fix:
    """A bulk correction that was made or undone: `samples` have another label in dataset version `version`."""

    id: int
    samples: int
    version: str
    cycle: str


@dataclass(frozen=True, slots=True)
class FixRecord:
    """A row of `label_fixes`, with the number of `samples` in the place of their hashes."""

    id: int
    prefix: str
    label_before: str
    label_after: str
    samples: int
    actor: str
    reason: str
    dataset_version: str
    created_at: datetime
    undone_at: datetime | None
    undone_by: str | None


def fix(ctx: Context, drop: str, before: str, after: str, *, actor: str, reason: str) -> Fix:
    """Give every sample that a drop brought or labelled as `before`, and that still has this label, the label `after`.

    Each gets an annotation by the operator, which outweighs all before it.

    Raises:
        NotFoundError: no accepted drop has this name.
        InvalidInputError: `after` is not a class, or no sample of the drop is labelled `before`.
    """
    with advisory_lock(ctx.engine, "datasets"):
        _, manifest = amend.newest(ctx)
        _require_class(manifest, after)
        with transaction(ctx.engine) as connection:
            ids = sorted(revert.find(ctx, connection, drop))
            prefix = connection.execute(select(drops.c.prefix).where(drops.c.id == ids[0])).scalar_one()
            hashes = _labelled(connection, ids, before)
        if not hashes or before == after:
            raise InvalidInputError(f"no sample of drop `{drop}` is labelled `{before}`: there is nothing to fix")
        row = {"prefix": prefix, "label_before": before, "label_after": after, "sha256": hashes}
        row |= {"actor": actor, "reason": reason}
        fix_id = 0

        def record(connection: Connection, version: str) -> None:
            nonlocal fix_id
            statement = insert(label_fixes).values(row | {"dataset_version": version}).returning(label_fixes.c.id)
            fix_id = connection.execute(statement).scalar_one()

        cause = f"labels of drop {prefix}: {before} to {after}"
        version, cycle = _relabel(ctx, hashes, after, actor, cause, record)
    return Fix(fix_id, len(hashes), version, cycle)


def undo(ctx: Context, fix_id: int, *, actor: str) -> Fix:
    """Give the samples of a bulk correction their label back, except those that got another one since.

    Raises:
        NotFoundError: there is no such correction.
        ConflictError: it was undone already.
        InvalidInputError: none of its samples still has the label that it gave.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            row = connection.execute(select(label_fixes).where(label_fixes.c.id == fix_id)).mappings().first()
            mapping = class_map(connection)
        if row is None:
            raise NotFoundError(f"no correction has the id {fix_id}; `evergreen labels fixes` lists them")
        if row["undone_at"] is not None:
            raise ConflictError(f"correction {fix_id} was undone already, by {row['undone_by']}")
        before, after = (mapping.get(row[name], row[name]) for name in ("label_before", "label_after"))
        with transaction(ctx.engine) as connection:
            hashes = _still(connection, row["sha256"], after)
        if not hashes or before == after:
            raise InvalidInputError(f"no sample of correction {fix_id} is still labelled `{after}`")

        def record(connection: Connection, _version: str) -> None:
            undone = {"undone_at": func.now(), "undone_by": actor}
            connection.execute(update(label_fixes).where(label_fixes.c.id == fix_id).values(undone))

        cause = f"correction {fix_id} undone: {after} to {before}"
        version, cycle = _relabel(ctx, hashes, before, actor, cause, record)
    return Fix(fix_id, len(hashes), version, cycle)


def history(ctx: Context) -> list[FixRecord]:
    """Every bulk correction, the newest first."""
    columns = [label_fixes.c[name] for name in FixRecord.__dataclass_fields__ if name != "samples"]
    query = select(*columns, func.cardinality(label_fixes.c.sha256).label("samples"))
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(label_fixes.c.id.desc())).mappings()
        return [FixRecord(**row) for row in rows]


def _relabel(
    ctx: Context, hashes: Sequence[str], label: str, actor: str, cause: str, record: Callable[[Connection, str], None]
) -> tuple[str, str]:
    """Create the version with the new labels; return its id and that of the cycle that trains on it."""
    parent, manifest = amend.newest(ctx)
    relabels = dict.fromkeys(hashes, label)
    classes = tuple(sorted({*manifest.classes, label}))
    amended = replace(manifest, relabels={**manifest.relabels, **relabels}, classes=classes)
    cycle = ""

    def write_rows(connection: Connection) -> None:
        nonlocal cycle
        labels.record(connection, [Annotation(digest, label, labels.OPERATOR, actor) for digest in hashes])
        stored = existing_samples.labels_and_splits(ctx.engine, hashes)
        changes = [LabelChange(d, split, before, label, actor, cause) for d, (before, split) in stored.items()]
        label_changes.record(connection, changes)
        revert.set_labels(connection, relabels)
        for start in range(0, len(hashes), _PAGE):
            tasks = (label_tasks.c.sha256.in_(hashes[start : start + _PAGE]), label_tasks.c.status == "open")
            connection.execute(update(label_tasks).where(*tasks).values(status="done"))
        record(connection, amended.id)
        cycle = revert.open_cycle(connection, amended.id)

    return amend.commit(ctx, parent, amended, Counter(), cause, write_rows), cycle


def _require_class(manifest: Manifest, label: str) -> None:
    if label not in manifest.classes:
        raise InvalidInputError(f"`{label}` is not a class; the classes are {', '.join(manifest.classes)}")


def _labelled(connection: Connection, ids: Sequence[str], label: str) -> list[str]:
    """Samples with this label that one of the drops brought, or gave this label."""
    given = select(labels_table.c.sha256).where(labels_table.c.drop_id.in_(ids), labels_table.c.label == label)
    of_drops = or_(samples.c.drop_id.in_(ids), samples.c.sha256.in_(given))
    query = select(samples.c.sha256).where(and_(samples.c.label == label, ~samples.c.removed, of_drops))
    return sorted(connection.execute(query).scalars())


def _still(connection: Connection, hashes: Sequence[str], label: str) -> list[str]:
    still_labelled: list[str] = []
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        query = select(samples.c.sha256).where(samples.c.sha256.in_(page), samples.c.label == label, ~samples.c.removed)
        still_labelled += connection.execute(query).scalars()
    return sorted(still_labelled)
