"""The keys that this worker knows: checked in memory, brought up to date beside the requests.

A thread asks Postgres every second whether a key changed. What it learnt is kept in
`<home>/keys.json` (hashes, no keys), so that a worker checks keys while Postgres is away, from its
start on; a key that is revoked meanwhile stays good on it until Postgres is back.
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
LONGEST_WAIT: Final = 5.0
USE_SECONDS: Final = 60.0


class KeyRing:
    """The known keys; replacing them is one assignment.

    Attributes:
        used: when each key was last used, by id, since somebody last took this away to keep it.
    """

    def __init__(self) -> None:
        self._by_id: Mapping[str, StoredKey] | None = None
        self.used: dict[str, float] = {}

    def put(self, keys: Iterable[StoredKey]) -> None:
        self._by_id = {key.id: key for key in keys}

    @property
    def filled(self) -> bool:
        """Whether it was ever learnt which keys there are."""
        return self._by_id is not None

    def find(self, presented: str) -> StoredKey | None:
        """The good key that this is, or None."""
        found = (self._by_id or {}).get(presented[4:16])
        if found is None:
            return None
        digest = hashlib.sha256(presented.encode("utf-8", "replace")).hexdigest()
        if not hmac.compare_digest(digest, found.sha256):
            return None
        now = time.time()
        if found.expires_at is not None and found.expires_at <= now:
            return None
        self.used[found.id] = now
        return found


class KeySync(PeriodicThread):
    """Fills the ring: at once from disk, then from Postgres whenever a key changed."""

    def __init__(self, ring: KeyRing, engine: Engine, home: Path) -> None:
        super().__init__("key-sync", 0.0)
        self._ring, self._engine, self._path = ring, engine, home / FILE
        self._revision: tuple[int, Any] | None = None
        self._noted_at = time.monotonic()
        self._away = False

    def start(self) -> None:
        """Raises nothing for a file that is missing or damaged: then Postgres has to tell."""
        try:
            self._ring.put(_parse(self._path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, EvergreenError) as error:
            log.warning("%s cannot be used, so keys are known once the catalog answers: %s", self._path, error)
        super().start()

    def tick(self) -> None:
        try:
            self.refresh()
        except (EvergreenError, SQLAlchemyError, psycopg2.Error, OSError) as error:
            if not self._away:
                log.warning("keys are checked as they were last known: %s", error)
            self._away = True
            self.period = min(LONGEST_WAIT, 2 * self.period or POLL_SECONDS)
        else:
            self._away, self.period = False, POLL_SECONDS

    def refresh(self) -> None:
        """Learn what changed, and tell when keys were used.

        Raises:
            UnavailableError: the catalog does not answer; nothing changed.
            OSError: the file cannot be written; the ring has the keys all the same.
        """
        with transaction(self._engine) as connection:
            revision = api_keys.revision(connection)
            keys = api_keys.known(connection) if revision != self._revision else None
            self._note_use(connection)
        if keys is not None:
            self._ring.put(keys)
            self._revision = revision
            _write(self._path, keys)

    def _note_use(self, connection: Any) -> None:
        if self._ring.used and time.monotonic() - self._noted_at >= USE_SECONDS:
            used, self._ring.used = self._ring.used, {}
            api_keys.note_use(connection, used)
            self._noted_at = time.monotonic()


def _parse(data: bytes) -> list[StoredKey]:
    rows = orjson.loads(data)
    return [
        StoredKey(
            row["id"], row["sha256"], Grant(**row["grant"] | {"roles": tuple(row["grant"]["roles"])}), row["expires_at"]
        )
        for row in rows
    ]


def _write(path: Path, keys: Iterable[StoredKey]) -> None:
    """Whole or not at all, for the owner only; workers of one host write the same."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(orjson.dumps([asdict(key) for key in keys]))
    temporary.rename(path)
