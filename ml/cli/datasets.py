"""`evergreen datasets …`: list, show, compare, verify, dedupe and export versions; state of the holdout."""

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

    rows = versions.all_versions(connected().engine, limit)
    table = new_table("#", "version", *SPLITS, "classes", "cause")
    for v in rows:
        add_row(table, str(v.number), v.id[:12], *(str(getattr(v, s)) for s in SPLITS), str(len(v.classes)), v.cause)
    show(table, [vars(v) for v in rows], as_json)


@app.command("show")
def show_version(version: Version = "newest", as_json: Json = False) -> None:
    """One version: classes by split, segments, drops, models trained on it, holdout."""
    from ml.datasets import contents, holdout, versions

    ctx = connected()
    resolved = _resolve(ctx, version)
    manifest, counts = versions.manifest(ctx, resolved.id), contents.counts(ctx, resolved.id)
    drops, models = contents.drops(ctx, resolved.id), contents.models(ctx, resolved.id)
    parts = holdout.parts(ctx)
    body = {
        **vars(resolved),
        "counts": counts,
        "segments": manifest.segments,
        "relabels": len(manifest.relabels),
    }
    body |= {"removals": len(manifest.removals), "class_map": manifest.class_map, "drops": drops, "models": models}
    emit(body | {"holdout_parts": [vars(p) for p in parts]}, as_json)
    if as_json:
        return
    say(f"version {resolved.number}, {resolved.id}")
    say(f"made by {resolved.cause}, after {resolved.parent_id[:12] if resolved.parent_id else 'nothing'}")
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
    difference = contents.difference(ctx, _resolve(ctx, before).id, _resolve(ctx, after).id)
    emit(contents.as_json(difference), as_json)
    if as_json:
        return
    table = new_table("class", "added", "removed")
    for label in sorted(difference.added.keys() | difference.removed.keys()):
        add_row(table, label, f"+{difference.added.get(label, 0)}", f"-{difference.removed.get(label, 0)}")
    console.print(table)
    for (old, new), count in sorted(difference.relabelled.items()):
        say(f"{old} → {new}: {count} samples")
    if not (difference.added or difference.removed or difference.relabelled):
        say("the same samples with the same labels")


@app.command()
def verify(version: Version = "newest", as_json: Json = False) -> None:
    """Prove every byte of a version by its hashes. Exit code 4 if anything is wrong."""
    from ml.datasets import verify as verification
    from ml.datasets import versions

    ctx = connected()
    resolved = _resolve(ctx, version)
    total = len(versions.manifest(ctx, resolved.id).segments)
    with _progress("verifying", as_json) as bar:
        task = bar.add_task("", total=total)
        problems = list(verification.problems(ctx, resolved.id, lambda _: bar.advance(task)))
    emit({"version": resolved.id, "segments": total, "problems": problems}, as_json)
    if not as_json:
        for problem in problems:
            say(problem)
        state = f"{len(problems)} problems" if problems else "all is whole"
        say(f"{total} segments of version {resolved.id[:12]}: {state}")
    if problems:
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
    from ml.datasets import export as exporter
    from ml.errors import InvalidInputError

    chosen = tuple(split or SPLITS)
    if unknown := set(chosen) - set(SPLITS):
        raise InvalidInputError(f"`--split` must be of {', '.join(SPLITS)}; received {sorted(unknown)[0]!r}")
    ctx = connected()
    resolved = _resolve(ctx, version)
    with _progress("exporting", as_json) as bar:
        task = bar.add_task("", total=sum(getattr(resolved, s) for s in chosen))
        count = exporter.export(ctx, resolved.id, path, form, chosen, lambda: bar.advance(task))
    emit({"version": resolved.id, "path": str(path), "samples": count}, as_json)
    if not as_json:
        say(f"{count} samples of version {resolved.id[:12]} are in {path}")


@app.command()
def dedupe(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False, as_json: Json = False
) -> None:
    """Find samples whose mirrored, turned, cropped or recoloured copies are in another split.

    Without --dry-run a new version leaves out the copy on the training or validation side. Nothing is deleted.
    """
    from ml.datasets import copy_backfill
    from ml.datasets import dedupe as deduplication

    ctx = connected()
    made = copy_backfill.fill(ctx)
    found = list(deduplication.leaks(ctx))
    version = None if dry_run else deduplication.remove(ctx, found)
    table = new_table("removed", "split", "label", "copy of", "split", "label")
    for leak in found:
        names = (leak.removed[:12], leak.removed_split, leak.removed_label)
        add_row(table, *names, leak.kept[:12], leak.kept_split, leak.kept_label)
    emit({"thumbnails_made": made, "version": version, "leaks": [vars(leak) for leak in found]}, as_json)
    if as_json:
        return
    console.print(table)
    say(f"{len(found)} samples are copies of samples of another split")
    if version:
        say(f"version {version[:12]} leaves them out")


@app.command("holdout")
def show_holdout(as_json: Json = False) -> None:
    """The frozen and the growing part of the holdout: size, age, how often each decided; what each drop added."""
    from ml.datasets import holdout, holdout_growth

    ctx = connected()
    parts, growth = holdout.parts(ctx), holdout_growth.history(ctx)
    table = new_table("part", "samples", "since", "uses", "last used")
    for part in parts:
        days = [f"{t:%Y-%m-%d %H:%M}" if t else "–" for t in (part.since, part.last_used)]
        add_row(table, part.name, str(part.samples), days[0], str(part.uses), days[1])
    body = {"parts": [vars(p) for p in parts], "growth": [vars(g) for g in growth]}
    emit(body, as_json)
    if as_json:
        return
    console.print(table)
    console.print()
    added = new_table("when", "drop", "holdout", "samples", "groups", "beyond the bound")
    for g in growth:
        numbers = (g.before, g.samples, sum(g.added.values()), sum(g.diverted.values()))
        add_row(added, f"{g.created_at:%Y-%m-%d %H:%M}", g.prefix, *map(str, numbers))
    console.print(added)


@app.command()
def freeze_holdout(version: Version = "newest", as_json: Json = False) -> None:
    """Make the holdout of a version the frozen part, for good."""
    from ml.datasets import holdout

    ctx = connected()
    resolved = _resolve(ctx, version)
    holdout.freeze(ctx, resolved.id)
    emit({"version": resolved.id, "samples": resolved.holdout}, as_json)
    if not as_json:
        say(f"the {resolved.holdout} holdout samples of version {resolved.id[:12]} are the frozen part from now on")


def _resolve(ctx: "Context", version: str) -> "DatasetVersion":
    from ml.datasets import amend, versions

    return amend.newest(ctx)[0] if version == "newest" else versions.get(ctx, version)


def _progress(description: str, quiet: bool) -> Progress:
    columns: tuple[Any, ...] = (TextColumn(f"  {printable(description)}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet, transient=True)
