"""Everything a fit needs, gathered before it starts: samples, plan, and the network to begin with."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.datasets.versions import DatasetVersion
from ml.errors import InvalidInputError, NotFoundError
from ml.images import Pixels
from ml.training import backbones, networks, plan, predecessor, weights
from ml.training.plan import Mode, Plan
from ml.training.predecessor import Absent, Predecessor
from ml.training.weights import Pretrained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """`warm` is the predecessor that the network starts from, if it does; else it may start `pretrained`."""

    version: DatasetVersion
    warm: Predecessor | None
    plan: Plan
    train: Split
    validation: Split
    size: int
    channels: int
    architecture: str = networks.SMALL_CNN
    rates: tuple[float, ...] = (1.0,)
    pretrained: Pretrained | None = None

    @property
    def chosen(self) -> tuple[Pixels, NDArray[np.int64]]:
        """Images and labels that the plan picked from the training split."""
        return self.train.images[self.plan.chosen], self.train.labels[self.plan.chosen]

    @property
    def judge(self) -> Split:
        """What epochs are judged by: validation, or, where a handful of samples left it empty, training."""
        return self.validation if len(self.validation) else self.train

    def network(self, seed: int) -> nn.Module:
        """Fresh, or with the predecessor's weights."""
        made = networks.build(self.architecture, self.channels, len(self.version.classes), self.size, seed, self.rates)
        if self.warm:
            networks.carry_head(made, self.warm.weights, self.warm.info.labels, self.version.classes)
        elif self.pretrained:
            self.pretrained.put_into(made)
        return made

    def as_params(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "layer_rates": ",".join(f"{rate:g}" for rate in self.rates),
            "pretrained": self.pretrained.source if self.pretrained else "none",
            "image_size": self.size,
            "channels": self.channels,
            "classes": len(self.version.classes),
            "training_samples": len(self.plan.chosen),
            "validation_samples": len(self.validation),
            "warm_start_from": self.warm.version if self.warm else "none",
            **self.plan.as_params(),
        }


def gather(ctx: Context, version: DatasetVersion, mode: Mode, seed: int) -> Material:
    """Load the splits and make the plan; later models keep the champion's input size.

    Raises:
        InvalidInputError: fewer than two classes have training samples.
    """
    found = predecessor.champion(ctx)
    architecture = ctx.settings.architecture
    sides = backbones.sides(architecture) if architecture in backbones.NAMES else ()
    before = found if isinstance(found, Predecessor) else None
    size, channels = (
        (before.info.image_size, before.info.channels) if before else loader.shape_of(ctx, version.id, *sides)
    )
    train = loader.load(ctx, version.id, "train", size, channels)
    if (classes := len(np.unique(train.labels))) < 2:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has {len(train)} training samples of {classes} classes; "
            "at least two classes are needed: upload more labelled images"
        )
    is_new = _is_new(ctx, train, version, before.info.dataset_version) if before else np.ones(len(train), bool)
    made = plan.make(mode, train.labels, is_new, _why_cold(found, version), ctx.settings.replay_ratio, seed)
    log.info("plan: %s (%s), %d new and %d replayed samples", made.mode, made.reason, made.new, made.replayed)
    validation = loader.load(ctx, version.id, "validation", size, channels)
    warm = before if made.mode == "refresh" else None
    pretrained = None if warm else weights.pretrained(ctx)
    rates = weights.rates(ctx.settings)
    return Material(version, warm, made, train, validation, size, channels, architecture, rates, pretrained)


def _why_cold(found: Predecessor | Absent, version: DatasetVersion) -> str | None:
    """Why a warm start is impossible; None if it is possible."""
    if isinstance(found, Absent):
        return found.reason
    if not set(found.info.labels) & set(version.classes):
        return f"champion {found.version} knows none of the classes"
    return None


def _is_new(ctx: Context, train: Split, version: DatasetVersion, known_version: str) -> NDArray[np.bool_]:
    """``bool[N]``: the sample, or its present label, is not in version `known_version`."""
    try:
        known = versions.manifest(ctx, known_version)
    except NotFoundError:
        return np.ones(len(train), bool)
    segments, relabels = set(known.segments), versions.manifest(ctx, version.id).relabels
    pairs = zip(train.sha256, train.segment_ids, strict=True)
    return np.asarray([s not in segments or relabels.get(h) != known.relabels.get(h) for h, s in pairs], bool)
