"""Asks a person about a decision: in Airflow's UI, while the answer may also come from elsewhere."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

REASON = Param("", type=["null", "string"], title="Reason", description="Is kept with the decision.")
LOOK = timedelta(seconds=30)
"""How often it looks whether somebody answered elsewhere, or the time is over."""
_YES, _NO = "Approve", "Reject"


class AskPerson(HITLOperator):
    """Ends when the decision is answered, whoever did and wherever; `approvals` is the truth, not Airflow.

    It waits without a process: Airflow resumes it when somebody clicks, and after `LOOK` otherwise.
    """

    template_fields = (*HITLOperator.template_fields, "decision_id")

    def __init__(self, *, decision_id: str, **others: Any) -> None:
        # No defaults: a look that finds nothing must not become an answer.
        super().__init__(subject="May this model answer?", options=[_YES, _NO], response_timeout=LOOK, **others)
        self.decision_id = decision_id

    def execute(self, context: Any) -> Any:
        """Tell what is asked, and wait."""
        from ml.catalog import decisions
        from plugins.alerts import alert
        from plugins.runtime import context as ours

        ctx = ours()
        decision = decisions.get(ctx.engine, self.decision_id)
        if self._is_answered():
            return None
        report = f"{ctx.settings.service_url}/console/files/{decision.report_key}"
        self.subject = f"May version {decision.model_version} answer?"
        hours = f"{ctx.settings.gate_review_hours:g} hours"
        self.body = f"{decision.reason}\n\n[The report]({report})\n\nNo answer within {hours} means no."
        if context["ti"].try_number == 1:
            here = self.generate_link_to_ui_from_context(context=context)
            alert(f"decision {decision.id} needs a person within {hours}", f"{decision.reason}\n{report}\n{here}")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take a click down, or wait on."""
        from ml.catalog import approvals
        from ml.catalog.approvals import Approval
        from ml.errors import ConflictError
        from plugins.runtime import context as ours

        if event.get("error_type") == "timeout":
            if not self._is_answered():
                raise TaskAwaitingInput(method_name="execute_complete", timeout=LOOK)
            return None
        clicked = super().execute_complete(context, event)
        by = clicked["responded_by_user"] or {}
        approved = clicked["chosen_options"] == [_YES]
        name = f"{by.get('name') or by.get('id') or 'somebody'} in Airflow"
        reason = (clicked["params_input"].get("reason") or "").strip() or ("" if approved else "no reason given")
        ctx = ours()
        try:
            given = Approval(self.decision_id, approved, name, reason)
            approvals.answer(ctx.engine, given, ctx.settings.gate_review_hours)
        except ConflictError as error:
            self.log.warning("this answer does not count: %s", error)
        return None

    def _is_answered(self) -> bool:
        from ml.catalog import approvals
        from plugins.runtime import context as ours

        ctx = ours()
        approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
        return approvals.find(ctx.engine, self.decision_id) is not None
