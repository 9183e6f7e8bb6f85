"""Tells people that a task failed or a drop was rejected: always in the log, and to a webhook if one is set."""

import logging
import os
from typing import Any

from airflow.sdk import BaseNotifier

log = logging.getLogger(__name__)


class AlertNotifier(BaseNotifier):
    """Used as `on_failure_callback`; posts a small JSON body to the setting `alert_webhook`."""

    template_fields = ("message",)

    def __init__(self, message: str = "{{ ti.dag_id }}.{{ ti.task_id }} failed in run {{ run_id }}") -> None:
        super().__init__()
        self.message = message

    def notify(self, context: dict[str, Any]) -> None:
        """Airflow's entry."""
        error = context.get("exception")
        alert(self.message, str(error) if error else "")


def alert(message: str, detail: str) -> None:
    """Log, and post to the webhook; a webhook that fails is logged and nothing more."""
    import httpx

    from ml.settings import Settings

    log.error("ALERT %s: %s", message, detail)
    url = Settings.load(os.environ).alert_webhook
    if url is None:
        return
    try:
        httpx.post(url.get_secret_value(), json={"message": message, "detail": detail}, timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("the alert could not be delivered: %s", type(error).__name__)
