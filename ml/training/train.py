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
from ml.context import Context
from ml.datasets import versions
from ml.datasets.versions import DatasetVersion
from ml.errors import ConflictError, InvalidInputError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.settings import Settings
from ml.training import due, export, quantise
from ml.training.data.feed import Progress
from ml.training.data.plan import Mode
from ml.training.data.training_data import TrainingData, gather
from ml.training.data.validate import judge
from ml.training.loop import checkpoint as checkpoints
from ml.training.loop import recipe as recipes
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.fit import Fitted, Stepped, fit, logits_of
from ml.training.loop.placement import ALONE, Placement
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from ml.training.tracking import card, track
from ml.training.tracking.lineage import code_version, environment
from ml.training.tracking.record import RunFiles, evaluated

_FIGURES: Final = ("samples", "accuracy_loss", "agreement", "speedup")
"""Of a reduced variant, as metrics of the run."""

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
    place: Placement = ALONE,
) -> TrainedModel:
    """Train on a dataset version, log everything, register the challenger and note it in the cycle.

    A cycle that has its challenger already gets the same one back, and one that was killed goes on
    from its last checkpoint, so a killed task may simply run again; the run it left behind is marked
    as killed. Of processes that train together every one calls this; all but the leader only compute.

    A dataset version that cannot be trained on ends the cycle, with the reason.

    Raises:
        ConflictError: the processes gathered different material.
        InvalidInputError: the version breaks an expectation of `dataset.yml`, or has fewer than two classes with
            training samples.
        NotFoundError: no dataset version has this id.
        UnavailableError: a server does not answer.
    """
    version = versions.get(ctx, version_id)
    done = place.told(_finished(ctx, cycle_id, version.id) if place.leads else None)
    if not place.leads:
        if done is None:
            _Training.prepare(ctx, version, cycle_id, mode, seed, epochs, place).fit(None)
        return place.told(TrainedModel("", 0))
    track.close_abandoned(ctx.registry, ctx.settings.experiment, cycle_id, done.run_id if done else None)
    if done is None:
        with cycles.stage(ctx.engine, cycle_id, "train"):
            training = _Training.prepare(ctx, version, cycle_id, mode, seed, epochs, place)
            done = _run(ctx, training, progress)
        training.checkpoint.remove()
    ctx.registry.set_alias("challenger", done.model_version)
    cycles.record(
        ctx.engine, cycle_id, run_id=done.run_id, model_version=done.model_version, dataset_version=version.id
    )
    return place.told(done)


@dataclass(frozen=True)
class _Training:
    """All that determines the weights, and where it stands on disk."""

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
        told = (cycle_id, code, vars(recipe), material.as_params(), version.id)
        identity = hashlib.sha256(repr(told).encode() + material.plan.chosen.tobytes()).hexdigest()
        if place.told(identity) != identity:
            raise ConflictError("the processes of this training gathered different material: start it again")
        checkpoint = checkpoints.of(ctx.settings, identity)
        return cls(material, recipe, cycle_id, code, checkpoint, place)

    def fit(self, progress: Progress | None, stepped: Stepped | None = None) -> Fitted:
        material = self.material
        return fit(
            material.network(self.recipe.seed),
            material.chosen,
            (material.judge.images, material.judge.labels),
            self.recipe,
            progress,
            stepped=stepped,
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
        if place.leads:
            judge(ctx, version)
        return gather(ctx, version, mode, seed)
    except InvalidInputError as error:
        due.give_up(ctx, cycle_id, str(error))
        raise


def _finished(ctx: Context, cycle_id: str, version_id: str) -> TrainedModel | None:
    found = ctx.registry.find(f"tag.cycle = '{cycle_id}'")
    same = [v for v in found if v.tags.get("dataset_version") == version_id]
    return TrainedModel(same[0].run_id or "", int(same[0].version)) if same else None


def _recipe(settings: Settings, material: TrainingData, epochs: int | None, seed: int) -> Recipe:
    return recipes.of(
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
    run = track.Run.begin(ctx.registry, ctx.settings.experiment, f"cycle {cycle_id}", _tags(training))

    def told(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        run.metrics(epoch, metrics)
        if progress:
            progress(epoch, epochs, metrics)

    with run.ended(), tempfile.TemporaryDirectory() as folder:
        recipe_params = {f"recipe_{k}": v for k, v in vars(recipe).items()}
        run.inputs(ctx, version, material.as_params() | recipe_params)
        with run.watched():
            fitted = training.fit(told, run.metrics)
        logits = logits_of(fitted.network, material.judge.images)
        info = _export(material, fitted, logits, recipe, run.id, code, Path(folder))
        info = _add_reduced(run, ctx.settings, material, Path(folder)) or info
        record = RunFiles(material, recipe, fitted, info, evaluated(material, logits, info.temperature))
        run.metrics(0, _summary(record))
        run.artifacts(record.write)
        past = material.plan.past
        told_of = {"cycle": cycle_id, "refreshes": str(past.refreshes), "added": str(past.added)}
        description = card.short(record.card())
        model_version = ctx.registry.register(run.id, Path(folder), info, told_of, description)
        run.tag("version", str(model_version))
        run.tag("mlflow.note.content", description)
    return TrainedModel(run.id, model_version)


def _tags(training: _Training) -> dict[str, str]:
    told = {
        "cycle": training.cycle_id,
        "code_version": training.code,
        "dataset_version": training.material.version.id,
        "plan": training.material.plan.reason,
        "environment": bundle.digest(environment().encode())[:12],
    }
    revision = training.code.removesuffix("-dirty")
    return told | ({} if revision.startswith("evergreen-") else {"mlflow.source.git.commit": revision})


def _summary(record: RunFiles) -> dict[str, float]:
    fitted, told = record.fitted, record.told
    best = {"best_epoch": fitted.best_epoch + 1.0, **fitted.best}
    calibrated = {"calibrated_loss": told.loss, "calibration_error": told.calibration_error}
    start = {f"start_{k}": v for k, v in fitted.start.items()}
    return start | {f"final_{k}": v for k, v in (best | calibrated).items()}


def _export(
    material: TrainingData, fitted: Fitted, logits: Tensor, recipe: Recipe, run_id: str, code: str, folder: Path
) -> BundleInfo:
    heat = export.temperature(logits, material.judge.labels)
    confidence = torch.softmax(logits / heat, 1).amax(1).numpy()
    counts = Counter(material.train.labels.tolist())
    info = BundleInfo(
        architecture=material.architecture,
        labels=material.version.classes,
        image_size=material.size,
        channels=material.channels,
        temperature=heat,
        dataset_version=material.version.id,
        run_id=run_id,
        code_version=code,
        seed=recipe.seed,
        class_shares={c: counts[i] / len(material.train) for i, c in enumerate(material.version.classes)},
        confidence_deciles=tuple(round(float(q), 5) for q in np.quantile(confidence, np.arange(0.1, 1.0, 0.1))),
        files={},
    )
    export.export(fitted.network, info, material.judge.images, folder, material.chosen)
    return bundle.parse((folder / bundle.INFO).read_bytes())


def _add_reduced(run: track.Run, settings: Settings, material: TrainingData, folder: Path) -> BundleInfo | None:
    """The bundle's info with INT8 and bf16, if they are wanted and good enough."""
    wanted = settings.reduced if settings.reduced is not None else material.architecture != networks.SMALL_CNN
    if not wanted:
        return None
    images, _ = material.chosen
    calibration = images[:: max(1, len(images) // quantise.CALIBRATION)][: quantise.CALIBRATION]
    judge = (material.judge.images, material.judge.labels)
    verdicts = quantise.add(folder, calibration, judge, settings.reduced_max_loss, settings.probe_tolerance)
    for variant in quantise.VARIANTS:
        verdict = verdicts.get(variant)
        found = {f"{variant}_{name}": float(getattr(verdict.report, name)) for name in _FIGURES} if verdict else {}
        run.metrics(0, found | {f"{variant}_kept": float(verdict is not None and verdict.kept)})
    return bundle.parse((folder / bundle.INFO).read_bytes())
