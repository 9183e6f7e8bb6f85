"""Label errors that people made (CIFAR-10N, Wei et al. 2022): what is found first, beside what cleanlab finds."""

import csv
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ml.label_checks import noise
from ml.label_checks.features import describe
from ml.label_checks.judge import MOST_STORED, Labelled, judge
from ml.label_checks.learner import Learner, probabilities, sharpness
from tests.bench.parts.pictures32 import fitted

_IMAGES: Final = 3000
_STORED: Final = MOST_STORED
_KINDS: Final = ("aggregate", "random1", "worse")
_QUESTIONS: Final = (20, 50, 100)


def figures(data: Path) -> dict[str, float]:
    """Share of the wrong labels among the first k questions, ours and cleanlab's from the same answers.

    Raises:
        SystemExit: the data is not there.
    """
    try:
        rows, features = _material(data)
    except FileNotFoundError as error:
        raise SystemExit(
            f"{error.filename} is not there: EVERGREEN_BENCH_DATA must hold label-errors and cifar10"
        ) from error
    names = sorted({row["clean"] for row in rows})
    clean = np.asarray([names.index(row["clean"]) for row in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    stored, drop = order[:_STORED], order[_STORED:]
    shares: dict[str, float] = {}
    for kind in _KINDS:
        given = np.asarray([names.index(row[kind]) for row in rows])
        wrong = given[drop] != clean[drop]
        keys = [str(i) for i in drop]
        judgement = judge(
            Labelled(features[drop], given[drop]), Labelled(features[stored], clean[stored]), names, keys, 0.2
        )
        theirs = _cleanlab(features, given, clean, stored, drop, len(names))
        for k in _QUESTIONS:
            ours = [s.position for s in judgement.suspects[:k]]
            shares[f"label errors, {kind}: found in the first {k}"] = float(wrong[ours].sum() / wrong.sum())
            shares[f"label errors, {kind}: found in the first {k}, cleanlab"] = float(
                wrong[theirs[:k]].sum() / wrong.sum()
            )
        shares[f"label errors, {kind}: wrong"] = float(wrong.mean())
        shares[f"label errors, {kind}: estimated"] = judgement.noise or 0.0
    return shares


def _cleanlab(features: Any, given: Any, clean: Any, stored: Any, drop: Any, classes: int) -> Any:
    """Positions in the drop that cleanlab names, from the same classifier's answers."""
    from cleanlab.filter import find_label_issues

    learner = Learner.fit(features[stored], clean[stored], classes)
    factor = sharpness(learner.held_out, clean[stored])
    answers = probabilities(learner.scores(features[drop]), factor)
    explained = noise.likelihoods(answers, learner.shares)
    return find_label_issues(given[drop], explained, return_indices_ranked_by="self_confidence", n_jobs=1)


def _material(data: Path) -> tuple[list[dict[str, str]], Any]:
    with gzip.open(data / "label-errors/cifar10n-train.csv.gz", "rt") as file:
        every = list(csv.DictReader(file))
    rows = [every[i] for i in np.linspace(0, len(every) - 1, _IMAGES).astype(int)]
    pictures = []
    with tarfile.open(data / "cifar10/train.tar") as archive:
        members = {m.name.removeprefix("./"): m for m in archive}
        for row in rows:
            file_of_row = archive.extractfile(members[row["file"]])
            if file_of_row is None:
                raise FileNotFoundError(row["file"])
            pictures.append(fitted(Image.open(io.BytesIO(file_of_row.read()))))
    return rows, describe(np.stack(pictures))
