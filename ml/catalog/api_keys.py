"""API keys: roles and rate limits of callers. Only hashes of keys are stored.

A key is ``evg_<id>_<secret>``: the id finds its row, the secret is 256 random bits. Those cannot be guessed,
so a single SHA-256 is as safe as a slow password hash, and takes a microsecond per request.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from sqlalchemy import Connection, Engine, Row, bindparam, func, insert, or_, select, text, update

from ml.catalog.engine import transaction
from ml.catalog.tables import api_keys
from ml.errors import ConflictError, InvalidInputError, NotFoundError

Level = Literal["propose", "annotate", "review"]
"""What a caller's feedback counts as: a proposal that people decide, an annotator's vote, a decision."""

ROLES: Final = ("predict", "feedback", "annotate", "review", "operate", "admin")
"""Roles of a key; `admin` includes all others, `review` includes `annotate`, and that `feedback`."""

_INCLUDED_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "feedback": ("annotate", "review"),
    "annotate": ("review",),
}

_KEY: Final = re.compile(r"evg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME: Final = re.compile(r"[\w.@-][\w.@ -]{0,98}[\w.@-]|[\w.@-]", re.ASCII)
_MOST_PER_SECOND: Final = 1e6


@dataclass(frozen=True)
class Grant:
    """Name, roles and limits of a key.

    Attributes:
        per_second: average rate limit in each worker process; None: no limit.
        burst: requests allowed at once.
    """

    name: str
    roles: tuple[str, ...]
    per_second: float | None = None
    burst: int | None = None

    def allows(self, role: str) -> bool:
        """Whether the key may do what the role is for."""
        return not {role, "admin", *_INCLUDED_IN.get(role, ())}.isdisjoint(self.roles)

    @property
    def level(self) -> Level:
        """What its feedback counts as."""
        return "review" if self.allows("review") else "annotate" if self.allows("annotate") else "propose"

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
    """A key as a service worker checks it; times are seconds since the epoch.

    Attributes:
        identity: the id of the caller's first key, which rotation keeps; empty: its own, as earlier versions wrote it.
    """

    id: str
    sha256: str
    grant: Grant
    expires_at: float | None = None
    identity: str = ""


KeyState = Literal["good", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A row of `api_keys` without the hash, and the key's state when it was read; `Grant` explains the limits."""

    id: str
    name: str
    roles: list[str]
    per_second: float | None
    burst: int | None
    created_by: str
    created_at: datetime
    changed_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None
    identity: str
    state: KeyState

    @classmethod
    def from_row(cls, row: Mapping[Any, Any], now: datetime) -> Self:
        """From a row whose columns are the fields, except `state`."""
        state: KeyState = "expired" if row["expires_at"] and row["expires_at"] <= now else "good"
        return cls(**row, state="revoked" if row["revoked_at"] else state)


def generate() -> str:
    """Return a new key. Show it once: it cannot be recovered from what is stored."""
    return f"evg_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def id_of(key: str) -> str | None:
    """The key's id; None if the string is not a key."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def digest(key: str) -> str:
    """The stored hash of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(engine: Engine, grant: Grant, actor: str, days: float | None = None) -> str:
    """Create a key and return it; it cannot be read again.

    Args:
        days: validity; None: unlimited.

    Raises:
        ConflictError: a valid key has this name.
    """
    key = generate()
    with transaction(engine) as connection:
        _lock_table(connection)
        _require_unused_name(connection, grant.name)
        _insert(connection, key, grant, actor, _from_now(timedelta(days=days)) if days is not None else None)
    return key


def ensure(engine: Engine, key: str, grant: Grant, actor: str) -> None:
    """Store a given key, for deployments whose secrets are created before the database. Idempotent.

    A key that is stored already gets the roles of the grant, since what the deployment needs may change; it stays
    revoked if it was.

    Raises:
        InvalidInputError: it does not have the format of a key.
        ConflictError: another key has the same id.
    """
    if id_of(key) is None:
        raise InvalidInputError(
            "the given key does not have the format `evg_<id>_<secret>`; create one with `generate`"
        )
    with transaction(engine) as connection:
        _lock_table(connection)
        stored_sha256 = connection.execute(select(api_keys.c.sha256).where(api_keys.c.id == id_of(key))).scalar()
        if stored_sha256 is None:
            _insert(connection, key, grant, actor, None)
        elif stored_sha256 != digest(key):
            raise ConflictError(f"another key has the id {id_of(key)}: generate a new one")
        else:
            roles = list(grant.roles)
            other_roles = update(api_keys).where(api_keys.c.id == id_of(key), api_keys.c.roles != roles)
            connection.execute(other_roles.values(roles=roles, changed_at=func.clock_timestamp()))


def rotate(engine: Engine, name: str, actor: str, grace_hours: float = 24.0) -> str:
    """Create a key with the old one's name, roles and limits; the old one expires after `grace_hours`.

    Raises:
        NotFoundError: no valid key has this name.
    """
    with transaction(engine) as connection:
        _lock_table(connection)
        rows = connection.execute(select(api_keys).where(api_keys.c.name == name, _is_valid())).all()
        if not rows:
            raise NotFoundError(f"no good key is named {name!r}; `evergreen keys list` names them")
        newest = max(rows, key=lambda row: row.created_at)
        end = func.least(func.coalesce(api_keys.c.expires_at, "infinity"), _from_now(timedelta(hours=grace_hours)))
        statement = update(api_keys).where(api_keys.c.id.in_([row.id for row in rows]))
        connection.execute(statement.values(expires_at=end, changed_at=func.clock_timestamp()))
        key = generate()
        _insert(connection, key, _grant(newest), actor, newest.expires_at, newest.identity)
    return key


def revoke(engine: Engine, name: str) -> int:
    """Revoke every valid key with this name or id; return how many.

    Raises:
        NotFoundError: there is no valid one.
    """
    with transaction(engine) as connection:
        _lock_table(connection)
        matches = or_(api_keys.c.name == name, api_keys.c.id == name)
        now = func.clock_timestamp()
        result = connection.execute(update(api_keys).where(matches, _is_valid()).values(revoked_at=now, changed_at=now))
        if not result.rowcount:
            raise NotFoundError(f"no good key has the name or id {name!r}; `evergreen keys list` names them")
        return result.rowcount


def list_keys(engine: Engine) -> list[ApiKeyRecord]:
    """All keys, newest first."""
    columns = [column for column in api_keys.c if column.name != "sha256"]
    with transaction(engine) as connection:
        rows = connection.execute(select(*columns).order_by(api_keys.c.created_at.desc(), api_keys.c.id)).mappings()
        return [ApiKeyRecord.from_row(row, datetime.now(UTC)) for row in rows]


def revision(connection: Connection) -> tuple[int, datetime | None]:
    """A value that changes whenever a key does; cheap to query."""
    count, changed = connection.execute(select(func.count(), func.max(api_keys.c.changed_at))).one()
    return count, changed


def active_keys(connection: Connection) -> list[StoredKey]:
    """All valid keys."""
    rows = connection.execute(select(api_keys).where(_is_valid()))
    return [StoredKey(r.id, r.sha256, _grant(r), _seconds(r.expires_at), r.identity) for r in rows]


def find_identity(connection: Connection, key: str) -> str:
    """The identity of a caller by its name, a key's id or the identity itself: the newest caller of that name.

    Raises:
        NotFoundError: no key has it.
    """
    matches = or_(api_keys.c.name == key, api_keys.c.id == key, api_keys.c.identity == key)
    newest = select(api_keys.c.identity).where(matches).order_by(api_keys.c.created_at.desc()).limit(1)
    identity = connection.execute(newest).scalar()
    if identity is None:
        raise NotFoundError(f"no key has the name or id {key!r}; `evergreen keys list` names them")
    return str(identity)


def names(connection: Connection) -> dict[str, str]:
    """The name of each caller by its identity."""
    rows = connection.execute(select(api_keys.c.identity, api_keys.c.name).order_by(api_keys.c.created_at))
    return dict(rows.all())


def record_use(connection: Connection, used: dict[str, float]) -> None:
    """Store when keys were last used: key id to seconds since the epoch."""
    statement = update(api_keys).where(api_keys.c.id == bindparam("used_id"))
    statement = statement.values(used_at=func.greatest(api_keys.c.used_at, bindparam("used")))
    connection.execute(statement, [{"used_id": i, "used": datetime.fromtimestamp(at, UTC)} for i, at in used.items()])


def _insert(
    connection: Connection, key: str, grant: Grant, actor: str, expires_at: Any, identity: str | None = None
) -> None:
    values = {"id": id_of(key), "sha256": digest(key), "name": grant.name, "roles": list(grant.roles)}
    values |= {"identity": identity or id_of(key)}
    limits = {"per_second": grant.per_second, "burst": grant.burst}
    connection.execute(
        insert(api_keys).values(
            **values, **limits, created_by=actor, expires_at=expires_at, changed_at=func.clock_timestamp()
        )
    )


def _lock_table(connection: Connection) -> None:
    """Serialise changes, so that `changed_at` is monotonic and names are unique."""
    connection.execute(text("lock table api_keys in share row exclusive mode"))


def _require_unused_name(connection: Connection, name: str) -> None:
    if connection.execute(select(api_keys.c.id).where(api_keys.c.name == name, _is_valid())).first():
        raise ConflictError(f"a good key is named {name!r} already: rotate or revoke that one, or choose another name")


def _is_valid() -> Any:
    unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())
    return api_keys.c.revoked_at.is_(None) & unexpired


def _from_now(span: timedelta) -> Any:
    return func.now() + span


def _seconds(at: datetime | None) -> float | None:
    return at.timestamp() if at else None


def _grant(row: Row[Any]) -> Grant:
    return Grant(row.name, tuple(row.roles), row.per_second, row.burst)


def sort_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """Each role once, least privileged first."""
    return tuple(role for role in ROLES if role in roles) + tuple(sorted(set(roles) - set(ROLES)))
