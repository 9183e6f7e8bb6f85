"""Takes changes of labels back: a new dataset version with the labels before; the changes themselves stay on record."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, update

from ml.catalog import existing_samples, label_changes
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.label_changes import LabelChange, LabelChangeRecord
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import amend, labels
from ml.datasets.labels import Annotation
from ml.errors import InvalidInputError, NotFoundError

_PAGE = 1000


@dataclass(frozen=True)
class Undone:
    """What was taken back.

    Attributes:
        samples: whose label was changed back.
        skipped: ids of changes whose sample bears another label by now, or is gone.
        version: the new dataset version; None if nothing changed.
    """

    samples: int
    skipped: tuple[int, ...]
    version: str | None


def undo(ctx: Context, *, ids: Sequence[int] | None = None, drop_id: str | None = None, actor: str) -> Undone:
    """Take back changes by id, or all that a drop made, as the word of an operator, which overrides earlier ones.

    A sample whose label was changed again since is left alone, so undoing twice changes nothing. To take several
    changes of a sample back, name all of them.

    Raises:
        InvalidInputError: neither or both of `ids` and `drop_id` are given.
        NotFoundError: a change does not exist, or the drop made none.
        ConflictError: another version was created meanwhile; retry.
    """
    if (ids is None) == (drop_id is None):
        raise InvalidInputError(f"name changes or a drop, one of the two; received ids {ids!r} and drop {drop_id!r}")
    with advisory_lock(ctx.engine, "datasets"):
        parent, manifest = amend.newest(ctx)
        with transaction(ctx.engine) as connection:
            changes = label_changes.select_changes(connection, ids=ids, drop_id=drop_id)
            names = class_map(connection)
        _check_found(changes, ids, drop_id)
        back, skipped = _reverse(ctx, changes, names, actor)
        if not back:
            return Undone(0, skipped, None)
        new_labels = {change.sha256: change.after for change in back}

        def write_rows(connection: Connection) -> None:
            statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
            connection.execute(statement, [{"digest": d, "new": new} for d, new in new_labels.items()])
            labels.record(connection, [Annotation(d, new, labels.OPERATOR, actor) for d, new in new_labels.items()])
            label_changes.record(connection, back)
            _close_tasks(connection, list(new_labels))

        amended = replace(
            manifest,
            relabels={**manifest.relabels, **new_labels},
            classes=tuple(sorted({*manifest.classes, *new_labels.values()})),
        )
        cause = f"undo of {len(back)} label changes"
        version = amend.commit(ctx, parent, amended, Counter(), cause, write_rows)
    return Undone(len(new_labels), skipped, version)


def _reverse(
    ctx: Context, changes: Sequence[LabelChangeRecord], names: dict[str, str], actor: str
) -> tuple[list[LabelChange], tuple[int, ...]]:
    """The changes that take `changes`, the newest first, back; and the ids of those that cannot be."""
    stored = existing_samples.labels_and_splits(ctx.engine, sorted({change.sha256 for change in changes}))
    current = {digest: label for digest, (label, _) in stored.items()}
    back: list[LabelChange] = []
    skipped: list[int] = []
    for change in changes:
        before, after = (renamed(label, names) or label for label in (change.before, change.after))
        if current.get(change.sha256) != after or before == after:
            skipped.append(change.id)
            continue
        split = stored[change.sha256][1]
        back.append(LabelChange(change.sha256, split, after, before, actor, f"undo of {change.id}"))
        current[change.sha256] = before
    return back, tuple(skipped)


def _check_found(changes: Sequence[LabelChangeRecord], ids: Sequence[int] | None, drop_id: str | None) -> None:
    if missing := sorted(set(ids or ()) - {change.id for change in changes}):
        raise NotFoundError(f"no change of a label has the id {missing[0]}; `evergreen labels changes` lists them")
    if not changes:
        raise NotFoundError(f"drop {drop_id} changed no label; `evergreen labels changes` lists all changes")


def _close_tasks(connection: Connection, hashes: Sequence[str]) -> None:
    for start in range(0, len(hashes), _PAGE):
        of_samples = label_tasks.c.sha256.in_(hashes[start : start + _PAGE]) & (label_tasks.c.status == "open")
        connection.execute(update(label_tasks).where(of_samples).values(status="done"))
