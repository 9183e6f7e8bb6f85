"""GET /v1/predictions/{id}: a logged prediction; …/explanation: which parts of the image support its label."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from ml.errors import UnavailableError
from ml.imaging.images import Limits
from ml.models import bundle, occlusion
from serving.api.route_classes import requires_role
from serving.api.schemas import LoggedPrediction, problems
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError
from serving.prediction_log import lookup
from serving.prediction_log.log import is_uuid7, timestamp_of
from serving.prediction_log.lookup import LoggedRecord

SECONDS: Final = 3.0
PICTURE_SECONDS: Final = 70.0
_RECENT_SECONDS: Final = 2.0
_LOG_DELAY_SECONDS: Final = 0.1

router = APIRouter(tags=["predictions"], route_class=requires_role("predict", seconds=PICTURE_SECONDS + 4 * SECONDS))

Id = Annotated[UUID, Path(description="As /v1/predict returned it.")]
_PROBLEMS: Final = {404: "No such prediction.", 422: "Not a UUID.", 503: "Not in this host's spool, and the "
                  "catalog does not answer."}  # fmt: skip


@router.get(
    "/v1/predictions/{prediction_id}",
    summary="A prediction from the log",
    response_model=LoggedPrediction,
    responses=problems(**{f"_{status}": text for status, text in _PROBLEMS.items()}),
)
async def prediction(prediction_id: Id, dependencies: Injected, request: Request) -> LoggedPrediction:
    """Found as soon as it is answered on the host that answered, and everywhere a second or two later.

    With a key, the predictions that were asked for with it.
    """
    record = await _find(dependencies, prediction_id, request.state.caller)
    return LoggedPrediction.model_validate(
        record.row
        | {
            "stored": "replica" in record.row,
            "image_kept": bool(record.spooled_image or record.row.get("image_object")),
            "feedback": record.feedback,
        }
    )


@router.get(
    "/v1/predictions/{prediction_id}/explanation",
    summary="What in the image speaks for the label",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The part of the image that the model saw."},
        **problems(
            _404="No such prediction, or the model has no such label.",
            _409="It was given by another model than the live one.",
            _410="The image was not kept, or is kept no longer.",
            _422="Not a UUID, or the image cannot be decoded any more.",
            _503="No model yet, too many pictures are being made, or the catalog or bucket does not answer.",
        ),
    },
)
async def explanation(
    prediction_id: Id,
    dependencies: Injected,
    request: Request,
    label: Annotated[str | None, Query(max_length=200, description="Another label than the one answered.")] = None,
) -> Response:
    """Red where covering the image makes the label less likely. Made at low priority, in a second or so."""
    live, record = dependencies.predictor.live(), await _find(dependencies, prediction_id, request.state.caller)
    version = record.row["model_version"]
    if version != live.version:
        detail = (
            f"this was answered by model version {version}; only answers of the live one, {live.version}, are explained"
        )
        raise ProblemError(409, "other_model", detail)
    explained_label = label or record.row["label"]
    if explained_label not in live.model.info.labels:
        raise ProblemError(404, "no_label", f"model version {version} has no label `{explained_label}`")
    data = await dependencies.storage.run_within(SECONDS, lookup.read_image, record, dependencies.store)
    limits = Limits(dependencies.settings.max_image_bytes, dependencies.settings.max_image_pixels)
    folder = (bundle.cache_folder(dependencies.settings.home) / live.digest).absolute()
    variant = live.model.variant, live.model.runtime.name
    picture = await dependencies.pictures.run_within(
        PICTURE_SECONDS, occlusion.explain, folder, variant, data, explained_label, limits
    )
    return Response(picture, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


async def _find(dependencies: Dependencies, identifier: UUID, caller: str | None) -> LoggedRecord:
    """Look up a prediction, in the spool first: what leaves it is stored already.

    Raises:
        ProblemError: 404 it does not exist, or belongs to another caller.
        UnavailableError: the catalog does not answer, so it is unknown whether it is stored.
    """
    if not is_uuid7(identifier):
        raise ProblemError(404, "not_found", f"`{identifier}` is no UUIDv7: use the `id` that /v1/predict returned")
    record = await _look_up_logged(dependencies, identifier)
    if record is None or (caller is not None and record.row["caller"] != caller):
        raise ProblemError(404, "not_found", f"there is no prediction {identifier} in the log; is it past retention?")
    return record


async def _look_up_logged(dependencies: Dependencies, identifier: UUID) -> LoggedRecord | None:
    """As `_look_up`, but a recent prediction is waited for: it is logged just after its response is sent."""
    deadline = time.monotonic() + _RECENT_SECONDS
    while datetime.now(UTC).timestamp() - timestamp_of(identifier).timestamp() < _RECENT_SECONDS:
        with suppress(UnavailableError):
            if record := await _look_up(dependencies, identifier):
                return record
        if time.monotonic() > deadline:  # an id may be of the future
            break
        await asyncio.sleep(_LOG_DELAY_SECONDS)
    return await _look_up(dependencies, identifier)


async def _look_up(dependencies: Dependencies, identifier: UUID) -> LoggedRecord | None:
    record = await dependencies.storage.run_within(
        SECONDS, lookup.find_in_spool, dependencies.settings.home / "spool", identifier
    )
    return record or await dependencies.database.run_within(
        SECONDS, lookup.find_stored, dependencies.engine, identifier
    )
