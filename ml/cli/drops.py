"""`evergreen drops …`: what became of drops, and the decision on those that wait for a person."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import Actor, Json, Reason, actor_name, add_row, connected, emit, new_table, say, show

if TYPE_CHECKING:
    from ml.catalog.drops import DropRecord
    from ml.context import Context

app = typer.Typer(invoke_without_command=True, help="Drops: what became of them; approve or reject those that wait.")
Name = Annotated[str, typer.Argument(help="The drop's name, folder or id.")]
_IMAGES = 20  # of a finding that are printed; `--json` has them all


@app.callback()
def drops(command: typer.Context, as_json: Json = False) -> None:
    """The newest drops: counts, fate, and why."""
    if command.invoked_subcommand is None:
        list_drops(as_json)


@app.command("list")
def list_drops(as_json: Json = False) -> None:
    """The newest drops: counts, fate, and why; those that wait for a person say how to let them go on."""
    from ml.catalog import drops as drops_catalog

    records = drops_catalog.recent(connected().engine)
    table = new_table("drop", "status", "images", "accepted", "quarantined", "duplicates")
    for record in records:
        counts = map(str, (record.images, record.accepted, record.quarantined, record.duplicates))
        add_row(table, record.prefix, record.status, *counts)
    show(table, records, as_json, {record.prefix: record.reason for record in records})


@app.command("show")
def show_drop(name: Name, as_json: Json = False) -> None:
    """One drop: its figures, what checks found in it, and what a person decided."""
    from ml.catalog import validations

    ctx = connected()
    record = _named(ctx, name)
    validation = validations.get(ctx.engine, "drop", record.id)
    figures = validation.figures if validation else {}
    emit(asdict(record) | {"figures": figures}, as_json)
    if as_json:
        return
    say(f"{record.prefix} ({record.id}): {record.status}")
    if record.reason:
        say(record.reason)
    for finding in record.findings:
        state = "approved" if finding["kind"] in record.approved_kinds else "holds" if finding["holds"] else "warning"
        say(f"{finding['kind']} ({state}): {finding['message']}")
        for key in finding["images"][:_IMAGES]:
            say(f"  {key}")
        if len(finding["images"]) > _IMAGES:
            say(f"  and {len(finding['images']) - _IMAGES} more; `--json` names all")
    if record.approved_at:
        say(f"approved by {record.approved_by}, {record.approved_at:%Y-%m-%d %H:%M}: {record.approval_reason}")
    for figure, value in figures.items():
        if value is not None:
            say(f"{figure}: {value:.4g}" if isinstance(value, float) else f"{figure}: {value}")


@app.command()
def approve(name: Name, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Let a held drop go on; what was found does not hold it again."""
    from ml.intake import held

    ctx = connected()
    record = held.approve(ctx, _named(ctx, name).id, actor=actor_name(actor), reason=reason)
    emit(asdict(record), as_json)
    if not as_json:
        without_airflow = f"`evergreen cycle {record.prefix}`"
        say(f"{record.prefix} is approved; the next ingest takes it (without Airflow: {without_airflow})")


@app.command()
def reject(name: Name, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Reject a held drop; nothing of it is taken."""
    from ml.intake import held

    ctx = connected()
    record = held.reject(ctx, _named(ctx, name).id, actor=actor_name(actor), reason=reason)
    emit(asdict(record), as_json)
    if not as_json:
        say(f"{record.prefix} is rejected; correct it and upload it under another name")


def _named(ctx: "Context", name: str) -> "DropRecord":
    from ml.catalog import drops as drops_catalog

    return drops_catalog.named(ctx.engine, name, ctx.settings.drops_prefix)
