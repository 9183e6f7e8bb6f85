"""What the loop makes small."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.loop.recipe import Recipe

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


@dataclass(frozen=True)
class Balance:
    """How classes are weighed against each other.

    Attributes:
        offsets: ``float32[classes]``, added to the logits in the loss and never afterwards.
        weights: ``float32[classes]`` of the classes in the loss, or None.
        chances: ``float64[N]`` of the samples to be drawn, or None.
    """

    offsets: Tensor
    weights: Tensor | None = None
    chances: NDArray[np.float64] | None = None


def balance(
    labels: NDArray[np.int64], classes: int, recipe: Recipe, wanted: NDArray[np.float64] | None = None
) -> Balance:
    """What the recipe does for rare classes, and what makes the answers fit other class shares than the labels'.

    The offsets are the logarithms of the labels' shares over those wanted (Menon et al. 2021, logit
    adjustment): a network that has learned with them answers for the shares wanted, raised to the
    power of the recipe's `prior`.

    Weights and chances are inverse to the root of the class's share: the full inverse lets a handful of
    images rule the gradient (Mahajan et al. 2018). The weights are 1 on average over the samples.

    Args:
        labels: ``int64[N]``, of what is learned from.
        wanted: ``float64[classes]``, shares of the classes where the network will answer; None: the labels' own.
    """
    # A class without samples counts as if it had one: its offset must stay finite.
    found = np.maximum(1 / len(labels), np.bincount(labels, minlength=classes) / len(labels))
    shares = found if wanted is None else np.maximum(1 / len(labels), wanted)
    offsets = np.log(found) - recipe.prior * np.log(shares)
    offsets -= offsets @ found  # the loss does not know a constant
    by_class = 1 / np.sqrt(shares)
    by_class /= by_class[labels].mean()
    return Balance(
        torch.from_numpy(offsets).float(),
        torch.from_numpy(by_class).float() if recipe.balance == "weights" else None,
        by_class[labels] if recipe.balance == "sampler" else None,
    )


def losses(logits: Tensor, target: Tensor, recipe: Recipe, balance: Balance) -> Tensor:
    """``float32[N]``, a sample each.

    Args:
        logits: ``float32[N, classes]``.
        target: ``int64[N]``, or ``float32[N, classes]`` of mixed images.
    """
    logits = logits + balance.offsets.to(logits.device)
    found = functional.cross_entropy(logits, target, reduction="none", label_smoothing=recipe.label_smoothing)
    shares = target if target.is_floating_point() else functional.one_hot(target, logits.shape[1]).float()
    if recipe.balance == "focal":
        right = (logits.softmax(1) * shares).sum(1)
        found = found * (1 - right) ** _FOCUS
    if balance.weights is not None:
        found = found * (shares @ balance.weights.to(shares.device))
    return found


def kept(logits: Tensor, images: Tensor, teacher: Teacher) -> Tensor:
    """``float32[N]``: how far the student's answers are from the teacher's, on the classes that both know."""
    expected, columns = teacher.answers(images)
    found = functional.log_softmax(logits[:, columns] / _SOFTNESS, 1)
    wanted = functional.log_softmax(expected / _SOFTNESS, 1)
    return functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1) * _SOFTNESS**2
