"""The demo's drops hold what the story says they hold."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.demo import drops, pictures
from infra.demo.client import RequestStats
from infra.demo.pictures import Picture
from ml.errors import InvalidInputError


@pytest.fixture(scope="module")
def digits() -> list[Picture]:
    return pictures.load(None)


def test_the_same_seed_tells_the_same_story(digits: list[Picture]) -> None:
    assert drops.make_story(digits) == drops.make_story(pictures.load(None))


def test_the_first_drop_has_four_bad_files_and_is_else_clean(digits: list[Picture]) -> None:
    first = drops.make_story(digits).first
    bad = {p.name: p for p in first if p.name.startswith(("bad-", "duplicate-"))}
    assert len(bad) == 4
    (duplicate,) = (p for n, p in bad.items() if n.startswith("duplicate-"))
    assert Counter(p.data for p in first)[duplicate.data] == 2
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(bad["bad-text.png"].data))
    with pytest.raises((OSError, SyntaxError)):
        Image.open(io.BytesIO(bad["bad-truncated.png"].data)).load()
    assert Image.open(io.BytesIO(bad["bad-giant.png"].data)).size == (drops.GIANT_SIDE, drops.GIANT_SIDE)


def test_shuffling_keeps_the_images_and_breaks_the_labels(digits: list[Picture]) -> None:
    truth = {p.name: p.label for p in digits}
    third = drops.make_story(digits).third
    assert sum(truth[p.name] == p.label for p in third) < 0.25 * len(third)
    assert {p.name for p in third} <= truth.keys()


def test_no_picture_is_in_two_drops(digits: list[Picture]) -> None:
    story = drops.make_story(digits)
    names = [
        {p.name.rpartition("-")[2] for p in part if not p.name.startswith(("bad", "dup"))}
        for part in (story.first, story.second, story.third)
    ]
    assert len(set.union(*names)) == sum(map(len, names))


def test_folder_tar_and_idx_are_read_alike(tmp_path: Path) -> None:
    pixels = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    labels = np.array([0, 1, 0, 1], np.uint8)
    originals = [
        Picture.of(pictures.IDX_CLASSES[label], f"image-{i:05}", Image.fromarray(p))
        for i, (p, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    folder = drops.write(originals, tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder, "set")
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
    (idx / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    expected = sorted(originals, key=lambda p: p.name)
    for source in (folder, tmp_path / "set.tar", idx):
        assert sorted(pictures.load(source), key=lambda p: p.name) == expected


def test_one_class_is_refused_with_words(tmp_path: Path) -> None:
    drops.write([Picture.of("cat", "a", Image.new("L", (8, 8)))], tmp_path / "set")
    with pytest.raises(InvalidInputError, match="at least 2 class folders"):
        pictures.load(tmp_path / "set")


def test_p99_of_nothing_is_nothing() -> None:
    assert RequestStats().p99() is None
    assert RequestStats(latencies=[float(i) for i in range(1, 101)]).p99() == 100.0
