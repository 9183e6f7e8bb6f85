"""The train stage: a dataset version becomes a registered challenger."""

import logging
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml import bundle
from ml.bundle import BundleInfo
from ml.catalog import cycles
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.datasets.versions import DatasetVersion
from ml.errors import InvalidInputError
from ml.settings import Settings
from ml.training import export, networks, plan, predecessor, track
from ml.training.fit import Fitted, Progress, Recipe, fit, logits_of
from ml.training.plan import Mode, Plan
from ml.training.predecessor import Predecessor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A challenger: its MLflow run and registered version."""

    run_id: str
    model_version: int


@dataclass(frozen=True)
class _Material:
    """Everything a fit needs, before it starts."""

    version: DatasetVersion
    before: Predecessor | None
    plan: Plan
    train: Split
    validation: Split
    size: int
    channels: int


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
        InvalidInputError: the version has fewer than two classes or no training sample.
        UnavailableError: a server does not answer.
    """
    version = versions.get(ctx, version_id)
    if (done := _finished(ctx, cycle_id, version.id)) is None:
        with cycles.stage(ctx.engine, cycle_id, "train"):
            chosen_seed = ctx.settings.seed if seed is None else seed
            material = _gather(ctx, version, mode, chosen_seed)
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


def _recipe(settings: Settings, material: _Material, epochs: int | None, seed: int) -> Recipe:
    return Recipe.within_budget(
        len(material.plan.chosen),
        material.size,
        epochs=epochs or settings.epochs,
        budget=settings.train_budget,
        patience=settings.patience,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
    )


def _run(ctx: Context, material: _Material, cycle_id: str, recipe: Recipe, progress: Progress | None) -> TrainedModel:
    client, version = ctx.registry.client, material.version
    tags = {"cycle": cycle_id, "code_version": code_version(), "dataset_version": version.id}
    run_id = track.begin(client, ctx.settings.experiment, f"cycle {cycle_id}", tags)
    try:
        track.log_inputs(client, run_id, version, _params(material, recipe))
        fitted = _fit(material, recipe, progress)
        with tempfile.TemporaryDirectory() as folder:
            info = _export(material, fitted, recipe, run_id, Path(folder))
            track.log_history(client, run_id, fitted.history)
            _log_pictures(ctx, run_id, material, fitted)
            model_version = ctx.registry.register(run_id, Path(folder), info, {"cycle": cycle_id})
        best = {"best_epoch": fitted.best_epoch + 1.0, **fitted.history[fitted.best_epoch]}
        track.log_summary(client, run_id, {f"final_{k}": v for k, v in best.items()}, {"version": str(model_version)})
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return TrainedModel(run_id, model_version)


def _gather(ctx: Context, version: DatasetVersion, mode: Mode, seed: int) -> _Material:
    before = predecessor.champion(ctx)
    size, channels = (before.info.image_size, before.info.channels) if before else loader.shape_of(ctx, version.id)
    train_split = loader.load(ctx, version.id, "train", size, channels)
    if len(np.unique(train_split.labels)) < 2:
        raise InvalidInputError(
            f"dataset version {version.id[:12]} has {len(train_split)} training samples of "
            f"{len(np.unique(train_split.labels))} classes; at least two are needed: upload more labelled images"
        )
    seen = set(versions.manifest(ctx, before.info.dataset_version).segments) if before else set()
    is_new = np.asarray([s not in seen for s in train_split.segment_ids])
    made = plan.make(mode, train_split.labels, is_new, before is not None, ctx.settings.replay_ratio, seed)
    log.info("plan: %s (%s), %d new and %d replayed samples", made.mode, made.reason, made.new, made.replayed)
    validation = loader.load(ctx, version.id, "validation", size, channels)
    return _Material(version, before, made, train_split, validation, size, channels)


def _fit(material: _Material, recipe: Recipe, progress: Progress | None) -> Fitted:
    classes = material.version.classes
    network = networks.seeded(material.channels, len(classes), recipe.seed)
    if material.before and material.plan.mode == "refresh":
        networks.carry_head(network, material.before.weights, material.before.info.labels, classes)
    chosen = material.plan.chosen
    train_part = (material.train.images[chosen], material.train.labels[chosen])
    # A handful of samples may leave validation empty; the training part then judges itself.
    judge = material.validation if len(material.validation) else material.train
    return fit(network, train_part, (judge.images, judge.labels), recipe, progress)


def _export(material: _Material, fitted: Fitted, recipe: Recipe, run_id: str, folder: Path) -> BundleInfo:
    validation = material.validation if len(material.validation) else material.train
    logits = logits_of(fitted.network, validation.images)
    heat = export.temperature(logits, validation.labels)
    confidence = torch.softmax(logits / heat, 1).amax(1).numpy()
    counts = Counter(material.train.labels.tolist())
    info = BundleInfo(
        architecture=networks.SMALL_CNN,
        labels=material.version.classes,
        image_size=material.size,
        channels=material.channels,
        temperature=heat,
        dataset_version=material.version.id,
        run_id=run_id,
        code_version=code_version(),
        seed=recipe.seed,
        class_shares={c: counts[i] / len(material.train) for i, c in enumerate(material.version.classes)},
        confidence_deciles=tuple(round(float(q), 5) for q in np.quantile(confidence, np.arange(0.1, 1.0, 0.1))),
        files={},
    )
    export.export(fitted.network, info, validation.images, folder)
    return bundle.parse((folder / bundle.INFO).read_bytes())


def _log_pictures(ctx: Context, run_id: str, material: _Material, fitted: Fitted) -> None:
    client = ctx.registry.client
    client.log_figure(run_id, track.curves(fitted.history), "plots/curves.png")
    if len(material.validation):
        answers = logits_of(fitted.network, material.validation.images).argmax(1).numpy()
        figure = track.confusion(material.validation.labels, answers, material.version.classes)
        client.log_figure(run_id, figure, "plots/confusion.png")


def _params(material: _Material, recipe: Recipe) -> dict[str, Any]:
    return {
        "architecture": networks.SMALL_CNN,
        "image_size": material.size,
        "channels": material.channels,
        "classes": len(material.version.classes),
        "training_samples": len(material.plan.chosen),
        "warm_start_from": material.before.version if material.before else "none",
        **{f"recipe_{k}": v for k, v in vars(recipe).items()},
        **material.plan.as_params(),
    }


def code_version() -> str:
    """The git revision of this code, or the package's version outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else f"evergreen-{package_version('evergreen')}"
