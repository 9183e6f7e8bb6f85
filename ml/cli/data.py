"""`evergreen classes …`, `evergreen labels …`: changes to classes and labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import Actor, Json, Reason, actor_name, add_row, connected, emit, new_table, say, show

if TYPE_CHECKING:
    from ml.catalog.class_proposals import Decision
    from ml.context import Context
    from ml.datasets.classes import Operation

classes = typer.Typer(no_args_is_help=True, help="Classes: what there are; rename, merge and split them, on record.")
labels = typer.Typer(no_args_is_help=True, help="Questions about labels that people should answer.")


@classes.command("list")
def list_classes(as_json: Json = False) -> None:
    """Every class with its samples now."""
    from ml.datasets import classes as class_operations

    counts = class_operations.counts(connected())
    table = new_table("class", "samples")
    for label, count in counts.items():
        add_row(table, label, str(count))
    show(table, [{"class": label, "samples": count} for label, count in counts.items()], as_json)


@classes.command()
def history(as_json: Json = False) -> None:
    """Every operation on classes, the newest first."""
    from ml.datasets import classes as class_operations

    records = class_operations.history(connected())
    table = new_table("when", "what", "classes", "samples", "who")
    for record in records:
        change = f"{', '.join(record.classes_before)} → {', '.join(record.classes_after)}"
        created_at = f"{record.created_at:%Y-%m-%d %H:%M}"
        add_row(table, created_at, record.kind, change, str(record.samples), record.actor)
    show(table, records, as_json, {f"{record.id} ({record.kind})": record.reason for record in records})


@classes.command()
def rename(before: str, after: str, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Give a class another name; drops that use the old one later mean the new one."""
    from ml.datasets import classes as class_operations

    _report(class_operations.rename(connected(), before, after, actor=actor_name(actor), reason=reason), as_json)


@classes.command()
def merge(
    before: Annotated[list[str], typer.Argument(help="Two classes or more.")],
    into: Annotated[str, typer.Option(help="The class they become; one of them or a new name.")],
    reason: Reason,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Make one class of several."""
    from ml.datasets import classes as class_operations

    _report(class_operations.merge(connected(), before, into, actor=actor_name(actor), reason=reason), as_json)


@classes.command()
def split(
    before: str,
    table: Annotated[Path, typer.Argument(help="CSV with the columns sha256,label.", exists=True, dir_okay=False)],
    reason: Reason,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Give samples of a class labels of their own; those that the table does not name stay."""
    from ml.datasets import classes as class_operations

    _report(
        class_operations.split(
            connected(), before, class_operations.read_table(table), actor=actor_name(actor), reason=reason
        ),
        as_json,
    )


@classes.command()
def proposals(as_json: Json = False) -> None:
    """Names that feedback uses and that are no classes yet; by how many they are used, and of how many images."""
    from ml.catalog import class_proposals

    records = class_proposals.pending(connected().engine)
    table = new_table("name", "keys", "persons", "images", "like", "since")
    for record in records:
        counts = map(str, (record.callers, record.persons, record.images))
        add_row(table, record.name, *counts, ", ".join(record.near) or "–", f"{record.first_at:%Y-%m-%d}")
    show(table, records, as_json)


@classes.command()
def confirm(name: str, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Make a proposed name a class: feedback with it is collected from now on."""
    _decide(name, "confirmed", reason, actor, as_json)


@classes.command()
def decline(name: str, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """A proposed name is no class: feedback with it is refused from now on."""
    _decide(name, "declined", reason, actor, as_json)


def _decide(name: str, decision: "Decision", reason: str, actor: str | None, as_json: bool) -> None:
    from ml.catalog import class_proposals

    stored = class_proposals.decide(connected().engine, name, decision, actor=actor_name(actor), reason=reason)
    emit({"name": stored, "status": decision}, as_json)
    if not as_json:
        say(f"{stored} is {decision}")


def _report(operation: "Operation", as_json: bool) -> None:
    emit(vars(operation), as_json)
    if not as_json:
        change = f"{', '.join(operation.before)} → {', '.join(operation.after)}"
        say(f"{operation.kind} {change}: {operation.samples} samples, dataset version {operation.version[:12]}")
        say("the next training learns it; `evergreen cycle --retrain` or the DAG `train` starts one now")


@labels.command("list")
def list_tasks(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    """Open questions, the most doubtful first."""
    from ml.catalog import label_queue
    from ml.catalog.engine import transaction

    with transaction(connected().engine) as connection:
        records = label_queue.open_tasks(connection, limit)
    table = new_table("id", "sample", "label", "suggested", "score", "reason")
    for record in records:
        sample = (record.sha256 or str(record.prediction_id))[:12]
        label, suggested = record.label or "–", record.suggested or "–"
        add_row(table, str(record.id), sample, label, suggested, f"{record.score:.2f}", record.reason)
    show(table, records, as_json)


@labels.command("show")
def show_task(
    task: int,
    output: Annotated[Path | None, typer.Option(help="Write the image's bytes here.")] = None,
    as_json: Json = False,
) -> None:
    """One question: what is said of the image, by how many, what became of it."""
    from ml.datasets import answers

    ctx = connected()
    record = answers.get(ctx, task)
    if output is not None:
        output.write_bytes(answers.image(ctx, record))
    emit(record, as_json)
    if as_json:
        return
    about = f"prediction {record.prediction_id}" if record.prediction_id else f"sample {record.sha256}"
    say(f"{about}: {record.label or '–'}, suggested {record.suggested or '–'} ({record.reason}), {record.status}")
    for label, count in sorted(record.details.get("votes", {}).items()):
        say(f"  {label}: {count} key{'s' if count > 1 else ''}" if record.prediction_id else f"  {label}: {count}")
    if record.details.get("new_classes"):
        say(f"  no classes yet: {', '.join(record.details['new_classes'])}; `evergreen classes confirm NAME` makes one")
    if record.answered_by:
        say(f"  {record.status} by {record.answered_by}: {record.answer or '–'}")


@labels.command()
def answer(task: int, label: str, actor: Actor = None, as_json: Json = False) -> None:
    """Say what the label is; it outweighs everything said before."""
    from ml.datasets import answers

    result = answers.answer(connected(), task, label, actor=actor_name(actor))
    emit(vars(result), as_json)
    if not as_json:
        waits = "the next collection of feedback takes it into the data" if result.waits else "the label stays"
        version = f"dataset version {result.version[:12]}" if result.version else waits
        say(f"{result.sha256[:12]} is {result.label}: {version}")


@labels.command()
def dismiss(task: int, actor: Actor = None, as_json: Json = False) -> None:
    """The question needs no answer."""
    from ml.datasets import answers

    answers.dismiss(connected(), task, actor=actor_name(actor))
    emit({"id": task, "status": "dismissed"}, as_json)
    if not as_json:
        say(f"task {task} is dismissed")


@labels.command("changes")
def list_changes(
    split: Annotated[str | None, typer.Option(help="Only in train, validation or holdout.")] = None,
    drop: Annotated[str | None, typer.Option(help="Only by this drop: its name, folder or id.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """Changed labels of stored samples, the newest first: what, by whom, by which drop or answer."""
    from ml.catalog import label_changes
    from ml.catalog.engine import transaction

    ctx = connected()
    drop_id = _drop_id(ctx, drop)
    with transaction(ctx.engine) as connection:
        records = label_changes.select_changes(connection, drop_id=drop_id, split=split, limit=limit)
    table = new_table("id", "when", "sample", "split", "before", "after", "who", "cause")
    for r in records:
        cells = (r.sha256[:12], r.split, r.before, r.after, r.actor, r.cause)
        add_row(table, str(r.id), f"{r.created_at:%Y-%m-%d %H:%M}", *cells)
    show(table, records, as_json)


@labels.command()
def undo(
    changes: Annotated[list[int] | None, typer.Argument(help="Ids, as `changes` shows them.")] = None,
    drop: Annotated[str | None, typer.Option(help="All changes of this drop: its name, folder or id.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Take changes of labels back, in a new dataset version; nothing is deleted."""
    from ml.datasets import undo as undoing

    ctx = connected()
    result = undoing.undo(ctx, ids=changes or None, drop_id=_drop_id(ctx, drop), actor=actor_name(actor))
    emit(vars(result), as_json)
    if not as_json:
        version = f", dataset version {result.version[:12]}" if result.version else ""
        say(f"{result.samples} labels are as before{version}")
        if result.skipped:
            say(f"{len(result.skipped)} were changed again since, or are gone, and stay: {result.skipped[:10]}")


def _drop_id(ctx: "Context", name: str | None) -> str | None:
    from ml.catalog import drops

    return None if name is None else drops.named(ctx.engine, name, ctx.settings.drops_prefix).id
