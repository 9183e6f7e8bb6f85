"""`evergreen decisions | approve | reject`: decisions of the gate, and approvals."""

from typing import Annotated

import typer

from ml.cli.output import (
    STOPPED,
    Actor,
    Json,
    Reason,
    actor_name,
    add_row,
    connected,
    emit,
    new_table,
    report_deployment,
    say,
    show,
)

DecisionId = Annotated[str, typer.Argument(metavar="ID", help="The decision's id; `evergreen decisions` lists them.")]


def decisions(as_json: Json = False) -> None:
    """The newest decisions: which model, verdict, who, and what a person said."""
    from ml.catalog import decisions as decisions_catalog

    records = decisions_catalog.recent(connected().engine)
    table = new_table("id", "made", "model", "against", "verdict", "by")
    for record in records:
        against = f"v{record.champion_version}" if record.champion_version else "–"
        verdict = record.verdict
        if record.approval_actor:
            verdict += f", {'approved' if record.approval_approved else 'rejected'} by {record.approval_actor}"
        created_at = f"{record.created_at:%Y-%m-%d %H:%M:%S}"
        add_row(table, record.id, created_at, f"v{record.model_version}", against, verdict, record.actor)
    show(table, records, as_json, {record.id: record.approval_reason or record.reason for record in records})


def approve(
    decision: DecisionId,
    reason: Annotated[str, typer.Option("--reason", help="Why; is kept.")] = "",
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Say yes to a decision that needs a person, and release the model. Exit code 4 if the release was undone."""
    from ml.catalog import approvals
    from ml.catalog.approvals import Approval
    from ml.release.approval import apply_approval

    ctx = connected()
    approval = Approval(decision, approved=True, actor=actor_name(actor), reason=reason)
    approvals.answer(ctx.engine, approval, ctx.settings.gate_review_hours)
    deployment = apply_approval(ctx, decision)
    if deployment is None:
        emit({"status": "not released", "decision": decision}, as_json)
        if not as_json:
            say("approved, but another champion was made meanwhile, so it is not released: train and decide again")
        raise typer.Exit(STOPPED)
    report_deployment(deployment, as_json)


def reject(decision: DecisionId, reason: Reason, actor: Actor = None, as_json: Json = False) -> None:
    """Say no to a decision that needs a person."""
    from ml.catalog import approvals
    from ml.catalog.approvals import Approval
    from ml.release.approval import apply_approval

    ctx = connected()
    approval = Approval(decision, approved=False, actor=actor_name(actor), reason=reason)
    recorded = approvals.answer(ctx.engine, approval, ctx.settings.gate_review_hours)
    apply_approval(ctx, decision)
    emit(vars(recorded), as_json)
    if not as_json:
        say(f"decision {decision} is {approvals.describe(recorded)}")
