"""The two clients: requests are built once, and sent by either."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import httpx

from serving.client.answers import (
    Decision,
    FeedbackOutcome,
    Model,
    Prediction,
    ServiceError,
    UnreachableError,
    error_from_response,
    read_batch,
    read_decision,
    read_feedback,
    read_model,
    read_object,
    read_png,
    read_prediction,
)
from serving.client.retry import RETRYABLE, Retry, seconds_of

T = TypeVar("T")

_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class _Request(Generic[T]):
    """A request, and the function that parses its response."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)


def _predict(image: bytes, top: int, client_key: str | None, logged: bool) -> _Request[Prediction]:
    headers = {"content-type": "application/octet-stream"}
    headers |= {"x-client-key": client_key} if client_key else {}
    headers |= {} if logged else {"x-evergreen-probe": "1"}
    options = {"content": image, "headers": headers, "params": {"top": top}}
    return _Request("POST", "/v1/predict", read_prediction, options)


def _predict_batch(
    images: Sequence[bytes], top: int, client_key: str | None
) -> _Request[list[Prediction | ServiceError]]:
    files = [("file", (f"{number}", image)) for number, image in enumerate(images)]
    headers = {"x-client-key": client_key} if client_key else {}
    options = {"files": files, "headers": headers, "params": {"top": top}}
    return _Request("POST", "/v1/predict/batch", read_batch, options)


def _logged(prediction_id: object) -> _Request[Mapping[str, Any]]:
    return _Request("GET", f"/v1/predictions/{prediction_id}", read_object)


def _explanation(prediction_id: object, label: str | None) -> _Request[bytes]:
    options = {"params": {"label": label}} if label else {}
    return _Request("GET", f"/v1/predictions/{prediction_id}/explanation", read_png, options)


def _feedback(label: str, of: Mapping[str, object], source: str, comment: str | None) -> _Request[FeedbackOutcome]:
    named = {name: str(value) for name, value in of.items() if value is not None}
    body = {**named, "label": label, "source": source, "comment": comment}
    return _Request("POST", "/v1/feedback", read_feedback, {"json": body})


def _model() -> _Request[Model]:
    return _Request("GET", "/v1/model", read_model)


def _decide(decision_id: str, approved: bool, actor: str, reason: str) -> _Request[Decision]:
    body = {"approved": approved, "actor": actor, "reason": reason}
    return _Request("POST", f"/v1/decisions/{decision_id}/approval", read_decision, {"json": body})


@dataclass
class _Attempts:
    """The attempts of one request, and when the next one is due."""

    retry: Retry
    started: float = field(default_factory=time.monotonic)
    count: int = 0

    def wait_after(self, error: ServiceError) -> float:
        """Seconds until the next attempt.

        Raises:
            ServiceError: there is none: the error is not retryable, or all attempts were made.
        """
        self.count += 1
        retry_after = error.retry_after
        if error.status in RETRYABLE:
            wait = self.retry.wait(self.count, retry_after, time.monotonic() - self.started)
            if wait is not None:
                return wait
        raise error


def _read(request: _Request[T], response: httpx.Response) -> T:
    """Raises ServiceError for an error response, or one that cannot be parsed."""
    if not response.is_success:
        raise error_from_response(response, seconds_of(response.headers.get("retry-after")))
    try:
        return request.read(response)
    except (ValueError, KeyError, TypeError) as error:
        text = response.text[:200]
        raise ServiceError(
            f"this is not a response of the prediction service: {text!r}", response.status_code, "strange"
        ) from error


def _unreachable(url: httpx.URL | str, error: httpx.HTTPError) -> UnreachableError:
    return UnreachableError(f"the service at {url} does not answer: {error or type(error).__name__}", 0, "unreachable")


def _settings(url: str, key: str | None, timeout: float) -> dict[str, Any]:
    headers = {"user-agent": "evergreen-client/1"} | ({"x-api-key": key} if key else {})
    return {"base_url": url, "timeout": timeout, "headers": headers}


class Client:
    """The synchronous client; may be used by several threads.

    Args:
        url: scheme, host, port of the service.
        key: an API key; None on the service's own machine where it needs none.
        timeout: seconds for one attempt to connect, to send and to receive.
        retry: when to retry temporary errors.
        transport: for tests.

    Raises:
        RefusedError: by all methods: the service rejected the request; `code` and the message say why.
        UnreachableError: by all methods: the service did not answer or was unavailable in all attempts.
        ServiceError: by all methods: the service failed, or it is another one. Base of the two above.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = _TIMEOUT,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**_settings(url, key, timeout), transport=transport)
        self._retry = retry or Retry()

    def predict(self, image: bytes, *, top: int = 5, client_key: str | None = None, logged: bool = True) -> Prediction:
        """What an encoded image shows.

        Args:
            image: JPEG, PNG, WebP, GIF, TIFF or BMP.
            top: how many labels to return, the likeliest first.
            client_key: your own id for it, kept in the prediction log.
            logged: False is a check, which the log leaves out.
        """
        return self._send(_predict(image, top, client_key, logged))

    def predict_batch(
        self, images: Sequence[bytes], *, top: int = 5, client_key: str | None = None
    ) -> list[Prediction | ServiceError]:
        """What many images show, in their order; for an image that cannot be answered, its error.

        Args:
            client_key: the images' own keys are this and `/0`, `/1`, … after it.
        """
        return self._send(_predict_batch(images, top, client_key))

    def logged(self, prediction_id: object) -> Mapping[str, Any]:
        """A prediction from the log, with its feedback."""
        return self._send(_logged(prediction_id))

    def explanation(self, prediction_id: object, *, label: str | None = None) -> bytes:
        """A PNG that shows which parts of the image support its label, or another one."""
        return self._send(_explanation(prediction_id, label))

    def feedback(
        self,
        label: str,
        *,
        prediction_id: object = None,
        client_key: str | None = None,
        source: str = "user",
        comment: str | None = None,
    ) -> FeedbackOutcome:
        """Say what a prediction should have been, by its id or by your own.

        What it counts as depends on the key: a proposal, one annotator's vote, or a reviewer's decision.

        Args:
            source: the end user for whom you speak, by an id of yours; all end users of a key are one vote together.

        Returns:
            Whether the feedback is new, known (it replaces earlier feedback of this end user), or waiting to be stored.
        """
        of = {"prediction_id": prediction_id, "client_key": client_key}
        return self._send(_feedback(label, of, source, comment))

    def model(self) -> Model:
        """The live model of the worker that answers."""
        return self._send(_model())

    def decide(self, decision_id: str, *, approved: bool, actor: str, reason: str = "") -> Decision:
        """A person's answer to a decision of the gate that needs one."""
        return self._send(_decide(decision_id, approved, actor, reason))

    def _send(self, request: _Request[T]) -> T:
        attempts = _Attempts(self._retry)
        while True:
            try:
                return _read(request, self._send_once(request))
            except ServiceError as error:
                time.sleep(attempts.wait_after(error))

    def _send_once(self, request: _Request[T]) -> httpx.Response:
        try:
            return self._http.request(request.method, request.path, **request.options)
        except httpx.HTTPError as error:
            raise _unreachable(self._http.base_url, error) from error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """As `Client`, with every method a coroutine."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = _TIMEOUT,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_settings(url, key, timeout), transport=transport)
        self._retry = retry or Retry()

    async def predict(
        self, image: bytes, *, top: int = 5, client_key: str | None = None, logged: bool = True
    ) -> Prediction:
        """As `Client.predict`."""
        return await self._send(_predict(image, top, client_key, logged))

    async def predict_batch(
        self, images: Sequence[bytes], *, top: int = 5, client_key: str | None = None
    ) -> list[Prediction | ServiceError]:
        """As `Client.predict_batch`."""
        return await self._send(_predict_batch(images, top, client_key))

    async def logged(self, prediction_id: object) -> Mapping[str, Any]:
        """As `Client.logged`."""
        return await self._send(_logged(prediction_id))

    async def explanation(self, prediction_id: object, *, label: str | None = None) -> bytes:
        """As `Client.explanation`."""
        return await self._send(_explanation(prediction_id, label))

    async def feedback(
        self,
        label: str,
        *,
        prediction_id: object = None,
        client_key: str | None = None,
        source: str = "user",
        comment: str | None = None,
    ) -> FeedbackOutcome:
        """As `Client.feedback`."""
        of = {"prediction_id": prediction_id, "client_key": client_key}
        return await self._send(_feedback(label, of, source, comment))

    async def model(self) -> Model:
        """As `Client.model`."""
        return await self._send(_model())

    async def decide(self, decision_id: str, *, approved: bool, actor: str, reason: str = "") -> Decision:
        """As `Client.decide`."""
        return await self._send(_decide(decision_id, approved, actor, reason))

    async def _send(self, request: _Request[T]) -> T:
        attempts = _Attempts(self._retry)
        while True:
            try:
                return _read(request, await self._send_once(request))
            except ServiceError as error:
                await asyncio.sleep(attempts.wait_after(error))

    async def _send_once(self, request: _Request[T]) -> httpx.Response:
        try:
            return await self._http.request(request.method, request.path, **request.options)
        except httpx.HTTPError as error:
            raise _unreachable(self._http.base_url, error) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()
