"""Runs DAGs to their end in this process, by `dag.test()`: `python -m tests.dag_process [[DAG_ID, CONF], …]`.

Airflow reads its configuration when it is imported, so `dag_environment` must be the process's own. A
task is tried once: waiting for retries would only take time. Prints a line for each, ``RESULT`` and JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml.settings import PREFIX, Settings
from tests.environment import environment

REPO = Path(__file__).resolve().parents[1]


def dag_environment(airflow_home: Path, settings: Settings) -> dict[str, str]:
    """The environment of a process that runs our DAGs on a SQLite of its own against `settings`' servers."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
        **environment(settings),
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(REPO),
    }


def run_dags(airflow_home: Path, settings: Settings, *runs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each run's state, task instances' states by ``task`` or ``task[label]``, assets it touched, links, all logs.

    Args:
        runs: DAG ids and params, run one after the other.
    """
    command = [sys.executable, "-m", "tests.dag_process", json.dumps(runs)]
    variables = dag_environment(airflow_home, settings)
    done = subprocess.run(command, env=variables, cwd=airflow_home, capture_output=True, text=True, check=False)
    told = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if len(told) != len(runs):
        raise RuntimeError(f"{len(told)} of {runs} gave a result:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return [json.loads(line) | {"log": done.stdout + done.stderr} for line in told]


def main(runs: list[tuple[str, dict[str, Any]]]) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    from plugins import task_defaults

    task_defaults.DEFAULTS["retries"] = 0
    if not (Path(os.environ["AIRFLOW_HOME"]) / "airflow.db").exists():
        initdb()
    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    for dag_id, conf in runs:
        print("RESULT", json.dumps(_outcome(bag.dags[dag_id].test(run_conf=conf))))  # noqa: T201


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
    main(json.loads(sys.argv[1]))
