"""The gate's promises by simulation: 1,000 repetitions each, on a holdout of 2,000 samples; nothing is trained.

`false_promotions`: equal models, one decision. `false_promotions_100`: at least one promotion of a challenger that is
no better, in 100 decisions on the same holdout, by the worst of four adversaries: one that only tries again and
again; one that keeps what made a person be asked (setting `borderline`) and puts it together; the same with truly
better models promoted in between, which is known and no fault; and that with fresh samples coming in. Beside
them what the same adversaries do to a gate that tests at 0.05 each time.

`power_2pt`: a challenger better by 2 points, at the first decision. It depends on how many samples the two models
disagree: assumed is the median of real pairs of a champion and its refresh (Fashion-MNIST, see
`tests/bench/parts/pairs.py`); the same for pairs of CIFAR-10, whose models are worse and disagree more, and for
later decisions is told beside it.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ml.gate import budget
from tests.bench.parts import adversaries, pairs
from tests.bench.parts.adversaries import ALPHA, Holdout, decide_at
from tests.bench.report import spread

REPETITIONS: Final = 1000
SAMPLES: Final = 2000
DECISIONS: Final = 100
GAIN: Final = 0.02


def run() -> dict[str, Any]:
    """Shares of the repetitions; `detectable` in shares of the samples."""
    real = {name: pairs.disagreements(name) for name in pairs.SETS}
    usual = float(np.median(real["fashion-mnist"]))
    figures: dict[str, Any] = {"false_promotions": _share(lambda g: decide_at(_cells(g, 0, usual), _first()))}
    shares = {}
    for name, adversary in adversaries.ALL.items():
        shares[name] = _share(lambda g, a=adversary: _fooled(g, a, usual))  # type: ignore[misc]
        figures[f"100 decisions: {name}"] = shares[name]
        figures[f"100 decisions at 0.05 each: {name}"] = _share(
            lambda g, a=adversary: _fooled(g, a, usual, naive=True),  # type: ignore[misc]
            REPETITIONS // 10,
        )
    figures["false_promotions_100"] = max(shares.values())
    figures["power_2pt"] = _power(usual, _first())
    for name, found in real.items():
        figures[f"disagreement of real pairs, {name}"] = spread(found.tolist())
        figures[f"power of +2 points, first decision, {name}"] = _power(float(np.median(found)), _first())
    for number in (2, 10, 100):
        at = budget.level(number, budget.Part(0, 0, SAMPLES, number - 1, 0), ALPHA)
        figures[f"power of +2 points, decision {number} after rejections"] = _power(usual, at)
        figures[f"detectable with power 0.8, decision {number} after rejections"] = budget.detectable(
            at, SAMPLES, usual
        )
    return {"runs": REPETITIONS, "figures": figures}


def _first() -> float:
    return budget.level(1, budget.Part(0, 0, SAMPLES, 0, 0), ALPHA)


def _cells(generator: np.random.Generator, gain: float, disagreement: float) -> tuple[int, int]:
    """How many samples only the challenger, and only the champion, gets right."""
    chances = [(disagreement + gain) / 2, (disagreement - gain) / 2, 1 - disagreement]
    better, worse, _ = generator.multinomial(SAMPLES, chances)
    return int(better), int(worse)


def _power(disagreement: float, level: float) -> float:
    return _share(lambda g: decide_at(_cells(g, GAIN, disagreement), level))


def _share(happens: Callable[[np.random.Generator], bool], repetitions: int = REPETITIONS) -> float:
    generators = (np.random.default_rng([7, i]) for i in range(repetitions))
    return sum(happens(g) for g in generators) / repetitions


def _fooled(
    generator: np.random.Generator, adversary: adversaries.Adversary, disagreement: float, *, naive: bool = False
) -> bool:
    holdout = Holdout(generator, SAMPLES, naive=naive)
    return adversary(holdout, generator, DECISIONS, round(disagreement * SAMPLES))
