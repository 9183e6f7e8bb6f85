"""A context whose process is ended with SIGKILL at a chosen one of its effects."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, event

from ml.context import Context, connect
from ml.settings import Settings
from ml.storage.object_store import ObjectStore
from tests.doubles.object_store import ForwardingObjectStore

_WROTE = "wrote"


class _Life:
    def __init__(self, effects: int) -> None:
        self._left = effects

    def note(self, connection: Connection, _: object, statement: str, *__: object) -> None:
        if not statement.lstrip().lower().startswith("select"):
            connection.info[_WROTE] = True

    def commit(self, connection: Connection) -> None:
        """A transaction that only reads is no effect."""
        if connection.info.pop(_WROTE, False):
            self.spend()

    def spend(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class _Mortal(ForwardingObjectStore):
    """A bucket whose every change costs some life."""

    def __init__(self, inner: ObjectStore, life: _Life) -> None:
        super().__init__(inner)
        self._life = life

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._life.spend()
        super().put(key, data, content_type)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self._life.spend()
        super().put_file(key, path, content_type)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        self._life.spend()
        super().copy(source, target, source_bucket)

    def delete(self, keys: Iterable[str]) -> None:
        self._life.spend()
        super().delete(keys)


def killed(context: Context, work: Callable[[Context], object], effects: int) -> bool:
    """Whether a process that does the work was ended before it was done.

    Args:
        context: whose settings the process gets; it is left without connections.
        work: it may raise nothing.
        effects: commits of changes and changes of buckets that the process may make; it dies before the next one.
    """
    context.engine.dispose()
    child = multiprocessing.get_context("fork").Process(target=_live, args=(context.settings, work, effects))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _live(settings: Settings, work: Callable[[Context], object], effects: int) -> None:
    life = _Life(effects)
    ctx = connect(settings)
    event.listen(ctx.engine, "before_cursor_execute", life.note)
    event.listen(ctx.engine, "commit", life.commit)
    labels, store, artifacts = (_Mortal(bucket, life) for bucket in (ctx.labels, ctx.store, ctx.artifacts))
    work(replace(ctx, labels=labels, store=store, artifacts=artifacts))
