"""The champion as a starting point: its bundle's facts and weights."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ml import bundle
from ml.bundle import BundleInfo
from ml.context import Context
from ml.errors import IntegrityError, NotFoundError
from ml.training import networks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predecessor:
    """What a warm start takes from the champion."""

    version: int
    info: BundleInfo
    weights: dict[str, Tensor]


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
    probe = networks.build(info.architecture, info.channels, len(info.labels), info.image_size, seed=0)
    networks.carry_head(probe, weights, info.labels, info.labels)
    return Predecessor(version, info, weights)
