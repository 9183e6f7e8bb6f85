"""A small JPEG of an image that nobody trusts, made in a process of its own; its bytes are never handed on."""

import io
import os
import subprocess
import sys
from typing import Final

from ml.imaging import process_limits

_SIDE: Final = 160  # pixels of the longer side
_SECONDS: Final = 10.0  # of processor time
_WAIT: Final = 30.0  # seconds for the process in all: the machine may be busy


def make(data: bytes, max_bytes: int, max_pixels: int) -> bytes | None:
    """The encoded thumbnail, or None if the image cannot be decoded within the bounds.

    Args:
        data: the encoded image.
        max_bytes: a larger one is not tried.
        max_pixels: checked before any pixel is decoded.
    """
    if len(data) > max_bytes:
        return None
    command = [sys.executable, "-P", "-W", "ignore", "-m", "ml.imaging.thumbnails", str(max_bytes), str(max_pixels)]
    try:
        done = subprocess.run(
            command,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=process_limits.environment(),
            timeout=_WAIT,
            check=True,
            start_new_session=True,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout or None


def encode(data: bytes, max_bytes: int, max_pixels: int) -> bytes:
    """What the process does; raises ImageRejectedError. Tiny images are enlarged, their pixels kept apart."""
    from PIL import Image

    from ml.imaging import images

    image = images.open_image(data, images.Limits(max_bytes, max_pixels), draft_side=_SIDE)
    times = _SIDE // max(image.size)
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _main(max_bytes: int, max_pixels: int) -> None:
    process_limits.bind(process_limits.memory_for(max_pixels))
    process_limits.allow(_SECONDS)
    os.nice(10)  # people wait for predictions first
    sys.stdout.buffer.write(encode(sys.stdin.buffer.read(), max_bytes, max_pixels))


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
