"""Imports torchvision with any build of torch. Only backbones need it, the small CNN does not."""

from types import ModuleType
from typing import Any, Final

import torch

_OPERATORS: Final = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # keeps the library alive: garbage collection would remove its operators


def load() -> ModuleType:
    """The torchvision package, with `models` and `transforms.v2` usable.

    A torchvision wheel made for CUDA cannot load its C++ extension beside a CPU build of torch, and
    then its import fails: it registers a shape rule for operators that only the extension declares.
    Declaring them beforehand lets the import through. The operators themselves
    (`torchvision.ops.nms`, `torchvision.io.decode_image`) stay unusable there and are not used: there are no boxes, and
    `ml.imaging.images` decodes the images.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        _declare_missing()
        import torchvision
    module: ModuleType = torchvision
    return module


def _declare_missing() -> None:
    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    for name, signature in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + signature)
    _declared.append(library)
