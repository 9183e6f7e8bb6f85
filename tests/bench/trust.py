"""Labels that can be trusted: poisoned drops against clean and drifted ones, judged as intake judges them.

A drop is judged against 1,500 stored samples (597 of the breeds) of Fashion-MNIST, CIFAR-10, cats and dogs, cat
breeds; all pictures at 32 pixels. `poison_caught` is the share of poisoned drops that are held or named: labels
shuffled (40 to 100 %), wrong at random (30, 60 %), one class renamed (a fifth of the drop, or a drop of that class),
a patch of 3 pixels in a corner of 5 % that bear one class. `clean_kept`: drops of 50 to 5,000 images with right labels,
balanced and not, that are not held. `drift_kept`: the same of PACS in each order of two domains, and of CIFAR-10 under
noise, blur, contrast and JPEG at three strengths. `suspects_precision_50`: of the first 50 suspects at 10 % noise,
those truly wrong. `noise_error`: the mean distance of the estimated noise from the true one, in points.

`label errors`: of real ones (CIFAR-10N), the share found among the first k questions, beside what cleanlab finds from
the same answers. `judge seconds` are of a processor, for 1,000 images with their features known.

EVERGREEN_BENCH_DATA names the folder of the data sets, EVERGREEN_BENCH_SEEDS how many seeds (3).
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.label_checks import backdoors
from ml.label_checks.features import describe
from ml.label_checks.judge import MOST_STORED, Judgement, Labelled, judge
from tests.bench.parts import human_errors, poison
from tests.bench.parts.pictures32 import Pictures, load
from tests.bench.report import Bar, spread

DATA: Final = Path(os.environ.get("EVERGREEN_BENCH_DATA", "../shared/data"))
SEEDS: Final = int(os.environ.get("EVERGREEN_BENCH_SEEDS", "3"))
SETS: Final = ("fashion-mnist", "cifar10", "cats-dogs", "cat-breeds")
DOMAINS: Final = ("photo", "art_painting", "cartoon")
LIMIT: Final = 0.2
_STORED: Final = MOST_STORED
_SIZES: Final = (50, 150, 500, 1000, 5000)
_POISONED_SIZES: Final = (300, 1000)
_NAMED: Final = frozenset(
    {"relabelled_class", "label_noise", "shuffled_labels", "backdoor", "unlearnable_labels", "exchanged_classes"}
)
BARS: Final = {
    "poison_caught": Bar("at least", 0.95),
    "clean_kept": Bar("at least", 0.97),
    "drift_kept": Bar("at least", 0.95),
    "suspects_precision_50": Bar("at least", 0.8),
    "noise_error": Bar("at most", 5),
}

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Material:
    """A data set split by a seed into stored samples and those that drops are drawn from."""

    pictures: Pictures
    stored: Ids
    others: Ids
    classes: int

    @property
    def reference(self) -> Labelled:
        return Labelled(self.pictures.features[self.stored], self.pictures.labels[self.stored])


def run() -> dict[str, Any]:
    """The figures by their names in the module's docstring, each over all data sets and of each alone."""
    readings: dict[str, list[float]] = defaultdict(list)
    for name in SETS:
        pictures = load(DATA, name)
        for seed in range(SEEDS):
            generator = np.random.default_rng([seed, SETS.index(name)])
            order = generator.permutation(len(pictures.labels))
            stored = min(_STORED, len(order) * 3 // 5)
            material = _Material(pictures, order[:stored], order[stored:], int(pictures.labels.max()) + 1)
            for figure, kind, value in [
                *_poisoned(material, generator),
                *_clean(material, generator),
                *_suspects(material, generator),
            ]:
                for label in (figure, f"{figure}: {name}", f"{figure}: {kind}"):
                    readings[label].append(value)
    for kind, kept in _drifted():
        readings["drift_kept"].append(kept)
        readings[f"drift_kept: {kind}"].append(kept)
    figures: dict[str, Any] = {label: float(np.mean(values)) for label, values in sorted(readings.items())}
    figures |= human_errors.figures(DATA) | {"judge seconds": spread(_seconds())}
    return {"runs": SEEDS, "figures": figures, "bars": BARS}


def _judge(material: _Material, rows: Ids, given: Ids, images: NDArray[np.uint8] | None = None) -> Judgement:
    features = material.pictures.features[rows] if images is None else describe(images)
    names = [f"class {i}" for i in range(material.classes)]
    return judge(Labelled(features, given), material.reference, names, [str(i) for i in range(len(rows))], LIMIT)


def _poisoned(material: _Material, generator: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    labels = material.pictures.labels
    for kind, rows, given in poison.drops(labels, material.others, material.classes, generator, _POISONED_SIZES):
        judgement = _judge(material, rows, given)
        yield "poison_caught", kind, float(any(f.kind in _NAMED for f in judgement.findings))
        if kind.startswith(("noise", "shuffled")) and judgement.basis == "stored" and judgement.noise is not None:
            yield "noise_error", kind, 100 * abs(judgement.noise - float((given != labels[rows]).mean()))
    for rows, given, images in poison.patched(material.pictures, material.others, material.classes, generator):
        judgement = _judge(material, rows, given, images)
        evidence = judgement.evidence
        findings = judgement.findings
        if evidence is not None:
            seen = evidence.positions
            names, keys = [str(i) for i in range(material.classes)], [str(i) for i in seen]
            findings += backdoors.find(images[seen], evidence.explained, given[seen], names, keys)
        yield "poison_caught", "patch", float(any(f.kind in _NAMED for f in findings))


def _clean(material: _Material, generator: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    labels = material.pictures.labels
    for size in _SIZES:
        for kind, rows in poison.clean(labels, material.others, generator, size):
            judgement = _judge(material, rows, labels[rows])
            evidence = judgement.evidence
            findings = judgement.findings
            if evidence is not None:
                seen = evidence.positions
                names, keys = [str(i) for i in range(material.classes)], [str(i) for i in seen]
                given = labels[rows][seen]
                findings += backdoors.find(material.pictures.images[rows][seen], evidence.explained, given, names, keys)
            yield "clean_kept", f"{kind}, {size} images", float(not any(f.holds for f in findings))
            if judgement.basis == "stored" and judgement.noise is not None and size >= min(_POISONED_SIZES):
                yield "noise_error", "clean", 100 * judgement.noise


def _suspects(material: _Material, generator: np.random.Generator) -> Iterator[tuple[str, str, float]]:
    labels = material.pictures.labels
    rows = material.others[:2500]
    given = poison.flipped(labels[rows], material.classes, 0.1, generator)
    judgement = _judge(material, rows, given)
    first = [s.position for s in judgement.suspects[:50]]
    if first:
        yield "suspects_precision_50", "noise 10 %", float((given != labels[rows])[first].mean())
    if judgement.noise is not None:
        yield "noise_error", "noise 10 %", 100 * abs(judgement.noise - float((given != labels[rows]).mean()))


def _drifted() -> Iterator[tuple[str, float]]:
    """Whether drops with right labels of other domains and of corrupted pictures go on."""
    domains = {name: load(DATA, f"pacs-{name}") for name in DOMAINS}
    for before, first in domains.items():
        for after, second in domains.items():
            if before != after:
                everything = np.arange(len(first.labels))
                material = _Material(first, everything, everything[:0], 7)
                reference = material.reference
                drop = Labelled(second.features, second.labels)
                names, keys = [str(i) for i in range(7)], [str(i) for i in range(len(drop))]
                findings = judge(drop, reference, names, keys, LIMIT).findings
                yield f"{before}, then {after}", float(not any(f.holds for f in findings))
    pictures = load(DATA, "cifar10")
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(pictures.labels))
        material = _Material(pictures, order[:_STORED], order[_STORED:], 10)
        rows = material.others[:1000]
        for kind, images in poison.corrupted(pictures.images[rows], seed):
            findings = _judge(material, rows, pictures.labels[rows], images).findings
            yield kind, float(not any(f.holds for f in findings))


def _seconds() -> list[float]:
    pictures = load(DATA, "cifar10")
    material = _Material(pictures, np.arange(_STORED), np.arange(_STORED, _STORED + 1000), 10)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        _judge(material, material.others, pictures.labels[material.others])
        seconds.append(time.process_time() - started)
    return seconds
