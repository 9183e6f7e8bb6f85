"""Many small reads: the fast way and the other one say the same, in every process."""

import os
import time
from dataclasses import replace

import pytest

from ml.context import Context
from ml.errors import NotFoundError, UnavailableError
from ml.storage import object_store
from ml.storage.object_store import S3ObjectStore
from tests.servers import free_port

KEYS = ("a/b c.png", "caf\u00e9/1.png", "a%20b", "x+y=z@(1)!'*,.png", "a#b?c&d", "deep/" * 20 + "e")


def test_every_key_is_read_as_it_was_written(context: Context) -> None:
    for key in KEYS:
        context.labels.put(key, key.encode())
    assert list(context.labels.get_many(KEYS)) == [key.encode() for key in KEYS]
    assert isinstance(context.labels, S3ObjectStore)
    fast = context.labels._bulk_reader
    assert fast
    assert fast.get(KEYS[0]) == KEYS[0].encode()
    assert fast.get(KEYS[3]) == KEYS[3].encode()


def test_what_is_not_there_or_cannot_be_asked_for_is_not_found(context: Context) -> None:
    results = list(context.labels.get_many(["nothing", "a/../b", ".", "a/./b", ""]))
    assert [type(f) for f in results] == [NotFoundError] * 5


def test_after_a_fork_nothing_hangs(context: Context) -> None:
    context.labels.put("a", b"x")
    assert list(context.labels.get_many(["a"])) == [b"x"]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(context.labels.get_many(["a"] * 20)) == [b"x"] * 20 else 1)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked process hangs")


def test_a_server_that_is_away_is_told_within_seconds(context: Context) -> None:
    settings = context.settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"})
    away = replace(context, labels=object_store.connect(settings, "labels")).labels
    started = time.monotonic()
    (result,) = away.get_many(["a"])
    assert isinstance(result, UnavailableError)
    assert time.monotonic() - started < 90, "by default it would be asked for three minutes"
