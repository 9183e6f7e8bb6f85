"""The champion as a starting point: its bundle's facts and weights."""

import logging
from dataclasses import dataclass

from safetensors.torch import load_file
from torch import Tensor

from ml import bundle
from ml.bundle import BundleInfo
from ml.context import Context
from ml.errors import IntegrityError, NotFoundError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predecessor:
    """What a warm start takes from the champion."""

    version: int
    info: BundleInfo
    weights: dict[str, Tensor]


def champion(ctx: Context) -> Predecessor | None:
    """The champion's weights, or None when there is no champion or its bundle is broken (which is logged).

    Raises:
        UnavailableError: the registry or the bucket does not answer.
    """
    version = ctx.registry.alias("champion")
    if version is None:
        return None
    try:
        place = ctx.registry.bundle(version)
        folder = ctx.settings.home / "bundles" / place.digest
        info = bundle.fetch(ctx.artifacts, place.prefix, place.digest, folder, names=(bundle.WEIGHTS,))
        return Predecessor(version, info, load_file(str(folder / bundle.WEIGHTS)))
    except (IntegrityError, NotFoundError) as error:
        log.warning("champion %s cannot be started from, training afresh: %s", version, error)
        return None
