"""From a fitted network to a bundle folder: ONNX with parity checked, temperature, probes, weights."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ml.errors import IntegrityError
from ml.models import bundle, model, runtimes
from ml.models.bundle import BundleInfo
from ml.models.ood import OODDetector
from ml.training.data.feed import ImageArray, Labels
from ml.training.loop.fit import compute_logits
from ml.training.network.networks import normalise

PARITY = 1e-3
PROBES = 16
FAMILIAR = 2000
"""Number of images that the out-of-distribution detector is fitted on."""
_BATCH = 64

log = logging.getLogger(__name__)


class _ServingGraph(nn.Module):
    """The graph that is deployed: raw pixels in; logits and the features before the head out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._head_inputs: list[Tensor] = []
        head = network.get_submodule("head")
        self.hook = head.register_forward_pre_hook(lambda _, inputs: self._head_inputs.append(inputs[0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.network(normalise(images))
        features = self._head_inputs[-1]
        self._head_inputs.clear()
        return logits, features


def export(
    network: nn.Module,
    info: BundleInfo,
    sample: ImageArray,
    folder: Path,
    trained: tuple[ImageArray, Labels] | None = None,
) -> str:
    """Write the bundle of `network` into `folder`; returns its digest.

    Args:
        info: everything but the files' checksums.
        sample: ``uint8[N, size, size, channels]``, N ≥ 1, used to check parity and as the source of the probes.
        trained: images and ``int64[N]`` labels of the training set, to fit the out-of-distribution detector on;
            `sample` sets its scale. None: the bundle gets no detector.

    Raises:
        IntegrityError: the logits of ONNX and PyTorch differ by more than `PARITY`.
    """
    network = network.eval().to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    _write_onnx(network, info, folder / bundle.MODEL)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, str(folder / bundle.WEIGHTS))
    bundle.write(folder, info)
    loaded = model.load(folder)
    _check_parity(network, loaded, sample)
    probes = np.ascontiguousarray(sample[:PROBES])
    np.savez(folder / bundle.PROBES, images=probes, probabilities=loaded.predict(probes))
    if trained is not None:
        _write_familiarity(loaded, trained, sample, folder / bundle.FEATURES)
    return bundle.write(folder, info.model_copy(update={"proven_on": (runtimes.describe(loaded.runtime.name),)}))


def _write_familiarity(
    loaded: model.Model, trained: tuple[ImageArray, Labels], heldout: ImageArray, path: Path
) -> None:
    images, labels = trained
    train_positions = np.unique(np.linspace(0, len(images) - 1, min(FAMILIAR, len(images))).astype(int))
    heldout_positions = np.unique(np.linspace(0, len(heldout) - 1, min(FAMILIAR, len(heldout))).astype(int))
    detector = OODDetector.fit(
        _features(loaded, images, train_positions),
        labels[train_positions],
        _features(loaded, heldout, heldout_positions),
    )
    if detector is not None:
        path.write_bytes(detector.write())


def _features(loaded: model.Model, images: ImageArray, positions: Labels) -> NDArray[np.float32]:
    """Features ``float32[N, D]`` of the images at these positions."""
    parts = [positions[i : i + _BATCH] for i in range(0, len(positions), _BATCH)]
    outputs = [loaded.runtime.outputs(np.ascontiguousarray(images[part]))[1] for part in parts]
    return np.concatenate([features for features in outputs if features is not None])


def _write_onnx(network: nn.Module, info: BundleInfo, path: Path) -> None:
    example = torch.zeros((2, info.image_size, info.image_size, info.channels), dtype=torch.uint8)
    graph = _ServingGraph(network).eval()
    with warnings.catch_warnings(), _unfused_attention():
        # The legacy tracing exporter takes 0.3 s of CPU, the new one 6 s in a fresh process, for the same graph;
        # parity is checked either way.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Warnings about shape checks inside attention layers.
        warnings.filterwarnings("ignore", message=".*the trace to be incorrect")
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_axes={name: {0: "n"} for name in ("images", "logits", "features")},
            opset_version=18,
            dynamo=False,
        )
    graph.hook.remove()


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Disable the fused attention operator, which frozen layers would be traced as and ONNX does not have."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _check_parity(network: nn.Module, loaded: model.Model, sample: ImageArray) -> None:
    sample = np.ascontiguousarray(sample[:256])
    onnx_logits = loaded.runtime.logits(sample)
    max_difference = float(np.abs(onnx_logits - compute_logits(network, sample).numpy()).max())
    if not max_difference < PARITY:
        raise IntegrityError(
            f"ONNX and PyTorch differ by up to {max_difference:.3g} in a logit, at most {PARITY:g} is allowed"
        )
    log.info("ONNX parity: logits differ by at most %.2g", max_difference)


def temperature(logits: Tensor, labels: Labels) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017), within 0.25 and 10."""
    if not len(labels):
        return 1.0
    target = torch.from_numpy(labels)
    grid = torch.logspace(-0.6, 1.0, 161)
    losses = torch.stack([nn.functional.cross_entropy(logits / t, target) for t in grid])
    return round(float(grid[losses.argmin()]), 4)
