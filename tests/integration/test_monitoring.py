"""Monitoring on a prediction log in real Postgres and S3."""

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
from sqlalchemy import Row, func, insert, select, text, update

from ml.catalog import class_proposals, cycles
from ml.catalog.engine import transaction
from ml.catalog.predictions import PredictionRow, store
from ml.catalog.tables import cycles as cycles_table
from ml.catalog.tables import drift_reports, feedback, predictions, replicas, samples
from ml.context import Context
from ml.errors import UnavailableError
from ml.ingest import ingest
from ml.intake.find import find_ready
from ml.models import bundle
from ml.monitoring.feedback import collect_feedback
from ml.monitoring.maintain import maintain
from ml.monitoring.observe import observe
from ml.storage.object_store import ObjectStore
from ml.training import due
from tests import bundles
from tests.doubles.object_store import ForwardingObjectStore
from tests.pictures import digit_files, digits, upload

NOW = datetime.now(UTC)


def answer(label: str = "a", probability: float = 0.9, at: datetime = NOW, **columns: object) -> dict[str, object]:
    """A row of the prediction log."""
    return {
        "id": uuid.uuid4(),
        "at": at,
        "model_version": 1,
        "label": label,
        "probability": probability,
        "milliseconds": 1.0,
        "image_sha256": "0" * 64,
        "width": 8,
        "height": 8,
        "brightness": 0.5,
        "top": [],
        "image_object": None,
        "image_offset": None,
        "image_size": None,
        **columns,
    }


def log(ctx: Context, rows: Sequence[dict[str, object]]) -> None:
    """As the service's drain does it."""
    with transaction(ctx.engine) as connection:
        for row in rows:
            place = (row["image_offset"], row["image_size"]) if row["image_object"] else None
            incoming = [PredictionRow(orjson.dumps(row), place)]  # type: ignore[arg-type]
            assert store(connection, incoming, row["image_object"], "test") == 1  # type: ignore[arg-type]


def rows_of(ctx: Context, query: object) -> Sequence[Row]:
    with transaction(ctx.engine) as connection:
        return connection.execute(query).all()  # type: ignore[call-overload]


@pytest.fixture
def serving(context: Context, tmp_path: Path) -> Context:
    """A live model of two classes, alike often in training, nine of ten confidences between 0.5 and 0.95."""
    folder = tmp_path / "bundle"
    bundles.make_bundle(folder, ["a", "b"])
    info = bundles.loaded(folder).info
    deciles = tuple(float(d) for d in np.linspace(0.55, 0.95, 9))
    digest = bundle.write(folder, info.model_copy(update={"confidence_deciles": deciles}))
    bundles.deploy(context, bundles.upload(context, folder), digest, version=1)
    return context


def add_data(ctx: Context) -> str:
    """A dataset version that nothing was trained on; the drop's cycle is over."""
    done = ingest(ctx, upload(ctx, "data", digit_files(0, 40)))
    assert done.version is not None
    cycles.record(ctx.engine, done.drop_id, finished_at=NOW)
    return done.version


def usual(count: int = 400) -> list[dict[str, object]]:
    confidences = np.random.default_rng(0).uniform(0.5, 1, count)
    return [answer("ab"[i % 2], float(c)) for i, c in enumerate(confidences)]


def test_no_model_and_no_predictions_are_no_reason(context: Context) -> None:
    report = observe(context)
    assert (report.model_version, report.predictions, report.retrain) == (None, 0, False)


def test_answers_like_the_training_set_are_no_reason(serving: Context) -> None:
    log(serving, usual())
    report = observe(serving)
    assert (report.predictions, report.retrain, report.reasons) == (400, False, ())
    assert report.statistics["classes"] == {"a": 200, "b": 200}
    assert report.statistics["brightness"] == 0.5


def test_a_shift_asks_until_a_training_begins(serving: Context) -> None:
    add_data(serving)
    log(serving, [answer("a", 0.75) for _ in range(300)] + [answer("b", 0.75) for _ in range(10)])
    first = observe(serving)
    assert first.retrain
    assert [word in " ".join(first.reasons) for word in ("classes", "confidences")] == [True, True]
    assert observe(serving).retrain, "nobody has begun yet"
    cycles.open_cycle(serving.engine, "rejected", "drop")
    with transaction(serving.engine) as connection:
        connection.execute(
            text("insert into drops (id, prefix, listing_digest, status) values ('d', 'd', 'd', 'claimed')")
        )
        connection.execute(update(cycles_table).where(cycles_table.c.id == "rejected").values(drop_id="d"))
    assert observe(serving).retrain, "a drop that was rejected trains nothing"
    cycles.open_cycle(serving.engine, "c-1", "monitoring")
    assert not observe(serving).retrain
    stored = rows_of(serving, select(drift_reports.c.retrain).order_by(drift_reports.c.id))
    assert [bool(r[0]) for r in stored] == [True, True, True, False]


def test_a_shift_without_new_data_asks_people_for_labels_once_and_trains_nothing(serving: Context) -> None:
    version = add_data(serving)
    cycles.open_cycle(serving.engine, "c-0", "manual")
    cycles.record(serving.engine, "c-0", dataset_version=version, model_version=1, finished_at=NOW)
    log(serving, [answer("a", 0.75) for _ in range(300)])
    first, second = observe(serving), observe(serving)
    assert (first.retrain, first.labels_wanted, bool(first.reasons)) == (False, True, True)
    assert (second.retrain, second.labels_wanted, bool(second.reasons)) == (False, False, True)
    assert due.choose(serving, "asset_triggered__1") is None
    with transaction(serving.engine) as connection:  # asked before a training took the data up
        connection.execute(insert(drift_reports).values(window_start=NOW, window_end=NOW, predictions=1, retrain=True))
    assert due.choose(serving, "asset_triggered__2") is None
    more = ingest(serving, upload(serving, "more", digit_files(40, 80)))
    assert more.version is not None
    assert due.choose(serving, "asset_triggered__3") == due.DueCycle(more.drop_id, more.version)


def test_few_answers_or_old_ones_or_another_model_are_no_reason(serving: Context) -> None:
    log(serving, [answer("a") for _ in range(50)])
    log(serving, [answer("a", at=NOW - timedelta(hours=30)) for _ in range(500)])
    log(serving, [answer("a", model_version=9) for _ in range(500)])
    report = observe(serving)
    assert (report.predictions, report.retrain) == (50, False)
    assert report.statistics["class_shift"] > serving.settings.drift_threshold


def test_live_accuracy_comes_from_feedback(serving: Context) -> None:
    answers = usual(8)
    log(serving, answers)
    rows = [{"prediction_id": a["id"], "predicted_at": a["at"], "label": "a", "source": "ann"} for a in answers]
    with transaction(serving.engine) as connection:
        connection.execute(insert(feedback), rows)
    figures = observe(serving).statistics
    assert (figures["feedback"], figures["live_accuracy"]) == (8, 0.5)


def give_feedback(ctx: Context, count: int) -> None:
    """Predictions of `count` digits, their images in one tar, and an annotator's right labels; the classes exist."""
    for label in "0123456789":
        class_proposals.decide(ctx.engine, label, "confirmed", actor="ann", reason="a digit")
    chosen = digits()[:count]
    ctx.store.put("predictions/2026/01/02/r-1.tar", b"".join(data for _, data in chosen))
    offsets = np.cumsum([0, *(len(data) for _, data in chosen)])
    answers = [
        answer(
            "0",
            image_object="predictions/2026/01/02/r-1.tar",
            image_offset=int(o),
            image_size=len(data),
            image_sha256=hashlib.sha256(data).hexdigest(),
        )
        for (_, data), o in zip(chosen, offsets, strict=False)
    ]
    log(ctx, answers)
    rows = [
        {"prediction_id": a["id"], "predicted_at": a["at"], "label": label, "source": "ann", "key_id": "k1",
         "level": "annotate", "image_sha256": a["image_sha256"]}
        for a, (label, _) in zip(answers, chosen, strict=True)
    ]  # fmt: skip
    with transaction(ctx.engine) as connection:
        connection.execute(insert(feedback), rows)


class CutOff(ForwardingObjectStore):
    """Fails for good at the put number `left`, as a killed process would."""

    def __init__(self, inner: ObjectStore, left: int) -> None:
        super().__init__(inner)
        self.left = left

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        if self.left == 0:
            raise UnavailableError("cut off")
        self.left -= 1
        super().put(key, data, content_type)


def test_too_little_feedback_waits(context: Context) -> None:
    give_feedback(context, 5)
    assert collect_feedback(context) is None


@pytest.mark.parametrize("puts", [0, 1, 24, 25])
def test_feedback_becomes_one_drop_wherever_its_collector_is_killed(
    make_context: Callable[..., Context], puts: int
) -> None:
    ctx = make_context(feedback_min_labels=24)
    give_feedback(ctx, 24)
    with pytest.raises(UnavailableError):
        collect_feedback(replace(ctx, labels=CutOff(ctx.labels, puts)))
    assert not find_ready(ctx)
    assert collect_feedback(ctx) is None
    (drop,) = find_ready(ctx)
    result = ingest(ctx, drop.prefix)
    assert result.version is not None
    stored = rows_of(ctx, select(samples.c.label))
    assert sorted(r[0] for r in stored) == sorted(label for label, _ in digits()[:24])
    assert collect_feedback(ctx) is None
    assert not find_ready(ctx)


def test_a_corrected_label_goes_into_another_drop(make_context: Callable[..., Context]) -> None:
    ctx = make_context(feedback_min_labels=3)
    give_feedback(ctx, 3)
    first = collect_feedback(ctx)
    with transaction(ctx.engine) as connection:  # as the service does it
        connection.execute(update(feedback).values(label="9", drop_prefix=None))
    second = collect_feedback(ctx)
    assert first is not None
    assert second not in (None, first)


def partition_counts(ctx: Context) -> dict[str, int]:
    query = select(text("tableoid::regclass::text"), func.count()).select_from(predictions).group_by(text("1"))
    return dict(rows_of(ctx, query))


def partitions(ctx: Context) -> set[str]:
    query = text("select inhrelid::regclass::text from pg_inherits where inhparent = 'predictions'::regclass")
    return {r[0] for r in rows_of(ctx, query)} - {"predictions_default"}


def test_partitions_are_made_ahead_and_take_over_what_came_before_them(context: Context) -> None:
    log(context, [answer(at=NOW), answer(at=NOW), answer(at=NOW - timedelta(days=3))])
    assert partition_counts(context) == {"predictions_default": 3}
    first = maintain(context)
    today, before = (f"predictions_{d:%Y%m%d}" for d in (NOW, NOW - timedelta(days=3)))
    assert partition_counts(context) == {today: 2, before: 1}
    assert first["partitions_made"] == 9
    assert f"predictions_{NOW + timedelta(days=7):%Y%m%d}" in partitions(context)
    log(context, [answer(at=NOW)])
    assert partition_counts(context)[today] == 3
    again = maintain(context)
    assert not any(again.values())


def test_what_is_past_retention_goes_with_its_images(make_context: Callable[..., Context]) -> None:
    ctx = make_context(retention_days=10)
    old, young = NOW - timedelta(days=12), NOW - timedelta(days=9)
    for day in (old, young):
        log(ctx, [answer(at=day)])
        ctx.store.put(f"predictions/{day:%Y/%m/%d}/r-1.tar", b"images")
    done = maintain(ctx)
    assert partition_counts(ctx) == {f"predictions_{young:%Y%m%d}": 1}
    assert f"predictions_{old:%Y%m%d}" not in partitions(ctx)
    assert [o.key for o in ctx.store.list("predictions/")] == [f"predictions/{young:%Y/%m/%d}/r-1.tar"]
    assert (done["partitions_dropped"], done["image_objects_deleted"]) == (1, 1)


def test_predictions_are_logged_while_partitions_are_made(context: Context) -> None:
    stop, written = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            log(context, [answer(at=datetime.now(UTC))])
            written.append(1)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    maintain(context)
    stop.set()
    for writer in writers:
        writer.join()
    counts = partition_counts(context)
    assert sum(counts.values()) == len(written)


def test_gone_replicas_and_unused_files_are_forgotten_but_not_what_serves(context: Context) -> None:
    ages = {"alive": timedelta(), "gone": timedelta(hours=2)}
    with transaction(context.engine) as connection:
        rows = [{"id": n, "host": "h", "pid": 1, "heartbeat_at": NOW - age} for n, age in ages.items()]
        connection.execute(insert(replicas), rows)
    home, long_ago = context.settings.home, time.time() - 40 * 86_400
    (home / "cache/segments").mkdir(parents=True)
    for name in ("serving", "unused"):
        (home / "bundles" / name).mkdir(parents=True)
    for name in ("cache/segments/old.tar", "cache/segments/new.tar"):
        (home / name).write_bytes(b"x")
    (home / "bundles/last-good.json").write_text('{"bundle_digest": "serving"}')
    for name in ("cache/segments/old.tar", "bundles/serving", "bundles/unused"):
        os.utime(home / name, (long_ago, long_ago))
    done = maintain(context)
    assert (done["replicas_forgotten"], done["cache_files_removed"]) == (1, 2)
    assert {p.name for p in (home / "bundles").iterdir()} == {"serving", "last-good.json"}
    assert [p.name for p in (home / "cache/segments").iterdir()] == ["new.tar"]


def test_the_choice_of_a_training_asks_the_catalog(context: Context) -> None:
    event, by_hand = "asset_triggered__1", "manual__1"
    assert due.choose(context, event) is None, "there are no data"
    one = ingest(context, upload(context, "one", digit_files(0, 40)))
    two = ingest(context, upload(context, "two", digit_files(40, 80)))
    assert two.version is not None
    assert due.overdue(context, minutes=0)
    assert not due.overdue(context, minutes=1)

    chosen = due.choose(context, event)
    assert chosen == due.DueCycle(two.drop_id, two.version) == due.choose(context, event)
    merged = cycles.get(context.engine, one.drop_id)
    assert (merged.verdict, two.drop_id in str(merged.reason)) == ("merged", True)

    due.stop_cycle(context, two.drop_id, "it has one class")
    assert due.choose(context, event) is None
    assert not due.overdue(context, minutes=0)
    with transaction(context.engine) as connection:
        connection.execute(insert(drift_reports).values(window_start=NOW, window_end=NOW, predictions=1, retrain=True))
    asked = due.choose(context, event)
    assert asked == due.DueCycle(f"c-{event}", two.version) == due.choose(context, event), "the same on a retry"
    assert cycles.get(context.engine, f"c-{event}").origin == "monitoring"
    assert due.choose(context, "asset_triggered__2") is None, "one training is enough"
    assert due.choose(context, by_hand) == due.DueCycle(f"c-{by_hand}", two.version)
