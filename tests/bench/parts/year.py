"""A year of the loop without training anything: refreshes along a learning curve, judged by the gate's own functions.

A model is an accuracy for each class, and on each holdout sample a right or wrong answer and a Brier score. From
refresh to refresh the accuracies differ by noise, and answers flip on as many samples as on real pairs of a champion
and its refresh; Brier scores follow answers as they do there (`tests/bench/parts/pairs.py`; slope, deviation and
learning curve were measured on Fashion-MNIST and CIFAR-10). One challenger in ten may be sabotaged: 1, 2 or 5 points
worse than it would be, or with one class lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.catalog.holdout_comparisons import HoldoutComparison
from ml.gate import budget, slices, statistics
from ml.gate.evidence import holdout_subsets
from ml.gate.lead import lead, succession_risk
from ml.gate.metrics import PerSample
from ml.gate.slices import Tolerance

CLASSES: Final = 10
SABOTAGED: Final = 0.1
LOSSES: Final = (0.01, 0.02, 0.05)
"""Of a sabotaged challenger; one in four loses a class instead."""
NOISE: Final = 0.004
"""Standard deviation of a refresh's accuracy over all classes."""
BRIER_NOISE: Final = 0.002
"""Of what a refresh's Brier score does beside its accuracy."""
BRIER_SLOPE: Final = 0.38
RISK: Final = 0.05


@dataclass(frozen=True)
class Kind:
    """What was measured on a data set.

    Attributes:
        error, exponent: of the learning curve, error × (samples / 5000) to the power of exponent.
        disagreement: share of samples that exactly one of a champion and its refresh gets right.
        spread: standard deviation of a class's accuracy from refresh to refresh.
        brier_spread: of the difference of two models' Brier scores on a sample, beside what answers explain.
    """

    error: float
    exponent: float
    disagreement: float
    spread: float
    brier_spread: float

    def accuracy(self, samples: float) -> float:
        return 1 - self.error * (samples / 5000) ** self.exponent


KINDS: Final = {
    "fashion-mnist": Kind(0.165, -0.245, 0.066, 0.04, 0.125),
    "cifar10": Kind(0.44, -0.157, 0.14, 0.055, 0.2),
}


@dataclass(frozen=True)
class Stream:
    """Drops of a year, images in each, and images before the first of them."""

    drops: int
    images: int
    start: int


STREAMS: Final = {
    "daily": Stream(250, 50, 1000),
    "weekly_200": Stream(52, 200, 1000),
    "weekly_1000": Stream(52, 1000, 2000),
}


@dataclass
class Model:
    """True `accuracy` of each class; answers and Brier scores on the holdout so far."""

    accuracy: NDArray[np.float64]
    brier_offset: float
    right: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    brier: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def worth(self) -> float:
        return float(self.accuracy.mean())


@dataclass(frozen=True)
class Holdout:
    """Class and drop of each sample, and how many decisions had been made when it came."""

    classes: NDArray[np.int64]
    drops: NDArray[np.int64]
    came: NDArray[np.int64]


Rule = Callable[[Holdout, Model, Model, Model, list[HoldoutComparison]], tuple[bool, bool]]
"""Of challenger, champion and the best so far: whether the rule is for it, and whether a group forbids it."""


@dataclass(frozen=True)
class Year:
    """What came of it.

    Attributes:
        gaps: how much better a model on all data would be than the live one, after each drop, in points.
        longest: drops without a promotion, the longest run.
        deepest: by how many points the live model ever was below the best that was live.
        worse: promotions of a model that was worse than the champion by 0.2 points or more.
        vetoed: challengers that the rule was for and a group forbade.
    """

    gaps: NDArray[np.float64]
    promotions: int
    longest: int
    deepest: float
    worse: int
    vetoed: int


def live(kind: Kind, stream: Stream, rule: Rule, seed: int, *, sabotage: bool) -> Year:
    """Go through a year."""
    return _Loop(kind, stream, np.random.default_rng([seed, 7])).run(rule, sabotage=sabotage)


class _Loop:
    def __init__(self, kind: Kind, stream: Stream, generator: np.random.Generator) -> None:
        self.kind, self.stream, self.generator = kind, stream, generator
        self.samples = 0.7 * stream.start
        easy = generator.normal(0, 0.08, CLASSES)
        self.easy = easy - easy.mean()
        self.holdout = Holdout(*(np.empty(0, np.int64) for _ in range(3)))
        self.champion = Model(self._truth(0.0), self._offset())
        self.best = self.champion
        self.past: list[HoldoutComparison] = []

    def run(self, rule: Rule, *, sabotage: bool) -> Year:
        self._arrive(round(0.2 * self.stream.start), 0)
        gaps, promotions, longest, since, worse, vetoed = [], 0, 0, 0, 0, 0
        highest, deepest = self.champion.worth, 0.0
        for drop in range(1, self.stream.drops + 1):
            self.samples += 0.7 * self.stream.images
            self._arrive(int(self.generator.binomial(self.stream.images, 0.2)), drop)
            challenger = self._challenger(sabotage=sabotage)
            best = self.best
            self._settle_best()
            passed, forbidden = rule(self.holdout, challenger, self.champion, best, self.past)
            promoted = passed and not forbidden
            vetoed += passed and forbidden
            number = len(self.past) + 1
            self.past.append(HoldoutComparison(number, str(number), 0.0, "promote" if promoted else "reject"))
            since = 0 if promoted else since + 1
            longest = max(longest, since)
            if promoted:
                promotions += 1
                worse += challenger.worth < self.champion.worth - 0.002
                self.champion = challenger
                deepest = max(deepest, highest - challenger.worth)
                highest = max(highest, challenger.worth)
            gaps.append(float(self._truth(0.0).mean()) - self.champion.worth)
        return Year(100 * np.asarray(gaps), promotions, longest, 100 * deepest, worse, vetoed)

    def _settle_best(self) -> None:
        """As `ml.gate.evidence` does: the champion is the best so far once it surely is."""
        if (
            self.best is not self.champion
            and lead(paired(self.champion, self.best), None, succession_risk(RISK)).metric_least > 0
        ):
            self.best = self.champion

    def _truth(self, change: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.clip(self.kind.accuracy(self.samples) + self.easy + change, 0, 0.995)

    def _offset(self) -> float:
        return float(self.generator.normal(0, BRIER_NOISE / np.sqrt(2)))

    def _arrive(self, count: int, drop: int) -> None:
        """Holdout samples of a drop, and what the models say to them."""
        fresh = self.generator.integers(0, CLASSES, count)
        whole = (fresh, np.full(count, drop), np.full(count, len(self.past)))
        before = (self.holdout.classes, self.holdout.drops, self.holdout.came)
        self.holdout = Holdout(*(np.concatenate(pair) for pair in zip(before, whole, strict=True)))
        right = self.generator.random(count) < self.champion.accuracy[fresh]
        if self.best is not self.champion:
            self._answer(self.best, self._flipped(right, self.champion, self.best, fresh), fresh)
        self._answer(self.champion, right, fresh)

    def _answer(self, model: Model, right: NDArray[np.bool_], classes: NDArray[np.int64]) -> None:
        model.right = np.concatenate([model.right, right])
        rest = (1 - BRIER_SLOPE) * model.accuracy[classes] + model.brier_offset
        noise = self.generator.normal(0, self.kind.brier_spread / np.sqrt(2), len(classes))
        model.brier = np.concatenate([model.brier, 1 - BRIER_SLOPE * right - rest - noise])

    def _challenger(self, *, sabotage: bool) -> Model:
        change = self.generator.normal(0, self.kind.spread, CLASSES)
        change = change - change.mean() + self.generator.normal(0, NOISE)
        lost = None
        if sabotage and self.generator.random() < SABOTAGED:
            harm = int(self.generator.integers(0, len(LOSSES) + 1))
            change = change - LOSSES[harm] if harm < len(LOSSES) else change
            lost = int(self.generator.integers(0, CLASSES)) if harm == len(LOSSES) else None
        accuracy = self._truth(change)
        if lost is not None:
            accuracy[lost] = 0.0
        challenger = Model(accuracy, self._offset())
        classes = self.holdout.classes
        self._answer(challenger, self._flipped(self.champion.right, self.champion, challenger, classes), classes)
        return challenger

    def _flipped(
        self, right: NDArray[np.bool_], given: Model, other: Model, classes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """What the other answers right, given what the first does."""
        change = (other.accuracy - given.accuracy)[classes]
        differing = np.maximum(self.kind.disagreement, np.abs(change) + 0.01)
        known = np.clip(given.accuracy[classes], 0.02, 0.98)
        chance = np.where(right, (differing - change) / 2 / known, (differing + change) / 2 / (1 - known))
        return np.where(self.generator.random(len(right)) < chance, ~right, right)


def better(risk: float = 0.05, margin: float = 0.01, *, brier: bool = True) -> Rule:
    """Rule `better`, as `ml.gate.policy` has it; without the Brier score, if that is not to be used."""

    def rule(
        holdout: Holdout, new: Model, champion: Model, best: Model, past: list[HoldoutComparison]
    ) -> tuple[bool, bool]:
        leads = [lead(paired(new, of), of.brier - new.brier if brier else None, risk) for of in _two(champion, best)]
        passed = leads[0].ahead and all(of.holds(margin) for of in leads)
        return passed, passed and forbidden(holdout, new, champion, margin)

    return rule


def proven(alpha: float = 0.05) -> Rule:
    """Rule `proven`."""

    def rule(
        holdout: Holdout, new: Model, champion: Model, best: Model, past: list[HoldoutComparison]
    ) -> tuple[bool, bool]:
        share = budget.early_share(len(past) + 1, alpha)
        chosen = budget.choose(share, holdout_subsets(holdout.came, past, 30))
        on = holdout.came >= chosen.after
        gained, lost = (int((a & ~b & on).sum()) for a, b in ((new.right, champion.right), (champion.right, new.right)))
        passed = gained > lost and statistics.mcnemar(gained, lost) <= budget.level(share, chosen)
        return passed, passed and forbidden(holdout, new, champion, 0.01)

    return rule


def tested(alpha: float) -> Rule:
    """An exact McNemar test of each challenger at the same level, as if nothing had been consulted before."""

    def rule(
        holdout: Holdout, new: Model, champion: Model, best: Model, past: list[HoldoutComparison]
    ) -> tuple[bool, bool]:
        gained, lost = (int((a & ~b).sum()) for a, b in ((new.right, champion.right), (champion.right, new.right)))
        passed = gained > lost and statistics.mcnemar(gained, lost) <= alpha
        return passed, passed and forbidden(holdout, new, champion, 0.01)

    return rule


def ahead(
    holdout: Holdout, new: Model, champion: Model, best: Model, past: list[HoldoutComparison]
) -> tuple[bool, bool]:
    """Whatever does better on the holdout."""
    return bool(new.right.sum() > champion.right.sum()), False


def forbidden(holdout: Holdout, new: Model, champion: Model, margin: float) -> bool:
    """Whether a group vetoes: classes, thirds of brightness, the newest drops, old and new."""
    newest = np.unique(holdout.drops)[-slices.MOST_DROPS :]
    names = {
        "class": holdout.classes.astype(str),
        "brightness": (np.arange(len(holdout.classes)) % 3).astype(str),
        "drop": np.where(np.isin(holdout.drops, newest), holdout.drops.astype(str), ""),
        "age": np.where(holdout.drops == holdout.drops.max(), "new", "old"),
    }
    groups = [g for kind, each in names.items() for g in slices.group(kind, each, champion.right, new.right)]
    tolerance = Tolerance(margin, 0.05, CLASSES, 0.05)
    return any(group.finding == "worse" for group in slices.evaluate_groups(groups, tolerance))


def better_pair(kind: Kind, samples: int, gain: float, generator: np.random.Generator) -> tuple[Holdout, Model, Model]:
    """A holdout, a champion and a challenger better by `gain` over all, with a refresh's noise in each class."""
    loop = _Loop(kind, Stream(1, 0, samples * 5), generator)
    loop._arrive(samples, 0)
    change = generator.normal(0, kind.spread, CLASSES)
    challenger = Model(np.clip(loop.champion.accuracy + change - change.mean() + gain, 0, 0.995), 0.0)
    classes = loop.holdout.classes
    loop._answer(challenger, loop._flipped(loop.champion.right, loop.champion, challenger, classes), classes)
    return loop.holdout, loop.champion, challenger


def paired(new: Model, other: Model) -> PerSample:
    """The metric's differences, for accuracy."""
    every = _all(new)
    return PerSample(every, new.right.astype(np.float64) - other.right, 1.0, np.ones(len(every)))


def _two(champion: Model, best: Model) -> list[Model]:
    return [champion] if best is champion else [champion, best]


def _all(of: Model) -> NDArray[np.bool_]:
    return np.ones(len(of.right), np.bool_)
