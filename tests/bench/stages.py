"""The demo's stages: seconds from a drop's marker to the new model answering, and where they go.

Each run is `evergreen demo` on an empty system (the digits, three drops). `overhead` is everything but
the `train` stage: the bucket being noticed, Airflow's hops, intake, gate, release.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.demo.watch import STAGES
from tests.bench.report import spread
from tests.servers import stack_ports

RUNS = 3


def run() -> dict[str, Any]:
    """Figures by name, in seconds unless the name says otherwise."""
    readings: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for name, value in _one().items():
            readings.setdefault(name, []).append(value)
    return {"runs": RUNS, "figures": {name: spread(values) for name, values in readings.items()}}


def _one() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder:
        environment = {**os.environ, **stack_ports(), "EVERGREEN_HOME": str(Path(folder) / "home")}
        evergreen = [sys.executable, "-m", "infra.cli"]
        try:
            subprocess.run([*evergreen, "demo"], env=environment, cwd=folder, check=True)
            story = json.loads((Path(folder) / "build/demo.json").read_text())
        finally:
            subprocess.run([*evergreen, "down"], env=environment, cwd=folder, check=True)
    figures: dict[str, float] = {}
    for number, cycle in enumerate(story["cycles"][:2], 1):
        seconds, total = cycle["seconds"], cycle["drop_to_live_seconds"]
        figures |= {f"cycle {number} {stage}": seconds[stage] for stage in STAGES}
        figures[f"cycle {number} drop to live"] = total
        figures[f"cycle {number} overhead"] = total - seconds["train"]
    figures["requests during reload"] = story["reload"]["requests"]
    figures["failed during reload"] = story["reload"]["failed"]
    figures["p99 ms during training and reload"] = story["reload"]["p99_ms"]
    return figures
