"""The composition of a task's process: settings from the environment, one context."""

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml.context import Context
    from ml.settings import Settings


def settings() -> "Settings":
    """This process's settings."""
    from ml.settings import Settings

    return Settings.load(os.environ)


@cache
def context() -> "Context":
    """This process's context."""
    from ml.context import connect

    return connect(settings())
