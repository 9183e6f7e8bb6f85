"""A classifier that is fitted in closed form: kernel ridge regression with a Gaussian kernel.

Its leave-one-out predictions are exact and cost nothing beyond the fit (Rifkin and Lippert, 2007), so every image is
answered by a classifier that has not seen its label.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_RIDGE: Final = 0.3
_WIDTH: Final = 0.5  # of the kernel, over the number of features
_LEAST_DEVIATION: Final = 1e-3
_SHARPNESS: Final = np.geomspace(0.5, 64, 36)


@dataclass(frozen=True, eq=False)
class Learner:
    """A fitted classifier.

    Attributes:
        held_out: ``float32[N, K]``, scores of each training image without its own label.
        weights: ``float32[N, K]``, of the training images.
    """

    mean: Floats
    scale: Floats
    points: Floats
    inverse: Floats
    weights: Floats
    held_out: Floats
    shares: Floats

    @classmethod
    def fit(cls, features: Floats, class_ids: Ids, classes: int) -> Self:
        """Fit to ``float32[N, D]`` and ``int64[N]`` in 0..classes-1; time grows with the cube of N."""
        mean = features.mean(0)
        scale = 1 / (np.maximum(features.std(0), _LEAST_DEVIATION) * np.sqrt(np.float32(features.shape[1])))
        points = (features - mean) * scale
        kernel = _kernel(points, points)
        kernel[np.diag_indices(len(kernel))] += np.float32(_RIDGE)
        inverse = _inverse(kernel)
        weights, held_out, shares = _solve(inverse, class_ids, classes)
        return cls(mean, scale, points, inverse, weights, held_out, shares)

    def relabelled(self, class_ids: Ids) -> Floats:
        """Held-out scores of the same images under other labels, at a fraction of the cost of a fit."""
        return _solve(self.inverse, class_ids, self.weights.shape[1])[1]

    def scores(self, features: Floats) -> Floats:
        """Scores ``float32[M, K]`` of other images; the largest is the answer."""
        result: Floats = _kernel((features - self.mean) * self.scale, self.points) @ self.weights + self.shares
        return result


def _inverse(kernel: Floats) -> Floats:
    """The inverse of a positive definite matrix by its Cholesky factor, in half the time of a general one."""
    factor, _ = lapack.spotrf(kernel, lower=1)
    lower, _ = lapack.spotri(factor, lower=1)
    result: Floats = np.tril(lower) + np.tril(lower, -1).T
    return result


def _kernel(first: Floats, second: Floats) -> Floats:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)
    kernel: Floats = np.exp(np.float32(-_WIDTH) * np.maximum(squares - 2 * (first @ second.T), 0))
    return kernel


def _solve(inverse: Floats, class_ids: Ids, classes: int) -> tuple[Floats, Floats, Floats]:
    targets = np.eye(classes, dtype=np.float32)[class_ids]
    shares = targets.mean(0)
    weights = inverse @ (targets - shares)
    return weights, targets - weights / inverse.diagonal()[:, None], shares


def sharpness(scores: Floats, class_ids: Ids) -> float:
    """The factor on scores whose softmax makes held-out labels likeliest (temperature scaling, Guo et al. 2017)."""
    losses = [-np.log(probabilities(scores, s)[np.arange(len(scores)), class_ids] + 1e-6).mean() for s in _SHARPNESS]
    return float(_SHARPNESS[int(np.argmin(losses))])


def probabilities(scores: Floats, factor: float) -> Floats:
    """Softmax ``float32[N, K]`` of scores."""
    raised = scores * np.float32(factor)
    raised -= raised.max(1, keepdims=True)
    exponentials = np.exp(raised)
    result: Floats = exponentials / exponentials.sum(1, keepdims=True)
    return result
