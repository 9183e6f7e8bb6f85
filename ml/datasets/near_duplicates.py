"""Near duplicates: which samples look alike, found without looking at the whole store.

Two pictures are near when their perceptual hashes differ in at most `RADIUS` of 64 bits. Then one
half of the hash differs in at most one bit, so 33 exact lookups of each half find every near sample
(multi-index hashing: Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index
Hashing"). The cost follows the drop; the store adds the depth of two B-trees.

A sample that is near another joins its group, and with it its split, so near samples are never on
two sides. One that is near samples of two splits would bring them together: it is put aside.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, TextClause, text

from ml.catalog.engine import transaction
from ml.datasets.splits import SplitName, split_of
from ml.settings import Settings

RADIUS: Final = 3
_PAGE: Final = 500

_MASKS: Final = (0, *(1 << bit for bit in range(32)))
_READ: Final = (4, 1_000_000)  # stored samples that are read rather than looked up: for each new one, and at the most

# An index scan is right however few rows the planner believes there are. It goes through all its values in order.
_PLAN = text("set local enable_seqscan = off; set local enable_bitmapscan = off")
_SEARCH = """
    with asked as (
        select * from unnest(cast(:numbers as int[]), cast(:high as int[]), cast(:low as int[])) as q(number, high, low)
    ), masks as materialized (
        select 0 as mask union all select 1 << bit from generate_series(0, 31) bit
    ), candidates as materialized (
        select sha256, group_id, split, label, phash_high, phash_low from samples
        where phash_{half} = any(array(select {half} # mask from asked cross join masks))
    )
    select number, sha256, group_id, split, label from asked cross join candidates
    where bit_count((phash_high # high)::bit(32)) + bit_count((phash_low # low)::bit(32)) <= :radius
"""
_HALVES: Final = tuple(text(_SEARCH.format(half=half)) for half in ("high", "low"))


@dataclass(frozen=True)
class Neighbour:
    """A sample that looks like the one in question; `name` is its SHA-256, or its key in the same drop."""

    name: str
    group_id: str
    split: SplitName
    label: str


@dataclass(frozen=True)
class SplitAssignment:
    """Where a sample belongs: its group and split, and the neighbours that decided it."""

    group_id: str
    split: SplitName
    neighbours: tuple[Neighbour, ...]


def stored(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Neighbour]]:
    """Position in `rows` (with `phash_high`, `phash_low`) → its near samples in the catalog, by name.

    The halves are looked up side by side: most of the time goes into waiting for index pages.
    """
    if not rows:
        return {}
    found: dict[int, dict[str, Neighbour]] = {}
    with ThreadPoolExecutor(len(_HALVES), "near") as pool:
        for number, neighbour in chain.from_iterable(pool.map(lambda half: _lookups(engine, half, rows), _HALVES)):
            found.setdefault(number, {})[neighbour.name] = neighbour
    return {number: [near[name] for name in sorted(near)] for number, near in found.items()}


def _lookups(engine: Engine, half: TextClause, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Neighbour]]:
    found: list[tuple[int, Neighbour]] = []
    with transaction(engine) as connection:
        connection.execute(_PLAN)
        for start in range(0, len(rows), _PAGE):
            page = rows[start : start + _PAGE]
            asked = {
                "numbers": list(range(start, start + len(page))),
                "high": [r["phash_high"] for r in page],
                "low": [r["phash_low"] for r in page],
                "radius": RADIUS,
            }
            found += [(number, Neighbour(*told)) for number, *told in connection.execute(half, asked)]
    return found


def sift(connection: Connection, high: NDArray[np.int32], low: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which samples of a drop `stored` must be asked about: all, unless the store is small beside the drop.

    Then its hashes are read once, for less than the lookups would cost; a first, large drop needs none.
    """
    most = min(_READ[0] * len(high), _READ[1])
    counted = text("select count(*) from (select 1 from samples limit :most) as counted")
    if connection.execute(counted, {"most": most}).scalar_one() == most:
        return np.ones(len(high), np.bool_)
    rows = connection.execute(text("select phash_high, phash_low from samples where phash_high is not null")).all()
    there = np.asarray(rows, np.int32).reshape(-1, 2)
    may = np.zeros(len(high), np.bool_)
    for half, known in ((high, np.unique(there[:, 0])), (low, np.unique(there[:, 1]))):
        for mask in _MASKS:
            may |= np.isin(half ^ np.array(mask, np.uint32).astype(np.int32), known)
    return may


def among(high: NDArray[np.int32], low: NDArray[np.int32]) -> dict[int, list[int]]:
    """Position → the earlier positions it is near to; `high` and `low` are the halves of the hashes."""
    if not len(high):
        return {}
    halves = [half.astype(np.int64) & 0xFFFFFFFF for half in (high, low)]
    whole = ((halves[0] << 32) | halves[1]).astype(np.uint64)
    pairs = np.unique(np.concatenate([_candidates(half) for half in halves]), axis=0)
    near = pairs[np.bitwise_count(whole[pairs[:, 0]] ^ whole[pairs[:, 1]]) <= RADIUS]
    found: dict[int, list[int]] = {}
    for earlier, later in near.tolist():
        found.setdefault(later, []).append(earlier)
    return found


def _candidates(half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs ``int64[n, 2]``, first < second, whose 32-bit halves differ in at most one bit."""
    order = np.argsort(half, kind="stable")
    ranked = half[order]
    found = []
    for mask in _MASKS:
        wanted = ranked ^ mask  # nearly in order, so that looking it up stays in the cache
        left = np.searchsorted(ranked, wanted, "left")
        counts = np.searchsorted(ranked, wanted, "right") - left
        first = np.repeat(order, counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = np.stack([first, order[np.repeat(left, counts) + offsets]], axis=1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


class Placer:
    """Places for the samples of one drop, told one after another; it remembers those that a later one looks like.

    Args:
        high: of all samples of the drop the upper halves of the hashes, ``int32[N]``.
        low: the lower halves.
        settings: shares of the splits.
    """

    def __init__(self, high: NDArray[np.int32], low: NDArray[np.int32], settings: Settings) -> None:
        self._inside = among(high, low)
        self._wanted = {earlier for found in self._inside.values() for earlier in found}
        self._placed: dict[int, Neighbour] = {}
        self._settings = settings

    def place(self, number: int, row: Mapping[str, Any], known: Sequence[Neighbour]) -> SplitAssignment | str:
        """A place, or the words why the sample must be put aside.

        Args:
            number: its position in the drop.
            row: `key`, `label`, `fingerprint`.
            known: what `stored` found for it.
        """
        earlier = [self._placed[e] for e in self._inside.get(number, ()) if e in self._placed]
        found = _place(row, (*known, *earlier), self._settings)
        if isinstance(found, SplitAssignment) and number in self._wanted:
            self._placed[number] = Neighbour(row["key"], found.group_id, found.split, row["label"])
        return found


def _place(row: Mapping[str, Any], neighbours: tuple[Neighbour, ...], settings: Settings) -> SplitAssignment | str:
    if not neighbours:
        group = row["fingerprint"]
        split = split_of(group, settings.split_salt, settings.holdout_share, settings.validation_share)
        return SplitAssignment(group, split, ())
    first = neighbours[0]
    if other := next((n for n in neighbours if n.split != first.split), None):
        return (
            f"it looks like {first.name[:12]} ({first.split}) and like {other.name[:12]} ({other.split}): "
            "in either split it would leak into the other"
        )
    return SplitAssignment(first.group_id, first.split, neighbours)
