"""What a person may do by name: promote a version, roll back."""

import uuid

from ml.catalog.decisions import Decision
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError
from ml.release.deploy import Deployment, move


def promote(ctx: Context, version: int, actor: str, reason: str) -> Deployment:
    """Make `version` the champion whatever the gate says; recorded with the actor's name.

    Raises:
        InvalidInputError: no name or no reason.
        NotFoundError: no such version, or it has no bundle.
    """
    return _move(ctx, version, "promote", actor, reason)


def rollback(ctx: Context, actor: str, reason: str, to_version: int | None = None) -> Deployment:
    """Back to `to_version`, else to the version that bears the alias ``previous``.

    Raises:
        InvalidInputError: no name or no reason.
        NotFoundError: there is nothing to go back to.
    """
    version = ctx.registry.alias("previous") if to_version is None else to_version
    if version is None:
        raise NotFoundError("there is no previous model to roll back to; name a version with `--to`")
    return _move(ctx, version, "rollback", actor, reason)


def _move(ctx: Context, version: int, verdict: str, actor: str, reason: str) -> Deployment:
    if not actor.strip() or not reason.strip():
        raise InvalidInputError("an operator's move needs a name and a reason: they are kept with the decision")
    decision = Decision(
        id=uuid.uuid4().hex[:16],
        model_version=version,
        champion_version=ctx.registry.alias("champion"),
        dataset_version=ctx.registry.tags(version).get("dataset_version"),
        verdict=verdict,
        reason=reason.strip(),
        actor=f"operator:{actor.strip()}",
        statistics={},
    )
    return move(ctx, decision)
