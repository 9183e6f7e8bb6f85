"""Takes a drop out of later dataset versions, or puts it back. Nothing is deleted, so that lineage and undoing stay.

A sample is in the data as long as a drop that is not reverted has brought it or labelled it. Its label is what the
annotations of those drops and of operators give it, taken up in their order. So it makes no difference whether a good
drop brought an image before or after a bad one that was reverted; only that drops which repeat a label without naming
an annotator leave no trace (`ml.datasets.labels.new_annotations`): such an image goes with the drop that said it first.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, any_, bindparam, func, insert, select, update

from ml.catalog import cycles as cycles_catalog
from ml.catalog import drops as drops_catalog
from ml.catalog import existing_samples, label_changes, revert_requests
from ml.catalog.classes import class_map
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.label_changes import LabelChange
from ml.catalog.revert_requests import RevertRequest
from ml.catalog.tables import cycles, label_tasks, samples
from ml.catalog.tables import drops as drops_table
from ml.catalog.tables import labels as labels_table
from ml.context import Context
from ml.datasets import amend, labels
from ml.datasets.labels import Annotation
from ml.datasets.versions import Manifest
from ml.errors import ConflictError, EvergreenError, NotFoundError

log = logging.getLogger(__name__)

_PAGE = 5000


@dataclass(frozen=True)
class Revert:
    """What a revert or its undoing changed.

    Attributes:
        drops: ids of the drops; none if there was nothing to do.
        version: the new dataset version; None if the data stay as they were.
        samples: number of samples taken out, or put back.
        relabelled: number of samples of other drops whose label changed.
        cycle: the cycle in which the next training answers this; None without a new version.
    """

    drops: tuple[str, ...]
    version: str | None
    samples: int
    relabelled: int
    cycle: str | None


@dataclass(frozen=True)
class _StoredSample:
    sha256: str
    label: str
    split: str
    removed: bool
    left_out: bool


@dataclass
class _Changes:
    """Samples to take out and to put back by SHA-256, labels that change, and samples added by split."""

    removed: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    changes: list[LabelChange] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def relabels(self) -> dict[str, str]:
        """SHA-256 of samples to their new label."""
        return {change.sha256: change.after for change in self.changes}


def revert(ctx: Context, name: str, *, actor: str, reason: str) -> Revert:
    """Take all that a drop brought and said out of the newest dataset version, and have it trained on.

    Idempotent. If the process is killed, nothing has changed, or all has.

    Args:
        name: of the drop's folder, its prefix, or the id of one drop.

    Raises:
        NotFoundError: no accepted drop has this name.
        ConflictError: the lock was lost and another version was created meanwhile; retry.
    """
    return _change(ctx, lambda connection: find(ctx, connection, name), actor, reason, reverted=True)


def restore(ctx: Context, name: str, *, actor: str, reason: str) -> Revert:
    """Undo `revert`; arguments and errors are the same."""
    return _change(ctx, lambda connection: find(ctx, connection, name), actor, reason, reverted=False)


def carry_out_requests(ctx: Context) -> list[tuple[RevertRequest, Revert]]:
    """Revert and restore what people asked for in the console, the oldest request first.

    A request is forgotten in the transaction that changes the data. One that fails stays, and the others are carried
    out all the same.

    Raises:
        EvergreenError: of the first request that failed.
    """
    carried_out: list[tuple[RevertRequest, Revert]] = []
    failures: list[EvergreenError] = []
    for request in revert_requests.find_open(ctx.engine):
        try:
            carried_out.append((request, _carry_out(ctx, request)))
        except EvergreenError as error:
            log.warning("drop %s: the request to %s it failed: %s", request.drop_id, request.change, error)
            failures.append(error)
    if failures:
        raise failures[0]
    return carried_out


def _carry_out(ctx: Context, request: RevertRequest) -> Revert:
    def state(connection: Connection) -> dict[str, bool]:
        return {request.drop_id: drops_catalog.read(connection, request.drop_id).reverted_at is not None}

    reverted = request.change == "revert"
    return _change(ctx, state, request.actor, request.reason, reverted=reverted, request=request)


def find(ctx: Context, connection: Connection, name: str) -> dict[str, bool]:
    """The accepted drops of this name: their ids, and whether each is reverted.

    Raises:
        NotFoundError: there is none.
    """
    prefix = name if name.startswith(ctx.settings.drops_prefix) else f"{ctx.settings.drops_prefix}{name}"
    named = (drops_table.c.prefix == f"{prefix.rstrip('/')}/") | (drops_table.c.id == name)
    query = select(drops_table.c.id, drops_table.c.reverted_at).where(named, drops_table.c.status == "accepted")
    reverted_by_id = {drop_id: reverted_at is not None for drop_id, reverted_at in connection.execute(query)}
    if not reverted_by_id:
        raise NotFoundError(f"no accepted drop is named `{name}`; `evergreen drops` lists them")
    return reverted_by_id


def open_cycle(connection: Connection, version_id: str) -> str:
    """Insert the cycle that trains on a corrected version, within the caller's transaction; return its id."""
    cycle_id = f"{cycles_catalog.CORRECTION}-{uuid.uuid4().hex[:16]}"
    row = {"id": cycle_id, "origin": cycles_catalog.CORRECTION, "dataset_version": version_id}
    connection.execute(insert(cycles).values(row))
    return cycle_id


def _change(
    ctx: Context,
    find_states: Callable[[Connection], dict[str, bool]],
    actor: str,
    reason: str,
    *,
    reverted: bool,
    request: RevertRequest | None = None,
) -> Revert:
    """Revert or restore drops.

    Args:
        find_states: returns the ids of the drops, and whether each is reverted.
        reverted: whether they are to be.
        request: what is carried out, if a person asked for it; it must still be open at the end.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            states = find_states(connection)
            ids = sorted(drop_id for drop_id, is_reverted in states.items() if is_reverted != reverted)
            if not ids:
                revert_requests.take_back(connection, sorted(states))
        if not ids:
            return Revert((), None, 0, 0, None)
        parent, manifest = amend.newest(ctx)
        word = "revert" if reverted else "restoration"
        cause = f"{word} of drop {', '.join(ids)}"
        changes = _find_changes(ctx, ids, (actor, cause), reverted=reverted)
        amended = _manifest(ctx, manifest, changes)
        cycle: str | None = None

        def write_rows(connection: Connection) -> None:
            nonlocal cycle
            if request is not None:
                revert_requests.lock_open(connection, request.drop_id, request.change)
            _mark(connection, ids, actor, reason, reverted=reverted)
            _write(connection, changes)
            cycle = open_cycle(connection, amended.id) if amended.id != parent.id else None

        if amended.id == parent.id:
            with transaction(ctx.engine) as connection:
                write_rows(connection)
            return Revert(tuple(ids), None, 0, 0, None)
        version = amend.commit(ctx, parent, amended, changes.counts, cause, write_rows)
    moved = len(changes.removed) + len(changes.returned)
    return Revert(tuple(ids), version, moved, len(changes.relabels.keys() - changes.returned), cycle)


def _find_changes(ctx: Context, ids: Sequence[str], by: tuple[str, str], *, reverted: bool) -> _Changes:
    changes = _Changes()
    with transaction(ctx.engine) as connection:
        out = drops_catalog.reverted(connection)
        mapping = class_map(connection)
        affected = _affected(connection, ids)
    out = out | set(ids) if reverted else out - set(ids)
    for start in range(0, len(affected), _PAGE):
        with transaction(ctx.engine) as connection:
            page = list(_stored(connection, affected[start : start + _PAGE]))
            annotations = labels.annotations_of(connection, [sample.sha256 for sample in page])
        for sample in page:
            earlier = [a for a in annotations.get(sample.sha256, ()) if a.drop_id not in out]
            counted = [replace(a, label=mapping.get(a.label, a.label)) for a in earlier]
            _judge(ctx, sample, counted, by, changes)
    return changes


def _judge(
    ctx: Context, sample: _StoredSample, annotations: Sequence[Annotation], by: tuple[str, str], changes: _Changes
) -> None:
    """Add what changes for a sample of which only these annotations count.

    Args:
        by: actor and cause, for the record of changed labels.
    """
    if sample.left_out:
        return
    protected = sample.split != "train"
    # What is out of validation and holdout comes back only by words that count there.
    counted = labels.countable(annotations) if protected and sample.removed else annotations
    if not any(a.drop_id for a in counted):
        if not sample.removed:
            changes.removed.add(sample.sha256)
            changes.counts[sample.split] -= 1
        return
    if sample.removed:
        changes.returned.add(sample.sha256)
        changes.counts[sample.split] += 1
    label = labels.replay(annotations, ctx.settings, protected=protected)
    if label is not None and label != sample.label:
        changes.changes.append(LabelChange(sample.sha256, sample.split, sample.label, label, *by))


def _affected(connection: Connection, ids: Sequence[str]) -> list[str]:
    """SHA-256 of the samples that the drops brought or labelled, in order."""
    brought = select(samples.c.sha256).where(samples.c.drop_id.in_(ids))
    labelled = select(labels_table.c.sha256).where(labels_table.c.drop_id.in_(ids))
    return sorted(connection.execute(brought.union(labelled)).scalars())


def _stored(connection: Connection, hashes: Sequence[str]) -> Iterator[_StoredSample]:
    columns = [samples.c[name] for name in _StoredSample.__dataclass_fields__]
    query = select(*columns).where(samples.c.sha256 == any_(bindparam("page")))
    for row in connection.execute(query, {"page": list(hashes)}).mappings():
        yield _StoredSample(**row)


def _manifest(ctx: Context, before: Manifest, changes: _Changes) -> Manifest:
    removals = (set(before.removals) | changes.removed) - changes.returned
    amended = replace(before, relabels={**before.relabels, **changes.relabels}, removals=tuple(sorted(removals)))
    return replace(amended, classes=_classes(ctx, before, changes))


def _classes(ctx: Context, before: Manifest, changes: _Changes) -> tuple[str, ...]:
    """The classes without those that lose their last sample, and with those that are back."""
    relabels = changes.relabels
    lost, gained = Counter[str](), Counter[str](relabels.values())
    with transaction(ctx.engine) as connection:
        ordered = sorted(changes.removed | changes.returned | relabels.keys())
        for start in range(0, len(ordered), _PAGE):
            for sample in _stored(connection, ordered[start : start + _PAGE]):
                if not sample.removed:
                    lost[sample.label] += 1
                elif sample.sha256 not in relabels:
                    gained[sample.label] += 1
        emptied = [
            label
            for label, count in lost.items()
            if not gained[label] and existing_samples.class_size(connection, label, count + 1) <= count
        ]
    return tuple(sorted(({*before.classes} - {*emptied}) | gained.keys()))


def _mark(connection: Connection, ids: list[str], actor: str, reason: str, *, reverted: bool) -> None:
    """The last word on a drop stays with its row, also that of a restoration."""
    values = {"reverted_at": func.now() if reverted else None, "reverted_by": actor, "revert_reason": reason}
    changed = connection.execute(update(drops_table).where(drops_table.c.id.in_(ids)).values(values)).rowcount
    if changed != len(ids):
        raise ConflictError("a drop was removed from the catalog meanwhile; retry")
    revert_requests.take_back(connection, ids)


def _write(connection: Connection, changes: _Changes) -> None:
    for hashes, removed in ((sorted(changes.removed), True), (sorted(changes.returned), False)):
        existing_samples.set_removed(connection, hashes, to=removed)
        for start in range(0, len(hashes) if removed else 0, _PAGE):
            open_tasks = (label_tasks.c.sha256.in_(hashes[start : start + _PAGE]), label_tasks.c.status == "open")
            connection.execute(update(label_tasks).where(*open_tasks).values(status="dismissed"))
    label_changes.record(connection, changes.changes)
    set_labels(connection, changes.relabels)


def set_labels(connection: Connection, relabels: Mapping[str, str]) -> None:
    """Set samples' labels within the caller's transaction."""
    if relabels:
        statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
        connection.execute(statement, [{"digest": digest, "new": new} for digest, new in relabels.items()])
