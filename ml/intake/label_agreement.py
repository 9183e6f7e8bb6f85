"""Do a drop's labels make sense to the champion? Shuffled labels agree with it like chance."""

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

ENOUGH = 50
MOST = 500
MOST_OF_ONE = 0.8

Fetch = Callable[[Sequence[dict[str, Any]]], list[bytes]]


def champion(ctx: Context) -> Model | None:
    """The model that answers now, or None when there is none or its bundle is broken.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    live = deployments.live(ctx.engine)
    if live is None:
        return None
    folder = ctx.settings.home / "bundles" / live["bundle_digest"]
    try:
        bundle.fetch(ctx.artifacts, live["bundle_prefix"], live["bundle_digest"], folder)
        settings = ctx.settings
        wishes = settings.service_variant, settings.service_runtime
        return variants.load_proven(folder, settings.probe_tolerance, 1, *wishes)
    except (IntegrityError, NotFoundError) as error:
        log.warning("labels are not compared with model %s, whose bundle is broken: %s", live["model_version"], error)
        return None


def label_agreement(
    judge: Model, rows: Sequence[dict[str, Any]], fetch: Fetch, limits: Limits, seed: str
) -> float | None:
    """Cohen's kappa (Cohen 1960) of given labels and the model's answers on a seeded sample.

    Args:
        judge: the champion.
        rows: dicts with `label` and what `fetch` needs; labels the model does not know are left out.
        fetch: rows to encoded images, in order.
        seed: makes the sample repeatable.

    Returns:
        Kappa, or None when fewer than `ENOUGH` images can be compared, or when nearly all bear one label:
        shuffling would change little then, and kappa is near 0 for right labels too (Feinstein & Cicchetti 1990).
    """
    labels = judge.info.labels
    known = [r for r in rows if r["label"] in labels]
    chosen = random.Random(seed).sample(known, min(MOST, len(known)))  # noqa: S311 - repeatable, not secret
    given: list[int] = []
    pixels: list[images.Pixels] = []
    for row, data in zip(chosen, fetch(chosen), strict=True):
        try:
            pixels.append(images.decode(data, judge.info.image_size, judge.info.channels, limits))
        except ImageRejectedError:
            continue
        given.append(labels.index(row["label"]))
    if len(given) < ENOUGH or max(Counter(given).values()) > MOST_OF_ONE * len(given):
        return None
    answers = np.concatenate([judge.predict(np.stack(pixels[i : i + 64])).argmax(1) for i in range(0, len(pixels), 64)])
    return kappa(np.asarray(given), answers, len(labels))


def kappa(first: "np.ndarray[Any, Any]", second: "np.ndarray[Any, Any]", classes: int) -> float:
    """Agreement beyond chance of two label vectors: 1 is full, 0 is what their class shares alone would give."""
    observed = float((first == second).mean())
    shares = [np.bincount(v, minlength=classes) / len(v) for v in (first, second)]
    chance = float((shares[0] * shares[1]).sum())
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)
