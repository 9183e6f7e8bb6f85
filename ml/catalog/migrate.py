"""Upgrades database `evergreen` to the newest migration; safe to run concurrently."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine

from ml.catalog.engine import advisory_lock, transaction

_MIGRATIONS = Path(__file__).with_name("migrations")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Upgrade to the newest migration, one process at a time.

    Raises:
        UnavailableError: the database does not answer.
    """
    with advisory_lock(engine, "migrate"), transaction(engine) as connection:
        command.upgrade(alembic_config(connection), "head")
