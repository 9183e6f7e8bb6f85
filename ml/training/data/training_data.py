"""Everything a fit needs, gathered before it starts: samples, plan, and the network to begin with."""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Images, Split
from ml.datasets.versions import DatasetVersion
from ml.errors import InvalidInputError
from ml.settings import Settings
from ml.training.data import novelty, plan, predecessor, replay
from ml.training.data.plan import Mode, Past, Plan
from ml.training.data.predecessor import Absent, Predecessor
from ml.training.loop.objective import Teacher
from ml.training.network import backbones, networks, weights
from ml.training.network.weights import Pretrained

log = logging.getLogger(__name__)

_JUDGES_LEAST: Final = 500


@dataclass(frozen=True)
class TrainingData:
    """What is learned from, and by what the epochs are judged.

    Attributes:
        warm: the predecessor that the network starts from, if it does; else it may start `pretrained`.
        judge: of the validation split as many as suit what is learned from; of the training split where a
            handful of samples left validation empty.
        rates: factors of the learning rate, see `networks.build`.
    """

    version: DatasetVersion
    warm: Predecessor | None
    plan: Plan
    train: Split
    judge: Split
    size: int
    channels: int
    architecture: str
    rates: tuple[float, ...]
    pretrained: Pretrained | None

    @property
    def chosen(self) -> tuple[Images, NDArray[np.int64]]:
        """Images and labels that the plan picked from the training split."""
        return self.train.images.take(self.plan.chosen), self.train.labels[self.plan.chosen]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of the classes in the whole training split: a plan picks them in others."""
        return np.bincount(self.train.labels, minlength=len(self.version.classes)) / len(self.train)

    def network(self, seed: int) -> nn.Module:
        """Fresh, pretrained, or with the predecessor's weights."""
        made = networks.build(self.architecture, self.channels, len(self.version.classes), self.size, seed, self.rates)
        if self.warm:
            networks.carry_head(made, self.warm.weights, self.warm.labels, self.version.classes)
        elif self.pretrained:
            self.pretrained.put_into(made)
        return made

    def teacher(self) -> Teacher | None:
        """The predecessor as it was, for a network that starts from it."""
        if self.warm is None:
            return None
        now = {label: i for i, label in enumerate(self.version.classes)}
        return Teacher(self.warm.network(), tuple(now.get(label, -1) for label in self.warm.labels))

    def origin(self) -> dict[str, str]:
        """Where the weights started from."""
        return {
            "pretrained": self.pretrained.source if self.pretrained else "none",
            "warm_start_from": str(self.warm.version) if self.warm else "none",
        }

    def as_params(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "layer_rates": ",".join(f"{rate:g}" for rate in self.rates),
            "image_size": self.size,
            "channels": self.channels,
            "classes": len(self.version.classes),
            "training_samples": len(self.plan.chosen),
            "validation_samples": len(self.judge),
            **self.origin(),
            **self.plan.as_params(),
        }


def gather(ctx: Context, version: DatasetVersion, mode: Mode, seed: int) -> TrainingData:
    """Load the splits and make the plan; later models keep the champion's input size.

    Raises:
        InvalidInputError: fewer than two classes have training samples.
    """
    found = predecessor.champion(ctx)
    if isinstance(found, Predecessor):
        found = found.renamed(versions.manifest(ctx, version.id).class_map)
    before = found if isinstance(found, Predecessor) else None
    size, channels = (before.info.image_size, before.info.channels) if before else _shape(ctx, version)
    train = loader.load(ctx, version.id, "train", size, channels)
    if (classes := len(np.unique(train.labels))) < 2:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has {len(train)} training samples of {classes} classes; "
            "at least two classes are needed: upload more labelled images"
        )
    known = novelty.is_new(ctx, train, version.id, before.info.dataset_version) if before else np.ones(len(train), bool)
    made = _plan(ctx.settings, mode, found, version, train, known, seed)
    log.info("plan: %s (%s), %d new and %d replayed samples", made.mode, made.reason, made.new, made.replayed)
    validation = loader.load(ctx, version.id, "validation", size, channels)
    judge = validation.take(judges(validation.labels, len(made.chosen), seed)) if len(validation) else train
    warm = before if made.mode == "refresh" else None
    pretrained = None if warm else weights.pretrained(ctx)
    rates = weights.rates(ctx.settings)
    return TrainingData(version, warm, made, train, judge, size, channels, ctx.settings.architecture, rates, pretrained)


def _shape(ctx: Context, version: DatasetVersion) -> tuple[int, int]:
    name = ctx.settings.architecture
    return loader.shape_of(ctx, version.id, *(backbones.sides(name) if name in backbones.NAMES else ()))


def judges(labels: NDArray[np.int64], learned: int, seed: int) -> NDArray[np.int64]:
    """Positions of the samples that judge the epochs: by chance, at most a third of those learned from, or 500.

    Each epoch looks at all of them, so a refresh must not look at a share of everything stored.
    """
    most = max(_JUDGES_LEAST, learned // 3)
    return np.sort(np.random.default_rng(seed).permutation(len(labels))[:most])


def _plan(
    settings: Settings,
    mode: Mode,
    found: Predecessor | Absent,
    version: DatasetVersion,
    train: Split,
    is_new: NDArray[np.bool_],
    seed: int,
) -> Plan:
    before = found if isinstance(found, Predecessor) else None
    labels = before.positions(train.classes)[train.labels] if before else train.labels
    champion = before.network() if before and settings.replay_policy != "stratified" else None
    return plan.make(
        mode,
        is_new,
        _why_cold(found, version),
        before.past if before else Past(),
        draw=replay.by(settings.replay_policy, labels, train.images, champion, seed),
        replay_ratio=settings.replay_ratio,
        full_every=settings.full_every,
        full_growth=settings.full_growth,
    )


def _why_cold(found: Predecessor | Absent, version: DatasetVersion) -> str | None:
    """Why a warm start is impossible; None if it is possible."""
    if isinstance(found, Absent):
        return found.reason
    if not set(found.labels) & set(version.classes):
        return f"champion {found.version} knows none of the classes"
    return None
