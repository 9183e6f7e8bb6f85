"""Classes are renamed, merged and split by recorded operations; no image is touched."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from ml.catalog.classes import composed
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import class_operations, samples
from ml.context import Context
from ml.datasets import amend, labels
from ml.datasets.versions import Manifest
from ml.errors import ConflictError, InvalidInputError, NotFoundError

_PAGE = 1000


@dataclass(frozen=True)
class Operation:
    """What was done: `samples` have another label now, in `version`."""

    kind: Literal["rename", "merge", "split"]
    before: tuple[str, ...]
    after: tuple[str, ...]
    samples: int
    version: str


def rename(ctx: Context, before: str, after: str, *, actor: str, reason: str) -> Operation:
    """Give a class another name. Drops that use the old one later mean the new one.

    Raises:
        NotFoundError: there is no such class.
        ConflictError: `after` is a class already; `merge` brings the two together.
    """
    with advisory_lock(ctx.engine, "datasets"):
        if after in amend.newest(ctx)[1].classes:
            raise ConflictError(f"`{after}` is a class already; to make one of the two, merge them")
        return _unite(ctx, "rename", (before,), after, actor, reason)


def merge(ctx: Context, before: Sequence[str], after: str, *, actor: str, reason: str) -> Operation:
    """Make one class of several; `after` may be one of them or a new name.

    Raises:
        NotFoundError: one of them is no class.
    """
    with advisory_lock(ctx.engine, "datasets"):
        return _unite(ctx, "merge", tuple(before), after, actor, reason)


def split(ctx: Context, before: str, told: Mapping[str, str], *, actor: str, reason: str) -> Operation:
    """Give samples of a class labels of their own; those not named stay.

    Args:
        ctx: the context.
        before: the class.
        told: SHA-256 of samples to their new label.
        actor: who says so; is kept with each sample as an annotation that outweighs earlier ones.
        reason: why.

    Raises:
        InvalidInputError: nothing is told, or a sample is not of this class.
    """
    if not told:
        raise InvalidInputError("no sample is named: give a table with the columns sha256,label")
    with advisory_lock(ctx.engine, "datasets"):
        parent, manifest = amend.newest(ctx)
        _require(manifest, (before,))
        _refuse_retired(manifest, sorted(set(told.values())))
        _refuse_strangers(ctx, before, set(told))
        done = Operation("split", (before,), tuple(sorted(set(told.values()))), len(told), "")
        made = replace(
            manifest,
            relabels={**manifest.relabels, **told},
            classes=tuple(sorted({*manifest.classes, *told.values()})),
        )

        def within(connection: Connection) -> None:
            statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
            connection.execute(statement, [{"digest": d, "new": new} for d, new in told.items()])
            said = {"source": labels.OPERATOR, "annotator": actor}
            labels.record(connection, [{"sha256": d, "label": new, **said} for d, new in told.items()])
            _record(connection, done, made.id, actor, reason)

        version = amend.commit(ctx, parent, made, Counter(), f"split of {before}", within)
    return replace(done, version=version)


def read_table(path: Path) -> dict[str, str]:
    """SHA-256 to label, from a CSV file with these columns.

    Raises:
        InvalidInputError: it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {row["sha256"].strip(): row["label"].strip() for row in csv.DictReader(file)}
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} is no CSV table with the columns sha256,label: {error!r}") from error


def history(ctx: Context) -> list[dict[str, Any]]:
    """Every operation, the newest first."""
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(class_operations).order_by(class_operations.c.id.desc()))
        return [dict(row) for row in rows.mappings()]


def counts(ctx: Context) -> dict[str, int]:
    """Samples of each class now."""
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(samples.c.label, func.count()).group_by(samples.c.label))
        return {label: int(count) for label, count in sorted(rows.all())}


def _unite(
    ctx: Context, kind: Literal["rename", "merge"], before: tuple[str, ...], after: str, actor: str, reason: str
) -> Operation:
    parent, manifest = amend.newest(ctx)
    _require(manifest, before)
    _refuse_retired(manifest, (after,), before)
    made = replace(
        manifest,
        classes=tuple(sorted({*(c for c in manifest.classes if c not in before), after})),
        class_map=composed([*(((old,), new) for old, new in manifest.class_map.items()), (before, after)]),
    )
    moved = [c for c in before if c != after]
    count = 0

    def within(connection: Connection) -> None:
        nonlocal count
        count = connection.execute(update(samples).where(samples.c.label.in_(moved)).values(label=after)).rowcount
        _record(connection, Operation(kind, before, (after,), count, made.id), made.id, actor, reason)

    version = amend.commit(ctx, parent, made, Counter(), f"{kind} of {', '.join(before)} to {after}", within)
    return Operation(kind, before, (after,), count, version)


def _record(connection: Connection, done: Operation, version: str, actor: str, reason: str) -> None:
    columns = {"kind": done.kind, "classes_before": list(done.before), "classes_after": list(done.after)}
    told = {"samples": done.samples, "dataset_version": version, "actor": actor, "reason": reason}
    connection.execute(insert(class_operations).values(**columns, **told))


def _require(manifest: Manifest, classes: Sequence[str]) -> None:
    if missing := [c for c in classes if c not in manifest.classes]:
        raise NotFoundError(f"`{missing[0]}` is no class; there are {', '.join(manifest.classes)}")


def _refuse_retired(manifest: Manifest, names: Sequence[str], before: Sequence[str] = ()) -> None:
    """A retired name still means its successor in older drops; only the successor itself may go back to it."""
    for name in names:
        now = manifest.class_map.get(name)
        if now is not None and now not in before:
            raise ConflictError(f"`{name}` was renamed to `{now}` once and still means that; choose another name")


def _refuse_strangers(ctx: Context, before: str, hashes: Set[str]) -> None:
    wanted, found = sorted(hashes), set[str]()
    with transaction(ctx.engine) as connection:
        for start in range(0, len(wanted), _PAGE):
            page = wanted[start : start + _PAGE]
            query = select(samples.c.sha256).where(samples.c.sha256.in_(page), samples.c.label == before)
            found |= set(connection.execute(query).scalars())
    if strangers := sorted(hashes - found):
        raise InvalidInputError(
            f"{len(strangers)} of {len(hashes)} are no samples of class `{before}`, the first is {strangers[0]}"
        )
