"""The queue of label tasks: of samples, and of predictions, about which feedback proposes and people answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, update

from ml.catalog.tables import class_proposals, feedback, label_tasks, predictions
from ml.errors import ConflictError, NotFoundError

REASON: Final = "feedback"
_WITHDRAWN: Final = "withdrawn"


@dataclass(frozen=True, slots=True)
class JudgedPrediction:
    """The columns of a logged prediction that feedback on it depends on; `at` is None where only its task is known."""

    id: UUID
    at: datetime | None
    caller: str | None
    label: str
    probability: float
    model_version: int
    image_sha256: str


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one end user of one caller says of an image."""

    key_id: str
    source: str
    label: str
    level: str
    given_at: datetime


@dataclass(frozen=True, slots=True)
class LabelTaskRecord:
    """A row of `label_tasks`: of a sample or of a prediction.

    Attributes:
        score: doubt about the label, 0 to 1.
        label: what the sample's label is, or what the model answered.
        suggested: what it may be instead.
        details: JSON that explains the doubt.
    """

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


def open_tasks(connection: Connection, limit: int) -> list[LabelTaskRecord]:
    """Open tasks, highest score first."""
    query = select(label_tasks).where(label_tasks.c.status == "open")
    rows = connection.execute(query.order_by(label_tasks.c.score.desc(), label_tasks.c.id).limit(limit))
    return [LabelTaskRecord(**row) for row in rows.mappings()]


def count_open(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(label_tasks.c.status == "open")).scalar_one()


def votes(opinions: Sequence[Opinion]) -> dict[str, str]:
    """The label of each caller: what most of its end users say, the newest of these where they tie.

    However many end users a caller names, it has one vote.
    """
    by_caller: dict[str, dict[str, Opinion]] = {}
    for opinion in sorted(opinions, key=lambda o: o.given_at):
        by_caller.setdefault(opinion.key_id, {})[opinion.source] = opinion  # their last word
    chosen = {}
    for caller, latest in by_caller.items():
        counts = Counter(o.label for o in latest.values())
        newest = {o.label: o.given_at for o in sorted(latest.values(), key=lambda o: o.given_at)}
        chosen[caller] = max(counts, key=lambda label: (counts[label], newest[label]))
    return chosen


def refresh(
    connection: Connection, prediction: JudgedPrediction, known: set[str], excluded: set[str], most_open: int
) -> bool:
    """Make the task of an image agree with its feedback; False if a task is wanted and the queue is full.

    There is one task an image. It is open while somebody whose word does not decide says other than the model did, and
    closed when nobody does any more or a reviewer decided. What people closed is not asked again.
    """
    opinions = opinions_of(connection, prediction.image_sha256, excluded)
    reviewed = max((o.given_at for o in opinions if o.level == "review" and o.label in known), default=None)
    proposals = _proposals(opinions, prediction.label, known, reviewed)
    of_image = (label_tasks.c.sha256 == prediction.image_sha256) & (label_tasks.c.reason == REASON)
    query = select(label_tasks.c.id, label_tasks.c.status, label_tasks.c.details).where(of_image)
    task = connection.execute(query.order_by(label_tasks.c.id.desc()).limit(1).with_for_update()).one_or_none()
    if not proposals:
        if task is not None and task.status == "open":
            _close(connection, task, withdrawn=reviewed is None)
        return True
    if task is not None and task.status != "open" and not task.details.get(_WITHDRAWN):
        return True
    values = _values(prediction, proposals, known)
    if task is not None:
        connection.execute(update(label_tasks).where(label_tasks.c.id == task.id).values(status="open", **values))
        return True
    waiting = select(func.count()).where(label_tasks.c.reason == REASON, label_tasks.c.status == "open")
    if connection.execute(waiting).scalar_one() >= most_open:
        return False
    connection.execute(
        insert(label_tasks).values(prediction_id=prediction.id, sha256=prediction.image_sha256, reason=REASON, **values)
    )
    return True


def prediction_of(task: Mapping[Any, Any]) -> JudgedPrediction:
    """What a task, a row of `label_tasks`, says of its prediction; the log may not have it any more."""
    details = task["details"]
    return JudgedPrediction(
        id=task["prediction_id"],
        at=None,
        caller=None,
        label=task["label"],
        probability=details["probability"],
        model_version=details["model_version"],
        image_sha256=task["sha256"],
    )


def image_of(connection: Connection, prediction_id: UUID) -> tuple[str, int, int] | None:
    """Object, offset and size of the image of a prediction with feedback; None if it is not kept."""
    of_prediction = feedback.c.prediction_id == prediction_id
    at = connection.execute(select(feedback.c.predicted_at).where(of_prediction).limit(1)).scalar()
    columns = (predictions.c.image_object, predictions.c.image_offset, predictions.c.image_size)
    query = select(*columns).where(predictions.c.id == prediction_id, predictions.c.at == at)
    row = connection.execute(query.where(predictions.c.image_object.is_not(None))).one_or_none()
    return (row.image_object, row.image_offset, row.image_size) if row else None


def image_of_task(connection: Connection, task_id: int) -> tuple[str, int, int] | None:
    """As `image_of`, of the prediction that a task is about; None for a sample's."""
    query = select(label_tasks.c.prediction_id).where(label_tasks.c.id == task_id)
    prediction_id = connection.execute(query).scalar()
    return image_of(connection, prediction_id) if prediction_id else None


def opinions_of(connection: Connection, image_sha256: str, excluded: set[str]) -> list[Opinion]:
    """What counts now about an image: of callers who are neither paused nor revoked, with no declined class."""
    columns = (*(feedback.c.key_id, feedback.c.source, feedback.c.label), *(feedback.c.level, feedback.c.given_at))
    declined = select(class_proposals.c.name).where(class_proposals.c.status == "declined")
    query = select(*columns).where(
        *(feedback.c.image_sha256 == image_sha256, feedback.c.status == "stored", feedback.c.revoked_at.is_(None)),
        feedback.c.label.not_in(declined),
    )
    return [Opinion(**row) for row in connection.execute(query).mappings() if row["key_id"] not in excluded]


def close(connection: Connection, task_id: int, status: str, label: str | None, actor: str) -> None:
    """Close an open task.

    Raises:
        NotFoundError: there is no such task.
        ConflictError: it is not open any more.
    """
    statement = update(label_tasks).where(label_tasks.c.id == task_id, label_tasks.c.status == "open")
    if connection.execute(statement.values(status=status, answer=label, answered_by=actor)).rowcount:
        return
    known = connection.execute(select(label_tasks.c.status).where(label_tasks.c.id == task_id)).scalar()
    if known is None:
        raise NotFoundError(f"no label task has the id {task_id}; `evergreen labels list` shows the open ones")
    raise ConflictError(f"label task {task_id} is {known} already")


def _proposals(
    opinions: Sequence[Opinion], predicted: str, known: set[str], reviewed: datetime | None
) -> list[Opinion]:
    """Opinions that a person has to look at: other than the model's answer, and newer than any reviewer's."""
    chosen = votes(opinions)
    return [
        o
        for o in opinions
        if o.label != predicted
        and chosen[o.key_id] == o.label
        and (o.level == "propose" or o.label not in known)
        and (reviewed is None or o.given_at > reviewed)
    ]


def _values(prediction: JudgedPrediction, proposals: Sequence[Opinion], known: set[str]) -> dict[str, Any]:
    by_label = Counter(votes(proposals).values())
    suggested = max(by_label, key=lambda label: (by_label[label], label))
    callers = by_label.total()
    details: dict[str, Any] = {
        "predicted": prediction.label,
        "probability": round(prediction.probability, 4),
        "model_version": prediction.model_version,
        "votes": dict(by_label),
        "persons": len({(o.key_id, o.source) for o in proposals}),
        "new_classes": sorted(set(by_label) - known),
    }
    return {"score": callers / (callers + 1), "label": prediction.label, "suggested": suggested, "details": details}


def _close(connection: Connection, task: Row[int, str, Any], *, withdrawn: bool) -> None:
    details: Mapping[str, Any] = task.details | ({_WITHDRAWN: True} if withdrawn else {})
    status = "dismissed" if withdrawn else "done"
    connection.execute(update(label_tasks).where(label_tasks.c.id == task.id).values(status=status, details=details))
