"""The `evergreen` CLI: single stages and the full cycle without Airflow. `infra.cli` adds commands for the stack.

Every command prints text, or JSON with `--json`. Heavy modules are imported inside the commands that need them, so
that `--help` is fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ml.cli import (
    data,
    datasets,
    drops,
    erase,
    feedback,
    gate,
    keys,
    quarantine,
    release,
    repair,
    reverts,
    tune,
    validate,
)
from ml.cli.output import (
    STOPPED,
    Json,
    connected,
    console,
    emit,
    printable,
    say,
)

if TYPE_CHECKING:
    from ml.context import Context
    from ml.intake.upload import Upload

app = typer.Typer(no_args_is_help=True, add_completion=False, help="An image classifier that keeps itself current.")
app.add_typer(datasets.app, name="datasets")
drops.app.command()(reverts.revert)
drops.app.command()(reverts.restore)
app.add_typer(drops.app, name="drops")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(data.classes, name="classes")
app.add_typer(keys.app, name="keys")
app.add_typer(feedback.app, name="feedback")
app.add_typer(data.labels, name="labels")
data.labels.command()(reverts.fix)
data.labels.command()(reverts.unfix)
data.labels.command("fixes")(reverts.list_fixes)
app.command()(validate.validate)
app.add_typer(repair.app, name="repair")
app.add_typer(gate.app, name="decisions")
for _command in (tune.tune, gate.approve, gate.reject):
    app.command()(_command)
for _release_command in (release.models, release.deployments, release.promote, release.rollback):
    app.command()(_release_command)


@app.command()
def drop(
    path: Annotated[
        Path, typer.Argument(help="A folder of class folders, or with a labels.csv; or a tar or zip of one.")
    ],
    name: Annotated[str | None, typer.Option(help="The drop's name; the folder's by default.")] = None,
    ready: Annotated[bool, typer.Option(help="Put the marker that starts the ingest.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would be read as.")] = False,
    as_json: Json = False,
) -> None:
    """Upload labelled images and mark them ready. Begun again, it sends only what is missing."""
    from ml.intake import upload

    with upload.prepare(path, name) as prepared:
        body = {"name": prepared.name, "files": len(prepared.files), "bytes": prepared.bytes, "format": prepared.format}
        body |= {"classes": prepared.classes, "problems": prepared.problems}
        if not as_json:
            _print_preview(path, prepared, full=dry_run)
        if not dry_run:
            body["prefix"] = send(connected(), prepared, ready=ready, quiet=as_json)
    emit(body, as_json)


def _print_preview(path: Path, prepared: "Upload", *, full: bool) -> None:
    """Print how the drop will be read; with `full` also every class and every problem."""
    say(f"{path}: {len(prepared.files)} files, to be read as {prepared.format}, {len(prepared.classes)} classes")
    problems = list(prepared.problems.items()) if full else list(prepared.problems.items())[:5]
    if full:
        for label, count in prepared.classes.items():
            say(f"  {label}: {count}")
    for key, problem in problems:
        say(f"  {key}: {problem}")
    if len(problems) < len(prepared.problems):
        say(f"  and {len(prepared.problems) - len(problems)} more that cannot be used; --dry-run names them all")


def send(ctx: "Context", prepared: "Upload", *, ready: bool = True, quiet: bool = False) -> str:
    """Upload with a progress bar; return the drop's prefix."""
    from ml.intake import upload

    columns = (TextColumn("  uploading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=prepared.bytes)
        prefix = upload.send(ctx, prepared, lambda size: bar.advance(task, size), ready=ready)
    if not quiet:
        state = "marked ready" if ready else "not marked yet: put `_READY` when it is complete"
        say(f"uploaded to {prefix}, {state}")
    return prefix


@app.command()
def cycle(
    prefix: Annotated[str | None, typer.Argument(help="The drop's folder in the bucket, `drops/NAME/`.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="No drop: train anew on what there is.")] = False,
    as_json: Json = False,
) -> None:
    """The whole loop once, without Airflow: ingest, train, decide, release. Exit code 4 if nothing was promoted."""
    from ml.pipeline import run_cycle

    def on_stage(stage: str, detail: str) -> None:
        if not as_json:
            console.print(Text.assemble("  ", ("✓", "green"), f" {stage:9} {printable(detail)}"))

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        if not as_json:
            summary = f"loss {metrics['validation_loss']:.3f}, accuracy {metrics['validation_accuracy']:.1%}"
            console.print(f"    epoch {epoch}/{epochs}: validation {summary}", style="dim", highlight=False)

    with console.status("running", spinner="dots"):
        cycle = run_cycle(connected(), prefix, on_stage=on_stage, progress=on_epoch, retrain=retrain)
    emit(cycle, as_json)
    if not as_json:
        say(f"{cycle.verdict}: {cycle.reason}")
    if cycle.verdict != "promote":
        raise typer.Exit(STOPPED)


app.command()(erase.erase)
