"""The champion as the starting point of a warm start: bundle info and weights."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from ml.catalog import deployments
from ml.context import Context
from ml.errors import IntegrityError, NotFoundError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.training.data.plan import RefreshHistory
from ml.training.network import networks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predecessor:
    """What a warm start uses of the champion.

    Attributes:
        labels: its outputs, by the current names of their classes.
        history: its refreshes since the last full training.
    """

    version: int
    info: BundleInfo
    labels: tuple[str, ...]
    weights: dict[str, Tensor]
    history: RefreshHistory

    def with_class_map(self, class_map: Mapping[str, str]) -> Self:
        """A copy with the labels mapped after classes were renamed or merged."""
        return replace(self, labels=tuple(class_map.get(label, label) for label in self.info.labels))

    def network(self) -> nn.Module:
        """The champion's network, in evaluation mode."""
        info = self.info
        network = networks.build(info.architecture, info.channels, len(info.labels), info.image_size, 0)
        networks.carry_head(network, self.weights, info.labels, info.labels)
        return network.eval()

    def positions(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """For each class, its position in the champion's outputs; −1 for unknown classes."""
        positions = {label: i for i, label in enumerate(self.labels)}
        return np.asarray([positions.get(label, -1) for label in classes], np.int64)


@dataclass(frozen=True)
class NoPredecessor:
    """Why a warm start is impossible."""

    reason: str


def load_champion(ctx: Context) -> Predecessor | NoPredecessor:
    """Load the champion's weights and check that they fit the configured network, or say why there are none.

    Raises:
        UnavailableError: the registry or the bucket does not answer.
    """
    live = deployments.live(ctx.engine)
    if live is None:
        return NoPredecessor("there is no champion to start from")
    version = live.model_version
    try:
        return _load(ctx, version)
    except (IntegrityError, NotFoundError) as error:
        log.warning("champion %s cannot be used for a warm start, training from scratch: %s", version, error)
        return NoPredecessor(f"champion {version} cannot be started from: {error}")


def _load(ctx: Context, version: int) -> Predecessor:
    place = ctx.registry.bundle(version)
    # A temporary folder, because the service may prune its bundle cache at any time.
    with tempfile.TemporaryDirectory() as folder:
        info = bundle.fetch(ctx.artifacts, place.prefix, place.digest, Path(folder), names=(bundle.WEIGHTS,))
        data = (Path(folder) / bundle.WEIGHTS).read_bytes()
    if info.architecture != (configured := ctx.settings.architecture):
        raise IntegrityError(f"its architecture is `{info.architecture}`, set is `{configured}`")
    try:
        weights = load(data)
    except SafetensorError as error:
        raise IntegrityError(f"{bundle.WEIGHTS} cannot be read: {error}") from error
    tags = ctx.registry.tags(version)
    history = RefreshHistory(int(tags.get("refreshes", 0)), int(tags.get("added", 0)))
    predecessor = Predecessor(version, info, info.labels, weights, history)
    predecessor.network()
    return predecessor
