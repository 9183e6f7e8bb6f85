"""Checkpoints of a training on local disk, written atomically."""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from ml.settings import Settings

_MAX_AGE_SECONDS: Final = 7 * 86400

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """The file with the last state of one training.

    Attributes:
        identity: hash of everything that determines the training; a file with another one is ignored.
        interval: seconds between two writes; each writes about four times the size of the weights.
    """

    path: Path
    identity: str
    interval: float
    _written: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether `interval` has passed. Affects only how much work a kill loses, never the result."""
        return time.monotonic() - self._written >= self.interval

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        with temporary.open("wb") as file:
            torch.save({"identity": self.identity, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The last state, or None if there is none for this training."""
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values only: nothing is unpickled.
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            log.warning("checkpoint %s cannot be read, training starts over: %s", self.path, error)
            return None
        if state.get("identity") != self.identity:
            log.info("checkpoint %s belongs to another training and is ignored", self.path)
            return None
        return state

    def remove(self) -> None:
        """Delete the checkpoint and partial files that interrupted writes left."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink(missing_ok=True)


def open_checkpoint(settings: Settings, identity: str) -> Checkpoint:
    """The checkpoint of a training in this host's cache folder; files older than a week are deleted."""
    folder = settings.home / "cache" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another training may delete its file at the same time
            if time.time() - path.stat().st_mtime > _MAX_AGE_SECONDS:
                path.unlink()
    return Checkpoint(folder / f"{identity[:32]}.pt", identity, settings.checkpoint_seconds)
