"""From a person's answer to what follows from it, whoever took the answer down."""

from ml.catalog import approvals
from ml.context import Context
from ml.release.deploy import Deployment
from ml.release.release import finish, release


def carry_out(ctx: Context, decision_id: str) -> Deployment | None:
    """Release what was approved, and end the cycles of what was rejected; None where nothing was released.

    Running again, or at once in two places, does it once.

    Raises:
        NotFoundError: no such decision, or its version is gone from the registry.
        ConflictError: another champion was made meanwhile, and no cycle is open to note it in.
        UnavailableError: a server does not answer.
    """
    waiting = approvals.open_cycles(ctx.engine, decision_id)
    done = [release(ctx, decision_id, cycle_id=cycle) for _, cycle in waiting]
    return done[-1] if done else release(ctx, decision_id)


def settle(ctx: Context) -> list[str]:
    """Reject what waited for too long, carry out answers that nobody did, end what a trial left open; the decisions."""
    approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
    ended = []
    for decision, _ in approvals.open_cycles(ctx.engine):
        if approvals.find(ctx.engine, decision) is not None and decision not in ended:
            carry_out(ctx, decision)
            ended.append(decision)
    finish(ctx)
    return ended
