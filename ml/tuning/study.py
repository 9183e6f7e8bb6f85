"""A search's memory in Postgres, in a schema of its own, so that several workers share it and any of them may die."""

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

Left = Callable[[FrozenTrial], None]
"""Told of a trial whose worker died."""


def opened(ctx: Context, name: str, begin: Callable[[Study], None], left: Left, beat: int) -> Study:
    """The study `name`, made if it is not there.

    Args:
        begin: is called once in a study's life, by its first worker, before anyone else may look.
        left: is called for a trial whose worker gave no sign for three beats; it is tried again.
        beat: seconds between a worker's signs of life.
    """
    with transaction(ctx.engine) as connection:
        # Workers that start together would make the same tables, and the first trial twice.
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        with transaction(ctx.engine) as other:
            other.execute(text(f"create schema if not exists {SCHEMA}"))
        study = optuna.create_study(
            storage=_storage(ctx, left, beat),
            study_name=name,
            load_if_exists=True,
            direction="maximize",
            # Workers do not wait for each other: a running trial counts as a bad one, so nobody tries its neighbour.
            sampler=TPESampler(multivariate=True, group=True, constant_liar=True),
            pruner=MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS),
        )
        if not study.trials:
            begin(study)
    return study


def _storage(ctx: Context, left: Left, beat: int) -> RDBStorage:
    retry = RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES)

    def died(study: Study, trial: FrozenTrial) -> None:
        log.warning("the worker of trial %d gave no sign of life; it is tried again", trial.number)
        left(trial)
        retry(study, trial)

    return RDBStorage(
        ctx.settings.database_url.get_secret_value(),
        engine_kwargs={"connect_args": {"options": f"-csearch_path={SCHEMA}"}, "pool_pre_ping": True},
        heartbeat_interval=beat,
        grace_period=3 * beat,
        heartbeat_stale_trial_callback=died,
    )


def done(study: Study) -> list[FrozenTrial]:
    """Trials that told something: finished or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def quiet() -> None:
    """Optuna's own words and its warnings that heartbeats are new: what a person wants to know, we say."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
