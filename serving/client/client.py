"""The two clients: what they ask is described once, each sends it in its own way."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import httpx

from serving.client.answers import (
    Decision,
    Kept,
    Model,
    Prediction,
    ServiceError,
    UnreachableError,
    problem_of,
    read_batch,
    read_decision,
    read_feedback,
    read_model,
    read_object,
    read_png,
    read_prediction,
)
from serving.client.retry import PASSING, Retry, seconds_of

T = TypeVar("T")

_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class _Ask(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)


def _predict(image: bytes, top: int, client_key: str | None, logged: bool) -> _Ask[Prediction]:
    headers = {"content-type": "application/octet-stream"}
    headers |= {"x-client-key": client_key} if client_key else {}
    headers |= {} if logged else {"x-evergreen-probe": "1"}
    options = {"content": image, "headers": headers, "params": {"top": top}}
    return _Ask("POST", "/v1/predict", read_prediction, options)


def _predict_batch(images: Sequence[bytes], top: int, client_key: str | None) -> _Ask[list[Prediction | ServiceError]]:
    files = [("file", (f"{number}", image)) for number, image in enumerate(images)]
    headers = {"x-client-key": client_key} if client_key else {}
    options = {"files": files, "headers": headers, "params": {"top": top}}
    return _Ask("POST", "/v1/predict/batch", read_batch, options)


def _logged(prediction_id: object) -> _Ask[Mapping[str, Any]]:
    return _Ask("GET", f"/v1/predictions/{prediction_id}", read_object)


def _explanation(prediction_id: object, label: str | None) -> _Ask[bytes]:
    options = {"params": {"label": label}} if label else {}
    return _Ask("GET", f"/v1/predictions/{prediction_id}/explanation", read_png, options)


def _feedback(label: str, of: Mapping[str, object], source: str, comment: str | None) -> _Ask[Kept]:
    named = {name: str(value) for name, value in of.items() if value is not None}
    body = {**named, "label": label, "source": source, "comment": comment}
    return _Ask("POST", "/v1/feedback", read_feedback, {"json": body})


def _model() -> _Ask[Model]:
    return _Ask("GET", "/v1/model", read_model)


def _decide(decision_id: str, approved: bool, actor: str, reason: str) -> _Ask[Decision]:
    body = {"approved": approved, "actor": actor, "reason": reason}
    return _Ask("POST", f"/v1/decisions/{decision_id}/approval", read_decision, {"json": body})


@dataclass
class _Tries:
    """How often one request was tried, and when it may be tried again."""

    retry: Retry
    began: float = field(default_factory=time.monotonic)
    count: int = 0

    def wait_after(self, error: ServiceError) -> float:
        """Seconds until the next try.

        Raises:
            ServiceError: there is none: the error is not one that passes, or patience has ended.
        """
        self.count += 1
        asked = error.retry_after
        if error.status in PASSING:
            wait = self.retry.wait(self.count, asked, time.monotonic() - self.began)
            if wait is not None:
                return wait
        raise error


def _read(ask: _Ask[T], answer: httpx.Response) -> T:
    """Raises ServiceError: it is not the answer that was asked for."""
    if not answer.is_success:
        raise problem_of(answer, seconds_of(answer.headers.get("retry-after")))
    try:
        return ask.read(answer)
    except (ValueError, KeyError, TypeError) as error:
        told = answer.text[:200]
        raise ServiceError(
            f"what answers there is no service of ours: {told!r}", answer.status_code, "strange"
        ) from error


def _lost(url: httpx.URL | str, error: httpx.HTTPError) -> UnreachableError:
    return UnreachableError(f"the service at {url} does not answer: {error or type(error).__name__}", 0, "unreachable")


def _settings(url: str, key: str | None, timeout: float) -> dict[str, Any]:
    headers = {"user-agent": "evergreen-client/1"} | ({"x-api-key": key} if key else {})
    return {"base_url": url, "timeout": timeout, "headers": headers}


class Client:
    """Asks and waits. Its connections may be used by several threads.

    Args:
        url: scheme, host, port of the service.
        key: an API key; None on the service's own machine where it needs none.
        timeout: seconds for one try to connect, and to send or hear something.
        retry: how often what may pass is tried again.
        transport: for tests.

    Raises:
        RefusedError: by all methods: the service will not take it; `code` and the message say why.
        UnreachableError: by all methods: no answer, or the service cannot answer now, after all tries.
        ServiceError: by all methods: it failed, or something else answers there. Base of the two above.
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
        """What many images show, in their order; the error in the place of one that cannot be answered.

        Args:
            client_key: the images' own keys are this and `/0`, `/1`, … after it.
        """
        return self._send(_predict_batch(images, top, client_key))

    def logged(self, prediction_id: object) -> Mapping[str, Any]:
        """A prediction as the log has it, with the feedback that it got."""
        return self._send(_logged(prediction_id))

    def explanation(self, prediction_id: object, *, label: str | None = None) -> bytes:
        """What in the image speaks for its label, or for another one: a PNG."""
        return self._send(_explanation(prediction_id, label))

    def feedback(
        self,
        label: str,
        *,
        prediction_id: object = None,
        client_key: str | None = None,
        source: str = "user",
        comment: str | None = None,
    ) -> Kept:
        """Say what a prediction should have been, by its id or by your own.

        Returns:
            Whether the opinion is new, known (this source had spoken before; its last word counts), or waiting to be
            stored by the service itself.
        """
        of = {"prediction_id": prediction_id, "client_key": client_key}
        return self._send(_feedback(label, of, source, comment))

    def model(self) -> Model:
        """The live model of the worker that answers."""
        return self._send(_model())

    def decide(self, decision_id: str, *, approved: bool, actor: str, reason: str = "") -> Decision:
        """A person's answer to a decision of the gate that needs one."""
        return self._send(_decide(decision_id, approved, actor, reason))

    def _send(self, ask: _Ask[T]) -> T:
        tries = _Tries(self._retry)
        while True:
            try:
                return _read(ask, self._try(ask))
            except ServiceError as error:
                time.sleep(tries.wait_after(error))

    def _try(self, ask: _Ask[T]) -> httpx.Response:
        try:
            return self._http.request(ask.method, ask.path, **ask.options)
        except httpx.HTTPError as error:
            raise _lost(self._http.base_url, error) from error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """As `Client`, with every method to be awaited."""

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
    ) -> Kept:
        """As `Client.feedback`."""
        of = {"prediction_id": prediction_id, "client_key": client_key}
        return await self._send(_feedback(label, of, source, comment))

    async def model(self) -> Model:
        """As `Client.model`."""
        return await self._send(_model())

    async def decide(self, decision_id: str, *, approved: bool, actor: str, reason: str = "") -> Decision:
        """As `Client.decide`."""
        return await self._send(_decide(decision_id, approved, actor, reason))

    async def _send(self, ask: _Ask[T]) -> T:
        tries = _Tries(self._retry)
        while True:
            try:
                return _read(ask, await self._try(ask))
            except ServiceError as error:
                await asyncio.sleep(tries.wait_after(error))

    async def _try(self, ask: _Ask[T]) -> httpx.Response:
        try:
            return await self._http.request(ask.method, ask.path, **ask.options)
        except httpx.HTTPError as error:
            raise _lost(self._http.base_url, error) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()
