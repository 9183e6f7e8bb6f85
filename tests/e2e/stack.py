"""A local stack of a test's own, and the demo's story told on it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml.context import Context, connect
from ml.settings import Settings
from tests.servers import stack_ports


@dataclass(frozen=True)
class Stack:
    """How to reach it, and how to call `evergreen` for it."""

    home: Path
    folder: Path
    environment: dict[str, str]

    def evergreen(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the CLI as a user would; the output is kept."""
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *arguments],
            env=self.environment,
            cwd=self.folder,
            check=check,
            capture_output=True,
            text=True,
        )

    def context(self) -> Context:
        return connect(Settings.load(self.environment))


@contextmanager
def empty_stack(folder: Path, variables: Mapping[str, str]) -> Iterator[Stack]:
    """In an empty data folder, on free ports, not started; ended, with all its processes, afterwards.

    Args:
        variables: of the environment, for all its processes.
    """
    home = folder / "home"
    stack = Stack(home, folder, {**os.environ, **variables, **stack_ports(), "EVERGREEN_HOME": str(home)})
    try:
        yield stack
    finally:
        stack.evergreen("down")


def tell_the_story(stack: Stack) -> None:
    """Start the stack by `evergreen demo`, and check what is told of its three drops."""
    told = stack.evergreen("demo", check=False)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    report = json.loads((stack.folder / "build/demo.json").read_text())
    first, second, third = report["cycles"]
    assert (first["verdict"], first["quarantined"], first["duplicates"]) == ("promote", 3, 1)
    assert first["champion"] is None
    assert second["verdict"] == "promote"
    assert second["challenger_accuracy"] > second["champion_accuracy"]
    assert third["verdict"] == "held"
    assert third["reason"]
    assert report["reload"]["failed"] == 0
    assert report["reload"]["requests"] > 100
