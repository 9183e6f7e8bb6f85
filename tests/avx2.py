"""Unit tests as on a processor with AVX2 only: `python -m tests.avx2 [OPTIONS OF PYTEST]`.

Libraries read these variables when they are loaded, so a process of pytest is started with them. ONNX Runtime obeys no
variable: tests run it on such a processor by QEMU where that is installed (tests/capabilities.py).
"""

import os
import sys
from typing import Final

VARIABLES: Final = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OV_CPU_MAX_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
"""What keeps the libraries from using AVX-512, VNNI and bf16."""

LEFT_OUT: Final = (
    "catalog",
    "dags",
    "storage",
    "intake/test_decoding.py",
    "intake/test_suites.py",
)
"""Below tests/unit: what computes nothing that depends on instruction sets; tests/unit/test_avx2.py checks it."""


def main() -> None:
    ignored = [f"--ignore=tests/unit/{name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], *ignored, "tests/unit"]
    os.execve(sys.executable, command, os.environ | VARIABLES)


if __name__ == "__main__":
    main()
