"""Bounds of a process that decodes what nobody trusts: no credentials, little memory, little time."""

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Final

_MEMORY: Final = (768_000_000, 32)  # bytes for the process itself, and for each pixel of the largest image
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")


def memory_for(max_pixels: int) -> int:
    """Bytes that are enough for the largest image."""
    return _MEMORY[0] + _MEMORY[1] * max_pixels


def environment() -> dict[str, str]:
    """The little that such a process is told; what it must not know is left out."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        # What reserves memory for each thread would reach the bound with nothing in it.
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def bind(memory: int) -> None:
    """Bound this process: `memory` in bytes, no core file, no file written."""
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process a core already
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # systems differ in what they let be bound
            resource.setrlimit(kind, (most, most))


def allow(seconds: float) -> None:
    """End this process after so much processor time from now, even in the middle of C code; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
