"""Feedback on predictions: who may say what, and what it counts as.

The identity of feedback is the API key, across its rotations; a key may name the end user for whom it speaks. Each
end user has one row a prediction, the latest replaces earlier ones, and all end users of a key together are one
annotator, ``key:<identity>``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self
from uuid import UUID

from sqlalchemy import (
    Connection,
    case,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import class_names, erasures, existing_samples, label_queue
from ml.catalog.api_keys import Level
from ml.catalog.classes import class_map
from ml.catalog.label_queue import JudgedPrediction
from ml.catalog.tables import (
    class_proposals,
    feedback,
    feedback_callers,
    feedback_drops,
    feedback_waiting,
    predictions,
)
from ml.errors import InvalidInputError
from ml.settings import Settings

Outcome = Literal["new", "known", "waiting"]
Standing = Literal["queued", "vote", "decision", "new_class", "unknown"]
RefusalCode = Literal["declined_class", "erased", "expired", "foreign_prediction", "near_class", "revoked", "too_many"]

LOCAL: Final = "local"
"""Identity of a program of the service's own machine that needs no key."""
OPERATOR: Final = "operator"
"""Identity of whoever answers label tasks on the command line."""
_CLOCK_SKEW: Final = timedelta(minutes=5)
_PAGE: Final = 1000


class FeedbackRefusedError(InvalidInputError):
    """Feedback that cannot count, whenever it is sent; `code` is for programs."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class FeedbackLimits:
    """Bounds on what callers may add; `ml.settings.monitoring` explains them."""

    votes_a_minute: int = 30
    waiting: int = 1000
    open_tasks: int = 10_000
    retention_days: int = 90

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            settings.feedback_votes_a_minute,
            settings.feedback_most_waiting,
            settings.feedback_open_tasks,
            settings.retention_days,
        )


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback on a prediction, identified by its id or by the key that the client sent with the image.

    Attributes:
        predicted_at: the timestamp in `prediction_id`.
        caller: name of the API key, if keys are used; client keys are unique per caller.
        source: the end user for whom the caller speaks.
        key_id: identity of the caller; empty where it is not known, as of records spooled by earlier versions.
        level: what the key was allowed when the feedback was given.
    """

    prediction_id: UUID | None
    predicted_at: datetime | None
    client_key: str | None
    caller: str | None
    label: str
    source: str
    comment: str | None
    given_at: datetime
    key_id: str = ""
    level: Level = "propose"


@dataclass(frozen=True)
class StoredFeedback:
    """What became of feedback.

    Attributes:
        standing: ``queued``: a proposal, which people decide; ``vote``: of an annotator; ``decision``: of a reviewer;
            ``new_class``: a proposal until a reviewer confirms the class; ``unknown``: its prediction is not known.
    """

    outcome: Outcome
    standing: Standing


def annotator(key_id: str) -> str:
    """The name under which a caller's vote is in a drop and among the annotations."""
    return f"key:{key_id}"


def store(
    connection: Connection,
    record: FeedbackRecord,
    limits: FeedbackLimits | None = None,
    known: set[str] | None = None,
) -> StoredFeedback:
    """Insert feedback, or update that of the same caller and end user unless the stored one is newer.

    A client key refers to the newest prediction with that key. If the prediction has not been logged yet, the
    feedback waits for it.

    Args:
        known: `known_classes`, where the caller has read them already.

    Raises:
        FeedbackRefusedError: it can never count; the code says why.
    """
    limits = limits or FeedbackLimits()
    _refuse_revoked(connection, record.key_id)
    known = known_classes(connection) if known is None else known
    record = replace(record, label=checked_label(connection, record.label, known))
    prediction = _prediction(connection, record, limits)
    if prediction is None:
        _refuse_too_many_waiting(connection, record, limits)
        if record.prediction_id is None:
            _store_by_client_key(connection, record)
        else:
            _write(connection, record, record.prediction_id, record.predicted_at, None)
        return StoredFeedback("waiting", "unknown")
    return _store_judged(connection, record, prediction, known, limits)


def store_decision(connection: Connection, record: FeedbackRecord, image_sha256: str) -> None:
    """Store a reviewer's word on an image whose prediction may be past retention.

    Raises:
        FeedbackRefusedError: the image was erased.
    """
    if record.prediction_id is None or erasures.erased(connection, [image_sha256]):
        raise FeedbackRefusedError("erased", "the image was erased: nothing about it is kept")
    _, row_id = _write(connection, record, record.prediction_id, record.predicted_at, image_sha256)
    mark_queued(connection, [] if row_id is None else [row_id])


def checked_label(connection: Connection, label: str, known: Iterable[str]) -> str:
    """The label under the current name of its class.

    Raises:
        FeedbackRefusedError: it is no class and differs from one only by case, spacing or punctuation, or a person said
            that it is none.
    """
    label = class_names.normalised(label)
    label = class_map(connection).get(label, label)
    refuse_near(label, known)
    declined = (class_proposals.c.name == label) & (class_proposals.c.status == "declined")
    if label not in known and connection.execute(select(class_proposals.c.name).where(declined)).first():
        raise FeedbackRefusedError("declined_class", f"`{label}` is not a class: it was proposed and declined")
    return label


def refuse_near(label: str, known: Iterable[str]) -> None:
    """Raise FeedbackRefusedError for a label that is no class and is written nearly like one."""
    known = set(known)
    if known and label not in known and (near := class_names.near(label, known)):
        suggestions = " or ".join(f"`{name}`" for name in near)
        raise FeedbackRefusedError("near_class", f"`{label}` is not a class; did you mean {suggestions}?")


def known_classes(connection: Connection) -> set[str]:
    """Classes of the newest dataset version, and those that a person confirmed."""
    confirmed = select(class_proposals.c.name).where(class_proposals.c.status == "confirmed")
    return existing_samples.classes(connection) | set(connection.execute(confirmed).scalars())


def known_labels(connection: Connection) -> set[str]:
    """Known classes under all names they had: feedback keeps the name of its time."""
    known = known_classes(connection)
    return known | {old for old, new in class_map(connection).items() if new in known}


def levels_by_annotator(connection: Connection, drop_prefix: str) -> dict[str, Level]:
    """The annotators of a drop that the loop made of feedback, with their levels; empty for every other drop.

    Levels are those of the time of collection; a caller that was paused or revoked since only proposes.
    """
    query = select(feedback_drops.c.key_id, feedback_drops.c.level).where(feedback_drops.c.prefix == drop_prefix)
    rows, excluded = connection.execute(query).all(), excluded_callers(connection)
    return {annotator(key_id): "propose" if key_id in excluded else level for key_id, level in rows}


def excluded_callers(connection: Connection) -> set[str]:
    """Identities whose feedback does not count now: paused or revoked."""
    query = select(feedback_callers.c.key_id).where(feedback_callers.c.status.in_(("paused", "revoked")))
    return set(connection.execute(query).scalars())


def _store_judged(
    connection: Connection,
    record: FeedbackRecord,
    prediction: JudgedPrediction,
    known: set[str],
    limits: FeedbackLimits,
) -> StoredFeedback:
    if record.level != "review" and record.key_id not in (LOCAL, OPERATOR) and record.caller != prediction.caller:
        raise FeedbackRefusedError(
            "foreign_prediction", "this key asked for no such prediction; a key with the role `review` may judge it"
        )
    if erasures.erased(connection, [prediction.image_sha256]):
        raise FeedbackRefusedError("erased", "the image of this prediction was erased: nothing about it is kept")
    if record.level == "annotate" and _votes_of_last_minute(connection, record) >= limits.votes_a_minute:
        record = replace(record, level="propose")
    outcome, row_id = _write(connection, record, prediction.id, prediction.at, prediction.image_sha256)
    excluded = excluded_callers(connection)
    if (
        row_id is not None
        and record.key_id not in excluded
        and label_queue.refresh(connection, prediction, known, excluded, limits.open_tasks)
    ):
        mark_queued(connection, [row_id])
    return StoredFeedback(outcome, _standing(record, known))


def _standing(record: FeedbackRecord, known: set[str]) -> Standing:
    if record.label not in known:
        return "new_class"
    standings: dict[Level, Standing] = {"propose": "queued", "annotate": "vote", "review": "decision"}
    return standings[record.level]


def _write(
    connection: Connection,
    record: FeedbackRecord,
    prediction_id: UUID,
    predicted_at: datetime | None,
    image_sha256: str | None,
) -> tuple[Outcome, int | None]:
    """Insert or update the row; returns its id, None if the stored feedback is newer."""
    statement = insert(feedback).values(
        prediction_id=prediction_id,
        predicted_at=predicted_at,
        label=record.label,
        source=record.source,
        comment=record.comment,
        caller=record.caller,
        given_at=record.given_at,
        key_id=record.key_id,
        level=record.level,
        status="waiting" if image_sha256 is None else "stored",
        image_sha256=image_sha256,
    )
    new = statement.excluded
    relabels = feedback.c.label != record.label
    collected = feedback.c.drop_prefix.is_not(None) | feedback.c.applied_at.is_not(None)
    # A changed label has not been part of any drop yet; one that is in the data already is taken out at once.
    changes = {
        "drop_prefix": case((relabels, null()), else_=feedback.c.drop_prefix),
        "applied_at": case((relabels, null()), else_=feedback.c.applied_at),
        "changed": case((relabels, feedback.c.changed | collected), else_=feedback.c.changed),
        "queued": False,
        "revoked_at": None,
    }
    names = ("label", "comment", "given_at", "level", "status", "image_sha256")
    statement = statement.on_conflict_do_update(
        index_elements=["prediction_id", "key_id", "source"],
        set_={name: new[name] for name in names} | changes,
        where=feedback.c.given_at <= new.given_at,
    )
    # xmax is 0 for an inserted row; no row is returned if the stored feedback is newer.
    row = connection.execute(statement.returning(feedback.c.id, literal_column("xmax = 0"))).one_or_none()
    return ("new" if row and row[1] else "known"), (row[0] if row else None)


def _store_by_client_key(connection: Connection, record: FeedbackRecord) -> None:
    statement = insert(feedback_waiting).values(
        client_key=record.client_key,
        caller=record.caller or "",
        source=record.source,
        label=record.label,
        comment=record.comment,
        given_at=record.given_at,
        key_id=record.key_id,
        level=record.level,
    )
    new = statement.excluded
    names = ("label", "comment", "given_at", "key_id", "level")
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["client_key", "caller", "source"],
            set_={name: new[name] for name in names},
            where=feedback_waiting.c.given_at <= new.given_at,
        )
    )


def mark_queued(connection: Connection, ids: list[int]) -> None:
    connection.execute(update(feedback).where(feedback.c.id.in_(ids)).values(queued=True))


def _refuse_revoked(connection: Connection, key_id: str) -> None:
    query = select(feedback_callers.c.reason).where(
        feedback_callers.c.key_id == key_id, feedback_callers.c.status == "revoked"
    )
    if (reason := connection.execute(query).scalar()) is not None:
        raise FeedbackRefusedError("revoked", f"feedback with this key is not taken any more: {reason}")


def _refuse_too_many_waiting(connection: Connection, record: FeedbackRecord, limits: FeedbackLimits) -> None:
    waiting = 0
    for table, condition in ((feedback, feedback.c.status == "waiting"), (feedback_waiting, true())):
        some = select(table.c.key_id).where(table.c.key_id == record.key_id, condition).limit(limits.waiting)
        waiting += connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()
    if waiting >= limits.waiting:
        detail = f"{waiting} opinions with this key wait for predictions that are not in the log; try again later"
        raise FeedbackRefusedError("too_many", detail)


def _votes_of_last_minute(connection: Connection, record: FeedbackRecord) -> int:
    """Other votes of the caller in the minute before this one; a burst is looked at by people."""
    query = select(func.count()).where(
        feedback.c.key_id == record.key_id,
        feedback.c.given_at > record.given_at - timedelta(minutes=1),
        feedback.c.given_at <= record.given_at,
        feedback.c.level == "annotate",
    )
    return connection.execute(query).scalar_one()


def _prediction(connection: Connection, record: FeedbackRecord, limits: FeedbackLimits) -> JudgedPrediction | None:
    if record.prediction_id is None or record.predicted_at is None:
        return prediction_by_client_key(connection, record.client_key or "", record.caller)
    prediction = prediction_by_id(connection, record.prediction_id, record.predicted_at)
    if prediction is None:
        now = datetime.now(UTC)
        if not now - timedelta(days=limits.retention_days) <= record.predicted_at <= now + _CLOCK_SKEW:
            raise FeedbackRefusedError(
                "expired", f"no prediction with this id is kept: predictions are kept for {limits.retention_days} days"
            )
    return prediction


_JUDGED: Final = (
    *(predictions.c.id, predictions.c.at, predictions.c.caller, predictions.c.label),
    *(predictions.c.probability, predictions.c.model_version, predictions.c.image_sha256),
)


def prediction_by_id(connection: Connection, prediction_id: UUID, predicted_at: datetime) -> JudgedPrediction | None:
    query = select(*_JUDGED).where(predictions.c.id == prediction_id, predictions.c.at == predicted_at)
    return _judged(connection.execute(query).mappings().one_or_none())


def prediction_by_client_key(connection: Connection, client_key: str, caller: str | None) -> JudgedPrediction | None:
    condition = (predictions.c.client_key == client_key) & (func.coalesce(predictions.c.caller, "") == (caller or ""))
    query = select(*_JUDGED).where(condition).order_by(predictions.c.at.desc()).limit(1)
    return _judged(connection.execute(query).mappings().one_or_none())


def _judged(row: Mapping[Any, Any] | None) -> JudgedPrediction | None:
    return JudgedPrediction(**row) if row else None
