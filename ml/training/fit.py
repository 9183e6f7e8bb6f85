"""The training loop, in one piece."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch._dynamo  # the first optimizer of a process imports it, over a second; here a preloading parent does
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.images import Pixels
from ml.training import networks
from ml.training.networks import normalise

log = logging.getLogger(__name__)

Labels = NDArray[np.int64]
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Recipe:
    """How to train: everything that, with the data and the code, determines the weights."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int
    flips: bool = False
    threads: int = 1

    @classmethod
    def within_budget(
        cls,
        samples: int,
        side: int,
        *,
        epochs: int,
        budget: int,
        patience: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        flips: bool = False,
        threads: int | None = None,
    ) -> "Recipe":
        """Fewer epochs for more or larger images, smaller batches for few.

        The cost of an image grows with its area, so `budget` counts images at 32 px. The wall clock
        has no say: the same data, settings and seed give the same model on a busy machine.

        Half the cores, at most four, is the default of `threads`: the operations on small images last
        microseconds and all threads meet after each, so that with every core taken one busy neighbour
        made training 10 to 40 times slower, where on an idle machine a second thread gained next to nothing.
        """
        affordable = int(budget / max(1, samples) / (side / 32) ** 2)
        batch = min(batch_size, max(16, samples // 12))
        chosen = threads or max(1, min(4, (os.cpu_count() or 1) // 2))
        return cls(min(epochs, max(4, affordable)), patience, batch, learning_rate, seed, flips, chosen)


@dataclass(frozen=True)
class Fitted:
    """The network with its best weights, and an epoch's metrics a row.

    Attributes:
        start: metrics before the first epoch.
        best_epoch: from 0; −1 when no epoch was better than the start of a warm one.
    """

    network: nn.Module
    start: dict[str, float]
    history: list[dict[str, float]]
    best_epoch: int

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the weights that were kept."""
        return self.history[self.best_epoch] if self.best_epoch >= 0 else self.start


def fit(
    network: nn.Module,
    train: tuple[Pixels, Labels],
    validation: tuple[Pixels, Labels],
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    warm: bool = False,
) -> Fitted:
    """AdamW, warm-up and cosine, light shifts, early stop on the validation loss.

    Args:
        train: ``uint8[N, side, side, channels]`` and ``int64[N]``, N ≥ 2.
        validation: likewise; judges the epochs.
        progress: told epoch, epochs and metrics after each epoch.
        warm: the network has learned already; its weights stay if no epoch betters them.
    """
    with threads(recipe.threads):
        return _fit(network, train, validation, recipe, progress, warm)


def _fit(
    network: nn.Module,
    train: tuple[Pixels, Labels],
    validation: tuple[Pixels, Labels],
    recipe: Recipe,
    progress: Progress | None,
    warm: bool,
) -> Fitted:
    torch.manual_seed(recipe.seed)  # dropout draws from the global generator
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = (torch.from_numpy(np.ascontiguousarray(a)) for a in train)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [{"params": g.parameters, "factor": g.factor} for g in networks.groups(network) if g.factor]
    optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=1e-2)
    steps, epochs = math.ceil(len(labels) / recipe.batch_size), recipe.epochs
    start, history = evaluate(network, *validation), list[dict[str, float]]()
    best, best_epoch, best_state = start["validation_loss"] if warm else math.inf, -1, _copy(network)
    for epoch in range(epochs):
        network.train()
        total = 0.0
        # Batches of nearly equal size: none is left with a single image, which batch norm cannot take.
        for step, chosen in enumerate(torch.randperm(len(labels), generator=generator).tensor_split(steps)):
            rate = recipe.learning_rate * _schedule(epoch * steps + step, epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            batch = augmented(normalise(images[chosen]), generator, flips=recipe.flips)
            with torch.autocast("cpu", torch.bfloat16, enabled=_bf16_pays()):
                logits = network(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        metrics = {"train_loss": total / len(labels), **evaluate(network, *validation), "learning_rate": rate}
        history.append(metrics)
        log.info("epoch %d/%d %s", epoch + 1, epochs, {k: round(v, 4) for k, v in metrics.items()})
        if progress:
            progress(epoch + 1, epochs, metrics)
        if metrics["validation_loss"] < best:
            best, best_epoch, best_state = metrics["validation_loss"], epoch, _copy(network)
        if epoch - max(0, best_epoch) >= recipe.patience:
            break
    network.load_state_dict(best_state)
    return Fitted(network.eval(), start, history, best_epoch)


def evaluate(network: nn.Module, images: Pixels, labels: Labels) -> dict[str, float]:
    """``validation_loss`` (nats) and ``validation_accuracy`` of the network as it stands."""
    if not len(labels):
        return {"validation_loss": 0.0, "validation_accuracy": 0.0}
    with torch.autocast("cpu", torch.bfloat16, enabled=_bf16_pays()):
        output = logits_of(network, images)
    target = torch.from_numpy(labels)
    return {
        "validation_loss": float(functional.cross_entropy(output, target)),
        "validation_accuracy": float((output.argmax(1) == target).float().mean()),
    }


@torch.no_grad()
def logits_of(network: nn.Module, images: Pixels) -> Tensor:
    """``float32[N, classes]`` of ``uint8[N, side, side, channels]``, N ≥ 1, in batches."""
    network.eval()
    parts = []
    for i in range(0, len(images), 256):
        batch = normalise(torch.from_numpy(np.ascontiguousarray(images[i : i + 256])))
        parts.append(network(batch.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(parts)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first twentieth, then a half cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def augmented(images: Tensor, generator: torch.Generator, *, flips: bool) -> Tensor:
    """Every image moved by up to a twelfth of its side, edges repeated; with `flips`, half of them mirrored."""
    n, channels, side, _ = images.shape
    reach = max(1, side // 12)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    offsets = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator)
    rows = offsets[0] + torch.arange(side)  # [n, side], as are the columns
    columns = offsets[1] + torch.arange(side)
    if flips:
        columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    picked = (torch.arange(n).view(n, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1))
    moved = padded[(*picked, rows.view(n, 1, side, 1), columns.view(n, 1, 1, side))]
    return moved.contiguous(memory_format=torch.channels_last)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch computes with `count` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _bf16_pays() -> bool:
    """Only with instructions for it; emulated, bf16 is several times slower than fp32."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
