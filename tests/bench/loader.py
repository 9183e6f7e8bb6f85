"""The loader keeps up with the loop, and the loop is fast: CIFAR-10 at 32 pixels, one process, one thread.

`share_of_memory_speed`: training throughput from the segment cache over that of the same loop on arrays in
memory, an epoch each in turns. A second cycle over the same segments reads no object of them and decodes nothing.

`times_naive`: the loop's images a second of processor time over those of PyTorch's tutorial loop (a `DataLoader`
with torchvision's transforms on PIL images in the process itself, fp32, default layout), same network, augmentation,
optimizer, schedule, batch size and epochs. The plain fp32 loop has all images as one tensor in memory and no
augmentation: what layout and bf16 alone are worth.
"""

from typing import Any

from tests.bench.parts import loader, loop


def run() -> dict[str, Any]:
    """Figures of both parts."""
    try:
        return {"runs": loader.PAIRS, "figures": loader.figures() | loop.figures()}
    except FileNotFoundError as error:
        raise SystemExit(f"nothing to measure: {error}") from None
