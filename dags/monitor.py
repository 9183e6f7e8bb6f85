"""
### Monitor: the prediction log is compared with what the champion was trained on

Class and confidence shift (population stability index) and live accuracy where there is feedback. A
shift beyond the setting `drift_threshold` asks for retraining, where there are data that no model was trained
on; else people are alerted that labels are wanted. Votes of annotators and reviewers, once there are enough,
become a drop like any other; what is only proposed waits for people. A key most of whose feedback reviewers
turned down is paused. The log itself is judged by `expectations/predictions.yml`: what breaks an
expectation is recorded, and people are alerted. Drops are reverted and restored as people asked for in the
console, which starts a training. One that is overdue, because its servers were away for longer than its
retries lasted, is asked for again. Decisions that wait for a person are ended when their time is over.
Service workers that cannot load what is live raise an alert.
"""

import os
from datetime import timedelta

from airflow.sdk import dag, task

from ml.settings import Settings
from plugins.assets import DATASET, RETRAIN
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
        """Measure drift and request retraining, else skip; alerts when labels are needed."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.monitoring.observe import observe as observe_traffic
        from plugins.alerts import alert
        from plugins.runtime import context

        report = observe_traffic(context())
        if report.labels_wanted:
            alert("traffic has shifted, and there are no new data to train on", "; ".join(report.reasons))
        if not report.retrain:
            raise AirflowSkipException("no reason to retrain")
        return list(report.reasons)

    @task
    def judge_log() -> list[str]:
        """Validate the prediction log; alerts once about failures, until they change."""
        from ml.monitoring.judge import validate_predictions
        from ml.validation import data_docs
        from plugins.alerts import alert
        from plugins.runtime import context, settings

        verdict = validate_predictions(context())
        if verdict.news:
            link = f"\n{data_docs.url(settings(), verdict.report_key)}" if verdict.report_key else ""
            alert("the prediction log breaks expectations", "; ".join(verdict.failures) + link)
        return list(verdict.failures)

    @task(outlets=[DATASET])
    def revert_drops() -> list[str]:
        """Revert and restore drops as was asked for in the console; skipped when the data stay as they are."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.datasets.revert import carry_out_requests
        from plugins.runtime import context

        created = [result.version for _, result in carry_out_requests(context()) if result.version is not None]
        if not created:
            raise AirflowSkipException("no drop was to be reverted or restored")
        return created

    @task(outlets=[RETRAIN])
    def request_overdue() -> None:
        """Request an overdue training again; while one is running, the request waits for its end."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.training import due
        from plugins.runtime import context

        if not due.overdue(context(), minutes=_OVERDUE_MINUTES):
            raise AirflowSkipException("no training is overdue")

    @task
    def process_decisions() -> list[str]:
        """Reject decisions that nobody answered in time, apply answers, evaluate trials."""
        from ml.release.approval import process_pending
        from plugins.runtime import context

        return process_pending(context())

    @task
    def alert_refusals() -> list[str]:
        """Alert, at every run, about service workers that cannot load the live model."""
        from ml.catalog import deployments
        from plugins.alerts import alert
        from plugins.runtime import context

        ctx = context()
        refusals = deployments.refusals(ctx.engine, ctx.settings.heartbeat_seconds)
        if refusals:
            alert("service workers cannot load the live model", "; ".join(refusals))
        return refusals

    @task
    def collect_feedback() -> str | None:
        """Make a drop of the labels that came back."""
        from ml.monitoring.feedback import collect_feedback as collect
        from plugins.runtime import context

        return collect(context())

    @task
    def check_feedback() -> list[str]:
        """Pause keys most of whose feedback reviewers turned down, and alert people of each."""
        from ml.catalog import feedback_callers
        from ml.catalog.feedback import FeedbackLimits
        from plugins.alerts import alert
        from plugins.runtime import context

        ctx = context()
        share, least = ctx.settings.feedback_declined_share, ctx.settings.feedback_declined_min
        limits = FeedbackLimits.from_settings(ctx.settings)
        paused = feedback_callers.pause_disagreeing(ctx.engine, share, least, limits)
        if paused:
            alert("feedback of a key is paused", "; ".join(paused))
        return paused

    observe()
    judge_log()
    revert_drops()
    request_overdue()
    process_decisions()
    alert_refusals()
    check_feedback() >> collect_feedback()


monitor()
