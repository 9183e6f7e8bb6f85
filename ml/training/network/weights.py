"""Pretrained weights from torchvision, a file or a bucket. Errors say what to do."""

import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import torch
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from ml.context import Context
from ml.errors import IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from ml.models.bundle import digest
from ml.settings import Settings
from ml.storage import object_store
from ml.training.network import backbones

log = logging.getLogger(__name__)

NONE: Final = "none"
TORCHVISION: Final = "torchvision"
_FINE_TUNED: Final = (0.1, 1.0)
"""Learning rate factors of a pretrained body and of the new head."""


@dataclass(frozen=True)
class Pretrained:
    """Weights for an architecture's body; `source` says where they came from, with their SHA-256."""

    architecture: str
    weights: dict[str, Tensor]
    source: str

    def load_into(self, network: nn.Module) -> None:
        """Load everything but the head, from a state of torchvision's layout or of a bundle's.

        Raises:
            InvalidInputError: weights are missing or of another shape.
        """
        prefix = "body." if isinstance(network, backbones.Backbone) else ""
        current = network.state_dict()
        loaded = {prefix + key.removeprefix("body."): value for key, value in self.weights.items()}
        if self.architecture == backbones.VIT:
            loaded = _interpolate_positions(loaded, current)
        required = [key for key in current if not key.startswith("head.")]
        # Files of old releases lack batch norm's counters, which nothing reads.
        missing = [key for key in required if key not in loaded and not key.endswith("num_batches_tracked")]
        wrong = [key for key in required if key in loaded and loaded[key].shape != current[key].shape]
        if missing or wrong:
            raise InvalidInputError(
                f"{self.source} does not hold the weights of {self.architecture} for these images: of {len(required)} "
                f"tensors {len(missing)} are missing {missing[:2]}, {len(wrong)} have another shape {wrong[:2]}; set "
                "`EVERGREEN_WEIGHTS` to a file for this architecture, or `EVERGREEN_ARCHITECTURE` to the file's"
            )
        network.load_state_dict({key: loaded.get(key, current[key]) for key in required}, strict=False)


def pretrained(ctx: Context) -> Pretrained | None:
    """The pretrained weights that the setting `weights` selects, or None.

    Raises:
        InvalidInputError: the setting has no usable value.
        NotFoundError: the file or object is not there.
        UnavailableError: torchvision's file is not here and cannot be downloaded, or the bucket does not answer.
        IntegrityError: the bytes do not match the checksum in their name, or their format.
    """
    architecture, setting = ctx.settings.architecture, ctx.settings.weights
    if setting == NONE:
        return None
    if setting == TORCHVISION:
        name, data = _read_torchvision(architecture, ctx.settings.home / "weights")
    elif setting.startswith("s3://"):
        name, data = setting, _read_bucket(ctx, setting)
    else:
        name, data = Path(setting).name, _read_file(Path(setting))
    source = f"{name} (SHA-256 {digest(data)[:12]})"
    log.info("pretrained weights: %s", source)
    return Pretrained(architecture, _parse(name, data), source)


def rates(settings: Settings) -> tuple[float, ...]:
    """The setting `layer_rates`; by default a pretrained body learns at a tenth of the head's rate."""
    if settings.layer_rates:
        return settings.layer_rates
    return (1.0,) if settings.weights == NONE else _FINE_TUNED


def _read_torchvision(architecture: str, folder: Path) -> tuple[str, bytes]:
    if architecture not in backbones.NAMES:
        raise InvalidInputError(
            f"torchvision has no weights for `{architecture}`: set `EVERGREEN_WEIGHTS=none`, or "
            f"`EVERGREEN_ARCHITECTURE` to one of {', '.join(backbones.NAMES)}"
        )
    from ml.training.network import vision

    url: str = vision.load().models.get_model_weights(architecture).DEFAULT.url
    name = url.rpartition("/")[2]
    path = folder / name
    data = path.read_bytes() if path.exists() else download(url, path)
    # The last part of the name is the beginning of the content's SHA-256.
    if not digest(data).startswith(expected := path.stem.rpartition("-")[2]):
        raise IntegrityError(
            f"{path} has SHA-256 {digest(data)}, its name promises {expected}…: delete it, it is damaged"
        )
    return name, data


def download(url: str, path: Path, timeout: float = 20.0) -> bytes:
    """Download `url` to `path`, atomically.

    Raises:
        UnavailableError: the download failed; the message says what to do without a network.
    """
    try:
        answer = httpx.get(url, timeout=timeout, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"pretrained weights are not at {path} and {url} cannot be downloaded ({error}); on a host without "
            f"network put that file into {path.parent}, or set `EVERGREEN_WEIGHTS` to another file or to "
            "s3://BUCKET/KEY, or to `none` to start from nothing"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(answer.content)
    temporary.replace(path)
    return answer.content


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"`EVERGREEN_WEIGHTS` must be none, torchvision, s3://BUCKET/KEY or a file that can be read "
            f"(received {str(path)!r}: {error.strerror})"
        ) from error


def _read_bucket(ctx: Context, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key.endswith(".safetensors"):
        # PyTorch's own format is a pickle; even restricted, it is not read from a bucket.
        raise InvalidInputError(
            f"`EVERGREEN_WEIGHTS` in a bucket must be s3://BUCKET/KEY.safetensors (received {uri!r}); "
            "convert a .pth with safetensors.torch.save_file(torch.load(FILE, weights_only=True), TARGET)"
        )
    try:
        return object_store.connect(ctx.settings, bucket).get(key)
    except NotFoundError as error:
        raise NotFoundError(f"{error}: upload the weights there, or set `EVERGREEN_WEIGHTS` anew") from error


def _parse(name: str, data: bytes) -> dict[str, Tensor]:
    try:
        if name.endswith(".safetensors"):
            state: Any = parse_safetensors(data)
        else:
            # Tensors only: the restricted unpickler rejects anything else.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # parsers raise many types, also for a pickle with more than tensors
        raise IntegrityError(f"{name} cannot be read as weights, and nothing else is: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise IntegrityError(f"{name} holds no plain state of a network")
    return state


def _interpolate_positions(loaded: dict[str, Tensor], current: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample a transformer's position embeddings to the image's side, if it was trained at another side."""
    key = "body.encoder.pos_embedding"
    if key not in loaded or loaded[key].shape == current[key].shape:
        return loaded
    from ml.training.network import vision

    side = round((current[key].shape[1] - 1) ** 0.5) * backbones.PATCH
    interpolate = vision.load().models.vision_transformer.interpolate_embeddings
    short = {name.removeprefix("body."): value for name, value in loaded.items()}
    return {f"body.{name}": value for name, value in interpolate(side, backbones.PATCH, short).items()}
