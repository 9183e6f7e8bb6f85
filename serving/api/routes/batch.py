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
from serving.api.predict_params import PARAMETERS, asked
from serving.api.route_classes import needs
from serving.api.schemas import BatchAnswer, BatchUrls, problems
from serving.dependencies import Dependencies
from serving.errors import ProblemError
from serving.inference.predictor import PredictionRequest

_SECONDS: Final = 120.0
"""That a batch may take, where a single image has `answer_seconds`."""

router = APIRouter(tags=["predictions"], route_class=needs("predict", seconds=_SECONDS, direct=True))

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
    wanted = asked(request)
    most = dependencies.settings.max_batch_images
    items = _items(await request.body(), request.headers.get("content-type", ""), most)
    if len(items) > most:
        raise ProblemError(413, "too_many_images", f"more than {most} images in one request")
    common = PredictionRequest(
        body=b"",
        content_type="",
        top=wanted.top,
        client_key=wanted.client_key,
        logged=wanted.logged,
        started=started,
        caller=request.state.caller,
    )
    found = await batch.answers(dependencies, items, common)
    return Response(orjson.dumps({"results": found}), media_type=_JSON)


def _items(body: bytes, content_type: str, most: int) -> list[Item]:
    """One more than `most`, where there are more."""
    media = content_type.partition(";")[0].strip().lower()
    if media == FORM:
        return [Item(name, data) for name, data in files(body, content_type, most + 1)]
    if media == _JSON:
        try:
            return [Item(url, None) for url in BatchUrls.model_validate_json(body).urls[: most + 1]]
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(("body", *map(str, first["loc"])))
            raise InvalidInputError(f"`{where}`: {first['msg']}") from error
    raise ProblemError(
        415,
        "unsupported_media_type",
        f"`Content-Type: {media[:100]}` is not read here; send parts `file` of `{FORM}`, or `urls` as `{_JSON}`",
    )
