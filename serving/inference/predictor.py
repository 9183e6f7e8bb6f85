"""Answers a prediction request: extract, decode, infer, encode; then log. Run by the inference queue."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal
from uuid import UUID, uuid4

import numpy as np
import orjson

from ml.imaging import images
from ml.imaging.images import Limits, ModelInput
from ml.settings import Settings
from serving.errors import ProblemError
from serving.inference.queue import InferenceQueue
from serving.prediction_log.log import LOGGED_TOP, Prediction, PredictionLog, uuid7
from serving.rollout import canary
from serving.rollout.serving_model import ModelSlot, ServingModel
from serving.rollout.shadow import ShadowRunner
from serving.telemetry.metrics import Metrics
from serving.telemetry.stages import Stages

log = logging.getLogger(__name__)

NO_MODEL_RETRY: Final = {"retry-after": "2"}


Reason = Literal["unsure", "unfamiliar"]


@dataclass(frozen=True)
class RejectPolicy:
    """When an answer is rejected as unreliable: low confidence, or an unfamiliar image. By default never.

    Attributes:
        min_confidence: answers with less confidence are `unsure`.
        max_distance: images at a greater distance are `unfamiliar`; one of a hundred familiar images exceeds 1.
    """

    min_confidence: float = 0.0
    max_distance: float | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "RejectPolicy":
        return cls(settings.reject_below, settings.reject_beyond)

    def reason(self, confidence: float, distance: float | None) -> Reason | None:
        """Why an answer is rejected, or None. Distance is checked first: far away, confidence means nothing."""
        if self.max_distance is not None and distance is not None and distance > self.max_distance:
            return "unfamiliar"
        return "unsure" if confidence < self.min_confidence else None


@dataclass(frozen=True)
class PredictionRequest:
    """A prediction request as received.

    Attributes:
        started: `time.perf_counter` at its arrival.
        live_only: use the live model even while a candidate is on trial.
    """

    body: bytes
    content_type: str
    top: int
    client_key: str | None
    logged: bool
    started: float
    caller: str | None = None
    stages: Stages | None = None
    request_id: str = ""
    live_only: bool = False


@dataclass(frozen=True, slots=True)
class _Inference:
    """A model's result for an image; times are those of `time.perf_counter`.

    Attributes:
        ranking: labels with their probabilities, the likeliest first.
        distance: of the features from those of the training set, None if the bundle has no reference for it.
    """

    id: UUID
    image: bytes
    decoded: ModelInput
    label: str
    confidence: float
    ranking: list[dict[str, object]]
    distance: float | None
    started_at: float
    decoded_at: float
    ended_at: float


class Predictor:
    """Answers with the model that is live when the request is run.

    Args:
        read_image: extracts the encoded image from a body, given its content type.
    """

    def __init__(
        self,
        slot: ModelSlot,
        prediction_log: PredictionLog,
        limits: Limits,
        metrics: Metrics,
        reject: RejectPolicy,
        shadow: ShadowRunner,
        queue: InferenceQueue,
        read_image: Callable[[bytes, str], bytes],
    ) -> None:
        self._slot, self._log, self._limits, self._metrics = slot, prediction_log, limits, metrics
        self._reject, self._shadow, self._queue, self._read_image = reject, shadow, queue, read_image

    def live(self) -> ServingModel:
        """The live model.

        Raises:
            ProblemError: 503, there is none yet.
        """
        live = self._slot.get()
        if live is None:
            raise ProblemError(503, "no_model", "no model is live yet; ask /readyz when there is", NO_MODEL_RETRY)
        return live

    def predict_json(self, request: PredictionRequest) -> bytes:
        """As `predict`, as JSON."""
        return orjson.dumps(self.predict(request))

    def predict(self, request: PredictionRequest) -> dict[str, object]:
        """The body of a 200 response (`serving.api.schemas.Answer`); the queue's thread logs it once it is delivered.

        Raises:
            ProblemError: no model, unreadable form, or the model's output is not a number.
            ImageRejectedError: the image cannot be decoded.
        """
        live = self.live()  # read once, so that the whole answer comes from one model
        on_trial = request.logged and not request.live_only
        key = (request.client_key or request.request_id or uuid4().hex) if on_trial else None
        return canary.route(live, key, lambda chosen: self._answer(chosen, request))

    def _answer(self, model: ServingModel, request: PredictionRequest) -> dict[str, object]:
        inference = self._infer(model, request)
        rejected = self._reject.reason(inference.confidence, inference.distance)
        milliseconds = _milliseconds(request.started, time.perf_counter())
        answer: dict[str, object] = {
            "id": str(inference.id),
            "model_version": model.version,
            **inference.ranking[0],
            "top": inference.ranking[: request.top],
            "rejected": rejected is not None,
            "reason": rejected,
            "milliseconds": milliseconds,
        }
        if request.stages is not None:
            request.stages.append(("decode", inference.started_at, inference.decoded_at))
            request.stages.append(("inference", inference.decoded_at, inference.ended_at))
        self._queue.defer(partial(self._log_answer, model, request, inference, rejected, milliseconds))
        return answer

    def _log_answer(
        self,
        model: ServingModel,
        request: PredictionRequest,
        inference: _Inference,
        rejected: str | None,
        milliseconds: float,
    ) -> None:
        if rejected:
            self._metrics.rejected.labels(rejected).inc()
        self._metrics.predictions.labels(str(model.version)).inc()
        if request.logged:
            try:
                self._log.append(_row(model, request, inference, rejected, milliseconds))
            except Exception:
                self._metrics.shed.labels("row").inc()
                raise
            result = inference.decoded.pixels, inference.label, inference.confidence
            self._shadow.submit(model, inference.id, inference.image, *result)

    def _infer(self, model: ServingModel, request: PredictionRequest) -> _Inference:
        started_at = time.perf_counter()
        if request.stages:
            request.stages.append(("queue", request.stages[-1][2], started_at))
        info = model.model.info
        image = self._read_image(request.body, request.content_type)
        decoded = images.decode_input(image, info.image_size, info.channels, self._limits)
        decoded_at = time.perf_counter()
        (probabilities, *_), distances = model.model.predict_with_distances(decoded.pixels[np.newaxis])
        ended_at = time.perf_counter()
        if not np.isfinite(probabilities).all():
            log.error("model version %d returned a probability that is not finite", model.version)
            detail = f"model version {model.version} gave no usable answer for this image"
            raise ProblemError(500, canary.MODEL_FAILED, detail)
        order = np.argsort(probabilities)[::-1][: max(request.top, LOGGED_TOP)]
        return _Inference(
            id=uuid7(),
            image=image,
            decoded=decoded,
            label=info.labels[order[0]],
            confidence=round(float(probabilities[order[0]]), 6),
            ranking=[{"label": info.labels[i], "probability": round(float(probabilities[i]), 6)} for i in order],
            distance=None if distances is None else round(float(distances[0]), 4),
            started_at=started_at,
            decoded_at=decoded_at,
            ended_at=ended_at,
        )


def _row(
    model: ServingModel, request: PredictionRequest, inference: _Inference, rejected: str | None, milliseconds: float
) -> Prediction:
    decoded = inference.decoded
    return Prediction(
        id=inference.id,
        model_version=model.version,
        variant=model.model.variant,
        label=inference.label,
        probability=inference.confidence,
        top=inference.ranking[:LOGGED_TOP],
        rejected=rejected,
        distance=inference.distance,
        milliseconds=milliseconds,
        queue_milliseconds=_milliseconds(request.started, inference.started_at),
        decode_milliseconds=_milliseconds(inference.started_at, inference.decoded_at),
        inference_milliseconds=_milliseconds(inference.decoded_at, inference.ended_at),
        width=decoded.width,
        height=decoded.height,
        brightness=round(int(decoded.pixels.sum(dtype=np.uint32)) / (255 * decoded.pixels.size), 6),
        caller=request.caller,
        client_key=request.client_key,
        image=inference.image,
    )


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
