"""Optuna study storage in a separate Postgres schema, shared by several workers, any of which may die."""

import logging
import warnings
from collections.abc import Callable
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from ml.catalog.engine import transaction
from ml.context import Context

log = logging.getLogger(__name__)

SCHEMA: Final = "tuning"
_LOCK: Final = 7_318_002
_RETRIES: Final = 2
_UNPRUNED_TRIALS, _UNPRUNED_EPOCHS = 4, 2

OnAbandoned = Callable[[FrozenTrial], None]
"""Called with a trial whose worker died."""


def open_study(
    ctx: Context, name: str, begin: Callable[[Study], None], on_abandoned: OnAbandoned, heartbeat: int
) -> Study:
    """Open the study `name`; it is created if it does not exist.

    Args:
        begin: called once per study by its first worker, before other workers can open it.
        on_abandoned: called for a trial whose worker missed three heartbeats; the trial is retried.
        heartbeat: seconds between a worker's heartbeats.
    """
    with transaction(ctx.engine) as connection:
        # Workers that start together would create the same tables, and the first trial twice.
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        with transaction(ctx.engine) as schema_connection:
            schema_connection.execute(text(f"create schema if not exists {SCHEMA}"))
        study = optuna.create_study(
            storage=_storage(ctx, on_abandoned, heartbeat),
            study_name=name,
            load_if_exists=True,
            direction="maximize",
            # Workers run in parallel: a running trial counts as a bad one, so that no worker samples near it.
            sampler=TPESampler(multivariate=True, group=True, constant_liar=True),
            pruner=MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS),
        )
        if not study.trials:
            begin(study)
    return study


def _storage(ctx: Context, on_abandoned: OnAbandoned, heartbeat: int) -> RDBStorage:
    retry = RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES)

    def on_stale(study: Study, trial: FrozenTrial) -> None:
        log.warning("the worker of trial %d sent no heartbeat; the trial is retried", trial.number)
        on_abandoned(trial)
        retry(study, trial)

    return RDBStorage(
        ctx.settings.database_url.get_secret_value(),
        engine_kwargs={"connect_args": {"options": f"-csearch_path={SCHEMA}"}, "pool_pre_ping": True},
        heartbeat_interval=heartbeat,
        grace_period=3 * heartbeat,
        heartbeat_stale_trial_callback=on_stale,
    )


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Trials with a result: complete or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def silence_optuna() -> None:
    """Silence Optuna's log and its warnings that heartbeats are experimental; the search reports progress."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
