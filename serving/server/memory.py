"""What the C library keeps of freed memory, bounded: glibc only, elsewhere nothing happens."""

import ctypes
from typing import Final

from serving.periodic import PeriodicThread

_M_ARENA_MAX: Final = -8  # malloc.h
_ARENAS: Final = 2
_PERIOD: Final = 10.0


def bound() -> None:
    """Few heaps for all threads, before there are any; by default each gets one of its own, which never shrinks."""
    if mallopt := _function("mallopt"):
        mallopt(_M_ARENA_MAX, _ARENAS)


class HeapTrimmer(PeriodicThread):
    """Gives back now and then what is free: what loading a model needed, or a crowd of large requests."""

    def __init__(self) -> None:
        super().__init__("heap-trimmer", _PERIOD)

    def tick(self) -> None:
        if trim := _function("malloc_trim"):
            trim(0)


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    found: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    return found
