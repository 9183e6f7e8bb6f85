"""The registry's aliases follow the ledger; a registry that is away is caught up with later."""

import logging
from typing import Any

from ml.context import Context
from ml.errors import NotFoundError, UnavailableError

log = logging.getLogger(__name__)

LATER = "the registry does not answer, its aliases follow later"


def follow(ctx: Context, deployment: dict[str, Any]) -> str | None:
    """Let champion and previous name what this deployment put live; a note where that has to wait.

    Raises:
        NotFoundError: the version is gone from the registry.
    """
    champion, previous = deployment["model_version"], deployment["previous_version"]
    try:
        if previous is not None and previous != champion:
            try:
                ctx.registry.set_alias("previous", previous)
            except NotFoundError as error:
                log.warning("there will be nothing to roll back to: %s", error)
        ctx.registry.set_alias("champion", champion)
        if ctx.registry.alias("challenger") == champion:
            ctx.registry.set_alias("challenger", None)
    except UnavailableError as error:
        log.warning("version %s is live, %s: %s", champion, LATER, error)
        return LATER
    return None


def mend(ctx: Context, live: dict[str, Any]) -> None:
    """Set back what a crash, an outage or a hand left different from the ledger."""
    try:
        if ctx.registry.alias("champion") == live["model_version"]:
            return
        log.warning("the registry disagrees with the ledger; champion is set to %s", live["model_version"])
        follow(ctx, live)
    except NotFoundError as error:
        log.warning("what is live was deleted from the registry, the next move replaces it: %s", error)
    except UnavailableError as error:
        log.warning("whether the registry agrees with the ledger is not known: %s", error)
