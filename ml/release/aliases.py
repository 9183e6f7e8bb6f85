"""Updates the registry's aliases from the deployments; retried later if the registry is unavailable."""

import logging

from ml.catalog.deployments import DeploymentRecord
from ml.context import Context
from ml.errors import NotFoundError, UnavailableError

log = logging.getLogger(__name__)

PENDING = "the registry does not answer, its aliases follow later"


def update(ctx: Context, deployment: DeploymentRecord) -> str | None:
    """Set the aliases champion and previous for this deployment; return a note if that is deferred.

    Raises:
        NotFoundError: the version was deleted from the registry.
    """
    champion, previous = deployment.model_version, deployment.previous_version
    try:
        if previous is not None and previous != champion:
            try:
                ctx.registry.set_alias("previous", previous)
            except NotFoundError as error:
                log.warning("the previous version cannot be rolled back to: %s", error)
        ctx.registry.set_alias("champion", champion)
        if ctx.registry.alias("challenger") == champion:
            ctx.registry.set_alias("challenger", None)
    except UnavailableError as error:
        log.warning("version %s is live, %s: %s", champion, PENDING, error)
        return PENDING
    return None


def repair(ctx: Context, live: DeploymentRecord) -> None:
    """Correct aliases that a crash, an outage or a manual change left different from the live deployment."""
    try:
        if ctx.registry.alias("champion") == live.model_version:
            return
        log.warning("the alias champion differs from the live deployment; setting it to version %s", live.model_version)
        update(ctx, live)
    except NotFoundError as error:
        log.warning("the live version was deleted from the registry; the next deployment will replace it: %s", error)
    except UnavailableError as error:
        log.warning("cannot compare the registry's aliases with the live deployment: %s", error)
