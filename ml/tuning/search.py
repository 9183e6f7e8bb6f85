"""Hyperparameter search: trials train on a dataset version's training split and are scored on its validation split."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ml.catalog.engine import advisory_lock
from ml.context import Context
from ml.datasets import versions
from ml.datasets.versions import DatasetVersion
from ml.errors import InvalidInputError, NotFoundError
from ml.settings import RECIPE_FILE
from ml.training.data.training_data import TrainingData, gather
from ml.training.loop import recipe
from ml.training.loop.fit import fit
from ml.training.tracking import track
from ml.training.tracking.lineage import code_version
from ml.tuning import space, study

log = logging.getLogger(__name__)

_PARENT: Final = "parent_run"
_RUN: Final = "run"
_HEARTBEAT_SECONDS: Final = 20

OnEpoch = Callable[[int, int, int, float], None]
"""Called with trial, epoch, epochs and accuracy."""


@dataclass(frozen=True)
class BestRecipe:
    """The result of a search.

    Attributes:
        trials: number, state, accuracy, run and settings of each trial, the best first.
        first: accuracy with the current settings.
        file: the settings file with the best recipe; None if no trial beat the current settings.
    """

    study: str
    dataset_version: str
    run_id: str
    trials: list[dict[str, Any]]
    first: float
    best: float
    file: Path | None


def search(
    ctx: Context,
    version_id: str | None = None,
    *,
    trials: int,
    name: str | None = None,
    epochs: int | None = None,
    file: Path | None = None,
    progress: OnEpoch | None = None,
    heartbeat: int = _HEARTBEAT_SECONDS,
) -> BestRecipe:
    """Run trials until the study has `trials` of them. Restarted calls and parallel workers continue the same study.

    The first trial uses the current settings. Each trial is a full training from new weights, logged as a child of
    the study's MLflow run; a trial below the median of the others at the same epoch is pruned. The holdout is not
    used.

    Args:
        version_id: None for the newest dataset version.
        trials: total of the study over all workers; trials that are running then are finished.
        epochs: maximum per trial; None: from the settings.
        file: settings file for the best recipe; by default `RECIPE_FILE` in the data folder, which every later
            training on this host reads.
        heartbeat: seconds between heartbeats; after three missed ones another worker retries the trial.

    Raises:
        InvalidInputError: the version has no validation samples, or fewer than two classes.
        NotFoundError: no such dataset version, or none at all.
        UnavailableError: a server does not answer.
    """
    study.silence_optuna()
    version = _version(ctx, version_id)
    material = gather(ctx, version, "full", ctx.settings.seed)
    if not version.validation:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has no validation samples to judge recipes by: "
            "upload more labelled images"
        )
    study_name = name or f"{ctx.settings.model_name}-{version.id[:12]}"
    optuna_study = study.open_study(
        ctx,
        study_name,
        lambda new_study: _start_study(ctx, new_study, version),
        lambda t: _end_abandoned_run(ctx, t),
        heartbeat,
    )
    if (study_version := optuna_study.user_attrs["dataset_version"]) != version.id:
        raise InvalidInputError(
            f"study `{study_name}` is of dataset version {study_version[:12]}, not {version.id[:12]}: name another"
        )
    worker = _Worker(ctx, material, optuna_study.user_attrs[_PARENT], epochs, progress)
    while len(study.finished_trials(optuna_study)) < trials:
        optuna_study.optimize(worker.objective, n_trials=1)
    return _report(ctx, optuna_study, version, file or ctx.settings.home / RECIPE_FILE)


@dataclass(frozen=True)
class _Worker:
    ctx: Context
    material: TrainingData
    parent: str
    epochs: int | None
    progress: OnEpoch | None

    def objective(self, trial: Trial) -> float:
        """Train one trial; return the validation accuracy of its best weights."""
        ctx, material = self.ctx, self.material
        settings = space.suggest(trial, ctx.settings)
        samples = len(material.plan.chosen)
        chosen = recipe.from_settings(settings, samples, material.size, material.channels, epochs=self.epochs)
        tags = {
            "mlflow.parentRunId": self.parent,
            "dataset_version": material.version.id,
            "code_version": code_version(),
        }
        run = track.Run.start(ctx.tracking, ctx.settings.experiment, f"trial {trial.number}", tags)
        trial.set_user_attr(_RUN, run.id)
        best = -1.0

        def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
            nonlocal best
            best = max(best, metrics["validation_accuracy"])
            run.log_metrics(epoch, metrics)
            if self.progress:
                self.progress(trial.number, epoch, epochs, metrics["validation_accuracy"])
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        pruned = False
        with run.terminating():
            recipe_params = {f"recipe_{k}": v for k, v in vars(chosen).items()}
            run.log_inputs(ctx, material.version, recipe_params | material.as_params())
            try:
                fitted = self._fit(chosen, on_epoch)
                run.log_metrics(0, {f"final_{k}": v for k, v in fitted.items()})
            except optuna.TrialPruned:
                pruned = True
            run.set_tag("pruned", str(pruned).lower())
        if pruned:
            raise optuna.TrialPruned
        return fitted["validation_accuracy"]

    def _fit(self, chosen: recipe.Recipe, on_epoch: Callable[[int, int, dict[str, float]], None]) -> dict[str, float]:
        material = self.material
        judge = (material.validation.images, material.validation.labels)
        network = material.network(chosen.seed)
        return fit(network, material.chosen, judge, chosen, on_epoch, shares=material.shares).best


def _version(ctx: Context, version_id: str | None) -> DatasetVersion:
    if version_id is not None:
        return versions.get(ctx, version_id)
    newest = versions.latest(ctx)
    if newest is None:
        raise NotFoundError("there is no dataset version yet: upload a drop first (`evergreen drop PATH`)")
    return newest


def _start_study(ctx: Context, new_study: Study, version: DatasetVersion) -> None:
    """Create the parent run and enqueue the current settings as the first trial."""
    tags = {"dataset_version": version.id, "code_version": code_version(), "study": new_study.study_name}
    run = track.Run.start(ctx.tracking, ctx.settings.experiment, f"tune {new_study.study_name}", tags)
    run.log_inputs(ctx, version, {"study": new_study.study_name})
    new_study.set_user_attr(_PARENT, run.id)
    new_study.set_user_attr("dataset_version", version.id)
    new_study.enqueue_trial(space.current(ctx.settings), user_attrs={"first": True})


def _end_abandoned_run(ctx: Context, trial: FrozenTrial) -> None:
    """End the MLflow run of a trial whose worker died."""
    if (run_id := trial.user_attrs.get(_RUN)) is not None:
        track.Run(ctx.tracking, run_id).end("KILLED")


def _report(ctx: Context, optuna_study: Study, version: DatasetVersion, file: Path) -> BestRecipe:
    all_trials = optuna_study.get_trials(deepcopy=False)
    complete = [t for t in all_trials if t.state == TrialState.COMPLETE and t.value is not None]
    first = next((t.value for t in complete if t.user_attrs.get("first")), None) or 0.0
    best = optuna_study.best_trial
    better = best.value is not None and best.value > first
    if better:
        source = f"study {optuna_study.study_name} on dataset version {version.id[:12]}"
        comment = (
            f"Best of {len(study.finished_trials(optuna_study))} trials of {source}.\n"
            f"Accuracy on its validation split: {best.value:.4f}, with the settings before: {first:.4f}."
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.part")
        temporary.write_text(space.as_file(best.params, comment))
        temporary.replace(file)
    parent = track.Run(ctx.tracking, optuna_study.user_attrs[_PARENT])
    tags = {"best_trial": best.number, **{f"best_{name}": value for name, value in best.params.items()}}
    with advisory_lock(ctx.engine, "tuning"):  # MLflow fails where two workers set a new tag at once
        for name, value in tags.items():
            parent.set_tag(name, str(value))  # a tag, not a parameter: a longer search may change it
    parent.log_metrics(
        len(complete), {"best_validation_accuracy": best.value or 0.0, "first_validation_accuracy": first}
    )
    parent.flush()
    parent.end("FINISHED")
    return BestRecipe(
        study=optuna_study.study_name,
        dataset_version=version.id,
        run_id=parent.id,
        trials=[_row(t) for t in sorted(all_trials, key=_rank)],
        first=first,
        best=best.value or 0.0,
        file=file if better else None,
    )


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    return trial.state != TrialState.COMPLETE, -(trial.value or 0.0)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    reported = trial.intermediate_values
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "accuracy": trial.value if trial.value is not None else max(reported.values(), default=None),
        "epochs": len(reported),
        "run_id": trial.user_attrs.get(_RUN),
        "settings": trial.params,
    }
