"""Asks the live service the golden probes: the last check before a deployment counts."""

import io
import logging
from typing import Any

import httpx
import numpy as np
from PIL import Image

from ml import bundle
from ml.context import Context
from ml.errors import EvergreenError

log = logging.getLogger(__name__)

PROBE_HEADER = "X-Evergreen-Probe"
PROBES = 4
# The service rounds, and may run reduced precision; a wrong model is off by far more.
TOLERANCE = 0.02


def problem_of(ctx: Context, deployment: dict[str, Any]) -> str | None:
    """What is wrong with the service's answers to the deployment's probes; None if nothing is."""
    url = ctx.settings.service_url
    folder = ctx.settings.home / "bundles" / deployment["bundle_digest"]
    try:
        info = bundle.fetch(ctx.artifacts, deployment["bundle_prefix"], deployment["bundle_digest"], folder)
        images, expected = bundle.load_probes((folder / bundle.PROBES).read_bytes())
        with httpx.Client(base_url=url, timeout=10, headers={PROBE_HEADER: "1"}) as http:
            for image, probabilities in zip(images[:PROBES], expected, strict=False):
                answer = http.post("/v1/predict", content=_png(image), headers={"content-type": "image/png"})
                if answer.status_code != 200:
                    return f"{url}/v1/predict answers {answer.status_code} to a probe: {answer.text[:200]}"
                if problem := _compare(answer.json(), deployment["model_version"], probabilities, info.labels):
                    return problem
    except httpx.HTTPError as error:
        return f"{url} does not answer probes: {error!r}"
    except EvergreenError as error:
        return f"the bundle cannot be read: {error}"
    return None


def _compare(answer: dict[str, Any], version: int, expected: Any, labels: tuple[str, ...]) -> str | None:
    if answer["model_version"] != version:
        return f"a probe was answered by version {answer['model_version']}, not {version}"
    best = int(np.argmax(expected))
    off = abs(answer["probability"] - float(expected[best]))
    if answer["label"] != labels[best] or off > TOLERANCE:
        return (
            f"a probe was answered {answer['label']} ({answer['probability']:.4f}), "
            f"expected {labels[best]} ({float(expected[best]):.4f})"
        )
    return None


def _png(pixels: "np.ndarray[Any, Any]") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
