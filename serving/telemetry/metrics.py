"""Prometheus metrics; aggregated over worker processes when PROMETHEUS_MULTIPROC_DIR names a folder.

Without the variable each process has its own metrics. With it every worker writes to files there and any
worker exposes the metrics of all; the folder is emptied before the service starts, never while it runs.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS: Final = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one worker."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._folder = Path(environ[FOLDER]) if environ.get(FOLDER) else None
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        r = self._registry = CollectorRegistry()
        self.requests = Counter(
            "evergreen_requests", "Requests by route and status.", ["method", "route", "status"], registry=r
        )
        self.seconds = Histogram(
            "evergreen_request_seconds", "Time to the answer.", ["route"], buckets=BUCKETS, registry=r
        )
        self.predictions = Counter("evergreen_predictions", "Answers by model version.", ["model_version"], registry=r)
        self.rejected = Counter("evergreen_rejected", "Answers marked rejected.", ["reason"], registry=r)
        self.model_version = Gauge(
            "evergreen_model_version", "What each worker serves; 0: nothing.", registry=r, multiprocess_mode="liveall"
        )
        self.reloads = Counter(
            "evergreen_reloads", "Models taken (swapped) or turned down (refused).", ["result"], registry=r
        )
        self.spool_rows = Gauge(
            "evergreen_spool_rows", "Logged predictions not yet stored.", registry=r, multiprocess_mode="livesum"
        )
        self.spool_bytes = Gauge(
            "evergreen_spool_bytes", "Their bytes on local disk.", registry=r, multiprocess_mode="livesum"
        )
        self.shed = Counter(
            "evergreen_log_shed", "Images or whole rows the prediction log let go.", ["what"], registry=r
        )
        self.stored = Counter("evergreen_log_stored", "Rows the prediction log has stored.", registry=r)
        self.refused = Counter(
            "evergreen_refused",
            "Requests refused for who sent them: no_key, bad_key, forbidden, …",
            ["why"],
            registry=r,
        )
        for what in ("image", "row"):
            self.shed.labels(what)
        for result in ("swapped", "refused"):
            self.reloads.labels(result)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, of all workers where they share a folder."""
        return generate_latest(self._collect())

    def total(self, name: str, **labels: str) -> float:
        """The value of a metric, summed over all workers where they share a folder; 0 if it has no sample."""
        return self._collect().get_sample_value(name, labels) or 0.0

    def _collect(self) -> CollectorRegistry:
        if not self._folder:
            return self._registry
        self._remove_dead_workers()
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))
        return registry

    def _remove_dead_workers(self) -> None:
        """Remove the gauges of killed workers; their counters stay, since they are totals."""
        folder = self._folder
        for pid in {p.stem.rpartition("_")[2] for p in folder.glob("gauge_live*_*.db")} if folder else ():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                with suppress(FileNotFoundError):  # another worker removed them first
                    mark_process_dead(int(pid), str(folder))
            except (ValueError, PermissionError):
                continue
