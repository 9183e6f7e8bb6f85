"""Counts what a drop changes of the labels of stored samples, and holds a drop that changes too many.

Counted are labels that change after all votes, not rows of a table. Changes that nobody has seen count together,
whichever drops made them: many small drops hold like one large one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection

from ml.catalog import existing_samples, label_changes
from ml.catalog.classes import class_map
from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import annotate, labels, trust, versions
from ml.datasets.annotate import AnnotationChanges
from ml.datasets.incoming import with_current_labels
from ml.intake.findings import MAX_IMAGES, Finding
from ml.intake.relabels import RelabelReport
from ml.intake.row_verdicts import RowVerdicts
from ml.settings import Settings

SHARE: Final = "relabels_stored"
CLASS: Final = "relabels_class"
KINDS: Final = (SHARE, CLASS)
MIN_CHANGES: Final = 5
"""Fewer changed labels hold no drop: in a small dataset each one would be more than any share."""

_PAGE: Final = 5000
_COLUMNS: Final = ("key", "sha256", "label", "annotator", "confidence", "labelled_at", "others", "twin")
_SHOWN: Final = 5


@dataclass
class RelabelCounts:
    """Counts of the changes of one drop, added page by page.

    Attributes:
        by_class: (before, after, split) → samples.
        by_actor: who said so → samples.
        proposed: labels that do not count by themselves, each a label task.
        samples: SHA-256 of the first changed samples.
    """

    by_class: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    by_actor: Counter[str] = field(default_factory=Counter)
    proposed: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, changes: AnnotationChanges) -> None:
        self.by_class.update((c.before, c.after, c.split) for c in changes.changes)
        self.by_actor.update(c.actor for c in changes.changes)
        self.proposed += sum(task.reason == labels.PROPOSAL for task in changes.tasks)
        self.samples += [c.sha256 for c in changes.changes[: max(0, MAX_IMAGES - len(self.samples))]]

    @property
    def total(self) -> int:
        return self.by_class.total()

    def lost(self) -> Counter[str]:
        """Class → samples it loses."""
        lost: Counter[str] = Counter()
        for (before, _, _), count in self.by_class.items():
            lost[before] += count
        return lost

    def describe(self) -> str:
        """In words, the largest first: classes, splits, annotators."""
        classes: Counter[tuple[str, str]] = Counter()
        splits: Counter[str] = Counter()
        for (before, after, split), count in self.by_class.items():
            classes[before, after] += count
            splits[split] += count
        changed = [f"{before} → {after}: {count}" for (before, after), count in classes.most_common(_SHOWN)]
        changed += [f"and {len(classes) - _SHOWN} other pairs of classes"] if len(classes) > _SHOWN else []
        in_splits = ", ".join(f"{split} {count}" for split, count in sorted(splits.items()))
        actors = ", ".join(f"{actor} ({count})" for actor, count in self.by_actor.most_common(_SHOWN))
        return f"{', '.join(changed)}; in {in_splits}; said by {actors}" if changed else "none"


def preview(ctx: Context, drop_id: str, prefix: str, rows: RowVerdicts) -> RelabelReport:
    """What the drop would change now, from its validated rows; a `ml.intake.relabels.CountRelabels`.

    Raises:
        UnavailableError: the catalog does not answer.
    """
    counts, keys = RelabelCounts(), dict[str, str]()
    with transaction(ctx.engine) as connection:
        trusted, classes = trust.of_drop(connection, prefix, ctx.settings), class_map(connection)
    duplicates = [row for row in rows.rows("duplicate", *_COLUMNS) if not row["twin"]]
    for start in range(0, len(duplicates), _PAGE):
        page = [with_current_labels(row, classes) for row in duplicates[start : start + _PAGE]]
        counts.add(annotate.changes_for_existing(ctx, page, drop_id, trusted))
        keys |= {row["sha256"]: row["key"] for row in page}
    images = tuple(keys[digest] for digest in counts.samples)
    with transaction(ctx.engine) as connection:
        return judge(connection, counts, ctx.settings, images)


def judge(
    connection: Connection, counts: RelabelCounts, settings: Settings, images: Iterable[str] = ()
) -> RelabelReport:
    """The figures, and the findings if the changes are too many.

    Args:
        connection: of a transaction.
        counts: what the drop changes.
        settings: the shares that go unseen.
        images: keys that show it.
    """
    newest = versions.newest(connection)
    stored = newest.train + newest.validation + newest.holdout if newest else 0
    lost = counts.lost()
    earlier = label_changes.unseen(connection, KINDS, settings.relabel_days) if lost else {}
    losses = {
        label: _loss(connection, label, count + earlier.get(label, 0), settings.relabel_class_share)
        for label, count in lost.items()
    }
    figures = {
        "relabelled": counts.total,
        "relabelled_share": counts.total / stored if stored else None,
        "relabelled_class_share": max(losses.values(), default=0.0),
        "proposed": counts.proposed,
        "relabels": counts.describe(),
    }
    together = counts.total + sum(earlier.values())
    if not counts.total or together < MIN_CHANGES:
        return RelabelReport(figures)
    findings = _findings(counts, figures, losses, (together, stored), settings, tuple(images))
    return RelabelReport(figures, findings)


def _loss(connection: Connection, label: str, lost: int, share: float) -> float:
    """The share of a class that is lost, or less than `share`: larger classes are not counted to their end."""
    limit = int(lost / share) + 1
    return lost / max(lost, existing_samples.class_size(connection, label, limit))


def _findings(
    counts: RelabelCounts,
    figures: Mapping[str, Any],
    losses: Mapping[str, float],
    total: tuple[int, int],
    settings: Settings,
    images: tuple[str, ...],
) -> tuple[Finding, ...]:
    """Findings for the share of all samples and for the share of a class.

    Args:
        counts: what the drop changes.
        figures: of the drop.
        losses: share that each class loses.
        total: changed samples with those of earlier drops that nobody has seen; stored samples.
        settings: the shares that go unseen.
        images: keys that show it.
    """
    together, stored = total
    numbers = {name: float(figures[name]) for name in ("relabelled", "relabelled_share", "relabelled_class_share")}
    numbers |= {"relabelled_together": float(together), "stored": float(stored)}
    with_others = (
        f", with what other drops changed in the last {settings.relabel_days} days and nobody saw {together:,}"
        if together > counts.total
        else ""
    )
    findings = []
    if together > settings.relabel_share * stored:
        message = (
            f"it changes the labels of {counts.total:,} of {stored:,} stored samples{with_others} "
            f"({together / stored:.1%}, at most {settings.relabel_share:.1%} go unseen): {counts.describe()}"
        )
        findings.append(Finding(SHARE, message, holds=True, images=images, figures=numbers))
    worst = max(losses, key=lambda label: (losses[label], label))
    if losses[worst] >= settings.relabel_class_share:
        message = (
            f"class {worst} loses {losses[worst]:.0%} of its samples{with_others} (less than "
            f"{settings.relabel_class_share:.0%} go unseen): {counts.describe()}"
        )
        findings.append(Finding(CLASS, message, holds=True, images=images, figures=numbers))
    return tuple(findings)
