"""The operator that asks a person about a decision in Airflow's UI; the answer may also come by CLI or REST."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

from plugins.approval_trigger import APPROVE, REJECT, ApprovalTrigger

REASON_PARAM = Param("", type=["null", "string"], title="Reason", description="Is kept with the decision.")


class ApprovalOperator(HITLOperator):
    """Ends when the decision is answered, anywhere; table `approvals` is authoritative, not Airflow.

    It waits without a process: Airflow resumes it when somebody clicks, the trigger for any other answer.
    """

    template_fields = (*HITLOperator.template_fields, "decision_id")

    def __init__(self, *, decision_id: str, response_timeout: timedelta, **kwargs: Any) -> None:
        # No default option: it is table `approvals` that says when the time is over, and what that means.
        super().__init__(
            subject="May this model answer?", options=[APPROVE, REJECT], response_timeout=response_timeout, **kwargs
        )
        self.decision_id = decision_id

    def execute(self, context: Any) -> Any:
        """Send the alert, show the question and wait."""
        from ml.catalog import approvals, decisions
        from plugins.alerts import alert
        from plugins.runtime import context as connect

        ctx = connect()
        decision = decisions.get(ctx.engine, self.decision_id)
        approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
        if approvals.find(ctx.engine, self.decision_id) is not None:
            return
        report = f"{ctx.settings.service_url}/console/files/{decision.report_key}"
        self.subject = f"May version {decision.model_version} answer?"
        hours = f"{ctx.settings.gate_review_hours:g} hours"
        self.body = f"{decision.reason}\n\n[The report]({report})\n\nNo answer within {hours} means no."
        if context["ti"].try_number == 1:
            link = self.generate_link_to_ui_from_context(context=context)
            alert(f"decision {decision.id} needs a person within {hours}", f"{decision.reason}\n{report}\n{link}")
        try:
            super().execute(context)
        except TaskAwaitingInput:
            self._wait(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record a click; other answers are recorded already."""
        from ml.catalog import approvals
        from ml.catalog.approvals import Approval
        from ml.errors import ConflictError
        from plugins.runtime import context as connect

        if event.get("error_type") == "timeout":  # asked by a version that polled, which is not an answer
            self._wait(context)
        if "answered" in event:
            return
        clicked = super().execute_complete(context, event)
        user = clicked["responded_by_user"] or {}
        approved = clicked["chosen_options"] == [APPROVE]
        name = f"{user.get('name') or user.get('id') or 'somebody'} in Airflow"
        reason = (clicked["params_input"].get("reason") or "").strip() or ("" if approved else "no reason given")
        ctx = connect()
        try:
            approval = Approval(self.decision_id, approved, name, reason)
            approvals.answer(ctx.engine, approval, ctx.settings.gate_review_hours)
        except ConflictError as error:
            self.log.warning("this answer does not count: %s", error)

    def _wait(self, context: Any) -> None:
        """Defer. Airflow's own way of waiting resumes the task for each look, and may lose a click that comes then."""
        trigger = ApprovalTrigger(str(context["ti"].id), self.decision_id)
        self.defer(trigger=trigger, method_name="execute_complete")
