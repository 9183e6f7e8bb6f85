"""Looks for a better recipe: trials on a dataset version's training split, judged by its validation split."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

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
_BEAT: Final = 20

OnEpoch = Callable[[int, int, int, float], None]
"""Told trial, epoch, epochs and accuracy."""


@dataclass(frozen=True)
class BestRecipe:
    """What came of a search.

    Attributes:
        trials: number, state, accuracy, run and choices, the best first.
        first: accuracy with the settings as they were.
        file: the settings file with the best choices; None where nothing was better than the settings.
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
    beat: int = _BEAT,
) -> BestRecipe:
    """Work on a study until it has so many trials; begun anew, or by others at the same time, it goes on.

    The first trial is of the settings as they are. Each is a full training from fresh weights, an MLflow
    run below the study's; a trial that is worse than the median of the others at the same epoch is
    stopped. The holdout is not looked at.

    Args:
        version_id: None for the newest dataset version.
        trials: of the study in all, whoever does them; workers at work then finish theirs.
        epochs: at most so many a trial; None: as the settings have it.
        file: where the best choices go; `RECIPE_FILE` in the data folder by default, which every
            training of this host reads from then on.
        beat: seconds between signs of life; after three without one, a trial is given to another worker.

    Raises:
        InvalidInputError: the version has no validation samples, or fewer than two classes.
        NotFoundError: no such dataset version, or none at all.
        UnavailableError: a server does not answer.
    """
    study.quiet()
    version = _version(ctx, version_id)
    material = gather(ctx, version, "full", ctx.settings.seed)
    if not version.validation:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has no validation samples to judge recipes by: "
            "upload more labelled images"
        )
    named = name or f"{ctx.settings.model_name}-{version.id[:12]}"
    opened = study.opened(ctx, named, lambda made: _begin(ctx, made, version), lambda t: _left(ctx, t), beat)
    if (told := opened.user_attrs["dataset_version"]) != version.id:
        raise InvalidInputError(
            f"study `{named}` is of dataset version {told[:12]}, not {version.id[:12]}: name another"
        )
    worker = _Worker(ctx, material, opened.user_attrs[_PARENT], epochs, progress)
    while len(study.done(opened)) < trials:
        opened.optimize(worker.tried, n_trials=1)
    return _finished(ctx, opened, version, file or ctx.settings.home / RECIPE_FILE)


@dataclass(frozen=True)
class _Worker:
    ctx: Context
    material: TrainingData
    parent: str
    epochs: int | None
    progress: OnEpoch | None

    def tried(self, trial: Trial) -> float:
        """Accuracy on the validation split of the weights that the trial would keep."""
        ctx, material = self.ctx, self.material
        settings = space.asked(trial, ctx.settings)
        samples = len(material.plan.chosen)
        chosen = recipe.of(settings, samples, material.size, material.channels, epochs=self.epochs)
        tags = {
            "mlflow.parentRunId": self.parent,
            "dataset_version": material.version.id,
            "code_version": code_version(),
        }
        run = track.Run.begin(ctx.registry, ctx.settings.experiment, f"trial {trial.number}", tags)
        trial.set_user_attr(_RUN, run.id)
        best = -1.0

        def told(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
            nonlocal best
            best = max(best, metrics["validation_accuracy"])
            run.metrics(epoch, metrics)
            if self.progress:
                self.progress(trial.number, epoch, epochs, metrics["validation_accuracy"])
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        pruned = False
        with run.ended():
            recipe_params = {f"recipe_{k}": v for k, v in vars(chosen).items()}
            run.inputs(ctx, material.version, recipe_params | material.as_params())
            try:
                fitted = self._fit(chosen, told)
                run.metrics(0, {f"final_{k}": v for k, v in fitted.items()})
            except optuna.TrialPruned:
                pruned = True
            run.tag("pruned", str(pruned).lower())
        if pruned:
            raise optuna.TrialPruned
        return fitted["validation_accuracy"]

    def _fit(self, chosen: recipe.Recipe, told: Callable[[int, int, dict[str, float]], None]) -> dict[str, float]:
        material = self.material
        judge = (material.judge.images, material.judge.labels)
        network = material.network(chosen.seed)
        return fit(network, material.chosen, judge, chosen, told, shares=material.shares).best


def _version(ctx: Context, version_id: str | None) -> DatasetVersion:
    if version_id is not None:
        return versions.get(ctx, version_id)
    newest = versions.latest(ctx)
    if newest is None:
        raise NotFoundError("there is no dataset version yet: upload a drop first (`evergreen drop PATH`)")
    return newest


def _begin(ctx: Context, made: Study, version: DatasetVersion) -> None:
    """The run that trials lie below, and the settings as they are as the first trial."""
    tags = {"dataset_version": version.id, "code_version": code_version(), "study": made.study_name}
    run = track.Run.begin(ctx.registry, ctx.settings.experiment, f"tune {made.study_name}", tags)
    run.inputs(ctx, version, {"study": made.study_name})
    made.set_user_attr(_PARENT, run.id)
    made.set_user_attr("dataset_version", version.id)
    made.enqueue_trial(space.current(ctx.settings), user_attrs={"first": True})


def _left(ctx: Context, trial: FrozenTrial) -> None:
    """The run of a worker that died."""
    if (run_id := trial.user_attrs.get(_RUN)) is not None:
        track.Run(ctx.registry, run_id).end("KILLED")


def _finished(ctx: Context, opened: Study, version: DatasetVersion, file: Path) -> BestRecipe:
    every = opened.get_trials(deepcopy=False)
    complete = [t for t in every if t.state == TrialState.COMPLETE and t.value is not None]
    first = next((t.value for t in complete if t.user_attrs.get("first")), None) or 0.0
    best = opened.best_trial
    better = best.value is not None and best.value > first
    if better:
        source = f"study {opened.study_name} on dataset version {version.id[:12]}"
        words = (
            f"Best of {len(study.done(opened))} trials of {source}.\n"
            f"Accuracy on its validation split: {best.value:.4f}, with the settings before: {first:.4f}."
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.part")
        temporary.write_text(space.as_file(best.params, words))
        temporary.replace(file)
    parent = track.Run(ctx.registry, opened.user_attrs[_PARENT])
    for told, value in {"best_trial": best.number, **{f"best_{k}": v for k, v in best.params.items()}}.items():
        parent.tag(told, str(value))  # a tag, not a parameter: a longer search may find another
    parent.metrics(len(complete), {"best_validation_accuracy": best.value or 0.0, "first_validation_accuracy": first})
    parent.flush()
    parent.end("FINISHED")
    return BestRecipe(
        study=opened.study_name,
        dataset_version=version.id,
        run_id=parent.id,
        trials=[_row(t) for t in sorted(every, key=_rank)],
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
