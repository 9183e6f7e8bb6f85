"""`evergreen validate`: a drop judged before it is uploaded."""

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
    """Judge a drop before it is uploaded; nothing is sent or stored. Exit code 4 if it would be rejected."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ml.intake import dry_run

    columns = (TextColumn("  looking at images"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=as_json, transient=True) as bar:
        task = bar.add_task("", total=None)

        def on_images(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = dry_run.rehearse(connected(), path, on_images)
    emit(vars(found), as_json)
    if not as_json:
        _tell(path, found)
    if found.rejected:
        raise typer.Exit(STOPPED)


def _tell(path: Path, found: "DryRun") -> None:
    say(f"{path}: {found.images} images, read as {found.format or 'no known format'}")
    if found.left_out:
        say(f"without history: {found.left_out}")
    _tables(found)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if found.rejected:
        say(f"would be rejected: {'; '.join(found.rejected)}")
    else:
        counts = f"{found.good} good, {found.duplicates} known already, {len(found.quarantined)} put aside"
        say(f"would be accepted: {counts}")


def _tables(found: "DryRun") -> None:
    figures = new_table("figure", "value")
    for name, value in found.figures.items():
        told = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        add_row(figures, name, told)
    aside = new_table("would be put aside", "why")
    for key, reasons in list(found.quarantined.items())[:_SHOWN]:
        add_row(aside, key, "; ".join(reasons))
    for table, rows in ((figures, found.figures), (aside, found.quarantined)):
        if rows:
            console.print(table)
    if len(found.quarantined) > _SHOWN:
        say(f"and {len(found.quarantined) - _SHOWN} more; `--json` names all")
