"""The `evergreen` command: `ml.cli.main` and what starts, stops and shows the stack."""

import os
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from infra import cli_service
from ml.cli import feedback
from ml.cli.main import app
from ml.cli.output import Json, printable
from ml.errors import EvergreenError, InvalidInputError, UnavailableError

__all__ = ["app", "main"]

console = Console()
app.command()(cli_service.predict)
feedback.app.command(feedback.GIVE)(cli_service.feedback)

FAILED, INVALID, UNAVAILABLE = 1, 2, 3


def home() -> Path:
    """The data folder: `$EVERGREEN_HOME`, else `.evergreen` here."""
    return Path(os.environ.get("EVERGREEN_HOME") or ".evergreen").resolve()


@app.command()
def up(
    port: Annotated[list[str] | None, typer.Option(metavar="PART=PORT", help="Say service=8001; kept.")] = None,
    only: Annotated[str | None, typer.Option(metavar="PARTS", help="Only these, say postgres,s3,mlflow.")] = None,
) -> None:
    """Start the local stack; what runs already stays."""
    from infra.local import status as stack_status

    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    stack_status.start(home(), console, only=names, ports=_ports(port or []))
    stack_status.show(stack_status.read(home()), console)
    stack_status.warn_keyless(home(), console)


@app.command()
def down() -> None:
    """Stop the local stack; the data stays."""
    from infra.local import stack

    with console.status("stopping", spinner="dots") as shown:
        stack.down(home(), lambda name, state: shown.update(f"{state} {name}"))
    console.print(f"  the stack is stopped; its data stays in {home()}", highlight=False, soft_wrap=True)


@app.command()
def status(
    as_json: Json = False,
    show_password: Annotated[bool, typer.Option("--show-password", help="Print Airflow's login.")] = False,
) -> None:
    """Each part's health, address and memory. Exit code 3 if a part is not healthy."""
    from infra.local import airflow, layout
    from infra.local import status as stack_status

    statuses = stack_status.read(home())
    if as_json:
        typer.echo(orjson.dumps(stack_status.as_json(statuses), option=orjson.OPT_INDENT_2))
    else:
        stack_status.show(statuses, console)
        password = layout.load(home()).secrets["airflow_admin"]
        console.print(
            f"  Airflow's login: {airflow.USER} / {password}"
            if show_password
            else "  Airflow's login: admin, password by --show-password",
            highlight=False,
        )
    if any(part.state != "healthy" for part in statuses):
        raise typer.Exit(UNAVAILABLE)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your images: a folder of class folders, a tar of one, or IDX files.")
    ] = None,
    stack: Annotated[str, typer.Option(help="local or compose.")] = "local",
) -> None:
    """The whole story on real images: three drops, two promotions, one refusal. The stack stays up."""
    if stack not in ("local", "compose"):
        raise InvalidInputError(f"`--stack` must be local or compose; received {stack!r}")
    from infra.demo.main import run_demo

    raise typer.Exit(run_demo(home(), data, stack))


def _ports(options: list[str]) -> dict[str, int]:
    from infra.local.layout import PORTS

    ports = {}
    for text in options:
        part, _, number = text.partition("=")
        if part not in PORTS or not number.isdecimal():
            raise InvalidInputError(f"`--port` is PART=PORT, with a part of {', '.join(PORTS)}; received {text!r}")
        ports[part] = int(number)
    return ports


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    try:
        app()
    except EvergreenError as error:
        errors = Console(stderr=True)
        errors.print(f"[red]✗[/] {type(error).__name__.removesuffix('Error')}:", end=" ")
        errors.print(printable(str(error)), markup=False, highlight=False, soft_wrap=True)
        codes = {InvalidInputError: INVALID, UnavailableError: UNAVAILABLE}
        sys.exit(next((code for kind, code in codes.items() if isinstance(error, kind)), FAILED))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
