"""
### Maintain: once a day, what keeps the system small and ready

Makes the prediction log's partitions for the days to come, drops those past retention, forgets service
workers that are gone, trims the local cache, finishes erasures that were interrupted and writes many
small segments anew as few large ones. Makes the thumbnails of samples that earlier releases stored. Alerts
about drops that were changed after they were accepted.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from plugins.task_defaults import DEFAULTS


@dag(
    schedule="@daily",
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    doc_md=__doc__,
    tags=["evergreen", "maintenance"],
    default_args=DEFAULTS,
)
def maintain() -> None:
    @task(task_id="maintain")
    def run_daily() -> dict[str, int]:
        """See `ml.monitoring.maintain`."""
        from ml.monitoring.maintain import maintain as run_maintenance
        from plugins.runtime import context

        return run_maintenance(context())

    @task
    def changed_drops() -> list[str]:
        """See `ml.intake.changed`."""
        from ml.intake.changed import report
        from plugins.alerts import alert
        from plugins.runtime import context

        changes = report(context())
        for change in changes:
            alert("an accepted drop was changed", change)
        return changes

    run_daily()
    changed_drops()


maintain()
