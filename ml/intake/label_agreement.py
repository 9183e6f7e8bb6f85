"""Agreement of a drop's labels with the champion's predictions; that of shuffled labels is no better than chance."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ml.catalog import deployments
from ml.context import Context
from ml.errors import ImageRejectedError, IntegrityError, NotFoundError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.models import bundle, variants
from ml.models.model import Model

log = logging.getLogger(__name__)

MIN_IMAGES = 50
MAX_IMAGES = 500
MAX_CLASS_SHARE = 0.8

Fetch = Callable[[Sequence[dict[str, Any]]], list[bytes]]


def load_champion(ctx: Context) -> Model | None:
    """The live model, or None if there is none or its bundle is broken.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    live = deployments.live(ctx.engine)
    if live is None:
        return None
    folder = bundle.cache_folder(ctx.settings.home) / live.bundle_digest
    try:
        bundle.fetch(ctx.artifacts, live.bundle_prefix, live.bundle_digest, folder)
        settings = ctx.settings
        return variants.load_proven(
            folder, settings.probe_tolerance, 1, settings.service_variant, settings.service_runtime
        )
    except (IntegrityError, NotFoundError) as error:
        log.warning("labels are not compared with model %s, whose bundle is broken: %s", live.model_version, error)
        return None


def label_agreement(
    model: Model, rows: Sequence[dict[str, Any]], fetch: Fetch, limits: Limits, seed: str
) -> float | None:
    """Cohen's kappa (Cohen 1960) of the rows' labels and the model's predictions on a seeded sample.

    Args:
        model: the champion.
        rows: dicts with `label` and what `fetch` needs; labels that the model lacks are skipped.
        fetch: returns the encoded images of rows, in order.
        seed: makes the sample repeatable.

    Returns:
        Kappa, or None when fewer than `MIN_IMAGES` images can be compared, or when nearly all have one label:
        shuffling would change little then, and kappa is near 0 for correct labels too (Feinstein & Cicchetti 1990).
    """
    labels = model.info.labels
    comparable = [r for r in rows if r["label"] in labels]
    chosen = random.Random(seed).sample(comparable, min(MAX_IMAGES, len(comparable)))  # noqa: S311 - repeatable, not secret
    expected: list[int] = []
    pixels: list[images.Pixels] = []
    for row, data in zip(chosen, fetch(chosen), strict=True):
        try:
            pixels.append(images.decode(data, model.info.image_size, model.info.channels, limits))
        except ImageRejectedError:
            continue
        expected.append(labels.index(row["label"]))
    if len(expected) < MIN_IMAGES or max(Counter(expected).values()) > MAX_CLASS_SHARE * len(expected):
        return None
    predicted = np.concatenate(
        [model.predict(np.stack(pixels[i : i + 64])).argmax(1) for i in range(0, len(pixels), 64)]
    )
    return kappa(np.asarray(expected), predicted, len(labels))


def kappa(first: "np.ndarray[Any, Any]", second: "np.ndarray[Any, Any]", classes: int) -> float:
    """Agreement of two label vectors beyond chance: 1 is full agreement, 0 what their class shares alone would give."""
    observed = float((first == second).mean())
    shares = [np.bincount(v, minlength=classes) / len(v) for v in (first, second)]
    chance = float((shares[0] * shares[1]).sum())
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)
