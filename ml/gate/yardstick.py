"""The labels on which a challenger is judged: those of the champion's dataset version, not those that came with it.

A challenger is trained on labels that newer drops may have changed, in the holdout too. If it were judged on the
changed labels, a drop that relabels holdout samples would make its own challenger look better. So where a label of the
holdout has changed since the champion's dataset version, the reference, the label of the reference counts. That version
stays the reference until another champion is decided on, however many challengers are rejected meanwhile; after a
rollback or a promotion by hand it is that of the champion which a person chose.

A label that a person gave since in answer to a question or as a correction, or that was only there because of a drop
reverted since, is an act on record and not the challenger's own: it applies at once. See docs/decisions/0036.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from ml.catalog import drops as drops_catalog
from ml.catalog.classes import class_map
from ml.catalog.drops import DropName
from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions
from ml.context import Context
from ml.datasets import labels, loader, versions
from ml.datasets.labels import Annotation
from ml.datasets.loader import Split
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError
from ml.gate.scores import EvaluatedModel
from ml.settings import Settings

log = logging.getLogger(__name__)

_LISTED: Final = 100
_NAMES: Final = 5
_PAGE: Final = 1000


@dataclass(frozen=True)
class ChangedLabel:
    """A holdout sample whose label differs from that of the reference.

    Attributes:
        before: its label in the reference, by the current class names.
        after: its label now.
        judged: the label by which the models are compared.
        by: what changed it: a drop's name, ``operator NAME``, or ``the revert of NAME``.
        annotators: who gave the label in that drop, if it says so.
    """

    sha256: str
    before: str
    after: str
    judged: str
    by: str
    annotators: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the models are compared by another label than the sample has now."""
        return self.judged != self.after


@dataclass(frozen=True)
class Yardstick:
    """The changes of holdout labels since the dataset version `reference`; None if there is none.

    Attributes:
        changes: in the order of `positions`.
        positions: of the changed samples in the holdout, ``int64[K]``.
        judged: their labels for the comparison, as positions in the holdout's classes, ``int64[K]``.
    """

    reference: str | None
    changes: tuple[ChangedLabel, ...]
    positions: NDArray[np.int64]
    judged: NDArray[np.int64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of the changes do not count in the comparison, ``bool[K]``."""
        return np.asarray([change.kept for change in self.changes], np.bool_)

    def judge(self, side: EvaluatedModel) -> EvaluatedModel:
        """The model on the labels that count."""
        return side.on_labels(self.positions[self.kept], self.judged[self.kept])


_NONE: Final = Yardstick(None, (), np.zeros(0, np.int64), np.zeros(0, np.int64))


def find(ctx: Context, champion: int, dataset: str, holdout: Split) -> Yardstick:
    """Find the labels of the holdout that changed since the champion's dataset version.

    Only samples that either version relabels are looked at, so the cost follows what was changed.
    """
    reference = ctx.registry.tags(champion).get("dataset_version")
    if reference is None:
        return _NONE
    try:
        before, now = versions.manifest(ctx, reference), versions.manifest(ctx, dataset)
        created_at = _created_at(ctx, reference)
    except NotFoundError as error:
        log.warning("labels are not compared with those of the champion's dataset version: %s", error)
        return _NONE
    positions = _relabelled(holdout, before, now)
    stored = _stored_labels(ctx, holdout, positions)
    changed = []
    for i in positions:
        digest, after = holdout.sha256[i], holdout.classes[holdout.labels[i]]
        label = before.label_of(digest, stored[digest])
        label = now.class_map.get(label, label)
        if label != after and label in holdout.classes:
            changed.append((i, ChangedLabel(digest, label, after, label, "", ())))
    changes = _explained(ctx, [change for _, change in changed], holdout.classes, created_at)
    class_ids = {name: i for i, name in enumerate(holdout.classes)}
    return Yardstick(
        reference,
        tuple(changes),
        np.asarray([i for i, _ in changed], np.int64),
        np.asarray([class_ids[change.judged] for change in changes], np.int64),
    )


def figures(
    yardstick: Yardstick, sides: Mapping[str, EvaluatedModel], by_reference: Mapping[str, EvaluatedModel]
) -> Any:
    """What changed and how the models do on it, for policy, record and report; JSON.

    Args:
        sides: champion and challenger on the labels that the samples have now.
        by_reference: the same on the labels that count.
    """
    kept, total = [change for change in yardstick.changes if change.kept], len(sides["challenger"].right)
    positions = yardstick.positions[yardstick.kept]
    return {
        "reference": yardstick.reference,
        "changed": len(kept),
        "share": len(kept) / total if total else 0.0,
        "applied": len(yardstick.changes) - len(kept),
        "by": _by_source(kept),
        "applied_by": _by_source([change for change in yardstick.changes if not change.kept]),
        "samples": [asdict(change) for change in sorted(yardstick.changes, key=_order)[:_LISTED]],
        "right_before": {name: int(side.right[positions].sum()) for name, side in by_reference.items()},
        "right_after": {name: int(side.right[positions].sum()) for name, side in sides.items()},
        "brier_before": {name: _mean(side.answers.brier[positions]) for name, side in by_reference.items()},
        "brier_after": {name: _mean(side.answers.brier[positions]) for name, side in sides.items()},
        "accuracy_after": {name: _mean(side.right) for name, side in sides.items()},
    }


def _order(change: ChangedLabel) -> tuple[bool, str, str, str, str]:
    return not change.kept, change.by, change.before, change.after, change.sha256


def _mean(values: NDArray[Any]) -> float | None:
    return round(float(values.mean()), 5) if len(values) else None


def _by_source(changes: Sequence[ChangedLabel]) -> list[dict[str, Any]]:
    """A row for each drop or operator, the one with the most changes first."""
    rows = []
    for name, count in Counter(change.by for change in changes).most_common():
        own = [change for change in changes if change.by == name]
        pairs = Counter((change.before, change.after) for change in own).most_common(_NAMES)
        annotators = sorted({name for change in own for name in change.annotators})[:_NAMES]
        row = {"by": name, "changed": count, "annotators": annotators}
        rows.append(row | {"classes": [{"before": a, "after": b, "changed": n} for (a, b), n in pairs]})
    return rows


def _relabelled(holdout: Split, before: Manifest, now: Manifest) -> list[int]:
    """Positions of the samples that the versions may label differently; samples that came back are new."""
    names = before.relabels.keys() | now.relabels.keys()
    differing = {digest for digest in names if before.relabels.get(digest) != now.relabels.get(digest)}
    differing -= set(before.removals)
    return [i for i, digest in enumerate(holdout.sha256) if digest in differing] if differing else []


def _stored_labels(ctx: Context, holdout: Split, positions: Sequence[int]) -> dict[str, str]:
    """The labels in the segments, which rewriting them does not change."""
    wanted, stored = {holdout.sha256[i] for i in positions}, dict[str, str]()
    for segment in dict.fromkeys(holdout.segment_ids[i] for i in positions):
        table = loader.columns(ctx, segment, ("sha256", "label"))
        pairs = zip(table["sha256"].to_pylist(), table["label"].to_pylist(), strict=True)
        stored.update((digest, label) for digest, label in pairs if digest in wanted)
    return stored


def _created_at(ctx: Context, version_id: str) -> datetime:
    query = select(dataset_versions.c.created_at).where(dataset_versions.c.id == version_id)
    with transaction(ctx.engine) as connection:
        created_at: datetime | None = connection.execute(query).scalar()
    if created_at is None:
        raise NotFoundError(f"no dataset version has the id `{version_id}`")
    return created_at


def _explained(
    ctx: Context, changes: Sequence[ChangedLabel], classes: Sequence[str], since: datetime
) -> list[ChangedLabel]:
    """The changes with who made them, and the label of the comparison where operators had a part in it."""
    explained = []
    for start in range(0, len(changes), _PAGE):
        page = changes[start : start + _PAGE]
        with transaction(ctx.engine) as connection:
            mapping = class_map(connection)
            stored = labels.annotations_of(connection, [change.sha256 for change in page])
            ids = {a.drop_id for annotations in stored.values() for a in annotations if a.drop_id}
            names = drops_catalog.names(connection, sorted(ids))
        for change in page:
            known = [replace(a, label=mapping.get(a.label, a.label)) for a in stored.get(change.sha256, ())]
            explained.append(_explain(change, known, names, classes, since, ctx.settings))
    return explained


def _explain(
    change: ChangedLabel,
    annotations: Sequence[Annotation],
    names: Mapping[str, DropName],
    classes: Sequence[str],
    since: datetime,
    settings: Settings,
) -> ChangedLabel:
    reverted = {drop_id for drop_id, drop in names.items() if drop.reverted_at is not None}
    undone = [a for a in annotations if a.drop_id in reverted and _stored_by(a, since)]
    by_operators = [a for a in annotations if _is_operators(a) and not _stored_by(a, since)]
    if undone or by_operators:
        counted = [a for a in annotations if _is_operators(a) or _stored_by(a, since)]
        label = labels.replay([a for a in counted if a.drop_id not in reverted], settings, protected=True)
        change = replace(change, judged=label if label is not None and label in classes else change.after)
    newest = next((a for a in reversed(annotations) if a.label == change.after and a.drop_id not in reverted), None)
    if undone and (newest is None or _stored_by(newest, since)):
        return replace(change, by=f"the revert of {names[str(undone[-1].drop_id)].name}")
    if newest is None:
        return replace(change, by="an unknown source")
    if _is_operators(newest):
        return replace(change, by=f"operator {newest.annotator}")
    drop = names.get(str(newest.drop_id))
    own = [a for a in annotations if a.drop_id == newest.drop_id and a.label == change.after]
    annotators = tuple(sorted({a.annotator for a in own if a.annotator}))
    return replace(change, by=f"drop {drop.name if drop else newest.drop_id}", annotators=annotators)


def _is_operators(annotation: Annotation) -> bool:
    """Whether a person decided by name. What reviewers send as feedback comes with a drop, and counts like a drop's."""
    return annotation.source in labels.DECIDING and annotation.drop_id is None


def _stored_by(annotation: Annotation, time: datetime) -> bool:
    return annotation.created_at is not None and annotation.created_at <= time
