"""Alerts for operators: always logged, and posted to a webhook if one is configured."""

import logging

import httpx

from ml.settings import Settings

log = logging.getLogger(__name__)


def alert(settings: Settings, message: str, detail: str) -> None:
    """Log the alert and post it as JSON to the setting `alert_webhook`; a failed post is only logged."""
    log.error("ALERT %s: %s", message, detail)
    if settings.alert_webhook is None:
        return
    url = settings.alert_webhook.get_secret_value()
    try:
        httpx.post(url, json={"message": message, "detail": detail}, timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("the alert could not be delivered: %s", type(error).__name__)
