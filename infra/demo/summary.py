"""What the demo prints at the end, and the same as JSON."""

from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.demo.story import Outcome
from infra.demo.watch import STAGES, CycleResult
from ml.settings import Settings

_COUNTS = {"accepted": "accepted", "quarantined": "quarantined", "duplicates": "duplicate"}
_HINTS = {
    "local": "Airflow's login: evergreen status --show-password\nmake down stops it all, evergreen up brings it back.",
    "compose": "Airflow's login: admin, with AIRFLOW_ADMIN_PASSWORD of .env\n"
    "make down STACK=compose stops it all, python -m infra.compose up brings it back.",
}
_STYLE = {"promote": "bold green", "reject": "bold yellow", "stopped": "bold red", "held": "bold red"}


def as_dict(outcome: Outcome, settings: Settings) -> dict[str, Any]:
    """The content of `build/demo.json`."""
    return {
        "cycles": [_cycle(c) for c in outcome.cycles],
        "reload": {
            "requests": outcome.reload.requests,
            "failed": len(outcome.reload.failures),
            "asked_again": outcome.reload.busy,
            "p99_ms": outcome.reload.p99(),
        },
        "predictions_logged": outcome.logged,
        "urls": urls(settings),
    }


def urls(settings: Settings) -> dict[str, str]:
    return {
        "airflow": settings.airflow_url,
        "mlflow": settings.mlflow_url,
        "docs": f"{settings.service_url}/docs",
        "console": f"{settings.service_url}/",
    }


def write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


def show(outcome: Outcome, report: dict[str, Any], stack: str, console: Console) -> None:
    console.print()
    console.rule("[bold]Summary", align="left")
    console.print(_results(outcome))
    console.print(_reasons(report))
    console.print(_seconds(report))
    reload = report["reload"]
    failures_text = "[green]none failed[/]" if not reload["failed"] else f"[red]{reload['failed']} failed[/]"
    busy = f", {reload['asked_again']} asked again since the service was busy" if reload["asked_again"] else ""
    console.print(
        f"  While the second model went live: {reload['requests']} requests, {failures_text}{busy}, "
        f"p99 {reload['p99_ms']} ms.\n"
        f"  Prediction log: {outcome.logged} rows for {outcome.predicted} answers.\n"
    )
    lines = "\n".join(f"{name:8} {url}" for name, url in report["urls"].items())
    console.print(Panel(Text(f"{lines}\n\n{_HINTS[stack]}"), title="The stack is up", title_align="left", expand=False))


def _cycle(finished: CycleResult) -> dict[str, Any]:
    drop, cycle, decision = finished.drop, finished.cycle, finished.decision
    statistics = decision.statistics if decision else {}
    return {
        "drop": drop.prefix,
        "accepted": drop.accepted,
        "quarantined": drop.quarantined,
        "duplicates": drop.duplicates,
        "dataset_version": cycle.dataset_version,
        "champion": decision.champion_version if decision else None,
        "challenger": cycle.model_version,
        "champion_accuracy": statistics.get("champion_accuracy"),
        "challenger_accuracy": statistics.get("challenger_accuracy"),
        "champion_interval": statistics.get("champion_interval"),
        "challenger_interval": statistics.get("challenger_interval"),
        "verdict": cycle.verdict,
        "reason": cycle.reason,
        "seconds": cycle.seconds,
        "drop_to_live_seconds": finished.drop_to_live,
    }


def _results(outcome: Outcome) -> Table:
    table = _table("drop", "images", "dataset", "champion", "challenger", "verdict")
    for finished in outcome.cycles:
        row = _cycle(finished)
        counts = [f"{row[kind]} {word}" for kind, word in _COUNTS.items() if row[kind]]
        table.add_row(
            _name(row),
            "\n".join(counts) or "none accepted",
            (row["dataset_version"] or "–")[:8],
            _accuracy(row["champion"], row["champion_accuracy"], row["champion_interval"]),
            _accuracy(row["challenger"], row["challenger_accuracy"], row["challenger_interval"]),
            Text(row["verdict"], _STYLE.get(row["verdict"], "")),
        )
    return table


def _reasons(report: dict[str, Any]) -> Text:
    lines = [Text.assemble("  ", (_name(row), "bold"), f": {row['reason']}\n") for row in report["cycles"]]
    return Text.assemble(*lines)


def _name(row: dict[str, Any]) -> str:
    return str(row["drop"]).rstrip("/").rpartition("/")[2].removeprefix("demo-")


def _table(*columns: str, right: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 0) if right else (0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if right and number else "left", overflow="fold")
    return table


def _accuracy(version: int | None, accuracy: float | None, interval: list[float] | None) -> str:
    if version is None or accuracy is None or interval is None:
        return "–"
    return f"v{version}  {accuracy:.1%}\n[dim]{interval[0]:.1%} – {interval[1]:.1%}[/]"


def _seconds(report: dict[str, Any]) -> Table:
    table = _table("seconds", *STAGES, "marker\nto live", "without\ntraining", right=True)
    for row in report["cycles"]:
        seconds, total = row["seconds"], row["drop_to_live_seconds"]
        table.add_row(
            _name(row),
            *(f"{seconds[s]:.1f}" if s in seconds else "–" for s in STAGES),
            f"{total:.1f}" if total is not None else "–",
            f"{total - seconds.get('train', 0):.1f}" if total is not None else "–",
        )
    return table
