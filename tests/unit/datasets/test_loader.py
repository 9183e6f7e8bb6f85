"""What a training reads of a dataset version."""

from dataclasses import replace

import numpy as np
import pytest

from ml.context import Context
from ml.datasets import loader
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError, UnavailableError
from tests.unit.datasets.stored import A1, A3, B2, Picture, store_changed, store_manifest, store_segment


def test_a_split_is_loaded_as_the_manifest_says(ctx: Context, manifest: Manifest) -> None:
    version = store_changed(ctx, manifest)
    train = loader.load(ctx, version, "train", 8, 1)
    assert train.sha256 == [A1.sha256]
    assert [train.classes[label] for label in train.labels] == ["z"]
    assert np.array_equal(train.images[:], np.full((1, 8, 8, 1), 10, np.uint8))
    holdout = loader.load(ctx, version, "holdout", 8, 1)
    assert holdout.sha256 == [A3.sha256, B2.sha256]
    assert [holdout.classes[label] for label in holdout.labels] == ["a", "z"]
    assert holdout.images[:][:, 0, 0, 0].tolist() == [30, 50]
    assert holdout.drop_ids == ["drop-1", "drop-2"]
    assert holdout.segment_ids == list(manifest.segments)


def test_images_are_indexed_as_an_array_is(ctx: Context) -> None:
    shades = [3, 1, 4, 15, 9, 26]
    pictures = [Picture(shade, "a") for shade in shades]
    ids = (store_segment(ctx, pictures[:4]), store_segment(ctx, pictures[4:]))
    images = loader.load(ctx, store_manifest(ctx, Manifest(ids, {}, (), ("a",))), "train", 8, 1).images
    assert images.shape == (6, 8, 8, 1)
    whole = np.asarray(images)
    assert whole[:, 0, 0, 0].tolist() == shades
    for key in (2, -1, slice(1, 6, 2), [5, 0, 5], np.asarray(shades) > 4, np.zeros(0, np.int64)):
        assert np.array_equal(images[key], whole[key])
    taken = images.take(np.asarray([5, 2, 0]))
    assert np.asarray(taken)[:, 0, 0, 0].tolist() == [26, 4, 3]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(28, 20)], 32),  # the longer side, rounded up to a multiple of 8
        ([(32, 32)], 32),
        ([(33, 10)], 40),
        ([(8, 8)], 24),
        ([(300, 300)], 96),
        ([(30, 10), (10, 50), (70, 70)], 56),  # the median of the longer sides is 50
    ],
)
def test_the_input_size_follows_the_training_images(ctx: Context, sides: list[tuple[int, int]], expected: int) -> None:
    pictures = [Picture(i, "a", width=w, height=h) for i, (w, h) in enumerate(sides)]
    ignored = Picture(99, "a", "holdout", width=90, height=90, grey=False)
    version = store_manifest(ctx, Manifest((store_segment(ctx, [*pictures, ignored]),), {}, (), ("a",)))
    assert loader.shape_of(ctx, version) == (expected, 1)


def test_one_coloured_training_image_makes_three_channels(ctx: Context) -> None:
    segment = store_segment(ctx, [Picture(1, "a"), Picture(2, "a", grey=False)])
    version = store_manifest(ctx, Manifest((segment,), {}, (), ("a",)))
    assert loader.shape_of(ctx, version) == (24, 3)
    fixed = replace(ctx, settings=ctx.settings.model_copy(update={"image_size": 48}))
    assert loader.shape_of(fixed, version) == (48, 3)
    empty = store_manifest(ctx, Manifest((), {}, (), ()))
    with pytest.raises(NotFoundError, match="no training images"):
        loader.shape_of(ctx, empty)


def test_an_unknown_segment_needs_the_catalog(ctx: Context) -> None:
    with pytest.raises(UnavailableError):
        loader.index(ctx, "unknown")
