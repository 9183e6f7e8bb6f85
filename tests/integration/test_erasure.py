"""An image in every store there is: an erasure takes it out of each, a scan proves it, and it stays out."""

import hashlib
import io
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from sqlalchemy import delete, func, insert, select, update
from typer.testing import CliRunner

from ml.catalog import feedback
from ml.catalog.engine import transaction
from ml.catalog.feedback import FeedbackRecord, FeedbackRefusedError
from ml.catalog.tables import (
    deployments,
    erased_content,
    erasures,
    label_tasks,
    predictions,
    quarantine,
    replicas,
    samples,
)
from ml.cli.main import app
from ml.context import Context
from ml.datasets import loader, verify, versions
from ml.erasure import erase, hosts, selection
from ml.errors import ConflictError, UnavailableError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.ingest import ingest
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk
from ml.models import bundle
from ml.monitoring.feedback import collect_feedback
from serving.prediction_log.erased import SpoolCleaner
from serving.prediction_log.log import PredictionLog, timestamp_of
from serving.prediction_log.retention import ImagePolicy
from serving.prediction_log.spool import Spool
from serving.prediction_log.uploader import PairStore
from serving.telemetry.metrics import Metrics
from tests import bundles
from tests.doubles.object_store import ForwardingObjectStore
from tests.doubles.registry import MemoryRegistry, install
from tests.environment import environment
from tests.pictures import digit_files, digits, upload
from tests.unit.serving.test_prediction_log import prediction

WHO: dict[str, Any] = {"actor": "ann", "reason": "asked"}
STORES = {"data", "uploads", "quarantine", "staging tars", "prediction log", "MLflow runs", "bundles"}


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    context = make_context(artifacts_prefix=f"a-{uuid.uuid4().hex}", feedback_min_labels=1)
    install(context, MemoryRegistry())
    return context


@dataclass(frozen=True)
class Worker:
    """A worker's prediction log, whose uploader runs when it is told to."""

    ctx: Context
    spool: Spool

    @classmethod
    def start(cls, ctx: Context, name: str) -> "Worker":
        return cls(ctx, Spool(ctx.settings.home / "spool", name))

    def answer(self, *shown: bytes) -> list[UUID]:
        log = PredictionLog(self.spool, 10**8, ImagePolicy("all"), Metrics({}))
        said = [prediction(image) for image in shown]
        for one in said:
            log.append(one)
        return [one.id for one in said]

    def store(self) -> None:
        pairs = PairStore(self.ctx.engine, self.ctx.store, Metrics({}))
        for path in self.spool.closed_files(0):
            pairs.store(path, "w")
            self.spool.remove(path)


def give(ctx: Context, prediction_id: UUID, label: str) -> None:
    """As an annotator would; another end user each time."""
    record = FeedbackRecord(
        *(prediction_id, timestamp_of(prediction_id), None, None, label, f"s-{uuid.uuid4()}", None, datetime.now(UTC)),
        key_id=feedback.LOCAL,
        level="annotate",
    )
    with transaction(ctx.engine) as connection:
        feedback.store(connection, record)


def validation_sample(ctx: Context) -> str:
    with transaction(ctx.engine) as connection:
        query = select(samples.c.sha256).where(samples.c.split == "validation").order_by(samples.c.sha256)
        return str(connection.execute(query.limit(1)).scalar_one())


def image_of(digest: str) -> bytes:
    return next(data for _, data in digits() if hashlib.sha256(data).hexdigest() == digest)


def stored_images(ctx: Context) -> dict[str, bool]:
    """Whether the image is stored, for each prediction."""
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(predictions.c.id, predictions.c.image_object)).all()
    return {str(row.id): row.image_object is not None for row in rows}


def register_bundle(ctx: Context, folder: Path, shown: bytes, dataset: str, prefix: str) -> str:
    """A bundle of model version 1 with the image among its probes; returns the digest."""
    bundles.make_bundle(folder, ["a", "b"], size=8, channels=1)
    probes, probabilities = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    probes[1] = images.decode(shown, 8, 1, Limits(10**6, 10**6))
    np.savez(folder / bundle.PROBES, images=probes, probabilities=probabilities)
    digest = bundle.write(folder, bundle.parse((folder / bundle.INFO).read_bytes()))
    for path in folder.iterdir():
        ctx.artifacts.put_file(f"{prefix}/{path.name}", path)
    registry = MemoryRegistry()
    registry.add(1, prefix, digest, dataset_version=dataset)
    install(ctx, registry)
    return digest


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def found(ctx: Context, digest: str) -> set[str]:
    """The stores in which a scan finds the image."""
    result = erase.scan(ctx, selection.of_hashes([digest]))
    return {name for name, swept in result.items() if swept.objects or swept.rows}


def test_every_store_is_swept_and_the_image_stays_out(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "WAIT_SECONDS", 0)
    ingest(ctx, upload(ctx, "one", digit_files(0, 60)))
    digest = validation_sample(ctx)
    secret, others = image_of(digest), digit_files(100, 106)
    newest = versions.latest(ctx)
    assert newest is not None
    loader.load(ctx, newest.id, "validation", 8, 1)
    packed = zipped({"2/x.png": secret} | digit_files(110, 113))
    # Two labels for the same bytes: both copies are quarantined.
    ingest(ctx, upload(ctx, "again", {"1/copy.png": secret, "all.zip": packed} | others))
    waiting = claim(ctx, upload(ctx, "waiting", {"3/y.png": secret} | digit_files(130, 133)))
    assert waiting
    inspect_chunk(ctx, waiting, 0)
    worker = Worker.start(ctx, "w1")
    asked, other = worker.answer(secret, digits()[200][1])
    worker.store()
    give(ctx, asked, "7")
    assert collect_feedback(ctx)
    with transaction(ctx.engine) as connection:
        connection.execute(insert(label_tasks).values(prediction_id=asked, reason="x", score=1.0))
        connection.execute(insert(replicas).values(id="w1", host="h", pid=1))
    artifacts = f"{ctx.settings.artifacts_prefix}/1/run/artifacts"
    ctx.artifacts.put(f"{artifacts}/mistakes.csv", f"sha256,p\n{digest},0.1\n".encode())
    ctx.artifacts.put(f"{artifacts}/plots/mistakes.png", b"picture")
    before = register_bundle(ctx, tmp_path / "bundle", secret, newest.id, f"{artifacts}/bundle")
    worker.answer(secret)
    assert found(ctx, digest) == STORES - {"bundles"}

    receipt = erase.erase(ctx, selection.of_hashes([digest]), **WHO)
    assert [sentence.partition(" has not")[0] for sentence in receipt.left] == ["replica w1"]
    assert {name for name, counts in receipt.stores.items() if counts["objects"]} >= STORES
    assert (receipt.samples, receipt.models, newest.id in receipt.lost_versions) == (1, [1], True)
    assert orjson.loads(ctx.store.get(f"erasures/{receipt.id}.json"))["left"] == receipt.left
    assert found(ctx, digest) == set()
    assert stored_images(ctx)[str(asked)] is False
    assert stored_images(ctx)[str(other)] is True
    with pytest.raises(ConflictError, match="were erased while it was in use"):
        loader.check_not_erased(ctx, newest.id)
    assert not list((ctx.settings.home / "cache").glob(f"*/{versions.manifest(ctx, newest.id).segments[0]}*"))
    cut = ctx.registry.bundle(1)
    assert cut.digest != before
    assert len(bundle.load_probes(ctx.artifacts.get(f"{cut.prefix}/{bundle.PROBES}"))[0]) == 3
    bundle.fetch(ctx.artifacts, cut.prefix, cut.digest, tmp_path / "fetched")

    cleaner = SpoolCleaner(worker.spool, ctx.engine)
    cleaner.clean()
    assert cleaner.confirmed == receipt.id
    assert not any(secret in path.read_bytes() for path in worker.spool.folder.glob("*.tar"))
    with transaction(ctx.engine) as connection:
        connection.execute(update(replicas).values(erasure_id=cleaner.confirmed))
    assert erase.finish(ctx) == 0
    with transaction(ctx.engine) as connection:
        assert connection.execute(select(erased_content.c.sha256)).scalars().all() == [None]
        assert connection.execute(select(erasures.c.finished_at)).scalar_one() is not None

    stays_out(ctx, worker, asked, digest)


def stays_out(ctx: Context, worker: Worker, asked: UUID, digest: str) -> None:
    """The erased image comes back by feedback on the old answer, as a new answer, and in a drop."""
    secret = image_of(digest)
    worker.store()
    (again,) = worker.answer(secret)
    worker.store()
    assert stored_images(ctx)[str(again)] is False
    for about in (asked, again):
        with pytest.raises(FeedbackRefusedError, match="erased"):
            give(ctx, about, "1")
    collect_feedback(ctx)
    ingest(ctx, upload(ctx, "back", {"1/back.png": secret} | digit_files(140, 146)))
    with transaction(ctx.engine) as connection:
        connection.execute(delete(replicas))
        query = select(quarantine.c.object_key, quarantine.c.reasons).where(quarantine.c.key == "1/back.png")
        assert connection.execute(query).one() == (None, ["this image was erased on request"])
    assert found(ctx, digest) == {"uploads"}, "what a person uploads stays theirs until the next erasure"
    receipt = erase.erase(ctx, selection.of_hashes([digest]), **WHO)
    assert (receipt.samples, receipt.left, receipt.stores["uploads"]["objects"]) == (0, [], 1)
    assert found(ctx, digest) == set()


@pytest.mark.parametrize("key", ["quarantine/x/planted.png", "labels:drops/p/planted.png", "labels:drops/p/p.zip"])
def test_a_planted_copy_fails_the_scan(ctx: Context, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()[300][1]
    digest = hashlib.sha256(data).hexdigest()
    for name, value in environment(ctx.settings).items():
        monkeypatch.setenv(name, value)
    assert erase.erase(ctx, selection.of_hashes([digest]), **WHO).left == []
    bucket = ctx.labels if key.startswith("labels:") else ctx.store
    bucket.put(key.removeprefix("labels:"), zipped({"a/1.png": data}) if key.endswith(".zip") else data)
    result = CliRunner().invoke(app, ["erase", "--scan", digest])
    assert result.exit_code == 4
    assert "1 objects" in result.output


def test_what_is_only_in_quarantine_or_in_the_log_can_be_selected(ctx: Context) -> None:
    only_held, good = digits()[310][1], digit_files(320, 330)
    rows = ["file,label,subject", "held.png,,ann", *(f"{key},{key[0]}," for key in good)]
    table = {"labels.csv": "\n".join(rows).encode()}
    ingest(ctx, upload(ctx, "bad", table | {"held.png": only_held} | good))
    digest = hashlib.sha256(only_held).hexdigest()
    assert found(ctx, digest) == {"uploads", "quarantine"}
    receipt = erase.erase(ctx, selection.of_subject("ann"), **WHO)
    assert (receipt.images, receipt.samples, receipt.left) == (1, 0, [])
    assert found(ctx, digest) == set()
    assert erase.erase(ctx, selection.of_drop("drops/bad/"), **WHO).samples == len(good)
    worker = Worker.start(ctx, "w")
    (asked,) = worker.answer(digits()[340][1])
    worker.store()
    assert erase.erase(ctx, selection.of_prediction(str(asked)), **WHO).stores["prediction log"]["rows"] == 1
    assert stored_images(ctx) == {str(asked): False}


def test_a_store_that_is_away_is_named_and_swept_later(ctx: Context) -> None:
    ingest(ctx, upload(ctx, "one", digit_files(0, 12)))
    digest = hashlib.sha256(digits()[3][1]).hexdigest()

    class Away(ForwardingObjectStore):
        def list(self, prefix: str = "", recursive: bool = True) -> Any:
            raise UnavailableError("the labels bucket is away")

    receipt = erase.erase(replace_labels(ctx, Away(ctx.labels)), selection.of_hashes([digest]), **WHO)
    assert receipt.left == ["uploads: the labels bucket is away"]
    assert receipt.samples == 1
    assert found(ctx, digest) == {"uploads"}
    assert erase.finish(ctx) == 0
    assert found(ctx, digest) == set()


def replace_labels(ctx: Context, labels: Any) -> Context:
    other = replace(ctx, labels=labels)
    vars(other)["registry"] = ctx.registry
    return other


def test_a_bundle_in_use_keeps_its_probes_until_another_is_live(ctx: Context, tmp_path: Path) -> None:
    done = ingest(ctx, upload(ctx, "one", digit_files(0, 60)))
    assert done.version
    digest = validation_sample(ctx)
    prefix = f"{ctx.settings.artifacts_prefix}/b"
    before = register_bundle(ctx, tmp_path / "b", image_of(digest), done.version, prefix)
    bundles.deploy(ctx, prefix, before, version=1)
    receipt = erase.erase(ctx, selection.of_hashes([digest]), **WHO)
    assert ["version is in use" in sentence for sentence in receipt.left] == [True]
    assert ctx.registry.bundle(1).digest == before
    with transaction(ctx.engine) as connection:
        connection.execute(update(deployments).values(status="superseded"))
    assert erase.finish(ctx) == 0
    place = ctx.registry.bundle(1)
    assert place.digest != before
    assert bundle.fetch(ctx.artifacts, place.prefix, place.digest, tmp_path / "f").files
    with transaction(ctx.engine) as connection:
        assert connection.execute(select(deployments.c.bundle_digest)).scalar_one() == place.digest


def test_an_erasure_between_upload_and_rows_leaves_no_image(ctx: Context) -> None:
    secret = digits()[400][1]
    digest = hashlib.sha256(secret).hexdigest()
    worker = Worker.start(ctx, "w")
    asked, other = worker.answer(secret, digits()[401][1])

    class Erasing(ForwardingObjectStore):
        def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
            super().put(key, data, content_type)
            if secret in data:
                erase.erase(ctx, selection.of_hashes([digest]), **WHO)

    pairs = PairStore(ctx.engine, Erasing(ctx.store), Metrics({}))
    for path in worker.spool.closed_files(0):
        pairs.store(path, "w")
    assert stored_images(ctx) == {str(asked): False, str(other): True}
    assert not any(secret in ctx.store.get(info.key) for info in ctx.store.list("predictions/"))


def test_two_erasures_and_a_drop_at_once(ctx: Context) -> None:
    ingest(ctx, upload(ctx, "one", digit_files(0, 24)))
    worker = Worker.start(ctx, "w")
    worker.answer(*(digits()[i][1] for i in range(6)))
    worker.store()
    gone = [hashlib.sha256(digits()[i][1]).hexdigest() for i in (2, 3)]
    later = upload(ctx, "later", digit_files(2, 40))
    with ThreadPoolExecutor(3) as pool:
        dropped = pool.submit(ingest, ctx, later)
        receipts = list(pool.map(lambda digest: erase.erase(ctx, selection.of_hashes([digest]), **WHO), gone))
        assert dropped.result().version
    assert [receipt.samples for receipt in receipts] == [1, 1]
    assert erase.finish(ctx) == 0
    assert sorted(stored_images(ctx).values()) == [False] * 2 + [True] * 4
    with transaction(ctx.engine) as connection:
        known = set(connection.execute(select(samples.c.sha256)).scalars())
    assert len(known) > 24
    assert not known & set(gone)
    assert {name for digest in gone for name in found(ctx, digest)} <= {"uploads"}
    newest = versions.latest(ctx)
    assert newest
    assert list(verify.problems(ctx, newest.id)) == []


def test_the_list_of_erased_content_is_salted_and_read_by_index(ctx: Context) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    erase.erase(ctx, selection.of_hashes([digest]), **WHO)
    with transaction(ctx.engine) as connection:
        salted = connection.execute(select(erased_content.c.hmac)).scalar_one()
        assert salted not in (digest, hashlib.sha256(digest.encode()).hexdigest())
        assert connection.execute(select(func.count()).where(erased_content.c.sha256.is_not(None))).scalar_one() == 0
