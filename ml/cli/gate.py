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

    rows = decisions_catalog.recent(connected().engine)
    table = new_table("id", "made", "model", "against", "verdict", "by")
    for row in rows:
        against = f"v{row['champion_version']}" if row["champion_version"] else "–"
        verdict = row["verdict"]
        if row["approval_actor"]:
            verdict += f", {'approved' if row['approval_approved'] else 'rejected'} by {row['approval_actor']}"
        created_at = f"{row['created_at']:%Y-%m-%d %H:%M:%S}"
        add_row(table, row["id"], created_at, f"v{row['model_version']}", against, verdict, row["actor"])
    show(table, rows, as_json, {row["id"]: row["approval_reason"] or row["reason"] for row in rows})


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
