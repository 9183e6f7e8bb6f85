"""Drops against real Postgres and S3: exact fates, exactly once."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drops, quarantine, samples
from ml.context import Context, connect
from ml.datasets import loader, versions
from ml.datasets.splits import SPLITS
from ml.errors import InvalidInputError
from ml.ingest import ingest
from ml.intake.claim import claim
from ml.intake.find import find_ready
from ml.settings import Settings
from tests.pictures import digit_files, digits, png, upload

GIANT = np.zeros((5000, 10), np.uint8)


def rows(ctx: Context, table: object) -> list[dict[str, object]]:
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(select(table)).mappings()]  # type: ignore[call-overload]


def test_each_image_has_the_fate_it_deserves(context: Context) -> None:
    files = digit_files(0, 60)
    victim = digits()[0][1]
    files |= {
        "0/truncated.png": victim[: len(victim) // 2],
        "0/text.png": b"not an image",
        "0/empty.png": b"",
        f"{digits()[0][0]}/copy.png": victim,
        "1/tall.png": png(np.random.default_rng(0).integers(0, 255, (5000, 10), dtype=np.uint8)),
        "2/blank.png": png(np.zeros((8, 8), np.uint8)),
        "3/twins.png": digits()[100][1],
        "4/twins.png": digits()[100][1],
        "loose.png": digits()[101][1],
        ".DS_Store": b"x",
    }
    result = ingest(context, upload(context, "one", files))
    (drop,) = rows(context, drops)
    assert (drop["status"], drop["accepted"], drop["duplicates"], drop["quarantined"]) == ("accepted", 60, 1, 8)
    reasons = {str(q["key"]): " ".join(q["reasons"]) for q in rows(context, quarantine)}  # type: ignore[arg-type]
    assert "broken or cut off" in reasons["0/truncated.png"]
    assert "not an image" in reasons["0/text.png"]
    assert "empty" in reasons["0/empty.png"]
    assert "found 5000" in reasons["1/tall.png"]
    assert "blank" in reasons["2/blank.png"]
    assert "labelled 3 here and 4" in reasons["3/twins.png"]
    assert "labelled 4 here and 3" in reasons["4/twins.png"]
    assert "no label" in reasons["loose.png"]
    assert result.version == versions.latest(context).id  # type: ignore[union-attr]
    assert not find_ready(context)
    marker = orjson.loads(context.labels.get("drops/one/_INGESTED"))
    assert marker["accepted"] == 60
    assert context.store.exists(str(drop["report_key"]))


def test_the_same_again_changes_nothing(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 30)))
    before = rows(context, samples)
    assert claim(context, upload(context, "one", digit_files(0, 30))) is None
    again = ingest(context, upload(context, "other-name", digit_files(0, 30)))
    assert again.version is None
    assert rows(context, samples) == before
    assert len(versions.all_versions(context.engine)) == 1
    other = next(d for d in rows(context, drops) if d["prefix"] == "drops/other-name/")
    assert (other["accepted"], other["duplicates"]) == (0, 30)


@pytest.mark.parametrize(
    ("files", "marker", "words"),
    [
        ({}, b"", "empty"),
        ({"a.png": b"x"}, b"", "no known drop format"),
        ({"a/b.png": b"x"}, b'{"format": "parquet"}', "names format `parquet`"),
        ({"labels.csv": b"name,class\n", "x.png": b"x"}, b"", "lacks the column file and label"),
        ({"a/1.png": b"x", "b/2.png": b"y"}, b"", "share of good ones is 0"),
    ],
)
def test_a_hopeless_drop_is_rejected_with_words(
    context: Context, files: dict[str, bytes], marker: bytes, words: str
) -> None:
    result = ingest(context, upload(context, "bad", files, marker))
    assert result.version is None
    (drop,) = rows(context, drops)
    assert drop["status"] == "rejected"
    assert words in str(drop["reason"])
    (cycle,) = rows(context, cycles)
    assert cycle["verdict"] == "stopped"
    assert cycle["finished_at"]
    assert context.labels.exists("drops/bad/_REJECTED")
    assert not find_ready(context)


def test_without_a_marker_nothing_is_claimed(context: Context) -> None:
    with pytest.raises(InvalidInputError, match="has no marker"):
        claim(context, upload(context, "one", digit_files(0, 3), marker=None))


def test_labels_csv_with_every_kind_of_bad_row(context: Context) -> None:
    table = (
        b"\xef\xbb\xbffile,label,annotator\nx/1.png,seven,ann\nx/2.png,,ann\n../etc.png,a,\ngone.png,b,\nx/3.png,ok,\n"
    )
    files = {"labels.csv": table, **{f"x/{i}.png": digits()[i][1] for i in range(1, 8)}}
    ingest(context, upload(context, "csv", files | {"labels.csv": table + b"x/4.png,a,\nx/5.png,a,\nx/6.png,a,\n"}))
    (drop,) = rows(context, drops)
    assert drop["accepted"] == 5
    reasons = {str(q["key"]): q["reasons"] for q in rows(context, quarantine)}
    assert reasons["x/2.png"] == ["it has no label"]
    assert "outside the drop" in str(reasons["../etc.png"])
    assert "no such file" in str(reasons["gone.png"])
    assert "no row" in str(reasons["x/7.png"])


def test_a_drop_removed_half_way_loses_only_what_is_gone(context: Context) -> None:
    prefix = upload(context, "one", digit_files(0, 20))
    drop_id = claim(context, prefix)
    gone = [o.key for o in context.labels.list(prefix) if o.key.endswith(("3.png", "7.png"))]
    context.labels.delete(gone)
    assert claim(context, prefix) != drop_id  # what is left is another content, hence another drop
    from ml.datasets.accept import accept
    from ml.intake.inspect import inspect_chunk
    from ml.intake.validate import validate

    assert drop_id
    inspect_chunk(context, drop_id, 0)
    validate(context, drop_id)
    accept(context, drop_id)
    drop = next(d for d in rows(context, drops) if d["id"] == drop_id)
    assert (drop["accepted"], drop["quarantined"]) == (16, 4)
    assert {"removed from the drop while it was read"} == {r["reasons"][0] for r in rows(context, quarantine)}  # type: ignore[index]


def test_two_ingests_at_once_store_each_sample_once(context: Context) -> None:
    prefix = upload(context, "one", digit_files(0, 80))
    threads = [threading.Thread(target=ingest, args=(context, prefix)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(context, samples)) == 80
    (drop,) = rows(context, drops)
    assert drop["status"] == "accepted"


def _ingest_in_child(settings: Settings, prefix: str) -> None:
    ingest(connect(settings), prefix)


@pytest.mark.parametrize("delay", [0.15, 0.5, 0.9, 1.3])
def test_killed_anywhere_and_run_again_it_is_ingested_exactly_once(context: Context, delay: float) -> None:
    prefix = upload(context, "one", digit_files(0, 120))
    child = multiprocessing.get_context("fork").Process(target=_ingest_in_child, args=(context.settings, prefix))
    context.engine.dispose()
    child.start()
    time.sleep(delay)
    if child.pid and child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    for drop in find_ready(context):
        ingest(context, drop.prefix)
    (row,) = rows(context, drops)
    assert (row["status"], row["accepted"]) == ("accepted", 120)
    assert len(rows(context, samples)) == 120
    version = versions.latest(context)
    assert version is not None
    assert version.train + version.validation + version.holdout == 120


def test_a_version_loads_what_was_uploaded(make_context: Callable[..., Context]) -> None:
    context = make_context(segment_bytes=50_000)
    ingest(context, upload(context, "one", digit_files(0, 100)))
    ingest(context, upload(context, "two", digit_files(100, 150)))
    version = versions.latest(context)
    assert version is not None
    assert loader.shape_of(context, version.id) == (24, 1)
    seen: dict[str, str] = {}
    for split in SPLITS:
        loaded = loader.load(context, version.id, split, 8, 1)
        assert len(loaded) == getattr(version, split)
        for i, digest in enumerate(loaded.sha256):
            assert digest not in seen
            seen[digest] = loaded.classes[loaded.labels[i]]
    import hashlib

    truth = {hashlib.sha256(data).hexdigest(): label for label, data in digits()[:150]}
    assert seen == truth
    assert len(versions.manifest(context, version.id).segments) > 2


def test_a_damaged_manifest_is_noticed(context: Context) -> None:
    result = ingest(context, upload(context, "one", digit_files(0, 10)))
    assert result.version
    context.store.put(versions.key(result.version), b'{"segments":[]}')
    with pytest.raises(Exception, match="damaged or replaced"):
        versions.manifest(context, result.version)
