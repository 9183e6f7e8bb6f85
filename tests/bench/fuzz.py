"""Ten thousand damaged photographs of every format, sent to the service: an answer or a refusal, never a failure.

`failures` counts statuses other than 200 and 422, and connections that broke; `workers_lost` workers that were gone
at the end. EVERGREEN_FUZZ_SEED chooses other damage.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from ml.catalog.migrate import migrate
from ml.context import connect
from tests import servers
from tests.bundles import deploy, make_bundle, upload
from tests.mutants import storm
from tests.serving_process import replica_rows, service

COUNT: Final = 10_000


def run() -> dict[str, Any]:
    """One storm over a service of two workers."""
    seed = int(os.environ.get("EVERGREEN_FUZZ_SEED", "1"))
    with tempfile.TemporaryDirectory() as name, servers.storage(Path(name)) as running:
        folder = Path(name)
        context = connect(running.settings(folder / "home"))
        migrate(context.engine)
        digest = make_bundle(folder / "bundle", ("a", "b"), size=64, channels=3)
        deploy(context, upload(context, folder / "bundle"), digest, 1)
        with service(context.settings, folder) as started:
            started.wait_ready()
            before = {row["id"] for row in replica_rows(context)}
            began = time.monotonic()
            tally = storm(started.url, seed, COUNT)
            seconds = time.monotonic() - began
            lost = before - {row["id"] for row in replica_rows(context)}
    answered = sum(count for (_, code), count in tally.codes.items() if code == "answered")
    figures = {
        "files": COUNT,
        "failures": len(tally.failures),
        "workers_lost": len(lost),
        "answered": answered,
        "refused": sum(tally.codes.values()) - answered,
        "slowest_ms": round(tally.slowest * 1000, 1),
        "files_a_second": round(COUNT / seconds, 1),
    }
    codes = {f"{name}: {code}": count for (name, code), count in sorted(tally.codes.items())}
    return {"runs": 1, "seed": seed, "figures": figures, "codes": codes, "first_failures": tally.failures[:50]}
