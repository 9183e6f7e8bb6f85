"""The training recipe: every hyperparameter that, with data and code, determines the weights."""

from dataclasses import dataclass
from typing import Literal

from ml.cores import available_cores
from ml.settings import Settings

Augmentation = Literal["none", "light", "trivial"]
Mix = Literal["none", "mixup", "cutmix"]
Balance = Literal["none", "weights", "sampler", "focal"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one training.

    Attributes:
        patience: epochs without a better validation loss before stopping.
        batch_size: over all processes.
        learning_rate: the maximum; layer groups multiply it by their factor.
        flips: mirror half of the images.
        threads: PyTorch threads per process.
        augmentation: `light` shifts an image by up to a twelfth of its side; `trivial` adds TrivialAugment
            (Müller & Hutter 2021).
        mix: images and labels of a batch mixed with each other (Zhang et al. 2018, Yun et al. 2019).
        prior: how far predictions follow the class shares of the store: 1 fully, 0 as if all classes were equal.
        balance: handling of rare classes: class weights in the loss, oversampling, or the focal loss
            (Lin et al. 2017).
        warm_up: share of the steps with a rising learning rate; a cosine decay follows.
        ema: decay of the moving average of the weights, which is evaluated and kept; 0: none.
        clip: maximum gradient norm; 0: unbounded.
        distillation: weight of the distillation loss (Li & Hoiem 2016); 0: none.
        compile: `torch.compile`; pays on long trainings of large networks only.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int
    flips: bool = False
    threads: int = 1
    augmentation: Augmentation = "light"
    mix: Mix = "none"
    label_smoothing: float = 0.05
    prior: float = 0.25
    balance: Balance = "none"
    optimizer: Optimizer = "adamw"
    weight_decay: float = 1e-2
    warm_up: float = 0.05
    ema: float = 0.0
    clip: float = 1.0
    distillation: float = 0.0
    compile: bool = False


def from_settings(
    settings: Settings,
    samples: int,
    side: int,
    channels: int,
    *,
    warm: bool = False,
    epochs: int | None = None,
    budget: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
) -> Recipe:
    """The recipe of the settings for a number of samples: more or larger images get fewer epochs, few smaller batches.

    The cost of an image grows with its area, so a budget counts images at 32 px. It never depends on time, so
    the same data, settings and seed give the same model on a busy machine.

    `threads` defaults to half the cores it may use, at most four: operations on small images take microseconds and all
    threads synchronise after each, so that with every core in use one other busy process made training 10 to 40
    times slower, while on an idle machine a second thread gained next to nothing.

    A warm start has a separate budget and half the epochs: as accurate on the hard second drops tried, in half the
    time.
    """
    budget = budget or (settings.refresh_budget if warm else settings.train_budget)
    most = epochs or (max(1, settings.epochs // 2) if warm else settings.epochs)
    affordable = int(budget / max(1, samples) / (side / 32) ** 2)
    return Recipe(
        epochs=min(most, max(2 if warm else 4, affordable)),
        patience=settings.patience,
        batch_size=min(settings.batch_size, max(16, samples // 12)),
        learning_rate=settings.learning_rate * (settings.refresh_rate if warm else 1),
        seed=settings.seed if seed is None else seed,
        flips=channels == 3 if settings.flips is None else settings.flips,
        threads=threads or settings.train_threads or max(1, min(4, available_cores() // 2)),
        augmentation=settings.augmentation,
        mix=settings.mix,
        label_smoothing=settings.label_smoothing,
        prior=settings.prior,
        balance=settings.balance,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        warm_up=settings.warm_up,
        ema=settings.ema,
        clip=settings.clip,
        distillation=settings.distillation,
        compile=settings.compile,
    )
