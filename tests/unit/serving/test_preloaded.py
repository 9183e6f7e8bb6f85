"""What is imported before workers are forked leaves a process that may be forked."""

import os
import subprocess
import sys

_PROGRAM = """
import os
import serving.preloaded
import sys
runtimes = {"onnxruntime", "openvino", "torch"}
print(len(os.listdir("/proc/self/task")), *(runtimes & sys.modules.keys()))
"""


def test_what_is_imported_before_the_fork_starts_no_thread() -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as `serving.workers` says
    told = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env=environment)
    assert told.stdout.split() == ["1"], told.stderr
