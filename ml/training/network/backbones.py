"""torchvision classifiers with the interface of the training loop: −1…1 pixels in, logits out, separate head."""

import re
from collections.abc import Sequence
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn

from ml.errors import InvalidInputError
from ml.settings import Architecture

NAMES: Final[tuple[str, ...]] = tuple(name for name in get_args(Architecture) if name != "small_cnn")
VIT: Final = "vit_b_16"
PATCH: Final = 16
_WHOLE: Final = 224
"""Side that all were pretrained at; `vgg16` pools to 7×7, which divides only multiples of it evenly."""
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A torchvision network with its last linear layer replaced by `head`.

    Training and serving normalise to −1…1; ImageNet's mean and deviation are applied here, so that they are part
    of the exported graph. A grey image is repeated on all three input channels.

    Args:
        name: one of `NAMES`.
        channels: of the input image, 1 or 3.
        classes: outputs of the head.
        side: of the input image, in pixels.

    Raises:
        InvalidInputError: this network cannot take images of this side.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, channels: int, classes: int, side: int) -> None:
        from ml.training.network import vision

        super().__init__()
        check_side(name, side)
        options: dict[str, Any] = {"image_size": side} if name == VIT else {}
        self.body: nn.Module = vision.load().models.get_model(name, weights=None, **options)
        self.head = nn.Linear(_remove_head(self.body), classes)
        self.rates: tuple[float, ...] = (1.0,)
        mean, std = torch.tensor(_MEAN).view(1, 3, 1, 1), torch.tensor(_STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of ``float[N, channels, side, side]`` in −1…1."""
        colour = images.expand(-1, 3, -1, -1) if self.channels == 1 else images
        logits: Tensor = self.head(self.body(colour * self.scale + self.shift))
        return logits

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode as usual, but keep the statistics of frozen batch norms."""
        super().train(mode)
        for module in self.body.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and weight is not None and not weight.requires_grad:
                module.eval()
        return self


def sides(name: str) -> tuple[int, int, int]:
    """Least, most and step of the input's side, for choosing one by the data."""
    return (_WHOLE, _WHOLE, _WHOLE) if name in ("vgg16", VIT) else (64, _WHOLE, 32)


def check_side(name: str, side: int) -> None:
    step = _WHOLE if name == "vgg16" else PATCH if name == VIT else 1
    if side < 32 or side % step:
        rule = f"at least 32 and a multiple of {step}" if step > 1 else "at least 32"
        raise InvalidInputError(f"`EVERGREEN_IMAGE_SIZE` for {name} must be {rule} (received {side})")


def blocks(names: Sequence[str]) -> dict[str, list[str]]:
    """Parameter names by the block they belong to, from the input on: `layer1`, `features.3`, `encoder_layer_7` …"""
    result: dict[str, list[str]] = {}
    for name in names:
        # The first part of the path that ends in a digit numbers the block: true of all nine.
        block = re.match(r"(?:[^.]*[^.\d]\.)*?[^.]*\d(?=\.)", name)
        result.setdefault(block.group() if block else name.rpartition(".")[0], []).append(name)
    return result


def _remove_head(body: nn.Module) -> int:
    """Replace the last linear layer, the ImageNet head, by the identity; return its number of inputs."""
    path, last = [(n, m) for n, m in body.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, name = path.rpartition(".")
    setattr(body.get_submodule(parent), name, nn.Identity())
    return last.in_features
