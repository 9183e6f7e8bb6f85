"""What the processor has, and what variables of the environment leave of it, as the libraries themselves see it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.models import cpu

MILAN = "flags\t\t: fpu sse4_2 avx avx2 bmi2\n"
GENOA = "flags\t\t: avx2 avx512f avx512_bf16 avx512_vnni\n"
ALDER_LAKE = "flags\t\t: avx2 avx_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: avx2 avx_vnni avx512f avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8\n"
SKYLAKE = "flags\t\t: avx2 avx512f avx512bw\n"
GRAVITON_2 = "Features\t: fp asimd aes asimdhp asimddp\n"
GRAVITON_3 = "Features\t: fp asimd asimddp sve i8mm bf16\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in the place of the kernel's, on a machine without limits."""
    for name in {name for names in cpu._LIMITS.values() for name in names}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    cpu._processor_features.cache_clear()
    yield tmp_path / "cpuinfo"
    cpu._processor_features.cache_clear()


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (MILAN, "avx2"), (ALDER_LAKE, "avx2_vnni"), (SKYLAKE, "avx512"), (GENOA, "avx512_bf16"),
        (SAPPHIRE_RAPIDS, "amx"), (GRAVITON_2, "arm_dotprod"), (GRAVITON_3, "arm_bf16"),
    ],
)  # fmt: skip
def test_levels_processor_featuress(cpuinfo: Path, flags: str, level: str) -> None:
    cpuinfo.write_text(f"processor\t: 0\n{flags}processor\t: 1\n{flags}")
    assert {cpu.level(library) for library in cpu._LIMITS} == {level}


@pytest.mark.parametrize(
    ("variable", "value", "openvino", "torch"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "avx2", "avx2"),
        ("DNNL_MAX_CPU_ISA", "avx512_core_vnni", "avx512_vnni", "avx512_vnni"),
        ("OV_CPU_MAX_ISA", "AVX2", "avx2", "amx"),
        ("ATEN_CPU_CAPABILITY", "avx2", "amx", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "amx", "amx"),
        ("ONEDNN_MAX_CPU_ISA", "", "amx", "amx"),
    ],
)
def test_limits(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, openvino: str, torch: str
) -> None:
    cpuinfo.write_text(SAPPHIRE_RAPIDS)
    monkeypatch.setenv(variable, value)
    assert [cpu.level(library) for library in ("openvino", "torch", "onnxruntime")] == [openvino, torch, "amx"]
    limited = openvino != "amx" or torch != "amx"
    assert (f"limited by {variable}={value}" in cpu.describe()) == limited
    cpuinfo.write_text(GRAVITON_3)
    cpu._processor_features.cache_clear()
    assert cpu.level("openvino") == "arm_bf16", "they are of x86"


def test_without_cpuinfo_only_the_architecture_is_known(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert cpu.level("openvino") == "arm64"
    assert cpu.describe() == "arm64, features unknown"
    assert cpu.features("torch") == frozenset()
