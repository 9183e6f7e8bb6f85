"""Batches for the training loop, each prefetched while the previous one is being computed."""

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
ImageArray = Pixels | Images
Progress = Callable[[int, int, dict[str, float]], None]


def batches(
    samples: tuple[ImageArray, Labels], batch_positions: Sequence[Positions], place: Placement
) -> Iterator[tuple[Positions, Tensor, Tensor]]:
    """For each batch, yield the positions of the whole batch and this process's shard of its images and labels.

    One thread prefetches the next batch, since pages of the memory map may have to be read from disk.
    """
    images, labels = samples

    def read(positions: Positions) -> tuple[Positions, Tensor, Tensor]:
        shard = positions[place.shard]
        pixels, targets = torch.from_numpy(np.ascontiguousarray(images[shard])), torch.from_numpy(labels[shard])
        return positions, pixels.to(place.device), targets.to(place.device)

    if not batch_positions:
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, batch_positions[0])
        for positions in batch_positions[1:]:
            ready, ahead = ahead.result(), pool.submit(read, positions)
            yield ready
        yield ahead.result()
