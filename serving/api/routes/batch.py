"""POST /v1/predict/batch."""

import time
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from ml.errors import InvalidInputError
from serving.api import batch
from serving.api.batch import Item
from serving.api.multipart import FORM, files
from serving.api.predict_params import PARAMETERS, parse_params
from serving.api.route_classes import requires_role
from serving.api.schemas import BatchAnswer, BatchUrls, problems
from serving.dependencies import Dependencies
from serving.errors import ProblemError
from serving.inference.predictor import PredictionRequest

_SECONDS: Final = 120.0
"""Answer timeout of a batch; that of a single image is the setting `answer_seconds`."""

router = APIRouter(tags=["predictions"], route_class=requires_role("predict", seconds=_SECONDS, raw=True))

_JSON: Final = "application/json"
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Images as parts `file` of a form, or as URLs in our own buckets.",
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            _JSON: {"schema": BatchUrls.model_json_schema()},
        },
    }
}


@router.post(
    "/v1/predict/batch",
    summary="Say what many images show",
    response_model=BatchAnswer,
    responses=problems(
        _400="The form is broken.",
        _413="The body is too large, or there are too many images.",
        _415="The content type is not read here.",
        _422="No image at all, or a parameter that does not fit.",
        _503="No model yet (`no_model`), or too many are waiting (`overloaded`): see `Retry-After`.",
    ),
    openapi_extra=_BODY | {"parameters": PARAMETERS},
)
async def predict_batch(request: Request) -> Response:
    """An answer or a problem for each image, in order; every answer is logged as one of `/v1/predict` is.

    With a client key, the images' keys are `KEY/0`, `KEY/1` and so on.
    """
    started = time.perf_counter()
    dependencies: Dependencies = request.app.state.dependencies
    dependencies.predictor.live()
    dependencies.inference.check()
    params = parse_params(request)
    max_images = dependencies.settings.max_batch_images
    items = _items(await request.body(), request.headers.get("content-type", ""), max_images)
    if len(items) > max_images:
        raise ProblemError(413, "too_many_images", f"more than {max_images} images in one request")
    common = PredictionRequest(
        body=b"",
        content_type="",
        top=params.top,
        client_key=params.client_key,
        logged=params.logged,
        started=started,
        caller=request.state.caller,
    )
    results = await batch.predict_all(dependencies, items, common)
    return Response(orjson.dumps({"results": results}), media_type=_JSON)


def _items(body: bytes, content_type: str, max_images: int) -> list[Item]:
    """The images of a body; at most `max_images` + 1, so that the caller can tell when there are too many."""
    media = content_type.partition(";")[0].strip().lower()
    if media == FORM:
        return [Item(name, data) for name, data in files(body, content_type, max_images + 1)]
    if media == _JSON:
        try:
            return [Item(url, None) for url in BatchUrls.model_validate_json(body).urls[: max_images + 1]]
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = ".".join(("body", *map(str, first["loc"])))
            raise InvalidInputError(f"`{field}`: {first['msg']}") from error
    raise ProblemError(
        415,
        "unsupported_media_type",
        f"`Content-Type: {media[:100]}` is not read here; send parts `file` of `{FORM}`, or `urls` as `{_JSON}`",
    )
