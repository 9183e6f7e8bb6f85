"""Synchronised batch norm for CPUs; PyTorch's SyncBatchNorm supports GPUs only."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm(nn.BatchNorm2d):
    """In training, mean and variance over the images of all processes; otherwise like `BatchNorm2d`."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        values = images.float()
        count = torch.tensor([float(values.numel() // values.shape[1])])
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        total: Tensor = all_reduce(sums, group=distributed.group.WORLD)
        mean, square = (total[:-1] / total[-1]).chunk(2)
        variance = square - mean.square()
        self._remember(mean.detach(), variance.detach(), float(total[-1].detach()))
        shaped = (1, -1, 1, 1)
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(shaped)
        normalised: Tensor = (values - mean.view(shaped)) * scale + self.bias.view(shaped)
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        share = self.momentum
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None or share is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / max(1.0, count - 1), share)


def convert(network: nn.Module) -> nn.Module:
    """Replace every 2-d batch norm in place; names, weights and statistics stay."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            shared.requires_grad_(child.weight.requires_grad)
            setattr(network, name, shared)
        else:
            convert(child)
    return network
