"""`evergreen tune`: hyperparameter search for a better recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml.cli.output import Json, add_row, connected, console, emit, new_table, say

if TYPE_CHECKING:
    from ml.tuning.search import BestRecipe

_SHOWN = 10


def tune(
    trials: Annotated[int, typer.Option(min=1, help="Of the study in all, whoever does them.")] = 20,
    version: Annotated[str | None, typer.Option(help="Dataset version; the newest by default.")] = None,
    study: Annotated[str | None, typer.Option(help="Its name; workers that give the same one share the work.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many a trial.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Settings file for the best recipe; recipe.env in the data folder by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for a better training recipe on the validation split. Several shells may work on one study."""
    from ml.tuning.search import search

    with console.status("starting", spinner="dots") as status:

        def on_epoch(trial: int, epoch: int, epochs: int, accuracy: float) -> None:
            status.update(f"trial {trial}: epoch {epoch}/{epochs}, accuracy {accuracy:.1%}")

        result = search(connected(), version, trials=trials, name=study, epochs=epochs, file=output, progress=on_epoch)
    emit(vars(result), as_json)
    if not as_json:
        _report(result)


def _report(result: "BestRecipe") -> None:
    table = new_table("trial", "accuracy", "epochs", "state", "settings")
    for row in result.trials[:_SHOWN]:
        accuracy = f"{row['accuracy']:.1%}" if row["accuracy"] is not None else "–"
        add_row(table, str(row["trial"]), accuracy, str(row["epochs"]), row["state"], _describe(row["settings"]))
    console.print(table)
    if len(result.trials) > _SHOWN:
        say(f"and {len(result.trials) - _SHOWN} more: study {result.study} in MLflow, run {result.run_id}")
    if result.file is None:
        say(f"nothing was better than the settings as they are ({result.first:.1%}); nothing is written")
    else:
        say(f"{result.best:.1%}, before {result.first:.1%}: written to {result.file}")


def _describe(settings: dict[str, Any]) -> str:
    values = {k: f"{v:.2g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items())
