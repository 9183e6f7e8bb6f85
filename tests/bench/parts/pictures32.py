"""The data sets as pictures of 32 pixels with their features; kept for the process."""

import csv
import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.imaging import images
from ml.label_checks.features import SIDE, describe

MOST: Final = 9000
"""Pictures of a set that are used, spread by a seed."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures ``uint8[N, 32, 32, 3]``, labels ``int64[N]`` and features ``float32[N, D]``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    features: NDArray[np.float32]


@cache
def load(data: Path, name: str) -> Pictures:
    """A data set by the name of its folder; of PACS a domain as `pacs-photo`.

    Raises:
        SystemExit: the data is not there; says what is missing.
    """
    try:
        pictures, labels = zip(*_read(data, name), strict=True)
    except FileNotFoundError as error:
        raise SystemExit(
            f"{error.filename} is not there: EVERGREEN_BENCH_DATA must name the folder that holds fashion-mnist, "
            "cifar10, cats-dogs, cat-breeds, drift and label-errors"
        ) from error
    names = sorted(set(labels))
    stacked = np.stack(pictures)
    return Pictures(stacked, np.asarray([names.index(label) for label in labels], np.int64), describe(stacked))


def _read(data: Path, name: str) -> Iterator[tuple[NDArray[np.uint8], str]]:
    if name == "fashion-mnist":
        yield from _fashion(data / name)
    elif name == "cat-breeds":
        yield from _breeds(data / name / "train.tar")
    elif name.startswith("pacs-"):
        yield from _folders(data / "drift" / f"{name}.tar")
    else:
        for part in ("train", "test"):
            yield from _folders(data / name / f"{part}.tar", MOST * 3 // 4)


def _fashion(folder: Path) -> Iterator[tuple[NDArray[np.uint8], str]]:
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for i in np.random.default_rng(0).permutation(len(labels))[:MOST]:
        yield fitted(Image.fromarray(pixels[i])), str(labels[i])


def _folders(path: Path, most: int = MOST) -> Iterator[tuple[NDArray[np.uint8], str]]:
    with tarfile.open(path) as archive:
        members = [m for m in archive if m.isfile() and m.name.lower().endswith((".jpg", ".png"))]
        chosen = np.sort(np.random.default_rng(0).permutation(len(members))[:most])
        for member in (members[i] for i in chosen):
            file = archive.extractfile(member)
            if file is not None:
                yield fitted(_open(file.read())), member.name.split("/")[-2]


def _breeds(path: Path) -> Iterator[tuple[NDArray[np.uint8], str]]:
    with tarfile.open(path) as archive:
        files = {m.name.removeprefix("./"): m for m in archive if m.isfile()}
        table = next(name for name in files if name.endswith("labels.csv"))
        text = archive.extractfile(files[table])
        rows = list(csv.DictReader(io.TextIOWrapper(text))) if text is not None else []
        for row in rows:
            file = archive.extractfile(files[table.removesuffix("labels.csv") + row["file"]])
            if file is not None:
                yield fitted(_open(file.read())), row["label"]


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    return image


def fitted(image: Image.Image) -> NDArray[np.uint8]:
    """As intake's check sees a picture: ``uint8[32, 32, 3]``."""
    return images.to_array(image.convert("RGB"), SIDE, 3)
