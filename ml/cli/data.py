"""`evergreen classes …`, `evergreen labels …`, `evergreen erase`: what people decide about the data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import Actor, Json, Reason, add_row, connected, emit, name_of, new_table, say, show

if TYPE_CHECKING:
    from ml.datasets.classes import Operation

classes = typer.Typer(no_args_is_help=True, help="Classes: what there are; rename, merge and split them, on record.")
labels = typer.Typer(no_args_is_help=True, help="Questions about labels that people should answer.")


@classes.command("list")
def list_classes(as_json: Json = False) -> None:
    """Every class with its samples now."""
    from ml.datasets import classes as of

    counts = of.counts(connected())
    table = new_table("class", "samples")
    for label, count in counts.items():
        add_row(table, label, str(count))
    show(table, [{"class": label, "samples": count} for label, count in counts.items()], as_json)


@classes.command()
def history(as_json: Json = False) -> None:
    """Every operation on classes, the newest first."""
    from ml.datasets import classes as of

    rows = of.history(connected())
    table = new_table("when", "what", "classes", "samples", "who")
    for row in rows:
        named = f"{', '.join(row['classes_before'])} → {', '.join(row['classes_after'])}"
        add_row(table, f"{row['created_at']:%Y-%m-%d %H:%M}", row["kind"], named, str(row["samples"]), row["actor"])
    show(table, rows, as_json, {f"{row['id']} ({row['kind']})": row["reason"] for row in rows})


@classes.command()
def rename(before: str, after: str, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Give a class another name; drops that use the old one later mean the new one."""
    from ml.datasets import classes as of

    _done(of.rename(connected(), before, after, actor=name_of(actor), reason=reason), as_json)


@classes.command()
def merge(
    before: Annotated[list[str], typer.Argument(help="Two classes or more.")],
    into: Annotated[str, typer.Option(help="The class they become; one of them or a new name.")],
    reason: Reason,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Make one class of several."""
    from ml.datasets import classes as of

    _done(of.merge(connected(), before, into, actor=name_of(actor), reason=reason), as_json)


@classes.command()
def split(
    before: str,
    table: Annotated[Path, typer.Argument(help="CSV with the columns sha256,label.", exists=True, dir_okay=False)],
    reason: Reason,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Give samples of a class labels of their own; those that the table does not name stay."""
    from ml.datasets import classes as of

    _done(of.split(connected(), before, of.read_table(table), actor=name_of(actor), reason=reason), as_json)


def _done(made: "Operation", as_json: bool) -> None:
    emit(vars(made), as_json)
    if not as_json:
        named = f"{', '.join(made.before)} → {', '.join(made.after)}"
        say(f"{made.kind} {named}: {made.samples} samples, dataset version {made.version[:12]}")
        say("the next training learns it; `evergreen cycle --retrain` or the DAG `train` starts one now")


@labels.command("list")
def list_tasks(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    """Open questions, the most doubtful first."""
    from ml.datasets import labels as of

    rows = of.tasks(connected(), limit)
    table = new_table("id", "sample", "label", "suggested", "score", "reason")
    for row in rows:
        sample = (row["sha256"] or str(row["prediction_id"]))[:12]
        label, suggested = row["label"] or "–", row["suggested"] or "–"
        add_row(table, str(row["id"]), sample, label, suggested, f"{row['score']:.2f}", row["reason"])
    show(table, rows, as_json)


@labels.command()
def answer(task: int, label: str, actor: Actor = None, as_json: Json = False) -> None:
    """Say what the label is; it outweighs everything said before."""
    from ml.datasets import answers

    told = answers.answer(connected(), task, label, actor=name_of(actor))
    emit(vars(told), as_json)
    if not as_json:
        version = f"dataset version {told.version[:12]}" if told.version else "the label stays"
        say(f"{told.sha256[:12]} is {told.label}: {version}")


@labels.command()
def dismiss(task: int, as_json: Json = False) -> None:
    """The question needs no answer."""
    from ml.datasets import answers

    answers.dismiss(connected(), task)
    emit({"id": task, "status": "dismissed"}, as_json)
    if not as_json:
        say(f"task {task} is dismissed")


def erase(
    reason: Reason,
    samples: Annotated[list[str] | None, typer.Argument(help="SHA-256 of samples.")] = None,
    drop: Annotated[str | None, typer.Option(help="All that drops at this folder brought, `drops/NAME/`.")] = None,
    subject: Annotated[str | None, typer.Option(help="All of this subject (column `subject` of a drop).")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Erase samples for good, and name the models that saw them."""
    from ml.datasets import erase as of
    from ml.errors import InvalidInputError

    if sum(bool(given) for given in (samples, drop, subject)) != 1:
        raise InvalidInputError("say what to erase by one of: SHA-256 of samples, --drop, --subject")
    wanted = of.of_hashes(samples) if samples else of.of_drop(drop) if drop else of.of_subject(subject or "")
    done = of.erase(connected(), wanted, actor=name_of(actor), reason=reason)
    emit(vars(done), as_json)
    if not as_json:
        seen = ", ".join(f"v{m}" for m in done.models) or "none"
        say(f"{done.samples} samples erased, {done.objects} objects deleted; models that saw them: {seen}")
