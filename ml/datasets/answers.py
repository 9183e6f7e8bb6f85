"""People answer the questions about labels."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select, update

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import amend, labels
from ml.errors import ConflictError, InvalidInputError, NotFoundError


@dataclass(frozen=True)
class LabelAnswer:
    """`version` is None when the label was right already."""

    sha256: str
    label: str
    version: str | None


def answer(ctx: Context, task_id: int, label: str, *, actor: str) -> LabelAnswer:
    """Settle a sample's label; the answer is kept as an annotation that outweighs all before it.

    Raises:
        NotFoundError: no such task.
        ConflictError: it is answered already.
        InvalidInputError: it asks about an image of the prediction log, or `label` is no class.
    """
    with advisory_lock(ctx.engine, "datasets"):
        task = _open(ctx, task_id)
        if task["sha256"] is None:
            raise InvalidInputError(f"task {task_id} asks about a prediction: answer it with feedback on that")
        parent, manifest = amend.newest(ctx)
        if label not in manifest.classes:
            raise InvalidInputError(f"`{label}` is no class; there are {', '.join(manifest.classes)}")
        digest = task["sha256"]
        with transaction(ctx.engine) as connection:
            now = connection.execute(select(samples.c.label).where(samples.c.sha256 == digest)).scalar_one()

        def within(connection: Connection) -> None:
            said = {"sha256": digest, "label": label, "source": labels.OPERATOR, "annotator": actor}
            labels.record(connection, [said])
            connection.execute(update(samples).where(samples.c.sha256 == digest).values(label=label))
            of_sample = (label_tasks.c.sha256 == digest) & (label_tasks.c.status == "open")
            connection.execute(update(label_tasks).where(of_sample).values(status="done"))

        if label == now:
            with transaction(ctx.engine) as connection:
                within(connection)
            return LabelAnswer(digest, label, None)
        made = replace(manifest, relabels={**manifest.relabels, digest: label})
        return LabelAnswer(digest, label, amend.commit(ctx, parent, made, Counter(), f"label task {task_id}", within))


def dismiss(ctx: Context, task_id: int) -> None:
    """Raises NotFoundError for no such task, ConflictError for one that is not open."""
    _open(ctx, task_id)
    with transaction(ctx.engine) as connection:
        connection.execute(update(label_tasks).where(label_tasks.c.id == task_id).values(status="dismissed"))


def _open(ctx: Context, task_id: int) -> dict[str, Any]:
    with transaction(ctx.engine) as connection:
        row = connection.execute(select(label_tasks).where(label_tasks.c.id == task_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no label task has the id {task_id}; `evergreen labels list` shows the open ones")
    if row["status"] != "open":
        raise ConflictError(f"label task {task_id} is {row['status']} already")
    return dict(row)
