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


app = typer.Typer(invoke_without_command=True, help="Decisions on models: what was chosen, by whom, and why.")


@app.callback()
def decisions(command: typer.Context, as_json: Json = False) -> None:
    """The newest decisions: which model, verdict, who, and what a person said."""
    if command.invoked_subcommand is not None:
        return
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


@app.command("show")
def show_decision(decision: DecisionId, as_json: Json = False) -> None:
    """One decision: the reason, which labels of the holdout were changed, and which drops made the model worse."""
    from dataclasses import asdict

    from ml.catalog import decisions as decisions_catalog

    record = decisions_catalog.get(connected().engine, decision)
    emit(asdict(record), as_json)
    if as_json:
        return
    say(f"{record.verdict}: {record.reason}")
    changes, blame = (record.statistics.get(name) or {} for name in ("relabelled", "blame"))
    for row in [*changes.get("by", ()), *changes.get("applied_by", ())]:
        pairs = ", ".join(f"{p['changed']} {p['before']} → {p['after']}" for p in row["classes"])
        say(f"holdout labels changed by {row['by']}: {row['changed']} ({pairs})")
    for row in blame.get("drops", ()):
        say(f"drop {row['name']}: score {row['score']:.1f}; its images that contradict the most:")
        for image in row["images"]:
            say(f"  {image['sha256']} {image['label']}")
        say(f"to take it out: evergreen drops revert {row['name']} --reason …")


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
            say("approved, but not released: another model became live meanwhile, and it was judged again by that one;")
            say("`evergreen decisions` lists the new decision")
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
