"""Puts the service's console into Airflow's navigation."""

import os

from airflow.plugins_manager import AirflowPlugin


def _console_url() -> str:
    from ml.settings import Settings

    return Settings.load(os.environ).service_url


class EvergreenPlugin(AirflowPlugin):
    """The plugin that Airflow loads."""

    name = "evergreen"
    external_views = [  # noqa: RUF012 - Airflow reads a plain list
        {"name": "Evergreen console", "href": f"{_console_url()}/", "destination": "nav", "category": "browse"}
    ]
