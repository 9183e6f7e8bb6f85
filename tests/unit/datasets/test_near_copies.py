"""Copies are found among many; what is blank, or like everything else, is a copy of nothing; groups end."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.datasets.near_copies import Candidate, CopySearch, StoredCopy, copies_of, prefix_bits
from ml.datasets.near_duplicates import MAX_LINKS, Neighbour, SplitAssigner, SplitAssignment
from ml.datasets.splits import Splitter
from ml.imaging import copy_signature, perceptual_hash
from tests.pictures import scenery

SPLITTER = Splitter("evergreen-1", holdout_share=0.2, validation_share=0.1)
ORIGINALS = [Image.fromarray(scenery(seed)) for seed in range(60)]
TRANSFORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "a quarter": lambda i: i.transpose(Image.Transpose.ROTATE_90),
    "a half": lambda i: i.transpose(Image.Transpose.ROTATE_180),
    "three quarters": lambda i: i.transpose(Image.Transpose.ROTATE_270),
    "cropped": lambda i: i.crop((5, 5, 91, 91)),
    "a corner": lambda i: i.crop((9, 9, 96, 96)),
    "shifted": lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, 0, 2, 0, 1, -2)),
    "darker": lambda i: i.point(lambda level: level * 0.7),
    "cropped and mirrored": lambda i: i.crop((0, 4, 92, 96)).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
}


def thumbnails(images: list[Image.Image]) -> NDArray[np.uint8]:
    return copy_signature.shrink(np.stack([np.asarray(perceptual_hash.downscale(image)) for image in images]))


def found(images: list[Image.Image], asked: range) -> dict[int, list[int]]:
    search = CopySearch(None, thumbnails(images), np.full(len(images), 96), stored=0)
    result = {}
    for number, candidates in search.find(asked).items():
        groups: dict[StoredCopy | int, str] = {c.found: str(c.found) for c in candidates}
        result[number] = [c.found for c in copies_of(candidates, groups) if isinstance(c.found, int)]
    return result


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_original_of_a_copy_is_found_and_nothing_else(name: str) -> None:
    copies = [TRANSFORMS[name](image) for image in ORIGINALS[:20]]
    asked = range(len(ORIGINALS), len(ORIGINALS) + len(copies))
    by_number = found([*ORIGINALS, *copies], asked)
    right = [by_number.get(number) == [i] for i, number in enumerate(asked)]
    wrong = [number for i, number in enumerate(asked) if by_number.get(number, [i]) not in ([], [i])]
    assert (sum(right) >= len(copies) - 1, wrong) == (True, []), "a copy may be missed, and is never another's"


def test_distinct_pictures_are_copies_of_nothing() -> None:
    assert not any(found(ORIGINALS, range(len(ORIGINALS))).values())


def test_all_turns_of_a_picture_have_nearly_one_signature() -> None:
    turned = [image.transpose(t) for image in ORIGINALS[:10] for t in Image.Transpose]
    signatures = copy_signature.signatures(thumbnails(turned)).reshape(10, -1)
    plain = copy_signature.signatures(thumbnails(ORIGINALS[:10]))
    assert np.bitwise_count(signatures ^ plain[:, None]).max() <= 3, "scaling rounds otherwise in another orientation"


def test_nearly_blank_pictures_have_no_signature_and_are_not_searched() -> None:
    rng = np.random.default_rng(1)
    blank = (200 + rng.integers(0, 3, (2000, 16, 16))).astype(np.uint8)
    search = CopySearch(None, blank, np.full(len(blank), 96), stored=0)
    assert (search.signatures == -1).all()
    assert search.find(range(len(blank))) == {}


def test_a_flood_of_one_picture_compares_each_with_few() -> None:
    (pixels,) = thumbnails(ORIGINALS[:1])
    noise = np.random.default_rng(2).integers(-1, 2, (600, 16, 16))
    flood = (pixels.astype(int) + noise).clip(0, 255).astype(np.uint8)
    candidates = CopySearch(None, flood, np.full(len(flood), 96), stored=0).find([599])[599]
    assert 0 < len(candidates) <= 16


def test_agreement_proves_nothing_among_pictures_that_all_agree() -> None:
    alike = [Candidate(number, 0.99, 0.9 - number / 1000) for number in range(4)]
    assert copies_of(alike, {c.found: str(c.found) for c in alike}) == []
    assert copies_of(alike, {c.found: "one" for c in alike}) == alike[:4]
    original = Candidate(9, 1.0, 0.999)
    assert copies_of([original, *alike], {c.found: str(c.found) for c in [original, *alike]}) == [original]


def test_prefixes_grow_with_the_store() -> None:
    assert [prefix_bits(count) for count in (0, 1000, 100_000, 100_000_000)] == [16, 16, 17, 27]


def test_a_chain_of_copies_begins_a_new_group_in_the_same_split() -> None:
    zero = np.zeros(1, np.int32)
    row = {"key": "k", "label": "a", "fingerprint": "own"}

    def joined(links: int) -> SplitAssignment:
        copy = StoredCopy("x" * 64, "group", "holdout", "b", links)
        placed = SplitAssigner(zero, zero, SPLITTER).assign(0, row, (), [Candidate(copy, 1.0, 1.0)])
        assert isinstance(placed, SplitAssignment)
        return placed

    transformed = joined(MAX_LINKS - 1)
    assert (transformed.group_id, transformed.split, transformed.links) == ("group", "holdout", MAX_LINKS)
    assert [n.transformed for n in transformed.neighbours] == [True]
    last = joined(MAX_LINKS)
    assert (last.group_id, last.split, last.links) == ("own", "holdout", 0)
    assert SPLITTER.added == {"a": 1}, "a group whose split is given counts as one that entered the holdout"


def test_who_bridges_two_splits_is_put_aside() -> None:
    zero = np.zeros(1, np.int32)
    row = {"key": "k", "label": "a", "fingerprint": "own"}
    copy = Candidate(StoredCopy("x" * 64, "group", "holdout", "a", 0), 1.0, 1.0)
    near = Neighbour("y" * 64, "other", "train", "a")
    assert isinstance(SplitAssigner(zero, zero, SPLITTER).assign(0, row, [near], [copy]), str)


def test_of_very_many_equal_hashes_each_is_compared_with_one() -> None:
    count = 2000
    same = np.full(count, 5, np.int32)
    assigner = SplitAssigner(same, same, SPLITTER)
    placed = [assigner.assign(n, {"key": f"k{n}", "label": "a", "fingerprint": f"f{n}"}, ()) for n in range(count)]
    assert {p.group_id for p in placed if isinstance(p, SplitAssignment)} == {"f0"}
    assert all(len(p.neighbours) <= 1 for p in placed if isinstance(p, SplitAssignment))
