"""`evergreen keys …`: API keys, their roles and rate limits."""

from datetime import datetime
from typing import Annotated

import typer

from ml.cli.output import Actor, Json, actor_name, add_row, connected, emit, new_table, say, show

app = typer.Typer(no_args_is_help=True, help="API keys of the service.")

Name = Annotated[str, typer.Argument(help="Whose key it is.")]


@app.command()
def create(
    name: Name,
    role: Annotated[
        list[str], typer.Option(help="predict, feedback, annotate, review, operate or admin; may be given again.")
    ],
    per_second: Annotated[
        float | None, typer.Option(help="Requests a second that each worker takes from it; no limit by default.")
    ] = None,
    burst: Annotated[int | None, typer.Option(help="How many may come at once; twice a second's by default.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Good for so long; for ever by default.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown now and never again: only its hash is kept."""
    from ml.catalog import api_keys

    if per_second is not None and burst is None:
        burst = max(1, round(2 * per_second))
    grant = api_keys.Grant(name, api_keys.sort_roles(role), per_second, burst)
    _hand_over(name, api_keys.create(connected().engine, grant, actor_name(actor), days), as_json)


@app.command(name="list")
def list_keys(as_json: Json = False) -> None:
    """All keys ever made, without their secrets."""
    from ml.catalog import api_keys

    records = api_keys.list_keys(connected().engine)
    table = new_table("id", "name", "roles", "a second", "state", "made", "until", "last used")
    for record in records:
        limit = f"{record.per_second:g}, {record.burst} at once" if record.per_second else "–"
        times = [_day(at) for at in (record.created_at, record.expires_at, record.used_at)]
        add_row(table, record.id, record.name, ", ".join(record.roles), limit, record.state, *times)
    show(table, records, as_json)


@app.command()
def rotate(
    name: Name,
    grace_hours: Annotated[float, typer.Option(min=0, help="How long the old key is good beside the new one.")] = 24.0,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """A new key with the same name, roles and limits."""
    from ml.catalog import api_keys

    key = api_keys.rotate(connected().engine, name, actor_name(actor), grace_hours)
    _hand_over(name, key, as_json, f"the old one is good for {grace_hours:g} hours more")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name, or one key's id.")], as_json: Json = False
) -> None:
    """Make a key good for nothing; every worker knows within two seconds."""
    from ml.catalog import api_keys

    count = api_keys.revoke(connected().engine, name)
    emit({"revoked": count}, as_json)
    if not as_json:
        say(f"revoked: {count} key{'s' if count > 1 else ''} of {name}")


def _hand_over(name: str, key: str, as_json: bool, more: str = "") -> None:
    emit({"name": name, "key": key}, as_json)
    if not as_json:
        say(f"the key of {name}, shown now and never again{'; ' + more if more else ''}:")
        say(key)


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "–"
