"""
### Monitor: the prediction log is compared with what the champion was trained on

Class and confidence shift (population stability index) and live accuracy where there is feedback. A
shift beyond the setting `drift_threshold` asks for retraining. Feedback labels, once there are enough,
become a drop like any other.
"""

import os
from datetime import timedelta

from airflow.sdk import dag, task

from ml.settings import Settings
from plugins.alerts import AlertNotifier
from plugins.assets import RETRAIN


@dag(
    schedule=Settings.load(os.environ).monitor_schedule,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    doc_md=__doc__,
    tags=["evergreen", "monitoring"],
    default_args={
        "owner": "evergreen",
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": 2,
        "execution_timeout": timedelta(minutes=20),
        "on_failure_callback": AlertNotifier(),
    },
)
def monitor() -> None:
    @task(outlets=[RETRAIN])
    def observe() -> list[str]:
        """Compare; ask for retraining if it must be, else this task is skipped."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.monitoring.observe import observe as look
        from plugins.runtime import context

        report = look(context())
        if not report.retrain:
            raise AirflowSkipException("no reason to retrain")
        return list(report.reasons)

    @task
    def collect_feedback() -> str | None:
        """Make a drop of the labels that came back."""
        from ml.monitoring.feedback import collect_feedback as collect
        from plugins.runtime import context

        return collect(context())

    observe()
    collect_feedback()


monitor()
