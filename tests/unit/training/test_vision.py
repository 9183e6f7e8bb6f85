"""torchvision can be imported beside whatever build of torch is installed."""

import torch

from ml.training.network import vision


def test_backbones_and_transforms_work() -> None:
    torchvision = vision.load()
    network = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    from torchvision.transforms import v2

    assert v2.functional.horizontal_flip(torch.tensor([[[1, 2]]])).tolist() == [[[2, 1]]]
    assert vision.load() is torchvision
