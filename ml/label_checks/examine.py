"""Everything that is looked for in the labels of a drop, from its rows and encoded images to a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.context import Context
from ml.imaging.images import Pixels
from ml.intake.findings import Finding
from ml.label_checks import backdoors, feature_cache, features, leaks, report, stored_samples
from ml.label_checks.features import Floats
from ml.label_checks.judge import Judgement, Labelled, judge
from ml.label_checks.leaks import FileFacts
from ml.label_checks.report import LabelReport, SuspectImage
from ml.label_checks.stored_samples import StoredSamples


@dataclass(frozen=True)
class Examined:
    """The part of a drop that is looked at.

    Attributes:
        images: how many usable images the drop has.
        rows: of the images looked at: `key`, `sha256`, `label`, `bytes`, `format`, `width`, `height`, `grey`.
        encoded: their files.
    """

    drop_id: str
    images: int
    rows: Sequence[dict[str, Any]]
    encoded: Sequence[bytes]


def examine(ctx: Context, drop: Examined, *, with_stored: bool = True) -> LabelReport:
    """Look at a drop's labels.

    Args:
        with_stored: compare with the stored samples; False where they cannot be reached.

    Raises:
        NotFoundError: a stored segment is missing.
        IntegrityError: a stored segment is damaged.
        UnavailableError: a server does not answer.
    """
    if not drop.rows:
        return LabelReport(drop.drop_id, drop.images, 0, report.figures(Judgement("nothing", 0)), (), (), ())
    labels, keys = [row["label"] for row in drop.rows], [row["key"] for row in drop.rows]
    pixels = features.decode(ctx, drop.encoded)
    described, stored = _features(ctx, drop, pixels, with_stored=with_stored)
    names = sorted({*labels, *stored.labels})
    given = _class_ids(labels, names)
    known = Labelled(stored.features, _class_ids(stored.labels, names))
    judgement = judge(Labelled(described, given), known, names, keys, ctx.settings.label_noise)
    findings: tuple[Finding, ...] = judgement.findings
    if judgement.evidence is not None:
        seen = judgement.evidence.positions
        seen_keys = [keys[i] for i in seen]
        findings += backdoors.find(pixels[seen], judgement.evidence.explained, given[seen], names, seen_keys)
    findings += leaks.find([_facts(*one) for one in zip(drop.rows, drop.encoded, pixels, strict=True)], labels)
    findings += leaks.one_class_a_drop(labels, stored.by_drop)
    return LabelReport(
        drop.drop_id,
        drop.images,
        len(drop.rows),
        report.figures(judgement),
        judgement.moved,
        tuple(_suspect(drop.rows[s.position], s.likely, s.probability) for s in judgement.suspects),
        findings,
    )


def _features(ctx: Context, drop: Examined, pixels: Pixels, *, with_stored: bool) -> tuple[Floats, StoredSamples]:
    """Features of the drop's images, and the stored samples."""
    if not with_stored:
        return features.describe(pixels), StoredSamples(np.zeros((0, features.size()), np.float32), (), {})
    cache = feature_cache.of_host(ctx)
    hashes = [row["sha256"] for row in drop.rows]
    described = cache.described(hashes, lambda chosen: features.describe(pixels[chosen]))
    labels = {row["label"] for row in drop.rows}
    return described, stored_samples.read(ctx, cache, labels, features.size())


def _class_ids(labels: Sequence[str], names: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    number = {name: i for i, name in enumerate(names)}
    return np.asarray([number[label] for label in labels], np.int64)


def _suspect(row: dict[str, Any], likely: str, probability: float) -> SuspectImage:
    return SuspectImage(row["key"], row["sha256"], row["label"], likely, probability)


def _facts(row: dict[str, Any], data: bytes, pixels: Pixels) -> FileFacts:
    spread, level = leaks.border_of(pixels)
    return FileFacts(
        key=row["key"],
        format=row["format"],
        width=row["width"],
        height=row["height"],
        grey=bool(row["grey"]),
        bits_per_pixel=8 * len(data) / max(row["width"] * row["height"], 1),
        quality=leaks.quality_of(data),
        border=spread,
        border_level=level,
    )
