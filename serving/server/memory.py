"""Limits the freed memory that the C library holds on to; a no-op without glibc."""

import ctypes
from typing import Final

from serving.periodic import PeriodicThread

_M_ARENA_MAX: Final = -8  # malloc.h
_ARENAS: Final = 2
_PERIOD: Final = 10.0


def limit_arenas() -> None:
    """Let all threads share a few heaps; call it before they start. By default each has one, which never shrinks."""
    if mallopt := _libc_function("mallopt"):
        mallopt(_M_ARENA_MAX, _ARENAS)


class HeapTrimmer(PeriodicThread):
    """Periodically returns free memory to the system, such as after loading a model or a burst of large requests."""

    def __init__(self) -> None:
        super().__init__("heap-trimmer", _PERIOD)

    def tick(self) -> None:
        if trim := _libc_function("malloc_trim"):
            trim(0)


def _libc_function(name: str) -> "ctypes._NamedFuncPointer | None":
    function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    return function
