"""Release sensors: a trial may take hours, in which they hold no worker slot."""

from typing import TYPE_CHECKING, TypedDict

from airflow.sdk import PokeReturnValue
from airflow.sdk.exceptions import AirflowSkipException

if TYPE_CHECKING:
    from ml.release.deploy import Deployment


class SensorOptions(TypedDict):
    """Arguments of `task.sensor`; intervals in seconds."""

    mode: str
    poke_interval: float
    timeout: float


SENSOR_OPTIONS: SensorOptions = {"mode": "reschedule", "poke_interval": 10, "timeout": 24 * 3600}
"""The first poke deploys or begins a trial, each later one checks whether it has ended; any may be killed."""


def poke_result(deployment: "Deployment | None") -> PokeReturnValue:
    """The sensor's result for a deployment; skips the task if nothing was released."""
    if deployment is None:
        raise AirflowSkipException("there was nothing to release")
    return PokeReturnValue(is_done=deployment.status != "trial", xcom_value=deployment.status)
