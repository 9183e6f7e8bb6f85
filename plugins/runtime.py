"""The composition of a task's process: settings from the environment, one context."""

import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.context import Context
    from ml.settings import Settings

# A mapped task's name in the UI; a template that fails would fail the task, so it has a default.
INSTANCE_NAME = "{{ label | default(ti.map_index) }}"


def settings() -> "Settings":
    """This process's settings."""
    from ml.settings import Settings

    return Settings.load(os.environ)


@cache
def context() -> "Context":
    """This process's context."""
    from ml.context import connect

    return connect(settings())


def params() -> Mapping[str, Any]:
    """The parameters of the DAG run that this task is part of.

    Raises:
        InvalidInputError: the run was started with a name that is no parameter, which Airflow would pass over.
    """
    from airflow.sdk import get_current_context

    from ml.errors import InvalidInputError

    context = get_current_context()
    known = context["dag"].params
    if unknown := sorted((context["dag_run"].conf or {}).keys() - known.keys()):
        names = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
        raise InvalidInputError(f"unknown parameter {', '.join(f'`{n}`' for n in unknown)}; this DAG has {names}")
    return context["params"]


def name_instance(text: str) -> None:
    """Name this instance of a mapped task (`map_index_template=INSTANCE_NAME`) in Airflow's UI."""
    from airflow.sdk import get_current_context

    get_current_context()["label"] = text  # type: ignore[typeddict-unknown-key]
