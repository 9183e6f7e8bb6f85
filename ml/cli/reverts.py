"""`evergreen drops revert | restore`, `evergreen labels fix | fixes | unfix`: harm is undone by those it came from."""

from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import Actor, Json, Reason, actor_name, add_row, connected, emit, new_table, say, show

if TYPE_CHECKING:
    from ml.datasets.fixes import Fix
    from ml.datasets.revert import Revert

Name = Annotated[str, typer.Argument(help="The drop's name, folder or id.")]
_NEXT = "the next training learns it; `evergreen cycle --retrain` or the DAG `train` starts one now"


def revert(name: Name, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Take all that a drop brought and said out of later dataset versions; nothing is deleted."""
    from ml.datasets import revert as reverts

    _report(name, reverts.revert(connected(), name, actor=actor_name(actor), reason=reason), "taken out", as_json)


def restore(name: Name, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Put a reverted drop back."""
    from ml.datasets import revert as reverts

    _report(name, reverts.restore(connected(), name, actor=actor_name(actor), reason=reason), "put back", as_json)


def fix(
    drop: Annotated[str, typer.Option("--drop", help="The drop's name, folder or id.")],
    before: Annotated[str, typer.Option("--from", help="The class that its samples have now.")],
    after: Annotated[str, typer.Option("--to", help="The class that they are of.")],
    reason: Reason,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Correct the labels of one class of a drop, all at once; it outweighs everything said before."""
    from ml.datasets import fixes

    _report_fix(fixes.fix(connected(), drop, before, after, actor=actor_name(actor), reason=reason), as_json)


def unfix(fix_id: Annotated[int, typer.Argument(metavar="ID")], actor: Actor = None, as_json: Json = False) -> None:
    """Undo a bulk correction: the samples get the label back that they had."""
    from ml.datasets import fixes

    _report_fix(fixes.undo(connected(), fix_id, actor=actor_name(actor)), as_json)


def list_fixes(as_json: Json = False) -> None:
    """Every bulk correction, the newest first."""
    from ml.datasets import fixes

    records = fixes.history(connected())
    table = new_table("id", "when", "drop", "change", "samples", "who")
    for record in records:
        change = f"{record.label_before} → {record.label_after}"
        who = f"{record.actor}, undone by {record.undone_by}" if record.undone_at else record.actor
        created_at = f"{record.created_at:%Y-%m-%d %H:%M}"
        add_row(table, str(record.id), created_at, record.prefix, change, str(record.samples), who)
    show(table, records, as_json, {str(record.id): record.reason for record in records})


def _report(name: str, result: "Revert", done: str, as_json: bool) -> None:
    emit(vars(result), as_json)
    if as_json:
        return
    if not result.drops:
        say(f"{name} was {done} already")
        return
    version = f"dataset version {result.version[:12]}" if result.version else "the data stay as they were"
    say(f"{name}: {result.samples} samples {done}, {result.relabelled} labels of others changed, {version}")
    if result.version:
        say(_NEXT)


def _report_fix(result: "Fix", as_json: bool) -> None:
    emit(vars(result), as_json)
    if not as_json:
        say(f"correction {result.id}: {result.samples} labels changed, dataset version {result.version[:12]}")
        say(_NEXT)
