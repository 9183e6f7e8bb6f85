"""`evergreen feedback …`: whose feedback there is, how it fared with reviewers, and whether it counts."""

from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from ml.cli.output import Actor, Json, Reason, actor_name, add_row, connected, emit, new_table, say, show

GIVE: Final = "give"


class _GivesByDefault(TyperGroup):
    """A group that takes what is none of its commands for the arguments of `give`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = [GIVE, *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_GivesByDefault,
    no_args_is_help=True,
    help="What people say of predictions. `evergreen feedback ID LABEL` is `evergreen feedback give ID LABEL`.",
)
Key = Annotated[str, typer.Option("--key", help="The name or id of an API key; `local` for callers without one.")]


@app.command("list")
def list_callers(
    key: Annotated[str | None, typer.Option(help="Only of this API key, by name or id.")] = None, as_json: Json = False
) -> None:
    """Who gave feedback, how much of it reviewers turned down, and whether it counts."""
    from ml.catalog import feedback_callers

    records = feedback_callers.list_callers(connected().engine, key)
    table = new_table("key", "id", "opinions", "persons", "reviewed", "turned down", "state", "last")
    for record in records:
        counts = map(str, (record.opinions, record.persons, record.reviewed, record.declined))
        add_row(table, record.name, record.key_id or "–", *counts, record.status, f"{record.last_at:%Y-%m-%d %H:%M}")
    show(table, records, as_json, {f"{record.name} ({record.status})": record.reason for record in records})


@app.command()
def revoke(key: Key, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Take all feedback of a key out of the data and the review queue, and take no more of it."""
    from ml.datasets import withdraw

    result = withdraw.revoke(connected(), key, actor=actor_name(actor), reason=reason)
    emit(vars(result), as_json)
    if not as_json:
        version = f", dataset version {result.version[:12]}" if result.version else ""
        annotations = f"{result.annotations} annotations count no longer{version}"
        say(f"{result.opinions} opinions of {key} are revoked, {annotations}")
        say(f"{result.relabelled} samples have another label, {result.removed} are removed")
        say("the key itself is good for predictions still: `evergreen keys revoke` ends that too")


@app.command()
def resume(key: Key, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Count a key's feedback again: all of it if it was paused, only what comes from now on if it was revoked."""
    from ml.datasets import withdraw

    key_id = withdraw.resume(connected(), key, actor=actor_name(actor), reason=reason)
    emit({"key_id": key_id, "status": "resumed"}, as_json)
    if not as_json:
        say(f"feedback of {key} counts again")
