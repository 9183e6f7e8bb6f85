"""The best champion so far: each challenger is compared with it and with the champion, so that losses cannot add up."""

import logging

from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import decisions
from ml.context import Context

log = logging.getLogger(__name__)


def best_so_far(ctx: Context, champion: int) -> int:
    """The model version that did best on the holdout of all that were champions, as of the newest decision.

    It is the champion itself where nothing was decided yet, and after a person's word (a rollback, a promotion by
    hand): what a person took out of service for reasons of their own is no measure for what comes.
    """
    query = select(decisions.c.actor, decisions.c.statistics["best_so_far"]).order_by(decisions.c.created_at.desc())
    with transaction(ctx.engine) as connection:
        for actor, best in connection.execute(query.limit(1000)):
            if actor != "gate":
                return champion
            if best is not None:
                return int(best)
    return champion
