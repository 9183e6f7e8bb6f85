"""What a drop says of samples: new annotations, the labels that change by them, the questions they raise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, update

from ml.catalog import existing_samples
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import labels
from ml.settings import Settings

COLUMNS: Final = ("sha256", "label", "source", "annotator", "confidence", "labelled_at", "drop_id")
"""Of table `labels`, as written for a drop."""


@dataclass(frozen=True)
class AnnotationChanges:
    """`relabels` maps SHA-256 of stored samples to their new label; the rest are rows to insert or to close."""

    annotations: list[dict[str, Any]] = field(default_factory=list)
    relabels: dict[str, str] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)


def of_new(rows: Iterable[Mapping[str, Any]], drop_id: str, settings: Settings) -> AnnotationChanges:
    """What the drop says of samples that it adds.

    Args:
        rows: of `ml.intake.row_verdicts`, with their `neighbours`.
        drop_id: the drop.
        settings: how labels are chosen.
    """
    told = AnnotationChanges()
    for row in rows:
        said = labels.from_row(row, drop_id)
        if len(said) > 1:
            said = labels.news(said, ())
            if votes := labels.disagreement(said):
                told.tasks.append(_conflict(row["sha256"], labels.current(said, row["label"], settings), votes))
        told.annotations.extend(said)
        if task := _near_conflict(row):
            told.tasks.append(task)
    return told


def of_known(ctx: Context, rows: Sequence[Mapping[str, Any]], drop_id: str) -> AnnotationChanges:
    """What the drop says of samples that are stored already, compared with what was said before."""
    hashes = sorted({r["sha256"] for r in rows})
    now = existing_samples.labels(ctx.engine, hashes)
    with transaction(ctx.engine) as connection:
        before, mapping = labels.annotations_of(connection, hashes), class_map(connection)
    for earlier in before.values():
        for row in earlier:  # said when the class still had its old name
            row["label"] = renamed(row["label"], mapping)
    said = (a for r in rows for a in labels.from_row(r, drop_id) if a["sha256"] in now)
    told = AnnotationChanges(labels.news(said, (a for earlier in before.values() for a in earlier)))
    by_sample: dict[str, list[dict[str, Any]]] = {}
    for annotation in told.annotations:
        by_sample.setdefault(annotation["sha256"], []).append(annotation)
    for digest, given in by_sample.items():
        everything = [*before.get(digest, ()), *given]
        chosen = labels.current(everything, now[digest], ctx.settings)
        if chosen != now[digest]:
            told.relabels[digest] = chosen
        if votes := labels.disagreement(everything):
            told.tasks.append(_conflict(digest, chosen, votes))
        elif before.get(digest):
            told.settled.append(digest)
    return told


def keep(connection: Connection, told: AnnotationChanges) -> None:
    """Write it within the caller's transaction, but for the annotations, which come in bulk."""
    if told.relabels:
        statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
        connection.execute(statement, [{"digest": d, "new": new} for d, new in told.relabels.items()])
    labels.close_tasks(connection, told.settled)
    labels.open_tasks(connection, told.tasks)


def _conflict(digest: str, chosen: str, votes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "sha256": digest,
        "reason": labels.CONFLICT,
        "score": 1 - votes.get(chosen, 0) / sum(votes.values()),
        "label": chosen,
        "suggested": max(votes, key=lambda label: (votes[label], label)),
        "details": {"votes": dict(votes)},
    }


def _near_conflict(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Pictures that look alike and bear different labels: one of the two is probably wrong."""
    other = next((n for n in row["neighbours"] if n.label != row["label"]), None)
    if other is None:
        return None
    return {
        "sha256": row["sha256"],
        "reason": labels.NEAR_CONFLICT,
        "score": 0.5,
        "label": row["label"],
        "suggested": other.label,
        "details": {"looks_like": other.name},
    }
