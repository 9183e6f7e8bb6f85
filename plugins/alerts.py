"""Tells people that a task failed or a drop was rejected: always in the log, and to a webhook if one is set."""

import logging
import os
from typing import Any

from airflow.sdk import BaseNotifier

log = logging.getLogger(__name__)


class AlertNotifier(BaseNotifier):
    """Used as `on_failure_callback`; posts a small JSON body to the setting `alert_webhook`."""

    # No template fields: rendering would write the first failure's words into the instance that all tasks share.

    def notify(self, context: dict[str, Any]) -> None:
        """Airflow's entry."""
        ti = context["ti"]
        which = f" ({context['label']})" if "label" in context else ""
        error = context.get("exception")
        alert(f"{ti.dag_id}.{ti.task_id}{which} failed in run {ti.run_id}", str(error) if error else "")


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
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("the alert could not be delivered: %s", type(error).__name__)
