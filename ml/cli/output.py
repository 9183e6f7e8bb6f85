"""Shared parts of all `evergreen` commands: options, tables, and output as text or JSON."""

import getpass
import os
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ml.context import Context

console: Final = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; is kept.")]
Actor = Annotated[str | None, typer.Option("--as", help="Your name; the login name by default.")]

STOPPED: Final = 4
"""Exit code of a command that ran but whose request was refused."""


def connected() -> "Context":
    """The context for the settings in the environment."""
    from ml.context import connect
    from ml.settings import Settings

    return connect(Settings.load(os.environ))


def actor_name(actor: str | None) -> str:
    return actor or getpass.getuser()


_NUMBERS: Final = frozenset(
    {
        "samples",
        "train",
        "validation",
        "holdout",
        "uses",
        "added",
        "removed",
        "images",
        "accepted",
        "quarantined",
        "duplicates",
        "accuracy",
        "live",
        "probability",
        "ms",
    }
)


def new_table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    return table


def add_row(into: Table, *cells: str) -> None:
    into.add_row(*(Text(printable(cell)) for cell in cells))


def printable(text: str) -> str:
    """Replace control characters in untrusted text, so that it cannot control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def say(text: str) -> None:
    console.print(f"  {printable(text)}", markup=False, highlight=False, soft_wrap=True)


def show(table: Table, rows: list[Any], as_json: bool, reasons: dict[str, str | None] | None = None) -> None:
    """Print the table, and below it reasons that do not fit into a column."""
    emit(rows, as_json)
    if as_json:
        return
    console.print(table)
    notes = {name: reason for name, reason in (reasons or {}).items() if reason}
    if notes:
        console.print()
    for name, reason in notes.items():
        console.print(Text.assemble((printable(name), "bold"), f": {printable(reason)}"))


def emit(body: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(body, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))


def report_deployment(deployment: Any, as_json: bool) -> None:
    """Print the result of a deployment; exit code 4 if it was rolled back."""
    emit(vars(deployment), as_json)
    if not as_json:
        previous = f", before it v{deployment.previous_version}" if deployment.previous_version else ""
        location = f"on {deployment.replicas} replicas after {deployment.seconds:.1f} s"
        reason = f": {deployment.reason}" if deployment.reason else ""
        say(f"version {deployment.model_version} is {deployment.status} {location}{previous}{reason}")
    if deployment.status != "live":
        raise typer.Exit(STOPPED)
