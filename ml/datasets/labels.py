"""Which label a sample has, when several people have said something of it: the setting `label_policy`.

Every annotation is kept. Of one annotator only the newest counts; an annotation without a name
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
"""Source of an annotation that outweighs all before it."""
_PAGE: Final = 1000


def current(annotations: Sequence[Mapping[str, Any]], stands: str, settings: Settings) -> str:
    """The label by the setting `label_policy`.

    ``latest``: the newest annotation's. ``majority``: the label most annotators give; on a tie the
    one that stands. ``trusted``: what the first of `trusted_annotators` who said anything says, else
    the majority.

    Args:
        annotations: `label`, `annotator`, `labelled_at`, `created_at`, `drop_id`, in the order in which they came.
        stands: the label the sample has now.
    """
    by_annotator = _answers(annotations)
    if not by_annotator:
        return stands
    if settings.label_policy == "latest":
        return str(list(by_annotator.values())[-1])
    if settings.label_policy == "trusted":
        for name in settings.trusted_annotators:
            if name in by_annotator:
                return str(by_annotator[name])
    ranked = Counter(by_annotator.values()).most_common(2)
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return stands if tied else str(ranked[0][0])


def _answers(annotations: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Annotator → what they said last, in the order of time; from the operator's word on, if there is one."""
    spoken = [i for i, a in enumerate(annotations) if a.get("source") == OPERATOR]
    counted = annotations[spoken[-1] :] if spoken else annotations
    answers: dict[str, str] = {}
    for annotation in sorted(counted, key=_when):
        answers.pop(_who(annotation), None)
        answers[_who(annotation)] = annotation["label"]
    return answers


def _who(annotation: Mapping[str, Any]) -> str:
    return annotation["annotator"] or f"drop {annotation['drop_id']}"


def _when(annotation: Mapping[str, Any]) -> datetime:
    when: datetime | None = annotation["labelled_at"] or annotation.get("created_at")
    return when or datetime.now(UTC)  # not written yet


def annotations_of(connection: Connection, hashes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Every annotation of these samples, in the order in which they came."""
    found: dict[str, list[dict[str, Any]]] = {}
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        for row in connection.execute(select(labels).where(labels.c.sha256.in_(page)).order_by(labels.c.id)).mappings():
            found.setdefault(row["sha256"], []).append(dict(row))
    return found


def from_row(row: Mapping[str, Any], drop_id: str) -> list[dict[str, Any]]:
    """The annotations that a validated row of a drop carries, as rows of table `labels`."""
    return [
        {
            "sha256": row["sha256"],
            "source": "drop",
            "drop_id": drop_id,
            "label": told["label"],
            "annotator": told["annotator"],
            "confidence": told["confidence"],
            "labelled_at": told["labelled_at"],
        }
        for told in (row, *(row["others"] or ()))
    ]


def news(told: Iterable[Mapping[str, Any]], known: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Annotations that say something new: the same word of the same person, or of nobody, is no news."""
    said = {(k["sha256"], k["annotator"], k["label"]) for k in known}
    fresh = []
    for annotation in told:
        what = (annotation["sha256"], annotation["annotator"], annotation["label"])
        if what not in said:
            said.add(what)
            fresh.append(dict(annotation))
    return fresh


def record(connection: Connection, annotations: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(annotations), _PAGE):
        connection.execute(insert(labels), [dict(a) for a in annotations[start : start + _PAGE]])


def open_tasks(connection: Connection, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Ask people about samples; a question that is open already is not asked twice.

    Args:
        tasks: `sha256`, `reason`, `score`, `label`, `suggested`, `details`.
    """
    for start in range(0, len(tasks), _PAGE):
        connection.execute(
            upsert(label_tasks).on_conflict_do_nothing(), [dict(t) for t in tasks[start : start + _PAGE]]
        )


def close_tasks(connection: Connection, hashes: Sequence[str]) -> None:
    """A sample whose annotators agree now needs no answer any more."""
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        connection.execute(
            update(label_tasks)
            .where(label_tasks.c.sha256.in_(page), label_tasks.c.reason == CONFLICT, label_tasks.c.status == "open")
            .values(status="done")
        )


def disagreement(annotations: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Label → annotators who give it, if they do not all agree; else empty."""
    votes = Counter(_answers(annotations).values())
    return dict(votes) if len(votes) > 1 else {}


def tasks(ctx: Context, limit: int) -> list[dict[str, Any]]:
    """Open label tasks, the most doubtful first."""
    query = select(label_tasks).where(label_tasks.c.status == "open")
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(label_tasks.c.score.desc(), label_tasks.c.id).limit(limit))
        return [dict(row) for row in rows.mappings()]
