"""How to train: everything that, with the data and the code, determines the weights."""

import os
from dataclasses import dataclass
from typing import Literal

from ml.settings import Settings

Augmentation = Literal["none", "light", "trivial"]
Mix = Literal["none", "mixup", "cutmix"]
Balance = Literal["none", "weights", "sampler", "focal"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Recipe:
    """The choices of one training.

    Attributes:
        patience: epochs without a better validation loss before stopping.
        batch_size: of all processes together.
        learning_rate: at its highest; layer groups have factors of it.
        flips: half the images are mirrored.
        threads: of PyTorch, a process.
        augmentation: `light` moves an image by up to a twelfth of its side; `trivial` is TrivialAugment
            (Müller & Hutter 2021) on top.
        mix: images and labels of a batch mixed with each other (Zhang et al. 2018, Yun et al. 2019).
        prior: how far answers follow the stored classes' shares: 1 wholly, 0 not at all, as if all were even.
        balance: what is done for rare classes: a weight in the loss, drawn more often, or the focal
            loss (Lin et al. 2017).
        warm_up: share of the steps in which the learning rate rises; then it falls as half a cosine.
        ema: decay of the running average of the weights that is judged and kept; 0: none.
        clip: most norm of the gradient; 0: unbounded.
        distillation: weight of staying with the teacher's answers (Li & Hoiem 2016); 0: none.
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


def of(
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
    """The settings' recipe for so many samples: fewer epochs for more or larger images, smaller batches for few.

    The cost of an image grows with its area, so a budget counts images at 32 px. The wall clock has
    no say: the same data, settings and seed give the same model on a busy machine.

    Half the cores, at most four, is the default of `threads`: the operations on small images last
    microseconds and all threads meet after each, so that with every core taken one busy neighbour
    made training 10 to 40 times slower, where on an idle machine a second thread gained next to nothing.

    A warm start has a budget of its own and needs about half the way: as good on the hard second drops
    tried, for half the time.
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
        threads=threads or settings.train_threads or max(1, min(4, (os.cpu_count() or 1) // 2)),
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
