"""Everything a training needs: samples, plan and initial network."""

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
from ml.training.data import corrections, novelty, plan, predecessor, replay
from ml.training.data.plan import Mode, Plan, RefreshHistory
from ml.training.data.predecessor import NoPredecessor, Predecessor
from ml.training.loop.objective import Teacher
from ml.training.network import backbones, networks, weights
from ml.training.network.weights import Pretrained

log = logging.getLogger(__name__)

_MIN_VALIDATION: Final = 500


@dataclass(frozen=True)
class TrainingData:
    """The training and validation samples, the plan and the initial weights.

    Attributes:
        warm: the predecessor of a warm start; None: start from `pretrained` or from scratch.
        validation: samples of the validation split, their number limited by `sample_validation`; the training
            split if the validation split is empty.
        rates: learning rate factors, see `networks.build`.
    """

    version: DatasetVersion
    warm: Predecessor | None
    plan: Plan
    train: Split
    validation: Split
    size: int
    channels: int
    architecture: str
    rates: tuple[float, ...]
    pretrained: Pretrained | None

    @property
    def chosen(self) -> tuple[Images, NDArray[np.int64]]:
        """Images and labels that the plan selected from the training split."""
        return self.train.images.take(self.plan.chosen), self.train.labels[self.plan.chosen]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Class shares of the whole training split; those of the selected samples differ."""
        return np.bincount(self.train.labels, minlength=len(self.version.classes)) / len(self.train)

    def network(self, seed: int) -> nn.Module:
        """The initial network: from scratch, pretrained, or with the predecessor's weights."""
        network = networks.build(
            self.architecture, self.channels, len(self.version.classes), self.size, seed, self.rates
        )
        if self.warm:
            networks.carry_head(network, self.warm.weights, self.warm.labels, self.version.classes)
        elif self.pretrained:
            self.pretrained.load_into(network)
        return network

    def teacher(self) -> Teacher | None:
        """The predecessor as distillation teacher for a warm start; None without one."""
        if self.warm is None:
            return None
        positions = {label: i for i, label in enumerate(self.version.classes)}
        return Teacher(self.warm.network(), tuple(positions.get(label, -1) for label in self.warm.labels))

    def origin(self) -> dict[str, str]:
        """Where the initial weights come from."""
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
            "validation_samples": len(self.validation),
            **self.origin(),
            **self.plan.as_params(),
        }


def gather(ctx: Context, version: DatasetVersion, mode: Mode, seed: int) -> TrainingData:
    """Load the splits and make the plan; later models keep the champion's input size.

    Raises:
        InvalidInputError: fewer than two classes have training samples.
    """
    champion = predecessor.load_champion(ctx)
    if isinstance(champion, Predecessor):
        champion = champion.with_class_map(versions.manifest(ctx, version.id).class_map)
    previous = champion if isinstance(champion, Predecessor) else None
    size, channels = (previous.info.image_size, previous.info.channels) if previous else _shape(ctx, version)
    train = loader.load(ctx, version.id, "train", size, channels)
    if (classes := len(np.unique(train.labels))) < 2:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has {len(train)} training samples of {classes} classes; "
            "at least two classes are needed: upload more labelled images"
        )
    is_new = (
        novelty.is_new(ctx, train, version.id, previous.info.dataset_version) if previous else np.ones(len(train), bool)
    )
    corrected = corrections.since(ctx, previous.info.dataset_version) if previous else None
    training_plan = _plan(ctx.settings, mode, champion, version, train, is_new, seed, corrected)
    validation = loader.load(ctx, version.id, "validation", size, channels)
    if len(validation):
        validation = validation.take(sample_validation(validation.labels, len(training_plan.chosen), seed))
    else:
        validation = train
    warm = previous if training_plan.mode == "refresh" else None
    return TrainingData(
        version,
        warm,
        training_plan,
        train,
        validation,
        size,
        channels,
        ctx.settings.architecture,
        weights.rates(ctx.settings),
        None if warm else weights.pretrained(ctx),
    )


def _shape(ctx: Context, version: DatasetVersion) -> tuple[int, int]:
    name = ctx.settings.architecture
    return loader.shape_of(ctx, version.id, *(backbones.sides(name) if name in backbones.NAMES else ()))


def sample_validation(labels: NDArray[np.int64], training_samples: int, seed: int) -> NDArray[np.int64]:
    """Random positions of validation samples: at most a third of the number of training samples, or 500.

    Every epoch evaluates all of them, so the cost of a refresh must not grow with the store.
    """
    most = max(_MIN_VALIDATION, training_samples // 3)
    return np.sort(np.random.default_rng(seed).permutation(len(labels))[:most])


def _plan(
    settings: Settings,
    mode: Mode,
    champion: Predecessor | NoPredecessor,
    version: DatasetVersion,
    train: Split,
    is_new: NDArray[np.bool_],
    seed: int,
    corrected: str | None,
) -> Plan:
    previous = champion if isinstance(champion, Predecessor) else None
    labels = previous.positions(train.classes)[train.labels] if previous else train.labels
    champion_network = previous.network() if previous and settings.replay_policy != "stratified" else None
    training_plan = plan.make_plan(
        mode,
        is_new,
        _why_cold(champion, version),
        previous.history if previous else RefreshHistory(),
        draw=replay.make_draw(settings.replay_policy, labels, train.images, champion_network, seed),
        replay_ratio=settings.replay_ratio,
        full_every=settings.full_every,
        full_growth=settings.full_growth,
        corrected=corrected,
    )
    log.info(
        "plan: %s (%s), %d new and %d replayed samples",
        training_plan.mode,
        training_plan.reason,
        training_plan.new,
        training_plan.replayed,
    )
    return training_plan


def _why_cold(champion: Predecessor | NoPredecessor, version: DatasetVersion) -> str | None:
    """Why a warm start is impossible; None if it is possible."""
    if isinstance(champion, NoPredecessor):
        return champion.reason
    if not set(champion.labels) & set(version.classes):
        return f"champion {champion.version} knows none of the classes"
    return None
