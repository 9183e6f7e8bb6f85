"""What the loop makes small."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.recipe import Recipe

_FOCUS = 2.0
_SOFTNESS = 2.0


@dataclass(frozen=True)
class Teacher:
    """A network whose answers are to be kept.

    Attributes:
        columns: for each of its outputs, the position of the same class in the student's; −1: gone.
    """

    network: nn.Module
    columns: tuple[int, ...]

    @torch.no_grad()
    def answers(self, images: Tensor) -> tuple[Tensor, list[int]]:
        """Logits of the classes that the student has too, and their columns there."""
        kept = [i for i, column in enumerate(self.columns) if column >= 0]
        self.network.eval()
        return self.network(images).float()[:, kept], [self.columns[i] for i in kept]


def balance(
    labels: NDArray[np.int64], classes: int, recipe: Recipe
) -> tuple[Tensor | None, NDArray[np.float64] | None]:
    """Weights of the classes in the loss, and samples' chances to be drawn, as far as the recipe wants them.

    Either is inverse to the root of the class's count: the full inverse lets a handful of images rule
    the gradient (Mahajan et al. 2018). The weights are 1 on average over the samples.
    """
    by_class = 1 / np.sqrt(np.maximum(1, np.bincount(labels, minlength=classes)))
    by_class /= by_class[labels].mean()
    weights = torch.from_numpy(by_class).float() if recipe.balance == "weights" else None
    return weights, by_class[labels] if recipe.balance == "sampler" else None


def losses(logits: Tensor, target: Tensor, recipe: Recipe, weights: Tensor | None) -> Tensor:
    """``float32[N]``, a sample each.

    Args:
        logits: ``float32[N, classes]``.
        target: ``int64[N]``, or ``float32[N, classes]`` of mixed images.
        weights: ``float32[classes]`` or None.
    """
    found = functional.cross_entropy(logits, target, reduction="none", label_smoothing=recipe.label_smoothing)
    shares = target if target.is_floating_point() else functional.one_hot(target, logits.shape[1]).float()
    if recipe.balance == "focal":
        right = (logits.softmax(1) * shares).sum(1)
        found = found * (1 - right) ** _FOCUS
    if weights is not None:
        found = found * (shares @ weights.to(shares.device))
    return found


def kept(logits: Tensor, images: Tensor, teacher: Teacher) -> Tensor:
    """``float32[N]``: how far the student's answers are from the teacher's, on the classes that both know."""
    expected, columns = teacher.answers(images)
    found = functional.log_softmax(logits[:, columns] / _SOFTNESS, 1)
    wanted = functional.log_softmax(expected / _SOFTNESS, 1)
    return functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1) * _SOFTNESS**2
