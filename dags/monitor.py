"""
### Monitor: the prediction log is compared with what the champion was trained on

Class and confidence shift (population stability index) and live accuracy where there is feedback. A
shift beyond the setting `drift_threshold` asks for retraining, where there are data that no model was trained
on; else people are alerted that labels are wanted. Feedback labels, once there are enough,
become a drop like any other. The log itself is judged by `expectations/predictions.yml`: what breaks an
expectation is recorded, and people are alerted. A training that is overdue, because its servers were
away for longer than its retries lasted, is asked for again. Decisions that wait for a person are ended
when their time is over. Service workers that cannot load what is live raise an alert.
"""

import os
from datetime import timedelta

from airflow.sdk import dag, task

from ml.settings import Settings
from plugins.assets import RETRAIN
from plugins.task_defaults import DEFAULTS

_OVERDUE_MINUTES = 10


@dag(
    schedule=Settings.load(os.environ).monitor_schedule,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    doc_md=__doc__,
    tags=["evergreen", "monitoring"],
    default_args=DEFAULTS | {"execution_timeout": timedelta(minutes=20)},
)
def monitor() -> None:
    @task(outlets=[RETRAIN])
    def observe() -> list[str]:
        """Compare; ask for retraining if it must be, else this task is skipped. People hear when labels are wanted."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.monitoring.observe import observe as look
        from plugins.alerts import alert
        from plugins.runtime import context

        report = look(context())
        if report.labels_wanted:
            alert("traffic has shifted, and there are no new data to train on", "; ".join(report.reasons))
        if not report.retrain:
            raise AirflowSkipException("no reason to retrain")
        return list(report.reasons)

    @task
    def judge_log() -> list[str]:
        """Judge the prediction log; people hear of what is wrong once, until something else is."""
        from ml.monitoring.judge import judge
        from ml.validation import data_docs
        from plugins.alerts import alert
        from plugins.runtime import context, settings

        verdict = judge(context())
        if verdict.news:
            where = f"\n{data_docs.url(settings(), verdict.report_key)}" if verdict.report_key else ""
            alert("the prediction log breaks expectations", "; ".join(verdict.failures) + where)
        return list(verdict.failures)

    @task(outlets=[RETRAIN])
    def take_up() -> None:
        """Ask again for a training that did not happen; while one is running, the request waits for its end."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.training import due
        from plugins.runtime import context

        if not due.overdue(context(), minutes=_OVERDUE_MINUTES):
            raise AirflowSkipException("no training is overdue")

    @task
    def settle() -> list[str]:
        """Decisions that nobody answered in time are rejected; answers are carried out; trials are looked at."""
        from ml.release.approval import settle as end
        from plugins.runtime import context

        return end(context())

    @task
    def refusals() -> list[str]:
        """People hear, at every look, of service workers that cannot load what is live."""
        from ml.catalog import deployments
        from plugins.alerts import alert
        from plugins.runtime import context

        ctx = context()
        found = deployments.refusals(ctx.engine, ctx.settings.heartbeat_seconds)
        if found:
            alert("service workers cannot load the live model", "; ".join(found))
        return found

    @task
    def collect_feedback() -> str | None:
        """Make a drop of the labels that came back."""
        from ml.monitoring.feedback import collect_feedback as collect
        from plugins.runtime import context

        return collect(context())

    observe()
    judge_log()
    take_up()
    settle()
    refusals()
    collect_feedback()


monitor()
