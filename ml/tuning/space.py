"""What a search may change: settings of the recipe, each within bounds around what is known to work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optuna.trial import Trial

from ml.settings import PREFIX, Settings


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, even on the logarithm where it matters by which factor."""

    low: float
    high: float
    log: bool = False


SPACE: Final[dict[str, Range | tuple[Any, ...]]] = {
    "learning_rate": Range(2e-4, 2e-2, log=True),
    "weight_decay": Range(1e-4, 1e-1, log=True),
    "label_smoothing": Range(0.0, 0.2),
    "warm_up": Range(0.0, 0.3),
    "batch_size": (32, 64, 128),
    "augmentation": ("none", "light", "trivial"),
    "mix": ("none", "mixup", "cutmix"),
    "ema": (0.0, 0.98, 0.995),
}
"""A name is a setting's; a tuple has its choices."""


def asked(trial: Trial, settings: Settings) -> Settings:
    """The settings with a trial's choices."""
    chosen = {name: _suggested(trial, name, wanted) for name, wanted in SPACE.items()}
    return Settings.model_validate(settings.model_dump() | chosen)


def _suggested(trial: Trial, name: str, wanted: Range | tuple[Any, ...]) -> Any:
    if isinstance(wanted, Range):
        return trial.suggest_float(name, wanted.low, wanted.high, log=wanted.log)
    return trial.suggest_categorical(name, wanted)


def current(settings: Settings) -> dict[str, Any]:
    """The settings' own point in the space, or what of it lies inside."""
    found = {name: getattr(settings, name) for name in SPACE}
    return {name: value for name, value in found.items() if _holds(SPACE[name], value)}


def _holds(wanted: Range | tuple[Any, ...], value: Any) -> bool:
    return wanted.low <= value <= wanted.high if isinstance(wanted, Range) else value in wanted


def as_file(values: Mapping[str, Any], comment: str) -> str:
    """The choices as a settings file."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"{PREFIX}{name.upper()}={shown}")
    return "\n".join(lines) + "\n"
