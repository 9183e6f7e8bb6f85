"""Limits of a process that decodes untrusted images: no credentials, bounded memory and processor time."""

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Final

_MEMORY: Final = (768_000_000, 32)  # bytes for the process itself, and for each pixel of the largest image
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")


def memory_for(max_pixels: int) -> int:
    """Bytes of memory that suffice for the largest image."""
    return _MEMORY[0] + _MEMORY[1] * max_pixels


def environment() -> dict[str, str]:
    """Environment variables of such a process; credentials are left out."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Memory reserved for each thread would count against the limit without being used.
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def limit_memory(memory: int) -> None:
    """Limit this process to `memory` bytes, and forbid it core dumps and written files."""
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one process already runs per core
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not every system supports every limit
            resource.setrlimit(kind, (limit, limit))


def limit_cpu_time(seconds: float) -> None:
    """Kill this process after `seconds` of processor time from now, even in the middle of C code; 0 lifts the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
