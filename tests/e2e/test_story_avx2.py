"""The demo's story where training, the gate and the service compute as on a processor with AVX2 only.

Airflow computes nothing that depends on the processor, so the cycles run without it. This file has a process to itself.
"""

import io
import sys
from pathlib import Path

from rich.console import Console

from infra.demo import drops, pictures, story
from ml.context import connect
from tests import avx2
from tests.environment import environment
from tests.servers import Servers, process
from tests.serving_process import service


def test_the_story_of_three_drops_with_avx2_only(servers: Servers, mlflow_url: str, tmp_path: Path) -> None:
    settings = servers.migrated(tmp_path / "home", mlflow_url=mlflow_url)
    with service(settings, tmp_path, workers=2, **avx2.VARIABLES) as running:
        settings = settings.model_copy(update={"service_url": running.url})
        command, log = [sys.executable, "-m", "tests.e2e.cycles"], tmp_path / "cycles.log"
        repository = {"PYTHONPATH": str(Path(__file__).parents[2])}
        with process(command, environment(settings) | avx2.VARIABLES | repository, log):
            console = Console(file=io.StringIO())
            outcome = story.run(connect(settings), drops.make_story(pictures.load(None)), tmp_path / "demo", console)
    first, second, third = (result.cycle for result in outcome.cycles)
    assert (first.verdict, second.verdict, third.verdict) == ("promote", "promote", "held")
    assert outcome.reload.failures == []
    assert outcome.reload.versions == {first.model_version, second.model_version}
    assert outcome.logged == outcome.predicted
