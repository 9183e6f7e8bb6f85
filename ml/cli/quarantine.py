"""`evergreen quarantine …`: list, release or discard quarantined images."""

from pathlib import Path
from typing import Annotated

import typer

from ml.cli.output import Actor, Json, Reason, actor_name, add_row, connected, emit, new_table, say, show

app = typer.Typer(no_args_is_help=True, help="Images that were put aside: look, release, discard.")
Numbers = Annotated[list[int], typer.Argument(help="Ids, as `list` shows them.")]


@app.command("list")
def list_held(
    drop: Annotated[str | None, typer.Option(help="Only of this drop, `drops/NAME/`.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """The newest first, each with its reasons."""
    from ml.intake import quarantine_store

    records = quarantine_store.list_held(connected(), drop, limit)
    table = new_table("id", "drop", "file", "label")
    for record in records:
        add_row(table, str(record.id), record.prefix, record.key, record.label or "–")
    show(table, records, as_json, {str(record.id): "; ".join(record.reasons) for record in records})


@app.command("show")
def show_held(
    number: int,
    output: Annotated[Path | None, typer.Option(help="Write the image's bytes here.")] = None,
    as_json: Json = False,
) -> None:
    """One image: where it came from, why it is here, what became of it."""
    from ml.errors import InvalidInputError
    from ml.intake import quarantine_store

    ctx = connected()
    record = quarantine_store.get(ctx, number)
    if output is not None:
        if record.object_key is None:
            raise InvalidInputError(f"{number} ({record.key}) has no bytes: {'; '.join(record.reasons)}")
        output.write_bytes(ctx.store.get(record.object_key))
    emit(record, as_json)
    if as_json:
        return
    say(f"{record.prefix}{record.key}, label {record.label or '–'}: {record.status}")
    for reason in record.reasons:
        say(f"  {reason}")
    if record.ended_at:
        where = f" into {record.released_to}" if record.released_to else ""
        say(f"  {record.status}{where} by {record.actor}: {record.note}")


@app.command()
def release(
    numbers: Numbers,
    reason: Reason,
    label: Annotated[str | None, typer.Option(help="The right label, for all of them.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Hand images in again, as a drop of their own."""
    from ml.intake import quarantine_store

    prefix = quarantine_store.release(connected(), numbers, label=label, actor=actor_name(actor), reason=reason)
    emit({"prefix": prefix, "images": len(numbers)}, as_json)
    if not as_json:
        say(f"{len(numbers)} images released into {prefix}, marked ready")


@app.command()
def discard(numbers: Numbers, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Give images up; their bytes are deleted."""
    from ml.intake import quarantine_store

    quarantine_store.discard(connected(), numbers, actor=actor_name(actor), reason=reason)
    emit({"discarded": numbers}, as_json)
    if not as_json:
        say(f"{len(numbers)} images discarded")
