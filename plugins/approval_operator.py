"""The operator that asks a person about a decision in Airflow's UI; the answer may also come by CLI or REST."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

REASON_PARAM = Param("", type=["null", "string"], title="Reason", description="Is kept with the decision.")
POLL_INTERVAL = timedelta(seconds=30)
"""Interval of checks whether the decision was answered outside Airflow, or has expired."""
_APPROVE, _REJECT = "Approve", "Reject"


class ApprovalOperator(HITLOperator):
    """Ends when the decision is answered, anywhere; table `approvals` is authoritative, not Airflow.

    It waits without a process: Airflow resumes it when somebody clicks, or after `POLL_INTERVAL`.
    """

    template_fields = (*HITLOperator.template_fields, "decision_id")

    def __init__(self, *, decision_id: str, **kwargs: Any) -> None:
        # No default option: a poll without an answer must not become an answer.
        super().__init__(
            subject="May this model answer?", options=[_APPROVE, _REJECT], response_timeout=POLL_INTERVAL, **kwargs
        )
        self.decision_id = decision_id

    def execute(self, context: Any) -> Any:
        """Send the alert, show the question and wait."""
        from ml.catalog import decisions
        from plugins.alerts import alert
        from plugins.runtime import context as connect

        ctx = connect()
        decision = decisions.get(ctx.engine, self.decision_id)
        if self._is_answered():
            return None
        report = f"{ctx.settings.service_url}/console/files/{decision.report_key}"
        self.subject = f"May version {decision.model_version} answer?"
        hours = f"{ctx.settings.gate_review_hours:g} hours"
        self.body = f"{decision.reason}\n\n[The report]({report})\n\nNo answer within {hours} means no."
        if context["ti"].try_number == 1:
            link = self.generate_link_to_ui_from_context(context=context)
            alert(f"decision {decision.id} needs a person within {hours}", f"{decision.reason}\n{report}\n{link}")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record a click, or wait again."""
        from ml.catalog import approvals
        from ml.catalog.approvals import Approval
        from ml.errors import ConflictError
        from plugins.runtime import context as connect

        if event.get("error_type") == "timeout":
            if not self._is_answered():
                raise TaskAwaitingInput(method_name="execute_complete", timeout=POLL_INTERVAL)
            return None
        clicked = super().execute_complete(context, event)
        user = clicked["responded_by_user"] or {}
        approved = clicked["chosen_options"] == [_APPROVE]
        name = f"{user.get('name') or user.get('id') or 'somebody'} in Airflow"
        reason = (clicked["params_input"].get("reason") or "").strip() or ("" if approved else "no reason given")
        ctx = connect()
        try:
            approval = Approval(self.decision_id, approved, name, reason)
            approvals.answer(ctx.engine, approval, ctx.settings.gate_review_hours)
        except ConflictError as error:
            self.log.warning("this answer does not count: %s", error)
        return None

    def _is_answered(self) -> bool:
        from ml.catalog import approvals
        from plugins.runtime import context as connect

        ctx = connect()
        approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
        return approvals.find(ctx.engine, self.decision_id) is not None
