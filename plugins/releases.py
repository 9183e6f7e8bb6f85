"""Waiting for a release in a task: with a trial it may take hours, in which no worker slot is held."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue
from airflow.sdk.exceptions import AirflowSkipException

if TYPE_CHECKING:
    from ml.release.deploy import Deployment

WAITING: dict[str, Any] = {"mode": "reschedule", "poke_interval": 10, "timeout": 24 * 3600}
"""The first look deploys or begins a trial, each later one sees whether it has ended; a look may be killed."""


def looked(done: "Deployment | None") -> PokeReturnValue:
    """A look at what came of it; skips the task where nothing was released."""
    if done is None:
        raise AirflowSkipException("there was nothing to release")
    return PokeReturnValue(is_done=done.status != "trial", xcom_value=done.status)
