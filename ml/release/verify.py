"""Asks the live service the golden probes: the last check before a deployment counts."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from ml.context import Context
from ml.errors import EvergreenError
from ml.models import bundle

PROBE_HEADER = "X-Evergreen-Probe"
PROBES = 4
# The service rounds, and may run reduced precision; a wrong model is off by far more.
TOLERANCE = 0.02
PATIENCE = 30.0
"""Seconds for a service that is overloaded, or whose worker just restarted, to answer at all."""
_PAUSE = 0.2
_BUSY = (429, 502, 503, 504)


@dataclass(frozen=True)
class _Problem:
    """What is wrong; one that may `pass_` says nothing about the model, so the service is asked again."""

    words: str
    pass_: bool = False


@dataclass(frozen=True)
class _Probe:
    png: bytes
    version: int
    answers: tuple[tuple[str, float], ...]
    """Label and probability, one pair for each variant of the model."""


def problem_of(ctx: Context, deployment: dict[str, Any]) -> str | None:
    """What is wrong with the service's answers to the deployment's probes; None if nothing is.

    Never raises for what the service or the bucket does: a deployment must always come to an end.
    """
    url = ctx.settings.service_url
    try:
        probes = _probes(ctx, deployment)
    except (EvergreenError, OSError) as error:
        return f"the bundle cannot be read: {error}"
    try:
        with httpx.Client(
            base_url=url, timeout=PATIENCE, headers={PROBE_HEADER: "1", **ctx.settings.key_headers}
        ) as http:
            deadline = time.monotonic() + PATIENCE
            while (problem := _ask(http, probes)) and problem.pass_ and time.monotonic() < deadline:
                time.sleep(_PAUSE)
    except httpx.InvalidURL as error:
        return f"`service_url` is no address: {error} (received {url!r})"
    return problem.words if problem else None


def _probes(ctx: Context, deployment: dict[str, Any]) -> list[_Probe]:
    folder = ctx.settings.home / "bundles" / deployment["bundle_digest"]
    info = bundle.fetch(ctx.artifacts, deployment["bundle_prefix"], deployment["bundle_digest"], folder)
    files = [probes for _, probes in bundle.FILES.values() if probes in info.files]
    recorded = [bundle.load_probes((folder / file).read_bytes()) for file in files]
    images, _ = recorded[0]
    found = []
    for position, image in enumerate(images[:PROBES]):
        rows = [expected[position] for _, expected in recorded]
        answers = tuple((info.labels[row.argmax()], float(row.max())) for row in rows)
        found.append(_Probe(_png(image), deployment["model_version"], answers))
    return found


def _ask(http: httpx.Client, probes: Sequence[_Probe]) -> _Problem | None:
    """The first problem."""
    where = f"{http.base_url}v1/predict"
    for probe in probes:
        try:
            answer = http.post("/v1/predict", content=probe.png, headers={"content-type": "image/png"})
        except httpx.HTTPError as error:
            return _Problem(f"{http.base_url} does not answer probes: {error!r}", pass_=True)
        if answer.status_code != 200:
            busy = answer.status_code in _BUSY
            return _Problem(f"{where} answers {answer.status_code} to a probe: {answer.text[:200]}", pass_=busy)
        try:
            body = answer.json()
            problem = _compare(probe, body["model_version"], body["label"], float(body["probability"]))
        except (ValueError, KeyError, TypeError):
            return _Problem(f"{where} is no service of ours, it answers a probe with {answer.text[:200]!r}")
        if problem:
            return problem
    return None


def _compare(probe: _Probe, version: int, label: str, probability: float) -> _Problem | None:
    if version != probe.version:
        return _Problem(f"a probe was answered by version {version}, not {probe.version}", pass_=True)
    # Written so that a NaN is off, too.
    if not any(label == known and abs(probability - p) <= TOLERANCE for known, p in probe.answers):
        expected = " or ".join(f"{known} ({p:.4f})" for known, p in probe.answers)
        return _Problem(f"a probe was answered {label} ({probability:.4f}), expected {expected}")
    return None


def _png(pixels: "np.ndarray[Any, Any]") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
