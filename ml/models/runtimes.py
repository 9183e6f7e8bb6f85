"""Inference runtimes for a bundle's graph: ONNX Runtime and OpenVINO, behind one protocol.

Measured on x86 with VNNI and BF16 (docs/decisions/0016): both are as fast in fp32, OpenVINO nearly twice as
fast in INT8, and only it supports bf16. So ONNX Runtime runs fp32, and OpenVINO the reduced variants.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ml.errors import IntegrityError
from ml.imaging.images import Pixels
from ml.models import cpu
from ml.models.bundle import Variant

Logits = NDArray[np.float32]
Outputs = tuple[Logits, NDArray[np.float32] | None]
Name = Literal["onnxruntime", "openvino"]


class Runtime(Protocol):
    """A loaded graph; thread-safe for as many threads as it was loaded for."""

    @property
    def name(self) -> Name: ...

    @property
    def signature(self) -> list[object]:
        """Name of the input, its height, width and channels, and the number of logits."""

    def logits(self, images: Pixels) -> Logits:
        """``float32[N, classes]`` of ``uint8[N, size, size, channels]``, N ≥ 1."""

    def outputs(self, images: Pixels) -> Outputs:
        """Logits, and features ``float32[N, D]``; None if the graph has no such output."""


def candidates(variant: Variant, runtime: str = "auto") -> tuple[Name, ...]:
    """The runtimes that can run a variant, in order of preference.

    Args:
        runtime: `auto`, `onnxruntime` or `openvino`; other than `auto`, only that runtime is a candidate.
    """
    names: tuple[Name, ...] = _CANDIDATES[variant]
    matching = tuple(name for name in names if name == runtime)
    return matching if runtime != "auto" else names[:1] if variant == "fp32" else names


def describe(name: Name) -> str:
    """The runtime and its instruction set on this host, for which verifications and speeds are valid."""
    return f"{name} on {cpu.level(name)}"


def load(name: Name, path: Path, variant: Variant, threads: int) -> Runtime:
    """Load the graph in `path`.

    Raises:
        IntegrityError: the runtime is not installed, or refuses the graph or the precision.
    """
    try:
        return _LOAD[name](path, variant, threads)
    except ImportError as error:
        raise IntegrityError(f"{name} is not installed: {error}") from error
    except IntegrityError:
        raise
    except Exception as error:  # both raise a dozen unrelated exception types
        raise IntegrityError(f"{path.name} cannot be loaded by {name}: {error}") from error


class OnnxRuntime:
    """All `threads` work on one call; any number of concurrent calls."""

    name: Final[Name] = "onnxruntime"

    def __init__(self, path: Path, variant: Variant, threads: int) -> None:
        import onnxruntime as ort

        del variant  # the file determines it
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (images, *_), (logits, *_) = self._session.get_inputs(), self._session.get_outputs()
        self.signature: list[object] = [images.name, *images.shape[1:], logits.shape[-1]]

    def logits(self, images: Pixels) -> Logits:
        return self.outputs(images)[0]

    def outputs(self, images: Pixels) -> Outputs:
        logits, *features = self._session.run(None, {"images": images})
        return logits, features[0] if features else None


class OpenVino:
    """Each of `threads` computes one image at a time, so that a result depends on its image only."""

    name: Final[Name] = "openvino"

    def __init__(self, path: Path, variant: Variant, threads: int) -> None:
        openvino = _openvino()
        core = openvino.Core()
        needed = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}[variant]
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if needed not in capabilities:
            raise IntegrityError(f"this processor has no {needed} for OpenVINO, only {', '.join(capabilities)}")
        graph = core.read_model(path)
        images, logits = graph.input(0), graph.output(0)
        shape = images.get_partial_shape()
        dimensions = [d.get_length() if d.is_static else d.to_string() for d in [*shape, *logits.get_partial_shape()]]
        self.signature: list[object] = [images.get_any_name(), *dimensions[1 : len(shape)], dimensions[-1]]
        shape[0] = 1  # fixed shapes are faster, and batching gains nothing here
        graph.reshape(shape)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # all workers of a host would be pinned to its first core
            "INFERENCE_PRECISION_HINT": "bf16" if variant == "bf16" else "f32",
        }
        compiled = core.compile_model(graph, "CPU", options)
        self._threads = threads
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(threads):
            self._idle.put(compiled.create_infer_request())

    def logits(self, images: Pixels) -> Logits:
        return self.outputs(images)[0]

    def outputs(self, images: Pixels) -> Outputs:
        if len(images) == 1:
            return self._infer(images)
        single_images = [images[i : i + 1] for i in range(len(images))]
        if self._threads == 1:
            return _concatenate([self._infer(image) for image in single_images])
        with ThreadPoolExecutor(self._threads) as pool:
            return _concatenate(list(pool.map(self._infer, single_images)))

    def _infer(self, image: Pixels) -> Outputs:
        request = self._idle.get()
        try:
            results = request.infer({0: image}, share_inputs=True)
            return results[0], results[1] if len(results) > 1 else None
        finally:
            self._idle.put(request)


def _openvino() -> Any:
    """Import the package without its converter, which takes most of the import time and sends telemetry."""
    sys.modules.setdefault("openvino.tools.ovc", cast("Any", None))  # makes `import` treat the module as missing
    import openvino

    return openvino


def _concatenate(parts: list[Outputs]) -> Outputs:
    features = [f for _, f in parts if f is not None]
    return np.concatenate([logits for logits, _ in parts]), np.concatenate(features) if features else None


_CANDIDATES: Final[dict[Variant, tuple[Name, ...]]] = {
    "fp32": ("onnxruntime", "openvino"),
    "bf16": ("openvino",),
    "int8": ("openvino", "onnxruntime"),
}
_LOAD: Final[dict[Name, Callable[[Path, Variant, int], Runtime]]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
