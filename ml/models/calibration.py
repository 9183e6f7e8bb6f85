"""Calibration error of a model."""

import numpy as np
from numpy.typing import NDArray


def error(probability: NDArray[np.float32], right: NDArray[np.bool_], bins: int) -> float:
    """Expected calibration error, averaged over samples; 0 for none (Naeini et al., AAAI 2015).

    Args:
        probability: of the predicted class, ``float32[N]``.
        right: whether the prediction is right, ``bool[N]``.
        bins: number of bins of equal width.
    """
    bin_index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_index, probability.astype(np.float64) - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right)) if len(right) else 0.0
