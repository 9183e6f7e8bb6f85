"""Annotations and label tasks; the setting `label_policy` determines a sample's label from its annotations.

Every annotation is stored. Only the newest of each annotator counts; an annotation without an annotator
counts as its drop's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

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


def resolve_label(annotations: Sequence[Mapping[str, Any]], current_label: str, settings: Settings) -> str:
    """Return the label of a sample by the setting `label_policy`.

    ``latest``: the newest annotation. ``majority``: the label that most annotators give; the current one on a tie.
    ``trusted``: the label of the first of `trusted_annotators` who annotated the sample, else the majority.

    Args:
        annotations: `label`, `annotator`, `labelled_at`, `created_at`, `drop_id`, in order of insertion.
        current_label: the label the sample has now.
    """
    by_annotator = _latest_by_annotator(annotations)
    if not by_annotator:
        return current_label
    if settings.label_policy == "latest":
        return str(list(by_annotator.values())[-1])
    if settings.label_policy == "trusted":
        for name in settings.trusted_annotators:
            if name in by_annotator:
                return str(by_annotator[name])
    ranked = Counter(by_annotator.values()).most_common(2)
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return current_label if tied else str(ranked[0][0])


def _latest_by_annotator(annotations: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Annotator → latest label, in time order; annotations before the last one of an operator are ignored."""
    by_operator = [i for i, a in enumerate(annotations) if a.get("source") == OPERATOR]
    counted = annotations[by_operator[-1] :] if by_operator else annotations
    latest: dict[str, str] = {}
    for annotation in sorted(counted, key=_annotated_at):
        latest.pop(_annotator(annotation), None)
        latest[_annotator(annotation)] = annotation["label"]
    return latest


def _annotator(annotation: Mapping[str, Any]) -> str:
    return annotation["annotator"] or f"drop {annotation['drop_id']}"


def _annotated_at(annotation: Mapping[str, Any]) -> datetime:
    timestamp: datetime | None = annotation["labelled_at"] or annotation.get("created_at")
    return timestamp or datetime.now(UTC)  # not written yet


def annotations_of(connection: Connection, hashes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """All annotations of these samples, in order of insertion."""
    by_sample: dict[str, list[dict[str, Any]]] = {}
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        for row in connection.execute(select(labels).where(labels.c.sha256.in_(page)).order_by(labels.c.id)).mappings():
            by_sample.setdefault(row["sha256"], []).append(dict(row))
    return by_sample


def from_row(row: Mapping[str, Any], drop_id: str) -> list[dict[str, Any]]:
    """The annotations in a validated row of a drop, as rows of table `labels`."""
    return [
        {
            "sha256": row["sha256"],
            "source": "drop",
            "drop_id": drop_id,
            "label": annotation["label"],
            "annotator": annotation["annotator"],
            "confidence": annotation["confidence"],
            "labelled_at": annotation["labelled_at"],
        }
        for annotation in (row, *(row["others"] or ()))
    ]


def new_annotations(
    annotations: Iterable[Mapping[str, Any]], existing: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return annotations that repeat no existing one (same sample, same annotator or none, same label)."""
    keys = {(k["sha256"], k["annotator"], k["label"]) for k in existing}
    result = []
    for annotation in annotations:
        key = (annotation["sha256"], annotation["annotator"], annotation["label"])
        if key not in keys:
            keys.add(key)
            result.append(dict(annotation))
    return result


def record(connection: Connection, annotations: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(annotations), _PAGE):
        connection.execute(insert(labels), [dict(a) for a in annotations[start : start + _PAGE]])


def open_tasks(connection: Connection, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Open label tasks; one that is open already for the same sample and reason is not duplicated.

    Args:
        tasks: `sha256`, `reason`, `score`, `label`, `suggested`, `details`.
    """
    for start in range(0, len(tasks), _PAGE):
        connection.execute(
            upsert(label_tasks).on_conflict_do_nothing(), [dict(t) for t in tasks[start : start + _PAGE]]
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


def disagreement(annotations: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Label → number of annotators who give it; empty if all agree."""
    votes = Counter(_latest_by_annotator(annotations).values())
    return dict(votes) if len(votes) > 1 else {}


def tasks(ctx: Context, limit: int) -> list[dict[str, Any]]:
    """Open label tasks, highest score first."""
    query = select(label_tasks).where(label_tasks.c.status == "open")
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(label_tasks.c.score.desc(), label_tasks.c.id).limit(limit))
        return [dict(row) for row in rows.mappings()]
