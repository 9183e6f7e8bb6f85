"""`evergreen predict | feedback`: ask the running service, as any other client would."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ml.cli.output import Json, add_row, emit, new_table, say, show

_MORE = {"new": "", "known": "; this end user had spoken before", "waiting": "; it waits to be stored"}

if TYPE_CHECKING:
    from serving.client import Client


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False)],
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many labels `--json` tells.")] = 5,
    as_json: Json = False,
) -> None:
    """Ask the running service."""
    from ml.errors import InvalidInputError
    from serving.client import RefusedError

    table = new_table("file", "label", "probability", "model", "ms")
    answers = []
    with _service() as service:
        for path in files:
            try:
                prediction = service.predict(path.read_bytes(), top=top)
            except RefusedError as error:
                raise InvalidInputError(f"{path}: {error}") from error
            answers.append({"file": str(path), **prediction.raw})
            add_row(
                table,
                str(path),
                f"{prediction.label}, {prediction.rejected}" if prediction.rejected else prediction.label,
                f"{prediction.probability:.1%}",
                f"v{prediction.model_version}",
                f"{prediction.milliseconds:.1f}",
            )
    show(table, answers, as_json)


def feedback(
    prediction: Annotated[
        str,
        typer.Argument(metavar="ID", help="The prediction's id, as `predict --json` tells it; or your own key for it."),
    ],
    label: Annotated[str, typer.Argument(help="What it should have said.")],
    source: Annotated[str, typer.Option(help="The end user who says so; the last word counts.")] = "user",
    comment: Annotated[str | None, typer.Option(help="Is kept.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a prediction should have been."""
    with _service() as service:
        named = {_name_of(prediction): prediction}
        outcome = service.feedback(label, **named, source=source, comment=comment)
    emit({**named, "label": label, "source": source, "kept": outcome}, as_json)
    if not as_json:
        say(f"{source} says {label}{_MORE[outcome]}")


def _name_of(prediction: str) -> str:
    try:
        UUID(prediction)
    except ValueError:
        return "client_key"
    return "prediction_id"


@contextmanager
def _service() -> "Iterator[Client]":
    """The client of the service that the settings name, with the key that they name; its errors as the CLI's own."""
    from ml.errors import EvergreenError, InvalidInputError, UnavailableError
    from ml.settings import Settings
    from serving.client import Client, RefusedError, ServiceError, UnreachableError

    settings = Settings.load(os.environ)
    key = settings.api_key.get_secret_value() if settings.api_key else None
    try:
        with Client(settings.service_url, key) as client:
            yield client
    except RefusedError as error:
        raise InvalidInputError(str(error)) from error
    except UnreachableError as error:
        raise UnavailableError(str(error)) from error
    except ServiceError as error:
        raise EvergreenError(str(error)) from error
