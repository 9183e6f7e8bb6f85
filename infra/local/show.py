"""The local stack for a person to look at: its start as it goes, its state as a table."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.local import stack
from infra.local.stack import PartStatus

_MARKS = {"healthy": ("●", "green"), "starting": ("◌", "yellow"), "failed": ("✗", "red"), "stopped": ("○", "dim")}


def start(folder: Path, console: Console) -> None:
    """Start the local stack, each part's state shown as it changes."""
    began = time.monotonic()
    states: dict[str, tuple[str, float]] = {}
    with Live(console=console, refresh_per_second=8) as live:

        def on_part(name: str, state: str) -> None:
            if states.get(name, ("", 0.0))[0] != "healthy":
                states[name] = (state, time.monotonic() - began)
            table = Table.grid(padding=(0, 2))
            for part, (told, seconds) in states.items():
                mark, style = _MARKS[told]
                table.add_row(Text(f"  {mark}", style), part, Text(told, style), Text(f"{seconds:.1f} s", "dim"))
            live.update(table)

        stack.up(folder, on_part)


def status(found: Sequence[PartStatus], console: Console) -> None:
    """Print a table of the parts, and their memory in all."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2))
    for name in ("", "part", "state", "address", "pid", "up", "memory"):
        table.add_column(name, justify="right" if name in ("pid", "up", "memory") else "left", no_wrap=True)
    total = 0
    for part in found:
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


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
