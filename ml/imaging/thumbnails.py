"""Makes a JPEG thumbnail of an untrusted image in a separate process; the original bytes are never passed on."""

import io
import os
import subprocess
import sys
from typing import Final

from ml.imaging import process_limits

_SIDE: Final = 160  # pixels of the longer side
_SECONDS: Final = 10.0  # of processor time
_WAIT: Final = 30.0  # seconds of wall-clock time for the whole process: the machine may be busy


def make(data: bytes, max_bytes: int, max_pixels: int) -> bytes | None:
    """The encoded thumbnail, or None if the image cannot be decoded within the limits.

    Args:
        data: the encoded image.
        max_bytes: a larger image is not decoded.
        max_pixels: checked before any pixel is decoded.
    """
    if len(data) > max_bytes:
        return None
    command = [sys.executable, "-P", "-W", "ignore", "-m", "ml.imaging.thumbnails", str(max_bytes), str(max_pixels)]
    try:
        process = subprocess.run(
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
    return process.stdout or None


def encode(data: bytes, max_bytes: int, max_pixels: int) -> bytes:
    """Runs in the separate process; raises ImageRejectedError. Tiny images are enlarged without smoothing."""
    from PIL import Image

    from ml.imaging import images

    image = images.open_image(data, images.Limits(max_bytes, max_pixels), draft_side=_SIDE)
    factor = _SIDE // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _main(max_bytes: int, max_pixels: int) -> None:
    process_limits.limit_memory(process_limits.memory_for(max_pixels))
    process_limits.limit_cpu_time(_SECONDS)
    os.nice(10)  # predictions have priority
    sys.stdout.buffer.write(encode(sys.stdin.buffer.read(), max_bytes, max_pixels))


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
