"""Which vector instructions the libraries may use on this processor, as far as that can be known.

Linux names them in /proc/cpuinfo; elsewhere only the architecture is known. Variables of the environment keep libraries
from using some, which is how tests stand in for older processors: ``ONEDNN_MAX_CPU_ISA`` (oneDNN, inside PyTorch and
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
"""What a limit leaves of `_X86`; a value that is not here limits nothing, as the libraries take it."""
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
"""Levels and the feature that makes each, the best first: each has kernels of its own for integers or bf16."""


def features(library: Library) -> frozenset[str]:
    """Those of this processor that this library may use here, by the names of the Linux kernel."""
    found = _of_processor()
    for value in _limits(library).values():
        found -= frozenset(_X86) - _ALLOWED[value.upper()]
    return found


def level(library: Library) -> str:
    """The best set of instructions that this library may use here; the architecture where none is known."""
    found = features(library)
    return next((name for name, mark in _LEVELS if mark in found), platform.machine().lower() or "unknown")


def described() -> str:
    """The processor's features for a report, and the variables that keep libraries from using them."""
    has = _of_processor()
    told = " ".join(name for name in (*_X86, *_ARM) if name in has) or f"{platform.machine()}, features unknown"
    limits = {variable: value for library in _LIMITS for variable, value in _limits(library).items()}
    return ", limited by ".join([told, " ".join(f"{k}={v}" for k, v in sorted(limits.items()))] if limits else [told])


def _limits(library: Library) -> dict[str, str]:
    """The variables that limit it now."""
    values = {variable: os.environ.get(variable, "") for variable in _LIMITS[library]}
    return {variable: value for variable, value in values.items() if value.upper() in _ALLOWED}


@cache
def _of_processor() -> frozenset[str]:
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return frozenset()
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return frozenset(flags.group(1).split()) & {*_X86, *_ARM} if flags else frozenset()
