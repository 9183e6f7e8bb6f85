"""
### Train: a dataset version becomes the champion, if it is better and not significantly worse anywhere

Starts when a drop was accepted, when monitoring asks for it, on the schedule of the setting
`train_schedule`, or by hand with parameters. Every run looks for the newest dataset version; if that
one was trained already, and neither a person nor the schedule asks, there is nothing to do, whatever monitoring found.

`fit` judges the dataset version by `expectations/dataset.yml`, warm-starts from the champion and logs to
MLflow, `gate` compares on the holdout and records a decision, `release` lets every service worker run the
new model and moves the alias, or puts everything back; with the setting `release_strategy` canary or shadow it
first waits, without a worker slot, for the end of the trial. What the gate leaves to a person is asked
by a run of `approve`, so that training goes on meanwhile.
"""

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, PokeReturnValue, dag, task

from ml.settings import Settings
from ml.settings.training import MAX_SEED
from plugins.assets import CHALLENGER, DATASET, RETRAIN
from plugins.links import DecisionReportLink
from plugins.release_sensor import SENSOR_OPTIONS
from plugins.task_defaults import DEFAULTS

_CRON = Settings.load(os.environ).train_schedule
_ASSETS = DATASET | RETRAIN


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable(_CRON, timezone="UTC"), assets=_ASSETS)
    if _CRON
    else _ASSETS,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    doc_md=__doc__,
    tags=["evergreen", "model"],
    params={
        "dataset_version": Param(
            None, type=["null", "string"], title="Dataset version", description="Empty: the newest"
        ),
        "mode": Param("auto", enum=["auto", "refresh", "full"], title="Mode"),
        "epochs": Param(None, type=["null", "integer"], minimum=1, maximum=1000, title="Epochs"),
        "seed": Param(None, type=["null", "integer"], minimum=0, maximum=MAX_SEED, title="Seed"),
    },
    default_args=DEFAULTS | {"execution_timeout": timedelta(hours=12)},
)
def train() -> None:
    @task
    def plan() -> dict[str, Any]:
        """Choose the dataset version and the cycle this run belongs to; skip if all is done."""
        from airflow.sdk import get_current_context
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.training import due
        from plugins.runtime import context, params

        due_cycle = due.choose(context(), get_current_context()["run_id"], params()["dataset_version"])
        if due_cycle is None:
            raise AirflowSkipException("the newest dataset version was trained and decided already")
        return {"cycle_id": due_cycle.cycle_id, "dataset_version": due_cycle.dataset_version}

    @task(pool="train", outlets=[CHALLENGER])
    def fit(cycle: dict[str, Any]) -> int:
        """Train a challenger and register it; a dataset version that breaks an expectation ends the cycle."""
        from ml.training.train import train as train_model
        from plugins.runtime import context, params

        options = {name: params()[name] for name in ("mode", "epochs", "seed")}
        return train_model(context(), cycle["dataset_version"], cycle_id=cycle["cycle_id"], **options).model_version

    @task
    def gate(cycle: dict[str, Any], model_version: int) -> str:
        """Compare with the champion and record the decision; alerts when the holdout needs fresh labels."""
        from ml.gate.decide import asks_for_labels, decide
        from plugins.alerts import alert
        from plugins.runtime import context

        decision = decide(context(), model_version, cycle_id=cycle["cycle_id"])
        if request := asks_for_labels(decision):
            alert("the holdout is worn", request)
        return decision.id

    @task.short_circuit
    def undecided(decision_id: str) -> bool:
        """Whether a person must decide."""
        from ml.catalog import decisions
        from plugins.runtime import context

        return decisions.get(context().engine, decision_id).verdict == "needs_person"

    @task.sensor(**SENSOR_OPTIONS)
    def release(cycle: dict[str, Any], decision_id: str) -> PokeReturnValue:
        """Deploy a promoted challenger to all replicas; skipped when it was not promoted."""
        from ml.release.release import release as release_model
        from plugins.release_sensor import poke_result
        from plugins.runtime import context

        return poke_result(release_model(context(), decision_id, cycle_id=cycle["cycle_id"]))

    cycle = plan()
    decision = gate(cycle, fit(cycle))
    decision.operator.operator_extra_links = (DecisionReportLink(),)  # the decorator takes no such argument
    release(cycle, decision)
    undecided(decision) >> TriggerDagRunOperator(
        task_id="ask",
        trigger_dag_id="approve",
        trigger_run_id="decision-{{ ti.xcom_pull(task_ids='gate') }}",
        conf={"decision_id": decision},
        logical_date=None,
        skip_when_already_exists=True,
    )


train()
