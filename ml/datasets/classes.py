"""Renames, merges and splits classes by recorded operations; no image is rewritten."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from ml.catalog import existing_samples, label_changes
from ml.catalog.classes import compose_renames
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.label_changes import LabelChange
from ml.catalog.tables import class_operations, samples
from ml.context import Context
from ml.datasets import amend, labels
from ml.datasets.labels import Annotation
from ml.datasets.versions import Manifest
from ml.errors import ConflictError, InvalidInputError, NotFoundError

_PAGE = 1000


@dataclass(frozen=True)
class Operation:
    """A class operation: `samples` changed their label in dataset version `version`."""

    kind: Literal["rename", "merge", "split"]
    before: tuple[str, ...]
    after: tuple[str, ...]
    samples: int
    version: str


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """A row of `class_operations`: a class operation with its `actor` and `reason`."""

    id: int
    kind: Literal["rename", "merge", "split"]
    classes_before: list[str]
    classes_after: list[str]
    samples: int
    dataset_version: str
    actor: str
    reason: str
    created_at: datetime


def rename(ctx: Context, before: str, after: str, *, actor: str, reason: str) -> Operation:
    """Rename a class. Later drops that use the old name are mapped to the new one.

    Raises:
        NotFoundError: there is no such class.
        ConflictError: `after` exists already; use `merge` to combine the two.
    """
    with advisory_lock(ctx.engine, "datasets"):
        if after in amend.newest(ctx)[1].classes:
            raise ConflictError(f"`{after}` is a class already; to make one of the two, merge them")
        return _map_classes(ctx, "rename", (before,), after, actor, reason)


def merge(ctx: Context, before: Sequence[str], after: str, *, actor: str, reason: str) -> Operation:
    """Merge several classes into `after`, which may be one of them or a new name.

    Raises:
        NotFoundError: one of `before` is not a class.
    """
    with advisory_lock(ctx.engine, "datasets"):
        return _map_classes(ctx, "merge", tuple(before), after, actor, reason)


def split(ctx: Context, before: str, new_labels: Mapping[str, str], *, actor: str, reason: str) -> Operation:
    """Give some samples of a class new labels; the other samples keep theirs.

    Args:
        before: the class to split.
        new_labels: SHA-256 of samples to their new label.
        actor: stored with each sample as the annotator of an annotation that overrides earlier ones.

    Raises:
        InvalidInputError: `new_labels` is empty, or a sample is not of this class.
    """
    if not new_labels:
        raise InvalidInputError("the table has no samples: pass a CSV table with the columns sha256,label")
    with advisory_lock(ctx.engine, "datasets"):
        parent, manifest = amend.newest(ctx)
        _require_classes(manifest, (before,))
        _refuse_retired(manifest, sorted(set(new_labels.values())))
        _require_members(ctx, before, set(new_labels))
        stored = existing_samples.labels_and_splits(ctx.engine, sorted(new_labels))
        operation = Operation("split", (before,), tuple(sorted(set(new_labels.values()))), len(new_labels), "")
        amended = replace(
            manifest,
            relabels={**manifest.relabels, **new_labels},
            classes=tuple(sorted({*manifest.classes, *new_labels.values()})),
        )

        def write_rows(connection: Connection) -> None:
            statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
            connection.execute(statement, [{"digest": d, "new": new} for d, new in new_labels.items()])
            changes = (
                LabelChange(digest, in_split, before, new_labels[digest], actor, f"split of {before}")
                for digest, (_, in_split) in stored.items()
                if new_labels[digest] != before
            )
            label_changes.record(connection, changes)
            labels.record(connection, [Annotation(d, new, labels.OPERATOR, actor) for d, new in new_labels.items()])
            _record(connection, operation, amended.id, actor, reason)

        version = amend.commit(ctx, parent, amended, Counter(), f"split of {before}", write_rows)
    return replace(operation, version=version)


def read_table(path: Path) -> dict[str, str]:
    """Read SHA-256 to label from a CSV file with the columns sha256,label.

    Raises:
        InvalidInputError: the file is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {row["sha256"].strip(): row["label"].strip() for row in csv.DictReader(file)}
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} is not a CSV table with the columns sha256,label: {error!r}") from error


def history(ctx: Context) -> list[OperationRecord]:
    """Every operation, the newest first."""
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(class_operations).order_by(class_operations.c.id.desc()))
        return [OperationRecord(**row) for row in rows.mappings()]


def counts(ctx: Context) -> dict[str, int]:
    """Current number of samples per class."""
    with transaction(ctx.engine) as connection:
        rows = connection.execute(
            select(samples.c.label, func.count()).where(~samples.c.removed).group_by(samples.c.label)
        )
        return {label: int(count) for label, count in sorted(rows.all())}


def _map_classes(
    ctx: Context, kind: Literal["rename", "merge"], before: tuple[str, ...], after: str, actor: str, reason: str
) -> Operation:
    parent, manifest = amend.newest(ctx)
    _require_classes(manifest, before)
    _refuse_retired(manifest, (after,), before)
    amended = replace(
        manifest,
        classes=tuple(sorted({*(c for c in manifest.classes if c not in before), after})),
        class_map=compose_renames([*(((old,), new) for old, new in manifest.class_map.items()), (before, after)]),
    )
    replaced = [c for c in before if c != after]
    count = 0

    def write_rows(connection: Connection) -> None:
        nonlocal count
        count = connection.execute(update(samples).where(samples.c.label.in_(replaced)).values(label=after)).rowcount
        _record(connection, Operation(kind, before, (after,), count, amended.id), amended.id, actor, reason)

    version = amend.commit(ctx, parent, amended, Counter(), f"{kind} of {', '.join(before)} to {after}", write_rows)
    return Operation(kind, before, (after,), count, version)


def _record(connection: Connection, operation: Operation, version: str, actor: str, reason: str) -> None:
    columns = {"kind": operation.kind, "classes_before": list(operation.before), "classes_after": list(operation.after)}
    details = {"samples": operation.samples, "dataset_version": version, "actor": actor, "reason": reason}
    connection.execute(insert(class_operations).values(**columns, **details))


def _require_classes(manifest: Manifest, classes: Sequence[str]) -> None:
    if missing := [c for c in classes if c not in manifest.classes]:
        raise NotFoundError(f"`{missing[0]}` is not a class; the classes are {', '.join(manifest.classes)}")


def _refuse_retired(manifest: Manifest, names: Sequence[str], before: Sequence[str] = ()) -> None:
    """Older drops still use a retired name for its successor, so only the successor may be renamed back to it."""
    for name in names:
        successor = manifest.class_map.get(name)
        if successor is not None and successor not in before:
            raise ConflictError(
                f"`{name}` was renamed to `{successor}` and still stands for it in older drops; choose another name"
            )


def _require_members(ctx: Context, before: str, hashes: Set[str]) -> None:
    ordered, members = sorted(hashes), set[str]()
    with transaction(ctx.engine) as connection:
        for start in range(0, len(ordered), _PAGE):
            page = ordered[start : start + _PAGE]
            query = select(samples.c.sha256).where(
                samples.c.sha256.in_(page), samples.c.label == before, ~samples.c.removed
            )
            members |= set(connection.execute(query).scalars())
    if foreign := sorted(hashes - members):
        raise InvalidInputError(
            f"{len(foreign)} of {len(hashes)} are not samples of class `{before}`, the first is {foreign[0]}"
        )
