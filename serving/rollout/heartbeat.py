"""This worker as the release sees it: a row that beats, a wish that is followed, an acknowledgement.

Two threads, so that a long download never stops the heart: `Heartbeat` talks to Postgres, `ModelReloader`
loads and swaps. Postgres says what to run by NOTIFY, with polling beneath; while it or the bucket is
away the worker serves what it has.
"""

import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
from sqlalchemy import Connection, Engine, delete, func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from ml.catalog import deployments, trials
from ml.catalog.tables import replicas
from ml.errors import UnavailableError
from serving.rollout.bundle_loader import DesiredDeployment
from serving.rollout.reloader import ModelReloader
from serving.rollout.serving_model import ModelSlot

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
LONGEST_WAIT: Final = 5.0


@dataclass(frozen=True)
class Identity:
    """Names this worker; no two ever share one."""

    host: str
    pid: int
    nonce: str

    @classmethod
    def detect(cls) -> "Identity":
        return cls(socket.gethostname(), os.getpid(), secrets.token_hex(4))

    @property
    def id(self) -> str:
        return f"{self.host}:{self.pid}:{self.nonce}"

    @property
    def path(self) -> str:
        """For folders and object keys."""
        return f"{self.host}-{self.pid}-{self.nonce}"


class Heartbeat(threading.Thread):
    """Keeps the worker's row in `replicas` and tells the follower what to run."""

    def __init__(
        self, identity: Identity, engine: Engine, slot: ModelSlot, follower: ModelReloader, heartbeat_seconds: float
    ) -> None:
        super().__init__(name="replica", daemon=True)
        self._identity, self._engine, self._slot, self._follower = identity, engine, slot, follower
        self._heartbeat_seconds = heartbeat_seconds
        self._stopping = threading.Event()
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._mouth, False)
        self._away = False

    def wake(self) -> None:
        """There is news to acknowledge, or an end to come to; for any thread."""
        with suppress(BlockingIOError):  # full of wakes already
            os.write(self._mouth, b"!")

    def stop(self, seconds: float) -> None:
        """Sign off; a database that does not answer is not waited for beyond `seconds`."""
        self._stopping.set()
        self.wake()
        self.join(seconds)

    def run(self) -> None:
        wait = POLL_SECONDS
        while not self._stopping.is_set():
            try:
                with self._session() as connection:
                    wait = POLL_SECONDS
                    self._serve(connection)
            except (SQLAlchemyError, psycopg2.Error, UnavailableError, OSError) as error:
                self._follower.unreachable()
                if not self._away:
                    log.warning("the catalog does not answer, serving goes on: %s", error)
                self._away = True
                self._stopping.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)

    def _serve(self, connection: Connection) -> None:
        """Beat and listen until stopped or cut off."""
        beaten, told = 0.0, None
        while not self._stopping.is_set():
            news = self._state()
            if news != told or time.monotonic() - beaten >= self._heartbeat_seconds:
                self._beat(connection, news)
                self._tell_trial(connection)
                beaten, told = time.monotonic(), news
            row, tried = deployments.wish(connection), deployments.on_trial(connection)
            if self._away:
                self._away = False
                log.info("the catalog answers again")
            self._follower.want(
                DesiredDeployment.of(row) if row else None, DesiredDeployment.of(tried) if tried else None
            )
            self._listen(connection, min(POLL_SECONDS, self._heartbeat_seconds))
        connection.execute(delete(replicas).where(replicas.c.id == self._identity.id))

    def _state(self) -> dict[str, Any]:
        live, refusal = self._slot.take(), self._follower.refusal
        trial = live.trial if live else None
        return {
            "deployment_id": live.deployment_id if live else None,
            "model_version": live.version if live else None,
            "candidate_deployment_id": trial.candidate.deployment_id if trial else None,
            "failed_deployment_id": refusal.deployment_id if refusal else None,
            "error": refusal.reason if refusal else self._follower.trouble,
        }

    def _beat(self, connection: Connection, state: dict[str, Any]) -> None:
        values = {"heartbeat_at": func.now(), **state}
        statement = insert(replicas).values(
            id=self._identity.id, host=self._identity.host, pid=self._identity.pid, **values
        )
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def _tell_trial(self, connection: Connection) -> None:
        live = self._slot.take()
        if live is None or live.trial is None:
            return
        deployment, tally = live.trial.candidate.deployment_id, live.trial.tally
        noted = tally.take_noted()
        try:
            trials.note(connection, deployment, self._identity.id, tally.figures(), [vars(one) for one in noted])
        except Exception:
            tally.give_back(noted)
            raise

    def _listen(self, connection: Connection, seconds: float) -> None:
        raw = connection.connection.driver_connection
        if raw is None:
            raise UnavailableError("the connection is gone")
        ready, _, _ = select.select([raw, self._ear], [], [], seconds)
        if raw in ready:
            raw.poll()
            raw.notifies.clear()
        if self._ear in ready:
            os.read(self._ear, 4096)

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        """A connection of the thread's own, listening; closed for good at the end, whatever its state."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(text(f"listen {deployments.CHANNEL}"))
            yield connection
        finally:
            with suppress(SQLAlchemyError, psycopg2.Error):
                connection.invalidate()
                connection.close()
