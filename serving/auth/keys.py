"""API keys in memory, updated from Postgres in the background.

A thread polls Postgres every second for changed keys. The keys' hashes are saved in `<home>/keys.json`,
so that a worker can check keys while Postgres is unavailable, even when it starts; a key that is
revoked meanwhile stays valid on it until Postgres is back.
"""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ml.catalog import api_keys
from ml.catalog.api_keys import Grant, StoredKey
from ml.catalog.engine import transaction
from ml.errors import EvergreenError
from serving.periodic import PeriodicThread

log = logging.getLogger(__name__)

FILE: Final = "keys.json"
POLL_SECONDS: Final = 1.0
MAX_POLL_SECONDS: Final = 5.0
STORE_USE_SECONDS: Final = 60.0


class KeyRing:
    """The valid keys; replacing them is one assignment.

    Attributes:
        last_used: when each key was last used, by id, since these times were last stored.
    """

    def __init__(self) -> None:
        self._by_id: Mapping[str, StoredKey] | None = None
        self.last_used: dict[str, float] = {}

    def replace(self, keys: Iterable[StoredKey]) -> None:
        self._by_id = {key.id: key for key in keys}

    @property
    def loaded(self) -> bool:
        """Whether keys were loaded."""
        return self._by_id is not None

    def find(self, presented: str) -> StoredKey | None:
        """The valid key that was presented, or None."""
        stored_key = (self._by_id or {}).get(presented[4:16])
        if stored_key is None:
            return None
        digest = hashlib.sha256(presented.encode("utf-8", "replace")).hexdigest()
        if not hmac.compare_digest(digest, stored_key.sha256):
            return None
        now = time.time()
        if stored_key.expires_at is not None and stored_key.expires_at <= now:
            return None
        self.last_used[stored_key.id] = now
        return stored_key


class KeySync(PeriodicThread):
    """Loads the key ring: at start from disk, then from Postgres whenever a key changed."""

    def __init__(self, key_ring: KeyRing, engine: Engine, home: Path) -> None:
        super().__init__("key-sync", 0.0)
        self._key_ring, self._engine, self._path = key_ring, engine, home / FILE
        self._revision: tuple[int, Any] | None = None
        self._stored_at = time.monotonic()
        self._disconnected = False

    def start(self) -> None:
        """Load the file and start the thread; without a usable file, keys are loaded from Postgres."""
        try:
            self._key_ring.replace(_parse(self._path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, EvergreenError) as error:
            log.warning("%s cannot be read, so keys cannot be checked until the catalog answers: %s", self._path, error)
        super().start()

    def tick(self) -> None:
        try:
            self.refresh()
        except (EvergreenError, SQLAlchemyError, psycopg2.Error, OSError) as error:
            if not self._disconnected:
                log.warning("the catalog does not answer; keys are checked as last loaded: %s", error)
            self._disconnected = True
            self.period = min(MAX_POLL_SECONDS, 2 * self.period or POLL_SECONDS)
        else:
            self._disconnected, self.period = False, POLL_SECONDS

    def refresh(self) -> None:
        """Load changed keys, and store when keys were last used.

        Raises:
            UnavailableError: the catalog does not answer; nothing changed.
            OSError: the file cannot be written; the key ring has the keys nevertheless.
        """
        with transaction(self._engine) as connection:
            revision = api_keys.revision(connection)
            keys = api_keys.active_keys(connection) if revision != self._revision else None
            self._store_last_used(connection)
        if keys is not None:
            self._key_ring.replace(keys)
            self._revision = revision
            _write(self._path, keys)

    def _store_last_used(self, connection: Any) -> None:
        if self._key_ring.last_used and time.monotonic() - self._stored_at >= STORE_USE_SECONDS:
            last_used, self._key_ring.last_used = self._key_ring.last_used, {}
            api_keys.record_use(connection, last_used)
            self._stored_at = time.monotonic()


def _parse(data: bytes) -> list[StoredKey]:
    rows = orjson.loads(data)
    return [
        StoredKey(
            row["id"],
            row["sha256"],
            Grant(**row["grant"] | {"roles": tuple(row["grant"]["roles"])}),
            row["expires_at"],
            row.get("identity", ""),  # files of earlier versions have none
        )
        for row in rows
    ]


def _write(path: Path, keys: Iterable[StoredKey]) -> None:
    """Write atomically, readable by the owner only; all workers of a host write the same content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(orjson.dumps([asdict(key) for key in keys]))
    temporary.rename(path)
