"""The training loop."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
import torch._dynamo  # the first optimizer imports it, which takes over 1 s; imported here so that preloading covers it
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.data import augment, feed, order
from ml.training.data.feed import ImageArray, Labels, Progress
from ml.training.loop import objective, optimizers
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.objective import Teacher
from ml.training.loop.placement import SINGLE_PROCESS, Placement, torch_threads
from ml.training.loop.recipe import Recipe
from ml.training.network.networks import normalise

log = logging.getLogger(__name__)

Metrics = dict[str, float]
Shares = NDArray[np.float64]
OnStep = Callable[[int, Metrics], None]

_POINTS: Final = 200


@dataclass
class TrainingState:
    """The state of a training: the position of the next step, and the metrics so far.

    Attributes:
        start: metrics before the first epoch.
        history: metrics per epoch.
        best_epoch: from 0; −1 if no epoch was better than the initial weights of a warm start.
        total: loss of the unfinished epoch, summed over its samples.
        points: metrics of at most about `_POINTS` single steps, evenly spaced over the longest possible training.
    """

    start: Metrics
    best_loss: float
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    best_epoch: int = -1
    history: list[Metrics] = field(default_factory=list)
    points: list[Metrics] = field(default_factory=list)

    def finished(self, recipe: Recipe) -> bool:
        return self.epoch >= recipe.epochs or self.epoch - 1 - max(0, self.best_epoch) >= recipe.patience


@dataclass(frozen=True)
class FitResult:
    """The network with its best weights, and the metrics of the training."""

    network: nn.Module
    start: Metrics
    history: list[Metrics]
    best_epoch: int
    points: list[Metrics]

    @property
    def best(self) -> Metrics:
        """Metrics of the best weights."""
        return self.history[self.best_epoch] if self.best_epoch >= 0 else self.start


def fit(
    network: nn.Module,
    train: tuple[ImageArray, Labels],
    validation: tuple[ImageArray, Labels],
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    on_step: OnStep | None = None,
    warm: bool = False,
    teacher: Teacher | None = None,
    shares: Shares | None = None,
    checkpoint: Checkpoint | None = None,
    place: Placement = SINGLE_PROCESS,
) -> FitResult:
    """Train by the recipe; stop early on the validation loss and keep the best weights.

    Args:
        network: maps ``float32[N, channels, side, side]`` to logits.
        train: ``uint8[N, side, side, channels]`` and ``int64[N]``, N ≥ 2.
        validation: likewise; evaluated after each epoch.
        progress: called with epoch, epochs and metrics after each epoch; after a resume also for earlier epochs.
        on_step: called with the number, from 1, and the metrics of some steps; likewise.
        warm: the network is trained already; its weights are kept if no epoch is better.
        teacher: for distillation, weighted by the recipe's `distillation`.
        shares: ``float64[classes]``, expected class shares in production; None: those of `train`.
        checkpoint: resume an interrupted call with the same arguments; gives the same weights bit for bit.
        place: this process in distributed training; every process calls this function.
    """
    with torch_threads(recipe.threads):
        return _TrainingLoop(
            network, train, validation, recipe, progress, on_step, warm, teacher, shares, checkpoint, place
        ).run()


class _TrainingLoop:
    def __init__(
        self,
        network: nn.Module,
        train: tuple[ImageArray, Labels],
        validation: tuple[ImageArray, Labels],
        recipe: Recipe,
        progress: Progress | None,
        on_step: OnStep | None,
        warm: bool,
        teacher: Teacher | None,
        shares: Shares | None,
        checkpoint: Checkpoint | None,
        place: Placement,
    ) -> None:
        self.network, self.recipe, self.place, self.checkpoint = network, recipe, place, checkpoint
        self.train, self.validation = train, validation
        self.progress, self.on_step = progress, on_step
        self.teacher = teacher if teacher is not None and recipe.distillation else None
        network.to(device=place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.teacher:
            self.teacher.network.to(place.device)
        self.trained = place.optimized(place.with_shared_norms(copy.deepcopy(network)))
        model = place.data_parallel(self.trained)
        self.model: nn.Module = torch.compile(model) if recipe.compile else model  # type: ignore[assignment]
        self.optimizer = optimizers.optimizer(self.trained, recipe)
        self.average = optimizers.average(self.trained, recipe.ema)
        self.classes = compute_logits(network, train[0], np.zeros(1, np.int64)).shape[1]
        self.balance = objective.balance(train[1], self.classes, recipe, shares)
        self.best = _copy_state(network)
        self.state = TrainingState({}, math.inf)
        if not self._restore():
            start = evaluate(network, *validation, place)
            self.state = TrainingState(start, start["validation_loss"] if warm else math.inf)

    def run(self) -> FitResult:
        recipe, state, place = self.recipe, self.state, self.place
        kind, bf16 = torch.device(place.device).type, place.bf16_pays()
        while not state.finished(recipe):
            self.model.train()
            batches = order.batches(
                len(self.train[1]), recipe.batch_size, recipe.seed, state.epoch, self.balance.sampling_weights
            )
            for chosen, images, labels in feed.batches(self.train, batches[state.step :], place):
                rate = optimizers.rate(recipe, state.epoch * len(batches) + state.step, recipe.epochs * len(batches))
                optimizers.set_rate(self.optimizer, rate)
                batch, target = self._prepare_batch(images, labels, len(chosen))
                with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                    logits = self.model(batch).float()
                losses = objective.losses(logits, target, recipe, self.balance)
                if self.teacher:
                    losses = losses + recipe.distillation * objective.distillation_loss(logits, batch, self.teacher)
                # Processes average their gradients; multiplied by their number, it is the mean over the whole batch.
                loss = losses.sum() * (place.world_size / len(chosen))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip:
                    nn.utils.clip_grad_norm_(self.trained.parameters(), recipe.clip)
                self.optimizer.step()
                if self.average:
                    self.average.update_parameters(self.trained)
                state.total += float(losses.detach().sum())
                state.step += 1
                self._record_step(len(batches), losses.detach(), rate)
                self._save()
            self._end_epoch(optimizers.rate(recipe, (state.epoch + 1) * len(batches) - 1, recipe.epochs * len(batches)))
        self.network.load_state_dict(self.best)
        return FitResult(self.network.eval(), state.start, state.history, state.best_epoch, state.points)

    def _prepare_batch(self, images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Augment and normalise; random numbers depend only on the step and the position in the batch."""
        recipe, place = self.recipe, self.place
        seed = order.step_seed(recipe.seed, self.state.epoch, self.state.step)
        draws = torch.rand(size, augment.DRAWS, generator=torch.Generator().manual_seed(seed))
        draws = draws[place.shard].to(place.device)
        place.seed(seed + place.rank)  # dropout must differ between processes
        if recipe.augmentation != "none":
            images = augment.light(images, draws, flips=recipe.flips)
        if recipe.augmentation == "trivial":
            images = augment.trivial(images)
        batch = normalise(images)
        return augment.mix_batch(batch, labels, self.classes, recipe.mix)

    def _record_step(self, steps: int, losses: Tensor, rate: float) -> None:
        """Record the metrics of this step if it is one of the sampled points; `steps`: steps per epoch."""
        number = self.state.epoch * steps + self.state.step
        if (number - 1) % math.ceil(self.recipe.epochs * steps / _POINTS) == 0:
            loss = float(losses.mean())
            self.state.points.append({"step": number, "epoch": number / steps, "loss": loss, "learning_rate": rate})
            self._report_step(self.state.points[-1])

    def _report_step(self, point: Metrics) -> None:
        if self.on_step:
            self.on_step(int(point["step"]), {f"step_{k}": point[k] for k in ("loss", "learning_rate")})

    def _end_epoch(self, rate: float) -> None:
        """Finish an epoch: record its metrics, and keep its weights if they are the best so far."""
        state, recipe, count = self.state, self.recipe, len(self.train[1])
        total = float(self.place.all_reduce(torch.tensor(state.total, dtype=torch.float64, device=self.place.device)))
        evaluated = self.average.module if self.average else self.trained
        metrics = {
            "train_loss": total / count,
            **evaluate(evaluated, *self.validation, self.place),
            "learning_rate": rate,
        }
        state.history.append(metrics)
        log.info("epoch %d/%d %s", state.epoch + 1, recipe.epochs, {k: round(v, 4) for k, v in metrics.items()})
        if metrics["validation_loss"] < state.best_loss:
            state.best_loss, state.best_epoch, self.best = (
                metrics["validation_loss"],
                state.epoch,
                _copy_state(evaluated),
            )
        state.epoch, state.step, state.total = state.epoch + 1, 0, 0.0
        self._save()
        if self.progress:
            self.progress(state.epoch, recipe.epochs, metrics)

    def _save(self) -> None:
        if self.checkpoint is None or not self.place.is_leader or not self.checkpoint.due:
            return
        state: dict[str, Any] = {
            "standing": asdict(self.state),
            "network": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": self.best,
        }
        self.checkpoint.write(state)

    def _restore(self) -> bool:
        state = self.checkpoint.read() if self.checkpoint and self.place.is_leader else None
        if (state := self.place.broadcast(state)) is None:
            return False
        self.state = TrainingState(**state["standing"])
        self.trained.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        log.info("resuming at epoch %d, step %d", self.state.epoch + 1, self.state.step + 1)
        for epoch, metrics in enumerate(self.state.history, 1):
            if self.progress:
                self.progress(epoch, self.recipe.epochs, metrics)
        for point in self.state.points:
            self._report_step(point)
        return True


def evaluate(network: nn.Module, images: ImageArray, labels: Labels, place: Placement = SINGLE_PROCESS) -> Metrics:
    """``validation_loss`` (nats) and ``validation_accuracy`` of the network; samples are sharded over the processes."""
    sums = torch.zeros(2, dtype=torch.float64)
    shard = np.arange(len(labels))[place.shard]
    if len(shard):
        with torch.autocast(torch.device(place.device).type, torch.bfloat16, enabled=place.bf16_pays()):
            output = compute_logits(network, images, shard)
        target = torch.from_numpy(labels[shard])
        sums[0] = functional.cross_entropy(output, target, reduction="sum")
        sums[1] = (output.argmax(1) == target).sum()
    loss, right = (place.all_reduce(sums.to(place.device)) / max(1, len(labels))).tolist()
    return {"validation_loss": loss, "validation_accuracy": right}


@torch.no_grad()
def compute_logits(network: nn.Module, images: ImageArray, positions: Labels | None = None) -> Tensor:
    """``float32[N, classes]`` of ``uint8[N, side, side, channels]``, N ≥ 1, or of some `positions`, in batches."""
    network.eval()
    device = next(network.parameters()).device
    chosen = np.arange(len(images)) if positions is None else positions
    parts = []
    for i in range(0, len(chosen), 256):
        batch = normalise(torch.from_numpy(np.ascontiguousarray(images[chosen[i : i + 256]])).to(device))
        parts.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts)


def _copy_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
