"""What a drop is compared with: the data as it stands, and the figures of the drops accepted before.

Reading it costs the same for ten thousand samples and for ten million: figures come from the newest
`DROPS` results of drops, label shares from at most `PAGES` pages of the table of samples.
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
PAGES = 500  # of 8 KiB, some 20 samples each
ENOUGH_IMAGES = 50
ENOUGH_IMAGES_A_CLASS = 5
ENOUGH_DROPS = 3
LEAST_DEVIATION = 0.02  # of brightness: drops that were all alike must not make every other one look strange


@dataclass(frozen=True)
class History:
    """Empty (as made without arguments) where there is no catalog, or nothing in it.

    Attributes:
        classes: of the newest dataset version.
        shares: label to its share of the stored samples.
        drops: the figures of the drops accepted last.
        class_map: classes that were renamed or merged, to what they are called now.
        released: a person released what the drop holds, and with it any class.
    """

    classes: frozenset[str] = frozenset()
    shares: Mapping[str, float] = field(default_factory=dict)
    drops: tuple[Mapping[str, Any], ...] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)
    released: bool = False


def read(engine: Engine, prefix: str | None = None) -> History:
    """The history as the catalog has it now, for the drop at `prefix`.

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


def compare(past: History, images: int, labels: Counter[str], brightness: float | None) -> dict[str, float | None]:
    """The figures of `drop.yml` that need a history; None where there is too little of it, or of the drop.

    Args:
        images: all images of the drop.
        labels: how many good new images bear each label.
        brightness: their mean.

    Returns:
        `class_shift`: total variation distance of the drop's label shares from the stored ones, 0 to 1.
        `unknown_share`: the share of good images whose class the newest dataset version does not have.
        `size_ratio`: images, as a multiple of the median of past drops.
        `brightness_shift`: distance from the mean of past drops, in their standard deviations.
    """
    total = sum(labels.values())
    return {
        "class_shift": _class_shift(past.shares, labels, total),
        "unknown_share": sum(n for c, n in labels.items() if c not in past.classes) / total
        if past.classes and total
        else None,
        "size_ratio": _size_ratio([d["images"] for d in past.drops if d.get("images")], images),
        "brightness_shift": _brightness_shift(
            [d["brightness"] for d in past.drops if d.get("brightness") is not None], brightness
        ),
    }


def _class_shift(shares: Mapping[str, float], labels: Counter[str], total: int) -> float | None:
    if not shares or total < max(ENOUGH_IMAGES, ENOUGH_IMAGES_A_CLASS * len(shares)):
        return None
    return sum(abs(shares.get(c, 0.0) - labels[c] / total) for c in {*shares, *labels}) / 2


def _size_ratio(sizes: list[int], images: int) -> float | None:
    return images / statistics.median(sizes) if len(sizes) >= ENOUGH_DROPS else None


def _brightness_shift(past: list[float], brightness: float | None) -> float | None:
    if brightness is None or len(past) < ENOUGH_DROPS:
        return None
    return (brightness - statistics.fmean(past)) / max(LEAST_DEVIATION, statistics.stdev(past))


def _shares(connection: Connection) -> dict[str, float]:
    """Exact for a table of up to `PAGES` pages, else from as many pages, chosen by chance but always the same."""
    pages = connection.execute(text("select pg_relation_size('samples') / current_setting('block_size')::int")).scalar()
    percent = min(100.0, 100 * PAGES / max(1, pages or 0))
    table = samples if percent == 100 else samples.tablesample(func.system(percent), seed=text("1"))
    counts: dict[str, int] = dict(connection.execute(select(table.c.label, func.count()).group_by(table.c.label)).all())
    total = sum(counts.values())
    return {label: count / total for label, count in counts.items()}
