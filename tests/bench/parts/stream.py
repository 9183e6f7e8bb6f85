"""CIFAR-10 as a stream of drops: refreshes beside a full training, on the production plan, recipe and loop."""

import copy
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ml.settings import Settings
from ml.training import networks, plan, recipe, replay
from ml.training.fit import fit, logits_of
from ml.training.plan import Past

DATA = Path(os.environ.get("EVERGREEN_BENCH_CIFAR10", "../shared/data/cifar10/train.tar"))
DROPS, CLASSES, SIDE = 10, 10, 32
ORDERS = ("shuffled", "two new classes", "drift")
_LOOKING = 1 / 3
"""Cost of looking at an image beside learning from it: the forward pass without the backward one."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Ten drops, each split in what is learned from and what judges the epochs, and what tests at the end."""

    images: Pixels
    labels: Labels
    drop: Labels
    validates: NDArray[np.bool_]
    test: tuple[Pixels, Labels]


@dataclass
class Course:
    """What one way of keeping up came to: images learned from in all, and the answers on the test images."""

    seen: float
    right: NDArray[np.bool_]


def read(path: Path, count: int) -> tuple[Pixels, Labels]:
    """`count` images, dealt evenly over the classes."""
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.isfile()), key=lambda m: m.name)
        chosen = [members[i] for i in np.linspace(0, len(members) - 1, min(count, len(members))).astype(int)]
        names = sorted({m.name.split("/")[-2] for m in members})
        arrays = [np.asarray(Image.open(io.BytesIO(archive.extractfile(m).read())).convert("RGB")) for m in chosen]  # type: ignore[union-attr]
    return np.stack(arrays), np.asarray([names.index(m.name.split("/")[-2]) for m in chosen])


def make(order: str, train: tuple[Pixels, Labels], test: tuple[Pixels, Labels], seed: int) -> Stream:
    """The drops in one of `ORDERS`: by chance; two classes a drop, twice round; or ever noisier and more blurred."""
    generator = np.random.default_rng([seed, 99])
    images, labels = train
    drop = generator.permutation(len(labels)) % DROPS
    if order == "two new classes":
        turn = generator.permutation(len(labels)) % 2
        drop = labels // 2 + 5 * turn
    if order == "drift":
        images = _worn(images, drop, generator)
        tested = generator.permutation(len(test[1])) % DROPS
        test = _worn(test[0], tested, generator), test[1]
    return Stream(images, labels, drop, generator.random(len(labels)) < 0.1, test)


def _worn(images: Pixels, level: Labels, generator: np.random.Generator) -> Pixels:
    """Noise up to a deviation of 36 grey levels and blur up to 0.9 pixels, growing with the drop."""
    found = np.empty_like(images)
    for i, image in enumerate(images):
        strength = level[i] / (DROPS - 1)
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.9 * strength))
        noise = generator.normal(0, 36 * strength, image.shape)
        found[i] = np.clip(np.asarray(blurred, np.float64) + noise, 0, 255)
    return found


def full(stream: Stream, settings: Settings) -> Course:
    """Retraining on everything at each drop; only the last is carried out, of the others the cost is counted."""
    learned = ~stream.validates
    seen = 0.0
    for number in range(DROPS):
        count = int((learned & (stream.drop <= number)).sum())
        seen += count * recipe.of(settings, count, SIDE, 3).epochs
    network = networks.seeded(3, CLASSES, SIDE, settings.seed)
    chosen = recipe.of(settings, int(learned.sum()), SIDE, 3)
    judge = stream.images[stream.validates], stream.labels[stream.validates]
    done = fit(network, (stream.images[learned], stream.labels[learned]), judge, chosen)
    return Course(seen, _right(done.network, stream))


def refreshed(stream: Stream, settings: Settings) -> tuple[Course, list[NDArray[np.bool_]]]:
    """A full training on the first drop, then a refresh at each; and the answers after every drop."""
    network: Any = None
    known: tuple[str, ...] = ()
    seen, answers = 0.0, list[NDArray[np.bool_]]()
    past = Past()
    for number in range(DROPS):
        here = np.flatnonzero((stream.drop <= number) & ~stream.validates)
        present = np.unique(stream.labels[here])
        classes = tuple(str(c) for c in present)
        labels = np.searchsorted(present, stream.labels[here])
        before = np.asarray([known.index(str(c)) if str(c) in known else -1 for c in stream.labels[here]])
        images = stream.images[here]
        draw = replay.by(settings.replay_policy, before, images, network, settings.seed + number)
        made = plan.make(
            "auto",
            stream.drop[here] == number,
            None if network else "first",
            past,
            draw=draw,
            replay_ratio=settings.replay_ratio,
            full_every=settings.full_every,
            full_growth=settings.full_growth,
        )
        warm, past = made.mode == "refresh", made.past
        fresh = networks.seeded(3, len(classes), SIDE, settings.seed)
        if warm:
            networks.carry_head(fresh, network.state_dict(), known, classes)
        chosen = recipe.of(settings, len(made.chosen), SIDE, 3, warm=warm)
        judge = _judge(stream, number, present, len(made.chosen))
        done = fit(fresh, (images[made.chosen], labels[made.chosen]), judge, chosen, warm=warm)
        looked = 4 * made.replayed if settings.replay_policy != "stratified" and warm else 0
        seen += len(made.chosen) * len(done.history) + looked * _LOOKING
        network, known = done.network, classes
        answers.append(_right(network, stream, present))
    return Course(seen, answers[-1]), answers


def _judge(stream: Stream, number: int, present: Labels, learned: int) -> tuple[Pixels, Labels]:
    from ml.training.material import judges

    here = np.flatnonzero((stream.drop <= number) & stream.validates)
    chosen = here[judges(stream.labels[here], learned, seed=number)]
    return stream.images[chosen], np.searchsorted(present, stream.labels[chosen])


def _right(network: Any, stream: Stream, present: Labels | None = None) -> NDArray[np.bool_]:
    with torch.inference_mode():
        answers = logits_of(copy.deepcopy(network), stream.test[0]).argmax(1).numpy()
    return (answers if present is None else present[answers]) == stream.test[1]
