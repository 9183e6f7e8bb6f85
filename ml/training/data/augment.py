"""What is done to training images before the network sees them."""

import torch
from torch import Tensor

from ml.training.loop.recipe import Mix
from ml.training.network import vision

DRAWS = 3
"""Random numbers that `light` takes for an image."""


def light(images: Tensor, draws: Tensor, *, flips: bool) -> Tensor:
    """Every image moved by up to a twelfth of its side, edges repeated; with `flips`, half of them mirrored.

    Args:
        images: ``uint8[N, side, side, channels]``.
        draws: ``float32[N, DRAWS]`` in 0…1: an image's fate depends on its own row alone, however the
            batch is shared out.
    """
    count, side, _, channels = images.shape
    reach = max(1, side // 12)
    offsets = (draws[:, :2] * (2 * reach + 1)).long() - reach
    place = torch.arange(side, device=images.device)
    rows = (offsets[:, :1] + place).clamp_(0, side - 1)  # [N, side], as are the columns
    columns = (offsets[:, 1:] + place).clamp_(0, side - 1)
    if flips:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    # Whole rows first, then values within them: five times as fast as indexing pixels.
    rows += side * torch.arange(count, device=images.device)[:, None]
    moved = images.reshape(count * side, -1).index_select(0, rows.view(-1)).view(count, side, -1)
    values = columns[:, :, None] * channels + torch.arange(channels, device=images.device)
    return moved.gather(2, values.view(count, 1, -1).expand_as(moved)).view_as(images)


def trivial(images: Tensor) -> Tensor:
    """TrivialAugment of every image ``uint8[N, side, side, channels]``; draws from the global generator."""
    vision.load()
    from torchvision.transforms import v2

    transform = v2.TrivialAugmentWide()
    changed = [transform(image.permute(2, 0, 1)) for image in images]
    return torch.stack(changed).permute(0, 2, 3, 1)


def mixed(images: Tensor, labels: Tensor, classes: int, how: Mix) -> tuple[Tensor, Tensor]:
    """The batch mixed with itself.

    Args:
        images: ``float32[N, channels, side, side]``.
        labels: ``int64[N]``.

    Returns:
        Images, and labels: as they were for ``none``, else ``float32[N, classes]``, shares of classes.
    """
    if how == "none":
        return images, labels
    vision.load()
    from torchvision.transforms import v2

    mix = v2.MixUp(alpha=0.2, num_classes=classes) if how == "mixup" else v2.CutMix(num_classes=classes)
    changed: tuple[Tensor, Tensor] = mix(images, labels)
    return changed
