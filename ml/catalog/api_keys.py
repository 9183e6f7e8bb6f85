"""API keys: who may ask the service for what, and how often. Only hashes of them are kept.

A key is ``evg_<id>_<secret>``: the id finds its row, the secret is 256 random bits. Nobody can guess one
of those, so a single SHA-256 protects it as well as a slow password hash would, at a microsecond a request.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, bindparam, func, insert, or_, select, text, update

from ml.catalog.engine import transaction
from ml.catalog.tables import api_keys
from ml.errors import ConflictError, InvalidInputError, NotFoundError

ROLES: Final = ("predict", "feedback", "operate", "admin")
"""What a key may be for; `admin` may everything."""

_KEY: Final = re.compile(r"evg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME: Final = re.compile(r"[\w.@-][\w.@ -]{0,98}[\w.@-]|[\w.@-]", re.ASCII)
_MOST_PER_SECOND: Final = 1e6


@dataclass(frozen=True)
class Grant:
    """What a key is for.

    Attributes:
        per_second: requests that one worker process takes from it, on average; None: no limit.
        burst: how many may come at once.
    """

    name: str
    roles: tuple[str, ...]
    per_second: float | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInputError(
                f"`name` must be 1 to 100 letters, digits, spaces in between, or . _ @ -; received {self.name[:200]!r}"
            )
        if not self.roles or set(self.roles) - set(ROLES):
            raise InvalidInputError(f"`roles` must be some of {', '.join(ROLES)}; received {list(self.roles)}")
        if self.per_second is not None and not 0 < self.per_second <= _MOST_PER_SECOND:
            raise InvalidInputError(
                f"`per_second` must be above 0, at most {_MOST_PER_SECOND:g}; received {self.per_second}"
            )
        if (self.burst is None) != (self.per_second is None) or (self.burst is not None and self.burst < 1):
            raise InvalidInputError(
                f"`burst` must be at least 1 and goes with `per_second`; received {self.burst} and {self.per_second}"
            )


@dataclass(frozen=True)
class StoredKey:
    """A key as a service worker checks it; times are seconds of the epoch."""

    id: str
    sha256: str
    grant: Grant
    expires_at: float | None = None


def generate() -> str:
    """A new key. It can be shown once, and never be found again from what is stored."""
    return f"evg_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def id_of(key: str) -> str | None:
    """The part that finds the row; None for what is no key at all."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(engine: Engine, grant: Grant, actor: str, days: float | None = None) -> str:
    """Make a key; the only time that it is seen.

    Args:
        days: after so many it stops being good; None: never.

    Raises:
        ConflictError: a good key has this name.
    """
    key = generate()
    with transaction(engine) as connection:
        _one_writer(connection)
        _refuse_twice(connection, grant.name)
        _insert(connection, key, grant, actor, _in(timedelta(days=days)) if days is not None else None)
    return key


def ensure(engine: Engine, key: str, grant: Grant, actor: str) -> None:
    """Make a given key known, for a deployment whose secrets were made before its database. Once is enough.

    Raises:
        InvalidInputError: it has not the form of a key.
    """
    if id_of(key) is None:
        raise InvalidInputError("the given key has not the form `evg_<id>_<secret>` that `generate` gives it")
    with transaction(engine) as connection:
        _one_writer(connection)
        found = connection.execute(select(api_keys.c.sha256).where(api_keys.c.id == id_of(key))).scalar()
        if found is None:
            _insert(connection, key, grant, actor, None)
        elif found != digest(key):
            raise ConflictError(f"another key has the id {id_of(key)}: make a new one")


def rotate(engine: Engine, name: str, actor: str, grace_hours: float = 24.0) -> str:
    """A new key with the old one's name, roles and limits; the old one is good for some hours more.

    Raises:
        NotFoundError: no good key has this name.
    """
    with transaction(engine) as connection:
        _one_writer(connection)
        rows = connection.execute(select(api_keys).where(api_keys.c.name == name, _good())).all()
        if not rows:
            raise NotFoundError(f"no good key is named {name!r}; `evergreen keys list` names them")
        newest = max(rows, key=lambda row: row.created_at)
        end = func.least(func.coalesce(api_keys.c.expires_at, "infinity"), _in(timedelta(hours=grace_hours)))
        ended = update(api_keys).where(api_keys.c.id.in_([row.id for row in rows]))
        connection.execute(ended.values(expires_at=end, changed_at=func.clock_timestamp()))
        key = generate()
        _insert(connection, key, _grant(newest), actor, newest.expires_at)
    return key


def revoke(engine: Engine, name: str) -> int:
    """Make every key of this name or id good for nothing; how many were good before.

    Raises:
        NotFoundError: there is none that is good.
    """
    with transaction(engine) as connection:
        _one_writer(connection)
        named = or_(api_keys.c.name == name, api_keys.c.id == name)
        now = func.clock_timestamp()
        done = connection.execute(update(api_keys).where(named, _good()).values(revoked_at=now, changed_at=now))
        if not done.rowcount:
            raise NotFoundError(f"no good key has the name or id {name!r}; `evergreen keys list` names them")
        return done.rowcount


def listed(engine: Engine) -> list[dict[str, Any]]:
    """All keys ever made, the newest first, without their hashes; `state` is good, expired or revoked."""
    columns = [column for column in api_keys.c if column.name != "sha256"]
    with transaction(engine) as connection:
        rows = connection.execute(select(*columns).order_by(api_keys.c.created_at.desc(), api_keys.c.id)).mappings()
        return [dict(row) | {"state": _state(row)} for row in rows]


def revision(connection: Connection) -> tuple[int, datetime | None]:
    """Changes whenever a key does; cheap to ask."""
    count, changed = connection.execute(select(func.count(), func.max(api_keys.c.changed_at))).one()
    return count, changed


def known(connection: Connection) -> list[StoredKey]:
    """All good keys."""
    rows = connection.execute(select(api_keys).where(_good()))
    return [StoredKey(r.id, r.sha256, _grant(r), r.expires_at.timestamp() if r.expires_at else None) for r in rows]


def note_use(connection: Connection, used: dict[str, float]) -> None:
    """Remember when keys were last used, by their ids, in seconds of the epoch."""
    statement = update(api_keys).where(api_keys.c.id == bindparam("used_id"))
    statement = statement.values(used_at=func.greatest(api_keys.c.used_at, bindparam("used")))
    connection.execute(statement, [{"used_id": i, "used": datetime.fromtimestamp(at, UTC)} for i, at in used.items()])


def _insert(connection: Connection, key: str, grant: Grant, actor: str, expires_at: Any) -> None:
    values = {"id": id_of(key), "sha256": digest(key), "name": grant.name, "roles": list(grant.roles)}
    limits = {"per_second": grant.per_second, "burst": grant.burst}
    connection.execute(
        insert(api_keys).values(
            **values, **limits, created_by=actor, expires_at=expires_at, changed_at=func.clock_timestamp()
        )
    )


def _one_writer(connection: Connection) -> None:
    """Changes come one after the other, so that `changed_at` never goes back and no name is given twice."""
    connection.execute(text("lock table api_keys in share row exclusive mode"))


def _refuse_twice(connection: Connection, name: str) -> None:
    if connection.execute(select(api_keys.c.id).where(api_keys.c.name == name, _good())).first():
        raise ConflictError(f"a good key is named {name!r} already: rotate or revoke that one, or choose another name")


def _good() -> Any:
    unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())
    return api_keys.c.revoked_at.is_(None) & unexpired


def _in(span: timedelta) -> Any:
    return func.now() + span


def _grant(row: Row[Any]) -> Grant:
    return Grant(row.name, tuple(row.roles), row.per_second, row.burst)


def _state(row: Any) -> str:
    if row["revoked_at"]:
        return "revoked"
    return "expired" if row["expires_at"] and row["expires_at"] <= datetime.now(UTC) else "good"


def in_order(roles: Sequence[str]) -> tuple[str, ...]:
    """Each role once, the weakest first."""
    return tuple(role for role in ROLES if role in roles) + tuple(sorted(set(roles) - set(ROLES)))
