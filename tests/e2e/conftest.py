"""A local stack of the tests' own: the real one, in an empty data folder, on free ports."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Not started: the first test starts it by `evergreen demo`. Ended, with all its processes, afterwards."""
    folder = tmp_path_factory.mktemp("stack")
    home = folder / "home"
    stack = Stack(home, folder, {**os.environ, **stack_ports(), "EVERGREEN_HOME": str(home)})
    try:
        yield stack
    finally:
        stack.evergreen("down")
