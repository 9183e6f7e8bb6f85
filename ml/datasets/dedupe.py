"""Finds stored samples whose copies are in another split, and takes the copies out of later dataset versions."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from ml.catalog import existing_samples
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import amend, near_copies
from ml.datasets.near_copies import CopySearch, StoredCopy
from ml.datasets.splits import SplitName
from ml.imaging.copy_signature import SIDE

_PAGE: Final = 1024
_KEPT: Final[tuple[SplitName, ...]] = ("holdout", "validation", "train")  # the earlier one keeps its sample


@dataclass(frozen=True)
class Leak:
    """Two samples that show the same image in two splits; the one to remove, and the one that stays."""

    removed: str
    removed_split: SplitName
    removed_label: str
    kept: str
    kept_split: SplitName
    kept_label: str


def leaks(ctx: Context) -> Iterator[Leak]:
    """Yield the pairs of the newest version, each once; memory holds a page, and the removals of the version.

    Samples without a thumbnail are not compared: see `ml.datasets.copy_backfill`.

    Raises:
        NotFoundError: there is no dataset version yet.
        UnavailableError: a server does not answer.
    """
    version, manifest = amend.newest(ctx)
    stored = version.train + version.validation + version.holdout + len(manifest.removals)
    removed = set(manifest.removals)
    last = ""
    while page := _page(ctx, last):
        last = page[-1]["sha256"]
        usable = [row for row in page if len(row["thumbnail"] or b"") == SIDE * SIDE and row["sha256"] not in removed]
        if usable:
            for leak in _leaks_of(ctx, usable, stored):
                if leak.kept not in removed and leak.removed not in removed:
                    removed.add(leak.removed)
                    yield leak


def remove(ctx: Context, found: list[Leak]) -> str | None:
    """Make a dataset version without the samples to remove, and return its id; None: it would be the same.

    Nothing is deleted, and earlier versions stay. Idempotent.

    Raises:
        ConflictError: another version was created meanwhile; retry.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        parent, manifest = amend.newest(ctx)
        split_by_hash = {leak.removed: leak.removed_split for leak in found}
        wanted = sorted(split_by_hash.keys() - set(manifest.removals))
        with transaction(ctx.engine) as connection:  # some may have been erased meanwhile
            new = sorted(connection.execute(select(samples.c.sha256).where(samples.c.sha256.in_(wanted))).scalars())
        if not new:
            return None
        amended = replace(manifest, removals=(*manifest.removals, *new))
        taken = Counter[str]()
        taken.subtract(split_by_hash[digest] for digest in new)
        return amend.commit(
            ctx,
            parent,
            amended,
            taken,
            "copies in another split",
            lambda connection: existing_samples.leave_out(connection, new),
        )


def _page(ctx: Context, after: str) -> list[dict[str, Any]]:
    columns = [samples.c[name] for name in ("sha256", "thumbnail", "width", "height", "split", "label", "group_id")]
    query = select(*columns).where(samples.c.sha256 > after).order_by(samples.c.sha256).limit(_PAGE)
    with transaction(ctx.engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _leaks_of(ctx: Context, rows: list[dict[str, Any]], stored: int) -> Iterator[Leak]:
    thumbnails = np.stack([np.frombuffer(row["thumbnail"], np.uint8).reshape(SIDE, SIDE) for row in rows])
    sides = np.array([min(row["width"], row["height"]) for row in rows], np.int64)
    search = CopySearch(ctx.engine, thumbnails, sides, stored, within=False)
    for number, candidates in sorted(search.find(range(len(rows))).items()):
        row = rows[number]
        others = [c for c in candidates if isinstance(c.found, StoredCopy) and c.found.sha256 != row["sha256"]]
        groups: dict[StoredCopy | int, str] = {
            c.found: c.found.group_id for c in others if isinstance(c.found, StoredCopy)
        }
        for copy in near_copies.copies_of(others, groups):
            if isinstance(copy.found, StoredCopy) and copy.found.split != row["split"]:
                yield _leak(row, copy.found)


def _leak(row: dict[str, Any], other: StoredCopy) -> Leak:
    one = (row["sha256"], row["split"], row["label"])
    two = (other.sha256, other.split, other.label)
    kept, removed = sorted((one, two), key=lambda sample: _KEPT.index(sample[1]))
    return Leak(*removed, *kept)
