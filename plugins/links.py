"""Buttons that Airflow shows beside a task instance."""

from typing import Any

from airflow.sdk import BaseOperatorLink


class DataDocsLink(BaseOperatorLink):
    """To the Data Docs page of the drop whose id the task returns."""

    name = "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Called by Airflow in the task's process when the task has ended; Airflow stores the URL."""
        from ml.validation import data_docs
        from plugins.runtime import settings

        drop_id = ti_key.xcom_pull(task_ids=operator.task_id, map_indexes=ti_key.map_index)
        return data_docs.url(settings(), data_docs.key(drop_id)) if drop_id else ""


class DecisionReportLink(BaseOperatorLink):
    """To the report of the gate's decision whose id the task returns."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As `DataDocsLink.get_link`."""
        from ml.gate.decide import report_key
        from ml.validation import data_docs
        from plugins.runtime import settings

        decision_id = ti_key.xcom_pull(task_ids=operator.task_id)
        return data_docs.url(settings(), report_key(decision_id)) if decision_id else ""
