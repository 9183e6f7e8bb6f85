"""Versions against real Postgres and S3: nothing lost, nothing twice, whoever comes in between."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, text

from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.catalog.tables import segments as segments_table
from ml.context import Context, connect
from ml.datasets import loader, versions
from ml.datasets.accept import accept
from ml.datasets.splits import SPLITS
from ml.errors import ConflictError, IntegrityError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.ingest import ingest
from ml.storage.object_store import ObjectStore
from tests.doubles.object_store import ForwardingObjectStore
from tests.drops import validated
from tests.pictures import digit_files, digits, png, upload


def sha(start: int, stop: int) -> set[str]:
    return {hashlib.sha256(data).hexdigest() for _, data in digits()[start:stop]}


def stored(ctx: Context) -> set[str]:
    """Samples by the table; each stands there once, as its key."""
    with transaction(ctx.engine) as connection:
        return set(connection.execute(select(samples.c.sha256)).scalars())


def listed(ctx: Context, version_id: str) -> list[str]:
    """Samples by the manifest, through the loader."""
    return [s for split in SPLITS for s in loader.load(ctx, version_id, split, 8, 1).sha256]


def latest(ctx: Context) -> versions.DatasetVersion:
    version = versions.latest(ctx)
    assert version
    return version


def test_overlapping_drops_accepted_at_once_hold_each_sample_once(context: Context) -> None:
    spans = [(0, 60), (40, 100), (20, 80), (90, 130)]
    ids = [validated(context, str(i), digit_files(*span)) for i, span in enumerate(spans)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda drop_id: accept(context, drop_id), ids))
    version = latest(context)
    assert stored(context) == sha(0, 130)
    assert sorted(listed(context, version.id)) == sorted(sha(0, 130))
    assert version.train + version.validation + version.holdout == 130


def test_a_contradiction_that_arose_since_validation_is_one_more_annotation(context: Context) -> None:
    first = validated(context, "one", {"a/1.png": digits()[0][1], "a/2.png": digits()[1][1]})
    second = validated(context, "two", {"b/1.png": digits()[0][1], "b/3.png": digits()[2][1]})
    assert accept(context, first)
    assert accept(context, second)
    with transaction(context.engine) as connection:
        query = text("select s.label, l.label from labels l join samples s using (sha256) order by l.id")
        annotations = [tuple(row) for row in connection.execute(query)]
        tasks = connection.execute(text("select reason, details from label_tasks")).all()
    assert annotations == [("a", "a"), ("a", "a"), ("b", "b"), ("a", "b")]
    assert [tuple(t) for t in tasks] == [("conflict", {"votes": {"a": 1, "b": 1}})]


class Waiting(ForwardingObjectStore):
    """Holds the first segment back until it is let go."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.reached, self.go = threading.Event(), threading.Event()

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        if key.startswith("segments/"):
            self.reached.set()
            assert self.go.wait(300)
        super().put_file(key, path, content_type)


def test_a_lost_lock_loses_no_samples(context: Context) -> None:
    """The connection that holds the lock dies while segments are written, and another drop comes in between."""
    slow, quick = (validated(context, n, digit_files(*s)) for n, s in (("slow", (0, 40)), ("quick", (30, 70))))
    store = Waiting(context.store)
    errors: list[Exception] = []

    def accept_slowly() -> None:
        try:
            accept(replace(connect(context.settings), store=store), slow)
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    thread = threading.Thread(target=accept_slowly)
    thread.start()
    assert store.reached.wait(300)
    with transaction(context.engine) as connection:
        connection.execute(
            text("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted")
        )
    assert accept(context, quick)
    store.go.set()
    thread.join()
    assert isinstance(errors[0], ConflictError)
    assert stored(context) == sha(30, 70)
    assert accept(context, slow)
    assert stored(context) == sha(0, 70)
    assert sorted(listed(context, latest(context).id)) == sorted(sha(0, 70))


def test_the_same_drops_give_the_same_version_anywhere(make_context: Callable[..., Context]) -> None:
    version_ids = []
    for _ in ("here", "there"):
        ctx = make_context(segment_bytes=20_000)
        ingest(ctx, upload(ctx, "one", digit_files(0, 50)))
        version_ids.append(ingest(ctx, upload(ctx, "two", digit_files(50, 70))).version)
    assert version_ids[0]
    assert version_ids[0] == version_ids[1]


def test_pixels_are_the_uploaded_ones(context: Context) -> None:
    rng = np.random.default_rng(0)
    colour = {f"c/{i}.png": png(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for i in range(30)}
    version = ingest(context, upload(context, "one", colour)).version
    assert version
    assert loader.shape_of(context, version) == (56, 3)
    by_sha = {hashlib.sha256(data).hexdigest(): data for data in colour.values()}
    limits = Limits(1_000_000, 1_000_000)
    for split in SPLITS:
        loaded = loader.load(context, version, split, 56, 3)
        assert loaded.images.shape == (len(loaded), 56, 56, 3)
        for digest, image in zip(loaded.sha256, np.asarray(loaded.images), strict=True):
            assert (image == images.decode(by_sha[digest], 56, 3, limits)).all()


def test_the_same_picture_in_two_encodings_shares_a_split(context: Context, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for i, (label, data) in enumerate(digits()[:60]):
        (tmp_path / "x.png").write_bytes(data)
        Image.open(tmp_path / "x.png").save(tmp_path / "x.bmp")
        files |= {f"{label}/{i}.png": data, f"{label}/{i}.bmp": (tmp_path / "x.bmp").read_bytes()}
    ingest(context, upload(context, "one", files))
    with transaction(context.engine) as connection:
        rows = connection.execute(select(samples.c.group_id, samples.c.split)).all()
    assert len(rows) == 120
    assert len({r.group_id for r in rows}) == 60
    assert len({(r.group_id, r.split) for r in rows}) == 60


def test_relabels_and_removals_are_honoured(context: Context) -> None:
    version = ingest(context, upload(context, "one", digit_files(0, 60))).version
    assert version
    before = versions.manifest(context, version)
    train = loader.load(context, version, "train", 8, 1)
    changed = replace(
        before, relabels={train.sha256[0]: "new"}, removals=(train.sha256[1],), classes=(*before.classes, "new")
    )
    context.store.put(versions.key(changed.id), changed.to_bytes())
    loaded = loader.load(context, changed.id, "train", 8, 1)
    assert loaded.sha256 == [train.sha256[0], *train.sha256[2:]]
    assert loaded.classes[loaded.labels[0]] == "new"
    assert [loaded.classes[i] for i in loaded.labels[1:]] == [train.classes[i] for i in train.labels[2:]]


def test_a_damaged_segment_is_noticed_and_a_cached_one_not_asked_for_again(context: Context) -> None:
    version = ingest(context, upload(context, "one", digit_files(0, 30))).version
    assert version
    with transaction(context.engine) as connection:
        (key,) = connection.execute(select(segments_table.c.tar_key)).scalars()
    good = context.store.get(key)
    context.store.put(key, good[:-1] + b"!")
    with pytest.raises(IntegrityError, match=key):
        loader.load(context, version, "train", 8, 1)
    context.store.put(key, good)
    first = loader.load(context, version, "train", 8, 1)
    context.store.delete([key])
    assert np.array_equal(loader.load(context, version, "train", 8, 1).images, first.images)


def test_many_readers_fill_one_cache(context: Context) -> None:
    version = ingest(context, upload(context, "one", digit_files(0, 120))).version
    assert version
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda i: loader.load(context, version, "train", 8 + 8 * (i % 2), 1), range(8)))
    assert all(np.array_equal(part.images, loaded[i % 2].images) for i, part in enumerate(loaded))
    left = [p.name for p in (context.settings.home / "cache").rglob("*.part")]
    assert left == []


def test_versions_are_found_by_the_beginning_of_their_id(context: Context) -> None:
    version = ingest(context, upload(context, "one", digit_files(0, 10))).version
    assert version
    assert versions.get(context, version[:8]).id == version
    with pytest.raises(Exception, match="begins with"):
        versions.get(context, "%")
    with pytest.raises(Exception, match="begins with"):
        versions.get(context, "zz")
