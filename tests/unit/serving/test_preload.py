"""What is imported before workers are forked: it leaves a process that may be forked, and is no more than they need."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "airflow", "mlflow", "pandas", "great_expectations", "pyarrow", "boto3", "scipy"),
    *("opentelemetry", "onnxruntime", "openvino"),
}
_PROGRAM = f"""
import os
import serving.server.preload
import sys
print(len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1, *({HEAVY!r} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def report() -> list[str]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as `serving.server.workers` says
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_it_starts_no_thread(report: list[str]) -> None:
    assert report[0] == "1"


def test_the_service_carries_no_torch_and_no_airflow(report: list[str]) -> None:
    assert report[1:] == []
