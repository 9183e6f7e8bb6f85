"""`evergreen repair`: puts right what was changed outside the system."""

import typer

from ml.cli.output import Json, connected, emit, say

app = typer.Typer(no_args_is_help=True, help="Put right what was changed outside the system.")


@app.command()
def registry(as_json: Json = False) -> None:
    """Register again what MLflow lost of the models in use, and point its aliases at what is live."""
    from ml.catalog.engine import advisory_lock
    from ml.release import aliases
    from ml.release.deploy import LOCK

    ctx = connected()
    with advisory_lock(ctx.engine, LOCK):
        findings = aliases.repair(ctx, with_earlier=True)
    if as_json:
        emit({"findings": findings}, as_json)
    for finding in [] if as_json else findings or ["the registry has what is in use, and its aliases are right"]:
        say(finding)


@app.callback()
def repair() -> None:
    """A group, also with one command."""
