"""This worker's row in `replicas`: its heartbeat, the deployment it runs, and acknowledgements of new ones.

Two threads, so that a long download never stops the heartbeat: `Heartbeat` talks to Postgres, `ModelReloader`
loads and swaps models. Postgres announces deployments by NOTIFY, with polling as a fallback; while it or the
bucket is unavailable the worker serves the model it has.
"""

import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
MAX_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Identity:
    """The unique identity of this worker."""

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
        """The id in a form for folder names and object keys."""
        return f"{self.host}-{self.pid}-{self.nonce}"


class Heartbeat(threading.Thread):
    """Maintains the worker's row in `replicas` and passes the desired deployment to the reloader."""

    def __init__(
        self,
        identity: Identity,
        engine: Engine,
        slot: ModelSlot,
        reloader: ModelReloader,
        heartbeat_seconds: float,
        confirmed_erasure: Callable[[], int],
    ) -> None:
        super().__init__(name="replica", daemon=True)
        self._identity, self._engine, self._slot, self._reloader = identity, engine, slot, reloader
        self._heartbeat_seconds, self._confirmed_erasure = heartbeat_seconds, confirmed_erasure
        self._stopping = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._disconnected = False

    def wake(self) -> None:
        """Wake the thread, to acknowledge a change or to stop; may be called by any thread."""
        with suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            os.write(self._wake_writer, b"!")

    def stop(self, seconds: float) -> None:
        """Delete the row and end the thread; waits at most `seconds`, even if the database does not answer."""
        self._stopping.set()
        self.wake()
        self.join(seconds)

    def run(self) -> None:
        wait = POLL_SECONDS
        while not self._stopping.is_set():
            try:
                with self._session() as connection:
                    wait = POLL_SECONDS
                    self._run_session(connection)
            except (SQLAlchemyError, psycopg2.Error, UnavailableError, OSError) as error:
                self._reloader.catalog_unreachable()
                if not self._disconnected:
                    log.warning("the catalog does not answer; serving continues with the current model: %s", error)
                self._disconnected = True
                self._stopping.wait(wait)
                wait = min(MAX_RETRY_SECONDS, wait * 2)

    def _run_session(self, connection: Connection) -> None:
        """Send heartbeats and listen until stopped or disconnected."""
        sent_at, sent_status = 0.0, None
        while not self._stopping.is_set():
            status = self._status()
            if status != sent_status or time.monotonic() - sent_at >= self._heartbeat_seconds:
                self._write_status(connection, status)
                self._write_trial_counters(connection)
                sent_at, sent_status = time.monotonic(), status
            desired, on_trial = deployments.desired(connection), deployments.on_trial(connection)
            if self._disconnected:
                self._disconnected = False
                log.info("the catalog answers again")
            self._reloader.set_desired(
                DesiredDeployment.of(desired) if desired else None, DesiredDeployment.of(on_trial) if on_trial else None
            )
            self._listen(connection, min(POLL_SECONDS, self._heartbeat_seconds))
        connection.execute(delete(replicas).where(replicas.c.id == self._identity.id))

    def _status(self) -> dict[str, Any]:
        live, refusal = self._slot.get(), self._reloader.refusal
        trial = live.trial if live else None
        return {
            "deployment_id": live.deployment_id if live else None,
            "model_version": live.version if live else None,
            "candidate_deployment_id": trial.candidate.deployment_id if trial else None,
            "failed_deployment_id": refusal.deployment_id if refusal else None,
            "error": refusal.reason if refusal else self._reloader.load_error,
            "erasure_id": self._confirmed_erasure(),
        }

    def _write_status(self, connection: Connection, status: dict[str, Any]) -> None:
        values = {"heartbeat_at": func.now(), **status}
        statement = insert(replicas).values(
            id=self._identity.id, host=self._identity.host, pid=self._identity.pid, **values
        )
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def _write_trial_counters(self, connection: Connection) -> None:
        live = self._slot.get()
        if live is None or live.trial is None:
            return
        deployment, counters = live.trial.candidate.deployment_id, live.trial.counters
        disagreements = counters.pop_disagreements()
        try:
            trials.record(
                connection, deployment, self._identity.id, counters.totals(), [vars(one) for one in disagreements]
            )
        except Exception:
            counters.restore_disagreements(disagreements)
            raise

    def _listen(self, connection: Connection, seconds: float) -> None:
        raw = connection.connection.driver_connection
        if raw is None:
            raise UnavailableError("the connection is gone")
        ready, _, _ = select.select([raw, self._wake_reader], [], [], seconds)
        if raw in ready:
            raw.poll()
            raw.notifies.clear()
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        """A connection that listens for NOTIFY; closed at the end and never returned to the pool."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(text(f"listen {deployments.CHANNEL}"))
            yield connection
        finally:
            with suppress(SQLAlchemyError, psycopg2.Error):
                connection.invalidate()
                connection.close()
