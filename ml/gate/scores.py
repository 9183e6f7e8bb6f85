"""A model's predictions on the holdout, stored per segment so that each segment is scored only once."""

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import scores
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.errors import NotFoundError
from ml.gate import representatives
from ml.gate.statistics import Right
from ml.models import bundle, variants
from ml.models.model import Model

log = logging.getLogger(__name__)

_BATCH = 256


@dataclass(frozen=True)
class HoldoutPredictions:
    """A model's predictions, one per sample.

    Attributes:
        labels: the predicted labels, by the current class names, ``str[N]``.
        probability: of the predicted label, ``float32[N]``.
        brier: sum over the classes of the squared error of their probabilities, ``float32[N]``, 0 to 2.
    """

    labels: NDArray[np.str_]
    probability: NDArray[np.float32]
    brier: NDArray[np.float32]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, its bundle folder, and its predictions on `holdout`, loaded at the model's input size.

    Attributes:
        names: of the model's outputs, by the current class names, ``str[outputs]``.
        classes: the existing classes that it knows.
        holdout: one sample of each group of near copies, see `ml.gate.representatives`.
        right: whether each prediction is right, ``bool[N]``.
        samples: number of holdout samples with all near copies.
    """

    version: int
    model: Model
    folder: Path
    names: NDArray[np.str_]
    classes: frozenset[str]
    holdout: Split
    answers: HoldoutPredictions
    right: Right
    samples: int

    def on_labels(self, positions: NDArray[np.int64], labels: NDArray[np.int64]) -> Self:
        """The same predictions judged by other labels for some samples, whose images are answered again.

        Args:
            positions: of the samples, ``int64[K]``.
            labels: their labels, as positions in the holdout's classes, ``int64[K]``.
        """
        if not len(positions):
            return self
        all_labels, brier = self.holdout.labels.copy(), self.answers.brier.copy()
        all_labels[positions] = labels
        classes = np.asarray(self.holdout.classes, np.str_)
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            probabilities = self.model.predict(np.ascontiguousarray(self.holdout.images[part]))
            brier[part] = brier_scores(probabilities, self.names, classes[all_labels[part]])
        return replace(
            self,
            holdout=replace(self.holdout, labels=all_labels),
            answers=replace(self.answers, brier=brier),
            right=classes[all_labels] == self.answers.labels,
        )

    def among(self, classes: frozenset[str]) -> Self:
        """The same model on the samples of these classes, if it could answer nothing else.

        Its other outputs are left out and the rest sum to 1; samples of other classes keep their predictions. So two
        models are compared on the classes that both know: by all outputs, the one that learned a new class loses,
        since only it can mistake others for that.
        """
        kept = np.isin(self.names, sorted(classes))
        if kept.all() or not kept.any():
            return self
        # Not a field: a copy with other labels must not have it.
        known: dict[frozenset[str], Self] = vars(self).setdefault("_among", {})
        if classes not in known:
            known[classes] = self._answering_only(classes, kept)
        return known[classes]

    def _answering_only(self, classes: frozenset[str], kept: NDArray[np.bool_]) -> Self:
        positions = np.flatnonzero(np.isin(self.truth, sorted(classes)))
        labels, probability, brier = (a.copy() for a in vars(self.answers).values())
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            predicted = self.model.predict(np.ascontiguousarray(self.holdout.images[part]))
            probabilities = restricted(predicted, kept)
            labels[part] = self.names[kept][probabilities.argmax(1)]
            probability[part] = probabilities.max(1)
            brier[part] = brier_scores(probabilities, self.names[kept], self.truth[part])
        answers = HoldoutPredictions(labels, probability, brier)
        return replace(self, answers=answers, right=self.truth == labels)

    @cached_property
    def truth(self) -> NDArray[np.str_]:
        """The samples' labels, ``str[N]``."""
        return np.asarray(self.holdout.classes, np.str_)[self.holdout.labels]

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The predictions as positions in the holdout's classes, ``int64[N]``; −1 for other classes."""
        position = {name: i for i, name in enumerate(self.holdout.classes)}
        return np.asarray([position.get(label, -1) for label in self.answers.labels.tolist()], np.int64)


def load_model(ctx: Context, version: int) -> tuple[Model, Path]:
    """Fetch and load a registered version's model, verified by checksums and probes.

    Raises:
        IntegrityError: the bundle is broken.
    """
    place = ctx.registry.bundle(version)
    folder = bundle.cache_folder(ctx.settings.home) / place.digest
    bundle.fetch(ctx.artifacts, place.prefix, place.digest, folder)
    settings = ctx.settings
    variant, runtime = settings.service_variant, settings.service_runtime
    return variants.load_proven(folder, settings.probe_tolerance, 2, variant, runtime), folder


def evaluate(ctx: Context, version: int, loaded: tuple[Model, Path], dataset: str) -> EvaluatedModel:
    """Score a model, as `load_model` gives it, on the holdout of a dataset version, each group of near copies once.

    A model that was trained before a class was renamed still says the old name, and is right; a class that it never
    heard of it answers wrong.
    """
    judge, folder = loaded
    manifest = versions.manifest(ctx, dataset)
    names = np.asarray([manifest.class_map.get(label, label) for label in judge.info.labels], np.str_)
    holdout = loader.load(ctx, dataset, "holdout", judge.info.image_size, judge.info.channels)
    truth = np.asarray(holdout.classes, np.str_)[holdout.labels]
    answers = _answers(ctx, _Scored(version, judge, names), holdout, truth)
    classes = frozenset(names.tolist()) & set(manifest.classes)
    chosen = representatives.positions(ctx, holdout)
    once = HoldoutPredictions(answers.labels[chosen], answers.probability[chosen], answers.brier[chosen])
    right = truth[chosen] == once.labels
    return EvaluatedModel(
        version, judge, folder, names, classes, holdout.take(chosen), once, right, samples=len(holdout)
    )


@dataclass(frozen=True)
class _Scored:
    """A model and the present names of its outputs, ``str[outputs]``; merged classes occur more than once."""

    version: int
    model: Model
    names: NDArray[np.str_]

    def key(self, ctx: Context, segment: str) -> str:
        """Where its answers are; variants and runtimes do not always answer alike."""
        variant = f"{self.version}-{self.model.variant}-{self.model.runtime.name}"
        return f"scores/{ctx.settings.model_name}/{variant}/{segment}.npz"


@dataclass(frozen=True)
class _StoredScores:
    """The stored scores of a segment's holdout samples; arrays in the same order.

    Attributes:
        names: of the model's outputs at scoring time.
        truth: the labels at scoring time, on which `brier` depends.
    """

    names: NDArray[np.str_]
    sha256: NDArray[np.str_]
    truth: NDArray[np.str_]
    label: NDArray[np.str_]
    probability: NDArray[np.float32]
    brier: NDArray[np.float32]

    def fits(self, scored: _Scored, truth: Mapping[str, str]) -> bool:
        """Whether class names and labels are unchanged since scoring."""
        if not np.array_equal(self.names, scored.names):
            return False
        stored_labels = zip(self.sha256.tolist(), self.truth.tolist(), strict=True)
        return all(truth.get(digest, label) == label for digest, label in stored_labels)


def _answers(ctx: Context, scored: _Scored, holdout: Split, truth: NDArray[np.str_]) -> HoldoutPredictions:
    stored, labels = _stored_keys(ctx, scored.version), dict(zip(holdout.sha256, truth.tolist(), strict=True))
    parts = [_segment(ctx, scored, s, stored.get(s), labels) for s in dict.fromkeys(holdout.segment_ids)]
    if not parts:
        return HoldoutPredictions(np.empty(0, np.str_), np.empty(0, np.float32), np.empty(0, np.float32))
    position = {digest: i for i, digest in enumerate(np.concatenate([p.sha256 for p in parts]).tolist())}
    order = np.asarray([position[digest] for digest in holdout.sha256], np.int64)
    columns = (np.concatenate([getattr(p, name) for p in parts])[order] for name in ("label", "probability", "brier"))
    return HoldoutPredictions(*columns)


def _stored_keys(ctx: Context, version: int) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        rows = connection.execute(
            select(scores.c.segment_id, scores.c.object_key).where(scores.c.model_version == version)
        )
        return dict(rows.all())


def _segment(
    ctx: Context, scored: _Scored, segment: str, stored: str | None, truth: Mapping[str, str]
) -> _StoredScores:
    key = scored.key(ctx, segment)
    if stored == key and (stored_scores := _read_scores(ctx, key)) is not None and stored_scores.fits(scored, truth):
        return stored_scores
    info = scored.model.info
    rows = loader.index(ctx, segment)
    positions = [i for i, r in enumerate(rows) if r["split"] == "holdout"]
    pixels = loader.pixels(ctx, segment, info.image_size, info.channels)
    chunks = [positions[i : i + _BATCH] for i in range(0, len(positions), _BATCH)]
    probabilities = np.concatenate([scored.model.predict(np.ascontiguousarray(pixels[c])) for c in chunks])
    digests = np.asarray([rows[i]["sha256"] for i in positions], np.str_)
    labels = np.asarray([truth.get(d, rows[i]["label"]) for d, i in zip(digests, positions, strict=True)], np.str_)
    answered, brier = scored.names[probabilities.argmax(1)], brier_scores(probabilities, scored.names, labels)
    segment_scores = _StoredScores(scored.names, digests, labels, answered, probabilities.max(1), brier)
    _write_scores(ctx, key, scored.version, segment, segment_scores)
    return segment_scores


def restricted(probabilities: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``float32[N, kept]`` of ``float32[N, outputs]``: the outputs that are kept, so that they sum to 1."""
    chosen = np.maximum(probabilities[:, kept], np.finfo(np.float32).tiny)
    shares: NDArray[np.float32] = (chosen / chosen.sum(1, keepdims=True)).astype(np.float32)
    return shares


def brier_scores(
    probabilities: NDArray[np.float32], names: NDArray[np.str_], truth: NDArray[np.str_]
) -> NDArray[np.float32]:
    """``float32[N]`` of ``float32[N, outputs]``; equal names are one class; an unknown label matches none.

    Source: Brier, Mon. Weather Rev. 78 (1950).
    """
    classes, output = np.unique(names, return_inverse=True)
    merged = np.zeros((len(probabilities), len(classes)), np.float64)
    np.add.at(merged.T, output, probabilities.T)
    has_class = np.isin(truth, classes)
    label_probability = np.zeros(len(truth))
    label_probability[has_class] = merged[has_class, np.searchsorted(classes, truth[has_class])]
    result: NDArray[np.float32] = ((merged**2).sum(1) - 2 * label_probability + 1).astype(np.float32)
    return result


def _read_scores(ctx: Context, key: str) -> _StoredScores | None:
    """Read stored scores; None if they are missing or unreadable, since they can be computed again."""
    try:
        with np.load(io.BytesIO(ctx.store.get(key)), allow_pickle=False) as stored:
            return _StoredScores(**{name: stored[name] for name in _StoredScores.__dataclass_fields__})
    except (NotFoundError, BadZipFile, ValueError, KeyError, EOFError) as error:
        log.warning("scores %s cannot be read and are computed again: %r", key, error)
        return None


def _write_scores(ctx: Context, key: str, version: int, segment: str, segment_scores: _StoredScores) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **vars(segment_scores))
    ctx.store.put(key, buffer.getvalue())
    key_columns = {"model_version": version, "segment_id": segment}
    with transaction(ctx.engine) as connection:
        row = insert(scores).values(key_columns | {"object_key": key})
        connection.execute(row.on_conflict_do_update(index_elements=list(key_columns), set_={"object_key": key}))
