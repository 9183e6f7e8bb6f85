"""Every setting, read once from the environment, typed, with secrets redacted; a module a concern.

A variable is the field's name in capitals behind ``EVERGREEN_``. ``Settings.load`` also reads the
file that the local stack writes (``$EVERGREEN_HOME/evergreen.env``), so a shell needs no exports, and
the one that ``evergreen tune`` writes (``recipe.env`` beside it); real environment variables win over both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dotenv import dotenv_values
from pydantic import ConfigDict, ValidationError

from ml.errors import InvalidInputError
from ml.settings.connections import ConnectionSettings
from ml.settings.gate import GateSettings
from ml.settings.intake import IntakeSettings
from ml.settings.monitoring import MonitoringSettings
from ml.settings.release import ReleaseSettings, Strategy
from ml.settings.serving import ServingSettings
from ml.settings.training import Architecture, TrainingSettings

__all__ = ["ENV_FILE", "PORT_PREFIX", "PREFIX", "RECIPE_FILE", "Architecture", "Settings", "Strategy"]

PREFIX = "EVERGREEN_"
ENV_FILE = "evergreen.env"
RECIPE_FILE = "recipe.env"
PORT_PREFIX = "EVERGREEN_PORT_"  # the local stack's own; nothing here reads them


class Settings(
    ConnectionSettings,
    IntakeSettings,
    TrainingSettings,
    GateSettings,
    ReleaseSettings,
    ServingSettings,
    MonitoringSettings,
):
    """One value for each thing that can be set; defaults suit one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Settings from ``environ`` over the local stack's file and a tuned recipe, if there are any.

        Raises:
            InvalidInputError: a variable is unknown or its value does not fit; all are named.
        """
        home = Path(environ.get(PREFIX + "HOME", cls.model_fields["home"].default))
        files = dotenv_values(home / RECIPE_FILE) | dotenv_values(home / ENV_FILE)
        merged = {k: v for k, v in files.items() if v is not None} | dict(environ)
        ours = {k: v for k, v in merged.items() if k.startswith(PREFIX) and not k.startswith(PORT_PREFIX)}
        values = {k.removeprefix(PREFIX).lower(): v for k, v in ours.items() if v}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"`{PREFIX}{'.'.join(map(str, e['loc'])).upper()}`: {e['msg']} (received {e['input']!r})"
                for e in error.errors()
            ]
            raise InvalidInputError("settings do not fit:\n  " + "\n  ".join(lines)) from None
