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


def update(ctx: Context, deployment: DeploymentRecord, *, restore: bool) -> str | None:
    """Set the aliases champion and previous for this deployment; return a note if that is deferred.

    Args:
        restore: register the version again if the registry lost it.

    Raises:
        NotFoundError: the version was deleted from the registry.
    """
    champion, previous = deployment.model_version, deployment.previous_version
    try:
        if restore and ctx.registry.repair(champion):
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


def repair(ctx: Context, *, with_earlier: bool = False) -> list[str]:
    """Correct what differs from the live deployment; return in words what did.

    Args:
        with_earlier: also register the version before and the best so far again. Nothing needs them in the registry,
            and whoever deleted them may have had a reason.

    Raises:
        UnavailableError: the registry does not answer.
    """
    live = deployments.live(ctx.engine)
    if live is None:
        return []
    needed: list[int | None] = [live.model_version]
    if with_earlier:
        needed += [live.previous_version, decisions.best_so_far(ctx.engine, live.model_version)]
    versions = dict.fromkeys(version for version in needed if version is not None)
    findings = [finding for version in versions if (finding := _repair_version(ctx, version)) is not None]
    return findings + _repair_champion(ctx, live)


def _repair_champion(ctx: Context, live: DeploymentRecord) -> list[str]:
    champion = ctx.registry.alias("champion")
    # By the bundle: a person may have registered it twice.
    if champion is not None and ctx.registry.bundle(champion).prefix == live.bundle_prefix:
        return []
    was = "named no version" if champion is None else f"named version {champion}"
    try:
        update(ctx, live, restore=False)
    except NotFoundError as error:
        return [f"the alias champion {was} and cannot be set to version {live.model_version}: {error}"]
    return [f"the alias champion {was}, but version {live.model_version} is live: corrected"]


def _repair_version(ctx: Context, version: int) -> str | None:
    try:
        if not ctx.registry.repair(version):
            return None
    except NotFoundError as error:
        return f"version {version} cannot be registered again: {error}"
    return f"version {version} was missing in the registry: registered again from its bundle"
