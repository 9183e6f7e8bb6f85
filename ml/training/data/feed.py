"""Batches for the loop, each read while the one before it is computed with."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.datasets.loader import Images
from ml.imaging.images import Pixels
from ml.training.data.order import Positions
from ml.training.loop.placement import Placement

Labels = NDArray[np.int64]
Pictures = Pixels | Images
Progress = Callable[[int, int, dict[str, float]], None]


def batches(
    samples: tuple[Pictures, Labels], wanted: Sequence[Positions], place: Placement
) -> Iterator[tuple[Positions, Tensor, Tensor]]:
    """For each of `wanted`, the positions of the whole batch, and this process's images and labels of it.

    A memory map's pages may be cold; one thread touches those of the next batch ahead of time.
    """
    images, labels = samples

    def read(chosen: Positions) -> tuple[Positions, Tensor, Tensor]:
        mine = chosen[place.mine]
        pixels, answers = torch.from_numpy(np.ascontiguousarray(images[mine])), torch.from_numpy(labels[mine])
        return chosen, pixels.to(place.device), answers.to(place.device)

    if not wanted:
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, wanted[0])
        for following in wanted[1:]:
            ready, ahead = ahead.result(), pool.submit(read, following)
            yield ready
        yield ahead.result()
