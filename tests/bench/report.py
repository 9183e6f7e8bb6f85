"""Tables for a person, from the JSON that benchmarks write."""

import math
import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ml.models import cpu


def machine() -> str:
    """Which processor and system the figures were taken on, and what limits the libraries there."""
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = match.group(1) if match else platform.processor()
    return f"{os.cpu_count()} cores, {processor} ({cpu.describe()}), Python {platform.python_version()}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of repeated readings."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


@dataclass(frozen=True)
class Bar:
    """What a figure's median should reach: at least, or at most, `value`."""

    relation: Literal["at least", "at most"]
    value: float

    def verdict(self, median: float) -> str:
        met = median >= self.value if self.relation == "at least" else median <= self.value
        return f"{self.relation} {self.value:g}: {'met' if met else '**missed**'}"


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The least of these values that so many percent do not exceed; NaN of none."""
    if not ascending:
        return math.nan
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]


def table(result: dict[str, Any]) -> str:
    """`result["figures"]` (name → spread or number) as a Markdown table, with `result["bars"]` (name → `Bar`)."""
    bars: dict[str, Bar] = result.get("bars", {})
    lines = ["| figure | median | min | max |", "| --- | ---: | ---: | ---: |"]
    if bars:
        lines = [f"{lines[0]} bar |", f"{lines[1]} --- |"]
    for name, figure in result["figures"].items():
        row = figure if isinstance(figure, dict) else {"median": figure, "min": figure, "max": figure}
        verdict = f" {bars[name].verdict(row['median']) if name in bars else ''} |" if bars else ""
        lines.append(f"| {name} | {row['median']:g} | {row['min']:g} | {row['max']:g} |{verdict}")
    return "\n".join([*lines, *(f"\nLeft out here: {reason}" for reason in result.get("left_out", ()))])


def refresh(name: str, result: dict[str, Any], page: Path) -> None:
    """Replace the section `name` of the page, or add it at the end."""
    heading = f"## {name}\n"
    plots = "".join(f"![{plot}]({plot})\n\n" for plot in result.get("plots", ()))
    section = (
        f"{heading}\n{(result['doc'] or '').strip()}\n\n{table(result)}\n\n{plots}"
        f"{datetime.now(UTC):%Y-%m-%d}, {result['runs']} runs, {result['machine']}.\n"
    )
    text = page.read_text() if page.exists() else "# Benchmarks\n\nMade by `make bench NAME=…`; do not edit by hand.\n"
    before, separator, after = text.partition(heading)
    if separator:
        _, next_heading, rest = after.partition("\n## ")
        text = before + section + (f"{next_heading}{rest}" if next_heading else "")
    else:
        text = f"{text.rstrip()}\n\n{section}"
    page.write_text(text)
