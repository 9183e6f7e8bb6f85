"""Answers of people to label tasks, as far as the catalog alone can take them.

What is said of a prediction becomes a reviewer's feedback on it. What is said of a sample waits in the task until the
next collection of feedback, which can make a dataset version: `ml.datasets.answers`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from sqlalchemy import Connection, select

from ml.catalog import feedback, label_queue
from ml.catalog.feedback import FeedbackRecord
from ml.catalog.tables import feedback as feedback_table
from ml.catalog.tables import label_tasks
from ml.errors import InvalidInputError, NotFoundError

About = Literal["prediction", "sample"]


@dataclass(frozen=True)
class Reviewer:
    """Who answers: `key_id` is the identity of the API key, or `feedback.OPERATOR`; `name` is for people."""

    key_id: str
    name: str


_MOST_NAMED: Final = 20


def _some(names: set[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(sorted(names)[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def answer(connection: Connection, task_id: int, label: str, reviewer: Reviewer) -> About:
    """Answer an open task with the name of a class.

    Raises:
        NotFoundError: there is no such task.
        ConflictError: it is not open any more.
        InvalidInputError: the label is no class, or nothing is kept about the image.
    """
    known = feedback.known_classes(connection)
    label = feedback.checked_label(connection, label, known)
    if label not in known:
        raise InvalidInputError(
            f"`{label}` is not a class: choose one of {_some(known)}, or make it one by `evergreen classes confirm`"
        )
    task = connection.execute(select(label_tasks).where(label_tasks.c.id == task_id)).one_or_none()
    if task is None:
        raise NotFoundError(f"no label task has the id {task_id}; `evergreen labels list` shows the open ones")
    if task.prediction_id is None:
        label_queue.close(connection, task_id, "answered", label, reviewer.name)
        return "sample"
    label_queue.close(connection, task_id, "done", label, reviewer.name)
    query = select(feedback_table.c.predicted_at).where(feedback_table.c.prediction_id == task.prediction_id).limit(1)
    record = FeedbackRecord(
        prediction_id=task.prediction_id,
        predicted_at=connection.execute(query).scalar_one(),
        client_key=None,
        caller=reviewer.name,
        label=label,
        source=reviewer.name[:100],
        comment=f"answer to label task {task_id}",
        given_at=datetime.now(UTC),
        key_id=reviewer.key_id,
        level="review",
    )
    feedback.store_decision(connection, record, task.sha256)
    return "prediction"
