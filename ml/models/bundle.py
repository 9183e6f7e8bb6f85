"""The model bundle: everything the service needs to predict, as plain files without pickles.

Layout of a bundle folder:

- ``bundle.json``: `BundleInfo`, with the SHA-256 of every other file. Its own SHA-256 is the
  bundle's digest, so the digest covers every byte.
- ``model.onnx``: input ``images`` ``uint8[N, size, size, channels]`` (scaling and normalisation are
  in the graph), output ``logits`` ``float32[N, classes]``.
- ``probes.npz``: ``images`` ``uint8[P, size, size, channels]`` and ``probabilities``
  ``float32[P, classes]`` that the model predicted when the bundle was written.
- ``model-int8.onnx``, ``probes-int8.npz``: likewise in 8-bit integers, if that loses little accuracy.
- ``probes-bf16.npz``: of ``model.onnx`` computed in bfloat16, likewise.
- ``features.npz``: statistics of the training set's features (`ml.models.ood`), if the graph has the second
  output ``features`` ``float32[N, D]``.
- ``weights.safetensors``: the trained weights, for the next warm start; the service ignores it.
"""

import hashlib
import io
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ml.errors import IntegrityError, NotFoundError
from ml.imaging.images import Pixels
from ml.storage.object_store import ObjectStore

INFO: Final = "bundle.json"
MODEL: Final = "model.onnx"
PROBES: Final = "probes.npz"
FEATURES: Final = "features.npz"
WEIGHTS: Final = "weights.safetensors"
INT8_MODEL: Final = "model-int8.onnx"
INT8_PROBES: Final = "probes-int8.npz"
BF16_PROBES: Final = "probes-bf16.npz"
SERVED: Final = (MODEL, PROBES)
SPEEDS: Final = "speeds.json"
"""Speeds measured on a host (`ml.models.variants`); kept beside the bundle, not part of it."""

Variant = Literal["fp32", "bf16", "int8"]
VariantSetting = Literal["auto", "fp32", "bf16", "int8"]
FILES: Final[dict[Variant, tuple[str, str]]] = {
    "fp32": SERVED,
    "bf16": (MODEL, BF16_PROBES),
    "int8": (INT8_MODEL, INT8_PROBES),
}
"""A variant's model and its probes."""


class Reduced(BaseModel):
    """How a reduced-precision variant compares with fp32, measured when it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1, description="Images it was judged on.")
    accuracy_loss: float = Field(description="Share of them; negative: it is right more often.")
    agreement: float = Field(ge=0, le=1, description="Share on which both give the same label.")
    speedup: float = Field(gt=0, description="Time of one image at fp32 over that of the variant.")
    measured_on: str = Field("", description="Runtime and instruction sets of `speedup`: `openvino on avx512_vnni`.")
    proven_on: tuple[str, ...] = Field((), description="Those that passed the variant's probes when it was made.")


class BundleInfo(BaseModel):
    """The content of `bundle.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: int = 1
    architecture: str
    labels: tuple[str, ...] = Field(min_length=1)
    image_size: int = Field(ge=1)
    channels: int = Field(ge=1, le=3)
    temperature: float = Field(1.0, gt=0)
    dataset_version: str
    run_id: str
    code_version: str
    seed: int
    class_shares: dict[str, float] = Field(description="Of the training split: what drift is measured against.")
    confidence_deciles: tuple[float, ...] = Field((), description="Of the validation split, 9 values.")
    int8: Reduced | None = Field(None, description="Of the 8-bit variant, if there is one.")
    bf16: Reduced | None = Field(None, description="Of the one in bfloat16, if there is one.")
    proven_on: tuple[str, ...] = Field((), description="Runtime and instruction sets that fp32 was proven on.")
    files: dict[str, str] = Field(description="File name to SHA-256.")

    def variants(self) -> tuple[Variant, ...]:
        return ("fp32", *self.reduced())

    def reduced(self) -> dict[Variant, Reduced]:
        """The variants beside fp32."""
        reports: dict[Variant, Reduced | None] = {"bf16": self.bf16, "int8": self.int8}
        return {name: report for name, report in reports.items() if report}


def cache_folder(home: Path) -> Path:
    """Where a host keeps the bundles that it has fetched: a folder each, named by digest."""
    return home / "bundles"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(folder: Path, info: BundleInfo) -> str:
    """Write `bundle.json` over the files already in `folder`; returns the bundle's digest."""
    files = {p.name: digest(p.read_bytes()) for p in sorted(folder.iterdir()) if p.name not in (INFO, SPEEDS)}
    data = info.model_copy(update={"files": files}).model_dump_json(indent=1).encode()
    (folder / INFO).write_bytes(data)
    return digest(data)


def fetch(
    store: ObjectStore, prefix: str, expected_digest: str, folder: Path, names: Iterable[str] | None = None
) -> BundleInfo:
    """Download a bundle's info and the files `names`, by default those for serving, and verify their checksums.

    Files that are in `folder` already with the right checksum are not downloaded again.

    Raises:
        IntegrityError: a checksum does not match `expected_digest`.
        NotFoundError, UnavailableError: from the object store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = _fetch_one(store, prefix, INFO, expected_digest, folder)
    info = parse(data)
    if names is None:
        detector_files = (FEATURES,) if FEATURES in info.files else ()
        names = dict.fromkeys(
            (*SERVED, *detector_files, *(name for variant in info.reduced() for name in FILES[variant]))
        )
    for name in names:
        if name not in info.files:
            raise NotFoundError(f"the bundle at {prefix} has no file `{name}`; it has {sorted(info.files)}")
        _fetch_one(store, prefix, name, info.files[name], folder)
    return info


def parse(data: bytes) -> BundleInfo:
    try:
        return BundleInfo.model_validate_json(data)
    except ValueError as error:
        raise IntegrityError(f"{INFO} does not fit its schema: {error}") from error


def load_probes(data: bytes) -> tuple[Pixels, NDArray[np.float32]]:
    """Images and expected probabilities of `probes.npz`; never unpickles."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["images"], arrays["probabilities"]
    except (ValueError, KeyError, OSError) as error:
        raise IntegrityError(f"{PROBES} cannot be read: {error}") from error


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Softmax of ``logits / temperature`` along the last axis, in float32."""
    scaled = logits.astype(np.float32) / np.float32(temperature)
    exponent = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = (exponent / exponent.sum(axis=-1, keepdims=True)).astype(np.float32, copy=False)
    return result


def _fetch_one(store: ObjectStore, prefix: str, name: str, expected: str, folder: Path) -> bytes:
    path = folder / name
    if path.exists() and digest(data := path.read_bytes()) == expected:
        return data
    data = store.get(f"{prefix}/{name}")
    if digest(data) != expected:
        raise IntegrityError(f"{prefix}/{name} has SHA-256 {digest(data)}, expected {expected}: damaged or replaced")
    temporary = path.with_name(f"{name}.{uuid.uuid4().hex}.part")  # several processes may fetch it at once
    temporary.write_bytes(data)
    temporary.rename(path)
    return data
