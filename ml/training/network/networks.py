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
"""Side from which the network has four stages, so that the last stage works on about 6×6 positions."""


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
        first, *widths = (32, 48, 64, 128) if side >= _LARGE else (32, 64, 128)
        layers = _block(channels, first, stride=2)
        width, edge = first, (side + 1) // 2
        for wide in widths:
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
    """Layers trained with `factor` times the recipe's learning rate; 0 freezes them."""

    name: str
    parameters: list[nn.Parameter]
    factor: float


def build(
    architecture: str, channels: int, classes: int, side: int, seed: int, rates: Sequence[float] = (1.0,)
) -> nn.Module:
    """Build a network; its initial weights depend only on the arguments.

    Args:
        rates: factors of the learning rate for the layers from the input on, the last for the head;
            the blocks before it are distributed evenly. A single factor applies to all layers.

    Raises:
        InvalidInputError: no such architecture, a side it cannot take, or more rates than blocks.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidInputError(
            f"`EVERGREEN_ARCHITECTURE` must be one of {', '.join(ARCHITECTURES)} (received {architecture!r})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = (
            SmallCNN(channels, classes, side)
            if architecture == SMALL_CNN
            else backbones.Backbone(architecture, channels, classes, side)
        )
    network.rates = tuple(rates)
    for group in groups(network):
        for parameter in group.parameters:
            parameter.requires_grad_(group.factor > 0)
    return network


def groups(network: nn.Module) -> list[ParameterGroup]:
    """The layer groups that a network was built with.

    Raises:
        InvalidInputError: there are more rates than blocks.
    """
    rates: tuple[float, ...] = getattr(network, "rates", (1.0,))
    parameters = dict(network.named_parameters())
    if len(rates) == 1:
        return [ParameterGroup("all", list(parameters.values()), rates[0])]
    *lower, top = rates
    blocks = list(backbones.blocks([name for name in parameters if not name.startswith("head.")]).items())
    if len(lower) > len(blocks):
        raise InvalidInputError(
            f"`EVERGREEN_LAYER_RATES` must have at most {len(blocks) + 1} rates here (received {len(rates)})"
        )
    result, start = [], 0
    for number, factor in enumerate(lower, 1):
        end = round(number * len(blocks) / len(lower))
        names = [name for _, members in blocks[start:end] for name in members]
        label = f"{blocks[start][0]} to {blocks[end - 1][0]}"
        result.append(ParameterGroup(label, [parameters[name] for name in names], factor))
        start = end
    return [*result, ParameterGroup("head", [p for name, p in parameters.items() if name.startswith("head.")], top)]


def carry_head(network: nn.Module, weights: Mapping[str, Tensor], old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Load a predecessor's weights; the head's rows are matched by label, new labels keep their initial rows.

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
    """A small CNN with initial weights from `seed`."""
    return build(SMALL_CNN, channels, classes, side, seed)
