"""Those who try to get a challenger promoted that is worse than the margin the gate states, knowing only verdicts.

Every sample is as likely answered right as wrong; where a challenger answers otherwise than the champion, its answer
is a coin toss that was made with the sample, unknown to all but the holdout. So whatever answers otherwise is truly no
better; beside that, a challenger may truly lose or gain, on samples drawn anew for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.catalog.holdout_comparisons import HoldoutComparison
from ml.gate import budget
from ml.gate.evidence import holdout_subsets
from ml.gate.lead import largest_loss, lead, succession_risk
from ml.gate.metrics import PerSample

ALPHA: Final = 0.05
MARGIN: Final = 0.01
_REAL: Final = 0.03
"""What a truly better model gains."""


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger was promoted, and by how much it may be worse than the best so far, as a share."""

    promoted: bool
    stated: float


@dataclass
class Candidate:
    """Its right answers on the holdout, ``bool[N]``, and its true accuracy."""

    right: NDArray[np.bool_]
    accuracy: float


@dataclass
class Holdout:
    """The gate as the loop sees it: a challenger goes in, a verdict comes out.

    Attributes:
        naive: promotes whatever is ahead, and states what one test at `ALPHA` excludes, as if nothing had been
            consulted before.
        broken: a promoted model was worse than the best so far by more than was stated.
    """

    generator: np.random.Generator
    samples: int
    naive: bool = False
    past: list[HoldoutComparison] = field(default_factory=list)
    broken: bool = False

    def __post_init__(self) -> None:
        self.coins = self._toss(self.samples)
        self.came = np.zeros(self.samples, np.int64)
        self.champion = self.best = Candidate(self._toss(self.samples), 0.5)
        self.highest = 0.5

    def add(self, samples: int) -> None:
        """Fresh ones; what the models answer to them is independent, as nobody could fit them."""
        self.coins = np.concatenate([self.coins, self._toss(samples)])
        self.came = np.concatenate([self.came, np.full(samples, len(self.past))])
        for of in {id(self.champion): self.champion, id(self.best): self.best}.values():
            of.right = np.concatenate([of.right, self.generator.random(samples) < of.accuracy])
        self.samples += samples

    def judge(self, differs: NDArray[np.bool_], gain: float = 0.0) -> Verdict:
        """Decide, and promote if the rule `better` says so.

        Args:
            differs: where the challenger answers by the coin, ``bool[N]``.
            gain: what it truly gains beside that over the champion, or loses, as a share.
        """
        challenger = self._made(differs, gain)
        verdict = self._verdict(challenger)
        if (
            self.best is not self.champion
            and lead(self._paired(self.champion, self.best), None, succession_risk(ALPHA)).metric_least > 0
        ):
            self.best = self.champion
        number = len(self.past) + 1
        self.past.append(HoldoutComparison(number, str(number), 0.0, "promote" if verdict.promoted else "reject"))
        if verdict.promoted:
            self.broken |= challenger.accuracy < self.highest - verdict.stated
            self.highest = max(self.highest, challenger.accuracy)
            self.champion = challenger
        return verdict

    def _made(self, differs: NDArray[np.bool_], gain: float) -> Candidate:
        right, share = np.where(differs, self.coins, self.champion.right), float(differs.mean())
        accuracy = self.champion.accuracy * (1 - share) + 0.5 * share
        changed = 2 * abs(gain)
        right[self.generator.random(self.samples) < changed] = gain > 0
        return Candidate(right, accuracy * (1 - changed) + (changed if gain > 0 else 0))

    def _verdict(self, challenger: Candidate) -> Verdict:
        if challenger.right.sum() <= self.champion.right.sum():
            return Verdict(promoted=False, stated=1.0)  # as the rule has it, and quickly
        others = [self.champion] if self.best is self.champion else [self.champion, self.best]
        pairs = [self._paired(challenger, other) for other in others]
        if not self.naive and not all(lead(of, None, ALPHA).holds(MARGIN) for of in pairs):
            return Verdict(promoted=False, stated=1.0)
        share = budget.even_share(ALPHA)
        chosen = budget.choose(share, holdout_subsets(self.came, self.past, 30))
        on, level = (0, ALPHA) if self.naive else (chosen.after, budget.level(share, chosen))
        recent = [self._paired(challenger, other, self.came >= on) for other in others]
        return Verdict(promoted=True, stated=max(MARGIN, *(largest_loss(of, level) for of in recent)))

    def _paired(self, challenger: Candidate, other: Candidate, on: NDArray[np.bool_] | None = None) -> PerSample:
        differences = challenger.right.astype(np.float64) - other.right
        differences = differences if on is None else differences[on]
        return PerSample(np.ones(len(differences), np.bool_), differences, 1.0, np.ones(len(differences)))

    def _toss(self, count: int) -> NDArray[np.bool_]:
        return self.generator.random(count) < 0.5


Adversary = Callable[[Holdout, np.random.Generator, int, int, float], None]
"""Makes so many decisions, with challengers that differ on so many samples and truly lose so much."""


def tries_again(holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int, loss: float) -> None:
    """Anything, again and again."""
    for _ in range(decisions):
        holdout.judge(_any(generator, holdout.samples, differing), -loss)


def puts_together(
    holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int, loss: float
) -> None:
    """Half of the decisions look for what moves the gate, the others try the votes of all that did, with a loss."""
    _learns(holdout, generator, decisions, differing, loss, real_every=0, fresh=0)


def among_better_ones(
    holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int, loss: float
) -> None:
    """Every tenth challenger is truly better."""
    _learns(holdout, generator, decisions, differing, loss, real_every=10, fresh=0)


def with_fresh_samples(
    holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int, loss: float
) -> None:
    """And every tenth decision is followed by a drop that adds a fifth to the holdout."""
    _learns(holdout, generator, decisions, differing, loss, real_every=10, fresh=holdout.samples // 5)


ALL: Final[dict[str, Adversary]] = {
    "tries again": tries_again,
    "puts together what was noticed": puts_together,
    "the same among better ones": among_better_ones,
    "the same with fresh samples": with_fresh_samples,
}


def _learns(
    holdout: Holdout,
    generator: np.random.Generator,
    decisions: int,
    differing: int,
    loss: float,
    *,
    real_every: int,
    fresh: int,
) -> None:
    noticed: list[NDArray[np.bool_]] = []
    for number in range(decisions):
        if real_every and number % real_every == 5:
            holdout.judge(_any(generator, holdout.samples, differing), _REAL)
            if fresh:
                holdout.add(fresh)
            continue
        if len(noticed) > 1 and number % 2 == 1:
            holdout.judge(_votes(noticed, holdout.samples), -loss)
            continue
        # A challenger that loses nothing passes more easily, so its verdicts tell more.
        tried = _any(generator, holdout.samples, differing)
        if holdout.judge(tried).promoted:
            noticed.append(tried)


def _any(generator: np.random.Generator, samples: int, differing: int) -> NDArray[np.bool_]:
    mask = np.zeros(samples, np.bool_)
    mask[generator.choice(samples, min(differing, samples), replace=False)] = True
    return mask


def _votes(noticed: list[NDArray[np.bool_]], samples: int) -> NDArray[np.bool_]:
    """Wherever any of them answers otherwise; on samples that came later, as the first of them would by chance."""
    mask = np.zeros(samples, np.bool_)
    for each in noticed:
        mask[: len(each)] |= each
        mask[len(each) :] |= np.arange(len(each), samples) % max(1, round(1 / each.mean())) == 0
    return mask
