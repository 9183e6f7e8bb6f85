"""The services that are compared: ours with a bundle in a precision, and the plain peer; all up at once."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil

from ml.catalog.migrate import migrate
from ml.context import connect
from ml.imaging.images import Limits, decode
from ml.models import bundle, variants
from ml.models.bundle import Variant
from ml.settings import Settings
from tests.bench.parts.described import described
from tests.bundles import deploy, upload
from tests.servers import Servers, free_port, process, wait_until
from tests.serving_process import service

WORKERS = 2
REDUCED: Final[tuple[Variant, ...]] = ("int8", "bf16")
_LIMITS = Limits(10**7, 10**7)


@dataclass(frozen=True)
class Up:
    """A service that answers at `url`; `pid` is its first process."""

    url: str
    pid: int

    def memory(self) -> float:
        """MB (10⁶ bytes) of all its processes, shared pages by their share (PSS)."""
        first = psutil.Process(self.pid)
        return sum(_pss(p.pid) for p in (first, *first.children(recursive=True))) / 1e6


@contextmanager
def ours(servers: Servers, folder: Path, bundle_folder: Path, variant: str) -> Iterator[Up]:
    """Real processes on a system of their own in Postgres and S3, with the prediction log."""
    folder.mkdir(parents=True)
    settings = servers.settings(folder / "home", service_variant=variant)
    ctx = connect(settings)
    migrate(ctx.engine)
    deploy(ctx, upload(ctx, bundle_folder), bundle.digest((bundle_folder / bundle.INFO).read_bytes()), 1)
    more = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
    with service(settings, folder, WORKERS, **more) as started:
        started.wait_ready(WORKERS)
        served = started.get("/v1/model").json()["variant"]
        if served != variant:
            raise RuntimeError(f"{served} answers in the place of {variant}")
        yield Up(f"{started.url}/v1/predict", _listener(int(started.url.rpartition(":")[2])))


@contextmanager
def peer(folder: Path, bundle_folder: Path, side: int) -> Iterator[Up]:
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.parts.plain_peer:app", "--port", str(port)]
    command += ["--workers", str(WORKERS), "--no-access-log"]
    variables = {
        "MODEL": str((bundle_folder / bundle.MODEL).resolve()),
        "SIDE": str(side),
        "PYTHONPATH": str(Path.cwd()),
    }
    with process(command, variables, folder / "peer.log") as pid:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/openapi.json").status_code == 200, what="the peer")
        yield Up(f"{url}/predict", pid)


def make(folder: Path, architecture: str, side: int, classes: int, photos: list[bytes]) -> Path:
    """A bundle as a training would make it, in all precisions; its weights are random, its statistics the photos'."""
    import torch

    from ml.training import export, quantise
    from ml.training.network import networks

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder.mkdir(parents=True)
    pixels = np.stack([decode(photo, side, 3, _LIMITS) for photo in photos])
    network = networks.build(architecture, 3, classes, side, 0).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean over what it sees here
    with torch.no_grad():
        network(networks.normalise(torch.from_numpy(pixels)))
    info = described(architecture, [f"class {n}" for n in range(classes)], side, 3)
    export.export(network, info, pixels, folder)
    quantise.add(folder, pixels, (pixels, np.zeros(len(pixels), np.int64)), 1.0)
    return folder


def missing(bundle_folder: Path) -> dict[Variant, str]:
    """Variants that do not answer on this machine, and why."""
    unavailable: dict[Variant, str] = {}
    for variant in REDUCED:
        loaded = variants.load_proven(bundle_folder, Settings().probe_tolerance, variant=variant)
        if loaded.variant != variant:
            reasons = [one.reason for one in loaded.variants if one.variant == variant]
            unavailable[variant] = f"{variant}: {'; '.join(reasons) or 'this machine cannot make it'}"
    return unavailable


def _listener(port: int) -> int:
    """The service's first process, which alone has the port in its command."""
    for candidate in psutil.Process().children(recursive=True):
        if str(port) in candidate.cmdline():
            return candidate.pid
    raise RuntimeError(f"no process of ours serves port {port}")


def _pss(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0
