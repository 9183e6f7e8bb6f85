"""3×3 convolutions of small maps by Winograd's minimal filtering: in fp32, where the arithmetic is what costs.

Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks* (2016), with the whole map as the one tile. A map of
6×6 takes 64 multiplications a pair of channels where a direct convolution takes 324, most of them as products of large
matrices. Autograd derives the gradients. Measurements: docs/decisions/0026-training-without-bf16.md.
"""

from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_POINTS: Final[dict[int, tuple[float, ...]]] = {
    3: (0, 1, -1, 2),
    4: (0, 0.75, -0.75, 1.5, -1.5),
    5: (0, 0.5, -0.5, 1, -1, 2),
    6: (0, 0.5, -0.5, 1, -1, 2, -2),
    7: (0, 0.6, -0.6, 1, -1, 1.67, -1.67, 3),
    8: (0, 0.4, -0.4, 0.8, -0.8, 1.25, -1.25, 2.5, -2.5),
}
"""For a map's side, where the polynomials are evaluated, besides infinity.

The closer the points are, the more is lost to rounding: relative to the result 1e-6 at side 3 and 2e-5 at side 8, where
a direct convolution loses 4e-7 in fp32 and 3e-3 in bf16.
"""
_MOST_WEIGHTS: Final = 128 * 128
"""Pairs of channels up to which the transformed weights, up to 11 times as many as the plain ones, fit a cache."""


class SmallMapConv2d(nn.Conv2d):
    """A 3×3 convolution that uses Winograd filtering in training on small maps; otherwise like `Conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """``float32[N, outputs, side, side]`` of ``float32[N, inputs, side, side]``, channels last."""
        count, inputs, side, width = input.shape
        if not self.training or side != width or side not in _POINTS:
            return super().forward(input)
        places, outputs = side * side, self.out_channels
        spread, gathered, taps = _transforms(side)
        maps = input.permute(2, 3, 0, 1).reshape(places, count * inputs)
        weights = self.weight.permute(2, 3, 1, 0).reshape(9, inputs * outputs)
        products = torch.bmm((spread @ maps).view(-1, count, inputs), (taps @ weights).view(-1, inputs, outputs))
        flat = gathered @ products.view(-1, count * outputs)
        output = flat.view(side, side, count, outputs).permute(2, 3, 0, 1)
        if self.bias is not None:
            output = output + self.bias.view(1, -1, 1, 1)
        return output.contiguous(memory_format=torch.channels_last)


def convert(network: nn.Module) -> nn.Module:
    """Replace every eligible convolution in place; names and weights stay."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d):
            if _fits(child):
                setattr(network, name, _from_conv(child))
        else:
            convert(child)
    return network


def _fits(layer: nn.Conv2d) -> bool:
    return (
        type(layer) is nn.Conv2d
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        and layer.in_channels * layer.out_channels <= _MOST_WEIGHTS
    )


def _from_conv(layer: nn.Conv2d) -> SmallMapConv2d:
    replacement = SmallMapConv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=layer.bias is not None)
    replacement.weight, replacement.bias = layer.weight, layer.bias
    return replacement.train(layer.training)


@cache
def _transforms(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of maps, ``float32[P, side²]``, of products back to maps, ``[side², P]``, and of weights, ``[P, 9]``.

    P = (side + 2)² products a pair of channels.
    """
    size = side + 2
    results, taps, padded = (
        _evaluation_matrix(side, side),
        _evaluation_matrix(side, 3),
        np.linalg.inv(_evaluation_matrix(side, size)).T,
    )
    # Each point's three rows may be scaled as long as the product of the factors is 1: alike in size, they round best.
    norms = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (results, taps, padded)]
    mean = np.cbrt(norms[0] * norms[1] * norms[2])
    results, taps, padded = (rows * mean / norm for rows, norm in zip((results, taps, padded), norms, strict=True))
    maps = padded[:, 1:-1]  # the border is zeros
    return _both_ways(maps), _both_ways(results.T), _both_ways(taps)


def _evaluation_matrix(side: int, length: int) -> NDArray[np.float64]:
    """``[points, length]``: a polynomial's coefficients to its values at the points, at infinity the last one."""
    finite = np.vander(np.asarray(_POINTS[side]), length, increasing=True)
    return np.vstack([finite, np.eye(length)[-1:]])


def _both_ways(rows: NDArray[np.float64]) -> Tensor:
    """One transform for rows and columns of a flattened map."""
    return torch.from_numpy(np.kron(rows, rows)).float()
