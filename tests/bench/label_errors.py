"""Suspected label errors against the wrong labels that people really gave (CIFAR-10N, Wei et al. 2022).

20,000 images of CIFAR-10's training set with human labels, the images dealt evenly over the classes;
`ml.training.label_errors.find_suspects` names the doubtful ones, which are then compared with the clean labels.
`precision` is the share of the named that are wrong, `recall` the share of the wrong that are named,
`precision of the first 200` that of those a person would be asked first.
"""

import csv
import gzip
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.settings import Settings
from ml.training import label_errors
from tests.bench.report import spread

IMAGES = 20_000
KINDS = ("aggregate", "random1", "worse")
SHARED = Path("../shared/data")


def run() -> dict[str, Any]:
    """Precision and recall for three kinds of human labels."""
    images, rows = _material()
    figures: dict[str, Any] = {}
    for kind in KINDS:
        names = sorted({r["clean"] for r in rows})
        given = np.asarray([names.index(r[kind]) for r in rows])
        clean = np.asarray([names.index(r["clean"]) for r in rows])
        started = time.perf_counter()
        suspects = label_errors.find_suspects(images, given, Settings())
        seconds = time.perf_counter() - started
        wrong = given != clean
        accuracy = float((suspects.probabilities.argmax(1) == clean).mean())
        figures |= _figures(kind, wrong, suspects.positions) | {
            f"{kind}: accuracy of the networks": spread([accuracy]),
            f"{kind}: seconds": spread([seconds]),
        }
    return {"runs": 1, "figures": figures}


def _figures(kind: str, wrong: NDArray[np.bool_], named: NDArray[np.int64]) -> dict[str, Any]:
    return {
        f"{kind}: wrong labels": spread([float(wrong.mean())]),
        f"{kind}: precision": spread([float(wrong[named].mean())]),
        f"{kind}: recall": spread([float(wrong[named].sum() / wrong.sum())]),
        f"{kind}: precision of the first 200": spread([float(wrong[named[:200]].mean())]),
    }


def _material() -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    with gzip.open(SHARED / "label-errors/cifar10n-train.csv.gz", "rt") as file:
        every = list(csv.DictReader(file))
    rows = [every[i] for i in np.linspace(0, len(every) - 1, IMAGES).astype(int)]
    with tarfile.open(SHARED / "cifar10/train.tar") as archive:
        members = {m.name.removeprefix("./"): m for m in archive.getmembers()}

        def pixels(name: str) -> NDArray[np.uint8]:
            member = archive.extractfile(members[name])
            if member is None:
                raise FileNotFoundError(name)
            return np.asarray(Image.open(io.BytesIO(member.read())).convert("RGB"))

        return np.stack([pixels(r["file"]) for r in rows]), rows
