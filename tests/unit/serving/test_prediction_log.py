import hashlib
import io
import tarfile
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import drain, spool
from serving.ids import moment, uuid7
from serving.metrics import Metrics
from serving.prediction_log import Prediction, PredictionLog
from serving.spool import Record, Spool


def prediction(image: bytes = b"image") -> Prediction:
    return Prediction(
        id=uuid7(),
        model_version=3,
        label="cat",
        probability=0.9,
        top=[{"label": "cat", "probability": 0.9}],
        milliseconds=1.5,
        width=4,
        height=5,
        brightness=0.5,
        client_key=None,
        image=image,
    )


def shed(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {s.labels["what"]: s.value for f in families for s in f.samples if s.name == "evergreen_log_shed_total"}


def stored(own: Spool) -> list[Record]:
    return [r for path in own.closed(age=0) for r in spool.read(path).records]


def test_a_row_has_every_column_and_the_time_of_its_id(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    said = prediction()
    PredictionLog(own, 10_000, keep_images=True, metrics=Metrics({})).append(said)
    (record,) = stored(own)
    row = drain._row(record, "one")
    assert row["id"] == said.id
    assert row["at"] == moment(said.id)
    assert row["image_sha256"] == hashlib.sha256(b"image").hexdigest()
    assert record.image == b"image"
    assert (row["label"], row["width"], row["height"], row["brightness"]) == ("cat", 4, 5, 0.5)


def test_images_stay_away_from_disk_where_they_are_not_wanted(tmp_path: Path) -> None:
    own, metrics = Spool(tmp_path, "one"), Metrics({})
    PredictionLog(own, 10_000, keep_images=False, metrics=metrics).append(prediction())
    (record,) = stored(own)
    assert record.image == b""
    assert shed(metrics) == {"image": 0, "row": 0}


def test_when_full_images_go_first_and_rows_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, metrics = Spool(tmp_path, "one"), Metrics({})
    log = PredictionLog(own, 20_000, keep_images=True, metrics=metrics)
    for _ in range(200):
        log.append(prediction(bytes(2000)))
    records = stored(own)
    images = sum(bool(r.image) for r in records)
    assert own.waiting()[1] <= 20_000
    assert 0 < images < len(records) < 200
    assert shed(metrics) == {"image": 200 - images, "row": 200 - len(records)}
    assert len([r for r in caplog.records if "shedding images" in r.message]) == 1
    assert len([r for r in caplog.records if "shedding rows" in r.message]) == 1


def test_other_workers_bytes_count(tmp_path: Path) -> None:
    own, metrics = Spool(tmp_path, "one"), Metrics({})
    log = PredictionLog(own, 10_000, keep_images=True, metrics=metrics)
    log.elsewhere = 10_000
    log.append(prediction())
    assert shed(metrics)["row"] == 1
    log.elsewhere = 0
    log.append(prediction())
    assert len(stored(own)) == 1


def test_a_disk_that_refuses_costs_the_row_and_never_the_answer(tmp_path: Path) -> None:
    class Refusing(Spool):
        def append(self, header: bytes, image: bytes) -> None:
            raise OSError(28, "No space left on device")

    metrics = Metrics({})
    PredictionLog(Refusing(tmp_path, "one"), 10_000, keep_images=True, metrics=metrics).append(prediction())
    assert shed(metrics)["row"] == 1


def test_a_tar_is_the_same_however_often_it_is_made_and_its_offsets_are_right() -> None:
    images = [b"one", b"two" * 500, b"", b"one"]
    records = [Record(prediction(i).header(), i) for i in images]

    def packed() -> tuple[bytes, list[dict[str, object]]]:
        rows = [drain._row(r, "one") for r in records]
        return drain.pack(records, rows, "key.tar"), rows

    (tar, rows), (again, _) = packed(), packed()
    assert tar == again
    for image, row in zip(images, rows, strict=True):
        if image:
            assert row["image_object"] == "key.tar"
            offset, size = row["image_offset"], row["image_size"]
            assert isinstance(offset, int)
            assert isinstance(size, int)
            assert tar[offset : offset + size] == image
        else:
            assert row["image_object"] is None
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert len(opened.getnames()) == 2  # the same content lies there once


def test_without_images_there_is_no_tar() -> None:
    records = [Record(prediction(b"").header(), b"")]
    assert drain.pack(records, [drain._row(records[0], "one")], "key") == b""


def test_the_header_is_json_for_any_label() -> None:
    said = prediction()
    assert orjson.loads(said.header())["label"] == "cat"
