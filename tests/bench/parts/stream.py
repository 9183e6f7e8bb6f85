"""CIFAR-10 as a stream of drops: refreshes that the gate decides on beside full trainings.

Plan, recipe, loop and the gate's rule `better` are production's.
"""

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

from ml.gate import scores
from ml.gate.lead import Lead, lead
from ml.gate.metrics import PerSample
from ml.settings import Settings
from ml.training.data import plan, replay, training_data
from ml.training.data.plan import RefreshHistory
from ml.training.loop import objective, recipe
from ml.training.loop.fit import compute_logits, fit
from ml.training.network import networks

DROPS, CLASSES, SIDE = 10, 10, 32
ORDERS = ("shuffled", "two new classes", "drift")
_LOOKING = 1 / 3
"""Cost of looking at an image beside learning from it: the forward pass without the backward one."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """Ten drops; of each a tenth judges the epochs, a fifth is the holdout, and the rest is learned from.

    Attributes:
        validates: ``bool[N]``, judges the epochs.
        held: ``bool[N]``, the gate's holdout.
        task: ``int64[M]``, of the test images: the drop that brings their kind; −1 where every drop does.
    """

    images: Pixels
    labels: Labels
    drop: Labels
    validates: NDArray[np.bool_]
    held: NDArray[np.bool_]
    test: tuple[Pixels, Labels]
    task: Labels


@dataclass(frozen=True)
class Course:
    """What one way of keeping up came to.

    Attributes:
        seen: images learned from in all; one that is only looked at counts as a third.
        answers: ``int64[drops or 1, M]``, to the test images, of what was live after each drop, or at the end.
        brier: likewise, the Brier scores ``float32[drops or 1, M]``.
        promotions: trainings that the gate promoted.
    """

    seen: float
    answers: Labels
    brier: NDArray[np.float32]
    promotions: int


@dataclass(frozen=True)
class Champion:
    """A network, the classes of its outputs, how it came about, and the drop it was trained at."""

    network: nn.Module
    known: Labels
    past: RefreshHistory
    number: int

    def probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """``float32[N, CLASSES]``; 0 of a class that it does not know."""
        probabilities = np.zeros((len(images), CLASSES), np.float32)
        with torch.inference_mode():
            probabilities[:, self.known] = compute_logits(self.network, images).softmax(1).numpy()
        return probabilities


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
    part = generator.random(len(labels))
    return Stream(images, labels, drop, part < 0.1, (part >= 0.1) & (part < 0.3), test, task)


def _worn(images: Pixels, level: Labels, generator: np.random.Generator) -> Pixels:
    """Noise up to a deviation of 36 grey levels and blur up to 0.9 pixels, growing with the drop."""
    worn = np.empty_like(images)
    for i, image in enumerate(images):
        strength = float(level[i]) / (DROPS - 1)
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.9 * strength))
        noise = generator.normal(0, 36 * strength, image.shape)
        worn[i] = np.clip(np.asarray(blurred, np.float64) + noise, 0, 255)
    return worn


def full(stream: Stream, settings: Settings) -> Course:
    """Retraining on everything at each drop; only the last is carried out, of the others the cost is counted."""
    seen = 0.0
    for number in range(DROPS):
        learned, looked = _here(stream, number)
        epochs = recipe.from_settings(settings, len(learned), SIDE, 3).epochs
        validation_count = min(len(looked), max(500, len(learned) // 3))
        seen += (len(learned) + validation_count * _LOOKING) * epochs
    network, chosen = (
        networks.seeded(3, CLASSES, SIDE, settings.seed),
        recipe.from_settings(settings, len(learned), SIDE, 3),
    )
    judge = _judge(stream, DROPS - 1, len(learned), np.arange(CLASSES))
    done = fit(network, (stream.images[learned], stream.labels[learned]), judge, chosen)
    return _course(seen, [Champion(done.network, np.arange(CLASSES), RefreshHistory(), DROPS - 1)], stream)


def refreshed(stream: Stream, settings: Settings, *, gated: bool = True) -> Course:
    """What production does: a full training on the first drop, then as the plan says, from the live model.

    Args:
        gated: a challenger is live only if the gate promotes it; else each is.
    """
    champion = best = None
    seen, live = 0.0, list[Champion]()
    for number in range(DROPS):
        challenger, cost = _trained(stream, settings, number, champion)
        seen += cost
        if champion is None or best is None or not gated or _promoted(stream, settings, challenger, champion, best):
            champion = challenger
            best = challenger if best is None or _right(stream, challenger) >= _right(stream, best) else best
        live.append(champion)
    return _course(seen, live, stream)


def _trained(stream: Stream, settings: Settings, number: int, champion: Champion | None) -> tuple[Champion, float]:
    """A challenger after a drop, and the images it has seen."""
    here, _ = _here(stream, number)
    present = np.unique(stream.labels[here])
    labels, images = np.searchsorted(present, stream.labels[here]), stream.images[here]
    classes, known = (tuple(str(c) for c in of) for of in (present, champion.known if champion else ()))
    network = champion.network if champion else None
    before = np.asarray([known.index(c) if c in known else -1 for c in classes])[labels]
    training_plan = plan.make_plan(
        "auto",
        stream.drop[here] > (champion.number if champion else -1),
        None if champion else "first",
        champion.past if champion else RefreshHistory(),
        draw=replay.make_draw(settings.replay_policy, before, images, network, settings.seed + number),
        replay_ratio=settings.replay_ratio,
        full_every=settings.full_every,
        full_growth=settings.full_growth,
    )
    warm = training_plan.mode == "refresh"
    fresh = networks.seeded(3, len(classes), SIDE, settings.seed + number)
    if warm and network is not None:
        networks.carry_head(fresh, network.state_dict(), known, classes)
    judge = _judge(stream, number, len(training_plan.chosen), present)
    done = fit(
        fresh,
        (images[training_plan.chosen], labels[training_plan.chosen]),
        judge,
        recipe.from_settings(settings, len(training_plan.chosen), SIDE, 3, warm=warm),
        warm=warm,
        teacher=_teacher(network, known, classes) if warm else None,
        shares=np.bincount(labels) / len(labels),
    )
    sifted = 4 * training_plan.replayed if warm and settings.replay_policy != "stratified" else 0
    taught = len(training_plan.chosen) if warm and settings.distillation else 0
    seen = (len(training_plan.chosen) + (taught + len(judge[1])) * _LOOKING) * len(done.history) + sifted * _LOOKING
    return Champion(done.network, present, training_plan.history, number), seen


def _promoted(stream: Stream, settings: Settings, challenger: Champion, champion: Champion, best: Champion) -> bool:
    """Rule `better` on the holdout of all drops so far, over all samples and among the classes of the other models."""
    images, labels = _holdout(stream, challenger.number)
    new = challenger.probabilities(images)
    every_class = np.arange(CLASSES)
    overall, *leads = (
        _lead(new, other.probabilities(images), labels, classes, settings)
        for other, classes in ((champion, every_class), (champion, champion.known), (best, best.known))
    )
    has_new_classes = len(np.setdiff1d(challenger.known, champion.known)) > 0
    is_safe = not has_new_classes or overall.metric_least > -settings.gate_margin
    return overall.ahead and is_safe and all(of.holds(settings.gate_margin) for of in leads)


def _lead(new: Probabilities, old: Probabilities, labels: Labels, classes: Labels, settings: Settings) -> Lead:
    """On the samples of these classes, if the challenger could answer nothing else."""
    positions, kept = np.isin(labels, classes), np.isin(np.arange(CLASSES), classes)
    truth, old = labels[positions], old[positions]
    chosen = np.zeros_like(old)
    chosen[:, kept] = scores.restricted(new[positions], kept)
    differences = (chosen.argmax(1) == truth).astype(np.float64) - (old.argmax(1) == truth)
    ones = np.ones(len(truth))
    of = PerSample(ones.astype(np.bool_), differences, 1.0, ones)
    return lead(of, _brier(old, truth) - _brier(chosen, truth), settings.gate_risk)


def _holdout(stream: Stream, number: int) -> tuple[Pixels, Labels]:
    held = np.flatnonzero((stream.drop <= number) & stream.held)
    return stream.images[held], stream.labels[held]


def _right(stream: Stream, of: Champion) -> int:
    images, labels = _holdout(stream, of.number)
    return int((of.probabilities(images).argmax(1) == labels).sum())


def _brier(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.float32]:
    names = np.arange(CLASSES).astype(np.str_)
    return scores.brier_scores(probabilities, names, names[labels])


def _course(seen: float, live: list[Champion], stream: Stream) -> Course:
    images, labels = stream.test
    answers: list[Labels] = []
    brier: list[NDArray[np.float32]] = []
    for i, of in enumerate(live):
        if i and of is live[i - 1]:
            answers.append(answers[-1])
            brier.append(brier[-1])
            continue
        probabilities = of.probabilities(images)
        answers.append(probabilities.argmax(1))
        brier.append(_brier(probabilities, labels))
    promotions = len({id(of) for of in live})
    return Course(seen, np.stack(answers), np.stack(brier), promotions)


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
    return np.flatnonzero(arrived & ~stream.validates & ~stream.held), np.flatnonzero(arrived & stream.validates)


def _judge(stream: Stream, number: int, learned: int, present: Labels) -> tuple[Pixels, Labels]:
    _, every = _here(stream, number)
    chosen = every[training_data.sample_validation(stream.labels[every], learned, seed=number)]
    return stream.images[chosen], np.searchsorted(present, stream.labels[chosen])


def _teacher(network: nn.Module | None, known: tuple[str, ...], classes: tuple[str, ...]) -> objective.Teacher | None:
    if network is None:
        return None
    return objective.Teacher(copy.deepcopy(network).eval(), tuple(classes.index(c) for c in known))
