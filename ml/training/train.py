"""The train stage: a dataset version becomes a registered challenger."""

import hashlib
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ml.catalog import cycles
from ml.catalog.engine import advisory_lock
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.versions import DatasetVersion
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.settings import Settings
from ml.settings.training import MAX_SEED
from ml.training import due, export, quantise
from ml.training.data.feed import Progress
from ml.training.data.plan import Mode
from ml.training.data.training_data import TrainingData, gather
from ml.training.data.validate import validate_training_set
from ml.training.loop import checkpoint as checkpoints
from ml.training.loop import recipe as recipes
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.fit import FitResult, OnStep, compute_logits, fit
from ml.training.loop.placement import SINGLE_PROCESS, Placement
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from ml.training.tracking import card, track
from ml.training.tracking.lineage import code_version, environment
from ml.training.tracking.record import RunFiles, evaluate

_FIGURES: Final = ("samples", "accuracy_loss", "agreement", "speedup")
"""Fields of a reduced variant's report that are logged as metrics of the run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A challenger: its MLflow run and registered version."""

    run_id: str
    model_version: int


def train(
    ctx: Context,
    version_id: str,
    *,
    cycle_id: str,
    seed: int | None = None,
    epochs: int | None = None,
    mode: Mode = "auto",
    progress: Progress | None = None,
    place: Placement = SINGLE_PROCESS,
) -> TrainedModel:
    """Train on a dataset version, log the run, register the challenger and record it in the cycle.

    Idempotent: a cycle that already has a challenger returns it, and an interrupted training resumes from its last
    checkpoint; the interrupted MLflow run is marked as killed. In distributed training every process calls this,
    and all but the leader only compute.

    A dataset version that cannot be trained on finishes the cycle with the reason.

    Raises:
        ConflictError: the processes loaded different training data, or images of the version were erased meanwhile.
        InvalidInputError: the version breaks an expectation of `dataset.yml`, or has fewer than two classes with
            training samples; or the seed is out of range.
        NotFoundError: no dataset version has this id.
        UnavailableError: a server does not answer.
    """
    if seed is not None and not 0 <= seed <= MAX_SEED:
        due.stop_cycle(ctx, cycle_id, error := f"the seed {seed} is not between 0 and {MAX_SEED}")
        raise InvalidInputError(error)
    version = versions.get(ctx, version_id)
    if not place.is_leader:
        if place.broadcast(None) is None:
            _Training.prepare(ctx, version, cycle_id, mode, seed, epochs, place).fit(None)
        return place.broadcast(TrainedModel("", 0))
    # A second process that trains the same cycle waits, and then finds the model.
    log.info("cycle %s: waiting for its lock, in case another process trains it", cycle_id)
    with advisory_lock(ctx.engine, f"train {cycle_id}", may_be_lost=True):
        trained_model = place.broadcast(_finished(ctx, cycle_id, version.id))
        track.close_abandoned(
            ctx.tracking, ctx.settings.experiment, cycle_id, trained_model.run_id if trained_model else None
        )
        if trained_model is None:
            with cycles.stage(ctx.engine, cycle_id, "train"):
                training = _Training.prepare(ctx, version, cycle_id, mode, seed, epochs, place)
                trained_model = _run(ctx, training, progress)
            training.checkpoint.remove()
    try:
        ctx.registry.set_alias("challenger", trained_model.model_version)
    except NotFoundError as error:  # the gate can judge it all the same, the release will refuse it
        log.warning("the challenger has no alias: %s", error)
    cycles.record(
        ctx.engine,
        cycle_id,
        run_id=trained_model.run_id,
        model_version=trained_model.model_version,
        dataset_version=version.id,
    )
    return place.broadcast(trained_model)


@dataclass(frozen=True)
class _Training:
    """Everything that determines the weights, and the checkpoint."""

    material: TrainingData
    recipe: Recipe
    cycle_id: str
    code: str
    checkpoint: Checkpoint
    place: Placement

    @classmethod
    def prepare(
        cls,
        ctx: Context,
        version: DatasetVersion,
        cycle_id: str,
        mode: Mode,
        seed: int | None,
        epochs: int | None,
        place: Placement,
    ) -> "_Training":
        chosen_seed = ctx.settings.seed if seed is None else seed
        material, code = _material(ctx, version, cycle_id, mode, chosen_seed, place), code_version()
        recipe = _recipe(ctx.settings, material, epochs, chosen_seed)
        inputs = (cycle_id, code, vars(recipe), material.as_params(), version.id)
        identity = hashlib.sha256(repr(inputs).encode() + material.plan.chosen.tobytes()).hexdigest()
        if place.broadcast(identity) != identity:
            raise ConflictError("the processes of this training loaded different training data: start it again")
        checkpoint = checkpoints.open_checkpoint(ctx.settings, identity)
        return cls(material, recipe, cycle_id, code, checkpoint, place)

    def fit(self, progress: Progress | None, on_step: OnStep | None = None) -> FitResult:
        material = self.material
        return fit(
            material.network(self.recipe.seed),
            material.chosen,
            (material.validation.images, material.validation.labels),
            self.recipe,
            progress,
            on_step=on_step,
            warm=material.warm is not None,
            teacher=material.teacher() if self.recipe.distillation else None,
            shares=material.shares,
            checkpoint=self.checkpoint,
            place=self.place,
        )


def _material(
    ctx: Context, version: DatasetVersion, cycle_id: str, mode: Mode, seed: int, place: Placement
) -> TrainingData:
    try:
        if place.is_leader:
            validate_training_set(ctx, version)
        return gather(ctx, version, mode, seed)
    except InvalidInputError as error:
        due.stop_cycle(ctx, cycle_id, str(error))
        raise


def _finished(ctx: Context, cycle_id: str, version_id: str) -> TrainedModel | None:
    matching = ctx.registry.find(cycle=cycle_id, dataset_version=version_id)
    return TrainedModel(matching[0].run_id, matching[0].version) if matching else None


def _recipe(settings: Settings, material: TrainingData, epochs: int | None, seed: int) -> Recipe:
    return recipes.from_settings(
        settings,
        len(material.plan.chosen),
        material.size,
        material.channels,
        warm=material.warm is not None,
        epochs=epochs,
        seed=seed,
    )


def _run(ctx: Context, training: _Training, progress: Progress | None) -> TrainedModel:
    material, recipe, cycle_id = training.material, training.recipe, training.cycle_id
    code, version = training.code, material.version
    run = track.Run.start(ctx.tracking, ctx.settings.experiment, f"cycle {cycle_id}", _tags(training))

    def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        run.log_metrics(epoch, metrics)
        if progress:
            progress(epoch, epochs, metrics)

    with run.terminating(), tempfile.TemporaryDirectory() as folder:
        recipe_params = {f"recipe_{k}": v for k, v in vars(recipe).items()}
        run.log_inputs(ctx, version, material.as_params() | recipe_params)
        with run.system_metrics():
            fitted = training.fit(on_epoch, run.log_metrics)
        logits = compute_logits(fitted.network, material.validation.images)
        info = _export(material, fitted, logits, recipe, run.id, code, Path(folder))
        info = _add_reduced(run, ctx.settings, material, Path(folder)) or info
        record = RunFiles(material, recipe, fitted, info, evaluate(material, logits, info.temperature))
        run.log_metrics(0, _summary(record))
        loader.check_not_erased(ctx, version.id)  # the bundle's probes and the run's plots show images
        run.log_artifacts(record.write)
        history = material.plan.history
        model_tags = {"cycle": cycle_id, "refreshes": str(history.refreshes), "added": str(history.added)}
        description = card.short(record.card())
        model_version = ctx.registry.register(run.id, Path(folder), info, model_tags, description)
        run.set_tag("version", str(model_version))
        run.set_tag("mlflow.note.content", description)
    return TrainedModel(run.id, model_version)


def _tags(training: _Training) -> dict[str, str]:
    tags = {
        "cycle": training.cycle_id,
        "code_version": training.code,
        "dataset_version": training.material.version.id,
        "plan": training.material.plan.reason,
        "environment": bundle.digest(environment().encode())[:12],
    }
    revision = training.code.removesuffix("-dirty")
    return tags | ({} if revision.startswith("evergreen-") else {"mlflow.source.git.commit": revision})


def _summary(record: RunFiles) -> dict[str, float]:
    fitted, evaluation = record.fitted, record.evaluation
    best = {"best_epoch": fitted.best_epoch + 1.0, **fitted.best}
    calibrated = {"calibrated_loss": evaluation.loss, "calibration_error": evaluation.calibration_error}
    start = {f"start_{k}": v for k, v in fitted.start.items()}
    return start | {f"final_{k}": v for k, v in (best | calibrated).items()}


def _export(
    material: TrainingData, fitted: FitResult, logits: Tensor, recipe: Recipe, run_id: str, code: str, folder: Path
) -> BundleInfo:
    temperature = export.temperature(logits, material.validation.labels)
    confidence = torch.softmax(logits / temperature, 1).amax(1).numpy()
    counts = Counter(material.train.labels.tolist())
    info = BundleInfo(
        architecture=material.architecture,
        labels=material.version.classes,
        image_size=material.size,
        channels=material.channels,
        temperature=temperature,
        dataset_version=material.version.id,
        run_id=run_id,
        code_version=code,
        seed=recipe.seed,
        class_shares={c: counts[i] / len(material.train) for i, c in enumerate(material.version.classes)},
        confidence_deciles=tuple(round(float(q), 5) for q in np.quantile(confidence, np.arange(0.1, 1.0, 0.1))),
        files={},
    )
    export.export(fitted.network, info, material.validation.images, folder, material.chosen)
    return bundle.parse((folder / bundle.INFO).read_bytes())


def _add_reduced(run: track.Run, settings: Settings, material: TrainingData, folder: Path) -> BundleInfo | None:
    """Add INT8 and bf16 if enabled and accurate enough; return the bundle's new info, or None if disabled."""
    enabled = settings.reduced if settings.reduced is not None else material.architecture != networks.SMALL_CNN
    if not enabled:
        return None
    images, _ = material.chosen
    calibration = images[:: max(1, len(images) // quantise.CALIBRATION)][: quantise.CALIBRATION]
    judge = (material.validation.images, material.validation.labels)
    verdicts = quantise.add(folder, calibration, judge, settings.reduced_max_loss, settings.probe_tolerance)
    for variant in quantise.VARIANTS:
        verdict = verdicts.get(variant)
        figures = {f"{variant}_{name}": float(getattr(verdict.report, name)) for name in _FIGURES} if verdict else {}
        run.log_metrics(0, figures | {f"{variant}_kept": float(verdict is not None and verdict.accepted)})
    return bundle.parse((folder / bundle.INFO).read_bytes())
