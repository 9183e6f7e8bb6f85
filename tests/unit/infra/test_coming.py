"""Parts on their way up, with a manager that says what the test wants."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.components import Component
from infra.local.layout import Layout
from infra.local.manager import Manager
from infra.local.startup import PATIENCE, StartupWaiter
from ml.errors import UnavailableError


class Told(Manager):
    """Every part has the state told, and a new pid at each look when it keeps dying."""

    def __init__(self, folder: Path, state: str, *, dies: bool = False) -> None:
        super().__init__(Layout(folder, {}, {}))
        self._state = state
        self._dies = dies
        self._pid = 100
        self.started: list[str] = []

    def start_part(self, name: str) -> None:
        self.started.append(name)

    def info(self, name: str) -> dict[str, Any]:
        self._pid += self._dies
        return {"statename": self._state, "pid": self._pid}


def _part(name: str, healths: Iterator[bool]) -> Component:
    return Component(name, [], "", lambda: next(healths))


def test_each_part_is_begun_once_and_waited_for(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    manager = Told(tmp_path, "RUNNING")
    coming = StartupWaiter(manager, tmp_path, lambda name, state: heard.append((name, state)), pause=0)
    part = _part("s3", iter([False, True]))
    coming.begin([part])
    coming.begin([part])
    coming.wait()
    assert manager.started == ["s3"]
    assert heard == [("s3", "starting"), ("s3", "healthy")]


@pytest.mark.parametrize(("state", "dies"), [("FATAL", False), ("BACKOFF", True)])
def test_a_part_that_does_not_come_is_named_with_the_end_of_its_log(tmp_path: Path, state: str, dies: bool) -> None:
    log = tmp_path / "s3.log"
    log.write_text("".join(f"line {n}\n" for n in range(40)) + "no space left\n")
    coming = StartupWaiter(Told(tmp_path, state, dies=dies), tmp_path, lambda *_: None, pause=0)
    coming.begin([_part("s3", iter(lambda: False, True))])
    with pytest.raises(UnavailableError) as error:
        coming.wait()
    message = str(error.value)
    assert message.startswith("s3 is not healthy")
    assert str(log) in message
    assert message.endswith("no space left")
    assert "line 5\n" not in message


def test_a_slow_part_is_waited_for_while_its_log_grows_and_given_up_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log = [0.0], tmp_path / "s3.log"
    monkeypatch.setattr("infra.local.startup.time.monotonic", lambda: clock[0])

    def healthy(looks: Iterator[int], lines: int) -> Iterator[bool]:
        for look in looks:
            clock[0] += PATIENCE - 1
            if look < lines:
                log.write_text("a line\n" * (look + 1))
            yield False
        yield True

    slow = StartupWaiter(Told(tmp_path, "RUNNING"), tmp_path, lambda *_: None, pause=0)
    slow.begin([_part("s3", healthy(iter(range(5)), 5))])
    slow.wait()
    silent = StartupWaiter(Told(tmp_path, "RUNNING"), tmp_path, lambda *_: None, pause=0)
    silent.begin([_part("s3", healthy(iter(range(100)), 3))])
    with pytest.raises(UnavailableError, match="s3 is not healthy after"):
        silent.wait()
    assert clock[0] < 12 * PATIENCE
    endless = StartupWaiter(Told(tmp_path, "RUNNING"), tmp_path, lambda *_: None, pause=0)
    endless.begin([_part("s3", healthy(iter(range(100)), 100))])
    with pytest.raises(UnavailableError, match="s3 is not healthy after"):
        endless.wait()
