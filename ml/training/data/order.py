"""Which samples a step sees: a pure function of the data, the seed, the epoch and the position."""

import math

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def batches(
    count: int, size: int, seed: int, epoch: int, sampling_weights: NDArray[np.float64] | None = None
) -> list[Positions]:
    """The epoch's batches of all processes together, of nearly equal size.

    None is left with a single image, which batch norm cannot take.

    Args:
        count: of samples, at least 2.
        size: of a batch, at most.
        sampling_weights: ``float64[count]``: draw with these, and replacement, in place of every sample once.
    """
    generator = np.random.default_rng([seed, epoch])
    if sampling_weights is None:
        order = generator.permutation(count)
    else:
        order = generator.choice(count, count, p=sampling_weights / sampling_weights.sum())
    return np.array_split(order, math.ceil(count / size))


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of everything random in one step, so that no generator has a state worth keeping."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0] >> 1)
