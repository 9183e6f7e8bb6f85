"""Applies the annotations of a drop: new annotations, changed labels, and label tasks for conflicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, update

from ml.catalog import existing_samples
from ml.catalog.classes import class_map
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import labels
from ml.datasets.labels import Annotation, LabelQuestion
from ml.settings import Settings

COLUMNS: Final = ("sha256", "label", "source", "annotator", "confidence", "labelled_at", "drop_id")
"""Columns of table `labels` that a drop fills."""


@dataclass(frozen=True)
class AnnotationChanges:
    """Rows to write for a page of a drop.

    Attributes:
        annotations: those to insert.
        relabels: SHA-256 of stored samples to their new label.
        tasks: label tasks to open.
        settled: SHA-256 of samples whose conflict tasks can be closed.
    """

    annotations: list[Annotation] = field(default_factory=list)
    relabels: dict[str, str] = field(default_factory=dict)
    tasks: list[LabelQuestion] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)


def changes_for_new(rows: Iterable[Mapping[str, Any]], drop_id: str, settings: Settings) -> AnnotationChanges:
    """Return the changes for samples that the drop adds.

    Args:
        rows: rows of `ml.intake.row_verdicts`, with their `neighbours`.
        settings: `label_policy` and `trusted_annotators` choose the label.
    """
    changes = AnnotationChanges()
    for row in rows:
        annotations = labels.from_row(row, drop_id)
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


def changes_for_existing(ctx: Context, rows: Sequence[Mapping[str, Any]], drop_id: str) -> AnnotationChanges:
    """Return the changes for samples that are stored already, given their earlier annotations."""
    hashes = sorted({r["sha256"] for r in rows})
    current_labels = existing_samples.labels(ctx.engine, hashes)
    with transaction(ctx.engine) as connection:
        stored, mapping = labels.annotations_of(connection, hashes), class_map(connection)
    stored_annotations = {  # some were written before a class was renamed
        digest: [replace(a, label=mapping.get(a.label, a.label)) for a in earlier] for digest, earlier in stored.items()
    }
    annotations = (a for r in rows for a in labels.from_row(r, drop_id) if a.sha256 in current_labels)
    changes = AnnotationChanges(
        labels.new_annotations(annotations, (a for earlier in stored_annotations.values() for a in earlier))
    )
    by_sample: dict[str, list[Annotation]] = {}
    for annotation in changes.annotations:
        by_sample.setdefault(annotation.sha256, []).append(annotation)
    for digest, new_annotations in by_sample.items():
        all_annotations = [*stored_annotations.get(digest, ()), *new_annotations]
        chosen = labels.resolve_label(all_annotations, current_labels[digest], ctx.settings)
        if chosen != current_labels[digest]:
            changes.relabels[digest] = chosen
        if votes := labels.disagreement(all_annotations):
            changes.tasks.append(_conflict(digest, chosen, votes))
        elif stored_annotations.get(digest):
            changes.settled.append(digest)
    return changes


def write(connection: Connection, changes: AnnotationChanges) -> None:
    """Write the changes within the caller's transaction, except the annotations, which are copied in bulk."""
    if changes.relabels:
        statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
        connection.execute(statement, [{"digest": d, "new": new} for d, new in changes.relabels.items()])
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


def _near_conflict(row: Mapping[str, Any]) -> LabelQuestion | None:
    """Return a label task if a near duplicate has another label: one of the two is probably wrong."""
    neighbour = next((n for n in row["neighbours"] if n.label != row["label"]), None)
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
