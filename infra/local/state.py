"""The status of the local stack's parts."""

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
    """The current status of every part."""
    stack_layout = layout.load(home)
    manager = Manager(stack_layout)
    parts = all_parts(stack_layout)
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: _status(manager, part), parts))


def as_json(statuses: Sequence[ComponentStatus]) -> list[dict[str, Any]]:
    return [asdict(part) for part in statuses]


def _status(manager: Manager, part: Component) -> ComponentStatus:
    try:
        info = manager.info(part.name)
    except UnavailableError:
        return ComponentStatus(part.name, "stopped", part.address, None, None, None)
    pid = info["pid"] or None
    seconds = float(info["now"] - info["start"]) if pid else None
    if info["statename"] in ("RUNNING", "STARTING"):
        late = seconds is not None and seconds > PATIENCE
        state = "healthy" if part.healthy() else "running" if late else "starting"
    else:
        state = "stopped" if info["statename"] in ("STOPPED", "STOPPING") else "failed"
    return ComponentStatus(part.name, state, part.address, pid, seconds, _memory(pid) if pid else None)


def _memory(pid: int) -> int | None:
    """Bytes of the process and its descendants: proportional set size where available, else resident."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    return sum(_one_memory(member) for member in family)


def _one_memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
