"""Finds labels that are probably wrong and opens label tasks for them; labels are never changed automatically.

Confident learning (Northcutt, Jiang, Chuang 2021) as implemented by `cleanlab`, on out-of-fold predictions: the
newest samples are split into folds, and a small network trained on the other folds predicts each fold.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks
from ml.context import Context
from ml.datasets import labels, loader, versions
from ml.datasets.labels import LabelQuestion
from ml.imaging.images import Pixels
from ml.settings import Settings
from ml.training.loop import recipe as recipes
from ml.training.loop.fit import compute_logits, fit
from ml.training.loop.recipe import Recipe
from ml.training.network import networks

log = logging.getLogger(__name__)

REASON: Final = "suspected_label_error"
FOLDS: Final = 3
_MIN_PER_CLASS: Final = 2 * FOLDS
_SHOWN_CLASSES: Final = 3


@dataclass(frozen=True)
class Suspects:
    """Positions of suspected label errors, the most doubtful first, and the probabilities of all samples.

    Attributes:
        positions: ``int64[M]``.
        probabilities: ``float32[N, classes]``, out of fold.
    """

    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def review(ctx: Context, version_id: str) -> int:
    """Review the labels of a version's newest training samples; return how many label tasks were opened.

    At most `review_samples` are reviewed, so the cost does not grow with the store. Samples with an earlier task of
    this kind or with an operator's label get no new task.

    Raises:
        NotFoundError: no such version.
        UnavailableError: a server does not answer.
    """
    settings = ctx.settings
    version = versions.get(ctx, version_id)
    size, channels = loader.shape_of(ctx, version.id)
    train = loader.load(ctx, version.id, "train", size, channels)
    newest = slice(max(0, len(train) - settings.review_samples), len(train))
    images, class_ids, hashes = train.images[newest], train.labels[newest], train.sha256[newest]
    counts = np.bincount(class_ids, minlength=len(train.classes))
    usable = np.flatnonzero(counts[class_ids] >= _MIN_PER_CLASS)
    if len(np.unique(class_ids[usable])) < 2:
        log.info("version %s has too few samples for a review of its labels", version.id[:12])
        return 0
    classes, dense = np.unique(class_ids[usable], return_inverse=True)
    suspects = find_suspects(images[usable], dense, settings)
    names = [train.classes[c] for c in classes]
    settled = _settled(ctx, [hashes[usable[p]] for p in suspects.positions])
    tasks = [
        _task(hashes[usable[p]], names, int(dense[p]), suspects.probabilities[p])
        for p in suspects.positions
        if hashes[usable[p]] not in settled
    ][: settings.review_most]
    with transaction(ctx.engine) as connection:
        labels.open_tasks(connection, tasks)
    log.info("reviewed %d labels of version %s: %d are doubtful", len(usable), version.id[:12], len(tasks))
    return len(tasks)


def find_suspects(images: Pixels, class_ids: NDArray[np.int64], settings: Settings) -> Suspects:
    """Find suspected label errors; every class needs at least two samples per fold.

    Args:
        images: ``uint8[N, side, side, channels]``.
        class_ids: ``int64[N]``, every class from 0 on present.
        settings: `review_budget` and the settings of the recipe.
    """
    from cleanlab.filter import find_label_issues

    probabilities = out_of_fold(images, class_ids, settings)
    positions = find_label_issues(class_ids, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return Suspects(np.asarray(positions, np.int64), probabilities)


def out_of_fold(images: Pixels, class_ids: NDArray[np.int64], settings: Settings) -> NDArray[np.float32]:
    """Probabilities ``float32[N, classes]`` by networks that were not trained on the sample."""
    count, side, channels = len(class_ids), images.shape[1], images.shape[3]
    fold = np.empty(count, np.int64)
    generator = np.random.default_rng(settings.seed)
    for label in np.unique(class_ids):  # every class in every fold
        members = generator.permutation(np.flatnonzero(class_ids == label))
        fold[members] = np.arange(len(members)) % FOLDS
    probabilities = np.zeros((count, int(class_ids.max()) + 1), np.float32)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        network = networks.seeded(channels, probabilities.shape[1], side, settings.seed + number)
        # A tenth of the other folds is for early stopping; the fold itself must not be used for it.
        learning, stopping = np.split(generator.permutation(outside), [int(len(outside) * 0.9)])
        recipe = _recipe(settings, len(learning), side, channels)
        fitted = fit(network, (images[learning], class_ids[learning]), (images[stopping], class_ids[stopping]), recipe)
        with torch.inference_mode():
            probabilities[inside] = torch.softmax(compute_logits(fitted.network, images[inside]), 1).numpy()
    return probabilities


def _recipe(settings: Settings, samples: int, side: int, channels: int) -> Recipe:
    # One thread: a review is not urgent and must not slow down the service or the next cycle.
    return recipes.from_settings(settings, samples, side, channels, budget=settings.review_budget, threads=1)


def _settled(ctx: Context, hashes: list[str]) -> set[str]:
    """Samples with an earlier label task of this kind, or whose label an operator set."""
    with transaction(ctx.engine) as connection:
        query = select(label_tasks.c.sha256).where(label_tasks.c.sha256.in_(hashes), label_tasks.c.reason == REASON)
        reviewed = set(connection.execute(query).scalars())
        annotations = labels.annotations_of(connection, hashes)
    return reviewed | {
        digest for digest, of_sample in annotations.items() if any(a.source == labels.OPERATOR for a in of_sample)
    }


def _task(digest: str, names: list[str], class_id: int, probabilities: NDArray[np.float32]) -> LabelQuestion:
    best = np.argsort(probabilities)[::-1][:_SHOWN_CLASSES]
    return LabelQuestion(
        sha256=digest,
        reason=REASON,
        score=float(1 - probabilities[class_id]),
        label=names[class_id],
        suggested=names[int(best[0])],
        details={"probabilities": {names[int(b)]: round(float(probabilities[b]), 4) for b in best}},
    )
