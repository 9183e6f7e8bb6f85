"""The client's types of the service's responses; fields that a newer service adds are in `raw`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from serving.client.retry import RETRYABLE

if TYPE_CHECKING:
    import httpx


FeedbackOutcome = Literal["new", "known", "waiting"]
_OUTCOMES: Final[dict[int, FeedbackOutcome]] = {201: "new", 200: "known", 202: "waiting"}


class ServiceError(Exception):
    """An error response, or none.

    Attributes:
        status: the HTTP status; 0 without a response.
        code: the problem's code, short and stable.
        request_id: identifies the request in the service's log.
        retry_after: seconds after which to try again, from `Retry-After`.
    """

    def __init__(
        self, message: str, status: int, code: str, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id, self.retry_after = status, code, request_id, retry_after


class RefusedError(ServiceError):
    """The service rejected the request; retrying does not help."""


class UnreachableError(ServiceError):
    """The service does not answer, or is unavailable."""


@dataclass(frozen=True)
class Candidate:
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """An answer; all of it comes from one model version.

    Attributes:
        id: UUIDv7, for feedback.
        top: the likeliest labels, `label` the first.
        milliseconds: from the request's arrival to the answer, in the service.
        rejected: why the answer was rejected as unreliable, None if it was not.
        raw: the whole answer.
    """

    id: UUID
    model_version: int
    label: str
    probability: float
    top: tuple[Candidate, ...]
    milliseconds: float
    rejected: str | None
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Variant:
    """One of the live bundle's precisions; `status` is `serving`, `available` or `refused`, for the `reason`."""

    variant: str
    status: str
    reason: str
    speedup: float | None
    proven_on: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """The live model of one worker; see `ModelInfo` of the service for each field."""

    version: int
    labels: tuple[str, ...]
    image_size: int
    channels: int
    architecture: str
    variant: str
    variants: tuple[Variant, ...]
    digest: str
    since: datetime
    replica: str
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Decision:
    """A person's answer to a decision, as stored."""

    decision_id: str
    approved: bool
    actor: str
    reason: str


def read_prediction(response: "httpx.Response") -> Prediction:
    return parse_prediction(response.json())


def parse_prediction(body: Mapping[str, Any]) -> Prediction:
    """Raises ValueError, KeyError or TypeError if the body is not a prediction."""
    return Prediction(
        id=UUID(body["id"]),
        model_version=body["model_version"],
        label=body["label"],
        probability=body["probability"],
        top=tuple(Candidate(c["label"], c["probability"]) for c in body["top"]),
        milliseconds=body["milliseconds"],
        rejected=body.get("reason"),
        raw=body,
    )


def read_batch(response: "httpx.Response") -> list[Prediction | ServiceError]:
    return [
        parse_prediction(item["answer"]) if item.get("answer") else _error_from_problem(item["problem"])
        for item in response.json()["results"]
    ]


def read_object(response: "httpx.Response") -> Mapping[str, Any]:
    body: Mapping[str, Any] = response.json()
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")
    return body


def read_png(response: "httpx.Response") -> bytes:
    if not response.content.startswith(b"\x89PNG"):
        raise ValueError("not a PNG")
    return response.content


def read_model(response: "httpx.Response") -> Model:
    body = response.json()
    names = ("version", "image_size", "channels", "architecture", "variant", "digest", "replica")
    since = datetime.fromisoformat(body["since"])
    variants = tuple(_variant(variant) for variant in body.get("variants", ()))  # older services have none
    plain = {name: body[name] for name in names}
    return Model(**plain, labels=tuple(body["labels"]), variants=variants, since=since, raw=body)


def _variant(body: Mapping[str, Any]) -> Variant:
    proven_on = tuple(body["proven_on"])
    return Variant(body["variant"], body["status"], body["reason"], body["speedup"], proven_on)


def read_feedback(response: "httpx.Response") -> FeedbackOutcome:
    if not response.json()["label"]:
        raise ValueError("no label")
    return _OUTCOMES[response.status_code]


def read_decision(response: "httpx.Response") -> Decision:
    body = response.json()
    return Decision(body["decision_id"], body["approved"], body["actor"], body["reason"])


def error_from_response(response: "httpx.Response", retry_after: float | None) -> ServiceError:
    """The error of an error response."""
    status = response.status_code
    try:
        body = response.json()
        detail, code, request_id = str(body["detail"]), str(body.get("code", "http")), body.get("request_id")
    except (ValueError, KeyError, TypeError):
        detail, code, request_id = response.text[:200], "strange", None
    return _error_class(status)(f"{status} {code}: {detail}", status, code, request_id, retry_after)


def _error_from_problem(problem: Mapping[str, Any]) -> ServiceError:
    """The error of one image of a batch."""
    status, code = problem["status"], problem["code"]
    return _error_class(status)(f"{status} {code}: {problem['detail']}", status, code)


def _error_class(status: int) -> type[ServiceError]:
    if status in RETRYABLE:
        return UnreachableError
    return RefusedError if 400 <= status < 500 else ServiceError
