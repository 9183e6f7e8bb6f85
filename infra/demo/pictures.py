"""Where the demo's images come from: scikit-learn's digits, or the user's own folder, tar or IDX files."""

import gzip
import io
import random
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ml.errors import InvalidInputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
IDX_CLASSES = ["T-shirt-top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]
MOST = 10_000
PHOTO_SIDE = 64  # larger pictures are kept as JPEG: noise makes PNG photos huge


@dataclass(frozen=True)
class Picture:
    """One labelled image, encoded."""

    label: str
    name: str
    data: bytes

    @classmethod
    def of(cls, label: str, name: str, image: Image.Image) -> "Picture":
        kind, suffix = ("PNG", "png") if max(image.size) <= PHOTO_SIDE else ("JPEG", "jpg")
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=90)
        return cls(label, f"{PurePosixPath(name).stem}.{suffix}", buffer.getvalue())

    def open(self) -> Image.Image:
        image = Image.open(io.BytesIO(self.data))
        return image if image.mode in ("L", "RGB") else image.convert("RGB")


def load(source: Path | None, seed: int = 0) -> list[Picture]:
    """All pictures of `source` in a seeded order, at most `MOST`, classes kept in proportion.

    Args:
        source: a folder of class folders, a tar of one, a folder of gzipped IDX files (the MNIST
            family), or None for scikit-learn's 1,797 handwritten digits.

    Raises:
        InvalidInputError: nothing usable there, or fewer than two classes.
    """
    if source is None:
        pictures = _digits()
    elif not source.exists():
        raise InvalidInputError(f"`--data`: {source} does not exist; give a folder of class folders or a tar of one")
    elif source.is_file():
        pictures = _tar(source)
    elif image_files := sorted(source.glob("*-images-idx3-ubyte.gz")):
        pictures = _idx(image_files[0])
    else:
        pictures = _folder(source)
    classes = {p.label for p in pictures}
    if len(classes) < 2:
        raise InvalidInputError(
            f"`--data`: {source} has images of {len(classes)} classes ({', '.join(sorted(classes)) or 'none'}); "
            "at least 2 class folders with images are needed"
        )
    return _thinned(pictures, seed)


def _digits() -> list[Picture]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * 255 / 16).astype(np.uint8)
    return [
        Picture.of(str(label), f"digit-{i:04}", Image.fromarray(pixels))
        for i, (pixels, label) in enumerate(zip(images, bunch.target, strict=True))
    ]


def _folder(source: Path) -> list[Picture]:
    files = (p for p in sorted(source.glob("*/**/*")) if p.suffix.lower() in SUFFIXES and p.is_file())
    return [Picture(p.relative_to(source).parts[0], p.name, p.read_bytes()) for p in files]


def _tar(source: Path) -> list[Picture]:
    try:
        with tarfile.open(source) as archive:
            members = [m for m in archive if m.isfile() and PurePosixPath(m.name).suffix.lower() in SUFFIXES]
            paths = [PurePosixPath(m.name) for m in members]
            return [
                Picture(p.parent.name, p.name, archive.extractfile(m).read())  # type: ignore[union-attr]
                for m, p in zip(members, paths, strict=True)
                if p.parent.name
            ]
    except tarfile.TarError as error:
        raise InvalidInputError(f"`--data`: {source} cannot be read as a tar: {error}") from error


def _idx(images_file: Path) -> list[Picture]:
    """http://yann.lecun.com/exdb/mnist/ (file format); the class names are Fashion-MNIST's."""
    labels_file = images_file.with_name(images_file.name.replace("images-idx3", "labels-idx1"))
    labels = np.frombuffer(gzip.decompress(labels_file.read_bytes()), np.uint8, offset=8)
    pixels = np.frombuffer(gzip.decompress(images_file.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    return [
        Picture.of(IDX_CLASSES[label], f"image-{i:05}", Image.fromarray(p))
        for i, (p, label) in enumerate(zip(pixels, labels, strict=True))
    ]


def _thinned(pictures: list[Picture], seed: int) -> list[Picture]:
    shuffled = random.Random(seed).sample(pictures, len(pictures))
    if len(shuffled) <= MOST:
        return shuffled
    by_class: dict[str, list[Picture]] = defaultdict(list)
    for picture in shuffled:
        by_class[picture.label].append(picture)
    share = MOST / len(shuffled)
    thinned = [p for group in by_class.values() for p in group[: max(1, int(len(group) * share))]]
    return random.Random(seed).sample(thinned, len(thinned))
