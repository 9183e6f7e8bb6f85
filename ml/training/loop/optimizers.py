"""Optimizer, learning rate schedule and weight averaging."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ml.training.loop.recipe import Recipe
from ml.training.network import networks


def optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; frozen weights are excluded."""
    groups = [
        {"params": [p for p in parameters if p.requires_grad], "factor": factor}
        for _, parameters, factor in networks.groups(network)
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, momentum=0.9, nesterov=True
        )
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to 0."""
    warm = max(1, int(steps * recipe.warm_up))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def average(network: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential moving average of weights and buffers, or None; the decay grows so that the start is forgotten."""
    if not decay:
        return None

    def step(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        number = float(count)
        return averaged.lerp(current, 1 - min(decay, (1 + number) / (10 + number)))

    return AveragedModel(network, avg_fn=step, use_buffers=True)
