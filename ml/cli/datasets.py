"""`evergreen datasets …`: versions listed, shown, compared, proven, exported; the holdout's state."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.cli.output import STOPPED, Json, add_row, connected, console, emit, new_table, printable, say, show

if TYPE_CHECKING:
    from ml.context import Context
    from ml.datasets.versions import DatasetVersion

app = typer.Typer(no_args_is_help=True, help="Dataset versions: what the data was, and is.")
Version = Annotated[str, typer.Argument(help="A version's id or how it begins; `newest`.")]
SPLITS = ("train", "validation", "holdout")


@app.command("list")
def list_versions(limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:
    """The newest versions: samples a split, classes, cause."""
    from ml.datasets import versions

    found = versions.all_versions(connected().engine, limit)
    table = new_table("#", "version", *SPLITS, "classes", "cause")
    for v in found:
        add_row(table, str(v.number), v.id[:12], *(str(getattr(v, s)) for s in SPLITS), str(len(v.classes)), v.cause)
    show(table, [vars(v) for v in found], as_json)


@app.command("show")
def show_version(version: Version = "newest", as_json: Json = False) -> None:
    """One version: classes by split, segments, drops, models trained on it, holdout."""
    from ml.datasets import contents, holdout, versions

    ctx = connected()
    found = _named(ctx, version)
    manifest, counts = versions.manifest(ctx, found.id), contents.counts(ctx, found.id)
    drops, models = contents.drops(ctx, found.id), contents.models(ctx, found.id)
    parts = holdout.parts(ctx)
    told = {**vars(found), "counts": counts, "segments": manifest.segments, "relabels": len(manifest.relabels)}
    told |= {"removals": len(manifest.removals), "class_map": manifest.class_map, "drops": drops, "models": models}
    emit(told | {"holdout_parts": [vars(p) for p in parts]}, as_json)
    if as_json:
        return
    say(f"version {found.number}, {found.id}")
    say(f"made by {found.cause}, after {found.parent_id[:12] if found.parent_id else 'nothing'}")
    trained = "the registry does not answer" if models is None else ", ".join(f"v{m}" for m in models) or "none"
    say(f"{len(manifest.segments)} segments from {len(drops)} drops; models trained on it: {trained}")
    say(
        f"{len(manifest.relabels)} relabels, {len(manifest.removals)} removals, {len(manifest.class_map)} retired names"
    )
    for part in parts:
        say(f"holdout, {part.name} part: {part.samples} samples, used for {part.uses} decisions")
    console.print()
    table = new_table("class", *SPLITS)
    for label, splits in counts.items():
        add_row(table, label, *(str(splits.get(s, 0)) for s in SPLITS))
    console.print(table)


@app.command()
def diff(before: Version, after: Version = "newest", as_json: Json = False) -> None:
    """What came, went and was relabelled between two versions."""
    from ml.datasets import contents

    ctx = connected()
    found = contents.difference(ctx, _named(ctx, before).id, _named(ctx, after).id)
    emit(contents.as_json(found), as_json)
    if as_json:
        return
    table = new_table("class", "added", "removed")
    for label in sorted(found.added.keys() | found.removed.keys()):
        add_row(table, label, f"+{found.added.get(label, 0)}", f"-{found.removed.get(label, 0)}")
    console.print(table)
    for (old, new), count in sorted(found.relabelled.items()):
        say(f"{old} → {new}: {count} samples")
    if not (found.added or found.removed or found.relabelled):
        say("the same samples with the same labels")


@app.command()
def verify(version: Version = "newest", as_json: Json = False) -> None:
    """Prove every byte of a version by its hashes. Exit code 4 if anything is wrong."""
    from ml.datasets import verify as prove
    from ml.datasets import versions

    ctx = connected()
    found = _named(ctx, version)
    total = len(versions.manifest(ctx, found.id).segments)
    with _progress("verifying", as_json) as bar:
        task = bar.add_task("", total=total)
        wrong = list(prove.problems(ctx, found.id, lambda _: bar.advance(task)))
    emit({"version": found.id, "segments": total, "problems": wrong}, as_json)
    if not as_json:
        for words in wrong:
            say(words)
        say(f"{total} segments of version {found.id[:12]}: {f'{len(wrong)} problems' if wrong else 'all is whole'}")
    if wrong:
        raise typer.Exit(STOPPED)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    version: Annotated[str, typer.Option(help="A version's id or how it begins.")] = "newest",
    form: Annotated[Literal["class-folders", "webdataset", "huggingface"], typer.Option("--as")] = "class-folders",
    split: Annotated[list[str] | None, typer.Option(help="train, validation, holdout; several times.")] = None,
    as_json: Json = False,
) -> None:
    """Write a version as files that other tools read."""
    from ml.datasets import export as write
    from ml.errors import InvalidInputError

    chosen = tuple(split or SPLITS)
    if unknown := set(chosen) - set(SPLITS):
        raise InvalidInputError(f"`--split` must be of {', '.join(SPLITS)}; received {sorted(unknown)[0]!r}")
    ctx = connected()
    found = _named(ctx, version)
    with _progress("exporting", as_json) as bar:
        task = bar.add_task("", total=sum(getattr(found, s) for s in chosen))
        count = write.export(ctx, found.id, path, form, chosen, lambda: bar.advance(task))
    emit({"version": found.id, "path": str(path), "samples": count}, as_json)
    if not as_json:
        say(f"{count} samples of version {found.id[:12]} are in {path}")


@app.command("holdout")
def show_holdout(as_json: Json = False) -> None:
    """The frozen and the growing part of the holdout: size, age, how often each decided."""
    from ml.datasets import holdout

    parts = holdout.parts(connected())
    table = new_table("part", "samples", "since", "uses", "last used")
    for part in parts:
        days = [f"{t:%Y-%m-%d %H:%M}" if t else "–" for t in (part.since, part.last_used)]
        add_row(table, part.name, str(part.samples), days[0], str(part.uses), days[1])
    show(table, [vars(p) for p in parts], as_json)


@app.command()
def freeze_holdout(version: Version = "newest", as_json: Json = False) -> None:
    """Make the holdout of a version the frozen part, for good."""
    from ml.datasets import holdout

    ctx = connected()
    found = _named(ctx, version)
    holdout.freeze(ctx, found.id)
    emit({"version": found.id, "samples": found.holdout}, as_json)
    if not as_json:
        say(f"the {found.holdout} holdout samples of version {found.id[:12]} are the frozen part from now on")


def _named(ctx: "Context", version: str) -> "DatasetVersion":
    from ml.datasets import amend, versions

    return amend.newest(ctx)[0] if version == "newest" else versions.get(ctx, version)


def _progress(what: str, quiet: bool) -> Progress:
    columns: tuple[Any, ...] = (TextColumn(f"  {printable(what)}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet, transient=True)
