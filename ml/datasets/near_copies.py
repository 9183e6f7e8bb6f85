"""Copies of samples: mirrored, turned, cropped, shifted or in other colours. They share the split of their original.

Two steps. `ml.imaging.copy_signature` gives the signatures that an original of a new image may have; the samples
whose signatures begin so are candidates. `ml.imaging.copy_match` lays the thumbnails over each other. A candidate is
a copy if they agree, and clearly better than the other candidates do: among pictures that all look alike,
agreement proves nothing (the ratio test of Lowe 2004, "Distinctive Image Features from Scale-Invariant Keypoints").

The cost follows the drop. A sample makes at most `_PROBES` lookups, each a range of one B-tree; the ranges get narrower
as the store grows, and of each at most `_PER_PROBE` entries are read. Nearly blank images have no signature: they are
copies of nothing.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from ml.catalog.engine import transaction
from ml.cores import available_cores
from ml.datasets.splits import SplitName
from ml.imaging import copy_match, copy_signature
from ml.imaging.copy_signature import BITS, SIDE, Probes, Thumbnails, Views

_PROBES: Final = 256
_PER_PROBE: Final = 1000  # entries of the index read for a probe
_COMPARED: Final = 64  # signatures of the store that all views of an image are compared with
_RADIUS: Final = 20  # bits of two signatures that may differ
_CANDIDATES: Final = 16  # of an image, that are laid over it; as many of the store, as many of the drop
_ALIKE: Final = 2  # samples looked at that have the very same signature
_PAGE: Final = 128  # images searched for together

_GREY: Final = 0.9  # least agreement of the grey levels
_EDGES: Final = 0.72  # and of the edges
_RIVAL: Final = 0.6  # a copy disagrees at most this share as much as the best of those that are none,
_RIVAL_ALIKE: Final = 0.3  # and this share if that one agrees as a copy would
_GROUPS: Final = 2  # that an image may belong to; further ones are rivals

_PLAN = text("set local enable_seqscan = off; set local enable_bitmapscan = off")
_SEARCH = text(
    """
    with asked as materialized (
        select * from unnest(
            cast(:image as int[]), cast(:first as bigint[]), cast(:last as bigint[]), cast(:signature as bigint[])
        ) as q(image, first, last, signature)
    ), near as (
        select image, copy_signature, min(bit_count((copy_signature # signature)::bit(64))) as bits
        from asked cross join lateral (
            select copy_signature from samples where copy_signature between first and last limit :per_probe
        ) as entries
        group by image, copy_signature
    ), ranked as (
        select *, row_number() over (partition by image order by bits, copy_signature) as rank from near
    )
    select image, copy_signature from ranked where rank <= :compared order by image, copy_signature
    """
)
_READ = text(
    """
    select number, thumbnail, sha256, group_id, split, label, copy_links
    from unnest(cast(:number as int[]), cast(:signature as bigint[])) as q(number, signature) cross join lateral (
        select * from samples where copy_signature = signature limit :alike
    ) as sample
    order by number, sha256
    """
)


@dataclass(frozen=True)
class StoredCopy:
    """A stored sample that an image may be a copy of."""

    sha256: str
    group_id: str
    split: SplitName
    label: str
    links: int


@dataclass(frozen=True)
class Candidate:
    """What an image may be a copy of: a stored sample, or the image at an earlier position of the drop.

    Attributes:
        grey: agreement of the grey levels, -1 to 1.
        edges: agreement of the edges, -1 to 1.
    """

    found: StoredCopy | int
    grey: float
    edges: float


@dataclass(frozen=True)
class _Pairs:
    """Images, and what each may be a copy of.

    Attributes:
        image: position among the images that are searched for, ``int64[n]``.
        row: the view of it that is compared, ``int64[n]``.
        thumbnail: of the other one, ``uint8[n, 16, 16]``.
        found: the other one.
    """

    image: NDArray[np.int64]
    row: NDArray[np.int64]
    thumbnail: Thumbnails
    found: list[StoredCopy | int]


class CopySearch:
    """Searches the store and the earlier images of a drop for what its images are copies of.

    Args:
        engine: of the catalog; None: only the drop is searched.
        thumbnails: of all images of the drop, ``uint8[N, 16, 16]``.
        smaller_sides: of the images in pixels, ``int64[N]``.
        stored: number of samples in the store.
        within: the earlier images of the drop are searched too.
    """

    def __init__(
        self,
        engine: Engine | None,
        thumbnails: Thumbnails,
        smaller_sides: NDArray[np.int64],
        stored: int,
        within: bool = True,
    ) -> None:
        self._engine = engine if stored else None
        self._thumbnails = thumbnails
        self._search_drop = within
        self._sides = smaller_sides
        pages = range(0, len(thumbnails), 4096)
        parts = [copy_signature.signatures(thumbnails[at : at + 4096]) for at in pages]
        self.signatures: NDArray[np.int64] = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        self.signatures[smaller_sides < SIDE] = -1  # too few pixels to tell what they show
        self._order = np.argsort(self.signatures, kind="stable")
        self._sorted = self.signatures[self._order]
        self._bits = prefix_bits(stored + (len(thumbnails) if within else 0))

    def columns(self, number: int) -> dict[str, Any]:
        """What the catalog keeps of the image at this position."""
        signature = int(self.signatures[number])
        pixels = "\\x" + self._thumbnails[number].tobytes().hex()
        return {"thumbnail": pixels, "copy_signature": signature if signature >= 0 else None}

    def find(self, numbers: Sequence[int]) -> dict[int, list[Candidate]]:
        """Position → what it may be a copy of, best first; see `copies_of`."""
        wanted = np.array([n for n in numbers if self.signatures[n] >= 0], np.int64)
        pages = [wanted[start : start + _PAGE] for start in range(0, len(wanted), _PAGE)]
        with ThreadPoolExecutor(available_cores(), "copies") as pool:
            return {number: found for page in pool.map(self._find_page, pages) for number, found in page.items()}

    def _find_page(self, numbers: NDArray[np.int64]) -> dict[int, list[Candidate]]:
        probes = copy_signature.probes(self._thumbnails[numbers], self._sides[numbers], self._bits, _PROBES)
        candidates: dict[int, list[Candidate]] = {}
        for pairs in (self._within(numbers, probes), self._stored(probes)):
            if pairs is None or not pairs.found:
                continue
            row, views, shown = pairs.row, probes.views, self._thumbnails[numbers[pairs.image]]
            agreement = copy_match.agreement(
                pairs.thumbnail, shown, views.window[row], views.orientation[row], pairs.image
            )
            of_pairs = zip(numbers[pairs.image].tolist(), pairs.found, agreement.round(6).tolist(), strict=True)
            for number, found, (grey, edges) in of_pairs:
                candidates.setdefault(number, []).append(Candidate(found, grey, edges))
        return {n: sorted(found, key=lambda c: -c.edges) for n, found in candidates.items()}

    def _within(self, numbers: NDArray[np.int64], probes: Probes) -> _Pairs | None:
        """Pairs with earlier images of the drop whose signatures begin as a probe does."""
        if not self._search_drop:
            return None
        first, last = _ranges(probes.prefix, self._bits)
        left = np.searchsorted(self._sorted, first, "left")
        counts = (np.searchsorted(self._sorted, last, "right") - left).clip(0, _PER_PROBE)
        probe = np.repeat(np.arange(len(counts)), counts)
        entry = np.repeat(left, counts) + np.arange(len(probe)) - np.repeat(np.cumsum(counts) - counts, counts)
        position, image = self._order[entry], probes.image[probe]
        pairs = np.unique((image * len(self.signatures) + position)[position < numbers[image]])
        image, position = np.divmod(pairs, len(self.signatures))
        chosen, row = _nearest(probes.views, image, self.signatures[position])
        image, position = image[chosen], position[chosen]
        return _Pairs(image, row, self._thumbnails[position], position.tolist())

    def _stored(self, probes: Probes) -> _Pairs | None:
        if self._engine is None or not len(probes.image):
            return None
        first, last = _ranges(probes.prefix, self._bits)
        params = {
            "image": probes.image.tolist(),
            "first": first.tolist(),
            "last": last.tolist(),
            "signature": probes.views.signature[probes.row].tolist(),
            "per_probe": _PER_PROBE,
            "compared": _COMPARED,
        }
        with transaction(self._engine) as connection:
            connection.execute(_PLAN)
            near = np.array(connection.execute(_SEARCH, params).all(), np.int64).reshape(-1, 2)
            chosen, view = _nearest(probes.views, near[:, 0], near[:, 1])
            params = {"number": list(range(len(chosen))), "signature": near[chosen, 1].tolist(), "alike": _ALIKE}
            rows = connection.execute(_READ, params).all()
        number = np.array([row[0] for row in rows], np.int64)
        pixels = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, SIDE, SIDE)
        return _Pairs(near[chosen[number], 0], view[number], pixels, [StoredCopy(*row[2:]) for row in rows])


def _nearest(
    views: Views, image: NDArray[np.int64], signature: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of the pairs of image and signature that are nearest, and for each the nearest of the views.

    Args:
        views: of all images.
        image: of each pair, ``int64[n]``, ascending.
        signature: that the image is compared with, ``int64[n]``.
    """
    if not len(image):
        return image, image
    start = np.searchsorted(views.image, image, "left")
    counts = np.searchsorted(views.image, image, "right") - start
    first = np.cumsum(counts) - counts
    row = np.repeat(start - first, counts) + np.arange(counts.sum())
    bits = np.bitwise_count(views.signature[row] ^ np.repeat(signature, counts)).astype(np.int64)
    nearest = np.minimum.reduceat(bits << 32 | row, first)
    bits, row = nearest >> 32, nearest & 0xFFFFFFFF
    order = np.argsort(image * (BITS + 1) + bits, kind="stable")
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    chosen = order[(rank < _CANDIDATES) & (bits[order] <= _RADIUS)]
    return chosen, row[chosen]


def prefix_bits(samples: int) -> int:
    """Bits of a prefix that few of so many samples have by chance."""
    return min(40, max(16, math.ceil(math.log2(max(1, samples)))))


def copies_of(candidates: Sequence[Candidate], groups: Mapping[StoredCopy | int, str]) -> list[Candidate]:
    """The candidates that the image is a copy of, if it is one: those that agree clearly better than the rest.

    Args:
        candidates: of `CopySearch.find`, best first.
        groups: the group of each that still counts.
    """
    known = [c for c in candidates if c.found in groups]
    alike = [c for c in known if c.grey >= _GREY and c.edges >= _EDGES]
    nearest = list(dict.fromkeys(groups[c.found] for c in alike))[:_GROUPS]
    while nearest:
        rival = max((c.edges for c in known if groups[c.found] not in nearest), default=0.0)
        farthest = (_RIVAL if rival < _EDGES else _RIVAL_ALIKE) * (1 - rival)
        chosen = [c for c in alike if groups[c.found] in nearest and 1 - c.edges <= farthest]
        if {groups[c.found] for c in chosen} == set(nearest):
            return chosen
        nearest.pop()
    return []


def _ranges(prefix: NDArray[np.int64], bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first = prefix << (BITS - bits)
    return first, first | ((1 << (BITS - bits)) - 1)
