"""`evergreen validate`: validate a drop before uploading it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import STOPPED, Json, add_row, connected, console, emit, new_table, say

if TYPE_CHECKING:
    from ml.intake.dry_run import DryRun

_SHOWN = 20  # bad images that are printed; `--json` has them all


def validate(
    path: Annotated[Path, typer.Argument(help="A folder or archive, as for `evergreen drop`.")],
    as_json: Json = False,
) -> None:
    """Judge a drop before it is uploaded; nothing is sent or stored. Exit code 4 if it would be rejected or held."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ml.datasets import relabels
    from ml.intake import dry_run
    from ml.label_checks import stage as label_checks

    context = connected()
    columns = (TextColumn("  looking at images"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=as_json, transient=True) as bar:
        task = bar.add_task("", total=None)

        def on_images(completed: int, total: int) -> None:
            bar.update(task, completed=completed, total=total)

        report = dry_run.run(context, path, on_images, partial(label_checks.preview, context), relabels.preview)
    emit(vars(report), as_json)
    if not as_json:
        _report(path, report)
    if report.rejected or report.held:
        raise typer.Exit(STOPPED)


def _report(path: Path, report: "DryRun") -> None:
    say(f"{path}: {report.images} images, read as {report.format or 'no known format'}")
    if report.left_out:
        say(f"without history: {report.left_out}")
    _print_tables(report)
    for warning in report.warnings:
        say(f"warning: {warning}")
    if report.rejected:
        say(f"would be rejected: {'; '.join(report.rejected)}")
    elif report.held:
        say(f"would wait for a person: {'; '.join(report.held)}")
    else:
        counts = f"{report.good} good, {report.duplicates} known already, {len(report.quarantined)} put aside"
        say(f"would be accepted: {counts}")


def _print_tables(report: "DryRun") -> None:
    figures = new_table("figure", "value")
    for name, value in report.figures.items():
        text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        add_row(figures, name, text)
    quarantined = new_table("would be put aside", "why")
    for key, reasons in list(report.quarantined.items())[:_SHOWN]:
        add_row(quarantined, key, "; ".join(reasons))
    for table, rows in ((figures, report.figures), (quarantined, report.quarantined)):
        if rows:
            console.print(table)
    if len(report.quarantined) > _SHOWN:
        say(f"and {len(report.quarantined) - _SHOWN} more; `--json` names all")
