"""Answers to label tasks."""

from collections import Counter
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select, update

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import amend, labels
from ml.datasets.labels import Annotation, LabelTaskRecord
from ml.errors import ConflictError, InvalidInputError, NotFoundError


@dataclass(frozen=True)
class LabelAnswer:
    """`version` is None when the answer confirmed the current label."""

    sha256: str
    label: str
    version: str | None


def answer(ctx: Context, task_id: int, label: str, *, actor: str) -> LabelAnswer:
    """Set a sample's label; the answer is stored as an annotation that overrides all earlier ones.

    Raises:
        NotFoundError: there is no such task.
        ConflictError: the task is not open any more.
        InvalidInputError: the task is about an image of the prediction log, or `label` is not a class.
    """
    with advisory_lock(ctx.engine, "datasets"):
        task = _open_task(ctx, task_id)
        if task.sha256 is None:
            raise InvalidInputError(
                f"task {task_id} is about a prediction: answer it by sending feedback on that prediction"
            )
        parent, manifest = amend.newest(ctx)
        if label not in manifest.classes:
            raise InvalidInputError(f"`{label}` is not a class; the classes are {', '.join(manifest.classes)}")
        digest = task.sha256
        with transaction(ctx.engine) as connection:
            current_label = connection.execute(select(samples.c.label).where(samples.c.sha256 == digest)).scalar_one()

        def write_rows(connection: Connection) -> None:
            labels.record(connection, [Annotation(digest, label, labels.OPERATOR, actor)])
            connection.execute(update(samples).where(samples.c.sha256 == digest).values(label=label))
            of_sample = (label_tasks.c.sha256 == digest) & (label_tasks.c.status == "open")
            connection.execute(update(label_tasks).where(of_sample).values(status="done"))

        if label == current_label:
            with transaction(ctx.engine) as connection:
                write_rows(connection)
            return LabelAnswer(digest, label, None)
        amended = replace(manifest, relabels={**manifest.relabels, digest: label})
        return LabelAnswer(
            digest, label, amend.commit(ctx, parent, amended, Counter(), f"label task {task_id}", write_rows)
        )


def dismiss(ctx: Context, task_id: int) -> None:
    """Close a task without an answer; raises NotFoundError for an unknown task, ConflictError for a closed one."""
    _open_task(ctx, task_id)
    with transaction(ctx.engine) as connection:
        connection.execute(update(label_tasks).where(label_tasks.c.id == task_id).values(status="dismissed"))


def _open_task(ctx: Context, task_id: int) -> LabelTaskRecord:
    with transaction(ctx.engine) as connection:
        row = connection.execute(select(label_tasks).where(label_tasks.c.id == task_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no label task has the id {task_id}; `evergreen labels list` shows the open ones")
    task = LabelTaskRecord(**row)
    if task.status != "open":
        raise ConflictError(f"label task {task_id} is {task.status} already")
    return task
