"""Nothing of an earlier run stays: real, small processes."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

from infra.local.processes import end_orphans
from tests.servers import wait_until

# A part whose main process starts a child and notes its pid, as servers with workers do.
_PART = (
    "import os, subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); \
open('child', 'w').write(str(c.pid)); os.rename('child', 'child.pid'); time.sleep(300)"
)


def test_a_part_begins_by_ending_what_its_killed_run_left(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    part = {"command": [sys.executable, "-c", _PART], "environment": {"A": "b"}, "fresh": [str(fresh)]}
    (tmp_path / "part.json").write_text(json.dumps(part))
    first = _launch(tmp_path)
    child = _child(tmp_path)
    assert psutil.Process(first.pid).environ()["A"] == "b"
    (fresh / "old").touch()
    first.kill()
    first.wait()
    assert child.is_running()
    second = _launch(tmp_path)
    try:
        grandchild = _child(tmp_path)
        assert not _alive(child)
        assert grandchild.pid != child.pid
        assert not list(fresh.iterdir())
    finally:
        for process in (_child(tmp_path), psutil.Process(second.pid)):
            process.kill()
        second.wait()


def test_orphans_are_the_processes_of_the_session_that_work_in_the_folder(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    ours, theirs = _daemon(home), _daemon(other)
    (home / "supervisord.pid").write_text(str(ours.pid))
    children = _child(home), _child(other)
    try:
        end_orphans(home, home / "supervisord.pid")
        assert ours.poll() is not None
        assert not _alive(children[0])
        # The number of a session that is somebody else's by now.
        (home / "supervisord.pid").write_text(str(theirs.pid))
        end_orphans(home, home / "supervisord.pid")
        assert theirs.poll() is None
        assert _alive(children[1])
    finally:
        for process in (ours, theirs, *children):
            if process.poll() is None if isinstance(process, subprocess.Popen) else _alive(process):
                process.kill()
        ours.wait()
        theirs.wait()


def _launch(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "child.pid").unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "infra.local.processes", str(folder / "part.json")]
    return subprocess.Popen(command, cwd=folder, process_group=0)


def _daemon(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    return subprocess.Popen([sys.executable, "-c", _PART], cwd=folder, start_new_session=True)


def _child(folder: Path) -> psutil.Process:
    wait_until((folder / "child.pid").exists, what="the child's number")
    return psutil.Process(int((folder / "child.pid").read_text()))


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
