"""`evergreen …`: each stage and the whole cycle without Airflow. `infra.cli` adds what starts the stack.

Every command prints for a person, or with `--json` for a program. Heavy modules are imported by the
commands that need them, so that `--help` is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ml import cli_data, cli_datasets, cli_gate, cli_keys, cli_quarantine, cli_tune, cli_validate
from ml.cli_shared import (
    STOPPED,
    Actor,
    Json,
    Reason,
    add_row,
    connected,
    console,
    emit,
    moved,
    name_of,
    new_table,
    printable,
    say,
    show,
)

if TYPE_CHECKING:
    from ml.context import Context
    from ml.intake.upload import Upload

app = typer.Typer(no_args_is_help=True, add_completion=False, help="An image classifier that keeps itself current.")
app.add_typer(cli_datasets.app, name="datasets")
app.add_typer(cli_quarantine.app, name="quarantine")
app.add_typer(cli_data.classes, name="classes")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_data.labels, name="labels")
app.command()(cli_validate.validate)
for _command in (cli_tune.tune, cli_gate.decisions, cli_gate.approve, cli_gate.reject):
    app.command()(_command)


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
        told = {"name": prepared.name, "files": len(prepared.files), "bytes": prepared.bytes, "format": prepared.format}
        told |= {"classes": prepared.classes, "problems": prepared.problems}
        if not as_json:
            _foretell(path, prepared, whole=dry_run)
        if not dry_run:
            told["prefix"] = send(connected(), prepared, ready=ready, quiet=as_json)
    emit(told, as_json)


def _foretell(path: Path, prepared: "Upload", *, whole: bool) -> None:
    """What it will be read as; as a dry run also every class and every problem."""
    say(f"{path}: {len(prepared.files)} files, to be read as {prepared.format}, {len(prepared.classes)} classes")
    shown = list(prepared.problems.items()) if whole else list(prepared.problems.items())[:5]
    if whole:
        for label, count in prepared.classes.items():
            say(f"  {label}: {count}")
    for key, problem in shown:
        say(f"  {key}: {problem}")
    if len(shown) < len(prepared.problems):
        say(f"  and {len(prepared.problems) - len(shown)} more that cannot be used; --dry-run names them all")


def send(ctx: "Context", prepared: "Upload", *, ready: bool = True, quiet: bool = False) -> str:
    """Upload with a progress bar; the drop's prefix."""
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
    from ml.cycle import run_cycle

    def on_stage(stage: str, detail: str) -> None:
        if not as_json:
            console.print(Text.assemble("  ", ("✓", "green"), f" {stage:9} {printable(detail)}"))

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        if not as_json:
            shown = f"loss {metrics['validation_loss']:.3f}, accuracy {metrics['validation_accuracy']:.1%}"
            console.print(f"    epoch {epoch}/{epochs}: validation {shown}", style="dim", highlight=False)

    with console.status("running", spinner="dots"):
        row = run_cycle(connected(), prefix, on_stage=on_stage, progress=on_epoch, retrain=retrain)
    emit(row, as_json)
    if not as_json:
        say(f"{row['verdict']}: {row['reason']}")
    if row["verdict"] != "promote":
        raise typer.Exit(STOPPED)


@app.command()
def models(as_json: Json = False) -> None:
    """The registry's versions: aliases, dataset, accuracy on the holdout and, by feedback, live; verdict."""
    from ml.catalog import accuracy, decisions

    ctx = connected()
    verdicts, live = decisions.of_models(ctx.engine), accuracy.of_last_days(ctx.engine)
    aliases: dict[int, list[str]] = {}
    for alias, version in ctx.registry.aliases().items():
        aliases.setdefault(version, []).append(alias)
    rows: list[dict[str, Any]] = []
    for found in ctx.registry.find():
        number = int(found.version)
        decision = verdicts.get(number)
        rows.append(
            {
                "version": number,
                "aliases": sorted(aliases.get(number, [])),
                "dataset_version": found.tags.get("dataset_version"),
                "accuracy": decision.statistics.get("challenger_accuracy") if decision else None,
                "live_accuracy": live[number]["accuracy"] if number in live else None,
                "judged": live[number]["judged"] if number in live else 0,
                "verdict": decision.verdict if decision else None,
                "reason": decision.reason if decision else None,
                "url": ctx.registry.version_url(number),
            }
        )
    table = new_table("version", "aliases", "dataset", "accuracy", "live", "verdict")
    for row in rows:
        held_out = f"{row['accuracy']:.1%}" if row["accuracy"] is not None else "–"
        told = f"{row['live_accuracy']:.1%} of {row['judged']}" if row["judged"] else "–"
        dataset = (row["dataset_version"] or "–")[:8]
        aliased = ", ".join(row["aliases"])
        add_row(table, f"v{row['version']}", aliased, dataset, held_out, told, row["verdict"] or "–")
    show(table, rows, as_json, {f"v{row['version']}": row["reason"] for row in rows})


@app.command()
def promote(version: int, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Make a version the champion, whatever the gate says; your name is kept."""
    from ml.release import operator

    moved(operator.promote(connected(), version, name_of(actor), reason), as_json)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="A version; the previous champion by default.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """The previous model again, on every worker."""
    from ml.release import operator

    moved(operator.rollback(connected(), name_of(actor), reason, to), as_json)


@app.command()
def drops(as_json: Json = False) -> None:
    """The newest drops: counts, fate, and why."""
    from ml.catalog import drops as rows_of

    rows = rows_of.recent(connected().engine)
    table = new_table("drop", "status", "images", "accepted", "quarantined", "duplicates")
    for row in rows:
        counts = (str(row[name]) for name in ("images", "accepted", "quarantined", "duplicates"))
        add_row(table, row["prefix"], row["status"], *counts)
    show(table, rows, as_json, {row["prefix"]: row["reason"] for row in rows})


@app.command()
def deployments(as_json: Json = False) -> None:
    """What served when, and what became of each try."""
    from ml.catalog import deployments as rows_of

    rows = rows_of.recent(connected().engine)
    table = new_table("id", "version", "before", "status", "since")
    for row in rows:
        before = f"v{row['previous_version']}" if row["previous_version"] else "–"
        since = f"{row['created_at']:%Y-%m-%d %H:%M:%S}"
        add_row(table, str(row["id"]), f"v{row['model_version']}", before, row["status"], since)
    show(table, rows, as_json, {f"{row['id']} (v{row['model_version']})": row["reason"] for row in rows})


app.command()(cli_data.erase)
