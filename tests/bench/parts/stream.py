"""CIFAR-10 as a stream of drops: refreshes beside full trainings, on the production plan, recipe and loop."""

import copy
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import nn

from ml.settings import Settings
from ml.training import material, networks, objective, plan, recipe, replay
from ml.training.fit import fit, logits_of
from ml.training.plan import Past

DROPS, CLASSES, SIDE = 10, 10, 32
ORDERS = ("shuffled", "two new classes", "drift")
_LOOKING = 1 / 3
"""Cost of looking at an image beside learning from it: the forward pass without the backward one."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Ten drops; of each a tenth judges the epochs and the rest is learned from.

    Attributes:
        task: ``int64[M]``, of the test images: the drop that brings their kind; −1 where every drop does.
    """

    images: Pixels
    labels: Labels
    drop: Labels
    validates: NDArray[np.bool_]
    test: tuple[Pixels, Labels]
    task: Labels


@dataclass(frozen=True)
class Course:
    """What one way of keeping up came to.

    Attributes:
        seen: images learned from in all; one that is only looked at counts as a third.
        answers: ``int64[drops or 1, M]``, to the test images, after each drop or at the end.
    """

    seen: float
    answers: Labels


def pixels(path: Path, count: int) -> tuple[Pixels, Labels]:
    """`count` images, dealt evenly over the classes, and their labels.

    Raises:
        FileNotFoundError: there is no such file.
    """
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
    task = np.full(len(test[1]), -1)
    if order == "two new classes":
        turn = generator.permutation(len(labels)) % 2
        drop = labels // 2 + 5 * turn
        task = test[1] // 2 + 5
    if order == "drift":
        images = _worn(images, drop, generator)
        task = generator.permutation(len(test[1])) % DROPS
        test = _worn(test[0], task, generator), test[1]
    return Stream(images, labels, drop, generator.random(len(labels)) < 0.1, test, task)


def _worn(images: Pixels, level: Labels, generator: np.random.Generator) -> Pixels:
    """Noise up to a deviation of 36 grey levels and blur up to 0.9 pixels, growing with the drop."""
    found = np.empty_like(images)
    for i, image in enumerate(images):
        strength = float(level[i]) / (DROPS - 1)
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.9 * strength))
        noise = generator.normal(0, 36 * strength, image.shape)
        found[i] = np.clip(np.asarray(blurred, np.float64) + noise, 0, 255)
    return found


def full(stream: Stream, settings: Settings) -> Course:
    """Retraining on everything at each drop; only the last is carried out, of the others the cost is counted."""
    seen = 0.0
    for number in range(DROPS):
        learned, looked = _here(stream, number)
        epochs = recipe.of(settings, len(learned), SIDE, 3).epochs
        judged = min(len(looked), max(500, len(learned) // 3))
        seen += (len(learned) + judged * _LOOKING) * epochs
    network, chosen = networks.seeded(3, CLASSES, SIDE, settings.seed), recipe.of(settings, len(learned), SIDE, 3)
    judge = _judge(stream, DROPS - 1, len(learned), np.arange(CLASSES))
    done = fit(network, (stream.images[learned], stream.labels[learned]), judge, chosen)
    return Course(seen, _answers(done.network, stream)[None])


def refreshed(stream: Stream, settings: Settings) -> Course:
    """What production does: a full training on the first drop, then as the plan says; answers after every drop."""
    network: nn.Module | None = None
    known, past, seen, answers = tuple[str, ...](), Past(), 0.0, list[Labels]()
    for number in range(DROPS):
        here, _ = _here(stream, number)
        present = np.unique(stream.labels[here])
        classes = tuple(str(c) for c in present)
        labels = np.searchsorted(present, stream.labels[here])
        images = stream.images[here]
        before = np.asarray([known.index(c) if c in known else -1 for c in classes])[labels]
        made = plan.make(
            "auto",
            stream.drop[here] == number,
            None if network else "first",
            past,
            draw=replay.by(settings.replay_policy, before, images, network, settings.seed + number),
            replay_ratio=settings.replay_ratio,
            full_every=settings.full_every,
            full_growth=settings.full_growth,
        )
        warm, past = made.mode == "refresh", made.past
        fresh = networks.seeded(3, len(classes), SIDE, settings.seed + number)
        if warm and network is not None:
            networks.carry_head(fresh, network.state_dict(), known, classes)
        chosen = recipe.of(settings, len(made.chosen), SIDE, 3, warm=warm)
        judge = _judge(stream, number, len(made.chosen), present)
        done = fit(
            fresh,
            (images[made.chosen], labels[made.chosen]),
            judge,
            chosen,
            warm=warm,
            teacher=_teacher(network, known, classes) if warm else None,
            shares=np.bincount(labels) / len(labels),
        )
        sifted = 4 * made.replayed if warm and settings.replay_policy != "stratified" else 0
        taught = len(made.chosen) if warm and settings.distillation else 0
        seen += (len(made.chosen) + (taught + len(judge[1])) * _LOOKING) * len(done.history) + sifted * _LOOKING
        network, known = done.network, classes
        answers.append(present[_answers(network, stream)])
    return Course(seen, np.stack(answers))


def forgetting(stream: Stream, answers: Labels) -> float:
    """Points that kinds of images lost since the drop that brought them last, on average over the kinds.

    What Lopez-Paz & Ranzato (2017) call backward transfer, with the other sign. Where every drop brings
    every kind, what all test images lost since the drop before the last.
    """
    right = answers == stream.test[1]
    kinds = [task for task in np.unique(stream.task) if task != DROPS - 1]
    lost = [right[t, stream.task == t].mean() - right[-1, stream.task == t].mean() for t in kinds if t >= 0]
    return 100 * float(np.mean(lost) if lost else right[-2].mean() - right[-1].mean())


def _here(stream: Stream, number: int) -> tuple[Labels, Labels]:
    """Positions of what is learned from and of what judges, up to a drop."""
    arrived = stream.drop <= number
    return np.flatnonzero(arrived & ~stream.validates), np.flatnonzero(arrived & stream.validates)


def _judge(stream: Stream, number: int, learned: int, present: Labels) -> tuple[Pixels, Labels]:
    _, every = _here(stream, number)
    chosen = every[material.judges(stream.labels[every], learned, seed=number)]
    return stream.images[chosen], np.searchsorted(present, stream.labels[chosen])


def _teacher(network: nn.Module | None, known: tuple[str, ...], classes: tuple[str, ...]) -> objective.Teacher | None:
    if network is None:
        return None
    return objective.Teacher(copy.deepcopy(network).eval(), tuple(classes.index(c) for c in known))


def _answers(network: nn.Module, stream: Stream) -> Labels:
    with torch.inference_mode():
        answers: Labels = logits_of(network, stream.test[0]).argmax(1).numpy()
    return answers
