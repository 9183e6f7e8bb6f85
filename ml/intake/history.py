"""What a drop is compared with: the stored samples, and the figures of previously accepted drops.

Reading it takes the same time for ten thousand samples and for ten million: figures come from the newest
`DROPS` drops, label shares from at most `PAGES` pages of the table `samples`.
"""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text

from ml.catalog import existing_samples, validations
from ml.catalog.classes import class_map
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.intake import quarantine_store

DROPS = 50
PAGES = 500  # of 8 KiB, about 20 samples each
MIN_IMAGES = 50
MIN_IMAGES_PER_CLASS = 5
MIN_DROPS = 3
MIN_DEVIATION = 0.02  # of brightness, so that small deviations of uniform drops do not look like outliers


@dataclass(frozen=True)
class History:
    """The default values are those of an empty catalog.

    Attributes:
        classes: of the newest dataset version.
        shares: share of the stored samples by label.
        drops: figures of the newest accepted drops.
        class_map: the current class by former name, for classes that were renamed or merged.
        released: the drop was released from quarantine, which allows it any class.
    """

    classes: frozenset[str] = frozenset()
    shares: Mapping[str, float] = field(default_factory=dict)
    drops: tuple[Mapping[str, Any], ...] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)
    released: bool = False


def read(engine: Engine, prefix: str | None = None) -> History:
    """Read the current history from the catalog, for the drop at `prefix`.

    Raises:
        UnavailableError: the catalog does not answer.
    """
    with transaction(engine) as connection:
        return History(
            classes=frozenset(existing_samples.classes(connection)),
            shares=_shares(connection),
            drops=validations.of_accepted_drops(connection, DROPS),
            class_map=class_map(connection),
            released=prefix is not None and quarantine_store.is_release(connection, prefix),
        )


def compare(reference: History, images: int, labels: Counter[str], brightness: float | None) -> dict[str, float | None]:
    """The figures of `drop.yml` that need a history; None where the history or the drop is too small.

    Args:
        images: the number of all images of the drop.
        labels: the number of good new images by label.
        brightness: their mean brightness.

    Returns:
        `class_shift`: total variation distance of the drop's label shares from the stored ones, 0 to 1.
        `unknown_share`: the share of good images whose class the newest dataset version does not have.
        `size_ratio`: images, as a multiple of the median of past drops.
        `brightness_shift`: distance from the mean of past drops, in their standard deviations.
    """
    total = sum(labels.values())
    return {
        "class_shift": _class_shift(reference.shares, labels, total),
        "unknown_share": sum(n for c, n in labels.items() if c not in reference.classes) / total
        if reference.classes and total
        else None,
        "size_ratio": _size_ratio([d["images"] for d in reference.drops if d.get("images")], images),
        "brightness_shift": _brightness_shift(
            [d["brightness"] for d in reference.drops if d.get("brightness") is not None], brightness
        ),
    }


def _class_shift(shares: Mapping[str, float], labels: Counter[str], total: int) -> float | None:
    if not shares or total < max(MIN_IMAGES, MIN_IMAGES_PER_CLASS * len(shares)):
        return None
    return sum(abs(shares.get(c, 0.0) - labels[c] / total) for c in {*shares, *labels}) / 2


def _size_ratio(sizes: list[int], images: int) -> float | None:
    return images / statistics.median(sizes) if len(sizes) >= MIN_DROPS else None


def _brightness_shift(previous: list[float], brightness: float | None) -> float | None:
    if brightness is None or len(previous) < MIN_DROPS:
        return None
    return (brightness - statistics.fmean(previous)) / max(MIN_DEVIATION, statistics.stdev(previous))


def _shares(connection: Connection) -> dict[str, float]:
    """Exact for a table of up to `PAGES` pages, else from that many pages, sampled with a fixed seed."""
    pages = connection.execute(text("select pg_relation_size('samples') / current_setting('block_size')::int")).scalar()
    percent = min(100.0, 100 * PAGES / max(1, pages or 0))
    table = samples if percent == 100 else samples.tablesample(func.system(percent), seed=text("1"))
    query = select(table.c.label, func.count()).where(~table.c.removed)
    counts: dict[str, int] = dict(connection.execute(query.group_by(table.c.label)).all())
    total = sum(counts.values())
    return {label: count / total for label, count in counts.items()}
