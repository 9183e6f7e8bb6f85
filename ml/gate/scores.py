"""A model's answers on the holdout, kept by segment: a cycle scores only what it has not scored before."""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from ml import bundle, model
from ml.catalog.engine import transaction
from ml.catalog.tables import scores
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.errors import NotFoundError
from ml.model import Model

log = logging.getLogger(__name__)

_BATCH = 256


@dataclass(frozen=True)
class Answers:
    """`labels` are the answered labels, `probability` theirs, in the order of the holdout split."""

    labels: NDArray[np.str_]
    probability: NDArray[np.float32]


def load_model(ctx: Context, version: int) -> tuple[Model, Path]:
    """A registered version's model, fetched, verified and proven by its probes.

    Raises:
        IntegrityError: the bundle is broken.
    """
    place = ctx.registry.bundle(version)
    folder = ctx.settings.home / "bundles" / place.digest
    bundle.fetch(ctx.artifacts, place.prefix, place.digest, folder)
    settings = ctx.settings
    variant, runtime = settings.service_variant, settings.service_runtime
    return model.load_proven(folder, settings.probe_tolerance, 2, variant, runtime), folder


def score(ctx: Context, version: int, judge: Model, version_id: str) -> tuple[Split, Answers]:
    """The holdout of a dataset version at the model's own input size, and the model's answers on it."""
    size, channels = judge.info.image_size, judge.info.channels
    holdout = loader.load(ctx, version_id, "holdout", size, channels)
    known = _known(ctx, version)
    answers: dict[str, tuple[str, float]] = {}
    for segment in dict.fromkeys(holdout.segment_ids):
        answers |= _segment(ctx, version, judge, segment, known.get(segment))
    found = [answers[digest] for digest in holdout.sha256]
    # A model that was trained before a class was renamed still says the old name, and is right.
    names = versions.manifest(ctx, version_id).class_map
    labels = np.asarray([names.get(label, label) for label, _ in found], np.str_)
    return holdout, Answers(labels, np.asarray([p for _, p in found], np.float32))


def _known(ctx: Context, version: int) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        rows = connection.execute(
            select(scores.c.segment_id, scores.c.object_key).where(scores.c.model_version == version)
        )
        return dict(rows.all())


def _segment(ctx: Context, version: int, judge: Model, segment: str, key: str | None) -> dict[str, tuple[str, float]]:
    own = _key(ctx, version, judge, segment)
    if key == own and (kept := _kept(ctx, own)) is not None:
        return kept
    rows = loader.index(ctx, segment)
    positions = [i for i, r in enumerate(rows) if r["split"] == "holdout"]
    pixels = loader.pixels(ctx, segment, judge.info.image_size, judge.info.channels)
    chunks = [positions[i : i + _BATCH] for i in range(0, len(positions), _BATCH)]
    probabilities = np.concatenate([judge.predict(np.ascontiguousarray(pixels[c])) for c in chunks])
    labels = np.asarray(judge.info.labels, np.str_)[probabilities.argmax(1)]
    digests = np.asarray([rows[i]["sha256"] for i in positions], np.str_)
    _keep(ctx, own, {"model_version": version, "segment_id": segment}, (digests, labels, probabilities.max(1)))
    triples = zip(digests, labels, probabilities.max(1), strict=True)
    return {str(d): (str(label), float(p)) for d, label, p in triples}


def _kept(ctx: Context, key: str) -> dict[str, tuple[str, float]] | None:
    """Answers of before; None where they are lost, since they can be given anew."""
    try:
        with np.load(io.BytesIO(ctx.store.get(key)), allow_pickle=False) as stored:
            triples = zip(stored["sha256"], stored["label"], stored["probability"], strict=True)
            return {str(d): (str(label), float(p)) for d, label, p in triples}
    except (NotFoundError, BadZipFile, ValueError, KeyError, EOFError) as error:
        log.warning("%s is scored anew: %r", key, error)
        return None


def _key(ctx: Context, version: int, judge: Model, segment: str) -> str:
    """Where its answers are; variants and runtimes do not always answer alike."""
    return f"scores/{ctx.settings.model_name}/{version}-{judge.variant}-{judge.runtime.name}/{segment}.npz"


def _keep(
    ctx: Context,
    key: str,
    of: dict[str, Any],
    answers: tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float32]],
) -> None:
    buffer = io.BytesIO()
    digests, labels, probability = answers
    np.savez(buffer, sha256=digests, label=labels, probability=probability)
    ctx.store.put(key, buffer.getvalue())
    with transaction(ctx.engine) as connection:
        row = insert(scores).values(of | {"object_key": key})
        connection.execute(row.on_conflict_do_update(index_elements=list(of), set_={"object_key": key}))


def right(holdout: Split, answers: Answers) -> NDArray[np.bool_]:
    """Per sample, whether the answer is the label; a class the model never heard of is answered wrong."""
    truth = np.asarray(holdout.classes, np.str_)[holdout.labels]
    result: NDArray[np.bool_] = truth == answers.labels
    return result
