"""Waits in the triggerer until a decision is answered, wherever the answer comes from."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from airflow.sdk.api.datamodels._generated import HITLDetailResponse

    from ml.catalog.approvals import Approval

APPROVE, REJECT = "Approve", "Reject"
"""The two options of the request in Airflow."""
POLL_SECONDS = 10.0


class ApprovalTrigger(BaseTrigger):
    """One event, when table `approvals` has the answer, or when somebody clicked in Airflow.

    Airflow resumes the task itself when somebody clicks while it is deferred; the trigger finds the clicks that came
    just before that.
    """

    def __init__(self, ti_id: str, decision_id: str, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in Airflow
        self.ti_id = ti_id
        self.decision_id = decision_id
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class; settings are read there, so no secret is stored here."""
        arguments = {"ti_id": self.ti_id, "decision_id": self.decision_id, "poll_seconds": self.poll_seconds}
        return "plugins.approval_trigger.ApprovalTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """A look that fails is logged and tried again."""
        find_answer: Callable[[], Approval | None] | None = None
        failing = False
        while True:
            # First a pause: resuming at once would race with the scheduler, which has yet to see the task wait.
            await asyncio.sleep(self.poll_seconds)
            try:
                if find_answer is None:
                    find_answer = await asyncio.to_thread(answer_finder, self.decision_id)
                if answer := await asyncio.to_thread(find_answer):
                    await self._close_request(answer)
                    yield TriggerEvent({"answered": True})
                    return
                click = await self._click()
                if click.response_received:
                    yield TriggerEvent(resume_event(click))
                    return
                failing = False
            except Exception:
                if not failing:
                    self.log.exception("looking for the answer to decision %s failed; retrying", self.decision_id)
                failing = True

    async def _click(self) -> "HITLDetailResponse":
        from airflow.sdk.execution_time.hitl import get_hitl_detail_content_detail

        return await sync_to_async(get_hitl_detail_content_detail)(ti_id=UUID(self.ti_id))

    async def _close_request(self, answer: "Approval") -> None:
        """Show in Airflow what was answered elsewhere; a click that came meanwhile stays."""
        from airflow.sdk.execution_time.hitl import update_hitl_detail_response

        option = APPROVE if answer.approved else REJECT
        reason = {"reason": f"{answer.reason} ({answer.actor})"}
        try:
            if not (await self._click()).response_received:
                await sync_to_async(update_hitl_detail_response)(UUID(self.ti_id), [option], reason)
        except Exception:  # it is the row of `approvals` that counts
            self.log.exception("Airflow does not show the answer to decision %s", self.decision_id)


def resume_event(click: "HITLDetailResponse") -> dict[str, Any]:
    """What Airflow itself hands to the operator when somebody clicks while the task is deferred."""
    user = click.responded_by_user
    return {
        "chosen_options": click.chosen_options or [],
        "params_input": click.params_input or {},
        "responded_at": click.responded_at,
        "responded_by_user": {"id": user.id, "name": user.name} if user else None,
    }


def answer_finder(decision_id: str) -> "Callable[[], Approval | None]":
    """Asks table `approvals`; no answer in time is recorded there as a rejection."""
    from ml.catalog import approvals
    from ml.context import connect
    from ml.settings import Settings

    context = connect(Settings.load(os.environ))

    def find_answer() -> "Approval | None":
        approvals.expire(context.engine, context.settings.gate_review_hours)
        return approvals.find(context.engine, decision_id)

    return find_answer
