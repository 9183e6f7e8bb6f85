"""What the parts of the local stack are doing now."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.local import layout
from infra.local.components import Component, all_parts
from infra.local.manager import Manager
from infra.local.startup import PATIENCE
from ml.errors import UnavailableError


@dataclass(frozen=True)
class ComponentStatus:
    """`state`: healthy, starting, running (for long, but not well), failed or stopped; memory in bytes."""

    name: str
    state: str
    address: str
    pid: int | None
    seconds_up: float | None
    memory: int | None


def status(home: Path) -> list[ComponentStatus]:
    """Every part as it is now."""
    here = layout.load(home)
    manager = Manager(here)
    parts = all_parts(here)
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: _status(manager, part), parts))


def as_json(found: Sequence[ComponentStatus]) -> list[dict[str, Any]]:
    return [asdict(part) for part in found]


def _status(manager: Manager, part: Component) -> ComponentStatus:
    try:
        told = manager.info(part.name)
    except UnavailableError:
        return ComponentStatus(part.name, "stopped", part.address, None, None, None)
    pid = told["pid"] or None
    seconds = float(told["now"] - told["start"]) if pid else None
    if told["statename"] in ("RUNNING", "STARTING"):
        late = seconds is not None and seconds > PATIENCE
        state = "healthy" if part.healthy() else "running" if late else "starting"
    else:
        state = "stopped" if told["statename"] in ("STOPPED", "STOPPING") else "failed"
    return ComponentStatus(part.name, state, part.address, pid, seconds, _memory(pid) if pid else None)


def _memory(pid: int) -> int | None:
    """Of the process and its descendants: proportional set size where the system tells it, else resident."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    return sum(_one_memory(member) for member in family)


def _one_memory(process: psutil.Process) -> int:
    try:
        told = process.memory_full_info()
        return int(getattr(told, "pss", told.rss))
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
