"""The log under fire: workers killed with SIGKILL, and Postgres and the bucket away, all at full load.

MobileNetV2 at 224 pixels (random weights) answers 500×375 JPEGs over 8 connections, two workers, every image logged,
all on this machine. `lost_rows` are answers that are not in the log in the end, those aside that came within 50 ms
before a worker was killed: these are `lost_of_the_last_50_ms`. `duplicates` are rows beyond one an answer.

Outage: Postgres and the S3 server are stopped (SIGSTOP) for half of the time, then killed, then started again; how
long in all is EVERGREEN_BENCH_OUTAGE_SECONDS. `p99_ratio` is the 99th percentile of that time over the one of the time
before; `p99_ratio_recovery` that of the time in which the log catches up, still under load. `caught_up_seconds` counts
from the servers' return until the last answer is stored, the load included while it lasts.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import SecretStr
from sqlalchemy import func, select, text

from infra.local import components, postgres
from ml.catalog import deployments
from ml.catalog.engine import transaction
from ml.catalog.migrate import migrate
from ml.catalog.tables import predictions
from ml.context import Context, connect
from ml.monitoring.maintain import maintain
from ml.settings import Settings
from ml.storage import object_store
from serving.prediction_log import spool
from tests.bench.parts import mobilenet
from tests.bench.parts.load import Load, share
from tests.bundles import deploy, upload
from tests.servers import PASSWORD, free_port, process, wait_until
from tests.serving_process import Service, service

SECONDS: Final = float(os.environ.pop("EVERGREEN_BENCH_OUTAGE_SECONDS", "300"))
STEADY: Final = 10.0
KILLS: Final = 4
CONNECTIONS: Final = 8
WORKERS: Final = 2
SPOOL_BYTES: Final = 12_000_000_000


class Backend:
    """Postgres and the S3 server, which can be stopped, killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, (free_port(), free_port())
        postgres.initialise(folder / "postgres", PASSWORD)
        self._pids: list[int] = []
        self._stack = ExitStack()

    def start(self) -> None:
        """Returns when both answer."""
        pg_port, s3_port = self.ports
        command, environment = components.s3_command(self.folder / "s3", s3_port, "evergreen", PASSWORD)
        database = process(
            postgres.command(self.folder / "postgres", pg_port), {}, self.folder / "pg.log", signal.SIGINT
        )
        self._pids = [
            self._stack.enter_context(database),
            self._stack.enter_context(process(command, environment, self.folder / "s3.log")),
        ]
        wait_until(lambda: bool(self._ensure()), what="Postgres and the S3 server")

    def signal(self, number: int) -> None:
        """Also to Postgres' children, which make sessions of their own."""
        for pid in self._pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                server = psutil.Process(pid)
                for each in (server, *server.children(recursive=True)):
                    each.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._stack.close()

    def context(self) -> Context:
        pg_port, s3_port = self.ports
        url = f"postgresql+psycopg2://evergreen:{PASSWORD}@127.0.0.1:{pg_port}/evergreen"
        values = {
            "home": self.folder / "home",
            "database_url": SecretStr(url),
            "s3_endpoint": f"http://127.0.0.1:{s3_port}",
            "s3_secret_key": SecretStr(PASSWORD),
            "spool_bytes": SPOOL_BYTES,
            "api_keys": "loopback",
        }
        return connect(Settings.model_validate(values))

    def _ensure(self) -> bool:
        pg_port, _ = self.ports
        postgres.ensure_database("127.0.0.1", pg_port, PASSWORD, "evergreen", PASSWORD)
        settings = self.context().settings
        for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
            object_store.connect(settings, bucket).ensure_bucket()
        return True


def run() -> dict[str, Any]:
    """Figures of the kills, then of the outage."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    with tempfile.TemporaryDirectory(prefix="evergreen-outage-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as another user where this one is root
        backend = Backend(folder)
        backend.start()
        stack.callback(backend.kill)
        context = backend.context()
        migrate(context.engine)
        maintain(context)
        digest = mobilenet.bundle(folder / "bundle")
        deploy(context, upload(context, folder / "bundle"), digest, version=1)
        metrics = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
        with service(context.settings, folder, WORKERS, **metrics) as running:
            running.wait_ready(WORKERS)
            load = Load(int(running.url.rpartition(":")[2]), [mobilenet.photo(seed) for seed in range(32)])
            killed = _kills(context, running, load)
            if not load.answers:
                raise SystemExit(f"the service answers nothing but {load.failures[0]}")
            broken = [status for status, _ in load.failures]
            outage = _outage(context, running, load, backend)
            figures = _account(context, load, killed) | outage | _shed(running)
            figures |= {
                "kills": KILLS,
                "broken_by_kills": broken.count(0),
                "refused_after_kills": len(broken) - broken.count(0),
            }
    return {"runs": 1, "seconds": SECONDS, "figures": figures}


def _kills(context: Context, running: Service, load: Load) -> list[float]:
    """When workers were killed."""
    killed: list[float] = []
    with load.running(CONNECTIONS):
        for _ in range(KILLS):
            time.sleep(2)
            # The one that is oldest has the connections: a new one is idle, and takes the next that come.
            known = deployments.live_replicas(context.engine, context.settings.heartbeat_seconds)
            victim = min((r for r in known if psutil.pid_exists(r.pid)), key=lambda r: r.started_at)
            killed.append(time.time())
            os.kill(victim.pid, signal.SIGKILL)
            time.sleep(1)
            running.wait_ready(WORKERS)
    return killed


def _outage(context: Context, running: Service, load: Load, backend: Backend) -> dict[str, Any]:
    known = len(load.failures)
    with load.running(CONNECTIONS):
        time.sleep(3)  # new connections and caches
        before = time.time()
        time.sleep(STEADY)
        away = time.time()
        with _signalled(backend):
            time.sleep(SECONDS / 2)
        backend.kill()
        time.sleep(SECONDS / 2)
        back = time.time()
        backend.start()
        time.sleep(STEADY)
        end = time.time()
    wait_until(lambda: _waiting(context) == 0, seconds=600, what="a log that has caught up")
    caught_up = time.time()
    steady, out, recovery = load.between(before, away), load.between(away, back), load.between(back, end)
    return {
        "outage_seconds": round(back - away, 1),
        "answers_during_outage": len(out),
        "failed_during_outage": len(load.failures) - known,
        "p99_ratio": round(share(out, 0.99) / share(steady, 0.99), 3),
        "p99_ratio_recovery": round(share(recovery, 0.99) / share(steady, 0.99), 3),
        "p99_steady_milliseconds": round(share(steady, 0.99), 2),
        "p99_outage_milliseconds": round(share(out, 0.99), 2),
        "answers_per_second_steady": round(len(steady) / (away - before), 1),
        "answers_per_second_outage": round(len(out) / (back - away), 1),
        "answers_per_second_recovery": round(len(recovery) / (end - back), 1),
        "caught_up_seconds": round(caught_up - back, 1),
    }


@contextmanager
def _signalled(backend: Backend) -> Iterator[None]:
    backend.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        backend.signal(signal.SIGCONT)


def _account(context: Context, load: Load, killed: Sequence[float]) -> dict[str, Any]:
    with transaction(context.engine) as connection:
        rows = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        ids = {str(i) for i in connection.execute(select(predictions.c.id).distinct()).scalars()}
        counted = connection.execute(text("select sum(answers) from prediction_hours")).scalar_one()
        images = connection.execute(select(func.count(predictions.c.image_object))).scalar_one()
    lost = [a for a in load.answers if a.id not in ids]
    late = [a for a in lost if any(k - 0.05 <= a.received <= k + 0.05 for k in killed)]
    return {
        "lost_rows": len(lost) - len(late),
        "lost_of_the_last_50_ms": len(late),
        "duplicates": rows - len(ids),
        "answers": len(load.answers),
        "rows": rows,
        "rows_counted_by_hour": int(counted),
        "rows_without_image": rows - images,
    }


def _waiting(context: Context) -> int:
    """Bytes in the spools of all workers, as the disk tells it."""
    return sum(spool.size(folder) for folder in spool.folders(context.settings.home / "spool"))


def _shed(running: Service) -> dict[str, int]:
    return {
        f"shed_{what}s": int(sum(_samples(running, f'evergreen_log_shed_total{{what="{what}"}}')))
        for what in ("image", "row")
    }


def _samples(running: Service, name: str) -> list[float]:
    answer = running.get("/metrics")
    values = [float(line.rpartition(" ")[2]) for line in answer.text.splitlines() if line.startswith(name)]
    if not values:
        raise SystemExit(f"the service tells no {name}: {answer.status_code} {answer.text[:1000]}")
    return values
