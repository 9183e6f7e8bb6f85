"""The project's small CNN, for 24 to 96 pixels, grey or colour."""

import torch
from torch import Tensor, nn

SMALL_CNN = "small_cnn"
_WIDTHS = (32, 64, 128)


class SmallCNN(nn.Module):
    """Conv–norm–ReLU blocks, halved between widths, averaged, one linear head. About 290 thousand weights.

    Args:
        channels: of the input image.
        classes: outputs of the head.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = channels
        for i, wide in enumerate(_WIDTHS):
            blocks += _block(width, wide) + _block(wide, wide)
            blocks.append(nn.MaxPool2d(2) if i < len(_WIDTHS) - 1 else nn.AdaptiveAvgPool2d(1))
            width = wide
        self.features = nn.Sequential(*blocks)
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
    """
    state = dict(weights)
    for name in ("head.weight", "head.bias"):
        fresh = network.state_dict()[name].clone()
        for position, label in enumerate(new):
            if label in old:
                fresh[position] = state[name][old.index(label)]
        state[name] = fresh
    network.load_state_dict(state)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def seeded(channels: int, classes: int, seed: int) -> SmallCNN:
    """A fresh network whose weights depend on nothing but the arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(channels, classes)
