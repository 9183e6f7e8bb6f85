"""Default arguments of every task, which a DAG may override."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from ml.errors import IntegrityError, InvalidInputError, NotFoundError
from plugins.alerts import AlertNotifier

DEFAULTS: dict[str, Any] = {
    "owner": "evergreen",
    # Waits of at least 5, 10, 20 and 40 s, to outlast a server that is unavailable for a minute.
    "retries": 4,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=5),
    # Retrying does not help when something is invalid or missing, and would delay the tasks that wait.
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(exception=error, action=RetryAction.FAIL)
            for error in (InvalidInputError, NotFoundError, IntegrityError)
        ]
    ),
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": AlertNotifier(),
}
