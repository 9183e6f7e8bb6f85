"""Takes all feedback of a caller out again: what it said is marked, and its annotations no longer count in the data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Connection, Select, bindparam, exists, func, or_, select, update

from ml.catalog import drops as drops_catalog
from ml.catalog import existing_samples, feedback, feedback_callers, label_changes
from ml.catalog.classes import class_map
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback import FeedbackLimits
from ml.catalog.label_changes import LabelChange
from ml.catalog.tables import drops, feedback_drops, samples
from ml.catalog.tables import feedback as feedback_table
from ml.catalog.tables import feedback_callers as callers_table
from ml.catalog.tables import labels as labels_table
from ml.context import Context
from ml.datasets import amend, labels, versions
from ml.datasets.labels import Annotation

_PAGE: Final = 1000


@dataclass(frozen=True)
class Withdrawal:
    """What became of a caller's feedback.

    Attributes:
        opinions: rows of feedback marked now.
        annotations: those that no longer count.
        relabelled: samples that have another label without them.
        removed: samples that came only from them and are in no later version.
        version: the dataset version without them; None where nothing changed.
    """

    key_id: str
    opinions: int
    annotations: int
    relabelled: int
    removed: int
    version: str | None


@dataclass
class _Changes:
    """What a version without the caller's annotations differs in."""

    annotations: list[int] = field(default_factory=list)
    relabelled: list[LabelChange] = field(default_factory=list)
    removals: dict[str, str] = field(default_factory=dict)  # to the split

    @property
    def relabels(self) -> dict[str, str]:
        return {change.sha256: change.after for change in self.relabelled}


def revoke(ctx: Context, key: str, *, actor: str, reason: str) -> Withdrawal:
    """Take out all feedback of a caller, and take no more of it.

    Its rows are marked, label tasks that only it asked for are closed, and a new dataset version counts the votes
    without it. If the process is killed, running it again, or the next collection of feedback, does the rest.

    Args:
        key: the name or id of an API key.

    Raises:
        NotFoundError: no key has this name or id.
        UnavailableError: a server does not answer.
    """
    limits = FeedbackLimits.from_settings(ctx.settings)
    with advisory_lock(ctx.engine, "feedback"):
        with transaction(ctx.engine) as connection:
            key_id = feedback_callers.resolve(connection, key)
            feedback_callers.set_status(connection, key_id, "revoked", actor, reason)
            opinions = feedback_callers.mark_revoked(connection, key_id)
            feedback_callers.refresh_tasks(connection, key_id, limits)
        return replace(_neutralise(ctx, key_id), opinions=opinions)


def resume(ctx: Context, key: str, *, actor: str, reason: str) -> str:
    """Count a caller's feedback again: all of one that was paused, what comes from now on of one that was revoked.

    Raises:
        NotFoundError: no key has this name or id.
    """
    with transaction(ctx.engine) as connection:
        key_id = feedback_callers.resolve(connection, key)
        feedback_callers.set_status(connection, key_id, "resumed", actor, reason)
        feedback_callers.ask_again(connection, key_id)
    return key_id


def finish_revocations(ctx: Context) -> int:
    """Neutralise what revocations left, as when they were killed or a drop was being ingested; returns how many."""
    with transaction(ctx.engine) as connection:
        unfinished = feedback_callers.revoked_callers(connection)
    for key_id in unfinished:
        _neutralise(ctx, key_id)
    return len(unfinished)


def _neutralise(ctx: Context, key_id: str) -> Withdrawal:
    with advisory_lock(ctx.engine, "datasets"):
        changes = _Changes()
        parent = versions.latest(ctx)
        for hashes in _pages(ctx, key_id) if parent else ():
            _add_page(ctx, changes, key_id, hashes)
        result = Withdrawal(key_id, 0, len(changes.annotations), len(changes.relabelled), len(changes.removals), None)
        with transaction(ctx.engine) as connection:
            finished = not _is_being_ingested(connection, key_id)

        def write_rows(connection: Connection) -> None:
            for start in range(0, len(changes.annotations), _PAGE):
                page = changes.annotations[start : start + _PAGE]
                rows = update(labels_table).where(labels_table.c.id.in_(page))
                connection.execute(rows.values(revoked_at=func.now()))
            if changes.relabelled:
                statement = update(samples).where(samples.c.sha256 == bindparam("digest"))
                rows_to_set = [{"digest": digest, "new": new} for digest, new in changes.relabels.items()]
                connection.execute(statement.values(label=bindparam("new")), rows_to_set)
                label_changes.record(connection, changes.relabelled)
            existing_samples.set_removed(connection, sorted(changes.removals), to=True)
            if finished:
                caller = update(callers_table).where(callers_table.c.key_id == key_id)
                connection.execute(caller.values(neutralised_at=func.now()))

        if not (changes.relabelled or changes.removals):
            with transaction(ctx.engine) as connection:
                write_rows(connection)
            return result
        parent, manifest = amend.newest(ctx)
        amended = replace(
            manifest,
            relabels={**manifest.relabels, **changes.relabels},
            removals=tuple(sorted({*manifest.removals, *changes.removals})),
        )
        removed = Counter({split: -count for split, count in Counter(changes.removals.values()).items()})
        version = amend.commit(ctx, parent, amended, removed, _cause(key_id), write_rows)
        return replace(result, version=version)


def _cause(key_id: str) -> str:
    return f"feedback of {key_id} revoked"


def _pages(ctx: Context, key_id: str) -> Sequence[Sequence[str]]:
    """The images that the caller spoke of, in pages."""
    table = feedback_table.c
    query = select(table.image_sha256).where(table.key_id == key_id, table.image_sha256.is_not(None)).distinct()
    with transaction(ctx.engine) as connection:
        hashes = list(connection.execute(query.order_by(table.image_sha256)).scalars())
    return [hashes[start : start + _PAGE] for start in range(0, len(hashes), _PAGE)]


def _add_page(ctx: Context, changes: _Changes, key_id: str, hashes: Sequence[str]) -> None:
    """Add what changes for these images when the caller's annotations do not count."""
    with transaction(ctx.engine) as connection:
        ids = _annotations_of_caller(connection, key_id, hashes)
        if not ids:
            return
        changes.annotations.extend(ids)
        touched = select(labels_table.c.sha256).where(labels_table.c.id.in_(ids))
        query = select(samples.c.sha256, samples.c.label, samples.c.split).where(
            samples.c.sha256.in_(touched), ~samples.c.removed
        )
        stored = connection.execute(query).all()
        remaining = _remaining(connection, [row.sha256 for row in stored], set(ids))
        gave = dict(connection.execute(_newest_label(ids)).all())
        mapping, reverted = class_map(connection), drops_catalog.reverted(connection)
    for row in stored:
        counting = [a for a in remaining.get(row.sha256, ()) if a.drop_id not in reverted]
        others = [replace(a, label=mapping.get(a.label, a.label)) for a in counting]
        if not others:
            changes.removals[row.sha256] = row.split
        elif mapping.get(gave[row.sha256], gave[row.sha256]) == row.label:
            label = labels.replay(others, ctx.settings, protected=row.split != "train")
            if label is not None and label != row.label:
                who, cause = f"revocation of {key_id}", _cause(key_id)
                changes.relabelled.append(LabelChange(row.sha256, row.split, row.label, label, who, cause))


def _annotations_of_caller(connection: Connection, key_id: str, hashes: Sequence[str]) -> list[int]:
    """Annotations under the caller's name, and those that earlier versions wrote as `feedback:<source>`."""
    table = feedback_table.c
    by_source = exists().where(
        table.key_id == key_id,
        table.image_sha256 == labels_table.c.sha256,
        labels_table.c.annotator == "feedback:" + table.source,
        drops.c.prefix == table.drop_prefix,
        drops.c.id == labels_table.c.drop_id,
    )
    query = select(labels_table.c.id).where(
        labels_table.c.sha256.in_(hashes),
        labels_table.c.revoked_at.is_(None),
        or_(labels_table.c.annotator == feedback.annotator(key_id), by_source),
    )
    return list(connection.execute(query.order_by(labels_table.c.id)).scalars())


def _remaining(connection: Connection, hashes: Sequence[str], without: set[int]) -> Mapping[str, list[Annotation]]:
    """The annotations of samples that still count without these."""
    remaining: dict[str, list[Annotation]] = {}
    query = select(labels_table).where(labels_table.c.sha256.in_(hashes), labels_table.c.revoked_at.is_(None))
    for row in connection.execute(query.order_by(labels_table.c.id)).mappings():
        if row["id"] not in without:
            remaining.setdefault(row["sha256"], []).append(Annotation.from_row(row))
    return remaining


def _newest_label(ids: Sequence[int]) -> Select[str, str]:
    """What the newest of these annotations says of each sample."""
    newest = select(func.max(labels_table.c.id)).where(labels_table.c.id.in_(ids)).group_by(labels_table.c.sha256)
    return select(labels_table.c.sha256, labels_table.c.label).where(labels_table.c.id.in_(newest))


def _is_being_ingested(connection: Connection, key_id: str) -> bool:
    """Whether a drop with the caller's votes is on its way: marked, and not yet accepted or rejected."""
    finished = exists().where(drops.c.prefix == feedback_drops.c.prefix, drops.c.finished_at.is_not(None))
    query = select(feedback_drops.c.prefix).where(feedback_drops.c.key_id == key_id, ~finished).limit(1)
    return connection.execute(query).first() is not None
