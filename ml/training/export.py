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
from ml.training.data.feed import Labels, Pictures
from ml.training.loop.fit import logits_of
from ml.training.network.networks import normalise

PARITY = 1e-3
PROBES = 16
FAMILIAR = 2000
"""Images that it is learned from what is familiar."""
_BATCH = 64

log = logging.getLogger(__name__)


class _Served(nn.Module):
    """The graph that is deployed: raw pixels in, logits and what the head makes them of out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._seen: list[Tensor] = []
        head = network.get_submodule("head")
        self.hook = head.register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.network(normalise(images))
        features = self._seen[-1]
        self._seen.clear()
        return logits, features


def export(
    network: nn.Module,
    info: BundleInfo,
    sample: Pictures,
    folder: Path,
    trained: tuple[Pictures, Labels] | None = None,
) -> str:
    """Write the bundle of `network` into `folder`; returns its digest.

    Args:
        info: everything but the files' checksums.
        sample: ``uint8[N, size, size, channels]``, N ≥ 1; parity is checked on it and probes are taken from it.
        trained: images and ``int64[N]`` labels of the training set, from which it is learned what is familiar; what
            is alike, but was not trained on, is the sample.

    Raises:
        IntegrityError: the ONNX model's answers are further than `PARITY` from PyTorch's.
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
    return bundle.write(folder, info.model_copy(update={"proven_on": (runtimes.place(loaded.runtime.name),)}))


def _write_familiarity(loaded: model.Model, trained: tuple[Pictures, Labels], alike: Pictures, path: Path) -> None:
    images, labels = trained
    picked = np.unique(np.linspace(0, len(images) - 1, min(FAMILIAR, len(images))).astype(int))
    others = np.unique(np.linspace(0, len(alike) - 1, min(FAMILIAR, len(alike))).astype(int))
    known = OODDetector.learned(_features(loaded, images, picked), labels[picked], _features(loaded, alike, others))
    if known is not None:
        path.write_bytes(known.write())


def _features(loaded: model.Model, images: Pictures, picked: Labels) -> NDArray[np.float32]:
    """``float32[N, D]`` of the images at these positions."""
    parts = [picked[i : i + _BATCH] for i in range(0, len(picked), _BATCH)]
    found = [loaded.runtime.outputs(np.ascontiguousarray(images[part]))[1] for part in parts]
    return np.concatenate([features for features in found if features is not None])


def _write_onnx(network: nn.Module, info: BundleInfo, path: Path) -> None:
    example = torch.zeros((2, info.image_size, info.image_size, info.channels), dtype=torch.uint8)
    served = _Served(network).eval()
    with warnings.catch_warnings(), _plain_attention():
        # The tracing exporter is called legacy, but takes 0.3 s of CPU where the new one takes 6 in a
        # fresh process, for the same graph; parity is checked either way.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Of the checks inside attention.
        warnings.filterwarnings("ignore", message=".*the trace to be incorrect")
        torch.onnx.export(
            served,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_axes={name: {0: "n"} for name in ("images", "logits", "features")},
            opset_version=18,
            dynamo=False,
        )
    served.hook.remove()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Frozen attention would be traced as one fused operator, which ONNX does not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_parity(network: nn.Module, loaded: model.Model, sample: Pictures) -> None:
    sample = np.ascontiguousarray(sample[:256])
    found = loaded.runtime.logits(sample)
    worst = float(np.abs(found - logits_of(network, sample).numpy()).max())
    if not worst < PARITY:
        raise IntegrityError(f"ONNX and PyTorch differ by up to {worst:.3g} in a logit, at most {PARITY:g} is allowed")
    log.info("ONNX parity: logits differ by at most %.2g", worst)


def temperature(logits: Tensor, labels: Labels) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017), within 0.25 and 10."""
    if not len(labels):
        return 1.0
    target = torch.from_numpy(labels)
    grid = torch.logspace(-0.6, 1.0, 161)
    losses = torch.stack([nn.functional.cross_entropy(logits / t, target) for t in grid])
    return round(float(grid[losses.argmin()]), 4)
