"""Annotations and label tasks; the setting `label_policy` determines a sample's label from its annotations.

Every annotation is stored. Only the newest of each annotator counts; an annotation without an annotator
counts as its drop's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self
from uuid import UUID

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, labels
from ml.context import Context
from ml.settings import Settings

CONFLICT: Final = "conflict"
NEAR_CONFLICT: Final = "near_duplicate_conflict"
OPERATOR: Final = "operator"
"""Source of an annotation that overrides all earlier ones."""
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Annotation:
    """The label that an annotator gave a sample, a row of table `labels`.

    Attributes:
        source: drop or operator.
        annotator: None for one that is known by its drop only.
        labelled_at: when the annotator says it was given.
        drop_id: the drop that brought it, if any.
        created_at: when it was stored; None before.
    """

    sha256: str
    label: str
    source: str
    annotator: str | None
    confidence: float | None = None
    labelled_at: datetime | None = None
    drop_id: str | None = None
    created_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """From a row of table `labels`."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def values(self) -> dict[str, Any]:
        """The columns to insert."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "created_at"}


@dataclass(frozen=True)
class LabelQuestion:
    """A label task to open.

    Attributes:
        score: doubt about the label, 0 to 1.
        label: what the sample's label is now.
        suggested: what it may be instead.
        details: JSON that explains the doubt.
    """

    sha256: str
    reason: str
    score: float
    label: str | None
    suggested: str | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LabelTaskRecord:
    """A row of `label_tasks`: of a sample or of a prediction. `LabelQuestion` explains the fields."""

    id: int
    prediction_id: UUID | None
    sha256: str | None
    reason: str
    score: float
    label: str | None
    suggested: str | None
    details: dict[str, Any]
    status: Literal["open", "answered", "done", "dismissed"]
    created_at: datetime
    answer: str | None
    answered_by: str | None


def resolve_label(annotations: Sequence[Annotation], current_label: str, settings: Settings) -> str:
    """Return the label of a sample by the setting `label_policy`.

    ``latest``: the newest annotation. ``majority``: the label that most annotators give; the current one on a tie.
    ``trusted``: the label of the first of `trusted_annotators` who annotated the sample, else the majority.

    Args:
        annotations: of the sample, in order of insertion.
        current_label: the label the sample has now.
    """
    by_annotator = _latest_by_annotator(annotations)
    if not by_annotator:
        return current_label
    if settings.label_policy == "latest":
        return list(by_annotator.values())[-1]
    if settings.label_policy == "trusted":
        for name in settings.trusted_annotators:
            if name in by_annotator:
                return by_annotator[name]
    ranked = Counter(by_annotator.values()).most_common(2)
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return current_label if tied else ranked[0][0]


def _latest_by_annotator(annotations: Sequence[Annotation]) -> dict[str, str]:
    """Annotator → latest label, in time order; annotations before the last one of an operator are ignored."""
    by_operator = [i for i, a in enumerate(annotations) if a.source == OPERATOR]
    counted = annotations[by_operator[-1] :] if by_operator else annotations
    latest: dict[str, str] = {}
    for annotation in sorted(counted, key=_annotated_at):
        latest.pop(_annotator(annotation), None)
        latest[_annotator(annotation)] = annotation.label
    return latest


def _annotator(annotation: Annotation) -> str:
    return annotation.annotator or f"drop {annotation.drop_id}"


def _annotated_at(annotation: Annotation) -> datetime:
    return annotation.labelled_at or annotation.created_at or datetime.now(UTC)  # not written yet


def annotations_of(connection: Connection, hashes: Sequence[str]) -> dict[str, list[Annotation]]:
    """All annotations of these samples that count, in order of insertion; not those of revoked callers."""
    by_sample: dict[str, list[Annotation]] = {}
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        query = select(labels).where(labels.c.sha256.in_(page), labels.c.revoked_at.is_(None))
        for row in connection.execute(query.order_by(labels.c.id)).mappings():
            by_sample.setdefault(row["sha256"], []).append(Annotation.from_row(row))
    return by_sample


def from_row(row: Mapping[str, Any], drop_id: str) -> list[Annotation]:
    """The annotations in a validated row of a drop (`ml.intake.row_verdicts`)."""
    return [
        Annotation(
            sha256=row["sha256"],
            label=annotation["label"],
            source="drop",
            annotator=annotation["annotator"],
            confidence=annotation["confidence"],
            labelled_at=annotation["labelled_at"],
            drop_id=drop_id,
        )
        for annotation in (row, *(row["others"] or ()))
    ]


def new_annotations(annotations: Iterable[Annotation], existing: Iterable[Annotation]) -> list[Annotation]:
    """Return annotations that repeat no existing one (same sample, same annotator or none, same label).

    One that says again what its annotator had said before changing their mind repeats nothing.
    """
    keys = set[tuple[str, str | None, str]]()
    latest: dict[tuple[str, str | None], Annotation] = {}
    for known in sorted(existing, key=_annotated_at):
        keys.add((known.sha256, known.annotator, known.label))
        latest[known.sha256, known.annotator] = known
    result = []
    for annotation in annotations:
        key = (annotation.sha256, annotation.annotator, annotation.label)
        if key not in keys or _returns(annotation, latest.get(key[:2])):
            keys.add(key)
            result.append(annotation)
    return result


def _returns(annotation: Annotation, latest: Annotation | None) -> bool:
    """Whether a named annotator says, later than their last other word, what they had said before that."""
    return (
        latest is not None
        and annotation.annotator is not None
        and annotation.labelled_at is not None
        and annotation.label != latest.label
        and annotation.labelled_at > _annotated_at(latest)
    )


def record(connection: Connection, annotations: Sequence[Annotation]) -> None:
    for start in range(0, len(annotations), _PAGE):
        connection.execute(insert(labels), [a.values() for a in annotations[start : start + _PAGE]])


def open_tasks(connection: Connection, questions: Sequence[LabelQuestion]) -> None:
    """Open label tasks; one that is open already for the same sample and reason is not duplicated."""
    for start in range(0, len(questions), _PAGE):
        connection.execute(
            upsert(label_tasks).on_conflict_do_nothing(), [vars(q) for q in questions[start : start + _PAGE]]
        )


def close_tasks(connection: Connection, hashes: Sequence[str]) -> None:
    """Close the conflict tasks of samples whose annotators agree now."""
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        connection.execute(
            update(label_tasks)
            .where(label_tasks.c.sha256.in_(page), label_tasks.c.reason == CONFLICT, label_tasks.c.status == "open")
            .values(status="done")
        )


def disagreement(annotations: Sequence[Annotation]) -> dict[str, int]:
    """Label → number of annotators who give it; empty if all agree."""
    votes = Counter(_latest_by_annotator(annotations).values())
    return dict(votes) if len(votes) > 1 else {}


def tasks(ctx: Context, limit: int) -> list[LabelTaskRecord]:
    """Open label tasks, highest score first."""
    query = select(label_tasks).where(label_tasks.c.status == "open")
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(label_tasks.c.score.desc(), label_tasks.c.id).limit(limit))
        return [LabelTaskRecord(**row) for row in rows.mappings()]
