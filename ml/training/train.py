"""The train stage: a dataset version becomes a registered challenger."""

import logging
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml import bundle
from ml.bundle import BundleInfo
from ml.catalog import cycles
from ml.context import Context
from ml.datasets import versions
from ml.settings import Settings
from ml.training import export, figures, networks, quantise, track
from ml.training.fit import Fitted, Progress, Recipe, fit, logits_of
from ml.training.lineage import code_version
from ml.training.material import Material, gather
from ml.training.plan import Mode

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
) -> TrainedModel:
    """Train on a dataset version, log everything, register the challenger and note it in the cycle.

    A cycle that has its challenger already gets the same one back, so a killed task may simply run
    again; the run it left behind is marked as killed.

    Raises:
        InvalidInputError: the version has fewer than two classes with training samples.
        NotFoundError: no dataset version has this id.
        UnavailableError: a server does not answer.
    """
    version = versions.get(ctx, version_id)
    done = _finished(ctx, cycle_id, version.id)
    track.close_abandoned(ctx.registry, ctx.settings.experiment, cycle_id, done.run_id if done else None)
    if done is None:
        with cycles.stage(ctx.engine, cycle_id, "train"):
            chosen_seed = ctx.settings.seed if seed is None else seed
            material = gather(ctx, version, mode, chosen_seed)
            recipe = _recipe(ctx.settings, material, epochs, chosen_seed)
            done = _run(ctx, material, cycle_id, recipe, progress)
    ctx.registry.set_alias("challenger", done.model_version)
    cycles.record(
        ctx.engine, cycle_id, run_id=done.run_id, model_version=done.model_version, dataset_version=version.id
    )
    return done


def _finished(ctx: Context, cycle_id: str, version_id: str) -> TrainedModel | None:
    found = ctx.registry.find(f"tag.cycle = '{cycle_id}'")
    same = [v for v in found if v.tags.get("dataset_version") == version_id]
    return TrainedModel(same[0].run_id or "", int(same[0].version)) if same else None


def _recipe(settings: Settings, material: Material, epochs: int | None, seed: int) -> Recipe:
    return Recipe.within_budget(
        len(material.plan.chosen),
        material.size,
        # A warm start needs about half the way: as good on the hard second drops tried, for half the time.
        epochs=epochs or (max(1, settings.epochs // 2) if material.warm else settings.epochs),
        budget=settings.train_budget,
        patience=settings.patience,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
        flips=material.channels == 3 if settings.flips is None else settings.flips,
        threads=settings.train_threads,
    )


def _run(ctx: Context, material: Material, cycle_id: str, recipe: Recipe, progress: Progress | None) -> TrainedModel:
    code, version = code_version(), material.version
    tags = {"cycle": cycle_id, "code_version": code, "dataset_version": version.id, "plan": material.plan.reason}
    run = track.Run.begin(ctx.registry, ctx.settings.experiment, f"cycle {cycle_id}", tags)

    def told(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        run.metrics(epoch, metrics)
        if progress:
            progress(epoch, epochs, metrics)

    with run.ended(), tempfile.TemporaryDirectory() as folder:
        recipe_params = {f"recipe_{k}": v for k, v in vars(recipe).items()}
        run.inputs(version, material.as_params() | recipe_params)
        judge = material.judge
        network, judged = material.network(recipe.seed), (judge.images, judge.labels)
        fitted = fit(network, material.chosen, judged, recipe, told, warm=material.warm is not None)
        run.metrics(0, {f"start_{k}": v for k, v in fitted.start.items()})
        best = {"best_epoch": fitted.best_epoch + 1.0, **fitted.best}
        run.metrics(0, {f"final_{k}": v for k, v in best.items()})
        info = _export(run, ctx.settings, material, fitted, recipe, code, Path(folder))
        _log_figures(run, material, fitted)
        model_version = ctx.registry.register(run.id, Path(folder), info, {"cycle": cycle_id})
        run.tag("version", str(model_version))
    return TrainedModel(run.id, model_version)


def _export(
    run: track.Run, settings: Settings, material: Material, fitted: Fitted, recipe: Recipe, code: str, folder: Path
) -> BundleInfo:
    logits = logits_of(fitted.network, material.judge.images)
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
        run_id=run.id,
        code_version=code,
        seed=recipe.seed,
        class_shares={c: counts[i] / len(material.train) for i, c in enumerate(material.version.classes)},
        confidence_deciles=tuple(round(float(q), 5) for q in np.quantile(confidence, np.arange(0.1, 1.0, 0.1))),
        files={},
    )
    export.export(fitted.network, info, material.judge.images, folder)
    if settings.int8 or (settings.int8 is None and material.architecture != networks.SMALL_CNN):
        images, _ = material.chosen
        judge = (material.judge.images, material.judge.labels)
        report, kept = quantise.add(
            folder, images[:: max(1, len(images) // quantise.CALIBRATION)], judge, settings.int8_max_loss
        )
        run.metrics(0, {f"int8_{k}": float(v) for k, v in report} | {"int8_kept": float(kept)})
    return bundle.parse((folder / bundle.INFO).read_bytes())


def _log_figures(run: track.Run, material: Material, fitted: Fitted) -> None:
    run.figure(figures.curves(fitted.history), "plots/curves.png")
    if len(material.validation):
        answers = logits_of(fitted.network, material.validation.images).argmax(1).numpy()
        confusion = figures.confusion(material.validation.labels, answers, material.version.classes)
        run.figure(confusion, "plots/confusion.png")
