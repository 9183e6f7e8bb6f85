"""Networks by name: the project's small CNN, for 24 to 96 pixels, grey or colour, and torchvision's backbones."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from ml.errors import IntegrityError, InvalidInputError
from ml.training.network import backbones

SMALL_CNN: Final = "small_cnn"
ARCHITECTURES: Final = (SMALL_CNN, *backbones.NAMES)
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
        self.rates: tuple[float, ...] = (1.0,)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of normalised ``float[N, channels, H, W]``."""
        features = self.features(images).flatten(1)
        logits: Tensor = self.head(self.dropout(features))
        return logits


def normalise(images: Tensor) -> Tensor:
    """``uint8[N, H, W, C]`` to ``float32[N, C, H, W]`` in −1…1. Part of the exported graph."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class ParameterGroup(NamedTuple):
    """Layers that learn at `factor` times the recipe's learning rate; frozen at 0."""

    name: str
    parameters: list[nn.Parameter]
    factor: float


def build(
    architecture: str, channels: int, classes: int, side: int, seed: int, rates: Sequence[float] = (1.0,)
) -> nn.Module:
    """A fresh network of a name, whose weights depend on nothing but the arguments.

    Args:
        rates: factors of the learning rate for the layers from the input on, the last for the head;
            the blocks before it are shared out evenly. A single one is for all.

    Raises:
        InvalidInputError: no such architecture, a side it cannot take, or more rates than blocks.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidInputError(
            f"`EVERGREEN_ARCHITECTURE` must be one of {', '.join(ARCHITECTURES)} (received {architecture!r})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = (
            SmallCNN(channels, classes, side)
            if architecture == SMALL_CNN
            else backbones.Backbone(architecture, channels, classes, side)
        )
    made.rates = tuple(rates)
    for group in groups(made):
        for parameter in group.parameters:
            parameter.requires_grad_(group.factor > 0)
    return made


def groups(network: nn.Module) -> list[ParameterGroup]:
    """The layer groups that a network was built with.

    Raises:
        InvalidInputError: there are more rates than blocks.
    """
    rates: tuple[float, ...] = getattr(network, "rates", (1.0,))
    named = dict(network.named_parameters())
    if len(rates) == 1:
        return [ParameterGroup("all", list(named.values()), rates[0])]
    *lower, top = rates
    blocks = list(backbones.blocks([name for name in named if not name.startswith("head.")]).items())
    if len(lower) > len(blocks):
        raise InvalidInputError(
            f"`EVERGREEN_LAYER_RATES` must have at most {len(blocks) + 1} rates here (received {len(rates)})"
        )
    made, done = [], 0
    for number, factor in enumerate(lower, 1):
        end = round(number * len(blocks) / len(lower))
        names = [name for _, members in blocks[done:end] for name in members]
        label = f"{blocks[done][0]} to {blocks[end - 1][0]}"
        made.append(ParameterGroup(label, [named[name] for name in names], factor))
        done = end
    return [*made, ParameterGroup("head", [p for name, p in named.items() if name.startswith("head.")], top)]


def carry_head(network: nn.Module, weights: Mapping[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]) -> None:
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
    network: nn.Module, weights: Mapping[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]
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


def seeded(channels: int, classes: int, side: int, seed: int) -> nn.Module:
    """A fresh small CNN."""
    return build(SMALL_CNN, channels, classes, side, seed)
