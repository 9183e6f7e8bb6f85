"""The whole service against what it says of itself and against hostile bodies: schemathesis, damaged images, load."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ml.catalog import api_keys
from ml.context import Context
from tests.bundles import deploy, make_bundle, upload
from tests.mutants import specimens, storm
from tests.servers import wait_until
from tests.serving_process import Service, replica_rows, service

SECONDS = 25
MUTANTS = 1000
ANSWERS = 20


def ready(context: Context, folder: Path) -> AbstractContextManager[Service]:
    """Two workers, with a model."""
    digest = make_bundle(folder / "bundle", ("cat", "dog", "<b>bird"), size=32, channels=3)
    deploy(context, upload(context, folder / "bundle"), digest, 1)
    return service(context.settings, folder)


def test_the_service_does_what_its_openapi_says(make_context: Callable[..., Context], tmp_path: Path) -> None:
    context = make_context(api_keys="required")
    key = api_keys.create(context.engine, api_keys.Grant("schemathesis", ("admin",)), "test")
    config = Path(__file__).with_name("schemathesis.toml")
    with ready(context, tmp_path) as running:
        running.wait_ready()
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
        command += [f"{running.url}/openapi.json", "--checks", "all", "--mode", "all", "--continue-on-failure"]
        command += ["--max-time", str(SECONDS), "--seed", "1", "--workers", "1", "--no-color"]
        known = os.environ | {"EVERGREEN_API_KEY": key}
        done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in running.log.read_text()


def test_damaged_images_and_many_users_harm_nothing(context: Context, tmp_path: Path) -> None:
    with ready(context, tmp_path) as running:
        running.wait_ready()
        workers = {row["id"] for row in replica_rows(context)}
        for name, data in specimens():
            assert running.ask(data).status_code == 200, name
        tally = storm(running.url, seed=int(os.environ.get("EVERGREEN_FUZZ_SEED", "7")), count=MUTANTS)
        assert tally.failures == []
        answered = sum(count for (_, code), count in tally.codes.items() if code == "answered")
        assert 0 < answered < MUTANTS
        _many_users(running, tmp_path)
        assert {row["id"] for row in replica_rows(context)} == workers
        assert "Traceback" not in running.log.read_text()


def _many_users(running: Service, folder: Path) -> None:
    """Four users until there are enough answers, however long that takes."""
    script = Path(__file__).parents[1] / "load" / "locustfile.py"
    command = [sys.executable, "-m", "locust", "-f", str(script), "--headless", "--users", "4", "--spawn-rate", "4"]
    command += ["--stop-timeout", "60", "--host", running.url, "--csv", str(folder / "load")]
    with (folder / "locust.log").open("w+") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            wait_until(lambda: child.poll() is not None or _answers(folder) > ANSWERS, what=f"{ANSWERS} answers")
        finally:
            child.terminate()  # Locust ends as it does after its time, and writes its figures
            code = child.wait()
        log.seek(0)
        assert code == 0, log.read()[-6000:]
    total = _total(folder)
    assert (total["Name"], total["Failure Count"]) == ("Aggregated", "0")
    assert int(total["Request Count"]) > ANSWERS


def _answers(folder: Path) -> int:
    return int(_total(folder).get("Request Count", 0))


def _total(folder: Path) -> dict[str, str]:
    """The last line of Locust's figures, which it writes anew every other second; empty before the first time."""
    path = folder / "load_stats.csv"
    rows = path.read_text().splitlines() if path.exists() else []
    return dict(zip(rows[0].split(","), rows[-1].split(","), strict=False)) if len(rows) > 1 else {}
