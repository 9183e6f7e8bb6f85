"""Settings as the environment variables that give them."""

import json
from typing import Any

from pydantic import SecretStr

from ml.settings import PREFIX, Settings


def environment(settings: Settings) -> dict[str, str]:
    """The variables of what was set; the rest is the default of whatever code reads them, also of an earlier one."""
    given = ((name, getattr(settings, name)) for name in sorted(settings.model_fields_set))
    return {PREFIX + name.upper(): _text(value) for name, value in given if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
