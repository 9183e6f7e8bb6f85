"""Returns to the system the freed memory that the C library holds on to; a no-op without glibc."""

import ctypes
from typing import Final

from serving.periodic import PeriodicThread

_PERIOD: Final = 10.0


class HeapTrimmer(PeriodicThread):
    """Periodically returns free memory to the system, such as after loading a model or a burst of large requests."""

    def __init__(self) -> None:
        super().__init__("heap-trimmer", _PERIOD)

    def tick(self) -> None:
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
