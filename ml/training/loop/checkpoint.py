"""Where a training stands, on disk: written in one piece or not at all."""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from ml.settings import Settings

_KEPT_SECONDS: Final = 7 * 86400

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """A file that holds the last known state of one training.

    Attributes:
        identity: everything that determines the training; a file of another one is ignored.
        every: seconds between two states; each costs a write of about four times the weights.
    """

    path: Path
    identity: str
    every: float
    _written: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """The clock decides how much is lost by a kill, never what comes out."""
        return time.monotonic() - self._written >= self.every

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file; a kill leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        with temporary.open("wb") as file:
            torch.save({"identity": self.identity, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The last state, or None where there is none of this training."""
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values only: nothing is unpickled.
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            log.warning("%s cannot be read, training begins anew: %s", self.path, error)
            return None
        if state.get("identity") != self.identity:
            log.info("%s is of another training", self.path)
            return None
        return state

    def remove(self) -> None:
        """The training is done: its state and what kills left behind it."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink(missing_ok=True)


def of(settings: Settings, identity: str) -> Checkpoint:
    """The place for a training's state in this host's cache; states that nobody came back for in a week go."""
    folder = settings.home / "cache" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        with suppress(FileNotFoundError):  # of a training that ends just now
            if time.time() - left.stat().st_mtime > _KEPT_SECONDS:
                left.unlink()
    return Checkpoint(folder / f"{identity[:32]}.pt", identity, settings.checkpoint_seconds)
