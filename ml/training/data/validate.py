"""Validates the training set of a dataset version against `expectations/dataset.yml` before training."""

import logging
from typing import Any

from sqlalchemy import func, select

from ml.catalog import validations
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks
from ml.context import Context
from ml.datasets import contents, versions
from ml.datasets.versions import DatasetVersion
from ml.errors import InvalidInputError
from ml.validation import data_docs, suites

log = logging.getLogger(__name__)


def validate_training_set(ctx: Context, version: DatasetVersion) -> None:
    """Validate the version, publish the data docs page and record the result.

    Raises:
        InvalidInputError: the version breaks an expectation, or the suite cannot be used.
    """
    row = figures(ctx, version)
    verdict = suites.validate(ctx.settings.expectations / "dataset.yml", suites.single_row_frame(row))
    page, failures = data_docs.key(version.id, "datasets"), verdict.messages
    if failures:
        outcome = ("bad", f"Not trained on: {'; '.join(failures)}")
    elif verdict.warnings:
        outcome = ("warn", f"Trained on, with a warning: {'; '.join(verdict.warnings)}")
    else:
        outcome = ("good", "The training set meets every expectation.")
    title = f"Dataset version {version.number}"
    data_docs.publish(ctx, page, data_docs.render(title, version.id, outcome, [("The training set", verdict)], row))
    validations.record(
        ctx.engine,
        "dataset",
        version.id,
        failures=failures,
        warnings=verdict.warnings,
        figures=row,
        report_key=page,
    )
    for message in verdict.warnings:
        log.warning("dataset version %s: %s", version.id[:12], message)
    if failures:
        where = data_docs.url(ctx.settings, page)
        raise InvalidInputError(f"dataset version {version.id[:12]} is not trained on: {'; '.join(failures)}; {where}")


def figures(ctx: Context, version: DatasetVersion) -> dict[str, Any]:
    """The row that `dataset.yml` is evaluated on.

    Returns:
        `train`, `validation`, `holdout`: samples. `classes`: those with training samples. `smallest_class`:
        its training samples. `largest_class_share` of the training samples. `holdout_share` of all samples.
        `growth`: training samples, as a multiple of those of the version before. `classes_lost`: classes of
        the version before that are gone and were not renamed or merged. `doubted_share`: open label tasks
        on samples, as a share of all samples.
    """
    by_class = {name: splits.get("train", 0) for name, splits in contents.counts(ctx, version.id).items()}
    trained = [count for count in by_class.values() if count]
    samples = version.train + version.validation + version.holdout
    parent = versions.get(ctx, version.parent_id) if version.parent_id else None
    return {
        "train": version.train,
        "validation": version.validation,
        "holdout": version.holdout,
        "classes": len(trained),
        "smallest_class": min(trained, default=None),
        "largest_class_share": max(trained) / sum(trained) if trained else None,
        "holdout_share": version.holdout / samples if samples else None,
        "growth": version.train / parent.train if parent and parent.train else None,
        "classes_lost": _lost(ctx, version, parent) if parent else None,
        "doubted_share": _doubted(ctx) / samples if samples else None,
    }


def _lost(ctx: Context, version: DatasetVersion, parent: DatasetVersion) -> int:
    renamed = versions.manifest(ctx, version.id).class_map
    return len({renamed.get(name, name) for name in parent.classes} - set(version.classes))


def _doubted(ctx: Context) -> int:
    about = (label_tasks.c.status == "open") & label_tasks.c.sha256.is_not(None)
    query = select(func.count(label_tasks.c.sha256.distinct())).where(about)
    with transaction(ctx.engine) as connection:
        return connection.execute(query).scalar_one()
