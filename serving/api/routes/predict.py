"""POST /v1/predict."""

import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from serving.api.predict_params import PARAMETERS, parse_params
from serving.api.route_classes import requires_role
from serving.api.schemas import Answer, problems
from serving.dependencies import Dependencies
from serving.inference.predictor import PredictionRequest
from serving.telemetry import stages

router = APIRouter(tags=["predictions"], route_class=requires_role("predict", raw=True))

_SMALL_BYTES: Final = 16_384
"""Bodies up to this size usually decode in no time; a hostile one of this size takes up to 0.4 s."""
_IMAGE: Final = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The image: JPEG, PNG, WebP, GIF, TIFF or BMP.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "image/jpeg": _IMAGE,
            "image/png": _IMAGE,
            "application/octet-stream": _IMAGE,
        },
    }
}


@router.post(
    "/v1/predict",
    summary="Say what an image shows",
    response_model=Answer,
    responses=problems(
        _400="The form is broken.",
        _413="The body is too large.",
        _415="The content type is not read here.",
        _422="Not an image, a broken one, too many pixels, or a parameter that does not fit; see `code`.",
        _503="No model yet (`no_model`), or too many are waiting (`overloaded`): see `Retry-After`.",
    ),
    openapi_extra=_BODY | {"parameters": PARAMETERS},
)
async def predict(request: Request) -> Response:
    """Send the image as the part `file` of a form or as the raw body.

    Every answer is remembered in the prediction log, with the model version that gave it.
    """
    started = time.perf_counter()
    dependencies: Dependencies = request.app.state.dependencies
    # Before the body is read: a request that cannot be answered need not be uploaded.
    dependencies.predictor.live()
    dependencies.inference.check()
    params = parse_params(request)
    body, request_stages = await request.body(), stages.from_scope(request.scope)
    if request_stages is not None:
        request_stages.append(("receive", started, time.perf_counter()))
    prediction_request = PredictionRequest(
        body=body,
        content_type=request.headers.get("content-type", ""),
        top=params.top,
        client_key=params.client_key,
        logged=params.logged,
        started=started,
        caller=request.state.caller,
        stages=request_stages,
        request_id=request.scope.get("request_id", ""),
    )
    is_small = len(body) <= _SMALL_BYTES
    return Response(
        await dependencies.inference.run(dependencies.predictor.predict_json, prediction_request, is_small),
        media_type="application/json",
    )
