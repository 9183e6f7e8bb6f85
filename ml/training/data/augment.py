"""Augmentation of training batches."""

import torch
from torch import Tensor

from ml.training.loop.recipe import Mix
from ml.training.network import vision

DRAWS = 3
"""Random numbers per image that `light` uses."""


def light(images: Tensor, draws: Tensor, *, flips: bool) -> Tensor:
    """Shift every image by up to a twelfth of its side, repeating edges; with `flips`, mirror half of them.

    Args:
        images: ``uint8[N, side, side, channels]``.
        draws: ``float32[N, DRAWS]`` in 0…1, a row per image, so that the result does not depend on how the batch
            is sharded.
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
    shifted_rows = images.reshape(count * side, -1).index_select(0, rows.view(-1)).view(count, side, -1)
    values = columns[:, :, None] * channels + torch.arange(channels, device=images.device)
    return shifted_rows.gather(2, values.view(count, 1, -1).expand_as(shifted_rows)).view_as(images)


def trivial(images: Tensor) -> Tensor:
    """Apply TrivialAugment to images ``uint8[N, side, side, channels]``, using the global random generator."""
    vision.load()
    from torchvision.transforms import v2

    transform = v2.TrivialAugmentWide()
    changed = [transform(image.permute(2, 0, 1)) for image in images]
    return torch.stack(changed).permute(0, 2, 3, 1)


def mix_batch(images: Tensor, labels: Tensor, classes: int, how: Mix) -> tuple[Tensor, Tensor]:
    """Mix the images and labels of a batch with each other (MixUp or CutMix).

    Args:
        images: ``float32[N, channels, side, side]``.
        labels: ``int64[N]``.

    Returns:
        Images and labels: unchanged for ``none``, otherwise labels are class shares ``float32[N, classes]``.
    """
    if how == "none":
        return images, labels
    vision.load()
    from torchvision.transforms import v2

    mix = v2.MixUp(alpha=0.2, num_classes=classes) if how == "mixup" else v2.CutMix(num_classes=classes)
    changed: tuple[Tensor, Tensor] = mix(images, labels)
    return changed
