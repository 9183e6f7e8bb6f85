"""/v2: the Open Inference Protocol, so that clients of KServe and Triton work."""

import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel

from ml.models.bundle import BundleInfo
from serving.api.route_classes import requires_role
from serving.api.schemas import problems
from serving.dependencies import Dependencies, Injected
from serving.errors import RETRY, ProblemError
from serving.inference import open_inference
from serving.inference.open_inference import InferParams, InferResponse, InferRows
from serving.inference.predictor import PredictionRequest
from serving.rollout.serving_model import ServingModel

router = APIRouter(tags=["open inference protocol"])
guarded = APIRouter(tags=["open inference protocol"], route_class=requires_role("predict"))

_BINARY: Final = "application/octet-stream"
_HEADER_LENGTH: Final = "inference-header-content-length"
_TRIES: Final = 3
_ALL_LABELS: Final = 2**31
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

Name = Annotated[str, Path(max_length=200)]
Version = Annotated[str, Path(max_length=20)]
JsonLength = Annotated[str | None, Header(alias=_HEADER_LENGTH, description="Bytes of JSON before the binary tensors.")]


class Live2(BaseModel):
    live: bool = True


class Ready2(BaseModel):
    ready: bool = True


class Server(BaseModel):
    name: str = "evergreen"
    version: str
    extensions: list[str] = ["binary_tensor_data"]


class ModelMetadata(BaseModel):
    """Either input will do: pixels of the model's shape, or encoded images."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


@router.get("/v2", summary="The server, as the protocol tells it")
async def server() -> Server:
    try:
        return Server(version=version("evergreen"))
    except PackageNotFoundError:  # run from a checkout or an image that holds the bare code
        return Server(version="unknown")


@router.get("/v2/health/live", summary="The worker is alive")
async def live() -> Live2:
    return Live2()


@router.get("/v2/health/ready", summary="The worker can answer", responses=problems(_503="No model yet."))
async def ready(dependencies: Injected) -> Ready2:
    dependencies.access.check_ready()
    dependencies.predictor.live()
    return Ready2()


_MODEL: Final = problems(_404="No such model, or another version answers now.", _503="No model yet.")


@router.get("/v2/models/{name}/ready", summary="The model can answer", responses=_MODEL)
async def model_ready(name: Name, dependencies: Injected) -> Ready2:
    dependencies.access.check_ready()
    _model(dependencies, name)
    return Ready2()


@router.get("/v2/models/{name}/versions/{number}/ready", summary="This version can answer", responses=_MODEL)
async def version_ready(name: Name, number: Version, dependencies: Injected) -> Ready2:
    dependencies.access.check_ready()
    _model(dependencies, name, number)
    return Ready2()


@guarded.get("/v2/models/{name}", summary="The model's inputs and outputs", responses=_MODEL)
async def model_metadata(name: Name, dependencies: Injected) -> ModelMetadata:
    return _metadata(_model(dependencies, name), name)


@guarded.get("/v2/models/{name}/versions/{number}", summary="This version's", responses=_MODEL)
async def version_metadata(name: Name, number: Version, dependencies: Injected) -> ModelMetadata:
    return _metadata(_model(dependencies, name, number), name)


def _metadata(live: ServingModel, name: str) -> ModelMetadata:
    info = live.model.info
    metadata = open_inference.metadata(name, live.version, info.image_size, info.channels, len(info.labels))
    return ModelMetadata(**metadata)


_INFER: Final[dict[str, Any]] = {
    "response_model": InferResponse,
    "responses": {
        200: {"content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(
            _400="The request does not follow the protocol.",
            _404="No such model, or another version answers now.",
            _422="An image cannot be read; see `code`.",
            _503="No model yet, or too many are waiting: see `Retry-After`.",
        ),
    },
    "openapi_extra": _BODY,
}


@guarded.post("/v2/models/{name}/infer", summary="Say what images show", **_INFER)
async def infer(name: Name, request: Request, dependencies: Injected, json_length: JsonLength = None) -> Response:
    """Every image becomes a row of each output, and of the prediction log; `id` has the ids there."""
    return await _infer(name, None, request, dependencies, json_length)


@guarded.post("/v2/models/{name}/versions/{number}/infer", summary="The same, of this version only", **_INFER)
async def infer_by(
    name: Name, number: Version, request: Request, dependencies: Injected, json_length: JsonLength = None
) -> Response:
    """404 where another version answers."""
    return await _infer(name, number, request, dependencies, json_length)


async def _infer(
    name: str, number: str | None, request: Request, dependencies: Dependencies, json_length: str | None
) -> Response:
    started = time.perf_counter()
    info = _model(dependencies, name, number).model.info
    dependencies.inference.check()
    body = await request.body()
    common = PredictionRequest(
        body=b"",
        content_type=_BINARY,
        top=_ALL_LABELS,
        client_key=None,
        logged=True,
        started=started,
        caller=request.state.caller,
        request_id=request.scope["request_id"],
        live_only=number is not None,
    )
    job = _InferJob(dependencies, body, json_length, info, common)
    params, rows = await dependencies.inference.run(_InferJob.run, job)
    if number is not None and str(rows.version) != number:
        raise _not_found(f"version {number} was replaced by version {rows.version} meanwhile")
    content, length = open_inference.encode_response(params, rows, name)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type=_BINARY, headers={_HEADER_LENGTH: str(length)})


@dataclass(frozen=True)
class _InferJob:
    """One request as one job of the inference queue."""

    dependencies: Dependencies
    body: bytes
    json_length: str | None
    info: BundleInfo
    common: PredictionRequest

    def run(self) -> tuple[InferParams, InferRows]:
        """Predict all images with one model version; if the model was replaced meanwhile, predict them again."""
        params = open_inference.parse_request(self.body, self.json_length, self.info.image_size, self.info.channels)
        printable = params.id if params.id and params.id.isprintable() and params.id.isascii() else None
        common = replace(self.common, client_key=printable)
        for _ in range(_TRIES):
            answers: list[dict[str, Any]] = [
                self.dependencies.predictor.predict(replace(common, body=image)) for image in params.images
            ]
            live = self.dependencies.predictor.live()
            models = {model.version: model for model in (live, live.trial and live.trial.candidate) if model}
            versions = {answer["model_version"] for answer in answers}
            if len(versions) == 1 and (model := models.get(*versions)):
                return params, _to_rows(answers, model)
        raise ProblemError(
            503, "no_answer", "the model was replaced during the request, several times; try again", RETRY
        )


def _to_rows(answers: list[dict[str, Any]], live: ServingModel) -> InferRows:
    column = {label: i for i, label in enumerate(live.model.info.labels)}
    probabilities = np.zeros((len(answers), len(column)), np.float32)
    for row, answer in zip(probabilities, answers, strict=True):
        for candidate in answer["top"]:
            row[column[candidate["label"]]] = candidate["probability"]
    return InferRows(live.version, probabilities, [a["label"] for a in answers], [a["id"] for a in answers])


def _model(dependencies: Dependencies, name: str, number: str | None = None) -> ServingModel:
    """Raises ProblemError: 404 for another name or version, 503 while there is none."""
    if name != dependencies.settings.model_name:
        raise _not_found(f"there is no model {name!r} here; `{dependencies.settings.model_name}` is")
    live_model = dependencies.predictor.live()
    if number is not None and number != str(live_model.version):
        raise _not_found(f"version {number!r} is not live; version {live_model.version} is")
    return live_model


def _not_found(detail: str) -> ProblemError:
    return ProblemError(404, "not_found", detail)
