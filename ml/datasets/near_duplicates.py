"""Near duplicates: finds samples that look alike without reading the whole store.

Two images are near duplicates when their perceptual hashes differ in at most `RADIUS` of 64 bits. Then one
half of the hash differs in at most one bit, so 33 exact lookups of each half find every near sample
(multi-index hashing: Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index
Hashing"). The cost grows with the drop; the store adds the depth of two B-trees.

A sample that is near another joins its group and so its split: near duplicates are never in different
splits. One that is near samples of two splits would leak between them and is quarantined. So do transformed
copies, which `ml.datasets.near_copies` finds.

A chain of copies of copies could make one group of ever more pictures, which the gate counts as one. A group ends
`MAX_LINKS` steps from its first sample; the next one begins a group of its own, in the same split.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, TextClause, text

from ml.catalog.engine import transaction
from ml.datasets import near_copies
from ml.datasets.near_copies import Candidate, StoredCopy
from ml.datasets.splits import SplitName, Splitter

RADIUS: Final = 3
MAX_LINKS: Final = 4
"""A group ends so many steps from its first sample; who resembles its last ones begins a group in the same split."""

_PAGE: Final = 500

_MASKS: Final = (0, *(1 << bit for bit in range(32)))
_READ: Final = (
    4,
    1_000_000,
)  # read stored samples instead of looking them up: at most so many per new one, and in total

# An index scan is right however few rows the planner estimates; the values are looked up in order.
_PLAN = text("set local enable_seqscan = off; set local enable_bitmapscan = off")
_SEARCH = """
    with asked as (
        select * from unnest(cast(:numbers as int[]), cast(:high as int[]), cast(:low as int[])) as q(number, high, low)
    ), masks as materialized (
        select 0 as mask union all select 1 << bit from generate_series(0, 31) bit
    ), candidates as materialized (
        select distinct on (phash_high, phash_low, split, label)
            sha256, group_id, split, label, copy_links, phash_high, phash_low from samples
        where phash_{half} = any(array(select {half} # mask from asked cross join masks))
        order by phash_high, phash_low, split, label, sha256
    )
    select number, sha256, group_id, split, label, copy_links from asked cross join candidates
    where bit_count((phash_high # high)::bit(32)) + bit_count((phash_low # low)::bit(32)) <= :radius
"""
_HALVES: Final = tuple(text(_SEARCH.format(half=half)) for half in ("high", "low"))


@dataclass(frozen=True)
class Neighbour:
    """A near duplicate or a copy of a sample.

    Attributes:
        name: its SHA-256, or its key if it is in the same drop.
        links: steps from copy to copy to the sample that the group is named after.
        transformed: it may be mirrored, turned or cropped, so that its label says nothing of the other's.
    """

    name: str
    group_id: str
    split: SplitName
    label: str
    links: int = 0
    transformed: bool = False


@dataclass(frozen=True)
class SplitAssignment:
    """The group and split of a sample, and the neighbours that determined them."""

    group_id: str
    split: SplitName
    neighbours: tuple[Neighbour, ...]
    links: int = 0


def find_stored(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Neighbour]]:
    """Position in `rows` (with `phash_high`, `phash_low`) → its near duplicates in the catalog, by name.

    The halves are looked up in parallel: most of the time is spent waiting for index pages.
    """
    if not rows:
        return {}
    by_number: dict[int, dict[str, Neighbour]] = {}
    with ThreadPoolExecutor(len(_HALVES), "near") as pool:
        for number, neighbour in chain.from_iterable(pool.map(lambda half: _look_up(engine, half, rows), _HALVES)):
            by_number.setdefault(number, {})[neighbour.name] = neighbour
    return {number: [near[name] for name in sorted(near)] for number, near in by_number.items()}


def _look_up(engine: Engine, half: TextClause, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Neighbour]]:
    matches: list[tuple[int, Neighbour]] = []
    with transaction(engine) as connection:
        connection.execute(_PLAN)
        for start in range(0, len(rows), _PAGE):
            page = rows[start : start + _PAGE]
            params = {
                "numbers": list(range(start, start + len(page))),
                "high": [r["phash_high"] for r in page],
                "low": [r["phash_low"] for r in page],
                "radius": RADIUS,
            }
            matches += [(number, Neighbour(*columns)) for number, *columns in connection.execute(half, params)]
    return matches


def needs_lookup(connection: Connection, high: NDArray[np.int32], low: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mask of the samples of a drop that need `find_stored`: all, unless the store is small compared with the drop.

    In that case its hashes are read once, which costs less than the lookups; the first drop needs no lookups.
    """
    limit = min(_READ[0] * len(high), _READ[1])
    query = text("select count(*) from (select 1 from samples limit :most) as counted")
    if connection.execute(query, {"most": limit}).scalar_one() == limit:
        return np.ones(len(high), np.bool_)
    rows = connection.execute(text("select phash_high, phash_low from samples where phash_high is not null")).all()
    stored = np.asarray(rows, np.int32).reshape(-1, 2)
    needed = np.zeros(len(high), np.bool_)
    for half, stored_half in ((high, np.unique(stored[:, 0])), (low, np.unique(stored[:, 1]))):
        for mask in _MASKS:
            needed |= np.isin(half ^ np.array(mask, np.uint32).astype(np.int32), stored_half)
    return needed


def find_within(high: NDArray[np.int32], low: NDArray[np.int32]) -> dict[int, list[int]]:
    """Position → earlier positions that are near it; `high` and `low` are the halves of the hashes."""
    if not len(high):
        return {}
    halves = [half.astype(np.int64) & 0xFFFFFFFF for half in (high, low)]
    whole = ((halves[0] << 32) | halves[1]).astype(np.uint64)
    pairs = np.unique(np.concatenate([_candidates(half) for half in halves]), axis=0)
    near = pairs[np.bitwise_count(whole[pairs[:, 0]] ^ whole[pairs[:, 1]]) <= RADIUS]
    earlier_by_position: dict[int, list[int]] = {}
    for earlier, later in near.tolist():
        earlier_by_position.setdefault(later, []).append(earlier)
    return earlier_by_position


def _candidates(half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs ``int64[n, 2]``, first < second, whose 32-bit halves differ in at most one bit."""
    order = np.argsort(half, kind="stable")
    ranked = half[order]
    pairs_by_mask = []
    for mask in _MASKS:
        targets = ranked ^ mask  # nearly sorted, so lookups stay in the CPU cache
        left = np.searchsorted(ranked, targets, "left")
        counts = np.searchsorted(ranked, targets, "right") - left
        first = np.repeat(order, counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = np.stack([first, order[np.repeat(left, counts) + offsets]], axis=1)
        pairs_by_mask.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(pairs_by_mask)


class SplitAssigner:
    """Assigns the samples of one drop to splits, in order; remembers those with a later near duplicate.

    Args:
        high: upper halves of the hashes of all samples of the drop, ``int32[N]``.
        low: the lower halves.
        splitter: chooses the split of a new group.
        blank: mask of the samples that are nearly blank; these resemble nothing. None: none is.
    """

    def __init__(
        self,
        high: NDArray[np.int32],
        low: NDArray[np.int32],
        splitter: Splitter,
        blank: NDArray[np.bool_] | None = None,
    ) -> None:
        whole = high.astype(np.int64) << 32 | low.astype(np.int64) & 0xFFFFFFFF
        _, first, self._hash = np.unique(whole, return_index=True, return_inverse=True)
        self._near: dict[int, list[int]] = {}
        for later, earlier in find_within(high[first], low[first]).items():
            for one, other in ((later, e) for e in earlier):
                self._near.setdefault(one, []).append(other)
                self._near.setdefault(other, []).append(one)
        self._blank = np.zeros(len(high), np.bool_) if blank is None else blank
        # Of each hash the first sample of each split and label: a drop may hold one picture very many times.
        self._first: dict[int, dict[tuple[str, str], Neighbour]] = {}
        self._placed: dict[int, Neighbour] = {}
        self._splitter = splitter

    def assign(
        self,
        number: int,
        row: Mapping[str, Any],
        stored: Sequence[Neighbour],
        candidates: Sequence[Candidate] = (),
        *,
        trusted: bool = True,
    ) -> SplitAssignment | str:
        """Return the assignment, or the reason to quarantine the sample.

        Args:
            number: its position in the drop.
            row: `key`, `label`, `fingerprint`.
            stored: its neighbours from `find_stored`.
            candidates: what it may be a transformed copy of, from `near_copies.CopySearch`.
            trusted: its label may enter validation and holdout; otherwise it is for training only.
        """
        code = int(self._hash[number])
        if self._blank[number]:
            stored, earlier = (), []
        else:
            codes = sorted([code, *self._near.get(code, ())])
            earlier = [n for near in codes for n in self._first.get(near, {}).values()]
        copies = self._copies(candidates)
        known = {n.name for n in (*stored, *earlier)}
        neighbours = (*stored, *earlier, *(n for n in copies if n.name not in known))
        assignment = _assign(row, neighbours, self._splitter, trusted=trusted)
        if isinstance(assignment, SplitAssignment):
            placed = Neighbour(row["key"], assignment.group_id, assignment.split, row["label"], assignment.links)
            self._placed[number] = placed
            if not self._blank[number]:
                self._first.setdefault(code, {}).setdefault((placed.split, placed.label), placed)
        return assignment

    def _copies(self, candidates: Sequence[Candidate]) -> list[Neighbour]:
        """The neighbours among the candidates; those of the drop that were put aside do not count."""
        known: dict[StoredCopy | int, Neighbour] = {}
        for candidate in candidates:
            found = candidate.found
            if isinstance(found, StoredCopy):
                known[found] = Neighbour(found.sha256, found.group_id, found.split, found.label, found.links)
            elif found in self._placed:
                known[found] = self._placed[found]
        chosen = near_copies.copies_of(candidates, {found: n.group_id for found, n in known.items()})
        return [replace(known[c.found], transformed=True) for c in chosen]


def _assign(
    row: Mapping[str, Any], neighbours: tuple[Neighbour, ...], splitter: Splitter, *, trusted: bool
) -> SplitAssignment | str:
    if not trusted and (evaluated := next((n for n in neighbours if n.split != "train"), None)):
        return (
            f"it looks like {evaluated.name[:12]} ({evaluated.split}), and its label is of no trusted source: only "
            "trusted labels enter validation and holdout, and in training it would leak"
        )
    if not neighbours:
        group = row["fingerprint"]
        return SplitAssignment(group, splitter.choose(group, row["label"]) if trusted else "train", ())
    first = min(neighbours, key=lambda n: n.links)  # of those with equally many links, the first
    if conflicting := next((n for n in neighbours if n.split != first.split), None):
        return (
            f"it looks like {first.name[:12]} ({first.split}) and like {conflicting.name[:12]} ({conflicting.split}): "
            "in either split it would leak into the other"
        )
    if first.links >= MAX_LINKS:  # copies of copies of copies: no longer the same picture, but they must not leak
        splitter.extend(first.split, row["label"])
        return SplitAssignment(row["fingerprint"], first.split, neighbours)
    return SplitAssignment(first.group_id, first.split, neighbours, first.links + 1)
