"""The secret that decides which group of samples goes to which split; made once for each installation."""

import secrets
from typing import Final

from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import split_salts

_BYTES: Final = 32


def read(engine: Engine) -> str:
    """The salt of this installation; the first call makes it, also if several come at once.

    Raises:
        UnavailableError: the catalog does not answer.
    """
    query = select(split_salts.c.salt)
    with transaction(engine) as connection:
        salt = connection.execute(query).scalar()
        if salt is None:
            statement = insert(split_salts).values(id=1, salt=secrets.token_hex(_BYTES))
            connection.execute(statement.on_conflict_do_nothing())
            salt = connection.execute(query).scalar_one()
    return str(salt)
