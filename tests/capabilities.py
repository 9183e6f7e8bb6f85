"""The processors that this machine can stand in for, to run a program on each; and what it cannot stand in for.

oneDNN and OpenVINO obey variables of the environment. ONNX Runtime obeys none: for it QEMU's user mode is a processor
with AVX2 and without AVX-512 and VNNI, down to the saturating instruction (`apt install qemu-user`).
"""

import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ml.models import cpu

ROOT: Final = Path(__file__).resolve().parent.parent
QEMU: Final = "qemu-x86_64"
AVX2: Final = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}
VNNI: Final = {"avx512_vnni", "avx_vnni"}


@dataclass(frozen=True)
class Machine:
    """A processor to run programs on.

    Attributes:
        full_range: ONNX Runtime computes INT8 with weights of 8 bits rightly there.
    """

    name: str
    full_range: bool
    before: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, program: str, *arguments: str) -> str:
        """What a Python program writes to its output there.

        Raises:
            RuntimeError: it failed, with the end of what it said.
        """
        command = [*self.before, sys.executable, "-c", program, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"a program failed on {self.name} ({done.returncode}): {done.stderr[-2000:]}")
        return done.stdout


def machines() -> list[Machine]:
    """This one first; what cannot be stood in for is a warning, which pytest shows in its summary."""
    features = cpu.features("onnxruntime")
    right = bool(features & VNNI) or "avx2" not in features
    here = [Machine("this machine", right)]
    if platform.machine() not in ("x86_64", "AMD64"):
        warnings.warn(f"not tried: x86 without VNNI, on {platform.machine()}", stacklevel=2)
        return here
    here.append(Machine("this machine, oneDNN and OpenVINO limited to AVX2", right, variables=AVX2))
    if shutil.which(QEMU):
        here.append(Machine("a Haswell by QEMU", False, (QEMU, "-cpu", "Haswell"), AVX2))
    elif right:
        warnings.warn(f"not tried: ONNX Runtime without VNNI, which needs {QEMU} (Debian's qemu-user)", stacklevel=2)
    return here
