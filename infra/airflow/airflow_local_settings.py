"""Loads what tasks need into the scheduler, once: its tasks are forks and then start without import time.

Airflow imports a module of this name when it starts; its folder is on PYTHONPATH. Import only: an
operation here could start threads, which do not survive a fork.
"""

import gc
import importlib
import logging
import sys
from typing import Final

HEAVY = (
    "great_expectations",
    "matplotlib.backends.backend_agg",
    "mlflow.pyfunc",
    "onnxscript",
    "pandas",
    "torch.onnx",
    "ml.datasets.accept",
    "ml.gate.decide",
    "ml.intake.validate",
    "ml.release.release",
    "ml.training.train",
)

_COLLECT: Final = (20_000, 20, 20)
"""New objects before the collector looks at them, and so on: tasks make rows by the ten thousand, not cycles."""


def freeze_loaded_objects() -> None:
    """Freeze the loaded objects: otherwise every garbage collection in a task would traverse them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


if len(sys.argv) > 1 and sys.argv[1] == "scheduler":
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError as error:
            logging.getLogger(__name__).warning("%s is not preloaded, tasks will be slower: %s", name, error)
    freeze_loaded_objects()
