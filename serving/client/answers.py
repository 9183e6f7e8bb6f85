"""What the service says, as its client hands it on; fields that a newer service adds are in `raw`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from serving.client.retry import PASSING

if TYPE_CHECKING:
    import httpx


Kept = Literal["new", "known", "waiting"]
_KEPT: Final[dict[int, Kept]] = {201: "new", 200: "known", 202: "waiting"}


class ServiceError(Exception):
    """An answer that is not the one asked for.

    Attributes:
        status: of HTTP; 0 where no answer came.
        code: the problem's, short and stable.
        request_id: finds the request in the service's log.
        retry_after: seconds after which the service wants to be asked again.
    """

    def __init__(
        self, message: str, status: int, code: str, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id, self.retry_after = status, code, request_id, retry_after


class RefusedError(ServiceError):
    """The service will not take this request, however often it comes."""


class UnreachableError(ServiceError):
    """The service does not answer, or cannot now."""


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
        rejected: why the answer is not to be relied on, None if it is.
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
    """A person's answer to a decision, as it is kept."""

    decision_id: str
    approved: bool
    actor: str
    reason: str


def read_prediction(answer: "httpx.Response") -> Prediction:
    return prediction_of(answer.json())


def prediction_of(body: Mapping[str, Any]) -> Prediction:
    """Raises ValueError, KeyError or TypeError for what is no prediction."""
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


def read_batch(answer: "httpx.Response") -> list[Prediction | ServiceError]:
    return [
        prediction_of(item["answer"]) if item.get("answer") else _error_of(item["problem"])
        for item in answer.json()["results"]
    ]


def read_object(answer: "httpx.Response") -> Mapping[str, Any]:
    body: Mapping[str, Any] = answer.json()
    if not isinstance(body, dict):
        raise ValueError("no object")
    return body


def read_png(answer: "httpx.Response") -> bytes:
    if not answer.content.startswith(b"\x89PNG"):
        raise ValueError("no PNG")
    return answer.content


def read_model(answer: "httpx.Response") -> Model:
    body = answer.json()
    names = ("version", "image_size", "channels", "architecture", "variant", "digest", "replica")
    since = datetime.fromisoformat(body["since"])
    variants = tuple(_variant(one) for one in body.get("variants", ()))  # services of before name none
    plain = {name: body[name] for name in names}
    return Model(**plain, labels=tuple(body["labels"]), variants=variants, since=since, raw=body)


def _variant(body: Mapping[str, Any]) -> Variant:
    proven_on = tuple(body["proven_on"])
    return Variant(body["variant"], body["status"], body["reason"], body["speedup"], proven_on)


def read_feedback(answer: "httpx.Response") -> Kept:
    if not answer.json()["label"]:
        raise ValueError("no label")
    return _KEPT[answer.status_code]


def read_decision(answer: "httpx.Response") -> Decision:
    body = answer.json()
    return Decision(body["decision_id"], body["approved"], body["actor"], body["reason"])


def problem_of(answer: "httpx.Response", retry_after: float | None) -> ServiceError:
    """The error that an answer tells of."""
    status = answer.status_code
    try:
        body = answer.json()
        detail, code, request_id = str(body["detail"]), str(body.get("code", "http")), body.get("request_id")
    except (ValueError, KeyError, TypeError):
        detail, code, request_id = answer.text[:200], "strange", None
    return _kind(status)(f"{status} {code}: {detail}", status, code, request_id, retry_after)


def _error_of(problem: Mapping[str, Any]) -> ServiceError:
    """Of one image of many."""
    status, code = problem["status"], problem["code"]
    return _kind(status)(f"{status} {code}: {problem['detail']}", status, code)


def _kind(status: int) -> type[ServiceError]:
    if status in PASSING:
        return UnreachableError
    return RefusedError if 400 <= status < 500 else ServiceError
