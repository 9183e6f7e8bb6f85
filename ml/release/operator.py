"""What a person may do by name: promote a version, roll back."""

import uuid

from ml.catalog import deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.release.deploy import Deployment, move
from ml.settings import Strategy


def promote(ctx: Context, version: int, actor: str, reason: str, strategy: Strategy = "direct") -> Deployment:
    """Make `version` the champion whatever the gate says, or try it; recorded with the actor's name.

    Raises:
        InvalidInputError: no name or no reason.
        NotFoundError: no such version, or it has no bundle.
    """
    return _move(ctx, version, "promote", actor, reason, strategy)


def rollback(ctx: Context, actor: str, reason: str, to_version: int | None = None) -> Deployment:
    """Back to `to_version`, else to the version before the live one; while a trial goes on, that is what is ended.

    Needs no registry: what served before is in the ledger.

    Raises:
        InvalidInputError: no name or no reason.
        NotFoundError: there is nothing to go back to.
    """
    version = _before(ctx) if to_version is None else to_version
    if version is None:
        raise NotFoundError("there is no previous model to roll back to; name a version with `--to`")
    return _move(ctx, version, "rollback", actor, reason)


def _before(ctx: Context) -> int | None:
    live = deployments.live(ctx.engine)
    with transaction(ctx.engine) as connection:
        tried = deployments.on_trial(connection)
    return live["model_version" if tried else "previous_version"] if live else None


def _move(
    ctx: Context, version: int, verdict: str, actor: str, reason: str, strategy: Strategy = "direct"
) -> Deployment:
    if not actor.strip() or not reason.strip():
        raise InvalidInputError("an operator's move needs a name and a reason: they are kept with the decision")
    live = deployments.live(ctx.engine)
    decision = Decision(
        id=uuid.uuid4().hex[:16],
        model_version=version,
        champion_version=live["model_version"] if live else None,
        dataset_version=_dataset_of(ctx, version),
        verdict=verdict,
        reason=reason.strip(),
        actor=f"operator:{actor.strip()}",
        statistics={},
    )
    return move(ctx, decision, strategy=strategy)


def _dataset_of(ctx: Context, version: int) -> str | None:
    try:
        return ctx.registry.tags(version).get("dataset_version")
    except UnavailableError:
        return None
