"""Deployments by an operator: promote a version, roll back."""

import uuid

from sqlalchemy import select

from ml.catalog import decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError
from ml.release.deploy import Deployment, deploy_chosen
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
    return _deploy(ctx, to_version, "rollback", actor, reason)


def _rollback_target(ctx: Context) -> int:
    live = deployments.live(ctx.engine)
    with transaction(ctx.engine) as connection:
        on_trial = deployments.on_trial(connection)
    version = None if live is None else live.model_version if on_trial else live.previous_version
    if version is None:
        raise NotFoundError("there is no previous model to roll back to; name a version with `--to`")
    return version


def _is_rolled_back(ctx: Context, target: int) -> bool:
    """Whether somebody else rolled back to the target just now: a second rollback must not undo the first."""
    live = deployments.live(ctx.engine)
    if live is None or live.model_version != target:
        return False
    return decisions.get(ctx.engine, live.decision_id).verdict == "rollback"


def _deploy(
    ctx: Context, version: int | None, verdict: str, actor: str, reason: str, strategy: Strategy = "direct"
) -> Deployment:
    """Deploy the version, or for None the one to roll back to when nothing else can be deployed any more."""
    if not actor.strip() or not reason.strip():
        raise InvalidInputError("an operator's deployment needs a name and a reason: they are stored with the decision")

    wanted = _rollback_target(ctx) if version is None else version

    def choose() -> Decision:
        chosen = wanted if version is not None or _is_rolled_back(ctx, wanted) else _rollback_target(ctx)
        live = deployments.live(ctx.engine)
        return Decision(
            id=uuid.uuid4().hex[:16],
            model_version=chosen,
            champion_version=live.model_version if live else None,
            dataset_version=_dataset_of(ctx, chosen),
            verdict=verdict,
            reason=reason.strip(),
            actor=f"operator:{actor.strip()}",
            statistics={},
        )

    return deploy_chosen(ctx, choose, strategy=strategy)


def _dataset_of(ctx: Context, version: int) -> str | None:
    """The dataset version it was trained on; None also if that is of another installation."""
    dataset = ctx.registry.tags(version).get("dataset_version")
    with transaction(ctx.engine) as connection:
        found: str | None = connection.execute(
            select(dataset_versions.c.id).where(dataset_versions.c.id == dataset)
        ).scalar()
    return found
