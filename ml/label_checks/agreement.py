"""Agreement of two labellings beyond chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa (Cohen 1960): 1 is full agreement, 0 chance; and its standard error where there is none."""

    kappa: float
    error: float


def agreement(first: Ids, second: Ids, classes: int) -> Agreement:
    """The agreement of class numbers ``int64[N]``, N ≥ 1; 0 with error 1 where both are the same single class."""
    shares = [np.bincount(v, minlength=classes) / len(v) for v in (first, second)]
    chance = float((shares[0] * shares[1]).sum())
    if chance > 1 - 1e-9:
        return Agreement(0.0, 1.0)
    observed = float((first == second).mean())
    return Agreement((observed - chance) / (1 - chance), float(np.sqrt(chance / (1 - chance) / len(first))))
