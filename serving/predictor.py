"""Bytes in, answer out: extract, decode, infer, encode; then log. Run by the line."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import numpy as np
import orjson

from ml import images
from ml.images import Limits, Look
from serving import routing
from serving.body import image_bytes
from serving.ids import uuid7
from serving.line import Line
from serving.metrics import Metrics
from serving.model_slot import Live, ModelSlot
from serving.prediction_log import LOGGED_TOP, Prediction, PredictionLog
from serving.problems import ProblemError
from serving.reject import Reject
from serving.shadow import Shadow
from serving.stages import Stages

log = logging.getLogger(__name__)

NO_MODEL_RETRY: Final = {"retry-after": "2"}


@dataclass(frozen=True)
class Question:
    """A request as it came.

    Attributes:
        started: `time.perf_counter` at its arrival.
        live_only: the live model is asked for, whatever is tried beside it.
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


class Predictor:
    """Answers from whatever model is live when its turn comes."""

    def __init__(
        self,
        slot: ModelSlot,
        prediction_log: PredictionLog,
        limits: Limits,
        metrics: Metrics,
        reject: Reject,
        shadow: Shadow,
        line: Line,
    ) -> None:
        self._line = line
        self._slot, self._log, self._limits, self._metrics = slot, prediction_log, limits, metrics
        self._reject, self._shadow = reject, shadow

    def live(self) -> Live:
        """The live model.

        Raises:
            ProblemError: 503, there is none yet.
        """
        live = self._slot.take()
        if live is None:
            raise ProblemError(503, "no_model", "no model is live yet; ask /readyz when there is", NO_MODEL_RETRY)
        return live

    def answer(self, question: Question) -> bytes:
        """As `found`, as JSON."""
        return orjson.dumps(self.found(question))

    def found(self, question: Question) -> dict[str, object]:
        """A 200 answer (`serving.schemas.Answer`); logged by the line as soon as it is on its way.

        Raises:
            ProblemError: no model, unreadable form, or the model's output is not a number.
            ImageRejectedError: the image cannot be decoded.
        """
        live = self.live()  # once: the whole answer comes from it, or from what is tried beside it
        trying = question.logged and not question.live_only
        key = (question.client_key or question.request_id or uuid4().hex) if trying else None
        return routing.answer(live, key, lambda chosen: self._answer(chosen, question))

    def _answer(self, live: Live, question: Question) -> dict[str, object]:
        made = self._judge(live, question)
        rejected = self._reject.reason(made.confidence, made.distance)
        milliseconds = _milliseconds(question.started, time.perf_counter())
        answer: dict[str, object] = {
            "id": str(made.id),
            "model_version": live.version,
            **made.ranking[0],
            "top": made.ranking[: question.top],
            "rejected": rejected is not None,
            "reason": rejected,
            "milliseconds": milliseconds,
        }
        if question.stages is not None:
            question.stages.append(("decode", made.begun, made.decoded))
            question.stages.append(("inference", made.decoded, made.inferred))
        self._line.afterwards(partial(self._remember, live, question, made, rejected, milliseconds))
        return answer

    def _remember(
        self, live: Live, question: Question, made: "_Judged", rejected: str | None, milliseconds: float
    ) -> None:
        if question.logged:
            try:
                self._log.append(_row(live, question, made, rejected, milliseconds))
            except Exception:
                self._metrics.shed.labels("row").inc()
                raise
            self._shadow.look(live, made.id, made.image, made.seen.pixels, made.label, made.confidence)
        if rejected:
            self._metrics.rejected.labels(rejected).inc()
        self._metrics.predictions.labels(str(live.version)).inc()

    def _judge(self, live: Live, question: Question) -> "_Judged":
        begun = time.perf_counter()
        if question.stages:
            question.stages.append(("queue", question.stages[-1][2], begun))
        info = live.model.info
        data = image_bytes(question.body, question.content_type)
        seen = images.look(data, info.image_size, info.channels, self._limits)
        decoded = time.perf_counter()
        (probabilities, *_), distances = live.model.judge(seen.pixels[np.newaxis])
        inferred = time.perf_counter()
        if not np.isfinite(probabilities).all():
            log.error("model version %d gave a probability that is no number", live.version)
            raise ProblemError(
                500, routing.MODEL_FAILED, f"model version {live.version} gave no usable answer for this image"
            )
        order = np.argsort(probabilities)[::-1][: max(question.top, LOGGED_TOP)]
        ranking: list[dict[str, object]] = [
            {"label": info.labels[i], "probability": round(float(probabilities[i]), 6)} for i in order
        ]
        confidence = round(float(probabilities[order[0]]), 6)
        distance = None if distances is None else round(float(distances[0]), 4)
        label = info.labels[order[0]]
        return _Judged(uuid7(), data, seen, label, confidence, ranking, distance, begun, decoded, inferred)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a model made of an image; moments are those of `time.perf_counter`."""

    id: UUID
    image: bytes
    seen: Look
    label: str
    confidence: float
    ranking: list[dict[str, object]]
    distance: float | None
    begun: float
    decoded: float
    inferred: float


def _row(live: Live, question: Question, made: _Judged, rejected: str | None, milliseconds: float) -> Prediction:
    return Prediction(
        id=made.id,
        model_version=live.version,
        variant=live.model.variant,
        label=made.label,
        probability=made.confidence,
        top=made.ranking[:LOGGED_TOP],
        rejected=rejected,
        distance=made.distance,
        milliseconds=milliseconds,
        queue_milliseconds=_milliseconds(question.started, made.begun),
        decode_milliseconds=_milliseconds(made.begun, made.decoded),
        inference_milliseconds=_milliseconds(made.decoded, made.inferred),
        width=made.seen.width,
        height=made.seen.height,
        brightness=round(int(made.seen.pixels.sum(dtype=np.uint32)) / (255 * made.seen.pixels.size), 6),
        caller=question.caller,
        client_key=question.client_key,
        image=made.image,
    )


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
