"""
### Approve: a person approves or rejects a model

Started by `train` for each decision that needs a person, or by hand with a decision's id. `ask` waits for a
click on Approve or Reject under “Required Actions”, and ends as well when the answer came by `evergreen approve`,
`evergreen reject` or REST, or when the hours of the setting `gate_review_hours` are over: then it is a
rejection. The first answer counts. `carry_out` releases what was approved.
"""

import os
from datetime import timedelta

from airflow.sdk import Param, PokeReturnValue, dag, task

from ml.settings import Settings
from plugins.approval_operator import REASON_PARAM, ApprovalOperator
from plugins.release_sensor import SENSOR_OPTIONS
from plugins.task_defaults import DEFAULTS

REVIEW_TIME = timedelta(hours=Settings.load(os.environ).gate_review_hours)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=16,
    dagrun_timeout=REVIEW_TIME + timedelta(hours=24),
    doc_md=__doc__,
    tags=["evergreen", "model"],
    params={"decision_id": Param(type="string", title="Decision", pattern="^[0-9a-f]{1,64}$")},
    default_args=DEFAULTS | {"execution_timeout": timedelta(minutes=20)},
)
def approve() -> None:
    ask = ApprovalOperator(
        task_id="ask",
        decision_id="{{ params.decision_id }}",
        response_timeout=REVIEW_TIME,
        params={"reason": REASON_PARAM},
    )

    @task.sensor(**SENSOR_OPTIONS)
    def carry_out() -> PokeReturnValue:
        """Release an approved model; skipped if it was rejected, or another model became champion meanwhile."""
        from ml.release.approval import apply_approval
        from plugins.release_sensor import poke_result
        from plugins.runtime import context, params

        return poke_result(apply_approval(context(), params()["decision_id"]))

    ask >> carry_out()


approve()
