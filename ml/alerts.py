"""Tells people what needs them: always in the log, and by a webhook if one is set."""

import logging

import httpx

from ml.settings import Settings

log = logging.getLogger(__name__)


def alert(settings: Settings, message: str, detail: str) -> None:
    """Log, and post a small JSON body to the setting `alert_webhook`; a webhook that fails is logged and no more."""
    log.error("ALERT %s: %s", message, detail)
    if settings.alert_webhook is None:
        return
    url = settings.alert_webhook.get_secret_value()
    try:
        httpx.post(url, json={"message": message, "detail": detail}, timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("the alert could not be delivered: %s", type(error).__name__)
