"""Explains a prediction by occlusion sensitivity, drawn over the image.

A grey square slides over the model's input; where covering a region lowers the label's probability, the model used
that region (Zeiler & Fergus, Visualizing and understanding convolutional networks, ECCV 2014). Only predictions are
needed: any network, any runtime, no gradient.

`python -m ml.models.occlusion` runs it in a separate low-priority process.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ml.errors import ImageRejectedError
from ml.imaging import images, process_limits
from ml.imaging.images import Limits, Pixels

if TYPE_CHECKING:
    from ml.models.bundle import Variant

GRID: Final = 12
"""Positions of the square along a side."""
_COVER: Final = 2.0 / GRID  # of the side
_BATCH: Final = 16
_SHOWN: Final = 448  # pixels of the picture's side
_LEAST: Final = 1e-6
_WAIT: Final = 60.0
_NICE: Final = 15
_REJECTED: Final = 3

Predict = Callable[[Pixels], NDArray[np.float32]]


def sensitivity(predict: Predict, pixels: Pixels, label: int) -> NDArray[np.float32]:
    """Compute how much the label's log-probability drops where the image is covered.

    Args:
        predict: probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``.
        pixels: the model's input, ``uint8[size, size, channels]``.
        label: the index of the class.

    Returns:
        ``float32[GRID, GRID]``, the drop of the log-probability for each position of the square, 0 where it
        does not drop.
    """
    size = pixels.shape[0]
    side = max(1, round(size * _COVER))
    starts = np.linspace(0, size - side, GRID).round().astype(int)
    # [GRID * GRID, size, size, channels]: the input with one square of its mean colour each.
    covered = np.repeat(pixels[np.newaxis], GRID * GRID, axis=0)
    grey = pixels.mean(axis=(0, 1)).astype(np.uint8)
    for number, (y, x) in enumerate((y, x) for y in starts for x in starts):
        covered[number, y : y + side, x : x + side] = grey
    baseline = np.log(predict(pixels[np.newaxis])[0, label] + _LEAST)
    covered_probabilities = np.concatenate(
        [predict(covered[n : n + _BATCH])[:, label] for n in range(0, len(covered), _BATCH)]
    )
    drops = baseline - np.log(covered_probabilities + _LEAST)
    heatmap: NDArray[np.float32] = np.maximum(drops, 0).reshape(GRID, GRID).astype(np.float32)
    return heatmap


def overlay(image: Image.Image, heatmap: NDArray[np.float32]) -> bytes:
    """A PNG of the model's image crop: grey where nothing supports the label, red where most does."""
    base = ImageOps.fit(image.convert("RGB"), (_SHOWN, _SHOWN), Image.Resampling.BICUBIC)
    scaled = heatmap / heatmap.max() if heatmap.max() > 0 else heatmap
    mask = Image.fromarray((scaled * 255).astype(np.uint8)).resize(base.size, Image.Resampling.BICUBIC)
    strength = np.asarray(mask, np.float32)[..., np.newaxis] / 255
    colour = np.asarray(base, np.float32)
    grey = colour.mean(axis=2, keepdims=True).repeat(3, axis=2)
    red = np.array([255, 40, 0], np.float32)
    blended = (1 - strength) * (0.35 * colour + 0.65 * grey) + strength * (0.55 * colour + 0.45 * red)
    buffer = io.BytesIO()
    Image.fromarray(blended.round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def explain(folder: Path, by: tuple[str, str], data: bytes, label: str, limits: Limits) -> bytes:
    """Render the overlay for an encoded image and a label of the bundle in `folder`, in a separate process.

    Args:
        by: variant and runtime that made the prediction.

    Raises:
        ImageRejectedError: the image cannot be decoded, or the time limit is exceeded.
    """
    arguments = [str(folder), *by, label, str(limits.max_bytes), str(limits.max_pixels)]
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-m", "ml.models.occlusion", *arguments],
            input=data,
            capture_output=True,
            env=process_limits.environment() | {"OMP_NUM_THREADS": "1"},
            timeout=_WAIT,
            check=True,
            start_new_session=True,
        )
    except subprocess.CalledProcessError as error:
        if error.returncode == _REJECTED:
            raise ImageRejectedError(**json.loads(error.stdout)) from error
        raise ImageRejectedError("not_explained", "the picture could not be made") from error
    except subprocess.TimeoutExpired as error:
        raise ImageRejectedError("not_explained", f"the picture was not made within {_WAIT:g} s") from error
    return process.stdout


def _main(folder: str, variant: str, runtime: str, label: str, max_bytes: str, max_pixels: str) -> int:
    os.nice(_NICE)  # predictions have priority
    process_limits.limit_cpu_time(_WAIT)
    from ml.models import model

    loaded = model.load(Path(folder), variant=cast("Variant", variant), runtime=runtime)
    info = loaded.info
    try:
        image = images.open_image(sys.stdin.buffer.read(), Limits(int(max_bytes), int(max_pixels)))
        pixels = images.to_array(image, info.image_size, info.channels)
    except ImageRejectedError as error:
        sys.stdout.write(json.dumps({"code": error.code, "message": str(error)}))
        return _REJECTED
    heatmap = sensitivity(loaded.predict, pixels, info.labels.index(label))
    sys.stdout.buffer.write(overlay(image, heatmap))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
