"""The project's small CNN, for 24 to 96 pixels, grey or colour."""

import torch
from torch import Tensor, nn

from ml.errors import IntegrityError

SMALL_CNN = "small_cnn"
_LARGE = 48
"""Side from which a network has four stages, so that its last sees about 6×6 places either way."""


class SmallCNN(nn.Module):
    """Conv–norm–ReLU blocks, halved between stages, averaged, one linear head. About 300 thousand weights.

    The first convolution halves the image: measured on digits, Fashion-MNIST and photos, a third to a
    fifth of the cost for at most one point of accuracy (docs/training.md).

    Args:
        channels: of the input image.
        classes: outputs of the head.
        side: of the input image, in pixels.
    """

    def __init__(self, channels: int, classes: int, side: int) -> None:
        super().__init__()
        first, *others = (32, 48, 64, 128) if side >= _LARGE else (32, 64, 128)
        layers = _block(channels, first, stride=2)
        width, edge = first, (side + 1) // 2
        for wide in others:
            layers += [nn.MaxPool2d(2), *_block(width, wide), *_block(wide, wide)]
            width, edge = wide, edge // 2
        # Not the adaptive kind: its gradient has another memory layout, on which ReLU's is ten times slower.
        self.features = nn.Sequential(*layers, nn.AvgPool2d(edge))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of normalised ``float[N, channels, H, W]``."""
        features = self.features(images).flatten(1)
        logits: Tensor = self.head(self.dropout(features))
        return logits


def normalise(images: Tensor) -> Tensor:
    """``uint8[N, H, W, C]`` to ``float32[N, C, H, W]`` in −1…1. Part of the exported graph."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def carry_head(network: SmallCNN, weights: dict[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Load a predecessor's weights; the head's rows go to their labels, labels that came keep fresh rows.

    Args:
        network: has a head for `new`.
        weights: the predecessor's state, with a head for `old`.

    Raises:
        IntegrityError: the weights are not those of such a network.
    """
    try:
        network.load_state_dict(_with_head(network, weights, old, new))
    except (KeyError, IndexError, RuntimeError) as error:
        raise IntegrityError(f"the predecessor's weights do not fit the network: {error}") from error


def _with_head(
    network: SmallCNN, weights: dict[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]
) -> dict[str, Tensor]:
    state = dict(weights)
    for name in ("head.weight", "head.bias"):
        fresh = network.state_dict()[name].clone()
        for position, label in enumerate(new):
            if label in old:
                fresh[position] = state[name][old.index(label)]
        state[name] = fresh
    return state


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def seeded(channels: int, classes: int, side: int, seed: int) -> SmallCNN:
    """A fresh network whose weights depend on nothing but the arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(channels, classes, side)
