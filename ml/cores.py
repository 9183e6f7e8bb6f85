"""How many processor cores this process may use: fewer than the machine has in a container or a Slurm job."""

import math
import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """The cores in the process's affinity mask, or in its control group's CPU quota if that is less; at least 1.

    `os.cpu_count` counts the machine's. More threads than cores are not just useless: those of oneDNN spin at
    barriers, and a training with eight threads on two cores took 20 to 40 times as long as with two.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, math.ceil(_quota() or affinity)))


def _quota() -> float | None:
    """Cores of the control group a container runs in, by `cpu.max` (version 2) or `cpu.cfs_*` (version 1)."""
    try:
        if (limits := _CGROUP / "cpu.max").exists():
            quota, period = limits.read_text().split()
        else:
            quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no control group, or "max": unlimited
        return None
