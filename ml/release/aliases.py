"""Keeps the registry in step with the deployments: its aliases, and the versions that it must have.

People delete versions, move aliases and rename models there. What is live does not depend on it, but warm starts of
other tools, links and `evergreen models` do, so differences are corrected and reported.
"""

import logging

from ml.catalog import decisions, deployments
from ml.catalog.deployments import DeploymentRecord
from ml.context import Context
from ml.errors import NotFoundError, UnavailableError

log = logging.getLogger(__name__)

PENDING = "the registry does not answer, its aliases follow later"


def update(ctx: Context, deployment: DeploymentRecord, *, by_operator: bool) -> str | None:
    """Set the aliases champion and previous for this deployment; return a note if that is deferred.

    Args:
        by_operator: a person wants this version, so it is registered again if the registry lost it.

    Raises:
        NotFoundError: the version was deleted from the registry.
    """
    champion, previous = deployment.model_version, deployment.previous_version
    try:
        if by_operator and ctx.registry.repair(champion):
            log.warning("version %s was deleted from the registry and is registered again", champion)
        if previous is not None and previous != champion:
            try:
                ctx.registry.set_alias("previous", previous)
            except NotFoundError as error:
                log.warning("the previous version has no alias: %s", error)
        ctx.registry.set_alias("champion", champion)
        if ctx.registry.alias("challenger") == champion:
            ctx.registry.set_alias("challenger", None)
    except UnavailableError as error:
        log.warning("version %s is live, %s: %s", champion, PENDING, error)
        return PENDING
    return None


def repair(ctx: Context) -> list[str]:
    """Correct what differs from the live deployment; return in words what did.

    The live version, the one before and the best so far are registered again if the registry lost them.

    Raises:
        UnavailableError: the registry does not answer.
    """
    live = deployments.live(ctx.engine)
    if live is None:
        return []
    findings = [finding for version in _needed(ctx, live) if (finding := _repair_version(ctx, version)) is not None]
    if (champion := ctx.registry.alias("champion")) != live.model_version:
        update(ctx, live, by_operator=True)
        was = "named no version" if champion is None else f"named version {champion}"
        findings.append(f"the alias champion {was}, but version {live.model_version} is live: corrected")
    return findings


def _needed(ctx: Context, live: DeploymentRecord) -> list[int]:
    """Versions that the loop may need in the registry, without repetition."""
    best = decisions.best_so_far(ctx.engine, live.model_version)
    return list(dict.fromkeys(v for v in (live.model_version, live.previous_version, best) if v is not None))


def _repair_version(ctx: Context, version: int) -> str | None:
    try:
        if not ctx.registry.repair(version):
            return None
    except NotFoundError as error:
        return f"version {version} cannot be registered again: {error}"
    return f"version {version} was missing in the registry: registered again from its bundle"
