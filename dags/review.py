"""
### Review: labels that are probably wrong become label tasks

Runs after each training, beside everything else: small networks answer samples that they were not
trained on, and labels they disagree with (confident learning) become label tasks for people. No label
is changed. `evergreen labels list` shows the tasks.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from plugins.assets import CHALLENGER
from plugins.task_defaults import DEFAULTS


@dag(
    schedule=[CHALLENGER],
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    doc_md=__doc__,
    tags=["evergreen", "data"],
    default_args=DEFAULTS | {"execution_timeout": timedelta(hours=3)},
)
def review() -> None:
    @task
    def find_label_errors() -> int:
        """Review the labels of the newest dataset version; returns the number of label tasks opened."""
        import os

        from airflow.sdk.exceptions import AirflowSkipException

        from ml.datasets import versions
        from ml.training.label_errors import review as review_labels
        from plugins.runtime import context

        ctx = context()
        newest = versions.latest(ctx)
        if newest is None or ctx.settings.review_most == 0:
            raise AirflowSkipException("there is nothing to review")
        os.nice(10)  # a task is a process of its own; requests and the next cycle come first
        return review_labels(ctx, newest.id)

    find_label_errors()


review()
