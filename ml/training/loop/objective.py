"""The training loss: class balancing, logit adjustment and distillation."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.loop.recipe import Recipe

_FOCAL_GAMMA = 2.0
_DISTILLATION_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Teacher:
    """The teacher network of distillation.

    Attributes:
        columns: for each of its outputs, the student's output of the same class; −1: the class no longer exists.
    """

    network: nn.Module
    columns: tuple[int, ...]

    @torch.no_grad()
    def answers(self, images: Tensor) -> tuple[Tensor, list[int]]:
        """Logits of the classes that the student has too, and the student's columns of these classes."""
        shared = [i for i, column in enumerate(self.columns) if column >= 0]
        self.network.eval()
        return self.network(images).float()[:, shared], [self.columns[i] for i in shared]


@dataclass(frozen=True)
class Balance:
    """How classes are weighted against each other.

    Attributes:
        offsets: ``float32[classes]``, added to the logits in the loss only, not at inference.
        weights: ``float32[classes]`` of the classes in the loss, or None.
        sampling_weights: ``float64[N]`` for sampling training samples, or None.
    """

    offsets: Tensor
    weights: Tensor | None = None
    sampling_weights: NDArray[np.float64] | None = None


def balance(
    labels: NDArray[np.int64], classes: int, recipe: Recipe, target_shares: NDArray[np.float64] | None = None
) -> Balance:
    """Class weights for rare classes, and logit offsets for class shares that differ from those of the labels.

    The offsets are the logarithms of the labels' shares over the target shares (logit adjustment, Menon et al.
    2021): a network trained with them predicts for the target shares, raised to the power of the recipe's `prior`.

    Weights and chances are inverse to the square root of the class share: with the full inverse a handful of
    images dominates the gradient (Mahajan et al. 2018). The weights are 1 on average over the samples.

    Args:
        labels: ``int64[N]`` of the training samples.
        target_shares: ``float64[classes]``, expected shares in production; None: those of the labels.
    """
    # A class without samples counts as one sample, so that its offset stays finite.
    observed = np.maximum(1 / len(labels), np.bincount(labels, minlength=classes) / len(labels))
    shares = observed if target_shares is None else np.maximum(1 / len(labels), target_shares)
    offsets = np.log(observed) - recipe.prior * np.log(shares)
    offsets -= offsets @ observed  # the loss is invariant to a constant
    by_class = 1 / np.sqrt(shares)
    by_class /= by_class[labels].mean()
    return Balance(
        torch.from_numpy(offsets).float(),
        torch.from_numpy(by_class).float() if recipe.balance == "weights" else None,
        by_class[labels] if recipe.balance == "sampler" else None,
    )


def losses(logits: Tensor, target: Tensor, recipe: Recipe, balance: Balance) -> Tensor:
    """Loss per sample, ``float32[N]``.

    Args:
        logits: ``float32[N, classes]``.
        target: ``int64[N]``, or ``float32[N, classes]`` of mixed images.
    """
    logits = logits + balance.offsets.to(logits.device)
    values = functional.cross_entropy(logits, target, reduction="none", label_smoothing=recipe.label_smoothing)
    shares = target if target.is_floating_point() else functional.one_hot(target, logits.shape[1]).float()
    if recipe.balance == "focal":
        right = (logits.softmax(1) * shares).sum(1)
        values = values * (1 - right) ** _FOCAL_GAMMA
    if balance.weights is not None:
        values = values * (shares @ balance.weights.to(shares.device))
    return values


def distillation_loss(logits: Tensor, images: Tensor, teacher: Teacher) -> Tensor:
    """KL divergence per sample between student and teacher on their shared classes, ``float32[N]``."""
    teacher_logits, columns = teacher.answers(images)
    student_log_probabilities = functional.log_softmax(logits[:, columns] / _DISTILLATION_TEMPERATURE, 1)
    teacher_log_probabilities = functional.log_softmax(teacher_logits / _DISTILLATION_TEMPERATURE, 1)
    return (
        functional.kl_div(student_log_probabilities, teacher_log_probabilities, reduction="none", log_target=True).sum(
            1
        )
        * _DISTILLATION_TEMPERATURE**2
    )
