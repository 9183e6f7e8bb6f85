"""The training loop, in one piece."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
import torch._dynamo  # the first optimizer of a process imports it, over a second; here a preloading parent does
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.data import augment, feed, order
from ml.training.data.feed import Labels, Pictures, Progress
from ml.training.loop import objective, optimizers
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.objective import Teacher
from ml.training.loop.placement import ALONE, Placement, computing
from ml.training.loop.recipe import Recipe
from ml.training.network.networks import normalise

log = logging.getLogger(__name__)

Metrics = dict[str, float]
Shares = NDArray[np.float64]
Stepped = Callable[[int, Metrics], None]

_POINTS: Final = 200


@dataclass
class Standing:
    """How far a training is: the next step's position, and what is known of the epochs before it.

    Attributes:
        start: metrics before the first epoch.
        history: an epoch's metrics a row.
        best_epoch: from 0; −1 when no epoch was better than the start of a warm one.
        total: loss of the unfinished epoch, summed over its samples.
        points: single steps a row, evenly spread over all that there may be, so that they are few.
    """

    start: Metrics
    best_loss: float
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    best_epoch: int = -1
    history: list[Metrics] = field(default_factory=list)
    points: list[Metrics] = field(default_factory=list)

    def ended(self, recipe: Recipe) -> bool:
        return self.epoch >= recipe.epochs or self.epoch - 1 - max(0, self.best_epoch) >= recipe.patience


@dataclass(frozen=True)
class Fitted:
    """The network with its best weights, and how it came to them."""

    network: nn.Module
    start: Metrics
    history: list[Metrics]
    best_epoch: int
    points: list[Metrics]

    @property
    def best(self) -> Metrics:
        """Metrics of the weights that were kept."""
        return self.history[self.best_epoch] if self.best_epoch >= 0 else self.start


def fit(
    network: nn.Module,
    train: tuple[Pictures, Labels],
    validation: tuple[Pictures, Labels],
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    stepped: Stepped | None = None,
    warm: bool = False,
    teacher: Teacher | None = None,
    shares: Shares | None = None,
    checkpoint: Checkpoint | None = None,
    place: Placement = ALONE,
) -> Fitted:
    """Train by the recipe; stop early on the validation loss and keep the best weights.

    Args:
        network: takes ``float32[N, channels, side, side]``, gives logits.
        train: ``uint8[N, side, side, channels]`` and ``int64[N]``, N ≥ 2.
        validation: likewise; judges the epochs.
        progress: told epoch, epochs and metrics after each epoch, of those before a kill once more.
        stepped: told some steps, counted from 1, with their metrics; likewise.
        warm: the network has learned already; its weights stay if no epoch betters them.
        teacher: whose answers count as far as the recipe's `distillation` says.
        shares: ``float64[classes]`` of the classes where the network will answer; None: those of `train`.
        checkpoint: continue where a killed call with the same arguments stood, to the same weights bit for bit.
        place: this process among those that share every batch; all of them call this.
    """
    with computing(recipe.threads):
        return _Loop(
            network, train, validation, recipe, progress, stepped, warm, teacher, shares, checkpoint, place
        ).run()


class _Loop:
    def __init__(
        self,
        network: nn.Module,
        train: tuple[Pictures, Labels],
        validation: tuple[Pictures, Labels],
        recipe: Recipe,
        progress: Progress | None,
        stepped: Stepped | None,
        warm: bool,
        teacher: Teacher | None,
        shares: Shares | None,
        checkpoint: Checkpoint | None,
        place: Placement,
    ) -> None:
        self.network, self.recipe, self.place, self.checkpoint = network, recipe, place, checkpoint
        self.train, self.validation = train, validation
        self.progress, self.stepped = progress, stepped
        self.teacher = teacher if teacher is not None and recipe.distillation else None
        network.to(device=place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.teacher:
            self.teacher.network.to(place.device)
        self.inner = place.quickest(place.shared(copy.deepcopy(network)))
        learner = place.wrapped(self.inner)
        self.learner: nn.Module = torch.compile(learner) if recipe.compile else learner  # type: ignore[assignment]
        self.optimizer = optimizers.optimizer(self.inner, recipe)
        self.average = optimizers.average(self.inner, recipe.ema)
        self.classes = logits_of(network, train[0], np.zeros(1, np.int64)).shape[1]
        self.balance = objective.balance(train[1], self.classes, recipe, shares)
        self.best = _copy(network)
        self.at = Standing({}, math.inf)
        if not self._restore():
            start = evaluate(network, *validation, place)
            self.at = Standing(start, start["validation_loss"] if warm else math.inf)

    def run(self) -> Fitted:
        recipe, at, place = self.recipe, self.at, self.place
        kind, bf16 = torch.device(place.device).type, place.bf16_pays()
        while not at.ended(recipe):
            self.learner.train()
            batches = order.batches(len(self.train[1]), recipe.batch_size, recipe.seed, at.epoch, self.balance.chances)
            for chosen, images, labels in feed.batches(self.train, batches[at.step :], place):
                rate = optimizers.rate(recipe, at.epoch * len(batches) + at.step, recipe.epochs * len(batches))
                optimizers.set_rate(self.optimizer, rate)
                batch, target = self._prepared(images, labels, len(chosen))
                with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                    logits = self.learner(batch).float()
                losses = objective.losses(logits, target, recipe, self.balance)
                if self.teacher:
                    losses = losses + recipe.distillation * objective.kept(logits, batch, self.teacher)
                # Processes average their gradients: times their number, it is the mean over the whole batch.
                loss = losses.sum() * (place.world / len(chosen))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if recipe.clip:
                    nn.utils.clip_grad_norm_(self.inner.parameters(), recipe.clip)
                self.optimizer.step()
                if self.average:
                    self.average.update_parameters(self.inner)
                at.total += float(losses.detach().sum())
                at.step += 1
                self._note(len(batches), losses.detach(), rate)
                self._save()
            self._judge(optimizers.rate(recipe, (at.epoch + 1) * len(batches) - 1, recipe.epochs * len(batches)))
        self.network.load_state_dict(self.best)
        return Fitted(self.network.eval(), at.start, at.history, at.best_epoch, at.points)

    def _prepared(self, images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Augmented and normalised; what is random depends on the step and the place in the batch alone."""
        recipe, place = self.recipe, self.place
        seed = order.step_seed(recipe.seed, self.at.epoch, self.at.step)
        draws = torch.rand(size, augment.DRAWS, generator=torch.Generator().manual_seed(seed))
        draws = draws[place.mine].to(place.device)
        place.seed(seed + place.rank)  # dropout must differ between processes
        if recipe.augmentation != "none":
            images = augment.light(images, draws, flips=recipe.flips)
        if recipe.augmentation == "trivial":
            images = augment.trivial(images)
        batch = normalise(images)
        return augment.mixed(batch, labels, self.classes, recipe.mix)

    def _note(self, steps: int, losses: Tensor, rate: float) -> None:
        """Keep this step's metrics if it is one of those that are kept; `steps`: of an epoch."""
        number = self.at.epoch * steps + self.at.step
        if (number - 1) % math.ceil(self.recipe.epochs * steps / _POINTS) == 0:
            loss = float(losses.mean())
            self.at.points.append({"step": number, "epoch": number / steps, "loss": loss, "learning_rate": rate})
            self._tell(self.at.points[-1])

    def _tell(self, point: Metrics) -> None:
        if self.stepped:
            self.stepped(int(point["step"]), {f"step_{k}": point[k] for k in ("loss", "learning_rate")})

    def _judge(self, rate: float) -> None:
        """Close an epoch: its metrics, and its weights if they are the best."""
        at, recipe, count = self.at, self.recipe, len(self.train[1])
        total = float(self.place.total(torch.tensor(at.total, dtype=torch.float64, device=self.place.device)))
        judged = self.average.module if self.average else self.inner
        metrics = {
            "train_loss": total / count,
            **evaluate(judged, *self.validation, self.place),
            "learning_rate": rate,
        }
        at.history.append(metrics)
        log.info("epoch %d/%d %s", at.epoch + 1, recipe.epochs, {k: round(v, 4) for k, v in metrics.items()})
        if metrics["validation_loss"] < at.best_loss:
            at.best_loss, at.best_epoch, self.best = metrics["validation_loss"], at.epoch, _copy(judged)
        at.epoch, at.step, at.total = at.epoch + 1, 0, 0.0
        self._save()
        if self.progress:
            self.progress(at.epoch, recipe.epochs, metrics)

    def _save(self) -> None:
        if self.checkpoint is None or not self.place.leads or not self.checkpoint.due:
            return
        state: dict[str, Any] = {
            "standing": asdict(self.at),
            "network": self.inner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": self.best,
        }
        self.checkpoint.write(state)

    def _restore(self) -> bool:
        state = self.checkpoint.read() if self.checkpoint and self.place.leads else None
        if (state := self.place.told(state)) is None:
            return False
        self.at = Standing(**state["standing"])
        self.inner.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        log.info("continuing at epoch %d, step %d", self.at.epoch + 1, self.at.step + 1)
        for epoch, metrics in enumerate(self.at.history, 1):
            if self.progress:
                self.progress(epoch, self.recipe.epochs, metrics)
        for point in self.at.points:
            self._tell(point)
        return True


def evaluate(network: nn.Module, images: Pictures, labels: Labels, place: Placement = ALONE) -> Metrics:
    """``validation_loss`` (nats) and ``validation_accuracy`` of the network as it stands, shared by all processes."""
    sums = torch.zeros(2, dtype=torch.float64)
    mine = np.arange(len(labels))[place.mine]
    if len(mine):
        with torch.autocast(torch.device(place.device).type, torch.bfloat16, enabled=place.bf16_pays()):
            output = logits_of(network, images, mine)
        target = torch.from_numpy(labels[mine])
        sums[0] = functional.cross_entropy(output, target, reduction="sum")
        sums[1] = (output.argmax(1) == target).sum()
    loss, right = (place.total(sums.to(place.device)) / max(1, len(labels))).tolist()
    return {"validation_loss": loss, "validation_accuracy": right}


@torch.no_grad()
def logits_of(network: nn.Module, images: Pictures, positions: Labels | None = None) -> Tensor:
    """``float32[N, classes]`` of ``uint8[N, side, side, channels]``, N ≥ 1, or of some `positions`, in batches."""
    network.eval()
    device = next(network.parameters()).device
    wanted = np.arange(len(images)) if positions is None else positions
    parts = []
    for i in range(0, len(wanted), 256):
        batch = normalise(torch.from_numpy(np.ascontiguousarray(images[wanted[i : i + 256]])).to(device))
        parts.append(network(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
