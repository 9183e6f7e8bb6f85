"""The search space: recipe settings, each within bounds around values known to work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optuna.trial import Trial

from ml.settings import PREFIX, Settings


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, sampled uniformly or, with `log`, log-uniformly."""

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
"""Setting name to its range, or to a tuple of choices."""


def suggest(trial: Trial, settings: Settings) -> Settings:
    """The settings with the values that the trial suggests."""
    chosen = {name: _suggest_value(trial, name, domain) for name, domain in SPACE.items()}
    return Settings.model_validate(settings.model_dump() | chosen)


def _suggest_value(trial: Trial, name: str, domain: Range | tuple[Any, ...]) -> Any:
    if isinstance(domain, Range):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_categorical(name, domain)


def current(settings: Settings) -> dict[str, Any]:
    """The current settings as a point of the search space, without values outside of it."""
    values = {name: getattr(settings, name) for name in SPACE}
    return {name: value for name, value in values.items() if _contains(SPACE[name], value)}


def _contains(domain: Range | tuple[Any, ...], value: Any) -> bool:
    return domain.low <= value <= domain.high if isinstance(domain, Range) else value in domain


def as_file(values: Mapping[str, Any], comment: str) -> str:
    """Format the values as a settings file."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for name, value in values.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"{PREFIX}{name.upper()}={text}")
    return "\n".join(lines) + "\n"
