"""The champion as a starting point: its bundle's facts and weights."""

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

from ml.context import Context
from ml.errors import IntegrityError, NotFoundError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.training.data.plan import Past
from ml.training.network import networks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predecessor:
    """What a warm start takes from the champion.

    Attributes:
        labels: its outputs, by the names that their classes have now.
        past: how it came about.
    """

    version: int
    info: BundleInfo
    labels: tuple[str, ...]
    weights: dict[str, Tensor]
    past: Past

    def renamed(self, class_map: Mapping[str, str]) -> Self:
        """After classes were renamed or merged."""
        return replace(self, labels=tuple(class_map.get(label, label) for label in self.info.labels))

    def network(self) -> nn.Module:
        """The champion itself."""
        info = self.info
        made = networks.build(info.architecture, info.channels, len(info.labels), info.image_size, 0)
        networks.carry_head(made, self.weights, info.labels, info.labels)
        return made.eval()

    def positions(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """For each class, its place among the champion's outputs; −1 for one it does not know."""
        known = {label: i for i, label in enumerate(self.labels)}
        return np.asarray([known.get(label, -1) for label in classes], np.int64)


@dataclass(frozen=True)
class Absent:
    """There is nothing to start from, for this reason."""

    reason: str


def champion(ctx: Context) -> Predecessor | Absent:
    """The champion's weights, proven to fit a network of ours, or why there are none.

    Raises:
        UnavailableError: the registry or the bucket does not answer.
    """
    version = ctx.registry.alias("champion")
    if version is None:
        return Absent("there is no champion to start from")
    try:
        return _load(ctx, version)
    except (IntegrityError, NotFoundError) as error:
        log.warning("champion %s cannot be started from, training afresh: %s", version, error)
        return Absent(f"champion {version} cannot be started from: {error}")


def _load(ctx: Context, version: int) -> Predecessor:
    place = ctx.registry.bundle(version)
    # A folder of its own: the service may prune its cache of bundles at any time.
    with tempfile.TemporaryDirectory() as folder:
        info = bundle.fetch(ctx.artifacts, place.prefix, place.digest, Path(folder), names=(bundle.WEIGHTS,))
        data = (Path(folder) / bundle.WEIGHTS).read_bytes()
    if info.architecture != (wanted := ctx.settings.architecture):
        raise IntegrityError(f"its architecture is `{info.architecture}`, set is `{wanted}`")
    try:
        weights = load(data)
    except SafetensorError as error:
        raise IntegrityError(f"{bundle.WEIGHTS} cannot be read: {error}") from error
    tags = ctx.registry.tags(version)
    past = Past(int(tags.get("refreshes", 0)), int(tags.get("added", 0)))
    found = Predecessor(version, info, info.labels, weights, past)
    found.network()
    return found
