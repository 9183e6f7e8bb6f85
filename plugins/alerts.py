"""Alerts people when a task fails, through `ml.alerts`."""

from airflow.sdk import BaseNotifier, Context


class AlertNotifier(BaseNotifier):
    """Used as `on_failure_callback`; posts a small JSON body to the setting `alert_webhook`."""

    # No template fields: rendering would write the first failure's words into the instance that all tasks share.

    def notify(self, context: Context) -> None:
        """Called by Airflow when a task fails."""
        ti = context["ti"]
        label = context.get("label")  # see `plugins.runtime.name_instance`
        instance = f" ({label})" if label is not None else ""
        error = context.get("exception")
        alert(f"{ti.dag_id}.{ti.task_id}{instance} failed in run {ti.run_id}", str(error) if error else "")


def alert(message: str, detail: str) -> None:
    """As `ml.alerts.alert`, with this process's settings."""
    from ml import alerts
    from plugins.runtime import settings

    alerts.alert(settings(), message, detail)
