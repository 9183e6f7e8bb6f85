"""`evergreen erase`: takes images out of every store, or says where they are."""

from typing import TYPE_CHECKING, Annotated

import typer

from ml.cli.output import STOPPED, Actor, Json, actor_name, connected, emit, say

if TYPE_CHECKING:
    from ml.context import Context
    from ml.erasure.receipt import Receipt
    from ml.erasure.selection import Selection


def erase(
    images: Annotated[list[str] | None, typer.Argument(help="SHA-256 of images, wherever they are.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; is kept.")] = None,
    drop: Annotated[str | None, typer.Option(help="All that drops at this folder brought, `drops/NAME/`.")] = None,
    subject: Annotated[str | None, typer.Option(help="All of this subject (column `subject` of a drop).")] = None,
    prediction: Annotated[str | None, typer.Option(help="The image of the answer with this id.")] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Remove nothing: say where the images are.")] = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Erase images from every store, for good. Exit code 4 if something is left, or if a scan found any."""
    from ml.errors import InvalidInputError

    selection = _selection(images, drop, subject, prediction)
    if scan:
        _scan(connected(), selection, as_json)
        return
    if not reason:
        raise InvalidInputError("`--reason` must say why the images are erased")
    from ml.erasure import erase as erasure

    receipt = erasure.erase(connected(), selection, actor=actor_name(actor), reason=reason)
    emit(receipt, as_json)
    if not as_json:
        _print(receipt)
    if receipt.left:
        raise typer.Exit(STOPPED)


def _selection(images: list[str] | None, drop: str | None, subject: str | None, prediction: str | None) -> "Selection":
    from ml.erasure import selection
    from ml.errors import InvalidInputError

    if sum(bool(option) for option in (images, drop, subject, prediction)) != 1:
        raise InvalidInputError("say what to erase by one of: SHA-256 of images, --drop, --subject, --prediction")
    if images:
        return selection.of_hashes(images)
    if prediction:
        return selection.of_prediction(prediction)
    return selection.of_drop(drop) if drop else selection.of_subject(subject or "")


def _scan(ctx: "Context", selection: "Selection", as_json: bool) -> None:
    from ml.erasure import erase as erasure

    swept = erasure.scan(ctx, selection)
    emit(swept, as_json)
    if not as_json:
        for store, result in swept.items():
            say(f"{store}: {result.objects} objects, {result.bytes} bytes, {result.rows} rows")
            for note in result.notes:
                say(f"  {note}")
    if any(result.objects or result.rows for result in swept.values()):
        raise typer.Exit(STOPPED)


def _print(receipt: "Receipt") -> None:
    say(f"erasure {receipt.id}: {receipt.images} images, {receipt.samples} of them samples of the data")
    for store, counts in receipt.stores.items():
        if any(counts.values()):
            say(f"  {store}: {counts['objects']} objects, {counts['bytes']} bytes, {counts['rows']} rows removed")
    say(f"models that learned from them: {', '.join(f'v{m}' for m in receipt.models) or 'none'}")
    say(f"dataset versions that can no longer be rebuilt: {len(receipt.lost_versions)}")
    for note in receipt.notes:
        say(note)
    for sentence in receipt.left:
        say(f"left: {sentence}")
    say("not finished: erase again, or leave it to `maintain`" if receipt.left else "a scan of every store found none")
