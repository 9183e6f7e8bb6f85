import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ml.catalog.tables import predictions
from serving.prediction_log.log import Prediction, PredictionLog, timestamp_of, uuid7
from serving.prediction_log.retention import ImagePolicy
from serving.prediction_log.spool import Kind, Spool, SpoolRecord, decode, rows_files
from serving.telemetry.metrics import Metrics

ALL = ImagePolicy("all")


def prediction(image: bytes = b"image", **columns: Any) -> Prediction:
    values: dict[str, Any] = {
        "id": uuid7(),
        "model_version": 3,
        "variant": "int8",
        "label": "cat",
        "probability": 0.9,
        "top": [{"label": "cat", "probability": 0.9}],
        "rejected": None,
        "distance": None,
        "milliseconds": 1.5,
        "queue_milliseconds": 0.1,
        "decode_milliseconds": 0.5,
        "inference_milliseconds": 0.9,
        "width": 4,
        "height": 5,
        "brightness": 0.5,
        "caller": None,
        "client_key": None,
        "image": image,
    }
    return Prediction(**values | columns)


def shed(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {s.labels["what"]: s.value for f in families for s in f.samples if s.name == "evergreen_log_shed_total"}


def stored(own: Spool) -> list[tuple[Path, SpoolRecord]]:
    return [(path, r) for path in rows_files(own.folder) for r in decode(path.read_bytes()).records]


def images(own: Spool) -> list[bool]:
    """For each row, whether its image is still there, oldest first."""
    return [bool(r.member and path.with_suffix(".tar").exists()) for path, r in stored(own)]


def test_a_row_has_the_tables_columns_and_the_time_of_its_id(tmp_path: Path) -> None:
    own, logged = Spool(tmp_path, "one"), prediction()
    PredictionLog(own, 10_000, ALL, Metrics({})).append(logged)
    ((_, record),) = stored(own)
    row = orjson.loads(record.row)
    of_the_file = {"image_object", "image_offset", "image_size", "replica"}
    assert set(row) | of_the_file == {c.name for c in predictions.columns}
    assert (row["id"], row["at"]) == (str(logged.id), timestamp_of(logged.id).isoformat())
    assert row["image_sha256"] == hashlib.sha256(b"image").hexdigest()
    assert (row["label"], row["width"], row["height"], row["brightness"]) == ("cat", 4, 5, 0.5)


def test_images_stay_away_from_disk_where_they_are_not_wanted(tmp_path: Path) -> None:
    own, metrics = Spool(tmp_path, "one"), Metrics({})
    PredictionLog(own, 10_000, ImagePolicy("off"), metrics).append(prediction())
    assert images(own) == [False]
    assert sorted(p.name for p in own.folder.iterdir()) == ["000000.rows", "lock"]
    assert shed(metrics) == {"image": 0, "row": 0}


def test_a_sample_is_drawn_by_content_and_uncertain_is_what_the_model_does_not_know() -> None:
    sample = ImagePolicy("sample", rate=0.25)
    digests = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(4000)]
    kept = [sample.keeps(d, 1.0, None) for d in digests]
    assert 0.22 < sum(kept) / 4000 < 0.28
    assert kept == [sample.keeps(d, 0.0, "unfamiliar") for d in digests]
    uncertain = ImagePolicy("uncertain", below=0.8)
    assert [uncertain.keeps("0" * 64, c, None) for c in (0.79, 0.8)] == [True, False]
    assert uncertain.keeps("0" * 64, 0.99, "unfamiliar")


def test_when_full_the_oldest_images_go_first_and_rows_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, metrics = Spool(tmp_path, "one", file_bytes=5000), Metrics({})
    log = PredictionLog(own, 100_000, ALL, metrics)
    for number in range(60):
        log.append(prediction(bytes([number]) * 2000))
    kept = images(own)
    assert own.pending()[1] <= 100_000
    assert len(kept) == 60
    assert kept == sorted(kept), "what is kept is the youngest"
    assert 10 < sum(kept) < 60
    assert shed(metrics) == {"image": 60 - sum(kept), "row": 0}
    assert log.stats()["shed_images"] == 60 - sum(kept)
    for number in range(300):
        log.append(prediction(bytes([number % 256, 1]) * 1000))
    kept = images(own)
    assert own.pending()[1] <= 100_000
    assert sum(kept) <= 3, "rows have the room now; a folder's newest pair is let be"
    assert len(kept) == 360 - shed(metrics)["row"] < 360
    assert shed(metrics)["image"] == 360 - sum(kept)
    assert len([r for r in caplog.records if "shedding images" in r.message]) == 1
    assert len([r for r in caplog.records if "shedding rows" in r.message]) == 1


def test_there_is_room_again_after_a_drain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    own = Spool(tmp_path, "one", file_bytes=5000)
    log = PredictionLog(own, 50_000, ALL, Metrics({}))
    for number in range(40):
        log.append(prediction(bytes([number]) * 2000))
    for path in own.closed_files(age=0):
        own.remove(path)
    log.append(prediction())
    assert "keeping" in caplog.records[-1].message
    assert images(own) == [True]


def test_other_workers_bytes_count(tmp_path: Path) -> None:
    own, metrics = Spool(tmp_path, "one"), Metrics({})
    other = Spool(tmp_path, "other")
    other.append("feedback", bytes(10_000))
    log = PredictionLog(own, 10_000, ALL, metrics)
    log.measure()
    log.append(prediction())
    assert not log.append_feedback(b"{}")
    assert shed(metrics)["row"] == 1
    other.remove(other.closed_files(age=0)[0])
    log.measure()
    log.append(prediction())
    assert log.append_feedback(b"{}")
    assert len(stored(own)) == 2


@pytest.mark.parametrize("only_images", [True, False])
def test_a_disk_that_refuses_costs_the_image_and_then_the_row_but_never_the_answer(
    tmp_path: Path, only_images: bool
) -> None:
    class Refusing(Spool):
        def append(self, kind: Kind, row: bytes, name: str = "", image: bytes = b"") -> None:
            if image or not only_images:
                raise OSError(28, "No space left on device")
            super().append(kind, row, name, image)

    metrics, own = Metrics({}), Refusing(tmp_path, "one")
    PredictionLog(own, 10_000, ALL, metrics).append(prediction())
    assert shed(metrics) == {"image": 1, "row": 0 if only_images else 1}
    assert len(stored(own)) == only_images
