"""The decision report: one self-contained HTML page in plain language, without scripts."""

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from ml.catalog.decisions import Decision
from ml.gate import charts, slices
from ml.gate.blame import STANDS_OUT
from ml.gate.policy import listed

_MOST_ROWS: Final = 40
_KINDS: Final = {
    "class": "By class",
    slices.BESIDE_NEW: "By class, where the new ones can be answered too",
    "drop": "By drop, the newest ones",
    "brightness": "By brightness",
    "age": "Material the champion was trained on, and newer",
}
_WORST_FIRST: Final = ("worse", "unclear", "fine", "useless")


def render(decision: Decision) -> str:
    """Render the page; all inserted values are escaped."""
    environment = Environment(
        loader=PackageLoader("ml.gate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = decision.statistics
    groups = [row for row in figures["groups"] if row["kind"] != "corruption"]
    return environment.get_template("report.html").render(
        d=decision,
        f=figures,
        spent=figures.get("budget"),
        sides=_sides(decision),
        kinds=_by_kind(groups),
        ends=charts.scale([row[s] for row in groups for s in ("champion", "challenger") if s in row]),
        corrupted=[row for row in figures["groups"] if row["kind"] == "corruption"],
        bins={s: figures[f"{s}_calibration"] for s in ("champion", "challenger") if f"{s}_calibration" in figures},
        changes=figures.get("relabelled"),
        blame=figures.get("blame"),
        stands_out=STANDS_OUT,
        charts=charts,
        listed=listed,
    )


def _sides(decision: Decision) -> list[tuple[str, str, float, Any]]:
    """EvaluatedModel, words, accuracy and interval of the champion, if there is one, and the challenger."""
    figures = decision.statistics
    titles = (
        ("champion", f"now: version {decision.champion_version}"),
        ("challenger", f"new: version {decision.model_version}"),
    )
    return [
        (side, title, figures[f"{side}_accuracy"], figures[f"{side}_interval"])
        for side, title in titles
        if figures.get(f"{side}_accuracy") is not None
    ]


def _by_kind(groups: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]], int]]:
    """Per section: heading, rows with the worst first, and the number of omitted rows."""
    sections = []
    has_new_classes = any(row["kind"] == slices.BESIDE_NEW for row in groups)
    for kind, heading in _KINDS.items():
        if kind == "class" and has_new_classes:
            heading += ", if only those that the old one knows are answered"
        rows = sorted((row for row in groups if row["kind"] == kind), key=_badness)
        if rows:
            sections.append((heading, rows[:_MOST_ROWS], max(0, len(rows) - _MOST_ROWS)))
    return sections


def _badness(row: dict[str, Any]) -> tuple[int, float]:
    if "champion" not in row:
        return 0, row["challenger"]
    return _WORST_FIRST.index(row["finding"]), row["challenger"] - row["champion"]
