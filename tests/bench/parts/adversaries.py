"""Those who try to get a challenger promoted that is no better than the champion, knowing only verdicts.

On each sample where a challenger answers otherwise than the champion, it gains or loses; for one that is no
better, which of the two is a coin toss that was made with the sample, unknown to all but the holdout.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from ml.catalog.looks import Look
from ml.gate import budget
from ml.gate.evidence import parts

ALPHA: Final = 0.05
_REAL: Final = 0.03
"""What a truly better model gains."""

Verdict = Literal["promote", "needs_person", "reject"]


def decide_at(cells: tuple[int, int], level: float) -> bool:
    """Whether the exact one-sided McNemar test passes at a level."""
    better, worse = cells
    return better > 0 and bool(bdtrc(better - 1, better + worse, 0.5) <= level)


@dataclass
class Holdout:
    """The gate as the loop sees it: a challenger goes in, a verdict comes out.

    Attributes:
        naive: tests at `ALPHA` each time, as if nothing had been consulted before.
    """

    generator: np.random.Generator
    samples: int
    naive: bool = False
    past: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tosses = self._toss(self.samples)
        self.came = np.zeros(self.samples, np.int64)

    def add(self, samples: int) -> None:
        """Fresh ones."""
        self.tosses = np.concatenate([self.tosses, self._toss(samples)])
        self.came = np.concatenate([self.came, np.full(samples, len(self.past))])
        self.samples += samples

    def judge(self, differs: NDArray[np.bool_], real: float = 0.0) -> Verdict:
        """The verdict, with a person asked of what one look alone would promote.

        Args:
            differs: where the challenger answers otherwise, ``bool[N]``.
            real: what it truly gains beside that, as a share of the samples.
        """
        number = len(self.past) + 1
        chosen = budget.choose(number, parts(self.came, self.past, 30), ALPHA)
        level = ALPHA if self.naive else budget.level(number, chosen, ALPHA)
        on = differs & (self.came >= chosen.after)
        truly = int(self.generator.binomial(chosen.samples, real)) if real else 0
        cells = int((self.tosses[on] > 0).sum()) + truly, int((self.tosses[on] < 0).sum())
        verdict: Verdict = "reject"
        if decide_at(cells, ALPHA):
            verdict = "promote" if decide_at(cells, level) else "needs_person"
        self.past.append(Look(number, str(number), level, verdict != "reject"))
        return verdict

    def _toss(self, count: int) -> NDArray[np.int64]:
        return self.generator.integers(0, 2, count) * 2 - 1


Adversary = Callable[[Holdout, np.random.Generator, int, int], bool]
"""Given decisions to make and samples to differ on, whether one that is no better was promoted."""


def tries_again(holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int) -> bool:
    """Anything, again and again."""
    return any(holdout.judge(_any(generator, holdout.samples, differing)) == "promote" for _ in range(decisions))


def puts_together(holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int) -> bool:
    """Half of the decisions look for what moves the gate, the others try the votes of all that did."""
    return _learns(holdout, generator, decisions, differing, real_every=0, fresh=0)


def among_better_ones(holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int) -> bool:
    """Every tenth challenger is truly better."""
    return _learns(holdout, generator, decisions, differing, real_every=10, fresh=0)


def with_fresh_samples(holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int) -> bool:
    """And every tenth decision is followed by a drop that adds a fifth to the holdout."""
    return _learns(holdout, generator, decisions, differing, real_every=10, fresh=holdout.samples // 5)


ALL: Final[dict[str, Adversary]] = {
    "tries again": tries_again,
    "puts together what was noticed": puts_together,
    "the same among better ones": among_better_ones,
    "the same with fresh samples": with_fresh_samples,
}


def _learns(
    holdout: Holdout, generator: np.random.Generator, decisions: int, differing: int, *, real_every: int, fresh: int
) -> bool:
    noticed: list[NDArray[np.bool_]] = []
    for number in range(decisions):
        if real_every and number % real_every == 5:
            holdout.judge(_any(generator, holdout.samples, differing), real=_REAL)
            if fresh:
                holdout.add(fresh)
            continue
        combining = len(noticed) > 1 and number % 2 == 1
        tried = _votes(noticed, holdout.samples) if combining else _any(generator, holdout.samples, differing)
        verdict = holdout.judge(tried)
        if verdict == "promote":
            return True
        if verdict == "needs_person" and not combining:
            noticed.append(tried)
    return False


def _any(generator: np.random.Generator, samples: int, differing: int) -> NDArray[np.bool_]:
    found = np.zeros(samples, np.bool_)
    found[generator.choice(samples, min(differing, samples), replace=False)] = True
    return found


def _votes(noticed: list[NDArray[np.bool_]], samples: int) -> NDArray[np.bool_]:
    """Wherever any of them answers otherwise; on samples that came later, as the first of them would by chance."""
    found = np.zeros(samples, np.bool_)
    for each in noticed:
        found[: len(each)] |= each
        found[len(each) :] |= np.arange(len(each), samples) % max(1, round(1 / each.mean())) == 0
    return found
