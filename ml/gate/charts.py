"""SVG plots for the report: no scripts, colours from CSS classes; the page repeats every number as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

Scale = tuple[float, float]
"""The shares at the left and right end of a plot."""

_SIDES: Final = ("champion", "challenger")
_FULL: Final = 680


def scale(values: Sequence[float]) -> Scale:
    """Axis ends at multiples of 5 %, at least 20 % apart, so that differences are visible but not magnified."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    left = min(math.floor(low * 20) / 20, 0.8)
    right = min(1.0, max(math.ceil(high * 20) / 20, left + 0.2))
    return left, right


def intervals(rows: Sequence[tuple[str, str, float, Sequence[float]]]) -> Markup:
    """A dot with its interval for each model.

    Args:
        rows: side (champion or challenger), label, accuracy, ends of the interval.
    """
    ends = scale([value for *_, interval in rows for value in interval])
    plot = _Track(150, 500, ends)
    parts = [plot.axis(30 * len(rows) + 8)]
    for i, (side, label, accuracy, (low, high)) in enumerate(rows):
        y = 20 + 30 * i
        parts.append(
            Markup(
                '<text class="t" x="0" y="{y4}">{words}</text>'
                '<line class="{side} wide" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
                '<circle class="{side}" cx="{x}" cy="{y}" r="6"/>'
            ).format(words=label, side=side, y=y, y4=y + 4, low=plot.x(low), high=plot.x(high), x=plot.x(accuracy))
        )
    return _svg(_FULL, 30 * len(rows) + 32, "How many each model gets right, with 95 % intervals", parts)


def flips(both: int, gained: int, lost: int, neither: int) -> Markup:
    """A bar of all images: right in both models, only the challenger, only the champion, neither."""
    total, x, parts = max(1, both + gained + lost + neither), 0.0, []
    for name, count in (("both", both), ("gained", gained), ("lost", lost), ("neither", neither)):
        width = 680 * count / total
        parts.append(Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="28"/>').format(name, x, width))
        x += width
    return _svg(_FULL, 28, "Images by which of the two models gets them right", parts)


def pair(row: Mapping[str, Any], ends: Scale) -> Markup:
    """Two dots for a table row, champion and challenger, and the line between them."""
    plot, challenger = _Track(6, 208, ends), float(row["challenger"])
    parts = [Markup('<line class="grid" x1="6" x2="214" y1="9" y2="9"/>')]
    if (champion := row.get("champion")) is not None:
        parts.append(
            Markup(
                '<line class="way {finding}" x1="{a}" x2="{b}" y1="9" y2="9"/>'
                '<circle class="champion hollow" cx="{a}" cy="9" r="4.5"/>'
            ).format(finding=row.get("finding", "fine"), a=plot.x(champion), b=plot.x(challenger))
        )
    parts.append(Markup('<circle class="challenger" cx="{}" cy="9" r="4.5"/>').format(plot.x(challenger)))
    return _svg(220, 18, f"{row['name']}: {challenger:.1%}", parts)


def reliability(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """Reliability diagram: accuracy over confidence; the area of a dot is the share of images."""
    left, top, side = 46, 8, 260
    parts = [Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(left, top + side, left + side, top)]
    for i in range(5):
        at = i / 4
        x, y = left + side * at, top + side * (1 - at)
        parts.append(
            Markup(
                '<line class="grid" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>'
                '<line class="grid" x1="{x}" x2="{x}" y1="{t}" y2="{b}"/>'
                '<text class="n" text-anchor="end" x="{lx}" y="{ly}">{p:.0%}</text>'
                '<text class="n" text-anchor="middle" x="{x}" y="{by}">{p:.0%}</text>'
            ).format(
                l=left, r=left + side, x=x, y=y, t=top, b=top + side, lx=left - 6, ly=y + 4, by=top + side + 16, p=at
            )
        )
    for name in _SIDES:
        champion_bins = bins.get(name, ())
        total = sum(b["samples"] for b in champion_bins) or 1
        for b in champion_bins:
            radius = 3 + 15 * (b["samples"] / total) ** 0.5
            parts.append(
                Markup('<circle class="{} bubble" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
                    name, left + side * b["confidence"], top + side * (1 - b["accuracy"]), radius
                )
            )
    axis_titles = Markup(
        '<text class="n" text-anchor="middle" x="{}" y="{}">how sure it says it is</text>'
        '<text class="n" text-anchor="middle" transform="translate(10 {}) rotate(-90)">how often it is right</text>'
    ).format(left + side / 2, top + side + 34, top + side / 2)
    return _svg(left + side + 16, top + side + 42, "Reliability diagram", [*parts, axis_titles])


def bars(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Two bars per row, from 0 to 100 %."""
    parts, y = [], 0
    for row in rows:
        parts.append(Markup('<text class="t" x="0" y="{}">{}</text>').format(y + 19, row["name"]))
        for i, name in enumerate(_SIDES):
            share = float(row[name])
            parts.append(
                Markup(
                    '<rect class="{}" x="70" y="{}" width="{:.1f}" height="11" rx="2"/>'
                    '<text class="n" x="{:.1f}" y="{}">{:.0%}</text>'
                ).format(name, y + 3 + 13 * i, max(1, 210 * share), 76 + 210 * share, y + 13 + 13 * i, share)
            )
        y += 38
    return _svg(330, y, "Right answers on spoilt images", parts)


class _Track:
    """Maps shares to x coordinates between `left` and `left + width`."""

    def __init__(self, left: float, width: float, ends: Scale) -> None:
        self._left, self._width, self._ends = left, width, ends

    def x(self, share: float) -> str:
        low, high = self._ends
        return f"{self._left + self._width * (min(max(share, low), high) - low) / (high - low):.1f}"

    def axis(self, y: float) -> Markup:
        low, high = self._ends
        step = next(step for step in (5, 10, 20) if high - low <= 6 * step / 100)
        ticks = [percent / 100 for percent in range(0, 101, step) if low - 1e-9 <= percent / 100 <= high + 1e-9]
        return Markup("").join(
            Markup(
                '<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{y}"/>'
                '<text class="n" text-anchor="middle" x="{x}" y="{ty}">{p:.0%}</text>'
            ).format(x=self.x(tick), y=y, ty=y + 16, p=tick)
            for tick in ticks
        )


def _svg(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """The SVG element, in its drawn width; a drawing of full width scales with the page."""
    return Markup(
        '<svg role="img" aria-label="{}" viewBox="0 0 {w} {h}" width="{w}" height="{h}"{full}>{}</svg>'
    ).format(label, Markup("").join(parts), w=width, h=height, full=Markup(' class="full"') if width == _FULL else "")
