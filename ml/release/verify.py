"""Sends the golden probes to the live service: the last check before a deployment is marked live."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from ml.catalog.deployments import DeploymentRecord
from ml.context import Context
from ml.errors import EvergreenError
from ml.models import bundle

PROBE_HEADER = "X-Evergreen-Probe"
PROBES = 4
# The service rounds and may use reduced precision; a wrong model differs by far more.
TOLERANCE = 0.02
TIMEOUT_SECONDS = 30.0
"""Time for an overloaded or just restarted service to answer."""
_PAUSE = 0.2
_BUSY = (429, 502, 503, 504)


@dataclass(frozen=True)
class _Problem:
    """A failed check; a `transient` one says nothing about the model, so the probe is repeated."""

    message: str
    transient: bool = False


@dataclass(frozen=True)
class _Probe:
    png: bytes
    version: int
    answers: tuple[tuple[str, float], ...]
    """Expected label and probability, one pair per variant of the model."""


def find_problem(ctx: Context, deployment: DeploymentRecord) -> str | None:
    """Return the problem with the service's answers to the deployment's probes; None if they are as expected.

    Does not raise for errors of the service or the bucket, so that a deployment always ends.
    """
    url = ctx.settings.service_url
    try:
        probes = _probes(ctx, deployment)
    except (EvergreenError, OSError) as error:
        return f"the bundle cannot be read: {error}"
    try:
        with httpx.Client(
            base_url=url, timeout=TIMEOUT_SECONDS, headers={PROBE_HEADER: "1", **ctx.settings.key_headers}
        ) as http:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while (problem := _send_probes(http, probes)) and problem.transient and time.monotonic() < deadline:
                time.sleep(_PAUSE)
    except httpx.InvalidURL as error:
        return f"`service_url` is not a valid URL: {error} (received {url!r})"
    return problem.message if problem else None


def _probes(ctx: Context, deployment: DeploymentRecord) -> list[_Probe]:
    folder = bundle.cache_folder(ctx.settings.home) / deployment.bundle_digest
    info = bundle.fetch(ctx.artifacts, deployment.bundle_prefix, deployment.bundle_digest, folder)
    files = [probes for _, probes in bundle.FILES.values() if probes in info.files]
    recorded = [bundle.load_probes((folder / file).read_bytes()) for file in files]
    images, _ = recorded[0]
    probes_to_send = []
    for position, image in enumerate(images[:PROBES]):
        rows = [expected[position] for _, expected in recorded]
        answers = tuple((info.labels[row.argmax()], float(row.max())) for row in rows)
        probes_to_send.append(_Probe(_png(image), deployment.model_version, answers))
    return probes_to_send


def _send_probes(http: httpx.Client, probes: Sequence[_Probe]) -> _Problem | None:
    """Return the first problem."""
    url = f"{str(http.base_url).rstrip('/')}/v1/predict"
    for probe in probes:
        try:
            response = http.post("/v1/predict", content=probe.png, headers={"content-type": "image/png"})
        except httpx.HTTPError as error:
            return _Problem(f"{http.base_url} does not answer probes: {error!r}", transient=True)
        if response.status_code != 200:
            busy = response.status_code in _BUSY
            return _Problem(f"{url} answers {response.status_code} to a probe: {response.text[:200]}", transient=busy)
        try:
            body = response.json()
            problem = _compare(probe, body["model_version"], body["label"], float(body["probability"]))
        except (ValueError, KeyError, TypeError):
            return _Problem(f"{url} is no service of ours, it answers a probe with {response.text[:200]!r}")
        if problem:
            return problem
    return None


def _compare(probe: _Probe, version: int, label: str, probability: float) -> _Problem | None:
    if version != probe.version:
        return _Problem(f"a probe was answered by version {version}, not {probe.version}", transient=True)
    # Written so that NaN fails too.
    if not any(label == expected_label and abs(probability - p) <= TOLERANCE for expected_label, p in probe.answers):
        expected = " or ".join(f"{expected_label} ({p:.4f})" for expected_label, p in probe.answers)
        return _Problem(f"a probe was answered {label} ({probability:.4f}), expected {expected}")
    return None


def _png(pixels: "np.ndarray[Any, Any]") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
