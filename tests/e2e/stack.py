"""A local stack of a test's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
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
def empty_stack(folder: Path) -> Iterator[Stack]:
    """In an empty data folder, on free ports, not started; ended, with all its processes, afterwards."""
    home = folder / "home"
    as_a_user_has_it = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    stack = Stack(home, folder, {**as_a_user_has_it, **stack_ports(), "EVERGREEN_HOME": str(home)})
    try:
        yield stack
    finally:
        stack.evergreen("down")
