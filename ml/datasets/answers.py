"""Answers to label tasks, and reviewers' decisions on predictions: they override all earlier annotations."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, Row, bindparam, exists, func, select, update

from ml.catalog import existing_samples, feedback, label_answers, label_changes, label_queue
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback import OPERATOR
from ml.catalog.label_answers import Reviewer
from ml.catalog.label_changes import LabelChange
from ml.catalog.label_queue import LabelTaskRecord
from ml.catalog.tables import feedback as feedback_table
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import amend, labels, loader, segments
from ml.datasets.labels import Annotation
from ml.errors import NotFoundError

_MOST: Final = 1000


@dataclass(frozen=True)
class LabelAnswer:
    """The label of an image.

    Attributes:
        version: the new dataset version; None when the answer confirmed the current label, or waits.
        waits: it is about a prediction, and counts from the next collection of feedback on.
    """

    sha256: str
    label: str
    version: str | None
    waits: bool = False


@dataclass(frozen=True)
class Decision:
    """A label that outweighs all annotations before it; `annotator` is who decided."""

    sha256: str
    label: str
    annotator: str


def answer(ctx: Context, task_id: int, label: str, *, actor: str) -> LabelAnswer:
    """Set the label of a task's image.

    Raises:
        NotFoundError: there is no such task.
        ConflictError: the task is not open any more.
        InvalidInputError: `label` is not a class.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            about = label_answers.answer(connection, task_id, label, Reviewer(OPERATOR, actor))
        task = get(ctx, task_id)
        digest, chosen = str(task.sha256), str(task.answer)
        if about == "prediction":
            return LabelAnswer(digest, chosen, None, waits=True)
        version = decide(ctx, [Decision(digest, chosen, actor)], f"label task {task_id}")
    return LabelAnswer(digest, chosen, version)


def dismiss(ctx: Context, task_id: int, *, actor: str) -> None:
    """Close a task without an answer; raises NotFoundError for an unknown task, ConflictError for a closed one."""
    with transaction(ctx.engine) as connection:
        label_queue.close(connection, task_id, "dismissed", None, actor)


def get(ctx: Context, task_id: int) -> LabelTaskRecord:
    """The task, open or not; raises NotFoundError where there is none."""
    with transaction(ctx.engine) as connection:
        row = connection.execute(select(label_tasks).where(label_tasks.c.id == task_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no label task has the id {task_id}; `evergreen labels list` shows the open ones")
    return LabelTaskRecord(**row)


def image(ctx: Context, task: LabelTaskRecord) -> bytes:
    """The encoded image that a task is about.

    Raises:
        NotFoundError: it is not kept, or is kept no longer.
    """
    gone = NotFoundError(f"the image of label task {task.id} is not kept, or is kept no longer")
    if task.prediction_id is not None:
        with transaction(ctx.engine) as connection:
            place = label_queue.image_of(connection, task.prediction_id)
        if place is None:
            raise gone
        return ctx.store.get(*place)
    with transaction(ctx.engine) as connection:
        segment = connection.execute(select(samples.c.segment_id).where(samples.c.sha256 == task.sha256)).scalar()
    row = next((r for r in loader.index(ctx, segment) if r["sha256"] == task.sha256), None) if segment else None
    if segment is None or row is None:
        raise gone
    _, data = next(iter(segments.read_samples(ctx.store, segment, [row])))
    return bytes(data)


def apply_answered(ctx: Context) -> int:
    """Apply the answers that the service took, and reviewers' decisions on images that are samples; returns how many.

    Idempotent: if the process is killed, running it again applies the rest.

    Raises:
        ConflictError: another version was created meanwhile; retry.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            answered = connection.execute(
                select(label_tasks).where(label_tasks.c.status == "answered").order_by(label_tasks.c.id).limit(_MOST)
            ).all()
            reviewed = _reviews(connection)
        decisions = {row.sha256: Decision(row.sha256, row.answer, row.answered_by) for row in answered}
        decisions |= {r.image_sha256: Decision(r.image_sha256, r.label, feedback.annotator(r.key_id)) for r in reviewed}
        if not decisions:
            return 0
        ids = [row.id for row in reviewed]

        def mark_applied(connection: Connection) -> None:
            rows = update(feedback_table).where(feedback_table.c.id.in_(ids))
            connection.execute(rows.values(applied_at=func.now()))

        decide(ctx, list(decisions.values()), f"{len(decisions)} decisions of reviewers", mark_applied)
        return len(decisions)


def decide(
    ctx: Context, decisions: Sequence[Decision], cause: str, also: Callable[[Connection], None] | None = None
) -> str | None:
    """Make these the labels of samples; the new dataset version, None if they were so already.

    The caller must hold the lock `datasets`.

    Args:
        decisions: at most one a sample; those about images that are no samples are passed over.
        cause: what created the version; stored.
        also: writes further rows in the same transaction.
    """
    parent, manifest = amend.newest(ctx)
    stored = existing_samples.labels_and_splits(ctx.engine, [d.sha256 for d in decisions])
    current = {digest: label for digest, (label, _) in stored.items()}
    known = [replace(d, label=manifest.class_map.get(d.label, d.label)) for d in decisions if d.sha256 in current]
    changes = [
        LabelChange(d.sha256, stored[d.sha256][1], current[d.sha256], d.label, d.annotator, cause)
        for d in known
        if d.label != current[d.sha256]
    ]
    relabels = {change.sha256: change.after for change in changes}

    def write_rows(connection: Connection) -> None:
        labels.record(connection, [Annotation(d.sha256, d.label, labels.OPERATOR, d.annotator) for d in known])
        if relabels:
            statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
            connection.execute(statement, [{"digest": digest, "new": new} for digest, new in relabels.items()])
            label_changes.record(connection, changes)
        of_samples = label_tasks.c.sha256.in_([d.sha256 for d in decisions])
        unanswered = label_tasks.c.status.in_(("open", "answered"))
        connection.execute(update(label_tasks).where(of_samples, unanswered).values(status="done"))
        if also:
            also(connection)

    if not relabels:
        with transaction(ctx.engine) as connection:
            write_rows(connection)
        return None
    amended = replace(
        manifest,
        relabels={**manifest.relabels, **relabels},
        classes=tuple(sorted({*manifest.classes, *relabels.values()})),
    )
    return amend.commit(ctx, parent, amended, Counter(), cause, write_rows)


def _reviews(connection: Connection) -> Sequence[Row[int, str, str, str]]:
    """The newest decision of reviewers on each image that is a sample, where it was not applied yet."""
    table = feedback_table.c
    stored = exists().where(samples.c.sha256 == table.image_sha256)
    later = feedback_table.alias("later").c
    overruled = exists().where(
        *(later.image_sha256 == table.image_sha256, later.level == "review", later.status == "stored"),
        *(later.revoked_at.is_(None), later.given_at > table.given_at),
    )
    query = (
        select(table.id, table.image_sha256, table.label, table.key_id)
        .where(table.level == "review", table.status == "stored", table.revoked_at.is_(None), stored, ~overruled)
        .where(table.applied_at.is_(None), table.label.in_(feedback.known_classes(connection)))
        .where(table.key_id.not_in(feedback.excluded_callers(connection)))
    )
    return connection.execute(query.order_by(table.given_at).limit(_MOST)).all()
