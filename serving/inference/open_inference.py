"""The Open Inference Protocol, version 2: parses requests and encodes responses, as JSON and binary tensors.

https://github.com/kserve/open-inference-protocol, and Triton's binary tensor data extension: raw tensors after the
JSON, whose length is in the header `Inference-Header-Content-Length`.
"""

import base64
import binascii
import io
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ProblemError

IMAGES: Final = "images"
ENCODED: Final = "encoded_images"
OUTPUTS: Final = {"probabilities": "FP32", "label": "BYTES", "id": "BYTES"}
MAX_IMAGES: Final = 64
"""The most images in one request; more would delay other requests."""

_BINARY_SIZE: Final = "binary_data_size"


class Tensor(BaseModel):
    """An input: its data is here, or follows in binary where `parameters` has its size."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(examples=[ENCODED])
    shape: list[int] = Field(max_length=8, examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: dict[str, Any] = Field({}, examples=[{"content_type": "base64"}])
    data: list[Any] | None = Field(None, examples=[["iVBORw0KGgo…"]])


class Wanted(BaseModel):
    """An output that is asked for."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(examples=["label"])
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """One input: `images`, UINT8 of the model's shape, or `encoded_images`, BYTES (base64 where they are in JSON)."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, max_length=200, description="Returned; also kept as the client's key.")
    parameters: dict[str, Any] = {}
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Wanted] | None = Field(None, description="All of them by default.")


class OutputTensor(BaseModel):
    """An output; without `data` it follows in binary."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """One row an image; all of it comes from the named model version."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class InferParams:
    """A parsed request.

    Attributes:
        images: encoded, one an image.
        outputs: the requested outputs, and whether each is returned in binary.
    """

    id: str | None
    images: list[bytes]
    outputs: Mapping[str, bool]


@dataclass(frozen=True)
class InferRows:
    """The model's results, one row per image.

    Attributes:
        probabilities: ``float32[N, K]``, columns in the order of the model's labels.
    """

    version: int
    probabilities: NDArray[np.float32]
    label: Sequence[str]
    id: Sequence[str]


def parse_request(body: bytes, header_length: str | None, size: int, channels: int) -> InferParams:
    """Parse the request in `body`.

    Args:
        body: JSON, or JSON and raw tensors.
        header_length: the header with the JSON's length; None if all of the body is JSON.
        size, channels: of the model's input.

    Raises:
        ProblemError: 400, with what is invalid.
    """
    end = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 18 or int(header_length) > end:
            raise _invalid(f"`Inference-Header-Content-Length` is {header_length[:30]!r}, the body is {end} bytes")
        end = int(header_length)
    try:
        request = InferRequest.model_validate(orjson.loads(body[:end]))
    except orjson.JSONDecodeError as error:
        raise _invalid(f"the JSON cannot be read: {error}") from None
    except ValidationError as error:
        message = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors()[:10])
        raise _invalid(message) from None
    tensor = request.inputs[0]
    raw = _binary_data(tensor, body[end:])
    if tensor.datatype == "BYTES" and tensor.name == ENCODED:
        images = _decode_encoded(tensor, raw)
    elif tensor.datatype == "UINT8" and tensor.name == IMAGES:
        images = [_png(pixels) for pixels in _pixels(tensor, raw, size, channels)]
    else:
        raise _invalid(
            f"the input is `{tensor.name[:100]}` of {tensor.datatype[:20]}; "
            f"give `{IMAGES}` of UINT8 or `{ENCODED}` of BYTES"
        )
    return InferParams(request.id, images, _outputs(request))


def metadata(name: str, version: int, size: int, channels: int, labels: int) -> dict[str, Any]:
    """The model's metadata for clients."""
    return {
        "name": name,
        "versions": [str(version)],
        "platform": "evergreen_onnx",
        "inputs": [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, size, size, channels]},
            {"name": ENCODED, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": output, "datatype": kind, "shape": [-1, labels] if kind == "FP32" else [-1]}
            for output, kind in OUTPUTS.items()
        ],
    }


def encode_response(params: InferParams, rows: InferRows, name: str) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON if raw tensors follow."""
    outputs, tail = [], []
    for output, binary in params.outputs.items():
        values = rows.probabilities if output == "probabilities" else getattr(rows, output)
        shape = list(np.shape(values))
        tensor: dict[str, Any] = {"name": output, "datatype": OUTPUTS[output], "shape": shape}
        if binary:
            data = _packed(values)
            tensor["parameters"] = {_BINARY_SIZE: len(data)}
            tail.append(data)
        else:
            tensor["data"] = np.ravel(values).tolist()
        outputs.append(tensor)
    answer = {"model_name": name, "model_version": str(rows.version), "outputs": outputs}
    head = orjson.dumps(answer | ({"id": params.id} if params.id is not None else {}))
    return head + b"".join(tail), len(head) if tail else None


def _binary_data(tensor: Tensor, tail: bytes) -> bytes | None:
    """The tensor's binary data; None if its data is in JSON."""
    size = tensor.parameters.get(_BINARY_SIZE)
    if size is None:
        if tensor.data is None or tail:
            raise _invalid(f"`{tensor.name[:100]}` needs either `data` or `parameters.{_BINARY_SIZE}` and binary data")
        return None
    if type(size) is not int or size != len(tail) or tensor.data is not None:
        raise _invalid(
            f"`{_BINARY_SIZE}` is {str(size)[:30]}, {len(tail)} bytes follow the JSON, and no `data` may be there"
        )
    return tail


def _decode_encoded(tensor: Tensor, raw: bytes | None) -> list[bytes]:
    count = _count(tensor.shape)
    if math.prod(tensor.shape) != count:
        raise _invalid(f"`{ENCODED}` has one dimension, or a second one of 1; received {tensor.shape}")
    images = _base64(tensor.data or []) if raw is None else _unpacked(raw)
    if len(images) != count:
        raise _invalid(f"the shape {tensor.shape} says {count} images, the data has {len(images)}")
    return images


def _base64(data: list[Any]) -> list[bytes]:
    flat = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    try:
        return [base64.b64decode(item, validate=True) for item in flat]
    except (TypeError, ValueError, binascii.Error) as error:
        raise _invalid(f"`{ENCODED}` in JSON are base64 texts: {error}") from None


def _unpacked(raw: bytes) -> list[bytes]:
    """Elements with four bytes of length before each, little endian."""
    elements, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise _invalid("the binary BYTES end within a length")
        (length,) = struct.unpack_from("<I", raw, at)
        if at + 4 + length > len(raw):
            raise _invalid(f"an element of the binary BYTES says {length} bytes, {len(raw) - at - 4} are left")
        elements.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return elements


def _packed(values: Any) -> bytes:
    if isinstance(values, np.ndarray):
        return values.astype("<f4").tobytes()
    texts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _pixels(tensor: Tensor, raw: bytes | None, size: int, channels: int) -> NDArray[np.uint8]:
    """``uint8[N, size, size, channels]``."""
    shape = (_count(tensor.shape), size, size, channels)
    if tuple(tensor.shape) != shape:
        raise _invalid(f"`{IMAGES}` must have the shape [N, {size}, {size}, {channels}]; received {tensor.shape}")
    if raw is not None:
        if len(raw) != math.prod(shape):
            raise _invalid(f"the shape {tensor.shape} is {math.prod(shape)} bytes, {len(raw)} are there")
        return np.frombuffer(raw, np.uint8).reshape(shape)
    try:
        values = np.asarray(tensor.data)
    except (ValueError, OverflowError) as error:
        raise _invalid(f"`{IMAGES}` in JSON is ragged or holds no numbers: {error}") from None
    if values.dtype.kind not in "iu" or values.size != math.prod(shape) or values.min() < 0 or values.max() > 255:
        raise _invalid(
            f"`{IMAGES}` must be {math.prod(shape)} whole numbers from 0 to 255; "
            f"received {values.size} of {values.dtype}"
        )
    return values.astype(np.uint8).reshape(shape)


def _count(shape: Sequence[int]) -> int:
    if not shape or not 1 <= shape[0] <= MAX_IMAGES:
        raise _invalid(f"1 to {MAX_IMAGES} images are taken at once; the shape is {list(shape)}")
    return shape[0]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode losslessly, so that a tensor is handled as any other image: decoded, predicted, logged."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _outputs(request: InferRequest) -> dict[str, bool]:
    default = request.parameters.get("binary_data_output") is True
    if request.outputs is None:
        return dict.fromkeys(OUTPUTS, default)
    if unknown := [output.name[:100] for output in request.outputs if output.name not in OUTPUTS]:
        raise _invalid(f"there is no output {', '.join(unknown[:5])}; there are {', '.join(OUTPUTS)}")
    return {w.name: w.parameters.get("binary_data", default) is True for w in request.outputs}


def _invalid(detail: str) -> ProblemError:
    return ProblemError(400, "invalid", detail)
