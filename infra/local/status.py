"""The status of the local stack's parts: read, as JSON, as a table, and as it changes during a start."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from infra.local import layout
from infra.local.components import Component, all_parts
from infra.local.manager import Manager
from infra.local.startup import PATIENCE
from ml.errors import UnavailableError

_MARKS = {
    "healthy": ("●", "green"),
    "done": ("●", "green"),
    "starting": ("◌", "yellow"),
    "waiting": ("◌", "yellow"),
    "running": ("◌", "yellow"),
    "failed": ("✗", "red"),
    "stopped": ("○", "dim"),
}


@dataclass(frozen=True)
class ComponentStatus:
    """`state`: healthy, starting, running (for long, but not well), failed or stopped; memory in bytes."""

    name: str
    state: str
    address: str
    pid: int | None
    seconds_up: float | None
    memory: int | None


def read(home: Path) -> list[ComponentStatus]:
    """The current status of every part."""
    stack_layout = layout.load(home)
    manager = Manager(stack_layout)
    parts = all_parts(stack_layout)
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: _read_part(manager, part), parts))


def as_json(statuses: Sequence[ComponentStatus]) -> list[dict[str, Any]]:
    return [asdict(part) for part in statuses]


@dataclass
class _Progress:
    """The state of each part and the seconds since its start, rendered anew at each refresh."""

    console: Console
    _started_at: dict[str, float] = field(default_factory=dict)
    _states: dict[str, tuple[str, float]] = field(default_factory=dict)
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="yellow"))

    def update(self, name: str, state: str) -> None:
        now = time.monotonic()
        began = self._started_at.setdefault(name, now)
        self._states[name] = (state, now - began)
        if not self.console.is_terminal and state != "starting":
            mark, style = _MARKS[state]
            self.console.print(Text(f"  {mark} ", style), f"{name} {state}, {now - began:.1f} s", sep="")

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, (state, seconds) in self._states.items():
            mark, style = _MARKS[state]
            going = state in ("starting", "waiting")
            shown = time.monotonic() - self._started_at[name] if going else seconds
            first = self._spinner if going else Text(mark, style)
            table.add_row("", first, name, Text(state, style), Text(f"{shown:.1f} s", "dim"))
        return table


def start(folder: Path, console: Console, *, only: Sequence[str] = (), ports: Mapping[str, int] | None = None) -> None:
    """Start the local stack, each part's state shown as it changes; as `stack.up`."""
    from infra.local import stack  # imports SQLAlchemy, which a status does not need

    began = time.monotonic()
    progress = _Progress(console)
    if console.is_terminal:
        with Live(progress, console=console, refresh_per_second=8):
            stack.up(folder, progress.update, only=only, ports=ports)
    else:
        stack.up(folder, progress.update, only=only, ports=ports)
    console.print(f"  the stack is up after {time.monotonic() - began:.0f} s", highlight=False)
    if warning := layout.low_disk_warning(folder):
        console.print(f"  {warning}", style="yellow", highlight=False)


def show(parts: Sequence[ComponentStatus], console: Console) -> None:
    """Print a table of the parts, and their memory in all; it fits 80 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in ("", "part", "state", "address", "pid", "up", "memory"):
        table.add_column(name, justify="right" if name in ("pid", "up", "memory") else "left", no_wrap=True)
    total = 0
    for part in parts:
        mark, style = _MARKS[part.state]
        total += part.memory or 0
        table.add_row(
            Text(f" {mark}", style),
            part.name,
            Text(part.state, style),
            part.address,
            str(part.pid or "–"),
            _duration(part.seconds_up),
            f"{part.memory / 1e6:.0f} MB" if part.memory else "–",
        )
    table.add_row("", "", "", "", "", "", f"{total / 1e6:.0f} MB", style="dim")
    console.print(table)


def warn_keyless(folder: Path, console: Console) -> None:
    """Warn if the service needs no API key from this machine."""
    if layout.load(folder).settings().api_keys == "loopback":
        warning = "  The service needs no API key from this machine: every program and user on it may operate it."
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02} m" if hours else f"{rest // 60} m {rest % 60:02} s"


def _read_part(manager: Manager, part: Component) -> ComponentStatus:
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
    return sum(_process_memory(member) for member in family)


def _process_memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
