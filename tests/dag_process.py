"""Runs DAGs to their end by `dag.test()`, each call in a process forked from one that has Airflow loaded.

Airflow reads its configuration when it is imported, so `dag_environment` must be the process's own; our code reads its
settings from the environment whenever it runs, so each fork gets them anew. A task is tried once: waiting for retries
would only take time.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.settings import PREFIX, Settings
from tests.environment import environment

REPO = Path(__file__).resolve().parents[1]


def dag_environment(airflow_home: Path) -> dict[str, str]:
    """The environment of a process that runs our DAGs on a SQLite of its own, without our settings."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(REPO),
    }


@dataclass(frozen=True)
class DagProcess:
    """A process that waits for runs; it ends when its input does."""

    home: Path
    child: "subprocess.Popen[str]"

    def run(self, settings: Settings, *runs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Each run's state, task instances' states by ``task`` or ``task[label]``, assets it touched, links, all logs.

        Args:
            settings: of the servers that the DAGs work on.
            runs: DAG ids and params, run one after the other.
        """
        assert self.child.stdin
        assert self.child.stdout
        output = self.home / f"{settings.store_bucket}.log"
        self.child.stdin.write(json.dumps([str(output), environment(settings), runs]) + "\n")
        self.child.stdin.flush()
        ended = self.child.stdout.readline()
        log = output.read_text() if output.exists() else (self.home / "process.log").read_text()
        lines = [line.removeprefix("RESULT ") for line in log.splitlines() if line.startswith("RESULT ")]
        if len(lines) != len(runs):
            raise RuntimeError(f"{len(lines)} of {runs} gave a result ({ended.strip() or 'no answer'}):\n{log[-5000:]}")
        return [json.loads(line) | {"log": log} for line in lines]


@contextmanager
def dag_process(airflow_home: Path) -> Iterator[DagProcess]:
    """Started, with the tables of Airflow's database; ended afterwards."""
    with (airflow_home / "process.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.dag_process"],
            env=dag_environment(airflow_home),
            cwd=airflow_home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with child:
        yield DagProcess(airflow_home, child)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Airflow prints is no answer
    import great_expectations  # noqa: F401  # imported for the tasks, which would each need seconds for it
    import torch._dynamo  # noqa: F401
    from airflow import settings
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    import ml.gate.decide
    import ml.ingest
    import ml.training.train  # noqa: F401
    from plugins import task_defaults

    task_defaults.DEFAULTS["retries"] = 0
    initdb()
    DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    settings.dispose_orm()
    for line in sys.stdin:
        output, variables, runs = json.loads(line)
        child = os.fork()
        if not child:
            _run_and_exit(Path(output), variables, runs)
        _, status = os.waitpid(child, 0)
        print(f"exit code {os.waitstatus_to_exitcode(status)}", file=answers, flush=True)


def _run_and_exit(output: Path, variables: dict[str, str], runs: list[tuple[str, dict[str, Any]]]) -> None:
    """In the fork: run, with all output in the file."""
    from airflow import settings
    from airflow.dag_processing.dagbag import DagBag

    code = 1
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(variables)
        settings.configure_orm()
        bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        for dag_id, conf in runs:
            print("RESULT", json.dumps(_outcome(bag.dags[dag_id].test(run_conf=conf))), flush=True)  # noqa: T201
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _outcome(run: Any) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run.run_id))
        assets = [event.asset.name for event in events]
        kept = session.scalars(
            select(XComModel).where(XComModel.run_id == run.run_id, XComModel.key.startswith("_link_", autoescape=True))
        )
        links = sorted(str(link.value).strip('"') for link in kept if link.value)
    tasks = {
        f"{ti.task_id}[{ti.rendered_map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state)
        for ti in run.get_task_instances()
    }
    return {"state": str(run.state), "tasks": tasks, "assets": assets, "links": links}


if __name__ == "__main__":
    main()
