"""Applies the annotations of a drop: new annotations, changed labels, and label tasks for conflicts and proposals."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, update

from ml.catalog import drops, existing_samples, label_changes
from ml.catalog.classes import class_map
from ml.catalog.engine import transaction
from ml.catalog.label_changes import LabelChange
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import labels
from ml.datasets.labels import Annotation, LabelQuestion
from ml.datasets.trust import Trust
from ml.settings import Settings

COLUMNS: Final = ("sha256", "label", "source", "annotator", "confidence", "labelled_at", "drop_id")
"""Columns of table `labels` that a drop fills."""


_MAX_ACTORS: Final = 3


@dataclass(frozen=True)
class ReturnedSample:
    """A sample that a drop brings back, in the split that it had; no change of a label that was in the data."""

    sha256: str
    split: str
    label: str


@dataclass(frozen=True)
class AnnotationChanges:
    """Rows to write for a page of a drop.

    Attributes:
        annotations: those to insert.
        changes: of the labels of stored samples.
        returned: samples that are in the data again, after they had been taken out of it.
        tasks: label tasks to open.
        settled: SHA-256 of samples whose conflict tasks can be closed.
    """

    annotations: list[Annotation] = field(default_factory=list)
    changes: list[LabelChange] = field(default_factory=list)
    returned: list[ReturnedSample] = field(default_factory=list)
    tasks: list[LabelQuestion] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    @property
    def relabels(self) -> dict[str, str]:
        """SHA-256 of stored samples to their new label."""
        changed = {change.sha256: change.after for change in self.changes}
        return changed | {sample.sha256: sample.label for sample in self.returned}


def changes_for_new(
    rows: Iterable[Mapping[str, Any]], drop_id: str, settings: Settings, trust: Trust
) -> AnnotationChanges:
    """Return the changes for samples that the drop adds.

    Args:
        rows: rows of `ml.intake.row_verdicts`, with their `neighbours`.
        drop_id: the drop.
        settings: `label_policy` and `trusted_annotators` choose the label.
        trust: in the drop's labels.
    """
    changes = AnnotationChanges()
    for row in rows:
        annotations = labels.from_row(row, drop_id, trust.source)
        if len(annotations) > 1:
            annotations = labels.new_annotations(annotations, ())
            if votes := labels.disagreement(annotations):
                changes.tasks.append(
                    _conflict(row["sha256"], labels.resolve_label(annotations, row["label"], settings), votes)
                )
        changes.annotations.extend(annotations)
        if task := _near_conflict(row):
            changes.tasks.append(task)
    return changes


def changes_for_existing(
    ctx: Context, rows: Sequence[Mapping[str, Any]], drop_id: str, trust: Trust
) -> AnnotationChanges:
    """Return the changes for samples that are stored already, given their earlier annotations.

    The label of a sample of validation or holdout follows only from annotations that count there
    (`ml.datasets.labels.countable`); what the others say becomes a label task with a proposal. What reverted drops
    said does not count. A sample that was taken out of the data is back in it if the drop's annotations count there,
    unless it was left out as a copy of a sample of another split.
    """
    hashes = sorted({r["sha256"] for r in rows})
    stored_samples = existing_samples.labels_and_splits(ctx.engine, hashes)
    with transaction(ctx.engine) as connection:
        stored, mapping = labels.annotations_of(connection, hashes), class_map(connection)
        reverted, removed = drops.reverted(connection), existing_samples.removed(connection, hashes)
        left_out = existing_samples.left_out(connection, sorted(removed))
    stored_annotations = {  # some were written before a class was renamed
        digest: [replace(a, label=mapping.get(a.label, a.label)) for a in earlier if a.drop_id not in reverted]
        for digest, earlier in stored.items()
    }
    annotations = (a for r in rows for a in labels.from_row(r, drop_id, trust.source) if a.sha256 in stored_samples)
    # What returns is recorded even if it repeats an operator's word: this drop is why it is in the data.
    kept = (a for digest, earlier in stored_annotations.items() if digest not in removed for a in earlier)
    changes = AnnotationChanges(labels.new_annotations(annotations, kept))
    by_sample: dict[str, list[Annotation]] = {}
    for annotation in changes.annotations:
        by_sample.setdefault(annotation.sha256, []).append(annotation)
    for digest, new_annotations in by_sample.items():
        if digest in left_out:
            continue
        sample = _StoredSample(digest, *stored_samples[digest], stored_annotations.get(digest, []))
        if digest in removed:
            _add_returned(changes, sample, new_annotations, ctx.settings)
        else:
            _add_changes(changes, sample, new_annotations, drop_id, ctx.settings)
    return changes


@dataclass(frozen=True)
class _StoredSample:
    sha256: str
    label: str
    split: str
    annotations: list[Annotation]


def _add_changes(
    changes: AnnotationChanges, sample: _StoredSample, new: Sequence[Annotation], drop_id: str, settings: Settings
) -> None:
    """Add what new annotations of a stored sample change."""
    protected = sample.split != "train"
    together = [*sample.annotations, *new]
    chosen = labels.resolve_label(together, sample.label, settings, protected=protected)
    if chosen != sample.label:
        cause = (_actors(new, chosen), f"drop {drop_id}", drop_id)
        changes.changes.append(LabelChange(sample.sha256, sample.split, sample.label, chosen, *cause))
    if votes := labels.disagreement(labels.countable(together) if protected else together):
        changes.tasks.append(_conflict(sample.sha256, chosen, votes))
    elif sample.annotations:
        changes.settled.append(sample.sha256)
    if protected and (proposal := _proposal(sample.sha256, chosen, together, new, drop_id)):
        changes.tasks.append(proposal)


def _add_returned(
    changes: AnnotationChanges, sample: _StoredSample, new: Sequence[Annotation], settings: Settings
) -> None:
    """Add a sample that comes back, unless it is in validation or holdout and nothing said of it counts there."""
    protected = sample.split != "train"
    together = [*sample.annotations, *new]
    if protected and not labels.countable(together):
        return
    label = labels.replay(together, settings, protected=protected) or new[0].label
    changes.returned.append(ReturnedSample(sample.sha256, sample.split, label))


def _actors(annotations: Sequence[Annotation], label: str) -> str:
    """Who of a drop gave this label; names in an untrusted drop are not identities."""
    named = {a.annotator for a in annotations if a.label == label and a.annotator and a.source != labels.UNTRUSTED}
    shown = sorted(named)[:_MAX_ACTORS]
    more = f" and {len(named) - _MAX_ACTORS} more" if len(named) > _MAX_ACTORS else ""
    return ", ".join(shown) + more if shown else "nobody named"


def write(connection: Connection, changes: AnnotationChanges) -> None:
    """Write the changes within the caller's transaction, except the annotations, which are copied in bulk."""
    if relabels := changes.relabels:
        statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
        connection.execute(statement, [{"digest": digest, "new": new} for digest, new in relabels.items()])
        label_changes.record(connection, changes.changes)
    existing_samples.set_removed(connection, [sample.sha256 for sample in changes.returned], to=False)
    labels.close_tasks(connection, changes.settled)
    labels.open_tasks(connection, changes.tasks)


def _conflict(digest: str, chosen: str, votes: Mapping[str, int]) -> LabelQuestion:
    return LabelQuestion(
        sha256=digest,
        reason=labels.CONFLICT,
        score=1 - votes.get(chosen, 0) / sum(votes.values()),
        label=chosen,
        suggested=max(votes, key=lambda label: (votes[label], label)),
        details={"votes": dict(votes)},
    )


def _proposal(
    digest: str, label: str, together: Sequence[Annotation], new: Sequence[Annotation], drop_id: str
) -> LabelQuestion | None:
    """Return a label task if new annotations that do not count here say otherwise."""
    counted = {id(annotation) for annotation in labels.countable(together)}
    proposed = Counter(a.label for a in new if id(a) not in counted and a.label != label)
    if not proposed:
        return None
    return LabelQuestion(
        sha256=digest,
        reason=labels.PROPOSAL,
        score=0.5,
        label=label,
        suggested=max(proposed, key=lambda name: (proposed[name], name)),
        details={"drop": drop_id, "proposed": dict(proposed)},
    )


def _near_conflict(row: Mapping[str, Any]) -> LabelQuestion | None:
    """Return a label task if a near duplicate has another label: one of the two is probably wrong.

    Not for transformed copies: a turned 6 is a 9.
    """
    neighbour = next((n for n in row["neighbours"] if n.label != row["label"] and not n.transformed), None)
    if neighbour is None:
        return None
    return LabelQuestion(
        sha256=row["sha256"],
        reason=labels.NEAR_CONFLICT,
        score=0.5,
        label=row["label"],
        suggested=neighbour.label,
        details={"looks_like": neighbour.name},
    )
