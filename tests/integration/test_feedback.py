"""Feedback from the API's call to the data: whose word counts as what, and how it is taken out again."""

import csv
import hashlib
import io
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from alembic import command
from sqlalchemy import func, select, text

from ml.catalog import api_keys, class_proposals, erasures, feedback_callers, feedback_later
from ml.catalog import feedback as feedback_rows
from ml.catalog.api_keys import Grant, Level
from ml.catalog.engine import transaction
from ml.catalog.feedback import FeedbackLimits, FeedbackRecord, FeedbackRefusedError, StoredFeedback
from ml.catalog.label_answers import Reviewer
from ml.catalog.migrate import alembic_config, migrate
from ml.catalog.predictions import PredictionRow, store
from ml.catalog.tables import feedback, label_tasks, labels, samples
from ml.context import Context
from ml.datasets import answers, versions, withdraw
from ml.errors import UnavailableError
from ml.ingest import ingest
from ml.intake.find import find_ready
from ml.monitoring.feedback import collect_feedback
from tests.doubles.object_store import ForwardingObjectStore
from tests.pictures import digit_files, digits, upload

KNOWN = 40
"""Digits that are samples before anybody says anything."""


@dataclass(frozen=True)
class Answer:
    """A logged prediction of a digit."""

    id: uuid.UUID
    at: datetime
    digest: str
    truth: str


def predicted(ctx: Context, numbers: Sequence[int], caller: str = "phone", label: str | None = None) -> list[Answer]:
    """Predictions of digits, right unless `label`, asked for by a caller, with their images in one object."""
    key = f"predictions/2026/01/02/{uuid.uuid4()}.tar"
    ctx.store.put(key, b"".join(digits()[n][1] for n in numbers))
    offset, predictions = 0, []
    with transaction(ctx.engine) as connection:
        for number in numbers:
            truth, data = digits()[number]
            answer = Answer(uuid.uuid4(), datetime.now(UTC), hashlib.sha256(data).hexdigest(), truth)
            row = {
                "id": answer.id, "at": answer.at, "model_version": 1, "label": label or truth, "probability": 0.9,
                "milliseconds": 1.0, "image_sha256": answer.digest, "width": 8, "height": 8, "brightness": 0.5,
                "top": [], "caller": caller,
            }  # fmt: skip
            store(connection, [PredictionRow(orjson.dumps(row), (offset, len(data)))], key, "test")
            offset += len(data)
            predictions.append(answer)
    return predictions


def say(
    ctx: Context, answer: Answer, label: str, *, key: str = "k1", caller: str = "phone", source: str = "user",
    level: Level = "propose", limits: FeedbackLimits | None = None,
) -> StoredFeedback:  # fmt: skip
    """As the route does it."""
    record = FeedbackRecord(
        answer.id, answer.at, None, caller, label, source, None, datetime.now(UTC), key_id=key, level=level
    )
    with transaction(ctx.engine) as connection:
        return feedback_rows.store(connection, record, limits or FeedbackLimits(votes_a_minute=10**6))


def other(label: str) -> str:
    return str((int(label) + 1) % 10)


def labels_of(ctx: Context) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        return dict(connection.execute(select(samples.c.sha256, samples.c.label)).all())


def tasks(ctx: Context, status: str = "open") -> list[dict[str, object]]:
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(label_tasks).where(label_tasks.c.status == status).order_by(label_tasks.c.id))
        return [dict(row) for row in rows.mappings()]


def table_of(ctx: Context, prefix: str | None) -> list[dict[str, str]]:
    assert prefix is not None
    return list(csv.DictReader(io.StringIO(ctx.labels.get(f"{prefix}labels.csv").decode())))


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    """Samples of the first digits; three votes make a drop."""
    context = make_context(feedback_min_labels=3)
    ingest(context, upload(context, "one", digit_files(0, KNOWN)))
    return context


@pytest.fixture
def classes_only(make_context: Callable[..., Context]) -> Context:
    """As `ctx`, without samples."""
    context = make_context(feedback_min_labels=3)
    for label in "0123456789":
        class_proposals.decide(context.engine, label, "confirmed", actor="ann", reason="a digit")
    return context


def test_proposals_flip_no_label_however_many_there_are(ctx: Context) -> None:
    before = labels_of(ctx)
    for answer in predicted(ctx, range(15)):
        for source in ("ann", "bob"):
            assert say(ctx, answer, other(answer.truth), source=source).standing == "queued"
    assert collect_feedback(ctx) is None
    assert labels_of(ctx) == before
    opened = tasks(ctx)
    assert len(opened) == 15
    assert opened[0]["prediction_id"] is not None
    assert opened[0]["details"]["votes"] == {opened[0]["suggested"]: 1}  # type: ignore[index]
    assert opened[0]["details"]["persons"] == 2  # type: ignore[index]
    (first, *_) = predicted(ctx, [0])
    for caller in ("k2", "k3"):
        say(ctx, first, other(first.truth), key=caller)
    assert len(tasks(ctx)) == 15, "an image is asked about once"
    assert tasks(ctx)[0]["details"]["votes"] == {other(first.truth): 3}  # type: ignore[index]


def test_all_end_users_of_a_key_are_one_vote_and_a_burst_is_looked_at(classes_only: Context) -> None:
    many, *rest = predicted(classes_only, range(50, 54))
    for number in range(100):
        say(classes_only, many, "3" if number < 40 else "4", source=f"u{number}", level="annotate")
    for answer in rest:
        say(classes_only, answer, answer.truth, level="annotate")
    rows = table_of(classes_only, collect_feedback(classes_only))
    assert [row["label"] for row in rows if many.digest in row["file"]] == ["4"]
    assert {row["annotator"] for row in rows} == {"key:k1"}
    (drop,) = find_ready(classes_only)
    with transaction(classes_only.engine) as connection:
        assert feedback_rows.levels_by_annotator(connection, drop.prefix) == {"key:k1": "annotate"}
        assert feedback_rows.levels_by_annotator(connection, "drops/one/") == {}
    burst = predicted(classes_only, range(100, 201))
    standings = [
        say(classes_only, a, other(a.truth), key="k2", level="annotate", limits=FeedbackLimits()).standing
        for a in burst
    ]
    assert standings == ["vote"] * 30 + ["queued"] * 71


def test_a_correction_taken_back_waits_for_nobody(ctx: Context) -> None:
    answered = predicted(ctx, range(50, 53))
    for answer in answered:
        say(ctx, answer, other(answer.truth), level="annotate")
    first = collect_feedback(ctx)
    assert first is not None
    ingest(ctx, first)
    for taken_back in (answered[0].truth, other(answered[0].truth)):
        assert say(ctx, answered[0], taken_back, level="annotate").outcome == "known"
        second = collect_feedback(ctx)
        (row,) = table_of(ctx, second)
        assert (row["label"], answered[0].digest in row["file"]) == (taken_back, True)
        assert second is not None
        ingest(ctx, second)
        assert labels_of(ctx)[answered[0].digest] == taken_back
    assert collect_feedback(ctx) is None


def test_a_name_that_is_no_class_is_a_proposal_until_it_is_confirmed(classes_only: Context) -> None:
    answered = predicted(classes_only, range(50, 53))
    assert {say(classes_only, a, "zebra", level="annotate").standing for a in answered} == {"new_class"}
    with pytest.raises(FeedbackRefusedError, match="did you mean `7`"):
        say(classes_only, answered[0], "7_")
    assert collect_feedback(classes_only) is None
    assert tasks(classes_only)[0]["details"]["new_classes"] == ["zebra"]  # type: ignore[index]
    (proposed,) = class_proposals.pending(classes_only.engine)
    assert (proposed.name, proposed.callers, proposed.images) == ("zebra", 1, 3)
    class_proposals.decide(classes_only.engine, "zebra", "confirmed", actor="ann", reason="it is one")
    with pytest.raises(FeedbackRefusedError, match="zebra"):
        say(classes_only, answered[0], "Zebra")
    assert {row["label"] for row in table_of(classes_only, collect_feedback(classes_only))} == {"zebra"}
    assert not tasks(classes_only)
    say(classes_only, answered[0], "horse")
    class_proposals.decide(classes_only.engine, "horse", "declined", actor="ann", reason="none here")
    with pytest.raises(FeedbackRefusedError, match="declined"):
        say(classes_only, answered[0], "horse")
    collect_feedback(classes_only)
    assert not tasks(classes_only)


def test_a_reviewer_decides_at_once_and_overrules(ctx: Context) -> None:
    known, fresh, more = predicted(ctx, [0, 50, 51])
    say(ctx, known, other(known.truth))
    say(ctx, fresh, other(fresh.truth), level="annotate")
    say(ctx, more, other(more.truth))
    (task,) = [t for t in tasks(ctx) if t["sha256"] == known.digest]
    result = answers.answer(ctx, task["id"], other(known.truth), actor="ann")  # type: ignore[arg-type]
    assert result.waits
    assert not [t for t in tasks(ctx) if t["sha256"] == known.digest]
    for answer in (fresh, more):
        stored = say(ctx, answer, answer.truth, key="rev", caller="somebody else", level="review")
        assert stored.standing == "decision"
    assert not tasks(ctx), "what a reviewer decided is not asked any more"
    assert collect_feedback(ctx) is None, "what is left is two votes"
    assert labels_of(ctx)[known.digest] == other(known.truth)
    newest = versions.latest(ctx)
    assert newest is not None
    say(ctx, predicted(ctx, [52])[0], "2", level="annotate")
    rows = table_of(ctx, collect_feedback(ctx))
    assert {(r["label"], r["annotator"]) for r in rows if fresh.digest in r["file"]} == {(fresh.truth, "key:rev")}
    assert versions.latest(ctx) == newest, "a decision is applied once"


def test_answers_taken_by_the_service_are_applied_at_the_next_collection(ctx: Context) -> None:
    from ml.catalog import label_answers
    from ml.datasets.labels import LabelQuestion, open_tasks

    digest, label = next(iter(labels_of(ctx).items()))
    with transaction(ctx.engine) as connection:
        open_tasks(connection, [LabelQuestion(digest, "doubt", 0.5, label, other(label), {})])
        task_id = connection.execute(select(label_tasks.c.id)).scalar_one()
        about = label_answers.answer(connection, task_id, other(label), Reviewer("rev", "ann"))
    assert about == "sample"
    assert labels_of(ctx)[digest] == label
    collect_feedback(ctx)
    assert labels_of(ctx)[digest] == other(label)
    assert len(tasks(ctx, "done")) == 1


def test_a_caller_is_revoked_as_a_whole_wherever_it_is_killed(ctx: Context) -> None:
    key = str(api_keys.id_of(api_keys.create(ctx.engine, Grant("lab", ("annotate",)), "test")))
    known, waiting, *fresh = predicted(ctx, [0, 1, *range(50, 54)], caller="lab")
    before = labels_of(ctx)
    say(ctx, known, other(known.truth), key=key, caller="lab", level="review")
    say(ctx, waiting, other(waiting.truth), key=key, caller="lab")
    for answer in fresh:
        say(ctx, answer, answer.truth, key=key, caller="lab", level="annotate")
    prefix = collect_feedback(ctx)
    assert prefix is not None
    ingest(ctx, prefix)
    assert labels_of(ctx)[known.digest] != before[known.digest]

    class NoPuts(ForwardingObjectStore):
        def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
            raise UnavailableError("killed")

    with pytest.raises(UnavailableError):
        withdraw.revoke(replace(ctx, store=NoPuts(ctx.store)), "lab", actor="ann", reason="a robot")
    with pytest.raises(FeedbackRefusedError, match="a robot"):
        say(ctx, known, known.truth, key=key, caller="lab")
    done = withdraw.revoke(ctx, "lab", actor="ann", reason="a robot")
    assert (done.annotations, done.relabelled, done.removed) == (5, 1, 4)
    assert not tasks(ctx)
    now = labels_of(ctx)
    assert {digest: now[digest] for digest in before} == before
    newest = versions.latest(ctx)
    assert newest is not None
    assert newest.train + newest.validation + newest.holdout == KNOWN
    assert set(versions.manifest(ctx, newest.id).removals) == {answer.digest for answer in fresh}
    again = withdraw.revoke(ctx, key, actor="ann", reason="a robot")
    assert (again.opinions, again.annotations, again.version) == (0, 0, None)
    assert collect_feedback(ctx) is None
    (record,) = feedback_callers.list_callers(ctx.engine, "lab")
    assert (record.status, record.reason, record.opinions) == ("revoked", "a robot", 6)
    withdraw.resume(ctx, "lab", actor="ann", reason="repaired")
    assert say(ctx, waiting, other(waiting.truth), key=key, caller="lab").outcome == "known"
    assert len(tasks(ctx)) == 1


def test_a_drop_on_its_way_is_neutralised_when_it_arrives(ctx: Context) -> None:
    for answer in predicted(ctx, range(50, 53)):
        say(ctx, answer, answer.truth, key="local", level="annotate")
    prefix = collect_feedback(ctx)
    assert prefix is not None
    withdraw.revoke(ctx, "local", actor="ann", reason="a robot")
    with transaction(ctx.engine) as connection:
        assert feedback_rows.levels_by_annotator(connection, prefix) == {"key:local": "propose"}
    ingest(ctx, prefix)
    collect_feedback(ctx)
    newest = versions.latest(ctx)
    assert newest is not None
    assert len(versions.manifest(ctx, newest.id).removals) == 3
    with transaction(ctx.engine) as connection:
        assert feedback_callers.revoked_callers(connection) == []


def test_a_caller_who_disagrees_with_reviews_is_paused_and_told_of(classes_only: Context) -> None:
    limits = FeedbackLimits()
    wrong = predicted(classes_only, range(50, 60))
    for answer in wrong:
        say(classes_only, answer, other(answer.truth), level="annotate")
        say(classes_only, answer, answer.truth, key="k2", level="annotate")
    for answer in wrong[:9]:
        say(classes_only, answer, answer.truth, key="rev", level="review")
    assert feedback_callers.pause_disagreeing(classes_only.engine, 0.5, 10, limits) == []
    say(classes_only, wrong[9], wrong[9].truth, key="rev", level="review")
    (notice,) = feedback_callers.pause_disagreeing(classes_only.engine, 0.5, 10, limits)
    assert "k1: reviewers turned down 10 of 10" in notice
    assert feedback_callers.pause_disagreeing(classes_only.engine, 0.5, 10, limits) == []
    more = predicted(classes_only, range(60, 64))
    for answer in more:
        say(classes_only, answer, other(answer.truth), level="annotate")
    assert {row["annotator"] for row in table_of(classes_only, collect_feedback(classes_only))} == {"key:rev"}
    with transaction(classes_only.engine) as connection:
        feedback_callers.set_status(connection, "k1", "resumed", "ann", "it was a bad day")
    assert feedback_callers.pause_disagreeing(classes_only.engine, 0.5, 10, limits) == []
    assert {row["annotator"] for row in table_of(classes_only, collect_feedback(classes_only))} == {"key:k1"}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(FeedbackRefusedError) as caught:
        call()
    return caught.value.code


def test_what_is_erased_foreign_or_unknown_is_refused_or_bounded(classes_only: Context) -> None:
    gone, foreign, late = predicted(classes_only, [50, 51, 52])
    say(classes_only, late, other(late.truth), level="annotate")
    with transaction(classes_only.engine) as connection:
        erasures.register(connection, [gone.digest, late.digest], actor="ann", reason="asked")
    assert refusal(lambda: say(classes_only, gone, "1")) == "erased"
    assert refusal(lambda: say(classes_only, foreign, "1", caller="web")) == "foreign_prediction"
    assert say(classes_only, foreign, "1", key="rev", caller="web", level="review").standing == "decision"
    for answer in predicted(classes_only, range(60, 62)):
        say(classes_only, answer, answer.truth, level="annotate")
    files = {row["file"] for row in table_of(classes_only, collect_feedback(classes_only))}
    assert not any(late.digest in file for file in files)
    unknown = replace(foreign, id=uuid.uuid4())
    limits = FeedbackLimits(waiting=2)
    assert say(classes_only, unknown, "1", limits=limits).outcome == "waiting"
    assert say(classes_only, replace(unknown, id=uuid.uuid4()), "1", limits=limits).outcome == "waiting"
    assert refusal(lambda: say(classes_only, replace(unknown, id=uuid.uuid4()), "1", limits=limits)) == "too_many"
    for at in (datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(days=100)):
        assert refusal(lambda at=at: say(classes_only, replace(unknown, at=at), "1")) == "expired"  # type: ignore[misc]
    with transaction(classes_only.engine) as connection:
        assert feedback_later.expire_waiting(connection, 1) == 0
        assert feedback_later.expire_waiting(connection, 0) == 2


def test_feedback_of_earlier_versions_is_kept_and_only_proposes(context: Context) -> None:
    (answer,) = predicted(context, [50])
    with transaction(context.engine) as connection:
        command.downgrade(alembic_config(connection), "0013-1")
    with transaction(context.engine) as connection:
        connection.execute(
            text(
                "insert into api_keys (id, sha256, name, roles, created_by, changed_at) values "
                "('aaaaaaaaaaaa', '1', 'phone', '{feedback}', 'x', now()), "
                "('bbbbbbbbbbbb', '2', 'phone', '{feedback}', 'x', now())"
            )
        )
        columns = "prediction_id, predicted_at, label, source, caller"
        row = f"insert into feedback ({columns}) values (:id, :at, '9', :who, :by)"
        values = {"id": answer.id, "at": answer.at}
        connection.execute(text(row), [values | {"who": "ann", "by": "phone"}, values | {"who": "bob", "by": None}])
    migrate(context.engine)
    with transaction(context.engine) as connection:
        rows = connection.execute(select(feedback).order_by(feedback.c.source)).all()
        assert api_keys.find_identity(connection, "bbbbbbbbbbbb") == "aaaaaaaaaaaa"
    migrated = [(r.source, r.key_id, r.level, r.status, r.image_sha256) for r in rows]
    assert migrated == [
        (who, key, "propose", "stored", answer.digest) for who, key in (("ann", "aaaaaaaaaaaa"), ("bob", ""))
    ]
    assert collect_feedback(context) is None
    assert len(tasks(context)) == 1
    with transaction(context.engine) as connection:
        assert connection.execute(select(func.count()).select_from(labels)).scalar() == 0
