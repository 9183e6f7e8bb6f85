"""Annotations and label tasks; the setting `label_policy` determines a sample's label from its annotations.

Every annotation is stored. Only the newest of each annotator counts; an annotation without an annotator
counts as its drop's. Whose words count how much follows from the annotation's source:

- `DROP`: a drop of a trusted uploader. The names in it count as annotators.
- `UNTRUSTED`: any other drop. All names in it are one vote, which never counts in validation and holdout.
- `VERIFIED`: an API key that may annotate. In validation and holdout two of them must agree.
- `REVIEWER`, `OPERATOR`: decide, whatever was said before.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final, Self

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ml.catalog.tables import label_tasks, labels
from ml.settings import Settings

CONFLICT: Final = "conflict"
NEAR_CONFLICT: Final = "near_duplicate_conflict"
PROPOSAL: Final = "proposal"
"""Reasons of label tasks; the last one: a label of a sample of validation or holdout that does not count by itself."""
DROP: Final = "drop"
UNTRUSTED: Final = "untrusted"
VERIFIED: Final = "verified"
REVIEWER: Final = "reviewer"
OPERATOR: Final = "operator"
DECIDING: Final = frozenset({REVIEWER, OPERATOR})
"""Sources of annotations that outweigh all before them."""
_AGREEING: Final = 2
_KEY_PREFIX: Final = "key:"  # of the annotator names of API keys; in an uploaded table they prove nothing
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Annotation:
    """The label that an annotator gave a sample, a row of table `labels`.

    Attributes:
        source: of the module's constants.
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


def resolve_label(
    annotations: Sequence[Annotation], current_label: str, settings: Settings, *, protected: bool = False
) -> str:
    """Return the label of a sample by the setting `label_policy`.

    ``latest``: the newest annotation. ``majority``: the label that most annotators give; the current one on a tie.
    ``trusted``: the label of the first of `trusted_annotators` who annotated the sample, else the majority.

    Args:
        annotations: of the sample, in order of insertion.
        current_label: the label the sample has now.
        protected: the sample is in validation or holdout, so only `countable` annotations count.
    """
    by_annotator = _latest_by_annotator(countable(annotations) if protected else annotations)
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


def countable(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The annotations that count in validation and holdout.

    None of an untrusted drop, and of verified annotators only those whose label at least one other of them gives too.
    """
    verified = _latest_by_annotator([a for a in annotations if a.source == VERIFIED])
    agreed = {label for label, votes in Counter(verified.values()).items() if votes >= _AGREEING}
    return [
        a
        for a in annotations
        if a.source != UNTRUSTED
        and (a.source != VERIFIED or (a.label in agreed and verified[_annotator(a)] == a.label))
    ]


def replay(annotations: Sequence[Annotation], settings: Settings, *, protected: bool = False) -> str | None:
    """Return the label that these annotations give a sample, taken up in the order in which they were stored.

    A later drop may leave the label as it is, or change it; so the result depends on the order, as it did when the
    drops were accepted. Used to say what the label would be without some of the annotations. None without annotations.

    Args:
        annotations: of one sample, in order of insertion, by the current names of the classes.
        settings: `label_policy` and `trusted_annotators` choose the label.
        protected: the sample is in validation or holdout.
    """
    label: str | None = None
    seen: list[Annotation] = []
    for _, stored_together in groupby(annotations, key=lambda a: (a.drop_id, a.created_at)):
        batch = list(stored_together)
        seen += batch
        label = batch[0].label if label is None else resolve_label(seen, label, settings, protected=protected)
    return label


def _latest_by_annotator(annotations: Sequence[Annotation]) -> dict[str, str]:
    """Annotator → latest label, in time order; annotations before the last one that decides are ignored."""
    deciding = [i for i, a in enumerate(annotations) if a.source in DECIDING]
    counted = annotations[deciding[-1] :] if deciding else annotations
    latest: dict[str, str] = {}
    for annotation in sorted(counted, key=_annotated_at):
        latest.pop(_annotator(annotation), None)
        latest[_annotator(annotation)] = annotation.label
    return latest


def _annotator(annotation: Annotation) -> str:
    """Whose vote it is: of a name only where names are identities."""
    name, source = annotation.annotator, annotation.source
    if not name or source == UNTRUSTED or (source == DROP and name.startswith(_KEY_PREFIX)):
        return f"drop {annotation.drop_id}"
    return name


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


def from_row(row: Mapping[str, Any], drop_id: str, source: Callable[[str | None], str]) -> list[Annotation]:
    """The annotations in a validated row of a drop (`ml.intake.row_verdicts`).

    Args:
        row: with current class names, also in `others`.
        drop_id: the drop.
        source: the source of an annotation by its annotator (`ml.datasets.trust.Trust.source`).
    """
    return [
        Annotation(
            sha256=row["sha256"],
            label=annotation["label"],
            source=source(annotation["annotator"]),
            annotator=annotation["annotator"],
            confidence=annotation["confidence"],
            labelled_at=annotation["labelled_at"],
            drop_id=drop_id,
        )
        for annotation in (row, *(row["others"] or ()))
    ]


def new_annotations(annotations: Iterable[Annotation], existing: Iterable[Annotation]) -> list[Annotation]:
    """Return annotations that say something new: of each annotator what differs from what they said last.

    Without a name, and in untrusted drops, a label that was given so before is nothing new, by whichever drop: the
    same drop under many names would else be many votes.

    Args:
        annotations: to add, in order.
        existing: those stored, in order of insertion.
    """
    latest: dict[tuple[str, str], tuple[datetime, str]] = {}
    statements: set[tuple[object, ...] | None] = set()

    def add(annotation: Annotation) -> None:
        statements.add(_words(annotation))
        who, at = (annotation.sha256, _annotator(annotation)), _annotated_at(annotation)
        if who not in latest or latest[who][0] <= at:
            latest[who] = (at, annotation.label)

    for known in existing:
        add(known)
    result = []
    for annotation in annotations:
        last = latest.get((annotation.sha256, _annotator(annotation)))
        repeated = (words := _words(annotation)) is not None and words in statements
        if not repeated and (last is None or last[1] != annotation.label):
            add(annotation)
            result.append(annotation)
    return result


def _words(annotation: Annotation) -> tuple[object, ...] | None:
    """Equal for annotations that are the same words again; None where only the order tells: a name without a date."""
    if _annotator(annotation) != annotation.annotator:
        return annotation.sha256, annotation.source == UNTRUSTED, annotation.label
    if annotation.labelled_at is None:
        return None
    return annotation.sha256, annotation.annotator, annotation.label, annotation.labelled_at


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
