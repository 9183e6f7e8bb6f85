"""The training loop beside a naive one: the same network, data and augmentation, each in one process."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ml.settings import Settings
from ml.training.loop import recipe
from ml.training.loop.fit import evaluate, fit
from ml.training.loop.placement import SINGLE_PROCESS
from ml.training.loop.recipe import Recipe
from ml.training.network import networks, vision
from tests.bench.parts import stored
from tests.bench.parts.stream import pixels
from tests.bench.report import spread

IMAGES, JUDGES, SIDE, EPOCHS, RUNS = 6_000, 2_000, 32, 4, 2


def figures() -> dict[str, Any]:
    """Raises FileNotFoundError when the images are not there."""
    images, labels = pixels(stored.DATA, IMAGES + JUDGES)
    order = np.random.default_rng(0).permutation(len(labels))
    train, judge = order[JUDGES:], order[:JUDGES]
    readings: dict[str, list[tuple[float, float]]] = {"naive": [], "plain fp32": [], "ours": []}
    for seed in range(RUNS):
        chosen = recipe.from_settings(Settings(seed=seed), len(train), SIDE, 3, epochs=EPOCHS, threads=1)
        for name, learn in (("naive", _naive), ("plain fp32", _plain), ("ours", _ours)):
            started = time.process_time()
            network = learn(images[train], labels[train], chosen)
            speed = len(train) * EPOCHS / (time.process_time() - started)
            accuracy = evaluate(network, images[judge], labels[judge])["validation_accuracy"]
            readings[name].append((speed, accuracy))
    speeds = {name: np.asarray([s for s, _ in values]) for name, values in readings.items()}
    return {
        "times_naive": spread((speeds["ours"] / speeds["naive"]).tolist()),
        "times plain fp32 on tensors": spread((speeds["ours"] / speeds["plain fp32"]).tolist()),
        **{f"{name} loop: images a CPU second": spread(values.tolist()) for name, values in speeds.items()},
        **{f"{name} loop: accuracy": spread([a for _, a in values]) for name, values in readings.items()},
        "bf16_pays": float(SINGLE_PROCESS.bf16_pays()),
    }


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's own CIFAR-10: an image at a time, through PIL and transforms."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        vision.load()
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIDE, padding=SIDE // 12, padding_mode="edge"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def _naive(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: Recipe) -> nn.Module:
    """PyTorch's tutorial: a `DataLoader` in the process itself, fp32, the default layout."""
    loader = DataLoader(_Pictures(images, labels), chosen.batch_size, shuffle=True)
    return _learned(lambda: ((x, y) for x, y in loader), len(loader), chosen)


def _plain(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: Recipe) -> nn.Module:
    """All images as one normalised fp32 tensor, no augmentation: the network's own cost."""
    x, y = networks.normalise(torch.from_numpy(images)).contiguous(), torch.from_numpy(labels)
    steps = -(-len(y) // chosen.batch_size)

    def batches() -> Any:
        return ((x[part], y[part]) for part in torch.randperm(len(y)).split(chosen.batch_size))

    return _learned(batches, steps, chosen)


def _learned(batches: Any, steps: int, chosen: Recipe) -> nn.Module:
    torch.manual_seed(chosen.seed)
    network = networks.seeded(3, 10, SIDE, chosen.seed)
    optimizer = torch.optim.AdamW(network.parameters(), chosen.learning_rate, weight_decay=chosen.weight_decay)
    falling = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.learning_rate, total_steps=steps * chosen.epochs, pct_start=chosen.warm_up
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(chosen.threads)
    for _ in range(chosen.epochs):
        network.train()
        for x, y in batches():
            loss = functional.cross_entropy(network(x), y, label_smoothing=chosen.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    torch.set_num_threads(threads)
    return network


def _ours(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: Recipe) -> nn.Module:
    return fit(networks.seeded(3, 10, SIDE, chosen.seed), (images, labels), (images[:64], labels[:64]), chosen).network
