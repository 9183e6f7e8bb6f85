"""Which vector instructions the libraries may use on this processor.

Linux lists them in /proc/cpuinfo; elsewhere only the architecture is known. Environment variables keep libraries from
using some of them, which is how tests emulate older processors: ``ONEDNN_MAX_CPU_ISA`` (oneDNN, inside PyTorch and
inside OpenVINO), ``OV_CPU_MAX_ISA`` (what OpenVINO says it is capable of), ``ATEN_CPU_CAPABILITY`` (PyTorch's own
kernels). ONNX Runtime has no such variable.
"""

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Final, Literal

Library = Literal["onnxruntime", "openvino", "torch"]

_CPUINFO: Final = Path("/proc/cpuinfo")
_ONEDNN: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_LIMITS: Final[dict[Library, tuple[str, ...]]] = {
    "onnxruntime": (),
    "openvino": (*_ONEDNN, "OV_CPU_MAX_ISA"),
    "torch": (*_ONEDNN, "ATEN_CPU_CAPABILITY"),
}
_X86: Final = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_ARM: Final = ("asimd", "asimddp", "i8mm", "bf16")
_AVX512: Final = frozenset({"avx2", "avx512f"})
_VNNI: Final = _AVX512 | {"avx512_vnni"}
_BF16: Final = _VNNI | {"avx512_bf16"}
_ALLOWED: Final[dict[str, frozenset[str]]] = {
    "SSE41": frozenset(),
    "AVX": frozenset(),
    "AVX2": frozenset({"avx2"}),
    "AVX2_VNNI": frozenset({"avx2", "avx_vnni"}),
    "AVX2_VNNI_2": frozenset({"avx2", "avx_vnni"}),
    "AVX512": _AVX512,
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _VNNI,
    "AVX512_CORE_BF16": _BF16,
    "AVX512_CORE_FP16": _BF16,
}
"""The subset of `_X86` that a limit allows; unknown values limit nothing, as in the libraries."""
_LEVELS: Final = (
    ("amx", "amx_int8"),
    ("avx512_bf16", "avx512_bf16"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx512", "avx512f"),
    ("avx2_vnni", "avx_vnni"),
    ("avx2", "avx2"),
    ("arm_bf16", "bf16"),
    ("arm_i8mm", "i8mm"),
    ("arm_dotprod", "asimddp"),
    ("arm_neon", "asimd"),
)
"""Levels and the feature that defines each, best first; each has its own integer or bf16 kernels."""


def features(library: Library) -> frozenset[str]:
    """The processor features that this library may use here, by their Linux kernel names."""
    supported = _processor_features()
    for value in _limits(library).values():
        supported -= frozenset(_X86) - _ALLOWED[value.upper()]
    return supported


def level(library: Library) -> str:
    """The best instruction set that this library may use here; the architecture if none is known."""
    supported = features(library)
    return next((name for name, mark in _LEVELS if mark in supported), platform.machine().lower() or "unknown")


def describe() -> str:
    """The processor's features for a report, and the environment variables that limit them."""
    supported = _processor_features()
    names = " ".join(name for name in (*_X86, *_ARM) if name in supported) or f"{platform.machine()}, features unknown"
    limits = {variable: value for library in _LIMITS for variable, value in _limits(library).items()}
    return ", limited by ".join([names, " ".join(f"{k}={v}" for k, v in sorted(limits.items()))] if limits else [names])


def _limits(library: Library) -> dict[str, str]:
    """The environment variables that currently limit the library."""
    values = {variable: os.environ.get(variable, "") for variable in _LIMITS[library]}
    return {variable: value for variable, value in values.items() if value.upper() in _ALLOWED}


@cache
def _processor_features() -> frozenset[str]:
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return frozenset()
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return frozenset(flags.group(1).split()) & {*_X86, *_ARM} if flags else frozenset()
