"""Labels that are probably wrong, asked about and never changed by itself.

Confident learning (Northcutt, Jiang, Chuang 2021) as `cleanlab` has it, on predictions for samples
that the predicting network was not trained on: the newest samples are dealt into folds, and each
fold is answered by a small network that learned from the others.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks
from ml.context import Context
from ml.datasets import labels, loader, versions
from ml.imaging.images import Pixels
from ml.settings import Settings
from ml.training.loop import recipe as recipes
from ml.training.loop.fit import fit, logits_of
from ml.training.loop.recipe import Recipe
from ml.training.network import networks

log = logging.getLogger(__name__)

REASON: Final = "suspected_label_error"
FOLDS: Final = 3
_LEAST_A_CLASS: Final = 2 * FOLDS
_SHOWN: Final = 3


@dataclass(frozen=True)
class Suspects:
    """Positions of suspected labels, the most doubtful first, and every sample's probabilities.

    Attributes:
        positions: ``int64[M]``.
        probabilities: ``float32[N, classes]``, out of fold.
    """

    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def review(ctx: Context, version_id: str) -> int:
    """Look through the newest training samples of a version; how many label tasks were opened.

    At most `review_samples` are looked at, so the cost does not grow with the store; one that was
    asked about before, or that an operator has settled, is not asked about again.

    Raises:
        NotFoundError: no such version.
        UnavailableError: a server does not answer.
    """
    settings = ctx.settings
    version = versions.get(ctx, version_id)
    size, channels = loader.shape_of(ctx, version.id)
    train = loader.load(ctx, version.id, "train", size, channels)
    newest = slice(max(0, len(train) - settings.review_samples), len(train))
    images, given, hashes = train.images[newest], train.labels[newest], train.sha256[newest]
    counts = np.bincount(given, minlength=len(train.classes))
    usable = np.flatnonzero(counts[given] >= _LEAST_A_CLASS)
    if len(np.unique(given[usable])) < 2:
        log.info("version %s has too few samples for a review of its labels", version.id[:12])
        return 0
    classes, dense = np.unique(given[usable], return_inverse=True)
    found = find(images[usable], dense, settings)
    names = [train.classes[c] for c in classes]
    settled = _settled(ctx, [hashes[usable[p]] for p in found.positions])
    tasks = [
        _task(hashes[usable[p]], names, int(dense[p]), found.probabilities[p])
        for p in found.positions
        if hashes[usable[p]] not in settled
    ][: settings.review_most]
    with transaction(ctx.engine) as connection:
        labels.open_tasks(connection, tasks)
    log.info("reviewed %d labels of version %s: %d are doubtful", len(usable), version.id[:12], len(tasks))
    return len(tasks)


def find(images: Pixels, given: NDArray[np.int64], settings: Settings) -> Suspects:
    """Suspected labels among samples of which every class has at least two a fold.

    Args:
        images: ``uint8[N, side, side, channels]``.
        given: ``int64[N]``, every class from 0 on present.
        settings: `review_budget` and the recipe's.
    """
    from cleanlab.filter import find_label_issues

    probabilities = out_of_fold(images, given, settings)
    positions = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return Suspects(np.asarray(positions, np.int64), probabilities)


def out_of_fold(images: Pixels, given: NDArray[np.int64], settings: Settings) -> NDArray[np.float32]:
    """``float32[N, classes]``: what a network that was not trained on the sample answers."""
    count, side, channels = len(given), images.shape[1], images.shape[3]
    fold = np.empty(count, np.int64)
    generator = np.random.default_rng(settings.seed)
    for label in np.unique(given):  # every class in every fold
        members = generator.permutation(np.flatnonzero(given == label))
        fold[members] = np.arange(len(members)) % FOLDS
    answers = np.zeros((count, int(given.max()) + 1), np.float32)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        network = networks.seeded(channels, answers.shape[1], side, settings.seed + number)
        # The last tenth of the others tells when to stop; the fold itself must not.
        learning, stopping = np.split(generator.permutation(outside), [int(len(outside) * 0.9)])
        recipe = _recipe(settings, len(learning), side, channels)
        fitted = fit(network, (images[learning], given[learning]), (images[stopping], given[stopping]), recipe)
        with torch.inference_mode():
            answers[inside] = torch.softmax(logits_of(fitted.network, images[inside]), 1).numpy()
    return answers


def _recipe(settings: Settings, samples: int, side: int, channels: int) -> Recipe:
    # A review waits for nobody; the service and the next cycle should not wait for it: one thread.
    return recipes.of(settings, samples, side, channels, budget=settings.review_budget, threads=1)


def _settled(ctx: Context, hashes: list[str]) -> set[str]:
    """Samples that were asked about before, or whose label an operator gave."""
    with transaction(ctx.engine) as connection:
        asked = select(label_tasks.c.sha256).where(label_tasks.c.sha256.in_(hashes), label_tasks.c.reason == REASON)
        found = set(connection.execute(asked).scalars())
        said = labels.annotations_of(connection, hashes)
    return found | {digest for digest, rows in said.items() if any(r["source"] == labels.OPERATOR for r in rows)}


def _task(digest: str, names: list[str], given: int, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    best = np.argsort(probabilities)[::-1][:_SHOWN]
    return {
        "sha256": digest,
        "reason": REASON,
        "score": float(1 - probabilities[given]),
        "label": names[given],
        "suggested": names[int(best[0])],
        "details": {"probabilities": {names[int(b)]: round(float(probabilities[b]), 4) for b in best}},
    }
