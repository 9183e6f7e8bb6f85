"""Deployments by an operator: promote a version, roll back."""

import uuid

from ml.catalog import deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.release.deploy import Deployment, deploy_decision
from ml.settings import Strategy


def promote(ctx: Context, version: int, actor: str, reason: str, strategy: Strategy = "direct") -> Deployment:
    """Make `version` the champion regardless of the gate, or start its trial; recorded with the actor's name.

    Raises:
        InvalidInputError: the name or the reason is missing.
        NotFoundError: there is no such version, or it has no bundle.
    """
    return _deploy(ctx, version, "promote", actor, reason, strategy)


def rollback(ctx: Context, actor: str, reason: str, to_version: int | None = None) -> Deployment:
    """Roll back to `to_version` or the previous version; during a trial, end the trial and keep the live version.

    Works without the registry: earlier deployments are in the catalog.

    Raises:
        InvalidInputError: the name or the reason is missing.
        NotFoundError: there is no previous version.
    """
    version = _rollback_target(ctx) if to_version is None else to_version
    if version is None:
        raise NotFoundError("there is no previous model to roll back to; name a version with `--to`")
    return _deploy(ctx, version, "rollback", actor, reason)


def _rollback_target(ctx: Context) -> int | None:
    live = deployments.live(ctx.engine)
    with transaction(ctx.engine) as connection:
        on_trial = deployments.on_trial(connection)
    if live is None:
        return None
    return live.model_version if on_trial else live.previous_version


def _deploy(
    ctx: Context, version: int, verdict: str, actor: str, reason: str, strategy: Strategy = "direct"
) -> Deployment:
    if not actor.strip() or not reason.strip():
        raise InvalidInputError("an operator's deployment needs a name and a reason: they are stored with the decision")
    live = deployments.live(ctx.engine)
    decision = Decision(
        id=uuid.uuid4().hex[:16],
        model_version=version,
        champion_version=live.model_version if live else None,
        dataset_version=_dataset_of(ctx, version),
        verdict=verdict,
        reason=reason.strip(),
        actor=f"operator:{actor.strip()}",
        statistics={},
    )
    return deploy_decision(ctx, decision, strategy=strategy)


def _dataset_of(ctx: Context, version: int) -> str | None:
    try:
        return ctx.registry.tags(version).get("dataset_version")
    except UnavailableError:
        return None
